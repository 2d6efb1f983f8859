-- Returns the tables that have an announcing trigger: one that calls notify_cache_change, or a
-- function whose comment says that install-triggers made it.
SELECT DISTINCT c.oid, n.nspname, c.relname
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
-- A trigger with a parent is the clone of a partitioned table's trigger, which is found by itself.
WHERE NOT t.tgisinternal AND t.tgparentid = 0
  -- A leaf has statement triggers of its own (bit 1 of tgtype is not set), but belongs to its root,
  -- which is found by the triggers of the root.
  AND NOT (c.relispartition AND t.tgtype & 1 = 0)
  AND (
    p.proname LIKE 'notify\_cache\_change%'
    OR pg_catalog.obj_description(p.oid, 'pg_proc') LIKE 'made by pgic, do not edit: %'
  )
ORDER BY n.nspname, c.relname
