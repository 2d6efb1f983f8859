CREATE OR REPLACE FUNCTION {{function}}() RETURNS trigger
LANGUAGE plpgsql{{settings}}
AS {{quote}}
-- Made for the columns {{columns}}: other types are another text, and a new text is compiled anew by every session.
DECLARE
  may_notify pg_catalog.bool := false;
  head pg_catalog.text;
  old_key pg_catalog.text;
  new_key pg_catalog.text;
  removal pg_catalog.text;
  payload pg_catalog.text;
BEGIN
  {{guard}}
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
      new_key := {{new_key}};
      -- A key that became nullable after all.
      IF new_key IS NULL THEN
        RAISE not_null_violation;
      END IF;
      head := pg_catalog.concat({{insert}}, new_key, {{from}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","v":"', NEW.ctid, '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
        CASE WHEN NEW.xmax OPERATOR(pg_catalog.<>) '0'::pg_catalog.xid THEN ',"recheck":true' END);
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
{{unless_changed}}      old_key := {{old_key}};
      new_key := {{new_key}};
      IF old_key IS NULL OR new_key IS NULL THEN
        RAISE not_null_violation;
      END IF;
      head := pg_catalog.concat({{update}}, new_key, {{from}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","v":"', NEW.ctid, '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
        CASE WHEN NEW.xmax OPERATOR(pg_catalog.<>) '0'::pg_catalog.xid THEN ',"recheck":true' END);
      IF old_key OPERATOR(pg_catalog.<>) new_key COLLATE pg_catalog."C" THEN
        removal := pg_catalog.concat({{delete}}, old_key, {{from}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
          '","v":"', OLD.ctid, '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), ',"new_id":', new_key, '}');
        head := pg_catalog.concat(head, ',"old_id":', old_key);
      END IF;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
      old_key := {{old_key}};
      IF old_key IS NULL THEN
        RAISE not_null_violation;
      END IF;
      payload := pg_catalog.concat({{delete}}, old_key, {{from}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","v":"', OLD.ctid, '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
{{truncate_of_leaf}}    ELSE
      payload := pg_catalog.concat({{truncate}}, 'null', {{from}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","v":"","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
    END IF;
    IF head IS NOT NULL THEN
{{payload}}
    END IF;
    IF pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999
      OR pg_catalog.octet_length(removal) OPERATOR(pg_catalog.>) 7999 THEN
      removal := NULL;
      payload := pg_catalog.concat({{reload}}, 'null', {{from}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","why":"the key is too long to be sent"}');
    END IF;
    may_notify := pg_catalog.has_function_privilege(
      'pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text)'::pg_catalog.regprocedure::pg_catalog.oid, 'EXECUTE');
{{unguard}}  IF may_notify THEN
    IF removal IS NOT NULL THEN
      PERFORM pg_catalog.pg_notify({{channel}}, removal);
    END IF;
    PERFORM pg_catalog.pg_notify({{channel}}, payload);
  ELSE
    IF removal IS NOT NULL THEN
      EXECUTE {{notify}} OPERATOR(pg_catalog.||) pg_catalog.quote_literal(removal);
    END IF;
    EXECUTE {{notify}} OPERATOR(pg_catalog.||) pg_catalog.quote_literal(payload);
  END IF;
  RETURN NULL;
END
{{quote}};
