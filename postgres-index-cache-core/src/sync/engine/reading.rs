//! What Q reads: whole tables, and rows by their keys.

use super::Engine;
use crate::sync::read_queue::{NextRead, Work};
use crate::sync::rules::Rule;
use crate::sync::snapshot::Snapshot;
use crate::sync::table::ReloadRequest;
use crate::sync::{AuxConnection, Failure, Output, TableId};
use std::time::Instant;

impl Engine {
    /// Asks for what Q should do next, if it can be asked.
    pub(super) fn ask_for_reads(&mut self, now: Instant) {
        if !self.connections.can_read() {
            return;
        }
        match self.reads.next(&self.tables, now) {
            Some(NextRead::Comparison(question)) => self.begin_comparison(question),
            Some(NextRead::Table(table)) => self.ask_for_table(table, now),
            Some(NextRead::Rows(table)) => {
                let batch = self.reads.start_refetch(table);
                self.ask_for_rows(table, batch, false);
            }
            None => {}
        }
    }

    fn ask_for_table(&mut self, table: TableId, now: Instant) {
        let read = self.reads.begin_read();
        let generation = self.tables[table.0].start_reading(read, now);
        self.reads.start_read(table, generation);
        self.outputs
            .push_back(Output::ReadTable { table, generation });
    }

    /// Asks for the rows that are to be refetched, as this batch.
    pub(super) fn ask_for_rows(&mut self, table: TableId, batch: u64, is_within_comparison: bool) {
        let keys = self.tables[table.0].start_refetch(batch);
        self.counters.refetched += keys.len() as u64;
        self.outputs.push_back(Output::Refetch {
            table,
            batch,
            keys,
            is_within_comparison,
        });
    }

    /// All rows of a table's read are in the cache: what waited for them is applied.
    pub(super) fn loaded(
        &mut self,
        table: TableId,
        generation: u64,
        has_changed: bool,
        now: Instant,
    ) {
        if self.reads.work() != Some(Work::Read { table, generation }) {
            return;
        }
        self.finish_work();
        let finished = self.reads.finished_reads();
        let Some(waiting) = self.tables[table.0].loaded(generation, finished, has_changed, now)
        else {
            return;
        };
        self.answer_by_read(table);
        // Whoever sent a reload while the table was read may mean a state that this read has not
        // seen.
        if let Some(request) = self.tables[table.0].take_request() {
            self.reload(table, request, now);
        }
        for change in waiting {
            let steps = self.tables[table.0].classify(change, self.limits.waiting_bytes);
            self.apply_steps(table, steps, now);
            if !self.tables[table.0].is_following() {
                // The table must be read again. What else waited arrived before that read is asked
                // for, so the read will see it.
                break;
            }
        }
        self.count_what_waited(table);
    }

    /// Makes the fences that have arrived wait for the changes that waited: a change may have come
    /// before a fence, and nobody knows which.
    pub(super) fn count_what_waited(&mut self, table: TableId) {
        let changes = self.tables[table.0].changes();
        self.fences.count_what_waited(table, changes);
    }

    /// Q has done what it was asked for.
    pub(super) fn finish_work(&mut self) {
        if let Some(Work::Read { table, .. } | Work::Refetch { table, .. }) = self.reads.finish() {
            self.tables[table.0].read_failures.reset();
        }
        self.connections.has_worked(AuxConnection::Reads);
    }

    /// The rows of a refetch have come.
    pub(super) fn refetched(
        &mut self,
        table: TableId,
        batch: u64,
        snapshot: Snapshot,
        now: Instant,
    ) {
        if self.reads.is_within_comparison(table, batch) {
            self.reads.finish_within_comparison();
            if self.store_refetched(table, batch, snapshot, now) {
                self.go_on_with_comparison(table, now);
            }
            return;
        }
        if self.reads.work() == Some(Work::Refetch { table, batch }) {
            self.finish_work();
            self.store_refetched(table, batch, snapshot, now);
        } else if !self.rules.keeps(Rule::Generation) {
            self.outputs.push_back(Output::Store { table, batch });
        }
    }

    /// Stores the rows of a batch, then does what waited for them. Returns false if the table does
    /// not want them any more: it may have been read since, or be about to be.
    fn store_refetched(
        &mut self,
        table: TableId,
        batch: u64,
        snapshot: Snapshot,
        now: Instant,
    ) -> bool {
        let finished = self.reads.finished_reads();
        let Some(steps) = self.tables[table.0].refetched(batch, snapshot, finished) else {
            return false;
        };
        self.outputs.push_back(Output::Store { table, batch });
        self.apply_steps(table, steps, now);
        true
    }

    /// Q could not read what it was asked for. `number` is the generation of the read, or the batch.
    pub(super) fn read_failed(
        &mut self,
        table: TableId,
        number: u64,
        code: Option<String>,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if self.reads.is_within_comparison(table, number) {
            self.end_comparison(table, Some(why), now);
            return;
        }
        match self.reads.fail(table, number) {
            Some(Work::Read { .. }) => {
                let is_refused =
                    self.tables[table.0].read_failures.is_refusal(code) || is_permanent;
                if is_refused && !self.has_been_live {
                    self.shut_down(Failure::ReadRefused { table, why });
                } else {
                    self.retry_read(table, why, now);
                }
            }
            // Any role can send keys that PostgreSQL does not take, so a failed refetch must not
            // end anything. To read all of the table is sure to be right.
            Some(Work::Refetch { .. }) => {
                let sender = self.tables[table.0].sender_of_refetch();
                self.read_instead(table, &ReloadRequest { why, sender }, now);
            }
            Some(Work::Comparison { .. }) | None => {}
        }
    }

    /// Reads a table again after a while: any time up to a bound that doubles to ten seconds.
    pub(super) fn retry_read(&mut self, table: TableId, why: String, now: Instant) {
        let random = self.connections.draw();
        let wait = self.tables[table.0].backoff.next(random);
        self.tables[table.0].read_failed(now + wait, why);
    }

    /// A notification asks for a table to be reloaded. Any role can send such notifications, so the
    /// reads that they cause take a bounded share of the time: see
    /// [`EngineTable::want_reload`](crate::sync::table::EngineTable::want_reload).
    pub(super) fn reload(&mut self, table: TableId, request: ReloadRequest, now: Instant) {
        let why = request.to_string();
        if self.tables[table.0].would_reload_at_once(now) {
            self.end_comparison(table, Some(format!("the table is reloaded: {why}")), now);
        }
        let sender = request.sender;
        if self.tables[table.0].want_reload(request, now) {
            self.hurry_if_awaited(table, now);
            self.say_read_scheduled(table, why, sender);
        }
    }

    /// Lets a table be read soon if a caller waits for a fence or a comparison already: it does not
    /// wait for the distance between reads as well.
    fn hurry_if_awaited(&mut self, table: TableId, now: Instant) {
        if self.fences.is_awaited_for(table) || self.reads.is_comparison_wanted(table) {
            self.tables[table.0].hurry(now);
        }
    }

    fn say_read_scheduled(&mut self, table: TableId, why: String, sender: Option<i32>) {
        let name = self.tables[table.0].name();
        tracing::info!(table = name, why, sender, "the table is to be reloaded");
        self.counters.reloads += 1;
        self.outputs
            .push_back(Output::ReadScheduled { table, why, sender });
    }

    /// A look has found whether a TRUNCATE that was announced has happened.
    ///
    /// Any role can announce one. Without this:
    /// 1. Somebody announces a TRUNCATE that does not happen.
    /// 2. Every row of the cache is removed.
    /// 3. Whoever asks for a row is told that there is none, as of the last fence.
    ///
    /// So the table is read if nothing was truncated.
    pub(super) fn truncate_seen(&mut self, table: TableId, has_happened: bool, now: Instant) {
        let sender = self.tables[table.0].note_truncate_seen(has_happened);
        if !has_happened {
            let why = "a TRUNCATE was announced that has not happened".to_string();
            self.read_instead(table, &ReloadRequest { why, sender }, now);
        }
    }

    /// Reads a table in place of rows that cannot be refetched, at the distance that reads keep which
    /// notifications ask for.
    fn read_instead(&mut self, table: TableId, request: &ReloadRequest, now: Instant) {
        let why = request.to_string();
        self.end_comparison(table, Some(format!("the table is reloaded: {why}")), now);
        if self.tables[table.0].read_instead(request, now) {
            self.hurry_if_awaited(table, now);
            self.say_read_scheduled(table, why, request.sender);
        }
    }

    /// Reads a table again: what was followed of it is of no use.
    pub(super) fn schedule_read(&mut self, table: TableId, why: String, now: Instant) {
        if self.tables[table.0].is_following() {
            self.end_comparison(table, Some(format!("the table is reloaded: {why}")), now);
        }
        if self.tables[table.0].schedule_read(&why, now) {
            self.say_read_scheduled(table, why, None);
        }
    }
}
