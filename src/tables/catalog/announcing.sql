-- Tables with a trigger that calls notify_cache_change, or a function that install-triggers made.
SELECT DISTINCT c.oid, n.nspname, c.relname
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgparentid = 0
  -- The trigger for TRUNCATE of a leaf belongs to its root, which has triggers of its own.
  AND NOT (c.relispartition AND t.tgtype = 32) AND (p.proname LIKE 'notify\_cache\_change%' OR pg_catalog.obj_description(p.oid, 'pg_proc') LIKE 'made by pgic, do not edit: %')
ORDER BY n.nspname, c.relname
