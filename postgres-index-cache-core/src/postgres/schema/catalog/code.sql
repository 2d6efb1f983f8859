-- Finds a function, or an operator's function, that PostgreSQL may run while it plans a query of a
-- table, and that belongs to another role which is no superuser. The planner computes an immutable
-- function with constant arguments at once. It does so in the expressions and predicates of
-- indexes, of extended statistics and of partition keys. $1: the oid of the table. At most one row.
-- The table, with its partitions and the tables that inherit from it, at any depth.
WITH RECURSIVE family (relation) AS (
    SELECT $1
    UNION
    SELECT i.inhrelid FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.relation
),
-- The objects whose expressions the planner looks at.
evaluated (class, object) AS (
    SELECT 'pg_catalog.pg_class'::regclass, relation FROM family
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM family f JOIN pg_catalog.pg_index i ON i.indrelid = f.relation
    UNION ALL
    SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid
    FROM family f JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = f.relation
)
SELECT pg_catalog.format('%I.%I', n.nspname, p.proname) AS function, r.rolname::text AS owner
FROM evaluated e
JOIN pg_catalog.pg_depend d ON d.classid = e.class AND d.objid = e.object
LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::regclass AND o.oid = d.refobjid
JOIN pg_catalog.pg_proc p
  ON p.oid = CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::regclass THEN d.refobjid ELSE o.oprcode::oid END
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
WHERE NOT r.rolsuper AND r.rolname <> current_user
LIMIT 1
