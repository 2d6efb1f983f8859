//! [`Supervisor`]: a driver whose tables are followed on when they are altered, renamed, swapped or
//! silenced.
//!
//! ```text
//! driver ─ a table is another one: it is held ─→ describe all tables afresh, by their names
//!    ↑                                              ├─ one can be followed ─→ resume: read anew
//!    │                                              └─ one cannot ─→ stale, with the cause
//!    └────────────────────────────── again after a random while, for ever ←──┘
//! ```
//!
//! Who names a table follows the name. After a swap, or a DROP and a CREATE, the table that has the
//! name now is loaded and followed; in between it is stale. Each table is held and resumed alone,
//! so one that is gone or silenced leaves the others live. While a table is loaded into a cache of
//! another shape, the old rows can still be read.
//!
//! An application's [`Replica`](crate::Replica) and the tool's shell, `query --watch` and `tail
//! --diff` all run a supervisor.

use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::sink_writer::SinkWriter;
use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::Connector;
use crate::postgres::driver::{Driver, DriverEvent, Loaded};
use crate::postgres::error::DriverError;
use crate::postgres::options::DriverOptions;
use crate::postgres::schema::eligibility::TableConfig;
use crate::sync::{Backoff, FenceId, State, TableId};
use crate::table_cache::{TableCache, TableShape};
use foldhash::quality::RandomState;
use parking_lot::{RwLock, RwLockReadGuard};
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long it may take to describe the tables. The server may have accepted the connection and
/// then say nothing.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// A table as somebody follows it.
pub trait SupervisedTable: Clone + Send + Sync + 'static {
    /// Returns the table's configuration for the driver.
    fn config(&self) -> &TableConfig;

    /// Returns the channel on which the table's trigger notifies.
    fn channel(&self) -> &str;

    /// Returns whether `other` is this table with these columns, so that nobody need be told of the
    /// difference.
    fn is_same(&self, other: &Self) -> bool;
}

/// The reason why a table, or all of them, cannot be followed now, with the remedy if one is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfollowed(pub String);

/// The result of describing the tables: for each name, in order, the table or the reason why it
/// cannot be followed; or the reason why nothing could be described.
pub type Description<T> = Result<Vec<Result<T, Unfollowed>>, Unfollowed>;

/// A description that is underway.
type Describing<T> = Pin<Box<dyn Future<Output = Description<T>> + Send>>;

/// A function that describes the tables, by their names, as they are now.
pub type Describe<T> = Arc<dyn Fn() -> Describing<T> + Send + Sync>;

/// A function that makes the writer of an application's cache, for rows of a shape.
pub(in crate::postgres) type MakeWriter =
    Box<dyn Fn(&Arc<TableShape>) -> Box<dyn CacheWriter> + Send + Sync>;

type SharedCache = Arc<RwLock<TableCache>>;

/// A cache of the supervisor's own.
struct OwnCache {
    /// The cache that can be read.
    current: SharedCache,
    /// The cache of another shape that is being loaded in its place.
    next: Option<SharedCache>,
}

/// The caches into which the rows go.
enum Caches {
    /// The supervisor's own, one a table.
    Own(Vec<OwnCache>),
    /// The application's: for each table, the function that makes a writer.
    Given(Arc<Vec<MakeWriter>>),
}

/// A table that is supervised.
#[derive(Debug)]
struct Supervised<T> {
    /// The table as its rows can be read.
    current: T,
    /// The table as it is being loaded in place of that.
    next: Option<T>,
}

impl<T> Supervised<T> {
    fn latest(&self) -> &T {
        self.next.as_ref().unwrap_or(&self.current)
    }
}

/// An event of a supervisor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SupervisorEvent {
    /// An event of the driver.
    Driver(DriverEvent),
    /// A table cannot be followed, for this cause from now on.
    Unfollowed {
        /// The table that cannot be followed.
        table: TableId,
        /// The cause, with the remedy if one is known.
        why: String,
    },
    /// The table is live with a new description, which [`Supervisor::targets`] has. The table was
    /// altered, its name means another table now, or all tables were read anew on demand.
    Replaced {
        /// The table whose rows are those of another description now.
        table: TableId,
    },
}

/// The reason why a supervisor that was never live cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The driver cannot go on.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A table cannot be followed.
    #[error(transparent)]
    Unfollowed(#[from] Unfollowed),
}

/// Tables that are followed by their names. Nothing happens unless one of its methods is awaited.
pub struct Supervisor<T: SupervisedTable> {
    driver: Driver,
    describe: Describe<T>,
    tables: Vec<Supervised<T>>,
    caches: Caches,
    /// The description that is underway.
    describing: Option<Describing<T>>,
    /// Whether another description must follow the one that is underway: a table was found altered
    /// meanwhile, or a person asked.
    must_describe_again: bool,
    /// When the tables are described again.
    describe_at: Option<Instant>,
    /// The wait before tables that cannot be followed are described again.
    backoff: Backoff,
    /// The number of the description that began last.
    started: u64,
    /// The number of the last description that is done.
    done: u64,
    /// The first description after which every table is to be read anew, as a person has asked.
    reload_from: Option<u64>,
    /// Whether all tables were loaded or live once. From then on no error ends the supervisor.
    has_been_live: bool,
    events: VecDeque<SupervisorEvent>,
}

impl<T: SupervisedTable + fmt::Debug> fmt::Debug for Supervisor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

fn new_cache(config: &TableConfig) -> SharedCache {
    Arc::new(RwLock::new(config.empty_cache()))
}

fn writer_of(cache: &SharedCache) -> Box<dyn CacheWriter> {
    let decoder = CellDecoder::new(Arc::clone(cache.read().shape()));
    Box::new(SinkWriter::new(Arc::clone(cache), decoder))
}

/// Returns the channels of all tables, each once.
fn channels_of<'a, T: SupervisedTable>(targets: impl Iterator<Item = &'a T>) -> Vec<String> {
    let mut channels: Vec<String> = targets.map(|target| target.channel().to_string()).collect();
    channels.sort();
    channels.dedup();
    channels
}

impl<T: SupervisedTable> Supervisor<T> {
    /// Connects for `targets`, which `describe` can describe afresh, with caches of the
    /// supervisor's own. Nothing is read yet.
    ///
    /// # Errors
    /// If a session cannot be had, or the server refuses to LISTEN.
    pub async fn open(
        connector: impl Connector + 'static,
        describe: Describe<T>,
        targets: Vec<T>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let caches = targets.iter().map(|target| new_cache(target.config()));
        let caches = caches.collect();
        Self::open_over(connector, describe, targets, caches, options).await
    }

    /// Connects, as [`open`](Self::open) does, for caches that may have rows already: one for each
    /// of `targets`, of its shape. The first read is laid over the rows.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_over(
        connector: impl Connector + 'static,
        describe: Describe<T>,
        targets: Vec<T>,
        caches: Vec<Arc<RwLock<TableCache>>>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let caches = caches.into_iter().map(|current| OwnCache {
            current,
            next: None,
        });
        let caches = Caches::Own(caches.collect());
        Self::open_in(open_with(connector), describe, targets, caches, options).await
    }

    /// Connects, as [`open`](Self::open) does, for an application's caches.
    pub(in crate::postgres) async fn open_given(
        open: Open,
        describe: Describe<T>,
        targets: Vec<T>,
        writers: Arc<Vec<MakeWriter>>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        Self::open_in(open, describe, targets, Caches::Given(writers), options).await
    }

    async fn open_in(
        open: Open,
        describe: Describe<T>,
        targets: Vec<T>,
        caches: Caches,
        mut options: DriverOptions,
    ) -> Result<Self, DriverError> {
        options.holds_altered = true;
        options.channels = channels_of(targets.iter());
        let writers: Vec<Box<dyn CacheWriter>> = match &caches {
            Caches::Own(caches) => caches
                .iter()
                .map(|cache| writer_of(&cache.current))
                .collect(),
            Caches::Given(make) => std::iter::zip(&targets, make.iter())
                .map(|(target, make)| make(&target.config().shape))
                .collect(),
        };
        let configs = targets.iter().map(|target| target.config().clone());
        let tables = configs.zip(writers).collect();
        let driver = Driver::open_with_writers(open, tables, options).await?;
        Ok(Self {
            driver,
            describe,
            tables: targets
                .into_iter()
                .map(|current| Supervised {
                    current,
                    next: None,
                })
                .collect(),
            caches,
            describing: None,
            must_describe_again: false,
            describe_at: None,
            backoff: Backoff::default(),
            started: 0,
            done: 0,
            reload_from: None,
            has_been_live: false,
            events: VecDeque::new(),
        })
    }

    /// Returns the driver.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the driver, to be asked for something.
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Returns a table as its rows can be read now.
    pub fn target(&self, table: TableId) -> &T {
        &self.tables[table.0].current
    }

    /// Returns the tables as their rows can be read now, by their places in the driver.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &T> {
        self.tables.iter().map(|table| &table.current)
    }

    /// Locks the rows of a table for reading. They do not change while the guard is held.
    ///
    /// # Panics
    /// If the caches are the application's.
    pub fn cache(&self, table: TableId) -> RwLockReadGuard<'_, TableCache> {
        match &self.caches {
            Caches::Own(caches) => caches[table.0].current.read(),
            Caches::Given(_) => panic!("the caches of an application are read by the application"),
        }
    }

    /// Returns the cache of a table whose rows can be read now.
    ///
    /// # Panics
    /// If the caches are the application's.
    pub fn shared_cache(&self, table: TableId) -> Arc<RwLock<TableCache>> {
        match &self.caches {
            Caches::Own(caches) => Arc::clone(&caches[table.0].current),
            Caches::Given(_) => panic!("the caches of an application are the application's"),
        }
    }

    /// Returns the state of the rows of a table that can be read now.
    pub fn state(&self, table: TableId) -> State {
        match self.driver.table_state(table) {
            // The rows that are live are not yet the ones that can be read.
            State::Live if self.tables[table.0].next.is_some() => State::Snapshotting,
            state => state,
        }
    }

    /// Returns whether the tables are being described.
    pub fn is_describing(&self) -> bool {
        self.describing.is_some()
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = SupervisorEvent> + '_ {
        // A step that was dropped may have left some behind.
        self.take_driver_events();
        self.events.drain(..)
    }

    /// Reads the tables and goes on until every one is live, or as far as it can be: see
    /// [`Driver::until_loaded`]. `progress` is told how far the reads are.
    ///
    /// # Errors
    /// If something keeps a table from being live for good.
    pub async fn until_loaded(
        &mut self,
        mut progress: impl FnMut(Loaded),
    ) -> Result<(), SupervisorError> {
        let fence = self.driver.ask_for_fence()?;
        while !self.driver.is_loaded(fence) {
            self.step_with(&mut progress).await?;
        }
        self.has_been_live = true;
        Ok(())
    }

    /// Returns whether everything that was committed before this fence was asked for is in the
    /// cache of a table that can be read now.
    pub fn has_reached_for(&self, table: TableId, fence: FenceId) -> bool {
        // The cache that is being loaded may not be the one that can be read.
        self.tables[table.0].next.is_none() && self.driver.has_reached_for(table, fence)
    }

    /// Waits for something to happen, and does what follows from it. The future may be dropped at
    /// any point.
    ///
    /// # Errors
    /// If something keeps the tables from being live for the first time. Afterwards there is none.
    pub async fn step(&mut self) -> Result<(), SupervisorError> {
        self.step_with(|_| {}).await
    }

    /// Waits for something to happen, as [`step`](Self::step) does; `progress` is told how far the
    /// reads are.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn step_with(&mut self, progress: impl FnMut(Loaded)) -> Result<(), SupervisorError> {
        let Self {
            driver,
            describing,
            describe_at,
            ..
        } = self;
        let described = async {
            match describing {
                Some(describing) => describing.await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match *describe_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stepped = driver.step_with(progress) => stepped?,
            described = described => {
                self.describing = None;
                self.done = self.started;
                self.take_description(described)?;
            }
            () = due => self.describe_again(),
        }
        self.take_driver_events();
        self.promote();
        self.has_been_live |= self.driver.state() == State::Live;
        Ok(())
    }

    /// Describes the tables afresh now rather than later: the cause that kept one of them from
    /// being followed may have been mended. Returns the number of a description that begins from
    /// now on.
    pub fn look_again(&mut self) -> u64 {
        self.describe_again();
        if self.must_describe_again {
            self.started + 1
        } else {
            self.started
        }
    }

    /// Describes the tables as [`look_again`](Self::look_again) does, and reads every table anew.
    pub fn reload_all(&mut self) -> u64 {
        let number = self.look_again();
        self.reload_from = Some(number);
        number
    }

    /// Returns whether the description of this number is done.
    pub fn has_described(&self, number: u64) -> bool {
        self.done >= number
    }

    /// Describes the tables while the driver goes on. If that is being done already, it is done
    /// once more afterwards: the tables may have been seen before the change.
    fn describe_again(&mut self) {
        self.describe_at = None;
        if self.describing.is_some() {
            self.must_describe_again = true;
            return;
        }
        self.started += 1;
        tracing::info!(number = self.started, "describe the tables");
        let describing = (self.describe)();
        self.describing = Some(Box::pin(async move {
            tokio::time::timeout(DESCRIBE_TIMEOUT, describing)
                .await
                .unwrap_or_else(|_| {
                    Err(Unfollowed(format!(
                        "the tables could not be described within {DESCRIBE_TIMEOUT:?}"
                    )))
                })
        }));
    }

    fn take_driver_events(&mut self) {
        let mut is_altered = false;
        for event in self.driver.take_events() {
            is_altered |= matches!(event, DriverEvent::Altered { .. });
            // A cache that is being loaded in place of another may have other columns. Whoever
            // takes the events knows only the columns of the cache that can be read.
            let is_known = match &event {
                DriverEvent::Row { table, .. } => {
                    let Supervised { current, next } = &self.tables[table.0];
                    next.as_ref()
                        .is_none_or(|next| next.config().shape == current.config().shape)
                }
                _ => true,
            };
            if is_known {
                self.events.push_back(SupervisorEvent::Driver(event));
            }
        }
        if is_altered {
            self.describe_again();
        }
    }

    /// Takes a description: tables that can be followed go on, the others are stale with the cause.
    fn take_description(&mut self, described: Description<T>) -> Result<(), SupervisorError> {
        let described = match described {
            Ok(described) => described,
            Err(Unfollowed(why)) => {
                tracing::warn!(why, "the tables could not be described");
                // A table that is held stays so: nothing is known of it.
                for table in self.held() {
                    self.refuse(table, &why);
                }
                self.driver.apply()?;
                self.schedule_next(true);
                return Ok(());
            }
        };
        // The channels come first: a table is read once its channel is listened to.
        let targets = std::iter::zip(&described, &self.tables)
            .map(|(described, table)| described.as_ref().unwrap_or(table.latest()));
        let channels = channels_of(targets);
        self.driver.set_channels(channels);
        let reloads = self
            .reload_from
            .take_if(|from| *from <= self.done)
            .is_some();
        let mut is_refused = false;
        for (at, described) in described.into_iter().enumerate().take(self.tables.len()) {
            match described {
                Ok(target) => self.follow(TableId(at), target, reloads),
                Err(error) if !self.has_been_live => return Err(error.into()),
                Err(Unfollowed(why)) => {
                    is_refused = true;
                    self.refuse(TableId(at), &why);
                }
            }
        }
        // Whoever asks next must not be told the states of before.
        self.driver.apply()?;
        self.schedule_next(is_refused);
        Ok(())
    }

    /// Sees to the next description: at once if one must follow, later if a table `is_refused`.
    fn schedule_next(&mut self, is_refused: bool) {
        if std::mem::take(&mut self.must_describe_again) {
            self.describe_again();
        } else if is_refused {
            let random = RandomState::default().build_hasher().finish() as f64 / u64::MAX as f64;
            self.describe_at = Some(Instant::now() + self.backoff.next(random));
        } else {
            self.backoff.reset();
        }
    }

    /// Follows a table as `target` describes it, and reads it anew if that is needed.
    fn follow(&mut self, table: TableId, target: T, reloads: bool) {
        let own = &mut self.tables[table.0];
        let is_same = own.latest().is_same(&target);
        if is_same && !self.driver.is_held(table) && !reloads {
            return;
        }
        let config = target.config().clone();
        let writer = match &mut self.caches {
            Caches::Given(make) => (!is_same).then(|| make[table.0](&config.shape)),
            Caches::Own(caches) => {
                let cache = &mut caches[table.0];
                let latest = cache.next.as_ref().unwrap_or(&cache.current);
                // Rows of the same columns are merged into those that are there, so that the
                // differences are told.
                let fits = *latest.read().shape() == config.shape;
                (!fits).then(|| {
                    let next = new_cache(&config);
                    let writer = writer_of(&next);
                    cache.next = Some(next);
                    writer
                })
            }
        };
        if !is_same || reloads {
            own.next = Some(target);
        }
        self.driver.resume(table, config, writer);
    }

    /// Holds a table that cannot be followed.
    fn refuse(&mut self, table: TableId, why: &str) {
        let is_news = self.driver.engine().cause(table) != Some(why);
        self.driver.hold(table, why.to_string());
        if is_news {
            self.events.push_back(SupervisorEvent::Unfollowed {
                table,
                why: why.to_string(),
            });
        }
    }

    fn held(&self) -> Vec<TableId> {
        (0..self.tables.len())
            .map(TableId)
            .filter(|table| self.driver.is_held(*table))
            .collect()
    }

    /// Lets tables that were loaded in place of others be read, once they are live.
    fn promote(&mut self) {
        for at in 0..self.tables.len() {
            let table = TableId(at);
            if self.driver.table_state(table) != State::Live {
                continue;
            }
            let own = &mut self.tables[at];
            let Some(next) = own.next.take() else {
                continue;
            };
            own.current = next;
            if let Caches::Own(caches) = &mut self.caches
                && let Some(loaded) = caches[at].next.take()
            {
                caches[at].current = loaded;
            }
            self.events.push_back(SupervisorEvent::Replaced { table });
        }
    }
}
