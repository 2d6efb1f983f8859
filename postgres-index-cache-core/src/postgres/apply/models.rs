//! The sink of an application's own cache: rows are models. Those of snapshots are made of cells,
//! those of notifications of JSON; to the model both are the same: see [`RowDeserializer`].
//!
//! ```text
//! COPY tuple, payload "data" ─→ ModelDecoder ─┬─ cells ─→ digest ─┐
//!                                             └─ the model ───────┴─→ ModelRow ─→ ModelCache
//!                                                  └ does not fit ──→ misfit ──→ kept out
//! ```
//!
//! A model cannot be compared with another one. The digest of the row's cells stands beside the
//! model in the cache, and tells whether two rows are the same.

mod decoder;
mod key_codec;

pub(crate) use self::decoder::{ModelDecoder, ModelRow};

use self::key_codec::KeyCodec;
use super::finding::{ComparisonReport, Finding, FindingKind};
use super::sink::{CacheSink, MisfitRow, RowChangeKind, RowEvent, WriteMode};
use super::watch::{Told, Watch};
use super::written::{WriteListener, WriteListeners};
use crate::digest::{Digest, RowDigester, digest_of_key};
use crate::index::SegVec;
use crate::index_cache::IdxModelCache;
use crate::model::{CacheModel, guarded};
use crate::notification::Key;
use crate::table_cache::{KeyBuf, SeenRows, StoreError, TableShape, Touched, Upserted};
use crate::value::CellType;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::broadcast;

/// The traits of a type whose values can be the rows of a replica's cache. The key is read from its
/// columns as the row is: of one column as the value, of several as a tuple.
pub trait Model:
    CacheModel<Key: DeserializeOwned> + DeserializeOwned + Send + Sync + 'static
{
}

impl<T: CacheModel<Key: DeserializeOwned> + DeserializeOwned + Send + Sync + 'static> Model for T {}

/// The treatment of a row that does not fit the model. The row may have a label that the model does
/// not know, a NULL, or a number that is too large. The model's own code may panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMisfit {
    /// The row is kept out of the cache, counted and named. Once the row fits, the cache takes it.
    /// The other rows are as live as ever.
    #[default]
    Quarantine,
    /// The row's table cannot be opened. A table that was live is stale until the row fits.
    Refuse,
}

/// An application's cache, with the rows of the table that do not fit the model.
pub(crate) struct ModelCache<T: CacheModel> {
    /// The rows that fit.
    pub(crate) rows: IdxModelCache<T>,
    /// The codec of the keys; `None` until the table's columns are known.
    codec: Option<KeyCodec<T::Key>>,
    /// By slot, the cells of the row's key, packed, if its type does not tell them. Empty if no key
    /// needs that.
    key_cells: SegVec<Option<Box<[u8]>>>,
    /// The rows that are kept out. Their keys are none of those in `rows`.
    out: BTreeMap<KeyBuf, Misfit<T>>,
    /// Whether a row may be kept out because another row has its key.
    has_rivals: bool,
    /// Why the cache was emptied: code of the model's types panicked in the middle of a change. The
    /// table must be read again.
    broken: Option<String>,
    /// Whether the cache was emptied, and no snapshot has been laid since.
    is_emptied: bool,
    /// The number of snapshots that began. A row that is kept out, and was not in the last
    /// snapshot, is gone.
    loads: u64,
    on_misfit: OnMisfit,
    /// The way to those who follow the changes, once somebody does.
    watch: OnceLock<Watch<T>>,
    /// Who is told of each write, once somebody is.
    write_listeners: OnceLock<WriteListeners<T::Key>>,
}

/// A row that is kept out.
struct Misfit<T: CacheModel> {
    /// The reason why the row does not fit; empty if that is not kept.
    why: Arc<str>,
    /// The value of [`ModelCache::loads`] when the row came last.
    seen_in: u64,
    /// The digest of the row.
    digest: Digest,
    /// Whether the row became a model, and the cache could not store it: its index functions
    /// panicked, or another row has its key.
    is_unstored: bool,
    /// The row itself, if another row has its key in the model: it is taken in when that one goes.
    rival: Option<Box<ModelRow<T>>>,
}

/// A way to store a model: see [`IdxModelCache::put_digested`].
type PutModel<T> =
    fn(&mut IdxModelCache<T>, T, [u8; 16]) -> Result<(u32, Upserted, Option<T>), StoreError>;

/// The number of kept-out rows whose reason is kept. Of further rows the cache keeps the key alone,
/// to bound the memory.
const CAUSES_KEPT: usize = 1_000;

impl<T: Model> ModelCache<T> {
    pub(crate) fn new(on_misfit: OnMisfit) -> Self {
        Self {
            rows: IdxModelCache::with_capacity(0),
            codec: None,
            key_cells: SegVec::new(),
            out: BTreeMap::new(),
            has_rivals: false,
            broken: None,
            is_emptied: false,
            loads: 0,
            on_misfit,
            watch: OnceLock::new(),
            write_listeners: OnceLock::new(),
        }
    }

    /// Takes the rows of a table of this shape from now on.
    pub(crate) fn take_rows_of(&mut self, shape: &Arc<TableShape>) {
        if let Some(codec) = &self.codec {
            let before = Arc::clone(codec.shape());
            let key_kinds = |shape: &TableShape| -> Vec<CellType> {
                let key = shape.key().iter();
                key.map(|column| shape.columns()[*column].kind).collect()
            };
            if key_kinds(&before) != key_kinds(shape) {
                // The cells of the keys are those of other types: no row can be told by them.
                self.clear();
            } else if before.columns() != shape.columns() {
                // The digest of a row is that of its cells. The same cells of another type are other
                // JSON, and may be another model.
                self.rows.forget_digests();
            }
        }
        self.codec = Some(KeyCodec::new(Arc::clone(shape)));
    }

    /// Returns the slot and the key of the row with this key, and the digest of the row's cells.
    fn find(&self, cells: &KeyBuf) -> Option<(u32, T::Key, [u8; 16])> {
        // The key is hashed and compared by code of the application's.
        let found = guarded(|| {
            let key = self.codec.as_ref()?.read(cells).ok()?;
            let (slot, digest) = self.rows.digest(&key)?;
            Some((slot, key, digest))
        });
        // Another row of the table may have the same key in the model.
        found
            .ok()
            .flatten()
            .filter(|(slot, ..)| self.has_cells(*slot, cells))
    }

    /// Changes the rows, which calls code of the model's types. A panic in the middle of a change
    /// empties the cache: the table must be read again.
    ///
    /// # Errors
    /// If the code panics, with the message.
    fn changing<R>(
        &mut self,
        change: impl FnOnce(&mut IdxModelCache<T>) -> R,
    ) -> Result<R, String> {
        let changed = guarded(|| change(&mut self.rows));
        if let Err(panic) = &changed
            && self.rows.is_torn()
        {
            self.give_up(panic.clone());
        }
        changed
    }

    /// Empties the cache, which cannot be believed any more for the reason `why`.
    fn give_up(&mut self, why: String) {
        self.clear();
        self.broken = Some(why);
        self.is_emptied = true;
    }

    /// Removes the row with this key of the model, and takes in the row that is kept out because of
    /// it. `cells` are those of the row that goes.
    fn remove_row(&mut self, key: &T::Key, cells: &KeyBuf, mut events: Option<&mut Vec<RowEvent>>) {
        self.tell_written(key);
        if let Ok(Some(old)) = self.changing(|rows| rows.remove(key)) {
            self.record(cells, RowChangeKind::Removed, events.as_deref_mut());
            self.tell(key, Some(old), None);
        }
        if self.has_rivals {
            self.take_in_rival(key, events);
        }
    }

    /// Takes in a row that is kept out because another one had its key. A row of an older snapshot
    /// than the last one may be gone.
    fn take_in_rival(&mut self, key: &T::Key, events: Option<&mut Vec<RowEvent>>) {
        let loads = self.loads;
        let waiting = |misfit: &Misfit<T>| {
            let rival = misfit.rival.as_ref();
            misfit.seen_in == loads && rival.is_some_and(|rival| rival.key == *key)
        };
        let found = guarded(|| {
            let mut out = self.out.iter();
            out.find(|(_, misfit)| waiting(misfit))
                .map(|(cells, _)| cells.clone())
        });
        let Ok(Some(cells)) = found else { return };
        if let Some(mut rival) = self.out.remove(&cells).and_then(|misfit| misfit.rival) {
            // A row that cannot be stored either is kept out again, or breaks the cache.
            if let Err(error) = self.put(&mut rival, WriteMode::Upsert, events) {
                self.broken = Some(error.to_string());
            }
        }
    }

    /// Tells whether the row in `slot`, whose key is the model's for `cells`, has these cells.
    fn has_cells(&self, slot: u32, cells: &KeyBuf) -> bool {
        let kept = self.key_cells.get(slot).and_then(Option::as_ref);
        // A key whose type tells the cells has one spelling.
        kept.is_none_or(|kept| **kept == *KeyCodec::<T::Key>::pack(cells))
    }

    /// Returns the cells of the key of a row on its way into the cache.
    fn cells_of_row(&self, row: &ModelRow<T>) -> KeyBuf {
        let codec = self.codec.as_ref();
        codec.map_or_else(KeyBuf::default, |codec| row.cells(codec))
    }

    /// Returns the cells of the key of the row in `slot`.
    fn cells_of(&self, slot: u32, key: &T::Key) -> KeyBuf {
        let Some(codec) = &self.codec else {
            return KeyBuf::default();
        };
        match self.key_cells.get(slot).and_then(Option::as_ref) {
            Some(packed) => codec.unpack(packed),
            None => codec.cells(key).unwrap_or_default(),
        }
    }

    /// Returns the digest of the key of the row in `slot`.
    fn key_digest(&self, slot: u32, key: &T::Key) -> Digest {
        digest_of_key(self.cells_of(slot, key).cells())
    }

    /// Returns the finding of a row that differs. A model has no columns to name.
    fn finding(&self, kind: FindingKind, cells: &KeyBuf) -> Finding {
        let codec = self.codec.as_ref();
        Finding {
            kind,
            key: codec.map_or_else(String::new, |codec| codec.json(cells)),
            key_cells: cells.clone(),
            columns: Vec::new(),
        }
    }

    /// Keeps the packed cells of the key of the row in `slot`, unless the key tells them.
    fn keep_cells(&mut self, slot: u32, packed: Option<Box<[u8]>>) {
        if packed.is_some() {
            self.key_cells.set_padded(slot, packed);
        } else if let Some(place) = self.key_cells.get_mut(slot) {
            *place = None;
        }
    }

    /// Takes out the row with this key, if there is one, and records that in `events`.
    fn take_out(&mut self, cells: &KeyBuf, events: Option<&mut Vec<RowEvent>>) {
        if let Some((_, key, _)) = self.find(cells) {
            self.remove_row(&key, cells, events);
        }
    }

    /// Keeps out a row that became a model and cannot be stored, for the reason `why`. The row waits
    /// if it still has its model.
    ///
    /// # Errors
    /// If misfits are refused.
    fn unstored(
        &mut self,
        cells: &KeyBuf,
        why: String,
        row: &mut ModelRow<T>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        if self.on_misfit == OnMisfit::Refuse {
            return Err(StoreError::Model(why));
        }
        let misfit = MisfitRow {
            key: cells.clone(),
            digest: row.digest,
            why: why.into(),
        };
        self.keep_out(misfit, events);
        let rival = match row.row.take() {
            Some(model) => guarded(|| row.key.clone()).ok().map(|key| {
                Box::new(ModelRow {
                    row: Some(model),
                    key,
                    key_cells: row.key_cells.take(),
                    digest: row.digest,
                })
            }),
            None => None,
        };
        self.has_rivals |= rival.is_some();
        if let Some(misfit) = self.out.get_mut(cells) {
            misfit.is_unstored = true;
            misfit.rival = rival;
        }
        Ok(Upserted::Unchanged)
    }

    /// Does the work of [`CacheSink::put`]. `put` stores the row among those that fit.
    fn store(
        &mut self,
        row: &mut ModelRow<T>,
        mode: WriteMode<'_>,
        mut events: Option<&mut Vec<RowEvent>>,
        put: PutModel<T>,
    ) -> Result<Upserted, StoreError> {
        let Some(model) = row.row.take() else {
            return Ok(Upserted::Unchanged);
        };
        // While a snapshot is put in, the table is not current: whoever is told knows that anyway.
        if matches!(mode, WriteMode::Upsert) {
            self.tell_written(&row.key);
        }
        let cells = self.cells_of_row(row);
        let mut before = match guarded(|| self.rows.digest(&row.key)) {
            Ok(before) => before.map(|(slot, _)| slot),
            Err(panic) => return self.unstored(&cells, panic, row, events),
        };
        if let Some(slot) = before
            && !self.has_cells(slot, &cells)
        {
            // A row that this snapshot has not brought is gone, and gives way.
            if matches!(&mode, WriteMode::Merge(seen) if !seen.has(slot)) {
                let gone = self.cells_of(slot, &row.key);
                if let Ok(Some(old)) = self.changing(|rows| rows.remove(&row.key)) {
                    self.record(&gone, RowChangeKind::Removed, events.as_deref_mut());
                    self.tell(&row.key, Some(old), None);
                }
                if let Some(why) = self.broken.take() {
                    return Err(StoreError::Model(why));
                }
                before = None;
            } else {
                row.row = Some(model);
                let why = guarded(|| format!("another row has the key {:?} in the model", row.key));
                let why = why.unwrap_or_else(|panic| panic);
                return self.unstored(&cells, why, row, events);
            }
        }
        let seen = match mode {
            WriteMode::Insert if before.is_some() => {
                return Err(StoreError::DuplicateKey(self.name(&cells).to_string()));
            }
            WriteMode::Merge(seen) if before.is_some_and(|slot| seen.has(slot)) => {
                return Err(StoreError::DuplicateKey(self.name(&cells).to_string()));
            }
            WriteMode::Insert | WriteMode::Upsert => None,
            WriteMode::Merge(seen) => Some(seen),
        };
        // The model is asked for its index values in here, and may panic.
        let put = self.changing(|rows| put(rows, model, *row.digest.bytes()));
        let upserted = match put {
            Ok(put) => {
                let (slot, upserted, old) = put?;
                self.keep_cells(slot, row.key_cells.take());
                if let Some(seen) = seen {
                    seen.mark(slot);
                }
                if upserted != Upserted::Unchanged {
                    self.tell(&row.key, old, Some(slot));
                }
                upserted
            }
            Err(_) if self.broken.is_some() => {
                let why = self.broken.take().unwrap_or_default();
                return Err(StoreError::Model(why));
            }
            // The row that was there before goes too: it is not the table's row any more.
            Err(panic) => return self.unstored(&cells, panic, row, events),
        };
        self.out.remove(&cells);
        match upserted {
            Upserted::Added => self.record(&cells, RowChangeKind::Added, events),
            Upserted::Changed => self.record(&cells, RowChangeKind::Changed, events),
            Upserted::Unchanged => {}
        }
        Ok(upserted)
    }

    /// Tells that a row is written, which may be the same as before.
    fn tell_written(&self, key: &T::Key) {
        if let Some(listeners) = self.write_listeners.get() {
            listeners.written(key);
        }
    }

    /// Tells those who follow the changes of one, from `old` to the row in `slot`.
    fn tell(&self, key: &T::Key, old: Option<T>, slot: Option<u32>) {
        if let Some(watch) = self.watch.get().filter(|watch| watch.is_followed()) {
            watch.tell(key, old, slot.and_then(|slot| self.rows.row_in(slot)));
        }
    }

    /// Records in `events` that a row has changed.
    fn record(&self, cells: &KeyBuf, change: RowChangeKind, events: Option<&mut Vec<RowEvent>>) {
        if let Some(events) = events {
            let key = self.name(cells);
            events.push(RowEvent::Model { key, change });
        }
    }
}

impl<T: CacheModel> ModelCache<T> {
    /// Returns the changes from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Told<T>>
    where
        T: Clone,
    {
        self.watch.get_or_init(Watch::new).follow()
    }

    /// Tells `listener` of each key that is written from now on.
    pub(crate) fn listen_to_writes(&self, listener: Weak<dyn WriteListener<T::Key>>) {
        self.write_listeners
            .get_or_init(WriteListeners::default)
            .add(listener);
    }

    /// Returns whether the cache was emptied by a failure of the model's code, and is not read again
    /// yet. A reader may see that before the task has told of it.
    pub(crate) fn is_emptied(&self) -> bool {
        self.is_emptied
    }

    /// Returns the keys of the rows that are kept out, each with the reason. The reason is empty if
    /// it was not kept: the first thousand are.
    pub(crate) fn misfits(&self) -> impl ExactSizeIterator<Item = (Key, &str)> {
        self.out
            .iter()
            .map(|(cells, misfit)| (self.name(cells), &*misfit.why))
    }

    /// Returns a key as it is named to people and in events.
    fn name(&self, cells: &KeyBuf) -> Key {
        match &self.codec {
            Some(codec) => codec.name(cells),
            // Never: no row comes before the shape is known.
            None => Key::Composite(Vec::new()),
        }
    }
}

impl<T: Model> CacheSink for ModelCache<T> {
    type Row = ModelRow<T>;
    type Decoder = ModelDecoder<T>;

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn memory_bytes(&self) -> usize {
        // An estimate: to add up the reasons of all rows would take time in proportion to their
        // number.
        let causes: usize = self
            .out
            .values()
            .take(CAUSES_KEPT)
            .map(|misfit| misfit.why.len())
            .sum();
        // Those that wait are rare.
        let waiting = if self.has_rivals {
            let rivals = self.out.values().filter(|misfit| misfit.rival.is_some());
            rivals.count() * size_of::<ModelRow<T>>()
        } else {
            0
        };
        self.rows.memory_bytes()
            + waiting
            + self.key_cells.memory_bytes()
            + self.out.len() * 2 * size_of::<(KeyBuf, Misfit<T>)>()
            + causes
    }

    fn make_room(&mut self, expected: usize) {
        self.rows = IdxModelCache::with_capacity(expected);
        self.key_cells = SegVec::new();
        self.out.clear();
    }

    fn begin_load(&mut self) {
        self.loads += 1;
    }

    fn touch(&self, changes: &[Touched<'_, ModelRow<T>>]) {
        let Some(codec) = &self.codec else { return };
        let read: Vec<Option<T::Key>> = changes
            .iter()
            .map(|change| match change {
                Touched::Row(_) => None,
                Touched::Key(key) => codec.read(key).ok(),
            })
            .collect();
        let keys = changes
            .iter()
            .zip(&read)
            .filter_map(|(change, read)| match change {
                Touched::Row(row) => Some(&row.key),
                Touched::Key(_) => read.as_ref(),
            });
        // Nothing depends on this: a key whose code panics does so again when the change is made.
        let _ = guarded(|| std::hint::black_box(self.rows.touch(keys)));
    }

    fn append(&mut self, row: &mut ModelRow<T>) -> Result<(), StoreError> {
        self.store(row, WriteMode::Insert, None, IdxModelCache::append_digested)
            .map(|_| ())
    }

    fn before_unlock(&mut self) {
        // A panic of the code of a field's type empties the cache, as `take_broken` tells.
        let _ = self.changing(IdxModelCache::link_put_off);
    }

    fn looks_up_appended(&self) -> bool {
        true
    }

    fn put(
        &mut self,
        row: &mut ModelRow<T>,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        self.store(row, mode, events, IdxModelCache::put_digested)
    }

    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>) {
        self.out.remove(key);
        self.take_out(key, events);
    }

    fn keep_out(&mut self, row: MisfitRow, mut events: Option<&mut Vec<RowEvent>>) {
        let MisfitRow { key, digest, why } = row;
        self.take_out(&key, events.as_deref_mut());
        // A row whose reason is kept keeps that place, also while there are more than a thousand.
        let has_cause = self
            .out
            .get(&key)
            .is_some_and(|before| !before.why.is_empty());
        let kept = if has_cause || self.out.len() < CAUSES_KEPT {
            Arc::clone(&why)
        } else {
            "".into()
        };
        let before = self.out.insert(
            key.clone(),
            Misfit {
                why: kept,
                seen_in: self.loads,
                digest,
                is_unstored: false,
                rival: None,
            },
        );
        // A row that is read again and does not fit for the same reason is no news. Of a row whose
        // reason is not kept it is not known whether the reason is another one: it counts as the
        // same.
        let is_news = before.is_none_or(|before| !before.why.is_empty() && before.why != why);
        if let Some(events) = events.filter(|_| is_news) {
            events.push(RowEvent::Misfit {
                key: self.name(&key),
                why,
                by: None,
            });
        }
    }

    fn retain_out(&mut self, keys: &[KeyBuf]) {
        self.out.retain(|key, _| keys.contains(key));
    }

    fn kept_out(&self) -> Option<(usize, String)> {
        let (key, misfit) = self.out.first_key_value()?;
        Some((
            self.out.len(),
            format!("{}: {}", self.name(key), misfit.why),
        ))
    }

    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows) {
        if let Some((slot, ..)) = self.find(key) {
            seen.mark(slot);
        }
    }

    fn sweep(&mut self, seen: &SeenRows, mut events: Option<&mut Vec<RowEvent>>) {
        match guarded(|| self.rows.not_seen(seen)) {
            Ok(unseen) => {
                for (slot, key) in unseen {
                    let cells = self.cells_of(slot, &key);
                    self.remove_row(&key, &cells, events.as_deref_mut());
                }
            }
            // The keys cannot even be copied.
            Err(panic) => self.give_up(panic),
        }
    }

    fn end_load(&mut self) {
        let loads = self.loads;
        self.out.retain(|_, misfit| misfit.seen_in == loads);
        // Unless the last step of the load has emptied it, which is told in the same breath.
        self.is_emptied = self.broken.is_some();
    }

    fn take_broken(&mut self) -> Option<String> {
        self.broken.take()
    }

    fn clear(&mut self) {
        if let Some(listeners) = self.write_listeners.get() {
            listeners.all_written();
        }
        if let Some(watch) = self.watch.get().filter(|watch| watch.is_followed()) {
            self.rows
                .take_rows(|key, old| watch.tell(key, Some(old), None));
        }
        self.rows.clear();
        self.key_cells = SegVec::new();
        self.out.clear();
        self.has_rivals = false;
    }

    fn compare(&self, row: &ModelRow<T>, seen: &mut SeenRows, report: &mut ComparisonReport) {
        let cells = self.cells_of_row(row);
        let cached = self.find(&cells);
        if let Some((slot, ..)) = cached {
            seen.mark(slot);
        }
        match cached {
            None => match self.out.get(&cells) {
                None => report.find(FindingKind::Missing, |kind| self.finding(kind, &cells)),
                Some(misfit) => {
                    // A comparison does not ask the model for index values: a row with the digest
                    // of one that could not be stored is kept out rightly.
                    if misfit.is_unstored && misfit.digest == row.digest {
                        report.kept_out += 1;
                    } else {
                        report.find(FindingKind::Stale, |kind| self.finding(kind, &cells));
                    }
                    report.out.insert(cells);
                }
            },
            Some((.., digest)) if digest != *row.digest.bytes() => {
                report.find(FindingKind::Stale, |kind| self.finding(kind, &cells));
            }
            Some(_) => {}
        }
    }

    fn compare_misfit(&self, key: &KeyBuf, seen: &mut SeenRows, report: &mut ComparisonReport) {
        if let Some((slot, ..)) = self.find(key) {
            seen.mark(slot);
            report.find(FindingKind::Stale, |kind| self.finding(kind, key));
        } else if self.out.contains_key(key) {
            report.out.insert(key.clone());
            report.kept_out += 1;
        } else {
            report.find(FindingKind::Missing, |kind| self.finding(kind, key));
        }
    }

    fn visit_digests(
        &self,
        _: &mut RowDigester,
        from: u32,
        most: usize,
        visit: &mut dyn FnMut(Digest, Digest),
    ) -> Option<u32> {
        let mut next = None;
        for (slot, key, digest) in self.rows.digests_from(from).take(most) {
            visit(self.key_digest(slot, key), Digest::of_bytes(*digest));
            next = Some(slot + 1);
        }
        next
    }

    fn row_digest(&self, _: &mut RowDigester, key: &KeyBuf) -> Option<Digest> {
        let (.., digest) = self.find(key)?;
        Some(Digest::of_bytes(digest))
    }

    fn kept_out_digest(&self, key: &KeyBuf) -> Option<Digest> {
        self.out.get(key).map(|misfit| misfit.digest)
    }

    fn visit_kept_out(&self, visit: &mut dyn FnMut(Digest, Digest)) {
        for (key, misfit) in &self.out {
            visit(digest_of_key(key.cells()), misfit.digest);
        }
    }

    fn kept_out_keys(&self, most: usize) -> Vec<Digest> {
        let keys = self.out.keys().take(most);
        keys.map(|key| digest_of_key(key.cells())).collect()
    }

    fn find_ghosts(&self, seen: &SeenRows, report: &mut ComparisonReport) {
        let kept_out = std::mem::take(&mut report.out);
        // A row that is kept out, and that the table does not have, is a ghost as well.
        let out = self.out.keys().filter(|key| !kept_out.contains(key));
        for cells in out {
            report.find(FindingKind::Ghost, |kind| self.finding(kind, cells));
        }
        let unseen = guarded(|| self.rows.not_seen(seen)).unwrap_or_default();
        for (slot, key) in unseen {
            report.find(FindingKind::Ghost, |kind| {
                self.finding(kind, &self.cells_of(slot, &key))
            });
        }
    }
}

#[cfg(test)]
mod tests;
