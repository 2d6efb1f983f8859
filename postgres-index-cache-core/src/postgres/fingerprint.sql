-- What a followed table is, in words that change when its definition does, and the triggers that announce it.
-- $1: the oids of the tables.
SELECT
    c.oid AS relation,
    n.nspname::pg_catalog.text AS schema,
    c.relname::pg_catalog.text AS name,
    pg_catalog.md5(pg_catalog.concat_ws(E'\n',
        n.nspname, c.relname, c.relkind,
        -- The columns with their types.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
            a.attgenerated, a.attcollation), ';' ORDER BY a.attnum)
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        -- How those are computed that are.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', d.adnum, d.adbin), ';' ORDER BY d.adnum)
         FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE d.adrelid = c.oid AND a.attgenerated <> ''),
        -- The labels of their enums, the fields of their composite types.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', e.enumtypid, e.enumlabel), ';' ORDER BY e.enumtypid, e.enumsortorder)
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_enum e ON e.enumtypid = a.atttypid
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', f.attrelid, f.attnum, f.attname, f.atttypid), ';' ORDER BY f.attrelid, f.attnum)
         FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'c'
         JOIN pg_catalog.pg_attribute f ON f.attrelid = t.typrelid AND f.attnum > 0
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        -- The keys that it may have.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', i.indexrelid, i.indkey, i.indimmediate, i.indisvalid), ';' ORDER BY i.indexrelid)
         FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique),
        '')) AS definition,
    own.names AS column_names,
    own.types AS column_types,
    -- A rewrite has other files, and so has a TRUNCATE, whose transaction is named.
    coalesce(parts.files, c.relfilenode::pg_catalog.text) AS files,
    CASE WHEN c.relkind = 'r' THEN c.xmin::pg_catalog.text::pg_catalog.int8 END AS filed_by,
    coalesce(parts.leaves, '{}') AS leaves,
    coalesce((
        SELECT pg_catalog.array_agg(t.tgname::pg_catalog.text ORDER BY t.tgname)
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    ), '{}') AS triggers,
    -- Whoever disables one for a moment, or makes it call something else, leaves another transaction's mark.
    coalesce((
        SELECT pg_catalog.array_agg(pg_catalog.concat_ws(',', t.xmin, t.tgfoid, p.xmin) ORDER BY t.tgname)
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    ), '{}') AS trigger_marks
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attnum), '{}') AS names,
           coalesce(pg_catalog.array_agg(a.atttypid ORDER BY a.attnum), '{}') AS types
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) own
LEFT JOIN LATERAL (
    -- pg_partition_tree() would wait for whoever holds a partition. One that is being detached is none any more, and one
    -- that is truncated has other files.
    WITH RECURSIVE tree (relid) AS (
        SELECT c.oid WHERE c.relkind = 'p'
        UNION ALL
        SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid
        WHERE NOT coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::pg_catalog.bool, false)
    )
    SELECT pg_catalog.array_agg(leaf.oid ORDER BY leaf.oid) AS leaves,
           pg_catalog.string_agg(pg_catalog.concat_ws(',', leaf.oid, leaf.relfilenode), ';' ORDER BY leaf.oid) AS files
    FROM tree
    JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.relid
    WHERE leaf.relkind <> 'p'
) parts ON c.relkind = 'p'
WHERE c.oid = ANY ($1::pg_catalog.oid[])
