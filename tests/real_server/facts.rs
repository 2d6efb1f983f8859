//! Ways in which PostgreSQL treats triggers and notifications, one test for each fact that pgic's
//! documentation relies on: no writer fails, and either the promised notifications arrive, or the
//! silence is one that the documentation names.

use crate::support::{DEADLINE, Database, cluster, ended};
use serde_json::json;
use std::collections::HashSet;
use std::process::Stdio;
use std::time::Instant;
use tokio_postgres::Client;

/// Creates a database with `sql` and runs `install-triggers` with `arguments` in it.
async fn installed(sql: &str, arguments: &[&str]) -> Database {
    let database = Database::with(sql).await;
    database.pgic_ok(&[&["install-triggers"], arguments].concat());
    database
}

/// Returns the SQLSTATE of a statement that must fail.
fn refusal(result: Result<(), tokio_postgres::Error>) -> String {
    let error = result.unwrap_err();
    match error.code() {
        Some(code) => code.code().to_string(),
        None => panic!("the server did not refuse: {error:?}"),
    }
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);";

#[tokio::test(flavor = "multi_thread")]
async fn two_phase_commit_fails_after_a_notify_whatever_the_trigger() {
    // No text of a trigger avoids this. The documentation says so, and that other transactions on
    // the database are not affected.
    let database = installed(T, &["t"]).await;
    let mut listening = database.listen().await;
    let client = database.client().await;
    let prepared = client
        .batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'")
        .await;
    assert_eq!(refusal(prepared), "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    let untouched =
        "CREATE TABLE u (id int); BEGIN; INSERT INTO u VALUES (1); PREPARE TRANSACTION 'y'";
    client
        .batch_execute(untouched)
        .await
        .expect("a transaction that announces nothing can be prepared");
    client.batch_execute("ROLLBACK PREPARED 'y'").await.unwrap();
    assert!(listening.short().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_one_name_in_two_schemas_are_told_apart() {
    // The specification's payload has no schema: in it, `s2.t` looks like `public.t`.
    let sql = format!("CREATE SCHEMA s2; {T} CREATE TABLE s2.t (LIKE t INCLUDING ALL);");
    let database = installed(&sql, &["t", "s2.t"]).await;
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO t VALUES (1); INSERT INTO s2.t VALUES (1)")
        .await
        .unwrap();
    let schemas: Vec<_> = listening
        .changes()
        .await
        .iter()
        .map(|change| change["schema"].clone())
        .collect();
    assert_eq!(schemas, ["public", "s2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_trigger_of_its_own_is_attached_once_the_trigger_is_gone() {
    // A partitioned table's trigger is cloned to each partition under its own name. ATTACH fails if
    // the table has a trigger of that name already.
    let sql = "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE one (id int PRIMARY KEY);";
    let database = installed(sql, &["parts", "one"]).await;
    let client = database.client().await;
    client
        .batch_execute("ALTER TRIGGER one_cache_notify ON one RENAME TO parts_cache_notify")
        .await
        .unwrap();
    let attach = "ALTER TABLE parts ATTACH PARTITION one FOR VALUES FROM (0) TO (10)";
    assert_eq!(refusal(client.batch_execute(attach).await), "42710");
    database.pgic_ok(&["remove-triggers", "one"]);
    client
        .batch_execute(attach)
        .await
        .expect("nothing is in the way any more");
    assert_eq!(
        database.arrives("INSERT INTO parts VALUES (1)").await,
        ["insert 1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_inherit_from_is_refused_and_its_children_are_tables_like_others() {
    // SELECT from the parent shows the children's rows too, but the parent's trigger does not fire
    // for them: the cache would lack those rows without a word.
    let database = Database::with(&format!(
        "{T} CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t); INSERT INTO child VALUES (1);"
    ))
    .await;
    for command in [
        &["install-triggers", "t"][..],
        &["query", "t"],
        &["shell", "t"],
        &["verify", "t"],
    ] {
        let ran = database.pgic(command);
        assert!(
            ran.code == 2 && ran.stderr.contains("a table that others inherit from"),
            "{command:?}: {ran:?}"
        );
    }
    database.pgic_ok(&["install-triggers", "child"]);
    assert_eq!(
        database.arrives("INSERT INTO child VALUES (4)").await,
        ["insert 4"]
    );
    assert_eq!(database.pgic_ok(&["query", "child", "--count"]), "2\n");
    // A table that gets a child while it is followed becomes stale, and heals when the child is
    // gone.
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE grown (id int PRIMARY KEY, n int)")
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "grown"]);
    let mut shell = crate::shell::Shell::start(&database, &["-o", "json", "grown"]);
    assert_eq!(shell.ask("count grown").last().unwrap()["state"], "live");
    client
        .batch_execute("CREATE TABLE more () INHERITS (grown); INSERT INTO more VALUES (1)")
        .await
        .unwrap();
    assert_eq!(shell.ask("count grown").last().unwrap()["state"], "stale");
    client.batch_execute("DROP TABLE more").await.unwrap();
    assert_eq!(shell.ask("count grown").last().unwrap()["state"], "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlogged_table_is_like_any_other_and_a_temporary_one_is_refused() {
    // A temporary table is visible to one session alone, so no other session can read its rows.
    let database = installed(
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY, n int);",
        &["t"],
    )
    .await;
    let write = "INSERT INTO t VALUES (1); TRUNCATE t; INSERT INTO t VALUES (2); ALTER TABLE t SET \
        LOGGED; DELETE FROM t";
    assert_eq!(
        database.arrives(write).await,
        ["insert 1", "truncate null", "insert 2", "delete 2"]
    );
    let client = database.client().await;
    client
        .batch_execute("CREATE TEMP TABLE mine (id int PRIMARY KEY)")
        .await
        .unwrap();
    let schema: String = client
        .query_one("SELECT pg_my_temp_schema()::regnamespace::text", &[])
        .await
        .unwrap()
        .get(0);
    let ran = database.pgic(&["install-triggers", &format!("{schema}.mine")]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("is a temporary table"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_a_view_is_announced_as_the_table_s() {
    // An updatable view is rewritten to its table before triggers are chosen.
    let database = installed(
        &format!("{T} CREATE VIEW v AS SELECT id, n FROM t WHERE n > 0;"),
        &["t"],
    )
    .await;
    let write = "INSERT INTO v VALUES (1, 1); UPDATE v SET n = 2; DELETE FROM v";
    assert_eq!(
        database.arrives(write).await,
        ["insert 1", "update 1", "delete 1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_turned_off_is_silent_and_always_is_not() {
    // `session_replication_role = replica` is how restores and replication tools write: an ordinary
    // trigger does not fire there, and a cache misses the rows.
    let replica = "SET session_replication_role = replica; INSERT INTO t VALUES (1); TRUNCATE t";
    let database = installed(T, &["t"]).await;
    assert!(database.arrives(replica).await.is_empty());
    database.pgic_ok(&["install-triggers", "t", "--always"]);
    assert_eq!(
        database.arrives(replica).await,
        ["insert 1", "truncate null"]
    );
    let off = "ALTER TABLE t DISABLE TRIGGER ALL; INSERT INTO t VALUES (2); ALTER TABLE t ENABLE \
        TRIGGER ALL";
    assert!(database.arrives(off).await.is_empty());
    // ENABLE TRIGGER ALL turned the ALWAYS trigger into an ordinary one. `status` finds that, and
    // `install-triggers` makes it ALWAYS again without being told to.
    assert_eq!(database.pgic(&["status", "t"]).code, 1);
    database.pgic_ok(&["install-triggers", "t"]);
    assert_eq!(
        database
            .arrives("SET session_replication_role = replica; DELETE FROM t")
            .await,
        ["delete 2"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_logical_replication_applies_are_announced_with_always_alone() {
    // A subscriber's apply worker writes with `session_replication_role = replica`.
    let publisher = Database::with(&format!("{T} CREATE PUBLICATION p FOR TABLE t;")).await;
    let subscriber = installed(T, &["t"]).await;
    // The slot is created by hand. CREATE SUBSCRIPTION would wait without end for its own
    // transaction, since publisher and subscriber are on one cluster.
    let slot = format!("slot_{}", subscriber.name);
    let admin = publisher.client().await;
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    admin.batch_execute(&create).await.unwrap();
    let client = subscriber.client().await;
    let subscribe = format!(
        "CREATE SUBSCRIPTION {slot} CONNECTION '{}' PUBLICATION p WITH (create_slot = false, \
        slot_name = '{slot}', copy_data = false)",
        publisher.url
    );
    client.batch_execute(&subscribe).await.unwrap();
    let mut listening = subscriber.listen().await;
    admin
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    until_rows(&client, 1).await;
    assert!(
        listening.short().await.is_empty(),
        "a trigger that is not ALWAYS is silent"
    );
    subscriber.pgic_ok(&["install-triggers", "t", "--always"]);
    let transaction = "BEGIN; INSERT INTO t VALUES (2, 2); UPDATE t SET id = 5 WHERE id = 1; \
        DELETE FROM t WHERE id = 2; COMMIT";
    admin.batch_execute(transaction).await.unwrap();
    until_rows(&client, 1).await;
    admin
        .batch_execute("INSERT INTO t VALUES (9)")
        .await
        .unwrap();
    until_rows(&client, 2).await;
    // One fence does not do here: an apply worker's commit is visible before its notifications are
    // sent. Ask again until all have come.
    let mut arrived = listening.short().await;
    let deadline = Instant::now() + DEADLINE;
    while arrived.len() < 5 {
        assert!(Instant::now() < deadline, "{arrived:?}");
        arrived.extend(listening.short().await);
    }
    assert_eq!(
        arrived,
        ["insert 2", "delete 1", "update 1>5", "delete 2", "insert 9"]
    );
    // The cluster is shared: a subscription that stays would keep an apply worker running in it.
    client
        .batch_execute(&format!("DROP SUBSCRIPTION {slot}"))
        .await
        .unwrap();
}

/// Waits until the table `t` has this number of rows.
async fn until_rows(client: &Client, rows: i64) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let count = client.query_one("SELECT count(*) FROM t", &[]).await;
        if count.unwrap().get::<_, i64>(0) == rows {
            return;
        }
        assert!(Instant::now() < deadline, "the subscription applies");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merge_is_announced_row_by_row() {
    if cluster().version() < 15 {
        // MERGE came with PostgreSQL 15. Show that there is nothing to announce, instead of
        // skipping.
        let database = installed(T, &["t"]).await;
        let merge = "MERGE INTO t USING t s ON s.id = t.id WHEN MATCHED THEN DELETE";
        assert!(database.client().await.batch_execute(merge).await.is_err());
        return;
    }
    let database = installed(&format!("{T} INSERT INTO t VALUES (1, 1), (2, 2);"), &["t"]).await;
    let merge = "MERGE INTO t USING (VALUES (1, 0), (2, 9), (3, 3)) s (id, n) ON s.id = t.id
        WHEN MATCHED AND s.n = 0 THEN DELETE
        WHEN MATCHED THEN UPDATE SET n = s.n
        WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.n)";
    // MERGE promises no order between rows.
    let mut arrived = database.arrives(merge).await;
    arrived.sort();
    assert_eq!(arrived, ["delete 1", "insert 3", "update 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_changes_are_one_payload() {
    // PostgreSQL folds equal payloads of one transaction into the first one. Of x, y, x it delivers
    // x, y: the table then says x and the cache y. `v` and `at` keep payloads apart.
    let sql = format!(
        "{T} CREATE TABLE parts (id int, n int, PRIMARY KEY (id, n)) PARTITION BY RANGE (n);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20);"
    );
    let database = installed(&sql, &["t", "parts"]).await;
    let mut listening = database.listen().await;
    // The row's place (`v`) alone does not suffice: a place is used again after TRUNCATE, and two
    // partitions have the same places.
    let again = "INSERT INTO t VALUES (1, 1); TRUNCATE t; ".repeat(20);
    let sql = format!(
        "BEGIN; {again} COMMIT;
         BEGIN; INSERT INTO parts VALUES (1, 1), (1, 11); DELETE FROM parts; INSERT INTO parts \
         VALUES (1, 1), (1, 11); COMMIT;
         BEGIN; INSERT INTO t VALUES (7, 0); UPDATE t SET n = 1; UPDATE t SET n = 0; UPDATE t SET \
         n = 1; COMMIT"
    );
    database.client().await.batch_execute(&sql).await.unwrap();
    let payloads = listening.payloads().await;
    assert_eq!(payloads.len(), 40 + 6 + 4);
    assert_eq!(
        payloads.iter().collect::<HashSet<_>>().len(),
        payloads.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_trigger_and_a_rule_announce_what_they_write() {
    // A deferred trigger writes at COMMIT, behind all statements. A rule replaces the DELETE by an
    // UPDATE, which is what must be announced. The savepoint that is rolled back announces nothing.
    let sql = format!(
        "{T} CREATE TABLE log (id int PRIMARY KEY, n int);
         CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO log VALUES (NEW.id, NEW.n) ON CONFLICT (id) DO UPDATE SET n = \
             excluded.n; RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH \
         ROW EXECUTE FUNCTION later();
         CREATE RULE instead AS ON DELETE TO t DO INSTEAD UPDATE t SET n = -1 WHERE id = OLD.id;"
    );
    let database = installed(&sql, &["t", "log"]).await;
    let mut listening = database.listen().await;
    let write = "BEGIN; INSERT INTO t VALUES (1, 1), (2, 2); SAVEPOINT s; INSERT INTO t VALUES (3, \
        3); ROLLBACK TO s; COMMIT; DELETE FROM t";
    database.client().await.batch_execute(write).await.unwrap();
    let changes = listening.changes().await;
    let short: Vec<_> = changes
        .iter()
        .map(|change| {
            format!("{} {} {}", change["table"], change["action"], change["id"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        short,
        [
            "t insert 1",
            "t insert 2",
            "log insert 1",
            "log insert 2",
            "t update 1",
            "t update 2"
        ]
    );
    assert_eq!(changes[5]["data"], json!({"id": 2, "n": -1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_case_and_a_column_named_like_the_trigger_s_own_are_sent() {
    // `payload`, `head`, `old_key`, `new` and `tg_op` are names that a PL/pgSQL function uses
    // itself. The specification's function fails on a key `ID`, and the write with it.
    let sql = "CREATE TABLE t (\"ID\" int PRIMARY KEY, payload text, head text, old_key \
        int, \"new\" text, tg_op text);";
    let database = installed(sql, &["t"]).await;
    let mut listening = database.listen().await;
    let write =
        "INSERT INTO t VALUES (1, 'p', 'h', 5, 'n', 'o'); UPDATE t SET \"ID\" = 2; DELETE FROM t";
    database.client().await.batch_execute(write).await.unwrap();
    let changes = listening.changes().await;
    let row = json!({"ID": 1, "payload": "p", "head": "h", "old_key": 5, "new": "n", "tg_op": "o"});
    assert_eq!(
        (changes.len(), &changes[0]["data"], &changes[0]["id"]),
        (4, &row, &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_not_null_that_is_not_known_to_hold_is_none() {
    // PostgreSQL 18 allows NOT NULL … NOT VALID: old rows may still be NULL. Such a column is read
    // as nullable, and is no part of a key.
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE k (id int, n int);
        INSERT INTO t VALUES (1, NULL); INSERT INTO k VALUES (NULL, 1); CREATE UNIQUE INDEX ON k \
        (id);";
    let database = Database::with(sql).await;
    let client = database.client().await;
    let not_valid = "ALTER TABLE t ADD CONSTRAINT c NOT NULL n NOT VALID; ALTER TABLE k ADD \
        CONSTRAINT c NOT NULL id NOT VALID";
    let added = client.batch_execute(not_valid).await;
    if cluster().version() < 18 {
        assert_eq!(refusal(added), "42601");
        return;
    }
    added.unwrap();
    assert_eq!(
        database.pgic_ok(&["query", "t", "-o", "json"]),
        "{\"id\":1,\"n\":null}\n"
    );
    let refused = database.pgic(&["install-triggers", "k"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("known to be NOT NULL"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_under_a_virtual_column_is_announced_whatever_columns_are_sent() {
    // A trigger sees a virtual generated column (PostgreSQL 18) as NULL, before and after. With
    // `--on-change` a comparison of the sent columns alone would find no change.
    let database = Database::with("").await;
    let client = database.client().await;
    let made = client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS \
            (n * 2) VIRTUAL)",
        )
        .await;
    if cluster().version() < 18 {
        assert_eq!(refusal(made), "42601");
        return;
    }
    made.unwrap();
    client
        .batch_execute("INSERT INTO t VALUES (1, 1)")
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "t", "--columns", "twice", "--on-change"]);
    assert_eq!(database.arrives("UPDATE t SET n = 2").await, ["update 1"]);
    assert!(database.arrives("UPDATE t SET n = 2").await.is_empty());
    let mut shell = crate::shell::Shell::start(&database, &["-o", "json", "t"]);
    client.batch_execute("UPDATE t SET n = 3").await.unwrap();
    assert_eq!(shell.ask("t id=1")[0]["twice"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_names_an_object_elsewhere_is_not_blamed_on_replication() {
    // A regclass is an oid that is written as a name. When the table is renamed, the text of the
    // row changes though nobody wrote the row, and so nothing is announced. `verify` finds the row
    // and must name this cause.
    let sql = "CREATE TABLE other (); CREATE TABLE t (id int PRIMARY KEY, r regclass); INSERT INTO \
        t VALUES (1, 'other');";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "t"]);
    let mut child = database
        .command(&["verify", "t", "--for", "2s", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = database.client().await;
    // Rename only after the cache has read the row, or there would be no difference to find.
    let has_read = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgic \
        verify%' AND datname = current_database() AND (query LIKE '%COPY%' OR query = 'COMMIT')";
    while client
        .query_one(has_read, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
        && child.try_wait().unwrap().is_none()
    {
        tokio::task::yield_now().await;
    }
    // Rename on for as long as `verify` runs: the query above also matches a session that is about
    // to read, and a rename before the read makes no difference.
    let mut name = "other".to_string();
    let mut renames = 0;
    while child.try_wait().unwrap().is_none() {
        renames += 1;
        let next = format!("renamed_{renames}");
        client
            .batch_execute(&format!("ALTER TABLE {name} RENAME TO {next}"))
            .await
            .unwrap();
        name = next;
    }
    let ran = ended(child);
    let found = ran
        .json()
        .into_iter()
        .find(|line| line["event"] == "finding");
    let cause = found
        .as_ref()
        .and_then(|found| found["cause"].as_str())
        .unwrap_or_default();
    assert!(
        cause.contains("written as the name of another object"),
        "{ran:?}"
    );
}
