//! [`ReadQueue`]: the work of Q, the side reads, and which work comes next.
//!
//! Q does one thing at a time. So Q never waits for a table's lock while holding another, and
//! cannot be part of a deadlock. The same holds for the session of each *side read*: the read of a
//! large table that goes on beside the work of Q.

use super::table::EngineTable;
use super::{Reader, TableId};
use std::collections::VecDeque;
use std::time::Instant;

/// The work that Q is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Reads a whole table.
    Read { table: TableId, generation: u64 },
    /// Reads rows of a table by their keys.
    Refetch { table: TableId, batch: u64 },
    /// Compares a table with its cache. `batch` is the refetch inside the comparison's transaction
    /// whose answer is awaited.
    Comparison {
        table: TableId,
        comparison: u64,
        batch: Option<u64>,
    },
}

impl Work {
    /// Returns the table that the work is for.
    fn table(self) -> TableId {
        match self {
            Self::Read { table, .. }
            | Self::Refetch { table, .. }
            | Self::Comparison { table, .. } => table,
        }
    }
}

/// A read of a whole table on a session beside Q.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SideRead {
    table: TableId,
    generation: u64,
}

/// A caller's question whether a table's cache is equal to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) table: TableId,
    /// The caller's number for the question.
    pub(super) number: u64,
}

/// The work that Q should do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextRead {
    /// Begin the comparison that answers this question.
    Comparison(Question),
    /// Read this whole table, on this session.
    Table(TableId, Reader),
    /// Read rows of this table by their keys.
    Rows(TableId),
}

/// The reads: underway, waiting and done.
#[derive(Debug, Default)]
pub(super) struct ReadQueue {
    /// The work of Q that is underway.
    work: Option<Work>,
    /// The side reads that are underway.
    side_reads: Vec<SideRead>,
    /// Whether the session of a side read was lost since the connections were opened. Then Q reads
    /// alone: whatever refuses one session will refuse the next, for example the server's
    /// `max_connections`.
    is_side_lost: bool,
    /// The questions whose comparisons have not begun, in the order in which they were asked.
    pending_comparisons: VecDeque<Question>,
    /// Whether the last work that Q finished was a refetch.
    last_was_refetch: bool,
    /// How many reads of whole tables have begun.
    started_reads: u64,
    /// How many answers have come: those of Q, refetches included, and those of side reads.
    finished_reads: u64,
    /// How many refetches have begun.
    batches: u64,
    /// How many comparisons have begun.
    comparisons: u64,
    /// How often in a row a connection was lost while a table was read.
    lost_reads: u32,
}

impl ReadQueue {
    /// Returns the work that is underway.
    pub(super) fn work(&self) -> Option<Work> {
        self.work
    }

    /// Returns whether Q has no work.
    pub(super) fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    /// Returns how many reads of whole tables have begun.
    pub(super) fn started_reads(&self) -> u64 {
        self.started_reads
    }

    /// Returns how many answers have come, of Q and of side reads.
    pub(super) fn finished_reads(&self) -> u64 {
        self.finished_reads
    }

    /// Adds a caller's question.
    pub(super) fn want_comparison(&mut self, question: Question) {
        self.pending_comparisons.push_back(question);
    }

    /// Returns whether a caller waits for a comparison of `table` that has not begun.
    pub(super) fn is_comparison_wanted(&self, table: TableId) -> bool {
        self.pending_comparisons
            .iter()
            .any(|question| question.table == table)
    }

    /// Returns whether a side read of `table`, by this number, may begin, of at most `most` at a
    /// time.
    ///
    /// None begins while Q has nothing to do, or if Q is at work for the table itself. Without
    /// that:
    /// 1. Q is asked for rows of a table, and waits.
    /// 2. The table is to be reloaded, and a side read begins.
    /// 3. The answers of both go into one cache, in any order.
    pub(super) fn takes_side_read(&self, table: usize, most: usize) -> bool {
        let is_of_q = |work: Work| work.table() == TableId(table);
        self.work.is_some_and(|work| !is_of_q(work))
            && !self.is_side_lost
            && self.side_reads.len() < most
    }

    /// Returns the table that is being read, or the first of several; `None` if no whole table is.
    pub(super) fn table_being_read(&self) -> Option<TableId> {
        match self.work {
            Some(Work::Read { table, .. }) => Some(table),
            _ => self.side_reads.first().map(|read| read.table),
        }
    }

    /// Returns what should be read next, with at most `most` side reads at a time, or `None` if
    /// nothing is due that can begin now. A question that is returned is taken off the queue.
    pub(super) fn next(
        &mut self,
        tables: &[EngineTable],
        most: usize,
        now: Instant,
    ) -> Option<NextRead> {
        if self.work.is_none() {
            return self.next_of_q(tables, now);
        }
        let large = (0..tables.len()).find(|&at| {
            self.takes_side_read(at, most)
                && tables[at].is_for_side_read()
                && tables[at].is_due(now)
        })?;
        Some(NextRead::Table(TableId(large), Reader::Side))
    }

    /// Returns the work that Q, which is idle, should do next.
    ///
    /// Comparisons come first: they are few, and a person waits for them. Reads of tables and
    /// refetches take turns. Without turns:
    /// 1. A table is due to be reloaded again whenever its read has ended.
    /// 2. The rows of all other tables are never refetched, and no fence is reached. Or, the other
    ///    way round, rows are wanted without end, and no table is ever reloaded.
    fn next_of_q(&mut self, tables: &[EngineTable], now: Instant) -> Option<NextRead> {
        // Not the first question, but the first whose table is live: a table that cannot be
        // followed must not hold up the questions of the others.
        let ready = self
            .pending_comparisons
            .iter()
            .position(|question| tables[question.table.0].can_begin_comparison());
        if let Some(question) = ready.and_then(|at| self.pending_comparisons.remove(at)) {
            return Some(NextRead::Comparison(question));
        }
        let table = tables.iter().position(|table| table.is_due(now));
        let rows = tables.iter().position(EngineTable::is_refetch_due);
        match (table, rows) {
            (Some(table), None) => Some(NextRead::Table(TableId(table), Reader::Q)),
            (Some(table), Some(_)) if self.last_was_refetch => {
                Some(NextRead::Table(TableId(table), Reader::Q))
            }
            (_, Some(table)) => Some(NextRead::Rows(TableId(table))),
            (None, None) => None,
        }
    }

    /// Counts a read of a whole table. Returns the number of the read.
    pub(super) fn begin_read(&mut self) -> u64 {
        self.started_reads += 1;
        self.started_reads
    }

    /// Starts the read of a whole table.
    pub(super) fn start_read(&mut self, table: TableId, generation: u64, reader: Reader) {
        match reader {
            Reader::Q => self.work = Some(Work::Read { table, generation }),
            Reader::Side => self.side_reads.push(SideRead { table, generation }),
        }
    }

    /// Starts to read rows of a table by their keys. Returns the number of the batch.
    pub(super) fn start_refetch(&mut self, table: TableId) -> u64 {
        self.batches += 1;
        let batch = self.batches;
        self.work = Some(Work::Refetch { table, batch });
        batch
    }

    /// Starts the comparison of a table. Returns the number of the comparison.
    pub(super) fn start_comparison(&mut self, table: TableId) -> u64 {
        self.comparisons += 1;
        self.work = Some(Work::Comparison {
            table,
            comparison: self.comparisons,
            batch: None,
        });
        self.comparisons
    }

    /// Starts to read rows inside the transaction of the comparison that is underway. Returns the
    /// number of the batch, or `None` if no comparison is underway.
    pub(super) fn start_refetch_within_comparison(&mut self) -> Option<u64> {
        let Some(Work::Comparison { batch, .. }) = &mut self.work else {
            return None;
        };
        self.batches += 1;
        *batch = Some(self.batches);
        Some(self.batches)
    }

    /// Returns whether this batch is read inside the comparison of `table` that is underway.
    pub(super) fn is_within_comparison(&self, table: TableId, batch: u64) -> bool {
        matches!(
            self.work,
            Some(Work::Comparison { table: of, batch: Some(awaited), .. })
                if of == table && awaited == batch
        )
    }

    /// Counts an answer that came within a comparison. The comparison goes on.
    pub(super) fn finish_within_comparison(&mut self) {
        self.finished_reads += 1;
    }

    /// Notes that Q has done the work that was underway, and returns that work.
    pub(super) fn finish(&mut self) -> Option<Work> {
        let done = self.work.take();
        self.last_was_refetch = matches!(done, Some(Work::Refetch { .. }));
        // Any answer shows that this connection is not cut each time.
        self.lost_reads = 0;
        self.finished_reads += 1;
        done
    }

    /// Notes that the read of a whole table is done. Returns where it was read; `None` if the read
    /// is not underway.
    pub(super) fn finish_read(&mut self, table: TableId, generation: u64) -> Option<Reader> {
        if self.work == Some(Work::Read { table, generation }) {
            self.finish();
            return Some(Reader::Q);
        }
        if !self.end_side_read(table, generation) {
            return None;
        }
        self.finished_reads += 1;
        Some(Reader::Side)
    }

    /// Takes a side read from those that are underway. Returns whether it was.
    pub(super) fn end_side_read(&mut self, table: TableId, generation: u64) -> bool {
        let before = self.side_reads.len();
        self.side_reads
            .retain(|read| *read != SideRead { table, generation });
        self.side_reads.len() < before
    }

    /// Notes that the session of a side read was lost: Q reads alone from now on. Returns whether
    /// the read was underway.
    pub(super) fn lose_side_read(&mut self, table: TableId, generation: u64) -> bool {
        self.is_side_lost = true;
        self.end_side_read(table, generation)
    }

    /// Gives up the work of Q that is underway, whose answer will not come. Returns that work.
    pub(super) fn give_up(&mut self) -> Option<Work> {
        self.work.take()
    }

    /// Gives up everything that is underway, since all connections are lost.
    pub(super) fn give_up_all(&mut self) {
        self.work = None;
        self.side_reads.clear();
        self.is_side_lost = false;
    }

    /// Gives up a read or a refetch of `table`. Returns whether one was underway. A comparison is
    /// ended in another way, since a caller waits for its answer.
    pub(super) fn give_up_read(&mut self, table: TableId) -> bool {
        let before = self.side_reads.len();
        self.side_reads.retain(|read| read.table != table);
        if self.side_reads.len() < before {
            return true;
        }
        let is_read = matches!(self.work, Some(Work::Read { .. } | Work::Refetch { .. }));
        if !is_read || self.work.map(Work::table) != Some(table) {
            return false;
        }
        self.work = None;
        true
    }

    /// Ends the read or refetch of `table` with this number, which has failed. Returns the work, or
    /// `None` if other work is underway: the failure is of a session that is gone.
    pub(super) fn fail(&mut self, table: TableId, number: u64) -> Option<Work> {
        if self.end_side_read(table, number) {
            let generation = number;
            return Some(Work::Read { table, generation });
        }
        let is_awaited = match self.work {
            Some(Work::Read {
                table: of,
                generation,
            }) => of == table && generation == number,
            Some(Work::Refetch { table: of, batch }) => of == table && batch == number,
            Some(Work::Comparison { .. }) | None => false,
        };
        // A comparison has a failure of its own, `Input::ComparisonFailed`.
        if is_awaited { self.work.take() } else { None }
    }

    /// Counts a connection that was lost while a table was read. Returns how many in a row were.
    pub(super) fn count_lost_read(&mut self) -> u32 {
        self.lost_reads += 1;
        self.lost_reads
    }

    /// Returns whether reads were cut so often in a row that a replica which was never live gives
    /// up. Without this:
    /// 1. A server or proxy ends each COPY, for example after a time.
    /// 2. The read begins over and over, and never ends.
    /// 3. Whoever waits for the first answer is told nothing.
    pub(super) fn has_lost_too_many(&self) -> bool {
        const TOO_MANY: u32 = 5;
        self.lost_reads >= TOO_MANY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Payload;
    use crate::sync::TableSpec;
    use crate::sync::change::Change;
    use crate::sync::hashing::SeededState;

    fn table() -> EngineTable {
        let spec = TableSpec {
            schema: "app".into(),
            name: "users".into(),
            oid: 7,
            leaves: Vec::new(),
            is_partitioned: false,
            deferrable_key: false,
            sends_plain_form: false,
            sends_whole_rows: true,
            is_for_side_read: true,
            shape: None,
        };
        EngineTable::new(spec, SeededState::new(0))
    }

    #[test]
    fn one_thing_is_read_at_a_time() {
        let now = Instant::now();
        let tables = [table(), table()];
        let mut queue = ReadQueue::default();
        assert_eq!(
            queue.next(&tables, 0, now),
            Some(NextRead::Table(TableId(0), Reader::Q))
        );
        assert_eq!(queue.begin_read(), 1);
        queue.start_read(TableId(0), 1, Reader::Q);
        assert_eq!(queue.next(&tables, 0, now), None);
        assert!(queue.fail(TableId(1), 1).is_none(), "of another table");
        assert!(queue.fail(TableId(0), 2).is_none(), "of another read");
        assert!(!queue.give_up_read(TableId(1)));
        assert!(queue.give_up_read(TableId(0)));
        assert!(queue.is_idle());
    }

    #[test]
    fn large_tables_are_read_beside_q_until_a_session_is_lost() {
        let now = Instant::now();
        let mut tables = [table(), table(), table(), table()];
        let mut queue = ReadQueue::default();
        let begin = |queue: &mut ReadQueue, tables: &mut [EngineTable]| {
            let Some(NextRead::Table(table, reader)) = queue.next(tables, 2, now) else {
                return None;
            };
            let read = queue.begin_read();
            let generation = tables[table.0].start_reading(read, now);
            queue.start_read(table, generation, reader);
            Some((table, reader))
        };
        let q = Some((TableId(0), Reader::Q));
        assert_eq!(begin(&mut queue, &mut tables), q);
        let side = |table| Some((TableId(table), Reader::Side));
        assert_eq!(begin(&mut queue, &mut tables), side(1));
        assert_eq!(begin(&mut queue, &mut tables), side(2));
        assert_eq!(begin(&mut queue, &mut tables), None, "two at most");
        assert_eq!(queue.finish_read(TableId(2), 1), Some(Reader::Side));
        assert_eq!(queue.finish_read(TableId(2), 1), None, "it is done");
        assert!(queue.lose_side_read(TableId(1), 1));
        assert_eq!(begin(&mut queue, &mut tables), None, "Q reads alone");
        assert_eq!(queue.finish_read(TableId(0), 1), Some(Reader::Q));
        assert_eq!(queue.finished_reads(), 2);
        assert_eq!(
            begin(&mut queue, &mut tables),
            Some((TableId(3), Reader::Q))
        );
    }

    #[test]
    fn a_small_table_waits_for_q() {
        let now = Instant::now();
        let mut queue = ReadQueue::default();
        let mut tables = [table(), table()];
        tables[1].spec_mut().is_for_side_read = false;
        let generation = tables[0].start_reading(1, now);
        queue.start_read(TableId(0), generation, Reader::Q);
        assert_eq!(queue.next(&tables, 2, now), None);
    }

    // Both answers would go into one cache.
    #[test]
    fn a_table_for_which_q_works_is_not_read_beside_q() {
        let now = Instant::now();
        let mut queue = ReadQueue::default();
        let tables = [table(), table()];
        queue.start_refetch(TableId(0));
        let other = NextRead::Table(TableId(1), Reader::Side);
        assert_eq!(queue.next(&tables, 2, now), Some(other));
        assert_eq!(queue.next(&tables[..1], 2, now), None);
    }

    // A comparison with a table that is not read yet would find differences that mean nothing.
    #[test]
    fn a_question_waits_until_its_table_is_live() {
        let mut queue = ReadQueue::default();
        queue.want_comparison(Question {
            table: TableId(0),
            number: 9,
        });
        let next = queue.next(&[table()], 0, Instant::now());
        assert_eq!(next, Some(NextRead::Table(TableId(0), Reader::Q)));
        assert!(queue.is_comparison_wanted(TableId(0)));
    }

    // Without turns a table that is reloaded without end would keep all rows from being refetched.
    #[test]
    fn reads_of_tables_and_refetches_take_turns() {
        let now = Instant::now();
        let mut live = table();
        let generation = live.start_reading(1, now);
        live.cut(generation, "100:100:".parse().expect("a snapshot"));
        live.loaded(generation, 1, true, now);
        let payload = concat!(
            r#"{"table":"users","action":"update","id":1,"schema":"app","rel":7,"#,
            r#""xid":"150","truncated":true}"#
        );
        let parsed = Payload::parse(payload).expect("a payload");
        live.classify(Change::new(payload, &parsed, 1), 10_000);
        let tables = [table(), live];
        let mut queue = ReadQueue::default();
        let rows = Some(NextRead::Rows(TableId(1)));
        assert_eq!(queue.next(&tables, 0, now), rows);
        queue.start_refetch(TableId(1));
        queue.finish();
        assert_eq!(
            queue.next(&tables, 0, now),
            Some(NextRead::Table(TableId(0), Reader::Q))
        );
        queue.start_read(TableId(0), 1, Reader::Q);
        queue.finish();
        assert_eq!(queue.next(&tables, 0, now), rows);
    }

    #[test]
    fn five_reads_that_are_cut_in_a_row_are_too_many() {
        let mut queue = ReadQueue::default();
        for _ in 0..4 {
            queue.count_lost_read();
        }
        assert!(!queue.has_lost_too_many());
        queue.count_lost_read();
        assert!(queue.has_lost_too_many());
        queue.start_read(TableId(0), 1, Reader::Q);
        queue.finish();
        assert!(!queue.has_lost_too_many());
    }
}
