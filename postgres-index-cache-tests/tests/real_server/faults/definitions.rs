//! Definitions that change under load, a standby that is shown in the primary's place, and
//! failovers: at every quiet point a replica is its table, and before that it never claimed to be
//! while it was not.
//!
//! ```text
//! Load, test ──→ Proxy `written` ──→ primary ──→ standby
//! replica ─────→ Proxy `shown` ──────↑ (or the standby, for a while)
//! ```
//!
//! The replica has a supervisor: it follows the name `public.users`, whatever table has that name.

use super::{Load, limits, rounds, seed};
use crate::support::proxy::Proxy;
use crate::support::{DEADLINE, Database, Ran, connect};
use postgres_index_cache_core::tooling::postgres::{
    Events, Replica, ReplicaEvent, ReplicaTable, Verification,
};
use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::Client;
use uuid::Uuid;

/// `users`, whose definition is changed; `users_next`, which may take that name; and `steady`,
/// which is left alone and must stay live. The model knows two of the three moods, so that some
/// rows are misfits.
const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('ok', 'sad', 'furious');
    CREATE TABLE users (id uuid PRIMARY KEY, other uuid NOT NULL DEFAULT gen_random_uuid(), n \
    bigint NOT NULL, mood mood NOT NULL);
    CREATE TABLE users_next (id uuid PRIMARY KEY, other uuid NOT NULL DEFAULT gen_random_uuid(), n \
    bigint NOT NULL, mood mood NOT NULL);
    -- These keep the ids apart while the primary key is another column.
    CREATE UNIQUE INDEX ON users (id);
    CREATE UNIQUE INDEX ON users_next (id);
    CREATE TABLE steady (id uuid PRIMARY KEY, n bigint NOT NULL);
    CREATE SCHEMA hidden;
    CREATE ROLE node LOGIN;
    GRANT SELECT ON users, users_next, steady TO node;";

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct User {
    id: Uuid,
    n: i64,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mood {
    Ok,
    Sad,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Steady {
    id: Uuid,
    n: i64,
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl HasPrimaryKey for Steady {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("n".to_string(), Some(self.n))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

impl Indexable for Steady {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::new()
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Returns a random statement, most often on `users`.
fn statement(random: &mut fastrand::Rng) -> String {
    let id = Uuid::from_u128(random.u128(1..25));
    let mood = ["ok", "sad", "ok", "sad", "furious"][random.usize(0..5)];
    let table = if random.u32(0..4) == 0 {
        "users_next"
    } else {
        "users"
    };
    match random.u32(0..100) {
        0..40 => format!(
            "INSERT INTO {table} (id, n, mood) VALUES ('{id}', {}, '{mood}') ON CONFLICT (id) \
                DO UPDATE SET n = excluded.n, mood = excluded.mood",
            random.u32(..)
        ),
        40..60 => format!("UPDATE {table} SET n = n + 1, mood = '{mood}' WHERE id >= '{id}'"),
        60..75 => format!("DELETE FROM {table} WHERE id = '{id}'"),
        75..80 => format!(
            "UPDATE {table} SET id = '{}' WHERE id = '{id}'",
            Uuid::from_u128(random.u128(100..200))
        ),
        80..98 => format!(
            "INSERT INTO steady VALUES ('{id}', 1) ON CONFLICT (id) DO UPDATE SET n = steady.n \
                + 1"
        ),
        98..99 => format!("TRUNCATE {table}"),
        _ => "DELETE FROM steady".to_string(),
    }
}

/// Returns a random transaction of one to four statements, one in ten rolled back.
fn transaction(random: &mut fastrand::Rng) -> String {
    let statements: Vec<String> = (0..random.usize(1..5)).map(|_| statement(random)).collect();
    let end = if random.u32(0..10) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    // Some faults lock the tables. A writer that waited for them without end would never reach the
    // next quiet point.
    format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; {}; {end}",
        statements.join("; ")
    )
}

/// One thing that is done to the definitions, the role or the servers, and undone again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// `users` has another name for a while.
    Renames,
    /// `users_next` takes the name `users`, and the triggers are refreshed later.
    Swaps,
    /// `users` is in another schema for a while.
    Moves,
    /// The trigger of `users` is disabled while rows are written.
    Silences,
    /// The primary key of `users` is another column for a while.
    Rekeys,
    /// The function of the trigger is edited by hand.
    Edits,
    /// The trigger gets a condition.
    Conditions,
    /// A column is added, and another one dropped.
    Columns,
    /// The replica's role may not read `users` for a while.
    Revokes,
    /// The replica's role may not log in for a while.
    Bars,
    /// A standby is shown in place of the primary for a while.
    ShowsStandby,
    /// The primary is lost, and the standby promoted.
    FailsOver,
}

const FAULTS: [Fault; 12] = [
    Fault::Renames,
    Fault::Swaps,
    Fault::Moves,
    Fault::Silences,
    Fault::Rekeys,
    Fault::Edits,
    Fault::Conditions,
    Fault::Columns,
    Fault::Revokes,
    Fault::Bars,
    Fault::ShowsStandby,
    Fault::FailsOver,
];

/// Returns a statement that makes `column` the primary key of `users`, whatever the constraint of
/// the old key is called.
fn primary_key(column: &str) -> String {
    format!(
        "DO $$ DECLARE name text; BEGIN
            SELECT conname INTO name FROM pg_constraint WHERE conrelid = 'users'::regclass AND \
            contype = 'p';
            EXECUTE format('ALTER TABLE users DROP CONSTRAINT %I', name); ALTER TABLE users ADD \
            PRIMARY KEY ({column}); END $$"
    )
}

/// Returns a statement that runs `statement` with the name of the function that announces `users`
/// in place of %s.
fn on_function(statement: &str) -> String {
    format!(
        "DO $$ BEGIN EXECUTE (SELECT format($f${statement}$f$, tgfoid::regproc) FROM pg_trigger
            WHERE tgrelid = 'users'::regclass AND tgname LIKE '%\\_cache\\_notify'); END $$"
    )
}

/// A primary and its standby, each behind proxies that can lead to the other one.
struct Servers {
    primary: Arc<Cluster>,
    standby: Arc<Cluster>,
    /// The proxy that the replica connects through.
    shown: Proxy,
    /// The proxy that the writers and this test connect through. It always leads to the primary.
    written: Proxy,
    /// The database behind `written`.
    database: Database,
}

/// Returns the path of the cluster's socket.
fn socket(cluster: &Cluster) -> std::path::PathBuf {
    cluster.socket_folder().join(".s.PGSQL.5432")
}

/// Makes a standby of `cluster`.
async fn standby_of(cluster: &Arc<Cluster>) -> Arc<Cluster> {
    let cluster = Arc::clone(cluster);
    let made = tokio::task::spawn_blocking(move || cluster.standby());
    Arc::new(
        made.await
            .expect("making a standby does not panic")
            .expect("make a standby"),
    )
}

impl Servers {
    /// Starts a primary with the tables and their triggers, a standby of it, and the proxies.
    async fn start() -> Self {
        let primary = Arc::new(Cluster::start(&Setup::default()).expect("start a server"));
        let made = Database::on(&primary, "faults".to_string()).await;
        made.client()
            .await
            .batch_execute(TABLES)
            .await
            .expect("make the tables");
        made.pgic_ok(&["install-triggers", "users", "users_next", "steady"]);
        let standby = standby_of(&primary).await;
        let shown = Proxy::to(socket(&primary)).await;
        let written = Proxy::to(socket(&primary)).await;
        let url = format!(
            "postgresql://postgres@127.0.0.1:{}/{}",
            written.port, made.name
        );
        let database = Database {
            name: made.name,
            url,
        };
        Self {
            primary,
            standby,
            shown,
            written,
            database,
        }
    }

    /// Opens a session on the primary, as the superuser.
    async fn client(&self) -> Client {
        connect(&self.database.url).await
    }

    /// Stops the primary at once and promotes the standby. Transactions that the primary had not
    /// sent to the standby are lost, so a row can go back to an older state here.
    async fn fail_over(&mut self) {
        let lost = Arc::clone(&self.primary);
        let stopped = tokio::task::spawn_blocking(move || lost.stop("immediate"));
        stopped
            .await
            .expect("stopping does not panic")
            .expect("stop the primary");
        connect(&self.standby.url("postgres"))
            .await
            .batch_execute("SELECT pg_promote()")
            .await
            .expect("promote the standby");
        self.primary = Arc::clone(&self.standby);
        // The old primary is not used again: the new one gets another standby.
        self.standby = standby_of(&self.primary).await;
        self.written.lead_to(socket(&self.primary));
        self.shown.lead_to(socket(&self.primary));
    }
}

/// Runs a statement, again and again while the writers' locks are in the way.
async fn run(client: &Client, sql: &str) {
    for _ in 0..50 {
        match client
            .batch_execute(&format!("SET lock_timeout = '5s'; {sql}"))
            .await
        {
            Ok(()) => return,
            Err(error) if is_in_the_way(&error) => {}
            Err(error) => panic!("{sql}: {error:?}"),
        }
        // `sql` may have begun a transaction.
        client.batch_execute("ROLLBACK").await.expect("roll back");
    }
    panic!("{sql}: no attempt gets the lock");
}

/// Returns whether a statement failed because of another one that ran at the time.
fn is_in_the_way(error: &tokio_postgres::Error) -> bool {
    let Some(error) = error.as_db_error() else {
        return false;
    };
    // A lock was not had in time, or the statement was the one that a deadlock ended.
    matches!(error.code().code(), "55P03" | "40P01")
        // GRANT and a writer's TRUNCATE write the same row of the catalogue, and no lock keeps
        // them apart.
        || error.message() == "tuple concurrently updated"
}

/// Waits until a table is stale for one of these reasons. A reason is a part of the cause that the
/// event names.
async fn until_stale(events: &mut Events, reasons: &[&str]) {
    let stale = async {
        loop {
            let event = events.next().await.expect("nothing ends the replica");
            if let ReplicaEvent::Stale { why, .. } = &event
                && reasons.iter().any(|reason| why.contains(reason))
            {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, stale)
        .await
        .unwrap_or_else(|_| panic!("no table is stale for {reasons:?}"));
}

/// Lets the writers go on for a while, in which `users` must not be live. Then waits for a fence of
/// `steady`, which must be live all the same.
async fn stays_stale(replicated: &Replicated, load: &Load) {
    let replica = &replicated.replica;
    let until = load.commits() + 15;
    while load.commits() < until {
        let reading = replica.read(&replicated.users);
        assert!(
            !reading.is_live() && !reading.is_current(),
            "PGIC_FAULT_SEED={}",
            seed()
        );
        drop(reading);
        tokio::task::yield_now().await;
    }
    let fenced = replica.fence_for(&replicated.steady);
    tokio::time::timeout(DEADLINE, fenced)
        .await
        .expect("one table's loss leaves the other live")
        .expect("nothing ends the replica");
}

/// Runs `install-triggers` for both tables, again if a writer's deadlock ended the command.
fn install_until_no_deadlock(database: &Database) -> Ran {
    let arguments = [
        "install-triggers",
        "users",
        "users_next",
        "--lock-timeout",
        "15s",
    ];
    // A writer that takes the two tables in the other order can deadlock with the command.
    for _ in 0..10 {
        let ran = database.pgic(&arguments);
        if !ran.stderr.contains("SQLSTATE 40P01") {
            return ran;
        }
    }
    database.pgic(&arguments)
}

/// Refreshes the triggers, as the remedy of most faults says.
async fn install(servers: &Servers) {
    let database = servers.database.clone();
    let installed = tokio::task::spawn_blocking(move || install_until_no_deadlock(&database));
    let ran = installed.await.expect("running the command does not panic");
    // Show who holds the locks: a seed repeats the statements, but not how the sessions meet.
    if ran.code != 0 {
        let sessions = "SELECT a.application_name, a.state, a.wait_event, left(a.query, 200), \
            now() - a.xact_start,
                array_agg(l.relation::regclass::text || ' ' || l.mode || ' ' || l.granted)::text
            FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE l.relation >= 16384 GROUP BY \
            1, 2, 3, 4, 5";
        let held = servers.client().await.simple_query(sessions).await;
        panic!(
            "PGIC_FAULT_SEED={}: the triggers are refreshed: {ran:?}; {held:#?}",
            seed()
        );
    }
}

/// The replica under test, with its two tables.
struct Replicated {
    replica: Replica,
    users: ReplicaTable<User>,
    steady: ReplicaTable<Steady>,
}

impl Replicated {
    /// Opens a replica of both tables, as the role `node`.
    async fn open(servers: &Servers) -> Self {
        let url = format!(
            "postgresql://node@127.0.0.1:{}/{}",
            servers.shown.port, servers.database.name
        );
        let config: tokio_postgres::Config = url.parse().unwrap();
        let mut builder = Replica::builder(config);
        builder.limits(limits());
        let users = builder.table::<User>("users");
        let steady = builder.table::<Steady>("steady");
        let replica = tokio::time::timeout(DEADLINE, builder.open())
            .await
            .expect("the replica opens")
            .unwrap();
        Self {
            replica,
            users,
            steady,
        }
    }

    /// Waits until a fence that is sent now has come back. `context` tells where the test stands.
    async fn fence(&self, context: &str) {
        tokio::time::timeout(DEADLINE, self.replica.fence())
            .await
            .unwrap_or_else(|_| panic!("{context}: {:?}", self.replica.status()))
            .unwrap();
    }
}

/// A fault that makes `users` stale until it is undone.
struct Breakage {
    break_it: String,
    /// The causes of which the replica must name one.
    reasons: &'static [&'static str],
    /// The statement that undoes the fault, or nothing where refreshing the triggers suffices.
    mend_it: String,
}

/// Returns how to break `users`, or `None` for a fault that takes another course.
fn breakage(fault: Fault) -> Option<Breakage> {
    // Rows that are written while nothing is announced must be there when the replica is live
    // again.
    let silent = "UPDATE users SET n = n + 1000";
    let breakage = match fault {
        Fault::Renames => Breakage {
            break_it: "ALTER TABLE users RENAME TO users_away".into(),
            reasons: &["the table public.users does not exist"],
            mend_it: "ALTER TABLE users_away RENAME TO users".into(),
        },
        Fault::Moves => Breakage {
            break_it: "ALTER TABLE users SET SCHEMA hidden".into(),
            reasons: &["the table public.users does not exist"],
            mend_it: "ALTER TABLE hidden.users SET SCHEMA public".into(),
        },
        // The swap stays. The function of each table still names the other one.
        Fault::Swaps => Breakage {
            break_it:
                "BEGIN; ALTER TABLE users RENAME TO x; ALTER TABLE users_next RENAME TO users; \
                ALTER TABLE x RENAME TO users_next; COMMIT"
                    .into(),
            reasons: &["are announced as those of public."],
            mend_it: String::new(),
        },
        Fault::Silences => Breakage {
            break_it: format!("BEGIN; ALTER TABLE users DISABLE TRIGGER USER; {silent}; COMMIT"),
            reasons: &["is disabled"],
            mend_it: String::new(),
        },
        Fault::Rekeys => Breakage {
            break_it: format!("{}; {silent}", primary_key("other")),
            reasons: &["the table's key is other"],
            mend_it: primary_key("id"),
        },
        Fault::Edits => Breakage {
            break_it: on_function(
                "CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN RETURN NULL; END'",
            ),
            reasons: &["was edited by hand"],
            mend_it: String::new(),
        },
        Fault::Conditions => Breakage {
            break_it: on_function(
                "DO 'DECLARE n text; BEGIN SELECT tgname INTO n FROM pg_trigger WHERE tgrelid = \
                ''users''::regclass AND tgname LIKE ''%%\\_cache\\_notify'';
                 EXECUTE format(''DROP TRIGGER %%I ON users; CREATE TRIGGER %%I AFTER INSERT OR \
                 UPDATE OR DELETE ON users FOR EACH ROW WHEN (pg_trigger_depth() > 3) EXECUTE \
                 FUNCTION %s()'', n, n); END'",
            ),
            reasons: &["has a condition"],
            mend_it: String::new(),
        },
        // The privilege is missed at the next read. Ending the sessions makes the replica read.
        Fault::Revokes => Breakage {
            break_it: "REVOKE SELECT ON users FROM node; SELECT pg_terminate_backend(pid) FROM \
                pg_stat_activity WHERE usename = 'node'"
                .into(),
            reasons: &["permission denied"],
            mend_it: "GRANT SELECT ON users TO node".into(),
        },
        Fault::Columns | Fault::Bars | Fault::ShowsStandby | Fault::FailsOver => return None,
    };
    Some(breakage)
}

/// Lets `fault` happen, checks that the replica notices it and that nothing else is hurt, and
/// undoes it.
async fn happen(
    fault: Fault,
    servers: &mut Servers,
    replicated: &Replicated,
    load: &Load,
    round: u64,
) {
    // Subscribe before the fault: an event that came earlier would be missed.
    let mut events = replicated.replica.events();
    let client = servers.client().await;
    if let Some(breakage) = breakage(fault) {
        run(&client, &breakage.break_it).await;
        until_stale(&mut events, breakage.reasons).await;
        stays_stale(replicated, load).await;
        if !breakage.mend_it.is_empty() {
            run(&client, &breakage.mend_it).await;
        }
        // A GRANT is the whole remedy of a privilege that is gone.
        if fault != Fault::Revokes {
            install(servers).await;
        }
        return;
    }
    match fault {
        Fault::Columns => change_columns(&client, round).await,
        Fault::Bars => {
            let bar = "ALTER ROLE node NOLOGIN; SELECT pg_terminate_backend(pid) FROM \
                pg_stat_activity WHERE usename = 'node'";
            run(&client, bar).await;
            until_stale(&mut events, &["is not permitted to log in"]).await;
            run(&client, "ALTER ROLE node LOGIN").await;
        }
        Fault::ShowsStandby => {
            servers.shown.lead_to(socket(&servers.standby));
            until_stale(&mut events, &["during recovery"]).await;
            assert!(!replicated.replica.is_live());
            servers.shown.lead_to(socket(&servers.primary));
        }
        Fault::FailsOver => {
            let _nobody_writes = load.pause().await;
            servers.fail_over().await;
            until_stale(&mut events, &[""]).await;
        }
        _ => unreachable!("{fault:?} has a breakage"),
    }
}

/// Adds a column and drops another, neither of which the model knows. The replica describes `users`
/// afresh, and need not be stale.
async fn change_columns(client: &Client, round: u64) {
    let added = round % 3;
    let dropped = (round + 1) % 3;
    let add = format!("ALTER TABLE users ADD COLUMN IF NOT EXISTS more{added} int DEFAULT {round}");
    run(client, &add).await;
    run(
        client,
        &format!("ALTER TABLE users DROP COLUMN IF EXISTS more{dropped}"),
    )
    .await;
}

/// Counts of a run, which show that the run tested something.
#[derive(Debug, Default)]
struct Counts {
    compared: u64,
    inconclusive: u64,
    misfits: usize,
}

/// Verifies `users` under load until the writers have made twenty transactions.
async fn verify_under_load(
    replicated: &Replicated,
    load: &Load,
    context: &str,
    counts: &mut Counts,
) {
    let until = load.commits() + 20;
    while load.commits() < until {
        replicated.fence(context).await;
        let verified = replicated.replica.verify(&replicated.users);
        let verified = tokio::time::timeout(DEADLINE, verified)
            .await
            .expect("the comparison ends")
            .unwrap();
        match verified {
            Verification::Compared(comparison) => {
                counts.compared += 1;
                assert_eq!(comparison.findings, Vec::new(), "{context}");
            }
            Verification::Inconclusive(_) => counts.inconclusive += 1,
        }
    }
}

/// Compares both caches with their tables, at a quiet point.
async fn compare(client: &Client, replicated: &Replicated, context: &str, counts: &mut Counts) {
    let sql = "SELECT id, n, mood::text FROM users";
    let mut rows: BTreeMap<Uuid, i64> = BTreeMap::new();
    let mut furious: BTreeSet<Uuid> = BTreeSet::new();
    for row in client.query(sql, &[]).await.unwrap() {
        // The model knows no `furious`: such a row is a misfit, and is kept out of the cache.
        if row.get::<_, &str>("mood") == "furious" {
            furious.insert(row.get("id"));
        } else {
            rows.insert(row.get("id"), row.get("n"));
        }
    }
    let reading = replicated.replica.read(&replicated.users);
    let cached: BTreeMap<Uuid, i64> = reading.iter().map(|user| (user.id, user.n)).collect();
    let misfits: BTreeSet<Uuid> = reading
        .misfits()
        .map(|(key, _)| key.as_uuid().unwrap())
        .collect();
    assert_eq!(cached, rows, "{context}");
    assert_eq!(misfits, furious, "{context}");
    // With a misfit the cache is current, but not the whole table, and so not live.
    assert!(
        reading.is_current() && reading.is_live() == furious.is_empty(),
        "{:?}",
        reading.status()
    );
    reading.validate().unwrap();
    counts.misfits += furious.len();
    drop(reading);
    let stored = client.query("SELECT id, n FROM steady", &[]).await.unwrap();
    let rows: BTreeMap<Uuid, i64> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
    let reading = replicated.replica.read(&replicated.steady);
    let cached: BTreeMap<Uuid, i64> = reading.iter().map(|row| (row.id, row.n)).collect();
    assert_eq!(cached, rows, "{context}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_definitions_and_servers_a_replica_is_its_table_or_says_that_it_is_not()
{
    // In an ordinary run each fault happens once. A longer run goes on with random ones.
    let rounds = rounds(FAULTS.len() as u64);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut servers = Servers::start().await;
    let load = Load::start(&servers.database, transaction);
    let replicated = Replicated::open(&servers).await;
    let mut happened: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut counts = Counts::default();
    for round in 0..rounds {
        let fault = if round < FAULTS.len() as u64 {
            FAULTS[round as usize]
        } else {
            FAULTS[random.usize(0..FAULTS.len())]
        };
        let context = format!("PGIC_FAULT_SEED={} round {round}, {fault:?}", seed());
        verify_under_load(&replicated, &load, &context, &mut counts).await;
        happen(fault, &mut servers, &replicated, &load, round).await;
        *happened.entry(fault).or_default() += 1;
        let _nobody_writes = load.pause().await;
        replicated.fence(&context).await;
        let client = servers.client().await;
        compare(&client, &replicated, &context, &mut counts).await;
    }
    let commits = load.end().await;
    let counters = replicated.replica.stats().counters;
    println!("{rounds} rounds, {commits} commits, {counts:?}, {happened:?}, {counters:?}");
    // A run without comparisons, misfits or applied changes would prove nothing.
    assert!(
        counts.compared > 0 && counts.misfits > 0 && counters.applied > 0,
        "{counters:?}"
    );
}
