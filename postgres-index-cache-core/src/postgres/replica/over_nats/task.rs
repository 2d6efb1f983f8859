//! [`NodeTask`]: keeps the caches of a replica over a log in step, publishes their status, and
//! answers commands.

use super::caches::{Found, FoundTable};
use crate::log::{Epoch, TableName};
use crate::model::panic_text;
use crate::nats::{
    Follow, FollowEvent, LogError, LogNode, LogNodeTable, NatsLog, OTHER_TERM, RelayReport, random,
};
use crate::postgres::apply::models::OnMisfit;
use crate::postgres::apply::sink::RowEvent;
use crate::postgres::driver::{CacheSize, Verification};
use crate::postgres::replica::builder::host_name;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::events::ReplicaEvent;
use crate::postgres::replica::publisher::{Publisher, moment};
use crate::postgres::replica::status::{ReplicaStatus, Stats};
use crate::postgres::replica::task::Command;
use crate::sync::FenceId;
use crate::transaction::TransactionToken;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// The time between two looks whether a reader's lock holds changes up.
const LOOK: Duration = Duration::from_millis(100);

/// The time for which sizes are good. Each takes a lock, and there may be many tables.
const MEASURED_FOR: Duration = Duration::from_secs(1);

/// Whom a fence is answered to, once it is reached.
enum Answer {
    Fence(oneshot::Sender<()>),
    Transaction(oneshot::Sender<bool>),
    Verification(oneshot::Sender<Verification>, RelayReport),
}

impl Answer {
    fn is_closed(&self) -> bool {
        match self {
            Self::Fence(answer) => answer.is_closed(),
            Self::Transaction(answer) => answer.is_closed(),
            Self::Verification(answer, _) => answer.is_closed(),
        }
    }
}

/// A caller who waits for a fence.
struct Waiter {
    fence: FenceId,
    asked_at: Instant,
    /// The table whose cache is waited for; `None` for all.
    table: Option<usize>,
    answer: Answer,
}

/// A question that the relay has answered, so that a fence is to follow: for which table, and for
/// whom.
type Told = (Option<usize>, Answer);

/// A question that is on its way to the relay; `None` if nobody waits for the answer any more.
type Asking = Pin<Box<dyn Future<Output = Option<Told>> + Send>>;

/// The calls of the roll.
pub(super) struct Roll {
    calls: async_nats::Subscriber,
    /// The node's name.
    name: String,
    instance: String,
    is_called: bool,
    answered_at: Option<Instant>,
}

impl Roll {
    /// Listens for calls of the roll, as a node of this name.
    pub(super) async fn new(log: &NatsLog, name: String) -> Result<Self, LogError> {
        Ok(Self {
            calls: log.roll_calls().await?,
            name,
            instance: format!("{:016x}", random()),
            is_called: false,
            answered_at: None,
        })
    }
}

/// Keeps the caches in step, and answers commands.
pub(super) struct NodeTask {
    // Fields are dropped in their order. The end is published before the waiters are dropped, who
    // then look for its reason.
    publisher: Publisher,
    follow: Follow,
    found: Arc<Mutex<Found>>,
    commands: mpsc::Receiver<Command>,
    waiters: Vec<Waiter>,
    asking: FuturesUnordered<Asking>,
    roll: Roll,
    on_misfit: OnMisfit,
    /// The term of the relay, for those who wait for a comparison in it.
    term: watch::Sender<Option<Epoch>>,
    stats: Stats,
    /// Why the rows are not live, as it was told last; `None` while they are.
    told: Option<Arc<str>>,
    /// Since when changes wait for a reader, who holds the lock of a cache.
    waiting_since: Option<Instant>,
    /// When the sizes of the caches were last asked for.
    measured_at: Option<Instant>,
}

impl NodeTask {
    pub(super) fn new(
        follow: Follow,
        found: Arc<Mutex<Found>>,
        publisher: Publisher,
        commands: mpsc::Receiver<Command>,
        roll: Roll,
        on_misfit: OnMisfit,
    ) -> Self {
        Self {
            publisher,
            follow,
            found,
            commands,
            waiters: Vec::new(),
            asking: FuturesUnordered::new(),
            roll,
            on_misfit,
            term: watch::Sender::new(None),
            stats: Stats::default(),
            told: None,
            waiting_since: None,
            measured_at: None,
        }
    }

    /// Follows until every table is live.
    ///
    /// # Errors
    /// If a table is not in the log, or does not fit its model.
    pub(super) async fn until_live(&mut self) -> Result<(), ReplicaError> {
        loop {
            self.follow.step().await;
            for event in self.follow.take_events() {
                if let FollowEvent::Failed(why) = event {
                    tracing::warn!(why, "the log cannot be followed yet");
                }
            }
            if let Some(why) = self.follow.broken() {
                return Err(ReplicaError::NotKept(why.to_string()));
            }
            if self.follow.is_closed() {
                return Err(ReplicaError::ConnectionClosed);
            }
            if self.follow.is_live() {
                break;
            }
        }
        // Not before: an older snapshot may have had other tables.
        let mut found = self.found.lock();
        if found.iter().any(Result::is_err) {
            let mut found = std::mem::take(&mut *found).into_iter();
            if let Some(error) = found.find_map(Result::err) {
                return Err(error);
            }
        }
        drop(found);
        if self.on_misfit == OnMisfit::Refuse {
            for (_, name) in self.names() {
                let writer = self.follow.writer(&name);
                if let Some((_, first)) = writer.and_then(|writer| writer.kept_out()) {
                    return Err(ReplicaError::NotKept(first.clone()));
                }
            }
        }
        // Nobody is told of the rows of the first load.
        self.follow.record_row_events();
        self.publish();
        Ok(())
    }

    /// Runs until the replica is shut down, or something panics.
    pub(super) async fn run(mut self) {
        let ended = AssertUnwindSafe(self.keep_in_step()).catch_unwind().await;
        self.publisher.end(match ended {
            Ok(error) => error,
            Err(panic) => ReplicaError::Panicked(panic_text(&*panic)),
        });
    }

    async fn keep_in_step(&mut self) -> ReplicaError {
        loop {
            tokio::select! {
                () = self.follow.step() => {}
                () = tokio::time::sleep(LOOK) => {}
                Some(told) = self.asking.next() => if let Some((table, answer)) = told {
                    self.ask_for_fence(table, answer);
                },
                Some(_) = self.roll.calls.next() => self.roll.is_called = true,
                command = self.commands.recv() => match command {
                    None | Some(Command::ShutDown) => return ReplicaError::ShutDown,
                    Some(command) => self.take_command(command),
                },
            }
            self.publish();
            if self.follow.is_closed() {
                return ReplicaError::ConnectionClosed;
            }
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Fence { table, reached } => {
                self.ask_for_fence(table, Answer::Fence(reached));
            }
            // The log does not say which transaction an entry is of.
            Command::Transaction {
                waits: None,
                answer,
                ..
            } => drop(answer.send(false)),
            Command::Transaction {
                transaction,
                table,
                answer,
                ..
            } => self.ask_for_transaction(transaction, table, answer),
            Command::Verify { table, done } => self.verify(table, done),
            Command::ShutDown => {}
        }
    }

    fn ask_for_fence(&mut self, table: Option<usize>, answer: Answer) {
        self.waiters.push(Waiter {
            fence: self.follow.ask_for_fence(),
            asked_at: Instant::now(),
            table,
            answer,
        });
    }

    /// Asks the relay to tell once it has a transaction. Behind that a fence brings the transaction
    /// here.
    fn ask_for_transaction(
        &mut self,
        transaction: TransactionToken,
        table: Option<usize>,
        mut answer: oneshot::Sender<bool>,
    ) {
        let log = self.follow.log().clone();
        self.asking.push(Box::pin(async move {
            tokio::select! {
                () = log.until_reached(transaction) => Some((table, Answer::Transaction(answer))),
                () = answer.closed() => None,
            }
        }));
    }

    /// Has the relay's cache compared with the table. A fence behind that proves that the rows here
    /// are the relay's.
    fn verify(&mut self, table: usize, mut done: oneshot::Sender<Verification>) {
        let Some(FoundTable { name, .. }) = self.found_table(table) else {
            let why = "the table is not followed now".to_string();
            // Whoever asked may have given up.
            let _ = done.send(Verification::Inconclusive(why));
            return;
        };
        let log = self.follow.log().clone();
        let mut term = self.term.subscribe();
        self.asking.push(Box::pin(async move {
            let report = tokio::select! {
                report = log.verify(&name) => report,
                // Whoever was asked may be gone, and may have answered nothing.
                _ = term.changed() => RelayReport::inconclusive(OTHER_TERM.to_string()),
                () = done.closed() => return None,
            };
            Some((Some(table), Answer::Verification(done, report)))
        }));
    }

    /// Returns a table as the log has it; `None` if it is not followed.
    fn found_table(&self, table: usize) -> Option<FoundTable> {
        self.found.lock().get(table)?.as_ref().ok().cloned()
    }

    /// Publishes events, status and figures, then answers the waiters.
    fn publish(&mut self) {
        for event in self.follow.take_events() {
            if let FollowEvent::Loaded { .. } = event {
                self.stats.counters.reloads += 1;
            }
        }
        let term = self.follow.position().map(|position| position.epoch);
        self.term
            .send_if_modified(|known| std::mem::replace(known, term) != term);
        self.publish_status();
        self.publish_rows();
        self.publish_figures();
        self.answer();
        self.answer_roll();
    }

    /// Answers whoever has called the roll, ten times a second at most. Whoever has called meanwhile
    /// hears the next answer.
    fn answer_roll(&mut self) {
        let is_due = self
            .roll
            .answered_at
            .is_none_or(|answered| answered.elapsed() >= LOOK);
        if !self.roll.is_called || !is_due {
            return;
        }
        self.roll.is_called = false;
        self.roll.answered_at = Some(Instant::now());
        let health = self.publisher.health();
        let (state, why) = health.status.word_and_cause();
        let tables = health.tables.iter().map(|table| LogNodeTable {
            table: table.name.to_string(),
            state: table.status.word_and_cause().0.to_string(),
            rows: table.rows as u64,
            memory: table.memory_bytes as u64,
            kept_out: table.kept_out as u64,
        });
        let node = LogNode {
            node: self.roll.name.clone(),
            host: host_name(),
            instance: self.roll.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            state: state.to_string(),
            why,
            position: self.follow.position().map(|position| position.to_string()),
            tables: tables.collect(),
        };
        let log = self.follow.log().clone();
        // NATS may take no message for a while.
        tokio::spawn(async move { log.answer_roll(&node).await });
    }

    fn publish_status(&mut self) {
        let now = Instant::now();
        let is_live = self.follow.is_live();
        self.waiting_since = match self.waiting_since {
            since if self.follow.is_waiting() => since.or(Some(now)),
            _ => None,
        };
        let is_waiting = self.waiting_since.is_some_and(|since| now - since >= LOOK);
        let found = Arc::clone(&self.found);
        let found = found.lock();
        for (table, found) in found.iter().enumerate() {
            match found {
                Err(error) => {
                    let why = error.to_string().into();
                    self.publisher.stale(table, why, self.follow.proven_at());
                }
                Ok(_) if !is_live => {}
                Ok(found) => {
                    let writer = self.follow.writer(&found.name);
                    let kept_out = writer.and_then(|writer| writer.kept_out().cloned());
                    match kept_out {
                        Some((_, first)) if self.on_misfit == OnMisfit::Refuse => {
                            let proven_at = self.follow.proven_at();
                            self.publisher.stale(table, first.into(), proven_at);
                        }
                        // A reader holds the lock, and the rows lack what has come since.
                        _ if is_waiting => {
                            self.publisher.publish(table, ReplicaStatus::Loading, false);
                        }
                        kept_out => self.publisher.live(table, kept_out.as_ref()),
                    }
                }
            }
        }
        if is_live {
            self.told = None;
            return;
        }
        let why: Arc<str> = self.follow.why().into();
        if self.told.as_ref() != Some(&why) {
            if self.told.is_none() {
                self.stats.counters.gaps += 1;
            }
            let is_held = |table: usize| found.get(table).is_some_and(Result::is_err);
            let since = moment(self.follow.proven_at());
            self.publisher.all_stale(Arc::clone(&why), since, is_held);
            self.told = Some(why);
        }
    }

    /// Tells of the rows that have changed.
    fn publish_rows(&mut self) {
        for (table, name) in self.names() {
            let Some(writer) = self.follow.writer(&name) else {
                continue;
            };
            let events = writer.take_row_events();
            self.stats.counters.applied += events.len() as u64;
            for event in events {
                let table = self.publisher.name(table);
                self.publisher.send(match event {
                    RowEvent::Model { key, change } => ReplicaEvent::Row { table, key, change },
                    RowEvent::Misfit { key, why, .. } => ReplicaEvent::Misfit {
                        table,
                        key,
                        why,
                        sender: None,
                    },
                    // Rows of cells are not an application's.
                    RowEvent::Row { .. } => continue,
                });
            }
        }
    }

    /// Returns the tables that are followed, with their names in the log.
    fn names(&self) -> Vec<(usize, TableName)> {
        let found = self.found.lock();
        let followed = found.iter().enumerate();
        let followed = followed.filter_map(|(at, found)| Some((at, found.as_ref().ok()?)));
        followed
            .map(|(at, found)| (at, found.name.clone()))
            .collect()
    }

    fn publish_figures(&mut self) {
        let is_due = self
            .measured_at
            .is_none_or(|measured| measured.elapsed() >= MEASURED_FOR);
        let mut sizes = Vec::new();
        if is_due {
            self.measured_at = Some(Instant::now());
            for (table, name) in self.names() {
                if let Some(writer) = self.follow.writer(&name) {
                    let size = CacheSize {
                        rows: writer.rows(),
                        memory_bytes: writer.memory_bytes(),
                        kept_out: writer.kept_out().map_or(0, |(count, _)| *count),
                    };
                    sizes.push((table, size));
                }
            }
        }
        let stats = self.stats;
        self.publisher.set_figures(|status| {
            status.stats = stats;
            for (table, size) in sizes {
                status.sizes[table] = size;
            }
        });
    }

    /// Answers the waiters whose fences are reached. A waiter may have given up: then nobody hears.
    fn answer(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let found = Arc::clone(&self.found);
        let found = found.lock();
        let is_stale: Vec<bool> = (0..self.publisher.tables())
            .map(|table| matches!(self.publisher.status(table), ReplicaStatus::Stale { .. }))
            .collect();
        let is_followed = |table: Option<usize>| match table {
            Some(table) => !is_stale[table],
            None => !is_stale.contains(&true),
        };
        for waiter in std::mem::take(&mut self.waiters) {
            if self.follow.has_reached(waiter.fence) && is_followed(waiter.table) {
                self.stats.lag = Some(waiter.asked_at.elapsed());
                self.reached(waiter, &found);
            } else if waiter.answer.is_closed() {
                self.follow.drop_fence(waiter.fence);
            } else {
                self.waiters.push(waiter);
            }
        }
    }

    /// Answers a waiter.
    fn reached(&mut self, waiter: Waiter, found: &Found) {
        match waiter.answer {
            Answer::Fence(answer) => drop(answer.send(())),
            Answer::Transaction(answer) => drop(answer.send(true)),
            Answer::Verification(answer, report) => {
                let table = waiter.table.and_then(|table| found.get(table));
                let Some(Ok(FoundTable { name, shape })) = table else {
                    return;
                };
                let writer = self.follow.writer(name);
                let kept_out = writer.and_then(|writer| writer.kept_out().map(|(count, _)| *count));
                drop(answer.send(match &report.inconclusive {
                    Some(why) => Verification::Inconclusive(why.clone()),
                    None if !report.is_of_term(self.follow.position()) => {
                        Verification::Inconclusive(OTHER_TERM.to_string())
                    }
                    None => Verification::Compared(report.for_node(shape, kept_out.unwrap_or(0))),
                }));
            }
        }
    }
}
