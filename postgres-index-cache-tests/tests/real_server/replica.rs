//! [`Replica`], the library's own handle: an application's typed caches, on a real server.

use crate::support::{DEADLINE, Database, USERS};
use postgres_index_cache_core::tooling::postgres::{
    ComparisonReport, ConnectError, Connector, Events, FindingKind, OnMisfit, Replica,
    ReplicaBuilder, ReplicaError, ReplicaEvent, ReplicaStatus, ReplicaTable, RowChangeKind,
    Session, SessionPurpose, Verification,
};
use postgres_index_cache_core::tooling::sync::{AuxConnection, Limits};
use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct User {
    id: Uuid,
    username_hash: i64,
    email_hash: i64,
    /// A column that some tests add later.
    #[serde(default)]
    city: Option<String>,
}

impl User {
    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn hashes(&self) -> (i64, i64) {
        (self.username_hash, self.email_hash)
    }

    pub fn username_hash(&self) -> i64 {
        self.username_hash
    }
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("username_hash".to_string(), Some(self.username_hash))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Returns a builder whose heartbeat is short, so that looks find DDL soon. The replica's sessions
/// are called `node`, `node (fences)` and `node (reads)`.
pub fn builder(database: &Database) -> ReplicaBuilder {
    let mut config: tokio_postgres::Config = database.url.parse().unwrap();
    config.application_name("node");
    let mut limits = Limits::default();
    limits.heartbeat = Duration::from_millis(100);
    limits.fence_timeout = DEADLINE;
    let mut builder = Replica::builder(config);
    builder.limits(limits);
    builder
}

/// Creates a database with `users` and triggers, runs `sql` in it, and opens a replica.
pub async fn with_users(sql: &str) -> (Database, Client, Replica, ReplicaTable<User>) {
    let database = Database::with(&format!("{USERS}{sql}")).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut builder = builder(&database);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    (database, client, replica, users)
}

/// Waits until everything that was committed before is in every cache.
pub async fn fence(replica: &Replica) {
    tokio::time::timeout(DEADLINE, replica.fence())
        .await
        .expect("a fence comes back")
        .unwrap();
}

/// Skips the events for which `wanted` returns `None`, and returns the first other result.
async fn event<T>(events: &mut Events, wanted: impl Fn(&ReplicaEvent) -> Option<T>) -> T {
    tokio::time::timeout(DEADLINE, async {
        loop {
            let event = events.next().await.expect("there are more events");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
    .await
    .expect("the event comes")
}

/// Returns the key of an event's row, and what has become of the row.
fn row(event: &ReplicaEvent) -> Option<(Uuid, RowChangeKind)> {
    match event {
        ReplicaEvent::Row { key, change, .. } => Some((key.as_uuid().unwrap(), *change)),
        _ => None,
    }
}

/// Returns whether an event says that a table is stale.
fn stale(event: &ReplicaEvent) -> Option<()> {
    stale_for(event, "")
}

/// Returns whether an event says that everything is live.
fn live(event: &ReplicaEvent) -> Option<()> {
    matches!(event, ReplicaEvent::Live).then_some(())
}

/// Returns whether an event says that a table is stale, for a reason that contains `reason`.
fn stale_for(event: &ReplicaEvent, reason: &str) -> Option<()> {
    matches!(event, ReplicaEvent::Stale { why, .. } if why.contains(reason)).then_some(())
}

/// Returns the error of an event that says that the replica has ended.
fn ended(event: &ReplicaEvent) -> Option<Arc<ReplicaError>> {
    match event {
        ReplicaEvent::Ended { error } => Some(Arc::clone(error)),
        _ => None,
    }
}

/// The promise to a request that writes and then reads: after a fence the cache has the write, in
/// every index.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_reads_what_it_wrote() {
    let (_database, client, replica, users) = with_users(
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 500) n;",
    )
    .await;
    assert!(replica.is_live());
    assert_eq!(replica.read(&users).len(), 500);
    let mut events = replica.events();
    // Each change is looked for under the old and the new value of the index.
    for (sql, became) in [
        (
            "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 7000, 1)",
            RowChangeKind::Added,
        ),
        (
            "UPDATE users SET username_hash = 7001 WHERE username_hash = 7000",
            RowChangeKind::Changed,
        ),
        (
            "DELETE FROM users WHERE username_hash = 7001",
            RowChangeKind::Removed,
        ),
    ] {
        client.batch_execute(sql).await.unwrap();
        fence(&replica).await;
        let reading = replica.read(&users);
        assert!(reading.is_live());
        reading.validate().unwrap();
        let found = [7000, 7001].map(|hash| {
            let keys = reading.get_by_i64_index("username_hash", &hash);
            keys.into_iter().flatten().count()
        });
        let expected = match became {
            RowChangeKind::Added => [1, 0],
            RowChangeKind::Changed => [0, 1],
            RowChangeKind::Removed => [0, 0],
        };
        assert_eq!(found, expected, "{sql}");
        drop(reading);
        assert_eq!(event(&mut events, row).await, (id(1), became));
    }
    let stats = replica.stats();
    assert!(
        stats.counters.applied == 3 && stats.last_xid.is_some() && stats.lag.is_some(),
        "{stats:?}"
    );
    // Rows too long to send are read again, and TRUNCATE empties the cache.
    client
        .batch_execute("ALTER TABLE users ADD city text")
        .await
        .unwrap();
    client
        .batch_execute("UPDATE users SET city = repeat('x', 9000) WHERE username_hash = 3")
        .await
        .unwrap();
    fence(&replica).await;
    client.batch_execute("TRUNCATE users").await.unwrap();
    fence(&replica).await;
    assert!(replica.read(&users).is_empty());
    replica.shutdown().await;
}

/// Compares a cache with its table, again if a comparison is inconclusive.
async fn compare(replica: &Replica, users: &ReplicaTable<User>) -> ComparisonReport {
    loop {
        let verified = tokio::time::timeout(DEADLINE, replica.verify(users))
            .await
            .expect("a comparison ends")
            .unwrap();
        if let Verification::Compared(comparison) = verified {
            return comparison;
        }
    }
}

/// `verify` is for production: a node compares a cache while the cache serves, and names each row
/// that differs.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_verifies_its_own_cache() {
    let (_database, client, replica, users) = with_users(
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 300) n;",
    )
    .await;
    client
        .batch_execute("UPDATE users SET email_hash = -1 WHERE username_hash < 9")
        .await
        .unwrap();
    let comparison = compare(&replica, &users).await;
    assert_eq!((comparison.rows, comparison.differing()), (300, 0));
    // As `replica` the session's writes fire no trigger.
    let silent =
        "SET session_replication_role = replica; DELETE FROM users WHERE username_hash = 1;
        UPDATE users SET email_hash = 0 WHERE username_hash = 2;
        INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000009', 0, 0)";
    client.batch_execute(silent).await.unwrap();
    let comparison = compare(&replica, &users).await;
    let mut kinds: Vec<FindingKind> = comparison.findings.iter().map(|found| found.kind).collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [FindingKind::Missing, FindingKind::Stale, FindingKind::Ghost]
    );
    replica.shutdown().await;
}

/// Nothing that is committed while L is lost is ever announced. The rows of the next read are
/// compared with the old ones, so that an application hears of each row as if it had been
/// announced. F's loss alone is not a gap: L goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_makes_it_stale_and_what_changed_in_it_is_told() {
    let (database, client, replica, users) = with_users(
        "INSERT INTO users SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, \
            '0'))::uuid, n, n FROM generate_series(1, 9) n;",
    )
    .await;
    let mut events = replica.events();
    // In one transaction the listener is ended and rows are changed: nobody hears of those.
    let sql = "BEGIN; UPDATE users SET email_hash = 0 WHERE username_hash = 1; DELETE FROM users \
        WHERE username_hash = 2;
        INSERT INTO users VALUES ('00000000-0000-0000-0000-0000000000aa', 10, 10);
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'node' AND \
        datname = current_database();
        COMMIT";
    client.batch_execute(sql).await.unwrap();
    event(&mut events, stale).await;
    let reading = replica.read(&users);
    assert!(reading.len() >= 9, "the old rows stay readable");
    drop(reading);
    // The order of the rows is that of the read.
    let mut told = BTreeMap::new();
    for _ in 0..3 {
        let (key, became) = event(&mut events, row).await;
        told.insert(key, became);
    }
    assert_eq!(
        told,
        BTreeMap::from([
            (id(1), RowChangeKind::Changed),
            (id(2), RowChangeKind::Removed),
            (id(0xaa), RowChangeKind::Added)
        ])
    );
    event(&mut events, live).await;
    fence(&replica).await;
    assert_eq!(replica.read(&users).len(), 9);
    assert!(replica.is_live());
    // The loss of the connection for fences alone.
    let end_fences = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
        application_name = 'node (fences)' AND datname = current_database()";
    client.batch_execute(end_fences).await.unwrap();
    let lost = event(&mut events, |event| match event {
        ReplicaEvent::AuxConnectionLost { via, .. } => Some(*via),
        ReplicaEvent::Stale { why, .. } => panic!("it is stale: {why}"),
        _ => None,
    });
    assert_eq!(lost.await, AuxConnection::Fences);
    fence(&replica).await;
    assert!(replica.is_live());
    drop(database);
}

/// Returns the city of the user 1, if there is one.
fn city(replica: &Replica, users: &ReplicaTable<User>) -> Option<String> {
    replica
        .read(users)
        .get_by_primary(&id(1))
        .and_then(|user| user.city.clone())
}

/// Returns the email hash of the user 1, who is there.
fn email_hash(replica: &Replica, users: &ReplicaTable<User>) -> i64 {
    let reading = replica.read(users);
    reading.get_by_primary(&id(1)).unwrap().email_hash
}

/// A migration must not end what runs: columns come and go, a table is renamed and comes back. Only
/// while the table is gone is the cache stale, with the cause, and readable.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_is_followed_on() {
    let (database, client, replica, users) =
        with_users("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);")
            .await;
    let mut events = replica.events();
    client
        .batch_execute("ALTER TABLE users ADD city text DEFAULT 'Rome'")
        .await
        .unwrap();
    event(&mut events, |event| {
        row(event).filter(|row| *row == (id(1), RowChangeKind::Changed))
    })
    .await;
    fence(&replica).await;
    assert_eq!(city(&replica, &users).as_deref(), Some("Rome"));
    client
        .batch_execute("UPDATE users SET city = 'Oslo'")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(city(&replica, &users).as_deref(), Some("Oslo"));
    // The trigger that was made for the old columns still announces, without the dropped column.
    client
        .batch_execute("ALTER TABLE users DROP city; UPDATE users SET email_hash = 5")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(city(&replica, &users), None);
    // Who names a table follows the name, not the renamed relation.
    client
        .batch_execute("ALTER TABLE users RENAME TO gone")
        .await
        .unwrap();
    event(&mut events, |event| {
        stale_for(event, "the table public.users does not exist")
    })
    .await;
    assert!(!replica.is_live() && matches!(replica.status(), ReplicaStatus::Stale { .. }));
    assert_eq!(replica.read(&users).len(), 1);
    client
        .batch_execute("ALTER TABLE gone RENAME TO users; UPDATE users SET email_hash = 6")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(email_hash(&replica, &users), 6);
    drop(database);
}

/// A connector that lets a test decide when a table is described: each description needs a permit.
struct Gated {
    config: tokio_postgres::Config,
    descriptions: Arc<tokio::sync::Semaphore>,
    /// How many of the next connections for a description fail.
    refusals: Arc<AtomicUsize>,
}

impl Connector for Gated {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        if role == SessionPurpose::Command {
            let refused = self
                .refusals
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                });
            if refused.is_ok() {
                return Err(std::io::Error::other("nobody is let in").into());
            }
            let permit = self.descriptions.acquire().await;
            permit.expect("the semaphore is open").forget();
        }
        Connector::connect(&self.config, role).await
    }
}

/// A replica of `users` whose descriptions wait for the test.
struct GatedReplica {
    database: Database,
    replica: Replica,
    users: ReplicaTable<User>,
    descriptions: Arc<tokio::sync::Semaphore>,
    refusals: Arc<AtomicUsize>,
}

impl GatedReplica {
    /// Opens the replica, whose table has the user 1.
    async fn open() -> Self {
        let database = Database::with(&format!(
            "{USERS} INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);"
        ))
        .await;
        database.pgic_ok(&["install-triggers", "users"]);
        let mut config: tokio_postgres::Config = database.url.parse().unwrap();
        config.application_name("node");
        // One permit: the table is described once in order to be opened.
        let descriptions = Arc::new(tokio::sync::Semaphore::new(1));
        let refusals = Arc::new(AtomicUsize::new(0));
        let mut limits = Limits::default();
        limits.heartbeat = Duration::from_millis(100);
        limits.fence_timeout = DEADLINE;
        let mut builder = Replica::builder(Gated {
            config,
            descriptions: Arc::clone(&descriptions),
            refusals: Arc::clone(&refusals),
        });
        builder.limits(limits);
        let users = builder.table::<User>("users");
        let replica = builder.open().await.unwrap();
        Self {
            database,
            replica,
            users,
            descriptions,
            refusals,
        }
    }
}

/// While a table is described again the cache is not live, and what the trigger sends counts for
/// nothing: the columns may be others. A task that waited for the description would meanwhile
/// answer no command and read no notification.
#[tokio::test(flavor = "multi_thread")]
async fn while_an_altered_table_is_described_changes_are_told_and_commands_answered() {
    let gated = GatedReplica::open().await;
    let GatedReplica { replica, users, .. } = &gated;
    let client = gated.database.client().await;
    let mut events = replica.events();
    client
        .batch_execute("ALTER TABLE users ADD COLUMN city text DEFAULT 'Rome'")
        .await
        .unwrap();
    event(&mut events, |event| {
        stale_for(event, "it is being described afresh")
    })
    .await;
    for sql in [
        "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000002', 2, 2)",
        "DELETE FROM users WHERE username_hash = 1",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    assert!(!replica.is_live() && !replica.read(users).is_live() && replica.read(users).len() == 1);
    tokio::select! {
        biased;
        reached = replica.fence() => panic!("a fence is reached while nothing is known: \
            {reached:?}"),
        () = std::future::ready(()) => {}
    }
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1)")
        .await
        .unwrap();
    gated.descriptions.add_permits(1);
    let mut told = Vec::new();
    while told.len() < 2 {
        told.push(event(&mut events, row).await);
    }
    told.sort_by_key(|(key, _)| *key);
    assert_eq!(
        told,
        [
            (id(1), RowChangeKind::Changed),
            (id(2), RowChangeKind::Added)
        ]
    );
    fence(replica).await;
    assert_eq!(city(replica, users).as_deref(), Some("Rome"));
}

/// A server that refuses connections for a while must not end what was live, and a description that
/// never comes must not keep the application from shutting down.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_is_refused_is_tried_again_and_one_that_never_comes_blocks_nothing() {
    let gated = GatedReplica::open().await;
    let client = gated.database.client().await;
    let mut events = gated.replica.events();
    gated.descriptions.add_permits(1);
    client
        .batch_execute("ALTER TABLE users ADD COLUMN city text")
        .await
        .unwrap();
    event(&mut events, stale).await;
    event(&mut events, live).await;
    // The column's type changes, so the rows go into another cache, and nobody is let in at first.
    gated.refusals.store(3, Ordering::SeqCst);
    gated.descriptions.add_permits(1);
    client
        .batch_execute("ALTER TABLE users ALTER city TYPE varchar(9)")
        .await
        .unwrap();
    event(&mut events, stale).await;
    event(&mut events, live).await;
    assert_eq!(gated.refusals.load(Ordering::SeqCst), 0);
    fence(&gated.replica).await;
    // No permit is left.
    client
        .batch_execute("ALTER TABLE users RENAME city TO town")
        .await
        .unwrap();
    event(&mut events, stale).await;
    let _asked = gated.replica.events();
    tokio::time::timeout(DEADLINE, gated.replica.shutdown())
        .await
        .expect("it ends at once");
}

/// A renamed column has the same values, so nothing seems to have changed. A model reads fields by
/// name: to the model every row is another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_column_is_called_is_part_of_what_the_model_is() {
    let database = Database::with(&format!(
        "{USERS} ALTER TABLE users ADD COLUMN town text; INSERT INTO users VALUES \
        ('00000000-0000-0000-0000-000000000001', 1, 1, 'Rome');"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut builder = builder(&database);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    assert_eq!(city(&replica, &users), None);
    let mut events = replica.events();
    client
        .batch_execute("ALTER TABLE users RENAME town TO city")
        .await
        .unwrap();
    assert_eq!(
        event(&mut events, row).await,
        (id(1), RowChangeKind::Changed)
    );
    fence(&replica).await;
    assert_eq!(city(&replica, &users).as_deref(), Some("Rome"));
    // A column is replaced while nobody listens, and then the trigger notifies on another channel.
    let gap = "BEGIN; ALTER TABLE users DROP COLUMN city; ALTER TABLE users ADD COLUMN city text \
        DEFAULT 'Oslo';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'node%' \
        AND datname = current_database(); COMMIT";
    client.batch_execute(gap).await.unwrap();
    database.pgic_ok(&["install-triggers", "users", "--channel", "elsewhere"]);
    let follows = async {
        loop {
            client
                .batch_execute("UPDATE users SET email_hash = email_hash + 1")
                .await
                .unwrap();
            fence(&replica).await;
            let reading = replica.read(&users);
            let user = reading.get_by_primary(&id(1)).unwrap();
            let stored = client.query_one("SELECT email_hash FROM users", &[]);
            if user.city.as_deref() == Some("Oslo") && user.email_hash > 100 {
                drop(reading);
                break stored.await.unwrap().get::<_, i64>(0);
            }
        }
    };
    let stored = tokio::time::timeout(DEADLINE, follows)
        .await
        .expect("it follows the new column and channel");
    assert_eq!(email_hash(&replica, &users), stored);
    let verified = tokio::time::timeout(DEADLINE, replica.verify(&users))
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(&verified, Verification::Compared(comparison) if comparison.differing() == 0),
        "{verified:?}"
    );
}

/// Returns the error of a replica of the table `name`, which cannot be opened.
async fn refusal(database: &Database, name: &str) -> ReplicaError {
    let mut builder = builder(database);
    let _table = builder.table::<User>(name);
    let opened = builder.open().await;
    opened.map(|_| ()).unwrap_err()
}

/// An application chooses by the kind of the error: a missing table is somebody else's fault, a key
/// of another type a bug of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_refused_by_its_kind() {
    let database = Database::with(&format!(
        "{USERS}
        CREATE TABLE numbered (id int PRIMARY KEY);
        CREATE VIEW seen AS SELECT * FROM users;
"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "numbered"]);
    let error = refusal(&database, "nowhere").await;
    assert!(matches!(error, ReplicaError::NoTable(_)), "{error}");
    let error = refusal(&database, "numbered").await;
    assert!(matches!(error, ReplicaError::KeyNotUuid(_)), "{error}");
    let error = refusal(&database, "seen").await;
    // The text of the error has the remedy: an application may log the text alone.
    assert_eq!(
        error.to_string(),
        "public.seen is a view; name the tables under it"
    );
    let error = refusal(&database, "users").await;
    let ReplicaError::Follow { error } = error else {
        panic!("{error}")
    };
    assert_eq!(
        error.hint().unwrap(),
        "install them: pgic install-triggers public.users"
    );
}

/// A disabled trigger announces nothing, not even that. A migration that disables triggers for an
/// hour used to end every node for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_is_disabled_is_stale_by_name_and_healed_when_it_is_enabled() {
    let (_database, client, replica, users) = with_users("").await;
    let mut events = replica.events();
    client
        .batch_execute("ALTER TABLE users DISABLE TRIGGER users_cache_notify")
        .await
        .unwrap();
    event(&mut events, |event| {
        stale_for(
            event,
            "the trigger users_cache_notify of public.users is disabled",
        )
    })
    .await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1)")
        .await
        .unwrap();
    assert!(!replica.is_live());
    client
        .batch_execute("ALTER TABLE users ENABLE TRIGGER users_cache_notify")
        .await
        .unwrap();
    fence(&replica).await;
    assert!(replica.is_live() && replica.read(&users).len() == 1);
}

/// A model that refuses rows in every way: an unknown label, a NULL, a number that is too large,
/// and numbers over which the model's own code panics.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Picky {
    id: Uuid,
    mood: Mood,
    number: i32,
    #[serde(default)]
    doc: serde_json::Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mood {
    Ok,
    Sad,
}

impl HasPrimaryKey for Picky {
    fn primary_key(&self) -> Uuid {
        assert!(self.number != 666, "the model's own code panics over 666");
        self.id
    }
}

impl Indexable for Picky {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        assert!(self.number != 777, "its index values panic over 777");
        HashMap::from([("number".to_string(), Some(i64::from(self.number)))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// A table in which no row but that of the key 1 fits [`Picky`].
const PICKED: &str = "CREATE TYPE mood AS ENUM ('ok', 'sad', 'furious');
    CREATE TABLE picked (id uuid PRIMARY KEY, mood mood, number bigint, doc jsonb);
    INSERT INTO picked VALUES ('00000000-0000-0000-0000-000000000001', 'ok', 1, NULL),
        ('00000000-0000-0000-0000-000000000002', 'furious', 2, NULL), \
        ('00000000-0000-0000-0000-000000000003', NULL, 3, NULL),
        ('00000000-0000-0000-0000-000000000004', 'sad', 4000000000, NULL),
        ('00000000-0000-0000-0000-000000000005', 'ok', 5, (repeat('[', 200) || repeat(']', \
        200))::jsonb),
        ('00000000-0000-0000-0000-000000000006', 'ok', 666, NULL), \
        ('00000000-0000-0000-0000-000000000007', 'ok', 777, NULL);";

/// A row that a replica keeps out.
#[derive(Debug)]
struct Misfit {
    key: Uuid,
    why: String,
}

/// Returns the rows that a replica keeps out of a cache.
fn misfits(replica: &Replica, picked: &ReplicaTable<Picky>) -> Vec<Misfit> {
    let reading = replica.read(picked);
    reading
        .misfits()
        .map(|(key, why)| Misfit {
            key: key.as_uuid().unwrap(),
            why: why.to_string(),
        })
        .collect()
}

/// Returns the row of an event that says that a row is kept out.
fn misfit(event: &ReplicaEvent) -> Option<Misfit> {
    match event {
        ReplicaEvent::Misfit { key, why, .. } => Some(Misfit {
            key: key.as_uuid().unwrap(),
            why: why.to_string(),
        }),
        _ => None,
    }
}

/// One row that does not fit used to end the replica on every node at once. Now the row is kept out
/// of the cache, named and counted, and the table is degraded until the row fits or is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_the_model_is_kept_out_counted_and_taken_in_when_it_fits() {
    let database = Database::with(PICKED).await;
    database.pgic_ok(&["install-triggers", "picked"]);
    let mut builder = builder(&database);
    let picked = builder.table::<Picky>("picked");
    let replica = builder
        .open()
        .await
        .expect("one row's fault is not everybody's");
    let client = database.client().await;
    let expected = [
        (2, "unknown variant `furious`"),
        (3, "expected value"),
        (4, "invalid value: integer `4000000000`"),
        (5, "recursion limit exceeded"),
        (
            6,
            "the model panicked: the model's own code panics over 666",
        ),
        (7, "the model panicked: its index values panic over 777"),
    ];
    let found = misfits(&replica, &picked);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (misfit, (key, why)) in found.iter().zip(expected) {
        assert!(
            misfit.key == id(key) && misfit.why.contains(why),
            "{misfit:?}"
        );
    }
    let reading = replica.read(&picked);
    assert!(reading.len() == 1 && !reading.is_live() && reading.is_current());
    drop(reading);
    let status = replica.status();
    let ReplicaStatus::Degraded { table, why } = &status else {
        panic!("{status:?}")
    };
    assert!(
        &**table == "picked" && why.contains("6 rows do not fit"),
        "{status:?}"
    );
    // A row that changes is kept out and taken in as one that is read. Fences go on meanwhile: a
    // caller must not wait for a row that may never fit.
    let mut events = replica.events();
    client
        .batch_execute("UPDATE picked SET number = 666 WHERE number = 1")
        .await
        .unwrap();
    fence(&replica).await;
    let misfit = event(&mut events, misfit).await;
    assert!(
        misfit.key == id(1) && misfit.why.contains("panics over 666"),
        "{misfit:?}"
    );
    assert!(replica.read(&picked).is_empty() && misfits(&replica, &picked).len() == 7);
    let comparison = match replica.verify(&picked).await.unwrap() {
        Verification::Compared(comparison) => comparison,
        Verification::Inconclusive(why) => panic!("nothing else goes on: {why}"),
    };
    // A row that is kept out is not one that differs.
    assert_eq!(
        (comparison.rows, comparison.differing(), comparison.kept_out),
        (7, 0, 7)
    );
    client
        .batch_execute(
            "UPDATE picked SET mood = 'sad', number = 5, doc = NULL; DELETE FROM \
        picked WHERE id = '00000000-0000-0000-0000-000000000003'",
        )
        .await
        .unwrap();
    fence(&replica).await;
    assert!(misfits(&replica, &picked).is_empty() && replica.is_live());
    let reading = replica.read(&picked);
    assert!(reading.is_live() && reading.len() == 6 && reading.validate().is_ok());
    assert_eq!(
        reading
            .get_by_i64_index("number", &5)
            .map(|keys| keys.len()),
        Some(6)
    );
    drop(reading);
    // A row that is deleted in a gap, or by TRUNCATE, is not counted any more.
    client
        .batch_execute("UPDATE picked SET mood = 'furious'")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(misfits(&replica, &picked).len(), 6);
    let gap = "BEGIN; DELETE FROM picked WHERE id < '00000000-0000-0000-0000-000000000006';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'node' AND \
        datname = current_database(); COMMIT";
    client.batch_execute(gap).await.unwrap();
    fence(&replica).await;
    assert_eq!(misfits(&replica, &picked).len(), 2);
    client.batch_execute("TRUNCATE picked").await.unwrap();
    fence(&replica).await;
    assert!(misfits(&replica, &picked).is_empty() && replica.is_live());
}

/// An application may want no cache rather than one without some rows. The table is then stale
/// while such a row is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_misfit_can_be_refused_instead_and_heals_when_the_row_fits() {
    let database = Database::with(PICKED).await;
    database.pgic_ok(&["install-triggers", "picked"]);
    let mut refusing = builder(&database);
    refusing.on_misfit(OnMisfit::Refuse);
    let _picked = refusing.table::<Picky>("picked");
    let refused = refusing.open().await.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, ReplicaError::Driver(_)), "{refused}");
    let client = database.client().await;
    client
        .batch_execute("DELETE FROM picked WHERE number <> 1")
        .await
        .unwrap();
    let mut refusing = builder(&database);
    refusing.on_misfit(OnMisfit::Refuse);
    let picked = refusing.table::<Picky>("picked");
    let replica = refusing.open().await.unwrap();
    let mut events = replica.events();
    client
        .batch_execute("UPDATE picked SET mood = 'furious'")
        .await
        .unwrap();
    event(&mut events, |event| {
        stale_for(event, "unknown variant `furious`")
    })
    .await;
    assert!(!replica.is_live() && replica.read(&picked).len() == 1);
    client
        .batch_execute("UPDATE picked SET mood = 'sad'")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(
        replica
            .read(&picked)
            .get_by_primary(&id(1))
            .map(|row| row.mood),
        Some(Mood::Sad)
    );
}

/// A model that panics when its row 1 is dropped: no cache can keep such a row out.
#[derive(Debug, Deserialize)]
struct Bomb {
    id: Uuid,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.id != id(1), "it goes off");
    }
}

impl HasPrimaryKey for Bomb {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Bomb {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::new()
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// A panic in the model's code used to leave a dead task behind, whose last status was live for
/// ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_in_any_way_is_ended_for_all_who_ask_or_wait() {
    let (database, client, replica, users) = with_users("").await;
    let mut events = replica.events();
    replica.shutdown().await;
    let error = event(&mut events, ended).await;
    assert!(matches!(&*error, ReplicaError::ShutDown), "{error}");
    assert!(events.next().await.is_none(), "there are no more events");
    drop(users);
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1)")
        .await
        .unwrap();
    let mut builder = builder(&database);
    let bombs = builder.table::<Bomb>("users");
    let replica = builder.open().await.unwrap();
    let mut events = replica.events();
    assert!(replica.is_live() && replica.read(&bombs).is_live());
    client.batch_execute("DELETE FROM users").await.unwrap();
    // The removal of the row panics in the replica's task, while a caller waits.
    let error = tokio::time::timeout(DEADLINE, replica.fence())
        .await
        .expect("who waits is told")
        .unwrap_err();
    assert!(
        matches!(&*error, ReplicaError::Panicked(why) if why == "it goes off"),
        "{error}"
    );
    assert!(matches!(replica.status(), ReplicaStatus::Ended { .. }) && !replica.is_live());
    assert!(matches!(
        replica.read(&bombs).status(),
        ReplicaStatus::Ended { .. }
    ));
    event(&mut events, ended).await;
    assert!(events.next().await.is_none());
    // A receiver that begins only now is told of the end too.
    event(&mut replica.events(), ended).await;
}

/// Handles of two replicas have the same type. A mixed-up handle must be an error, not the rows of
/// whichever table has the same number.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_replica_is_never_live() {
    let (database, client, replica, users) = with_users("").await;
    let mut other_builder = builder(&database);
    let other_users = other_builder.table::<User>("users");
    let other = other_builder.open().await.unwrap();
    let reading = replica.read(&other_users);
    assert!(!reading.is_live() && !reading.is_current());
    let ReplicaStatus::Ended { error } = reading.status() else {
        panic!("{:?}", reading.status())
    };
    assert!(matches!(**error, ReplicaError::OtherReplica), "{error}");
    drop(reading);
    let refused = replica.fence_for(&other_users).await.unwrap_err();
    assert!(matches!(*refused, ReplicaError::OtherReplica), "{refused}");
    let refused = replica.verify(&other_users).await.map(|_| ()).unwrap_err();
    assert!(matches!(*refused, ReplicaError::OtherReplica), "{refused}");
    assert!(replica.read(&users).is_live() && other.read(&other_users).is_live());
    drop(client);
}

/// A forged notification that asks for `users` to be read again.
const RELOAD: &str = concat!(
    r#"NOTIFY cache_invalidation, '{"table":"users","action":"reload","#,
    r#""id":null,"schema":"public","why":"x"}'"#
);

/// Any role can ask for a reload, any number of times. Reads keep a distance then, the state names
/// the sender, and whoever waits for a fence gets an answer all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_to_be_read_again_and_again_is_degraded_with_the_cause() {
    let (_database, client, replica, users) = with_users(
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 5000) n;",
    )
    .await;
    let mut events = replica.events();
    let degraded = event(&mut events, |event| match event {
        ReplicaEvent::Degraded { table, why } => Some((table.to_string(), why.to_string())),
        _ => None,
    });
    let asking = async {
        loop {
            client.batch_execute(RELOAD).await.unwrap();
        }
    };
    let (table, why) = tokio::select! {
        degraded = degraded => degraded,
        () = asking => unreachable!("it asks without end"),
    };
    assert_eq!(table.as_str(), "users");
    assert!(
        why.starts_with("a notification asks for it: x (sent by process "),
        "{why}"
    );
    fence(&replica).await;
    assert_eq!(replica.read(&users).len(), 5000);
    // Once nobody asks any more, the table is read a last time and becomes live.
    while !replica.read(&users).is_live() {
        fence(&replica).await;
    }
}

/// 1. A read finds that another table has the name, and fails. That is an error of our own, which
///    ends no transaction on the server.
/// 2. The transaction keeps its lock on the table until the next read, and there is none before the
///    table is mended.
/// 3. The migration that swaps the tables back waits for that lock, for ever.
///
/// So a read's transaction is ended as soon as the read fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_swapped_before_it_is_read_is_not_locked_against_who_mends_it() {
    let (_database, client, replica, users) =
        with_users("CREATE TABLE next (LIKE users INCLUDING ALL);").await;
    let mut events = replica.events();
    // The notification makes the replica read at once, before any look has seen the swap.
    let swap = format!(
        "BEGIN; ALTER TABLE users RENAME TO before; ALTER TABLE next RENAME TO users; {RELOAD}; \
        COMMIT"
    );
    client.batch_execute(&swap).await.unwrap();
    event(&mut events, |event| {
        matches!(event, ReplicaEvent::Stale { table: Some(_), .. }).then_some(())
    })
    .await;
    // Without the end of the read's transaction this waits for its lock, and fails after ten
    // seconds.
    let swap_back = "SET lock_timeout = '10s'; BEGIN; ALTER TABLE users RENAME TO next; ALTER \
        TABLE before RENAME TO users; COMMIT";
    client.batch_execute(swap_back).await.unwrap();
    fence(&replica).await;
    assert!(replica.read(&users).is_live());
}

/// TRUNCATE gives a table new files, and so does a rewrite. New files that an announced TRUNCATE
/// explains must not hide a rewrite in the same transaction: its columns tell, since ALTER TABLE
/// touches them and TRUNCATE does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_behind_a_truncate_of_the_same_transaction_is_seen() {
    let (_database, client, replica, users) = with_users("").await;
    let rewrite = "BEGIN; TRUNCATE users; INSERT INTO users VALUES \
        ('00000000-0000-0000-0000-000000000001', 1, 10);
        ALTER TABLE users ALTER email_hash TYPE bigint USING email_hash + 1; COMMIT";
    client.batch_execute(rewrite).await.unwrap();
    fence(&replica).await;
    let reading = replica.read(&users);
    assert!(reading.is_live());
    assert_eq!(
        reading
            .iter()
            .map(|user| user.email_hash)
            .collect::<Vec<_>>(),
        [11]
    );
    drop(reading);
    // A TRUNCATE alone explains the new files, and nothing is read again; unless a look has seen
    // the files before the announcement arrived, which costs one reload.
    let reads = replica.stats().counters.reloads;
    client
        .batch_execute(
            "BEGIN; TRUNCATE users; INSERT INTO users VALUES \
            ('00000000-0000-0000-0000-000000000002', 1, 10); COMMIT",
        )
        .await
        .unwrap();
    fence(&replica).await;
    fence(&replica).await;
    assert!(replica.read(&users).is_live());
    assert!(replica.stats().counters.reloads <= reads + 1);
}

/// 1. A description finds a table by its name, and then asks for its triggers.
/// 2. In between the table is renamed, and another one gets the name.
/// 3. The description fits the first table, which would be followed under the name of the second.
///
/// So the name must still be the table's when the description is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_loses_its_name_while_it_is_described_is_not_taken_for_its_successor() {
    let two = format!(
        "{USERS} CREATE TABLE users_new (LIKE users INCLUDING ALL);
         INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);
         INSERT INTO users_new VALUES ('00000000-0000-0000-0000-000000000002', 2, 2);"
    );
    let database = Database::with(&two).await;
    // The generic function is not made for one table, so that nothing but the name can tell the two
    // tables apart.
    database.pgic_ok(&["install-triggers", "--generic", "users", "users_new"]);
    let mut builder = builder(&database);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let mut events = replica.events();
    let client = database.client().await;
    let other = database.client().await;
    client
        .batch_execute("ALTER TABLE users DISABLE TRIGGER USER")
        .await
        .unwrap();
    event(&mut events, |event| stale_for(event, "is disabled")).await;
    // The lock stops the next description between its two questions.
    client
        .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_subscription_rel IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
        wait_event_type = 'Lock'
        AND query LIKE '%Takes the fingerprints of tables%' AND application_name = 'node'";
    let until_it_waits = async {
        while other.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, until_it_waits)
        .await
        .expect("it is described again");
    client
        .batch_execute(
            "ALTER TABLE users ENABLE TRIGGER USER; ALTER TABLE users RENAME TO users_old;
             ALTER TABLE users_new RENAME TO users; COMMIT",
        )
        .await
        .unwrap();
    fence(&replica).await;
    let reading = replica.read(&users);
    assert!(reading.is_live(), "{:?}", reading.status());
    assert_eq!(
        reading.iter().map(|user| user.id).collect::<Vec<_>>(),
        [id(2)]
    );
}

/// All tables used to be described together: a privilege that one table lacked kept every other
/// table stale.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_table_s_name_leaves_the_others_alone() {
    // A role of its own: the superuser of the other tests lacks no privilege.
    let role =
        "CREATE ROLE one_table_s_node LOGIN; GRANT USAGE ON SCHEMA s1, s2 TO one_table_s_node;
        GRANT SELECT ON s1.users, s2.users TO one_table_s_node;";
    let tables = ["s1", "s2"].map(|schema| {
        format!(
            "CREATE SCHEMA {schema}; {}",
            USERS.replace("TABLE users", &format!("TABLE {schema}.users"))
        )
    });
    let database = Database::with(&format!("{}{role}", tables.concat())).await;
    database.pgic_ok(&["install-triggers", "s1.users", "s2.users"]);
    let mut config: tokio_postgres::Config = database
        .url
        .replace("postgres@", "one_table_s_node@")
        .parse()
        .unwrap();
    config.application_name("node");
    let mut builder = Replica::builder(config);
    let mut limits = Limits::default();
    limits.heartbeat = Duration::from_millis(100);
    builder.limits(limits);
    let first = builder.table::<User>("s1.users");
    let second = builder.table::<User>("s2.users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    client
        .batch_execute("REVOKE USAGE ON SCHEMA s1 FROM one_table_s_node")
        .await
        .unwrap();
    client
        .batch_execute("ALTER TABLE s2.users ADD COLUMN city text")
        .await
        .unwrap();
    client
        .batch_execute(
            "INSERT INTO s2.users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1, 'Ulm')",
        )
        .await
        .unwrap();
    let is_followed_on = async {
        loop {
            let reading = replica.read(&second);
            if reading.is_live()
                && reading
                    .iter()
                    .any(|user| user.city.as_deref() == Some("Ulm"))
            {
                break;
            }
            drop(reading);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, is_followed_on)
        .await
        .expect("the other table is followed on");
    // The table whose schema is closed keeps the rows that it had: none.
    assert!(replica.read(&first).is_empty());
    replica.shutdown().await;
    client
        .batch_execute("DROP OWNED BY one_table_s_node; DROP ROLE one_table_s_node")
        .await
        .unwrap();
}

/// `users` without a schema is looked up in the search path once, when the replica is opened. A
/// table that anybody creates in a schema of that path later must not take its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_same_name_that_comes_before_it_in_the_search_path_is_another_one() {
    let (_database, client, replica, users) = with_users("").await;
    client
        .batch_execute(
            "CREATE SCHEMA postgres; CREATE TABLE postgres.users (LIKE public.users INCLUDING ALL)",
        )
        .await
        .unwrap();
    // Any DDL makes the table be described again.
    client
        .batch_execute("ALTER TABLE public.users ADD COLUMN city text")
        .await
        .unwrap();
    let insert = "INSERT INTO public.users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1)";
    client.batch_execute(insert).await.unwrap();
    fence(&replica).await;
    let reading = replica.read(&users);
    assert!(
        reading.is_live() && reading.len() == 1,
        "{:?}",
        reading.status()
    );
}

/// A table whose trigger notifies on another channel used to make every table stale: L connected
/// again in order to LISTEN there.
#[tokio::test(flavor = "multi_thread")]
async fn another_channel_of_one_table_leaves_the_others_live() {
    let database = Database::with(&format!(
        "{USERS} CREATE TABLE other (LIKE users INCLUDING ALL);"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "users", "other"]);
    let mut builder = builder(&database);
    let users = builder.table::<User>("users");
    let other = builder.table::<User>("other");
    let replica = builder.open().await.unwrap();
    let mut events = replica.events();
    let client = database.client().await;
    database.pgic_ok(&["install-triggers", "other", "--channel", "another"]);
    client
        .batch_execute("INSERT INTO other VALUES ('00000000-0000-0000-0000-000000000001', 1, 1)")
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(ReplicaEvent::Row { .. })) {
        seen.push(
            tokio::time::timeout(DEADLINE, events.next())
                .await
                .expect("the row comes")
                .expect("nothing ends it"),
        );
    }
    for event in &seen {
        if let ReplicaEvent::Stale { table, .. } = event {
            assert_eq!(table.as_deref(), Some("other"), "{seen:?}");
        }
    }
    fence(&replica).await;
    client
        .batch_execute("INSERT INTO other VALUES ('00000000-0000-0000-0000-000000000002', 1, 1)")
        .await
        .unwrap();
    fence(&replica).await;
    assert!(
        replica.read(&users).is_live()
            && replica.read(&other).len() == 2
            && replica.stats().counters.gaps == 0
    );
    // A function whose channel cannot be found out makes one table stale, until somebody installs
    // the triggers again.
    let nowhere =
        "CREATE FUNCTION notify_cache_change_nowhere() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN EXECUTE 'SELECT pg_notify(''cache_invalidation'', $1)' USING 'x'; RETURN NULL; \
            END$$;
        DROP TRIGGER other_cache_notify ON other;
        CREATE TRIGGER other_cache_notify AFTER INSERT OR UPDATE OR DELETE ON other
            FOR EACH ROW EXECUTE FUNCTION notify_cache_change_nowhere()";
    client.batch_execute(nowhere).await.unwrap();
    event(&mut events, |event| stale_for(event, "on which channel")).await;
    tokio::time::timeout(DEADLINE, replica.fence_for(&users))
        .await
        .expect("the others go on")
        .unwrap();
    client
        .batch_execute("DROP TRIGGER other_cache_notify ON other")
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "other"]);
    fence(&replica).await;
    assert!(replica.is_live() && replica.stats().counters.gaps == 0);
}

/// A reader that keeps a cache locked for long must not cost memory without bound. The changes that
/// wait are dropped first: a read brings them back.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_past_the_memory_allowed_is_dropped_and_the_table_read_again() {
    let database = Database::with(&format!(
        "{USERS} ALTER TABLE users ADD COLUMN city text;
         INSERT INTO users SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, n, \
         0 FROM generate_series(1, 1000) n;"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut builder = builder(&database);
    builder.max_memory(1 << 20);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    let mut events = replica.events();
    let held = replica.read(&users);
    // Two megabytes wait for the lock, and one is allowed.
    client
        .batch_execute("UPDATE users SET city = repeat('x', 2000)")
        .await
        .unwrap();
    let why = event(&mut events, |event| match event {
        ReplicaEvent::ReloadScheduled { why, .. } => Some(why.to_string()),
        _ => None,
    });
    assert_eq!(why.await, "there was no memory for the changes that waited");
    assert!(held.iter().all(|user| user.city.is_none()) && !replica.is_live());
    drop(held);
    fence(&replica).await;
    let reading = replica.read(&users);
    assert!(
        reading.is_live()
            && reading
                .iter()
                .all(|user| user.city.as_ref().is_some_and(|city| city.len() == 2000))
    );
}

/// Returns how full the server's queue of notifications is, from 0 to 1.
async fn queue_usage(client: &Client) -> f64 {
    let usage = client.query_one("SELECT pg_notification_queue_usage()", &[]);
    usage.await.unwrap().get(0)
}

/// A reader that stops inside its lock, under heavy writes, must neither fill the server's queue,
/// which stops every commit, nor grow memory with the number of changes.
///
/// `PGIC_STOPPED_SECONDS` sets for how many seconds the reader stops; 2 if it is not set.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_reader_stops_the_queue_is_drained_and_memory_is_bounded_by_keys() {
    let seconds =
        std::env::var("PGIC_STOPPED_SECONDS").map_or(2, |text| text.parse().expect("a number"));
    let (database, client, replica, users) = with_users(
        "INSERT INTO users SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, \
            '0'))::uuid, n, 0 FROM generate_series(1, 1000) n;",
    )
    .await;
    let stopped = replica.read(&users);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0_i64;
    let mut fullest = 0_f64;
    while Instant::now() < until || rounds < 20 {
        rounds += 1;
        client
            .batch_execute(&format!("UPDATE users SET email_hash = {rounds}"))
            .await
            .unwrap();
        // A TRUNCATE drops everything that waits before it.
        if rounds % 7 == 0 {
            client
                .batch_execute(
                    "BEGIN; TRUNCATE users; INSERT INTO users SELECT \
                ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, n, -1 FROM \
                generate_series(1, 1000) n; COMMIT",
                )
                .await
                .unwrap();
        }
        fullest = fullest.max(queue_usage(&client).await);
    }
    assert_eq!(
        stopped.get_by_primary(&id(1)).map(|user| user.email_hash),
        Some(0),
        "nothing changes under a reader"
    );
    // The listener has taken everything though the reader stands still. The queue's tail moves only
    // when somebody notifies, so notify until it has.
    let drained = tokio::time::timeout(DEADLINE, async {
        while queue_usage(&client).await > 0.0 {
            client.batch_execute("NOTIFY somewhere_else").await.unwrap();
        }
    });
    drained
        .await
        .expect("the queue is empty though the reader has stopped");
    drop(stopped);
    client
        .batch_execute("UPDATE users SET email_hash = -7 WHERE username_hash <= 500")
        .await
        .unwrap();
    fence(&replica).await;
    let reading = replica.read(&users);
    let table: BTreeMap<Uuid, (i64, i64)> = client
        .query("SELECT id::text, username_hash, email_hash FROM users", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| {
            (
                row.get::<_, &str>(0).parse().unwrap(),
                (row.get(1), row.get(2)),
            )
        })
        .collect();
    let cached = reading
        .iter()
        .map(|user| (user.id, (user.username_hash, user.email_hash)))
        .collect::<BTreeMap<_, _>>();
    assert_eq!(cached, table);
    let counters = replica.stats().counters;
    assert!(counters.collapsed > 1000, "{counters:?}");
    println!(
        "{rounds} rounds of 1000 updates in {seconds} s, queue at most {fullest}, {counters:?}"
    );
    drop(database);
}
