CREATE OR REPLACE FUNCTION {{function}}() RETURNS trigger
LANGUAGE plpgsql{{settings}}
AS {{quote}}
-- Made for the columns {{columns}}: other types are another text, and a new text is compiled anew by every session.
-- Called once a statement, whose rows are sent packed. The rows of a statement are not known to be as the statement left
-- them: functions and triggers within it may have changed them again, and were announced before. So all ask for a recheck.
DECLARE
  may_notify pg_catalog.bool := false;
  tail pg_catalog.text;
  room pg_catalog.int4;
  item pg_catalog.text;
  packed pg_catalog.text;
  is_counted pg_catalog.bool := false;
  why pg_catalog.text;
  payload pg_catalog.text;
  payloads pg_catalog.text[] := '{}';
BEGIN
  {{guard}}
{{unless_detached}}    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
{{pack_inserted}}    ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
{{pack_removed}}      IF why IS NULL THEN
{{pack_updated}}      END IF;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
{{pack_deleted}}    ELSIF why IS NULL THEN
      payloads := ARRAY[pg_catalog.concat({{truncate}}, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}')];
    END IF;
    IF why IS NOT NULL THEN
      payloads := ARRAY[pg_catalog.concat({{reload}}, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","why":"', why, '"}')];
    END IF;
    may_notify := {{may_notify}};
{{unguard}}  FOREACH payload IN ARRAY payloads LOOP
    IF may_notify THEN
      PERFORM pg_catalog.pg_notify({{channel}}, payload);
    ELSE
      EXECUTE {{notify}} OPERATOR(pg_catalog.||) pg_catalog.quote_literal(payload);
    END IF;
  END LOOP;
  RETURN NULL;
END
{{quote}};
