//! [`Objects`]: a bounded cache of whole objects beside a table of a replica, which forgets an
//! object when its row changes.
//!
//! # Why no stale object is kept
//!
//! The classic race of a cache that is filled from the database:
//!
//! 1. A reader misses, and reads the object from the database.
//! 2. Somebody commits a change of the row. The cache forgets the key, which it does not have.
//! 3. The reader puts what it has read into the cache, where the old object stays.
//!
//! So each load takes a number, under its key, before it asks the database. A write of the key takes
//! the number away, and what was loaded is then returned and not kept. A commit is visible in the
//! database before its notification is sent, so a load that begins after the write was told reads
//! the new row.
//!
//! Writes that nobody has told are the other danger: the table was not followed for a while. An
//! object is therefore good for as long as the table is current without a break, see [`Validity`].

use crate::model::CacheModel;
use crate::postgres::apply::models::ModelCache;
use crate::postgres::apply::written::WriteListener;
use crate::postgres::replica::status::SharedStatus;
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{Instrument as _, Span, field};

/// In how many parts the cache is locked. An object that is larger than a part is not kept.
const PARTS: u64 = 4;

/// The most bytes of one object that are reckoned with. The sum of all weights must not overflow.
const HEAVIEST: u64 = 1 << 40;

/// Until when an object is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    /// How often the table had ceased to be current when the object was loaded.
    losses: u64,
    /// How often all objects had been forgotten.
    forgotten: u64,
}

/// An object as it is kept.
struct Kept<O> {
    object: Arc<O>,
    bytes: u64,
    validity: Validity,
    loaded_at: Instant,
}

impl<O> Clone for Kept<O> {
    fn clone(&self) -> Self {
        Self {
            object: Arc::clone(&self.object),
            bytes: self.bytes,
            validity: self.validity,
            loaded_at: self.loaded_at,
        }
    }
}

/// An object weighs its bytes.
#[derive(Debug, Clone, Copy)]
struct Bytes;

impl<K, O> Weighter<K, Kept<O>> for Bytes {
    fn weight(&self, _key: &K, kept: &Kept<O>) -> u64 {
        kept.bytes
    }
}

/// The outcome of a load, for those who wait for it; `None` until the load is done. The inner `None`
/// says that there is no object.
type Outcome<O> = Option<Option<Arc<O>>>;

/// A load that is in progress, and that no write of the key has overtaken.
struct Load<O> {
    number: u64,
    validity: Validity,
    outcome: watch::Receiver<Outcome<O>>,
}

/// The loads in progress, by key.
struct Loads<K, O> {
    by_key: HashMap<K, Load<O>>,
    /// The number of loads that have begun.
    begun: u64,
}

/// Figures of [`Objects`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectStats {
    /// The objects that are kept.
    pub objects: usize,
    /// Their size, as the application reckons it.
    pub bytes: u64,
    /// Objects that were asked for and there.
    pub hits: u64,
    /// Objects that had to be loaded.
    pub loads: u64,
    /// Loads whose object was returned and not kept: the row was written meanwhile, is not in the
    /// replica's cache, or the table was not current.
    pub not_kept: u64,
    /// Writes of rows that were told.
    pub written: u64,
}

/// The way from a replica's task to the objects.
struct Forgets<K, O> {
    kept: Cache<K, Kept<O>, Bytes>,
    loads: Mutex<Loads<K, O>>,
    forgotten: AtomicU64,
    written: AtomicU64,
}

impl<K: Clone + Eq + std::hash::Hash + Send + Sync, O: Send + Sync> WriteListener<K>
    for Forgets<K, O>
{
    fn written(&self, key: &K) {
        self.written.fetch_add(1, Ordering::Relaxed);
        // Under the lock under which a load's object is kept: it is kept before, and forgotten here,
        // or not at all.
        let mut loads = self.loads.lock();
        let forgotten = (loads.by_key.remove(key), self.kept.remove(key));
        // The object's own code may run when it is dropped.
        drop(loads);
        drop(forgotten);
    }

    fn all_written(&self) {
        // First, so that nothing that is kept from now on is believed.
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.loads.lock().by_key = HashMap::new();
        self.kept.clear();
    }
}

/// A bounded cache of whole objects, beside a table whose rows a replica has as the model `T`. An
/// object is made of the table's row, with columns that the model does not have. It is forgotten
/// when the row changes, by the same notifications.
///
/// Made by [`Replica::objects`](crate::Replica::objects). Clones are handles of the same cache.
///
/// An object from here is the row's as of the last fence or later, as the rows of the replica are.
/// While the table is not current, objects are loaded each time and not kept.
///
/// The least used objects go when there is no room (S3-FIFO, of the crate `quick_cache`). An object that
/// is larger than a quarter of the room is not kept. An object may
/// be dropped while the replica's cache is locked: its `Drop` must not call the replica.
///
/// Triggers that `install-triggers` did not make are taken at their word: if a function of your own
/// leaves out updates of some columns, objects that have those grow old.
pub struct Objects<T: CacheModel, O> {
    forgets: Arc<Forgets<T::Key, O>>,
    /// The rows of the replica. Only for a row that is there are writes sure to be told.
    rows: Arc<RwLock<ModelCache<T>>>,
    status: Arc<Mutex<SharedStatus>>,
    /// The table's place in the replica.
    at: usize,
    weigh: Arc<dyn Fn(&O) -> usize + Send + Sync>,
    max_age: Option<Duration>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    loads: AtomicU64,
    not_kept: AtomicU64,
}

impl<T: CacheModel, O> Clone for Objects<T, O> {
    fn clone(&self) -> Self {
        Self {
            forgets: Arc::clone(&self.forgets),
            rows: Arc::clone(&self.rows),
            status: Arc::clone(&self.status),
            at: self.at,
            weigh: Arc::clone(&self.weigh),
            max_age: self.max_age,
            counts: Arc::clone(&self.counts),
        }
    }
}

impl<T: CacheModel, O: Send + Sync + 'static> fmt::Debug for Objects<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<T: CacheModel, O: Send + Sync + 'static> Objects<T, O> {
    /// Makes an empty cache for objects of `max_bytes` in all, beside `rows`, which are the table
    /// `at` of the replica.
    pub(super) fn new(
        rows: &Arc<RwLock<ModelCache<T>>>,
        status: &Arc<Mutex<SharedStatus>>,
        at: usize,
        max_bytes: u64,
        weigh: impl Fn(&O) -> usize + Send + Sync + 'static,
    ) -> Self {
        /// What an object is taken to have, to size the table of keys. The table grows.
        const TYPICAL_OBJECT: u64 = 1024;
        let expected = (max_bytes / TYPICAL_OBJECT).clamp(64, 1 << 16);
        let options = OptionsBuilder::new()
            .shards(PARTS as usize)
            .estimated_items_capacity(expected as usize)
            .weight_capacity(max_bytes)
            .build();
        // Both capacities are given, which is all that can be missing.
        let options = options.expect("the options are complete");
        let hasher = DefaultHashBuilder::default();
        let forgets = Arc::new(Forgets {
            kept: Cache::with_options(options, Bytes, hasher, DefaultLifecycle::default()),
            loads: Mutex::new(Loads {
                by_key: HashMap::new(),
                begun: 0,
            }),
            forgotten: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let listener: Arc<dyn WriteListener<T::Key>> = forgets.clone();
        rows.read_recursive()
            .listen_to_writes(Arc::downgrade(&listener));
        Self {
            forgets,
            rows: Arc::clone(rows),
            status: Arc::clone(status),
            at,
            weigh: Arc::new(weigh),
            max_age: None,
            counts: Arc::default(),
        }
    }

    /// Sets how old an object may become. By default it may become as old as its row: a row that
    /// does not change keeps its object. For objects that have something in them besides the row.
    ///
    /// Counts for this handle and for clones that are made of it.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Returns the object of the row with this key, if it is kept.
    pub fn get(&self, key: &T::Key) -> Option<Arc<O>> {
        self.kept(key, self.validity()?)
    }

    /// Returns the object of the row with this key. If it is not kept, `load` is called to read it
    /// from the database; `None` says that there is no such object.
    ///
    /// Callers who ask for one key at once share one load. If that fails, its caller has the error,
    /// and one of the others loads.
    ///
    /// `load` must read what was committed before it was called: from the primary, in a transaction
    /// of its own or one that reads what is committed meanwhile (READ COMMITTED, the default). Do
    /// not call this while you hold a [`ReadGuard`](crate::ReadGuard) of the table.
    ///
    /// # Errors
    /// The error of `load`.
    pub async fn get_or_load<E>(
        &self,
        key: &T::Key,
        load: impl AsyncFnOnce() -> Result<Option<O>, E>,
    ) -> Result<Option<Arc<O>>, E> {
        loop {
            let Some(validity) = self.validity() else {
                return self.load_alone(load).await;
            };
            if let Some(object) = self.kept(key, validity) {
                return Ok(Some(object));
            }
            let mut others = match self.begin(key, validity) {
                Some(Begun::Own(own)) => {
                    let loaded = load().instrument(self.span()).await?;
                    return Ok(self.finish(&own, loaded));
                }
                Some(Begun::Another(others)) => others,
                None => return self.load_alone(load).await,
            };
            // The load of another is good: no write was told since it began. An error here says that
            // it failed, or was given up.
            if let Ok(outcome) = others.wait_for(Option::is_some).await {
                return Ok(outcome.clone().flatten());
            }
        }
    }

    /// Forgets the object of the row with this key, for changes of what is not in the row.
    pub fn forget(&self, key: &T::Key) {
        self.forgets.written(key);
    }

    /// Forgets all objects.
    pub fn forget_all(&self) {
        self.forgets.all_written();
    }

    /// Returns figures.
    pub fn stats(&self) -> ObjectStats {
        ObjectStats {
            objects: self.forgets.kept.len(),
            bytes: self.forgets.kept.weight(),
            hits: self.counts.hits.load(Ordering::Relaxed),
            loads: self.counts.loads.load(Ordering::Relaxed),
            not_kept: self.counts.not_kept.load(Ordering::Relaxed),
            written: self.forgets.written.load(Ordering::Relaxed),
        }
    }

    /// Returns until when an object is good that is loaded now; `None` if no object may be kept.
    fn validity(&self) -> Option<Validity> {
        let forgotten = self.forgets.forgotten.load(Ordering::SeqCst);
        let losses = self.status.lock().losses_if_told(self.at)?;
        Some(Validity { losses, forgotten })
    }

    /// Returns the object of a key if it is kept, and still good at this moment.
    fn kept(&self, key: &T::Key, validity: Validity) -> Option<Arc<O>> {
        let kept = self.forgets.kept.get(key)?;
        if kept.validity != validity {
            let stale = kept.validity;
            self.forgets
                .kept
                .remove_if(key, |kept| kept.validity == stale);
            return None;
        }
        // To another handle it may not be too old.
        if self
            .max_age
            .is_some_and(|age| kept.loaded_at.elapsed() > age)
        {
            return None;
        }
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
        Some(kept.object)
    }

    /// Loads an object of whose row nobody tells whether it is written. It is not kept, and nobody
    /// who comes later may wait for it.
    async fn load_alone<E>(
        &self,
        load: impl AsyncFnOnce() -> Result<Option<O>, E>,
    ) -> Result<Option<Arc<O>>, E> {
        self.counts.loads.fetch_add(1, Ordering::Relaxed);
        self.counts.not_kept.fetch_add(1, Ordering::Relaxed);
        let loaded = load().instrument(self.span()).await?;
        Ok(loaded.map(Arc::new))
    }

    /// Returns the span of a load.
    fn span(&self) -> Span {
        let span = tracing::debug_span!("replica.load_object", table = field::Empty);
        if !span.is_disabled() {
            span.record("table", &*self.status.lock().names[self.at]);
        }
        span
    }

    /// Begins a load, unless one is in progress that is good for us. Returns `None` if the replica
    /// does not have the row: the row may be one that the triggers do not announce, or that does not
    /// fit the model, so a write of it may not be told.
    fn begin(&self, key: &T::Key, validity: Validity) -> Option<Begun<'_, T::Key, O>> {
        // Locked in the order of whoever tells of a write: first the rows.
        let rows = self.rows.read_recursive();
        let mut loads = self.forgets.loads.lock();
        if !rows.rows.contains_primary(key) {
            return None;
        }
        if let Some(load) = loads.by_key.get(key)
            && load.validity == validity
            // Otherwise whoever loaded it has given up, or failed.
            && load.outcome.has_changed().is_ok()
        {
            return Some(Begun::Another(load.outcome.clone()));
        }
        loads.begun += 1;
        let number = loads.begun;
        let (sender, outcome) = watch::channel(None);
        let load = Load {
            number,
            validity,
            outcome,
        };
        loads.by_key.insert(key.clone(), load);
        self.counts.loads.fetch_add(1, Ordering::Relaxed);
        Some(Begun::Own(OwnLoad {
            loads: &self.forgets.loads,
            key: key.clone(),
            number,
            validity,
            outcome: sender,
        }))
    }

    /// Keeps what was loaded, if it is good, and returns it.
    fn finish(&self, own: &OwnLoad<'_, T::Key, O>, loaded: Option<O>) -> Option<Arc<O>> {
        let object = loaded.map(Arc::new);
        let is_kept = object
            .as_ref()
            .is_some_and(|object| self.keep(own, Arc::clone(object)));
        if !is_kept {
            self.counts.not_kept.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever waits began to when no write had been told since the load began.
        own.outcome.send_replace(Some(object.clone()));
        object
    }

    /// Keeps an object that was loaded, and tells whether it was kept.
    fn keep(&self, own: &OwnLoad<'_, T::Key, O>, object: Arc<O>) -> bool {
        let bytes = (self.weigh)(&object) as u64;
        let kept = Kept {
            object,
            bytes: bytes.clamp(1, HEAVIEST),
            validity: own.validity,
            loaded_at: Instant::now(),
        };
        // Locked in the order of whoever tells of a write: first the rows.
        let rows = self.rows.read_recursive();
        let loads = self.forgets.loads.lock();
        let is_good = loads
            .by_key
            .get(&own.key)
            .is_some_and(|load| load.number == own.number)
            && self.validity() == Some(own.validity)
            && rows.rows.contains_primary(&own.key);
        if is_good {
            self.forgets.kept.insert(own.key.clone(), kept);
        }
        is_good
    }
}

/// Who loads an object.
enum Begun<'a, K: Eq + std::hash::Hash, O> {
    /// The caller does.
    Own(OwnLoad<'a, K, O>),
    /// Somebody else does already.
    Another(watch::Receiver<Outcome<O>>),
}

/// A load of the caller's. Dropped, it is in progress no more.
struct OwnLoad<'a, K: Eq + std::hash::Hash, O> {
    loads: &'a Mutex<Loads<K, O>>,
    key: K,
    number: u64,
    validity: Validity,
    outcome: watch::Sender<Outcome<O>>,
}

impl<K: Eq + std::hash::Hash, O> Drop for OwnLoad<'_, K, O> {
    fn drop(&mut self) {
        let mut loads = self.loads.lock();
        // A write may have taken it away, and another load may be in its place.
        if let Some(load) = loads.by_key.get(&self.key)
            && load.number == self.number
        {
            loads.by_key.remove(&self.key);
        }
    }
}
