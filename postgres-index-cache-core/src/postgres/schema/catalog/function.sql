-- Describes the function without arguments that has a name and stands in the schema of a table, as
-- triggers.sql describes the functions of triggers. $1: the oid of the table. $2: the name.
SELECT p.oid AS function,
       n.nspname::text AS function_schema,
       p.proname::text AS function_name,
       pg_catalog.pg_get_userbyid(p.proowner)::text AS function_owner,
       p.proowner = c.relowner OR pg_catalog.pg_has_role(p.proowner, c.relowner, 'MEMBER')
           OR p.proowner = current_user::regrole AS function_is_trusted,
       pg_catalog.pg_has_role(p.proowner, 'USAGE') AS function_is_owned,
       -- Whether a trigger of another table calls it. A partition counts as its root.
       EXISTS (
           SELECT FROM pg_catalog.pg_trigger o
           WHERE o.tgfoid = p.oid AND NOT o.tgisinternal AND o.tgparentid = 0
             AND coalesce(pg_catalog.pg_partition_root(o.tgrelid)::pg_catalog.oid, o.tgrelid)
                 <> coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)
       ) AS function_is_shared,
       p.prosecdef AS function_is_security_definer,
       p.prosrc AS function_source,
       p.proconfig AS function_settings,
       pg_catalog.obj_description(p.oid, 'pg_proc') AS function_comment
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid
WHERE c.oid = $1 AND p.proname = $2 AND p.pronargs = 0
