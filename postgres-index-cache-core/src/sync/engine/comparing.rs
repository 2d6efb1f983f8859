//! The engine and a comparison of a cache with its table, from the question to the answer.
//!
//! The phases of a comparison, and why its result is exact, stand at
//! [`comparison`](crate::sync::comparison).

use super::Engine;
use crate::sync::comparison::{Comparison, ComparisonId};
use crate::sync::read_queue::{Question, Work};
use crate::sync::rules::Rule;
use crate::sync::snapshot::Snapshot;
use crate::sync::{Output, TableId};
use std::time::Instant;

impl Engine {
    /// Notes that a caller asks whether a table's cache is equal to the table.
    pub(super) fn want_comparison(&mut self, table: TableId, question: u64, now: Instant) {
        // A comparison begins once the table is live, so a reload that waits must not wait long.
        self.tables[table.0].hurry(now);
        self.reads.want_comparison(Question {
            table,
            number: question,
        });
    }

    /// Begins a comparison. Changes are held from now on, and Q takes the snapshot to compare with.
    pub(super) fn begin_comparison(&mut self, question: Question) {
        let table = question.table;
        let comparison = self.reads.start_comparison(table);
        self.tables[table.0].begin_comparison(ComparisonId {
            comparison,
            question: question.number,
        });
        self.outputs
            .push_back(Output::TakeCut { table, comparison });
    }

    /// Returns whether the comparison with this number is underway. False for a late answer.
    fn is_underway(&self, table: TableId, comparison: u64) -> bool {
        self.tables[table.0]
            .comparison()
            .is_some_and(|underway| underway.id().comparison == comparison)
    }

    /// Sends a fence, now that Q has taken the snapshot to compare with.
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
            // Rule::ComparisonFence: `token_arrived` goes on when the fence has come back. Without
            // this:
            // 1. A row is updated, and Q takes the snapshot S, which sees the update.
            // 2. The notification is still on its way, so the cache has the old row.
            // 3. The comparison calls a row stale that is about to be right.
            if !self.rules.keeps(Rule::ComparisonFence) {
                self.settle_comparison(table, now);
            }
        }
    }

    /// Applies the changes that the comparison's snapshot sees. The fence behind the snapshot has
    /// come back, so all of them have arrived.
    pub(super) fn settle_comparison(&mut self, table: TableId, now: Instant) {
        let settled = self.tables[table.0].settle_comparison();
        self.count_what_waited(table);
        self.apply_steps(table, settled.steps, now);
        match settled.inconclusive {
            None => self.go_on_with_comparison(table, now),
            Some(why) => self.end_comparison(table, Some(why.to_string()), now),
        }
    }

    /// Goes on with a comparison: rows that must be refetched are read first, one batch at a time,
    /// and then the cache is compared.
    pub(super) fn go_on_with_comparison(&mut self, table: TableId, now: Instant) {
        let Some(Work::Comparison { comparison, .. }) = self.reads.work() else {
            return;
        };
        // Inside the comparison's transaction, so that the rows are those of its snapshot. Rows of
        // a later moment would be called differences.
        if self.tables[table.0].has_wanted()
            && let Some(batch) = self.reads.start_refetch_within_comparison()
        {
            return self.ask_for_rows(table, batch, true);
        }
        self.outputs
            .push_back(Output::Compare { table, comparison });
        let steps = self.tables[table.0].start_comparing();
        self.count_what_waited(table);
        self.apply_steps(table, steps, now);
    }

    /// Ends a comparison whose rows were all compared.
    pub(super) fn compared(&mut self, table: TableId, comparison: u64, now: Instant) {
        if self.is_underway(table, comparison) {
            self.end_comparison(table, None, now);
        }
    }

    /// Ends a comparison that the driver could not finish.
    pub(super) fn comparison_failed(
        &mut self,
        table: TableId,
        comparison: u64,
        why: String,
        now: Instant,
    ) {
        if self.is_underway(table, comparison) {
            self.end_comparison(table, Some(why), now);
        }
    }

    /// Ends the comparison of a table, if one is underway. `inconclusive` says why the comparison
    /// does not count; `None` if it does.
    pub(super) fn end_comparison(
        &mut self,
        table: TableId,
        inconclusive: Option<String>,
        now: Instant,
    ) {
        // A freeze ends for the same reasons; the two are never underway at once.
        if let Some(why) = &inconclusive {
            self.end_freeze(table, Some(why.clone()), now);
        }
        let Some(id) = self.tables[table.0].comparison().map(Comparison::id) else {
            return;
        };
        self.reads.give_up();
        let own = &mut self.tables[table.0];
        own.give_up_refetch();
        // A reload that waits may be for a change that no notification tells, so a difference that
        // was found proves nothing against the cache.
        let doubt = own.is_reload_due().then(|| own.cause().to_string());
        let steps = own.end_comparison(self.limits.waiting_bytes);
        self.count_what_waited(table);
        self.outputs.push_back(Output::ComparisonEnded {
            table,
            question: id.question,
            inconclusive,
            doubt,
        });
        self.apply_steps(table, steps, now);
    }
}
