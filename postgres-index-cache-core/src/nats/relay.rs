//! [`Relay`]: follows a log until nobody writes, then leads.
//!
//! ```text
//!            the lock is had, and the log's end reached
//! standing by ─────────────────────────────────────────→ leading
//!      ▲                                                    │
//!      └──── another relay writes, or the lock is lost ─────┘
//! ```

use super::description::TableDescription;
use super::error::LogError;
use super::follow::{Follow, random};
use super::image::LoggedTable;
use super::lead::{Ended, Lead};
use super::names::LogName;
use super::source::{LogDatabase, LogSource};
use super::stream::{LogStorage, NatsLog, StoredMessage};
use super::turn_lock::TurnLock;
use crate::log::{Base, Sequence, Writer, WriterLimits};
use crate::postgres::{
    Connector, Describe, DriverError, DriverOptions, SupervisedTable, Supervisor, Unfollowed,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A function that connects to NATS. It is called again whenever a relay must not send what waits
/// in an earlier connection.
pub type ConnectNats = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<async_nats::Client, LogError>> + Send>>
        + Send
        + Sync,
>;

/// The time between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_secs(1);

/// The time between two attempts to lead a log that is another database's.
const SOURCE_RETRY: Duration = Duration::from_secs(5);

/// Bounds of a writer.
/// Returns the bounds of a writer on a server that takes messages of `max_payload` bytes.
fn limits(max_payload: usize) -> WriterLimits {
    /// The bytes of a message beside the changes: headers, names, positions.
    const HEAD: usize = 8 << 10;
    WriterLimits {
        answer_timeout: Duration::from_secs(5),
        most_unanswered: 16 << 20,
        kept: 16 << 20,
        most_deferred: 64 << 20,
        longest_entry: max_payload.saturating_sub(HEAD).max(HEAD),
    }
}

/// The settings of a relay.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Name of the relay, for people who look at the log.
    pub writer: String,
    /// The streams, if the relay has to make them.
    pub storage: LogStorage,
    /// Settings of the driver that follows the tables.
    pub driver: DriverOptions,
}

/// News of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayEvent {
    /// The relay follows the log, since another one writes, or until this one may.
    StandingBy,
    /// The relay writes.
    Leading {
        /// Number of the term.
        term: u64,
        /// Whether all nodes must load a snapshot, since the log could not be gone on with.
        is_anew: bool,
    },
    /// All tables are live, or are not any more.
    Live {
        /// Whether they are.
        is_live: bool,
        /// Why not.
        why: String,
    },
    /// A snapshot can be loaded.
    Snapshot {
        /// Number of rows.
        rows: u64,
        /// Bytes of the compressed form.
        bytes: u64,
    },
    /// The log may be one of another database: its stream does not say, or this relay may not know
    /// its own.
    DatabaseUnknown(LogDatabase),
    /// Something failed, and is tried again.
    Failed(String),
}

/// The reason why a relay cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// NATS refuses, or the log is none.
    #[error(transparent)]
    Log(#[from] LogError),
    /// PostgreSQL refuses.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A table cannot be followed.
    #[error(transparent)]
    Unfollowed(#[from] Unfollowed),
    /// The relay cannot go on, for this reason.
    #[error("{0}")]
    Ended(String),
}

/// A relay of some tables.
pub struct Relay<C, T: SupervisedTable> {
    /// Opens sessions with PostgreSQL.
    pub connector: C,
    /// Opens connections to NATS.
    pub connect: ConnectNats,
    /// Name of the log.
    pub name: LogName,
    /// Describes the tables as they are now.
    pub describe: Describe<T>,
    /// Settings.
    pub options: RelayOptions,
    /// Takes the news.
    pub events: mpsc::UnboundedSender<RelayEvent>,
}

/// The log as a relay has found it that is to lead.
struct Standing {
    log: NatsLog,
    /// The log's end and its rows; `None` if the log cannot be gone on with.
    base: Option<(Base, Vec<LoggedTable>)>,
    lock: TurnLock,
}

impl<C: Connector + Clone + 'static, T: SupervisedTable> Relay<C, T> {
    /// Stands by and leads in turns. Ends only with an error. The future may be dropped at any
    /// point: the term is over then, and another relay goes on.
    ///
    /// # Errors
    /// If NATS or PostgreSQL refuse at the start, or a table cannot be followed then.
    pub async fn run(self) -> Result<(), RelayError> {
        let log = self.log().await?;
        let mut source = LogSource::of(self.connector.clone()).await?;
        let database = log.of(source.clone()).set_up(self.options.storage).await?;
        if database != LogDatabase::Same {
            let _ = self.events.send(RelayEvent::DatabaseUnknown(database));
        }
        // Who has stood by, or led, goes on trying: PostgreSQL or NATS may be away for a while.
        let mut goes_on = false;
        loop {
            let led = self.stand_by_and_lead(source.as_ref(), &mut goes_on).await;
            let mut is_moved = matches!(led, Ok(Ended::SteppedDown));
            match led {
                Ok(Ended::SteppedDown) => {}
                Ok(Ended::Failed(why)) => return Err(RelayError::Ended(why)),
                Err(error) if goes_on => {
                    let why = crate::postgres::error_chain::chain(&error);
                    let _ = self.events.send(RelayEvent::Failed(why));
                    // A log of another database is one until somebody does something.
                    let is_lasting =
                        matches!(error, RelayError::Log(LogError::OfAnotherDatabase { .. }));
                    is_moved = is_lasting;
                    let wait = if is_lasting { SOURCE_RETRY } else { LOCK_RETRY };
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
            // The address may lead to another database by now. While none answers, the log is taken
            // for one of the last that did.
            if is_moved && let Ok(now) = LogSource::of(self.connector.clone()).await {
                source = now;
            }
        }
    }

    async fn log(&self) -> Result<NatsLog, LogError> {
        NatsLog::new((self.connect)().await?, self.name.clone()).await
    }

    async fn stand_by_and_lead(
        &self,
        source: Option<&LogSource>,
        goes_on: &mut bool,
    ) -> Result<Ended, RelayError> {
        let standing = Box::pin(self.stand_by(source, goes_on)).await?;
        let Standing { log, base, lock } = standing;
        let ended = Box::pin(self.lead(log, base, lock)).await?;
        *goes_on = true;
        Ok(ended)
    }

    /// Follows the log until the lock is had, and the log's end reached or found to be of no use.
    async fn stand_by(
        &self,
        source: Option<&LogSource>,
        goes_on: &mut bool,
    ) -> Result<Standing, RelayError> {
        let log = self.log().await?.of(source.cloned());
        // They may be lost while nobody leads.
        log.set_up(self.options.storage).await?;
        let mut follow = Follow::standing_by(log.clone(), self.options.driver.max_memory).await?;
        let mut lock = None;
        let mut is_said = false;
        let mut try_at = Instant::now();
        loop {
            if lock.as_ref().is_some_and(TurnLock::is_lost) {
                lock = None;
            }
            if lock.is_none() && try_at <= Instant::now() {
                try_at = Instant::now() + LOCK_RETRY;
                match TurnLock::take(self.connector.clone(), &self.name).await {
                    Ok(taken) => {
                        if let Some(lock) = &taken {
                            // The address may lead to another server than at the start.
                            let log = log.clone().of(lock.source.clone());
                            log.set_up(self.options.storage).await?;
                        }
                        lock = taken;
                    }
                    // A relay that never stood by says at once that it cannot.
                    Err(error) if !*goes_on => return Err(error.into()),
                    Err(error) => {
                        let why = crate::postgres::error_chain::chain(&error);
                        let _ = self.events.send(RelayEvent::Failed(why));
                    }
                }
                *goes_on |= lock.is_none();
                if lock.is_none() && !std::mem::replace(&mut is_said, true) {
                    let _ = self.events.send(RelayEvent::StandingBy);
                }
            }
            if follow.is_closed() {
                return Err(RelayError::Ended(
                    "the connection to NATS was closed".to_string(),
                ));
            }
            let is_empty = lock.is_some() && follow.is_log_empty();
            if let Some(base) = follow.base()
                && let Some(lock) = lock.take()
            {
                return Ok(Standing {
                    log,
                    base: Some(base),
                    lock,
                });
            }
            if (follow.cannot_follow() || is_empty)
                && let Some(lock) = lock.take()
            {
                return Ok(Standing {
                    log,
                    base: None,
                    lock,
                });
            }
            tokio::select! {
                () = follow.step() => {}
                () = tokio::time::sleep_until(try_at.into()), if lock.is_none() => {}
            }
            for event in follow.take_events() {
                if let super::follow::FollowEvent::Failed(why) = event {
                    let _ = self.events.send(RelayEvent::Failed(why));
                }
            }
        }
    }

    /// Leads until the term is over.
    async fn lead(
        &self,
        log: NatsLog,
        base: Option<(Base, Vec<LoggedTable>)>,
        lock: TurnLock,
    ) -> Result<Ended, RelayError> {
        let mut targets = Vec::new();
        for target in (self.describe)().await? {
            targets.push(target?);
        }
        let (base, caches) = fitting(base, &targets)?;
        // Nobody else may lock the caches: what is proven is what was published.
        let options = DriverOptions {
            answers: None,
            ..self.options.driver.clone()
        };
        let opening = Supervisor::open_over(
            self.connector.clone(),
            Arc::clone(&self.describe),
            targets,
            caches,
            options,
        );
        // PostgreSQL is listened to by now, and read from only behind `begin`.
        let mut supervisor = Box::pin(opening).await?;
        let now = Instant::now();
        let name = &self.options.writer;
        let limits = limits(log.client().max_payload());
        let (writer, last) = match base {
            Some(base) => {
                // The rows that differ are published.
                supervisor.driver_mut().record_row_events();
                (Writer::lead(name, base, limits, random(), now), None)
            }
            None => {
                let (end, last) = end_of(&log).await?;
                let writer = Writer::start_anew(name, end, limits, random(), now);
                (writer, last)
            }
        };
        let _ = self.events.send(RelayEvent::Leading {
            term: writer.position().epoch.number,
            is_anew: base.is_none(),
        });
        let lead = Lead::begin(
            log,
            Arc::clone(&self.connect),
            self.options.clone(),
            self.events.clone(),
            supervisor,
            writer,
            last,
        );
        let mut lead = Box::pin(lead).await?;
        let ended = tokio::select! {
            ended = lead.run() => ended,
            () = lost(&lock) => Ended::SteppedDown,
        };
        Ok(ended)
    }
}

/// Returns the log's last entry, and the number of its last message if that is no entry.
async fn end_of(
    log: &NatsLog,
) -> Result<(Option<crate::log::Position>, Option<Sequence>), LogError> {
    let last = log.last().await?;
    let end = last.as_ref().and_then(StoredMessage::entry);
    let last = match (&end, last) {
        (Some(_), _) => None,
        (None, Some(last)) => Some(last.sequence),
        (None, None) => Some(log.last_sequence().await?),
    };
    Ok((end.map(|entry| entry.position), last))
}

/// Returns the log's end and its caches if these are caches of the targets; else no end, and empty
/// caches.
fn fitting<T: SupervisedTable>(
    base: Option<(Base, Vec<LoggedTable>)>,
    targets: &[T],
) -> Result<(Option<Base>, Vec<SharedCache>), LogError> {
    let described: Vec<TableDescription> = targets
        .iter()
        .map(|target| {
            let config = target.config();
            let followed = &config.followed;
            TableDescription::new(&followed.schema, &followed.name, &config.shape)
        })
        .collect();
    if let Some((base, tables)) = base
        && tables.len() == described.len()
    {
        let cache_of = |description| {
            let found = tables
                .iter()
                .find(|table| &table.description == description);
            found.map(|table| Arc::clone(&table.cache))
        };
        let caches: Option<Vec<_>> = described.iter().map(cache_of).collect();
        if let Some(caches) = caches {
            return Ok((Some(base), caches));
        }
    }
    let empty = described.into_iter().map(LoggedTable::empty);
    let caches: Result<Vec<_>, _> = empty.map(|table| table.map(|table| table.cache)).collect();
    Ok((None, caches?))
}

type SharedCache = Arc<parking_lot::RwLock<crate::table_cache::TableCache>>;

/// Waits until the lock is lost.
async fn lost(lock: &TurnLock) {
    while !lock.is_lost() {
        tokio::time::sleep(LOCK_RETRY).await;
    }
}
