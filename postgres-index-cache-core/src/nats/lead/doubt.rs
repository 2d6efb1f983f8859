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
use crate::nats::source::LogSource;
use crate::postgres::error_chain::chain;
use crate::postgres::{DriverError, SupervisedTable};
use std::time::Instant;
use tokio::task::JoinHandle;

/// Which database the sessions are in, as far as is known.
#[derive(Default)]
pub(super) struct Doubt {
    /// The number of gaps in front of the connection whose database is known to be the log's.
    proven: Option<u64>,
    /// The question, with the number of gaps in front of the connection that is asked.
    pub(super) asking: Option<JoinHandle<Asked>>,
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
        self.snapshot = None;
        let engine = self.supervisor.driver().engine();
        let gaps = engine.counters().gaps;
        if gaps > 0 {
            self.tables.why = "the connection to PostgreSQL was lost".to_string();
        }
        self.become_live(false, now);
        if self.doubt.asking.is_none()
            && let Some(client) = self.supervisor.driver().proven_client()
        {
            self.doubt.asking = Some(tokio::spawn(async move {
                let rows = client.query_typed(LogSource::QUERY, &[]).await;
                (gaps, LogSource::of_rows(rows))
            }));
        }
    }

    /// Takes the answer.
    pub(super) fn take_source(&mut self, (gaps, seen): Asked) {
        let seen = match seen {
            Ok(seen) => seen,
            // The session is lost. The next one is asked.
            Err(error) => {
                return tracing::debug!(error = chain(&error), "not known which database");
            }
        };
        match self.log.source().zip(seen) {
            Some((own, seen)) if !own.is_same(&seen) => {
                let error = LogError::OfAnotherDatabase {
                    stream: self.log.name().stream(),
                    description: own.to_string(),
                    own: seen.to_string(),
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
