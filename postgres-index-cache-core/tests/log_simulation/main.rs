//! The log's readers and writers on fake time, driven from seeds by models of PostgreSQL and of an
//! engine that loses acknowledged entries.
//!
//! Each seed is one run: commits, relays that crash or are stopped, lost sessions, an engine that
//! is away, rolled back, wiped or cut, and nodes that are restarted or stopped. After each step the
//! nodes are checked. A run that fails is repeated by one line: `SEED=… cargo test -p
//! postgres-index-cache-core --test log_simulation one_seed`. `SEEDS=…` sets how many seeds are
//! run.
//!
//! - [`broker`]: the model of the engine. [`server`]: the model of PostgreSQL.
//! - [`reader`], [`relay`]: drivers of the node and of the writer.
//! - [`world`]: one run, its faults, and the checks.

mod broker;
mod reader;
mod relay;
mod rows;
mod server;
mod world;

use postgres_index_cache_core::tooling::log::Rule;
use std::collections::BTreeMap;
use world::{Failed, World};

const SEEDS: u64 = 20_000;

fn seeds() -> u64 {
    std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SEEDS is a number"))
}

/// A seed whose run failed.
#[derive(Debug)]
struct FailedSeed {
    seed: u64,
    why: Failed,
}

/// Runs `seeds` in order and returns the first that fails, or `None` if none does.
fn first_failure(
    seeds: std::ops::Range<u64>,
    without: &'static [Rule],
    compares: bool,
) -> Option<FailedSeed> {
    seeds.into_iter().find_map(|seed| {
        let ran = World::new(seed, without, compares).run();
        ran.err().map(|why| FailedSeed { seed, why })
    })
}

/// The proof of the protocol: each seed is another order of commits, faults and messages.
#[test]
fn a_live_node_is_a_committed_state_whatever_happens() {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) as u64;
    let share = (seeds() / threads).max(1);
    let failures: Vec<FailedSeed> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = thread * share..(thread + 1) * share;
                scope.spawn(move || first_failure(seeds, &[], true))
            })
            .collect();
        runs.into_iter()
            .filter_map(|run| run.join().expect("a run ends"))
            .collect()
    });
    if let Some(FailedSeed { seed, why }) = failures.first() {
        panic!(
            "SEED={seed} cargo test -p postgres-index-cache-core --test log_simulation one_seed\n\
            {why:?}"
        );
    }
}

/// Repeats the run of one seed, for whoever looks into a failure.
#[test]
fn one_seed() {
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    if let Err(why) = World::new(seed, &[], true).run() {
        panic!("seed {seed}: {why:?}");
    }
}

/// A change of the odds could make an event so rare that the simulation proves nothing about that
/// event any more, and every test would still pass.
#[test]
fn everything_that_can_happen_does() {
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..2000 {
        let mut world = World::new(seed, &[], true);
        world
            .run()
            .unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        let statistics = &world.statistics;
        for (event, count) in [
            ("commits", statistics.commits),
            ("terms begun", statistics.begun),
            ("terms begun anew", statistics.resets),
            ("entries appended again", statistics.resumed_writers),
            ("rows deferred", statistics.deferrals),
            ("changes in parts", statistics.in_parts),
            (
                "terms that ended before a last part",
                statistics.parts_abandoned,
            ),
            (
                "rows published after they were deferred",
                statistics.published_deferred,
            ),
            ("relays stepped down", statistics.stepped_down),
            ("recoveries", statistics.recoveries),
            ("entries refused", statistics.refused),
            ("entries stored late", statistics.stored_late),
            ("rollbacks", statistics.rollbacks),
            ("wipes", statistics.wipes),
            ("cuts", statistics.cuts),
            ("snapshots", statistics.snapshots),
            ("snapshots dropped", statistics.dropped_snapshots),
            ("answers lost", statistics.answers_lost),
            ("tails lost with no connection", statistics.quiet_losses),
            ("images compared", statistics.images_compared),
            ("crashes", statistics.crashes),
            ("sessions lost", statistics.gaps),
            ("messages dropped", statistics.dropped),
            ("bits flipped", statistics.flips),
            ("nodes stopped", statistics.stops),
            ("snapshots loaded", statistics.loads),
            ("reads resumed", statistics.resumed),
            ("holes", statistics.holes),
            ("logs that were others", statistics.lost),
            ("digests that differed", statistics.differing),
            ("fences", statistics.fences),
            ("steps of live nodes", statistics.live_steps),
        ] {
            *happened.entry(event).or_default() += count;
        }
    }
    println!("{happened:?}");
    assert!(happened.values().all(|&count| count > 30), "{happened:?}");
}

/// Rules that are taken out together, and the broker that they are taken out beside.
#[derive(Debug)]
struct Experiment {
    rules: &'static [Rule],
    /// Whether the broker compares and appends (W2).
    compares: bool,
}

/// Each rule is taken out, and some seed fails.
///
/// Compare-and-append (W2) and `Chain` stand in for each other, and `Chain` for `Contiguous`: the
/// name of the entry in front tells readers of entries that the engine should have refused, or has
/// dropped.
///
/// `Nonce`, `After` and `Numbers` follow from compare-and-append: an engine that refuses each entry
/// behind another than the named one stores nothing that these rules would have to ignore. They
/// stay as a second line, for an engine that breaks its word, and the digest is a third. So they
/// are taken out together with both. The digest stands in for `SnapshotEnd` too: a node that trusts
/// such a snapshot finds its rows differing, and loads another.
static EXPERIMENTS: [Experiment; 16] = [
    // 1. A message is dropped on its way to a reader.
    // 2. The reader takes the next one, which its position does not fit, and all later ones
    //    neither.
    alone(&[Rule::Contiguous, Rule::Chain]),
    // 1. The last message of the log is dropped on its way to both relays, and nobody writes.
    // 2. Neither of them sees a hole, nor reaches the log's end. Nobody ever writes again.
    alone(&[Rule::Silence]),
    // 1. The engine loses entries that a reader has taken, and others take their place.
    // 2. The reader reads on behind them, and takes nothing any more.
    alone(&[Rule::Overlap]),
    // 1. A relay begins anew. Readers take `begin`, and keep the rows of the old log.
    // 2. No digest of the new log fits them, and they never load a snapshot at the right moment.
    alone(&[Rule::Reset]),
    // 1. A relay dies. Another begins, and publishes the difference in two parts.
    // 2. A node shows the first part as live.
    alone(&[Rule::BeginVoids]),
    // 1. A relay loses its session, and publishes the difference in two parts.
    // 2. A node shows the first part as live.
    alone(&[Rule::Stale]),
    // 1. A node was away. It reads on, and takes an old proof.
    // 2. It calls rows live that were changed before it came back.
    alone(&[Rule::OwnFence]),
    // 1. A bit of a row is flipped in a node's memory.
    // 2. The node takes a proof, and calls the row live.
    alone(&[Rule::Digest]),
    // 1. The engine loses more entries than the writer keeps, and the writer goes on.
    // 2. Whoever has the lost entries takes nothing any more, and no snapshot is put.
    alone(&[Rule::ResetWhenLost]),
    // 1. The engine is away, and rows are deferred. They are published in two parts.
    // 2. A node shows the first part as live.
    alone(&[Rule::StaleFirst]),
    // 1. A node asks for a fence, reads again, and asks anew.
    // 2. The answer to the first question passes for the other's: rows are older than the fence.
    alone(&[Rule::Answers]),
    // 1. A snapshot's rows are read bit by bit while entries go on. The engine loses the last of
    //    those entries.
    // 2. Whoever loads the snapshot has rows of entries that are in no log, and calls them live.
    alone(&[Rule::SnapshotEnd, Rule::Digest]),
    // 1. Two relays write at once, and each entry of either is stored behind the other's.
    // 2. A reader goes on from entry to entry, takes those of one of them, and misses those that
    //    the relay has lost.
    with_two_writers(&[Rule::Chain]),
    // 1. The log is rolled back, and a second term gets the number of one that is lost.
    // 2. A reader takes entries of both.
    with_two_writers(&[Rule::Nonce, Rule::Digest, Rule::Chain]),
    // 1. Two relays begin behind one entry, and both terms are stored.
    // 2. A reader that has entries of the first takes the second as if it built upon them.
    with_two_writers(&[Rule::After, Rule::Digest, Rule::Chain]),
    // 1. A reader has ignored an entry of a term, and takes the ones behind it.
    with_two_writers(&[Rule::Numbers, Rule::Digest, Rule::Chain]),
];

/// Returns the experiment without these rules.
const fn alone(rules: &'static [Rule]) -> Experiment {
    Experiment {
        rules,
        compares: true,
    }
}

/// Returns the experiment without these rules, on an engine that appends whatever comes.
const fn with_two_writers(rules: &'static [Rule]) -> Experiment {
    Experiment {
        rules,
        compares: false,
    }
}

impl Experiment {
    /// Returns the first seed that fails.
    ///
    /// An engine that does not compare keeps some nodes from becoming live in the end if `Chain` is
    /// out. So there, if further rules are out, wrong rows alone count.
    fn first_failure(&self) -> Option<FailedSeed> {
        let counts_liveness = self.compares || self.rules.len() == 1;
        (0..seeds()).find_map(|seed| {
            let ran = World::new(seed, self.rules, self.compares).run();
            let why = ran.err()?;
            let counts = counts_liveness || matches!(why, Failed::Wrong(_));
            counts.then_some(FailedSeed { seed, why })
        })
    }
}

/// Tests the simulation itself: a rule whose absence no seed finds is a rule without a test.
#[test]
fn disabling_any_rule_makes_the_simulation_fail() {
    let undetected: Vec<&Experiment> = EXPERIMENTS
        .iter()
        .filter(|experiment| match experiment.first_failure() {
            Some(FailedSeed { seed, .. }) => {
                println!("{experiment:?}: seed {seed}");
                false
            }
            None => true,
        })
        .collect();
    assert!(undetected.is_empty(), "no seed fails in {undetected:?}");
}

/// The control of those experiments: an engine that breaks its word makes no node wrong as long as
/// the readers keep their rules, even without digests.
#[test]
fn two_writers_make_no_node_wrong() {
    let experiment = with_two_writers(&[Rule::Digest, Rule::Chain]);
    for seed in 0..(seeds() / 10).max(1) {
        let ran = World::new(seed, experiment.rules, experiment.compares).run();
        if let Err(Failed::Wrong(why)) = ran {
            panic!("seed {seed}: {why}");
        }
    }
}
