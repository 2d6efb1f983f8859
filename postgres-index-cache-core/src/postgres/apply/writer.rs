//! [`CacheWriter`]: a cache behind its lock, and what is to be done to it.
//!
//! What comes is prepared first, parsed and checked, without the lock. [`flush`](CacheWriter::flush)
//! takes the lock for a moment and does all that is prepared: readers wait neither for the network
//! nor for a parse, and see a batch whole. While a reader holds the lock for longer, what is
//! prepared waits here; the driver tells the engine, which keeps by key what comes meanwhile.

use crate::postgres::apply::sink::{
    CacheSink, ComparisonReport, Decoded, RowDecoder, RowEvent, WriteMode,
};
use crate::postgres::error::ReadError;
use crate::sync::{Change, Operation};
use crate::table_cache::{KeyBuf, SeenRows, StoreError, Upserted};
use parking_lot::RwLock;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What could not be stored when the lock was there.
#[derive(Debug)]
pub(in crate::postgres) struct FlushError {
    /// Whether it is a row of a snapshot, which then cannot be what was asked for.
    pub(in crate::postgres) is_of_snapshot: bool,
    pub(in crate::postgres) error: StoreError,
}

/// A cache behind its lock.
pub(in crate::postgres) trait CacheWriter: Send {
    /// The query that reads `relation`, the rows of the condition `only`: one value a column that
    /// is kept, or one for all.
    fn query(&self, relation: &str, only: &str) -> String;

    /// Whether each row that it reads is the columns that are kept, as PostgreSQL sends them.
    fn reads_columns(&self) -> bool;

    /// A snapshot of all rows comes, about so many: they are seen over what is there.
    fn begin(&mut self, expected: usize);

    /// One row of the snapshot.
    ///
    /// # Errors
    /// When it is no row of this table.
    fn merge(&mut self, tuple: &[u8]) -> Result<(), ReadError>;

    /// All of the snapshot has come: what it did not bring goes.
    fn end(&mut self);

    /// Whether the last snapshot brought anything that was not there, or lacked what was; as far as
    /// it has been seen.
    fn has_changed(&self) -> bool;

    /// Prepares a change.
    ///
    /// # Errors
    /// Why the table must be read again.
    fn change(&mut self, change: &Change) -> Result<(), String>;

    /// Prepares the rows that were read again; of the keys that were asked for, those that did not
    /// come are absent.
    ///
    /// # Errors
    /// Why the table must be read again.
    fn replace(&mut self, keys: &[String], tuples: &[Vec<u8>]) -> Result<(), String>;

    /// Prepares that every row goes but those of these keys.
    ///
    /// # Errors
    /// Why the table must be read again.
    fn clear(&mut self, keep: &[String]) -> Result<(), String>;

    /// A comparison with the table begins; nothing is to be done meanwhile.
    fn start_comparing(&mut self);

    /// One row of the table.
    ///
    /// # Errors
    /// When it is no row of this table.
    fn compare(&mut self, tuple: &[u8]) -> Result<(), ReadError>;

    /// What the comparison has found, once every row of the table has come.
    fn take_comparison(&mut self) -> Option<ComparisonReport>;

    /// Does what is prepared. `false`: somebody holds the lock for longer than `patience`; nothing
    /// is done.
    ///
    /// # Errors
    /// What could not be stored; the rest is done.
    fn flush(&mut self, patience: Duration) -> Result<bool, FlushError>;

    /// Whether something is prepared and not done.
    fn is_waiting(&self) -> bool;

    /// How many rows there were at the last flush.
    fn rows(&self) -> usize;

    /// How many rows did not fit the model at the last flush, and the first of them with the cause.
    fn kept_out(&self) -> Option<&(usize, String)>;

    /// What the cache takes, or took when that could last be asked.
    fn memory_bytes(&mut self) -> usize;

    /// From now on keeps what becomes of rows.
    fn record_events(&mut self);

    /// What became of rows.
    fn take_row_events(&mut self) -> Vec<RowEvent>;
}

/// What is to be done.
enum PendingOp<R> {
    Begin {
        expected: usize,
    },
    /// A row of the snapshot.
    Merge(R),
    End,
    Upsert(R),
    /// A key change: no reader sees one without the other.
    Replace {
        old: KeyBuf,
        new: R,
    },
    Remove(KeyBuf),
    /// The row of this key does not fit the model.
    KeepOut {
        key: KeyBuf,
        why: Arc<str>,
    },
    Clear(Vec<KeyBuf>),
}

/// What a snapshot's rows meet.
enum Loading {
    /// Nothing: the cache was empty.
    Alone,
    /// Older rows.
    Over(SeenRows),
}

/// The [`CacheWriter`] of a cache of any kind.
pub(in crate::postgres) struct SinkWriter<C: CacheSink> {
    cache: Arc<RwLock<C>>,
    reader: C::Reader,
    /// Each with the server's process whose notification it was, if one was.
    waiting: VecDeque<(PendingOp<C::Row>, Option<i32>)>,
    loading: Loading,
    has_changed: bool,
    comparing: Option<(SeenRows, ComparisonReport)>,
    events: Option<Vec<RowEvent>>,
    rows: usize,
    kept_out: Option<(usize, String)>,
    memory: usize,
    key: KeyBuf,
}

impl<C: CacheSink> SinkWriter<C> {
    pub(in crate::postgres) fn new(cache: Arc<RwLock<C>>, reader: C::Reader) -> Self {
        Self {
            cache,
            reader,
            waiting: VecDeque::new(),
            loading: Loading::Alone,
            has_changed: false,
            comparing: None,
            events: None,
            rows: 0,
            kept_out: None,
            memory: 0,
            key: KeyBuf::default(),
        }
    }

    fn key_of(&self, id: &str) -> Result<KeyBuf, String> {
        let mut key = KeyBuf::default();
        key.read_json(self.reader.shape(), id)
            .map_err(|error| error.to_string())?;
        Ok(key)
    }
}

/// Does one thing to a cache whose lock is held.
fn apply_op<C: CacheSink>(
    cache: &mut C,
    op: PendingOp<C::Row>,
    (loading, has_changed): (&mut Loading, &mut bool),
    reader: &mut C::Reader,
    mut events: Option<&mut Vec<RowEvent>>,
) -> Result<(), FlushError> {
    let in_change = |error| FlushError {
        is_of_snapshot: false,
        error,
    };
    match op {
        PendingOp::Begin { expected } => {
            *has_changed = false;
            cache.begin_load();
            *loading = if cache.is_empty() {
                cache.make_room(expected);
                Loading::Alone
            } else {
                Loading::Over(SeenRows::default())
            };
        }
        PendingOp::Merge(mut row) => {
            let mode = match loading {
                Loading::Alone => WriteMode::Insert,
                Loading::Over(seen) => WriteMode::Merge(seen),
            };
            let put = cache.put(&mut row, mode, events);
            reader.recycle(row);
            let put = put.map_err(|error| FlushError {
                is_of_snapshot: true,
                error,
            })?;
            *has_changed |= put != Upserted::Unchanged;
        }
        PendingOp::End => {
            if let Loading::Over(seen) = std::mem::replace(loading, Loading::Alone) {
                let before = cache.len();
                cache.sweep(&seen, events);
                *has_changed |= cache.len() != before;
            }
            cache.end_load();
        }
        PendingOp::Upsert(mut row) => {
            let put = cache.put(&mut row, WriteMode::Upsert, events);
            reader.recycle(row);
            put.map_err(in_change)?;
        }
        PendingOp::Replace { old, mut new } => {
            cache.remove(&old, events.as_deref_mut());
            let put = cache.put(&mut new, WriteMode::Upsert, events);
            reader.recycle(new);
            put.map_err(in_change)?;
        }
        PendingOp::Remove(key) => cache.remove(&key, events),
        PendingOp::KeepOut { key, why } => cache.keep_out(&key, why, events),
        PendingOp::Clear(keep) if keep.is_empty() && events.is_none() => cache.clear(),
        PendingOp::Clear(keep) => {
            let mut seen = SeenRows::default();
            for key in &keep {
                cache.mark(key, &mut seen);
            }
            cache.sweep(&seen, events);
            cache.retain_out(&keep);
        }
    }
    Ok(())
}

impl<C: CacheSink> CacheWriter for SinkWriter<C> {
    fn query(&self, relation: &str, only: &str) -> String {
        self.reader.query(relation, only)
    }

    fn reads_columns(&self) -> bool {
        self.reader.reads_columns()
    }

    fn begin(&mut self, expected: usize) {
        self.waiting
            .push_back((PendingOp::Begin { expected }, None));
    }

    fn merge(&mut self, tuple: &[u8]) -> Result<(), ReadError> {
        let op = match self.reader.read_copy(tuple)? {
            Decoded::Row(row) => PendingOp::Merge(row),
            Decoded::Misfit { key, why } => PendingOp::KeepOut { key, why },
        };
        self.waiting.push_back((op, None));
        Ok(())
    }

    fn end(&mut self) {
        self.waiting.push_back((PendingOp::End, None));
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        let mut key = std::mem::take(&mut self.key);
        key.read_json(self.reader.shape(), change.id())
            .map_err(|error| error.to_string())?;
        let op = match change.operation() {
            Operation::Whole => return Ok(()),
            Operation::Remove => PendingOp::Remove(key),
            Operation::Upsert | Operation::ReplaceKey => {
                let data = change.data().ok_or("the row was not sent")?;
                let decoded = self.reader.read_json(data, change.json_nulls(), &key)?;
                let old = change
                    .old_id()
                    .filter(|_| change.operation() == Operation::ReplaceKey);
                match (decoded, old.map(|old| self.key_of(old)).transpose()?) {
                    (Decoded::Row(new), Some(old)) => PendingOp::Replace { old, new },
                    (Decoded::Row(new), None) => {
                        self.key = key;
                        PendingOp::Upsert(new)
                    }
                    (Decoded::Misfit { key, why }, old) => {
                        self.waiting
                            .extend(old.map(|old| (PendingOp::Remove(old), Some(change.sender))));
                        PendingOp::KeepOut { key, why }
                    }
                }
            }
        };
        self.waiting.push_back((op, Some(change.sender)));
        Ok(())
    }

    fn replace(&mut self, keys: &[String], tuples: &[Vec<u8>]) -> Result<(), String> {
        let rows = tuples
            .iter()
            .map(|tuple| self.reader.read_copy(tuple))
            .collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|error| error.to_string())?;
        let key_of = |row: &Decoded<C::Row>| match row {
            Decoded::Row(row) => self.reader.key_of(row),
            Decoded::Misfit { key, .. } => key.clone(),
        };
        let found: HashSet<KeyBuf> = rows.iter().map(key_of).collect();
        let asked = keys
            .iter()
            .map(|id| self.key_of(id))
            .collect::<Result<Vec<_>, _>>()?;
        let removed = asked
            .into_iter()
            .filter(|key| !found.contains(key))
            .map(PendingOp::Remove);
        let stored = rows.into_iter().map(|row| match row {
            Decoded::Row(row) => PendingOp::Upsert(row),
            Decoded::Misfit { key, why } => PendingOp::KeepOut { key, why },
        });
        self.waiting
            .extend(removed.chain(stored).map(|op| (op, None)));
        Ok(())
    }

    fn clear(&mut self, keep: &[String]) -> Result<(), String> {
        let keep = keep
            .iter()
            .map(|id| self.key_of(id))
            .collect::<Result<Vec<_>, _>>()?;
        self.waiting.push_back((PendingOp::Clear(keep), None));
        Ok(())
    }

    fn start_comparing(&mut self) {
        self.comparing = Some((SeenRows::default(), ComparisonReport::default()));
    }

    fn compare(&mut self, tuple: &[u8]) -> Result<(), ReadError> {
        let decoded = self.reader.read_copy(tuple)?;
        if let Some((seen, comparison)) = &mut self.comparing {
            comparison.rows += 1;
            match &decoded {
                Decoded::Row(row) => self.cache.read().compare(row, seen, comparison),
                Decoded::Misfit { key, .. } => {
                    self.cache.read().compare_misfit(key, seen, comparison);
                }
            }
        }
        if let Decoded::Row(row) = decoded {
            self.reader.recycle(row);
        }
        Ok(())
    }

    fn take_comparison(&mut self) -> Option<ComparisonReport> {
        let (seen, mut comparison) = self.comparing.take()?;
        self.cache.read().ghosts(&seen, &mut comparison);
        Some(comparison)
    }

    fn flush(&mut self, patience: Duration) -> Result<bool, FlushError> {
        if self.waiting.is_empty() {
            return Ok(true);
        }
        let Some(mut cache) = self.cache.try_write_for(patience) else {
            return Ok(false);
        };
        let mut done = Ok(true);
        for (op, sender) in self.waiting.drain(..) {
            let events_before = self.events.as_ref().map_or(0, Vec::len);
            let loading = (&mut self.loading, &mut self.has_changed);
            let carried = apply_op(
                &mut *cache,
                op,
                loading,
                &mut self.reader,
                self.events.as_mut(),
            );
            for events in self
                .events
                .iter_mut()
                .flat_map(|events| &mut events[events_before..])
            {
                if let RowEvent::Row(_, by) | RowEvent::Misfit(_, _, by) = events {
                    *by = sender;
                }
            }
            if let (Err(error), Ok(_)) = (carried, &done) {
                done = Err(error);
            }
        }
        self.rows = cache.len();
        self.kept_out = cache.kept_out();
        done
    }

    fn has_changed(&self) -> bool {
        self.has_changed
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
        if let Some(cache) = self.cache.try_read() {
            self.memory = cache.memory_bytes();
        }
        self.memory
    }

    fn record_events(&mut self) {
        self.events.get_or_insert_default();
    }

    fn take_row_events(&mut self) -> Vec<RowEvent> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
