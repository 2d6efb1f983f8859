-- The generic notification function, for tables whose primary key is a column called "id".
--
--   psql -f cache_notification_triggers.sql
--
-- then, for each table:
--
--   CREATE TRIGGER users_cache_notify
--       AFTER INSERT OR UPDATE OR DELETE ON users
--       FOR EACH ROW
--       EXECUTE FUNCTION notify_cache_change();
--   CREATE TRIGGER users_cache_notify_truncate
--       AFTER TRUNCATE ON users
--       FOR EACH STATEMENT
--       EXECUTE FUNCTION notify_cache_change();
--
-- To notify on another channel than cache_invalidation, give its name as the argument of the function:
-- EXECUTE FUNCTION notify_cache_change('my_custom_channel').
-- `pgic install-triggers` makes a function for each table instead, which takes any key and costs less.
--
-- The function is created in the first schema of the search_path. To run this file again replaces the function in
-- place. Nothing is dropped, so the triggers that call the function stay.
--
-- What the function promises to writers: it never makes a write fail.
--   * If a payload would be too long, it is sent without its row ("truncated": true).
--   * If a change cannot be announced, listeners are asked to read the table again ("action": "reload").
--
-- What no trigger can prevent, because NOTIFY itself does it:
--   * PREPARE TRANSACTION fails after a NOTIFY.
--   * COMMIT fails if the notification queue is full.
--   * Commits that notify wait for each other. A lock_timeout can end one that waits, and one that waits for a standby
--     holds up the others.
--
-- If the type of a column is changed, sessions that have fired the trigger before ask for reloads until they reconnect.
-- Use the function in AFTER triggers. A BEFORE trigger would announce changes that may not happen.

CREATE OR REPLACE FUNCTION notify_cache_change() RETURNS trigger
LANGUAGE plpgsql
-- These settings change how values are written as JSON. Pin them, so that all writers' sessions write alike.
SET TimeZone = 'UTC'
SET DateStyle = 'ISO'
SET IntervalStyle = 'postgres'
SET bytea_output = 'hex'
SET extra_float_digits = '1'
SET lc_monetary = 'C'
SET quote_all_identifiers = 'off'
SET array_nulls = 'on'
SET search_path = pg_catalog, pg_temp
AS $pgic$
DECLARE
  may_notify pg_catalog.bool := false;
  origin pg_catalog.text;
  relation pg_catalog.oid := TG_RELID;
  table_name pg_catalog.text := TG_TABLE_NAME;
  table_schema pg_catalog.text := TG_TABLE_SCHEMA;
  channel pg_catalog.text := coalesce(TG_ARGV[0], 'cache_invalidation');
  head pg_catalog.text;
  old_key pg_catalog.text;
  new_key pg_catalog.text;
  data pg_catalog.text;
  -- The statements that make the JSON of a key and of a row which hold values of types that are not built in.
  key_sql pg_catalog.text;
  data_sql pg_catalog.text;
  removal pg_catalog.text;
  payload pg_catalog.text;
BEGIN
  -- What can fail is done in here: a failure becomes a request to read the table again, never an error of the writer.
  -- The notify stands behind it: inside, each would keep 8 kB of memory until the end of the transaction.
  BEGIN
    IF pg_catalog.octet_length(channel) OPERATOR(pg_catalog.=) 0
      OR pg_catalog.octet_length(channel) OPERATOR(pg_catalog.>) 63 THEN
      channel := 'cache_invalidation';
    END IF;
    -- A partition announces its changes under the name of the table that applications know.
    IF pg_catalog.pg_partition_root(TG_RELID) OPERATOR(pg_catalog.<>) TG_RELID THEN
      relation := pg_catalog.pg_partition_root(TG_RELID);
      SELECT c.relname, n.nspname INTO STRICT table_name, table_schema
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
      WHERE c.oid OPERATOR(pg_catalog.=) relation;
    END IF;
    origin := pg_catalog.concat(',"schema":', pg_catalog.to_json(table_schema), ',"rel":', TG_RELID,
      ',"generic":true,"xid":"', pg_catalog.pg_current_xact_id());
    -- to_json and row_to_json call a cast to json where the owner of a type has made one: somebody else's code, with the
    -- rights of whoever writes. Of such types the text is sent that their output function writes.
    IF TG_OP OPERATOR(pg_catalog.<>) 'TRUNCATE' AND EXISTS (
      SELECT FROM pg_catalog.pg_attribute a
      WHERE a.attrelid OPERATOR(pg_catalog.=) TG_RELID AND a.attnum OPERATOR(pg_catalog.>) 0
        AND a.atttypid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    ) THEN
      WITH RECURSIVE layers (number, name, type, depth, is_array) AS (
        SELECT a.attnum, a.attname, a.atttypid, 0, false
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.=) TG_RELID AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
        UNION ALL
        SELECT l.number, l.name, CASE WHEN t.typtype OPERATOR(pg_catalog.=) 'd' THEN t.typbasetype ELSE t.typelem END,
          l.depth OPERATOR(pg_catalog.+) 1, l.is_array OR t.typtype OPERATOR(pg_catalog.<>) 'd'
        FROM layers l
        JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) l.type
        WHERE t.typtype OPERATOR(pg_catalog.=) 'd'
          OR (t.typcategory OPERATOR(pg_catalog.=) 'A' AND t.typelem OPERATOR(pg_catalog.<>) '0'::pg_catalog.oid)
      ),
      cores AS (
        SELECT DISTINCT ON (l.number) l.number, l.name, l.type OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid AS is_foreign,
          l.is_array
        FROM layers l
        ORDER BY l.number, l.depth DESC
      ),
      fields AS (
        SELECT c.number, c.name, CASE
          WHEN NOT c.is_foreign THEN pg_catalog.format('($1).%I', c.name)
          ELSE pg_catalog.format('CASE WHEN pg_catalog.num_nonnulls(($1).%1$I) OPERATOR(pg_catalog.=) 1
            THEN pg_catalog.concat(($1).%1$I) END%2$s', c.name, CASE WHEN c.is_array THEN '::pg_catalog.text[]' END) END AS value
        FROM cores c
      )
      SELECT
        'SELECT pg_catalog.to_json(' OPERATOR(pg_catalog.||)
          pg_catalog.min(f.value) FILTER (WHERE f.name OPERATOR(pg_catalog.=) 'id') OPERATOR(pg_catalog.||) ')',
        'SELECT pg_catalog.row_to_json(fields.*) FROM (SELECT ' OPERATOR(pg_catalog.||) pg_catalog.string_agg(
          pg_catalog.format('%s AS %I', f.value, f.name), ', ' ORDER BY f.number) OPERATOR(pg_catalog.||) ') fields'
      INTO key_sql, data_sql
      FROM fields f;
    END IF;
    IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
      IF relation OPERATOR(pg_catalog.<>) TG_RELID THEN
        payload := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"reload","id":null', origin,
          '","why":"a partition was truncated"}');
      ELSE
        payload := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"truncate","id":null', origin,
          '","v":"","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
      END IF;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
      IF key_sql IS NULL THEN
        old_key := pg_catalog.to_json(OLD.id);
      ELSE
        EXECUTE key_sql INTO old_key USING OLD;
      END IF;
      IF old_key IS NULL THEN
        RAISE not_null_violation;
      END IF;
      payload := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"delete","id":', old_key, origin, '","v":"', OLD.ctid, '","at":',
        pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
    ELSE
      IF key_sql IS NULL THEN
        new_key := pg_catalog.to_json(NEW.id);
      ELSE
        EXECUTE key_sql INTO new_key USING NEW;
      END IF;
      IF new_key IS NULL THEN
        RAISE not_null_violation;
      END IF;
      head := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"',
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN 'insert' ELSE 'update' END, '","id":', new_key, origin,
        '","v":"', NEW.ctid, '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
        CASE WHEN NEW.xmax OPERATOR(pg_catalog.<>) '0'::pg_catalog.xid THEN ',"recheck":true' END);
      IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF key_sql IS NULL THEN
          old_key := pg_catalog.to_json(OLD.id);
        ELSE
          EXECUTE key_sql INTO old_key USING OLD;
        END IF;
        IF old_key IS NULL THEN
          RAISE not_null_violation;
        END IF;
        IF old_key OPERATOR(pg_catalog.<>) new_key COLLATE pg_catalog."C" THEN
          removal := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"delete","id":', old_key,
            origin, '","v":"', OLD.ctid, '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), ',"new_id":', new_key,
            '}');
          head := pg_catalog.concat(head, ',"old_id":', old_key);
        END IF;
      END IF;
      IF data_sql IS NULL THEN
        data := pg_catalog.row_to_json(NEW);
      ELSE
        EXECUTE data_sql INTO data USING NEW;
      END IF;
      payload := pg_catalog.concat(head, ',"data":', data, '}');
      IF pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999 THEN
        payload := pg_catalog.concat(head, ',"truncated":true}');
      END IF;
    END IF;
    IF pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999
      OR pg_catalog.octet_length(removal) OPERATOR(pg_catalog.>) 7999 THEN
      removal := NULL;
      payload := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"reload","id":null', origin,
        '","why":"the key is too long to be sent"}');
    END IF;
    may_notify := pg_catalog.has_function_privilege(
      'pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text)'::pg_catalog.regprocedure::pg_catalog.oid, 'EXECUTE');
  EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
    removal := NULL;
    payload := pg_catalog.concat('{"table":', pg_catalog.to_json(table_name), ',"action":"reload","id":null,"schema":',
      pg_catalog.to_json(table_schema), ',"rel":', TG_RELID, ',"generic":true,"xid":"', pg_catalog.pg_current_xact_id(),
      '","why":"the trigger failed with SQLSTATE ', SQLSTATE, '"}');
  END;
  IF may_notify THEN
    IF removal IS NOT NULL THEN
      PERFORM pg_catalog.pg_notify(channel, removal);
    END IF;
    PERFORM pg_catalog.pg_notify(channel, payload);
  ELSE
    IF removal IS NOT NULL THEN
      EXECUTE pg_catalog.concat('NOTIFY ', pg_catalog.quote_ident(channel), ', ', pg_catalog.quote_literal(removal));
    END IF;
    EXECUTE pg_catalog.concat('NOTIFY ', pg_catalog.quote_ident(channel), ', ', pg_catalog.quote_literal(payload));
  END IF;
  -- What is returned counts in a BEFORE trigger alone.
  IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
    RETURN OLD;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
    RETURN NULL;
  END IF;
  RETURN NEW;
END
$pgic$;
