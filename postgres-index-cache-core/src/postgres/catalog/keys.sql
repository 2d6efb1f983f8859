-- The primary key, else a unique index that identifies every row at every moment. The first row of a table is its key.
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
      WHERE NOT a.attnotnull
  )))
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
