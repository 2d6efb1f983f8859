//! Parts of a large table that several sessions read at once (`jobs`): each row comes once, under
//! one snapshot, whatever becomes of the sessions.

use crate::driver::{connector, described, pinned_options};
use crate::support::{DEADLINE, Database, own_cluster};
use crate::typed::assert_verified;
use postgres_index_cache_core::tooling::postgres::{
    Driver, DriverEvent, DriverOptions, Verification,
};
use postgres_index_cache_core::tooling::sync::TableId;
use postgres_index_cache_core::{
    CacheModel, ConnectError, Connector, Replica, Session, SessionPurpose,
};
use serde::Deserialize;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use tokio::sync::Mutex;
use tokio_postgres::Client;

/// A table of 18 MB, of which a sixth are long values stored elsewhere. It is enough for four
/// sessions.
const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, repeat(md5(g::text), CASE g % 100 WHEN 0 THEN 1000 ELSE 30 END)
        FROM generate_series(1, 14000) g;
    ANALYZE t;";

/// The sessions that read at once.
const JOBS: usize = 3;

fn options() -> DriverOptions {
    let mut options = pinned_options();
    options.read_by(JOBS);
    options.limits.fence_timeout = DEADLINE;
    options
}

/// What becomes of the sessions that are opened for parts.
#[derive(Clone)]
enum Part {
    Opened,
    Refused,
    /// It is never opened, and never refused.
    Hangs,
    /// It leads to another server.
    LeadsTo(Arc<Elsewhere>),
    /// It is opened once a migration waits for the table.
    BehindMigration(Arc<Database>),
}

/// Another server, on which somebody exports a snapshot with the name of ours.
struct Elsewhere {
    ours: Database,
    twin: Database,
    /// The session that has exported one.
    exported: Mutex<Option<Client>>,
}

/// Opens sessions, and counts those for reading. The first of them is Q.
#[derive(Clone)]
struct Counted {
    server: tokio_postgres::Config,
    part: Part,
    reading: Arc<AtomicU32>,
}

impl Counted {
    fn new(database: &Database, part: Part) -> Self {
        Self {
            server: connector(&database.url),
            part,
            reading: Arc::default(),
        }
    }

    /// Returns how many sessions for parts were asked for.
    fn parts(&self) -> u32 {
        self.reading.load(Relaxed) - 1
    }
}

impl Connector for Counted {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let is_part = role == SessionPurpose::Read && self.reading.fetch_add(1, Relaxed) > 0;
        if is_part {
            match &self.part {
                Part::Opened => {}
                Part::Refused => return Err("too many connections for role \"app\"".into()),
                Part::Hangs => std::future::pending().await,
                Part::LeadsTo(elsewhere) => {
                    elsewhere.export().await;
                    let twin = connector(&elsewhere.twin.url);
                    return Connector::connect(&twin, role).await;
                }
                Part::BehindMigration(database) => migrate(database).await,
            }
        }
        Connector::connect(&self.server, role).await
    }
}

/// Begins a migration of the table, and waits until it waits for the table's lock.
async fn migrate(database: &Database) {
    let client = database.client().await;
    let watching = database.client().await;
    tokio::spawn(async move {
        client
            .batch_execute("ALTER TABLE t ADD COLUMN IF NOT EXISTS more int")
            .await
            .expect("migrate");
    });
    let waits = "SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    until_a_row(&watching, waits).await;
}

/// Asks again and again, until the answer has a row.
async fn until_a_row(client: &Client, sql: &str) {
    let reached = async {
        while client.query(sql, &[]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, reached)
        .await
        .unwrap_or_else(|_| panic!("never a row: {sql}"));
}

/// Opens a driver, and waits until the table is live.
async fn live(database: &Database, connector: &Counted, options: DriverOptions) -> Driver {
    let tables = vec![described(database, "t").await];
    let mut driver = Box::pin(Driver::open(connector.clone(), tables, options))
        .await
        .unwrap();
    tokio::time::timeout(DEADLINE, driver.until_live(|_| {}))
        .await
        .expect("it becomes live")
        .expect("it becomes live");
    driver
}

/// Compares the cache with its table. The comparison reads parts of the table too.
async fn verify(driver: &mut Driver) {
    let verified = driver.verify(TableId(0)).await.expect("an answer");
    let Verification::Compared(comparison) = verified else {
        panic!("{verified:?}");
    };
    assert_eq!(comparison.findings, Vec::new());
    assert!(comparison.rows > 10_000, "{comparison:?}");
}

/// Makes a database with the table, whose changes are announced.
async fn announced(sql: &str) -> Database {
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "t"]);
    database
}

/// Writes to random rows until `stop`, so that rows move from page to page.
async fn write(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut random = fastrand::Rng::with_seed(11);
    let mut writes = 0;
    while !stop.load(Relaxed) {
        let id = random.u32(1..14_100);
        let sql = match random.u8(0..3) {
            0 => format!("DELETE FROM t WHERE id = {id}"),
            1 => format!("UPDATE t SET v = v || '!' WHERE id BETWEEN {id} AND {id} + 3"),
            _ => format!("INSERT INTO t VALUES ({id}, 'new') ON CONFLICT DO NOTHING"),
        };
        client.batch_execute(&sql).await.expect("write");
        writes += 1;
    }
    writes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_read_in_parts_under_load_is_exact() {
    let database = announced(TABLE).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(database.client().await, Arc::clone(&stop)));
    for _ in 0..3 {
        let connector = Counted::new(&database, Part::Opened);
        let mut driver = live(&database, &connector, options()).await;
        assert_eq!(connector.parts() as usize, JOBS - 1);
        verify(&mut driver).await;
        assert_eq!(connector.parts() as usize, 2 * (JOBS - 1), "compared");
        let closed = "SELECT FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'pgic test (reads)' HAVING count(*) <= 1";
        until_a_row(&database.client().await, closed).await;
    }
    stop.store(true, Relaxed);
    assert!(writer.await.unwrap() > 0);
}

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "t")]
struct T {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    v: String,
}

// The rows of each part are decoded by a thread of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_typed_table_that_is_read_in_parts_under_load_is_exact() {
    let more = "INSERT INTO t SELECT g, 'row ' || g FROM generate_series(20001, 40000) g;
        ANALYZE t";
    let database = announced(&format!("{TABLE} {more}")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(database.client().await, Arc::clone(&stop)));
    let connector = Counted::new(&database, Part::Opened);
    let mut builder = Replica::builder(connector.clone());
    builder.jobs(NonZeroUsize::new(JOBS).unwrap());
    let table = builder.model::<T>();
    let replica = builder.open().await.unwrap();
    assert_eq!(connector.parts() as usize, JOBS - 1);
    assert_verified(&replica, &table).await;
    stop.store(true, Relaxed);
    assert!(writer.await.unwrap() > 0);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_read_in_parts() {
    let partitioned = TABLE.replace(
        "v text);",
        "v text) PARTITION BY RANGE (id);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (3000);
        CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (3000) TO (3001);
        CREATE TABLE t3 PARTITION OF t DEFAULT;",
    );
    let database = announced(&partitioned).await;
    let connector = Counted::new(&database, Part::Opened);
    let mut driver = live(&database, &connector, options()).await;
    assert_eq!(connector.parts() as usize, JOBS - 1);
    verify(&mut driver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_tables_and_single_jobs_need_no_further_session() {
    let database = announced(TABLE).await;
    let connector = Counted::new(&database, Part::Opened);
    let mut one = options();
    one.read_by(1);
    let mut driver = live(&database, &connector, one).await;
    verify(&mut driver).await;
    assert_eq!(connector.parts(), 0, "one job");
    let client = database.client().await;
    let few = "TRUNCATE t; INSERT INTO t SELECT g, 'few' FROM generate_series(1, 9) g";
    client.batch_execute(few).await.unwrap();
    let connector = Counted::new(&database, Part::Opened);
    live(&database, &connector, options()).await;
    assert_eq!(connector.parts(), 0, "a small table");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sessions_for_parts_one_reads_all() {
    let database = Arc::new(announced(TABLE).await);
    let odd = [
        Part::Refused,
        Part::Hangs,
        Part::BehindMigration(Arc::clone(&database)),
    ];
    for part in odd {
        let connector = Counted::new(&database, part);
        let mut driver = live(&database, &connector, options()).await;
        assert!(connector.parts() > 0);
        verify(&mut driver).await;
        assert_eq!(driver.engine().counters().gaps, 0, "nothing else was lost");
    }
}

impl Elsewhere {
    /// Exports a snapshot on the other server under the name that the first one of ours has.
    ///
    /// A name begins with the virtual transaction's id: the number of the session's place, and of
    /// the transaction at that place.
    async fn export(&self) {
        let mut exported = self.exported.lock().await;
        if exported.is_some() {
            return;
        }
        let ours = self.ours.client().await;
        let names = "SELECT pg_ls_dir('pg_snapshots')";
        let name: String = ours.query_one(names, &[]).await.unwrap().get(0);
        let mut numbers = name
            .split('-')
            .map(|hex| i64::from_str_radix(hex, 16).unwrap());
        let (place, transaction) = (numbers.next().unwrap(), numbers.next().unwrap());
        // Each session takes the first place that is free.
        let mut before = Vec::new();
        let session = loop {
            let client = self.twin.client().await;
            let own = virtual_transaction(&client).await;
            if own.0 == place {
                assert!(own.1 < transaction - 1, "{} for {name}", own.1);
                break client;
            }
            assert!(own.0 < place, "the place {place} is taken");
            before.push(client);
        };
        while virtual_transaction(&session).await.1 < transaction - 1 {}
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        session.batch_execute(begin).await.unwrap();
        let export = "SELECT pg_export_snapshot()";
        let row = session.query_one(export, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), name);
        *exported = Some(session);
    }
}

/// Returns the two numbers of a transaction of a session.
async fn virtual_transaction(client: &Client) -> (i64, i64) {
    let sql = "SELECT split_part(virtualxid, '/', 1)::int8, split_part(virtualxid, '/', 2)::int8
        FROM pg_locks WHERE locktype = 'virtualxid' AND pid = pg_backend_pid()";
    let row = client.query_typed(sql, &[]).await.unwrap().remove(0);
    (row.get(0), row.get(1))
}

// Names of snapshots are not random: what another server has under such a name must not be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_the_same_name_on_another_server_is_none_of_ours() {
    // No worker takes a place.
    let settings = [("autovacuum", "off")];
    let (ours, twin) = (own_cluster(&settings), own_cluster(&settings));
    let name = "twins".to_string();
    let database = Database::on(&ours, name.clone()).await;
    database.client().await.batch_execute(TABLE).await.unwrap();
    // The places of our server have had more transactions than those of the other one.
    let mut places = Vec::new();
    for _ in 0..8 {
        let client = database.client().await;
        while virtual_transaction(&client).await.1 < 300 {}
        places.push(client);
    }
    drop(places);
    database.pgic_ok(&["install-triggers", "t"]);
    let twin = Database::on(&twin, name).await;
    let old = format!("{TABLE} UPDATE t SET v = 'old'");
    twin.client().await.batch_execute(&old).await.unwrap();
    let elsewhere = Arc::new(Elsewhere {
        ours: Database::on(&ours, "other".to_string()).await,
        twin,
        exported: Mutex::default(),
    });
    let connector = Counted::new(&database, Part::LeadsTo(Arc::clone(&elsewhere)));
    let mut driver = live(&database, &connector, options()).await;
    assert!(connector.parts() > 0);
    assert!(elsewhere.exported.lock().await.is_some());
    verify(&mut driver).await;
}

/// Ends a session that reads a part of the table, if there is one.
const END_PART: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'pgic test (reads)' \
    AND query LIKE 'COPY%ctid%' AND query NOT LIKE '%(0,0)%' AND state = 'active' LIMIT 1";

#[tokio::test(flavor = "multi_thread")]
async fn parts_whose_sessions_are_ended_are_read_again() {
    let database = announced(TABLE).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(database.client().await, Arc::clone(&stop)));
    let killing = database.client().await;
    let killer = tokio::spawn(async move {
        for _ in 0..5 {
            until_a_row(&killing, END_PART).await;
        }
    });
    while !killer.is_finished() {
        let connector = Counted::new(&database, Part::Opened);
        let mut driver = live(&database, &connector, options()).await;
        // Those that read and fence are not concerned.
        assert_eq!(driver.engine().counters().gaps, 0);
        let lost = driver
            .take_events()
            .find(|event| matches!(event, DriverEvent::AuxConnectionLost { .. }));
        assert!(lost.is_none(), "{lost:?}");
        // The session that is ended may be one of the comparison's.
        if matches!(driver.verify(TableId(0)).await, Ok(Verification::Compared(compared))
            if !compared.findings.is_empty())
        {
            panic!("the cache is not the table");
        }
    }
    killer.await.unwrap();
    stop.store(true, Relaxed);
    assert!(writer.await.unwrap() > 0);
}

/// A role that reads with these rights, and others.
async fn restricted(database: &Database, role: &str, rights: &str) -> Database {
    let client = database.client().await;
    let role = format!("{role}_{}", database.name);
    let sql = format!(
        "CREATE ROLE {role} LOGIN; {}",
        rights.replace("ROLE", &role)
    );
    client.batch_execute(&sql).await.unwrap();
    database.as_role(&role)
}

// To look at a row's place takes more rights than to read its columns.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_read_columns_alone_reads_by_one_session() {
    let database = announced(TABLE).await;
    let rights = "GRANT SELECT (id, v) ON t TO ROLE; GRANT INSERT, UPDATE, DELETE ON t TO ROLE";
    let role = restricted(&database, "columns", rights).await;
    let connector = Counted::new(&role, Part::Opened);
    let mut driver = live(&role, &connector, options()).await;
    assert_eq!(connector.parts(), 0);
    verify(&mut driver).await;
}

// The server may refuse what parts take, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_parts_is_read_by_one_session() {
    let database = announced(TABLE).await;
    let rights = "GRANT SELECT ON t TO ROLE;
        REVOKE EXECUTE ON FUNCTION pg_catalog.pg_table_size(regclass) FROM PUBLIC";
    let role = restricted(&database, "sizes", rights).await;
    let connector = Counted::new(&role, Part::Opened);
    let mut driver = live(&role, &connector, options()).await;
    assert_eq!(connector.parts(), 0);
    // Whoever asks once is answered all the same.
    let mut once = options();
    once.limits.reconnect = false;
    verify(&mut live(&role, &Counted::new(&role, Part::Opened), once).await).await;
    verify(&mut driver).await;
}

// The server ends sessions that are idle inside a transaction for a minute, and a part may take
// longer than the others by more than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_a_part_is_in_no_transaction() {
    // The last pages have the long rows.
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text);
        INSERT INTO t SELECT g, repeat(md5(g::text), CASE WHEN g > 9900 THEN 30000 ELSE 30 END)
            FROM generate_series(1, 10000) g";
    let database = announced(table).await;
    let client = database.client().await;
    let watch = async |stop: Arc<AtomicBool>| {
        let states = "SELECT q.state FROM pg_stat_activity q JOIN pg_stat_activity part
            ON part.application_name = 'pgic test (reads)' AND part.datname = q.datname
            AND part.query LIKE 'COPY%ctid%' AND part.query NOT LIKE '%(0,0)%'
            WHERE q.datname = current_database() AND q.application_name = 'pgic test (reads)'
            AND q.pid <> part.pid AND part.state = 'active'
            AND (q.query LIKE '%(0,0)%' OR q.query = 'COMMIT') AND q.state <> 'active'";
        let mut seen = Vec::new();
        while !stop.load(Relaxed) {
            let rows = client.query(states, &[]).await.unwrap();
            seen.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        seen
    };
    let mut two = options();
    two.read_by(2);
    // On a busy machine nobody may look while the part goes on alone.
    for _ in 0..20 {
        let stop = Arc::new(AtomicBool::new(false));
        let connector = Counted::new(&database, Part::Opened);
        let reading = async {
            live(&database, &connector, two.clone()).await;
            stop.store(true, Relaxed);
        };
        let (seen, ()) = tokio::join!(watch(Arc::clone(&stop)), reading);
        if seen.iter().any(|state| state == "idle") {
            return;
        }
    }
    panic!("it is never idle while the part goes on");
}
