//! The bound on the memory of a [`Driver`]'s caches, and of the changes that wait for them.
//!
//! Changes that wait are dropped first, since their rows can be read again. A cache that alone
//! takes more than the bound is given up.

use super::Driver;
use crate::digest::RangeSum;
use crate::postgres::error::DriverError;
use crate::sync::{Input, TableId};
use std::time::Instant;

/// The number of rows that are loaded, or of changes that are applied, between two checks of the
/// memory.
pub(super) const ROWS_BETWEEN_CHECKS: usize = 10_000;

/// The memory that was used at the last check, and the count of changes since then.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The bytes that the caches took at the last check.
    used: usize,
    /// The number of changes that were applied since then.
    changes: usize,
    /// The bytes of these changes.
    bytes: usize,
    /// The number of times that waiting changes were dropped since all tables were live.
    times_short: u32,
}

impl Memory {
    /// Counts a change of `bytes` bytes. Returns whether a check of the memory is due. The counts
    /// begin again then.
    pub(super) fn is_check_due(&mut self, bytes: usize, max_memory: usize) -> bool {
        self.changes += 1;
        self.bytes += bytes;
        let is_due =
            self.changes >= ROWS_BETWEEN_CHECKS || self.bytes > bytes_between_checks(max_memory);
        if is_due {
            self.changes = 0;
            self.bytes = 0;
        }
        is_due
    }

    /// Notes that all tables are live.
    pub(super) fn note_live(&mut self) {
        self.times_short = 0;
    }
}

/// Returns the number of bytes that are loaded or applied between two checks of the memory: 16 MiB,
/// or less if `max_memory` is small. Between two checks the bound can be exceeded by that much.
pub(super) fn bytes_between_checks(max_memory: usize) -> usize {
    const MOST: usize = 16 << 20;
    MOST.min(max_memory / 16)
}

/// How large a cache is.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::postgres) struct CacheSize {
    /// The number of rows.
    pub(in crate::postgres) rows: usize,
    /// The bytes that the cache takes, without what models hold on the heap.
    pub(in crate::postgres) memory_bytes: usize,
    /// The number of rows that do not fit the model and are kept out.
    pub(in crate::postgres) kept_out: usize,
}

impl Driver {
    /// Returns how large the cache of a table is. If somebody holds its lock, the bytes are those
    /// of when it last was free.
    pub(in crate::postgres) fn cache_size(&mut self, table: TableId) -> CacheSize {
        let writer = &mut self.tables[table.0].writer;
        CacheSize {
            rows: writer.rows(),
            memory_bytes: writer.memory_bytes(),
            kept_out: writer.kept_out().map_or(0, |(count, _)| *count),
        }
    }

    /// Returns the number of rows in the cache of a table, and the sum of their digests. The first
    /// call, and the first one after a load, looks at each row.
    pub fn sum(&mut self, table: TableId) -> RangeSum {
        self.tables[table.0].writer.sum()
    }

    /// Returns the bytes that the caches, and the changes that wait for them, may take:
    /// [`DriverOptions::max_memory`](crate::postgres::DriverOptions::max_memory).
    pub fn max_memory(&self) -> usize {
        self.options.max_memory
    }

    /// Returns the most bytes that a row may have.
    pub(super) fn longest_row(&self) -> usize {
        // Several rows are on their way at a time. Each is in memory several times for a moment: as
        // a piece of the COPY stream, as a waiting operation, and in the cache. Each side read has
        // as many on their way.
        self.options.max_memory / 8
    }

    /// Tells the engine to drop the changes that wait for the caches, if these changes and the
    /// caches together take more memory than allowed.
    pub(super) fn check_waiting(&mut self) {
        /// The most times that changes are dropped while the tables are not live in between.
        /// Changes that come faster than their tables can be read would be dropped for ever.
        const TOO_MANY: u32 = 20;
        let waiting = self.engine.waiting_bytes();
        // The caches' part is that of the last check. To add it up takes too long for each batch of
        // notifications.
        let used = self.memory.used + waiting;
        if used <= self.options.max_memory || waiting == 0 {
            return;
        }
        self.memory.times_short += 1;
        if self.memory.times_short <= TOO_MANY {
            self.engine.handle(Input::MemoryShort, Instant::now());
            return;
        }
        // The waiting changes are of all tables. The table with the most rows takes the blame.
        let largest = (0..self.tables.len())
            .max_by_key(|&at| self.tables[at].writer.rows())
            .unwrap_or_default();
        self.give_up_for_memory(TableId(largest), used);
    }

    /// Tells the engine that a table cannot be followed, since the caches take `used` bytes.
    fn give_up_for_memory(&mut self, table: TableId, used: usize) {
        let own = &self.tables[table.0];
        let error = DriverError::Memory {
            table: own.config.name(),
            rows: own.writer.rows(),
            used,
            allowed: self.options.max_memory,
        };
        let why = error.to_string();
        self.failure = Some(error);
        let input = Input::TableFailed {
            table,
            why,
            is_permanent: true,
        };
        self.engine.handle(input, Instant::now());
    }

    /// Adds up the memory of all caches, and gives up `table` if that is more than allowed. `table`
    /// is the one that has just grown.
    pub(super) fn check_memory(&mut self, table: TableId) {
        let used = self
            .tables
            .iter_mut()
            .map(|table| table.writer.memory_bytes())
            .sum();
        self.memory.used = used;
        if used > self.options.max_memory {
            self.give_up_for_memory(table, used);
        }
    }
}
