//! [`SinkWriter`]: the [`CacheWriter`] of any [`CacheSink`]. Operations wait in order, and are
//! applied while the cache's lock is held.

mod ahead;
#[cfg(feature = "nats")]
mod from_log;

use self::ahead::{DecodedRows, SinkDecoder};
use super::digests::{DigestSource, SinkDigests};
use super::finding::ComparisonReport;
use super::history::{Came, RowHistory};
use super::kept_sum::KeptSum;
use super::sink::{CacheSink, Decoded, MisfitRow, Notified, RowDecoder, RowEvent, WriteMode};
use super::writer::{AheadDecoder, ApplyError, CacheWriter, FlushError, Flushed, Incoming};
use crate::digest::RangeSum;
#[cfg(feature = "nats")]
use crate::log::{JsonRow, RowOp};
use crate::postgres::error::ReadError;
use crate::postgres::read::copy::{CopyDecoder, CopyError};
use crate::sync::{Change, Operation};
use crate::table_cache::{KeyBuf, RowError, SeenRows, StoreError, Touched, Upserted};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// The rows of a snapshot that are put into the cache together.
pub(super) const ROWS_TOGETHER: usize = 1024;

/// The changes that are applied under one hold of the lock. Fewer would cost time for each, more
/// would let readers wait for longer.
const CHANGES_TOGETHER: usize = 64;

/// An operation that waits for the lock.
enum PendingOp<R> {
    /// Begin to load a snapshot of about so many rows.
    Begin { expected: usize },
    /// Store rows of the snapshot, at most [`ROWS_TOGETHER`], unless the cache has the same rows
    /// already.
    Merge(Vec<R>),
    /// End the snapshot: remove the rows that it did not bring.
    End,
    /// Store a row in place of the one with its key, if there is one.
    Upsert(R),
    /// Replace the row of one key by a row of another key, as one step for readers.
    Replace { old: KeyBuf, new: R },
    /// Remove the row of a key.
    Remove(KeyBuf),
    /// Keep a row out, since it does not fit the model.
    KeepOut(MisfitRow),
    /// Remove every row but those of these keys.
    Clear(Vec<KeyBuf>),
}

impl<R> PendingOp<R> {
    /// Returns the keys of the rows that the operation changes; `None` if those may be all.
    /// `key_of` returns the key of a row.
    fn keys(&self, key_of: impl Fn(&R) -> KeyBuf) -> Option<Vec<KeyBuf>> {
        match self {
            Self::Upsert(row) => Some(vec![key_of(row)]),
            Self::Replace { old, new } => {
                let new = key_of(new);
                // A key that stays would be counted twice.
                let old = Some(old).filter(|old| **old != new).cloned();
                Some(old.into_iter().chain([new]).collect())
            }
            Self::Remove(key) | Self::KeepOut(MisfitRow { key, .. }) => Some(vec![key.clone()]),
            Self::Begin { .. } | Self::Merge(_) | Self::End | Self::Clear(_) => None,
        }
    }
}

/// An operation with the notification that is the cause, if one is.
struct Waiting<R> {
    op: PendingOp<R>,
    by: Option<Notified>,
}

/// The way in which the rows of a snapshot are put into the cache.
#[derive(Debug)]
enum Loading {
    /// The cache was empty, so each row must be new.
    IntoEmpty,
    /// The cache has older rows. The rows that the snapshot brings are marked.
    Over(SeenRows),
}

/// A comparison that is underway.
#[derive(Debug, Default)]
struct Comparing {
    seen: SeenRows,
    report: ComparisonReport,
}

/// The [`CacheWriter`] of any [`CacheSink`].
pub(crate) struct SinkWriter<C: CacheSink> {
    cache: Arc<RwLock<C>>,
    decoder: C::Decoder,
    /// The operations that wait for the lock, in order.
    waiting: VecDeque<Waiting<C::Row>>,
    incoming: Incoming,
    /// The states of the COPY streams that are being read, by their numbers.
    copies: Vec<CopyDecoder>,
    /// The rows that decoders on other threads have made of those streams; `None` unless there are
    /// such decoders.
    decoded: Option<mpsc::Receiver<DecodedRows<C::Row>>>,
    /// The number of bytes of those streams that have come.
    copied: usize,
    /// The pieces of a refetch, undecoded. If the engine does not want the rows any more, decoding
    /// them was for nothing.
    refetched: Vec<Bytes>,
    /// The comparison that is underway, if one is.
    comparing: Option<Comparing>,
    load: Load,
    /// The error of the first operation that failed since [`CacheWriter::flush`] was done last.
    failed: Option<FlushError>,
    /// The changes of rows that nobody has taken yet; `None` unless changes are recorded.
    events: Option<Vec<RowEvent>>,
    /// The number of rows at the last flush.
    rows: usize,
    /// See [`CacheWriter::kept_out`].
    kept_out: Option<(usize, String)>,
    /// The bytes that the cache took when its lock was last free.
    memory: usize,
    /// A key whose memory is used again for each change.
    key: KeyBuf,
    /// How rows came into the cache; `None` unless somebody may ask.
    history: Option<RowHistory>,
    /// The changes that are applied under one hold of the lock.
    changes_together: usize,
    /// The sum of the digests of all rows; `None` unless somebody asks for the sum.
    sum: Option<KeptSum>,
}

/// The snapshot that is being put into the cache, or was put into the cache last.
#[derive(Debug)]
struct Load {
    loading: Loading,
    /// Whether a row of the snapshot was another one than in the cache, or a row was removed.
    has_changed: bool,
}

impl Load {
    /// Returns whether rows of the snapshot are appended. An event needs each row in the cache at
    /// once.
    fn appends(&self, events: Option<&Vec<RowEvent>>) -> bool {
        matches!(self.loading, Loading::IntoEmpty) && events.is_none()
    }
}

impl<C: CacheSink> SinkWriter<C> {
    pub(crate) fn new(cache: Arc<RwLock<C>>, decoder: C::Decoder) -> Self {
        Self {
            cache,
            decoder,
            waiting: VecDeque::new(),
            incoming: Incoming::default(),
            copies: Vec::new(),
            decoded: None,
            copied: 0,
            refetched: Vec::new(),
            comparing: None,
            load: Load {
                loading: Loading::IntoEmpty,
                has_changed: false,
            },
            failed: None,
            events: None,
            rows: 0,
            kept_out: None,
            memory: 0,
            key: KeyBuf::default(),
            history: None,
            changes_together: CHANGES_TOGETHER,
            sum: None,
        }
    }

    /// Reads a key, which is JSON.
    fn key_of(&self, id: &str) -> Result<KeyBuf, RowError> {
        let mut key = KeyBuf::default();
        key.read_json(self.decoder.shape(), id)?;
        Ok(key)
    }

    /// Makes an operation wait for the lock.
    fn push(&mut self, op: PendingOp<C::Row>, by: Option<Notified>) {
        self.waiting.push_back(Waiting { op, by });
    }

    /// Makes a row of a snapshot wait for the lock.
    fn merge(&mut self, tuple: &[u8]) -> Result<(), ReadError> {
        let decoded = self.decoder.read_copy(tuple)?;
        self.merge_decoded(decoded);
        Ok(())
    }

    /// Makes a row of a snapshot, which was decoded, wait for the lock.
    fn merge_decoded(&mut self, decoded: Decoded<C::Row>) {
        let row = match decoded {
            Decoded::Row(row) => row,
            Decoded::Misfit(misfit) => return self.push(PendingOp::KeepOut(misfit), None),
        };
        if let Some(Waiting {
            op: PendingOp::Merge(rows),
            ..
        }) = self.waiting.back_mut()
            && rows.len() < ROWS_TOGETHER
        {
            rows.push(row);
            return;
        }
        let mut rows = Vec::with_capacity(ROWS_TOGETHER);
        rows.push(row);
        self.push(PendingOp::Merge(rows), None);
    }

    /// Compares a row of the table with the cache.
    fn compare(&mut self, tuple: &[u8]) -> Result<(), ReadError> {
        let decoded = self.decoder.read_copy(tuple)?;
        self.compare_decoded(decoded);
        Ok(())
    }

    /// Compares a row of the table, which was decoded, with the cache.
    fn compare_decoded(&mut self, decoded: Decoded<C::Row>) {
        // The lock is let go after each row. That is safe, since the engine hands out no change
        // while a table is compared, and readers need not wait for the network.
        if let Some(Comparing { seen, report }) = &mut self.comparing {
            report.rows += 1;
            match &decoded {
                Decoded::Row(row) => self.cache.read().compare(row, seen, report),
                Decoded::Misfit(misfit) => {
                    self.cache.read().compare_misfit(&misfit.key, seen, report);
                }
            }
        }
        if let Decoded::Row(row) = decoded {
            self.decoder.recycle(row);
        }
    }

    /// Takes a batch of rows that a decoder on another thread has made. Returns false if there is
    /// none.
    fn take_decoded_batch(&mut self) -> bool {
        let batch = self.decoded.as_ref().and_then(|rows| rows.try_recv().ok());
        let Some(rows) = batch else {
            return false;
        };
        let is_comparison = matches!(self.incoming, Incoming::Comparison);
        for row in rows {
            if is_comparison {
                self.compare_decoded(row);
            } else {
                self.merge_decoded(row);
            }
        }
        true
    }

    /// Takes the ends of so many streams.
    ///
    /// # Errors
    /// If a stream has no end, or never came.
    fn finish_rows(&mut self, streams: usize) -> Result<(), ReadError> {
        while self.take_decoded_batch() {}
        if self.decoded.take().is_some() {
            // The other decoders have seen the ends: without that, the read has failed.
            return Ok(());
        }
        if self.copies.len() < streams {
            return Err(CopyError::Cut.into());
        }
        for copy in &self.copies {
            copy.finish()?;
        }
        Ok(())
    }

    /// Decodes the rows of a refetch.
    fn decode_refetched(&mut self) -> Result<Vec<Decoded<C::Row>>, ReadError> {
        let mut rows = Vec::new();
        let mut copy = CopyDecoder::default();
        let decoder = &mut self.decoder;
        for piece in std::mem::take(&mut self.refetched) {
            copy.push::<ReadError>(&piece, |tuple| {
                rows.push(decoder.read_copy(tuple)?);
                Ok(())
            })?;
        }
        copy.finish()?;
        Ok(rows)
    }

    /// Returns how many of the waiting operations are applied under one hold of the lock. Of those
    /// that store many rows of a snapshot it is one: readers wait meanwhile.
    fn together(&self) -> usize {
        let most = self.waiting.len().min(self.changes_together);
        let mut waiting = self.waiting.iter().take(most);
        let is_merge = |waiting: &Waiting<C::Row>| matches!(waiting.op, PendingOp::Merge(_));
        let first = waiting.position(is_merge);
        let second = waiting.position(is_merge);
        match (first, second) {
            (Some(first), Some(between)) => first + 1 + between,
            _ => most,
        }
    }

    /// Brings near in memory what the next operations, so many, will look at. Readers go on
    /// meanwhile.
    fn touch(&self, operations: usize) {
        let Some(cache) = self.cache.try_read() else {
            return;
        };
        if cache.is_empty() {
            return;
        }
        // By rows that are only appended nothing is looked at.
        let is_looked_up = !self.load.appends(self.events.as_ref()) || cache.looks_up_appended();
        let mut touched = Vec::with_capacity(operations);
        for Waiting { op, .. } in self.waiting.iter().take(operations) {
            match op {
                PendingOp::Upsert(row) => touched.push(Touched::Row(row)),
                PendingOp::Replace { old, new } => {
                    touched.extend([Touched::Key(old), Touched::Row(new)]);
                }
                PendingOp::Remove(key) => touched.push(Touched::Key(key)),
                PendingOp::Merge(rows) if is_looked_up => {
                    touched.extend(rows.iter().map(Touched::Row));
                }
                PendingOp::Merge(_)
                | PendingOp::Begin { .. }
                | PendingOp::End
                | PendingOp::KeepOut(_)
                | PendingOp::Clear(_) => {}
            }
        }
        cache.touch(&touched);
    }

    /// Returns the operation for a change that stores a row, whose key is `key`.
    fn store_op(&mut self, change: &Change, key: KeyBuf) -> Result<PendingOp<C::Row>, ApplyError> {
        let data = change.data().ok_or(ApplyError::NoRow)?;
        let decoded = self.decoder.read_json(data, change.json_nulls(), &key)?;
        let old = match change.old_id() {
            Some(old) if change.operation() == Operation::ReplaceKey => Some(self.key_of(old)?),
            Some(_) | None => None,
        };
        Ok(match (decoded, old) {
            (Decoded::Row(new), Some(old)) => PendingOp::Replace { old, new },
            (Decoded::Row(new), None) => {
                // The row holds the key, so the buffer is free for the next change.
                self.key = key;
                PendingOp::Upsert(new)
            }
            (Decoded::Misfit(misfit), old) => {
                // The new row is kept out, and the old one is gone all the same.
                if let Some(old) = old {
                    self.push(PendingOp::Remove(old), Some(notified(change)));
                }
                PendingOp::KeepOut(misfit)
            }
        })
    }
}

impl<C: CacheSink> CacheWriter for SinkWriter<C> {
    fn expect(&mut self, incoming: Incoming) {
        self.comparing = matches!(incoming, Incoming::Comparison).then(Comparing::default);
        self.incoming = incoming;
        self.copies = Vec::new();
        self.decoded = None;
        self.copied = 0;
        self.refetched = Vec::new();
    }

    fn begin(&mut self, expected: usize) {
        if matches!(self.incoming, Incoming::Snapshot) {
            self.push(PendingOp::Begin { expected }, None);
        }
    }

    fn load(&mut self, stream: usize, pieces: Vec<Bytes>) -> Result<(), ReadError> {
        self.copied += pieces.iter().map(Bytes::len).sum::<usize>();
        if matches!(self.incoming, Incoming::Refetch(_)) {
            self.refetched.extend(pieces);
            return Ok(());
        }
        // The threads for the other decoders could not be started.
        self.decoded = None;
        let is_comparison = matches!(self.incoming, Incoming::Comparison);
        // The stream's decoder calls back with each row, which needs all of `self`. So the decoder
        // is moved out for the moment.
        if self.copies.len() <= stream {
            self.copies.resize_with(stream + 1, CopyDecoder::default);
        }
        let mut copy = std::mem::take(&mut self.copies[stream]);
        let loaded = pieces.iter().try_for_each(|piece| {
            copy.push(piece, |tuple| {
                if is_comparison {
                    self.compare(tuple)
                } else {
                    self.merge(tuple)
                }
            })
        });
        self.copies[stream] = copy;
        loaded
    }

    fn decode_ahead(&mut self) -> Option<Box<dyn AheadDecoder>> {
        if matches!(self.incoming, Incoming::Refetch(_)) || !C::Decoder::IS_WORTH_A_THREAD {
            return None;
        }
        let (decoder, rows) = SinkDecoder::new(self.decoder.again());
        self.decoded = Some(rows);
        Some(Box::new(decoder))
    }

    fn take_decoded(&mut self, bytes: usize) {
        self.copied += bytes;
        self.take_decoded_batch();
    }

    fn give_up_decoding(&mut self) {
        self.decoded = None;
    }

    fn copied(&self) -> usize {
        self.copied
    }

    fn finish(&mut self, streams: usize) -> Result<(), ReadError> {
        match self.incoming {
            // Decoding the rows, later, finds the end of the stream or its lack.
            Incoming::Refetch(_) => {}
            Incoming::Comparison => self.finish_rows(streams)?,
            Incoming::Snapshot => {
                self.finish_rows(streams)?;
                self.push(PendingOp::End, None);
                if let Some(history) = &mut self.history {
                    history.loaded();
                }
            }
        }
        Ok(())
    }

    fn store_refetched(&mut self) -> Result<(), ApplyError> {
        let Incoming::Refetch(keys) = std::mem::take(&mut self.incoming) else {
            return Ok(());
        };
        // Everything that can fail comes first. Otherwise half of a refetch would wait, and be
        // applied.
        let rows = self.decode_refetched()?;
        let found: HashSet<KeyBuf> = rows
            .iter()
            .map(|row| match row {
                Decoded::Row(row) => self.decoder.key_of(row),
                Decoded::Misfit(misfit) => misfit.key.clone(),
            })
            .collect();
        let asked = keys
            .iter()
            .map(|id| self.key_of(id))
            .collect::<Result<Vec<_>, _>>()?;
        for key in asked {
            if let Some(history) = &mut self.history {
                history.note(&key, None, true);
            }
            if !found.contains(&key) {
                self.push(PendingOp::Remove(key), None);
            }
        }
        for row in rows {
            let op = match row {
                Decoded::Row(row) => PendingOp::Upsert(row),
                Decoded::Misfit(misfit) => PendingOp::KeepOut(misfit),
            };
            self.push(op, None);
        }
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), ApplyError> {
        let mut key = std::mem::take(&mut self.key);
        key.read_json(self.decoder.shape(), change.id())?;
        if let Some(history) = &mut self.history {
            history.note(&key, change.xid, false);
        }
        let op = match change.operation() {
            // The engine reacts to changes of the whole table itself, and hands none of them out.
            Operation::Whole => return Ok(()),
            Operation::Remove => PendingOp::Remove(key),
            Operation::Upsert | Operation::ReplaceKey => self.store_op(change, key)?,
        };
        self.push(op, Some(notified(change)));
        Ok(())
    }

    fn clear(&mut self, keep: &[String]) -> Result<(), ApplyError> {
        let keep = keep
            .iter()
            .map(|id| self.key_of(id))
            .collect::<Result<Vec<_>, _>>()?;
        self.push(PendingOp::Clear(keep), None);
        Ok(())
    }

    fn take_comparison(&mut self) -> Option<ComparisonReport> {
        let Comparing { seen, mut report } = self.comparing.take()?;
        self.cache.read().find_ghosts(&seen, &mut report);
        Some(report)
    }

    fn flush(&mut self, patience: Duration) -> Result<Flushed, FlushError> {
        if self.waiting.is_empty() {
            return Ok(Flushed::Done);
        }
        while !self.waiting.is_empty() {
            let together = self.together();
            self.touch(together);
            let Some(mut cache) = self.cache.try_write_for(patience) else {
                return Ok(Flushed::Locked);
            };
            // An operation that fails does not keep the next ones from being applied: they are
            // changes of other rows. The engine is told, and reloads the table.
            for Waiting { op, by } in self.waiting.drain(..together) {
                let recorded = self.events.as_ref().map_or(0, Vec::len);
                let is_of_snapshot = matches!(
                    op,
                    PendingOp::Begin { .. } | PendingOp::Merge(_) | PendingOp::End
                );
                let keys = self
                    .sum
                    .is_some()
                    .then(|| op.keys(|row| self.decoder.key_of(row)));
                if let (Some(sum), Some(keys)) = (&mut self.sum, &keys) {
                    sum.before(&*cache, keys.as_deref());
                }
                let applied = apply_op(
                    &mut *cache,
                    op,
                    &mut self.load,
                    &mut self.decoder,
                    self.events.as_mut(),
                );
                if let (Some(sum), Some(keys)) = (&mut self.sum, &keys) {
                    sum.after(&*cache, keys.as_deref());
                }
                if let Some(events) = &mut self.events {
                    set_notified(&mut events[recorded..], by);
                }
                if let Err(error) = applied {
                    note_failure(&mut self.failed, error);
                }
                if let Some(why) = cache.take_broken() {
                    let error = StoreError::Model(why);
                    let failed = FlushError {
                        is_of_snapshot,
                        error,
                    };
                    note_failure(&mut self.failed, failed);
                }
            }
            cache.before_unlock();
            if let Some(why) = cache.take_broken() {
                let failed = FlushError::of_snapshot(StoreError::Model(why));
                note_failure(&mut self.failed, failed);
            }
            self.rows = cache.stored();
            self.kept_out = cache.kept_out();
        }
        if let Some(history) = &mut self.history {
            history.applied();
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(Flushed::Done),
        }
    }

    #[cfg(feature = "nats")]
    fn all_together(&mut self) {
        self.changes_together = usize::MAX;
    }

    #[cfg(feature = "nats")]
    fn row_op(&mut self, op: &RowOp) -> Result<(), ApplyError> {
        self.push_row_op(op)
    }

    #[cfg(feature = "nats")]
    fn load_row(&mut self, id: &str, row: &JsonRow) -> Result<(), ApplyError> {
        self.push_loaded_row(id, row)
    }

    #[cfg(feature = "nats")]
    fn end_load(&mut self) {
        self.push(PendingOp::End, None);
    }

    fn sum(&mut self) -> RangeSum {
        let shape = self.decoder.shape();
        let sum = self.sum.get_or_insert_with(|| KeptSum::new(shape));
        sum.of(&*self.cache.read())
    }

    fn has_changed(&self) -> bool {
        self.load.has_changed
    }

    fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn kept_out(&self) -> Option<&(usize, String)> {
        self.kept_out.as_ref()
    }

    fn memory_bytes(&mut self) -> usize {
        // The driver must not wait for a lock here.
        if let Some(cache) = self.cache.try_read() {
            self.memory = cache.memory_bytes();
        }
        self.memory
    }

    fn digests(&self) -> Box<dyn DigestSource> {
        Box::new(SinkDigests::new(Arc::clone(&self.cache), &self.decoder))
    }

    fn keep_history(&mut self) {
        self.history.get_or_insert_default();
    }

    fn last_of(&self, key: &KeyBuf) -> Option<Came> {
        self.history.as_ref().map(|history| history.last(key))
    }

    fn record_events(&mut self) {
        self.events.get_or_insert_default();
    }

    fn take_row_events(&mut self) -> Vec<RowEvent> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Applies an operation to a cache whose lock is held.
fn apply_op<C: CacheSink>(
    cache: &mut C,
    op: PendingOp<C::Row>,
    load: &mut Load,
    decoder: &mut C::Decoder,
    mut events: Option<&mut Vec<RowEvent>>,
) -> Result<(), FlushError> {
    // Rows that were appended are no part of the cache yet, and other operations need the cache
    // whole.
    let indexed = match &op {
        PendingOp::Merge(_) if load.appends(events.as_deref()) => Ok(()),
        // An error of the rows so far is one of a snapshot that was given up.
        PendingOp::Begin { .. } => cache.index_appended().or(Ok(())),
        _ => cache.index_appended(),
    };
    match op {
        PendingOp::Begin { expected } => {
            cache.begin_load();
            load.has_changed = false;
            load.loading = if cache.is_empty() {
                cache.make_room(expected);
                Loading::IntoEmpty
            } else {
                Loading::Over(SeenRows::default())
            };
        }
        PendingOp::Merge(rows) => {
            let mut failed = None;
            for mut row in rows {
                let put = merge_row(cache, &mut row, load, events.as_deref_mut());
                decoder.recycle(row);
                if let Err(error) = put {
                    note_failure(&mut failed, FlushError::of_snapshot(error));
                }
            }
            failed.map_or(Ok(()), Err)?;
        }
        PendingOp::End => {
            if let Loading::Over(seen) = std::mem::replace(&mut load.loading, Loading::IntoEmpty) {
                let before = cache.len();
                cache.sweep(&seen, events);
                load.has_changed |= cache.len() != before;
            }
            cache.end_load();
        }
        PendingOp::Upsert(mut row) => {
            let put = cache.put(&mut row, WriteMode::Upsert, events);
            decoder.recycle(row);
            put.map_err(FlushError::of_change)?;
        }
        // Under one lock: no reader sees the old row without the new one, or both.
        PendingOp::Replace { old, mut new } => {
            cache.remove(&old, events.as_deref_mut());
            let put = cache.put(&mut new, WriteMode::Upsert, events);
            decoder.recycle(new);
            put.map_err(FlushError::of_change)?;
        }
        PendingOp::Remove(key) => cache.remove(&key, events),
        PendingOp::KeepOut(misfit) => cache.keep_out(misfit, events),
        // Without events nobody needs to know the rows, and a cache is emptied at once.
        PendingOp::Clear(keep) if keep.is_empty() && events.is_none() => cache.clear(),
        // Mark and sweep, so that each row that is removed has an event.
        PendingOp::Clear(keep) => {
            let mut seen = SeenRows::default();
            for key in &keep {
                cache.mark(key, &mut seen);
            }
            // First those that are kept out: one of them may wait for a row that is swept.
            cache.retain_out(&keep);
            cache.sweep(&seen, events);
        }
    }
    // The operation itself is done whatever became of the snapshot.
    indexed.map_err(FlushError::of_snapshot)
}

/// Notes an error of a flush, unless there is one already. A key that a snapshot brings twice
/// yields to any other error: whoever reads the snapshot of a log passes over it, and must not pass
/// over what hides behind it.
fn note_failure(failed: &mut Option<FlushError>, error: FlushError) {
    let yields = failed
        .as_ref()
        .is_none_or(|failed| matches!(failed.error, StoreError::DuplicateKey(_)));
    if yields {
        *failed = Some(error);
    }
}

/// Puts one row of a snapshot into a cache whose lock is held.
fn merge_row<C: CacheSink>(
    cache: &mut C,
    row: &mut C::Row,
    load: &mut Load,
    events: Option<&mut Vec<RowEvent>>,
) -> Result<(), StoreError> {
    if load.appends(events.as_deref()) {
        load.has_changed = true;
        return cache.append(row);
    }
    let mode = match &mut load.loading {
        Loading::IntoEmpty => WriteMode::Insert,
        Loading::Over(seen) => WriteMode::Merge(seen),
    };
    let put = cache.put(row, mode, events)?;
    load.has_changed |= put != Upserted::Unchanged;
    Ok(())
}

/// Returns the notification of a change.
fn notified(change: &Change) -> Notified {
    Notified {
        sender: change.sender,
        xid: change.xid,
    }
}

/// Sets the notification of the events that one operation has recorded.
fn set_notified(events: &mut [RowEvent], notified: Option<Notified>) {
    for event in events {
        match event {
            RowEvent::Row { by, .. } | RowEvent::Misfit { by, .. } => *by = notified,
            // Events of models do not tell.
            RowEvent::Model { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Payload;
    use crate::postgres::apply::cells::CellDecoder;
    use crate::table_cache::{Column, TableCache, TableShape};
    use crate::value::CellType;

    fn writer() -> SinkWriter<TableCache> {
        let column = Column {
            name: "id".to_string(),
            kind: CellType::Int4,
            nullable: false,
        };
        let shape = Arc::new(TableShape::new(vec![column], &["id".to_string()]).unwrap());
        let cache = Arc::new(RwLock::new(TableCache::new(Arc::clone(&shape), 0)));
        SinkWriter::new(cache, CellDecoder::new(shape))
    }

    /// Returns a COPY stream of rows with these keys, without its end.
    fn copy_of(keys: &[i32]) -> Bytes {
        let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        for key in keys {
            stream.extend([0, 1, 0, 0, 0, 4]);
            stream.extend(key.to_be_bytes());
        }
        stream.into()
    }

    fn insert(key: i32) -> Change {
        let text = format!(
            r#"{{"table":"t","action":"insert","id":{key},"data":{{"id":{key}}},"xid":"7"}}"#
        );
        Change::new(&text, &Payload::parse(&text).unwrap(), 1)
    }

    #[test]
    fn a_key_that_a_snapshot_brings_twice_is_found_whatever_ends_the_rows() {
        let patience = Duration::from_secs(1);
        for is_interrupted in [false, true] {
            let mut writer = writer();
            writer.expect(Incoming::Snapshot);
            writer.begin(2);
            writer.load(0, vec![copy_of(&[1, 2, 1])]).unwrap();
            if is_interrupted {
                writer.change(&insert(3)).unwrap();
            } else {
                writer
                    .load(0, vec![Bytes::from_static(&[0xff, 0xff])])
                    .unwrap();
                writer.finish(1).unwrap();
            }
            let error = writer.flush(patience).unwrap_err();
            assert!(error.is_of_snapshot, "{error:?}");
            // The change is stored all the same.
            let rows = 2 + usize::from(is_interrupted);
            assert_eq!(writer.cache.read().len(), rows);
            writer.cache.read().validate().unwrap();
        }
        // The rows of a snapshot that was given up are no matter to the next one.
        let mut writer = writer();
        writer.expect(Incoming::Snapshot);
        writer.begin(2);
        writer.load(0, vec![copy_of(&[1, 2, 1])]).unwrap();
        writer.expect(Incoming::Snapshot);
        writer.begin(2);
        writer.load(0, vec![copy_of(&[2, 3])]).unwrap();
        writer
            .load(0, vec![Bytes::from_static(&[0xff, 0xff])])
            .unwrap();
        writer.finish(1).unwrap();
        assert_eq!(writer.flush(patience).unwrap(), Flushed::Done);
        assert_eq!(writer.cache.read().len(), 2);
        writer.cache.read().validate().unwrap();
    }

    #[test]
    fn rows_of_several_streams_are_those_of_one_snapshot_if_all_streams_end() {
        let end = Bytes::from_static(&[0xff, 0xff]);
        let mut writer = writer();
        writer.expect(Incoming::Snapshot);
        writer.begin(4);
        // A tuple of one stream may be cut where one of the other comes between.
        let cut = copy_of(&[3, 4]);
        writer.load(1, vec![cut.slice(..cut.len() - 2)]).unwrap();
        writer.load(0, vec![copy_of(&[1, 2]), end.clone()]).unwrap();
        let missing = writer.finish(2).unwrap_err();
        assert!(matches!(missing, ReadError::Copy(CopyError::Cut)));
        writer
            .load(1, vec![cut.slice(cut.len() - 2..), end])
            .unwrap();
        let missing = writer.finish(3).unwrap_err();
        assert!(matches!(missing, ReadError::Copy(CopyError::Cut)));
        writer.finish(2).unwrap();
        let flushed = writer.flush(Duration::from_secs(1)).unwrap();
        assert_eq!(flushed, Flushed::Done);
        assert_eq!(writer.cache.read().len(), 4);
    }
}
