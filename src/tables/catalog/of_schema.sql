-- Returns the tables of a schema ($1) that can have announcing triggers of their own. A partition
-- gets its triggers with its root, and one session alone sees the rows of a temporary table.
SELECT c.oid
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
ORDER BY c.relname
