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

use super::cells::query_of_columns;
use super::finding::{ComparisonReport, Finding, FindingKind};
use super::sink::{CacheSink, Decoded, RowChangeKind, RowDecoder, RowEvent, WriteMode};
use crate::digest::{Digest, RowDigester, digest_of_key};
use crate::index_cache::IdxModelCache;
use crate::model::{HasPrimaryKey, Indexable, guarded};
use crate::postgres::error::ReadError;
use crate::table_cache::{
    JsonNulls, KeyBuf, RowBuf, RowDeserializer, RowError, SeenRows, StoreError, TableShape,
    Touched, Upserted,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use uuid::Uuid;

/// The traits of a type whose values can be the rows of a replica's cache.
pub trait Model: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync + 'static {}

impl<T: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync + 'static> Model for T {}

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
pub(in crate::postgres) struct ModelCache<T> {
    /// The rows that fit.
    pub(in crate::postgres) rows: IdxModelCache<T>,
    /// The rows that are kept out. Their keys are none of those in `rows`.
    out: BTreeMap<Uuid, Misfit>,
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
    /// The digest of a row that became a model, and whose index functions panicked. `None` if the
    /// row became no model.
    without_index: Option<Digest>,
}

/// The number of kept-out rows whose reason is kept. Of further rows the cache keeps the key alone,
/// to bound the memory.
const CAUSES_KEPT: usize = 1_000;

impl<T: Model> ModelCache<T> {
    pub(in crate::postgres) fn new(on_misfit: OnMisfit) -> Self {
        Self {
            rows: IdxModelCache::with_capacity(0),
            out: BTreeMap::new(),
            loads: 0,
            on_misfit,
        }
    }
}

impl<T> ModelCache<T> {
    /// Returns the keys of the rows that are kept out, each with the reason. The reason is empty if
    /// it was not kept: the first thousand are.
    pub(in crate::postgres) fn misfits(&self) -> impl ExactSizeIterator<Item = (&Uuid, &str)> {
        self.out.iter().map(|(key, misfit)| (key, &*misfit.why))
    }
}

impl<T: HasPrimaryKey + Indexable> ModelCache<T> {
    /// Returns whether the cache has a row with this key, and the row is marked.
    fn is_marked(&self, key: &Uuid, seen: &SeenRows) -> bool {
        self.rows
            .digest(key)
            .is_some_and(|(slot, _)| seen.has(slot))
    }
}

/// A model on the way into the cache.
pub(in crate::postgres) struct ModelRow<T> {
    /// The model; `None` once the cache has taken it.
    row: Option<T>,
    key: Uuid,
    /// The digest of the cells that the model was made of.
    digest: Digest,
}

/// The decoder that reads rows as JSON: into the model, and into cells for the digest. A JSON null
/// in the cells counts as SQL NULL, as it does to the model.
pub(in crate::postgres) struct ModelDecoder<T> {
    shape: Arc<TableShape>,
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
        let cells = &self.cells;
        let digest = self.digester.row(|column| cells.cell(column));
        let key = key_of(&KeyBuf::of_row(&self.shape, cells));
        match (into_model(|| read(&self.shape, cells), key), self.on_misfit) {
            (Ok(row), _) => Ok(Decoded::Row(ModelRow {
                row: Some(row),
                key,
                digest,
            })),
            (Err(why), OnMisfit::Quarantine) => Ok(Decoded::Misfit {
                key: KeyBuf::of_cell(key.as_bytes()),
                why: why.into(),
            }),
            (Err(why), OnMisfit::Refuse) => Err(RowError::Malformed(format!(
                "the row {key} does not fit the model: {why}"
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
    key: Uuid,
) -> Result<T, String> {
    // `primary_key` is the application's code as well, so it is called inside.
    let (own, row) = guarded(|| read().map(|row| (row.primary_key(), row)))?
        .map_err(|error| error.to_string())?;
    if own == key {
        Ok(row)
    } else {
        Err(format!("the model gives it the key {own}"))
    }
}

/// Returns a key as a uuid. A table whose key is no uuid is refused before it is followed, so the
/// default is never returned.
fn key_of(key: &KeyBuf) -> Uuid {
    key.cells()
        .next()
        .and_then(|cell| Uuid::from_slice(cell).ok())
        .unwrap_or_default()
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
            Decoded::Row(row) => row.key,
            Decoded::Misfit { key, .. } => key_of(key),
        };
        if own == key_of(key) {
            Ok(decoded)
        } else {
            Err(RowError::KeyMismatch.into())
        }
    }

    fn key_of(&self, row: &ModelRow<T>) -> KeyBuf {
        KeyBuf::of_cell(row.key.as_bytes())
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
        self.rows.memory_bytes() + self.out.len() * 2 * size_of::<(Uuid, Misfit)>() + causes
    }

    fn make_room(&mut self, expected: usize) {
        self.rows = IdxModelCache::with_capacity(expected);
        self.out.clear();
    }

    fn begin_load(&mut self) {
        self.loads += 1;
    }

    fn touch(&self, changes: &[Touched<'_, ModelRow<T>>]) {
        let keys: Vec<Uuid> = changes
            .iter()
            .map(|change| match change {
                Touched::Row(row) => row.key,
                Touched::Key(key) => key_of(key),
            })
            .collect();
        std::hint::black_box(self.rows.touch(&keys));
    }

    fn put(
        &mut self,
        row: &mut ModelRow<T>,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        let key = row.key;
        let Some(model) = row.row.take() else {
            return Ok(Upserted::Unchanged);
        };
        let seen = match mode {
            WriteMode::Insert if self.rows.contains_primary(&key) => {
                return Err(StoreError::DuplicateKey(key.to_string()));
            }
            WriteMode::Merge(seen) if self.is_marked(&key, seen) => {
                return Err(StoreError::DuplicateKey(key.to_string()));
            }
            WriteMode::Insert | WriteMode::Upsert => None,
            WriteMode::Merge(seen) => Some(seen),
        };
        // The model is asked for its index values in here, and may panic.
        let put = guarded(|| self.rows.put_digested(model, *row.digest.bytes()));
        let upserted = match put {
            Ok(put) => {
                let (slot, upserted) = put?;
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
                self.keep_out(&KeyBuf::of_cell(key.as_bytes()), panic.into(), events);
                if let Some(misfit) = self.out.get_mut(&key) {
                    misfit.without_index = Some(row.digest);
                }
                return Ok(Upserted::Unchanged);
            }
        };
        self.out.remove(&key);
        let change = match upserted {
            Upserted::Added => RowChangeKind::Added,
            Upserted::Changed => RowChangeKind::Changed,
            Upserted::Unchanged => return Ok(upserted),
        };
        if let Some(events) = events {
            events.push(RowEvent::Model { key, change });
        }
        Ok(upserted)
    }

    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>) {
        let key = key_of(key);
        self.out.remove(&key);
        if let (Some(_), Some(events)) = (self.rows.remove(&key), events) {
            events.push(RowEvent::Model {
                key,
                change: RowChangeKind::Removed,
            });
        }
    }

    fn keep_out(&mut self, key: &KeyBuf, why: Arc<str>, mut events: Option<&mut Vec<RowEvent>>) {
        let key = key_of(key);
        if let (Some(_), Some(events)) = (self.rows.remove(&key), &mut events) {
            events.push(RowEvent::Model {
                key,
                change: RowChangeKind::Removed,
            });
        }
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
            key,
            Misfit {
                why: kept,
                seen_in: self.loads,
                without_index: None,
            },
        );
        // A row that is read again and does not fit for the same reason is no news. Of a row whose
        // reason is not kept it is not known whether the reason is another one: it counts as the
        // same.
        let is_news = before.is_none_or(|before| !before.why.is_empty() && before.why != why);
        if let Some(events) = events.filter(|_| is_news) {
            events.push(RowEvent::Misfit {
                key,
                why,
                sender: None,
            });
        }
    }

    fn retain_out(&mut self, keys: &[KeyBuf]) {
        let keys: Vec<Uuid> = keys.iter().map(key_of).collect();
        self.out.retain(|key, _| keys.contains(key));
    }

    fn kept_out(&self) -> Option<(usize, String)> {
        let (key, misfit) = self.out.first_key_value()?;
        Some((self.out.len(), format!("{key}: {}", misfit.why)))
    }

    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows) {
        if let Some((slot, _)) = self.rows.digest(&key_of(key)) {
            seen.mark(slot);
        }
    }

    fn sweep(&mut self, seen: &SeenRows, mut events: Option<&mut Vec<RowEvent>>) {
        for key in self.rows.not_seen(seen) {
            self.rows.remove(&key);
            if let Some(events) = &mut events {
                events.push(RowEvent::Model {
                    key,
                    change: RowChangeKind::Removed,
                });
            }
        }
    }

    fn end_load(&mut self) {
        let loads = self.loads;
        self.out.retain(|_, misfit| misfit.seen_in == loads);
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.out.clear();
    }

    fn compare(&self, row: &ModelRow<T>, seen: &mut SeenRows, report: &mut ComparisonReport) {
        let cached = self.rows.digest(&row.key);
        if let Some((slot, _)) = cached {
            seen.mark(slot);
        }
        match cached {
            None => match self.out.get(&row.key) {
                None => report.find(FindingKind::Missing, |kind| finding(kind, row.key)),
                Some(misfit) => {
                    report.out.insert(KeyBuf::of_cell(row.key.as_bytes()));
                    // A comparison does not ask the model for index values: a row with the digest
                    // of one whose index functions panicked is kept out rightly.
                    if misfit.without_index == Some(row.digest) {
                        report.kept_out += 1;
                    } else {
                        report.find(FindingKind::Stale, |kind| finding(kind, row.key));
                    }
                }
            },
            Some((_, digest)) if digest != *row.digest.bytes() => {
                report.find(FindingKind::Stale, |kind| finding(kind, row.key));
            }
            Some(_) => {}
        }
    }

    fn compare_misfit(&self, key: &KeyBuf, seen: &mut SeenRows, report: &mut ComparisonReport) {
        let cells = key;
        let key = key_of(key);
        if let Some((slot, _)) = self.rows.digest(&key) {
            seen.mark(slot);
            report.find(FindingKind::Stale, |kind| finding(kind, key));
        } else if self.out.contains_key(&key) {
            report.out.insert(cells.clone());
            report.kept_out += 1;
        } else {
            report.find(FindingKind::Missing, |kind| finding(kind, key));
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
            visit(digest_of_uuid(key), Digest::of_bytes(*digest));
            next = Some(slot + 1);
        }
        next
    }

    fn row_digest(&self, _: &mut RowDigester, key: &KeyBuf) -> Option<Digest> {
        let (_, digest) = self.rows.digest(&key_of(key))?;
        Some(Digest::of_bytes(digest))
    }

    fn is_kept_out(&self, key: &KeyBuf) -> bool {
        self.out.contains_key(&key_of(key))
    }

    fn kept_out_keys(&self, most: usize) -> Vec<Digest> {
        self.out.keys().take(most).map(digest_of_uuid).collect()
    }

    fn find_ghosts(&self, seen: &SeenRows, report: &mut ComparisonReport) {
        let kept_out = std::mem::take(&mut report.out);
        // A row that is kept out, and that the table does not have, is a ghost as well.
        let out = self
            .out
            .keys()
            .filter(|key| !kept_out.contains(&KeyBuf::of_cell(key.as_bytes())))
            .copied();
        for key in self.rows.not_seen(seen).into_iter().chain(out) {
            report.find(FindingKind::Ghost, |kind| finding(kind, key));
        }
    }
}

/// Returns the digest of a key.
fn digest_of_uuid(key: &Uuid) -> Digest {
    digest_of_key(std::iter::once(key.as_bytes().as_slice()))
}

/// Returns the finding of a row that differs. A model has no columns to name.
fn finding(kind: FindingKind, key: Uuid) -> Finding {
    Finding {
        kind,
        key: format!("\"{key}\""),
        key_cells: KeyBuf::of_cell(key.as_bytes()),
        columns: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
