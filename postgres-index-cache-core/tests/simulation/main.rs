//! The engine on fake time against a model of PostgreSQL, from seeds. A seed that fails is one
//! line: `SEED=… cargo test -p postgres-index-cache-core --test simulation one_seed`; `SEEDS=…`
//! runs more of them.

mod server;
mod world;

use postgres_index_cache_core::sync::Rule;
use server::Fault;
use std::collections::BTreeMap;
use world::{World, Wrong};

const SEEDS: u64 = 20_000;

/// Runs seeds until one fails.
fn first_failure(seeds: std::ops::Range<u64>, wrong: Option<Wrong>) -> Option<(u64, String)> {
    seeds
        .into_iter()
        .find_map(|seed| World::new(seed, wrong).run().err().map(|why| (seed, why)))
}

#[test]
fn the_cache_is_the_table_at_every_fence_whatever_happens() {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) as u64;
    let seeds =
        std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SEEDS is a number"));
    let share = seeds / threads;
    let failures: Vec<(u64, String)> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || first_failure(thread * share..(thread + 1) * share, None))
            })
            .collect();
        runs.into_iter()
            .filter_map(|run| run.join().expect("a run ends"))
            .collect()
    });
    if let Some((seed, why)) = failures.first() {
        panic!(
            "SEED={seed} cargo test -p postgres-index-cache-core --test simulation one_seed\n{why}"
        );
    }
}

#[test]
fn one_seed() {
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    if let Err(why) = World::new(seed, None).run() {
        panic!("seed {seed}: {why}");
    }
}

#[test]
fn everything_that_can_happen_does() {
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..2000 {
        let mut world = World::new(seed, None);
        world
            .run()
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let counters = world.counters();
        for (what, count) in [
            ("applied", counters.applied),
            ("skipped", counters.skipped),
            ("reloads", counters.reloads),
            ("refetched", counters.refetched),
            ("gaps", counters.gaps),
            ("connections reopened", counters.reopened),
            ("reads from another server", world.misplaced),
            ("invalid", counters.invalid),
            ("other tables", counters.other_tables),
            ("fences", world.fences_checked),
            ("truncates that spared rows", world.spared),
            ("collapsed", counters.collapsed),
            ("late answers", world.late),
            ("blocked fences", world.blocked),
            ("changes in the plain form", counters.plain),
            ("memory was short", world.short),
            ("tables altered", world.altered),
            ("tables that could not be followed", world.held),
            ("names that another table took", world.swapped),
            ("looks that failed", world.failed_looks),
            ("rows that did not fit", world.misfits),
            (
                "given up before it was live",
                u64::from(world.has_given_up()),
            ),
            ("caches compared", world.compared),
            ("comparisons that did not count", world.inconclusive),
        ] {
            *happened.entry(what).or_default() += count;
        }
    }
    assert!(happened.values().all(|&count| count > 30), "{happened:?}");
}

#[test]
fn disabling_any_rule_makes_the_simulation_fail() {
    let rules = [
        Rule::Recheck,
        Rule::Delete,
        Rule::Waiting,
        Rule::Floor,
        Rule::Generation,
        Rule::Cut,
        Rule::Fence,
        Rule::Spare,
        Rule::Sticky,
        Rule::Hold,
        Rule::ComparisonFence,
        Rule::Probe,
        Rule::Open,
        Rule::Look,
        Rule::Held,
    ];
    let faults = [
        Fault::SubtransactionXid,
        Fault::NoRecheck,
        Fault::Folded,
        Fault::NoTruncate,
        Fault::NewKeyAlone,
        Fault::SnapshotBeforeListen,
        Fault::AnyContract,
        Fault::StaysWithRelation,
        Fault::SwallowsMisfits,
    ];
    let wrongs = rules
        .map(Wrong::Rule)
        .into_iter()
        .chain(faults.map(Wrong::Fault));
    let unnoticed: Vec<Wrong> = wrongs
        .filter(|wrong| first_failure(0..SEEDS, Some(*wrong)).is_none())
        .collect();
    assert!(unnoticed.is_empty(), "nobody notices {unnoticed:?}");
}
