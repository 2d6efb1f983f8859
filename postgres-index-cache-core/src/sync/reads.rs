//! What Q reads: whole tables, and rows by their keys. One thing at a time.

use super::table::{EngineTable, ReloadRequest};
use super::{AuxConnection, Engine, Failure, Output, Rule, Snapshot, TableId};
use std::time::Instant;

/// What Q is doing. One thing at a time: it never waits for a lock while it holds another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Read {
        table: TableId,
        generation: u64,
    },
    Refetch {
        table: TableId,
        batch: u64,
    },
    /// A comparison, and the batch that is read inside its transaction.
    Comparison {
        table: TableId,
        comparison: u64,
        batch: Option<u64>,
    },
}

impl Engine {
    /// One thing at a time: Q never waits for a lock while it holds another. Tables and rows take
    /// turns.
    pub(super) fn ask_for_reads(&mut self, now: Instant) {
        if !self.can_read() || self.work.is_some() {
            return;
        }
        if let Some(at) = self
            .pending_comparisons
            .iter()
            .position(|(table, _)| self.tables[table.0].can_begin_comparison())
            && let Some((table, question)) = self.pending_comparisons.remove(at)
        {
            return self.begin_comparison(table, question);
        }
        let due = self
            .tables
            .iter()
            .position(|table| table.due_at().is_some_and(|at| at <= now) || table.is_due_now());
        let doubted = self.tables.iter().position(EngineTable::is_refetch_due);
        match (due, doubted) {
            (Some(table), None) => self.ask_for_read(TableId(table), now),
            (Some(table), Some(_)) if self.has_refetched => self.ask_for_read(TableId(table), now),
            (_, Some(table)) => {
                self.batches += 1;
                let table = TableId(table);
                let batch = self.batches;
                let keys = self.tables[table.0].start_refetch(batch);
                self.counters.refetched += keys.len() as u64;
                self.work = Some(Work::Refetch { table, batch });
                self.outputs.push_back(Output::Refetch {
                    table,
                    batch,
                    keys,
                    is_within_comparison: false,
                });
            }
            (None, None) => {}
        }
    }

    pub(super) fn ask_for_read(&mut self, table: TableId, now: Instant) {
        self.started_reads += 1;
        let generation = self.tables[table.0].start_reading(self.started_reads, now);
        self.work = Some(Work::Read { table, generation });
        self.outputs
            .push_back(Output::ReadTable { table, generation });
    }

    pub(super) fn loaded(
        &mut self,
        table: TableId,
        generation: u64,
        has_changed: bool,
        now: Instant,
    ) {
        if self.work != Some(Work::Read { table, generation }) {
            return;
        }
        self.work_is_done();
        let Some(waiting) =
            self.tables[table.0].loaded(generation, self.finished_reads, has_changed, now)
        else {
            return;
        };
        self.answer_by_read(table);
        if let Some(asked) = self.tables[table.0].take_asked() {
            self.reload(table, asked, now);
        }
        let mut waiting = waiting.into_iter();
        for change in waiting.by_ref() {
            let steps = self.tables[table.0].classify(change, self.limits.waiting_bytes);
            self.apply_steps(table, steps, now);
            if !self.tables[table.0].is_following() {
                // It must be read again: what else waited arrived before that read is asked for, so
                // it will be in it.
                break;
            }
        }
        self.count_what_waited(table);
    }

    /// What waited may have come before a fence that has arrived meanwhile.
    pub(super) fn count_what_waited(&mut self, table: TableId) {
        let (arrivals, _) = self.tables[table.0].arrivals();
        for before in self
            .fences
            .iter_mut()
            .filter_map(|fence| fence.arrived.as_mut())
        {
            before[table.0] = arrivals;
        }
    }

    pub(super) fn work_is_done(&mut self) {
        self.has_refetched = matches!(self.work, Some(Work::Refetch { .. }));
        if let Some(Work::Read { table, .. } | Work::Refetch { table, .. }) = self.work.take() {
            self.tables[table.0].read_failures.reset();
        }
        self.reset_aux_backoff(AuxConnection::Reads);
        self.lost_reads = 0;
        self.finished_reads += 1;
    }

    pub(super) fn refetched(
        &mut self,
        table: TableId,
        batch: u64,
        snapshot: Snapshot,
        now: Instant,
    ) {
        if matches!(self.work, Some(Work::Comparison { table: of, batch: Some(asked), .. }) if of == table && asked == batch)
        {
            self.finished_reads += 1;
            if let Some(steps) =
                self.tables[table.0].refetched(batch, snapshot, self.finished_reads)
            {
                self.outputs.push_back(Output::Store { table, batch });
                self.apply_steps(table, steps, now);
                self.go_on_with_comparison(table, now);
            }
            return;
        }
        let is_awaited = self.work == Some(Work::Refetch { table, batch });
        if !is_awaited && self.without == Some(Rule::Generation) {
            self.outputs.push_back(Output::Store { table, batch });
        }
        if !is_awaited {
            return;
        }
        self.work_is_done();
        // The table may have been read since, or be about to be.
        let Some(steps) = self.tables[table.0].refetched(batch, snapshot, self.finished_reads)
        else {
            return;
        };
        self.outputs.push_back(Output::Store { table, batch });
        self.apply_steps(table, steps, now);
    }

    pub(super) fn read_failed(
        &mut self,
        table: TableId,
        work: u64,
        (code, why): (Option<String>, String),
        is_permanent: bool,
        now: Instant,
    ) {
        if matches!(self.work, Some(Work::Comparison { table: of, batch: Some(batch), .. }) if of == table && batch == work)
        {
            self.end_comparison(table, None, Some(why), now);
            return;
        }
        let failed = match self.work {
            Some(Work::Read {
                table: of,
                generation,
            }) if of == table && generation == work => self.work.take(),
            Some(Work::Refetch { table: of, batch }) if of == table && batch == work => {
                self.work.take()
            }
            Some(Work::Read { .. } | Work::Refetch { .. } | Work::Comparison { .. }) | None => None,
        };
        let Some(failed) = failed else { return };
        // Rows are read again for what somebody has sent, and any role can send keys that the
        // server does not take.
        let is_of_table = matches!(failed, Work::Read { .. });
        let is_refused =
            is_of_table && (self.tables[table.0].read_failures.is_too_long(code) || is_permanent);
        if is_refused && !self.has_been_live {
            self.shut_down(Failure::ReadRefused { table, why }, now);
            return;
        }
        match failed {
            Work::Read { .. } => self.retry_read(table, why, now),
            // Keys that PostgreSQL does not take, perhaps: all of the table is sure to be right.
            Work::Refetch { .. } | Work::Comparison { .. } => {
                let sender = self.tables[table.0].sender_of_refetch();
                self.read_instead(table, &ReloadRequest { why, sender }, now);
            }
        }
    }

    /// Reads a table again after a while: any time up to a bound that doubles to ten seconds.
    pub(super) fn retry_read(&mut self, table: TableId, why: String, now: Instant) {
        let drawn = self.draw();
        let wait = self.tables[table.0].backoff.next(drawn);
        self.tables[table.0].read_failed(now + wait, why);
    }

    /// A notification makes a table be read again. Any role can send such ones, so that costs a
    /// bounded share of the time: see [`EngineTable::want_reload`].
    pub(super) fn reload(&mut self, table: TableId, asked: ReloadRequest, now: Instant) {
        let why = asked.to_string();
        if self.tables[table.0].would_reload_at_once(now) {
            self.end_comparison(
                table,
                None,
                Some(format!("the table is read again: {why}")),
                now,
            );
        }
        let sender = asked.sender;
        if !self.tables[table.0].want_reload(asked, now) {
            return;
        }
        self.hurry_if_awaited(table, now);
        self.counters.reloads += 1;
        self.outputs
            .push_back(Output::ReadScheduled { table, why, sender });
    }

    /// Whoever waits for a fence already does not wait for the distance between reads either.
    fn hurry_if_awaited(&mut self, table: TableId, now: Instant) {
        let reached = self.reached[table.0];
        if self.asked.iter().any(|(id, _)| Some(*id) > reached)
            || self.pending_comparisons.iter().any(|(of, _)| *of == table)
        {
            self.tables[table.0].hurry(now);
        }
    }

    /// A TRUNCATE was announced, and a look has seen whether it has happened.
    ///
    /// Any role can announce one. Without this: 1. Somebody does. 2. Every row of the cache is
    /// removed. 3. Nothing was truncated, and whoever asks for a row is told that there is none, as
    /// of the last fence.
    pub(super) fn truncate_seen(&mut self, table: TableId, has_happened: bool, now: Instant) {
        let sender = self.tables[table.0].take_truncate(has_happened);
        if !has_happened {
            let why = "a TRUNCATE was announced that has not happened".to_string();
            self.read_instead(table, &ReloadRequest { why, sender }, now);
        }
    }

    /// The rows that a notification has asked for cannot be read by their keys: the table is read
    /// in their place, at the distance that reads keep which notifications ask for.
    fn read_instead(&mut self, table: TableId, asked: &ReloadRequest, now: Instant) {
        let why = asked.to_string();
        self.end_comparison(
            table,
            None,
            Some(format!("the table is read again: {why}")),
            now,
        );
        if self.tables[table.0].read_instead(asked, now) {
            self.hurry_if_awaited(table, now);
            self.counters.reloads += 1;
            self.outputs.push_back(Output::ReadScheduled {
                table,
                why,
                sender: asked.sender,
            });
        }
    }

    pub(super) fn schedule_read(&mut self, table: TableId, why: String, now: Instant) {
        if self.tables[table.0].is_following() {
            self.end_comparison(
                table,
                None,
                Some(format!("the table is read again: {why}")),
                now,
            );
        }
        if self.tables[table.0].schedule_read(&why, now) {
            self.counters.reloads += 1;
            self.outputs.push_back(Output::ReadScheduled {
                table,
                why,
                sender: None,
            });
        }
    }
}
