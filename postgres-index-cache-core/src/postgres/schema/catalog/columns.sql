-- Describes the columns of tables. $1: the oids of the tables. One row a column, in table order.
WITH RECURSIVE attributes AS (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attgenerated, a.attlen, a.attcollation,
           -- From PostgreSQL 18 on a NOT NULL constraint may be NOT VALID: rows that are older than
           -- the constraint may be NULL all the same.
           a.attnotnull AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_constraint n
               WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey)
           ) AS not_null
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
),
-- For each type, the types under its domains: the deepest is its base type.
bases (root, type, depth) AS (
    SELECT DISTINCT atttypid, atttypid, 0 FROM attributes
    UNION ALL
    SELECT b.root, t.typbasetype, b.depth + 1
    FROM bases b
    JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype = 'd'
),
-- For each type, the types under its domains and arrays: the deepest is its core, the type of the
-- single values.
layers (root, type, depth, is_array) AS (
    SELECT DISTINCT atttypid, atttypid, 0, false FROM attributes
    UNION ALL
    SELECT l.root, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END, l.depth + 1, l.is_array OR t.typtype <> 'd'
    FROM layers l
    JOIN pg_catalog.pg_type t ON t.oid = l.type AND (t.typtype = 'd' OR (t.typelem <> 0 AND t.typcategory = 'A'))
),
cores (root, type, is_array) AS (
    SELECT DISTINCT ON (root) root, type, is_array FROM layers ORDER BY root, depth DESC
),
-- For each type, the type itself and everything that it is made of.
parts (root, type) AS (
    SELECT DISTINCT type, type FROM layers
    UNION
    SELECT p.root, inner_type.oid
    FROM parts p
    JOIN pg_catalog.pg_type t ON t.oid = p.type
    CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem WHERE t.typelem <> 0 AND t.typcategory = 'A'
        UNION ALL
        -- pg_range has the column rngmultitypid from PostgreSQL 14 on. Through jsonb it may be
        -- absent.
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
       b.type AS base_type,
       a.not_null,
       a.attgenerated = 'v' AS is_virtual,
       a.attgenerated <> '' AS is_generated,
       a.attlen < 0 AS is_varlena,
       -- A base type that is not built in comes with an extension: nobody knows which settings its
       -- text depends on.
       EXISTS (
           SELECT FROM parts p
           JOIN pg_catalog.pg_type t ON t.oid = p.type
           WHERE p.root = a.atttypid AND t.oid >= 16384 AND t.typtype = 'b' AND t.typcategory <> 'A'
       ) AS follows_anything,
       -- 16384 is the first oid of an object that is not built in (FirstNormalObjectId).
       c.type >= 16384 AS is_foreign,
       c.is_array,
       (SELECT t.typtype = 'e' FROM pg_catalog.pg_type t WHERE t.oid = c.type) AS is_enum,
       EXISTS (
           SELECT FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.type WHERE p.root = b.type AND t.typtype = 'd'
       ) AS has_inner_domain,
       CASE WHEN b.type >= 16384 AND c.is_array THEN pg_catalog.format_type(c.type, -1) || '[]'
           ELSE pg_catalog.format_type(b.type, -1) END AS plain_type_name,
       coalesce((SELECT NOT l.collisdeterministic FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation), false)
           AS is_nondeterministic,
       ARRAY (SELECT p.type FROM parts p WHERE p.root = a.atttypid ORDER BY p.type) AS made_of
FROM attributes a
JOIN cores c ON c.root = a.atttypid
CROSS JOIN LATERAL (SELECT type FROM bases WHERE root = a.atttypid ORDER BY depth DESC LIMIT 1) b
ORDER BY a.attrelid, a.attnum
