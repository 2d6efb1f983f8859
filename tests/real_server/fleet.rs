//! `nodes`, `verify --nodes` and `announce`: several nodes of one database, in this process and in
//! Python, of which some are wrong, stopped or forged.

use crate::support::{Database, Ran, connect};
use pgic::connect::{ConnectionOptions, Environment, Server};
use pgic::fleet::Fleet;
use pgic::fleet::cut::{Comparer, DifferingRow, Outcome, Verdict, table_ref};
use pgic::fleet::node::Roster;
use pgic::tables::catalog;
use pgic::tables::row::reader;
use pgic::tables::target::Target;
use postgres_index_cache_core::tooling::postgres::{FindingKind, SnapshotReader};
use postgres_index_cache_core::tooling::sync::Limits;
use postgres_index_cache_core::{
    ConnectError, Connector, HasPrimaryKey, Indexable, Messages, Replica, Session, SessionPurpose,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_postgres::{AsyncMessage, Client, Error};
use uuid::Uuid;

const ITEMS: &str = "CREATE TABLE items (id uuid PRIMARY KEY, n bigint NOT NULL, note text);
    INSERT INTO items SELECT ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, i, 'x'
    FROM generate_series(1, 300) i;";

#[derive(Debug, Deserialize)]
pub struct Item {
    id: Uuid,
    n: i64,
}

impl HasPrimaryKey for Item {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Item {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("n".to_string(), Some(self.n))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Returns the key of the item with this number.
pub fn key(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A connector whose listening session loses notifications about changes: the next so many.
#[derive(Clone)]
pub struct Lossy {
    config: tokio_postgres::Config,
    loses: Arc<AtomicU32>,
}

struct LossyMessages {
    messages: Box<dyn Messages>,
    loses: Arc<AtomicU32>,
}

impl Messages for LossyMessages {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> {
        loop {
            let polled = self.messages.poll_message(cx);
            if let Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) = &polled
                && notification.channel() == "cache_invalidation"
                && self
                    .loses
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
            {
                continue;
            }
            return polled;
        }
    }
}

impl Connector for Lossy {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let Session { client, messages } = Connector::connect(&self.config, role).await?;
        Ok(Session {
            client,
            messages: Box::new(LossyMessages {
                messages,
                loses: Arc::clone(&self.loses),
            }),
        })
    }
}

/// A node, and the number of changes that it will lose.
pub struct Node {
    pub replica: Replica,
    loses: Arc<AtomicU32>,
}

impl Node {
    pub async fn start(database: &Database, name: &str) -> Self {
        let mut limits = Limits::default();
        limits.heartbeat = Duration::from_millis(200);
        Self::start_with(database, name, limits).await
    }

    async fn start_with(database: &Database, name: &str, limits: Limits) -> Self {
        let mut config: tokio_postgres::Config = database.url.parse().unwrap();
        config.application_name(name);
        let loses = Arc::<AtomicU32>::default();
        let connector = Lossy {
            config,
            loses: Arc::clone(&loses),
        };
        let mut builder = Replica::builder(connector);
        builder.limits(limits).name(name);
        builder.table::<Item>("items");
        Self {
            replica: builder.open().await.unwrap(),
            loses,
        }
    }

    /// Makes the node lose the next changes.
    pub fn lose(&self, changes: u32) {
        self.loses.store(changes, Ordering::Relaxed);
    }
}

/// A database with the table `items`, its triggers, and so many nodes.
pub async fn fleet(nodes: usize) -> (Database, Client, Vec<Node>) {
    let database = Database::with(ITEMS).await;
    database.pgic_ok(&["install-triggers", "items"]);
    let mut started = Vec::new();
    for node in 0..nodes {
        started.push(Node::start(&database, &format!("web-{node}")).await);
    }
    let client = database.client().await;
    (database, client, started)
}

/// The parts of pgic that ask the nodes of one table.
struct Asking {
    fleet: Fleet,
    reader: SnapshotReader,
    target: Target,
}

impl Asking {
    async fn start(database: &Database) -> Self {
        let options = ConnectionOptions {
            database_url: Some(database.url.clone()),
            ..ConnectionOptions::default()
        };
        let server = Server::new(&options, &Environment::default(), "verify").unwrap();
        let mut client = server.client().await.unwrap();
        let catalog = catalog::reading(&mut client).await.unwrap();
        let table = catalog::resolve_one(&catalog, "items").await.unwrap();
        let target = Target::announced(table, &mut Vec::new()).unwrap();
        Self {
            fleet: Fleet::open(&server).await.unwrap(),
            reader: reader(&server).await.unwrap(),
            target,
        }
    }

    /// Compares all nodes once. The names of the nodes are those of the verdicts.
    async fn compare(&mut self) -> (Outcome, Vec<(String, Verdict)>) {
        let patience = Duration::from_secs(10);
        let roster = Roster::call(&mut self.fleet, patience).await.unwrap();
        let nodes = roster.with_table(&table_ref(&self.target));
        let mut comparer = Comparer {
            fleet: &mut self.fleet,
            reader: &mut self.reader,
            target: &self.target,
            patience,
        };
        let outcome = comparer.compare(&nodes).await.unwrap();
        let verdicts = outcome.nodes.iter().map(|(listener, verdict)| {
            let node = roster.node(*listener).expect("it answered");
            (node.name.clone(), verdict.clone())
        });
        let verdicts = verdicts.collect();
        (outcome, verdicts)
    }

    /// Compares all nodes until each is conclusive.
    async fn conclude(&mut self) -> HashMap<String, Verdict> {
        for _ in 0..100 {
            let (_, verdicts) = self.compare().await;
            let is_open = |verdict: &Verdict| {
                matches!(
                    verdict,
                    Verdict::Inconclusive(_) | Verdict::Silent | Verdict::Equal { open: 1.., .. }
                )
            };
            if !verdicts.iter().any(|(_, verdict)| is_open(verdict)) {
                return verdicts.into_iter().collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("a node stays inconclusive");
    }
}

/// Returns the rows that differ at a node.
fn rows_of(verdict: &Verdict) -> &[DifferingRow] {
    match verdict {
        Verdict::Differs { rows, .. } => rows,
        _ => &[],
    }
}

/// Waits until every node has everything that was committed before.
async fn fence(nodes: &[Node]) {
    for node in nodes {
        node.replica.fence().await.unwrap();
    }
}

fn events<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_listed_with_its_own_state() {
    let (database, client, nodes) = fleet(3).await;
    let ran = database.pgic(&["nodes", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines = ran.json();
    let names: Vec<&str> = events(&lines, "node")
        .iter()
        .map(|node| node["node"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    for node in events(&lines, "node") {
        assert_eq!(
            (&node["state"], &node["user"]),
            (&json!("live"), &json!("postgres"))
        );
        assert_eq!(node["tables"][0]["rows"], 300);
    }
    // A table that nobody announces is stale at every node, and the reason is told.
    client
        .batch_execute("ALTER TABLE items DISABLE TRIGGER USER")
        .await
        .unwrap();
    fence_until_stale(&nodes).await;
    let ran = database.pgic(&["nodes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("0 of 3 nodes live"), "{ran:?}");
    assert!(
        ran.stdout
            .contains("items_cache_notify of public.items is disabled"),
        "{ran:?}"
    );
}

/// Waits until no node is live.
async fn fence_until_stale(nodes: &[Node]) {
    for node in nodes {
        while node.replica.is_live() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_the_answer_is_no_and_a_replica_may_keep_silent() {
    let database = Database::with(ITEMS).await;
    database.pgic_ok(&["install-triggers", "items"]);
    let config: tokio_postgres::Config = database.url.parse().unwrap();
    let mut builder = Replica::builder(config);
    builder.answers(false);
    builder.table::<Item>("items");
    let replica = builder.open().await.unwrap();
    let ran = database.pgic(&["nodes", "-o", "json"]);
    let lines = ran.json();
    assert_eq!((ran.code, events(&lines, "node").len()), (1, 0), "{ran:?}");
    assert_eq!(events(&lines, "other-listener").len(), 1, "{ran:?}");
    replica.shutdown().await;
}

/// Each change that is withheld from one node is found there and nowhere else, with its key and
/// kind, and mended by an announcement. `PGIC_WITHHELD` sets how many.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_that_is_withheld_from_a_node_is_found_and_attributed() {
    let changes = std::env::var("PGIC_WITHHELD").map_or(12, |text| text.parse().unwrap());
    let (database, client, nodes) = fleet(3).await;
    let mut asking = Asking::start(&database).await;
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..changes {
        let at = random.usize(0..nodes.len());
        // Odd numbers are there, and numbers above a thousand are not.
        let (number, sql, kind) = match round % 3 {
            0 => {
                let number = random.u32(1..300);
                let sql = format!("UPDATE items SET n = n + 1 WHERE id = '{}'", key(number));
                (number, sql, FindingKind::Stale)
            }
            1 => {
                let number = 1000 + round;
                let sql = format!("INSERT INTO items VALUES ('{}', 1, 'new')", key(number));
                (number, sql, FindingKind::Missing)
            }
            _ => {
                let number = 1000 + round - 1;
                let sql = format!("DELETE FROM items WHERE id = '{}'", key(number));
                (number, sql, FindingKind::Ghost)
            }
        };
        fence(&nodes).await;
        nodes[at].lose(1);
        client.batch_execute(&sql).await.unwrap();
        let verdicts = asking.conclude().await;
        for (name, verdict) in &verdicts {
            let rows = rows_of(verdict);
            if *name == format!("web-{at}") {
                assert_eq!(rows.len(), 1, "round {round}: {verdicts:?}");
                assert_eq!(rows[0].kind, kind, "round {round}");
                let known = (kind != FindingKind::Ghost).then(|| format!("\"{}\"", key(number)));
                assert_eq!(rows[0].key, known, "round {round}");
            } else {
                assert!(
                    matches!(verdict, Verdict::Equal { .. }),
                    "round {round}: {verdicts:?}"
                );
            }
        }
        // The key of a row that is gone is known to whoever deleted it.
        let ran = database.pgic(&["announce", "items", &key(number)]);
        assert_eq!(ran.code, 0, "round {round}: {ran:?}");
    }
    let verdicts = asking.conclude().await;
    let is_equal = |verdict: &Verdict| matches!(verdict, Verdict::Equal { .. });
    assert!(verdicts.values().all(is_equal), "{verdicts:?}");
}

/// A statement on few rows, with long values, changed keys and everything else that is refetched.
fn statement(random: &mut fastrand::Rng) -> String {
    let id = key(random.u32(1..30));
    match random.u32(0..100) {
        0..40 => format!(
            "INSERT INTO items VALUES ('{id}', 1, 'a') ON CONFLICT (id) DO UPDATE SET n = items.n + 1"
        ),
        40..60 => format!("UPDATE items SET n = n + 1 WHERE id >= '{id}' AND n < 250"),
        60..75 => format!("DELETE FROM items WHERE id = '{id}'"),
        75..85 => format!(
            "UPDATE items SET id = '{}' WHERE id = '{id}'",
            key(random.u32(5000..9000))
        ),
        85..95 => format!("UPDATE items SET note = repeat('y', 9000) WHERE id = '{id}'"),
        95..99 => format!("DELETE FROM items WHERE id > '{}'", key(5000)),
        _ => "TRUNCATE items".to_string(),
    }
}

/// Under load and faults no comparison accuses a node that is right. `PGIC_NODE_ROUNDS` sets how
/// many verdicts are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_and_faults_no_node_is_accused_falsely() {
    let wanted = std::env::var("PGIC_NODE_ROUNDS").map_or(40, |text| text.parse().unwrap());
    let (database, client, nodes) = fleet(3).await;
    let mut writers = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::<AtomicU64>::default();
    for writer in 0..2 {
        let url = database.url.clone();
        let stop = Arc::clone(&stop);
        let commits = Arc::clone(&commits);
        writers.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(writer);
            let client = connect(&url).await;
            while !stop.load(Ordering::Relaxed) {
                let many = random.usize(1..4);
                let statements: Vec<String> = (0..many).map(|_| statement(&mut random)).collect();
                let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
                // Deadlocks and duplicate keys are part of the load.
                if client.batch_execute(&sql).await.is_err() {
                    client.batch_execute("ROLLBACK").await.unwrap();
                }
                commits.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut asking = Asking::start(&database).await;
    let mut random = fastrand::Rng::with_seed(3);
    let mut verdicts_made = 0;
    let mut inconclusive: HashMap<String, u64> = HashMap::new();
    let mut faults = 0;
    let mut round = 0;
    let deadline = Instant::now() + Duration::from_secs(120 + 5 * wanted);
    while verdicts_made < wanted {
        assert!(
            Instant::now() < deadline,
            "{verdicts_made} verdicts after {round} rounds, inconclusive: {inconclusive:?}"
        );
        round += 1;
        if round % 10 == 5 {
            // A node loses one of its sessions, or all of them.
            let like = ["web-1%", "web-1 (fences)", "web-2", "web-0 (reads)"][random.usize(0..4)];
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
                datname = current_database() AND application_name LIKE $1";
            client.query(sql, &[&like]).await.unwrap();
            faults += 1;
        }
        let until = commits.load(Ordering::Relaxed) + 5;
        while commits.load(Ordering::Relaxed) < until {
            tokio::task::yield_now().await;
        }
        let (outcome, verdicts) = asking.compare().await;
        for (name, verdict) in verdicts {
            match verdict {
                Verdict::Differs { rows, .. } => {
                    panic!("round {round}: {name}: {rows:?}, {outcome:?}")
                }
                Verdict::Equal { .. } => verdicts_made += 1,
                Verdict::Inconclusive(why) => {
                    // Numbers in the reasons would make each reason another one.
                    let why = why.replace(|c: char| c.is_ascii_digit(), "");
                    *inconclusive.entry(why).or_default() += 1;
                }
                Verdict::Silent => *inconclusive.entry("silent".to_string()).or_default() += 1,
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let commits = commits.load(Ordering::Relaxed);
    println!(
        "{round} rounds, {commits} transactions, {faults} faults: {verdicts_made} verdicts, \
        inconclusive: {inconclusive:?}"
    );
    assert!(faults > 0, "the test has made no fault");
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_forged_are_shown_with_their_sender_and_not_believed() {
    let (database, client, _nodes) = fleet(1).await;
    client
        .batch_execute("DROP ROLE IF EXISTS mallory; CREATE ROLE mallory LOGIN")
        .await
        .unwrap();
    let row = client
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'web-0' AND datname = \
            current_database()",
            &[],
        )
        .await
        .unwrap();
    let listener: i32 = row.get(0);
    // A node that is silent keeps the command waiting for as long as it may.
    client
        .batch_execute("SELECT pg_advisory_lock_shared(1852793957)")
        .await
        .unwrap();
    // Mallory hears the question, as anybody can, and answers in the node's name.
    let mut heard = database.listen_on("pgic_control").await;
    let asked = database.clone();
    let ran = tokio::task::spawn_blocking(move || {
        asked.pgic(&["nodes", "-o", "json", "--timeout", "4s"])
    });
    let mallory = database.client_as("mallory").await;
    let question = loop {
        let payloads = heard.payloads().await;
        if let Some(payload) = payloads.first() {
            break serde_json::from_str::<Value>(payload).unwrap();
        }
    };
    let own: i32 = mallory
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let rel: u32 = client
        .query_one("SELECT 'items'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    let table = json!({"schema": "public", "table": "items", "rel": rel, "state": "live"});
    let reply = question["reply"].as_str().unwrap();
    // In the name of the node, and for a session of her own: she may not read the table.
    for listener in [listener, own] {
        let forged = json!({
            "pgic": 1, "answer": "who", "id": question["id"], "state": "live", "tables": [table],
            "rows": u64::MAX, "more_tables": u64::MAX,
            "node": {"name": "web-0", "listener": listener},
        });
        mallory
            .execute("SELECT pg_notify($1, $2)", &[&reply, &forged.to_string()])
            .await
            .unwrap();
    }
    let ran: Ran = ran.await.unwrap();
    let lines = ran.json();
    assert_eq!(events(&lines, "node").len(), 1, "{ran:?}");
    assert_eq!(events(&lines, "silent").len(), 1, "{ran:?}");
    let forged = events(&lines, "forged");
    assert_eq!(forged.len(), 2, "{ran:?}");
    for forged in forged {
        let why = forged["why"].as_str().unwrap();
        assert!(why.contains("mallory") && why.contains("process"), "{why}");
    }
}

/// Whoever holds the nodes' lock for themselves keeps nodes that start from being known: that is
/// said.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_hides_the_nodes_is_named() {
    let (database, client, _) = fleet(0).await;
    client
        .batch_execute("SELECT pg_advisory_lock(1852793957)")
        .await
        .unwrap();
    let _node = Node::start(&database, "web-0").await;
    let ran = database.pgic(&["nodes"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("hidden: backend"),
        "{ran:?}"
    );
    let ran = database.pgic(&["nodes", "-o", "json"]);
    assert_eq!(events(&ran.json(), "hiding").len(), 1, "{ran:?}");
}

/// An announcement with another spelling of the key must not put an old row back.
#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_a_key_leaves_no_row_stale() {
    let (database, client, nodes) = fleet(1).await;
    let spelling = database.client().await;
    for round in 0..20 {
        // Keys with letters, so that capitals are another spelling.
        let sql = format!(
            "INSERT INTO items SELECT ('abcdefab-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, i, 'x'
            FROM generate_series(1, 100) i ON CONFLICT (id) DO UPDATE SET n = {round}"
        );
        let others = "SELECT pg_notify('cache_invalidation', json_build_object('table', 'items', 'schema', \
            'public', 'action', 'update', 'xid', '3', 'reread', true, 'rel', 'items'::regclass::oid, 'id', \
            upper(id::text))::text) FROM items WHERE id >= 'abcdefab-0000-4000-8000-000000000000'";
        let (spelled, written) =
            tokio::join!(spelling.batch_execute(others), client.batch_execute(&sql));
        spelled.unwrap();
        written.unwrap();
    }
    fence(&nodes).await;
    web_0_is_equal(&database).await;
}

/// Checks that the first node has what the table has.
async fn web_0_is_equal(database: &Database) {
    let verdicts = Asking::start(database).await.conclude().await;
    assert!(
        matches!(verdicts["web-0"], Verdict::Equal { .. }),
        "{verdicts:?}"
    );
}

/// Questions that any role can send, in every shape, neither stop a node nor make it answer
/// elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn questions_of_every_shape_leave_a_node_live() {
    let (database, client, nodes) = fleet(1).await;
    let mut elsewhere = database.listen_on("cache_invalidation").await;
    let mut random = fastrand::Rng::with_seed(1);
    let asks = ["who", "row", "freeze", "digest", "dance", ""];
    for number in 0..300 {
        let reply = ["pgic_reply_x", "cache_invalidation", ""][random.usize(0..3)];
        let key = ["a", "00000000-0000-4000-8000-000000000001"][random.usize(0..2)];
        let snapshot = ["1:2:", "x", "9999999:99999999:"][random.usize(0..3)];
        let question = json!({
            "pgic": random.u64(0..3),
            "ask": asks[random.usize(0..asks.len())],
            "id": format!("{}", number % 3),
            "reply": reply,
            "schema": "public",
            "table": "items",
            "rel": 16_384 + random.u32(0..30),
            "key": key,
            "salt": "0".repeat(random.usize(0..40)),
            "columns": "0".repeat(32),
            "freeze": format!("{}", random.u32(0..3)),
            "snapshot": snapshot,
            "bits": if random.bool() { random.u32(0..70) } else { u32::MAX },
            "prefixes": [random.u64(0..4)],
            "split": random.u32(0..70),
            "list": random.bool(),
        });
        let mut payload = question.to_string();
        if random.u8(0..5) == 0 {
            payload.truncate(random.usize(0..payload.len()));
        }
        client
            .execute("SELECT pg_notify('pgic_control', $1)", &[&payload])
            .await
            .unwrap();
    }
    fence(&nodes).await;
    assert!(nodes[0].replica.is_live());
    assert!(
        elsewhere.payloads().await.is_empty(),
        "no answer is a change"
    );
    // Changes go on, and nothing is held back for ever.
    client
        .batch_execute("UPDATE items SET n = -5 WHERE n = 5")
        .await
        .unwrap();
    fence(&nodes).await;
    web_0_is_equal(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_announced_is_read_again_by_every_node() {
    let (database, client, nodes) = fleet(2).await;
    client
        .batch_execute("SET session_replication_role = replica; UPDATE items SET n = n + 1000")
        .await
        .unwrap();
    let ran = database.pgic(&["verify", "items", "--nodes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stdout.contains("pgic announce public.items --all"),
        "{ran:?}"
    );
    // Nobody is asked without a terminal.
    let ran = database.pgic(&["announce", "items", "--all"]);
    assert!(ran.code == 2 && ran.stderr.contains("--yes"), "{ran:?}");
    let ran = database.pgic(&["announce", "items", "--all", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = database.pgic(&["verify", "items", "--nodes", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(events(&ran.json(), "node-verdict").len(), nodes.len());
}

/// A row that its writers change all the time ends as they left it at every node, whatever was
/// announced in between.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_does_not_overtake_a_writer() {
    let (database, client, nodes) = fleet(2).await;
    for round in 0..10 {
        let sql = format!("UPDATE items SET n = {round} WHERE id = '{}'", key(1));
        client.batch_execute(&sql).await.unwrap();
        let id = key(1);
        let announced = database.clone();
        let announcing =
            tokio::task::spawn_blocking(move || announced.pgic(&["announce", "items", &id]));
        for n in 0..20 {
            let sql = format!(
                "UPDATE items SET n = {} WHERE id = '{}'",
                round * 100 + n,
                key(1)
            );
            client.batch_execute(&sql).await.unwrap();
        }
        announcing.await.unwrap();
    }
    fence(&nodes).await;
    let mut asking = Asking::start(&database).await;
    let verdicts = asking.conclude().await;
    let is_equal = |verdict: &Verdict| matches!(verdict, Verdict::Equal { .. });
    assert!(verdicts.values().all(is_equal), "{verdicts:?}");
}

/// A node in Python, which ends with the test.
pub struct Python(Child);

impl Python {
    /// Starts the node of the examples, and waits until it is live.
    pub fn start(database: &Database, table: &str) -> Self {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/postgres-index-cache-core/examples/node.py"
        );
        let has_psycopg = |python: &&str| {
            let found = Command::new(python).args(["-c", "import psycopg"]).output();
            found.is_ok_and(|found| found.status.success())
        };
        let python = ["python3", "/usr/bin/python3"]
            .into_iter()
            .find(has_psycopg)
            .expect("a Python with psycopg: apt-get install python3-psycopg");
        let mut child = Command::new(python)
            .args([script, &database.url, table])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the node");
        let lines = crate::support::lines_of(child.stdout.take().unwrap());
        let first = lines.recv_timeout(crate::support::DEADLINE);
        assert_eq!(first.as_deref(), Ok("live"));
        Self(child)
    }

    /// Sends the node a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.is_ok_and(|sent| sent.success()));
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The protocol is written down for other languages: a node that was written from that page answers
/// as ours do, and is found right, stale and right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_python_is_found_right_then_stale_then_right_again() {
    Box::pin(python_is_found_right(&["install-triggers", "people"])).await;
}

/// The node of the examples unpacks what statement triggers send.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_python_unpacks_the_rows_of_a_statement() {
    Box::pin(python_is_found_right(&[
        "install-triggers",
        "people",
        "--bulk",
    ]))
    .await;
}

/// Installs triggers on a table, and finds a node in Python right, stale, and right again.
async fn python_is_found_right(install: &[&str]) {
    let database = Database::with(
        "CREATE TABLE people (id int PRIMARY KEY, name text);
        INSERT INTO people SELECT i, 'p' || i FROM generate_series(1, 500) i;
        INSERT INTO people VALUES (1001, NULL), (1002, repeat('é', 300)), (1003, '');",
    )
    .await;
    database.pgic_ok(install);
    let node = Python::start(&database, "people");
    let client = database.client().await;
    client
        .batch_execute(
            "UPDATE people SET name = 'q' WHERE id < 10; DELETE FROM people WHERE id = 20;
            UPDATE people SET id = 2000 WHERE id = 30; INSERT INTO people VALUES (3000, repeat('z', 9000))",
        )
        .await
        .unwrap();
    let verify = ["verify", "people", "--nodes", "-o", "json"];
    let ran = database.pgic(&verify);
    assert_eq!(ran.code, 0, "{ran:?}");
    client
        .batch_execute(
            "SET session_replication_role = replica; UPDATE people SET name = 'lost' WHERE id = 5; DELETE \
            FROM people WHERE id = 7; INSERT INTO people VALUES (4000, 'lost')",
        )
        .await
        .unwrap();
    let ran = database.pgic(&verify);
    assert_eq!(ran.code, 1, "{ran:?}");
    let lines = ran.json();
    let found: Vec<(&Value, &Value)> = events(&lines, "node-finding")
        .iter()
        .map(|line| (&line["key"], &line["kind"]))
        .collect();
    // The key of a ghost is found by trying: the table does not have it.
    let expected = [
        (json!(4000), json!("missing")),
        (json!(5), json!("stale")),
        (json!(7), json!("ghost")),
    ];
    let expected: Vec<(&Value, &Value)> = expected.iter().map(|(key, kind)| (key, kind)).collect();
    assert_eq!(found, expected);
    database.pgic_ok(&["announce", "people", "5", "7", "4000"]);
    let ran = database.pgic(&verify);
    assert_eq!(ran.code, 0, "{ran:?}");
    // A process that is stopped is there, and says nothing.
    node.signal("-STOP");
    let ran = database.pgic(&["nodes", "--timeout", "300ms"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("a node does not answer"),
        "{ran:?}"
    );
    node.signal("-CONT");
}

/// `PGIC_FLEET` sets how many nodes there are; each has three sessions.
#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_answer_at_once() {
    let nodes = std::env::var("PGIC_FLEET").map_or(10, |text| text.parse().unwrap());
    let setup = throwaway_postgres::Setup {
        settings: vec![("max_connections".to_string(), (nodes * 3 + 20).to_string())],
    };
    let cluster = throwaway_postgres::Cluster::start(&setup).expect("start a server");
    let database = Database::on(&cluster, "fleet".to_string()).await;
    let client = database.client().await;
    client.batch_execute(ITEMS).await.unwrap();
    database.pgic_ok(&["install-triggers", "items"]);
    let mut started = Vec::new();
    for node in 0..nodes {
        // As an application's nodes are by default. With heartbeats as the other tests have them,
        // the server would be busy with those.
        let limits = Limits::default();
        started.push(Node::start_with(&database, &format!("web-{node}"), limits).await);
    }
    let began = Instant::now();
    let ran = database.pgic(&["nodes", "-o", "json"]);
    let took = began.elapsed();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(events(&ran.json(), "node").len(), nodes);
    println!("{nodes} nodes answered in {took:?}");
}
