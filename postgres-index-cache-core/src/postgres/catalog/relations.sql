SELECT c.oid AS relation,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence = 't' AS is_temporary,
       c.relispartition AS is_partition,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relowner <> current_user::regrole AND pg_catalog.pg_has_role(c.relowner, 'MEMBER') AS can_give_to_owner,
       -- Before its first ANALYZE a table has 0 pages in the catalogue (and -1 rows from PostgreSQL 14 on).
       -- A partitioned table is what its leaves are.
       coalesce(parts.rows, CASE WHEN c.relpages = 0 AND c.reltuples <= 0 THEN -1 ELSE c.reltuples END)::float8 AS rows,
       coalesce(parts.bytes, CASE WHEN c.relkind IN ('r', 'm') THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END)::int8 AS bytes,
       coalesce(parts.leaves, '{}') AS leaves
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT pg_catalog.array_agg(leaf.oid ORDER BY leaf.oid) AS leaves,
           sum(pg_catalog.pg_relation_size(leaf.oid)) AS bytes,
           CASE WHEN bool_and(leaf.relpages > 0 OR leaf.reltuples > 0) THEN sum(leaf.reltuples) ELSE -1 END AS rows
    FROM pg_catalog.pg_partition_tree(c.oid) tree
    JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.relid
    WHERE tree.isleaf
) parts ON c.relkind = 'p'
WHERE c.oid = ANY ($1::oid[])
