//! `install-triggers --bulk`: statement triggers send the rows of a statement packed. To whoever
//! unpacks them they are what row triggers send, and a cache stays exact: also where statements
//! write to the same rows within each other, which are announced in another order than they ran.

use crate::support::{Database, Ran, short};
use postgres_index_cache_core::tooling::unpack;
use serde_json::{Value, json};

const ITEMS: &str =
    "CREATE SCHEMA app; CREATE TABLE app.items (id int PRIMARY KEY, n int, v text);";

/// A database with `app.items`, whose statements are announced packed.
async fn with_bulk(sql: &str) -> Database {
    let database = Database::with(&format!("{ITEMS} {sql}")).await;
    database.pgic_ok(&["install-triggers", "app.items", "--bulk"]);
    database
}

/// Returns the payloads that a statement sends.
async fn sent(database: &Database, sql: &str) -> Vec<String> {
    let mut listening = database.listen().await;
    database.client().await.batch_execute(sql).await.unwrap();
    listening.payloads().await
}

/// Asserts that a command was refused for the reason `because`.
fn refused(ran: &Ran, because: &str) {
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains(because), "{}", ran.stderr);
}

/// Returns the codes of the problems that `status` finds.
fn problems(database: &Database) -> Vec<String> {
    let shown = database.pgic(&["status", "app.items", "-o", "json"]).json();
    let table = shown.iter().find(|event| event["event"] == "table");
    let problems = table.expect("the table")["problems"].as_array().cloned();
    let problems = problems.unwrap_or_default();
    let codes = problems.iter().map(|problem| problem["code"].as_str());
    codes.flatten().map(str::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_statement_come_in_one_payload() {
    let database = with_bulk("").await;
    for (sql, payloads, announced) in [
        (
            "INSERT INTO app.items SELECT i, i FROM generate_series(2, 4) i",
            1,
            &["insert 2", "insert 3", "insert 4"][..],
        ),
        (
            "UPDATE app.items SET n = n + 1 WHERE id < 9",
            1,
            &["update 2", "update 3", "update 4"],
        ),
        // Keys that are changed. Keys 2 and 3 are other rows now, and only key 4 is gone.
        (
            "UPDATE app.items SET id = id - 1",
            2,
            &["delete 4", "update 1", "update 2", "update 3"],
        ),
        // An INSERT that is an UPDATE as well.
        (
            "INSERT INTO app.items VALUES (1, 9), (5, 9) ON CONFLICT (id) DO UPDATE SET n = 0",
            2,
            &["insert 5", "update 1"],
        ),
        (
            "DELETE FROM app.items WHERE id > 2",
            1,
            &["delete 3", "delete 5"],
        ),
        ("DELETE FROM app.items WHERE id > 3", 0, &[]),
        ("UPDATE app.items SET n = 1 WHERE false", 0, &[]),
        ("TRUNCATE app.items", 1, &["truncate null"]),
    ] {
        let texts = sent(&database, sql).await;
        let changes = texts.iter().flat_map(|text| unpack(text));
        let changes: Vec<Value> = changes
            .map(|text| serde_json::from_str(&text).expect("JSON"))
            .collect();
        let mut words: Vec<String> = changes.iter().map(short).collect();
        let mut announced = announced.to_vec();
        // In which order a statement meets its rows is the planner's choice.
        words.sort();
        announced.sort_unstable();
        assert_eq!(
            (texts.len(), words),
            (
                payloads,
                announced.iter().map(ToString::to_string).collect()
            ),
            "{sql}"
        );
    }
}

/// One statement of each kind that fires the triggers of several events.
#[tokio::test(flavor = "multi_thread")]
async fn merge_copy_and_cascades_are_announced() {
    let database = with_bulk(
        "CREATE TABLE app.owners (id int PRIMARY KEY);
        INSERT INTO app.owners VALUES (1), (2);
        INSERT INTO app.items SELECT i, 1 + i % 2 FROM generate_series(1, 4) i;
        ALTER TABLE app.items ADD FOREIGN KEY (n) REFERENCES app.owners
            ON DELETE CASCADE ON UPDATE CASCADE;",
    )
    .await;
    let mut words = database
        .arrives("UPDATE app.owners SET id = 3 WHERE id = 1; DELETE FROM app.owners WHERE id = 3")
        .await;
    words.sort();
    assert_eq!(words, ["delete 2", "delete 4", "update 2", "update 4"]);
    // A table that refers to itself: what cascades is of the statement.
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE TABLE app.tree (id int PRIMARY KEY, parent int REFERENCES app.tree
                ON DELETE CASCADE); INSERT INTO app.tree VALUES (1, NULL), (2, 1), (3, 2)",
        )
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "app.tree", "--bulk"]);
    let texts = sent(&database, "DELETE FROM app.tree WHERE id = 1").await;
    let keys: Vec<usize> = texts.iter().map(|text| unpack(text).count()).collect();
    assert_eq!(keys, [3]);
    let version = "SELECT current_setting('server_version_num')::int";
    let version = database.client().await.query_one(version, &[]).await;
    if version.unwrap().get::<_, i32>(0) >= 150_000 {
        let merge = "MERGE INTO app.items USING (VALUES (1), (3), (9)) AS s (id) ON items.id = s.id
            WHEN MATCHED AND s.id = 1 THEN DELETE
            WHEN MATCHED THEN UPDATE SET v = 'x'
            WHEN NOT MATCHED THEN INSERT VALUES (s.id, 2)";
        let words = database.arrives(merge).await;
        assert_eq!(words, ["delete 1", "update 3", "insert 9"]);
    }
    let copy = "COPY app.items FROM PROGRAM 'printf \"20\\t2\\tx\\n21\\t2\\ty\\n\"'";
    assert_eq!(database.arrives(copy).await, ["insert 20", "insert 21"]);
}

/// The JSON is made in another way than that of row triggers.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_the_same_as_a_row_trigger_sends() {
    let columns =
        "(gone int, \"the \"\"Key\" uuid, changed text, \"item\" int, big bigint, small smallint,
        b bool, x numeric(20, 4), f float8, t timestamptz, d date, i interval, j json, jb jsonb,
        raw bytea, tags text[], r int4range, e app.mood, c app.pair, m money, ip inet,
        PRIMARY KEY (\"the \"\"Key\", big))";
    let database = Database::with(&format!(
        "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a b', 'c');
        CREATE TYPE app.pair AS (a int, b text);
        CREATE TABLE app.rowwise {columns}; CREATE TABLE app.bulk {columns};
        ALTER TABLE app.rowwise DROP COLUMN gone; ALTER TABLE app.bulk DROP COLUMN gone;"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "app.rowwise"]);
    database.pgic_ok(&["install-triggers", "app.bulk", "--bulk"]);
    let values = "VALUES
        ('00000000-0000-0000-0000-000000000001'::uuid, E'q\"\\\\\\n\\u0001é', -1,
            9223372036854775807,
            (-3)::smallint, true, 1.10, 'NaN'::float8, '2026-01-02 03:04:05.6+07'::timestamptz,
            'infinity'::date, '1 mon 2 days'::interval, '{\"a\": 1,\n \"a\": null}'::json,
            'null'::jsonb, '\\xDEAD'::bytea, '{a,\"b c\",NULL}'::text[], '[1,5)'::int4range,
            'a b'::app.mood, '(1,\"x y\")'::app.pair, '12.50'::money, '10.0.0.1/8'::inet),
        ('00000000-0000-0000-0000-000000000002', NULL, NULL, 1, NULL, NULL, NULL,
            NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
    let hostile =
        "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601';
        SET extra_float_digits = -10; SET bytea_output = 'escape'; SET search_path = app;";
    let mut seen = Vec::new();
    for table in ["app.rowwise", "app.bulk"] {
        let sql = format!(
            "{hostile} INSERT INTO {table} {values}; UPDATE {table} SET small = 7; \
            DELETE FROM {table}"
        );
        let mut changes = Vec::new();
        for text in sent(&database, &sql).await {
            for text in unpack(&text) {
                let mut change: Value = serde_json::from_str(&text).expect("JSON");
                for member in ["table", "rel", "xid", "v", "at", "recheck"] {
                    change.as_object_mut().expect("an object").remove(member);
                }
                // A JSON value keeps its text, of which serde_json would lose the doubled member.
                changes.push((change, text.contains("\"a\": null")));
            }
        }
        seen.push(changes);
    }
    assert_eq!(seen[0].len(), 6);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_fill_payloads_and_long_ones_are_sent_without_data() {
    let database = with_bulk("").await;
    let sql = "INSERT INTO app.items SELECT i, i, CASE WHEN i % 50 = 0 THEN repeat('é', 9000)
            WHEN i % 50 = 1 THEN repeat(E'\\x01', 7000) ELSE repeat('é', i * 3) END
        FROM generate_series(1, 500) i";
    let texts = sent(&database, sql).await;
    assert!(texts.iter().all(|text| text.len() < 8_000));
    // Full payloads: a payload and the first row of the next one would not fit together.
    assert!(texts.len() < 140, "{}", texts.len());
    let mut keys = Vec::new();
    for text in texts.iter().flat_map(|text| unpack(text)) {
        let change: Value = serde_json::from_str(&text).expect("JSON");
        let id = change["id"].as_i64().expect("a key");
        keys.push(id);
        assert_eq!(change["truncated"] == json!(true), id % 50 < 2, "{id}");
        assert_eq!(change["data"].is_object(), id % 50 >= 2, "{id}");
    }
    assert_eq!(keys, (1..=500).collect::<Vec<i64>>());
}

/// Names with all that SQL, JSON and the template quote, and keys of the kinds that an UPDATE
/// compares.
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_keys_of_all_kinds_are_no_obstacle() {
    let table = r#""o'd\d ""S"""."{{rows}} 'T' ""q"" \ $pgic$""#;
    for key in [
        "int",
        "text",
        "varchar(9)",
        "name",
        "citext",
        "positive",
        "numeric",
        "date",
        "char(3)",
    ] {
        let database = Database::with(&format!(
            r#"CREATE EXTENSION citext; CREATE DOMAIN positive AS bigint CHECK (value > 0);
            CREATE SCHEMA "o'd\d ""S""";
            CREATE TABLE {table} ("k 'e' ""y"" \x" {key} PRIMARY KEY, n int);"#
        ))
        .await;
        database.pgic_ok(&["install-triggers", table, "--bulk"]);
        let (one, two, three) = match key {
            "date" => ("2026-01-01", "2026-01-02", "2026-01-03"),
            _ => ("1", "2", "3"),
        };
        for (sql, announced) in [
            (
                format!("INSERT INTO {table} VALUES ('{one}', 1), ('{two}', 2)"),
                vec![("insert", one), ("insert", two)],
            ),
            (
                format!("UPDATE {table} SET n = n + 1"),
                vec![("update", one), ("update", two)],
            ),
            (
                format!(r#"UPDATE {table} SET "k 'e' ""y"" \x" = '{three}' WHERE n = 3"#),
                vec![("delete", two), ("update", three)],
            ),
            (
                format!("DELETE FROM {table} WHERE n = 2"),
                vec![("delete", one)],
            ),
        ] {
            let mut listening = database.listen().await;
            database.client().await.batch_execute(&sql).await.unwrap();
            let changes = listening.changes().await;
            let seen: Vec<(&str, String)> = changes
                .iter()
                .map(|change| {
                    assert_eq!(change["table"], r#"{{rows}} 'T' "q" \ $pgic$"#);
                    assert_eq!(change["schema"], r#"o'd\d "S""#);
                    let id = change["id"].to_string();
                    let id = id.trim_matches('"').trim().to_string();
                    (change["action"].as_str().unwrap_or_default(), id)
                })
                .collect();
            let announced: Vec<(&str, String)> = announced
                .into_iter()
                .map(|(action, id)| (action, id.to_string()))
                .collect();
            assert_eq!(seen, announced, "{key}: {sql}");
        }
        let verified = database.pgic(&["verify", table, "--rounds", "1"]);
        assert_eq!(verified.code, 0, "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_asks_for_a_reload_and_fails_no_writer() {
    let database = Database::with(
        "CREATE TABLE t (id text PRIMARY KEY, n int); CREATE TABLE many (id int PRIMARY KEY);",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t", "--bulk"]);
    database.pgic_ok(&["install-triggers", "many", "--bulk", "--rows", "1000"]);
    let why = async |sql: &str| {
        let mut listening = database.listen().await;
        database.client().await.batch_execute(sql).await.unwrap();
        let changes = listening.changes().await;
        assert_eq!(changes.len(), 1, "{sql}");
        assert_eq!(changes[0]["action"], "reload", "{sql}");
        changes[0]["why"].as_str().unwrap_or_default().to_string()
    };
    // Compressed, so that an index takes it.
    assert_eq!(
        why("INSERT INTO t VALUES ('a', 1), (repeat('x', 9000), 2)").await,
        "the key is too long to be sent"
    );
    let text = why("INSERT INTO many SELECT generate_series(1, 1001)").await;
    assert_eq!(text, "one statement has changed more than 1000 rows");
    // A changed key: the rows are counted once, also where the first payload is of deletes.
    let text = why("UPDATE many SET id = -id").await;
    assert_eq!(text, "one statement has changed more than 1000 rows");
    assert_eq!(
        database
            .arrives("DELETE FROM many WHERE id > -1001")
            .await
            .len(),
        1000
    );
    let text = why(
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ALTER id DROP NOT NULL; \
        INSERT INTO t VALUES ('b', 1), (NULL, 2)",
    )
    .await;
    assert_eq!(text, "the trigger failed with SQLSTATE 23502");
    let text = why("ALTER TABLE t RENAME n TO m; INSERT INTO t VALUES ('c', 1)").await;
    assert_eq!(text, "the trigger failed with SQLSTATE 42703");
}

/// A session keeps the plans of its triggers' queries.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_knows_the_table_sees_another_definition() {
    let database = with_bulk("").await;
    let mut listening = database.listen().await;
    let client = database.client().await;
    for sql in [
        "INSERT INTO app.items VALUES (1, 1, 'a'), (2, 2, 'b')",
        "UPDATE app.items SET n = n + 1",
        "ALTER TABLE app.items ALTER n TYPE bigint USING n + 4294967296",
        "INSERT INTO app.items VALUES (3, 8589934592, 'c')",
        "UPDATE app.items SET n = n + 1",
        "ALTER TABLE app.items DROP COLUMN v",
        "DELETE FROM app.items WHERE id = 3",
        "INSERT INTO app.items VALUES (4, 4)",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let changes = listening.changes().await;
    let words: Vec<String> = changes.iter().map(short).collect();
    assert_eq!(words[..2], ["insert 1", "insert 2"]);
    assert_eq!(words[4], "insert 3");
    let values: Vec<&Value> = changes[4..8]
        .iter()
        .map(|change| &change["data"]["n"])
        .collect();
    assert_eq!(
        values,
        [
            &json!(8_589_934_592_i64),
            &json!(4_294_967_299_i64),
            &json!(4_294_967_300_i64),
            &json!(8_589_934_593_i64)
        ]
    );
    assert_eq!(words[8..], ["delete 3", "reload null"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_together_with_the_other_options() {
    let database = Database::with(ITEMS).await;
    database.pgic_ok(&[
        "install-triggers",
        "app.items",
        "--bulk",
        "--where",
        "n > 0",
        "--columns",
        "v",
        "--channel",
        "odd \"one\"",
    ]);
    let mut listening = database.listen_on("odd \"one\"").await;
    for sql in [
        "INSERT INTO app.items VALUES (1, 1, 'a'), (2, 0, 'b'), (3, 3, NULL)",
        // One leaves, one enters, one stays out, and one changes its key.
        "INSERT INTO app.items VALUES (4, 0)",
        "UPDATE app.items SET n = CASE id WHEN 1 THEN 0 WHEN 2 THEN 5 ELSE n END, \
            id = CASE id WHEN 3 THEN 33 ELSE id END",
        "DELETE FROM app.items",
    ] {
        database.client().await.batch_execute(sql).await.unwrap();
    }
    let changes = listening.changes().await;
    let mut words: Vec<String> = changes.iter().map(short).collect();
    words[2..4].sort();
    words[4..6].sort();
    words[6..].sort();
    assert_eq!(
        words,
        [
            "insert 1",
            "insert 3",
            "delete 1",
            "delete 3",
            "update 2",
            "update 33",
            "delete 2",
            "delete 33"
        ]
    );
    assert_eq!(changes[0]["data"], json!({"id": 1, "v": "a"}));
    assert_eq!(changes[1]["data"], json!({"id": 3, "v": null}));
    assert_eq!(
        database
            .pgic(&["verify", "app.items", "--rounds", "1"])
            .code,
        0
    );
    database.pgic_ok(&[
        "install-triggers",
        "app.items",
        "--defaults",
        "--bulk",
        "--no-data",
        "--no-guard",
    ]);
    let words = database
        .arrives("INSERT INTO app.items VALUES (1, 1), (2, 2)")
        .await;
    assert_eq!(words, ["insert 1", "insert 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_announce_is_refused() {
    let database = Database::with(&format!(
        "{ITEMS} CREATE TABLE app.parent (id int);
        CREATE TABLE app.child (id int PRIMARY KEY) INHERITS (app.parent);
        CREATE TABLE app.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE app.branch PARTITION OF app.parts FOR VALUES FROM (0) TO (9)
            PARTITION BY RANGE (id);"
    ))
    .await;
    let install = |arguments: &[&str]| database.pgic(&[&["install-triggers"], arguments].concat());
    refused(
        &install(&["app.parts", "--bulk"]),
        "partitions that are partitioned",
    );
    refused(
        &install(&["app.child", "--bulk"]),
        "inherits from another table",
    );
    assert_eq!(install(&["app.items", "--bulk", "--on-change"]).code, 2);
    assert_eq!(install(&["app.items", "--rows", "5"]).code, 2);
    assert_eq!(install(&["app.items", "--bulk", "--rows", "0"]).code, 2);
    database.pgic_ok(&["install-triggers", "app.items", "--on-change"]);
    refused(&install(&["app.items", "--bulk"]), "exclude each other");
    assert_eq!(install(&["app.items", "--bulk", "--no-bulk"]).code, 2);
    database.pgic_ok(&["install-triggers", "app.items", "--generic", "--defaults"]);
    refused(
        &install(&["app.items", "--bulk"]),
        "need a function of the table's own",
    );
    database.pgic_ok(&["install-triggers", "app.items", "--bulk", "--defaults"]);
    refused(
        &install(&["app.items", "--on-change"]),
        "exclude each other",
    );
    assert_eq!(problems(&database), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_its_triggers_is_looked_after() {
    let database = with_bulk("").await;
    let client = database.client().await;
    assert_eq!(problems(&database), Vec::<String>::new());
    for (sql, codes) in [
        (
            "ALTER TABLE app.items DISABLE TRIGGER items_cache_notify_delete",
            &["trigger-disabled"][..],
        ),
        (
            "DROP TRIGGER items_cache_notify_update ON app.items",
            &["event-missing"],
        ),
        (
            "DROP TRIGGER items_cache_notify_insert ON app.items",
            &["event-missing"],
        ),
        (
            "DROP TRIGGER items_cache_notify_delete ON app.items;
            CREATE TRIGGER items_cache_notify_delete AFTER DELETE ON app.items FOR EACH ROW
                EXECUTE FUNCTION app.notify_cache_change_items()",
            &["event-missing", "several-triggers"],
        ),
        (
            "CREATE TRIGGER again AFTER INSERT ON app.items REFERENCING NEW TABLE AS pgic_new
                FOR EACH STATEMENT EXECUTE FUNCTION app.notify_cache_change_items()",
            &["several-triggers"],
        ),
        (
            "DROP TRIGGER items_cache_notify_insert ON app.items;
            DROP TRIGGER items_cache_notify_update ON app.items;
            DROP TRIGGER items_cache_notify_delete ON app.items;
            CREATE TRIGGER items_cache_notify AFTER INSERT OR UPDATE OR DELETE ON app.items
                FOR EACH ROW EXECUTE FUNCTION app.notify_cache_change_items()",
            &["trigger-timing"],
        ),
    ] {
        client.batch_execute(sql).await.unwrap();
        assert_eq!(problems(&database), codes, "{sql}");
        database.pgic_ok(&["install-triggers", "app.items"]);
        assert_eq!(problems(&database), Vec::<String>::new(), "{sql}");
        let again = database.pgic_ok(&["install-triggers", "app.items"]);
        assert!(again.contains("unchanged"), "{again}");
    }
    // A statement on the parent would fire no trigger of the child.
    client
        .batch_execute(
            "CREATE TABLE app.parent (LIKE app.items); ALTER TABLE app.items INHERIT app.parent",
        )
        .await
        .unwrap();
    assert_eq!(problems(&database), ["bulk-unfit"]);
    let verified = database.pgic(&["verify", "app.items", "--rounds", "1"]);
    assert_ne!(verified.code, 0, "{verified:?}");
    database.pgic_ok(&["install-triggers", "app.items", "--no-bulk"]);
    assert_eq!(problems(&database), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kind_of_the_triggers_can_be_changed_and_undone() {
    let database = Database::with(ITEMS).await;
    let client = database.client().await;
    let triggers = async || {
        let rows = client
            .query(
                "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'app.items'::regclass
                    ORDER BY 1",
                &[],
            )
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let bulk = [
        "items_cache_notify_delete",
        "items_cache_notify_insert",
        "items_cache_notify_truncate",
        "items_cache_notify_update",
    ];
    let rowwise = ["items_cache_notify", "items_cache_notify_truncate"];
    let printed = database.pgic_ok(&["install-triggers", "app.items", "--bulk", "--print-sql"]);
    for _ in 0..2 {
        database.pgic_ok(&["install-triggers", "app.items", "--defaults"]);
        assert_eq!(triggers().await, rowwise);
        database.pgic_ok(&["install-triggers", "app.items", "--bulk", "--rows", "7"]);
        assert_eq!(triggers().await, bulk);
        // The options stay as they are installed.
        let status = database.pgic(&["status", "app.items", "-o", "json"]).json();
        let table = status.iter().find(|event| event["event"] == "table");
        assert_eq!(table.expect("the table")["options"]["bulk"], 7);
        let back =
            database.pgic_ok(&["install-triggers", "app.items", "--defaults", "--print-sql"]);
        client.batch_execute(&back).await.unwrap();
        assert_eq!(triggers().await, rowwise);
        client.batch_execute(&printed).await.unwrap();
        assert_eq!(triggers().await, bulk);
        let again = database.pgic_ok(&["install-triggers", "app.items"]);
        assert!(again.contains("unchanged"), "{again}");
    }
    // The other options stay.
    let columns = ["install-triggers", "app.items", "--columns", "v"];
    database.pgic_ok(&columns);
    database.pgic_ok(&["install-triggers", "app.items", "--no-bulk"]);
    assert_eq!(triggers().await, rowwise);
    let status = database.pgic(&["status", "app.items", "-o", "json"]).json();
    let table = status.iter().find(|event| event["event"] == "table");
    let options = &table.expect("the table")["options"];
    assert_eq!(options["columns"], json!(["id", "v"]));
    assert!(options.get("bulk").is_none(), "{options}");
    database.pgic_ok(&["remove-triggers", "app.items"]);
    assert_eq!(triggers().await, Vec::<String>::new());
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'app'::regnamespace";
    let left: i64 = client.query_one(functions, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

/// Statements within statements: a trigger of the writer's, and a function in an UPDATE. What they
/// write is announced before what the outer statement had written already.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_exact_though_statements_write_within_each_other() {
    let database = with_bulk(
        "CREATE FUNCTION app.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.v = 'twice' THEN UPDATE app.items SET v = 'second', n = n + 1 WHERE id = NEW.id;
            ELSIF NEW.v = 'gone' THEN DELETE FROM app.items WHERE id = NEW.id;
            ELSIF NEW.v = 'key' THEN
                UPDATE app.items SET id = id + 1000, v = 'moved' WHERE id = NEW.id;
            END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER a_first AFTER INSERT OR UPDATE ON app.items FOR EACH ROW
            EXECUTE FUNCTION app.again();
        CREATE FUNCTION app.others(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            UPDATE app.items SET v = 'inner' WHERE id = $1 - 1 AND v = 'outer';
            RETURN $1; END $$;
        INSERT INTO app.items SELECT i, i FROM generate_series(1, 100) i;",
    )
    .await;
    let statements = [
        "UPDATE app.items SET v = 'twice' WHERE id BETWEEN 1 AND 20",
        "UPDATE app.items SET v = 'before' WHERE id BETWEEN 10 AND 30",
        "UPDATE app.items SET v = 'outer', n = app.others(id) WHERE id BETWEEN 10 AND 30",
        "UPDATE app.items SET v = 'gone' WHERE id BETWEEN 40 AND 45",
        "INSERT INTO app.items SELECT i, i, 'twice' FROM generate_series(40, 45) i",
        "UPDATE app.items SET v = 'key' WHERE id BETWEEN 50 AND 60",
        "UPDATE app.items SET id = id - 1000 WHERE id > 1000",
        "BEGIN; DELETE FROM app.items WHERE id > 95; \
                INSERT INTO app.items SELECT i, 1, 'x' FROM generate_series(96, 100) i; \
                UPDATE app.items SET n = n + 1; COMMIT",
    ];
    let verified = database
        .verify_while_running("app.items", &statements)
        .await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// Partitions `low` and `high`, with a reference by which rows are deleted.
const PARTS: &str = "CREATE SCHEMA app;
    CREATE TABLE app.owners (id int PRIMARY KEY);
    CREATE TABLE app.items (id int, n int REFERENCES app.owners ON DELETE CASCADE, v text,
        PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE app.low PARTITION OF app.items FOR VALUES FROM (0) TO (100);
    -- Columns in another order, and one that was dropped.
    CREATE TABLE app.high (gone int, v text, n int, id int NOT NULL);
    ALTER TABLE app.high DROP COLUMN gone;
    ALTER TABLE app.items ATTACH PARTITION app.high FOR VALUES FROM (100) TO (200);";

#[tokio::test(flavor = "multi_thread")]
async fn statements_on_a_root_and_on_its_partitions_are_announced_once() {
    let database = Database::with(PARTS).await;
    database.pgic_ok(&["install-triggers", "app.items", "--bulk"]);
    for (sql, announced) in [
        ("INSERT INTO app.owners VALUES (1), (2)", &[][..]),
        (
            "INSERT INTO app.items VALUES (1, 1, 'a'), (101, 2, 'b')",
            &["insert 1", "insert 101"],
        ),
        ("UPDATE app.low SET v = 'x'", &["update 1"]),
        (
            "INSERT INTO app.high (id, n) VALUES (102, 1)",
            &["insert 102"],
        ),
        // From one partition to the other, and within one.
        (
            "UPDATE app.items SET id = id + 102 WHERE id = 1",
            &["delete 1", "update 103"],
        ),
        (
            "DELETE FROM app.owners WHERE id = 1",
            &["delete 102", "delete 103"],
        ),
        ("TRUNCATE app.low", &["reload null"]),
        ("ALTER TABLE app.items DETACH PARTITION app.low", &[]),
        ("INSERT INTO app.low VALUES (5)", &[]),
        ("TRUNCATE app.low", &[]),
        ("DELETE FROM app.items", &["delete 101"]),
    ] {
        assert_eq!(database.arrives(sql).await, announced, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_partitions_is_exact() {
    let database = Database::with(&format!(
        "{PARTS} INSERT INTO app.owners SELECT generate_series(0, 9);
        INSERT INTO app.items SELECT i, i % 10, 'x' FROM generate_series(1, 150) i;"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "app.items", "--bulk"]);
    let statements = [
        "UPDATE app.items SET v = v || 'y' WHERE n = 3",
        "UPDATE app.high SET v = 'high' WHERE n = 4",
        "UPDATE app.items SET id = id + 99 WHERE id BETWEEN 60 AND 70",
        "UPDATE app.items SET id = id - 99 WHERE id BETWEEN 159 AND 169",
        "DELETE FROM app.owners WHERE id = 7",
        "INSERT INTO app.owners VALUES (7)",
        "INSERT INTO app.items SELECT i, 7, 'again' FROM generate_series(7, 147, 10) i",
        "UPDATE app.items SET v = 'x'",
    ];
    let verified = database
        .verify_while_running("app.items", &statements)
        .await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let client = database.client().await;
    // A partition without the triggers is a fault, as is one with a trigger that does not fire.
    for (sql, codes) in [
        (
            "CREATE TABLE app.more PARTITION OF app.items FOR VALUES FROM (200) TO (300)",
            &["event-missing", "truncate-missing"][..],
        ),
        (
            "ALTER TABLE app.low DISABLE TRIGGER low_cache_notify_update",
            &["event-missing"],
        ),
        (
            "DROP TRIGGER low_cache_notify_delete ON app.low",
            &["event-missing"],
        ),
    ] {
        client.batch_execute(sql).await.unwrap();
        assert_eq!(problems(&database), codes, "{sql}");
        database.pgic_ok(&["install-triggers", "app.items"]);
        assert_eq!(problems(&database), Vec::<String>::new(), "{sql}");
    }
    database.pgic_ok(&["install-triggers", "app.items", "--defaults"]);
    assert_eq!(problems(&database), Vec::<String>::new());
    database.pgic_ok(&["install-triggers", "app.items", "--bulk"]);
    database.pgic_ok(&["remove-triggers", "app.items"]);
    let left = "SELECT count(*) FROM pg_trigger t WHERE NOT tgisinternal
        AND tgrelid = ANY ('{app.items,app.low,app.high,app.more}'::regclass[])";
    let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_the_rows_and_counts_them() {
    let database = with_bulk("").await;
    let tail = database.tail(&["--count", "3"]);
    database
        .client()
        .await
        .batch_execute("INSERT INTO app.items SELECT i, i FROM generate_series(1, 5) i")
        .await
        .unwrap();
    let (code, events, _) = tail.finish();
    assert_eq!(code, 0);
    let keys: Vec<&Value> = events.iter().map(|event| &event["key"]).collect();
    assert_eq!(keys, [&json!(1), &json!(2), &json!(3)]);
    assert_eq!(events[2]["row"], json!({"id": 3, "n": 3, "v": null}));
}
