//! The reads of a [`Driver`] on Q, one at a time: of whole tables, of rows by key, and for
//! comparisons of caches with their tables.
//!
//! ```text
//! read ─→ task on Q ─ ReadMessage ─→ take_rows ─→ snapshot_taken · load · all_read ─→ Engine
//!                   └ ReadFailed ──→ read_failed ──────────────────────────────────→ Engine
//! ```

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
use tracing::Instrument as _;

/// The most answers that are kept. Whoever asked may have given up, and will take no answer.
const ANSWERS_KEPT: usize = 256;

/// The expected rows of a table from which on a thread of their own decodes them.
const ROWS_WORTH_A_THREAD: usize = 20_000;

/// The number of a comparison that was asked for. A caller that has given up leaves an answer
/// behind, which the number tells from the next caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuestionId(pub(super) u64);

/// The answer to the question whether a cache is equal to its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The cache was compared with the table at one exact cut, while writers went on.
    Compared(ComparisonReport),
    /// The comparison proves nothing, for this reason: ask again.
    Inconclusive(String),
}

/// The read that Q is asked for, and the answers to comparisons.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The read that Q is asked for; `None` if Q has nothing to do, or the read was given up.
    pub(super) asked: Option<ReadRequest>,
    /// The snapshot of that read, once the snapshot is taken.
    snapshot: Option<Snapshot>,
    /// The snapshot of the comparison that is underway.
    cut: Option<Snapshot>,
    /// Whether the transaction of a comparison is still open on Q.
    is_cut_open: bool,
    /// The task that reads. The task's result says whether the session is in order.
    task: Option<JoinHandle<bool>>,
    /// The answers to comparisons that nobody has taken yet, oldest first.
    answers: VecDeque<Answer>,
    next_check: NextCheck,
}

/// The answer to one question.
#[derive(Debug)]
struct Answer {
    question: QuestionId,
    verification: Verification,
}

/// The number of rows, and of bytes of COPY, at which the memory is checked next.
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
    /// Returns whether a task reads, so that a message will tell how the read ends.
    pub(super) fn is_underway(&self) -> bool {
        self.asked.is_some() && self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Forgets the read that Q was asked for, since the session is gone.
    pub(super) fn end(&mut self) {
        self.asked = None;
        self.cut = None;
        self.is_cut_open = false;
        self.task.take().inspect(JoinHandle::abort);
    }
}

impl Driver {
    /// Starts a task that reads a table on Q, or the rows of `keys`. `work` is the engine's number
    /// of the read.
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
        let distrust = own.config.distrust;
        let copy = copy_statement(
            &own.config,
            distrust,
            keys.as_deref(),
            longest,
            |relation, only| own.writer.query(relation, only),
        );
        let copy = match copy {
            Ok(copy) => copy,
            Err(error) => return self.read_failed(asked, error),
        };
        let is_within_cut = matches!(kind, ReadKind::RowsOfCut | ReadKind::Compare);
        let leaves_open = is_within_cut || kind == ReadKind::Cut;
        let was_left_open = std::mem::replace(&mut self.reads.is_cut_open, leaves_open);
        // A refetch inside a comparison is made under the comparison's snapshot. Every other read
        // takes a snapshot of its own and sends it.
        self.reads.snapshot = match kind {
            ReadKind::RowsOfCut => self.reads.cut.clone(),
            ReadKind::All | ReadKind::Rows | ReadKind::Cut | ReadKind::Compare => None,
        };
        let incoming = match (kind, keys) {
            (ReadKind::Compare, _) => Incoming::Comparison,
            (_, Some(keys)) => Incoming::Refetch(keys),
            (_, None) => Incoming::Snapshot,
        };
        let own = &mut self.tables[table.0];
        own.writer.expect(incoming);
        // A thread for few rows would cost more time than it saves.
        let is_large = own.config.expected_rows >= ROWS_WORTH_A_THREAD;
        let ahead = is_large.then(|| own.writer.decode_ahead()).flatten();
        tracing::debug!(table = own.config.name(), ?kind, "read");
        let read = Read {
            client,
            failures_tx: self.channels.failures_tx.clone(),
            rows_tx: self.channels.rows_tx.clone(),
            asked,
            config: own.config.clone(),
            copy,
            previous: self.reads.task.take(),
            // A comparison that was given up has left its transaction open on Q.
            rolls_back: was_left_open && !is_within_cut,
            lock_timeout: self.options.lock_timeout,
            longest,
            distrust,
        };
        let relation = own.config.relation();
        let span = tracing::debug_span!(
            "replica.read_table",
            table = relation.trim_start_matches("ONLY "),
            kind = ?kind
        );
        self.reads.task = Some(tokio::spawn(read.run(ahead).instrument(span)));
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
                // Rows of a refetch are collected. If they are too many, the read fails, and the
                // engine reloads the table, whose rows are stored as they come.
                if asked.kind.is_refetch() && writer.copied() > self.options.max_memory / 2 {
                    return self.unreadable(asked, ReadError::TooMuch);
                }
                self.flush();
                self.check_loading(asked.table);
            }
            ReadMessage::Decoded { asked, bytes } => {
                self.tables[asked.table.0].writer.take_decoded(bytes);
                self.flush();
                self.check_loading(asked.table);
            }
            ReadMessage::All { asked } => self.all_read(asked),
        }
    }

    /// Takes the snapshot of a read, and the table's fingerprint under that snapshot. Rows come
    /// next.
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
        // Only a read of all rows makes the cache one of this definition. The rows of a refetch
        // join rows that were read under the former fingerprint.
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

    /// Takes the end of a read: all rows have come.
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
                self.progress[table.0].reads += 1;
                let writer = &self.tables[table.0].writer;
                Input::SnapshotLoaded {
                    table,
                    generation: work,
                    // Whether rows that wait for the lock differ from those in the cache is not
                    // known yet: they count as changed.
                    has_changed: writer.is_waiting() || writer.has_changed(),
                }
            }
        };
        self.engine.handle(input, Instant::now());
    }

    /// Returns whether rows of a read may be used: under the read's snapshot the table is as it was
    /// described. If not, tells the engine.
    ///
    /// F looks at the definition every heartbeat, which is not enough. Without a look of each read:
    /// 1. A column becomes another type of the same size.
    /// 2. The table is read.
    /// 3. Values of the new type are taken for values of the old one, and are live until the next
    ///    look.
    fn is_as_described(&mut self, asked: ReadRequest, seen: &Fingerprint) -> bool {
        let ReadRequest { table, kind, .. } = asked;
        let own = &self.tables[table.0];
        if let Some(column) = own.config.changed_column(seen) {
            // Rows of this read cannot even be decoded.
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
        // Rewritten rows and other files are no matter here: the rows that come are the new ones.
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
            // Nobody describes the table afresh. The columns that the cache keeps are the same, and
            // the rows that come are those of the altered table: the read goes on.
            self.emit(DriverEvent::Altered { table });
        }
        true
    }

    /// Keeps the fingerprint under which a table is read, with which looks are compared from now
    /// on. Tells the engine of the table's partitions.
    fn take_fingerprint(&mut self, table: TableId, now: Fingerprint) {
        let input = Input::LeavesSeen {
            table,
            leaves: now.leaves.clone(),
            detaching: now.detaching.clone(),
        };
        self.engine.handle(input, Instant::now());
        self.tables[table.0].fingerprint = Some(now);
    }

    /// Takes the snapshot of a comparison, and the table's fingerprint under that snapshot.
    ///
    /// The cache can be compared with the snapshot only if the cache was read under the same
    /// definition. If looks are made, the rows must not have been rewritten in silence either.
    /// Otherwise the comparison would blame the cache for a change that nothing has announced, and
    /// that the next look finds.
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

    /// Gives up the read of a table, if Q is reading that table.
    pub(super) fn give_up_read(&mut self, table: TableId) {
        if self.reads.asked.is_some_and(|asked| asked.table == table) {
            self.abandon_read();
        }
    }

    /// Gives up the read that Q is asked for, and ends Q's transaction at once.
    ///
    /// It would not do to leave the transaction to the next read:
    /// 1. A table is found altered while it is read, and held until somebody mends its triggers.
    /// 2. There is no next read, so the transaction goes on holding the table's lock.
    /// 3. The migration that would mend the triggers waits for that lock.
    fn abandon_read(&mut self) {
        let is_underway = self.reads.asked.take().is_some();
        let is_cut_open = std::mem::take(&mut self.reads.is_cut_open);
        if !is_cut_open && !is_underway {
            // A task that is still at work ends its own transaction.
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
                // Wait until the task is gone, so that no statement of its follows the ROLLBACK.
                // The result of a task that was aborted says nothing.
                let _ = previous.await;
            }
            client.batch_execute("ROLLBACK").await.is_ok()
        }));
    }

    /// Keeps the answer to a comparison that is over. `inconclusive` is the reason why the
    /// comparison proves nothing. `doubt` is the reason why the table waits to be reloaded.
    pub(super) fn comparison_ended(
        &mut self,
        table: TableId,
        question: QuestionId,
        inconclusive: Option<String>,
        doubt: Option<String>,
    ) {
        self.reads.cut = None;
        let compared = self.tables[table.0].writer.take_comparison();
        // A cache that waits to be reloaded may differ from its table, so a difference proves
        // nothing new. If there is no difference, the cache is equal all the same.
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

    /// Asks for a comparison of the cache of a table with the table.
    /// [`take_verification`](Self::take_verification) returns the answer once there is one.
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

    /// Takes the answer to a question; `None` while there is no answer.
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
    /// on. The comparison takes a snapshot and a COPY of the table, and holds the table's ACCESS
    /// SHARE lock meanwhile. The cache does not change until the comparison is done.
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

    /// Makes a read fail whose rows cannot be used.
    pub(super) fn unreadable(&mut self, asked: ReadRequest, source: ReadError) {
        let table = self.tables[asked.table.0].config.name();
        self.read_failed(asked, DriverError::Snapshot { table, source });
    }

    /// Tells the engine that a read has failed: as a lost connection, an altered table, an
    /// inconclusive comparison, or a read to be tried again, depending on the error.
    pub(super) fn read_failed(&mut self, asked: ReadRequest, error: DriverError) {
        let ReadRequest {
            table, work, kind, ..
        } = asked;
        // Messages of the read that are still on their way are ignored from now on.
        self.reads.asked = None;
        self.tables[table.0].writer.give_up_decoding();
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
            // Whoever asks once wants the error now, and not a second try.
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
            // Any role can send keys that the server refuses. A table must not be given up for
            // that: the engine reloads the table instead.
            is_permanent: is_permanent && !is_refetch,
        };
        self.engine.handle(input, Instant::now());
    }

    /// Checks the memory while a table is loaded, if enough has come since the last check.
    fn check_loading(&mut self, table: TableId) {
        let writer = &self.tables[table.0].writer;
        let rows = writer.rows();
        let bytes = writer.copied();
        if rows < self.reads.next_check.rows && bytes < self.reads.next_check.bytes {
            return;
        }
        // Adding up the memory takes time in proportion to the cache, so a larger cache is checked
        // less often.
        let between = bytes_between_checks(self.options.max_memory);
        self.reads.next_check = NextCheck {
            rows: rows + ROWS_BETWEEN_CHECKS.max(rows / 16),
            bytes: bytes + between.max(bytes / 16),
        };
        self.check_memory(table);
    }
}
