//! The driver and the engine on a real server: at a fence the cache is the table, under load, after
//! lost connections, and whatever becomes of the table's definition.
//!
//! The tests here use a [`Driver`] without a supervisor. A table that is held or no longer
//! announced therefore ends the driver, or leaves the table stale; `replica.rs` and
//! `faults/definitions.rs` test how a supervisor goes on from there.

use crate::support::load::{TABLE, transaction};
use crate::support::proxy::{Mood, Proxy};
use crate::support::{DEADLINE, Database, Ran, binary, cluster, ended, run};
use postgres_index_cache_core::tooling::postgres::catalog::{Catalog, CatalogAccess, describe};
use postgres_index_cache_core::tooling::postgres::triggers::{PINNED, announced};
use postgres_index_cache_core::tooling::postgres::{
    Distrust, Driver, DriverError, DriverEvent, DriverOptions, RowChange, TableConfig, Verification,
};
use postgres_index_cache_core::tooling::postgres::{sent, shape};
use postgres_index_cache_core::tooling::sync::{Failure, Limits, State, TableId, TableSpec};
use postgres_index_cache_core::tooling::{CellType, Column, IndexedColumns, TableShape};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::{Client, Notification};

/// Opens a driver of `kv` that sends its fences on `fence_channel`.
async fn open(database: &Database, fence_channel: &str) -> Result<Driver, DriverError> {
    open_with(database, fence_channel, |_, _| {}).await
}

/// Opens a driver of `kv` after `change` has changed its options and the table's configuration.
pub async fn open_with(
    database: &Database,
    fence_channel: &str,
    change: impl FnOnce(&mut DriverOptions, &mut TableConfig),
) -> Result<Driver, DriverError> {
    open_through(database, &database.url, |options, follow| {
        options.fence_channel = fence_channel.to_string();
        change(options, follow);
    })
    .await
}

fn column(name: &str, kind: CellType, nullable: bool) -> Column {
    Column {
        name: name.to_string(),
        kind,
        nullable,
    }
}

/// Returns a connector whose sessions are named `pgic test`, with their purposes.
pub fn connector(url: &str) -> tokio_postgres::Config {
    let mut config: tokio_postgres::Config = url.parse().expect("the URL of a test's server");
    config.application_name("pgic test");
    config
}

/// Returns the options of a driver that listens on `channel`.
fn options(channel: &str) -> DriverOptions {
    DriverOptions {
        channels: vec![channel.into()],
        fence_channel: "fence_through".to_string(),
        limits: Limits::default(),
        settings: Vec::new(),
        max_memory: 1 << 30,
        jobs: 1,
        lock_timeout: Duration::from_secs(10),
        holds_altered: false,
        row_events: false,
        answers: None,
    }
}

/// Returns the configuration of a table as the catalogue has it, but without the triggers that must
/// be there: no look mends a fault then, and the rows that are lost must be found.
pub async fn described(database: &Database, name: &str) -> TableConfig {
    let mut client = database.client().await;
    let catalog = Catalog::begin(&mut client, CatalogAccess::ReadOnly)
        .await
        .unwrap();
    let oid = catalog.find(name).await.unwrap().unwrap();
    let table = describe(&catalog, &[oid]).await.unwrap().remove(0);
    let announced = announced(&table);
    let sent = sent(&table, announced.as_ref());
    let shape = shape(&table, |column| sent.contains(&column)).unwrap();
    TableConfig {
        announced_by: Vec::new(),
        ..TableConfig::new(&table, announced.as_ref(), &shape)
    }
}

/// Returns the options of a driver that reads values as the triggers write them.
pub fn pinned_options() -> DriverOptions {
    DriverOptions {
        settings: PINNED
            .iter()
            .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
            .collect(),
        ..options("cache_invalidation")
    }
}

/// Opens a driver of `kv` that connects to `url`, which leads to `database`.
pub async fn open_through(
    database: &Database,
    url: &str,
    change: impl FnOnce(&mut DriverOptions, &mut TableConfig),
) -> Result<Driver, DriverError> {
    let oid: u32 = database
        .client()
        .await
        .query_one("SELECT 'kv'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    let columns = vec![
        column("id", CellType::Int4, false),
        column("v", CellType::Text, true),
        column("n", CellType::Int8, true),
    ];
    let mut follow = TableConfig {
        followed: TableSpec {
            schema: "public".into(),
            name: "kv".into(),
            oid,
            leaves: Vec::new(),
            is_partitioned: false,
            deferrable_key: false,
            sends_plain_form: false,
            sends_whole_rows: true,
            is_for_side_read: false,
            shape: None,
        },
        shape: Arc::new(TableShape::new(columns, &["id".to_string()]).unwrap()),
        distrust: Distrust::None,
        key_types: vec![Some("int4".into())],
        announced_by: Vec::new(),
        expected_rows: 100,
        condition: None,
        foreign_condition: None,
        indexed: IndexedColumns::default(),
        column_types: Vec::new(),
        fingerprint: None,
    };
    let mut options = options("cache_invalidation");
    // On a loaded machine a fence may take long. No test may take that for a gap by chance.
    options.limits.fence_timeout = DEADLINE;
    change(&mut options, &mut follow);
    Driver::open(connector(url), vec![follow], options).await
}

/// Checks the cache's invariants and returns its rows as JSON.
pub fn cached(driver: &Driver) -> BTreeSet<String> {
    driver
        .cache(TableId(0))
        .validate()
        .expect("the cache is sound");
    driver
        .cache(TableId(0))
        .rows()
        .map(|row| format!("{row:?}"))
        .collect()
}

/// Returns the rows of the table as JSON, in the form in which [`cached`] writes those of the
/// cache.
pub async fn stored(client: &Client) -> BTreeSet<String> {
    stored_where(client, "true").await
}

/// Does as [`stored`] does, for the rows that fulfil `condition`.
pub async fn stored_where(client: &Client, condition: &str) -> BTreeSet<String> {
    let sql = format!("SELECT row_to_json(kv)::text FROM kv WHERE {condition}");
    let rows = client.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Returns the number that `sql` counts.
async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until a fence that is sent now has come back.
async fn fence(driver: &mut Driver) {
    tokio::time::timeout(DEADLINE, driver.fence())
        .await
        .expect("a fence comes back")
        .unwrap();
}

/// Steps until the driver ends, and returns the error that ended the driver.
async fn until_ended(driver: &mut Driver) -> DriverError {
    let ended = async {
        loop {
            if let Err(error) = driver.step().await {
                break error;
            }
        }
    };
    tokio::time::timeout(DEADLINE, ended)
        .await
        .expect("the driver ends")
}

/// Starts a proxy before the shared cluster.
async fn proxy() -> Proxy {
    Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await
}

/// Returns the URL that leads to `database` through `proxy`.
fn url_through(proxy: &Proxy, database: &Database) -> String {
    format!(
        "postgresql://postgres@127.0.0.1:{}/{}",
        proxy.port, database.name
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_fence_the_cache_is_the_table() {
    // Each round opens a new driver in the middle of the load. The risky part is the cut: changes
    // that arrive while the snapshot is read must be applied if the snapshot lacks them, and
    // skipped if it has them.
    let database = Database::with(TABLE).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::new(AtomicU64::new(0));
    // Each writer holds this lock shared during a transaction. Holding it alone is a quiet point:
    // the table cannot change between reading the cache and reading the table.
    let quiet = Arc::new(tokio::sync::RwLock::new(()));
    let mut writers = Vec::new();
    for seed in 0..3 {
        let client = database.client().await;
        let stop = Arc::clone(&stop);
        let commits = Arc::clone(&commits);
        let quiet = Arc::clone(&quiet);
        writers.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            while !stop.load(Ordering::Relaxed) {
                let _writing = quiet.read().await;
                // Writers may deadlock with each other. The one that PostgreSQL ends rolls back.
                if client
                    .batch_execute(&transaction(&mut random))
                    .await
                    .is_err()
                {
                    client.batch_execute("ROLLBACK").await.expect("roll back");
                }
                commits.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let reader = database.client().await;
    let mut applied = 0;
    for round in 0..12 {
        let mut driver = open(&database, &format!("fence_{round}")).await.unwrap();
        driver.until_live(|_| {}).await.unwrap();
        let until = commits.load(Ordering::Relaxed) + 60;
        while commits.load(Ordering::Relaxed) < until {
            driver.fence().await.unwrap();
        }
        let _nobody_writes = quiet.write().await;
        driver.fence().await.unwrap();
        let cache = cached(&driver);
        let table = stored(&reader).await;
        assert_eq!(
            cache,
            table,
            "round {round}: {:?}",
            driver.engine().counters()
        );
        applied += driver.engine().counters().applied;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // Without this the test would also pass if every round were answered by its snapshot alone.
    assert!(
        applied > 100,
        "the notifications did the work: {applied} were applied"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_payloads_neither_crash_nor_stop_a_driver() {
    let database = Database::with(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)")).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let mut driver = open(&database, "fence").await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = database.client().await;
    // A transaction of the future: no snapshot has seen it, so no payload is skipped by the cut.
    let xid = r#""schema":"public","xid":"9999999999""#;
    for payload in [
        String::new(),
        "{".to_string(),
        "[[[[[[".repeat(1_000),
        // Serde reads a struct from an array as well. The parser must not: nobody sends arrays.
        r#"["kv","delete",1]"#.to_string(),
        format!(r#"{{"table":"kv","action":"insert","id":[1],{xid},"data":{{}}}}"#),
        format!(
            r#"{{"table":"kv","action":"update","id":2,{xid},"data":{{"id":3,"v":"x","n":1}}}}"#
        ),
        format!(r#"{{"table":"kv","action":"delete","id":{{"a":[]}},{xid}}}"#),
        format!(
            concat!(
                r#"{{"table":"kv","action":"update","id":1,"old_id":"zzz",{xid},"#,
                r#""data":{{"id":1,"v":null,"n":99999999999999999999}}}}"#
            ),
            xid = xid
        ),
        format!(r#"{{"table":"kv","action":"reload","id":null,{xid}}}"#),
    ] {
        client
            .execute("SELECT pg_notify('cache_invalidation', $1)", &[&payload])
            .await
            .unwrap();
        driver.fence().await.unwrap();
    }
    assert_eq!(
        cached(&driver),
        stored(&client).await,
        "each was answered by reading the table again"
    );
    // A bad payload, a good change and the fence may come in one batch. The bad payload asks for a
    // reload, and the fence must not be answered before that reload is done.
    let bad = format!(r#"{{"table":"kv","action":"insert","id":9,{xid},"data":{{}}}}"#);
    client
        .execute("SELECT pg_notify('cache_invalidation', $1)", &[&bad])
        .await
        .unwrap();
    client.batch_execute("UPDATE kv SET v = 'b'").await.unwrap();
    driver.fence().await.unwrap();
    assert_eq!(cached(&driver), stored(&client).await);
    // Anybody can notify on the fence channel too. A token that this driver did not send is
    // ignored.
    client
        .execute("SELECT pg_notify('fence', 'forged token')", &[])
        .await
        .unwrap();
    driver.fence().await.unwrap();
    assert!(driver.engine().counters().reloads >= 4 && driver.engine().counters().invalid == 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_stale_at_once_and_healed_with_what_changed_meanwhile() {
    let database = Database::with(&format!(
        "{TABLE} INSERT INTO kv SELECT n, 'a', n FROM generate_series(1, 20) n"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let mut driver = open_with(&database, "fence", |options, _| options.row_events = true)
        .await
        .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    assert_eq!(
        driver
            .take_events()
            .filter(|event| matches!(event, DriverEvent::Row { .. }))
            .count(),
        20
    );
    let client = database.client().await;
    for role in ["pgic test", "pgic test (fences)", "pgic test (reads)"] {
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = '{role}' AND datname = current_database()"
        );
        // The connection ends inside the transaction, before its notifications are sent. If the
        // connection is L, they are lost: only the next snapshot can tell what changed.
        let sql = format!(
            "BEGIN; {kill}; DELETE FROM kv WHERE id = (SELECT min(id) FROM kv);
             UPDATE kv SET v = v || 'x' WHERE id = 20; INSERT INTO kv SELECT max(id) + 1, 'new', 0 \
             FROM kv; COMMIT"
        );
        client.batch_execute(&sql).await.unwrap();
        fence(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await, "{role}");
        let mut gaps = 0;
        let mut rows = Vec::new();
        for event in driver.take_events() {
            match event {
                DriverEvent::Disconnected { retry_in, .. } => gaps += i32::from(retry_in.is_some()),
                DriverEvent::Row { change, .. } => rows.push(match change {
                    RowChange::Added(_) => "added",
                    RowChange::Changed { .. } => "changed",
                    RowChange::Removed(_) => "removed",
                }),
                _ => {}
            }
        }
        rows.sort_unstable();
        assert_eq!(
            rows,
            ["added", "changed", "removed"],
            "{role}: each change is told once, gap or not"
        );
        assert_eq!(
            gaps,
            i32::from(role == "pgic test"),
            "{role}: with L everything is lost, with F or Q nothing"
        );
    }
    // F was missed at once, since a fence needs it. Q was idle: nothing asks it for anything here.
    let both_reopened = async {
        while driver.engine().counters().reopened < 2 {
            driver.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, both_reopened)
        .await
        .expect("the loss of Q is noticed though it was idle");
    // A comparison reads the table on Q, so it shows that the new Q works.
    let verified = tokio::time::timeout(DEADLINE, driver.verify(TableId(0)))
        .await
        .expect("the comparison ends")
        .unwrap();
    assert!(
        matches!(&verified, Verification::Compared(comparison) if comparison.findings.is_empty()),
        "{verified:?}"
    );
    assert_eq!(
        driver.engine().counters().gaps,
        1,
        "{:?}",
        driver.engine().counters()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_does_not_heal_says_what_it_lost() {
    // `query` sets `reconnect = false`: whoever asks once wants to know that a connection was lost.
    // The loss must come out as an error, and not as a wait without end.
    let database = Database::with(TABLE).await;
    let mut driver = open_with(&database, "fence", |options, _| {
        options.limits.reconnect = false;
    })
    .await
    .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
        'pgic test' AND datname = current_database()";
    database.client().await.query(kill, &[]).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, driver.fence())
        .await
        .expect("the fence fails");
    assert!(
        matches!(ended, Err(DriverError::Failed(Failure::ConnectionLost(_)))),
        "{ended:?}"
    );
    assert!(
        matches!(driver.fence().await, Err(DriverError::Ended)),
        "a second call fails at once, too"
    );
}

/// Steps until the driver is in `state`.
async fn until_state(driver: &mut Driver, state: State) {
    let reached = async {
        while driver.state() != state {
            driver
                .step()
                .await
                .expect("nothing ends a driver that was live");
        }
    };
    tokio::time::timeout(DEADLINE, reached)
        .await
        .unwrap_or_else(|_| panic!("the driver never is {state:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_is_stale_with_the_cause_and_tried_again() {
    let database = Database::with(TABLE).await;
    let mut driver = open(&database, "fence").await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE kv RENAME TO gone")
        .await
        .unwrap();
    // DDL announces nothing. The request to reload makes the driver read the table now.
    let reload = r#"{"table":"kv","action":"reload","id":null,"schema":"public","why":"x"}"#;
    client
        .execute("SELECT pg_notify('cache_invalidation', $1)", &[&reload])
        .await
        .unwrap();
    until_state(&mut driver, State::Stale).await;
    let cause = driver
        .engine()
        .cause(TableId(0))
        .unwrap_or_default()
        .to_string();
    assert!(
        cause.contains("relation \"public.kv\" does not exist"),
        "{cause}"
    );
    client
        .batch_execute("ALTER TABLE gone RENAME TO kv; INSERT INTO kv VALUES (1, 'a', 1)")
        .await
        .unwrap();
    fence(&mut driver).await;
    assert_eq!(driver.cache(TableId(0)).len(), 1);
}

/// Returns whether an event says that connecting failed because the server is a standby.
fn is_refused_by_a_standby(event: &DriverEvent) -> bool {
    match event {
        DriverEvent::Disconnected { why, retry_in, .. } => {
            retry_in.is_some() && why.contains("during recovery")
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_become_a_standby_is_stale_until_it_is_promoted() {
    // After a failover an address may lead to a standby for a while. It can neither LISTEN nor give
    // a snapshot that the cut can use, but it is no reason to end a driver that was live.
    let cluster = Arc::new(Cluster::start(&Setup::default()).expect("start a server"));
    let database = Database::on(&cluster, "here".to_string()).await;
    database
        .client()
        .await
        .batch_execute(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)"))
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "kv"]);
    let mut driver = open(&database, "fence").await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let data = cluster
        .socket_folder()
        .parent()
        .expect("the socket folder lies in the cluster's folder")
        .join("data");
    std::fs::write(data.join("standby.signal"), "").expect("make it a standby");
    let restarted = tokio::task::spawn_blocking(move || cluster.restart("fast").map(|()| cluster));
    let refused = async {
        loop {
            driver
                .step()
                .await
                .expect("a standby does not end what was live");
            if driver
                .take_events()
                .any(|event| is_refused_by_a_standby(&event))
            {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, refused)
        .await
        .expect("the driver says that the server is a standby");
    // The old rows stay readable.
    assert_eq!(driver.state(), State::Disconnected);
    assert_eq!(driver.cache(TableId(0)).len(), 1);
    let _cluster = restarted.await.unwrap().expect("restart the server");
    // A command was never live, so for a command the standby is the end, with a hint.
    for command in [
        &["tail"][..],
        &["query", "kv"],
        &["shell", "kv"],
        &["verify", "kv"],
    ] {
        let ran = database.pgic(command);
        assert!(
            ran.code == 2 && ran.stderr.contains("standby") && ran.stderr.contains("hint: "),
            "{command:?}: {ran:?}"
        );
    }
    database
        .client()
        .await
        .batch_execute("SELECT pg_promote()")
        .await
        .expect("promote the standby");
    database
        .client()
        .await
        .batch_execute("INSERT INTO kv VALUES (2, 'b', 2)")
        .await
        .unwrap();
    fence(&mut driver).await;
    assert_eq!(driver.cache(TableId(0)).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_waits_for_a_migration_and_sees_what_it_left() {
    // ALTER TABLE rewrites the table. A snapshot that was taken before the rewrite finds no row in
    // the new files, so Q locks the table first and takes its snapshot then.
    let database = Database::with(&format!(
        "{TABLE} INSERT INTO kv SELECT n, 'a', n FROM generate_series(1, 500) n"
    ))
    .await;
    let migration = database.client().await;
    migration
        .batch_execute(
            "BEGIN; LOCK TABLE kv IN ACCESS EXCLUSIVE MODE; ALTER TABLE kv ALTER n TYPE \
            bigint USING n + 1",
        )
        .await
        .unwrap();
    let mut driver = open(&database, "fence").await.unwrap();
    let watcher = database.client().await;
    let waits =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'kv'::regclass::oid";
    let commit = async {
        while count(&watcher, waits).await == 0 {
            tokio::task::yield_now().await;
        }
        migration.batch_execute("COMMIT").await.unwrap();
    };
    let (live, ()) = tokio::join!(
        tokio::time::timeout(DEADLINE, driver.until_live(|_| {})),
        commit
    );
    live.expect("in time").unwrap();
    assert_eq!(cached(&driver).len(), 500);
    assert_eq!(cached(&driver), stored(&watcher).await);
}

/// Sets options with which the driver sees a changed definition soon.
fn attentive(options: &mut DriverOptions, follow: &mut TableConfig) {
    // The definitions are looked at once a heartbeat.
    options.limits.heartbeat = Duration::from_millis(50);
    follow.announced_by = vec!["kv_cache_notify".into(), "kv_cache_notify_truncate".into()];
}

/// Creates `kv` with two rows and triggers, runs `sql`, and returns a live, attentive driver.
async fn attended(sql: &str) -> (Database, Driver) {
    let database = Database::with(&format!(
        "{TABLE} INSERT INTO kv VALUES (1, 'a', 1), (2, 'b', 2); {sql}"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let mut driver = open_with(&database, "fence", attentive).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    (database, driver)
}

/// Steps until the driver says that it reloads the table, and then until a fence.
async fn until_reloaded(driver: &mut Driver) {
    let again = async {
        while !driver
            .take_events()
            .any(|event| matches!(event, DriverEvent::ReloadScheduled { .. }))
        {
            driver.step().await.unwrap();
        }
        driver.fence().await.unwrap();
    };
    tokio::time::timeout(DEADLINE, again)
        .await
        .expect("the change is seen");
}

/// Removes the spaces that `json_build_object` writes and `row_to_json` does not.
fn plain(json: &str) -> String {
    json.replace(' ', "")
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_that_announces_nothing_is_seen_and_the_table_read_again() {
    // The first statement also changes each value of `v`, and fires no trigger.
    let (database, mut driver) = attended("").await;
    let client = database.client().await;
    for ddl in [
        "ALTER TABLE kv ALTER v TYPE varchar(100) USING v || '!'",
        "ALTER TABLE kv ADD COLUMN more int DEFAULT 7",
        "ALTER TABLE kv DROP COLUMN more",
    ] {
        client.batch_execute(ddl).await.unwrap();
        until_reloaded(&mut driver).await;
        // The cache has the columns that it was opened with, so not `more`.
        let sql = "SELECT json_build_object('id', id, 'v', v, 'n', n)::text FROM kv";
        let rows = client.query(sql, &[]).await.unwrap();
        let stored: BTreeSet<String> = rows.iter().map(|row| plain(row.get(0))).collect();
        let cached: BTreeSet<String> = cached(&driver).iter().map(|row| plain(row)).collect();
        assert_eq!(cached, stored, "{ddl}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_silence_behind_unchanged_definitions_is_seen() {
    let (database, mut driver) = attended("").await;
    let client = database.client().await;
    // Afterwards all columns, types and triggers are as before. Only the table's files, or the
    // transactions that made the triggers, are others: both are part of the fingerprint.
    for silent in [
        "ALTER TABLE kv ALTER n TYPE bigint USING n * 100",
        "BEGIN; ALTER TABLE kv DISABLE TRIGGER ALL; UPDATE kv SET v = 'silent'; ALTER TABLE kv \
        ENABLE TRIGGER ALL; COMMIT",
    ] {
        client.batch_execute(silent).await.unwrap();
        until_reloaded(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await, "{silent}");
    }
    // TRUNCATE gives the table other files as well. It is announced, so it needs no reload, unless
    // a look has seen the files before the announcement arrived: then one, and none afterwards.
    let before = driver.engine().counters().reloads;
    client
        .batch_execute("TRUNCATE kv; INSERT INTO kv VALUES (1, 'a', 1)")
        .await
        .unwrap();
    several_looks(&mut driver).await;
    assert_eq!(cached(&driver), stored(&client).await);
    let settled = driver.engine().counters().reloads;
    let told: Vec<DriverEvent> = driver.take_events().collect();
    assert!(settled <= before + 1, "{told:?}");
    several_looks(&mut driver).await;
    assert_eq!(driver.engine().counters().reloads, settled, "{told:?}");
}

/// Sends fences for several heartbeats. A look follows a fence if the last look is a heartbeat ago.
async fn several_looks(driver: &mut Driver) {
    let looks = async {
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            driver.fence().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, looks)
        .await
        .expect("fences come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_nothing_announces_any_more_is_not_followed() {
    // Nothing would arrive any more, and silence looks like a table that nobody writes.
    for ddl in [
        "ALTER TABLE kv DISABLE TRIGGER kv_cache_notify",
        "DROP TRIGGER kv_cache_notify_truncate ON kv",
    ] {
        let (database, mut driver) = attended("").await;
        database.client().await.batch_execute(ddl).await.unwrap();
        let ended = until_ended(&mut driver).await;
        assert!(
            matches!(ended, DriverError::Failed(Failure::NotFollowed { .. })),
            "{ddl}: {ended:?}"
        );
        assert!(driver.engine().has_ended() && driver.cache(TableId(0)).len() == 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_table_of_the_same_name_is_not_taken_for_this_one() {
    // A swap of names: a read by name would bring another table's rows, while the old table goes on
    // sending its changes under the name that it had.
    let (database, mut driver) = attended(
        "CREATE TABLE other (LIKE kv INCLUDING ALL); INSERT INTO other VALUES (9, 'z', 9);",
    )
    .await;
    let swap = "BEGIN; ALTER TABLE kv RENAME TO old; ALTER TABLE other RENAME TO kv; COMMIT";
    database.client().await.batch_execute(swap).await.unwrap();
    until_state(&mut driver, State::Stale).await;
    let cause = driver.engine().cause(TableId(0)).unwrap_or_default();
    assert!(cause.contains("another has its name"), "{cause}");
    assert_eq!(
        driver.cache(TableId(0)).len(),
        2,
        "the cache has the rows of the table that it followed"
    );
}

/// Creates a partitioned table `kv` with triggers. The row 1 is in the partition `low`, and `row`,
/// which must have an id from 10 to 19, in `high`.
async fn in_partitions(row: &str) -> Database {
    let sql = format!(
        "CREATE TABLE kv (id int PRIMARY KEY, v text, n bigint) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF kv FOR VALUES FROM (0) TO (10); CREATE TABLE high PARTITION \
        OF kv FOR VALUES FROM (10) TO (20);
        INSERT INTO kv VALUES (1, 'a', 1), {row};"
    );
    let database = Database::with(&sql).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    database
}

/// Returns a live, attentive driver of the partitioned table.
async fn attending_partitions(database: &Database) -> Driver {
    let mut driver = open_with(database, "fence", |options, follow| {
        attentive(options, follow);
        follow.followed.is_partitioned = true;
    })
    .await
    .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    driver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_attached_or_truncated_in_silence_is_seen() {
    // ATTACH brings rows without announcing them, and TRUNCATE of a partition whose trigger was
    // dropped takes rows away in silence.
    let database = in_partitions("(15, 'h', 1)").await;
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE kv DETACH PARTITION high")
        .await
        .unwrap();
    client
        .batch_execute("DROP TRIGGER low_cache_notify_truncate ON low")
        .await
        .unwrap();
    let mut driver = attending_partitions(&database).await;
    for ddl in [
        "ALTER TABLE kv ATTACH PARTITION high FOR VALUES FROM (10) TO (20)",
        "TRUNCATE low",
    ] {
        client.batch_execute(ddl).await.unwrap();
        until_reloaded(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await, "{ddl}");
    }
    // The partition's trigger is disabled for a moment, in which a row is written.
    let silent = "ALTER TABLE high DISABLE TRIGGER USER; UPDATE kv SET v = 'silent' WHERE id = 15; \
        ALTER TABLE high ENABLE TRIGGER USER";
    client.batch_execute(silent).await.unwrap();
    until_reloaded(&mut driver).await;
    assert_eq!(cached(&driver), stored(&client).await, "{silent}");
    // The attached partition is known by now, so its changes are applied. They once made the table
    // be read again each time, as changes from a partition that is not known do.
    let before = driver.engine().counters();
    for round in 0..3 {
        client
            .batch_execute(&format!("UPDATE kv SET v = 'r{round}' WHERE id = 15"))
            .await
            .unwrap();
        fence(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await);
    }
    let after = driver.engine().counters();
    assert_eq!(
        (after.reloads, after.applied),
        (before.reloads, before.applied + 3),
        "{after:?}"
    );
    // DETACH … CONCURRENTLY came with PostgreSQL 14.
    if cluster().version() >= 14 {
        detach_concurrently(&database, &mut driver).await;
    }
    // The trigger of one partition is disabled for good: the table is no longer announced whole.
    client
        .batch_execute("ALTER TABLE low DISABLE TRIGGER USER")
        .await
        .unwrap();
    let ended = until_ended(&mut driver).await;
    assert!(
        matches!(ended, DriverError::Failed(Failure::NotFollowed { .. })),
        "{ended:?}"
    );
}

/// Detaches the partition `high` while somebody reads the table, and checks that its changes are no
/// longer taken for the table's.
async fn detach_concurrently(database: &Database, driver: &mut Driver) {
    let client = database.client().await;
    let reader = database.client().await;
    let detacher = database.client().await;
    // DETACH … CONCURRENTLY first commits that the partition is being detached, and then waits for
    // those who still read it. From that commit on the partition is none of the table's any more,
    // though its triggers still fire.
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM kv")
        .await
        .unwrap();
    let detaching = tokio::spawn(async move {
        detacher
            .batch_execute("ALTER TABLE kv DETACH PARTITION high CONCURRENTLY")
            .await
    });
    until_reloaded(driver).await;
    let before = driver.engine().counters().reloads;
    for round in 0..3 {
        let write = format!(
            "UPDATE high SET v = 'gone{round}' WHERE id = 15;
             INSERT INTO kv VALUES (2, 'b', 1) ON CONFLICT (id) DO UPDATE SET n = kv.n + 1"
        );
        client.batch_execute(&write).await.unwrap();
        fence(driver).await;
        assert_eq!(cached(driver), stored(&client).await);
    }
    assert_eq!(driver.engine().counters().reloads, before);
    reader.batch_execute("COMMIT").await.unwrap();
    detaching.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_do_not_wait_for_whoever_holds_a_partition() {
    let database = in_partitions("(11, 'b', 2)").await;
    let mut driver = attending_partitions(&database).await;
    let migration = database.client().await;
    let client = database.client().await;
    migration
        .batch_execute("BEGIN; LOCK TABLE low IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    // F sends the fences and looks at the definitions. A look that waited for the migration's lock
    // would hold up every fence behind it.
    let fences = async {
        for round in 0..20 {
            client
                .batch_execute(&format!("UPDATE high SET n = {round}"))
                .await
                .unwrap();
            driver.fence().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, fences)
        .await
        .expect("no fence waits for the lock");
    migration.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(cached(&driver), stored(&client).await);
    assert_eq!(driver.engine().counters().applied, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_partitions_deadlocks_with_no_migration() {
    let database = in_partitions("(11, 'b', 2)").await;
    let migration = database.client().await;
    let watcher = database.client().await;
    migration
        .batch_execute("BEGIN; TRUNCATE high")
        .await
        .unwrap();
    let mut driver = open_with(&database, "fence", |_, follow| {
        follow.followed.is_partitioned = true;
    })
    .await
    .unwrap();
    // 1. The migration holds `high` and is about to lock `low`.
    // 2. A read that held `low` and waited for `high` would close the circle, and PostgreSQL would
    //    end the migration.
    // 3. So the read takes further locks with NOWAIT, rolls back when it fails, and tries again.
    let migrating = async {
        let tries =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgic test (reads)'
            AND datname = current_database() AND query IN ('ROLLBACK')";
        while count(&watcher, tries).await == 0 {
            tokio::task::yield_now().await;
        }
        migration
            .batch_execute("TRUNCATE low; INSERT INTO kv VALUES (2, 'c', 3); COMMIT")
            .await
    };
    let loading = async { driver.until_live(|_| {}).await };
    let (migrated, loaded) =
        tokio::time::timeout(DEADLINE, async { tokio::join!(migrating, loading) })
            .await
            .unwrap();
    migrated.expect("the migration is not ended");
    loaded.unwrap();
    assert_eq!(cached(&driver), stored(&watcher).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_healed_is_not_why_it_ends() {
    let (database, mut driver) = attended("").await;
    let client = database.client().await;
    // The first read is given up because somebody holds the table, and a later one succeeds. The
    // end, when it comes for another reason, must not name the lock.
    let holder = database.client().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE kv IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let reload = r#"{"table":"kv","action":"reload","id":null,"schema":"public","why":"x"}"#;
    client
        .batch_execute(&format!("NOTIFY cache_invalidation, '{reload}'"))
        .await
        .unwrap();
    until_state(&mut driver, State::Stale).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    fence(&mut driver).await;
    client
        .batch_execute("ALTER TABLE kv DISABLE TRIGGER kv_cache_notify")
        .await
        .unwrap();
    let ended = until_ended(&mut driver).await;
    assert!(
        matches!(ended, DriverError::Failed(Failure::NotFollowed { .. })),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_silent_or_cut_is_a_gap_and_healed() {
    // A cut connection is an error at once. A network that goes silent is none: TCP waits for
    // hours, and only a fence that does not come back tells.
    let database = Database::with(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)")).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let proxy = proxy().await;
    let url = url_through(&proxy, &database);
    let mut driver = open_through(&database, &url, |options, _| {
        options.limits.heartbeat = Duration::from_millis(50);
        options.limits.fence_timeout = Duration::from_millis(500);
    })
    .await
    .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    // The writer goes around the proxy: what it commits now is announced to a dead connection.
    let client = database.client().await;
    for (round, is_cut) in [false, true, false].into_iter().enumerate() {
        if is_cut {
            proxy.cut();
        } else {
            proxy.set(Mood::Stalls);
        }
        client
            .batch_execute(&format!("UPDATE kv SET n = {round} + 10"))
            .await
            .unwrap();
        let stale = async {
            while !driver
                .take_events()
                .any(|event| matches!(event, DriverEvent::Disconnected { .. }))
            {
                driver.step().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, stale)
            .await
            .expect("silence is noticed");
        assert_eq!(driver.engine().state(), State::Disconnected);
        if round == 2 {
            // The network is still silent, so connecting again is not answered either. The attempt
            // must be given up after a while, and not be waited for without end.
            let gaps = driver.engine().counters().gaps;
            let tried = async {
                while driver.engine().counters().gaps == gaps {
                    driver.step().await.unwrap();
                }
            };
            tokio::time::timeout(DEADLINE, tried)
                .await
                .expect("the attempt is given up");
        }
        // Cut first: bytes that were held back must not arrive late on the old connections.
        proxy.cut();
        proxy.set(Mood::Passes);
        fence(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await, "round {round}");
    }
    assert!(driver.engine().counters().gaps >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_begins_when_something_was_last_proven_and_not_when_the_loss_was_noticed() {
    // 1. A fence comes back. 2. The network goes silent. 3. A change is committed, and lost.
    // 4. The silence is noticed when a fence fails. The gap begins at 1: a user who was told 4
    // would believe that the change at 3 was heard.
    let database = Database::with(TABLE).await;
    let proxy = proxy().await;
    let url = url_through(&proxy, &database);
    let server = connector(&url);
    let mut options = options("c");
    options.limits.heartbeat = Duration::from_millis(50);
    options.limits.fence_timeout = Duration::from_millis(500);
    let (heard, mut payloads) = tokio::sync::mpsc::unbounded_channel();
    let tap = Box::new(move |batch: Vec<Notification>| {
        for notification in &batch {
            heard
                .send(notification.payload().to_string())
                .expect("somebody listens");
        }
    });
    // `tail` runs such a driver. It follows no table, and sends heartbeats all the same.
    let mut driver = Driver::tapping(server, options, tap).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = database.client().await;
    let heartbeats = Instant::now() + Duration::from_millis(300);
    while Instant::now() < heartbeats {
        tokio::select! {
            stepped = driver.step() => stepped.unwrap(),
            () = tokio::time::sleep_until(heartbeats.into()) => {}
        }
    }
    proxy.set(Mood::Stalls);
    let lost_at = Instant::now();
    client.batch_execute("NOTIFY c, 'lost'").await.unwrap();
    let since = async {
        loop {
            driver.step().await.unwrap();
            let lost = driver.take_events().find_map(|event| match event {
                DriverEvent::Disconnected { since, .. } => Some(since),
                _ => None,
            });
            if let Some(since) = lost {
                break since;
            }
        }
    };
    let since = tokio::time::timeout(DEADLINE, since)
        .await
        .expect("the silence is noticed");
    let since = since.expect("a fence came back before");
    assert!(
        since <= lost_at && lost_at - since < Duration::from_millis(400),
        "{:?}",
        lost_at - since
    );
    assert_eq!(
        driver.engine().lag(),
        None,
        "the last good lag is not told while it is stale"
    );
    proxy.cut();
    proxy.set(Mood::Passes);
    until_state(&mut driver, State::Live).await;
    client.batch_execute("NOTIFY c, 'heard'").await.unwrap();
    let heard = async {
        loop {
            tokio::select! {
                payload = payloads.recv() => break payload,
                stepped = driver.step() => stepped.unwrap(),
            }
        }
    };
    let first = tokio::time::timeout(DEADLINE, heard)
        .await
        .expect("the new connection listens");
    assert_eq!(first.as_deref(), Some("heard"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_starting_is_waited_for() {
    // An application and its server are often started together. "The database system is starting
    // up" passes by itself, also for a command that was never live.
    let database = Database::with(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)")).await;
    let proxy = proxy().await;
    proxy.set(Mood::Starts);
    let mut command = database.command(&["query", "kv", "--count"]);
    command.env("DATABASE_URL", url_through(&proxy, &database));
    let asking = tokio::task::spawn_blocking(move || run(command));
    // Two attempts are refused, so the command has tried again at least once.
    proxy.is_dialled().await;
    proxy.is_dialled().await;
    proxy.set(Mood::Passes);
    let ran = asking.await.unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1\n"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_cut_again_and_again_is_said_and_given_up() {
    // A load that never gets to its end would be repeated for ever, at the server's cost, while the
    // user sees nothing. Before the table was live for the first time, five such reads are the end.
    let database = Database::with(&format!(
        "{TABLE} INSERT INTO kv SELECT n, repeat(md5(n::text), 30), n FROM generate_series(1, \
        5000) n"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let proxy = proxy().await;
    // The table is some 5 MB: each connection gets through a part of it.
    proxy.set(Mood::CutsAfter(1 << 20));
    for arguments in [&["shell", "kv"][..], &["verify", "kv", "--rounds", "1"]] {
        let mut command = database.command(arguments);
        command.env("DATABASE_URL", url_through(&proxy, &database));
        let ran = tokio::task::spawn_blocking(move || run(command))
            .await
            .unwrap();
        assert_eq!(ran.code, 2, "{ran:?}");
        let said = ran.stderr.matches("notice: the connection").count();
        let counted = ran
            .stderr
            .contains("5 times in a row while public.kv was read");
        assert!(said >= 4 && counted, "{arguments:?}: {ran:?}");
    }
}

/// Returns the peak memory of a process in kB, from the line `VmHWM` in its stderr.
#[cfg(target_os = "linux")]
fn peak(ran: &Ran) -> usize {
    let line = ran
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("stderr has the line VmHWM");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Runs `pgic query wide` with 20 MB allowed, and writes the process's peak memory to stderr.
#[cfg(target_os = "linux")]
fn query_and_tell_the_peak(database: &Database) -> Ran {
    // The peak is read again and again, since it is gone together with the process. Each reading is
    // moved into place: the last one may be cut short by the end of the process.
    let script = format!(
        "{} query wide --max-memory 20M & child=$!; while kill -0 $child 2>/dev/null; do grep \
        VmHWM /proc/$child/status > /tmp/peak.$$ 2>/dev/null && mv /tmp/peak.$$ \
        /tmp/peak.$$.last; done; wait $child; code=$?; cat /tmp/peak.$$.last >&2; rm -f \
        /tmp/peak.$$ /tmp/peak.$$.last; exit $code",
        binary().display()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .env("DATABASE_URL", &database.url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    ended(command.spawn().unwrap())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_memory_does_not_allow_is_refused_before_it_is_whole() {
    // PostgreSQL sends a row as one message. A limit that is checked when the message is there
    // comes too late: the 100 MB are in memory by then. So the length is looked at before the row
    // is sent.
    let database = Database::with(
        "CREATE TABLE wide (id int PRIMARY KEY, v text, j jsonb);
         INSERT INTO wide VALUES (1, 'small', '{}'), (2, repeat('x', 100000000), NULL), (3, '', \
         to_jsonb(repeat('y', 100000000)))",
    )
    .await;
    let admin = database.client().await;
    for (sql, code) in [
        ("SELECT 1", 2),
        ("DELETE FROM wide WHERE id = 2", 2),
        ("DELETE FROM wide WHERE id = 3", 0),
    ] {
        admin.batch_execute(sql).await.unwrap();
        let ran = query_and_tell_the_peak(&database);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(
            code == 0
                || ran
                    .stderr
                    .contains("a row of public.wide has more than 2621440 bytes"),
            "{ran:?}"
        );
        // 60 MB: the 20 MB that are allowed and the program itself, but not the row of 100 MB.
        assert!(peak(&ran) < 60_000, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_the_catalogue_as_of_one_moment_unless_it_wants_the_latest() {
    let database = Database::with("CREATE TABLE kv (id int PRIMARY KEY)").await;
    let other = database.client().await;
    let accesses = [
        (CatalogAccess::ReadOnly, true),
        (CatalogAccess::ReadLatest, false),
        (CatalogAccess::ReadWrite, false),
    ];
    for (at, (access, is_of_one_moment)) in accesses.into_iter().enumerate() {
        let mut client = database.client().await;
        let catalog = Catalog::begin(&mut client, access).await.unwrap();
        assert_eq!(catalog.is_of_one_moment(), is_of_one_moment);
        let name = format!("later{at}");
        let create = format!("CREATE TABLE {name} (id int PRIMARY KEY)");
        other.batch_execute(&create).await.unwrap();
        let is_seen = catalog.find(&name).await.unwrap().is_some();
        assert_eq!(is_seen, !is_of_one_moment, "{access:?}");
        let write = catalog.batch_execute("DELETE FROM public.kv").await;
        assert_eq!(write.is_ok(), access == CatalogAccess::ReadWrite);
    }
}
