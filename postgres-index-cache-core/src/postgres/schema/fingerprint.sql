-- Takes the fingerprints of tables: texts that change when a definition, the files or the triggers
-- of a table do. It waits for no lock. $1: the oids of the tables; tables that are gone give no
-- row.
WITH
-- pg_range has the column rngmultitypid from PostgreSQL 14 on. Through jsonb it may be absent.
ranges (range, multirange, subtype) AS MATERIALIZED (
    SELECT r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid, r.rngsubtype
    FROM pg_catalog.pg_range r
)
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
        -- The expressions of generated columns.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', d.adnum, d.adbin), ';' ORDER BY d.adnum)
         FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE d.adrelid = c.oid AND a.attgenerated <> ''),
        -- The labels of the enums in the columns' types, and the fields of composite types, at any
        -- depth.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', e.enumtypid, e.enumlabel), ';' ORDER BY e.enumtypid, e.enumsortorder)
         FROM pg_catalog.pg_enum e WHERE e.enumtypid = ANY (own.made_of)),
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', f.attrelid, f.attnum, f.attname, f.atttypid), ';' ORDER BY f.attrelid, f.attnum)
         FROM pg_catalog.pg_type t
         JOIN pg_catalog.pg_attribute f ON f.attrelid = t.typrelid AND f.attnum > 0
         WHERE t.oid = ANY (own.made_of) AND t.typtype = 'c'),
        -- The tables that inherit from it and those that it inherits from, and the constraints that make a column NOT NULL, valid
        -- or not.
        (SELECT pg_catalog.string_agg(i.inhrelid::pg_catalog.text, ';' ORDER BY i.inhrelid)
         FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid AND c.relkind <> 'p'),
        (SELECT pg_catalog.string_agg(i.inhparent::pg_catalog.text, ';' ORDER BY i.inhparent)
         FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid AND NOT c.relispartition),
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', k.conkey, k.convalidated), ';' ORDER BY k.oid)
         FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n'),
        -- Whether logical replication writes to it.
        subscribed.is_so,
        -- The keys that it may have.
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', i.indexrelid, i.indkey, i.indimmediate, i.indisvalid), ';' ORDER BY i.indexrelid)
         FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique),
        '')) AS definition,
    own.names AS column_names,
    own.types AS column_types,
    -- A rewrite gives a table other files, and so does a TRUNCATE. `filed_by` names the transaction
    -- of the last of them. A rewrite that makes other values of the rows (ALTER COLUMN TYPE USING)
    -- leaves the mark of its transaction on a column.
    coalesce(parts.files, c.relfilenode::pg_catalog.text) AS files,
    CASE WHEN c.relkind = 'r' THEN c.xmin::pg_catalog.text::pg_catalog.int8 END AS filed_by,
    own.marks AS column_marks,
    coalesce(parts.leaves, '{}') AS leaves,
    coalesce(parts.detaching, '{}') AS detaching,
    coalesce(parts.marks, '') AS leaf_marks,
    coalesce(parts.silenced, '{}') AS silenced,
    coalesce(parts.enabling, '{}') AS enabling,
    subscribed.is_so AS is_subscribed,
    coalesce((
        SELECT pg_catalog.array_agg(t.tgname::pg_catalog.text ORDER BY t.tgname)
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    ), '{}') AS triggers,
    -- The mark of a trigger changes if it is disabled for a moment, made anew, or made to call
    -- another function, and if the function is replaced.
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
           coalesce(pg_catalog.array_agg(a.atttypid ORDER BY a.attnum), '{}') AS types,
           coalesce(pg_catalog.md5(pg_catalog.string_agg(a.xmin::pg_catalog.text, ',' ORDER BY a.attnum)), '') AS marks,
           ARRAY (
               WITH RECURSIVE made (type) AS (
                   SELECT o.atttypid FROM pg_catalog.pg_attribute o
                   WHERE o.attrelid = c.oid AND o.attnum > 0 AND NOT o.attisdropped
                   UNION
                   SELECT inner_type.oid
                   FROM made m
                   -- OFFSET 0 keeps this a look-up by oid. A join would read all of pg_type for each
                   -- table, and pg_type has two rows for each table.
                   CROSS JOIN LATERAL (
                       SELECT type.* FROM pg_catalog.pg_type type WHERE type.oid = m.type OFFSET 0
                   ) t
                   CROSS JOIN LATERAL (
                       SELECT t.typbasetype WHERE t.typtype = 'd'
                       UNION ALL
                       SELECT t.typelem WHERE t.typelem <> 0
                       UNION ALL
                       SELECT r.subtype FROM ranges r WHERE t.typtype IN ('r', 'm') AND t.oid IN (r.range, r.multirange)
                       UNION ALL
                       SELECT f.atttypid FROM pg_catalog.pg_attribute f
                       WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
                   ) inner_type (oid)
               )
               SELECT made.type FROM made
           ) AS made_of
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) own
LEFT JOIN LATERAL (
    -- A query of its own, since pg_partition_tree() would wait for the locks of partitions. A
    -- partition that is being detached (DETACH CONCURRENTLY) is none any more. A partition that
    -- is truncated has other files.
    WITH RECURSIVE tree (relid, is_detaching, is_subscribed) AS (
        SELECT c.oid, false, EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid)
        WHERE c.relkind = 'p'
        UNION ALL
        SELECT i.inhrelid,
               tree.is_detaching OR coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::pg_catalog.bool, false),
               tree.is_subscribed OR EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = i.inhrelid)
        FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid
    ),
    leaf AS (
        SELECT l.oid, l.relfilenode, tree.is_detaching, tree.is_subscribed
        FROM tree JOIN pg_catalog.pg_class l ON l.oid = tree.relid
        WHERE l.relkind <> 'p'
    ),
    -- The leaves' triggers that do not fire for everything that is written to the leaf. Rows that
    -- logical replication writes fire only triggers that are ENABLE ALWAYS.
    silent AS (
        SELECT l.oid, t.tgname::pg_catalog.text AS trigger,
               pg_catalog.format('ALTER TABLE %I.%I ENABLE %sTRIGGER %I', ln.nspname, lc.relname,
                   CASE WHEN l.is_subscribed THEN 'ALWAYS ' END, t.tgname) AS enabling
        FROM pg_catalog.pg_trigger t
        JOIN leaf l ON l.oid = t.tgrelid
        JOIN pg_catalog.pg_class lc ON lc.oid = l.oid
        JOIN pg_catalog.pg_namespace ln ON ln.oid = lc.relnamespace
        WHERE NOT l.is_detaching AND t.tgparentid <> 0
          AND (t.tgenabled NOT IN ('O', 'A') OR (l.is_subscribed AND t.tgenabled = 'O'))
    )
    SELECT pg_catalog.array_agg(leaf.oid ORDER BY leaf.oid) FILTER (WHERE NOT is_detaching) AS leaves,
           pg_catalog.array_agg(leaf.oid ORDER BY leaf.oid) FILTER (WHERE is_detaching) AS detaching,
           pg_catalog.string_agg(pg_catalog.concat_ws(',', leaf.oid, leaf.relfilenode), ';' ORDER BY leaf.oid)
               FILTER (WHERE NOT is_detaching) AS files,
           (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(',', t.tgrelid, t.tgname, t.tgenabled, t.xmin, t.tgfoid), ';'
                ORDER BY t.tgrelid, t.tgname))
            FROM pg_catalog.pg_trigger t JOIN leaf l ON l.oid = t.tgrelid
            WHERE NOT l.is_detaching AND (NOT t.tgisinternal OR t.tgparentid <> 0)) AS marks,
           (SELECT pg_catalog.array_agg(silent.trigger ORDER BY silent.oid, silent.trigger) FROM silent) AS silenced,
           (SELECT pg_catalog.array_agg(silent.enabling ORDER BY silent.oid, silent.trigger) FROM silent) AS enabling,
           pg_catalog.bool_or(leaf.is_subscribed) FILTER (WHERE NOT is_detaching) AS is_subscribed
    FROM leaf
) parts ON c.relkind = 'p'
CROSS JOIN LATERAL (
    SELECT coalesce(parts.is_subscribed, false)
        OR EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid) AS is_so
) subscribed
WHERE c.oid = ANY ($1::pg_catalog.oid[])
