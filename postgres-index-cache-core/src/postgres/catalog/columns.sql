WITH RECURSIVE attributes AS (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attgenerated, a.attlen, a.attcollation,
           -- From PostgreSQL 18 on a NOT NULL constraint may be NOT VALID: rows of before may be NULL all the same.
           a.attnotnull AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_constraint n
               WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey)
           ) AS not_null
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
),
-- The base type under any number of domains.
bases (root, type, depth) AS (
    SELECT DISTINCT atttypid, atttypid, 0 FROM attributes
    UNION ALL
    SELECT b.root, t.typbasetype, b.depth + 1
    FROM bases b
    JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype = 'd'
),
-- The type and all that it is made of.
parts (root, type) AS (
    SELECT DISTINCT atttypid, atttypid FROM attributes
    UNION
    SELECT p.root, inner_type.oid
    FROM parts p
    JOIN pg_catalog.pg_type t ON t.oid = p.type
    CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem WHERE t.typelem <> 0 AND t.typcategory = 'A'
        UNION ALL
        -- pg_range has multiranges from PostgreSQL 14 on.
        SELECT r.rngsubtype FROM pg_catalog.pg_range r
        WHERE t.oid = r.rngtypid OR t.oid = (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid
        UNION ALL
        SELECT f.atttypid FROM pg_catalog.pg_attribute f
        WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
    ) inner_type (oid)
)
SELECT a.attrelid AS relation,
       a.attname::text AS name,
       pg_catalog.format_type(a.atttypid, -1) AS type_name,
       (SELECT b.type FROM bases b WHERE b.root = a.atttypid ORDER BY b.depth DESC LIMIT 1) AS base_type,
       a.not_null,
       a.attgenerated = 'v' AS is_virtual,
       a.attlen < 0 AS is_varlena,
       EXISTS (
           SELECT FROM parts p
           JOIN pg_catalog.pg_type t ON t.oid = p.type
           WHERE p.root = a.atttypid AND t.oid >= 16384
             AND ((t.typtype = 'b' AND t.typcategory <> 'A')
                  OR EXISTS (SELECT FROM pg_catalog.pg_cast c WHERE c.castsource = t.oid AND c.casttarget = 114))
       ) AS follows_anything,
       coalesce((SELECT NOT l.collisdeterministic FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation), false)
           AS is_nondeterministic,
       ARRAY (SELECT p.type FROM parts p WHERE p.root = a.atttypid ORDER BY p.type) AS made_of
FROM attributes a
ORDER BY a.attrelid, a.attnum
