CREATE OR REPLACE FUNCTION {{function}}() RETURNS trigger
LANGUAGE plpgsql{{settings}}
AS {{quote}}
-- Made for the columns {{columns}}: other types are another text, and a new text is compiled anew by every session.
-- Each session keeps this function compiled for each table and partition that it writes to: 3 bytes for a character of a
-- statement, 100 for a qualified name, 2 kB for a type that is named, and 6 kB and more for each expression that it has
-- come to.
DECLARE
  -- NULL: not known.
  may_notify pg_catalog.bool;
  payload pg_catalog.text;
  old_key payload%TYPE;
  new_key payload%TYPE;
  was payload%TYPE;
  removal payload%TYPE;
  -- Never set. To return it takes no expression, as NULL would.
  nothing payload%TYPE;
{{declare_condition}}BEGIN
  {{guard}}
{{condition}}    IF {{operation}} OPERATOR(pg_catalog.=) 'INSERT' THEN
      -- A key that became nullable after all makes no payload, as below.
      payload := CASE WHEN {{new_key_is_set}} THEN pg_catalog.concat({{head_of_insert}},
        {{row}}, '}') END;
    ELSIF {{operation}} OPERATOR(pg_catalog.=) 'UPDATE' THEN
{{unless_changed}}      -- Bit by bit, which costs less than two texts; values that differ in bits alone are one key all the same.
      IF {{key_has_changed}} THEN
        old_key := {{old_key}};
        new_key := {{new_key}};
        IF old_key OPERATOR(pg_catalog.<>) new_key COLLATE pg_catalog."C" THEN
          removal := pg_catalog.concat({{head_of_removal}}, old_key, {{from}}, TG_RELID, ',"xid":"',
            pg_catalog.pg_current_xact_id(), '","v":"', OLD.ctid, '","at":',
            pg_catalog.to_json(pg_catalog.clock_timestamp()), ',"new_id":', new_key, '}');
          was := pg_catalog.concat(',"old_id":', old_key);
        END IF;
      END IF;
      payload := CASE WHEN {{old_key_is_set}} AND {{new_key_is_set}} THEN pg_catalog.concat({{head_of_update}},
        {{row}}, '}') END;
    ELSIF {{operation}} OPERATOR(pg_catalog.=) 'DELETE' THEN
      payload := CASE WHEN {{old_key_is_set}} THEN pg_catalog.concat({{head_of_delete}}, ',"xid":"',
        pg_catalog.pg_current_xact_id(), '","v":"', OLD.ctid, '","at":',
        pg_catalog.to_json(pg_catalog.clock_timestamp()), '}') END;
{{truncate_of_leaf}}    ELSE
      payload := pg_catalog.concat({{truncate}}, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","v":"","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
    END IF;
    -- Most payloads are short and alone. One expression sees that: each costs the more, the less a transaction writes.
    may_notify := CASE WHEN removal IS NULL AND pg_catalog.octet_length(payload) OPERATOR(pg_catalog.<=) 7999 THEN
      {{may_notify}} END;
    IF may_notify IS NULL THEN
      IF payload IS NULL THEN
        RAISE not_null_violation;
      ELSIF pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999
        OR pg_catalog.octet_length(removal) OPERATOR(pg_catalog.>) 7999 THEN
        -- The row is cut off. If that cuts a key which became an object, the rest is no json, which fails.
        was := pg_catalog.split_part(payload, {{row_begins}}, 1);
        IF was OPERATOR(pg_catalog.<>) payload COLLATE pg_catalog."C" THEN
          payload := pg_catalog.concat(was, ',"truncated":true}')::pg_catalog.json;
        END IF;
        IF pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999
          OR pg_catalog.octet_length(removal) OPERATOR(pg_catalog.>) 7999 THEN
          removal := NULL;
          payload := pg_catalog.concat({{reload}}, ',"xid":"', pg_catalog.pg_current_xact_id(),
            '","why":"the key is too long to be sent"}');
        END IF;
      END IF;
      may_notify := {{may_notify}};
    END IF;
{{unguard}}  IF may_notify AND removal IS NULL THEN
    -- An expression takes half the time of a PERFORM, which starts the executor. It stands alone: a statement that names
    -- pg_notify needs the right to call it, even where it does not.
    may_notify := pg_catalog.pg_notify({{channel}}, payload) IS NOT NULL;
  ELSIF may_notify THEN
    PERFORM pg_catalog.pg_notify({{channel}}, removal);
    PERFORM pg_catalog.pg_notify({{channel}}, payload);
  ELSE
    IF removal IS NOT NULL THEN
      EXECUTE {{notify}} OPERATOR(pg_catalog.||) pg_catalog.quote_literal(removal);
    END IF;
    EXECUTE {{notify}} OPERATOR(pg_catalog.||) pg_catalog.quote_literal(payload);
  END IF;
  RETURN nothing;
END
{{quote}};
