-- Describes everything that the type of a column is made of. $1: the oid of the table. $2: the name of
-- the column. One row a type; `is_root` marks the type of the column itself.
WITH RECURSIVE root AS (
    SELECT a.atttypid AS oid, a.attcollation AS coll
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped
),
parts (oid, coll) AS (
    SELECT oid, coll FROM root
    UNION
    SELECT inner_type.oid, inner_type.coll
    FROM parts p
    JOIN pg_catalog.pg_type t ON t.oid = p.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype, t.typcollation WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem, p.coll
        WHERE t.typelem <> 0 AND t.typcategory = 'A'
        UNION ALL
        SELECT r.rngsubtype, r.rngcollation FROM pg_catalog.pg_range r
        WHERE t.oid = r.rngtypid
        UNION ALL
        -- pg_range has the column rngmultitypid from PostgreSQL 14 on. Through jsonb it may be absent.
        SELECT r.rngtypid, 0 FROM pg_catalog.pg_range r
        WHERE t.oid OPERATOR(pg_catalog.=)
            (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid
        UNION ALL
        SELECT f.atttypid, f.attcollation FROM pg_catalog.pg_attribute f
        WHERE t.typtype = 'c' AND f.attrelid = t.typrelid
            AND f.attnum > 0 AND NOT f.attisdropped
    ) inner_type (oid, coll)
)
SELECT t.oid,
       t.typname::pg_catalog.text AS name,
       t.typtype AS kind,
       -- oidvector and int2vector are no arrays: they are written otherwise.
       t.typelem <> 0 AND t.typcategory = 'A' AND t.oid NOT IN (22, 30) AS is_array,
       t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid AS is_built_in,
       COALESCE((
           SELECT e.extname FROM pg_catalog.pg_depend d
           JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
           WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid
               AND d.objid = t.oid AND d.deptype = 'e'
               AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
       ), '')::pg_catalog.text AS extension,
       CASE t.typtype
           WHEN 'd' THEN ARRAY[t.typbasetype]
           WHEN 'r' THEN ARRAY(SELECT r.rngsubtype FROM pg_catalog.pg_range r
               WHERE r.rngtypid = t.oid)
           WHEN 'm' THEN ARRAY(SELECT r.rngtypid FROM pg_catalog.pg_range r
               WHERE t.oid OPERATOR(pg_catalog.=)
                   (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid)
           WHEN 'c' THEN ARRAY(SELECT f.atttypid FROM pg_catalog.pg_attribute f
               WHERE f.attrelid = t.typrelid AND f.attnum > 0
                   AND NOT f.attisdropped
               ORDER BY f.attnum)
           ELSE ARRAY[t.typelem]
       END AS inner_types,
       EXISTS (
           SELECT FROM parts p
           JOIN pg_catalog.pg_collation c ON c.oid = p.coll
           WHERE p.oid = t.oid AND NOT c.collisdeterministic
       ) AS is_nondeterministic,
       EXISTS (
           SELECT FROM pg_catalog.pg_range r JOIN pg_catalog.pg_opclass o ON o.oid = r.rngsubopc
           WHERE r.rngtypid = t.oid AND NOT o.opcdefault
       ) AS has_own_order,
       -- Of the column's type alone: what is inside another value is compared by the default operator
       -- class of its type.
       EXISTS (
           SELECT FROM pg_catalog.pg_operator o
           WHERE o.oprname = '=' AND o.oprleft = t.oid AND o.oprright = t.oid
               AND o.oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
       ) AS has_own_operator,
       t.oid = (SELECT oid FROM root) AS is_root
FROM pg_catalog.pg_type t
WHERE t.oid = ANY (ARRAY(SELECT oid FROM parts))
