//! A cache of an application's own rows, kept in step: rows are read as JSON, by one deserialiser
//! for snapshot and notification.

use super::finding::{ComparisonReport, Finding, FindingKind};
use super::sink::{CacheSink, Decoded, RowChangeKind, RowDecoder, RowEvent, WriteMode};
use crate::index_cache::IdxModelCache;
use crate::model::{HasPrimaryKey, Indexable, guarded};
use crate::postgres::error::ReadError;
use crate::postgres::quote::quote_identifier;
use crate::table_cache::Column;
use crate::table_cache::{
    JsonNulls, KeyBuf, RowBuf, RowError, SeenRows, StoreError, TableShape, Upserted,
};
use foldhash::quality::RandomState;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::marker::PhantomData;
use std::sync::Arc;
use uuid::Uuid;

/// What a row of an application must be.
pub trait Model: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync + 'static {}

impl<T: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync + 'static> Model for T {}

/// What happens to a row that does not fit the model: a label that the model does not know, a NULL,
/// a number that is too large, a panic in the model's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMisfit {
    /// The row is kept out of the cache, counted and named, and taken in once it fits. The other
    /// rows are as live as ever.
    #[default]
    Quarantine,
    /// Its table cannot be opened; a table that was live is stale until the row fits.
    Refuse,
}

/// An application's cache, with the rows of its table that do not fit the model.
pub(in crate::postgres) struct ModelCache<T> {
    pub(in crate::postgres) rows: IdxModelCache<T>,
    out: BTreeMap<Uuid, Misfit>,
    /// Numbers the snapshots: a row that is kept out and does not come in the last one is gone.
    loads: u64,
    on_misfit: OnMisfit,
}

/// A row that is kept out.
#[derive(Debug)]
struct Misfit {
    why: Arc<str>,
    seen_in: u64,
    /// The digest of a row that became a model, whose index values could not be had.
    without_index: Option<u64>,
}

/// Of how many rows that are kept out the cause is remembered; of the others the key alone.
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
    /// The rows that are kept out, with the causes; the cause is empty for those past the first
    /// thousand.
    pub(in crate::postgres) fn misfits(&self) -> impl ExactSizeIterator<Item = (&Uuid, &str)> {
        self.out.iter().map(|(key, misfit)| (key, &*misfit.why))
    }
}

/// A row on its way in.
pub(in crate::postgres) struct ModelRow<T> {
    row: Option<T>,
    key: Uuid,
    digest: u64,
}

/// Reads rows as JSON: into the model, and into cells, whose digest tells whether two rows are the
/// same. A JSON null counts as SQL NULL there, as it does to the model.
pub(in crate::postgres) struct ModelDecoder<T> {
    shape: Arc<TableShape>,
    hasher: RandomState,
    /// A digest of the columns' names: the same values under another name are another row to the
    /// model.
    names: u64,
    cells: RowBuf,
    on_misfit: OnMisfit,
    model: PhantomData<fn() -> T>,
}

impl<T: Model> ModelDecoder<T> {
    pub(in crate::postgres) fn new(
        shape: Arc<TableShape>,
        hasher: RandomState,
        on_misfit: OnMisfit,
    ) -> Self {
        let names: Vec<&str> = shape
            .columns()
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let names = hasher.hash_one(names);
        Self {
            shape,
            hasher,
            names,
            cells: RowBuf::default(),
            on_misfit,
            model: PhantomData,
        }
    }

    fn read(&mut self, json: &str) -> Result<Decoded<ModelRow<T>>, RowError> {
        self.cells
            .read_json(&self.shape, json, JsonNulls::Unknown)?;
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(self.names);
        for column in 0..self.shape.columns().len() {
            match self.cells.cell(column) {
                None => hasher.write_u8(0),
                Some(cell) => {
                    hasher.write_usize(cell.len() + 1);
                    hasher.write(cell);
                }
            }
        }
        let key = key_of(&KeyBuf::of_row(&self.shape, &self.cells));
        match (into_model(json, key), self.on_misfit) {
            (Ok(row), _) => Ok(Decoded::Row(ModelRow {
                row: Some(row),
                key,
                digest: hasher.finish(),
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

/// Makes the row of this key a model, which is the application's code: an error and a panic alike
/// say why it does not fit.
fn into_model<T: Model>(json: &str, key: Uuid) -> Result<T, String> {
    let (own, row) =
        guarded(|| serde_json::from_str::<T>(json).map(|row| (row.primary_key(), row)))?
            .map_err(|error| error.to_string())?;
    if own == key {
        Ok(row)
    } else {
        Err(format!("the model gives it the key {own}"))
    }
}

/// The uuid that is a key; a table whose key is none is not followed into such a cache.
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
        let column = |column: &Column| {
            let name = quote_identifier(&column.name);
            match column.kind.json_argument(&name) {
                argument if argument == name => name,
                argument => format!("{argument} AS {name}"),
            }
        };
        let columns: Vec<String> = self.shape.columns().iter().map(column).collect();
        // Not the name of a column: that would be meant then.
        let mut row = "row".to_string();
        while self.shape.position(&row).is_some() {
            row.push('_');
        }
        let row = quote_identifier(&row);
        let columns = columns.join(", ");
        format!(
            "SELECT pg_catalog.row_to_json({row})::pg_catalog.text FROM (SELECT {columns} FROM \
            {relation}{only}) AS {row}"
        )
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<ModelRow<T>>, ReadError> {
        let malformed = || {
            RowError::Malformed(format!(
                "a COPY tuple of {} bytes is not one row as JSON",
                tuple.len()
            ))
        };
        let (head, json) = tuple.split_first_chunk::<6>().ok_or_else(malformed)?;
        let length = i32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        if head[..2] != [0, 1] || usize::try_from(length) != Ok(json.len()) {
            return Err(malformed().into());
        }
        Ok(self.read(std::str::from_utf8(json).map_err(|_| malformed())?)?)
    }

    fn read_json(
        &mut self,
        data: &str,
        _: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<ModelRow<T>>, ReadError> {
        let decoded = self.read(data)?;
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

    fn put(
        &mut self,
        row: &mut ModelRow<T>,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        let key = row.key;
        let duplicate = || StoreError::DuplicateKey(key.to_string());
        let Some(model) = row.row.take() else {
            return Ok(Upserted::Unchanged);
        };
        // The model is asked for its index values in here, and may panic.
        let put = |rows: &mut IdxModelCache<T>| guarded(|| rows.put_digested(model, row.digest));
        let put = match mode {
            WriteMode::Insert if self.rows.contains_primary(&key) => return Err(duplicate()),
            WriteMode::Insert | WriteMode::Upsert => put(&mut self.rows),
            WriteMode::Merge(seen) => {
                if self
                    .rows
                    .digest(&key)
                    .is_some_and(|(slot, _)| seen.has(slot))
                {
                    return Err(duplicate());
                }
                let put = put(&mut self.rows);
                if let Ok(Ok((slot, _))) = &put {
                    seen.mark(*slot);
                }
                put
            }
        };
        let upserted = match put {
            Ok(put) => put?.1,
            Err(panic) if self.on_misfit == OnMisfit::Refuse => {
                return Err(StoreError::Model(panic));
            }
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
        // A row that is read again and still does not fit is no news; of one whose cause is not
        // kept nobody knows better.
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
                    // A comparison does not ask the model for index values.
                    if misfit.without_index == Some(row.digest) {
                        report.kept_out += 1;
                    } else {
                        report.find(FindingKind::Stale, |kind| finding(kind, row.key));
                    }
                }
            },
            Some((_, digest)) if digest != row.digest => {
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

    fn find_ghosts(&self, seen: &SeenRows, report: &mut ComparisonReport) {
        let kept_out = std::mem::take(&mut report.out);
        let is_kept_out = |key: &&Uuid| kept_out.contains(&KeyBuf::of_cell(key.as_bytes()));
        let out = self.out.keys().filter(|key| !is_kept_out(key)).copied();
        for key in self.rows.not_seen(seen).into_iter().chain(out) {
            report.find(FindingKind::Ghost, |kind| finding(kind, key));
        }
    }
}

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
