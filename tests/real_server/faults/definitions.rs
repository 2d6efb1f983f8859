//! Definitions that change under load, a standby that is shown first, and failovers: at every quiet
//! point a replica is its table, or says that it is not.

use super::{Load, limits, rounds, seed};
use crate::support::proxy::Proxy;
use crate::support::{DEADLINE, Database, Ran, connect};
use postgres_index_cache_core::postgres::{
    Events, Replica, ReplicaEvent, ReplicaTable, Verification,
};
use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::Client;
use uuid::Uuid;

/// A table that is tampered with, another that may take its name, and one that is left alone. The
/// model knows two of the three moods.
const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('ok', 'sad', 'furious');
    CREATE TABLE users (id uuid PRIMARY KEY, other uuid NOT NULL DEFAULT gen_random_uuid(), n \
    bigint NOT NULL, mood mood NOT NULL);
    CREATE TABLE users_next (id uuid PRIMARY KEY, other uuid NOT NULL DEFAULT gen_random_uuid(), n \
    bigint NOT NULL, mood mood NOT NULL);
    -- What keeps the ids apart while the primary key is another column.
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

fn transaction(random: &mut fastrand::Rng) -> String {
    let statement = |random: &mut fastrand::Rng| {
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
    };
    let statements: Vec<String> = (0..random.usize(1..5)).map(|_| statement(random)).collect();
    let end = if random.u32(0..10) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; {}; {end}",
        statements.join("; ")
    )
}

/// What is done to the definitions, the role or the servers, and undone again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The table has another name for a while.
    Renames,
    /// Another table takes its name, and its triggers are refreshed later.
    Swaps,
    /// Its schema is another one for a while.
    Moves,
    /// Its trigger is disabled while rows are written.
    Silences,
    /// Its primary key is another column for a while.
    Rekeys,
    /// Its trigger's function is edited by hand.
    Edits,
    /// Its trigger has a condition.
    Conditions,
    /// A column comes or goes.
    Columns,
    /// The role may not read it for a while.
    Revokes,
    /// The role may not log in for a while.
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

/// Makes `column` the primary key of users, whatever the old one's constraint is called.
fn primary_key(column: &str) -> String {
    format!(
        "DO $$ DECLARE name text; BEGIN
            SELECT conname INTO name FROM pg_constraint WHERE conrelid = 'users'::regclass AND \
            contype = 'p';
            EXECUTE format('ALTER TABLE users DROP CONSTRAINT %I', name); ALTER TABLE users ADD \
            PRIMARY KEY ({column}); END $$"
    )
}

/// Runs `statement` with the name of the function that announces users in place of %s.
fn on_function(statement: &str) -> String {
    format!(
        "DO $$ BEGIN EXECUTE (SELECT format($f${statement}$f$, tgfoid::regproc) FROM pg_trigger
            WHERE tgrelid = 'users'::regclass AND tgname LIKE '%\\_cache\\_notify'); END $$"
    )
}

/// A primary and its standby, and the way to whichever is the primary.
struct Servers {
    primary: Arc<Cluster>,
    standby: Arc<Cluster>,
    /// What the replica goes through, and what writers and this test do.
    shown: Proxy,
    written: Proxy,
    database: Database,
}

fn socket(cluster: &Cluster) -> std::path::PathBuf {
    cluster.socket_folder().join(".s.PGSQL.5432")
}

async fn standby_of(cluster: &Arc<Cluster>) -> Arc<Cluster> {
    let cluster = Arc::clone(cluster);
    let made = tokio::task::spawn_blocking(move || cluster.standby());
    Arc::new(
        made.await
            .expect("it does not panic")
            .expect("make a standby"),
    )
}

impl Servers {
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

    async fn client(&self) -> Client {
        connect(&self.database.url).await
    }

    /// The primary is lost; what it had not sent is lost with it.
    async fn fail_over(&mut self) {
        let lost = Arc::clone(&self.primary);
        let stopped = tokio::task::spawn_blocking(move || lost.stop("immediate"));
        stopped
            .await
            .expect("it does not panic")
            .expect("stop the primary");
        connect(&self.standby.url("postgres"))
            .await
            .batch_execute("SELECT pg_promote()")
            .await
            .expect("promote it");
        self.primary = Arc::clone(&self.standby);
        // The demoted one is not shown again; the new primary gets a standby of its own.
        self.standby = standby_of(&self.primary).await;
        self.written.lead_to(socket(&self.primary));
        self.shown.lead_to(socket(&self.primary));
    }
}

/// Runs a statement that may have to wait for writers' locks.
async fn run(client: &Client, sql: &str) {
    for _ in 0..50 {
        match client
            .batch_execute(&format!("SET lock_timeout = '5s'; {sql}"))
            .await
        {
            Ok(()) => return,
            Err(error)
                if matches!(
                    error.code().map(tokio_postgres::error::SqlState::code),
                    Some("55P03" | "40P01")
                ) => {}
            // GRANT and a writer's TRUNCATE write the same row of the catalogue, and no lock keeps
            // them apart.
            Err(error)
                if error
                    .as_db_error()
                    .is_some_and(|error| error.message() == "tuple concurrently updated") => {}
            Err(error) => panic!("{sql}: {error:?}"),
        }
        // What it had begun.
        client.batch_execute("ROLLBACK").await.expect("roll back");
    }
    panic!("{sql}: its lock is never had");
}

/// Waits until the table is stale, and says so for this reason.
async fn until_stale(events: &mut Events, reasons: &[&str]) {
    let stale = async {
        loop {
            let event = events.next().await.expect("nothing ends it");
            if let ReplicaEvent::Stale { why, .. } = &event
                && reasons.iter().any(|reason| why.contains(reason))
            {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, stale)
        .await
        .unwrap_or_else(|_| panic!("it is never stale for {reasons:?}"));
}

/// Lets writers go on for a while, in which the table must not be live, and the one beside it must
/// be.
async fn stays_stale(
    load: &Load,
    replica: &Replica,
    users: &ReplicaTable<User>,
    steady: &ReplicaTable<Steady>,
) {
    let until = load.commits() + 15;
    while load.commits() < until {
        assert!(
            !replica.read(users).is_live() && !replica.read(users).is_current(),
            "PGIC_FAULT_SEED={}",
            seed()
        );
        tokio::task::yield_now().await;
    }
    let fenced = tokio::time::timeout(DEADLINE, replica.fence_for(steady)).await;
    fenced
        .expect("one table's loss leaves the other live")
        .expect("nothing ends it");
}

async fn install(servers: &Servers) {
    let database = servers.database.clone();
    let installed = tokio::task::spawn_blocking(move || {
        let install = || {
            database.pgic(&[
                "install-triggers",
                "users",
                "users_next",
                "--lock-timeout",
                "15s",
            ])
        };
        // A writer that has the tables in another order can deadlock with it.
        let is_over = |ran: &Ran| !ran.stderr.contains("SQLSTATE 40P01");
        (0..10)
            .map(|_| install())
            .find(is_over)
            .unwrap_or_else(install)
    });
    let ran = installed.await.expect("it does not panic");
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

struct FollowedTable<'a> {
    load: &'a Load,
    replica: &'a Replica,
    users: &'a ReplicaTable<User>,
    steady: &'a ReplicaTable<Steady>,
}

/// Breaks something, sees that it is noticed and nothing else, and mends it.
async fn happen(fault: Fault, servers: &mut Servers, followed: &FollowedTable<'_>, round: u64) {
    let FollowedTable {
        load,
        replica,
        users,
        steady,
    } = followed;
    let mut events = replica.events();
    let client = servers.client().await;
    let silent = "UPDATE users SET n = n + 1000";
    let (break_it, reasons, mend_it): (String, &[&str], String) = match fault {
        Fault::Renames => (
            "ALTER TABLE users RENAME TO users_away".into(),
            &["the table public.users does not exist"],
            "ALTER TABLE users_away RENAME TO users".into(),
        ),
        Fault::Moves => (
            "ALTER TABLE users SET SCHEMA hidden".into(),
            &["the table public.users does not exist"],
            "ALTER TABLE hidden.users SET SCHEMA public".into(),
        ),
        Fault::Swaps => (
            "BEGIN; ALTER TABLE users RENAME TO x; ALTER TABLE users_next RENAME TO users; ALTER \
            TABLE x RENAME TO users_next; COMMIT"
                .into(),
            &["are announced as those of public."],
            String::new(),
        ),
        Fault::Silences => (
            format!(
                "BEGIN; ALTER TABLE users DISABLE TRIGGER USER; {silent}; \
                COMMIT"
            ),
            &["is disabled"],
            String::new(),
        ),
        Fault::Rekeys => (
            format!("{}; {silent}", primary_key("other")),
            &["the table's key is \
                other"],
            primary_key("id"),
        ),
        Fault::Edits => (
            on_function(
                "CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN RETURN NULL; END'",
            ),
            &["was edited by hand"],
            String::new(),
        ),
        Fault::Conditions => (
            on_function(
                "DO 'DECLARE n text; BEGIN SELECT tgname INTO n FROM pg_trigger WHERE tgrelid = \
                ''users''::regclass AND tgname LIKE ''%%\\_cache\\_notify'';
                 EXECUTE format(''DROP TRIGGER %%I ON users; CREATE TRIGGER %%I AFTER INSERT OR \
                 UPDATE OR DELETE ON users FOR EACH ROW WHEN (pg_trigger_depth() > 3) EXECUTE \
                 FUNCTION %s()'', n, n); END'",
            ),
            &["has a condition"],
            String::new(),
        ),
        Fault::Columns => {
            run(
                &client,
                &format!(
                    "ALTER TABLE users ADD COLUMN IF NOT EXISTS more{} int DEFAULT \
                {round}",
                    round % 3
                ),
            )
            .await;
            run(
                &client,
                &format!(
                    "ALTER TABLE users DROP COLUMN IF EXISTS \
                more{}",
                    (round + 1) % 3
                ),
            )
            .await;
            return;
        }
        Fault::Revokes => (
            "REVOKE SELECT ON users FROM node; SELECT pg_terminate_backend(pid) FROM \
            pg_stat_activity WHERE usename = 'node'"
                .into(),
            &["permission denied"],
            "GRANT SELECT ON users TO node".into(),
        ),
        Fault::Bars => {
            run(
                &client,
                "ALTER ROLE node NOLOGIN; SELECT pg_terminate_backend(pid) FROM \
                pg_stat_activity WHERE usename = 'node'",
            )
            .await;
            until_stale(&mut events, &["is not permitted to log in"]).await;
            run(&client, "ALTER ROLE node LOGIN").await;
            return;
        }
        Fault::ShowsStandby => {
            servers.shown.lead_to(socket(&servers.standby));
            until_stale(&mut events, &["during recovery"]).await;
            assert!(!replica.is_live());
            servers.shown.lead_to(socket(&servers.primary));
            return;
        }
        Fault::FailsOver => {
            let _nobody_writes = load.pause().await;
            servers.fail_over().await;
            until_stale(&mut events, &[""]).await;
            return;
        }
    };
    run(&client, &break_it).await;
    until_stale(&mut events, reasons).await;
    stays_stale(load, replica, users, steady).await;
    if !mend_it.is_empty() {
        run(&client, &mend_it).await;
    }
    if fault != Fault::Revokes {
        install(servers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_definitions_and_servers_a_replica_is_its_table_or_says_that_it_is_not()
{
    // In an ordinary run each fault once.
    let rounds = rounds(FAULTS.len() as u64);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut servers = Servers::start().await;
    let load = Load::start(&servers.database, transaction);
    let url = format!(
        "postgresql://node@127.0.0.1:{}/{}",
        servers.shown.port, servers.database.name
    );
    let mut builder =
        Replica::builder(url.parse::<tokio_postgres::Config>().unwrap()).limits(limits());
    let users = builder.table::<User>("users");
    let steady = builder.table::<Steady>("steady");
    let replica = tokio::time::timeout(DEADLINE, builder.open())
        .await
        .expect("it opens")
        .unwrap();
    let mut happened: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut compared = 0_u64;
    let mut inconclusive = 0_u64;
    let mut misfits = 0_usize;
    for round in 0..rounds {
        let fault = if round < FAULTS.len() as u64 {
            FAULTS[round as usize]
        } else {
            FAULTS[random.usize(0..FAULTS.len())]
        };
        let until = load.commits() + 20;
        while load.commits() < until {
            tokio::time::timeout(DEADLINE, replica.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
            match tokio::time::timeout(DEADLINE, replica.verify(&users))
                .await
                .expect("a round ends")
                .unwrap()
            {
                Verification::Compared(comparison) => {
                    compared += 1;
                    assert_eq!(
                        comparison.findings,
                        Vec::new(),
                        "PGIC_FAULT_SEED={} round {round}",
                        seed()
                    );
                }
                Verification::Inconclusive(_) => inconclusive += 1,
            }
        }
        let followed = FollowedTable {
            load: &load,
            replica: &replica,
            users: &users,
            steady: &steady,
        };
        happen(fault, &mut servers, &followed, round).await;
        *happened.entry(fault).or_default() += 1;
        let _nobody_writes = load.pause().await;
        tokio::time::timeout(DEADLINE, replica.fence())
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "PGIC_FAULT_SEED={} round {round}, {fault:?}: {:?}",
                    seed(),
                    replica.status()
                )
            })
            .unwrap();
        let client = servers.client().await;
        let stored = client
            .query("SELECT id, n, mood::text FROM users", &[])
            .await
            .unwrap();
        let fits = |row: &&tokio_postgres::Row| row.get::<_, &str>(2) != "furious";
        let rows: BTreeMap<Uuid, i64> = stored
            .iter()
            .filter(fits)
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let out: BTreeSet<Uuid> = stored
            .iter()
            .filter(|row| !fits(row))
            .map(|row| row.get(0))
            .collect();
        let reading = replica.read(&users);
        let cached: BTreeMap<Uuid, i64> = reading.iter().map(|user| (user.id, user.n)).collect();
        let kept_out: BTreeSet<Uuid> = reading.misfits().map(|(key, _)| *key).collect();
        assert_eq!(
            cached,
            rows,
            "PGIC_FAULT_SEED={} round {round}, {fault:?}",
            seed()
        );
        assert_eq!(
            kept_out,
            out,
            "PGIC_FAULT_SEED={} round {round}, {fault:?}",
            seed()
        );
        assert!(
            reading.is_current() && reading.is_live() == out.is_empty(),
            "{:?}",
            reading.status()
        );
        reading.validate().unwrap();
        misfits += out.len();
        drop(reading);
        let stored = client.query("SELECT id, n FROM steady", &[]).await.unwrap();
        let rows: BTreeMap<Uuid, i64> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
        let cached: BTreeMap<Uuid, i64> = replica
            .read(&steady)
            .iter()
            .map(|row| (row.id, row.n))
            .collect();
        assert_eq!(
            cached,
            rows,
            "PGIC_FAULT_SEED={} round {round}, {fault:?}",
            seed()
        );
    }
    let commits = load.end().await;
    let counters = replica.stats().counters;
    println!(
        "{rounds} rounds, {commits} commits, {compared} comparisons under load, {inconclusive} did \
        not count, {misfits} rows \
         that did not fit, {happened:?}, {counters:?}"
    );
    assert!(
        compared > 0 && misfits > 0 && counters.applied > 0,
        "{counters:?}"
    );
}
