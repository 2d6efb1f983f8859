//! [`Followee`]: a table that is followed, with its cache, and what is done to it.

use super::copy::CopyDecoder;
use super::error::{DriverError, ReadError};
use super::fingerprint::Fingerprint;
use super::follow::FollowTable;
use super::session::quote_identifier;
use crate::sync::{Change, Operation};
use crate::table_cache::{KeyBuf, Laid, Row, RowBuf, TableCache, Unfit, Upserted};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// What became of a row.
#[derive(Debug, Clone)]
pub enum RowChange {
    /// It is new.
    Added(RowBuf),
    /// It is another one.
    Changed {
        /// What it was.
        old: RowBuf,
        /// What it is.
        new: RowBuf,
    },
    /// It is gone.
    Removed(RowBuf),
}

pub(super) struct Followee {
    pub(super) follow: FollowTable,
    pub(super) cache: TableCache,
    /// What it was when it was read last.
    pub(super) fingerprint: Option<Fingerprint>,
    decoder: CopyDecoder,
    /// What the read has brought; `None` where there was nothing to lay it over.
    laid: Option<Laid>,
    /// How many bytes of COPY have come.
    pub(super) copied: usize,
    /// The keys and the rows of a refetch.
    refetch: Option<(Vec<String>, Vec<Bytes>)>,
    /// What became of rows since it was asked; `None` where nobody asks.
    pub(super) changes: Option<Vec<RowChange>>,
    row: RowBuf,
    key: KeyBuf,
}

impl Followee {
    pub(super) fn new(follow: FollowTable, tells_changes: bool) -> Self {
        Self {
            cache: TableCache::new(Arc::clone(&follow.shape), 0),
            follow,
            fingerprint: None,
            decoder: CopyDecoder::default(),
            laid: None,
            copied: 0,
            refetch: None,
            changes: tells_changes.then(Vec::new),
            row: RowBuf::default(),
            key: KeyBuf::default(),
        }
    }

    /// The snapshot of what Q was asked for has been taken: its rows come next.
    pub(super) fn start_load(&mut self) {
        self.decoder = CopyDecoder::default();
        self.copied = 0;
        if self.refetch.is_some() {
            return;
        }
        if self.cache.is_empty() {
            self.cache = TableCache::new(Arc::clone(&self.follow.shape), self.follow.expected_rows);
            self.laid = None;
        } else {
            self.laid = Some(Laid::default());
        }
    }

    /// Rows of these keys are asked for, or with `None` all of them.
    pub(super) fn start_work(&mut self, keys: Option<Vec<String>>) {
        self.refetch = keys.map(|keys| (keys, Vec::new()));
    }

    /// Takes rows of a snapshot.
    pub(super) fn load(&mut self, pieces: Vec<Bytes>) -> Result<(), ReadError> {
        self.copied += pieces.iter().map(Bytes::len).sum::<usize>();
        if let Some((_, kept)) = &mut self.refetch {
            kept.extend(pieces);
            return Ok(());
        }
        let Self { follow, cache, decoder, laid, changes, row, .. } = self;
        pieces.iter().try_for_each(|piece| {
            decoder.push::<ReadError>(piece, |tuple| {
                row.read_copy_tuple(&follow.shape, tuple)?;
                let Some(laid) = laid else {
                    cache.insert_unique(row)?;
                    if let Some(changes) = changes {
                        changes.push(RowChange::Added(row.clone()));
                    }
                    return Ok(());
                };
                let old = changes.is_some().then(|| cache.get(&KeyBuf::of_row(&follow.shape, row)));
                let old = old.flatten().map(|old| old.to_buf());
                let upserted = cache.lay(row, laid)?;
                tell(changes.as_mut(), upserted, old, row);
                Ok(())
            })
        })
    }

    /// All rows have come: what was there and is not among them is removed.
    pub(super) fn finish_load(&mut self) -> Result<(), ReadError> {
        if self.refetch.is_some() {
            return Ok(());
        }
        self.decoder.finish()?;
        if let Some(laid) = self.laid.take() {
            self.sweep(&laid);
        }
        Ok(())
    }

    fn sweep(&mut self, laid: &Laid) {
        let Self { cache, changes, .. } = self;
        cache.sweep(laid, |row: Row<'_>| {
            if let Some(changes) = changes {
                changes.push(RowChange::Removed(row.to_buf()));
            }
        });
    }

    /// Puts the rows of a refetch in; a key that was asked for and did not come is absent.
    pub(super) fn store_refetched(&mut self) -> Result<(), String> {
        let Some((keys, pieces)) = self.refetch.take() else { return Ok(()) };
        let shape = Arc::clone(&self.follow.shape);
        let mut rows = Vec::new();
        let mut decoder = CopyDecoder::default();
        for piece in pieces {
            let pushed = decoder.push::<ReadError>(&piece, |tuple| {
                let mut row = RowBuf::default();
                row.read_copy_tuple(&shape, tuple)?;
                rows.push(row);
                Ok(())
            });
            pushed.map_err(|error| error.to_string())?;
        }
        decoder.finish().map_err(|error| error.to_string())?;
        let found: HashSet<KeyBuf> = rows.iter().map(|row| KeyBuf::of_row(&shape, row)).collect();
        for id in keys {
            let mut key = KeyBuf::default();
            key.read_json(&shape, &id).map_err(|error| error.to_string())?;
            if !found.contains(&key) {
                self.remove(&key);
            }
        }
        rows.iter().try_for_each(|row| self.upsert(row))
    }

    /// Removes every row but those of these keys.
    pub(super) fn clear(&mut self, keep: &[String]) -> Result<(), String> {
        if keep.is_empty() && self.changes.is_none() {
            self.cache.clear();
            return Ok(());
        }
        let mut laid = Laid::default();
        for id in keep {
            self.key.read_json(&self.follow.shape, id).map_err(|error| error.to_string())?;
            self.cache.spare(&self.key, &mut laid);
        }
        self.sweep(&laid);
        Ok(())
    }

    /// Applies a change to the cache; the error says why the table must be read again.
    pub(super) fn apply(&mut self, change: &Change) -> Result<(), String> {
        let shape = Arc::clone(&self.follow.shape);
        let text = |error: Unfit| error.to_string();
        let mut key = std::mem::take(&mut self.key);
        let mut row = std::mem::take(&mut self.row);
        let applied = (|| {
            key.read_json(&shape, change.id()).map_err(text)?;
            match change.operation() {
                Operation::Whole => {}
                Operation::Remove => self.remove(&key),
                Operation::Upsert | Operation::ReplaceKey => {
                    let data = change.data().ok_or("the row was not sent")?;
                    row.read_json(&shape, data, change.json_nulls()).map_err(text)?;
                    if !row.has_key(&shape, &key) {
                        return Err(text(Unfit::KeyMismatch));
                    }
                    if let (Operation::ReplaceKey, Some(old)) = (change.operation(), change.old_id()) {
                        key.read_json(&shape, old).map_err(text)?;
                        self.remove(&key);
                    }
                    self.upsert(&row)?;
                }
            }
            Ok(())
        })();
        (self.key, self.row) = (key, row);
        applied
    }

    fn remove(&mut self, key: &KeyBuf) {
        if let Some(changes) = &mut self.changes {
            changes.extend(self.cache.get(key).map(|old| RowChange::Removed(old.to_buf())));
        }
        self.cache.remove(key);
    }

    fn upsert(&mut self, row: &RowBuf) -> Result<(), String> {
        let Self { follow, cache, changes, .. } = self;
        let old = changes.is_some().then(|| cache.get(&KeyBuf::of_row(&follow.shape, row)));
        let old = old.flatten().map(|old| old.to_buf());
        let upserted = cache.upsert(row).map_err(|error| error.to_string())?;
        tell(changes.as_mut(), upserted, old, row);
        Ok(())
    }
}

fn tell(changes: Option<&mut Vec<RowChange>>, upserted: Upserted, old: Option<RowBuf>, new: &RowBuf) {
    let Some(changes) = changes else { return };
    match (upserted, old) {
        (Upserted::Unchanged, _) => {}
        (_, Some(old)) => changes.push(RowChange::Changed { old, new: new.clone() }),
        (_, None) => changes.push(RowChange::Added(new.clone())),
    }
}

impl fmt::Debug for Followee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followee").field("follow", &self.follow).finish_non_exhaustive()
    }
}

impl FollowTable {
    /// Reads every row, or those of some keys.
    pub(super) fn copy_statement(&self, keys: Option<&[String]>) -> Result<String, DriverError> {
        let column = |column: &crate::Column| column.kind.select_expression(&quote_identifier(&column.name));
        let columns: Vec<String> = self.shape.columns().iter().map(column).collect();
        let only = match keys {
            None => String::new(),
            Some(keys) => format!(" WHERE {}", self.having(keys)?),
        };
        Ok(format!("COPY (SELECT {} FROM {}{only}) TO STDOUT (FORMAT binary)", columns.join(", "), self.relation()))
    }

    /// The condition that a row has one of these keys. The server makes values of their JSON.
    fn having(&self, keys: &[String]) -> Result<String, DriverError> {
        let columns: Vec<String> =
            self.shape.key().iter().map(|&at| quote_identifier(&self.shape.columns()[at].name)).collect();
        let unfit = |error: serde_json::Error| DriverError::Snapshot {
            table: self.name(),
            source: ReadError::Unfit(Unfit::Malformed(format!("a key is no JSON: {error}"))),
        };
        let mut records = Vec::new();
        for key in keys {
            let parts: Vec<&RawValue> = if columns.len() == 1 {
                vec![serde_json::from_str(key).map_err(unfit)?]
            } else {
                serde_json::from_str(key).map_err(unfit)?
            };
            let members: Vec<String> =
                parts.iter().enumerate().map(|(at, part)| format!("\"k{at}\":{}", part.get())).collect();
            records.push(format!("{{{}}}", members.join(",")));
        }
        let names: Vec<String> = (0..columns.len()).map(|at| format!("k.k{at}")).collect();
        let types: Vec<String> = self.key_types.iter().enumerate().map(|(at, ty)| format!("k{at} {ty}")).collect();
        Ok(format!(
            "({}) IN (SELECT {} FROM pg_catalog.json_to_recordset({}::pg_catalog.json) k ({}))",
            columns.join(", "),
            names.join(", "),
            super::session::quote_literal(&format!("[{}]", records.join(","))),
            types.join(", ")
        ))
    }
}
