//! [`Task`]: keeps a replica's caches in step, publishes their status, and answers commands.

use crate::model::panic_text;
use crate::postgres::driver::{Driver, DriverEvent, QuestionId, Verification};
use crate::postgres::replica::describe::DescribedTable;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::events::ReplicaEvent;
#[cfg(feature = "metrics")]
use crate::postgres::replica::metrics::Metrics;
use crate::postgres::replica::status::{ReplicaStatus, SharedStatus, Stats, TableStatus};
use crate::postgres::replica::supervisor::{Supervisor, SupervisorEvent};
use crate::postgres::replica::waiters::{AwaitedFence, FenceWaiter, TransactionWaiters, Wait};
use crate::sync::{State, TableId};
use crate::transaction::TransactionToken;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{broadcast, mpsc, oneshot};

/// What an application asks of the task. The answer is the end of the command's channel: a sender
/// that is dropped says that the replica has ended.
pub(super) enum Command {
    /// Answer when everything that was committed before is in the cache of a table, or of all.
    Fence {
        table: Option<usize>,
        reached: oneshot::Sender<()>,
    },
    /// Answer whether everything that a transaction has committed is in the cache of a table, or of
    /// all.
    Transaction {
        transaction: TransactionToken,
        table: Option<usize>,
        /// Answer only once that is so; `None` to answer at once.
        waits: Option<Wait>,
        answer: oneshot::Sender<bool>,
    },
    /// Compare the cache of a table with the table.
    Verify {
        table: usize,
        done: oneshot::Sender<Verification>,
    },
    /// End.
    ShutDown,
}

/// Publishes the end of the task, however it comes: by a panic, or with the runtime. Whoever asks
/// for the status of a replica whose task is gone must not be told that it is live.
struct PublishesEnd {
    status: Arc<Mutex<SharedStatus>>,
    events: broadcast::Sender<ReplicaEvent>,
    #[cfg(feature = "metrics")]
    metrics: Option<Metrics>,
}

impl PublishesEnd {
    /// Publishes the end, unless that was done.
    fn publish(&self, error: ReplicaError) {
        let mut status = self.status.lock();
        if status.ended.is_some() {
            return;
        }
        let error = Arc::new(error);
        status.ended = Some(Arc::clone(&error));
        self.publish_metrics(&status);
        drop(status);
        // Nobody need listen.
        let _ = self.events.send(ReplicaEvent::Ended { error });
    }
}

impl PublishesEnd {
    /// Tells the service's metrics what the status tells.
    #[cfg(feature = "metrics")]
    fn publish_metrics(&self, status: &SharedStatus) {
        if let Some(metrics) = &self.metrics {
            metrics.publish(status);
        }
    }

    #[cfg(not(feature = "metrics"))]
    #[expect(clippy::unused_self, reason = "with the feature `metrics` it is used")]
    fn publish_metrics(&self, _status: &SharedStatus) {}
}

impl Drop for PublishesEnd {
    fn drop(&mut self) {
        self.publish(ReplicaError::ShutDown);
    }
}

/// A caller who waits for the answer to a comparison.
struct VerifyWaiter {
    question: QuestionId,
    done: oneshot::Sender<Verification>,
}

/// Keeps the caches in step, and answers commands.
pub(super) struct Task {
    /// The tables' names, as the builder was given them.
    names: Vec<Arc<str>>,
    // Fields are dropped in their order. The end is published before the waiters are dropped, who
    // then look for its reason.
    end: PublishesEnd,
    commands: mpsc::Receiver<Command>,
    fences: Vec<FenceWaiter>,
    transactions: TransactionWaiters,
    comparisons: Vec<VerifyWaiter>,
    /// The status of all tables together that was told last.
    told: ReplicaStatus,
    /// When the sizes of the caches were last asked for.
    measured_at: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        names: Vec<Arc<str>>,
        status: Arc<Mutex<SharedStatus>>,
        events: broadcast::Sender<ReplicaEvent>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            names,
            end: PublishesEnd {
                status,
                events,
                #[cfg(feature = "metrics")]
                metrics: None,
            },
            measured_at: None,
            commands,
            fences: Vec::new(),
            transactions: TransactionWaiters::new(),
            comparisons: Vec::new(),
            told: ReplicaStatus::Live,
        }
    }

    /// Publishes the figures in the service's metrics as well from now on, as those of `node`.
    #[cfg(feature = "metrics")]
    pub(super) fn publish_metrics_as(&mut self, node: &str) {
        self.end.metrics = Some(Metrics::new(node, &self.names));
    }

    /// Runs until the replica is shut down, or something panics.
    pub(super) async fn run(mut self, mut supervisor: Supervisor<DescribedTable>) {
        let ended = AssertUnwindSafe(self.keep_in_step(&mut supervisor))
            .catch_unwind()
            .await;
        self.end.publish(match ended {
            Ok(error) => error,
            Err(panic) => ReplicaError::Panicked(panic_text(&*panic)),
        });
    }

    async fn keep_in_step(&mut self, supervisor: &mut Supervisor<DescribedTable>) -> ReplicaError {
        loop {
            tokio::select! {
                stepped = supervisor.step() => {
                    if let Err(error) = stepped {
                        return error.into();
                    }
                }
                () = self.transactions.retry() => {
                    self.transactions.ask_again(supervisor.driver_mut());
                }
                command = self.commands.recv() => match command {
                    None | Some(Command::ShutDown) => return ReplicaError::ShutDown,
                    Some(command) => self.take_command(command, supervisor.driver_mut()),
                },
            }
            self.take_events(supervisor);
        }
    }

    /// Asks the driver. If it has ended, the waiter is dropped, and the next step says why.
    fn take_command(&mut self, command: Command, driver: &mut Driver) {
        match command {
            Command::Fence { table, reached } => {
                if let Ok(fence) = driver.ask_for_fence() {
                    let fence = AwaitedFence { fence, table };
                    self.fences.push(FenceWaiter { fence, reached });
                }
            }
            Command::Transaction {
                transaction,
                table,
                waits,
                answer,
            } => self
                .transactions
                .ask(transaction, table, waits, answer, driver),
            Command::Verify { table, done } => {
                if let Ok(question) = driver.ask_to_verify(TableId(table)) {
                    self.comparisons.push(VerifyWaiter { question, done });
                }
            }
            Command::ShutDown => {}
        }
    }

    /// Publishes the supervisor's events and the status, then answers the waiters.
    pub(super) fn take_events(&mut self, supervisor: &mut Supervisor<DescribedTable>) {
        let events: Vec<SupervisorEvent> = supervisor.take_events().collect();
        for event in events {
            match event {
                SupervisorEvent::Driver(event) => self.take_driver_event(event, supervisor),
                SupervisorEvent::Unfollowed { table, why } => {
                    self.become_stale(table, why.into(), supervisor);
                }
                SupervisorEvent::Replaced { .. } => {}
            }
        }
        // Rows that do not fit come and go while a table stays live, which no state tells.
        for table in (0..self.names.len()).map(TableId) {
            if supervisor.driver().table_state(table) == State::Live {
                self.become_live(table, supervisor);
            }
        }
        self.publish_figures(supervisor.driver_mut());
        self.answer(supervisor.driver_mut());
    }

    /// Publishes the figures, and all that the metrics have.
    fn publish_figures(&mut self, driver: &mut Driver) {
        /// The time for which sizes are good. Each takes a lock, and there may be many tables.
        const MEASURED_FOR: Duration = Duration::from_secs(1);
        let engine = driver.engine();
        let stats = Stats {
            lag: engine.lag(),
            last_xid: engine.last_xid(),
            counters: engine.counters(),
        };
        let is_due = self
            .measured_at
            .is_none_or(|measured| measured.elapsed() >= MEASURED_FOR);
        let mut status = self.end.status.lock();
        status.stats = stats;
        if is_due {
            self.measured_at = Some(Instant::now());
            for (at, size) in status.sizes.iter_mut().enumerate() {
                *size = driver.cache_size(TableId(at));
            }
        }
        self.end.publish_metrics(&status);
    }

    /// Answers the waiters whose answers are there. A waiter may have given up: then nobody hears.
    fn answer(&mut self, driver: &mut Driver) {
        for waiter in std::mem::take(&mut self.comparisons) {
            match driver.take_verification(waiter.question) {
                Some(verification) => drop(waiter.done.send(verification)),
                None if waiter.done.is_closed() => {}
                None => self.comparisons.push(waiter),
            }
        }
        self.transactions.answer(driver);
        for waiter in std::mem::take(&mut self.fences) {
            if waiter.is_reached(driver) {
                let _ = waiter.reached.send(());
            } else if !waiter.reached.is_closed() {
                self.fences.push(waiter);
            }
        }
    }

    /// Publishes states that the driver told before anybody could hear.
    pub(super) fn take_states(&mut self, supervisor: &Supervisor<DescribedTable>) {
        for table in (0..self.names.len()).map(TableId) {
            let state = supervisor.driver().table_state(table);
            if state != State::Live {
                self.take_state(table, state, supervisor);
            }
        }
        self.end.publish_metrics(&self.end.status.lock());
    }

    fn take_driver_event(&mut self, event: DriverEvent, supervisor: &Supervisor<DescribedTable>) {
        let name = |table: TableId| Arc::clone(&self.names[table.0]);
        match event {
            DriverEvent::TableState { table, state } => self.take_state(table, state, supervisor),
            DriverEvent::Disconnected { why, since, .. } => {
                self.disconnected(why.into(), moment(since), supervisor);
            }
            DriverEvent::AuxConnectionLost { via, why, .. } => {
                self.send(ReplicaEvent::AuxConnectionLost {
                    via,
                    why: why.into(),
                });
            }
            DriverEvent::ReloadScheduled { table, why } => {
                self.send(ReplicaEvent::ReloadScheduled {
                    table: name(table),
                    why: why.into(),
                });
            }
            DriverEvent::Model { table, key, change } => {
                self.send(ReplicaEvent::Row {
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
                self.send(ReplicaEvent::Misfit {
                    table: name(table),
                    key,
                    why,
                    sender,
                });
            }
            DriverEvent::CommitsBlocked => self.send(ReplicaEvent::CommitsBlocked),
            // The states of the tables say more than that of all together. Rows of cells are not an
            // application's, and the supervisor follows an altered table on.
            DriverEvent::State(_) | DriverEvent::Row { .. } | DriverEvent::Altered { .. } => {}
        }
    }

    /// Every table is stale. One that is held was so before, for a reason of its own, which stays.
    fn disconnected(
        &mut self,
        why: Arc<str>,
        since: SystemTime,
        supervisor: &Supervisor<DescribedTable>,
    ) {
        for table in (0..self.names.len()).map(TableId) {
            if !supervisor.driver().is_held(table) {
                let stale = ReplicaStatus::Stale {
                    table: None,
                    why: Arc::clone(&why),
                    since,
                };
                self.set(table, stale, false);
                self.miss(table);
            }
        }
        self.send(ReplicaEvent::Stale {
            table: None,
            why,
            since,
        });
        self.told = self.end.status.lock().status();
    }

    /// Takes the state of a table.
    fn take_state(
        &mut self,
        table: TableId,
        state: State,
        supervisor: &Supervisor<DescribedTable>,
    ) {
        let was_stale = matches!(
            self.end.status.lock().tables[table.0].status,
            ReplicaStatus::Stale { .. }
        );
        let cause = supervisor.driver().engine().cause(table);
        let cause: Arc<str> = cause.unwrap_or("the cause is being looked into").into();
        match state {
            State::Live => self.become_live(table, supervisor),
            State::Stale => self.become_stale(table, cause, supervisor),
            // Rows that were stale stay so until the table is live again: while it is read they are
            // neither the old ones nor the new ones.
            State::Degraded | State::Snapshotting | State::CatchingUp if was_stale => {}
            State::Degraded => {
                let degraded = ReplicaStatus::Degraded {
                    table: Arc::clone(&self.names[table.0]),
                    why: cause,
                };
                self.publish(table, degraded, false);
            }
            State::Snapshotting | State::CatchingUp => {
                self.publish(table, ReplicaStatus::Loading, false);
            }
            // The event that the connections are lost has the cause.
            State::Disconnected | State::Subscribing | State::Probing => {}
        }
        // In all other states writes are told, if late. A snapshot brings rows of which no write
        // was told, also where the table was stale before.
        if !matches!(state, State::Live | State::CatchingUp) {
            self.miss(table);
        }
    }

    /// A table is live, perhaps without rows that do not fit the model.
    fn become_live(&mut self, table: TableId, supervisor: &Supervisor<DescribedTable>) {
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
        // Before the status: a write that nobody tells must not find the table current.
        self.end.status.lock().telling[table.0].leaves_out_updates =
            supervisor.target(table).leaves_out_updates();
        self.publish(table, status, true);
    }

    /// A table cannot be followed or read.
    fn become_stale(
        &mut self,
        table: TableId,
        why: Arc<str>,
        supervisor: &Supervisor<DescribedTable>,
    ) {
        let before = self.end.status.lock().tables[table.0].status.clone();
        let since = match before {
            // For another cause, but since the first one no change is sure to be there.
            ReplicaStatus::Stale { since, .. } => since,
            _ => moment(supervisor.driver().engine().proven_at()),
        };
        let stale = ReplicaStatus::Stale {
            table: Some(Arc::clone(&self.names[table.0])),
            why,
            since,
        };
        self.publish(table, stale, false);
        self.miss(table);
    }

    /// Notes that writes of a table may not have been told. Call this after the table is published
    /// as not current: an object that is loaded in between would count as loaded after the loss.
    fn miss(&self, table: TableId) {
        self.end.status.lock().telling[table.0].losses += 1;
    }

    fn set(&self, table: TableId, status: ReplicaStatus, is_current: bool) {
        self.end.status.lock().tables[table.0] = TableStatus { status, is_current };
    }

    /// Sets the status of a table. Sends an event if the table is stale, or if the status of all
    /// tables together has changed.
    fn publish(&mut self, table: TableId, status: ReplicaStatus, is_current: bool) {
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
                self.send(ReplicaEvent::Stale { table, why, since });
            }
            (_, ReplicaStatus::Live) if is_news => self.send(ReplicaEvent::Live),
            (_, ReplicaStatus::Loading) if is_news => self.send(ReplicaEvent::Loading),
            (_, ReplicaStatus::Degraded { table, why }) if is_news => {
                self.send(ReplicaEvent::Degraded { table, why });
            }
            _ => {}
        }
    }

    fn send(&self, event: ReplicaEvent) {
        // Nobody need listen.
        let _ = self.end.events.send(event);
    }
}

/// Returns a moment on the clock of the machine; now, if nothing was ever proven.
fn moment(at: Option<Instant>) -> SystemTime {
    let now = SystemTime::now();
    at.and_then(|at| now.checked_sub(at.elapsed()))
        .unwrap_or(now)
}
