-- Describes the triggers of relations, with the functions that they call.
-- $1: the oids of the relations. One row a trigger, by relation and name.
WITH
-- The functions that triggers of several tables call. One pass over pg_trigger for all of them. It
-- is asked with IN, which looks up a hash whatever the planner takes the sizes to be: a join with a
-- thousand functions was a loop over a million pairs.
shared (function) AS MATERIALIZED (
    SELECT o.tgfoid
    FROM pg_catalog.pg_trigger o
    WHERE NOT o.tgisinternal AND o.tgparentid = 0
      AND o.tgfoid IN (SELECT own.tgfoid FROM pg_catalog.pg_trigger own WHERE own.tgrelid = ANY ($1::oid[]))
    GROUP BY o.tgfoid
    HAVING pg_catalog.count(DISTINCT coalesce(pg_catalog.pg_partition_root(o.tgrelid)::pg_catalog.oid, o.tgrelid)) > 1
)
SELECT t.tgrelid AS relation,
       t.tgname::text AS name,
       t.tgenabled::text AS enabled,
       t.tgtype AS kind,
       t.tgargs AS arguments,
       t.tgqual IS NOT NULL OR t.tgattr::text <> '' AS is_conditional,
       t.tgconstraint <> 0 AS is_constraint,
       t.tgoldtable::text AS old_table,
       t.tgnewtable::text AS new_table,
       p.oid AS function,
       n.nspname::text AS function_schema,
       p.proname::text AS function_name,
       pg_catalog.pg_get_userbyid(p.proowner)::text AS function_owner,
       p.proowner = c.relowner OR pg_catalog.pg_has_role(p.proowner, c.relowner, 'MEMBER')
           OR p.proowner = current_user::regrole AS function_is_trusted,
       pg_catalog.pg_has_role(p.proowner, 'USAGE') AS function_is_owned,
       -- Whether a trigger of another table calls it. A partition counts as its root.
       p.oid IN (SELECT s.function FROM shared s) AS function_is_shared,
       p.prosecdef AS function_is_security_definer,
       p.prosrc AS function_source,
       p.proconfig AS function_settings,
       pg_catalog.obj_description(p.oid, 'pg_proc') AS function_comment
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
-- A trigger with a parent is a clone, on a partition, of the root's trigger.
WHERE t.tgrelid = ANY ($1::oid[]) AND NOT t.tgisinternal AND t.tgparentid = 0
ORDER BY t.tgrelid, t.tgname
