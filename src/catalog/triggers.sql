SELECT t.tgrelid AS relation,
       t.tgname::text AS name,
       t.tgenabled::text AS enabled,
       t.tgtype AS kind,
       t.tgargs AS arguments,
       t.tgqual IS NOT NULL OR t.tgattr::text <> '' AS is_conditional,
       p.oid AS function,
       n.nspname::text AS function_schema,
       p.proname::text AS function_name,
       p.proowner AS function_owner,
       p.prosrc AS function_source,
       p.proconfig AS function_settings,
       pg_catalog.obj_description(p.oid, 'pg_proc') AS function_comment
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = ANY ($1::oid[]) AND NOT t.tgisinternal
ORDER BY t.tgrelid, t.tgname
