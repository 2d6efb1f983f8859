//! The engine on fake time, driven by a model of PostgreSQL from seeds.
//!
//! Each seed is one run: writers, readers, lost connections, DDL and forged payloads in an order
//! that the seed alone decides. After each step the caches are checked against the tables. A run
//! that fails is repeated by one line:
//! `SEED=… cargo test -p postgres-index-cache-core --test simulation one_seed`. `SEEDS=…` sets how
//! many seeds are run.
//!
//! - [`fleet`]: several nodes of one server.
//! - [`server`]: the model of PostgreSQL.
//! - [`world`]: one run, with models of the driver and of the caches, and the checks.

mod fleet;
mod server;
mod world;

use fleet::Fleet;
use postgres_index_cache_core::tooling::sync::Rule;
use server::Fault;
use std::collections::BTreeMap;
use world::{World, Wrong};

const SEEDS: u64 = 20_000;

/// Every rule of the engine that can be taken out, with the scenario that the rule prevents and
/// that some seed runs into without the rule.
const RULES: [Rule; 18] = [
    // 1. T inserts a row, and an AFTER trigger updates that row.
    // 2. The update is announced first, then the insert with its older data and `recheck`.
    // 3. Applied in that order, the cache keeps the inserted data.
    Rule::Recheck,
    // 1. T deletes a row, and an AFTER trigger inserts the key again.
    // 2. The insert is announced first, then the delete.
    // 3. Applied in that order, the cache lacks a row that the table has.
    Rule::Delete,
    // 1. Q reads a row by its key. The answer, with the value A, is on its way.
    // 2. T sets the value to B, and its change is applied at once.
    // 3. The answer is stored over it: the cache has A, the table has B.
    Rule::Waiting,
    // 1. T1 and T2 update a row that Q is about to read by its key.
    // 2. Q's snapshot sees both, so the cache gets T2's value.
    // 3. T1's change arrives and is applied: the row goes back to T1's value.
    Rule::Floor,
    // 1. Q is asked for a row by its key, and is lost before the answer is handed in.
    // 2. Over a new connection the row is read again, and later changes of the row are applied.
    // 3. The answer of the old connection comes after all, and its old row is stored.
    Rule::Generation,
    // 1. T1 and T2 update a row. Both notifications wait in the queue.
    // 2. The snapshot of a read sees both, so the cache gets T2's value.
    // 3. T1's change arrives and is applied: the row goes back to T1's value.
    Rule::Cut,
    // 1. T commits. Its notification waits in the queue.
    // 2. A caller asks for a fence, and is told at once that the fence is reached.
    // 3. The caller reads a cache without T.
    Rule::Fence,
    // 1. Q is asked for a row by its key. Before Q reads, T1 truncates the table and T2 inserts
    //    the key again.
    // 2. Q's snapshot sees both, so the cache gets T2's row, and T2's own change is skipped.
    // 3. T1's TRUNCATE, which waited for the read, removes every row, T2's included.
    Rule::Spare,
    // 1. A cache cannot be changed. T announces an insert of a key, then two deletes of that key
    //    that were both made before it (see `Server::write`).
    // 2. The first delete is doubtful, so the row is to be read again. The second one is not: the
    //    key was last announced as deleted.
    // 3. If the second delete may replace the read, the cache lacks a row that the table has.
    Rule::Sticky,
    // 1. Q takes the snapshot of a comparison.
    // 2. T commits after that, and its change is applied before the comparison compares.
    // 3. The cache has a row that the snapshot lacks: a false finding. Or the comparison reads the
    //    row inside its snapshot and stores it: the row goes back.
    Rule::Hold,
    // 1. T commits. Its notification waits in the queue.
    // 2. Q takes the snapshot of a comparison, which sees T.
    // 3. The cache is compared without T: a false finding.
    Rule::ComparisonFence,
    // 1. Somebody asks for digests at the snapshot S.
    // 2. T commits after S, and its change is applied before the digests are computed.
    // 3. The node's digests are not those of S: a row is called stale that is right.
    Rule::Freeze,
    // 1. Q is lost, and opened again on another server that lags behind.
    // 2. Without the token that L must hear, this server's answers are believed.
    // 3. Rows of some time ago are stored, and the cache is called live.
    Rule::Probe,
    // 1. A table was read. A change whose row must be read by its key arrives.
    // 2. The fence that proves the table's read arrives before Q answers.
    // 3. The table is called live as of that fence, with the old row.
    Rule::Open,
    // 1. Somebody disables a trigger and updates a row.
    // 2. A caller asks for a fence, which arrives. No look has begun since step 1.
    // 3. The caller is told that the fence is reached, and reads the old row.
    Rule::Look,
    // 1. A look finds that a table's trigger is disabled, or that another table has its name.
    // 2. The driver says so, and the engine goes on with the table all the same.
    // 3. The next fence is reached without the rows that nobody announced.
    Rule::Held,
    // 1. T updates rows 1 and 2. The notification of row 1 is heard.
    // 2. Somebody who waits for T is told that the cache has T.
    // 3. They read the old row 2.
    Rule::Whole,
    // 1. T commits. Its notification waits in the queue.
    // 2. F takes a snapshot, which sees that T has ended.
    // 3. Somebody who waits for T is told that the cache has T.
    Rule::Horizon,
];

/// Every fault of the trigger or the driver; each variant of [`Fault`] has its scenario.
const FAULTS: [Fault; 10] = [
    Fault::SubtransactionXid,
    Fault::NoRecheck,
    Fault::Folded,
    Fault::NoTruncate,
    Fault::NewKeyAlone,
    Fault::SnapshotBeforeListen,
    Fault::AnyContract,
    Fault::StaysWithRelation,
    Fault::SideUnproven,
    Fault::SwallowsMisfits,
];

/// A seed whose run failed.
#[derive(Debug)]
struct FailedSeed {
    seed: u64,
    why: String,
}

/// Runs `seeds` in order and returns the first that fails, or `None` if none does.
fn first_failure(seeds: std::ops::Range<u64>, wrong: Option<Wrong>) -> Option<FailedSeed> {
    seeds.into_iter().find_map(|seed| {
        let ran = World::new(seed, wrong).run();
        ran.err().map(|why| FailedSeed { seed, why })
    })
}

/// The proof of the engine: each seed is another order of commits, reads, losses and DDL.
#[test]
fn the_cache_is_the_table_at_every_fence_whatever_happens() {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) as u64;
    let seeds =
        std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SEEDS is a number"));
    let share = seeds / threads;
    let failures: Vec<FailedSeed> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || first_failure(thread * share..(thread + 1) * share, None))
            })
            .collect();
        runs.into_iter()
            .filter_map(|run| run.join().expect("a run ends"))
            .collect()
    });
    if let Some(FailedSeed { seed, why }) = failures.first() {
        panic!(
            "SEED={seed} cargo test -p postgres-index-cache-core --test simulation one_seed\n{why}"
        );
    }
}

/// Repeats the run of one seed, for whoever looks into a failure.
#[test]
fn one_seed() {
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    if let Err(why) = World::new(seed, None).run() {
        panic!("seed {seed}: {why}");
    }
}

/// A failing seed is of use only if the run can be repeated exactly, down to the order of the
/// engine's outputs. A hash map with random order in the engine would make two runs of one seed
/// differ.
#[test]
fn a_seed_replays_exactly() {
    let mut outputs = 0;
    for seed in 0..500 {
        let first = World::outputs_of(seed);
        let second = World::outputs_of(seed);
        let differing = std::iter::zip(&first, &second).find(|(first, second)| first != second);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
        outputs += first.len();
    }
    assert!(outputs > 10_000, "{outputs}");
}

/// A change of the odds could make an event so rare that the simulation proves nothing about that
/// event any more, and every test would still pass.
#[test]
fn everything_that_can_happen_does() {
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..2000 {
        let mut world = World::new(seed, None);
        world
            .run()
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let counters = world.counters();
        let statistics = &world.statistics;
        for (event, count) in [
            ("applied", counters.applied),
            ("skipped", counters.skipped),
            ("reloads", counters.reloads),
            ("refetched", counters.refetched),
            ("gaps", counters.gaps),
            ("connections reopened", counters.reopened),
            ("reads from another server", statistics.misplaced),
            ("side reads", statistics.side_reads),
            ("side reads that were lost", statistics.side_lost),
            ("side reads that Q made", statistics.side_late),
            ("side sessions on another server", statistics.side_misplaced),
            ("invalid", counters.invalid),
            ("other tables", counters.other_tables),
            ("fences", statistics.fences_checked),
            ("truncates that spared rows", statistics.spared),
            ("collapsed", counters.collapsed),
            ("late answers", statistics.late),
            ("blocked fences", statistics.blocked),
            ("changes in the plain form", counters.plain),
            ("memory was short", statistics.short),
            ("tables altered", statistics.altered),
            ("tables that could not be followed", statistics.held),
            ("names that another table took", statistics.swapped),
            ("looks that failed", statistics.failed_looks),
            ("rows that did not fit", statistics.misfits),
            (
                "given up before it was live",
                u64::from(world.has_given_up()),
            ),
            ("transactions that were heard", statistics.heard),
            ("transactions that had ended", statistics.seen_ended),
            ("caches compared", statistics.compared),
            ("inconclusive comparisons", statistics.inconclusive),
            ("frozen caches", statistics.frozen),
            ("open rows in them", statistics.open_rows),
            ("caches that could not be frozen", statistics.unfrozen),
            ("questions that were made up", statistics.forged),
        ] {
            *happened.entry(event).or_default() += count;
        }
    }
    assert!(happened.values().all(|&count| count > 30), "{happened:?}");
}

/// Several nodes of one server, and questions for digests at any moment: each frozen cache is the
/// table at the cut, whatever happens. From one node changes are withheld, and that is seen.
#[test]
fn every_node_is_the_table_at_a_cut_and_withheld_changes_are_found() {
    let seeds = std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number")) / 10;
    let mut frozen = 0;
    let mut withheld = 0;
    let mut found = 0;
    for seed in 0..seeds {
        let mut fleet = Fleet::new(seed);
        fleet
            .run()
            .unwrap_or_else(|why| panic!("fleet {seed}: {why}"));
        for statistics in fleet.statistics() {
            frozen += statistics.frozen;
            withheld += statistics.withheld;
            found += statistics.withheld_found;
        }
    }
    println!("{frozen} frozen caches, {withheld} changes withheld, {found} findings");
    assert!(frozen > seeds && withheld > seeds, "{frozen} {withheld}");
    assert!(found * 20 > seeds, "{found} findings");
}

/// Tests the simulation itself: a rule whose absence no seed finds is a rule without a test.
#[test]
fn disabling_any_rule_makes_the_simulation_fail() {
    let wrongs = RULES
        .map(Wrong::Rule)
        .into_iter()
        .chain(FAULTS.map(Wrong::Fault));
    let undetected: Vec<Wrong> = wrongs
        .filter(|wrong| first_failure(0..SEEDS, Some(*wrong)).is_none())
        .collect();
    assert!(
        undetected.is_empty(),
        "no seed fails without {undetected:?}"
    );
}
