//! The generic function of `sql/cache_notification_triggers.sql`, installed by hand as the
//! specification shows: without pgic, by whoever runs SQL scripts.

use crate::support::{Database, USERS, short};
use serde_json::json;

const SCRIPT: &str = include_str!("../../sql/cache_notification_triggers.sql");

/// Returns the statements that the script's own comment tells people to run.
fn advised() -> String {
    let comment: Vec<&str> = SCRIPT
        .lines()
        .skip_while(|line| !line.contains("CREATE TRIGGER"))
        .take_while(|line| line.starts_with("--  "))
        .map(|line| line.trim_start_matches("--"))
        .collect();
    comment.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_runs_by_hand_twice_and_announces_everything() {
    // Twice, as migration tools and people do.
    let database = Database::with(&format!("{USERS}{SCRIPT}{SCRIPT}")).await;
    let client = database.client().await;
    client.batch_execute(&advised()).await.unwrap();
    let mut listening = database.listen().await;
    let one = "00000000-0000-0000-0000-000000000001";
    let two = "00000000-0000-0000-0000-000000000002";
    let sql = format!(
        "INSERT INTO users VALUES ('{one}', 1, 2); UPDATE users SET id = '{two}'; DELETE FROM \
        users; TRUNCATE users"
    );
    client.batch_execute(&sql).await.unwrap();
    let changes = listening.changes().await;
    let actions: Vec<_> = changes
        .iter()
        .map(|change| change["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        ["insert", "delete", "update", "delete", "truncate"]
    );
    // A changed key is a delete and an update that name each other, so that a consumer of the plain
    // form follows it as well.
    assert_eq!(changes[1]["new_id"], json!(two));
    assert_eq!(changes[2]["old_id"], json!(one));
    assert_eq!(changes[0]["schema"], json!("public"));
    assert_eq!(changes[0]["data"]["email_hash"], json!(2));
    client.batch_execute(SCRIPT).await.unwrap();
    client
        .batch_execute(&format!("INSERT INTO users VALUES ('{one}', 1, 2)"))
        .await
        .unwrap();
    assert_eq!(
        listening.changes().await.len(),
        1,
        "the triggers survive another run"
    );
    let found = database.pgic_ok(&["query", "users", "username_hash=1", "--count"]);
    assert_eq!(found, "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_writer_is_broken() {
    // A trigger that fails fails the write. Each of the things below breaks the specification's
    // function, or makes it run a stranger's code:
    // - a row that is longer than a payload may be (`long`)
    // - a table without a column `id` (`noid`)
    // - a partition, whose name the payload would carry in place of the table's (`parts`)
    // - functions, types and a search_path of the writer's own, and pg_notify without EXECUTE
    let tables = "CREATE TABLE long (id int PRIMARY KEY, v text); CREATE TABLE noid (n int);
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);";
    let mut triggers = String::new();
    for table in ["long", "noid", "parts"] {
        triggers.push_str(&format!(
            "CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW \
            EXECUTE FUNCTION notify_cache_change('other channel');"
        ));
    }
    let database = Database::with(&format!("{tables}{SCRIPT}{triggers}")).await;
    let mut listening = database.listen_on("other channel").await;
    let hostile =
        "CREATE SCHEMA evil; CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS 'SELECT \
        (1/0)::text';
        SET search_path = evil, public, pg_catalog; CREATE TEMP TABLE text (a int); CREATE TEMP \
        TABLE oid (a int);
        REVOKE EXECUTE ON FUNCTION pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text) FROM \
        PUBLIC;
        INSERT INTO long VALUES (1, repeat('x', 9000)); INSERT INTO noid VALUES (1); INSERT INTO \
        parts VALUES (1);";
    database
        .client()
        .await
        .batch_execute(hostile)
        .await
        .expect("no write fails");
    let changes = listening.changes().await;
    // A table whose rows cannot be announced one by one asks to be read again, and says why: 42703
    // is an undefined column.
    let arrived: Vec<String> = changes.iter().map(short).collect();
    assert_eq!(arrived, ["insert 1 truncated", "reload null", "insert 1"]);
    assert_eq!(
        changes[2]["table"], "parts",
        "a partition speaks for its root"
    );
    assert!(
        changes[1]["why"]
            .as_str()
            .is_some_and(|why| why.contains("42703")),
        "{}",
        changes[1]
    );
}
