-- Finds the relation of a name that a person wrote: at most one row.
-- $1: the parts of the name. $2: the schemas to look in, in order, as the text of a name[].
WITH written (parts) AS (
    SELECT $1
),
-- The schemas and names that are meant: a name alone may be in any schema of the path.
places (schema, name, position) AS (
    SELECT searched.schema, parts[1], searched.position
    FROM written
    CROSS JOIN pg_catalog.unnest($2::pg_catalog.name[]) WITH ORDINALITY AS searched (schema, position)
    WHERE pg_catalog.cardinality(parts) = 1
    UNION ALL
    SELECT parts[1]::pg_catalog.name, parts[2], 1 FROM written WHERE pg_catalog.cardinality(parts) = 2
    UNION ALL
    -- A name of three parts begins with the database, which must be this one.
    SELECT parts[2]::pg_catalog.name, parts[3], 1
    FROM written
    WHERE pg_catalog.cardinality(parts) = 3 AND parts[1]::pg_catalog.name = pg_catalog.current_database()
)
SELECT c.oid
FROM places p
JOIN pg_catalog.pg_namespace n ON n.nspname = p.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.name::pg_catalog.name
ORDER BY p.position
LIMIT 1
