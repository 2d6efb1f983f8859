//! What the caches of a [`Driver`] and what waits for them may take.

use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::driver::Driver;
use crate::postgres::error::DriverError;
use crate::sync::{Input, TableId};
use std::time::Instant;

impl Driver {
    /// How many bytes are loaded or applied before the memory is looked at again. A small bound is
    /// looked at more often.
    pub(super) fn bytes_between_checks(&self) -> usize {
        const MOST: usize = 16 << 20;
        MOST.min(self.options.max_memory / 16)
    }

    /// How many bytes a row may have: what is on its way is some rows, and each is there several
    /// times for a moment.
    pub(super) fn longest_row(&self) -> usize {
        self.options.max_memory / 8
    }

    /// What waits for the caches takes memory too.
    pub(super) fn check_waiting(&mut self) {
        /// Dropped so often without being live in between, it will not be.
        const TOO_OFTEN: u32 = 20;
        let used = self.used + self.engine.waiting_bytes();
        let allowed = self.options.max_memory;
        if used <= allowed || self.engine.waiting_bytes() == 0 {
            return;
        }
        self.times_short += 1;
        if self.times_short <= TOO_OFTEN {
            return self.engine.handle(Input::MemoryShort, Instant::now());
        }
        let most = (0..self.tables.len())
            .max_by_key(|&at| self.tables[at].store.rows())
            .unwrap_or_default();
        self.give_up_for_memory(TableId(most), used);
    }

    fn give_up_for_memory(&mut self, table: TableId, used: usize) {
        let DriverTable { follow, store, .. } = &self.tables[table.0];
        let allowed = self.options.max_memory;
        let error = DriverError::Memory {
            table: follow.name(),
            rows: store.rows(),
            used,
            allowed,
        };
        let why = error.to_string();
        self.failure = Some(error);
        self.engine.handle(
            Input::TableFailed {
                table,
                why,
                is_permanent: true,
            },
            Instant::now(),
        );
    }

    pub(super) fn check_memory(&mut self, table: TableId) {
        let used = self
            .tables
            .iter_mut()
            .map(|table| table.store.memory_bytes())
            .sum();
        self.used = used;
        if used > self.options.max_memory {
            self.give_up_for_memory(table, used);
        }
    }
}
