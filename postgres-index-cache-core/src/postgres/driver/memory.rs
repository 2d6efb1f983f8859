//! The bound on the memory of a [`Driver`]'s caches, and of what waits for them.

use super::Driver;
use crate::postgres::error::DriverError;
use crate::sync::{Input, TableId};
use std::time::Instant;

/// How many rows are loaded, or changes applied, before the memory is looked at again.
pub(super) const ROWS_BETWEEN_CHECKS: usize = 10_000;

/// The memory that was used, and when it is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// How many bytes the caches took when that was last looked at.
    used: usize,
    /// How many changes were applied since.
    changes: usize,
    /// How many bytes these changes had.
    bytes: usize,
    /// How many times what waited was dropped since all tables were live.
    times_short: u32,
}

impl Memory {
    /// Counts a change of `bytes` bytes. Returns whether the memory is to be looked at.
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
    pub(super) fn is_live(&mut self) {
        self.times_short = 0;
    }
}

/// Returns how many bytes are loaded or applied before the memory is looked at again. A small bound
/// is looked at more often.
pub(super) fn bytes_between_checks(max_memory: usize) -> usize {
    const MOST: usize = 16 << 20;
    MOST.min(max_memory / 16)
}

impl Driver {
    /// Returns the bytes that the caches, and the changes that wait for them, may take:
    /// [`DriverOptions::max_memory`](crate::postgres::DriverOptions::max_memory).
    pub fn max_memory(&self) -> usize {
        self.options.max_memory
    }

    /// Returns how many bytes a row may have. Some rows are on their way at a time, and each is there
    /// several times for a moment.
    pub(super) fn longest_row(&self) -> usize {
        self.options.max_memory / 8
    }

    /// Drops what waits for the caches if it takes too much memory together with them.
    pub(super) fn check_waiting(&mut self) {
        /// After so many times without being live in between, dropping does not help.
        const TOO_MANY: u32 = 20;
        let waiting = self.engine.waiting_bytes();
        let used = self.memory.used + waiting;
        if used <= self.options.max_memory || waiting == 0 {
            return;
        }
        self.memory.times_short += 1;
        if self.memory.times_short <= TOO_MANY {
            self.engine.handle(Input::MemoryShort, Instant::now());
            return;
        }
        let largest = (0..self.tables.len())
            .max_by_key(|&at| self.tables[at].writer.rows())
            .unwrap_or_default();
        self.give_up_for_memory(TableId(largest), used);
    }

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

    /// Gives up `table` if the caches take too much memory.
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
