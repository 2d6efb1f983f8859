//! [`ModelDecoder`]: from the bytes of a row to the model, without the lock of the cache.

use super::key_codec::KeyCodec;
use super::{Model, OnMisfit};
use crate::digest::{Digest, RowDigester};
use crate::model::{CacheModel, guarded};
use crate::postgres::apply::sink::{Decoded, MisfitRow, RowDecoder};
use crate::postgres::error::ReadError;
use crate::table_cache::{JsonNulls, KeyBuf, RowBuf, RowDeserializer, RowError, TableShape};
use std::marker::PhantomData;
use std::sync::Arc;

/// A model on the way into the cache.
pub(crate) struct ModelRow<T: CacheModel> {
    /// The model; `None` once the cache has taken it.
    pub(super) row: Option<T>,
    pub(super) key: T::Key,
    /// The packed cells of the key; `None` if its type tells them.
    pub(super) key_cells: Option<Box<[u8]>>,
    /// The digest of the cells that the model was made of.
    pub(super) digest: Digest,
}

impl<T: Model> ModelRow<T> {
    /// Returns the cells of the row's key.
    pub(super) fn cells(&self, codec: &KeyCodec<T::Key>) -> KeyBuf {
        match &self.key_cells {
            Some(packed) => codec.unpack(packed),
            None => codec.cells(&self.key).unwrap_or_default(),
        }
    }
}

/// The decoder that reads rows as JSON: into the model, and into cells for the digest. A JSON null
/// in the cells counts as SQL NULL, as it does to the model.
pub(crate) struct ModelDecoder<T: CacheModel> {
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
    pub(crate) fn new(shape: Arc<TableShape>, on_misfit: OnMisfit) -> Self {
        Self {
            digester: RowDigester::new(&shape),
            codec: KeyCodec::new(Arc::clone(&shape)),
            shape,
            cells: RowBuf::default(),
            on_misfit,
            model: PhantomData,
        }
    }

    /// Makes a model of the row whose cells were read.
    ///
    /// # Errors
    /// If the row does not fit the model, and misfits are refused.
    fn decoded(&mut self) -> Result<Decoded<ModelRow<T>>, RowError> {
        // As in the payloads of the plain form, and to the model.
        self.cells.forget_json_nulls(&self.shape);
        let digest = self.digester.row(|column| self.cells.cell(column));
        let cells = KeyBuf::of_row(&self.shape, &self.cells);
        let read = || T::deserialize(RowDeserializer::new(&self.shape, &self.cells));
        let row = self
            .codec
            .read(&cells)
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
            (Err(why), OnMisfit::Quarantine) => Ok(Decoded::Misfit(MisfitRow {
                key: cells,
                digest,
                why: why.into(),
            })),
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
    // `key` and the key's own functions are the application's code as well, so they are called
    // inside.
    guarded(|| {
        let row = read().map_err(|error| error.to_string())?;
        let own = row.key();
        if own == *key {
            Ok(row)
        } else {
            Err(format!("the model gives it the key {own:?}"))
        }
    })?
}

impl<T: Model> RowDecoder for ModelDecoder<T> {
    type Row = ModelRow<T>;

    const IS_WORTH_A_THREAD: bool = true;

    fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    fn again(&self) -> Self {
        Self::new(Arc::clone(&self.shape), self.on_misfit)
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<ModelRow<T>>, ReadError> {
        self.cells.read_copy_tuple(&self.shape, tuple)?;
        Ok(self.decoded()?)
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
        // The model is made of the cells, as that of a row of COPY is: it sees the same, whichever way
        // the row came.
        let decoded = self.decoded()?;
        let own = match &decoded {
            Decoded::Row(row) => self.key_of(row),
            Decoded::Misfit(misfit) => misfit.key.clone(),
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
