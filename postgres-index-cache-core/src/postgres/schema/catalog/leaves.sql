-- Names the leaves of partitioned tables. $1: the oids of the leaves.
SELECT c.oid AS relation, n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'f' AS is_foreign
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1::oid[])
