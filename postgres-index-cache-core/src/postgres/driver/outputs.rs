//! The outputs of the engine, carried out, and the changes that wait for the locks of the caches.
//!
//! ```text
//! Engine ─ poll ─→ do_output ─┬─→ a task on L, F or Q
//!                             ├─→ an event
//!                             └─→ CacheWriter: prepared, waits ─ flush: lock ─→ cache
//! ```

use super::{Driver, DriverEvent, QuestionId};
use crate::postgres::apply::sink::RowEvent;
use crate::postgres::apply::writer::{ApplyError, FlushError, Flushed};
use crate::postgres::error::DriverError;
use crate::postgres::read::request::ReadKind;
use crate::sync::{AuxConnection, Change, Input, Output, Reader, State, TableId};
use std::time::{Duration, Instant, SystemTime};

/// The time that the driver waits for the lock of a cache. A reader that looks something up is done
/// by then. A reader that holds the lock for longer must not keep the driver from polling L: the
/// server's queue would grow.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_millis(1);
/// The time after which the driver tries a lock again that a reader held.
const LOCK_RETRY: Duration = Duration::from_millis(5);

impl Driver {
    /// Carries out the engine's outputs, and applies the changes that wait for the locks of the
    /// caches. Then tells the states and fences that follow.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub(super) fn perform_outputs(&mut self) -> Result<(), DriverError> {
        // A flush may tell the engine something, for example that a row could not be stored. The
        // engine answers that with further outputs.
        loop {
            self.prepare_outputs()?;
            if !self.flush() && !self.relieve_openings() {
                break;
            }
        }
        for at in 0..self.tables.len() {
            // The engine calls a table live, or a fence reached, once it has handed out the changes
            // before that. For readers it is true once these changes are in the cache.
            if !self.tables[at].writer.is_waiting() {
                let progress = &mut self.progress[at];
                if progress.is_live_next {
                    progress.arrived = progress.arrived.max(progress.doubted.take());
                }
                progress.reached = progress.arrived;
                if std::mem::take(&mut progress.is_live_next) {
                    self.become_state(TableId(at), State::Live);
                }
            }
        }
        self.reads.close_idle();
        self.answer_what_is_ready();
        Ok(())
    }

    /// Tells the state of a table, unless it was told already. Tells the state of all tables
    /// together too, if that changes with it.
    fn become_state(&mut self, table: TableId, state: State) {
        if self.progress[table.0].state == state {
            return;
        }
        self.progress[table.0].state = state;
        self.progress[table.0].state_since = SystemTime::now();
        self.emit(DriverEvent::TableState { table, state });
        let states = self.progress.iter().map(|progress| progress.state);
        let all = states.min().unwrap_or(state);
        if all != self.state {
            if all == State::Live {
                self.memory.note_live();
            }
            self.state = all;
            self.emit(DriverEvent::State(all));
        }
    }

    /// Applies the changes that wait for the locks of the caches. Returns whether the engine was
    /// told something, to which it may react with outputs.
    pub(super) fn flush(&mut self) -> bool {
        let now = Instant::now();
        let mut is_news = false;
        for table in (0..self.tables.len()).map(TableId) {
            let own = &self.tables[table.0];
            let is_tried = own.busy_until.is_none_or(|until| until <= now);
            if own.writer.is_waiting() && is_tried {
                is_news |= self.flush_table(table);
            }
        }
        is_news
    }

    /// Applies the changes that wait for the lock of one cache. Returns whether the engine was told
    /// something.
    fn flush_table(&mut self, table: TableId) -> bool {
        let flushed = self.tables[table.0].writer.flush(LOCK_PATIENCE);
        self.flushed(table, flushed)
    }

    /// Takes the outcome of a flush of one cache. Returns whether the engine was told something.
    pub(super) fn flushed(&mut self, table: TableId, flushed: Result<Flushed, FlushError>) -> bool {
        let own = &mut self.tables[table.0];
        let is_locked = matches!(flushed, Ok(Flushed::Locked));
        let was_locked = own.busy_until.is_some();
        own.busy_until = is_locked.then(|| Instant::now() + LOCK_RETRY);
        let mut is_news = false;
        // The operations behind one that has failed were applied too, so events come in any case.
        if !is_locked {
            self.emit_row_events(table);
        }
        if let Err(error) = flushed {
            is_news = true;
            // A fence behind a change that could not be stored proves nothing of this cache. It is
            // reached once the table is live again, by the read that follows.
            let progress = &mut self.progress[table.0];
            progress.doubted = progress.doubted.max(progress.arrived);
            progress.arrived = progress.reached;
            self.not_stored(table, error);
        }
        // While the lock is busy the engine keeps later changes by key, which bounds their memory.
        if is_locked != was_locked {
            is_news = true;
            let input = if is_locked {
                Input::CacheBusy { table }
            } else {
                Input::CacheFree { table }
            };
            self.engine.handle(input, Instant::now());
        }
        is_news
    }

    /// Takes the error with which a row could not be stored: the cache is full, the row is too
    /// long, or a snapshot brings a key twice.
    fn not_stored(&mut self, table: TableId, error: FlushError) {
        let FlushError {
            is_of_snapshot,
            error,
        } = error;
        // A row of a snapshot makes its read fail, if that read is still wanted. Any other row
        // makes the engine reload the table.
        let read = self.reads.of_table(table);
        match read.filter(|_| is_of_snapshot) {
            Some(asked) => self.unreadable(asked, error.into()),
            None => self.unfit(table, error.to_string(), None),
        }
    }

    /// Tells the engine that a change could not be applied, so that the table is reloaded.
    fn unfit(&mut self, table: TableId, why: String, sender: Option<i32>) {
        let input = Input::ChangeUnfit { table, why, sender };
        self.engine.handle(input, Instant::now());
    }

    /// Carries out the engine's outputs, but for changes of caches: these are decoded, and wait for
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// If the driver ends for good.
    pub(super) fn prepare_outputs(&mut self) -> Result<(), DriverError> {
        while let Some(output) = self.engine.poll() {
            self.do_output(output)?;
        }
        Ok(())
    }

    fn do_output(&mut self, output: Output) -> Result<(), DriverError> {
        match output {
            Output::Connect { channels } => self.connect(channels),
            Output::ListenAlso { channels } => self.listen_also(&channels),
            Output::Notify {
                via,
                channel,
                token,
            } => self.notify(via, &channel, token),
            Output::ReadTable {
                table,
                generation,
                reader,
            } => match reader {
                Reader::Q => self.read(table, generation, None, ReadKind::All),
                Reader::Side => self.side_read(table, generation),
            },
            Output::Refetch {
                table,
                batch,
                keys,
                is_within_comparison,
            } => self.refetch(table, batch, keys, is_within_comparison),
            Output::TakeCut { table, comparison } => {
                self.read(table, comparison, None, ReadKind::Cut);
            }
            Output::Compare { table, comparison } => {
                self.read(table, comparison, None, ReadKind::Compare);
            }
            Output::ComparisonEnded {
                table,
                question,
                inconclusive,
                doubt,
            } => self.comparison_ended(table, QuestionId(question), inconclusive, doubt),
            Output::Frozen { freeze, open, .. } => self.frozen(freeze, open),
            Output::FreezeFailed { freeze, why, .. } => self.freeze_failed(freeze, &why),
            Output::Store { table, batch: _ } => self.store_refetched(table),
            Output::Apply { table, change } => self.apply_change(table, &change),
            Output::Clear { table, keep } => {
                let cleared = self.tables[table.0].writer.clear(&keep);
                self.prepared(table, cleared, None, 0);
            }
            Output::Look { look } => self.look(look),
            Output::GiveUpRead { table } => self.give_up_read(table),
            Output::FenceReached { table, fence } => {
                let arrived = &mut self.progress[table.0].arrived;
                *arrived = (*arrived).max(Some(fence));
            }
            Output::TableStateChanged { table, state } => self.engine_state_changed(table, state),
            // The state of all tables follows from those of the tables, which may be told later
            // than the engine says.
            Output::StateChanged(_) if !self.tables.is_empty() => {}
            Output::StateChanged(state) => {
                self.state = state;
                self.emit(DriverEvent::State(state));
            }
            Output::CommitsBlocked => self.emit(DriverEvent::CommitsBlocked),
            Output::AuxConnectionLost { via, why, retry_in } => self.lose_aux(via, why, retry_in),
            Output::Reopen { via } => self.reopen_aux(via),
            Output::ReadScheduled { table, why, sender } => {
                self.emit_read_scheduled(table, why, sender);
            }
            Output::Disconnected { failure, retry_in } => self.disconnected(failure, retry_in)?,
        }
        Ok(())
    }

    /// Reads the rows of `keys` on Q. Keys that no row can have are left out.
    fn refetch(&mut self, table: TableId, batch: u64, keys: Vec<String>, within_comparison: bool) {
        let kind = if within_comparison {
            ReadKind::RowsOfCut
        } else {
            ReadKind::Rows
        };
        let keys = self.tables[table.0].possible(keys);
        self.read(table, batch, Some(keys), kind);
    }

    /// Makes the rows of the last refetch wait for the cache's lock.
    fn store_refetched(&mut self, table: TableId) {
        let writer = &mut self.tables[table.0].writer;
        let bytes = writer.copied();
        let stored = writer.store_refetched();
        self.prepared(table, stored, None, bytes);
    }

    /// Makes a change wait for the cache's lock.
    fn apply_change(&mut self, table: TableId, change: &Change) {
        let applied = self.tables[table.0].writer.change(change);
        let bytes = change.data().map_or(0, str::len);
        self.prepared(table, applied, Some(change.sender), bytes);
    }

    /// Takes a table's state from the engine.
    ///
    /// *Live* is told once the changes before it are in the cache. Any other state is told at once,
    /// before the cache is changed: a reader must not see changed rows under an old *live*.
    fn engine_state_changed(&mut self, table: TableId, state: State) {
        self.progress[table.0].is_live_next = state == State::Live;
        if state != State::Live {
            self.become_state(table, state);
        }
    }

    /// Drops the session of F or Q, which is lost. The engine opens another one after `retry_in`.
    fn lose_aux(&mut self, via: AuxConnection, why: String, retry_in: Duration) {
        if let Some(sessions) = &mut self.sessions {
            sessions.lose(via);
        }
        if via == AuxConnection::Reads {
            self.reads.end_q();
        }
        self.failure = None;
        self.emit(DriverEvent::AuxConnectionLost { via, why, retry_in });
    }

    /// Starts a task that opens F or Q again.
    fn reopen_aux(&mut self, via: AuxConnection) {
        let opener = self.opener();
        if let Some(sessions) = &mut self.sessions {
            sessions.reopen(via, opener);
        }
    }

    /// Notes that a change of `bytes` bytes was prepared, or tells the engine why the change could
    /// not be. Checks the memory now and then.
    fn prepared(
        &mut self,
        table: TableId,
        prepared: Result<(), ApplyError>,
        sender: Option<i32>,
        bytes: usize,
    ) {
        if let Err(error) = prepared {
            self.unfit(table, error.to_string(), sender);
        }
        if self.memory.is_check_due(bytes, self.options.max_memory) {
            self.check_memory(table);
        }
    }

    /// Adds the events of the rows that the last flush has changed.
    fn emit_row_events(&mut self, table: TableId) {
        // Not through `emit`, which may drop old events: who follows rows must not miss one.
        for event in self.tables[table.0].writer.take_row_events() {
            self.events.push_back(match event {
                RowEvent::Row { change, by } => DriverEvent::Row { table, change, by },
                RowEvent::Model { key, change } => DriverEvent::Model { table, key, change },
                RowEvent::Misfit { key, why, by } => DriverEvent::Misfit {
                    table,
                    key,
                    why,
                    sender: by.map(|by| by.sender),
                },
            });
        }
    }
}
