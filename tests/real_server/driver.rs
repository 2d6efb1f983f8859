//! The driver and the engine under load: at a fence the cache is the table.

use crate::support::{DEADLINE, Database};
use pgic::connect::{Environment, Server};
use postgres_index_cache_core::postgres::{
    Driver, DriverError, DriverEvent, DriverOptions, RowChange, TableConfig, Verification,
};
use postgres_index_cache_core::sync::{Failure, Limits, State, TableId, TableSpec};
use postgres_index_cache_core::{CellType, Column, TableShape};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

pub const TABLE: &str = "CREATE TABLE kv (id int PRIMARY KEY, v text, n bigint);";

async fn open(database: &Database, fence_channel: &str) -> Result<Driver, DriverError> {
    open_with(database, fence_channel, |_, _| {}).await
}

pub async fn open_with(
    database: &Database,
    fence_channel: &str,
    change: impl FnOnce(&mut DriverOptions, &mut TableConfig),
) -> Result<Driver, DriverError> {
    let with_channel = |options: &mut DriverOptions, follow: &mut TableConfig| {
        options.fence_channel = fence_channel.to_string();
        change(options, follow);
    };
    open_through(database, &database.url, with_channel).await
}

/// A driver that connects to `url`, which leads to the database.
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
    let column = |name: &str, kind, nullable| Column {
        name: name.to_string(),
        kind,
        nullable,
    };
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
        },
        shape: Arc::new(TableShape::new(columns, &["id".to_string()]).unwrap()),
        distrust: postgres_index_cache_core::postgres::Distrust::None,
        key_types: vec![Some("int4".into())],
        announced_by: Vec::new(),
        expected_rows: 100,
        column_types: Vec::new(),
        fingerprint: None,
    };
    let mut options = DriverOptions {
        channels: vec!["cache_invalidation".into()],
        fence_channel: "fence_through".to_string(),
        limits: Limits {
            fence_timeout: DEADLINE,
            ..Limits::default()
        },
        settings: Vec::new(),
        max_memory: 1 << 30,
        lock_timeout: Duration::from_secs(10),
        holds_altered: false,
        row_events: false,
    };
    change(&mut options, &mut follow);
    let server = Server::new(Some(url), &Environment::default(), "test").unwrap();
    Driver::open(server, vec![follow], options).await
}

/// The rows of the cache as JSON.
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

/// The rows of the table, written alike.
pub async fn stored(client: &Client) -> BTreeSet<String> {
    let rows = client
        .query("SELECT row_to_json(kv)::text FROM kv", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// One random transaction.
pub fn transaction(random: &mut fastrand::Rng) -> String {
    let statement = |random: &mut fastrand::Rng| {
        let id = random.u32(1..40);
        let value = ["a", "b", "c"][random.usize(0..3)];
        match random.u32(0..100) {
            0..35 => {
                format!(
                    "INSERT INTO kv VALUES ({id}, '{value}', {id}) ON CONFLICT (id) DO UPDATE SET \
                    v = excluded.v"
                )
            }
            35..60 => {
                format!("UPDATE kv SET v = '{value}', n = n + 1 WHERE id BETWEEN {id} AND {id} + 3")
            }
            60..75 => format!("DELETE FROM kv WHERE id = {id}"),
            75..85 => format!(
                "UPDATE kv SET id = id + 100 WHERE id = {id} AND NOT EXISTS (SELECT FROM kv WHERE \
                id = {id} + 100)"
            ),
            85..92 => format!("SAVEPOINT s; DELETE FROM kv WHERE id > {id}; ROLLBACK TO s"),
            92..96 => format!(
                "INSERT INTO kv VALUES ({id}, repeat('{value}', 9000), 1) ON CONFLICT (id) DO \
                NOTHING"
            ),
            96..98 => "DELETE FROM kv WHERE id > 100".to_string(),
            _ => "TRUNCATE kv".to_string(),
        }
    };
    let statements: Vec<String> = (0..random.usize(1..5)).map(|_| statement(random)).collect();
    let end = if random.u32(0..10) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!("BEGIN; {}; {end}", statements.join("; "))
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_fence_the_cache_is_the_table() {
    let database = Database::with(TABLE).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::new(AtomicU64::new(0));
    // Writers hold it shared while they write; whoever holds it alone has a quiet point.
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
                // Writers may deadlock with each other, and lose.
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
    assert!(
        applied > 100,
        "the notifications did the work: {applied} were applied"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_payloads_neither_crash_nor_stop_it() {
    let database = Database::with(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)")).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let mut driver = open(&database, "fence").await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = database.client().await;
    let xid = r#""schema":"public","xid":"9999999999""#;
    for payload in [
        String::new(),
        "{".to_string(),
        "[[[[[[".repeat(1_000),
        // Serde reads a struct from an array as well.
        r#"["kv","delete",1]"#.to_string(),
        format!(r#"{{"table":"kv","action":"insert","id":[1],{xid},"data":{{}}}}"#),
        format!(
            r#"{{"table":"kv","action":"update","id":2,{xid},"data":{{"id":3,"v":"x","n":1}}}}"#
        ),
        format!(r#"{{"table":"kv","action":"delete","id":{{"a":[]}},{xid}}}"#),
        format!(
            r#"{{"table":"kv","action":"update","id":1,"old_id":"zzz",{xid},"data":{{"id":1,"v":null,"n":99999999999999999999}}}}"#
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
    // The bad payload and the fence in one batch: the fence must not be answered before the repair.
    client
        .execute(
            "SELECT pg_notify('cache_invalidation', $1)",
            &[&format!(
                r#"{{"table":"kv","action":"insert","id":9,{xid},"data":{{}}}}"#
            )],
        )
        .await
        .unwrap();
    client.batch_execute("UPDATE kv SET v = 'b'").await.unwrap();
    driver.fence().await.unwrap();
    assert_eq!(cached(&driver), stored(&client).await);
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
        // What the notifications of this transaction would have said is lost with the connection.
        let sql = format!(
            "BEGIN; {kill}; DELETE FROM kv WHERE id = (SELECT min(id) FROM kv);
             UPDATE kv SET v = v || 'x' WHERE id = 20; INSERT INTO kv SELECT max(id) + 1, 'new', 0 \
             FROM kv; COMMIT"
        );
        client.batch_execute(&sql).await.unwrap();
        tokio::time::timeout(DEADLINE, driver.fence())
            .await
            .expect("it does not hang")
            .unwrap();
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
    let both_reopened = async {
        while driver.engine().counters().reopened < 2 {
            driver.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, both_reopened)
        .await
        .expect("the loss of Q is noticed though it was idle");
    // The new Q reads.
    let verified = tokio::time::timeout(DEADLINE, driver.verify(TableId(0)))
        .await
        .expect("it does not hang")
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
        .expect("it does not hang");
    assert!(
        matches!(ended, Err(DriverError::Failed(Failure::ConnectionLost(_)))),
        "{ended:?}"
    );
    assert!(
        matches!(driver.fence().await, Err(DriverError::Ended)),
        "it says so again, at once"
    );
}

/// Goes on until a driver is in this state.
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
        .unwrap_or_else(|_| panic!("it never is {state:?}"));
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
    tokio::time::timeout(DEADLINE, driver.fence())
        .await
        .expect("it reconnect")
        .unwrap();
    assert_eq!(driver.cache(TableId(0)).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_become_a_standby_is_stale_until_it_is_promoted() {
    use throwaway_postgres::{Cluster, Setup};
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
        .expect("it is in a folder")
        .join("data");
    std::fs::write(data.join("standby.signal"), "").expect("make it a standby");
    let restarted = tokio::task::spawn_blocking(move || cluster.restart("fast").map(|()| cluster));
    let refused = async {
        loop {
            driver
                .step()
                .await
                .expect("a standby does not end what was live");
            let is_refused = |event: &DriverEvent| matches!(event, DriverEvent::Disconnected { why, retry_in: Some(_), .. } if why.contains("during recovery"));
            if driver.take_events().any(|event| is_refused(&event)) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, refused)
        .await
        .expect("it says that it is a standby");
    assert_eq!(
        (driver.state(), driver.cache(TableId(0)).len()),
        (State::Disconnected, 1)
    );
    let _cluster = restarted.await.unwrap().expect("restart the server");
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
        .expect("promote it");
    database
        .client()
        .await
        .batch_execute("INSERT INTO kv VALUES (2, 'b', 2)")
        .await
        .unwrap();
    tokio::time::timeout(DEADLINE, driver.fence())
        .await
        .expect("it reconnect")
        .unwrap();
    assert_eq!(driver.cache(TableId(0)).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_waits_for_a_migration_and_sees_what_it_left() {
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
        while watcher
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
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

/// Options with which a change of a definition is seen soon.
fn attentive(options: &mut DriverOptions, follow: &mut TableConfig) {
    options.limits.heartbeat = Duration::from_millis(50);
    follow.announced_by = vec!["kv_cache_notify".into(), "kv_cache_notify_truncate".into()];
}

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

/// Steps until the driver says that it reads the table again, and then until a fence.
async fn read_again(driver: &mut Driver) {
    let again = async {
        while !driver
            .take_events()
            .any(|event| matches!(event, DriverEvent::ReadAgain { .. }))
        {
            driver.step().await.unwrap();
        }
        driver.fence().await.unwrap();
    };
    tokio::time::timeout(DEADLINE, again)
        .await
        .expect("the change is seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_that_announces_nothing_is_seen_and_the_table_read_again() {
    let (database, mut driver) = attended("").await;
    let client = database.client().await;
    for ddl in [
        "ALTER TABLE kv ALTER v TYPE varchar(100) USING v || '!'",
        "ALTER TABLE kv ADD COLUMN more int DEFAULT 7",
        "ALTER TABLE kv DROP COLUMN more",
    ] {
        client.batch_execute(ddl).await.unwrap();
        read_again(&mut driver).await;
        let rows = client
            .query(
                "SELECT json_build_object('id', id, 'v', v, 'n', n)::text FROM kv",
                &[],
            )
            .await
            .unwrap();
        let plain = |text: String| text.replace(' ', "");
        let stored: BTreeSet<String> = rows.iter().map(|row| plain(row.get(0))).collect();
        assert_eq!(
            cached(&driver)
                .into_iter()
                .map(plain)
                .collect::<BTreeSet<_>>(),
            stored,
            "{ddl}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_silence_behind_unchanged_definitions_is_seen() {
    let (database, mut driver) = attended("").await;
    let client = database.client().await;
    for silent in [
        "ALTER TABLE kv ALTER n TYPE bigint USING n * 100",
        "BEGIN; ALTER TABLE kv DISABLE TRIGGER ALL; UPDATE kv SET v = 'silent'; ALTER TABLE kv \
        ENABLE TRIGGER ALL; COMMIT",
    ] {
        client.batch_execute(silent).await.unwrap();
        read_again(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await, "{silent}");
    }
    // A TRUNCATE is announced: though its files are others, nothing is read again.
    let before = driver.engine().counters().reloads;
    client
        .batch_execute("TRUNCATE kv; INSERT INTO kv VALUES (1, 'a', 1)")
        .await
        .unwrap();
    let looks = async {
        // Each fence is followed by a look, when the last one is a heartbeat ago.
        let until = std::time::Instant::now() + Duration::from_millis(300);
        while std::time::Instant::now() < until {
            driver.fence().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, looks)
        .await
        .expect("fences come back");
    assert_eq!(cached(&driver), stored(&client).await);
    let told: Vec<DriverEvent> = driver.take_events().collect();
    assert_eq!(driver.engine().counters().reloads, before, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_nothing_announces_any_more_is_not_followed() {
    for ddl in [
        "ALTER TABLE kv DISABLE TRIGGER kv_cache_notify",
        "DROP TRIGGER kv_cache_notify_truncate ON kv",
    ] {
        let (database, mut driver) = attended("").await;
        database.client().await.batch_execute(ddl).await.unwrap();
        let ended = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Err(error) = driver.step().await {
                    break error;
                }
            }
        });
        let ended = ended.await.expect("it is seen");
        assert!(
            matches!(ended, DriverError::Failed(Failure::NotFollowed { .. })),
            "{ddl}: {ended:?}"
        );
        assert!(driver.engine().has_ended() && driver.cache(TableId(0)).len() == 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_table_of_the_same_name_is_not_taken_for_this_one() {
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
        "its rows are not those of the other"
    );
}

/// A partitioned table with the row 1 in `low` and another in `high`.
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

async fn attending_partitions(database: &Database) -> Driver {
    let attend = |options: &mut DriverOptions, follow: &mut TableConfig| {
        attentive(options, follow);
        follow.followed.is_partitioned = true;
    };
    let mut driver = open_with(database, "fence", attend).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    driver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_attached_or_truncated_in_silence_is_seen() {
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
        read_again(&mut driver).await;
        assert_eq!(cached(&driver), stored(&client).await, "{ddl}");
    }
    // Its trigger does not fire for a moment.
    let silent = "ALTER TABLE high DISABLE TRIGGER USER; UPDATE kv SET v = 'silent' WHERE id = 15; \
        ALTER TABLE high ENABLE TRIGGER USER";
    client.batch_execute(silent).await.unwrap();
    read_again(&mut driver).await;
    assert_eq!(cached(&driver), stored(&client).await, "{silent}");
    // The new partition is known now: its changes are applied.
    let before = driver.engine().counters();
    for round in 0..3 {
        client
            .batch_execute(&format!("UPDATE kv SET v = 'r{round}' WHERE id = 15"))
            .await
            .unwrap();
        tokio::time::timeout(DEADLINE, driver.fence())
            .await
            .expect("a fence comes back")
            .unwrap();
        assert_eq!(cached(&driver), stored(&client).await);
    }
    let after = driver.engine().counters();
    assert_eq!(
        (after.reloads, after.applied),
        (before.reloads, before.applied + 3),
        "{after:?}"
    );
    // One that is being detached, which waits for whoever reads the table, is none any more, though
    // its triggers fire.
    if crate::support::cluster().version() >= 14 {
        let reader = database.client().await;
        let detacher = database.client().await;
        reader
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM kv")
            .await
            .unwrap();
        let detaching = tokio::spawn(async move {
            detacher
                .batch_execute("ALTER TABLE kv DETACH PARTITION high CONCURRENTLY")
                .await
        });
        read_again(&mut driver).await;
        let before = driver.engine().counters().reloads;
        for round in 0..3 {
            client
                .batch_execute(&format!(
                    "UPDATE high SET v = 'gone{round}' WHERE id = 15; INSERT \
                INTO kv VALUES (2, 'b', 1) ON CONFLICT (id) DO UPDATE SET n = kv.n + \
                1"
                ))
                .await
                .unwrap();
            tokio::time::timeout(DEADLINE, driver.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
            assert_eq!(cached(&driver), stored(&client).await);
        }
        assert_eq!(driver.engine().counters().reloads, before);
        reader.batch_execute("COMMIT").await.unwrap();
        detaching.await.unwrap().unwrap();
    }
    // A trigger that stays away from a partition.
    client
        .batch_execute("ALTER TABLE low DISABLE TRIGGER USER")
        .await
        .unwrap();
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Err(error) = driver.step().await {
                break error;
            }
        }
    });
    let ended = ended.await.expect("it is seen");
    assert!(
        matches!(ended, DriverError::Failed(Failure::NotFollowed { .. })),
        "{ended:?}"
    );
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
    // The definitions are looked at meanwhile, by the connection that sends the fences.
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
    // It tries, and holds nothing while it waits.
    let migrating = async {
        let tries =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgic test (reads)'
            AND datname = current_database() AND query IN ('ROLLBACK')";
        while watcher
            .query_one(tries, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
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
    // A read that is given up, since something holds the table, and that succeeds later.
    let holder = database.client().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE kv IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let reload = r#"NOTIFY cache_invalidation, '{"table":"kv","action":"reload","id":null,"schema":"public","why":"x"}'"#;
    client.batch_execute(reload).await.unwrap();
    until_state(&mut driver, State::Stale).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    tokio::time::timeout(DEADLINE, driver.fence())
        .await
        .expect("it reconnect")
        .unwrap();
    client
        .batch_execute("ALTER TABLE kv DISABLE TRIGGER kv_cache_notify")
        .await
        .unwrap();
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Err(error) = driver.step().await {
                break error;
            }
        }
    });
    let ended = ended.await.expect("it is seen");
    assert!(
        matches!(ended, DriverError::Failed(Failure::NotFollowed { .. })),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_silent_or_cut_is_a_gap_and_healed() {
    use crate::support::cluster;
    use crate::support::proxy::{Mood, Proxy};
    let direct = Database::with(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)")).await;
    direct.pgic_ok(&["install-triggers", "kv"]);
    let proxy = Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await;
    let url = format!(
        "postgresql://postgres@127.0.0.1:{}/{}",
        proxy.port, direct.name
    );
    let through = Database {
        name: direct.name.clone(),
        url: direct.url.clone(),
    };
    let mut driver = open_through(&through, &url, |options, _| {
        options.limits.heartbeat = Duration::from_millis(50);
        options.limits.fence_timeout = Duration::from_millis(500);
    })
    .await
    .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = direct.client().await;
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
            // To connect is answered by silence too; that is not waited for without end.
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
        // The old connections are dead, and new ones pass.
        proxy.cut();
        proxy.set(Mood::Passes);
        tokio::time::timeout(DEADLINE, driver.fence())
            .await
            .expect("it reconnect")
            .unwrap();
        assert_eq!(cached(&driver), stored(&client).await, "round {round}");
    }
    assert!(driver.engine().counters().gaps >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_begins_when_something_was_last_proven_and_not_when_the_loss_was_noticed() {
    use crate::support::cluster;
    use crate::support::proxy::{Mood, Proxy};
    use std::time::Instant;
    let database = Database::with(TABLE).await;
    let proxy = Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await;
    let url = format!(
        "postgresql://postgres@127.0.0.1:{}/{}",
        proxy.port, database.name
    );
    let server = Server::new(Some(&url), &Environment::default(), "test").unwrap();
    let mut options = pgic::tables::options(vec!["c".to_string()], 1 << 20);
    options.limits.heartbeat = Duration::from_millis(50);
    options.limits.fence_timeout = Duration::from_millis(500);
    let (heard, mut payloads) = tokio::sync::mpsc::unbounded_channel();
    let tap = Box::new(move |batch: Vec<tokio_postgres::Notification>| {
        for notification in &batch {
            heard
                .send(notification.payload().to_string())
                .expect("somebody listens");
        }
    });
    // What `tail` runs: no table, and a heartbeat all the same.
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
        .expect("it is not deaf for ever");
    let since = since.expect("something was proven");
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
        .expect("it listens again");
    assert_eq!(first.as_deref(), Some("heard"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_starting_is_waited_for() {
    use crate::support::cluster;
    use crate::support::proxy::{Mood, Proxy};
    let database = Database::with(&format!("{TABLE} INSERT INTO kv VALUES (1, 'a', 1)")).await;
    let proxy = Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await;
    let url = format!(
        "postgresql://postgres@127.0.0.1:{}/{}",
        proxy.port, database.name
    );
    proxy.set(Mood::Starts);
    let mut command = database.command(&["query", "kv", "--count"]);
    command.env("DATABASE_URL", &url);
    let asking = tokio::task::spawn_blocking(move || crate::support::run(command));
    proxy.is_dialled().await;
    proxy.is_dialled().await;
    proxy.set(Mood::Passes);
    let ran = asking.await.unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1\n"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_cut_again_and_again_is_said_and_given_up() {
    use crate::support::cluster;
    use crate::support::proxy::{Mood, Proxy};
    let database = Database::with(&format!(
        "{TABLE} INSERT INTO kv SELECT n, repeat(md5(n::text), 30), n FROM generate_series(1, \
        5000) n"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let proxy = Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await;
    proxy.set(Mood::CutsAfter(1 << 20));
    let url = format!(
        "postgresql://postgres@127.0.0.1:{}/{}",
        proxy.port, database.name
    );
    for arguments in [&["shell", "kv"][..], &["verify", "kv", "--rounds", "1"]] {
        let mut command = database.command(arguments);
        command.env("DATABASE_URL", &url);
        let ran = tokio::task::spawn_blocking(move || crate::support::run(command))
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

/// What a process has had in memory at most, in kB, by its own account.
#[cfg(target_os = "linux")]
fn peak(ran: &crate::support::Ran) -> usize {
    let line = ran
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the peak is told");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// A row is refused before it is there: its 100 MB are never in memory.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_memory_does_not_allow_is_refused_before_it_is_whole() {
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
        // The shell tells what its child has taken when it is done.
        let script = format!(
            "{} query wide --max-memory 20M & child=$!; while kill -0 $child 2>/dev/null; do grep \
            VmHWM /proc/$child/status > /tmp/peak.$$ 2>/dev/null && mv /tmp/peak.$$ \
            /tmp/peak.$$.last; done; wait $child; code=$?; cat /tmp/peak.$$.last >&2; rm -f \
            /tmp/peak.$$ /tmp/peak.$$.last; exit $code",
            env!("CARGO_BIN_EXE_pgic")
        );
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", &script])
            .env("DATABASE_URL", &database.url)
            .stdin(std::process::Stdio::null());
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let ran = crate::support::ended(command.spawn().unwrap());
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(
            code == 0
                || ran
                    .stderr
                    .contains("a row of public.wide has more than 2621440 bytes"),
            "{ran:?}"
        );
        assert!(peak(&ran) < 60_000, "{ran:?}");
    }
}
