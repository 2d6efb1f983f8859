//! What Q does for a [`Driver`]: reads of tables, refetches, and comparisons.

use super::memory::{ROWS_BETWEEN_CHECKS, bytes_between_checks};
use super::{Driver, DriverEvent};
use crate::postgres::apply::finding::ComparisonReport;
use crate::postgres::apply::writer::Incoming;
use crate::postgres::connection::sessions::AuxClient;
use crate::postgres::error::{DriverError, ReadError, Verdict};
use crate::postgres::error_chain::chain;
use crate::postgres::read::request::{ReadKind, ReadMessage, ReadRequest};
use crate::postgres::read::statement::copy_statement;
use crate::postgres::read::task::Read;
use crate::postgres::schema::fingerprint::{Difference, Fingerprint, compare};
use crate::postgres::sqlstate::Policy;
use crate::sync::{AuxConnection, Input, Snapshot, TableId};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::task::JoinHandle;

/// How many answers are kept that nobody takes: whoever asked may have given up.
const ANSWERS_KEPT: usize = 256;

/// The number of a comparison that was asked for. It tells answers apart, also when whoever asked
/// first has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuestionId(pub(super) u64);

/// The answer to the question whether a cache is equal to its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The cache was compared with the table at one exact cut, while writers went on.
    Compared(ComparisonReport),
    /// The comparison does not count, for this reason: ask again.
    Inconclusive(String),
}

/// What Q does, and the answers that it has given.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// What Q is asked for.
    pub(super) asked: Option<ReadRequest>,
    /// The snapshot of what Q is asked for, once it is known.
    snapshot: Option<Snapshot>,
    /// The snapshot of the comparison whose transaction is open.
    cut: Option<Snapshot>,
    /// Whether a transaction that a comparison began is still open.
    is_cut_open: bool,
    /// The task that reads. Its result says whether the session is in order.
    task: Option<JoinHandle<bool>>,
    answers: VecDeque<Answer>,
    next_check: NextCheck,
}

#[derive(Debug)]
struct Answer {
    question: QuestionId,
    verification: Verification,
}

/// At how many rows, or bytes of COPY, the memory is looked at again.
#[derive(Debug, Default)]
struct NextCheck {
    rows: usize,
    bytes: usize,
}

impl Drop for Reads {
    fn drop(&mut self) {
        self.task.take().inspect(JoinHandle::abort);
    }
}

impl Reads {
    /// Returns whether a read is underway, which will say how it ends.
    pub(super) fn is_underway(&self) -> bool {
        self.asked.is_some() && self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Notes that the connection is gone, and with it what was asked for.
    pub(super) fn end(&mut self) {
        self.asked = None;
        self.cut = None;
        self.is_cut_open = false;
        self.task.take().inspect(JoinHandle::abort);
    }
}

impl Driver {
    /// Starts a task that reads a table on Q, or the rows of `keys`. `work` is the engine's number
    /// for it.
    pub(super) fn read(
        &mut self,
        table: TableId,
        work: u64,
        keys: Option<Vec<String>>,
        kind: ReadKind,
    ) {
        let Some(AuxClient { client, epoch }) = self.aux_client(AuxConnection::Reads) else {
            return;
        };
        let asked = ReadRequest {
            epoch,
            table,
            work,
            kind,
        };
        self.reads.asked = Some(asked);
        let longest = self.longest_row();
        let own = &self.tables[table.0];
        let distrust = own.distrust();
        let query = |relation: &str, only: &str| own.writer.query(relation, only);
        let copy = match copy_statement(&own.config, distrust, keys.as_deref(), longest, query) {
            Ok(copy) => copy,
            Err(error) => return self.read_failed(asked, error),
        };
        let is_within_cut = matches!(kind, ReadKind::RowsOfCut | ReadKind::Compare);
        let leaves_open = is_within_cut || kind == ReadKind::Cut;
        let was_left_open = std::mem::replace(&mut self.reads.is_cut_open, leaves_open);
        // A refetch inside a comparison has that comparison's snapshot; others say theirs.
        self.reads.snapshot = match kind {
            ReadKind::RowsOfCut => self.reads.cut.clone(),
            ReadKind::All | ReadKind::Rows | ReadKind::Cut | ReadKind::Compare => None,
        };
        tracing::debug!(table = own.config.name(), ?kind, copy, "read");
        let read = Read {
            client,
            failures_tx: self.channels.failures_tx.clone(),
            rows_tx: self.channels.rows_tx.clone(),
            asked,
            config: own.config.clone(),
            copy,
            previous: self.reads.task.take(),
            rolls_back: was_left_open && !is_within_cut,
            lock_timeout: self.options.lock_timeout,
            longest,
            distrust,
        };
        let incoming = match (kind, keys) {
            (ReadKind::Compare, _) => Incoming::Comparison,
            (_, Some(keys)) => Incoming::Refetch(keys),
            (_, None) => Incoming::Snapshot,
        };
        self.tables[table.0].writer.expect(incoming);
        self.reads.task = Some(tokio::spawn(read.run()));
    }

    /// Takes a message of the read that is underway.
    pub(super) fn take_rows(&mut self, message: ReadMessage) {
        match message {
            ReadMessage::Snapshot {
                asked,
                snapshot,
                fingerprint,
            } => self.snapshot_taken(asked, snapshot, *fingerprint),
            ReadMessage::Rows { asked, pieces } => {
                let writer = &mut self.tables[asked.table.0].writer;
                if let Err(source) = writer.load(pieces) {
                    return self.unreadable(asked, source);
                }
                // Rows of a refetch are collected. If they are too many, the table is read instead,
                // row by row.
                if asked.kind.is_refetch() && writer.copied() > self.options.max_memory / 2 {
                    return self.unreadable(asked, ReadError::TooMuch);
                }
                self.flush();
                self.check_loading(asked.table);
            }
            ReadMessage::All { asked } => self.all_read(asked),
        }
    }

    /// The snapshot of a read is taken; rows come next.
    fn snapshot_taken(&mut self, asked: ReadRequest, snapshot: Snapshot, fingerprint: Fingerprint) {
        let ReadRequest {
            table, work, kind, ..
        } = asked;
        if !self.is_as_described(asked, &fingerprint) {
            return;
        }
        if kind == ReadKind::Cut {
            return self.cut_taken(table, work, snapshot, &fingerprint);
        }
        if kind == ReadKind::All {
            self.take_fingerprint(table, fingerprint);
        }
        let own = &mut self.tables[table.0];
        own.writer.begin(own.config.expected_rows);
        self.reads.next_check = NextCheck::default();
        self.reads.snapshot = Some(snapshot.clone());
        if kind == ReadKind::All {
            let input = Input::SnapshotTaken {
                table,
                generation: work,
                snapshot,
            };
            self.engine.handle(input, Instant::now());
        }
    }

    /// Everything that was read has come.
    fn all_read(&mut self, asked: ReadRequest) {
        let ReadRequest {
            table, work, kind, ..
        } = asked;
        if kind == ReadKind::Cut {
            return;
        }
        if let Err(source) = self.tables[table.0].writer.finish() {
            return self.unreadable(asked, source);
        }
        self.flush();
        self.check_memory(table);
        self.failure = None;
        let input = match (kind, self.reads.snapshot.take()) {
            (ReadKind::Compare, _) => {
                self.reads.is_cut_open = false;
                Input::Compared {
                    table,
                    comparison: work,
                }
            }
            (ReadKind::Rows | ReadKind::RowsOfCut, Some(snapshot)) => Input::Refetched {
                table,
                batch: work,
                snapshot,
            },
            (ReadKind::All | ReadKind::Cut | ReadKind::Rows | ReadKind::RowsOfCut, _) => {
                let writer = &self.tables[table.0].writer;
                Input::SnapshotLoaded {
                    table,
                    generation: work,
                    // While rows wait for the lock nobody knows, so they count as changed.
                    has_changed: writer.is_waiting() || writer.has_changed(),
                }
            }
        };
        self.engine.handle(input, Instant::now());
    }

    /// Returns whether a table is still as it was described, as far as the snapshot of a read sees.
    /// If not, tells the engine.
    ///
    /// Each read looks, not only F now and then. Without this:
    /// 1. A column becomes another type of the same size.
    /// 2. The table is read.
    /// 3. Values of the new type are taken for values of the old one, and are live until the next
    ///    look.
    fn is_as_described(&mut self, asked: ReadRequest, seen: &Fingerprint) -> bool {
        let ReadRequest { table, kind, .. } = asked;
        let own = &self.tables[table.0];
        if let Some(column) = own.config.changed_column(seen) {
            let what = format!("the column {column} is gone, or of another type");
            if self.options.holds_altered || kind == ReadKind::Cut {
                self.altered(table, &what);
            } else {
                self.emit(DriverEvent::Altered { table });
                self.unreadable(asked, ReadError::Altered(what));
            }
            return false;
        }
        let difference = own.fingerprint.as_ref().and_then(|before| {
            let seen = std::slice::from_ref(seen);
            compare(before, seen, &own.config.announced_by, None)
        });
        let why = match difference {
            None | Some(Difference::Rewritten(_) | Difference::Truncated) => return true,
            Some(Difference::Altered(why)) => why.to_string(),
            Some(Difference::Silent(trigger)) => {
                format!("its trigger \"{trigger}\" is gone or disabled")
            }
        };
        if self.options.holds_altered {
            self.altered(table, &why);
            return false;
        }
        if kind == ReadKind::All {
            // The rows that come are those of the altered table, so the read goes on.
            self.emit(DriverEvent::Altered { table });
        }
        true
    }

    /// Takes the fingerprint under which a table is read for the one to compare looks with, and tells
    /// the engine of the leaves.
    fn take_fingerprint(&mut self, table: TableId, now: Fingerprint) {
        let input = Input::LeavesSeen {
            table,
            leaves: now.leaves.clone(),
            detaching: now.detaching.clone(),
        };
        self.engine.handle(input, Instant::now());
        self.tables[table.0].fingerprint = Some(now);
    }

    /// The snapshot of a comparison is taken.
    ///
    /// The cache can be compared with it only if it was read under the same definition. If looks are
    /// made, not if the rows were rewritten in silence either: the comparison would blame the cache
    /// for a change that nothing has announced, and that the next look will find.
    fn cut_taken(
        &mut self,
        table: TableId,
        comparison: u64,
        snapshot: Snapshot,
        fingerprint: &Fingerprint,
    ) {
        let before = self.tables[table.0].fingerprint.as_ref();
        let truncated_by = self.engine.truncated_by(table);
        let is_rewritten = self.options.limits.watch_ddl
            && before.is_some_and(|before| {
                let seen = std::slice::from_ref(fingerprint);
                let difference = compare(before, seen, &[], truncated_by);
                matches!(difference, Some(Difference::Rewritten(_)))
            });
        let is_same = before.is_some_and(|before| before.is_same_definition(fingerprint));
        let input = if is_rewritten {
            Input::TableAltered {
                table,
                why: "it was rewritten or truncated, and nothing announced it".to_string(),
            }
        } else if is_same {
            self.reads.cut = Some(snapshot.clone());
            Input::CutTaken {
                table,
                comparison,
                snapshot,
            }
        } else {
            Input::TableAltered {
                table,
                why: "its definition is another one".to_string(),
            }
        };
        self.engine.handle(input, Instant::now());
    }

    /// Gives up what Q reads of a table.
    pub(super) fn give_up_read(&mut self, table: TableId) {
        if self.reads.asked.is_some_and(|asked| asked.table == table) {
            self.abandon_read();
        }
    }

    /// Gives up what Q does, and ends its transaction at once.
    ///
    /// To leave that to the next read is not enough. Without this:
    /// 1. A table is found altered while it is read, and held until somebody mends its triggers.
    /// 2. There is no next read, so the transaction goes on holding the table's lock.
    /// 3. The migration that would mend the triggers waits for that lock.
    fn abandon_read(&mut self) {
        let is_underway = self.reads.asked.take().is_some();
        let is_cut_open = std::mem::take(&mut self.reads.is_cut_open);
        if !is_cut_open && !is_underway {
            // A task that is at work then ends its transaction itself.
            return;
        }
        let previous = self.reads.task.take();
        if let Some(previous) = &previous {
            previous.abort();
        }
        let Some(AuxClient { client, .. }) = self.aux_client(AuxConnection::Reads) else {
            return;
        };
        self.reads.task = Some(tokio::spawn(async move {
            if let Some(previous) = previous {
                // Its result is of no use: the task was aborted.
                let _ = previous.await;
            }
            client.batch_execute("ROLLBACK").await.is_ok()
        }));
    }

    /// A comparison is over: keeps the answer for whoever asked.
    pub(super) fn comparison_ended(
        &mut self,
        table: TableId,
        question: QuestionId,
        inconclusive: Option<String>,
        doubt: Option<String>,
    ) {
        self.reads.cut = None;
        let compared = self.tables[table.0].writer.take_comparison();
        // A table that waits to be reloaded may differ, so a difference proves nothing. If there is
        // none, equal is equal.
        let has_differences = compared
            .as_ref()
            .is_some_and(|compared| compared.differing() > 0);
        let doubt = doubt
            .filter(|_| has_differences)
            .map(|why| format!("the table is to be read again: {why}"));
        let verification = match (inconclusive.or(doubt), compared) {
            (None, Some(report)) => Verification::Compared(report),
            (Some(why), _) => Verification::Inconclusive(why),
            (None, None) => Verification::Inconclusive("nothing was compared".to_string()),
        };
        if matches!(verification, Verification::Inconclusive(_)) {
            self.abandon_read();
        }
        if self.reads.answers.len() >= ANSWERS_KEPT {
            self.reads.answers.pop_front();
        }
        self.reads.answers.push_back(Answer {
            question,
            verification,
        });
    }

    /// Asks for the cache of a table to be compared with the table.
    /// [`take_verification`](Self::take_verification) has the answer.
    ///
    /// # Errors
    /// If the driver has ended.
    pub fn ask_to_verify(&mut self, table: TableId) -> Result<QuestionId, DriverError> {
        self.begin()?;
        self.question_count += 1;
        let question = self.question_count;
        let input = Input::VerifyWanted { table, question };
        self.engine.handle(input, Instant::now());
        self.perform_outputs()?;
        Ok(QuestionId(question))
    }

    /// Takes the answer to a question, once it is there.
    pub fn take_verification(&mut self, question: QuestionId) -> Option<Verification> {
        let at = self
            .reads
            .answers
            .iter()
            .position(|answer| answer.question == question)?;
        let answer = self.reads.answers.remove(at)?;
        Some(answer.verification)
    }

    /// Compares the cache of a table with the table, row by row, at one exact cut, while writers go
    /// on. The comparison takes a snapshot and a COPY of the table, and holds its lock (ACCESS SHARE)
    /// meanwhile; the cache does not change until it is done.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn verify(&mut self, table: TableId) -> Result<Verification, DriverError> {
        let question = self.ask_to_verify(table)?;
        loop {
            if let Some(verification) = self.take_verification(question) {
                return Ok(verification);
            }
            self.turn(&mut |_| {}).await?;
        }
    }

    /// The rows of a read cannot be used.
    pub(super) fn unreadable(&mut self, asked: ReadRequest, source: ReadError) {
        let table = self.tables[asked.table.0].config.name();
        self.read_failed(asked, DriverError::Snapshot { table, source });
    }

    /// A read has failed: decides by the error what the engine is told.
    pub(super) fn read_failed(&mut self, asked: ReadRequest, error: DriverError) {
        let ReadRequest {
            table, work, kind, ..
        } = asked;
        // Messages of the read that are still on their way are ignored from now on.
        self.reads.asked = None;
        let why = chain(&error);
        tracing::info!(
            table = self.tables[table.0].config.name(),
            why,
            "a read failed"
        );
        if matches!(error.policy(), Policy::Lost | Policy::Starting) {
            return self.aux_connection_lost(AuxConnection::Reads, error);
        }
        if self.options.holds_altered && error.is_of_another_table() {
            return self.altered(table, &why);
        }
        if matches!(kind, ReadKind::Cut | ReadKind::Compare) {
            let input = Input::ComparisonFailed {
                table,
                comparison: work,
                why,
            };
            self.engine.handle(input, Instant::now());
            return;
        }
        let is_refetch = kind.is_refetch();
        if !self.options.limits.reconnect && !is_refetch {
            // Whoever asks once wants to know now.
            let failure = self.failure.insert(error).to_string();
            self.engine.handle(Input::Lost(failure), Instant::now());
            return;
        }
        let Verdict { code, is_permanent } = error.verdict();
        self.failure = Some(error);
        let input = Input::ReadFailed {
            table,
            work,
            code,
            why,
            // Any role can send keys that the server does not take. That is no failure: the table is
            // read instead.
            is_permanent: is_permanent && !is_refetch,
        };
        self.engine.handle(input, Instant::now());
    }

    /// Looks at the memory while a table is loaded, if enough has come since the last time.
    fn check_loading(&mut self, table: TableId) {
        let writer = &self.tables[table.0].writer;
        let rows = writer.rows();
        let bytes = writer.copied();
        if rows < self.reads.next_check.rows && bytes < self.reads.next_check.bytes {
            return;
        }
        // To add the memory up takes time in proportion to the cache, so a larger cache is looked at
        // less often.
        let between = bytes_between_checks(self.options.max_memory);
        self.reads.next_check = NextCheck {
            rows: rows + ROWS_BETWEEN_CHECKS.max(rows / 16),
            bytes: bytes + between.max(bytes / 16),
        };
        self.check_memory(table);
    }
}
