//! A cache of an application's own rows, kept in step: rows are read as JSON, by one deserialiser for snapshot and
//! notification.

use super::error::ReadError;
use super::keep::{Became, Comparison, Finding, FindingKind, Keep, Mode, Reads, Told};
use super::session::quote_identifier;
use crate::index_cache::IdxModelCache;
use crate::model::{HasPrimaryKey, Indexable};
use crate::table_cache::{JsonNulls, KeyBuf, Laid, RowBuf, StoreError, TableShape, Unfit, Upserted};
use foldhash::quality::RandomState;
use serde::de::DeserializeOwned;
use std::hash::{BuildHasher as _, Hasher as _};
use std::marker::PhantomData;
use std::sync::Arc;
use uuid::Uuid;

/// What a row of an application must be.
pub trait Model: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync + 'static {}

impl<T: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync + 'static> Model for T {}

/// A row on its way in.
pub(super) struct ModelRow<T> {
    row: Option<T>,
    key: Uuid,
    digest: u64,
}

/// Reads rows as JSON: into the model, and into cells, whose digest tells whether two rows are the same. A JSON null
/// counts as SQL NULL there, as it does to the model.
pub(super) struct ModelReader<T> {
    shape: Arc<TableShape>,
    hasher: RandomState,
    /// A digest of the columns' names: the same values under another name are another row to the model.
    names: u64,
    cells: RowBuf,
    model: PhantomData<fn() -> T>,
}

impl<T: Model> ModelReader<T> {
    pub(super) fn new(shape: Arc<TableShape>, hasher: RandomState) -> Self {
        let names: Vec<&str> = shape.columns().iter().map(|column| column.name.as_str()).collect();
        let names = hasher.hash_one(names);
        Self { shape, hasher, names, cells: RowBuf::default(), model: PhantomData }
    }

    fn read(&mut self, json: &str) -> Result<ModelRow<T>, Unfit> {
        self.cells.read_json(&self.shape, json, JsonNulls::Unknown)?;
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
        let row: T = serde_json::from_str(json)
            .map_err(|error| Unfit::Malformed(format!("the row {key} does not fit the model: {error}")))?;
        if row.primary_key() != key {
            let own = row.primary_key();
            return Err(Unfit::Malformed(format!("the model's key of the row {key} is {own}")));
        }
        Ok(ModelRow { row: Some(row), key, digest: hasher.finish() })
    }
}

/// The uuid that is a key; a table whose key is none is not followed into such a cache.
fn key_of(key: &KeyBuf) -> Uuid {
    key.cells().next().and_then(|cell| Uuid::from_slice(cell).ok()).unwrap_or_default()
}

impl<T: Model> Reads for ModelReader<T> {
    type Row = ModelRow<T>;

    fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    fn query(&self, relation: &str, only: &str) -> String {
        let columns: Vec<String> = self.shape.columns().iter().map(|column| quote_identifier(&column.name)).collect();
        // Not the name of a column: that would be meant then.
        let mut row = "row".to_string();
        while self.shape.position(&row).is_some() {
            row.push('_');
        }
        let row = quote_identifier(&row);
        let columns = columns.join(", ");
        format!(
            "SELECT pg_catalog.row_to_json({row})::pg_catalog.text FROM (SELECT {columns} FROM {relation}{only}) AS {row}"
        )
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<ModelRow<T>, ReadError> {
        let malformed = || Unfit::Malformed(format!("a COPY tuple of {} bytes is not one row as JSON", tuple.len()));
        let (head, json) = tuple.split_first_chunk::<6>().ok_or_else(malformed)?;
        let length = i32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        if head[..2] != [0, 1] || usize::try_from(length) != Ok(json.len()) {
            return Err(malformed().into());
        }
        Ok(self.read(std::str::from_utf8(json).map_err(|_| malformed())?)?)
    }

    fn read_json(&mut self, data: &str, _: JsonNulls<'_>, key: &KeyBuf) -> Result<ModelRow<T>, String> {
        let row = self.read(data).map_err(|error| error.to_string())?;
        if row.key == key_of(key) { Ok(row) } else { Err(Unfit::KeyMismatch.to_string()) }
    }

    fn key_of(&self, row: &ModelRow<T>) -> KeyBuf {
        KeyBuf::of_cell(row.key.as_bytes())
    }

    fn recycle(&mut self, _: ModelRow<T>) {}
}

impl<T: Model> Keep for IdxModelCache<T> {
    type Row = ModelRow<T>;
    type Reader = ModelReader<T>;

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn memory_bytes(&self) -> usize {
        Self::memory_bytes(self)
    }

    fn make_room(&mut self, expected: usize) {
        *self = Self::with_capacity(expected);
    }

    fn put(&mut self, row: &mut ModelRow<T>, mode: Mode<'_>, told: Option<&mut Vec<Told>>) -> Result<(), StoreError> {
        let key = row.key;
        let duplicate = || StoreError::DuplicateKey(key.to_string());
        let Some(model) = row.row.take() else { return Ok(()) };
        let upserted = match mode {
            Mode::Insert if self.contains_primary(&key) => return Err(duplicate()),
            Mode::Insert | Mode::Upsert => self.put_digested(model, row.digest)?.1,
            Mode::Lay(laid) => {
                if self.digest(&key).is_some_and(|(slot, _)| laid.has(slot)) {
                    return Err(duplicate());
                }
                let (slot, upserted) = self.put_digested(model, row.digest)?;
                laid.mark(slot);
                upserted
            }
        };
        let became = match upserted {
            Upserted::Added => Became::Added,
            Upserted::Changed => Became::Changed,
            Upserted::Unchanged => return Ok(()),
        };
        if let Some(told) = told {
            told.push(Told::Model(key, became));
        }
        Ok(())
    }

    fn remove(&mut self, key: &KeyBuf, told: Option<&mut Vec<Told>>) {
        let key = key_of(key);
        if let (Some(_), Some(told)) = (Self::remove(self, &key), told) {
            told.push(Told::Model(key, Became::Removed));
        }
    }

    fn spare(&self, key: &KeyBuf, laid: &mut Laid) {
        if let Some((slot, _)) = self.digest(&key_of(key)) {
            laid.mark(slot);
        }
    }

    fn sweep(&mut self, laid: &Laid, mut told: Option<&mut Vec<Told>>) {
        for key in self.not_laid(laid) {
            Self::remove(self, &key);
            if let Some(told) = &mut told {
                told.push(Told::Model(key, Became::Removed));
            }
        }
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn compare(&self, row: &ModelRow<T>, laid: &mut Laid, comparison: &mut Comparison) {
        let cached = self.digest(&row.key);
        if let Some((slot, _)) = cached {
            laid.mark(slot);
        }
        match cached {
            None => comparison.find(FindingKind::Missing, |kind| finding(kind, row.key)),
            Some((_, digest)) if digest != row.digest => {
                comparison.find(FindingKind::Stale, |kind| finding(kind, row.key));
            }
            Some(_) => {}
        }
    }

    fn ghosts(&self, laid: &Laid, comparison: &mut Comparison) {
        for key in self.not_laid(laid) {
            comparison.find(FindingKind::Ghost, |kind| finding(kind, key));
        }
    }
}

fn finding(kind: FindingKind, key: Uuid) -> Finding {
    Finding { kind, key: format!("\"{key}\""), key_cells: KeyBuf::of_cell(key.as_bytes()), columns: Vec::new() }
}
