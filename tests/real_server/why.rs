//! `pgic why`: each link between a row and the nodes is broken once, and must be named.

use crate::fleet::{Python, fleet, key};
use crate::support::{DEADLINE, Database, Ran, execute};
use serde_json::{Value, json};

/// Returns the link with this name, as `why` has it.
fn link<'a>(lines: &'a [Value], name: &str) -> &'a Value {
    lines
        .iter()
        .find(|line| line["event"] == "link" && line["link"] == name)
        .unwrap_or_else(|| panic!("no link {name} in {lines:?}"))
}

/// Returns the links that are broken, as the last event names them.
fn broken(lines: &[Value]) -> &Value {
    &lines.last().expect("a verdict")["broken"]
}

async fn ask(database: &Database, arguments: &[&str]) -> (Ran, Vec<Value>) {
    let database = database.clone();
    let arguments: Vec<String> = ["why", "-o", "json"]
        .iter()
        .chain(arguments)
        .map(ToString::to_string)
        .collect();
    let ran = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        database.pgic(&arguments)
    });
    let ran = ran.await.unwrap();
    let lines = ran.json();
    (ran, lines)
}

/// Asks why, and checks that this link is broken, with this code.
async fn is_broken(database: &Database, arguments: &[&str], name: &str, code: &str) -> Value {
    let (ran, lines) = ask(database, arguments).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let link = link(&lines, name);
    assert_eq!(
        (&link["result"], &link["code"]),
        (&json!("broken"), &json!(code)),
        "{lines:?}"
    );
    assert!(
        broken(&lines).as_array().unwrap().contains(&json!(name)),
        "{lines:?}"
    );
    link.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_broken_where_nothing_is_and_touching_times_each_node() {
    let (database, _, _nodes) = fleet(2).await;
    let (ran, lines) = ask(&database, &["items", &key(1)]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for name in ["row", "trigger", "payload", "delivery", "nodes"] {
        assert_eq!(link(&lines, name)["result"], "ok", "{lines:?}");
    }
    let (ran, lines) = ask(&database, &["items", &key(1), "--touch"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let touched = lines.iter().find(|line| line["event"] == "touched");
    assert!(touched.unwrap()["arrived_us"].is_u64(), "{lines:?}");
    let rows: Vec<&Value> = lines
        .iter()
        .filter(|line| line["event"] == "node-row")
        .collect();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(
            (&row["result"], &row["by"]),
            (&json!("current"), &json!("notification"))
        );
    }
    // The row that is not there is right where no node has it.
    let (ran, lines) = ask(&database, &["items", &key(9999)]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        link(&lines, "row")["text"]
            .as_str()
            .unwrap()
            .contains("no such row")
    );
    let (ran, _) = ask(&database, &["items", "1"]).await;
    assert!(ran.code == 2 && ran.stderr.contains("uuid"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_unless_it_is_asked_for() {
    let (database, client, _nodes) = fleet(1).await;
    let version = "SELECT xmin::text || ctid::text FROM items WHERE n = 1";
    let before: String = client.query_one(version, &[]).await.unwrap().get(0);
    let mut listening = database.listen().await;
    let (ran, _) = ask(&database, &["items", &key(1)]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let (ran, lines) = ask(&database, &["items", &key(1), "--explain"]).await;
    let explained = lines.iter().find(|line| line["event"] == "explained");
    let triggers = explained.unwrap()["triggers"].to_string();
    assert!(triggers.contains("items_cache_notify"), "{ran:?}");
    let after: String = client.query_one(version, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
    assert!(listening.payloads().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_trigger_is_named_with_its_remedy() {
    for (sql, code, remedy) in [
        (
            "DROP TRIGGER items_cache_notify ON items; DROP TRIGGER items_cache_notify_truncate ON items",
            "not-announced",
            "pgic install-triggers",
        ),
        (
            "ALTER TABLE items DISABLE TRIGGER items_cache_notify",
            "trigger-disabled",
            "pgic install-triggers",
        ),
        (
            "ALTER TABLE items ENABLE REPLICA TRIGGER items_cache_notify",
            "trigger-disabled",
            "pgic install-triggers",
        ),
        (
            "DROP TRIGGER items_cache_notify ON items; CREATE TRIGGER items_cache_notify AFTER INSERT OR UPDATE OR DELETE \
            ON items FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION notify_cache_change_items()",
            "trigger-conditional",
            "pgic install-triggers",
        ),
        (
            "DROP TRIGGER items_cache_notify ON items; CREATE TRIGGER items_cache_notify AFTER INSERT OR UPDATE OF note OR \
            DELETE ON items FOR EACH ROW EXECUTE FUNCTION notify_cache_change_items()",
            "trigger-conditional",
            "pgic install-triggers",
        ),
    ] {
        let (database, client, _nodes) = fleet(1).await;
        execute(&client, sql).await;
        let (ran, lines) = ask(&database, &["items", &key(1)]).await;
        assert_eq!(ran.code, 1, "{sql}: {ran:?}");
        let link = link(&lines, "trigger");
        let found = link["code"].as_str().unwrap();
        assert!(found.contains(code), "{sql}: {link}");
        assert_eq!(broken(&lines)[0], "trigger", "{sql}: {lines:?}");
        assert!(
            link["for_good"].as_str().unwrap().contains(remedy),
            "{sql}: {link}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_renamed_and_a_leaf_without_its_trigger_are_named() {
    let (database, client, _nodes) = fleet(1).await;
    execute(&client, "ALTER TABLE items RENAME TO things").await;
    is_broken(&database, &["things", &key(1)], "trigger", "another-name").await;
    let database = Database::with(
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
        INSERT INTO p VALUES (1, 'a'), (101, 'b');",
    )
    .await;
    database.pgic_ok(&["install-triggers", "p"]);
    let client = database.client().await;
    let (ran, lines) = ask(&database, &["p", "101"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let details = link(&lines, "trigger")["details"].to_string();
    assert!(details.contains("2 leaf partitions"), "{details}");
    execute(&client, "ALTER TABLE p2 DISABLE TRIGGER ALL").await;
    let link = is_broken(&database, &["p", "101"], "trigger", "trigger-disabled").await;
    assert!(link["for_good"].as_str().unwrap().contains("p2"), "{link}");
}

/// The commit of a row remembers where it came from, if the server keeps that. The trigger fires
/// for writers of this server alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_logical_replication_is_told_by_its_origin() {
    let setup = throwaway_postgres::Setup {
        settings: [("track_commit_timestamp", "on"), ("wal_level", "logical")]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .into(),
    };
    let cluster = throwaway_postgres::Cluster::start(&setup).expect("start a server");
    let database = Database::on(&cluster, "origins".to_string()).await;
    let client = database.client().await;
    execute(
        &client,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t"]);
    execute(&client, "UPDATE t SET v = 'b' WHERE id = 1").await;
    let (ran, lines) = ask(&database, &["t", "1"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        link(&lines, "row")["text"]
            .as_str()
            .unwrap()
            .contains(", committed at ")
    );
    // As an apply worker does: a session with an origin, for which ordinary triggers do not fire.
    let apply = database.client().await;
    execute(
        &apply,
        "SELECT pg_replication_origin_create('elsewhere');
        SELECT pg_replication_origin_session_setup('elsewhere');
        SET session_replication_role = replica; UPDATE t SET v = 'c' WHERE id = 1",
    )
    .await;
    if cluster.version() < 14 {
        return;
    }
    let link = is_broken(&database, &["t", "1"], "trigger", "origin-only").await;
    assert!(
        link["text"].as_str().unwrap().contains("elsewhere"),
        "{link}"
    );
    assert!(
        link["for_good"].as_str().unwrap().contains("--always"),
        "{link}"
    );
    database.pgic_ok(&["install-triggers", "t", "--always"]);
    let (ran, _) = ask(&database, &["t", "1"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_channel_and_a_row_that_is_too_long_are_told_apart() {
    let (database, client, nodes) = fleet(1).await;
    let link = is_broken(
        &database,
        &["items", &key(1), "--channel", "other"],
        "payload",
        "other-channel",
    )
    .await;
    assert!(
        link["for_good"]
            .as_str()
            .unwrap()
            .contains("--channel other"),
        "{link}"
    );
    // Too long for a notification is no fault: each node reads the row.
    let sql = format!(
        "UPDATE items SET note = repeat('x', 9000) WHERE id = '{}'",
        key(1)
    );
    execute(&client, &sql).await;
    nodes[0].replica.fence().await.unwrap();
    let (ran, lines) = ask(&database, &["items", &key(1)]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let payload = self::link(&lines, "payload");
    assert!(
        payload["text"].as_str().unwrap().contains("too long"),
        "{payload}"
    );
}

/// A commit that hangs while it holds the lock on the queue keeps every other one from notifying.
/// One that waits for a synchronous standby does.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_the_notify_lock_is_named() {
    let setup = throwaway_postgres::Setup {
        settings: [
            ("synchronous_standby_names", "nobody"),
            ("synchronous_commit", "local"),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into(),
    };
    let cluster = throwaway_postgres::Cluster::start(&setup).expect("start a server");
    let database = Database::on(&cluster, "held".to_string()).await;
    let client = database.client().await;
    execute(
        &client,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t"]);
    let holder = database.client().await;
    let row = holder
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap();
    let pid: i32 = row.get(0);
    let holding = tokio::spawn(async move {
        holder
            .batch_execute("SET synchronous_commit = on; INSERT INTO t VALUES (2, 'b')")
            .await
    });
    let held = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND granted AND classid = 1262 AND objid = 0)";
    let until_held = async {
        while !client
            .query_one(held, &[&pid])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, until_held)
        .await
        .expect("the commit waits");
    let link = is_broken(&database, &["t", "1"], "delivery", "notify-lock-held").await;
    assert!(
        link["text"]
            .as_str()
            .unwrap()
            .contains(&format!("process {pid}")),
        "{link}"
    );
    let (_, lines) = ask(&database, &["t", "1"]).await;
    assert_eq!(
        self::link(&lines, "nodes")["result"],
        "unknown",
        "{lines:?}"
    );
    // What is advised frees the queue.
    execute(&client, link["now"].as_str().unwrap()).await;
    assert!(holding.await.unwrap().is_err());
    let (ran, _) = ask(&database, &["t", "1"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_one_node_lost_is_told_from_one_that_nobody_announced() {
    let (database, client, nodes) = fleet(3).await;
    for node in &nodes {
        node.replica.fence().await.unwrap();
    }
    nodes[1].lose(1);
    execute(
        &client,
        &format!("UPDATE items SET n = -1 WHERE id = '{}'", key(1)),
    )
    .await;
    let link = is_broken(&database, &["items", &key(1)], "nodes", "node-stale").await;
    assert_eq!(
        link["now"],
        format!("pgic announce public.items {}", key(1))
    );
    let (_, lines) = ask(&database, &["items", &key(1)]).await;
    let stale: Vec<&str> = lines
        .iter()
        .filter(|line| line["event"] == "node-row" && line["result"] == "not-current")
        .map(|line| line["node"].as_str().unwrap())
        .collect();
    assert_eq!(stale, ["web-1"]);
    database.pgic_ok(&["announce", "items", &key(1)]);
    let (ran, _) = ask(&database, &["items", &key(1)]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    // Written past the trigger: no node has it.
    execute(
        &client,
        &format!(
            "SET session_replication_role = replica; UPDATE items SET n = -2 WHERE id = '{}'; \
            SET session_replication_role = origin",
            key(2)
        ),
    )
    .await;
    let link = is_broken(&database, &["items", &key(2)], "nodes", "not-announced").await;
    assert!(
        link["for_good"].as_str().unwrap().contains("--always"),
        "{link}"
    );
}

/// A node that reads no snapshot after the trigger was made lacks what was written before.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_the_trigger_is_told_and_a_deaf_node_is_silent() {
    let database = Database::with(
        "CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    // The node has loaded the table, and nothing is announced yet.
    let node = Python::start(&database, "people");
    let client = database.client().await;
    execute(&client, "UPDATE people SET name = 'lost' WHERE id = 1").await;
    database.pgic_ok(&["install-triggers", "people"]);
    let (_, lines) = ask(&database, &["people", "1"]).await;
    assert!(
        link(&lines, "row")["details"]
            .to_string()
            .contains("before the trigger"),
        "{lines:?}"
    );
    is_broken(&database, &["people", "1"], "nodes", "before-trigger").await;
    let (ran, lines) = ask(&database, &["people", "2"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        link(&lines, "row")["details"]
            .to_string()
            .contains("before the trigger"),
        "{lines:?}"
    );
    node.signal("-STOP");
    is_broken(
        &database,
        &["people", "2", "--timeout", "500ms"],
        "nodes",
        "node-silent",
    )
    .await;
    node.signal("-CONT");
    // A session that listens and answers nothing is named, and is no reason to doubt the rest.
    let listening = database.listen().await;
    let (ran, lines) = ask(&database, &["people", "2"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let details = link(&lines, "nodes")["details"].to_string();
    assert!(details.contains("answers no questions"), "{details}");
    drop(listening);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_the_last_link_is_unknown() {
    let (database, _, _nodes) = fleet(0).await;
    let (ran, lines) = ask(&database, &["items", &key(1)]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(link(&lines, "nodes")["result"], "unknown");
    let ran = database.pgic(&["why", "items", &key(1)]);
    assert!(ran.stdout.contains("unknown: nodes"), "{ran:?}");
}

/// A superuser does not run a function that its owner could replace in the last moment, also if it
/// is as pgic makes it. A role without such rights may.
#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_touches_no_row_by_the_function_of_another_role() {
    let database = Database::with("CREATE TABLE mine (id int PRIMARY KEY, n int)").await;
    let name = &database.name;
    let (owner, writer) = (format!("owner_{name}"), format!("writer_{name}"));
    let client = database.client().await;
    let sql = format!(
        "CREATE ROLE {owner} LOGIN; CREATE ROLE {writer} LOGIN; INSERT INTO mine VALUES (1, 1);
        GRANT CREATE ON SCHEMA public TO {owner}; ALTER TABLE mine OWNER TO {owner};
        GRANT SELECT, UPDATE ON mine TO {writer}"
    );
    client.batch_execute(&sql).await.unwrap();
    let as_role = |role: &str| database.as_role(role);
    as_role(&owner).pgic_ok(&["install-triggers", "mine"]);
    let touch = ["why", "mine", "1", "--touch"];
    let ran = database.pgic(&touch);
    assert!(
        ran.code == 2 && ran.stderr.contains("do it as that role"),
        "{ran:?}"
    );
    let ran = as_role(&writer).pgic(&touch);
    assert_eq!(ran.code, 0, "{ran:?}");
}
