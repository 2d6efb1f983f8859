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

mod key_codec;

use self::key_codec::KeyCodec;
use super::cells::query_of_columns;
use super::finding::{ComparisonReport, Finding, FindingKind};
use super::sink::{CacheSink, Decoded, RowChangeKind, RowDecoder, RowEvent, WriteMode};
use crate::digest::{Digest, RowDigester, digest_of_key};
use crate::index::SegVec;
use crate::index_cache::IdxModelCache;
use crate::model::{CacheModel, guarded};
use crate::notification::Key;
use crate::postgres::error::ReadError;
use crate::table_cache::{
    JsonNulls, KeyBuf, RowBuf, RowDeserializer, RowError, SeenRows, StoreError, TableShape,
    Touched, Upserted,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

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
pub(in crate::postgres) struct ModelCache<T: CacheModel> {
    /// The rows that fit.
    pub(in crate::postgres) rows: IdxModelCache<T>,
    /// The codec of the keys; `None` until the table's columns are known.
    codec: Option<KeyCodec<T::Key>>,
    /// By slot, the cells of the row's key, packed, if its type does not tell them. Empty if no key
    /// needs that.
    key_cells: SegVec<Option<Box<[u8]>>>,
    /// The rows that are kept out. Their keys are none of those in `rows`.
    out: BTreeMap<KeyBuf, Misfit>,
    /// The number of snapshots that began. A row that is kept out, and was not in the last
    /// snapshot, is gone.
    loads: u64,
    on_misfit: OnMisfit,
}

/// A row that is kept out.
#[derive(Debug)]
struct Misfit {
    /// The reason why the row does not fit; empty if that is not kept.
    why: Arc<str>,
    /// The value of [`ModelCache::loads`] when the row came last.
    seen_in: u64,
    /// The digest of a row that became a model, and that the cache could not store: its index
    /// functions panicked, or another row has its key. `None` if the row became no model.
    unstored: Option<Digest>,
}

/// The number of kept-out rows whose reason is kept. Of further rows the cache keeps the key alone,
/// to bound the memory.
const CAUSES_KEPT: usize = 1_000;

impl<T: Model> ModelCache<T> {
    pub(in crate::postgres) fn new(on_misfit: OnMisfit) -> Self {
        Self {
            rows: IdxModelCache::with_capacity(0),
            codec: None,
            key_cells: SegVec::new(),
            out: BTreeMap::new(),
            loads: 0,
            on_misfit,
        }
    }

    /// Takes the rows of a table of this shape from now on.
    pub(in crate::postgres) fn take_rows_of(&mut self, shape: &Arc<TableShape>) {
        self.codec = Some(KeyCodec::new(Arc::clone(shape)));
    }

    /// Returns the slot and the key of the row with this key, and the digest of the row's cells.
    fn find(&self, cells: &KeyBuf) -> Option<(u32, T::Key, [u8; 16])> {
        let key = self.codec.as_ref()?.read(cells).ok()?;
        let (slot, digest) = self.rows.digest(&key)?;
        // Another row of the table may have the same key in the model.
        self.has_cells(slot, cells).then_some((slot, key, digest))
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
        let Some((_, key, _)) = self.find(cells) else {
            return;
        };
        self.rows.remove(&key);
        self.record(cells, RowChangeKind::Removed, events);
    }

    /// Keeps out a row that became a model with this digest, and that cannot be stored.
    fn keep_out_unstored(
        &mut self,
        cells: &KeyBuf,
        why: String,
        digest: Digest,
        events: Option<&mut Vec<RowEvent>>,
    ) {
        self.keep_out(cells, why.into(), events);
        if let Some(misfit) = self.out.get_mut(cells) {
            misfit.unstored = Some(digest);
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
    /// Returns the keys of the rows that are kept out, each with the reason. The reason is empty if
    /// it was not kept: the first thousand are.
    pub(in crate::postgres) fn misfits(&self) -> impl ExactSizeIterator<Item = (Key, &str)> {
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

/// A model on the way into the cache.
pub(in crate::postgres) struct ModelRow<T: CacheModel> {
    /// The model; `None` once the cache has taken it.
    row: Option<T>,
    key: T::Key,
    /// The packed cells of the key; `None` if its type tells them.
    key_cells: Option<Box<[u8]>>,
    /// The digest of the cells that the model was made of.
    digest: Digest,
}

impl<T: Model> ModelRow<T> {
    /// Returns the cells of the row's key.
    fn cells(&self, codec: &KeyCodec<T::Key>) -> KeyBuf {
        match &self.key_cells {
            Some(packed) => codec.unpack(packed),
            None => codec.cells(&self.key).unwrap_or_default(),
        }
    }
}

/// The decoder that reads rows as JSON: into the model, and into cells for the digest. A JSON null
/// in the cells counts as SQL NULL, as it does to the model.
pub(in crate::postgres) struct ModelDecoder<T: CacheModel> {
    shape: Arc<TableShape>,
    codec: KeyCodec<T::Key>,
    /// The columns' names go into each digest: to the model, the same values under another name are
    /// another row.
    digester: RowDigester,
    /// The cells of the row that is being read. One buffer serves all rows.
    cells: RowBuf,
    on_misfit: OnMisfit,
    model: PhantomData<fn() -> T>,
}

impl<T: Model> ModelDecoder<T> {
    pub(in crate::postgres) fn new(shape: Arc<TableShape>, on_misfit: OnMisfit) -> Self {
        Self {
            digester: RowDigester::new(&shape),
            codec: KeyCodec::new(Arc::clone(&shape)),
            shape,
            cells: RowBuf::default(),
            on_misfit,
            model: PhantomData,
        }
    }

    /// Makes a model of the row whose cells were read. `read` makes it.
    ///
    /// # Errors
    /// If the row does not fit the model, and misfits are refused.
    fn decoded(
        &mut self,
        read: impl FnOnce(&TableShape, &RowBuf) -> Result<T, serde_json::Error>,
    ) -> Result<Decoded<ModelRow<T>>, RowError> {
        let digest = self.digester.row(|column| self.cells.cell(column));
        let cells = KeyBuf::of_row(&self.shape, &self.cells);
        let read = || read(&self.shape, &self.cells);
        let row = guarded(|| self.codec.read(&cells))
            .and_then(|key| key)
            .and_then(|key| Ok((into_model(read, &key)?, key)));
        match (row, self.on_misfit) {
            (Ok((row, key)), _) => {
                let tells_cells = self.codec.cells(&key).is_some();
                Ok(Decoded::Row(ModelRow {
                    row: Some(row),
                    key,
                    key_cells: (!tells_cells).then(|| KeyCodec::<T::Key>::pack(&cells)),
                    digest,
                }))
            }
            (Err(why), OnMisfit::Quarantine) => Ok(Decoded::Misfit {
                key: cells,
                why: why.into(),
            }),
            (Err(why), OnMisfit::Refuse) => Err(RowError::Malformed(format!(
                "the row {} does not fit the model: {why}",
                self.codec.name(&cells)
            ))),
        }
    }
}

/// Makes a model of the row with this key.
///
/// # Errors
/// If the row does not fit, with the reason. The model's code is the application's: an error, a
/// panic and a wrong key alike are a reason.
fn into_model<T: Model>(
    read: impl FnOnce() -> Result<T, serde_json::Error>,
    key: &T::Key,
) -> Result<T, String> {
    // `key` is the application's code as well, so it is called inside.
    let (own, row) =
        guarded(|| read().map(|row| (row.key(), row)))?.map_err(|error| error.to_string())?;
    if own == *key {
        Ok(row)
    } else {
        Err(format!("the model gives it the key {own:?}"))
    }
}

impl<T: Model> RowDecoder for ModelDecoder<T> {
    type Row = ModelRow<T>;

    fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    fn query(&self, relation: &str, only: &str) -> String {
        query_of_columns(&self.shape, relation, only)
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<ModelRow<T>>, ReadError> {
        self.cells.read_copy_tuple(&self.shape, tuple)?;
        // As in the payloads of the plain form, and to the model.
        self.cells.forget_json_nulls(&self.shape);
        Ok(self.decoded(|shape, row| T::deserialize(RowDeserializer::new(shape, row)))?)
    }

    fn read_json(
        &mut self,
        data: &str,
        _: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<ModelRow<T>>, ReadError> {
        // The columns that are SQL NULL do not matter: the model takes both nulls alike, and a row
        // that is read by Q does not name them.
        self.cells
            .read_json(&self.shape, data, JsonNulls::Unknown)?;
        let decoded = self.decoded(|_, _| serde_json::from_str(data))?;
        let own = match &decoded {
            Decoded::Row(row) => self.key_of(row),
            Decoded::Misfit { key, .. } => key.clone(),
        };
        if own == *key {
            Ok(decoded)
        } else {
            Err(RowError::KeyMismatch.into())
        }
    }

    fn key_of(&self, row: &ModelRow<T>) -> KeyBuf {
        row.cells(&self.codec)
    }

    fn recycle(&mut self, _: ModelRow<T>) {}
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
        self.rows.memory_bytes()
            + self.key_cells.memory_bytes()
            + self.out.len() * 2 * size_of::<(KeyBuf, Misfit)>()
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
        std::hint::black_box(self.rows.touch(keys));
    }

    fn put(
        &mut self,
        row: &mut ModelRow<T>,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        let Some(model) = row.row.take() else {
            return Ok(Upserted::Unchanged);
        };
        let key = row.key.clone();
        let cells = self.cells_of_row(row);
        let packed = row.key_cells.take();
        let before = self.rows.digest(&key).map(|(slot, _)| slot);
        if before.is_some_and(|slot| !self.has_cells(slot, &cells)) {
            let why = format!("another row has the key {key:?} in the model");
            if self.on_misfit == OnMisfit::Refuse {
                return Err(StoreError::Model(why));
            }
            self.keep_out_unstored(&cells, why, row.digest, events);
            return Ok(Upserted::Unchanged);
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
        let put = guarded(|| self.rows.put_digested(model, *row.digest.bytes()));
        let upserted = match put {
            Ok(put) => {
                let (slot, upserted) = put?;
                self.keep_cells(slot, packed);
                if let Some(seen) = seen {
                    seen.mark(slot);
                }
                upserted
            }
            Err(panic) if self.on_misfit == OnMisfit::Refuse => {
                return Err(StoreError::Model(panic));
            }
            // The row that was there before goes too: it is not the table's row any more.
            Err(panic) => {
                self.keep_out_unstored(&cells, panic, row.digest, events);
                return Ok(Upserted::Unchanged);
            }
        };
        self.out.remove(&cells);
        match upserted {
            Upserted::Added => self.record(&cells, RowChangeKind::Added, events),
            Upserted::Changed => self.record(&cells, RowChangeKind::Changed, events),
            Upserted::Unchanged => {}
        }
        Ok(upserted)
    }

    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>) {
        self.out.remove(key);
        self.take_out(key, events);
    }

    fn keep_out(&mut self, key: &KeyBuf, why: Arc<str>, mut events: Option<&mut Vec<RowEvent>>) {
        self.take_out(key, events.as_deref_mut());
        // A row whose reason is kept keeps that place, also while there are more than a thousand.
        let has_cause = self
            .out
            .get(key)
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
                unstored: None,
            },
        );
        // A row that is read again and does not fit for the same reason is no news. Of a row whose
        // reason is not kept it is not known whether the reason is another one: it counts as the
        // same.
        let is_news = before.is_none_or(|before| !before.why.is_empty() && before.why != why);
        if let Some(events) = events.filter(|_| is_news) {
            events.push(RowEvent::Misfit {
                key: self.name(key),
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
        for (slot, key) in self.rows.not_seen(seen) {
            let cells = self.cells_of(slot, &key);
            self.rows.remove(&key);
            self.record(&cells, RowChangeKind::Removed, events.as_deref_mut());
        }
    }

    fn end_load(&mut self) {
        let loads = self.loads;
        self.out.retain(|_, misfit| misfit.seen_in == loads);
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.key_cells = SegVec::new();
        self.out.clear();
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
                    if misfit.unstored == Some(row.digest) {
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

    fn is_kept_out(&self, key: &KeyBuf) -> bool {
        self.out.contains_key(key)
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
        for (slot, key) in self.rows.not_seen(seen) {
            report.find(FindingKind::Ghost, |kind| {
                self.finding(kind, &self.cells_of(slot, &key))
            });
        }
    }
}

#[cfg(test)]
mod tests;
