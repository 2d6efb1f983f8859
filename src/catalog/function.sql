SELECT p.oid AS function,
       n.nspname::text AS function_schema,
       p.proname::text AS function_name,
       p.proowner AS function_owner,
       p.prosrc AS function_source,
       p.proconfig AS function_settings,
       pg_catalog.obj_description(p.oid, 'pg_proc') AS function_comment
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1 AND p.proname = $2 AND p.pronargs = 0
