//! Comparisons of a cache with its table, from the question to the answer.

use super::Engine;
use crate::sync::comparison::{Comparison, ComparisonId};
use crate::sync::read_queue::{Question, Work};
use crate::sync::rules::Rule;
use crate::sync::snapshot::Snapshot;
use crate::sync::{Output, TableId};
use std::time::Instant;

impl Engine {
    /// A caller asks whether a table's cache is equal to the table.
    pub(super) fn want_comparison(&mut self, table: TableId, question: u64, now: Instant) {
        self.tables[table.0].hurry(now);
        self.reads.want_comparison(Question {
            table,
            number: question,
        });
    }

    /// Begins a comparison: changes are held from now on, and Q takes the snapshot to compare with.
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

    fn is_underway(&self, table: TableId, comparison: u64) -> bool {
        self.tables[table.0]
            .comparison()
            .is_some_and(|underway| underway.id().comparison == comparison)
    }

    /// Q has taken the snapshot: a fence is sent behind it.
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
            if !self.rules.keeps(Rule::ComparisonFence) {
                self.settle_comparison(table, now);
            }
        }
    }

    /// The fence behind the snapshot has come back: every change that the snapshot sees has
    /// arrived, and is done now.
    pub(super) fn settle_comparison(&mut self, table: TableId, now: Instant) {
        let settled = self.tables[table.0].settle_comparison();
        self.count_what_waited(table);
        self.apply_steps(table, settled.steps, now);
        match settled.inconclusive {
            None => self.go_on_with_comparison(table, now),
            Some(why) => self.end_comparison(table, Some(why.to_string()), now),
        }
    }

    /// Refetches inside the comparison's transaction the rows that must be, then compares.
    pub(super) fn go_on_with_comparison(&mut self, table: TableId, now: Instant) {
        let Some(Work::Comparison { comparison, .. }) = self.reads.work() else {
            return;
        };
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

    /// Every row of the snapshot was compared.
    pub(super) fn compared(&mut self, table: TableId, comparison: u64, now: Instant) {
        if self.is_underway(table, comparison) {
            self.end_comparison(table, None, now);
        }
    }

    /// The driver could not finish a comparison.
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

    /// Ends the comparison of a table that is underway, if one is. `inconclusive` says why it does
    /// not count.
    pub(super) fn end_comparison(
        &mut self,
        table: TableId,
        inconclusive: Option<String>,
        now: Instant,
    ) {
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
