//! Side reads: large tables that are read beside Q, each on a session of its own. Whatever becomes
//! of such a session, the caches are the tables in the end.

use crate::driver::{connector, described, pinned_options};
use crate::support::{DEADLINE, Database, own_cluster};
use crate::typed::assert_verified;
use postgres_index_cache_core::tooling::postgres::{
    Driver, DriverEvent, DriverOptions, TableConfig, Verification,
};
use postgres_index_cache_core::tooling::sync::{State, TableId};
use postgres_index_cache_core::{
    CacheModel, ConnectError, Connector, Limits, Replica, Session, SessionPurpose,
};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

/// Three tables of three rows each.
const TABLES: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, v text);
    CREATE TABLE c (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT g, 'new' FROM generate_series(1, 3) g;
    INSERT INTO b TABLE a; INSERT INTO c TABLE a;";
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Returns the tables as if they were large, and the options of a driver with two side reads.
async fn large(database: &Database) -> (Vec<TableConfig>, DriverOptions) {
    database.pgic_ok(&[&["install-triggers"], &NAMES[..]].concat());
    let mut tables = Vec::new();
    for name in NAMES {
        let mut table = described(database, name).await;
        table.followed.is_for_side_read = true;
        tables.push(table);
    }
    let mut options = pinned_options();
    options.limits.side_reads = 2;
    options.limits.fence_timeout = DEADLINE;
    (tables, options)
}

/// Steps until `is_so`.
async fn until(driver: &mut Driver, is_so: impl Fn(&Driver) -> bool) {
    let reached = async {
        while !is_so(driver) {
            driver.step().await.expect("the driver goes on");
        }
    };
    tokio::time::timeout(DEADLINE, reached)
        .await
        .unwrap_or_else(|_| panic!("it never comes so far: {driver:?}"));
}

/// Locks a table so that nobody can read it, until the transaction ends.
async fn lock(client: &Client, table: &str) {
    let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    client.batch_execute(&sql).await.expect("lock a table");
}

fn live(driver: &Driver, tables: &[usize]) -> bool {
    tables
        .iter()
        .all(|&table| driver.table_state(TableId(table)) == State::Live)
}

/// Returns how many sessions of the driver read, or could.
async fn readers(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgic test (reads)' \
        AND datname = current_database()";
    client.query_one(sql, &[]).await.expect("count").get(0)
}

/// Compares each cache with its table.
async fn verify_all(driver: &mut Driver) {
    for table in 0..NAMES.len() {
        let verified = driver.verify(TableId(table)).await.expect("an answer");
        let Verification::Compared(comparison) = verified else {
            panic!("{verified:?}");
        };
        assert_eq!(comparison.findings, Vec::new(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_tables_are_read_while_q_waits_and_their_sessions_are_closed() {
    let database = Database::with(TABLES).await;
    let (tables, options) = large(&database).await;
    let client = database.client().await;
    lock(&client, "a").await;
    let mut driver = Driver::open(connector(&database.url), tables, options)
        .await
        .unwrap();
    until(&mut driver, |driver| live(driver, &[1, 2])).await;
    assert_ne!(driver.table_state(TableId(0)), State::Live, "it is locked");
    let watching = database.client().await;
    let closed = async {
        while readers(&watching).await > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, closed)
        .await
        .expect("the side sessions are closed");
    client.batch_execute("COMMIT").await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    verify_all(&mut driver).await;
}

/// What becomes of a side session.
enum Side {
    Refused,
    /// It is never opened, and never refused.
    Hangs,
    /// It leads to another server.
    LeadsTo(Box<tokio_postgres::Config>),
}

/// Opens sessions as a configuration says, except those for reading after the first.
struct Odd {
    server: tokio_postgres::Config,
    side: Side,
    /// How many sessions for reading were asked for.
    reading: Arc<AtomicU32>,
}

impl Connector for Odd {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let is_side =
            role == SessionPurpose::Read && self.reading.fetch_add(1, Ordering::Relaxed) > 0;
        match &self.side {
            Side::LeadsTo(elsewhere) if is_side => Connector::connect(&**elsewhere, role).await,
            Side::Refused if is_side => Err("too many connections for role \"app\"".into()),
            Side::Hangs if is_side => std::future::pending().await,
            Side::LeadsTo(_) | Side::Refused | Side::Hangs => {
                Connector::connect(&self.server, role).await
            }
        }
    }
}

/// Opens a driver whose side sessions are odd, and lets it become live.
async fn live_with_odd_sessions(
    database: &Database,
    side: Side,
    change: impl FnOnce(&mut Limits),
) -> Driver {
    let (tables, mut options) = large(database).await;
    change(&mut options.limits);
    let reading = Arc::new(AtomicU32::new(0));
    let odd = Odd {
        server: connector(&database.url),
        side,
        reading: Arc::clone(&reading),
    };
    // Q waits for a table while the others are asked for beside it.
    let client = database.client().await;
    lock(&client, "a").await;
    let mut driver = Box::pin(Driver::open(odd, tables, options)).await.unwrap();
    until(&mut driver, |_| reading.load(Ordering::Relaxed) > 1).await;
    client.batch_execute("COMMIT").await.unwrap();
    tokio::time::timeout(DEADLINE, driver.until_live(|_| {}))
        .await
        .expect("it becomes live")
        .expect("it becomes live");
    assert_eq!(driver.engine().counters().gaps, 0, "nothing else was lost");
    let lost = driver.take_events().find(|event| {
        matches!(
            event,
            DriverEvent::AuxConnectionLost { .. } | DriverEvent::Disconnected { .. }
        )
    });
    assert!(lost.is_none(), "{lost:?}");
    driver
}

#[tokio::test(flavor = "multi_thread")]
async fn q_reads_alone_if_no_other_session_can_be_had() {
    let database = Database::with(TABLES).await;
    let mut driver = live_with_odd_sessions(&database, Side::Refused, |_| {}).await;
    verify_all(&mut driver).await;
}

// A pooler whose pool is used up lets a session wait.
#[tokio::test(flavor = "multi_thread")]
async fn q_does_not_wait_for_a_session_that_is_never_opened() {
    let database = Database::with(TABLES).await;
    let mut driver = live_with_odd_sessions(&database, Side::Hangs, |limits| {
        // Longer than the test waits.
        limits.fence_timeout = 2 * DEADLINE;
    })
    .await;
    verify_all(&mut driver).await;
}

// Behind one address there may be several servers. What another one has must never be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_session_that_leads_to_another_server_reads_nothing() {
    let database = Database::with(TABLES).await;
    let other = own_cluster(&[]);
    let twin = Database::on(&other, database.name.clone()).await;
    let client = twin.client().await;
    client.batch_execute(TABLES).await.unwrap();
    client
        .batch_execute("UPDATE a SET v = 'old'; UPDATE b SET v = 'old'; UPDATE c SET v = 'old'")
        .await
        .unwrap();
    let elsewhere = Side::LeadsTo(Box::new(connector(&twin.url)));
    let mut driver = live_with_odd_sessions(&database, elsewhere, |limits| {
        limits.probe_timeout = Duration::from_millis(500);
    })
    .await;
    verify_all(&mut driver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_session_that_is_ended_leaves_its_table_to_q() {
    let database = Database::with(TABLES).await;
    let (tables, options) = large(&database).await;
    let client = database.client().await;
    lock(&client, "b").await;
    let mut driver = Driver::open(connector(&database.url), tables, options)
        .await
        .unwrap();
    until(&mut driver, |driver| live(driver, &[0, 2])).await;
    let watching = database.client().await;
    let waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity a USING \
        (pid) WHERE NOT granted AND relation = 'b'::regclass";
    let ended = async {
        while watching.query(waiting, &[]).await.unwrap().is_empty() {
            driver.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, ended)
        .await
        .expect("the side session waits for the lock");
    client.batch_execute("COMMIT").await.unwrap();
    tokio::time::timeout(DEADLINE, driver.until_live(|_| {}))
        .await
        .expect("it becomes live")
        .unwrap();
    assert_eq!(driver.engine().counters().gaps, 0);
    verify_all(&mut driver).await;
}

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "a")]
struct A {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    v: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "b")]
struct B {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    v: String,
}

/// Makes the three tables large.
async fn make_large(database: &Database) {
    let sql = "TRUNCATE a, b, c;
        INSERT INTO a SELECT g, 'row ' || g FROM generate_series(1, 40000) g;
        INSERT INTO b TABLE a; INSERT INTO c TABLE a; ANALYZE a, b, c";
    database.client().await.batch_execute(sql).await.unwrap();
}

/// Writes to random rows of the three tables until `stop`.
async fn write(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut random = fastrand::Rng::with_seed(7);
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        let table = NAMES[random.usize(0..NAMES.len())];
        let id = random.u32(1..40_100);
        let sql = match random.u8(0..3) {
            0 => format!("DELETE FROM {table} WHERE id = {id}"),
            1 => format!("UPDATE {table} SET v = v || '!' WHERE id BETWEEN {id} AND {id} + 3"),
            _ => format!("INSERT INTO {table} VALUES ({id}, 'new') ON CONFLICT DO NOTHING"),
        };
        client.batch_execute(&sql).await.expect("write");
        writes += 1;
    }
    writes
}

// Large enough that the rows of several tables are stored by several threads at once.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_read_side_by_side_under_load_are_exact() {
    let database = Database::with(TABLES).await;
    let (_, options) = large(&database).await;
    make_large(&database).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(database.client().await, Arc::clone(&stop)));
    for _ in 0..2 {
        let mut tables = Vec::new();
        for name in NAMES {
            let table = described(&database, name).await;
            assert!(table.followed.is_for_side_read, "{name}");
            tables.push(table);
        }
        let server = connector(&database.url);
        let mut driver = Driver::open(server, tables, options.clone()).await.unwrap();
        driver.until_live(|_| {}).await.unwrap();
        verify_all(&mut driver).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_tables_that_are_read_side_by_side_under_load_are_exact() {
    let database = Database::with(TABLES).await;
    let (_, options) = large(&database).await;
    make_large(&database).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(database.client().await, Arc::clone(&stop)));
    let mut builder = Replica::builder(connector(&database.url));
    builder.limits(options.limits);
    let a = builder.model::<A>();
    let b = builder.model::<B>();
    let replica = builder.open().await.unwrap();
    assert_verified(&replica, &a).await;
    assert_verified(&replica, &b).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    replica.shutdown().await;
}
