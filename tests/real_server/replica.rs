//! The library's own handle: an application's typed caches, on a real server.

use crate::support::{DEADLINE, Database, USERS};
use postgres_index_cache_core::postgres::{
    ConnectError, Connector, Events, FindingKind, OnMisfit, Replica, ReplicaBuilder, ReplicaError,
    ReplicaEvent, ReplicaStatus, ReplicaTable, RowChangeKind, Session, SessionPurpose,
    Verification,
};
use postgres_index_cache_core::sync::{AuxConnection, Limits};
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
    /// A column that comes later.
    #[serde(default)]
    city: Option<String>,
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

pub fn builder(database: &Database) -> ReplicaBuilder {
    let mut config: tokio_postgres::Config = database.url.parse().unwrap();
    config.application_name("node");
    let limits = Limits {
        heartbeat: Duration::from_millis(100),
        fence_timeout: DEADLINE,
        ..Limits::default()
    };
    Replica::builder(config).limits(limits)
}

pub async fn with_users(sql: &str) -> (Database, Client, Replica, ReplicaTable<User>) {
    let database = Database::with(&format!("{USERS}{sql}")).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut builder = builder(&database);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    (database, client, replica, users)
}

async fn fence(replica: &Replica) {
    tokio::time::timeout(DEADLINE, replica.fence())
        .await
        .expect("a fence comes back")
        .unwrap();
}

/// The next event that `wanted` takes.
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

fn row(event: &ReplicaEvent) -> Option<(Uuid, RowChangeKind)> {
    match event {
        ReplicaEvent::Row { key, change, .. } => Some((*key, *change)),
        _ => None,
    }
}

/// Whether an event says that a table is stale, for a reason that has this in it.
fn stale_for(event: &ReplicaEvent, reason: &str) -> Option<()> {
    matches!(event, ReplicaEvent::Stale { why, .. } if why.contains(reason)).then_some(())
}

fn ended(event: &ReplicaEvent) -> Option<Arc<ReplicaError>> {
    match event {
        ReplicaEvent::Ended { error } => Some(Arc::clone(error)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_reads_what_it_wrote() {
    let (_database, client, replica, users) = with_users(
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 500) n;",
    )
    .await;
    assert!(replica.is_live());
    assert_eq!(replica.read(&users).len(), 500);
    let mut events = replica.events();
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
        let found = |hash: i64| {
            reading
                .get_by_i64_index("username_hash", &hash)
                .into_iter()
                .flatten()
                .count()
        };
        let expected = match became {
            RowChangeKind::Added => (1, 0),
            RowChangeKind::Changed => (0, 1),
            RowChangeKind::Removed => (0, 0),
        };
        assert_eq!((found(7000), found(7001)), expected, "{sql}");
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

#[tokio::test(flavor = "multi_thread")]
async fn an_application_verifies_its_own_cache() {
    let (_database, client, replica, users) = with_users(
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 300) n;",
    )
    .await;
    let compare = async || loop {
        let verified = tokio::time::timeout(DEADLINE, replica.verify(&users))
            .await
            .expect("a round ends")
            .unwrap();
        if let Verification::Compared(comparison) = verified {
            break comparison;
        }
    };
    client
        .batch_execute("UPDATE users SET email_hash = -1 WHERE username_hash < 9")
        .await
        .unwrap();
    let comparison = compare().await;
    assert_eq!((comparison.rows, comparison.differing()), (300, 0));
    let silent =
        "SET session_replication_role = replica; DELETE FROM users WHERE username_hash = 1;
        UPDATE users SET email_hash = 0 WHERE username_hash = 2;
        INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000009', 0, 0)";
    client.batch_execute(silent).await.unwrap();
    let mut kinds: Vec<FindingKind> = compare()
        .await
        .findings
        .iter()
        .map(|found| found.kind)
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [FindingKind::Missing, FindingKind::Stale, FindingKind::Ghost]
    );
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_makes_it_stale_and_what_changed_in_it_is_told() {
    let (database, client, replica, users) = with_users(
        "INSERT INTO users SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, \
            '0'))::uuid, n, n FROM generate_series(1, 9) n;",
    )
    .await;
    let mut events = replica.events();
    // In one transaction the listener is ended and rows are changed: nobody hears of them.
    let sql = "BEGIN; UPDATE users SET email_hash = 0 WHERE username_hash = 1; DELETE FROM users \
        WHERE username_hash = 2;
        INSERT INTO users VALUES ('00000000-0000-0000-0000-0000000000aa', 10, 10);
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'node' AND \
        datname = current_database();
        COMMIT";
    client.batch_execute(sql).await.unwrap();
    let stale = |event: &ReplicaEvent| matches!(event, ReplicaEvent::Stale { .. }).then_some(());
    event(&mut events, stale).await;
    let reading = replica.read(&users);
    assert!(reading.len() >= 9, "the old rows stay readable");
    drop(reading);
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
    event(&mut events, |event| {
        matches!(event, ReplicaEvent::Live).then_some(())
    })
    .await;
    fence(&replica).await;
    assert_eq!(replica.read(&users).len(), 9);
    assert!(replica.is_live());
    // The connection for fences alone is no gap.
    let end_fences = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
        application_name = 'node (fences)' AND datname = current_database()";
    client.batch_execute(end_fences).await.unwrap();
    let aux_connection_lost = |event: &ReplicaEvent| match event {
        ReplicaEvent::AuxConnectionLost { via, .. } => Some(*via),
        ReplicaEvent::Stale { why, .. } => panic!("it is stale: {why}"),
        _ => None,
    };
    assert_eq!(
        event(&mut events, aux_connection_lost).await,
        AuxConnection::Fences
    );
    fence(&replica).await;
    assert!(replica.is_live());
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_is_followed_on() {
    let (database, client, replica, users) =
        with_users("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);")
            .await;
    let mut events = replica.events();
    let city = |replica: &Replica| {
        replica
            .read(&users)
            .get_by_primary(&id(1))
            .and_then(|user| user.city.clone())
    };
    client
        .batch_execute("ALTER TABLE users ADD city text DEFAULT 'Rome'")
        .await
        .unwrap();
    event(&mut events, |event| {
        row(event).filter(|row| *row == (id(1), RowChangeKind::Changed))
    })
    .await;
    fence(&replica).await;
    assert_eq!(city(&replica).as_deref(), Some("Rome"));
    client
        .batch_execute("UPDATE users SET city = 'Oslo'")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(city(&replica).as_deref(), Some("Oslo"));
    // The trigger made for the old columns still announces; its payload lacks what is gone.
    client
        .batch_execute("ALTER TABLE users DROP city; UPDATE users SET email_hash = 5")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(city(&replica), None);
    // What is gone is stale, with the cause, and its rows can be read.
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
    assert_eq!(
        replica
            .read(&users)
            .get_by_primary(&id(1))
            .unwrap()
            .email_hash,
        6
    );
    drop(database);
}

/// Connects as `config` says, but to look at tables only as often as it is let.
struct Gated {
    config: tokio_postgres::Config,
    looks: Arc<tokio::sync::Semaphore>,
    /// So often nobody is let in to look.
    refusals: Arc<AtomicUsize>,
}

impl Connector for Gated {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        if role == SessionPurpose::Command {
            let less = |left: usize| left.checked_sub(1);
            if self
                .refusals
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
            {
                return Err(std::io::Error::other("nobody is let in").into());
            }
            self.looks.acquire().await.expect("it is open").forget();
        }
        Connector::connect(&self.config, role).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_altered_table_is_described_changes_are_told_and_commands_answered() {
    let database = Database::with(&format!(
        "{USERS} INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut config: tokio_postgres::Config = database.url.parse().unwrap();
    config.application_name("node");
    let looks = Arc::new(tokio::sync::Semaphore::new(1));
    let refusals = Arc::new(AtomicUsize::new(0));
    let limits = Limits {
        heartbeat: Duration::from_millis(100),
        fence_timeout: DEADLINE,
        ..Limits::default()
    };
    let mut builder = Replica::builder(Gated {
        config,
        looks: Arc::clone(&looks),
        refusals: Arc::clone(&refusals),
    })
    .limits(limits);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    let mut events = replica.events();
    client
        .batch_execute("ALTER TABLE users ADD COLUMN city text DEFAULT 'Rome'")
        .await
        .unwrap();
    event(&mut events, |event| {
        stale_for(event, "it is being described afresh")
    })
    .await;
    // It waits to look at the table: what its trigger sends counts for nothing, and nobody is told
    // that it is live.
    for sql in [
        "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000002', 2, 2)",
        "DELETE FROM users WHERE username_hash = 1",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    assert!(
        !replica.is_live() && !replica.read(&users).is_live() && replica.read(&users).len() == 1
    );
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
    looks.add_permits(1);
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
    fence(&replica).await;
    assert_eq!(
        replica
            .read(&users)
            .get_by_primary(&id(1))
            .unwrap()
            .city
            .as_deref(),
        Some("Rome")
    );
    // Nobody is let in for a while, and what is kept is another: it comes back all the same.
    refusals.store(3, Ordering::SeqCst);
    looks.add_permits(1);
    client
        .batch_execute("ALTER TABLE users ALTER city TYPE varchar(9)")
        .await
        .unwrap();
    event(&mut events, |event| {
        matches!(event, ReplicaEvent::Stale { .. }).then_some(())
    })
    .await;
    event(&mut events, |event| {
        matches!(event, ReplicaEvent::Live).then_some(())
    })
    .await;
    assert_eq!(refusals.load(Ordering::SeqCst), 0);
    fence(&replica).await;
    // It is not let look at all: it can be asked, and ended.
    client
        .batch_execute("ALTER TABLE users RENAME city TO town")
        .await
        .unwrap();
    event(&mut events, |event| {
        matches!(event, ReplicaEvent::Stale { .. }).then_some(())
    })
    .await;
    let _asked = replica.events();
    tokio::time::timeout(DEADLINE, replica.shutdown())
        .await
        .expect("it ends at once");
}

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
    assert_eq!(
        replica.read(&users).get_by_primary(&id(1)).unwrap().city,
        None
    );
    let mut events = replica.events();
    // The values are the same, and to the model they are others.
    client
        .batch_execute("ALTER TABLE users RENAME town TO city")
        .await
        .unwrap();
    assert_eq!(
        event(&mut events, row).await,
        (id(1), RowChangeKind::Changed)
    );
    fence(&replica).await;
    assert_eq!(
        replica
            .read(&users)
            .get_by_primary(&id(1))
            .unwrap()
            .city
            .as_deref(),
        Some("Rome")
    );
    // A column that comes while nobody listens, and another channel.
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
    assert_eq!(
        replica
            .read(&users)
            .get_by_primary(&id(1))
            .unwrap()
            .email_hash,
        stored
    );
    let verified = tokio::time::timeout(DEADLINE, replica.verify(&users))
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(&verified, Verification::Compared(comparison) if comparison.differing() == 0),
        "{verified:?}"
    );
}

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
    let open = async |name: &str| {
        let mut builder = builder(&database);
        let table = builder.table::<User>(name);
        let opened = builder.open().await;
        drop(table);
        opened.map(|_| ()).unwrap_err()
    };
    assert!(matches!(open("nowhere").await, ReplicaError::NoTable(_)));
    assert!(matches!(
        open("numbered").await,
        ReplicaError::KeyNotUuid(_)
    ));
    assert_eq!(open("seen").await.to_string(), "public.seen is a view");
    let error = open("users").await;
    let ReplicaError::Follow(error) = error else {
        panic!("{error}")
    };
    assert_eq!(
        error.hint().unwrap(),
        "install them: pgic install-triggers public.users"
    );
}

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

/// A model that takes few rows: a label that it knows, no NULL, a small number, and no hash that
/// makes its own code panic.
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

/// Rows of which none but 1 fits [`Picky`].
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
    let out = |replica: &Replica| -> Vec<(u128, String)> {
        replica
            .read(&picked)
            .misfits()
            .map(|(key, why)| (key.as_u128(), why.to_string()))
            .collect()
    };
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
    let found = out(&replica);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((key, why), (expected_key, expected_why)) in found.iter().zip(expected) {
        assert!(
            *key == expected_key && why.contains(expected_why),
            "{key}: {why}"
        );
    }
    let reading = replica.read(&picked);
    assert!(reading.len() == 1 && !reading.is_live() && reading.is_current());
    drop(reading);
    let status = replica.status();
    assert!(
        matches!(&status, ReplicaStatus::Degraded { table, why } if &**table == "picked" && why.contains("6 rows do not fit")),
        "{status:?}"
    );
    // By a notification as by a read: out, and in again. A fence is reached all the same.
    let mut events = replica.events();
    client
        .batch_execute("UPDATE picked SET number = 666 WHERE number = 1")
        .await
        .unwrap();
    fence(&replica).await;
    let misfit = |event: &ReplicaEvent| match event {
        ReplicaEvent::Misfit { key, why, .. } => Some((*key, why.to_string())),
        _ => None,
    };
    let (key, why) = event(&mut events, misfit).await;
    assert!(key == id(1) && why.contains("panics over 666"), "{why}");
    assert!(replica.read(&picked).is_empty() && out(&replica).len() == 7);
    let verify = async || match replica.verify(&picked).await.unwrap() {
        Verification::Compared(comparison) => comparison,
        Verification::Inconclusive(why) => panic!("nothing else goes on: {why}"),
    };
    let comparison = verify().await;
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
    assert!(out(&replica).is_empty() && replica.is_live());
    let reading = replica.read(&picked);
    assert!(reading.is_live() && reading.len() == 6 && reading.validate().is_ok());
    assert_eq!(
        reading
            .get_by_i64_index("number", &5)
            .map(|keys| keys.len()),
        Some(6)
    );
    drop(reading);
    // What is gone in a gap, or with a TRUNCATE, is out no more.
    client
        .batch_execute("UPDATE picked SET mood = 'furious'")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(out(&replica).len(), 6);
    let gap = "BEGIN; DELETE FROM picked WHERE id < '00000000-0000-0000-0000-000000000006';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'node' AND \
        datname = current_database(); COMMIT";
    client.batch_execute(gap).await.unwrap();
    fence(&replica).await;
    assert_eq!(out(&replica).len(), 2);
    client.batch_execute("TRUNCATE picked").await.unwrap();
    fence(&replica).await;
    assert!(out(&replica).is_empty() && replica.is_live());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misfit_can_be_refused_instead_and_heals_when_the_row_fits() {
    let database = Database::with(PICKED).await;
    database.pgic_ok(&["install-triggers", "picked"]);
    let open = async || {
        let mut builder = builder(&database).on_misfit(OnMisfit::Refuse);
        let picked = builder.table::<Picky>("picked");
        builder.open().await.map(|replica| (replica, picked))
    };
    let refused = open().await.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, ReplicaError::Driver(_)), "{refused}");
    let client = database.client().await;
    client
        .batch_execute("DELETE FROM picked WHERE number <> 1")
        .await
        .unwrap();
    let (replica, picked) = open().await.unwrap();
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

/// A model that panics when a row of it is dropped, which no cache can keep out.
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
    // Who listens only now is told of it too.
    event(&mut replica.events(), ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_replica_is_never_live() {
    let (database, client, replica, users) = with_users("").await;
    let mut other_builder = builder(&database);
    let other_users = other_builder.table::<User>("users");
    let other = other_builder.open().await.unwrap();
    let reading = replica.read(&other_users);
    assert!(!reading.is_live() && !reading.is_current());
    assert!(
        matches!(reading.status(), ReplicaStatus::Ended { error } if matches!(**error, ReplicaError::OtherReplica)),
        "{:?}",
        reading.status()
    );
    drop(reading);
    let refused = replica.fence_for(&other_users).await.unwrap_err();
    assert!(matches!(*refused, ReplicaError::OtherReplica), "{refused}");
    let refused = replica.verify(&other_users).await.map(|_| ()).unwrap_err();
    assert!(matches!(*refused, ReplicaError::OtherReplica), "{refused}");
    assert!(replica.read(&users).is_live() && other.read(&other_users).is_live());
    drop(client);
}

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
    let reload = r#"NOTIFY cache_invalidation, '{"table":"users","action":"reload","id":null,"schema":"public","why":"x"}'"#;
    let asking = async {
        loop {
            client.batch_execute(reload).await.unwrap();
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
    // It is read once more, and live.
    while !replica.read(&users).is_live() {
        fence(&replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_swapped_before_it_is_read_is_not_locked_against_who_mends_it() {
    let (_database, client, replica, users) =
        with_users("CREATE TABLE next (LIKE users INCLUDING ALL);").await;
    let mut events = replica.events();
    // It is read at once, and another table has its name then.
    let swap = r#"BEGIN; ALTER TABLE users RENAME TO before; ALTER TABLE next RENAME TO users;
        NOTIFY cache_invalidation, '{"table":"users","action":"reload","id":null,"schema":"public","why":"x"}'; COMMIT"#;
    client.batch_execute(swap).await.unwrap();
    event(&mut events, |event| {
        matches!(event, ReplicaEvent::Stale { table: Some(_), .. }).then_some(())
    })
    .await;
    let swap_back = "SET lock_timeout = '10s'; BEGIN; ALTER TABLE users RENAME TO next; ALTER \
        TABLE before RENAME TO users; COMMIT";
    client.batch_execute(swap_back).await.unwrap();
    fence(&replica).await;
    assert!(replica.read(&users).is_live());
}

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
    // A TRUNCATE alone is told by what announces it, and nothing is read again.
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
    assert!(replica.read(&users).is_live() && replica.stats().counters.reloads == reads);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_loses_its_name_while_it_is_described_is_not_taken_for_the_one_that_has_it_then()
 {
    let two = format!(
        "{USERS} CREATE TABLE users_new (LIKE users INCLUDING ALL);
         INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);
         INSERT INTO users_new VALUES ('00000000-0000-0000-0000-000000000002', 2, 2);"
    );
    let database = Database::with(&two).await;
    // The generic function does not say for which table it was made.
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
    // A description has found the table by its name, and waits for what it asks then.
    client
        .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_subscription_rel IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
        wait_event_type = 'Lock'
        AND query LIKE '%What a followed table is%' AND application_name = 'node'";
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_table_s_name_leaves_the_others_alone() {
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
    let mut builder = Replica::builder(config).limits(Limits {
        heartbeat: Duration::from_millis(100),
        ..Limits::default()
    });
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
    // What it was told of its own table was known before.
    assert!(replica.read(&first).is_empty());
    replica.shutdown().await;
    client
        .batch_execute("DROP OWNED BY one_table_s_node; DROP ROLE one_table_s_node")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_same_name_that_comes_before_it_in_the_search_path_is_another_one() {
    let (_database, client, replica, users) = with_users("").await;
    client
        .batch_execute(
            "CREATE SCHEMA postgres; CREATE TABLE postgres.users (LIKE public.users INCLUDING ALL)",
        )
        .await
        .unwrap();
    // Whatever makes it be described again.
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
    let is_of_others = |event: &ReplicaEvent| match event {
        ReplicaEvent::Stale { table, .. } => table.as_deref() != Some("other"),
        _ => false,
    };
    assert!(!seen.iter().any(is_of_others), "{seen:?}");
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
    // One that cannot be told, or listened to, is that table's trouble alone, and mended.
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

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_past_the_memory_allowed_is_dropped_and_the_table_read_again() {
    let database = Database::with(&format!(
        "{USERS} ALTER TABLE users ADD COLUMN city text;
         INSERT INTO users SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, n, \
         0 FROM generate_series(1, 1000) n;"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut builder = builder(&database).max_memory(1 << 20);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    let mut events = replica.events();
    let held = replica.read(&users);
    // Two megabytes that wait for the lock.
    client
        .batch_execute("UPDATE users SET city = repeat('x', 2000)")
        .await
        .unwrap();
    let read_again = |event: &ReplicaEvent| match event {
        ReplicaEvent::ReadAgain { why, .. } => Some(why.to_string()),
        _ => None,
    };
    assert_eq!(
        event(&mut events, read_again).await,
        "there was no memory for the changes that waited"
    );
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

/// A consumer that stops, under heavy writes: `PGIC_STOPPED_SECONDS` makes it a minute.
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
    let usage = async |client: &Client| -> f64 {
        client
            .query_one("SELECT pg_notification_queue_usage()", &[])
            .await
            .unwrap()
            .get(0)
    };
    let mut fullest = 0_f64;
    while Instant::now() < until || rounds < 20 {
        rounds += 1;
        client
            .batch_execute(&format!("UPDATE users SET email_hash = {rounds}"))
            .await
            .unwrap();
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
        fullest = fullest.max(usage(&client).await);
    }
    assert_eq!(
        stopped.get_by_primary(&id(1)).map(|user| user.email_hash),
        Some(0),
        "nothing changes under a reader"
    );
    // The listener has taken everything: the server keeps nothing for it.
    let drained = tokio::time::timeout(DEADLINE, async {
        while usage(&client).await > 0.0 {
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
