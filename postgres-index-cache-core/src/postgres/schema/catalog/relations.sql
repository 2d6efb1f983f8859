-- Describes relations, without their columns, keys and triggers. $1: the oids of the relations.
SELECT c.oid AS relation,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence = 't' AS is_temporary,
       c.relispartition AS is_partition,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relowner <> current_user::regrole AND pg_catalog.pg_has_role(c.relowner, 'MEMBER') AS can_give_to_owner,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owned,
       pg_catalog.has_schema_privilege(n.oid, 'CREATE') AS can_create,
       -- Whether the role that asks is a superuser, and the owner is neither a superuser nor that
       -- role.
       EXISTS (SELECT FROM pg_catalog.pg_roles me WHERE me.rolname = current_user AND me.rolsuper)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = c.relowner AND (r.rolsuper OR r.rolname = current_user))
           AS is_distrusted,
       -- Whether tables inherit from it. Partitions are entries of pg_inherits as well, and do not
       -- count.
       c.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
       NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS has_parents,
       c.relkind = 'p' AND EXISTS (
           SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhrelid
           WHERE i.inhparent = c.oid AND p.relkind = 'p') AS has_branches,
       -- How many rows it has, -1 if unknown. Before its first ANALYZE a table has 0 pages in the
       -- catalogue (and -1 rows from PostgreSQL 14 on); the statistics may know its rows then.
       -- Nothing here waits for a lock: the question may be about a table that is locked.
       -- A partitioned table has the rows of its leaves.
       coalesce(parts.rows, CASE WHEN c.relpages = 0 AND c.reltuples <= 0 THEN nullif(pg_catalog.pg_stat_get_live_tuples(c.oid), 0)
           ELSE c.reltuples END, -1)::float8 AS rows,
       coalesce(parts.leaves, '{}') AS leaves
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    -- A query of its own, since pg_partition_tree() takes locks. A partition that is being detached
    -- (DETACH CONCURRENTLY, PostgreSQL 14 and later) is none any more.
    WITH RECURSIVE tree (relid) AS (
        SELECT c.oid WHERE c.relkind = 'p'
        UNION ALL
        SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid
        WHERE NOT coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::bool, false)
    )
    SELECT pg_catalog.array_agg(leaf.oid ORDER BY leaf.oid) AS leaves,
           sum(CASE WHEN leaf.relpages = 0 AND leaf.reltuples <= 0 THEN nullif(pg_catalog.pg_stat_get_live_tuples(leaf.oid), 0)
               ELSE leaf.reltuples END) AS rows
    FROM tree
    JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.relid
    WHERE leaf.relkind <> 'p'
) parts ON c.relkind = 'p'
WHERE c.oid = ANY ($1::oid[])
