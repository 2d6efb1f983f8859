-- Functions that fill tables and write to them, with values of every type. They are temporary, so that no dump has them.

-- Returns a text that the type reads as a value, another one for each n; NULL for a type that is not known here.
CREATE FUNCTION pg_temp.sample(wanted oid, modifier int, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  type pg_catalog.pg_type;
  parts text[];
  value text;
  longest int := CASE WHEN modifier > 4 THEN modifier - 4 ELSE 1000 END;
BEGIN
  SELECT * INTO STRICT type FROM pg_catalog.pg_type WHERE oid = wanted;
  IF type.typtype = 'd' THEN
    RETURN pg_temp.sample(type.typbasetype, CASE WHEN type.typtypmod >= 0 THEN type.typtypmod ELSE modifier END, n);
  ELSIF type.typtype = 'e' THEN
    SELECT array_agg(enumlabel ORDER BY enumsortorder) INTO parts FROM pg_catalog.pg_enum WHERE enumtypid = wanted;
    RETURN parts[1 + n % cardinality(parts)];
  ELSIF type.typtype = 'c' THEN
    SELECT string_agg(pg_temp.quoted(pg_temp.sample(a.atttypid, a.atttypmod, n)), ',' ORDER BY a.attnum) INTO value
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = type.typrelid AND a.attnum > 0 AND NOT a.attisdropped;
    RETURN '(' || value || ')';
  ELSIF type.typtype = 'r' THEN
    SELECT format('[%s,%s)', pg_temp.quoted(pg_temp.sample(rngsubtype, -1, n)), pg_temp.quoted(pg_temp.sample(rngsubtype, -1, n + 9)))
    INTO value FROM pg_catalog.pg_range WHERE rngtypid = wanted;
    RETURN value;
  ELSIF type.typtype = 'm' THEN
    SELECT format('{%s}', pg_temp.sample(rngtypid, -1, n)) INTO value FROM pg_catalog.pg_range WHERE rngmultitypid = wanted;
    RETURN value;
  ELSIF type.typname IN ('int2vector', 'oidvector') THEN
    RETURN n || ' 2';
  ELSIF type.typcategory = 'A' AND type.typelem <> 0 THEN
    RETURN (ARRAY['', '[0:1]=', ''])[1 + n % 3] || format('{%s,%s}', pg_temp.quoted(pg_temp.sample(type.typelem, modifier, n)),
      CASE WHEN n % 4 = 0 THEN 'NULL' ELSE pg_temp.quoted(pg_temp.sample(type.typelem, modifier, n + 1)) END);
  END IF;
  RETURN CASE type.typname
    WHEN 'bool' THEN (n % 2 = 0)::text
    WHEN 'int2' THEN n::text
    WHEN 'int4' THEN (n * 1001)::text
    WHEN 'int8' THEN (n * 1000000000001)::text
    WHEN 'oid' THEN n::text
    -- The digits that the modifier leaves in front of the point.
    WHEN 'numeric' THEN CASE WHEN modifier < 0 THEN n || '.250' ELSE
      (n % greatest(1, (10 ^ least(9, ((modifier - 4) >> 16) - ((modifier - 4) & 65535)))::int))::text END
    WHEN 'float4' THEN (n + 0.5)::text
    WHEN 'float8' THEN (n + 0.1)::text
    WHEN 'money' THEN n || '.50'
    WHEN 'char' THEN chr(64 + n % 26)
    WHEN 'name' THEN 'name ' || n
    WHEN 'text' THEN n || (ARRAY['', ' it''s', ' "Ünï"', e' \\ \t', ' {a,b}', ' NULL'])[1 + n % 6]
    WHEN 'varchar' THEN left(n || (ARRAY['', ' it''s', ' "q"', ' , ', ' %'])[1 + n % 5], longest)
    WHEN 'bpchar' THEN left(n::text, longest)
    WHEN 'citext' THEN 'CiText ' || n
    WHEN 'bytea' THEN '\x00ff' || lpad(to_hex(n), 8, '0')
    WHEN 'uuid' THEN md5(n::text)
    WHEN 'date' THEN (date '2020-02-28' + n)::text
    WHEN 'time' THEN (time '00:00:01.5' + n * interval '1 minute')::text
    WHEN 'timetz' THEN (time '00:00:01.5' + n * interval '1 minute')::text || '+05:30'
    WHEN 'timestamp' THEN (timestamp '2020-02-28 12:00:00.123456' + n * interval '25 hours')::text
    WHEN 'timestamptz' THEN (timestamp '2020-02-28 12:00:00.123456' + n * interval '25 hours')::text || '+02'
    WHEN 'interval' THEN n || (ARRAY[' days', ' mons', ':00:01', ' years -3 days'])[1 + n % 4]
    WHEN 'json' THEN format('{"n": %s, "t": ["x\"y", null, 1.50]}', n)
    WHEN 'jsonb' THEN format('{"n": %s, "t": ["x\"y", null, 1.50]}', n)
    WHEN 'jsonpath' THEN '$.a[' || n || ']'
    WHEN 'xml' THEN format('<a b="%s">x</a>', n)
    WHEN 'inet' THEN '10.0.0.' || n % 250
    WHEN 'cidr' THEN '10.' || n % 250 || '.0.0/16'
    WHEN 'macaddr' THEN '08:00:2b:01:02:' || lpad(to_hex(n % 250), 2, '0')
    WHEN 'macaddr8' THEN '08:00:2b:01:02:03:04:' || lpad(to_hex(n % 250), 2, '0')
    WHEN 'bit' THEN right((n::bit(32))::text, greatest(modifier, 1))
    WHEN 'varbit' THEN right((n::bit(32))::text, least(CASE WHEN modifier > 0 THEN modifier ELSE 32 END, 32))
    WHEN 'point' THEN format('(%s,1.5)', n)
    WHEN 'line' THEN format('{1,%s,2}', n)
    WHEN 'lseg' THEN format('[(0,0),(%s,1)]', n)
    WHEN 'box' THEN format('(%s,2),(0,0)', n)
    WHEN 'path' THEN format('((0,0),(%s,1))', n)
    WHEN 'polygon' THEN format('((0,0),(%s,1),(1,%s))', n, n)
    WHEN 'circle' THEN format('<(0,0),%s>', n)
    WHEN 'tsvector' THEN format('''word%s'':1 ''other''', n)
    WHEN 'tsquery' THEN format('''word%s'' & ''other''', n)
    WHEN 'pg_lsn' THEN '0/' || to_hex(n)
    WHEN 'ltree' THEN 'top.branch.leaf' || n
    WHEN 'hstore' THEN format('"k"=>"%s", "n"=>NULL', n)
  END;
END $$;

-- Returns an element of an array, a field of a row or a bound of a range.
CREATE FUNCTION pg_temp.quoted(value text) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce('"' || replace(replace(value, '\', '\\'), '"', '\"') || '"', '')
$$;

-- Returns the SQL of a value for a column: a literal with its type, NULL now and then where that is allowed.
CREATE FUNCTION pg_temp.literal(a pg_catalog.pg_attribute, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  value text := pg_temp.sample(a.atttypid, a.atttypmod, n);
BEGIN
  IF value IS NULL OR (NOT a.attnotnull AND (n + a.attnum) % 5 = 0) THEN
    RETURN 'NULL';
  END IF;
  RETURN quote_literal(value) || '::' || format_type(a.atttypid, a.atttypmod);
END $$;

-- Inserts the row with the number n, with its defaults if it is refused with values of ours. Returns whether it did.
CREATE FUNCTION pg_temp.insert_row(relation regclass, n int) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  names text;
  literals text;
BEGIN
  FOR defaults IN 0..1 LOOP
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), string_agg(pg_temp.literal(a, n), ', ' ORDER BY a.attnum)
    INTO names, literals
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND (defaults = 0 OR (a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''));
    BEGIN
      EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)', relation, names, literals);
      RETURN true;
    EXCEPTION WHEN OTHERS THEN
      NULL;
    END;
  END LOOP;
  RETURN false;
END $$;

-- Sets a column that is neither the key's nor computed to another value, in one row. Returns whether it did.
CREATE FUNCTION pg_temp.update_row(relation regclass, n int) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  a pg_catalog.pg_attribute;
  rows int;
BEGIN
  SELECT * INTO a FROM pg_catalog.pg_attribute c
  WHERE c.attrelid = relation AND c.attnum > 0 AND NOT c.attisdropped AND c.attgenerated = ''
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = relation AND i.indisunique AND c.attnum = ANY (i.indkey))
  ORDER BY md5(c.attname || n) LIMIT 1;
  EXECUTE format('UPDATE %s SET %I = %s WHERE ctid = (SELECT ctid FROM %1$s ORDER BY ctid LIMIT 1)', relation, a.attname, pg_temp.literal(a, n));
  GET DIAGNOSTICS rows = ROW_COUNT;
  RETURN rows > 0;
EXCEPTION WHEN OTHERS THEN
  RETURN false;
END $$;

CREATE FUNCTION pg_temp.delete_row(relation regclass) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  rows int;
BEGIN
  EXECUTE format('DELETE FROM %s WHERE ctid = (SELECT ctid FROM %1$s ORDER BY ctid DESC LIMIT 1)', relation);
  GET DIAGNOSTICS rows = ROW_COUNT;
  RETURN rows > 0;
EXCEPTION WHEN OTHERS THEN
  RETURN false;
END $$;
