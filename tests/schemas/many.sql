-- Three hundred tables with different columns, that refer to each other.
CREATE SCHEMA many;
DO $$
DECLARE
  types text[] := ARRAY['int', 'bigint', 'text', 'uuid', 'date', 'timestamptz', 'numeric(9,3)', 'bool', 'bytea', 'jsonb', 'inet', 'interval',
    'varchar(20)', 'float8', 'int[]', 'text[]', 'time', 'smallint', 'char(7)', 'bit(5)'];
  keys text[] := ARRAY['int', 'bigint', 'text', 'uuid', 'date', 'numeric'];
  columns text;
BEGIN
  FOR n IN 1..300 LOOP
    SELECT string_agg(format('c%s %s%s', c, types[1 + (n * 7 + c * 3) % cardinality(types)], CASE WHEN (n + c) % 4 = 0 THEN ' NOT NULL' ELSE '' END), ', ')
    INTO columns FROM generate_series(1, 1 + n % 9) c;
    EXECUTE format('CREATE TABLE many.t%s (id %s PRIMARY KEY, %s)', n, keys[1 + n % cardinality(keys)], columns);
    IF n % 10 = 0 THEN
      EXECUTE format('ALTER TABLE many.t%s ADD COLUMN other %s REFERENCES many.t%s DEFERRABLE', n, keys[1 + (n - 6) % cardinality(keys)], n - 6);
    ELSIF n % 10 = 5 THEN
      EXECUTE format('CREATE INDEX ON many.t%s (c1)', n);
    END IF;
  END LOOP;
END $$;
