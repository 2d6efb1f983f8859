-- Finds the keys of tables: the primary key, and the unique indexes that identify every row at
-- every moment. $1: the oids of the tables. The first row of a table is the key to use.
SELECT i.indrelid AS relation,
       NOT i.indimmediate AS is_deferrable,
       ARRAY (
           SELECT a.attname::text
           FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) position
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[position]
           ORDER BY position
       ) AS columns
FROM pg_catalog.pg_index i
WHERE i.indrelid = ANY ($1::oid[])
  AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND (i.indisprimary OR (i.indimmediate AND NOT EXISTS (
      SELECT FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) position
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[position]
      WHERE NOT a.attnotnull OR EXISTS (
          -- From PostgreSQL 18 on a NOT NULL constraint may be NOT VALID: rows that are older than
          -- the constraint may be NULL all the same.
          SELECT FROM pg_catalog.pg_constraint n
          WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey)
      )
  )))
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
