//! A reader that polls a replica's rows through all faults: it never sees a value that was not
//! committed, and never an older value after a newer one. A quiet point cannot show this, since an
//! old value that appears for a moment is gone by then.

use super::{Injector, Load, limits, rounds, seed};
use crate::support::DEADLINE;
use postgres_index_cache_core::tooling::postgres::{Replica, ReplicaTable};
use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Rows whose number `tick` is the next of a sequence each time that the row is written. The number
/// is taken while the row's lock is held, so the order of a row's numbers is the order of its
/// commits.
const CLOCKS: &str = "
    CREATE SEQUENCE ticks;
    CREATE TABLE clock (id uuid PRIMARY KEY, tick bigint NOT NULL, mark text NOT NULL);";

/// The mark of rows that are always rolled back, so no committed row has it.
const NEVER: &str = "never";

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Clock {
    id: Uuid,
    tick: i64,
    mark: String,
}

impl HasPrimaryKey for Clock {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Clock {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("tick".to_string(), Some(self.tick))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Returns the key of the row `number` as a literal of SQL.
fn id(number: u32) -> String {
    format!("'{}'", Uuid::from_u128(number.into()))
}

/// Returns a random statement that gives the rows it writes the mark `mark`.
fn statement(random: &mut fastrand::Rng, mark: &str) -> String {
    let number = random.u32(1..20);
    let other = id(random.u32(1..20));
    let row = id(number);
    let row_to = id(number + 2);
    match random.u32(0..100) {
        // 1. Two transactions insert one key, and each takes its number before it meets the other.
        // 2. The one with the larger number commits, and a third transaction deletes its row.
        // 3. The other one inserts with the smaller number: time runs backwards in the table
        // itself. So the later one waits for the advisory lock before it takes its number.
        0..35 => format!(
            "SELECT pg_advisory_xact_lock({number});
             INSERT INTO clock VALUES ({row}, nextval('ticks'), '{mark}')
             ON CONFLICT (id) DO UPDATE SET tick = nextval('ticks'), mark = excluded.mark"
        ),
        35..60 => {
            format!("UPDATE clock SET tick = nextval('ticks'), mark = '{mark}' WHERE id = {row}")
        }
        60..75 => format!(
            "UPDATE clock SET tick = nextval('ticks'), mark = '{mark}' WHERE id BETWEEN {row} AND \
            {row_to}"
        ),
        // Too long for a payload: the row is refetched, while changes of its key wait.
        75..82 => format!(
            "UPDATE clock SET tick = nextval('ticks'), mark = repeat('{mark}', 9000) WHERE id = \
            {other}"
        ),
        82..90 => format!("DELETE FROM clock WHERE id = {row}"),
        90..98 => format!(
            "SAVEPOINT s; UPDATE clock SET tick = nextval('ticks'), mark = '{NEVER}' WHERE id >= \
            {row}; ROLLBACK TO s"
        ),
        _ => "TRUNCATE clock".to_string(),
    }
}

/// Returns a random transaction. One in ten marks its rows with [`NEVER`] and is rolled back.
fn ticks(random: &mut fastrand::Rng) -> String {
    let is_rolled_back = random.u32(0..10) == 0;
    let mark = if is_rolled_back { NEVER } else { "x" };
    let end = if is_rolled_back { "ROLLBACK" } else { "COMMIT" };
    let statements: Vec<String> = (0..random.usize(1..5))
        .map(|_| statement(random, mark))
        .collect();
    format!("BEGIN; {}; {end}", statements.join("; "))
}

/// Counts of a polling reader, which show that the reader saw something at all.
#[derive(Debug, Default)]
struct Seen {
    reads: u64,
    /// Reads of a live cache.
    live: u64,
    /// Values that were newer than the last one of their row.
    values: u64,
}

/// Reads all rows again and again until `stop` is set, and panics over a value that must not be.
fn poll(replica: &Replica, clocks: &ReplicaTable<Clock>, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    // The last number of each row, and whether the row was there the last time.
    let mut last: BTreeMap<Uuid, (i64, bool)> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let reading = replica.read(clocks);
        seen.reads += 1;
        seen.live += u64::from(reading.is_live());
        for (id, (tick, was_there)) in &mut last {
            match reading.get_by_primary(id) {
                None => *was_there = false,
                Some(row) => {
                    // A row that was gone must come back with a new number: every insert takes one.
                    let is_older = row.tick < *tick || (row.tick == *tick && !*was_there);
                    assert!(
                        !is_older,
                        "PGIC_FAULT_SEED={}: {id} was {tick}, is {}",
                        seed(),
                        row.tick
                    );
                    seen.values += u64::from(row.tick > *tick);
                    (*tick, *was_there) = (row.tick, true);
                }
            }
        }
        for row in reading.iter() {
            assert!(
                !row.mark.starts_with(NEVER),
                "PGIC_FAULT_SEED={}: {row:?} was rolled back",
                seed()
            );
            last.entry(row.id).or_insert((row.tick, true));
        }
        drop(reading);
        // Let the cache's writer have the lock: a reader that takes it again at once starves it.
        std::thread::yield_now();
    }
    seen
}

fn clock_of(row: &tokio_postgres::Row) -> Clock {
    Clock {
        id: row.get("id"),
        tick: row.get("tick"),
        mark: row.get("mark"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_reader_never_sees_time_run_backwards() {
    let rounds = rounds(6);
    let mut injector = Injector::start(CLOCKS, &["clock"]).await;
    let load = Load::start(&injector.database, ticks);
    let mut config: tokio_postgres::Config = injector.through.url.parse().unwrap();
    config.application_name("node");
    let mut builder = Replica::builder(config);
    builder.limits(limits());
    let clocks = builder.table::<Clock>("clock");
    let replica = Arc::new(
        tokio::time::timeout(DEADLINE, builder.open())
            .await
            .expect("the replica opens")
            .unwrap(),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let polled = Arc::clone(&replica);
    let rows = clocks.clone();
    let told_to_stop = Arc::clone(&stop);
    let reader = tokio::task::spawn_blocking(move || poll(&polled, &rows, &told_to_stop));
    for round in 0..rounds {
        let until = load.commits() + 40;
        while load.commits() < until {
            tokio::time::timeout(DEADLINE, replica.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
        }
        // A replica drives itself by a task of its own, so nothing has to go on here.
        let fault = injector.inject("node", &load, std::future::pending()).await;
        let _nobody_writes = load.pause().await;
        tokio::time::timeout(DEADLINE, replica.fence())
            .await
            .expect("the replica is live again")
            .unwrap();
        let client = injector.database.client().await;
        let stored = client
            .query("SELECT id, tick, mark FROM clock", &[])
            .await
            .unwrap();
        let stored: BTreeMap<Uuid, Clock> = stored
            .iter()
            .map(|row| (row.get(0), clock_of(row)))
            .collect();
        let reading = replica.read(&clocks);
        let cached: BTreeMap<Uuid, Clock> =
            reading.iter().map(|row| (row.id, row.clone())).collect();
        assert_eq!(
            cached,
            stored,
            "PGIC_FAULT_SEED={} round {round}, {fault:?}",
            seed()
        );
        reading.validate().unwrap();
        assert!(!reader.is_finished(), "the reader goes on");
    }
    stop.store(true, Ordering::Relaxed);
    let seen = reader.await.expect("the reader saw nothing that was wrong");
    let commits = load.end().await;
    let counters = replica.stats().counters;
    println!(
        "{rounds} rounds, {commits} commits, {seen:?}, {:?}, {counters:?}",
        injector.injected
    );
    assert!(seen.live > 0 && seen.values > 100, "{seen:?}");
}
