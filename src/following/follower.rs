//! [`Follower`]: a driver that goes on when a table is altered: it is described afresh and loaded anew.
//!
//! ```text
//! driver ─ it saw DDL, or failed ─→ describe afresh ─ as before ─→ go on, or the failure
//!                                        └─ another ─→ load anew beside the old ─→ the new driver takes its place
//! ```
//!
//! Until then the old caches can be asked. Meanwhile both take memory.

use super::explain_failure;
use super::subject::{Subject, prepare};
use crate::catalog;
use crate::connect::Server;
use postgres_index_cache_core::postgres::{Driver, DriverEvent, passes};
use postgres_index_cache_core::sync::Backoff;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Other tables than before, live; `None`: they are as they were.
type Others = Option<(Driver, Vec<Subject>)>;

/// Describes afresh what is followed; the client is the future's own.
pub type Describe = Arc<dyn Fn(Client) -> Later<anyhow::Result<Vec<Subject>>> + Send + Sync>;

/// Describes tables afresh of which every column is followed that is announced.
pub fn announced_again(subjects: &[Subject]) -> Describe {
    let oids: Arc<[u32]> = subjects.iter().map(|subject| subject.table.oid).collect();
    Arc::new(move |client| {
        let oids = Arc::clone(&oids);
        Box::pin(async move {
            let tables = catalog::describe_all(&client, &oids).await?;
            tables.into_iter().map(|table| Subject::announced(table, &mut Vec::new())).collect()
        })
    })
}

/// How long it may take to describe the tables afresh.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// The driver has done something, perhaps.
    On,
    /// A table was altered: driver, caches and subjects are others from now on, and live.
    Anew,
}

/// Tables that are followed.
pub struct Follower {
    server: Server,
    describe: Describe,
    max_memory: usize,
    subjects: Vec<Subject>,
    driver: Driver,
    /// What the driver failed with, while it is looked at whether a table was altered.
    failure: Option<anyhow::Error>,
    /// A look whether a table was altered, which is underway, and whether one was altered since it began.
    anew: Option<Later<anyhow::Result<Others>>>,
    is_altered_since: bool,
    /// Why the last look came to nothing, while the driver goes on.
    refusal: Option<String>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("subjects", &self.subjects).finish_non_exhaustive()
    }
}

impl Follower {
    /// A follower of `subjects`, which `describe` can describe afresh, whose driver is live.
    pub fn new(
        server: Server,
        describe: Describe,
        max_memory: usize,
        subjects: Vec<Subject>,
        mut driver: Driver,
    ) -> Self {
        driver.tell_of_rows();
        let (failure, anew, is_altered_since, refusal) = (None, None, false, None);
        Self { server, describe, max_memory, subjects, driver, failure, anew, is_altered_since, refusal }
    }

    /// The driver that there is now.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The same, to be asked for something.
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// The tables, by their places in the driver.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<DriverEvent> {
        let events: Vec<DriverEvent> = self.driver.take_events().collect();
        if events.iter().any(|event| matches!(event, DriverEvent::Altered { .. })) {
            self.look_again();
        }
        events
    }

    /// Waits for something to happen. May be given up at any point.
    ///
    /// # Errors
    /// Whatever ends it for good; its caches can still be read.
    pub async fn step(&mut self) -> anyhow::Result<Stepped> {
        let looked = async {
            match &mut self.anew {
                Some(anew) => anew.await,
                None => std::future::pending().await,
            }
        };
        let goes_on = self.failure.is_none() && !self.driver.engine().has_ended();
        let looked = tokio::select! {
            looked = looked => looked,
            stepped = self.driver.step(), if goes_on => {
                if let Err(error) = stepped {
                    self.failure = Some(explain_failure(error));
                    self.look_again();
                }
                return Ok(Stepped::On);
            }
        };
        self.anew = None;
        if let Ok(Some((driver, subjects))) = looked {
            (self.driver, self.subjects) = (driver, subjects);
            (self.failure, self.is_altered_since) = (None, false);
            return Ok(Stepped::Anew);
        }
        if std::mem::take(&mut self.is_altered_since) {
            self.look_again();
            return Ok(Stepped::On);
        }
        match (looked, self.failure.take()) {
            (Ok(_), None) => Ok(Stepped::On),
            (Ok(_) | Err(_), Some(failure)) => Err(failure),
            (Err(error), None) if self.driver.engine().has_ended() => Err(error),
            (Err(error), None) => {
                // The driver goes on; if it cannot, it will say why.
                tracing::warn!(%error, "the tables could not be described again");
                self.refusal = Some(format!("{error:#}"));
                Ok(Stepped::On)
            }
        }
    }

    /// Why the last look came to nothing, while the driver goes on.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Whether it is being looked at whether a table was altered.
    pub fn is_looking(&self) -> bool {
        self.anew.is_some()
    }

    /// Follows the tables once more, described afresh, whatever has ended the driver.
    pub fn reconnect(&mut self) {
        self.refusal = None;
        self.look(true);
    }

    /// Begins to look whether the tables are others than they were; once more, when it is being looked already.
    fn look_again(&mut self) {
        if self.anew.is_some() {
            self.is_altered_since = true;
        } else {
            self.look(false);
        }
    }

    /// Looks, and loads anew when the tables are others, or in any case.
    fn look(&mut self, in_any_case: bool) {
        let (server, describe, max_memory) = (self.server.clone(), Arc::clone(&self.describe), self.max_memory);
        let before = self.subjects.clone();
        let look = move || {
            let (server, describe, before) = (server.clone(), Arc::clone(&describe), before.clone());
            look_once(server, describe, max_memory, before, in_any_case)
        };
        self.anew = Some(Box::pin(async move {
            let mut backoff = Backoff::default();
            loop {
                match look().await {
                    // What was altered stays so: until it is described, nothing is known of it.
                    Err(error) if passes(error.as_ref()) => {
                        tracing::warn!(%error, "the tables could not be described again");
                        tokio::time::sleep(backoff.next(fastrand::f64())).await;
                    }
                    looked => return looked,
                }
            }
        }));
    }
}

/// Describes the tables afresh, and loads them when they are others, or in any case.
async fn look_once(
    server: Server,
    describe: Describe,
    max_memory: usize,
    before: Vec<Subject>,
    in_any_case: bool,
) -> anyhow::Result<Others> {
    let described = async { describe(server.client().await?).await };
    let subjects = tokio::time::timeout(DESCRIBE_TIMEOUT, described).await??;
    let is_same = |(before, now): (&Subject, &Subject)| {
        before.channel == now.channel && before.shown == now.shown && before.follow.is_same_table(&now.follow)
    };
    if !in_any_case && before.len() == subjects.len() && before.iter().zip(&subjects).all(is_same) {
        return Ok(None);
    }
    let client = server.client().await?;
    let options = prepare(&client, &subjects, max_memory).await?;
    drop(client);
    let follows = subjects.iter().map(|subject| subject.follow.clone()).collect();
    let mut driver = Driver::open(server, follows, options).await?;
    driver.until_live(|_| {}).await?;
    driver.tell_of_rows();
    Ok(Some((driver, subjects)))
}
