//! The connections of a [`Driver`]: how L, F and Q are opened, lost and opened again, and how
//! tokens are sent by F and Q.

use super::turn::{TaskEvent, say};
use super::{Driver, DriverEvent};
use crate::postgres::connection::sessions::{AuxClient, ConnectionEvent, OpenSession, Opener};
#[cfg(feature = "nats")]
use crate::postgres::connection::traced::Traced;
use crate::postgres::error::{DriverError, Verdict};
use crate::postgres::error_chain::chain;
use crate::postgres::quote::{quote_identifier, quote_literal};
use crate::postgres::schema::catalog::who_is;
use crate::sync::{AuxConnection, Failure, Input, Snapshot, TableId};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
#[cfg(feature = "nats")]
use tokio_postgres::Client;
use tokio_postgres::SimpleQueryMessage;

impl Driver {
    /// Drops all connections, which the engine has given up. The engine connects again after
    /// `retry_in`, or never if that is `None`.
    ///
    /// # Errors
    /// The failure, if the engine never connects again.
    pub(super) fn disconnected(
        &mut self,
        failure: Failure,
        retry_in: Option<Duration>,
    ) -> Result<(), DriverError> {
        self.sessions = None;
        self.reads.end_all();
        // Events of these connections that are still on their way have an old number from now on.
        self.epochs += 1;
        self.epoch = self.epochs;
        self.connect_task.take().inspect(JoinHandle::abort);
        let since = self.engine.proven_at();
        self.emit(DriverEvent::Disconnected {
            why: failure.to_string(),
            since,
            retry_in,
        });
        if retry_in.is_some() {
            // The next attempt may fail for another reason: this one must not be told then.
            self.failure = None;
            return Ok(());
        }
        match failure {
            // This failure says more than the server's last words: how often reads were cut, and
            // which table was being read.
            Failure::ReadsCut { .. } => Err(DriverError::Failed(failure)),
            _ => Err(self.failure.take().unwrap_or(DriverError::Failed(failure))),
        }
    }

    /// Starts a task that opens all connections. L listens on `channels`.
    pub(super) fn connect(&mut self, channels: Vec<String>) {
        let opener = self.opener();
        let epoch = opener.epoch;
        self.epoch = epoch;
        tracing::info!(?channels, "connecting");
        self.connect_task = Some(tokio::spawn(async move {
            let event = match opener.all(&channels).await {
                Ok(sessions) => ConnectionEvent::Connected {
                    epoch,
                    sessions: Box::new(sessions),
                },
                Err(error) => ConnectionEvent::ConnectFailed { epoch, error },
            };
            // If the driver is gone, nobody waits for this event.
            let _ = opener.events.send(event).await;
        }));
    }

    /// Starts a task that LISTENs on further channels on L. To await the answer here would wait for
    /// ever: the answer comes only while the driver's loop polls L.
    pub(super) fn listen_also(&mut self, channels: &[String]) {
        let Some(sessions) = &self.sessions else {
            return;
        };
        let listening = sessions.listener.listen_also(channels);
        let driver = self.channels.tasks_tx.clone();
        let epoch = self.epoch;
        tokio::spawn(async move {
            let listened = listening.await;
            say(driver, TaskEvent::ListensAlso { epoch, listened }).await;
        });
    }

    /// Tells the engine how the server has answered the LISTEN on further channels. If the server
    /// has refused, L counts as lost.
    pub(super) fn listened_also(&mut self, listened: Result<(), tokio_postgres::Error>) {
        let input = match listened {
            Ok(()) => Input::ListensAlso,
            Err(source) => Input::Lost(chain(&DriverError::Server {
                doing: "LISTEN on another channel".to_string(),
                source,
            })),
        };
        self.engine.handle(input, Instant::now());
    }

    /// Returns an opener with the next number. Events of earlier openings can be told by theirs.
    pub(super) fn opener(&mut self) -> Opener {
        self.epochs += 1;
        Opener {
            open: Arc::clone(&self.open),
            options: self.options.clone(),
            events: self.channels.connections_tx.clone(),
            epoch: self.epochs,
            reads: !self.tables.is_empty(),
        }
    }

    /// Returns the client of F, once L has heard F: both are on one server. `None` before that, and
    /// while it is lost.
    #[cfg(feature = "nats")]
    pub(crate) fn proven_client(&self) -> Option<Arc<Traced<Client>>> {
        let client = self.aux_client(AuxConnection::Fences)?.client;
        self.engine.has_heard_fences().then_some(client)
    }

    /// Returns the client of F or Q; `None` while it is lost.
    pub(super) fn aux_client(&self, via: AuxConnection) -> Option<AuxClient> {
        self.sessions.as_ref()?.client(via)
    }

    /// Returns whether `epoch` is the number of the last opening of F or Q. Events with another
    /// number are of a session that is gone.
    pub(super) fn is_current(&self, via: AuxConnection, epoch: u64) -> bool {
        self.sessions
            .as_ref()
            .is_some_and(|sessions| sessions.is_current(via, epoch))
    }

    /// Returns the payload that is sent for a token of the engine: the token, a dot, and a digest.
    /// Nobody else can know the digest before the payload was sent.
    pub(super) fn payload_of(&self, token: &str) -> String {
        let digest = Sha256::new_with_prefix(self.secret)
            .chain_update(token)
            .finalize();
        // Half of the digest is enough: 128 bits cannot be guessed.
        let digest: String = digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{token}.{digest}")
    }

    /// Returns the engine's token in `payload`. Returns `None` unless this driver has sent the
    /// payload: the process `sender` serves F or Q, and the digest is right.
    ///
    /// Without these checks:
    /// 1. Somebody reads the name of the fence channel in pg_stat_activity, and sends the next
    ///    token at once.
    /// 2. The fence counts as arrived, though changes before it are still on their way.
    /// 3. A reader is told that an old row is current.
    pub(super) fn own_token<'a>(&self, sender: i32, payload: &'a str) -> Option<&'a str> {
        let (token, _) = payload.rsplit_once('.')?;
        let is_ours = self
            .sessions
            .as_ref()
            .is_some_and(|sessions| sessions.are_served_by(sender));
        (is_ours && self.payload_of(token) == payload).then_some(token)
    }

    /// Starts a task that sends a token by F or Q. The server's answer may take as long as commits
    /// are blocked.
    pub(super) fn notify(&self, via: AuxConnection, channel: &str, token: String) {
        let Some(AuxClient { client, epoch }) = self.aux_client(via) else {
            return;
        };
        // The snapshot comes first: whatever it sees as ended is in the queue before the token.
        let sql = format!(
            "SELECT pg_catalog.pg_current_snapshot(); NOTIFY {}, {}",
            quote_identifier(channel),
            quote_literal(&self.payload_of(&token))
        );
        let driver = self.channels.tasks_tx.clone();
        tokio::spawn(async move {
            let event = match client.simple_query(&sql).await {
                Ok(answers) => TaskEvent::Sent {
                    via,
                    epoch,
                    token,
                    snapshot: snapshot_in(&answers),
                },
                Err(source) => TaskEvent::SendFailed {
                    via,
                    epoch,
                    token,
                    error: DriverError::Server {
                        doing: "send a fence".to_string(),
                        source,
                    },
                },
            };
            say(driver, event).await;
        });
    }

    /// Adds the event that a table is to be reloaded. If a notification is the cause, F is asked
    /// first which role sent the notification, and the event comes with the answer.
    pub(super) fn emit_read_scheduled(&mut self, table: TableId, why: String, sender: Option<i32>) {
        let Some(sender) = sender else {
            return self.emit(DriverEvent::ReloadScheduled { table, why });
        };
        // The sender is asked for at once, since its session may end any time.
        let Some(AuxClient { client, .. }) = self.aux_client(AuxConnection::Fences) else {
            return self.sender_known(table, &why, sender, None);
        };
        let driver = self.channels.tasks_tx.clone();
        tokio::spawn(async move {
            let who = who_is(&*client, sender).await;
            let event = TaskEvent::SenderKnown {
                table,
                why,
                sender,
                who,
            };
            say(driver, event).await;
        });
    }

    /// Adds the event that a table is to be reloaded, with the role `who` that sent the
    /// notification. The engine's text of the cause gets the role too. `who` is `None` if the
    /// session of the process `sender` is gone, or F could not be asked.
    pub(super) fn sender_known(
        &mut self,
        table: TableId,
        why: &str,
        sender: i32,
        who: Option<String>,
    ) {
        let who = who.unwrap_or_else(|| "whose session is gone".to_string());
        let of = format!("(sent by process {sender})");
        let known = format!("(sent by process {sender}, {who})");
        let input = Input::CauseKnown {
            table,
            of: &of,
            known: &known,
        };
        self.engine.handle(input, Instant::now());
        self.emit(DriverEvent::ReloadScheduled {
            table,
            why: why.replace(&of, &known),
        });
    }

    /// Tells the engine that F or Q is lost, as `error` shows.
    pub(super) fn aux_connection_lost(&mut self, via: AuxConnection, error: DriverError) {
        let why = chain(&error);
        self.failure = Some(error);
        let input = Input::AuxConnectionLost { via, why };
        self.engine.handle(input, Instant::now());
    }

    /// Takes the session of F or Q that was opened again, or tells the engine why none could be
    /// opened.
    pub(super) fn reopened(
        &mut self,
        via: AuxConnection,
        epoch: u64,
        opened: Result<OpenSession, DriverError>,
    ) {
        let input = match opened {
            Ok(opened) => {
                let Some(sessions) = &mut self.sessions else {
                    // L was lost meanwhile, and all connections are opened again.
                    return;
                };
                tracing::info!(connection = via.purpose(), "connected again");
                sessions.reopened(via, epoch, opened);
                self.failure = None;
                Input::Reopened { via }
            }
            Err(error) => {
                let Verdict { code, is_permanent } = error.verdict();
                let why = chain(&error);
                self.failure = Some(error);
                Input::ReopenFailed {
                    via,
                    code,
                    why,
                    is_permanent,
                }
            }
        };
        self.engine.handle(input, Instant::now());
    }
}

/// Returns the snapshot in the answers to a statement that sends a token; `None` if they have none.
fn snapshot_in(answers: &[SimpleQueryMessage]) -> Option<Snapshot> {
    answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten()?.parse().ok(),
        _ => None,
    })
}
