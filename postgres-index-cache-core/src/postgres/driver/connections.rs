//! The connections of a [`Driver`]: how they are opened, lost, and opened again, and what is sent by them.

use super::{Driver, DriverEvent, Event};
use crate::postgres::error::{DriverError, chain};
use crate::postgres::links::Opener;
use crate::postgres::session::{quote_identifier, quote_literal};
use crate::sync::{Failure, Input, Via};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

impl Driver {
    pub(super) fn disconnected(&mut self, failure: Failure, retry_in: Option<Duration>) -> Result<(), DriverError> {
        self.links = None;
        self.reads.end();
        self.epochs += 1;
        self.epoch = self.epochs;
        self.connect_task.take().inspect(JoinHandle::abort);
        let since = self.engine.proven_at();
        self.tell(DriverEvent::Disconnected { why: failure.to_string(), since, retry_in });
        match retry_in {
            Some(_) => {
                self.failure = None;
                Ok(())
            }
            None if matches!(failure, Failure::ReadsCut { .. }) => Err(DriverError::Failed(failure)),
            None => Err(self.failure.take().unwrap_or(DriverError::Failed(failure))),
        }
    }

    pub(super) fn connect(&mut self, channels: Vec<String>) {
        let opener = self.opener();
        let epoch = opener.epoch;
        self.epoch = epoch;
        self.connect_task = Some(tokio::spawn(async move {
            let event = match opener.all(&channels).await {
                Ok(links) => Event::Connected { epoch, links: Box::new(links) },
                Err(error) => Event::ConnectFailed { epoch, error },
            };
            // A driver that is gone wants to hear nothing.
            let _ = opener.events.send(event).await;
        }));
    }

    /// LISTENs on more channels: done while L is polled.
    pub(super) fn listen_also(&mut self, channels: &[String]) {
        let Some(links) = &self.links else { return };
        let (listening, sender, epoch) = (links.listener.listen_also(channels), self.sender.clone(), self.epoch);
        tokio::spawn(async move {
            // A driver that is gone wants to hear nothing.
            let _ = sender.send(Event::ListensAlso { epoch, listened: listening.await }).await;
        });
    }

    /// Opens what gets the next number.
    pub(super) fn opener(&mut self) -> Opener {
        self.epochs += 1;
        let (open, options, events) = (Arc::clone(&self.open), self.options.clone(), self.sender.clone());
        Opener { open, options, events, epoch: self.epochs, reads: !self.tables.is_empty() }
    }

    /// F or Q; `None` while it is lost.
    pub(super) fn client(&self, via: Via) -> Option<(Arc<Client>, u64)> {
        self.links.as_ref()?.client(via)
    }

    pub(super) fn is_current(&self, via: Via, epoch: u64) -> bool {
        self.links.as_ref().is_some_and(|links| links.is_current(via, epoch))
    }

    pub(super) fn notify(&self, via: Via, channel: &str, token: String) {
        let Some((client, epoch)) = self.client(via) else { return };
        let sql = format!("NOTIFY {}, {}", quote_identifier(channel), quote_literal(&token));
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let event = match client.batch_execute(&sql).await {
                Ok(()) => Event::Sent { via, epoch, token },
                Err(source) => {
                    let error = DriverError::Server { doing: "send a fence".to_string(), source };
                    Event::SendFailed { via, epoch, token, error }
                }
            };
            // A driver that is gone wants to hear nothing.
            let _ = sender.send(event).await;
        });
    }

    pub(super) fn one_lost(&mut self, via: Via, error: DriverError) {
        let why = chain(&error);
        self.failure = Some(error);
        self.engine.handle(Input::OneLost { via, why }, Instant::now());
    }

    pub(super) fn reopened(&mut self, via: Via, epoch: u64, opened: Result<Arc<Client>, DriverError>) {
        let input = match (opened, &mut self.links) {
            (Ok(client), Some(links)) => {
                self.failure = None;
                links.reopened(via, epoch, client);
                Input::Reopened { via }
            }
            (Ok(_), None) => return,
            (Err(error), _) => {
                let (code, is_permanent) = error.verdict();
                let why = chain(&error);
                self.failure = Some(error);
                Input::ReopenFailed { via, code, why, is_permanent }
            }
        };
        self.engine.handle(input, Instant::now());
    }
}
