//! What Q does for a [`Driver`]: reads of tables, of rows, and of the cut that a comparison compares
//! with.

use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::apply::sink::ComparisonReport;
use crate::postgres::driver::{Driver, DriverEvent, ROWS_BETWEEN_CHECKS};
use crate::postgres::error::{DriverError, ReadError, chain};
use crate::postgres::read::task::Read;
use crate::postgres::schema::fingerprint::{Difference, Fingerprint, compare};
use crate::postgres::sqlstate::Policy;
use crate::sync::{AuxConnection, Input, Snapshot, TableId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;
use tokio::task::JoinHandle;

/// How many answers are kept that nobody takes: whoever asked may have given up.
const ANSWERS_KEPT: usize = 256;

/// What Q is asked for. Answers to anything else are of connections that are gone, or of a read
/// that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct ReadRequest {
    /// Which connection it is of.
    pub(super) epoch: u64,
    pub(super) table: TableId,
    /// The generation of a read, the batch of rows that are read again, or the comparison.
    pub(super) work: u64,
    pub(in crate::postgres) kind: ReadKind,
}

/// What Q does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum ReadKind {
    /// A snapshot of all rows, in a transaction of its own.
    All,
    /// Some rows, likewise.
    Rows,
    /// The snapshot of a comparison; its transaction stays.
    Cut,
    /// Some rows inside that transaction.
    RowsOfCut,
    /// All rows inside that transaction, to be compared; it ends with them.
    Compare,
}

impl ReadKind {
    pub(in crate::postgres) fn is_refetch(self) -> bool {
        matches!(self, Self::Rows | Self::RowsOfCut)
    }
}

/// The number of a comparison that was asked for: answers are told apart by it, also when whoever
/// asked gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuestionId(pub(super) u64);

/// What came of comparing a cache with its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The cache was compared with the table at one exact cut, while writers went on.
    Compared(ComparisonReport),
    /// The comparison does not count, and says nothing: ask again.
    Inconclusive(String),
}

/// What a read brings. It has a channel of its own, which is not looked at while the cache is
/// locked: Q waits then, and nothing else does.
pub(in crate::postgres) enum ReadMessage {
    Snapshot {
        asked: ReadRequest,
        snapshot: Snapshot,
        fingerprint: Box<Fingerprint>,
    },
    Rows {
        asked: ReadRequest,
        pieces: Vec<Bytes>,
    },
    All {
        asked: ReadRequest,
    },
}

/// What Q does, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// What is asked for, and the snapshot of it.
    pub(super) asked: Option<ReadRequest>,
    snapshot: Option<Snapshot>,
    /// The snapshot of the comparison whose transaction is open.
    cut: Option<Snapshot>,
    /// Whether a transaction that a comparison left is still open.
    is_cut_open: bool,
    task: Option<JoinHandle<bool>>,
    verified: VecDeque<(QuestionId, Verification)>,
    /// At how many rows and bytes of COPY the memory is looked at again.
    next_check: (usize, usize),
}

impl Drop for Reads {
    fn drop(&mut self) {
        self.task.take().inspect(JoinHandle::abort);
    }
}

impl Reads {
    /// Whether a read is underway, which will say how it ends.
    pub(super) fn is_underway(&self) -> bool {
        self.asked.is_some() && self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// The connection is gone, and with it what was asked for.
    pub(super) fn end(&mut self) {
        self.asked = None;
        self.cut = None;
        self.is_cut_open = false;
        self.task.take().inspect(JoinHandle::abort);
    }
}

impl Driver {
    pub(super) fn read(
        &mut self,
        table: TableId,
        work: u64,
        keys: Option<Vec<String>>,
        kind: ReadKind,
    ) {
        let Some((client, epoch)) = self.client(AuxConnection::Reads) else {
            return;
        };
        let asked = ReadRequest {
            epoch,
            table,
            work,
            kind,
        };
        self.reads.asked = Some(asked);
        let copy = match self.tables[table.0].copy_statement(keys.as_deref(), self.longest_row()) {
            Ok(copy) => copy,
            Err(error) => return self.read_failed(asked, error),
        };
        self.reads.snapshot = if kind == ReadKind::RowsOfCut {
            self.reads.cut.clone()
        } else {
            None
        };
        let is_within_cut = matches!(kind, ReadKind::RowsOfCut | ReadKind::Compare);
        let is_left_open = std::mem::replace(
            &mut self.reads.is_cut_open,
            kind == ReadKind::Cut || is_within_cut,
        );
        let read = Read {
            client,
            sender: self.sender.clone(),
            rows_tx: self.rows_tx.clone(),
            asked,
            follow: self.tables[table.0].follow.clone(),
            copy,
            previous: self.reads.task.take(),
            rolls_back: is_left_open && !is_within_cut,
            lock_timeout: self.options.lock_timeout,
            longest: self.longest_row(),
            distrust: self.tables[table.0].distrust(),
        };
        self.tables[table.0].start_work(keys);
        if kind == ReadKind::Compare {
            self.tables[table.0].start_comparing();
        }
        self.reads.task = Some(tokio::spawn(read.run()));
    }

    /// Takes what the read that is asked for brings.
    pub(super) fn take_rows(&mut self, brought: ReadMessage) {
        match brought {
            ReadMessage::Snapshot {
                asked,
                snapshot,
                fingerprint,
            } => {
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
                    self.see(table, *fingerprint);
                }
                self.tables[table.0].start_load();
                self.reads.next_check = (0, 0);
                self.reads.snapshot = Some(snapshot.clone());
                if kind == ReadKind::All {
                    self.engine.handle(
                        Input::SnapshotTaken {
                            table,
                            generation: work,
                            snapshot,
                        },
                        Instant::now(),
                    );
                }
            }
            ReadMessage::Rows { asked, pieces } => {
                if let Err(source) = self.tables[asked.table.0].load(pieces) {
                    return self.unreadable(asked, source);
                }
                // Rows that are read again are collected; if they are too many, the table is read
                // instead.
                if asked.kind.is_refetch()
                    && self.tables[asked.table.0].copied > self.options.max_memory / 2
                {
                    return self.unreadable(asked, ReadError::TooMuch);
                }
                self.flush();
                self.check_loading(asked.table);
            }
            ReadMessage::All { asked } => {
                let ReadRequest {
                    table, work, kind, ..
                } = asked;
                if kind == ReadKind::Cut {
                    return;
                }
                if let Err(source) = self.tables[table.0].finish_load() {
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
                        let store = &self.tables[table.0].store;
                        // While it waits for the lock of the cache nobody knows.
                        let has_changed = store.is_waiting() || store.has_changed();
                        Input::SnapshotLoaded {
                            table,
                            generation: work,
                            has_changed,
                        }
                    }
                };
                self.engine.handle(input, Instant::now());
            }
        }
    }

    /// Whether a table is still what was described, as far as the snapshot of a read sees; if not,
    /// says so to the engine.
    ///
    /// Each read looks, not only F now and then. Otherwise: 1. A column becomes another type of the
    /// same size. 2. The table is read. 3. The values of the new type are taken for those of the
    /// old, and live until the next look.
    fn is_as_described(&mut self, asked: ReadRequest, seen: &Fingerprint) -> bool {
        let ReadRequest { table, kind, .. } = asked;
        let DriverTable {
            fingerprint,
            follow,
            ..
        } = &self.tables[table.0];
        if let Some(column) = follow.changed_column(seen) {
            let what = format!("the column {column} is gone, or of another type");
            if self.options.holds_altered || kind == ReadKind::Cut {
                self.altered(table, &what);
            } else {
                self.emit(DriverEvent::Altered { table });
                self.unreadable(asked, ReadError::Altered(what));
            }
            return false;
        }
        let difference = fingerprint.as_ref().and_then(|before| {
            compare(
                before,
                std::slice::from_ref(seen),
                &follow.announced_by,
                None,
            )
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
            // What is read now is what the table has become.
            self.emit(DriverEvent::Altered { table });
        }
        true
    }

    /// A read of all rows sees the leaves and the files that the table has.
    fn see(&mut self, table: TableId, now: Fingerprint) {
        let leaves = now.leaves.clone();
        let detaching = now.detaching.clone();
        self.engine.handle(
            Input::LeavesSeen {
                table,
                leaves,
                detaching,
            },
            Instant::now(),
        );
        self.tables[table.0].fingerprint = Some(now);
    }

    /// The snapshot of a comparison is taken. It can be compared with what was read under the same
    /// definition alone; and where the definitions are looked at, not with rows that were rewritten
    /// in silence: the next look will find that.
    fn cut_taken(
        &mut self,
        table: TableId,
        comparison: u64,
        snapshot: Snapshot,
        fingerprint: &Fingerprint,
    ) {
        let before = self.tables[table.0].fingerprint.as_ref();
        let truncated_by = self.engine.truncated_by(table);
        let is_rewritten = before.is_some_and(|before| {
            let difference = compare(before, std::slice::from_ref(fingerprint), &[], truncated_by);
            self.options.limits.watch_ddl && matches!(difference, Some(Difference::Rewritten(_)))
        });
        let input = if is_rewritten {
            Input::TableAltered {
                table,
                why: "it was rewritten or truncated, and nothing announced it".to_string(),
            }
        } else if before.is_some_and(|before| before.is_same_definition(fingerprint)) {
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

    /// What Q reads of a table is not wanted any more.
    pub(super) fn give_up_read(&mut self, table: TableId) {
        if self.reads.asked.is_some_and(|asked| asked.table == table) {
            self.abandon_read();
        }
    }

    /// Gives up what Q does, and ends its transaction at once.
    ///
    /// To leave that to the next read is not enough: 1. A table is found altered while it is read,
    /// and held until somebody mends its triggers. 2. There is no next read. 3. The transaction
    /// goes on holding the table's lock, and the migration that would mend it waits for that.
    fn abandon_read(&mut self) {
        let is_underway = self.reads.asked.take().is_some();
        if !std::mem::take(&mut self.reads.is_cut_open) && !is_underway {
            // What is at work then ends its transaction itself.
            return;
        }
        let previous = self.reads.task.take();
        previous.iter().for_each(JoinHandle::abort);
        let Some((client, _)) = self.client(AuxConnection::Reads) else {
            return;
        };
        self.reads.task = Some(tokio::spawn(async move {
            if let Some(previous) = previous {
                // It was aborted.
                let _ = previous.await;
            }
            client.batch_execute("ROLLBACK").await.is_ok()
        }));
    }

    pub(super) fn comparison_ended(
        &mut self,
        table: TableId,
        question: QuestionId,
        inconclusive: Option<String>,
        doubt: Option<String>,
    ) {
        self.reads.cut = None;
        let compared = self.tables[table.0].take_comparison();
        // What is to be read again may differ: that is why it is.
        let doubt = doubt.filter(|_| {
            compared
                .as_ref()
                .is_some_and(|compared| compared.differing() > 0)
        });
        let doubt = doubt.map(|why| format!("the table is to be read again: {why}"));
        let verified = match (inconclusive.or(doubt), compared) {
            (None, Some(comparison)) => Verification::Compared(comparison),
            (Some(why), _) => Verification::Inconclusive(why),
            (None, None) => Verification::Inconclusive("nothing was compared".to_string()),
        };
        if matches!(verified, Verification::Inconclusive(_)) {
            // What is left of it is not wanted.
            self.abandon_read();
        }
        if self.reads.verified.len() >= ANSWERS_KEPT {
            self.reads.verified.pop_front();
        }
        self.reads.verified.push_back((question, verified));
    }

    /// Asks for the cache of a table to be compared with the table;
    /// [`take_verifications`](Self::take_verifications) has the answer.
    ///
    /// # Errors
    /// When the driver has ended.
    pub fn ask_to_verify(&mut self, table: TableId) -> Result<QuestionId, DriverError> {
        self.begin()?;
        self.question_count += 1;
        let question = self.question_count;
        self.engine
            .handle(Input::VerifyWanted { table, question }, Instant::now());
        self.perform_outputs()?;
        Ok(QuestionId(question))
    }

    /// The answer to a question, once it is there.
    pub fn take_verifications(&mut self, question: QuestionId) -> Option<Verification> {
        let at = self
            .reads
            .verified
            .iter()
            .position(|(of, _)| *of == question)?;
        self.reads.verified.remove(at).map(|(_, verified)| verified)
    }

    /// Compares the cache of a table with the table, row by row, at one exact cut, while writers go
    /// on. Takes a snapshot and a COPY of the table, whose lock (ACCESS SHARE) is held meanwhile;
    /// the cache is not changed until it is done.
    ///
    /// # Errors
    /// Whatever ends this driver for good.
    pub async fn verify(&mut self, table: TableId) -> Result<Verification, DriverError> {
        let question = self.ask_to_verify(table)?;
        loop {
            if let Some(verified) = self.take_verifications(question) {
                return Ok(verified);
            }
            self.turn(&mut |_| {}).await?;
        }
    }

    pub(super) fn unreadable(&mut self, asked: ReadRequest, source: ReadError) {
        let table = self.tables[asked.table.0].follow.name();
        self.read_failed(asked, DriverError::Snapshot { table, source });
    }

    pub(super) fn read_failed(&mut self, asked: ReadRequest, error: DriverError) {
        let ReadRequest {
            table, work, kind, ..
        } = asked;
        let is_refetch = kind.is_refetch();
        // What still comes of it is not wanted.
        self.reads.asked = None;
        if matches!(error.policy(), Policy::Lost | Policy::Starting) {
            return self.aux_connection_lost(AuxConnection::Reads, error);
        }
        if self.options.holds_altered && error.is_of_another_table() {
            return self.altered(table, &chain(&error));
        }
        if matches!(kind, ReadKind::Cut | ReadKind::Compare) {
            let why = chain(&error);
            self.engine.handle(
                Input::ComparisonFailed {
                    table,
                    comparison: work,
                    why,
                },
                Instant::now(),
            );
            return;
        }
        // Keys that the server does not take are no failure: the table is read instead.
        let (code, is_refused) = error.verdict();
        let is_permanent = is_refused && !is_refetch;
        let why = chain(&error);
        if !self.options.limits.reconnect && !is_refetch {
            // Whoever asks once wants to know now.
            let failure = self.failure.insert(error).to_string();
            self.engine.handle(Input::Lost(failure), Instant::now());
            return;
        }
        self.failure = Some(error);
        self.engine.handle(
            Input::ReadFailed {
                table,
                work,
                code,
                why,
                is_permanent,
            },
            Instant::now(),
        );
    }

    fn check_loading(&mut self, table: TableId) {
        let rows = self.tables[table.0].store.rows();
        let bytes = self.tables[table.0].copied;
        if rows < self.reads.next_check.0 && bytes < self.reads.next_check.1 {
            return;
        }
        // To add it up takes time in proportion to the cache: the larger it is, the rarer that is
        // done.
        self.reads.next_check = (
            rows + ROWS_BETWEEN_CHECKS.max(rows / 16),
            bytes + self.bytes_between_checks().max(bytes / 16),
        );
        self.check_memory(table);
    }
}
