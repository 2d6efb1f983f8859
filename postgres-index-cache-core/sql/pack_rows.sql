      tail := pg_catalog.concat({{tail}}, TG_RELID, ',"xid":"', pg_catalog.pg_current_xact_id(),
        '","at":', pg_catalog.to_json(pg_catalog.clock_timestamp()), ',"recheck":true}');
      room := {{room}} OPERATOR(pg_catalog.-) pg_catalog.octet_length(tail);
      packed := NULL;
      FOR item IN {{query}} LOOP
        IF pg_catalog.octet_length(packed) OPERATOR(pg_catalog.+) pg_catalog.octet_length(item) OPERATOR(pg_catalog.<=) room THEN
          packed := packed OPERATOR(pg_catalog.||) item;
        ELSE
          IF packed IS NOT NULL THEN
            payloads := pg_catalog.array_append(payloads, pg_catalog.concat({{head}}, packed, tail));
            IF NOT is_counted AND (SELECT pg_catalog.count(*) FROM {{rows}}) OPERATOR(pg_catalog.>) {{most}} THEN
              why := 'one statement has changed more than {{most}} rows';
              EXIT;
            END IF;
            is_counted := true;
          END IF;
          IF pg_catalog.octet_length(item) OPERATOR(pg_catalog.>) room THEN
            item := pg_catalog.concat(',{"id":', pg_catalog.json_extract_path(
              pg_catalog.substr(item, 2)::pg_catalog.json, 'id'), ',"truncated":true}');
            IF pg_catalog.octet_length(item) OPERATOR(pg_catalog.>) room THEN
              why := 'the key is too long to be sent';
              EXIT;
            END IF;
          ELSIF item IS NULL THEN
            -- A key that became nullable after all.
            RAISE not_null_violation;
          END IF;
          packed := pg_catalog.substr(item, 2);
        END IF;
      END LOOP;
      IF packed IS NOT NULL THEN
        payloads := pg_catalog.array_append(payloads, pg_catalog.concat({{head}}, packed, tail));
      END IF;
