//! Rows and changes that a log brings: the JSON of a relay's own cache.

use super::{PendingOp, SinkWriter};
use crate::log::{JsonRow, RowOp};
use crate::postgres::apply::sink::{CacheSink, Decoded, RowDecoder as _};
use crate::postgres::apply::writer::ApplyError;
use crate::table_cache::JsonNulls;

impl<C: CacheSink> SinkWriter<C> {
    /// Makes a change wait for the lock.
    pub(super) fn push_row_op(&mut self, op: &RowOp) -> Result<(), ApplyError> {
        let op = match op {
            RowOp::Upsert { id, row } => match self.decode(id, row)? {
                Decoded::Row(row) => PendingOp::Upsert(row),
                Decoded::Misfit(misfit) => PendingOp::KeepOut(misfit),
            },
            RowOp::Replace { old_id, id, row } => {
                let old = self.key_of(old_id)?;
                match self.decode(id, row)? {
                    Decoded::Row(new) => PendingOp::Replace { old, new },
                    Decoded::Misfit(misfit) => {
                        self.push(PendingOp::Remove(old), None);
                        PendingOp::KeepOut(misfit)
                    }
                }
            }
            RowOp::Remove { id } => PendingOp::Remove(self.key_of(id)?),
            RowOp::Clear { spared } => {
                let keys = spared.iter().map(|id| self.key_of(id));
                PendingOp::Clear(keys.collect::<Result<_, _>>()?)
            }
        };
        self.push(op, None);
        Ok(())
    }

    /// Makes a row of a snapshot wait for the lock.
    pub(super) fn push_loaded_row(&mut self, id: &str, row: &JsonRow) -> Result<(), ApplyError> {
        let decoded = self.decode(id, row)?;
        self.merge_decoded(decoded);
        Ok(())
    }

    fn decode(&mut self, id: &str, row: &JsonRow) -> Result<Decoded<C::Row>, ApplyError> {
        let key = self.key_of(id)?;
        let nulls = JsonNulls::Listed(&row.nulls);
        Ok(self.decoder.read_json(&row.data, nulls, &key)?)
    }
}
