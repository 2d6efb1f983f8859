//! The doubt of a relay behind each connection: whether its sessions are in the log's database.
//!
//! ```text
//! sessions lost, or new ─→ in doubt: nothing is published ─→ F is asked ─┬─ the same: go on
//!                                                                        └─ another: the term ends
//! ```
//!
//! Without the doubt:
//!
//! 1. The sessions are lost, and the name of the server leads to another database by then.
//! 2. The driver reads the tables there, and finds rows that differ.
//! 3. They are published as changes, and all nodes have them, live.

use super::{Ended, Lead};
use crate::nats::error::LogError;
use crate::nats::relay::RelayEvent;
use crate::nats::source::{LogSource, PATIENCE};
use crate::nats::stream::ENTRIES;
use crate::postgres::error_chain::chain;
use crate::postgres::{DriverError, SupervisedTable};
use crate::sync::State;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The time between two questions, if the first has failed.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Which database the sessions are in, as far as is known.
#[derive(Default)]
pub(super) struct Doubt {
    /// The number of gaps in front of the connection whose database is known to be the log's.
    proven: Option<u64>,
    /// The question that is underway.
    pub(super) asking: Option<JoinHandle<Asked>>,
    /// The number of gaps in front of the connection that was asked last.
    asked: u64,
    /// When to ask again, if the last question has failed.
    pub(super) ask_at: Option<Instant>,
}

/// The answer of a connection, behind so many gaps.
pub(super) type Asked = (u64, Result<Option<LogSource>, DriverError>);

impl<T: SupervisedTable> Lead<T> {
    /// Returns whether the rows in the caches may be those of another database than the log's.
    pub(super) fn is_in_doubt(&self) -> bool {
        let gaps = self.supervisor.driver().engine().counters().gaps;
        self.log.source().is_some() && self.doubt.proven != Some(gaps)
    }

    /// Publishes that nothing is known, and asks which database it is, once there is a session that
    /// L has heard.
    pub(super) fn doubt(&mut self, now: Instant) {
        // Rows of another database may be in the caches that it reads.
        if self.snapshot.take().is_some() {
            self.writer.give_up_snapshot();
        }
        let engine = self.supervisor.driver().engine();
        let gaps = engine.counters().gaps;
        if gaps > 0 {
            self.tables.why = "the connection to PostgreSQL was lost".to_string();
        }
        // What is told next are the events that wait, from the loss on.
        self.tables.state = State::Disconnected;
        self.become_live(false, now);
        // A connection that is lost may not say so for long.
        let is_of_earlier = self.doubt.asked != gaps;
        self.doubt
            .asking
            .take_if(|_| is_of_earlier)
            .inspect(JoinHandle::abort);
        if self.doubt.asking.is_some() || self.doubt.ask_at.is_some_and(|at| at > now) {
            return;
        }
        self.doubt.ask_at = None;
        let Some(client) = self.supervisor.driver().proven_client() else {
            return;
        };
        self.doubt.asked = gaps;
        self.doubt.asking = Some(tokio::spawn(async move {
            let rows = client.query_typed(LogSource::QUERY, &[]);
            let source = match tokio::time::timeout(PATIENCE, rows).await {
                Ok(rows) => LogSource::of_rows(rows),
                Err(_) => Err(DriverError::Silent(PATIENCE)),
            };
            (gaps, source)
        }));
    }

    /// Takes the answer.
    pub(super) fn take_source(&mut self, (gaps, seen): Asked) {
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                let _ = self.events.send(RelayEvent::Failed(chain(&error)));
                self.doubt.ask_at = Some(Instant::now() + ASK_AGAIN);
                return;
            }
        };
        match self.log.source().zip(seen) {
            Some((own, seen)) if !own.is_same(&seen) => {
                let error = LogError::OfAnotherDatabase {
                    stream: self.log.name().stream(),
                    description: LogSource::described(Some(own), ENTRIES),
                    own: LogSource::described(Some(&seen), ENTRIES),
                };
                // Nobody need listen.
                let _ = self.events.send(RelayEvent::Failed(chain(&error)));
                self.ended = Some(Ended::SteppedDown);
            }
            // A server that does not say is taken for the log's.
            Some(_) | None => self.doubt.proven = Some(gaps),
        }
    }
}
