-- Describes the functions without arguments that have certain names and stand in the schemas of
-- tables, as triggers.sql describes the functions of triggers. $1: the oids of the tables. $2: for
-- each of them, the name.
WITH wanted (relation, name) AS (
    SELECT * FROM ROWS FROM (pg_catalog.unnest($1::oid[]), pg_catalog.unnest($2::text[])) AS w (relation, name)
),
found (relation, function) AS MATERIALIZED (
    SELECT c.oid, p.oid
    FROM wanted w
    JOIN pg_catalog.pg_class c ON c.oid = w.relation
    JOIN pg_catalog.pg_proc p ON p.proname = w.name::name AND p.pronamespace = c.relnamespace AND p.pronargs = 0
),
callers (function, roots) AS MATERIALIZED (
    SELECT o.tgfoid,
           pg_catalog.array_agg(DISTINCT coalesce(pg_catalog.pg_partition_root(o.tgrelid)::pg_catalog.oid, o.tgrelid))
    FROM pg_catalog.pg_trigger o
    WHERE NOT o.tgisinternal AND o.tgparentid = 0 AND o.tgfoid IN (SELECT f.function FROM found f)
    GROUP BY o.tgfoid
)
SELECT c.oid AS relation,
       p.oid AS function,
       n.nspname::text AS function_schema,
       p.proname::text AS function_name,
       pg_catalog.pg_get_userbyid(p.proowner)::text AS function_owner,
       p.proowner = c.relowner OR pg_catalog.pg_has_role(p.proowner, c.relowner, 'MEMBER')
           OR p.proowner = current_user::regrole AS function_is_trusted,
       pg_catalog.pg_has_role(p.proowner, 'USAGE') AS function_is_owned,
       -- Whether a trigger of another table calls it. A partition counts as its root.
       p.oid IN (SELECT called.function FROM callers called)
           AND (p.oid, coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)) NOT IN
               (SELECT called.function, called.roots[1] FROM callers called WHERE pg_catalog.cardinality(called.roots) = 1)
           AS function_is_shared,
       p.prosecdef AS function_is_security_definer,
       p.prosrc AS function_source,
       p.proconfig AS function_settings,
       pg_catalog.obj_description(p.oid, 'pg_proc') AS function_comment
FROM found f
JOIN pg_catalog.pg_class c ON c.oid = f.relation
JOIN pg_catalog.pg_proc p ON p.oid = f.function
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
