//! What the engine asks for, and what waits for the locks of the caches.

use super::{Driver, DriverEvent, QuestionId};
use crate::postgres::apply::sink::RowEvent;
use crate::postgres::apply::writer::{ApplyError, FlushError, Flushed};
use crate::postgres::error::DriverError;
use crate::postgres::read::request::ReadKind;
use crate::sync::{AuxConnection, Change, Input, Output, State, TableId};
use std::time::{Duration, Instant};

/// How long the lock of a cache is waited for. Long enough for readers that look something up; for
/// others the server's queue must not wait.
const LOCK_PATIENCE: Duration = Duration::from_millis(1);
/// How long until a lock that was not had is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(5);

impl Driver {
    /// Does what the engine asks for, and what waits for the locks of the caches.
    pub(super) fn perform_outputs(&mut self) -> Result<(), DriverError> {
        loop {
            self.do_outputs()?;
            if !self.flush() {
                break;
            }
        }
        for at in 0..self.tables.len() {
            // A table is live, and a fence reached, when the changes before them are in the cache.
            if !self.tables[at].writer.is_waiting() {
                let progress = &mut self.progress[at];
                progress.reached = progress.arrived;
                if std::mem::take(&mut progress.is_live_next) {
                    self.become_state(TableId(at), State::Live);
                }
            }
        }
        Ok(())
    }

    /// Tells the state of a table, if it is another one, and with it perhaps that of all.
    fn become_state(&mut self, table: TableId, state: State) {
        if self.progress[table.0].state == state {
            return;
        }
        self.progress[table.0].state = state;
        self.emit(DriverEvent::TableState { table, state });
        let states = self.progress.iter().map(|progress| progress.state);
        let all = states.min().unwrap_or(state);
        if all != self.state {
            if all == State::Live {
                self.memory.is_live();
            }
            self.state = all;
            self.emit(DriverEvent::State(all));
        }
    }

    /// Applies what waits for the locks of the caches. Returns whether the engine was told something,
    /// which it may answer.
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

    fn flush_table(&mut self, table: TableId) -> bool {
        let own = &mut self.tables[table.0];
        let flushed = own.writer.flush(LOCK_PATIENCE);
        let is_locked = matches!(flushed, Ok(Flushed::Locked));
        let was_locked = own.busy_until.is_some();
        own.busy_until = is_locked.then(|| Instant::now() + LOCK_RETRY);
        let mut is_news = false;
        if !is_locked {
            self.emit_row_events(table);
        }
        if let Err(error) = flushed {
            is_news = true;
            self.not_stored(table, error);
        }
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

    /// A row could not be stored: there is no room, or a snapshot brings a key twice.
    fn not_stored(&mut self, table: TableId, error: FlushError) {
        let FlushError {
            is_of_snapshot,
            error,
        } = error;
        let read = self.reads.asked.filter(|asked| asked.table == table);
        match read.filter(|_| is_of_snapshot) {
            Some(asked) => self.unreadable(asked, error.into()),
            None => self.unfit(table, error.to_string(), None),
        }
    }

    /// Tells the engine that a change could not be applied.
    fn unfit(&mut self, table: TableId, why: String, sender: Option<i32>) {
        let input = Input::ChangeUnfit { table, why, sender };
        self.engine.handle(input, Instant::now());
    }

    /// Does what the engine asks for. Changes of caches are prepared, and wait for the locks.
    pub(super) fn do_outputs(&mut self) -> Result<(), DriverError> {
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
            Output::ReadTable { table, generation } => {
                self.read(table, generation, None, ReadKind::All);
            }
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
            // The state of all follows from the tables'.
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

    /// Reads the rows of `keys` on Q.
    fn refetch(&mut self, table: TableId, batch: u64, keys: Vec<String>, within_comparison: bool) {
        let kind = if within_comparison {
            ReadKind::RowsOfCut
        } else {
            ReadKind::Rows
        };
        let keys = self.tables[table.0].possible(keys);
        self.read(table, batch, Some(keys), kind);
    }

    fn store_refetched(&mut self, table: TableId) {
        let writer = &mut self.tables[table.0].writer;
        let bytes = writer.copied();
        let stored = writer.store_refetched();
        self.prepared(table, stored, None, bytes);
    }

    fn apply_change(&mut self, table: TableId, change: &Change) {
        let applied = self.tables[table.0].writer.change(change);
        let bytes = change.data().map_or(0, str::len);
        self.prepared(table, applied, Some(change.sender), bytes);
    }

    /// Takes a state that the engine says.
    ///
    /// *Live* waits until the changes before it are in the cache. Any other state is told before the
    /// cache is changed: a reader must not see changed rows under an old *live*.
    fn engine_state_changed(&mut self, table: TableId, state: State) {
        self.progress[table.0].is_live_next = state == State::Live;
        if state != State::Live {
            self.become_state(table, state);
        }
    }

    /// Drops the session of F or Q, which is lost.
    fn lose_aux(&mut self, via: AuxConnection, why: String, retry_in: Duration) {
        if let Some(sessions) = &mut self.sessions {
            sessions.lose(via);
        }
        if via == AuxConnection::Reads {
            self.reads.end();
        }
        self.failure = None;
        self.emit(DriverEvent::AuxConnectionLost { via, why, retry_in });
    }

    /// Starts to open F or Q again.
    fn reopen_aux(&mut self, via: AuxConnection) {
        let opener = self.opener();
        if let Some(sessions) = &mut self.sessions {
            sessions.reopen(via, opener);
        }
    }

    /// A change of `bytes` bytes was prepared, or could not be: looks at the memory now and then.
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

    fn emit_row_events(&mut self, table: TableId) {
        for event in self.tables[table.0].writer.take_row_events() {
            self.events.push_back(match event {
                RowEvent::Row { change, sender } => DriverEvent::Row {
                    table,
                    change,
                    sender,
                },
                RowEvent::Model { key, change } => DriverEvent::Model { table, key, change },
                RowEvent::Misfit { key, why, sender } => DriverEvent::Misfit {
                    table,
                    key,
                    why,
                    sender,
                },
            });
        }
    }
}
