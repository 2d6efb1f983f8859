//! [`compare_nodes`]: the caches of all nodes against one table, again for those that are
//! inconclusive.

use super::Fleet;
use super::cut::{Comparer, Outcome, Verdict, table_ref};
use super::node::Roster;
use crate::tables::target::Target;
use anyhow::Context as _;
use postgres_index_cache_core::tooling::postgres::SnapshotReader;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::Duration;

/// How often a comparison that is inconclusive for some node is made again.
pub const TRIES: u32 = 20;
/// The time between two of them.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the nodes may take for their digests. One of a million rows takes less than a second.
const PATIENCE: Duration = Duration::from_secs(20);
/// The result of a comparison.
#[derive(Debug)]
pub struct Compared {
    /// The nodes that answer, and those that are silent.
    pub roster: Roster,
    /// The verdicts.
    pub outcome: Outcome,
    /// How many comparisons were made again.
    pub retries: usize,
}

/// Compares the caches of all nodes that have a table with it.
///
/// # Errors
/// If the table cannot be read, or the nodes cannot be asked.
pub async fn compare_nodes(
    fleet: &mut Fleet,
    reader: &mut SnapshotReader,
    target: &Target,
) -> anyhow::Result<Compared> {
    // A role that may not read the table must not hold the nodes up first.
    let nothing = reader.read_keys(&target.follow, &[]).await;
    nothing
        .with_context(|| format!("read {}", target.name()))?
        .rows(|_| {})
        .await
        .with_context(|| format!("read {}", target.name()))?;
    let roster = Roster::call(fleet, Duration::from_secs(2)).await?;
    let mut wanted: BTreeSet<i32> = roster.with_table(&table_ref(target));
    let mut outcome = Outcome {
        rows: 0,
        nodes: BTreeMap::new(),
    };
    let mut retries = 0;
    for attempt in 0..TRIES {
        if wanted.is_empty() {
            break;
        }
        let made = Comparer {
            fleet: &mut *fleet,
            reader: &mut *reader,
            target,
            patience: PATIENCE,
        }
        .compare(&wanted)
        .await?;
        outcome.rows = made.rows;
        outcome.nodes.extend(made.nodes);
        wanted.retain(|node| match outcome.nodes.get(node) {
            Some(Verdict::Inconclusive(_)) => true,
            Some(Verdict::Equal { open, .. }) => *open > 0,
            _ => false,
        });
        if !wanted.is_empty() && attempt + 1 < TRIES {
            retries += 1;
            // A node says how long it must not be frozen again: three times as long as it was.
            tokio::time::sleep(PAUSE * (attempt + 1)).await;
        }
    }
    // Equal but for rows that were not compared is not equal.
    for verdict in outcome.nodes.values_mut() {
        if let Verdict::Equal { open, .. } = verdict
            && *open > 0
        {
            *verdict = Verdict::Inconclusive(format!(
                "{} being read again each time, the others are equal",
                if *open == 1 {
                    "1 row was".to_string()
                } else {
                    format!("{open} rows were")
                }
            ));
        }
    }
    // A node that holds the lock of nodes and says nothing may have this table as well.
    for session in &roster.silent {
        outcome.nodes.insert(session.pid, Verdict::Silent);
    }
    Ok(Compared {
        roster,
        outcome,
        retries,
    })
}

/// Returns how long a pause must be so that no more rows than this are compared in a second.
pub fn pause_after(rows: u64, most: Option<NonZeroU64>) -> Duration {
    match most {
        Some(most) => Duration::from_secs_f64(rows as f64 / most.get() as f64),
        None => Duration::ZERO,
    }
}
