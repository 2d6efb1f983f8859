//! How a relay connects to NATS anew and reads the log, for [`WriterOutput::Recover`].
//!
//! [`WriterOutput::Recover`]: crate::log::WriterOutput::Recover

use super::Lead;
use crate::log::{Message, Place, Recovered, Sequence, WriterInput};
use crate::nats::append::Appender;
use crate::nats::error::LogError;
use crate::nats::follow::random_share;
use crate::nats::names::LogName;
use crate::nats::relay::{ConnectNats, RelayEvent};
use crate::nats::snapshot;
use crate::nats::source::LogSource;
use crate::nats::stream::{LogStorage, NatsLog, StoredMessage};
use crate::postgres::SupervisedTable;
use crate::postgres::error_chain::chain;
use async_nats::Subscriber;
use futures_util::TryStreamExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The wait after NATS could not be reached.
const RETRY: Duration = Duration::from_millis(500);

/// The log as a recovery has found it.
pub(super) struct Look {
    questions: Subscriber,
    log: NatsLog,
    round: u64,
    found: Recovered,
    /// The number of the last message that was ever stored.
    last: Sequence,
}

impl<T: SupervisedTable> Lead<T> {
    /// Connects to NATS anew, and reads the log from the first of the places that stands there.
    pub(super) fn recover(&mut self, round: u64, places: Vec<Place>) {
        // Nothing of before is sent any more.
        self.appender = None;
        if let Some(earlier) = self.recovery.take() {
            earlier.abort();
        }
        let connect = Arc::clone(&self.connect);
        let made = (self.options.storage, self.log.source().cloned());
        let (name, events) = (self.log.name().clone(), self.events.clone());
        let wait = self.waits.recover.next(random_share());
        self.recovery = Some(tokio::spawn(async move {
            // A server that refuses each entry must not be asked again as fast as it answers.
            tokio::time::sleep(wait).await;
            loop {
                let looked = look(&connect, &name, made.clone(), round, &places).await;
                match looked {
                    Ok(look) => return Ok(look),
                    Err(error @ LogError::OfAnotherDatabase { .. }) => return Err(error),
                    Err(error) => {
                        // Nobody need listen.
                        let _ = events.send(RelayEvent::Failed(chain(&error)));
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        }));
    }

    /// Goes on with the log as it was found.
    pub(super) fn recovered(&mut self, look: Look) {
        let Look {
            questions,
            log,
            round,
            found,
            last,
        } = look;
        self.asking = questions;
        self.log = log.clone();
        let is_nameless = found.end.is_none() || std::mem::take(&mut self.has_forgotten);
        self.appender = Some(Appender::start(log, is_nameless.then_some(last)));
        let input = WriterInput::Recovered { round, found };
        self.writer.handle(input, Instant::now());
    }
}

/// Connects to NATS, and reads the log from the first of the places that stands there.
async fn look(
    connect: &ConnectNats,
    name: &LogName,
    (storage, source): (LogStorage, Option<LogSource>),
    round: u64,
    places: &[Place],
) -> Result<Look, LogError> {
    let log = NatsLog::new(connect().await?, name.clone())
        .await?
        .of(source);
    log.set_up(storage).await?;
    let questions = log.questions().await?;
    let last = log.last().await?;
    let end = last.as_ref().and_then(StoredMessage::entry);
    let last = match last {
        Some(last) => last.sequence,
        None => log.last_sequence().await?,
    };
    let mut messages = Vec::new();
    for place in places.iter().filter(|place| place.sequence <= last) {
        if snapshot::stands(&log, *place).await? {
            let stored: Vec<StoredMessage> = log.range(place.sequence, last).try_collect().await?;
            let entries = stored.iter().filter_map(|message| {
                Some(Message {
                    sequence: message.sequence,
                    entry: message.entry()?,
                })
            });
            messages = entries.collect();
            break;
        }
    }
    Ok(Look {
        questions,
        log,
        round,
        found: Recovered {
            messages,
            end: end.map(|entry| entry.position),
        },
        last,
    })
}
