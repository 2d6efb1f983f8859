//! A relay that writes a log on a real NATS server, and nodes that follow.

use crate::driver::connector;
use crate::faults::number;
use crate::over_nats::KvReplica;
use crate::support::nats::Nats;
use crate::support::{DEADLINE, Database, execute};
use async_nats::ServerAddr;
use postgres_index_cache_core::tooling::KeyBuf;
use postgres_index_cache_core::tooling::nats::{
    ConnectNats, Follow, LogError, LogName, LogStorage, NatsLog, Relay, RelayEvent, RelayOptions,
};
use postgres_index_cache_core::tooling::postgres::{DriverOptions, describe_named};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// The key of a row that counts up.
const COUNTER: i32 = -1;

/// A table with announced changes, and another one.
pub(crate) async fn shop() -> Database {
    let database = Database::with(
        "CREATE TABLE kv (id int PRIMARY KEY, v text, j jsonb);
         CREATE TABLE orders (customer int, number int, total numeric, PRIMARY KEY (customer, number));
         INSERT INTO kv SELECT n, 'v' || n FROM generate_series(1, 5000) n;
         INSERT INTO orders VALUES (1, 1, 10.50), (1, 2, NULL);",
    )
    .await;
    database.pgic_ok(&["install-triggers", "kv", "orders", "-q"]);
    database
}

/// A relay in a task.
pub(crate) struct Running {
    task: JoinHandle<()>,
    events: mpsc::UnboundedReceiver<RelayEvent>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn name() -> LogName {
    "shop".parse().expect("a name")
}

/// Starts a relay of the two tables.
pub(crate) fn relay(database: &Database, nats: &Nats) -> Running {
    relay_on(database, nats.url(), LogStorage::default())
}

/// Returns the addresses of servers, between which `urls` has commas.
fn servers(urls: &str) -> Vec<ServerAddr> {
    let parsed = urls.split(',').map(|url| url.parse().expect("an address"));
    parsed.collect()
}

/// Starts a relay of the two tables, on the servers at `url`.
fn relay_on(database: &Database, url: String, storage: LogStorage) -> Running {
    let connect: ConnectNats = Arc::new(move || {
        let url = url.clone();
        Box::pin(async move {
            let connected = async_nats::connect(servers(&url)).await;
            connected.map_err(|error| LogError::Nats {
                tried: format!("connect to {url}"),
                source: error.into(),
            })
        })
    });
    let (events_tx, events) = mpsc::unbounded_channel();
    let connector = connector(&database.url);
    let names = vec!["kv".to_string(), "orders".to_string()];
    let relay = Relay {
        connector: connector.clone(),
        connect,
        name: name(),
        describe: describe_named(connector, names),
        options: RelayOptions {
            writer: "relay of a test".to_string(),
            storage,
            driver: DriverOptions::new(1 << 30),
        },
        events: events_tx,
    };
    let task = tokio::spawn(async move {
        let ended = relay.run().await;
        panic!("the relay has ended: {ended:?}");
    });
    Running { task, events }
}

impl Running {
    /// Waits for an event of which `is_it` is true.
    pub(crate) async fn until(&mut self, is_it: impl Fn(&RelayEvent) -> bool) {
        let wait = async {
            let mut before = Vec::new();
            loop {
                let event = self.events.recv().await;
                let event = event.unwrap_or_else(|| panic!("the relay is gone after {before:?}"));
                if is_it(&event) {
                    return;
                }
                before.push(event);
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        waited.expect("an event of the relay");
    }
}

/// A node.
struct Node(Follow);

impl Node {
    async fn open(nats: &Nats) -> Self {
        Self::open_at(&nats.url()).await
    }

    async fn open_at(url: &str) -> Self {
        let client = async_nats::connect(servers(url)).await;
        let client = client.expect("connect");
        let log = NatsLog::new(client, name()).await.expect("a log");
        Self(Follow::open(log, 1 << 30).await.expect("a node"))
    }

    /// Waits until everything that was committed before is in the caches.
    async fn fence(&mut self) {
        let fence = self.0.ask_for_fence();
        let reached = async {
            while !self.0.has_reached(fence) {
                self.0.step().await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        if reached.is_err() {
            let events: Vec<_> = self.0.take_events().collect();
            panic!("no fence: {:?} {events:?}", self.0);
        }
        assert!(self.0.is_live());
    }

    /// Returns the rows of a table by their keys.
    fn rows(&self, table: &str) -> BTreeMap<String, Value> {
        let mut tables = self.0.tables();
        let table = tables.find(|logged| logged.description.table == table);
        let cache = table.expect("the table").cache.read();
        let columns: Vec<usize> = (0..cache.shape().columns().len()).collect();
        let rows = cache.rows().map(|row| {
            let mut json = String::new();
            row.write_json(&columns, &mut json);
            let row: Value = serde_json::from_str(&json).expect("JSON");
            (row.to_string(), row)
        });
        rows.collect()
    }

    /// Checks that the node has the rows of both tables.
    async fn is_equal(&mut self, client: &Client) {
        self.fence().await;
        for table in ["kv", "orders"] {
            assert_eq!(self.rows(table), rows_of(client, table).await, "{table}");
        }
    }

    /// Checks that the node has the rows of both tables after each of the statements.
    async fn follows(&mut self, client: &Client, statements: &[&str]) {
        for sql in statements {
            execute(client, sql).await;
            self.is_equal(client).await;
        }
    }
}

/// Returns the rows of a table in PostgreSQL.
async fn rows_of(client: &Client, table: &str) -> BTreeMap<String, Value> {
    let sql = format!("SELECT pg_catalog.to_json(t)::text FROM {table} t");
    let rows = client.query(&sql, &[]).await.expect("the rows");
    let rows = rows.iter().map(|row| {
        let row: Value = serde_json::from_str(row.get(0)).expect("JSON");
        (row.to_string(), row)
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_was_written_before_its_fence() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    let statements = [
        "INSERT INTO kv VALUES (0, 'null', 'null'), (-1, NULL, NULL)",
        "UPDATE kv SET id = -id WHERE id BETWEEN 10 AND 400",
        "UPDATE kv SET v = repeat('x', 12000) WHERE id = 1",
        "DELETE FROM kv WHERE id % 7 = 0; UPDATE orders SET total = 123456789012345678901234567890.10",
        "UPDATE orders SET customer = 2",
        "TRUNCATE kv",
        "INSERT INTO kv SELECT n, 'again' FROM generate_series(1, 3000) n; DELETE FROM kv WHERE id > 2000",
    ];
    node.follows(&client, &statements).await;
    assert_eq!(node.0.counters().loads, 1, "{:?}", node.0.counters());
}

// NATS takes messages of 1 MB: longer changes are sent in parts.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_longer_than_a_message_reach_the_nodes() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    let statements = [
        // A quote is two bytes in the row's JSON, and four in a part.
        "INSERT INTO kv VALUES (0, repeat('\"', 4000000), '{}')",
        "INSERT INTO kv SELECT -n, repeat('né', 300000 * n), to_jsonb(repeat('x', 1000000))
            FROM generate_series(1, 3) n",
        "UPDATE kv SET id = -7 WHERE id = 0",
        // Nothing of this can be compressed in a snapshot.
        "INSERT INTO kv SELECT 5001, string_agg(md5(n::text), ''), NULL
            FROM generate_series(1, 200000) n",
        "UPDATE kv SET v = v || '!' WHERE id < 3",
        "DELETE FROM kv WHERE id = -2; UPDATE kv SET v = 'short', j = NULL WHERE id = -7",
    ];
    node.follows(&client, &statements).await;
    assert_eq!(node.0.counters().loads, 1, "{:?}", node.0.counters());
    Node::open(&nats).await.is_equal(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stands_by_goes_on_without_a_snapshot() {
    let (database, nats) = (shop().await, Nats::start());
    let mut first = relay(&database, &nats);
    first
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    let mut second = relay(&database, &nats);
    second.until(|event| *event == RelayEvent::StandingBy).await;
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    drop(first);
    // Nobody publishes this until the second relay leads.
    execute(&client, "UPDATE kv SET v = 'in between' WHERE id < 100").await;
    second
        .until(|event| matches!(event, RelayEvent::Leading { is_anew: false, .. }))
        .await;
    node.is_equal(&client).await;
    assert_eq!(node.0.counters().loads, 1, "{:?}", node.0.counters());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_begins_anew() {
    let (database, nats) = (shop().await, Nats::start());
    let mut relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    let engine = async_nats::connect(nats.url()).await.expect("connect");
    let engine = async_nats::jetstream::new(engine);
    for stream in [name().stream(), name().snapshot_stream()] {
        engine
            .delete_stream(stream)
            .await
            .expect("delete the stream");
    }
    execute(
        &client,
        "UPDATE kv SET v = 'behind the loss' WHERE id < 100",
    )
    .await;
    node.is_equal(&client).await;
    assert_eq!(node.0.counters().loads, 2, "{:?}", node.0.counters());
}

/// A backup of the engine's store is put in place of the store: entries that nodes have are gone,
/// and their numbers are given to others.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rolled_back_is_noticed_by_relay_and_nodes() {
    let (database, mut nats) = (shop().await, Nats::start());
    let mut relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    for round in 0..3 {
        nats.kill();
        let backup = nats.backup();
        nats.restart();
        for value in 0..20 {
            let sql = format!("UPDATE kv SET v = '{round} {value}' WHERE id % 20 = {value}");
            execute(&client, &sql).await;
        }
        node.is_equal(&client).await;
        nats.kill();
        nats.restore(&backup);
        if round == 1 {
            execute(&client, "DELETE FROM kv WHERE id % 50 = 7").await;
        }
        nats.restart();
        node.is_equal(&client).await;
        execute(&client, "UPDATE kv SET v = 'again' WHERE id < 30").await;
        node.is_equal(&client).await;
    }
    Node::open(&nats).await.is_equal(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "on a busy machine three servers of version 2.9.10 were of no use for a minute"]
async fn three_servers_keep_a_log_while_each_of_them_is_killed() {
    let rounds = number("PGIC_RELAY_SERVERS", 1);
    let (database, mut servers) = (shop().await, Nats::cluster());
    let url = servers.each_ref().map(Nats::url).join(",");
    let storage = LogStorage {
        replicas: 3,
        ..LogStorage::default()
    };
    let _relay = relay_on(&database, url.clone(), storage);
    let mut node = Node::open_at(&url).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    for round in 0..rounds {
        for (at, server) in servers.iter_mut().enumerate() {
            server.kill();
            let sql = format!("UPDATE kv SET v = '{round} {at}' WHERE id % 3 = {at}");
            execute(&client, &sql).await;
            node.is_equal(&client).await;
            server.restart();
            execute(&client, "UPDATE orders SET total = total + 1").await;
            node.is_equal(&client).await;
        }
    }
    Node::open_at(&url).await.is_equal(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_all_at_once_are_nothing_to_postgresql() {
    const NODES: usize = 200;
    let (database, nats) = (shop().await, Nats::start());
    let client = database.client().await;
    execute(&client, "DELETE FROM kv WHERE id > 500").await;
    let mut relay = relay(&database, &nats);
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    let sessions = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
        let row = client.query_one(sql, &[]).await.expect("the sessions");
        row.get::<_, i64>(0)
    };
    let before = sessions().await;
    let url = nats.url();
    let nodes = (0..NODES).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut node = Node::open_at(&url).await;
            node.fence().await;
            node
        })
    });
    let nodes: Vec<_> = nodes.collect();
    let mut started = Vec::new();
    for node in nodes {
        started.push(node.await.expect("a node"));
    }
    assert_eq!(sessions().await, before);
    execute(&client, "UPDATE kv SET v = 'for all' WHERE id < 100").await;
    let expected = rows_of(&client, "kv").await;
    for node in &mut started {
        node.fence().await;
        assert_eq!(node.rows("kv"), expected);
        assert_eq!(node.0.counters().loads, 1, "{:?}", node.0.counters());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_relay_go_on_after_nats_was_away() {
    let (database, mut nats) = (shop().await, Nats::start());
    let _relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    nats.kill();
    execute(
        &client,
        "UPDATE kv SET v = 'while NATS is away' WHERE id < 1000",
    )
    .await;
    // The proofs are over before the node has an answer.
    let over = async {
        while node.0.is_live() {
            node.0.step().await;
        }
    };
    tokio::time::timeout(DEADLINE, over)
        .await
        .expect("not live");
    nats.restart();
    node.is_equal(&client).await;
    assert_eq!(node.0.counters().loads, 1, "{:?}", node.0.counters());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_table_reaches_the_nodes() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    execute(&client, "ALTER TABLE kv ADD COLUMN more int DEFAULT 7").await;
    execute(&client, "UPDATE kv SET v = 'altered' WHERE id = 1").await;
    node.is_equal(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_no_node_is_live() {
    let (database, nats) = (shop().await, Nats::start());
    let mut relay = relay(&database, &nats);
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    let mut node = Node::open(&nats).await;
    node.fence().await;
    drop(relay);
    let over = async {
        while node.0.is_live() {
            node.0.step().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over)
        .await
        .expect("not live without proofs");
    // The rows can be read all the same.
    assert_eq!(node.rows("kv").len(), 5000);
}

/// A node of a kind, where what was written is read.
trait ReadsBack: Send {
    /// Waits until everything that was committed before is in the caches.
    async fn fence(&mut self);

    /// Returns the value of the row of `kv` with this key.
    fn value(&self, id: i32) -> Option<String>;
}

impl ReadsBack for Node {
    async fn fence(&mut self) {
        Node::fence(self).await;
    }

    fn value(&self, id: i32) -> Option<String> {
        let mut tables = self.0.tables();
        let table = tables.find(|logged| logged.description.table == "kv");
        let cache = table.expect("the table").cache.read();
        let mut key = KeyBuf::default();
        let read = key.read_json(cache.shape(), &id.to_string());
        read.expect("a key");
        let mut json = String::new();
        cache.get(&key)?.write_json(&[1], &mut json);
        let row: Value = serde_json::from_str(&json).expect("JSON");
        row["v"].as_str().map(str::to_string)
    }
}

impl ReadsBack for KvReplica {
    async fn fence(&mut self) {
        KvReplica::fence(self).await;
    }

    fn value(&self, id: i32) -> Option<String> {
        KvReplica::value(self, id)
    }
}

/// Writes rows and reads them at a node, until `stop`. Returns the number of reads.
async fn write_and_read<N: ReadsBack>(
    number: i32,
    database: &Database,
    node: &mut N,
    stop: &AtomicBool,
) -> u32 {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut reads = 0;
    let mut client = database.client().await;
    while !stop.load(Ordering::Relaxed) {
        let id = number * 1_000_000 + random.i32(0..200);
        let value = format!("{number}-{reads}-{}", "x".repeat(random.usize(0..200)));
        let long = "y".repeat(12_000);
        let other = number * 1_000_000 + 500 + random.i32(0..200);
        let sql = match random.u8(0..10) {
            0 => format!("DELETE FROM kv WHERE id BETWEEN {id} AND {id} + 20"),
            1 => format!(
                "UPDATE kv SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM kv WHERE id = {other})"
            ),
            2 => format!("UPDATE kv SET v = '{long}' WHERE id = {other}"),
            3 => format!(
                "UPDATE kv SET v = v || '!' WHERE id BETWEEN {id} AND {id} + 400 AND length(v) < 1000"
            ),
            _ => "SELECT".to_string(),
        };
        let sql = format!(
            "BEGIN; {sql}; INSERT INTO kv VALUES ({id}, '{value}') ON CONFLICT (id) DO UPDATE SET v = excluded.v; COMMIT"
        );
        if client.batch_execute(&sql).await.is_err() {
            // The session was ended on purpose; whether the transaction was committed is not known.
            client = database.client().await;
            continue;
        }
        node.fence().await;
        let found = node.value(id);
        assert_eq!(
            found.as_deref(),
            Some(value.as_str()),
            "node {number}, read {reads}"
        );
        reads += 1;
    }
    reads
}

/// Counts up in one row, until `stop`.
async fn count_up(database: &Database, stop: &AtomicBool) {
    let mut client = database.client().await;
    let sql = format!(
        "INSERT INTO kv VALUES ({COUNTER}, '0') ON CONFLICT (id) DO UPDATE
        SET v = (kv.v::int + 1)::text"
    );
    while !stop.load(Ordering::Relaxed) {
        if client.batch_execute(&sql).await.is_err() {
            client = database.client().await;
        }
    }
}

/// Reads a replica's rows without a pause, until `stop`: while they are live they must not go back.
/// Returns how often they were live.
async fn poll(replica: KvReplica, stop: &AtomicBool) -> u64 {
    let (mut last, mut live) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        if let Some(value) = replica.live_value(COUNTER) {
            let value: i64 = value.parse().expect("a number");
            assert!(value >= last, "a live reader saw {value} behind {last}");
            last = value;
            live += 1;
        }
        tokio::task::yield_now().await;
    }
    live
}

/// Faults, one after the other: `PGIC_RELAY_FAULTS` of them.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_read_their_writes_whatever_is_killed() {
    let (faults, seed) = (number("PGIC_RELAY_FAULTS", 8), number("PGIC_FAULT_SEED", 7));
    let (database, mut nats) = (shop().await, Nats::start());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut relays = [relay(&database, &nats), relay(&database, &nats)];
    let stop = Arc::new(AtomicBool::new(false));
    let (one, two) = (
        Node::open(&nats).await,
        KvReplica::open(&nats, &mut relays).await,
    );
    let polling = {
        let (stop, replica) = (Arc::clone(&stop), two.clone());
        tokio::spawn(async move { poll(replica, &stop).await })
    };
    let counting = {
        let (stop, database) = (Arc::clone(&stop), database.clone());
        tokio::spawn(async move { count_up(&database, &stop).await })
    };
    let first = {
        let (stop, database, mut node) = (Arc::clone(&stop), database.clone(), one);
        tokio::spawn(async move {
            let reads = write_and_read(1, &database, &mut node, &stop).await;
            (node, reads)
        })
    };
    let second = {
        let (stop, database, mut node) = (Arc::clone(&stop), database.clone(), two.clone());
        tokio::spawn(async move { write_and_read(2, &database, &mut node, &stop).await })
    };
    let client = database.client().await;
    for fault in 0..faults {
        let at = random.usize(0..2);
        match fault % 4 {
            0 => {
                let other = relay(&database, &nats);
                drop(std::mem::replace(&mut relays[at], other));
            }
            1 => {
                nats.kill();
                // Work goes on for a while without NATS.
                execute(&client, "INSERT INTO orders SELECT 9, n, n FROM generate_series(1, 500) n ON CONFLICT DO NOTHING").await;
                nats.restart();
            }
            2 => {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE application_name LIKE 'pgic test%' AND datname = current_database()";
                execute(&client, sql).await;
            }
            _ => execute(&client, "TRUNCATE orders").await,
        }
        // The nodes are live again before the next one.
        let mut witness = Node::open(&nats).await;
        witness.fence().await;
    }
    stop.store(true, Ordering::Relaxed);
    counting.await.expect("the counter");
    let live = polling.await.expect("the reader");
    let (mut node, first) = first.await.expect("a node");
    let second = second.await.expect("a replica");
    assert!(
        first > 0 && second > 0 && live > 0,
        "{first}, {second}, {live}"
    );
    node.is_equal(&client).await;
    two.is_equal(&client).await;
    let reads = first + second;
    println!("{reads} reads of what was written, {live} live looks, {faults} faults");
}

/// Rows that are removed and added again while a snapshot is read are in it twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_table_that_is_written_anew_can_be_loaded() {
    let (database, nats) = (shop().await, Nats::start());
    let client = database.client().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut relay = relay(&database, &nats);
    let mut pace = Node::open(&nats).await;
    let writing = {
        let (client, stop) = (database.client().await, Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                execute(&client, "DELETE FROM kv; INSERT INTO kv SELECT n, repeat('v', 400) || n FROM generate_series(1, 5000) n").await;
                // A relay that is always behind proves nothing.
                pace.fence().await;
            }
        })
    };
    for _ in 0..3 {
        relay
            .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
            .await;
        let mut node = Node::open(&nats).await;
        node.fence().await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.expect("the writer");
    let mut node = Node::open(&nats).await;
    node.is_equal(&client).await;
}

/// A server that restarts does not remember the name of its last entry, if that is older than the
/// stream's window for duplicates.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_forgotten_its_last_entry_is_gone_on_with() {
    let (database, mut nats) = (shop().await, Nats::start());
    let engine = async_nats::connect(nats.url()).await.expect("connect");
    let log = NatsLog::new(engine.clone(), name()).await.expect("a log");
    log.set_up(LogStorage::default())
        .await
        .expect("the streams");
    let engine = async_nats::jetstream::new(engine);
    let stream = engine
        .get_stream(name().stream())
        .await
        .expect("the stream");
    let mut config = stream.cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    engine.update_stream(config).await.expect("a short window");
    let _relay = relay(&database, &nats);
    let mut node = Node::open(&nats).await;
    let client = database.client().await;
    node.is_equal(&client).await;
    for value in ["one", "two"] {
        nats.kill();
        nats.restart();
        execute(
            &client,
            &format!("UPDATE kv SET v = '{value}' WHERE id < 10"),
        )
        .await;
        node.is_equal(&client).await;
    }
    assert_eq!(node.0.counters().loads, 1, "{:?}", node.0.counters());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_a_part_is_passed_over() {
    let (database, nats) = (shop().await, Nats::start());
    let mut relay = relay(&database, &nats);
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    let client = database.client().await;
    // So many bytes that another snapshot is due.
    execute(&client, "UPDATE kv SET v = repeat('x', 1200) || id").await;
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    let engine = async_nats::connect(nats.url()).await.expect("connect");
    let engine = async_nats::jetstream::new(engine);
    let stream = engine
        .get_stream(name().snapshot_stream())
        .await
        .expect("the stream");
    let list = stream
        .get_last_raw_message_by_subject("pgic.shop.snap.list")
        .await;
    let list: Value = serde_json::from_slice(&list.expect("the list").payload).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    let newest = list[0]["name"].as_str().expect("a name");
    let part = format!("pgic.shop.snap.{newest}.0");
    let purged = stream.purge().filter(part).await.expect("purge a part");
    assert_eq!(purged.purged, 1);
    let mut node = Node::open(&nats).await;
    node.is_equal(&client).await;
    // The relay finds out, and writes another.
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
}
