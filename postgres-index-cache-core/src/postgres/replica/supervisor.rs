//! [`Supervisor`]: a driver whose tables are followed on when they are altered, renamed, swapped or
//! silenced.
//!
//! ```text
//! driver ─ a table is another one: it is held ─→ describe all tables afresh, by their names
//!    ↑                                              ├─ it can be followed ──────→ resume: read anew
//!    │                                              └─ it cannot ─→ stale, with the cause ─→ again after a while, for ever
//!    └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Who names a table follows the name. The tables are described by the names that were given, so
//! after a swap, or a DROP and a CREATE, the table that has the name now is loaded and followed; in
//! between it is stale. Each table is held and resumed alone: one that is gone or silenced leaves
//! the others live. While a table is loaded into a cache of another shape, the rows that were there
//! before can still be read.
//!
//! An application's [`Replica`](crate::postgres::Replica) and the tool's shell, `query --watch` and `tail
//! --diff` all run this.

use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::writer::{CacheWriter, SinkWriter};
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

/// How long it may take to describe the tables.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// A table as somebody follows it.
pub trait SupervisedTable: Clone + Send + Sync + 'static {
    /// What the driver is told of it.
    fn follow(&self) -> &TableConfig;

    /// The channel that its trigger notifies on.
    fn channel(&self) -> &str;

    /// Whether `other` is the same table with the same columns, so that nobody need be told of it.
    fn is_same(&self, other: &Self) -> bool;
}

/// Why a table, or all of them, cannot be followed now: what is wrong, and the remedy where one is
/// known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfollowed(pub String);

/// What describing the tables gives: each table, in the order of its name, or why it cannot be
/// followed; or why nothing could be described.
pub type Description<T> = Result<Vec<Result<T, Unfollowed>>, Unfollowed>;

type Describing<T> = Pin<Box<dyn Future<Output = Description<T>> + Send>>;

/// Describes the tables, by their names, as they are now.
pub type Describe<T> = Arc<dyn Fn() -> Describing<T> + Send + Sync>;

/// Makes what keeps a table's rows in an application's cache.
pub(in crate::postgres) type MakeStore =
    Box<dyn Fn(&Arc<TableShape>) -> Box<dyn CacheWriter> + Send + Sync>;

type SharedCache = Arc<RwLock<TableCache>>;

/// Whose caches the rows go to.
enum Caches {
    /// The supervisor's own: for each table the one that can be read, and the one that is being
    /// loaded in its place.
    Own(Vec<(SharedCache, Option<SharedCache>)>),
    /// The application's.
    Given(Arc<Vec<MakeStore>>),
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SupervisorEvent {
    /// What the driver tells.
    Driver(DriverEvent),
    /// A table cannot be followed, for this cause from now on.
    Unfollowed {
        /// The table.
        table: TableId,
        /// The cause, and the remedy.
        why: String,
    },
    /// A table is followed as another than it was, and live: [`Supervisor::targets`] has it.
    Anew {
        /// The table.
        table: TableId,
    },
}

/// Why a supervisor that was never live cannot go on.
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
    /// The tables as they can be read, and as they are loaded in place of that.
    tables: Vec<(T, Option<T>)>,
    caches: Caches,
    /// The tables are being described; whether one was found altered since that began.
    describing: Option<Describing<T>>,
    is_altered_since: bool,
    /// When they are described again.
    describe_at: Option<Instant>,
    backoff: Backoff,
    /// The number of the description that began last, and of the last that is done.
    started: u64,
    done: u64,
    /// From which description on a person asked for every table to be read anew.
    reads_anew: Option<u64>,
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

fn new_cache(shape: &Arc<TableShape>) -> SharedCache {
    Arc::new(RwLock::new(TableCache::new(Arc::clone(shape), 0)))
}

fn store_of(cache: &SharedCache) -> Box<dyn CacheWriter> {
    let reader = CellDecoder::new(Arc::clone(cache.read().shape()));
    Box::new(SinkWriter::new(Arc::clone(cache), reader))
}

/// The channels of all tables, each once.
fn channels_of<'a, T: SupervisedTable>(targets: impl Iterator<Item = &'a T>) -> Vec<String> {
    let mut channels: Vec<String> = targets.map(|target| target.channel().to_string()).collect();
    channels.sort();
    channels.dedup();
    channels
}

impl<T: SupervisedTable> Supervisor<T> {
    /// Connects for `targets`, which `describe` can describe afresh, with caches of its own.
    /// Nothing is read yet.
    ///
    /// # Errors
    /// When a session cannot be had, or the server refuses to LISTEN.
    pub async fn open(
        connector: impl Connector + 'static,
        describe: Describe<T>,
        targets: Vec<T>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let caches = targets
            .iter()
            .map(|target| (new_cache(&target.follow().shape), None))
            .collect();
        Self::open_in(
            open_with(connector),
            describe,
            targets,
            Caches::Own(caches),
            options,
        )
        .await
    }

    /// The same with an application's caches.
    pub(in crate::postgres) async fn open_given(
        open: Open,
        describe: Describe<T>,
        targets: Vec<T>,
        stores: Arc<Vec<MakeStore>>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        Self::open_in(open, describe, targets, Caches::Given(stores), options).await
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
        let stores: Vec<Box<dyn CacheWriter>> = match &caches {
            Caches::Own(caches) => caches.iter().map(|(cache, _)| store_of(cache)).collect(),
            Caches::Given(make) => targets
                .iter()
                .zip(make.iter())
                .map(|(target, make)| make(&target.follow().shape))
                .collect(),
        };
        let follows = targets
            .iter()
            .map(|target| target.follow().clone())
            .zip(stores)
            .collect();
        let driver = Driver::open_with_writers(open, follows, options).await?;
        Ok(Self {
            driver,
            describe,
            tables: targets.into_iter().map(|target| (target, None)).collect(),
            caches,
            describing: None,
            is_altered_since: false,
            describe_at: None,
            backoff: Backoff::default(),
            started: 0,
            done: 0,
            reads_anew: None,
            has_been_live: false,
            events: VecDeque::new(),
        })
    }

    /// The driver.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The driver, to be asked for something.
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// A table as its rows can be read now.
    pub fn target(&self, table: TableId) -> &T {
        &self.tables[table.0].0
    }

    /// The tables as their rows can be read now, by their places in the driver.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &T> {
        self.tables.iter().map(|(target, _)| target)
    }

    /// The rows of a table, which do not change while this is held.
    ///
    /// # Panics
    /// When the caches are the application's.
    pub fn cache(&self, table: TableId) -> RwLockReadGuard<'_, TableCache> {
        match &self.caches {
            Caches::Own(caches) => caches[table.0].0.read(),
            Caches::Given(_) => panic!("the caches of an application are read by the application"),
        }
    }

    /// How the rows of a table stand that can be read now.
    pub fn state(&self, table: TableId) -> State {
        match self.driver.table_state(table) {
            // Those that are live are not those that can be read.
            State::Live if self.tables[table.0].1.is_some() => State::Snapshotting,
            state => state,
        }
    }

    /// Whether the tables are being described.
    pub fn is_describing(&self) -> bool {
        self.describing.is_some()
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = SupervisorEvent> + '_ {
        self.events.drain(..)
    }

    /// Reads the tables and goes on until every one is live, or as far as it can be: see
    /// [`Driver::until_loaded`]. `progress` is told how far the reads are.
    ///
    /// # Errors
    /// Whatever keeps it from there for good.
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

    /// Whether everything that was committed before this fence was asked for is in the cache of a
    /// table that can be read now.
    pub fn has_reached_for(&self, table: TableId, fence: FenceId) -> bool {
        // The cache that is being loaded may not be the one that can be read.
        self.tables[table.0].1.is_none() && self.driver.has_reached_for(table, fence)
    }

    /// Waits for something to happen, and does what follows from it. May be given up at any point.
    ///
    /// # Errors
    /// Whatever keeps it from being live for the first time. Afterwards there is none.
    pub async fn step(&mut self) -> Result<(), SupervisorError> {
        self.step_with(|_| {}).await
    }

    /// As [`step`](Self::step); `progress` is told how far the reads are.
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

    /// Describes the tables afresh now rather than later: what kept one of them from being followed
    /// may have been mended. Gives the number of the description, which begins from now on.
    pub fn look_again(&mut self) -> u64 {
        self.describe_again();
        if self.is_altered_since {
            self.started + 1
        } else {
            self.started
        }
    }

    /// The same, and reads every table anew, whatever is known of it.
    pub fn read_anew(&mut self) -> u64 {
        let number = self.look_again();
        self.reads_anew = Some(number);
        number
    }

    /// Whether the description of this number is done.
    pub fn has_described(&self, number: u64) -> bool {
        self.done >= number
    }

    /// Describes the tables beside what goes on; once more when that is being done already, since
    /// what is described may have been seen before the change.
    fn describe_again(&mut self) {
        self.describe_at = None;
        if self.describing.is_some() {
            self.is_altered_since = true;
            return;
        }
        self.started += 1;
        let describing = (self.describe)();
        self.describing = Some(Box::pin(async move {
            let described = tokio::time::timeout(DESCRIBE_TIMEOUT, describing).await;
            let silent = || {
                Unfollowed(format!(
                    "the tables could not be described within {DESCRIBE_TIMEOUT:?}"
                ))
            };
            described.unwrap_or_else(|_| Err(silent()))
        }));
    }

    fn take_driver_events(&mut self) {
        let events: Vec<DriverEvent> = self.driver.take_events().collect();
        let is_altered = events
            .iter()
            .any(|event| matches!(event, DriverEvent::Altered { .. }));
        // Rows of a cache that cannot be read yet have columns that nobody who looks on knows.
        let is_recorded = |event: &DriverEvent| match event {
            DriverEvent::Row { table, .. } => match &self.tables[table.0] {
                (current, Some(next)) => current.follow().shape == next.follow().shape,
                (_, None) => true,
            },
            _ => true,
        };
        self.events.extend(
            events
                .into_iter()
                .filter(is_recorded)
                .map(SupervisorEvent::Driver),
        );
        if is_altered {
            self.describe_again();
        }
    }

    /// The tables are described: those that can be followed go on, the others are stale with the
    /// cause.
    fn take_description(&mut self, described: Description<T>) -> Result<(), SupervisorError> {
        let described = match described {
            Ok(described) => described,
            Err(error) => {
                tracing::warn!(%error, "the tables could not be described");
                // Those that are held stay so: until they are described, nothing is known of them.
                for table in self.held() {
                    self.refuse(table, error.0.clone());
                }
                self.driver.apply()?;
                if std::mem::take(&mut self.is_altered_since) {
                    self.describe_again();
                } else {
                    self.describe_later();
                }
                return Ok(());
            }
        };
        let mut is_refused = false;
        // A table is read once its channel is listened to.
        let at_work = self
            .tables
            .iter()
            .map(|(target, next)| next.as_ref().unwrap_or(target));
        let targets = described
            .iter()
            .zip(at_work)
            .map(|(described, at_work)| described.as_ref().unwrap_or(at_work));
        self.driver.set_channels(channels_of(targets));
        let reads_anew = self.reads_anew.take_if(|from| *from <= self.done).is_some();
        for (at, described) in described.into_iter().enumerate().take(self.tables.len()) {
            match described {
                Ok(target) => self.follow(TableId(at), target, reads_anew),
                Err(error) if !self.has_been_live => return Err(error.into()),
                Err(Unfollowed(why)) => {
                    is_refused = true;
                    self.refuse(TableId(at), why);
                }
            }
        }
        // Whoever asks next must not be told the states of before.
        self.driver.apply()?;
        if std::mem::take(&mut self.is_altered_since) {
            self.describe_again();
        } else if is_refused {
            self.describe_later();
        } else {
            self.backoff.reset();
        }
        Ok(())
    }

    /// A table can be followed.
    fn follow(&mut self, table: TableId, target: T, reads_anew: bool) {
        let (current, next) = &mut self.tables[table.0];
        let is_same = next.as_ref().unwrap_or(current).is_same(&target);
        if is_same && !self.driver.is_held(table) && !reads_anew {
            return;
        }
        let follow = target.follow().clone();
        let store = match &mut self.caches {
            Caches::Given(make) => (!is_same).then(|| make[table.0](&follow.shape)),
            Caches::Own(caches) => {
                let (cache, loading) = &mut caches[table.0];
                let latest = loading.as_ref().unwrap_or(cache);
                // A table of the same columns is laid over the rows that are there, so that what
                // differs is told.
                let fits = *latest.read().shape() == follow.shape;
                (!fits).then(|| {
                    let cache = new_cache(&follow.shape);
                    let store = store_of(&cache);
                    *loading = Some(cache);
                    store
                })
            }
        };
        if !is_same || reads_anew {
            *next = Some(target);
        }
        self.driver.resume(table, follow, store);
    }

    /// A table cannot be followed.
    fn refuse(&mut self, table: TableId, why: String) {
        let is_news = self.driver.engine().cause(table) != Some(why.as_str());
        self.driver.hold(table, why.clone());
        if is_news {
            self.events
                .push_back(SupervisorEvent::Unfollowed { table, why });
        }
    }

    fn held(&self) -> Vec<TableId> {
        (0..self.tables.len())
            .map(TableId)
            .filter(|table| self.driver.is_held(*table))
            .collect()
    }

    /// Describes the tables again after a while: any time up to a bound that doubles to ten
    /// seconds.
    fn describe_later(&mut self) {
        let random = RandomState::default().build_hasher().finish() as f64 / u64::MAX as f64;
        self.describe_at = Some(Instant::now() + self.backoff.next(random));
    }

    /// Tables that were loaded in place of others and are live can be read from now on.
    fn promote(&mut self) {
        for at in 0..self.tables.len() {
            let table = TableId(at);
            if self.driver.table_state(table) != State::Live {
                continue;
            }
            let (current, next) = &mut self.tables[at];
            let Some(target) = next.take() else { continue };
            *current = target;
            if let Caches::Own(caches) = &mut self.caches {
                let (cache, loading) = &mut caches[at];
                if let Some(loaded) = loading.take() {
                    *cache = loaded;
                }
            }
            self.events.push_back(SupervisorEvent::Anew { table });
        }
    }
}
