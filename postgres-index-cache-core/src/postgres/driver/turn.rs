//! One turn of the driver's loop: waits for one thing to happen, hands it to the engine, and
//! carries out the engine's outputs.

use super::answers::{Answers, FrozenRows};
use super::{Driver, Loaded};
use crate::fleet::CONTROL_CHANNEL;
use crate::postgres::connection::listener::Listener;
use crate::postgres::connection::sessions::ConnectionEvent;
use crate::postgres::error::{DriverError, Verdict};
use crate::postgres::error_chain::chain;
use crate::postgres::read::request::{ReadFailed, ReadMessage};
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::sync::{AuxConnection, Input, Snapshot, TableId};
use futures_util::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::Notification;

/// The most notifications that are taken from the socket before they are applied.
const BATCH: usize = 256;

/// The event with which a task that the driver started ends.
pub(super) enum TaskEvent {
    /// The server has committed the NOTIFY of a token.
    Sent {
        via: AuxConnection,
        epoch: u64,
        token: String,
        /// The snapshot that was taken before the commit; `None` if the answer has none.
        snapshot: Option<Snapshot>,
    },
    /// The server has refused the NOTIFY of a token.
    SendFailed {
        via: AuxConnection,
        epoch: u64,
        token: String,
        error: DriverError,
    },
    /// L listens on further channels, or the server has refused.
    ListensAlso {
        epoch: u64,
        listened: Result<(), tokio_postgres::Error>,
    },
    /// F has answered who sent the notification for which a table is reloaded. `who` is the role
    /// and application in words, if the session is still there.
    SenderKnown {
        table: TableId,
        why: String,
        sender: i32,
        who: Option<String>,
    },
    /// The digests of a frozen cache are computed.
    Digested { freeze: u64, rows: Box<FrozenRows> },
    /// A look at the definitions of these relations is done.
    Looked {
        epoch: u64,
        look: u64,
        relations: Vec<u32>,
        seen: Result<Vec<Fingerprint>, tokio_postgres::Error>,
    },
}

/// Sends the driver the event with which a task ends. If the driver is gone, nobody waits for the
/// event, which is dropped.
pub(super) async fn say(driver: mpsc::Sender<TaskEvent>, event: TaskEvent) {
    let _ = driver.send(event).await;
}

/// One thing that a turn has waited for.
enum Happened {
    /// L has received notifications, or has ended.
    Notifications(Received),
    /// A session was opened, or has ended.
    Connection(ConnectionEvent),
    /// A task of the driver has ended.
    Task(TaskEvent),
    /// Sessions that read have sent parts of their reads, at most one each.
    Rows(Vec<ReadMessage>),
    /// A read has failed.
    ReadFailed(ReadFailed),
    /// A deadline of the engine has passed, or a cache's lock is to be tried again.
    Time,
}

/// A batch of notifications from L.
#[derive(Default)]
struct Received {
    batch: Vec<Notification>,
    /// The reason why nothing more will come; `None` while the connection is in order.
    end: Option<String>,
}

impl Driver {
    /// Waits for something to happen, and does what follows.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub(super) async fn turn(
        &mut self,
        progress: &mut impl FnMut(Loaded),
    ) -> Result<(), DriverError> {
        match self.happen().await {
            Happened::Notifications(received) => self.received(received)?,
            Happened::Connection(event) => self.handle_connection_event(event),
            Happened::Task(event) => self.handle_task_event(event),
            Happened::Rows(messages) => self.take_messages(messages, progress),
            // The failure of a read that was given up meanwhile is of no interest.
            Happened::ReadFailed(ReadFailed { asked, error }) => {
                self.read_failed(asked, error);
            }
            Happened::Time => self.engine.handle(Input::TimePassed, Instant::now()),
        }
        self.perform_outputs()
    }

    /// Waits for something to happen.
    async fn happen(&mut self) -> Happened {
        let locks = self.tables.iter().filter_map(|table| table.busy_until);
        let answers = self.answers.as_deref().and_then(Answers::deadline);
        let timeout = locks.chain(self.engine.poll_timeout()).chain(answers).min();
        let timeout = timeout.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let listener = self
            .sessions
            .as_mut()
            .map(|sessions| &mut sessions.listener);
        let channels = &mut self.channels;
        self.reads.hold_back(&self.tables);
        let reads = &mut self.reads;
        let something = async {
            // Chance decides between these, so that none has to wait for another. With a fixed
            // order a flood of notifications would keep the rows of a read from being taken, or the
            // rows would keep L from being polled.
            tokio::select! {
                received = next_batch(listener) => Happened::Notifications(received),
                Some(event) = channels.connections.recv() => Happened::Connection(event),
                Some(event) = channels.tasks.recv() => Happened::Task(event),
                Some(failed) = channels.failures.recv() => Happened::ReadFailed(failed),
                messages = poll_fn(|cx| reads.poll_messages(cx)) => Happened::Rows(messages),
            }
        };
        // Time comes last (`biased`). If time came first:
        // 1. The process sleeps past a fence's deadline. The fence has arrived meanwhile.
        // 2. The deadline is looked at first, and the fence counts as lost.
        tokio::select! {
            biased;
            happened = something => happened,
            () = tokio::time::sleep_until(timeout.into()) => Happened::Time,
        }
    }

    /// Hands a batch of notifications to the engine, one by one, and carries out what follows.
    ///
    /// # Errors
    /// If the driver ends for good.
    fn received(&mut self, received: Received) -> Result<(), DriverError> {
        let now = Instant::now();
        for notification in &self.hand_over(received.batch) {
            let channel = notification.channel();
            let sender = notification.process_id();
            let mut payload = notification.payload();
            if channel == CONTROL_CHANNEL && self.answers.is_some() {
                // A question among the changes: those before it were handed in, the others not.
                self.take_question(sender, payload);
                self.prepare_outputs()?;
                continue;
            }
            if channel == self.options.fence_channel {
                if self.reads.hear(sender, payload) {
                    continue;
                }
                // Somebody else's payload on the fence channel is no fence.
                let Some(token) = self.own_token(sender, payload) else {
                    continue;
                };
                payload = token;
            }
            if channel != self.options.fence_channel
                && let Some(watch) = &mut self.watch
            {
                watch(notification);
            }
            let input = Input::Notification {
                channel,
                payload,
                sender,
            };
            self.engine.handle(input, now);
            // A change that cannot be applied must be known before the fence behind it is handed
            // in, or the fence would count without that change.
            self.prepare_outputs()?;
        }
        // These changes came before the end of the connection, so the engine had them first.
        if let Some(why) = received.end {
            self.engine.handle(Input::Lost(why), Instant::now());
        }
        self.check_waiting();
        Ok(())
    }

    /// Hands the notifications that are no fences to the tap, if there is one. Returns the others.
    fn hand_over(&mut self, batch: Vec<Notification>) -> Vec<Notification> {
        let Some(tap) = &mut self.tap else {
            return batch;
        };
        let fences = &self.options.fence_channel;
        let (own, others): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|notification| notification.channel() == fences);
        if !others.is_empty() {
            tap(others);
        }
        own
    }

    /// Takes the event of a connection that was opened, could not be, or has ended. Events of
    /// earlier openings are ignored.
    fn handle_connection_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { epoch, sessions } if epoch == self.epoch => {
                tracing::info!("connected");
                self.failure = None;
                self.sessions = Some(*sessions);
                self.engine.handle(Input::Listening, Instant::now());
            }
            ConnectionEvent::ConnectFailed { epoch, error } if epoch == self.epoch => {
                let Verdict { code, is_permanent } = error.verdict();
                let why = chain(&error);
                tracing::info!(why, "could not connect");
                self.failure = Some(error);
                let input = Input::ConnectFailed {
                    code,
                    why,
                    is_permanent,
                };
                self.engine.handle(input, Instant::now());
            }
            // The read that is underway will fail as well, and its error has the server's words.
            ConnectionEvent::Ended {
                via: AuxConnection::Reads,
                ..
            } if self.reads.is_underway_on_q() => {}
            ConnectionEvent::Ended { via, epoch, why } if self.is_current(via, epoch) => {
                let input = Input::AuxConnectionLost { via, why };
                self.engine.handle(input, Instant::now());
            }
            ConnectionEvent::Reopened { via, epoch, opened } if self.is_current(via, epoch) => {
                self.reopened(via, epoch, opened);
            }
            ConnectionEvent::SideOpened { epoch, opened } => self.side_opened(epoch, opened),
            ConnectionEvent::Connected { .. }
            | ConnectionEvent::ConnectFailed { .. }
            | ConnectionEvent::Ended { .. }
            | ConnectionEvent::Reopened { .. } => {}
        }
    }

    /// Takes the event with which a task has ended. Events of connections that are gone are
    /// ignored.
    fn handle_task_event(&mut self, event: TaskEvent) {
        match event {
            TaskEvent::Sent {
                via,
                epoch,
                token,
                snapshot,
            } if self.is_current(via, epoch) => {
                let token = &token;
                self.engine
                    .handle(Input::Sent { token, snapshot }, Instant::now());
            }
            TaskEvent::SendFailed {
                via,
                epoch,
                token,
                error,
            } if self.is_current(via, epoch) => {
                // lock_not_available: the notify lock was not had within `lock_timeout`.
                if error.sqlstate() == Some("55P03") {
                    let input = Input::SendBlocked { token: &token };
                    self.engine.handle(input, Instant::now());
                } else {
                    self.aux_connection_lost(via, error);
                }
            }
            TaskEvent::Looked {
                epoch,
                look,
                relations,
                seen,
            } if self.is_current(AuxConnection::Fences, epoch) => {
                self.looked(look, &relations, seen);
            }
            TaskEvent::Digested { freeze, rows } => self.digested(freeze, *rows),
            TaskEvent::SenderKnown {
                table,
                why,
                sender,
                who,
            } => self.sender_known(table, &why, sender, who),
            TaskEvent::ListensAlso { epoch, listened } if epoch == self.epoch => {
                self.listened_also(listened);
            }
            TaskEvent::Sent { .. }
            | TaskEvent::SendFailed { .. }
            | TaskEvent::Looked { .. }
            | TaskEvent::ListensAlso { .. } => {}
        }
    }
}

/// Takes the notifications that the socket of L has, at most [`BATCH`] of them. Waits for the first
/// one. Waits for ever while there is no L.
///
/// Dropping the future loses nothing: once a notification was taken, the future is ready.
async fn next_batch(listener: Option<&mut Listener>) -> Received {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let mut received = Received::default();
    poll_fn(|cx| {
        while received.batch.len() < BATCH {
            match listener.poll_next(cx) {
                Poll::Ready(Some(Ok(notification))) => received.batch.push(notification),
                Poll::Ready(Some(Err(error))) => {
                    received.end = Some(chain(&error));
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    received.end = Some("the listening connection was closed".to_string());
                    return Poll::Ready(());
                }
                Poll::Pending if received.batch.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    })
    .await;
    received
}
