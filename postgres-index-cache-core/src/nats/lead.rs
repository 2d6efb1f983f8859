//! [`Lead`]: one term of a relay. Publishes what the supervisor's driver did to the caches.
//!
//! ```text
//! Supervisor ─ row events ─→ Batch ─→ Writer ─→ Appender ─→ NATS
//!     │                                 ▲  │
//!     ├─ fences ─→ proofs ──────────────┤  └─ recover: connect anew, read the log
//!     └─ caches ─→ SnapshotReader ─→ Upload ─→ NATS
//! ```
//!
//! The supervisor is polled in every turn, so PostgreSQL's notification queue never waits for NATS.

mod doubt;
mod questions;
mod recovery;
mod snapshots;

use super::append::{Answer, Appender};
use super::description::TableDescription;
use super::error::LogError;
use super::image::LoggedTable;
use super::relay::{ConnectNats, RelayEvent, RelayOptions};
use super::row_ops::{Batch, bytes_of, row_json, row_op};
use super::snapshot::{self, SnapshotInfo};
use super::stream::NatsLog;
use crate::log::{
    DeferredKeys, LONGEST_CHANGES, Proof, RowChanges, RowOp, Sequence, TableName, TableProof,
    Writer, WriterInput, WriterOutput,
};
use crate::postgres::error_chain::chain;
use crate::postgres::{DriverEvent, SupervisedTable, Supervisor, SupervisorEvent, TableConfig};
use crate::sync::{Backoff, FenceId, State, TableId};
use crate::table_cache::KeyBuf;
use async_nats::{Subject, Subscriber};
use doubt::Doubt;
use futures_util::StreamExt as _;
use questions::Questions;
use recovery::Look;
use snapshots::{Due, Snapshotting};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The time between two proofs.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The time between two looks whether nodes have a snapshot to load.
const SNAPSHOT_LOOK: Duration = Duration::from_secs(10);

/// The most bytes of deferred rows that are published: all of them are in memory at once.
const MOST_DEFERRED_BYTES: u64 = 64 << 20;

/// The end of a term.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another relay writes.
    SteppedDown,
    /// Nothing can go on, for this reason.
    Failed(String),
}

/// How the tables are, as the log was told.
struct Tables {
    is_live: bool,
    /// The state of all tables together, as it was told last.
    state: State,
    /// The state of each table, as the events say that were taken.
    states: Vec<State>,
    /// Whether a table is another one than the log has: the next term begins with a snapshot.
    is_altered: bool,
    /// Why the tables are not live, in the words of the driver.
    why: String,
}

/// The waits before something is tried again that failed.
#[derive(Default)]
struct Waits {
    /// Before NATS is connected to anew. Over once an entry is stored.
    recover: Backoff,
    /// Before the next snapshot. Over once one is put.
    snapshot: Backoff,
    /// When the next snapshot may begin, if the last one failed.
    snapshot_at: Option<Instant>,
}

/// A fence that the relay waits for.
struct AskedFence {
    fence: FenceId,
    /// When it was asked for.
    at: SystemTime,
    /// The inboxes of the questions that it answers.
    inboxes: Vec<Subject>,
}

/// A term of a relay.
pub(super) struct Lead<T: SupervisedTable> {
    log: NatsLog,
    connect: ConnectNats,
    options: RelayOptions,
    events: mpsc::UnboundedSender<RelayEvent>,
    supervisor: Supervisor<T>,
    writer: Writer,
    /// `None` while the writer recovers.
    appender: Option<Appender>,
    /// The longest message that the server took at the begin of the term.
    max_payload: usize,
    recovery: Option<JoinHandle<Result<Look, LogError>>>,
    /// Whether the server has forgotten the name of its last entry.
    has_forgotten: bool,
    asking: Subscriber,
    questions: Questions,
    /// The fence that is waited for.
    fence: Option<AskedFence>,
    beat_at: Instant,
    tables: Tables,
    snapshot: Option<Snapshotting>,
    /// A snapshot whose last part is on its way.
    finishing: Option<JoinHandle<Result<SnapshotInfo, LogError>>>,
    due: Due,
    waits: Waits,
    look_at: Instant,
    looking: Option<JoinHandle<Result<Option<SnapshotInfo>, LogError>>>,
    doubt: Doubt,
    /// Keys whose rows are to be published once there is no doubt.
    deferred: Vec<DeferredKeys>,
    ended: Option<Ended>,
}

impl<T: SupervisedTable> Drop for Lead<T> {
    fn drop(&mut self) {
        // What goes on behind the end of the term could harm the next one.
        self.recovery.take().inspect(JoinHandle::abort);
        self.finishing.take().inspect(JoinHandle::abort);
    }
}

impl<T: SupervisedTable> Lead<T> {
    /// Begins to lead by this writer. `last` is the number of the log's last message if the log has
    /// no entry.
    pub(super) async fn begin(
        log: NatsLog,
        connect: ConnectNats,
        options: RelayOptions,
        events: mpsc::UnboundedSender<RelayEvent>,
        supervisor: Supervisor<T>,
        writer: Writer,
        last: Option<Sequence>,
    ) -> Result<Self, LogError> {
        let now = Instant::now();
        let tables = 0..supervisor.targets().len();
        let states = tables.map(|at| supervisor.state(TableId(at))).collect();
        Ok(Self {
            asking: log.questions().await?,
            questions: Questions::new(),
            appender: Some(Appender::start(log.clone(), last)),
            max_payload: log.client().max_payload(),
            log,
            connect,
            options,
            events,
            supervisor,
            writer,
            recovery: None,
            has_forgotten: false,
            fence: None,
            beat_at: now,
            tables: Tables {
                is_live: false,
                state: State::Stale,
                states,
                is_altered: false,
                why: "the relay has begun".to_string(),
            },
            snapshot: None,
            finishing: None,
            due: Due::default(),
            waits: Waits::default(),
            look_at: now,
            looking: None,
            doubt: Doubt::default(),
            deferred: Vec::new(),
            ended: None,
        })
    }

    /// Leads until the term is over. The future may be dropped at any point: the term is over then.
    pub(super) async fn run(&mut self) -> Ended {
        loop {
            self.take_outputs();
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            self.turn().await;
            self.publish_events();
            self.go_on();
        }
    }

    /// Waits for one thing to happen.
    async fn turn(&mut self) {
        let until = [
            Some(self.beat_at).filter(|_| self.fence.is_none()),
            self.writer.poll_timeout(),
            Some(self.look_at),
            self.waits.snapshot_at,
            self.doubt.ask_at,
        ];
        let until = until.into_iter().flatten().min();
        let due = async {
            match until {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let is_in_doubt = self.is_in_doubt();
        let reads = self.snapshot.as_ref();
        let reads = reads.filter(|snapshot| !snapshot.is_read && !is_in_doubt);
        let wanted = async {
            match reads {
                Some(snapshot) => snapshot.upload.ready().await,
                None => std::future::pending().await,
            }
        };
        let appender = &mut self.appender;
        let answer = async {
            match appender {
                Some(appender) => appender.answer().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stepped = self.supervisor.step() => if let Err(error) = stepped {
                self.ended = Some(Ended::Failed(chain(&error)));
            },
            answer = answer => self.take_answer(answer),
            look = done(&mut self.recovery) => match look {
                Ok(look) => self.recovered(look),
                // The log is none of this relay's any more.
                Err(error) => self.step_down(&error),
            },
            seen = done(&mut self.doubt.asking) => self.take_source(seen),
            found = done(&mut self.looking) => self.take_look(found),
            put = done(&mut self.finishing) => self.take_snapshot(put),
            () = self.questions.transactions.retry() => {
                self.questions.transactions.ask_again(self.supervisor.driver_mut());
            }
            question = self.asking.next(), if self.recovery.is_none() => match question {
                Some(question) => self.take_question(question),
                // The connection is closed.
                None => self.writer.handle(WriterInput::Disconnected, Instant::now()),
            },
            permit = wanted => self.read_snapshot(permit),
            () = due => self.time_passed(),
        }
    }

    /// Ends the term, and says why.
    fn step_down(&mut self, error: &LogError) {
        let _ = self.events.send(RelayEvent::Failed(chain(error)));
        self.ended = Some(Ended::SteppedDown);
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        if self.writer.poll_timeout().is_some_and(|at| at <= now) {
            self.writer.handle(WriterInput::TimePassed, now);
        }
        self.waits.snapshot_at.take_if(|at| *at <= now);
        if self.look_at <= now {
            self.look_at = now + SNAPSHOT_LOOK;
            if self.looking.is_none() && self.recovery.is_none() {
                let log = self.log.clone();
                self.looking = Some(tokio::spawn(async move { snapshot::newest(&log).await }));
            }
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer {
            Answer::Stored { round, place } => {
                self.waits.recover.reset();
                self.writer
                    .handle(WriterInput::Stored { round, place }, now);
            }
            Answer::Refused {
                round,
                has_forgotten,
            } => {
                self.has_forgotten |= has_forgotten;
                self.writer.handle(WriterInput::Refused { round }, now);
            }
            // The server takes shorter messages than at the begin of the term. The next term's are.
            Answer::TooLarge { .. } if self.log.client().max_payload() < self.max_payload => {
                self.ended = Some(Ended::SteppedDown);
            }
            Answer::TooLarge { table, bytes } => {
                let most = self.log.client().max_payload();
                let error = LogError::TooLarge { table, bytes, most };
                self.ended = Some(Ended::Failed(error.to_string()));
            }
        }
    }

    /// Publishes what the driver did to the caches since the last call.
    fn publish_events(&mut self) {
        let now = Instant::now();
        if self.is_in_doubt() {
            // The events wait.
            return self.doubt(now);
        }
        let mut batch = Batch::default();
        let mut told = self.tables.state;
        let events: Vec<SupervisorEvent> = self.supervisor.take_events().collect();
        for event in events {
            match event {
                SupervisorEvent::Driver(DriverEvent::Row { table, change, .. }) => {
                    // Rows of another shape are no rows of this log.
                    if !self.tables.is_altered {
                        // The changes that came during a comparison: one of each row, the last.
                        // With those of other tables they are the rows of no transaction.
                        if self.tables.states.get(table.0) != Some(&State::Live) {
                            self.become_live(false, now);
                        }
                        let config = self.supervisor.target(table).config();
                        let name = name_of(config);
                        let op = row_op(&config.shape, &change);
                        let full = batch.add(&name, op);
                        self.publish(full, now);
                    }
                    continue;
                }
                SupervisorEvent::Driver(DriverEvent::Disconnected { why, .. }) => {
                    self.tables.why = why;
                }
                SupervisorEvent::Driver(DriverEvent::ReloadScheduled { table, why }) => {
                    let name = self.supervisor.target(table).config().name();
                    self.tables.why = format!("{name} is read again: {why}");
                }
                SupervisorEvent::Unfollowed { table, why } => {
                    let name = self.supervisor.target(table).config().name();
                    self.tables.why = format!("{name} cannot be followed: {why}");
                    self.tables.is_altered = true;
                }
                SupervisorEvent::Driver(DriverEvent::Altered { table })
                | SupervisorEvent::Replaced { table } => {
                    let name = self.supervisor.target(table).config().name();
                    self.tables.why = format!("{name} was altered");
                    self.tables.is_altered = true;
                }
                // The states of the events, and not those of now: rows between two of them may be
                // those of no transaction.
                SupervisorEvent::Driver(DriverEvent::TableState { table, state }) => {
                    if let Some(told) = self.tables.states.get_mut(table.0) {
                        *told = state;
                    }
                }
                SupervisorEvent::Driver(DriverEvent::State(state)) => told = state,
                SupervisorEvent::Driver(_) => {}
            }
            if self.tables.is_altered {
                // Changes that are not published may be in its rows.
                self.snapshot = None;
            }
            let rest = batch.take();
            self.publish(rest, now);
            self.note_state(told, now);
        }
        let rest = batch.take();
        self.publish(rest, now);
        // A driver that records no rows drops the oldest of very many events.
        for (at, state) in self.tables.states.iter_mut().enumerate() {
            *state = self.supervisor.state(TableId(at));
        }
        self.note_state(self.supervisor.driver().state(), now);
    }

    fn publish(&mut self, changes: Option<RowChanges>, now: Instant) {
        if let Some(changes) = changes {
            let bytes = changes.ops.iter().map(bytes_of).sum::<usize>();
            // A reader takes no more, in parts neither.
            if bytes + bytes / 8 > LONGEST_CHANGES {
                return self.fail_at_row(changes.table.name, bytes);
            }
            self.due.since += bytes as u64;
            self.due.entries += 1;
            self.writer.publish(changes, now);
        }
    }

    /// Ends the term at a row of `table` that is longer than any reader takes.
    fn fail_at_row(&mut self, table: String, bytes: usize) {
        let error = LogError::TooLarge {
            table,
            bytes,
            most: LONGEST_CHANGES,
        };
        self.ended = Some(Ended::Failed(error.to_string()));
    }

    /// Publishes that nothing is known of PostgreSQL if that is so since the last call.
    fn note_state(&mut self, state: State, now: Instant) {
        self.tables.state = state;
        // While a table is compared no change is taken in: the rows are those of the last proof.
        let is_held = state == State::CatchingUp && self.questions.is_comparing();
        let is_live =
            (state == State::Live || (is_held && self.tables.is_live)) && !self.tables.is_altered;
        self.become_live(is_live, now);
    }

    /// Notes whether something is known of PostgreSQL.
    fn become_live(&mut self, is_live: bool, now: Instant) {
        if std::mem::replace(&mut self.tables.is_live, is_live) == is_live {
            return;
        }
        if !is_live {
            let asked = std::mem::take(&mut self.questions.asked);
            self.answer(asked, None);
        }
        let why = if is_live {
            String::new()
        } else {
            self.writer.stale(&self.tables.why, now);
            self.tables.why.clone()
        };
        // Nobody need listen.
        let _ = self.events.send(RelayEvent::Live { is_live, why });
    }

    /// Does what is due: proofs, a new term for altered tables, a snapshot.
    fn go_on(&mut self) {
        let now = Instant::now();
        // In doubt nothing is live: no proof and no snapshot follows.
        if !self.is_in_doubt() {
            for keys in std::mem::take(&mut self.deferred) {
                self.publish_deferred(&keys);
            }
            self.begin_again_if_altered(now);
            self.answer_questions();
            self.prove(now);
        }
        self.ask_for_fence(now);
        self.begin_snapshot();
    }

    /// Begins a further term once altered tables are live again.
    fn begin_again_if_altered(&mut self, now: Instant) {
        let tables = 0..self.supervisor.targets().len();
        let are_live = tables
            .map(TableId)
            .all(|table| self.supervisor.state(table) == State::Live);
        if self.tables.is_altered && are_live {
            self.tables.is_altered = false;
            self.writer.begin_again(now);
            self.note_state(self.supervisor.driver().state(), now);
        }
    }

    /// Publishes a proof if the fence is reached, and answers the questions that came before it.
    fn prove(&mut self, now: Instant) {
        let Some(fence) = self.fence.as_ref().map(|asked| asked.fence) else {
            return;
        };
        let tables = 0..self.supervisor.targets().len();
        let is_reached = tables
            .map(TableId)
            .all(|table| self.supervisor.has_reached_for(table, fence));
        if !is_reached || !self.tables.is_live {
            return;
        }
        let Some(AskedFence { at, inboxes, .. }) = self.fence.take() else {
            return;
        };
        self.beat_at = now + HEARTBEAT;
        let names = self.supervisor.targets();
        let names: Vec<TableName> = names.map(|target| name_of(target.config())).collect();
        let tables = names.into_iter().enumerate().map(|(at, table)| TableProof {
            table,
            rows: self.supervisor.driver_mut().sum(TableId(at)),
        });
        let proof = Proof {
            tables: tables.collect(),
            asked_at: at
                .duration_since(UNIX_EPOCH)
                .ok()
                .map(|at| at.as_micros() as u64),
        };
        let position = self.writer.prove(proof, now);
        self.due.entries += u64::from(position.is_some());
        self.answer(inboxes, position);
    }

    /// Asks for a fence for all questions that have come, and for the heartbeat.
    fn ask_for_fence(&mut self, now: Instant) {
        let is_due = !self.questions.asked.is_empty() || self.beat_at <= now;
        if self.fence.is_some() || !is_due {
            return;
        }
        let at = SystemTime::now();
        match self.supervisor.driver_mut().ask_for_fence() {
            Ok(fence) => {
                let inboxes = std::mem::take(&mut self.questions.asked);
                self.fence = Some(AskedFence { fence, at, inboxes });
            }
            Err(error) => self.ended = Some(Ended::Failed(chain(&error))),
        }
    }

    /// Returns the tables with their caches.
    fn logged_tables(&self) -> Vec<LoggedTable> {
        let targets = self.supervisor.targets().enumerate();
        let tables = targets.map(|(at, target)| {
            let config = target.config();
            LoggedTable {
                description: TableDescription::new(
                    &config.followed.schema,
                    &config.followed.name,
                    &config.shape,
                ),
                cache: self.supervisor.shared_cache(TableId(at)),
            }
        });
        tables.collect()
    }

    /// Carries out the requests of the writer.
    fn take_outputs(&mut self) {
        while let Some(output) = self.writer.poll() {
            match output {
                WriterOutput::Append { round, entry } => {
                    if let Some(appender) = &self.appender {
                        appender.send(round, entry);
                    }
                }
                WriterOutput::Recover { round, places } => self.recover(round, places),
                // In doubt they wait with the events.
                WriterOutput::PublishDeferred(keys) if self.is_in_doubt() => {
                    self.deferred.push(keys);
                }
                WriterOutput::PublishDeferred(keys) => self.publish_deferred(&keys),
                WriterOutput::PutSnapshot(place) => self.finish_snapshot(place),
                WriterOutput::DropSnapshot => self.snapshot = None,
                WriterOutput::StepDown => self.ended = Some(Ended::SteppedDown),
            }
        }
    }

    /// Publishes the present state of the rows with these keys.
    fn publish_deferred(&mut self, keys: &DeferredKeys) {
        let now = Instant::now();
        let tables: Vec<(TableName, LoggedTable)> = self
            .logged_tables()
            .into_iter()
            .map(|table| (table.description.name(), table))
            .collect();
        let mut batch = Batch::default();
        let before = self.due.since;
        for (name, keys) in keys.tables() {
            let Some((_, table)) = tables.iter().find(|(known, _)| known == name) else {
                continue;
            };
            for id in keys {
                let op = state_of(table, id);
                let full = batch.add(name, op);
                self.publish(full, now);
                if self.due.since - before > MOST_DEFERRED_BYTES {
                    // The rows come with a snapshot, which is read bit by bit.
                    self.writer.deferred_are_published();
                    return self.writer.begin_again(now);
                }
            }
        }
        let rest = batch.take();
        self.publish(rest, now);
        self.writer.deferred_are_published();
    }
}

/// Returns the operation that makes a reader's row with this key the one of the cache.
fn state_of(table: &LoggedTable, id: &str) -> RowOp {
    let cache = table.cache.read();
    let mut key = KeyBuf::default();
    let is_key = key.read_json(cache.shape(), id).is_ok();
    let row = cache.get(&key).filter(|_| is_key);
    let id = id.to_string();
    match row {
        Some(row) => RowOp::Upsert {
            id,
            row: row_json(cache.shape(), &row.to_buf()),
        },
        None => RowOp::Remove { id },
    }
}

/// Returns the name of a table in the log.
pub(super) fn name_of(config: &TableConfig) -> TableName {
    TableName {
        schema: config.followed.schema.clone(),
        name: config.followed.name.clone(),
    }
}

/// Waits for a task to end; without end if there is none.
async fn done<R>(task: &mut Option<JoinHandle<R>>) -> R {
    let Some(running) = task else {
        return std::future::pending().await;
    };
    let result = running.await;
    *task = None;
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Whoever has ended the task has put another in its place.
            Err(_) => std::future::pending().await,
        },
    }
}
