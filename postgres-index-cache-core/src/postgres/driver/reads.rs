//! The reads of a [`Driver`]: of whole tables, of rows by key, and for comparisons of caches with
//! their tables. Each session, a [`Lane`](super::lanes::Lane), does one thing at a time.
//!
//! ```text
//! read ─→ task of a lane ─ ReadMessage ─→ snapshot_taken · store · all_read ─→ Engine
//!                        └ ReadFailed ──→ read_failed ──────────────────────→ Engine
//! ```

use super::lanes::{LaneId, NextCheck, Q};
use super::memory::{ROWS_BETWEEN_CHECKS, bytes_between_checks};
use super::{Driver, DriverEvent};
use crate::postgres::apply::writer::Incoming;
use crate::postgres::connection::sessions::AuxClient;
use crate::postgres::error::{DriverError, ReadError, Verdict};
use crate::postgres::error_chain::chain;
use crate::postgres::read::parts::Parts;
use crate::postgres::read::request::{ReadKind, ReadRequest};
use crate::postgres::read::statement::CopyStatement;
use crate::postgres::read::task::Read;
use crate::postgres::schema::eligibility::Distrust;
use crate::postgres::schema::fingerprint::{Difference, Fingerprint, compare};
use crate::postgres::sqlstate::Policy;
use crate::sync::{AuxConnection, Input, Snapshot, TableId};
use std::time::Instant;
use tracing::Instrument as _;

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
        self.read_on(Q, table, work, keys, kind);
    }

    /// Starts a task that reads on the session of a lane, as [`read`](Self::read) does on Q.
    pub(super) fn read_on(
        &mut self,
        lane: LaneId,
        table: TableId,
        work: u64,
        keys: Option<Vec<String>>,
        kind: ReadKind,
    ) {
        let Some(AuxClient { client, epoch }) = self.lane_client(lane) else {
            return;
        };
        let asked = ReadRequest {
            epoch,
            table,
            work,
            kind,
        };
        self.reads.lane(lane).asked = Some(asked);
        let longest = self.longest_row();
        let own = &self.tables[table.0];
        let distrust = own.config.distrust;
        let copy = match CopyStatement::new(&own.config, distrust, keys.as_deref(), longest) {
            Ok(copy) => copy,
            Err(error) => return self.read_failed(asked, error),
        };
        let is_within_cut = matches!(kind, ReadKind::RowsOfCut | ReadKind::Compare);
        let leaves_open = is_within_cut || kind == ReadKind::Cut;
        // A refetch inside a comparison is made under the comparison's snapshot. Every other read
        // takes a snapshot of its own and sends it.
        let snapshot = match kind {
            ReadKind::RowsOfCut => self.reads.comparisons.cut().cloned(),
            ReadKind::All | ReadKind::Rows | ReadKind::Cut | ReadKind::Compare => None,
        };
        let read_by = self.reads.lane(lane);
        read_by.snapshot = snapshot;
        let was_left_open = std::mem::replace(&mut read_by.is_cut_open, leaves_open);
        let rows_tx = read_by.rows_tx.clone();
        let previous = read_by.task.take();
        let incoming = match (kind, keys) {
            (ReadKind::Compare, _) => Incoming::Comparison,
            (_, Some(keys)) => Incoming::Refetch(keys),
            (_, None) => Incoming::Snapshot,
        };
        let own = &mut self.tables[table.0];
        own.writer.expect(incoming);
        // A thread for few rows would cost more time than it saves.
        let ahead = own
            .config
            .is_large()
            .then(|| own.writer.decode_ahead())
            .flatten();
        tracing::debug!(table = own.config.name(), ?kind, "read");
        let parts = self.parts_of(table, kind);
        let own = &self.tables[table.0];
        let read = Read {
            client,
            failures_tx: self.channels.failures_tx.clone(),
            rows_tx,
            asked,
            config: own.config.clone(),
            copy,
            previous,
            // A comparison that was given up has left its transaction open on Q.
            rolls_back: was_left_open && !is_within_cut,
            lock_timeout: self.options.lock_timeout,
            longest,
            parts,
            distrust,
        };
        let relation = own.config.relation();
        let span = tracing::debug_span!(
            "replica.read_table",
            table = relation.trim_start_matches("ONLY "),
            kind = ?kind
        );
        let task = tokio::spawn(read.run(ahead).instrument(span));
        self.reads.lane(lane).task = Some(task);
    }

    /// Returns the means to read parts of a table side by side; `None` if one session reads alone.
    fn parts_of(&mut self, table: TableId, kind: ReadKind) -> Option<Parts> {
        let is_whole = matches!(kind, ReadKind::All | ReadKind::Compare);
        let own = &self.tables[table.0];
        // Where the owner is distrusted, a read keeps a lock that no other session can have.
        let is_alone = own.is_read_alone || own.is_never_divided;
        let is_divided = is_whole && own.config.distrust == Distrust::None && !is_alone;
        // The large tables may be read at once, beside one that is not, and share the sessions.
        let large = self.tables.iter().filter(|own| own.config.is_large());
        let at_once = large.count() + usize::from(!own.config.is_large());
        let most = self.options.jobs / at_once;
        if !is_divided || most < 2 {
            return None;
        }
        let opener = self.opener();
        Some(Parts { opener, most })
    }

    /// Takes the snapshot of a read, and the table's fingerprint under that snapshot. Rows come
    /// next.
    pub(super) fn snapshot_taken(
        &mut self,
        lane: LaneId,
        asked: ReadRequest,
        snapshot: Snapshot,
        fingerprint: Fingerprint,
    ) {
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
        let read_by = self.reads.lane(lane);
        read_by.next_check = NextCheck::default();
        read_by.snapshot = Some(snapshot.clone());
        if kind == ReadKind::All {
            let input = Input::SnapshotTaken {
                table,
                generation: work,
                snapshot,
            };
            self.engine.handle(input, Instant::now());
        }
    }

    /// Takes the end of a read: all rows have come, by so many COPY streams.
    pub(super) fn all_read(&mut self, lane: LaneId, asked: ReadRequest, streams: usize) {
        let ReadRequest {
            table, work, kind, ..
        } = asked;
        if kind == ReadKind::Cut {
            return;
        }
        if let Err(source) = self.tables[table.0].writer.finish(streams) {
            return self.unreadable(asked, source);
        }
        // The cause of an end must be kept: another lane may have failed in this very turn.
        if !self.engine.has_ended() {
            self.failure = None;
        }
        self.flush();
        if self.reads.lane_of(asked).is_none() {
            // A row could not be stored, and the read has failed for that.
            return;
        }
        self.check_memory(table);
        let read_by = self.reads.lane(lane);
        // Rows may still wait for the cache's lock. If one of them cannot be stored, the table is
        // reloaded (`not_stored`): there is no read any more that could fail.
        read_by.asked = None;
        let input = match (kind, read_by.snapshot.take()) {
            (ReadKind::Compare, _) => {
                self.reads.lane(lane).is_cut_open = false;
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
                self.tables[table.0].is_read_alone = false;
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

    /// Gives up the read of a table, if the table is being read.
    pub(super) fn give_up_read(&mut self, table: TableId) {
        let asked = self.reads.of_table(table);
        if let Some(lane) = asked.and_then(|asked| self.reads.lane_of(asked)) {
            self.abandon_read(lane);
        }
    }

    /// Gives up the read that a session is asked for, and ends the session's transaction at once.
    ///
    /// It would not do to leave the transaction to the next read:
    /// 1. A table is found altered while it is read, and held until somebody mends its triggers.
    /// 2. There is no next read, so the transaction goes on holding the table's lock.
    /// 3. The migration that would mend the triggers waits for that lock.
    pub(super) fn abandon_read(&mut self, lane: LaneId) {
        let client = self.lane_client(lane);
        let read_by = self.reads.lane(lane);
        let is_underway = read_by.asked.take().is_some();
        let is_cut_open = std::mem::take(&mut read_by.is_cut_open);
        if !is_cut_open && !is_underway {
            // A task that is still at work ends its own transaction.
            return;
        }
        let previous = read_by.task.take();
        if let Some(previous) = &previous {
            previous.abort();
        }
        let Some(AuxClient { client, .. }) = client else {
            return;
        };
        read_by.task = Some(tokio::spawn(async move {
            if let Some(previous) = previous {
                // Wait until the task is gone, so that no statement of its follows the ROLLBACK.
                // The result of a task that was aborted says nothing.
                let _ = previous.await;
            }
            client.batch_execute("ROLLBACK").await.is_ok()
        }));
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
        let Some(lane) = self.reads.lane_of(asked) else {
            return;
        };
        // Messages of the read that are still on their way are ignored from now on.
        self.reads.lane(lane).asked = None;
        let own = &mut self.tables[table.0];
        own.writer.give_up_decoding();
        if let DriverError::Parts { is_lasting, .. } = error {
            own.is_read_alone = true;
            own.is_never_divided |= is_lasting;
        }
        let why = chain(&error);
        tracing::info!(
            table = self.tables[table.0].config.name(),
            why,
            "a read failed"
        );
        if matches!(error.policy(), Policy::Lost | Policy::Starting) {
            if lane != Q {
                return self.side_lost(lane, asked, &error);
            }
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
        let is_alone_next = matches!(error, DriverError::Parts { .. });
        if !self.options.limits.reconnect && !is_refetch && !is_alone_next {
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
    pub(super) fn check_loading(&mut self, asked: ReadRequest) {
        let Some(lane) = self.reads.lane_of(asked) else {
            return;
        };
        let writer = &self.tables[asked.table.0].writer;
        let rows = writer.rows();
        let bytes = writer.copied();
        let next_check = &mut self.reads.lane(lane).next_check;
        if rows < next_check.rows && bytes < next_check.bytes {
            return;
        }
        // Adding up the memory takes time in proportion to the cache, so a larger cache is checked
        // less often.
        let between = bytes_between_checks(self.options.max_memory);
        *next_check = NextCheck {
            rows: rows + ROWS_BETWEEN_CHECKS.max(rows / 16),
            bytes: bytes + between.max(bytes / 16),
        };
        self.check_memory(asked.table);
    }
}
