//! Whoever polls a replica's rows, through whatever happens, sees no value that was not committed,
//! and no older one after a newer one.

use super::{Injector, Load, limits, rounds, seed};
use crate::support::DEADLINE;
use postgres_index_cache_core::postgres::{Replica, ReplicaTable};
use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Each time a row is written, its number is the next of a sequence, taken when its lock is held
/// already.
const CLOCKS: &str = "
    CREATE SEQUENCE ticks;
    CREATE TABLE clock (id uuid PRIMARY KEY, tick bigint NOT NULL, mark text NOT NULL);";

/// What no committed row says.
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

fn ticks(random: &mut fastrand::Rng) -> String {
    let statement = |random: &mut fastrand::Rng, mark: &str| {
        let number = random.u32(1..20);
        let other = random.u32(1..20);
        let id = |number: u32| format!("'{}'", Uuid::from_u128(number.into()));
        let row = id(number);
        let row_to = id(number + 2);
        match random.u32(0..100) {
            // Of two that insert one key, the later waits before it takes its number: the row of
            // the other may be gone again when it comes to write its own.
            0..35 => format!(
                "SELECT pg_advisory_xact_lock({number});
                 INSERT INTO clock VALUES ({row}, nextval('ticks'), '{mark}')
                 ON CONFLICT (id) DO UPDATE SET tick = nextval('ticks'), mark = excluded.mark"
            ),
            35..60 => format!(
                "UPDATE clock SET tick = nextval('ticks'), mark = '{mark}' WHERE id = {row}"
            ),
            60..75 => {
                format!(
                    "UPDATE clock SET tick = nextval('ticks'), mark = '{mark}' WHERE id BETWEEN \
                    {row} AND {row_to}"
                )
            }
            75..82 => format!(
                "UPDATE clock SET tick = nextval('ticks'), mark = repeat('{mark}', 9000) WHERE id \
                = {}",
                id(other)
            ),
            82..90 => format!("DELETE FROM clock WHERE id = {row}"),
            90..98 => format!(
                "SAVEPOINT s; UPDATE clock SET tick = nextval('ticks'), mark = '{NEVER}' WHERE id \
                >= {row}; ROLLBACK TO s"
            ),
            _ => "TRUNCATE clock".to_string(),
        }
    };
    let is_rolled_back = random.u32(0..10) == 0;
    let (mark, end) = if is_rolled_back {
        (NEVER, "ROLLBACK")
    } else {
        ("x", "COMMIT")
    };
    let statements: Vec<String> = (0..random.usize(1..5))
        .map(|_| statement(random, mark))
        .collect();
    format!("BEGIN; {}; {end}", statements.join("; "))
}

/// What a reader has seen.
#[derive(Debug, Default)]
struct Seen {
    reads: u64,
    live: u64,
    values: u64,
}

/// Reads all rows again and again until it is told to stop.
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
        // The cache's writer gets its turn.
        std::thread::yield_now();
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_reader_never_sees_time_run_backwards() {
    let rounds = rounds(6);
    let mut injector = Injector::start(CLOCKS, &["clock"]).await;
    let load = Load::start(&injector.database, ticks);
    let mut config: tokio_postgres::Config = injector.through.url.parse().unwrap();
    config.application_name("node");
    let mut builder = Replica::builder(config).limits(limits());
    let clocks = builder.table::<Clock>("clock");
    let replica = Arc::new(
        tokio::time::timeout(DEADLINE, builder.open())
            .await
            .expect("it opens")
            .unwrap(),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let replica = Arc::clone(&replica);
        let clocks = clocks.clone();
        let stop = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || poll(&replica, &clocks, &stop))
    };
    for round in 0..rounds {
        let until = load.commits() + 40;
        while load.commits() < until {
            tokio::time::timeout(DEADLINE, replica.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
        }
        let fault = injector.inject("node", &load, std::future::pending()).await;
        let _nobody_writes = load.pause().await;
        tokio::time::timeout(DEADLINE, replica.fence())
            .await
            .expect("it reconnect")
            .unwrap();
        let client = injector.database.client().await;
        let stored = client
            .query("SELECT id, tick, mark FROM clock", &[])
            .await
            .unwrap();
        let stored: BTreeMap<Uuid, Clock> = stored
            .iter()
            .map(|row| {
                (
                    row.get(0),
                    Clock {
                        id: row.get(0),
                        tick: row.get(1),
                        mark: row.get(2),
                    },
                )
            })
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
