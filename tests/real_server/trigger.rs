//! The trigger contract: each write of a writer succeeds, and the right notification arrives.

use crate::support::{Database, cluster, quoted, short};
use serde_json::{Value, json};

const NOTES: &str = "CREATE TABLE notes (id int PRIMARY KEY, body text, doc jsonb);";

/// Creates a database with `sql`, and installs triggers on these tables.
async fn installed(sql: &str, tables: &[&str]) -> Database {
    let database = Database::with(sql).await;
    database.pgic_ok(&[&["install-triggers"], tables].concat());
    database
}

/// The fields are a contract with other programs: see "Trigger contract" in `ARCHITECTURE.md`.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_says_what_the_contract_says() {
    let database = installed(NOTES, &["notes"]).await;
    let mut listening = database.listen().await;
    let client = database.client().await;
    let row = client
        .query_one(
            "INSERT INTO notes VALUES (1, 'a \"b\" \\ é', 'null') RETURNING \
            pg_current_xact_id()::text, tableoid::int8",
            &[],
        )
        .await
        .unwrap();
    client
        .batch_execute("UPDATE notes SET doc = NULL")
        .await
        .unwrap();
    let changes = listening.changes().await;
    let xid: String = row.get(0);
    let rel: i64 = row.get(1);
    let insert = &changes[0];
    assert_eq!(insert["table"], "notes");
    assert_eq!(
        (&insert["action"], &insert["id"], &insert["schema"]),
        (&json!("insert"), &json!(1), &json!("public"))
    );
    assert_eq!((&insert["xid"], &insert["rel"]), (&json!(xid), &json!(rel)));
    assert_eq!(
        insert["data"],
        json!({"id": 1, "body": "a \"b\" \\ é", "doc": null})
    );
    // `row_to_json` writes SQL NULL and a JSON null alike. `nulls` names the columns that are NULL.
    assert_eq!(
        (&insert["nulls"], &changes[1]["nulls"]),
        (&json!([]), &json!(["doc"]))
    );
    // The row version's place and the time: together they keep two payloads from being equal, of
    // which PostgreSQL would send one.
    assert!(
        insert["v"].as_str().is_some_and(|v| v.starts_with('(')) && insert["at"].is_string(),
        "{insert}"
    );
}

/// A payload of 8000 bytes fails the writer's statement. The length that counts is that of the JSON
/// in bytes, after escaping.
#[tokio::test(flavor = "multi_thread")]
async fn rows_around_the_limit_are_written_and_announced() {
    let database = installed(NOTES, &["notes"]).await;
    let mut listening = database.listen().await;
    let client = database.client().await;
    let mut sizes: Vec<i32> = (7_500..7_990).step_by(7).collect();
    sizes.extend([8_000, 20_000, 300_000]);
    for size in &sizes {
        client
            .execute("INSERT INTO notes VALUES ($1, repeat('x', $1))", &[size])
            .await
            .expect("a long row is written");
    }
    // Each quote takes two bytes in JSON, each é two in UTF-8.
    client
        .execute(
            "INSERT INTO notes VALUES (1, repeat('\"', 4000)), (2, repeat('é', 3950))",
            &[],
        )
        .await
        .unwrap();
    // This row is small on disk and long as text: the stored size alone must not decide.
    client
        .execute("UPDATE notes SET body = body || 'y' WHERE id = 300000", &[])
        .await
        .unwrap();
    let payloads = listening.payloads().await;
    assert_eq!(payloads.len(), sizes.len() + 3);
    assert!(payloads.iter().all(|payload| payload.len() < 8_000));
    let (whole, cut): (Vec<_>, Vec<_>) = payloads
        .iter()
        .partition(|payload| payload.contains("\"data\":"));
    assert!(
        whole.len() > 10 && cut.len() > 10,
        "{} whole, {} cut",
        whole.len(),
        cut.len()
    );
    let longest = whole.iter().map(|payload| payload.len()).max();
    assert!(longest > Some(7_990), "the limit is used up: {longest:?}");
    assert!(
        cut.iter()
            .all(|payload| payload.ends_with("\"truncated\":true}"))
    );
}

/// Without a key nobody knows which row to read again, so all of the table is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_asks_for_a_reload() {
    let database = installed("CREATE TABLE t (id text PRIMARY KEY)", &["t"]).await;
    // Short enough for the index, and twice as long in JSON.
    let index_fits = "INSERT INTO t VALUES (repeat('\"', 2600))";
    assert_eq!(database.arrives(index_fits).await.len(), 1);
    // A key change has both keys in one payload, each doubled by escaping.
    let changed = database
        .arrives("UPDATE t SET id = repeat('\\', 2600)")
        .await;
    assert_eq!(changed, ["reload null"]);
}

/// Consumers of the specification's form know no key change: they follow a delete and an update.
/// Others find the other key in each half.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_change_is_a_delete_and_an_update() {
    let database = installed(NOTES, &["notes"]).await;
    let sql = "INSERT INTO notes VALUES (1), (5); UPDATE notes SET id = id + 1";
    let mut listening = database.listen().await;
    database.client().await.batch_execute(sql).await.unwrap();
    let changes = listening.changes().await;
    let short: Vec<String> = changes.iter().map(short).collect();
    assert_eq!(
        short,
        [
            "insert 1",
            "insert 5",
            "delete 1",
            "update 1>2",
            "delete 5",
            "update 5>6"
        ]
    );
    assert_eq!(
        (&changes[2]["new_id"], &changes[2]["xid"]),
        (&json!(2), &changes[3]["xid"])
    );
}

/// A trigger runs in the writer's session. An unqualified name in it would be looked up in the
/// writer's search path, where the writer, or somebody else, may have put a function, an operator,
/// a cast's target type or a table of that name.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_writer_s_can_change_what_is_sent() {
    let database = installed(NOTES, &["notes"]).await;
    let hostile = "
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$ SELECT 1/0 $$;
        CREATE FUNCTION evil.row_to_json(public.notes) RETURNS json LANGUAGE sql AS $$ SELECT \
        '\"evil\"'::json $$;
        CREATE FUNCTION evil.to_json(integer) RETURNS json LANGUAGE sql AS $$ SELECT \
        '\"evil\"'::json $$;
        CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
        CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql AS $$ SELECT 1/0 $$;
        CREATE FUNCTION evil.bad(text, text) RETURNS bool LANGUAGE sql AS $$ SELECT 1/0 = 1 $$;
        CREATE OPERATOR evil.= (FUNCTION = evil.bad, LEFTARG = text, RIGHTARG = text);
        CREATE OPERATOR evil.<> (FUNCTION = evil.bad, LEFTARG = text, RIGHTARG = text);
        SET search_path = evil, public, pg_catalog;
        CREATE TEMP TABLE text (a int);
        CREATE TEMP TABLE json (a int);
        CREATE TEMP TABLE notes_shadow (a int);
        SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET \
        standard_conforming_strings = off;
        INSERT INTO notes VALUES (1, 'plain');
        UPDATE notes SET id = 2;
        DELETE FROM notes;";
    assert_eq!(
        database.arrives(hostile).await,
        ["insert 1", "delete 1", "update 1>2", "delete 2"]
    );
}

/// No trigger may make a write fail. A trigger fires without EXECUTE on the function, but the
/// function's body needs EXECUTE on `pg_notify`, and that can be revoked: NOTIFY is run as a
/// statement then.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_nothing_but_the_right_to_write_writes() {
    let database = installed(
        &format!("CREATE SCHEMA app; SET search_path = app; {NOTES}"),
        &["app.notes"],
    )
    .await;
    let admin = database.client().await;
    let role = format!("writer_{}", database.name);
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA app TO {role}; GRANT INSERT, UPDATE ON \
        app.notes TO {role};
         REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA app FROM PUBLIC;
         REVOKE EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) FROM PUBLIC"
    );
    admin.batch_execute(&grants).await.unwrap();
    let mut listening = database.listen().await;
    let writer = database.client_as(&role).await;
    assert!(
        writer
            .batch_execute("SELECT pg_notify('x', '')")
            .await
            .is_err(),
        "the right is revoked"
    );
    writer
        .batch_execute("INSERT INTO app.notes VALUES (1, 'it''s a \\ path')")
        .await
        .unwrap();
    writer
        .batch_execute("UPDATE app.notes SET id = 2")
        .await
        .unwrap();
    let changes = listening.changes().await;
    assert_eq!(
        changes.iter().map(short).collect::<Vec<_>>(),
        ["insert 1", "delete 1", "update 1>2"]
    );
    assert_eq!(changes[0]["data"]["body"], "it's a \\ path");
}

/// Column names are parts of the function's text, and PostgreSQL resolves them when a row is
/// written. With the specification's function this error fails every write.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_renamed_later_costs_no_write() {
    let database = installed(NOTES, &["notes"]).await;
    let sql = "ALTER TABLE notes RENAME id TO key; INSERT INTO notes VALUES (1), (2); UPDATE notes \
        SET body = 'x'; DELETE FROM notes";
    let mut listening = database.listen().await;
    let client = database.client().await;
    for statement in sql.split(';') {
        client
            .batch_execute(statement)
            .await
            .expect("a write goes on");
    }
    let changes = listening.changes().await;
    // The two rows of the INSERT give two equal payloads, which PostgreSQL folds into one.
    assert_eq!(
        changes.iter().map(short).collect::<Vec<_>>(),
        ["reload null"; 3]
    );
    assert!(
        changes[0]["why"]
            .as_str()
            .is_some_and(|why| why.contains("42703")),
        "{}",
        changes[0]
    );
}

/// The function writes integers and uuids as JSON by themselves. If a column gets another type, the
/// function that was made before must not write what is no JSON, or the JSON of another value: in
/// sessions that have called the function, and in new ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_changed_later_makes_no_wrong_payload() {
    let (whole, hostile) = ("md5(i::text)::uuid", "'\",\"action\":\"insert' || i");
    for (from, old, to, new) in [
        ("int", "i", "text", hostile),
        ("bigint", "i", "numeric", "i + 1.5"),
        (
            "bigint",
            "i",
            "numeric",
            "CASE i WHEN 2 THEN 'NaN' ELSE i::numeric END",
        ),
        ("smallint", "i", "bigint", "i + 4294967296"),
        ("int", "i", "date", "'2026-01-01'::date + i"),
        ("uuid", whole, "text", hostile),
        ("uuid", whole, "bytea", "decode(md5(i::text), 'hex')"),
    ] {
        for options in [&[][..], &["--bulk"]] {
            let database =
                Database::with(&format!("CREATE TABLE t (id {from} PRIMARY KEY, n {from})")).await;
            database.pgic_ok(&[&["install-triggers", "t"], options].concat());
            let (known, mut listening) = (database.client().await, database.listen().await);
            let insert = |value: &str, i: i32| {
                format!("INSERT INTO t SELECT {value}, {value} FROM (VALUES ({i})) v (i)")
            };
            known.batch_execute(&insert(old, 1)).await.unwrap();
            // USING takes no subquery.
            let alter = format!(
                "CREATE FUNCTION changed() RETURNS {to} LANGUAGE sql AS $$ SELECT {new} FROM \
                (VALUES (1)) v (i) $$; ALTER TABLE t ALTER id TYPE {to} USING changed(), ALTER n \
                TYPE {to} USING changed()"
            );
            known.batch_execute(&alter).await.unwrap();
            for (client, i) in [(&known, 2), (&database.client().await, 3)] {
                client.batch_execute(&insert(new, i)).await.unwrap();
                client.batch_execute("UPDATE t SET n = n").await.unwrap();
            }
            let case = format!("{from} to {to}, {options:?}");
            let payloads = listening.payloads().await;
            assert!(payloads.len() >= 3, "{case}: {payloads:?}");
            for payload in &payloads[1..] {
                let change: Value = serde_json::from_str(payload)
                    .unwrap_or_else(|error| panic!("{case}: {error}: {payload}"));
                let is_right = change["action"] == "reload" || to == "bigint";
                assert!(is_right, "{case}: {payload}");
            }
        }
    }
}

/// PostgreSQL folds equal payloads of one transaction into the first: of the texts a, b, a the last
/// would be missing, and caches would keep b.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_one_transaction_arrives() {
    let database = installed(NOTES, &["notes"]).await;
    let sql =
        "BEGIN; INSERT INTO notes VALUES (1, 'a'); UPDATE notes SET body = 'b'; UPDATE notes \
        SET body = 'a';
        DELETE FROM notes; INSERT INTO notes VALUES (1, 'a');
        SAVEPOINT s; UPDATE notes SET body = 'lost'; ROLLBACK TO s; COMMIT";
    assert_eq!(
        database.arrives(sql).await,
        ["insert 1", "update 1", "update 1", "delete 1", "insert 1"]
    );
    // A rolled-back transaction announces nothing.
    let rolled_back = "BEGIN; DELETE FROM notes; ROLLBACK";
    assert!(database.arrives(rolled_back).await.is_empty());
}

/// Rows are changed by more than INSERT, UPDATE and DELETE of the application. ON CONFLICT DO
/// NOTHING changes none, and announces none.
#[tokio::test(flavor = "multi_thread")]
async fn copy_conflicts_cascades_and_truncate_are_announced() {
    let tables = "CREATE TABLE owners (id int PRIMARY KEY);
        CREATE TABLE pets (id int PRIMARY KEY, owner int REFERENCES owners ON DELETE CASCADE ON \
        UPDATE CASCADE);";
    let database = installed(tables, &["owners", "pets"]).await;
    let sql = "INSERT INTO owners VALUES (1), (2);
        INSERT INTO pets VALUES (10, 1) ON CONFLICT (id) DO UPDATE SET owner = 2;
        INSERT INTO pets VALUES (10, 1) ON CONFLICT (id) DO UPDATE SET owner = 2;
        INSERT INTO pets VALUES (10, 1) ON CONFLICT DO NOTHING";
    assert_eq!(
        database.arrives(sql).await,
        ["insert 1", "insert 2", "insert 10", "update 10"]
    );
    // The server queues the cascade behind the statement that caused it.
    let cascade = database
        .arrives("UPDATE owners SET id = 3 WHERE id = 2")
        .await;
    assert_eq!(cascade, ["delete 2", "update 2>3", "update 10"]);
    assert_eq!(
        database.arrives("DELETE FROM owners WHERE id = 3").await,
        ["delete 3", "delete 10"]
    );
    assert_eq!(
        database.arrives("TRUNCATE owners, pets").await,
        ["truncate null", "truncate null"]
    );
    let mut listening = database.listen().await;
    let client = database.client().await;
    let sink = client.copy_in("COPY owners FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, &b"7\n8\n"[..])
        .await
        .unwrap();
    sink.finish().await.unwrap();
    assert_eq!(listening.short().await, ["insert 7", "insert 8"]);
}

/// 1. A row is inserted, and an AFTER trigger updates that row at once.
/// 2. The nested update is announced first, with the new text.
/// 3. The insert is announced behind it, with the old text.
///
/// A consumer that applies both in that order keeps the old text, so the late one says `recheck`.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_announcement_of_a_nested_trigger_is_marked() {
    let nested = "CREATE TABLE notes (id int PRIMARY KEY, body text);
        CREATE FUNCTION a_touch() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE notes SET body = ''nested'' WHERE id = NEW.id AND body <> ''nested''; \
            RETURN NULL; END';
        CREATE TRIGGER a_touch AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION a_touch();";
    let database = installed(nested, &["notes"]).await;
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO notes VALUES (1, 'x'), (2, 'y')")
        .await
        .unwrap();
    let changes = listening.changes().await;
    let rechecks: Vec<bool> = changes
        .iter()
        .map(|change| change.get("recheck").is_some())
        .collect();
    let inserts: Vec<bool> = changes
        .iter()
        .map(|change| change["action"] == "insert")
        .collect();
    assert_eq!(changes.len(), 4);
    assert_eq!(
        rechecks, inserts,
        "exactly the inserts, which come after the updates, are stale: {changes:?}"
    );
}

/// Names become parts of the function's text, of a template and of JSON. Each of these would end a
/// quote or look like a placeholder if it were inserted without care.
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_keys_are_literal() {
    let schema = "S \"q\" {{quote}} $pgic$ \\ '";
    let table = "t'x$pgic1$\\é😀.{{function}} %s %1$s %";
    let column = "K \"k\" %s {{new_key}}";
    let sql = format!(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table} ({column} text, n int, \"order\" \
        jsonb, PRIMARY KEY (n, {column}));",
        schema = quoted(schema),
        table = quoted(table),
        column = quoted(column)
    );
    let name = format!("{}.{}", quoted(schema), quoted(table));
    let database = installed(&sql, &[&name]).await;
    let mut listening = database.listen().await;
    let client = database.client().await;
    client
        .execute(&format!("INSERT INTO {name} VALUES ('a''\\\"', 7)"), &[])
        .await
        .unwrap();
    client
        .execute(&format!("UPDATE {name} SET n = 8"), &[])
        .await
        .unwrap();
    let changes = listening.changes().await;
    assert_eq!(
        (&changes[0]["table"], &changes[0]["schema"]),
        (&json!(table), &json!(schema))
    );
    assert_eq!(changes[0]["id"], json!([7, "a'\\\""]));
    assert_eq!(changes[0]["data"][column], "a'\\\"");
    assert_eq!(
        changes
            .iter()
            .map(|change| change["action"].clone())
            .collect::<Vec<Value>>(),
        ["insert", "delete", "update"]
    );
    assert_eq!(changes[1]["new_id"], json!([8, "a'\\\""]));
    assert_eq!(changes[2]["old_id"], json!([7, "a'\\\""]));
    assert_eq!(
        (&changes[2]["id"], &changes[2]["data"]["n"]),
        (&json!([8, "a'\\\""]), &json!(8))
    );
    assert_eq!(
        database
            .pgic(&["install-triggers", &name])
            .stdout
            .matches("unchanged")
            .count(),
        1
    );
    database.pgic_ok(&["remove-triggers", &name]);
}

/// A row that is too long is cut off where its members begin in the payload. Here the keys hold the
/// names of those members, and the text in front is as long as it can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_row_is_cut_off_behind_its_key() {
    let database = installed(
        "CREATE TABLE docs (id jsonb PRIMARY KEY, doc text, more json)",
        &["docs"],
    )
    .await;
    let client = database.client().await;
    let mut listening = database.listen().await;
    let keys = [
        json!({"a": 1, "data": {"nulls": []}, "nulls": ["data"]}),
        json!([{"data": "\",\"data\":{", "nulls": "\",\"nulls\":["}]),
        json!(",\"nulls\":["),
    ];
    // Stored it is short, so the trigger makes its text.
    let write = "INSERT INTO docs SELECT $1::text::jsonb, repeat('x', 20000)";
    let change = "UPDATE docs SET id = $2::text::jsonb WHERE id = $1::text::jsonb";
    for key in &keys {
        let other = json!([key, "data"]);
        let [old, new] = [key.to_string(), other.to_string()];
        client.execute(write, &[&old]).await.unwrap();
        client.execute(change, &[&old, &new]).await.unwrap();
        let changes = listening.changes().await;
        assert_eq!(changes.len(), 3, "{changes:?}");
        let [inserted, removed, updated] = [&changes[0], &changes[1], &changes[2]];
        assert_eq!(
            (&inserted["id"], &inserted["truncated"]),
            (key, &json!(true))
        );
        assert_eq!((&removed["id"], &removed["new_id"]), (key, &other));
        assert_eq!(
            (&updated["id"], &updated["old_id"], &updated["truncated"]),
            (&other, key, &json!(true))
        );
        for change in [inserted, updated] {
            assert!(
                change["data"].is_null() && change["nulls"].is_null(),
                "{change}"
            );
            assert_eq!(change["schema"], "public");
        }
    }
}

/// A key that became a composite type is an object without blanks, which looks like the members of a
/// row. To cut there would make a payload that nobody can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_row_whose_key_became_an_object_asks_for_a_reload() {
    let tables = "CREATE TABLE t (id text PRIMARY KEY, b text);
        CREATE TYPE pair AS (a int, data text)";
    let database = installed(tables, &["t"]).await;
    let mut listening = database.listen().await;
    let change = "ALTER TABLE t ALTER id TYPE pair USING ROW(1, id)::pair;
        INSERT INTO t VALUES (ROW(2, 'q')::pair, repeat('x', 20000))";
    database.client().await.batch_execute(change).await.unwrap();
    assert_eq!(listening.short().await, ["reload null"]);
}

/// A notify inside the EXCEPTION block keeps 8 kB a row until the transaction ends: 300,000 rows
/// took 2.4 GB. The notify stands behind the block, where a row takes about 0.3 kB.
#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_insert_keeps_the_backend_small() {
    let database = installed(
        "CREATE TABLE t (id int PRIMARY KEY, a bigint, b bigint)",
        &["t"],
    )
    .await;
    let client = database.client().await;
    client
        .batch_execute("BEGIN; INSERT INTO t SELECT n, n, n FROM generate_series(1, 300000) n")
        .await
        .unwrap();
    // The view is there from PostgreSQL 14 on.
    if cluster().version() >= 14 {
        let row = client
            .query_one(
                "SELECT sum(total_bytes)::int8 FROM pg_backend_memory_contexts",
                &[],
            )
            .await
            .unwrap();
        let in_contexts: i64 = row.get(0);
        assert!(
            in_contexts < 150_000_000,
            "the backend holds {in_contexts} bytes"
        );
        assert!(
            in_contexts > 10_000_000,
            "the notifications are not counted: {in_contexts} bytes"
        );
    }
    client.batch_execute("COMMIT").await.unwrap();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        // The peak of all memory, the touched part of the 64 MB of shared buffers included.
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .unwrap();
        let peak: u64 = peak.trim().parse().unwrap();
        assert!(peak < (150 + 64) * 1024, "the backend's peak was {peak} kB");
    }
}

/// `row_to_json` reads every stored value, however wide: an UPDATE of a small column beside 20 MB
/// took 198 ms in place of 0.4. The sizes are checked before the row is built.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_beside_a_wide_value_is_announced_without_it() {
    let database = installed(NOTES, &["notes"]).await;
    let client = database.client().await;
    client
        .batch_execute(
            "INSERT INTO notes SELECT 1, string_agg(md5(n::text), '') FROM \
            generate_series(1, 300000) n",
        )
        .await
        .unwrap();
    assert_eq!(
        database.arrives("UPDATE notes SET doc = '1'").await,
        ["update 1 truncated"]
    );
}

/// A key that is NULL cannot be announced, and any other failure while the payload is built cannot
/// be foreseen. The write goes on, and caches read the table again.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_whatever_kind_becomes_a_reload() {
    let database = installed("CREATE TABLE nulls (id int PRIMARY KEY);", &["nulls"]).await;
    // The trigger stays when the primary key is dropped.
    let no_key =
        "ALTER TABLE nulls DROP CONSTRAINT nulls_pkey; ALTER TABLE nulls ALTER id DROP NOT NULL";
    database.client().await.batch_execute(no_key).await.unwrap();
    for sql in [
        "INSERT INTO nulls VALUES (NULL)",
        "UPDATE nulls SET id = 1",
        "UPDATE nulls SET id = NULL",
        "DELETE FROM nulls",
    ] {
        assert_eq!(database.arrives(sql).await, ["reload null"], "{sql}");
    }
}

/// Hardened databases revoke EXECUTE on functions from PUBLIC. Each function that the trigger's
/// body calls is revoked here, after those before it.
#[tokio::test(flavor = "multi_thread")]
async fn functions_that_are_revoked_cost_no_write() {
    let database = installed(NOTES, &["notes"]).await;
    let role = format!("poor_{}", database.name);
    let grants = format!("CREATE ROLE {role} LOGIN; GRANT INSERT ON notes TO {role};");
    database
        .client()
        .await
        .batch_execute(&grants)
        .await
        .unwrap();
    let writer = database.client_as(&role).await;
    let functions = [
        "has_function_privilege(oid, text)",
        "octet_length(text)",
        "pg_current_xact_id()",
        "to_json(anyelement)",
        "concat(variadic \"any\")",
    ];
    let mut listening = database.listen().await;
    for (id, function) in (1_i32..).zip(functions) {
        let revoke = format!("REVOKE EXECUTE ON FUNCTION pg_catalog.{function} FROM PUBLIC");
        database
            .client()
            .await
            .batch_execute(&revoke)
            .await
            .unwrap();
        writer
            .execute("INSERT INTO notes VALUES ($1)", &[&id])
            .await
            .unwrap_or_else(|error| panic!("{function}: {error:?}"));
        assert_eq!(listening.short().await, ["reload null"], "{function}");
    }
}

/// PL/pgSQL keeps the plan of a function for the session. After a type has changed, the old plan
/// fails in the sessions that made it, until the function is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_type_is_healed_in_running_sessions_by_installing_again() {
    let database = installed(NOTES, &["notes"]).await;
    let mut listening = database.listen().await;
    let session = database.client().await;
    session
        .batch_execute("INSERT INTO notes VALUES (1)")
        .await
        .unwrap();
    session
        .batch_execute("ALTER TABLE notes ALTER id TYPE bigint")
        .await
        .unwrap();
    session
        .batch_execute("INSERT INTO notes VALUES (2)")
        .await
        .expect("the write goes on");
    assert_eq!(listening.short().await, ["insert 1", "reload null"]);
    assert_eq!(database.pgic(&["status", "notes"]).code, 1, "status knows");
    // The session that has the old plan goes on.
    assert!(
        database
            .pgic_ok(&["install-triggers", "notes"])
            .contains("refreshed")
    );
    session
        .batch_execute("INSERT INTO notes VALUES (3)")
        .await
        .unwrap();
    assert_eq!(listening.short().await, ["insert 3"]);
}

/// A regclass prints with or without the schema, depending on the search path, and quoted or not,
/// depending on a setting. A key must be the same text in every payload, whatever the writer has
/// set.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_objects_do_not_follow_the_session() {
    let database = installed(
        "CREATE TABLE refs (id regclass PRIMARY KEY, t regtype)",
        &["refs"],
    )
    .await;
    let mut listening = database.listen().await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO refs VALUES ('refs', 'int4')")
        .await
        .unwrap();
    client
        .batch_execute(
            "SET quote_all_identifiers = on; SET search_path = pg_catalog; CREATE TEMP \
            TABLE refs (a int)",
        )
        .await
        .unwrap();
    client
        .batch_execute("DELETE FROM public.refs")
        .await
        .unwrap();
    let changes = listening.changes().await;
    assert_eq!(
        (&changes[0]["id"], &changes[1]["id"]),
        (&json!("public.refs"), &json!("public.refs"))
    );
}

/// A function takes 100 arguments at most, so the list of NULL columns must not be built by one
/// call with an argument a column.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_many_json_columns_is_announced() {
    let columns: Vec<String> = (0..250).map(|n| format!("j{n} json")).collect();
    let database = installed(
        &format!(
            "CREATE TABLE t (id int PRIMARY KEY, {})",
            columns.join(", ")
        ),
        &["t"],
    )
    .await;
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO t (id, j0, j99, j249) VALUES (1, '1', 'null', '2')")
        .await
        .unwrap();
    let change = listening.changes().await.remove(0);
    let nulls: Vec<&str> = change["nulls"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!((nulls.len(), nulls[0], nulls[246]), (247, "j1", "j248"));
}

/// A stored generated column is computed before the trigger runs. A virtual one is not: the row is
/// read again.
#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_followed() {
    // Virtual columns, from PostgreSQL 18 on, are computed when they are read. A trigger sees null
    // in them.
    let is_virtual = cluster().version() >= 18;
    let more = if is_virtual {
        ", v int GENERATED ALWAYS AS (a + 1) VIRTUAL"
    } else {
        ""
    };
    let sql = format!(
        "CREATE TABLE g (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 2) STORED{more})"
    );
    let database = installed(&sql, &["g"]).await;
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO g VALUES (1, 5); UPDATE g SET a = 6")
        .await
        .unwrap();
    let changes = listening.changes().await;
    assert_eq!(
        (&changes[0]["data"]["s"], &changes[1]["data"]["s"]),
        (&json!(10), &json!(12))
    );
    let shown = database.pgic_ok(&["query", "g", "s=12", "-o", "json"]);
    assert_eq!(shown.contains("\"v\":7"), is_virtual, "{shown}");
}
