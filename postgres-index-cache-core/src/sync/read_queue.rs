//! [`ReadQueue`]: the work of Q, and which work comes next.
//!
//! Q does one thing at a time. So Q never waits for a table's lock while holding another, and
//! cannot be part of a deadlock.

use super::TableId;
use super::table::EngineTable;
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
    /// Read this whole table.
    Table(TableId),
    /// Read rows of this table by their keys.
    Rows(TableId),
}

/// The work of Q: underway, waiting and done.
#[derive(Debug, Default)]
pub(super) struct ReadQueue {
    /// The work that is underway.
    work: Option<Work>,
    /// The questions whose comparisons have not begun, in the order in which they were asked.
    pending_comparisons: VecDeque<Question>,
    /// Whether the last work that Q finished was a refetch.
    last_was_refetch: bool,
    /// How many reads of whole tables have begun.
    started_reads: u64,
    /// How many answers Q has given, refetches included.
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

    /// Returns how many answers Q has given.
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

    /// Returns the work that Q should do next, or `None` if Q is busy or nothing is due. A question
    /// that is returned is taken off the queue.
    ///
    /// Comparisons come first: they are few, and a person waits for them. Reads of tables and
    /// refetches take turns. Without turns:
    /// 1. A table is due to be reloaded again whenever its read has ended.
    /// 2. The rows of all other tables are never refetched, and no fence is reached. Or, the other
    ///    way round, rows are wanted without end, and no table is ever reloaded.
    pub(super) fn next(&mut self, tables: &[EngineTable], now: Instant) -> Option<NextRead> {
        if self.work.is_some() {
            return None;
        }
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
            (Some(table), None) => Some(NextRead::Table(TableId(table))),
            (Some(table), Some(_)) if self.last_was_refetch => {
                Some(NextRead::Table(TableId(table)))
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
    pub(super) fn start_read(&mut self, table: TableId, generation: u64) {
        self.work = Some(Work::Read { table, generation });
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

    /// Gives up the work that is underway, whose answer will not come. Returns that work.
    pub(super) fn give_up(&mut self) -> Option<Work> {
        self.work.take()
    }

    /// Gives up a read or a refetch of `table`. Returns whether one was underway. A comparison is
    /// ended in another way, since a caller waits for its answer.
    pub(super) fn give_up_read(&mut self, table: TableId) -> bool {
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
            shape: None,
        };
        EngineTable::new(spec, SeededState::new(0))
    }

    #[test]
    fn one_thing_is_read_at_a_time() {
        let now = Instant::now();
        let tables = [table(), table()];
        let mut queue = ReadQueue::default();
        assert_eq!(queue.next(&tables, now), Some(NextRead::Table(TableId(0))));
        assert_eq!(queue.begin_read(), 1);
        queue.start_read(TableId(0), 1);
        assert_eq!(queue.next(&tables, now), None);
        assert!(queue.fail(TableId(1), 1).is_none(), "of another table");
        assert!(queue.fail(TableId(0), 2).is_none(), "of another read");
        assert!(!queue.give_up_read(TableId(1)));
        assert!(queue.give_up_read(TableId(0)));
        assert!(queue.is_idle());
    }

    // A comparison with a table that is not read yet would find differences that mean nothing.
    #[test]
    fn a_question_waits_until_its_table_is_live() {
        let mut queue = ReadQueue::default();
        queue.want_comparison(Question {
            table: TableId(0),
            number: 9,
        });
        let next = queue.next(&[table()], Instant::now());
        assert_eq!(next, Some(NextRead::Table(TableId(0))));
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
        assert_eq!(queue.next(&tables, now), rows);
        queue.start_refetch(TableId(1));
        queue.finish();
        assert_eq!(queue.next(&tables, now), Some(NextRead::Table(TableId(0))));
        queue.start_read(TableId(0), 1);
        queue.finish();
        assert_eq!(queue.next(&tables, now), rows);
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
        queue.start_read(TableId(0), 1);
        queue.finish();
        assert!(!queue.has_lost_too_many());
    }
}
