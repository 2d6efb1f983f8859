//! [`Task`]: keeps a replica's caches in step, publishes their status, and answers commands.

use crate::model::panic_text;
use crate::postgres::driver::{Driver, DriverEvent, QuestionId, Verification};
use crate::postgres::replica::describe::DescribedTable;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::events::ReplicaEvent;
use crate::postgres::replica::publisher::{Publisher, moment};
use crate::postgres::replica::status::{ReplicaStatus, Stats};
use crate::postgres::replica::supervisor::{Supervisor, SupervisorEvent};
use crate::postgres::replica::waiters::{AwaitedFence, FenceWaiter, TransactionWaiters, Wait};
use crate::sync::{State, TableId};
use crate::transaction::TransactionToken;
use futures_util::FutureExt as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

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

/// A caller who waits for the answer to a comparison.
struct VerifyWaiter {
    question: QuestionId,
    done: oneshot::Sender<Verification>,
}

/// Keeps the caches in step, and answers commands.
pub(super) struct Task {
    // Fields are dropped in their order. The end is published before the waiters are dropped, who
    // then look for its reason.
    publisher: Publisher,
    commands: mpsc::Receiver<Command>,
    fences: Vec<FenceWaiter>,
    transactions: TransactionWaiters,
    comparisons: Vec<VerifyWaiter>,
    /// When the sizes of the caches were last asked for.
    measured_at: Option<Instant>,
}

impl Task {
    pub(super) fn new(publisher: Publisher, commands: mpsc::Receiver<Command>) -> Self {
        Self {
            publisher,
            measured_at: None,
            commands,
            fences: Vec::new(),
            transactions: TransactionWaiters::new(),
            comparisons: Vec::new(),
        }
    }

    /// Runs until the replica is shut down, or something panics.
    pub(super) async fn run(mut self, mut supervisor: Supervisor<DescribedTable>) {
        let ended = AssertUnwindSafe(self.keep_in_step(&mut supervisor))
            .catch_unwind()
            .await;
        self.publisher.end(match ended {
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
        for table in (0..self.publisher.tables()).map(TableId) {
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
        if is_due {
            self.measured_at = Some(Instant::now());
        }
        self.publisher.set_figures(|status| {
            status.stats = stats;
            if is_due {
                for (at, size) in status.sizes.iter_mut().enumerate() {
                    *size = driver.cache_size(TableId(at));
                }
            }
        });
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
        for table in (0..self.publisher.tables()).map(TableId) {
            let state = supervisor.driver().table_state(table);
            if state != State::Live {
                self.take_state(table, state, supervisor);
            }
        }
        self.publisher.set_figures(|_| {});
    }

    fn take_driver_event(&mut self, event: DriverEvent, supervisor: &Supervisor<DescribedTable>) {
        let name = |table: TableId| self.publisher.name(table.0);
        match event {
            DriverEvent::TableState { table, state } => self.take_state(table, state, supervisor),
            DriverEvent::Disconnected { why, since, .. } => {
                let is_held = |table| supervisor.driver().is_held(TableId(table));
                self.publisher.all_stale(why.into(), moment(since), is_held);
            }
            DriverEvent::AuxConnectionLost { via, why, .. } => {
                self.publisher.send(ReplicaEvent::AuxConnectionLost {
                    via,
                    why: why.into(),
                });
            }
            DriverEvent::ReloadScheduled { table, why } => {
                self.publisher.send(ReplicaEvent::ReloadScheduled {
                    table: name(table),
                    why: why.into(),
                });
            }
            DriverEvent::Model { table, key, change } => {
                self.publisher.send(ReplicaEvent::Row {
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
                self.publisher.send(ReplicaEvent::Misfit {
                    table: name(table),
                    key,
                    why,
                    sender,
                });
            }
            DriverEvent::CommitsBlocked => self.publisher.send(ReplicaEvent::CommitsBlocked),
            // The states of the tables say more than that of all together. Rows of cells are not an
            // application's, and the supervisor follows an altered table on.
            DriverEvent::State(_) | DriverEvent::Row { .. } | DriverEvent::Altered { .. } => {}
        }
    }

    /// Takes the state of a table.
    fn take_state(
        &mut self,
        table: TableId,
        state: State,
        supervisor: &Supervisor<DescribedTable>,
    ) {
        let was_stale = matches!(self.publisher.status(table.0), ReplicaStatus::Stale { .. });
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
                    table: self.publisher.name(table.0),
                    why: cause,
                };
                self.publisher.publish(table.0, degraded, false);
            }
            State::Snapshotting | State::CatchingUp => {
                self.publisher
                    .publish(table.0, ReplicaStatus::Loading, false);
            }
            // The event that the connections are lost has the cause.
            State::Disconnected | State::Subscribing | State::Probing => {}
        }
        // In all other states writes are told, if late. A snapshot brings rows of which no write
        // was told, also where the table was stale before.
        if !matches!(state, State::Live | State::CatchingUp) {
            self.publisher.miss(table.0);
        }
    }

    fn become_live(&mut self, table: TableId, supervisor: &Supervisor<DescribedTable>) {
        // Before the status: a write that nobody tells must not find the table current.
        let leaves_out_updates = supervisor.target(table).leaves_out_updates();
        self.publisher.set_telling(table.0, leaves_out_updates);
        let kept_out = supervisor.driver().kept_out(table);
        self.publisher.live(table.0, kept_out);
    }

    /// A table cannot be followed or read.
    fn become_stale(
        &mut self,
        table: TableId,
        why: Arc<str>,
        supervisor: &Supervisor<DescribedTable>,
    ) {
        let proven_at = supervisor.driver().engine().proven_at();
        self.publisher.stale(table.0, why, proven_at);
    }
}
