//! The connections of a [`Driver`]: how they are opened, lost, and opened again, and what is sent
//! by them.

use crate::postgres::connection::session::{quote_identifier, quote_literal};
use crate::postgres::connection::sessions::{OpenedSessions, Opener};
use crate::postgres::driver::{Driver, DriverEvent, Event};
use crate::postgres::error::{DriverError, chain};
use crate::postgres::schema::catalog::who_is;
use crate::sync::{AuxConnection, Failure, Input, TableId};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

impl Driver {
    pub(super) fn disconnected(
        &mut self,
        failure: Failure,
        retry_in: Option<Duration>,
    ) -> Result<(), DriverError> {
        self.links = None;
        self.reads.end();
        self.epochs += 1;
        self.epoch = self.epochs;
        self.connect_task.take().inspect(JoinHandle::abort);
        let since = self.engine.proven_at();
        self.emit(DriverEvent::Disconnected {
            why: failure.to_string(),
            since,
            retry_in,
        });
        match retry_in {
            Some(_) => {
                self.failure = None;
                Ok(())
            }
            None if matches!(failure, Failure::ReadsCut { .. }) => {
                Err(DriverError::Failed(failure))
            }
            None => Err(self.failure.take().unwrap_or(DriverError::Failed(failure))),
        }
    }

    pub(super) fn connect(&mut self, channels: Vec<String>) {
        let opener = self.opener();
        let epoch = opener.epoch;
        self.epoch = epoch;
        self.connect_task = Some(tokio::spawn(async move {
            let event = match opener.all(&channels).await {
                Ok(links) => Event::Connected {
                    epoch,
                    links: Box::new(links),
                },
                Err(error) => Event::ConnectFailed { epoch, error },
            };
            // A driver that is gone wants to hear nothing.
            let _ = opener.events.send(event).await;
        }));
    }

    /// LISTENs on more channels: done while L is polled.
    pub(super) fn listen_also(&mut self, channels: &[String]) {
        let Some(links) = &self.links else { return };
        let listening = links.listener.listen_also(channels);
        let sender = self.sender.clone();
        let epoch = self.epoch;
        tokio::spawn(async move {
            // A driver that is gone wants to hear nothing.
            let _ = sender
                .send(Event::ListensAlso {
                    epoch,
                    listened: listening.await,
                })
                .await;
        });
    }

    /// Opens what gets the next number.
    pub(super) fn opener(&mut self) -> Opener {
        self.epochs += 1;
        let open = Arc::clone(&self.open);
        let options = self.options.clone();
        let events = self.sender.clone();
        Opener {
            open,
            options,
            events,
            epoch: self.epochs,
            reads: !self.tables.is_empty(),
        }
    }

    /// F or Q; `None` while it is lost.
    pub(super) fn client(&self, via: AuxConnection) -> Option<(Arc<Client>, u64)> {
        self.links.as_ref()?.client(via)
    }

    pub(super) fn is_current(&self, via: AuxConnection, epoch: u64) -> bool {
        self.links
            .as_ref()
            .is_some_and(|links| links.is_current(via, epoch))
    }

    /// What is sent for a token of the engine: others can see the one, and cannot know the other
    /// before.
    fn sent_for(&self, token: &str) -> String {
        let digest = Sha256::new_with_prefix(self.secret)
            .chain_update(token)
            .finalize();
        let digest: String = digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{token}.{digest}")
    }

    /// The token of the engine for which this was sent, if it is ours: the process that sent it
    /// serves F or Q.
    ///
    /// Without this: 1. Somebody reads the name of the channel in pg_stat_activity, and sends the
    /// next token at once. 2. The fence counts as arrived, though changes before it are still on
    /// their way. 3. A reader is told that what it reads is current.
    pub(super) fn own_token<'a>(&self, sender: i32, sent: &'a str) -> Option<&'a str> {
        let (token, _) = sent.rsplit_once('.')?;
        let is_ours = self
            .links
            .as_ref()
            .is_some_and(|links| links.are_served_by(sender));
        (is_ours && self.sent_for(token) == sent).then_some(token)
    }

    pub(super) fn notify(&self, via: AuxConnection, channel: &str, token: String) {
        let Some((client, epoch)) = self.client(via) else {
            return;
        };
        let sql = format!(
            "NOTIFY {}, {}",
            quote_identifier(channel),
            quote_literal(&self.sent_for(&token))
        );
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let event = match client.batch_execute(&sql).await {
                Ok(()) => Event::Sent { via, epoch, token },
                Err(source) => {
                    let error = DriverError::Server {
                        doing: "send a fence".to_string(),
                        source,
                    };
                    Event::SendFailed {
                        via,
                        epoch,
                        token,
                        error,
                    }
                }
            };
            // A driver that is gone wants to hear nothing.
            let _ = sender.send(event).await;
        });
    }

    /// Tells that a table is read again. Where a notification is the cause, F is asked first who
    /// sent it.
    pub(super) fn emit_read_scheduled(&mut self, table: TableId, why: String, sender: Option<i32>) {
        let Some(sender) = sender else {
            return self.emit(DriverEvent::ReadAgain { table, why });
        };
        let Some((client, _)) = self.client(AuxConnection::Fences) else {
            return self.sender_known(table, &why, sender, None);
        };
        let events = self.sender.clone();
        tokio::spawn(async move {
            let who = who_is(&*client, sender).await;
            // A driver that is gone wants to hear nothing.
            let _ = events
                .send(Event::SenderKnown {
                    table,
                    why,
                    sender,
                    who,
                })
                .await;
        });
    }

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
        self.engine.handle(
            Input::CauseKnown {
                table,
                of: &of,
                known: &known,
            },
            Instant::now(),
        );
        self.emit(DriverEvent::ReadAgain {
            table,
            why: why.replace(&of, &known),
        });
    }

    pub(super) fn aux_connection_lost(&mut self, via: AuxConnection, error: DriverError) {
        let why = chain(&error);
        self.failure = Some(error);
        self.engine
            .handle(Input::AuxConnectionLost { via, why }, Instant::now());
    }

    pub(super) fn reopened(
        &mut self,
        via: AuxConnection,
        epoch: u64,
        opened: Result<OpenedSessions, DriverError>,
    ) {
        let input = match (opened, &mut self.links) {
            (Ok(opened), Some(links)) => {
                self.failure = None;
                links.reopened(via, epoch, opened);
                Input::Reopened { via }
            }
            (Ok(_), None) => return,
            (Err(error), _) => {
                let (code, is_permanent) = error.verdict();
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
