//! The engine and Q: whole tables are read, and rows by their keys.
//!
//! Reads that a notification asks for keep a distance, since any role can send notifications. Reads
//! that follow from a fact which the driver has seen keep a shorter one.

use super::Engine;
use crate::sync::read_queue::{NextRead, Work};
use crate::sync::rules::Rule;
use crate::sync::snapshot::Snapshot;
use crate::sync::table::ReloadRequest;
use crate::sync::{AuxConnection, Failure, Output, Reader, TableId};
use std::time::Instant;

impl Engine {
    /// Asks for what is to be read next: for work of Q, and for side reads.
    pub(super) fn ask_for_reads(&mut self, now: Instant) {
        if !self.connections.can_read() {
            return;
        }
        let most = self.limits.side_reads;
        while let Some(next) = self.reads.next(&self.tables, most, now) {
            match next {
                NextRead::Comparison(question) => self.begin_comparison(question),
                NextRead::Table(table, reader) => self.ask_for_table(table, reader, now),
                NextRead::Rows(table) => {
                    let batch = self.reads.start_refetch(table);
                    self.ask_for_rows(table, batch, false);
                }
            }
        }
    }

    /// Asks for a read of a whole table.
    fn ask_for_table(&mut self, table: TableId, reader: Reader, now: Instant) {
        let read = self.reads.begin_read();
        let generation = self.tables[table.0].start_reading(read, now);
        self.reads.start_read(table, generation, reader);
        self.outputs.push_back(Output::ReadTable {
            table,
            generation,
            reader,
        });
    }

    /// Asks for the rows of a table that are to be refetched, as the batch with this number.
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

    /// Follows a table whose read is done: all rows are in the cache, and the changes that waited
    /// are applied.
    pub(super) fn loaded(
        &mut self,
        table: TableId,
        generation: u64,
        has_changed: bool,
        now: Instant,
    ) {
        // The late answer of a read that was given up.
        match self.reads.finish_read(table, generation) {
            Some(Reader::Q) => self.connections.has_worked(AuxConnection::Reads),
            Some(Reader::Side) => {}
            None => return,
        }
        self.tables[table.0].read_failures.reset();
        let finished = self.reads.finished_reads();
        let Some(waiting) = self.tables[table.0].loaded(generation, finished, has_changed, now)
        else {
            return;
        };
        self.answer_by_read(table);
        // Whoever asked for a reload while the table was read may mean a state that this read has
        // not seen.
        if let Some(request) = self.tables[table.0].take_request() {
            self.reload(table, request, now);
        }
        for change in waiting {
            let steps = self.tables[table.0].classify(change, self.limits.waiting_bytes);
            self.apply_steps(table, steps, now);
            if !self.tables[table.0].is_following() {
                // The table must be read again. The other changes that waited have arrived before
                // that read is asked for, so the read will see them.
                break;
            }
        }
        self.count_what_waited(table);
    }

    /// Makes the fences that have arrived wait for the changes of a table that waited: see
    /// [`Fences::count_what_waited`](crate::sync::fences::Fences::count_what_waited).
    pub(super) fn count_what_waited(&mut self, table: TableId) {
        let changes = self.tables[table.0].changes();
        self.fences.count_what_waited(table, changes);
    }

    /// Notes that Q has done its work, which was no read of a whole table.
    pub(super) fn finish_work(&mut self) {
        if let Some(Work::Refetch { table, .. }) = self.reads.finish() {
            self.tables[table.0].read_failures.reset();
        }
        // An answer, not a connection that is open, is the success that shortens the next wait.
        self.connections.has_worked(AuxConnection::Reads);
    }

    /// Handles the answer to a refetch, inside a comparison or not.
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
            // With the rule a late answer is ignored. Without it:
            // 1. Q is asked for row 1, reads version 1, and is lost before the answer is handed in.
            // 2. A new session reads the row again, and a later change is applied: version 2.
            // 3. The answer of the old session is handed in after all, and puts version 1 back.
            self.outputs.push_back(Output::Store { table, batch });
        }
    }

    /// Stores the rows of a batch, then applies the changes that waited for them. Returns false if
    /// the rows are of no use any more, since the table is to be read or held.
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

    /// Handles a read or a refetch that failed. `number` is the generation of the read, or the
    /// batch.
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
                    self.shut_down(Failure::ReadRefused { table, why }, now);
                } else {
                    self.retry_read(table, why, now);
                }
            }
            // Any role can send keys that PostgreSQL does not take. So a failed refetch must not
            // end the replica, or be tried again for ever. To read the whole table is always right.
            Some(Work::Refetch { .. }) => {
                let sender = self.tables[table.0].sender_of_refetch();
                self.read_instead(table, &ReloadRequest { why, sender }, now);
            }
            Some(Work::Comparison { .. }) | None => {}
        }
    }

    /// Makes Q read a table whose side read has lost its session. That is no failure of the table
    /// or of Q, so the read is due at once.
    pub(super) fn side_read_lost(&mut self, table: TableId, generation: u64, why: &str) {
        if self.reads.lose_side_read(table, generation) {
            let name = self.tables[table.0].name();
            tracing::info!(table = name, why, "a session beside Q is lost: Q reads");
            self.tables[table.0].read_again("the session that read it was lost");
        }
    }

    /// Makes Q, which has nothing to do, read a table whose side read has not begun.
    pub(super) fn side_read_late(&mut self, table: TableId, generation: u64) {
        if self.reads.end_side_read(table, generation) {
            self.tables[table.0].read_again("the session that was to read it is not open yet");
        }
    }

    /// Reads a table again after a wait with jitter; see [`Backoff`](crate::sync::Backoff).
    pub(super) fn retry_read(&mut self, table: TableId, why: String, now: Instant) {
        let random = self.connections.draw();
        let wait = self.tables[table.0].backoff.next(random);
        self.tables[table.0].read_failed(now + wait, why);
    }

    /// Reloads a table because a notification asks for that. Any role can send such notifications,
    /// so the reads that they cause take a bounded share of the time: see
    /// [`EngineTable::want_reload`](crate::sync::table::EngineTable::want_reload).
    pub(super) fn reload(&mut self, table: TableId, request: ReloadRequest, now: Instant) {
        let why = request.to_string();
        // A reload that must wait leaves the comparison underway: see the `doubt` of
        // `Output::ComparisonEnded`.
        if self.tables[table.0].would_reload_at_once(now) {
            self.end_comparison(table, Some(format!("the table is reloaded: {why}")), now);
        }
        let sender = request.sender;
        if self.tables[table.0].want_reload(request, now) {
            self.hurry_if_awaited(table, now);
            self.say_read_scheduled(table, why, sender);
        }
    }

    /// Makes a table be read soon if a caller waits for a fence or a comparison. A caller who asked
    /// before the read was scheduled has not hurried it.
    fn hurry_if_awaited(&mut self, table: TableId, now: Instant) {
        if self.fences.is_awaited_for(table) || self.reads.is_comparison_wanted(table) {
            self.tables[table.0].hurry(now);
        }
    }

    /// Reports and counts a read that is scheduled.
    fn say_read_scheduled(&mut self, table: TableId, why: String, sender: Option<i32>) {
        let name = self.tables[table.0].name();
        tracing::info!(table = name, why, sender, "the table is to be reloaded");
        self.counters.reloads += 1;
        self.outputs
            .push_back(Output::ReadScheduled { table, why, sender });
    }

    /// Reads a table if a look has found that an announced TRUNCATE has not happened. Any role can
    /// announce one. Without this:
    /// 1. Somebody announces a TRUNCATE that does not happen.
    /// 2. Every row of the cache is removed.
    /// 3. Whoever asks for a row is told that there is none, as of the last fence.
    pub(super) fn truncate_seen(&mut self, table: TableId, has_happened: bool, now: Instant) {
        let sender = self.tables[table.0].note_truncate_seen(has_happened);
        if !has_happened {
            let why = "a TRUNCATE was announced that has not happened".to_string();
            self.read_instead(table, &ReloadRequest { why, sender }, now);
        }
    }

    /// Reads a table in place of rows that cannot be trusted or refetched. A notification is the
    /// cause, so the read keeps the distance of those that notifications ask for. Until then the
    /// table is not followed.
    fn read_instead(&mut self, table: TableId, request: &ReloadRequest, now: Instant) {
        let why = request.to_string();
        self.end_comparison(table, Some(format!("the table is reloaded: {why}")), now);
        if self.tables[table.0].read_instead(request, now) {
            self.hurry_if_awaited(table, now);
            self.say_read_scheduled(table, why, request.sender);
        }
    }

    /// Reads a table again, since the changes that were followed are of no use.
    pub(super) fn schedule_read(&mut self, table: TableId, why: String, now: Instant) {
        if self.tables[table.0].is_following() {
            self.end_comparison(table, Some(format!("the table is reloaded: {why}")), now);
        }
        if self.tables[table.0].schedule_read(&why, now) {
            self.say_read_scheduled(table, why, None);
        }
    }
}
