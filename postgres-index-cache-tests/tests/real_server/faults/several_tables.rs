//! Several tables of one driver under faults: comparisons raise no false alarm under load, and at
//! every quiet point each table is verified.

use super::{Injector, Load, limits, rounds, seed};
use crate::driver::{connector, described, pinned_options};
use crate::support::DEADLINE;
use postgres_index_cache_core::tooling::postgres::{Driver, DriverEvent, Verification};
use postgres_index_cache_core::tooling::sync::{State, TableId};

/// Tables that take rules of their own: a deferrable key whose rows swap, partitions that rows move
/// between, a trigger that writes the row that is being announced, and a cascade.
pub(super) const SEVERAL: &str = "
    CREATE TABLE swapped (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
    CREATE TABLE moved (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE moved_0 PARTITION OF moved FOR VALUES IN (0);
    CREATE TABLE moved_1 PARTITION OF moved FOR VALUES IN (1);
    CREATE TABLE nested (id int PRIMARY KEY, v text, n int);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES nested ON DELETE CASCADE ON \
    UPDATE CASCADE, v text);
    CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE nested SET n = n + 1 WHERE id = NEW.id AND n < 3; RETURN NULL; END $$;
    CREATE TRIGGER a_bump AFTER INSERT OR UPDATE ON nested FOR EACH ROW EXECUTE FUNCTION bump();";
pub(super) const SEVERAL_TABLES: [&str; 4] = ["swapped", "moved", "nested", "child"];

/// Returns a random statement on one of the tables.
fn statement(random: &mut fastrand::Rng) -> String {
    let id = random.u32(1..15);
    let other = random.u32(1..15);
    let word = ["a", "b", "c"][random.usize(0..3)];
    match random.u32(0..100) {
        0..12 => format!(
            "INSERT INTO swapped SELECT {id}, '{word}' WHERE NOT EXISTS (SELECT FROM swapped \
            WHERE id = {id})"
        ),
        // Two rows swap their keys. In the middle of the statement both have the same key, which
        // only a deferrable key allows.
        12..25 => format!(
            "UPDATE swapped SET id = {id} + {other} - id, v = '{word}' WHERE id IN ({id}, \
            {other})
            AND 2 = (SELECT count(*) FROM swapped WHERE id IN ({id}, {other}))"
        ),
        25..30 => format!("DELETE FROM swapped WHERE id = {id}"),
        30..42 => format!(
            "INSERT INTO moved VALUES ({id}, {id} % 2, '{word}') ON CONFLICT (id, part) DO \
            UPDATE SET v = excluded.v"
        ),
        // A row that moves to another partition is deleted in one and inserted in the other.
        42..50 => format!(
            "UPDATE moved SET part = 1 - part WHERE id = {id} AND 1 = (SELECT count(*) FROM \
            moved WHERE id = {id})"
        ),
        50..53 => format!("DELETE FROM moved WHERE id = {id}"),
        // TRUNCATE of one partition does not fire the root's trigger.
        53..55 => format!("TRUNCATE moved_{}", id % 2),
        // `a_bump` updates the row again, up to three times, before its insert is announced. The
        // changes arrive in another order than they were made. One key has rows too long to send.
        55..70 => format!(
            "INSERT INTO nested VALUES ({id}, repeat('{word}', {}), 0) ON CONFLICT (id) DO \
            UPDATE SET v = excluded.v, n = 0",
            if id == 7 { 9000 } else { 3 }
        ),
        70..75 => format!(
            "UPDATE nested SET id = {other} + 100 WHERE id = {id} AND NOT EXISTS (SELECT FROM \
            nested WHERE id = {other} + 100)"
        ),
        75..80 => format!("DELETE FROM nested WHERE id IN ({id}, {other} + 100)"),
        80..92 => format!(
            "INSERT INTO child SELECT {id}, max(nested.id), '{word}' FROM nested HAVING \
            max(nested.id) IS NOT NULL ON CONFLICT (id) DO UPDATE SET parent = excluded.parent"
        ),
        92..95 => format!(
            "SAVEPOINT s; DELETE FROM nested; DELETE FROM swapped WHERE id > \
            {id}; ROLLBACK TO s"
        ),
        95..97 => "TRUNCATE nested, child".to_string(),
        // DDL announces nothing. The first statement changes nothing; the others change a type, and
        // change it back.
        97..98 => "ALTER TABLE swapped ALTER v TYPE text".to_string(),
        98..99 => "ALTER TABLE child ALTER COLUMN v TYPE varchar(100) USING v; ALTER TABLE child \
            ALTER COLUMN v TYPE text"
            .to_string(),
        _ => "TRUNCATE moved".to_string(),
    }
}

/// Returns a random transaction of one to five statements, one in ten rolled back.
pub(super) fn several(random: &mut fastrand::Rng) -> String {
    let statements: Vec<String> = (0..random.usize(1..6)).map(|_| statement(random)).collect();
    let end = if random.u32(0..10) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    // TRUNCATE and ALTER lock whole tables, in any order. Without a bound the writers would spend
    // the run waiting for each other.
    format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; {}; {end}",
        statements.join("; ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_tables_are_verified_under_load_and_after_each_fault() {
    let rounds = rounds(5);
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut injector = Injector::start(SEVERAL, &SEVERAL_TABLES).await;
    let load = Load::start(&injector.database, several);
    let mut follows = Vec::new();
    for table in SEVERAL_TABLES {
        let mut follow = described(&injector.through, table).await;
        // Side reads are part of the load: they are for tables that are large.
        follow.followed.is_for_side_read = true;
        follows.push(follow);
    }
    let mut options = pinned_options();
    // `limits()` watches DDL: the load's ALTER TABLE rewrites rows without announcing them.
    options.limits = limits();
    options.limits.side_reads = 2;
    let server = connector(&injector.through.url);
    let mut driver = Driver::open(server, follows, options).await.unwrap();
    let mut under_load = 0_u64;
    let mut inconclusive = 0_u64;
    let mut gaps = 0_u64;
    for round in 0..rounds {
        let until = load.commits() + 40;
        while load.commits() < until {
            tokio::time::timeout(DEADLINE, driver.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
            let table = TableId(random.usize(0..SEVERAL_TABLES.len()));
            match tokio::time::timeout(DEADLINE, driver.verify(table))
                .await
                .expect("the comparison ends")
                .unwrap()
            {
                Verification::Compared(comparison) => {
                    under_load += 1;
                    // Writers go on during the comparison. A finding here would be a false alarm.
                    assert_eq!(
                        comparison.findings,
                        Vec::new(),
                        "PGIC_FAULT_SEED={seed} round {round}, {table:?}"
                    );
                }
                Verification::Inconclusive(_) => inconclusive += 1,
            }
        }
        let going_on = async {
            loop {
                driver.step().await.unwrap();
            }
        };
        let fault = injector.inject("pgic test", &load, going_on).await;
        let _nobody_writes = load.pause().await;
        for (at, table) in SEVERAL_TABLES.iter().enumerate() {
            // A reload that is still to come makes a comparison inconclusive, so try again.
            let compared = async {
                loop {
                    if let Verification::Compared(comparison) =
                        driver.verify(TableId(at)).await.unwrap()
                    {
                        break comparison;
                    }
                }
            };
            let comparison = tokio::time::timeout(DEADLINE, compared)
                .await
                .expect("a comparison is conclusive");
            assert_eq!(
                comparison.findings,
                Vec::new(),
                "PGIC_FAULT_SEED={seed} round {round}, {fault:?}, {table}"
            );
        }
        gaps += driver
            .take_events()
            .filter(|event| matches!(event, DriverEvent::State(State::Disconnected)))
            .count() as u64;
    }
    let commits = load.end().await;
    let counters = driver.engine().counters();
    let injected = &injector.injected;
    println!(
        "{rounds} rounds, {gaps} gaps, {commits} commits, {under_load} comparisons under load, \
        {inconclusive} inconclusive, {injected:?}, {counters:?}"
    );
    assert!(under_load > 0 && counters.applied > 0, "{counters:?}");
}
