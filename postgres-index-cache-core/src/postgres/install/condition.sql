-- The condition of the index pg_temp.pgic_condition as PostgreSQL writes it, NULL if it is always
-- true, and the columns that it looks at, in table order.
SELECT pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS condition,
       ARRAY (
           SELECT a.attname::pg_catalog.text
           FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = i.indrelid AND a.attnum IN (
               SELECT d.refobjsubid FROM pg_catalog.pg_depend d
               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.objid = i.indexrelid
                 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.refobjid = i.indrelid
                 AND d.refobjsubid > 0)
           ORDER BY a.attnum
       ) AS columns
FROM pg_catalog.pg_index i
WHERE i.indexrelid = 'pg_temp.pgic_condition'::pg_catalog.regclass
