//! [`Comparison`]: a comparison of a cache with its table at one exact cut.
//!
//! ```text
//! Holding ─ snapshot S, then a fence ─→ Settling ─ what S sees is done ─→ Comparing ─ every row of S was compared ─→ over
//!   what comes is held                    rows are read again inside S      what comes is kept by key
//! ```
//!
//! What had arrived before the comparison began was committed before S was taken, so S sees it; the
//! fence was sent after S, so all that S sees has arrived before it. What S does not see is held
//! back. So at *Comparing* the cache is S, or something was missed.

use super::change::Change;
use super::reads::Work;
use super::snapshot::Snapshot;
use super::{Engine, Output, Rule, TableId};
use std::time::Instant;

/// The number of a comparison, and that of the question which it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ComparisonId {
    pub(super) comparison: u64,
    pub(super) question: u64,
}

#[derive(Debug)]
pub(super) enum Comparison {
    /// Entered when Q is asked for the snapshot. Changes are held in order.
    Holding {
        id: ComparisonId,
        snapshot: Option<Snapshot>,
        token: Option<String>,
        held: Vec<Change>,
        bytes: usize,
    },
    /// Entered when the fence has come. What the snapshot sees is done; rows that are to be read
    /// again for that are read inside its transaction; the rest is held.
    Settling {
        id: ComparisonId,
        held: Vec<Change>,
        bytes: usize,
    },
    /// Entered when nothing is left to be read. The cache is compared, and not changed.
    Comparing { id: ComparisonId },
}

impl Comparison {
    fn id(&self) -> ComparisonId {
        match self {
            Self::Holding { id, .. } | Self::Settling { id, .. } | Self::Comparing { id } => *id,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.id().comparison
    }

    /// The number of the question that it answers.
    pub(super) fn question(&self) -> u64 {
        self.id().question
    }

    /// Whether this is the token of the fence that it waits for.
    pub(super) fn waits_for(&self, arrived: &str) -> bool {
        matches!(self, Self::Holding { token: Some(token), .. } if token == arrived)
    }
}

impl Engine {
    pub(super) fn begin_comparison(&mut self, table: TableId, question: u64) {
        self.comparisons += 1;
        let comparison = self.comparisons;
        self.tables[table.0].begin_comparison(ComparisonId {
            comparison,
            question,
        });
        self.work = Some(Work::Comparison {
            table,
            comparison,
            batch: None,
        });
        self.outputs
            .push_back(Output::TakeCut { table, comparison });
    }

    fn is_underway(&self, table: TableId, comparison: u64) -> bool {
        self.tables[table.0]
            .comparison()
            .is_some_and(|underway| underway.number() == comparison)
    }

    pub(super) fn cut_taken(
        &mut self,
        table: TableId,
        comparison: u64,
        snapshot: Snapshot,
        now: Instant,
    ) {
        if self.is_underway(table, comparison) {
            let token = self.send_fence(None, now);
            self.tables[table.0].cut_comparison(snapshot, token);
            if self.without == Some(Rule::ComparisonFence) {
                self.settle_comparison(table, now);
            }
        }
    }

    pub(super) fn settle_comparison(&mut self, table: TableId, now: Instant) {
        let (steps, counts) = self.tables[table.0].settle_comparison();
        self.count_what_waited(table);
        self.apply_steps(table, steps, now);
        match counts {
            Ok(()) => self.go_on_with_comparison(table, now),
            Err(why) => self.end_comparison(table, None, Some(why), now),
        }
    }

    /// Reads inside the comparison's transaction what is to be read again, then compares.
    pub(super) fn go_on_with_comparison(&mut self, table: TableId, now: Instant) {
        let Some(Work::Comparison { comparison, .. }) = self.work else {
            return;
        };
        if self.tables[table.0].has_wanted() {
            self.batches += 1;
            let batch = self.batches;
            let keys = self.tables[table.0].start_refetch(batch);
            self.counters.refetched += keys.len() as u64;
            self.work = Some(Work::Comparison {
                table,
                comparison,
                batch: Some(batch),
            });
            self.outputs.push_back(Output::Refetch {
                table,
                batch,
                keys,
                is_within_comparison: true,
            });
            return;
        }
        self.outputs
            .push_back(Output::Compare { table, comparison });
        let steps = self.tables[table.0].compare_comparison();
        self.count_what_waited(table);
        self.apply_steps(table, steps, now);
    }

    /// A comparison of the table is over, if one is underway, and of that number where one is named.
    pub(super) fn end_comparison(
        &mut self,
        table: TableId,
        comparison: Option<u64>,
        inconclusive: Option<String>,
        now: Instant,
    ) {
        let Some(underway) = self.tables[table.0].comparison().map(Comparison::id) else {
            return;
        };
        if comparison.is_some_and(|comparison| comparison != underway.comparison) {
            return;
        }
        self.work = None;
        self.tables[table.0].give_up_refetch();
        let own = &self.tables[table.0];
        let doubt = own.is_doubted().then(|| own.cause().to_string());
        let steps = self.tables[table.0].end_comparison(self.limits.waiting_bytes);
        self.count_what_waited(table);
        self.outputs.push_back(Output::ComparisonEnded {
            table,
            question: underway.question,
            inconclusive,
            doubt,
        });
        self.apply_steps(table, steps, now);
    }
}
