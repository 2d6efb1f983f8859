//! [`Task`]: what keeps a replica's caches in step, and says how they stand.

use crate::model::panic_text;
use crate::postgres::driver::{DriverEvent, QuestionId, Verification};
use crate::postgres::replica::describe::ReplicaTableSource;
use crate::postgres::replica::supervisor::{Supervisor, SupervisorEvent};
use crate::postgres::replica::{
    Command, ReplicaError, ReplicaEvent, ReplicaStatus, SharedStatus, Stats, TableStatus,
};
use crate::sync::{FenceId, State, TableId};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Whoever is asked for the state of a replica whose task is gone must not be told that it is live.
/// However the task ends, by a panic or with the runtime, this says so.
struct EndsWithTask {
    status: Arc<Mutex<SharedStatus>>,
    events: broadcast::Sender<ReplicaEvent>,
}

impl EndsWithTask {
    /// Says that it has ended, for the first time.
    fn end(&self, error: ReplicaError) {
        let mut status = self.status.lock();
        if status.ended.is_none() {
            let error = Arc::new(error);
            status.ended = Some(Arc::clone(&error));
            drop(status);
            // Nobody need listen.
            let _ = self.events.send(ReplicaEvent::Ended { error });
        }
    }
}

impl Drop for EndsWithTask {
    fn drop(&mut self) {
        self.end(ReplicaError::ShutDown);
    }
}

/// Keeps the caches in step, and answers commands.
pub(super) struct Task {
    names: Arc<[Arc<str>]>,
    /// Says that it has ended when the task does. It is dropped before those who wait for answers.
    end: EndsWithTask,
    asked: mpsc::Receiver<Command>,
    /// Who waits for a fence of the driver, for a table or for all of them.
    fences: Vec<(FenceId, Option<usize>, oneshot::Sender<()>)>,
    /// Who waits for the answer to a comparison.
    comparing: Vec<(QuestionId, oneshot::Sender<Verification>)>,
    /// Why all tables are stale, and since when changes may be missing; until a table is live
    /// again.
    lost: Option<(Arc<str>, SystemTime)>,
    /// The status that was told last of all tables together.
    told: ReplicaStatus,
}

impl Task {
    pub(super) fn new(
        names: Arc<[Arc<str>]>,
        status: Arc<Mutex<SharedStatus>>,
        events: broadcast::Sender<ReplicaEvent>,
        asked: mpsc::Receiver<Command>,
    ) -> Self {
        let end = EndsWithTask { status, events };
        Self {
            names,
            end,
            asked,
            fences: Vec::new(),
            comparing: Vec::new(),
            lost: None,
            told: ReplicaStatus::Live,
        }
    }

    pub(super) async fn run(mut self, mut supervisor: Supervisor<ReplicaTableSource>) {
        let ended = AssertUnwindSafe(self.keep_in_step(&mut supervisor))
            .catch_unwind()
            .await;
        self.end.end(match ended {
            Ok(error) => error,
            Err(panic) => ReplicaError::Panicked(panic_text(&*panic)),
        });
    }

    /// Goes on until it is shut down.
    async fn keep_in_step(
        &mut self,
        supervisor: &mut Supervisor<ReplicaTableSource>,
    ) -> ReplicaError {
        loop {
            tokio::select! {
                stepped = supervisor.step() => if let Err(error) = stepped {
                    return error.into();
                },
                command = self.asked.recv() => match command {
                    None | Some(Command::ShutDown) => return ReplicaError::ShutDown,
                    Some(Command::Fence(table, reached)) => {
                        if let Ok(fence) = supervisor.driver_mut().ask_for_fence() {
                            self.fences.push((fence, table, reached));
                        }
                    }
                    Some(Command::Verify(table, done)) => {
                        if let Ok(question) = supervisor.driver_mut().ask_to_verify(TableId(table)) {
                            self.comparing.push((question, done));
                        }
                    }
                },
            }
            self.take_events(supervisor);
        }
    }

    /// Says what the supervisor tells, and answers who waits.
    pub(super) fn take_events(&mut self, supervisor: &mut Supervisor<ReplicaTableSource>) {
        let told: Vec<SupervisorEvent> = supervisor.take_events().collect();
        for event in told {
            match event {
                SupervisorEvent::Driver(event) => self.take_driver_event(event, supervisor),
                SupervisorEvent::Unfollowed { table, why } => {
                    self.become_stale(table, why.into(), supervisor);
                }
                SupervisorEvent::Anew { .. } => {}
            }
        }
        // Rows that do not fit come and go while a table stays live.
        for at in 0..self.names.len() {
            if supervisor.driver().table_state(TableId(at)) == State::Live {
                self.become_live(TableId(at), supervisor);
            }
        }
        let driver = supervisor.driver_mut();
        self.comparing.retain(|(_, done)| !done.is_closed());
        let comparing = std::mem::take(&mut self.comparing);
        let still_comparing = &mut self.comparing;
        for (question, done) in comparing {
            match driver.take_verification(question) {
                // Who asked may have given up.
                Some(verified) => drop(done.send(verified)),
                None => still_comparing.push((question, done)),
            }
        }
        let engine = driver.engine();
        self.end.status.lock().stats = Stats {
            lag: engine.lag(),
            last_xid: engine.last_xid(),
            counters: engine.counters(),
        };
        self.fences.retain(|(_, _, reached)| !reached.is_closed());
        let is_reached = |(fence, table, _): &mut (FenceId, Option<usize>, _)| match *table {
            Some(table) => driver.has_reached_for(TableId(table), *fence),
            None => driver.has_reached(*fence),
        };
        for (_, _, reached) in self.fences.extract_if(.., is_reached) {
            // Who waited may have given up.
            let _ = reached.send(());
        }
    }

    /// Takes how the tables stand, also where that was told before anybody could hear it.
    pub(super) fn take_states(&mut self, supervisor: &Supervisor<ReplicaTableSource>) {
        for table in (0..self.names.len()).map(TableId) {
            let state = supervisor.driver().table_state(table);
            if state != State::Live {
                self.take_state(table, state, supervisor);
            }
        }
    }

    fn take_driver_event(
        &mut self,
        event: DriverEvent,
        supervisor: &Supervisor<ReplicaTableSource>,
    ) {
        let name = |table: TableId| Arc::clone(&self.names[table.0]);
        match event {
            DriverEvent::TableState { table, state } => self.take_state(table, state, supervisor),
            DriverEvent::Disconnected { why, since, .. } => {
                let why: Arc<str> = why.into();
                let since = moment(since);
                self.lost = Some((Arc::clone(&why), since));
                for at in 0..self.names.len() {
                    // What could not be followed before is so for its own reason.
                    if !supervisor.driver().is_held(TableId(at)) {
                        let why = Arc::clone(&why);
                        self.set(
                            TableId(at),
                            ReplicaStatus::Stale {
                                table: None,
                                why,
                                since,
                            },
                            false,
                        );
                    }
                }
                self.say(ReplicaEvent::Stale {
                    table: None,
                    why,
                    since,
                });
                self.told = self.end.status.lock().status();
            }
            DriverEvent::AuxConnectionLost { via, why, .. } => {
                self.say(ReplicaEvent::AuxConnectionLost {
                    via,
                    why: why.into(),
                });
            }
            DriverEvent::ReadScheduled { table, why } => {
                self.say(ReplicaEvent::ReadAgain {
                    table: name(table),
                    why: why.into(),
                });
            }
            DriverEvent::Model { table, key, change } => {
                self.say(ReplicaEvent::Row {
                    table: name(table),
                    key,
                    change,
                });
            }
            DriverEvent::Misfit {
                table,
                key,
                why,
                sender,
            } => {
                self.say(ReplicaEvent::Misfit {
                    table: name(table),
                    key,
                    why,
                    sender,
                });
            }
            DriverEvent::CommitsBlocked => self.say(ReplicaEvent::CommitsBlocked),
            DriverEvent::State(_) | DriverEvent::Row { .. } | DriverEvent::Altered { .. } => {}
        }
    }

    /// A table's state is another one.
    fn take_state(
        &mut self,
        table: TableId,
        state: State,
        supervisor: &Supervisor<ReplicaTableSource>,
    ) {
        let was_stale = matches!(
            self.end.status.lock().tables[table.0].status,
            ReplicaStatus::Stale { .. }
        );
        let cause = || {
            supervisor
                .driver()
                .engine()
                .cause(table)
                .unwrap_or("it is looked into")
                .into()
        };
        match state {
            State::Live => {
                self.lost = None;
                self.become_live(table, supervisor);
            }
            State::Stale => self.become_stale(table, cause(), supervisor),
            // What was lost is stale until it is live again.
            State::Degraded | State::Snapshotting | State::CatchingUp if was_stale => {}
            State::Degraded => {
                let degraded = ReplicaStatus::Degraded {
                    table: Arc::clone(&self.names[table.0]),
                    why: cause(),
                };
                self.stand(table, degraded, false);
            }
            State::Snapshotting | State::CatchingUp => {
                self.stand(table, ReplicaStatus::Loading, false);
            }
            // The event that a connection is lost says why.
            State::Disconnected | State::Subscribing | State::Probing => {}
        }
    }

    /// A table is live, but for rows that do not fit the model.
    fn become_live(&mut self, table: TableId, supervisor: &Supervisor<ReplicaTableSource>) {
        let status = match supervisor.driver().kept_out(table) {
            None => ReplicaStatus::Live,
            Some((count, first)) => {
                let rows = if *count == 1 {
                    "1 row does".to_string()
                } else {
                    format!("{count} rows do")
                };
                let why = format!(
                    "{rows} not fit the model and is kept out, the first with the key {first}"
                );
                ReplicaStatus::Degraded {
                    table: Arc::clone(&self.names[table.0]),
                    why: why.into(),
                }
            }
        };
        self.stand(table, status, true);
    }

    /// A table cannot be followed or read.
    fn become_stale(
        &mut self,
        table: TableId,
        why: Arc<str>,
        supervisor: &Supervisor<ReplicaTableSource>,
    ) {
        let before = self.end.status.lock().tables[table.0].status.clone();
        let since = match before {
            ReplicaStatus::Stale { since, .. } => since,
            _ => moment(supervisor.driver().engine().proven_at()),
        };
        let name = Some(Arc::clone(&self.names[table.0]));
        self.stand(
            table,
            ReplicaStatus::Stale {
                table: name,
                why,
                since,
            },
            false,
        );
    }

    fn set(&self, table: TableId, status: ReplicaStatus, is_current: bool) {
        self.end.status.lock().tables[table.0] = TableStatus { status, is_current };
    }

    /// A table stands otherwise. Says so when it is stale, or when all of them together stand
    /// otherwise.
    fn stand(&mut self, table: TableId, status: ReplicaStatus, is_current: bool) {
        let is_same = self.end.status.lock().tables[table.0]
            .status
            .is_same(&status);
        self.set(table, status.clone(), is_current);
        if is_same {
            return;
        }
        let all = self.end.status.lock().status();
        let is_news = !all.is_same(&self.told);
        self.told = all.clone();
        match (status, all) {
            (ReplicaStatus::Stale { table, why, since }, _) => {
                self.say(ReplicaEvent::Stale { table, why, since });
            }
            (_, ReplicaStatus::Live) if is_news => self.say(ReplicaEvent::Live),
            (_, ReplicaStatus::Loading) if is_news => self.say(ReplicaEvent::Loading),
            (_, ReplicaStatus::Degraded { table, why }) if is_news => {
                self.say(ReplicaEvent::Degraded { table, why });
            }
            _ => {}
        }
    }

    fn say(&self, event: ReplicaEvent) {
        // Nobody need listen.
        let _ = self.end.events.send(event);
    }
}

/// A moment on the clock of the machine; now, where nothing was ever proven.
fn moment(at: Option<Instant>) -> SystemTime {
    let now = SystemTime::now();
    at.and_then(|at| now.checked_sub(at.elapsed()))
        .unwrap_or(now)
}
