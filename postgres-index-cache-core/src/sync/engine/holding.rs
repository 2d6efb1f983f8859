//! Tables whose definition has changed: held while they cannot be followed, then followed by a new
//! specification.

use super::Engine;
use crate::sync::rules::Rule;
use crate::sync::{Failure, Output, TableId, TableSpec};
use std::time::Instant;

impl Engine {
    /// Holds a table that cannot be followed as it is. The engine gives up the reads of the table,
    /// and the changes that wait for it.
    pub(super) fn hold(&mut self, table: TableId, why: String, now: Instant) {
        // Rule::Held. Without this:
        // 1. A look finds that a table's trigger is disabled, and the driver says so.
        // 2. The engine goes on with the table, and the look is done.
        // 3. The next fence is reached without the rows that nobody announced.
        if !self.rules.keeps(Rule::Held) {
            return;
        }
        let name = self.tables[table.0].name();
        tracing::info!(table = name, why, "the table is held");
        self.give_up_table(table, &why, now);
        self.tables[table.0].hold(why);
    }

    /// Follows a table by a new specification from now on. The table is read anew.
    pub(super) fn follow_table(&mut self, table: TableId, spec: TableSpec, now: Instant) {
        tracing::info!(table = spec.name, "the table is followed anew");
        // The table need not have been held before, so Q may be at work for the old table.
        self.give_up_table(table, "the table is followed anew", now);
        self.tables[table.0].follow_anew(spec);
    }

    /// Handles a table for whose rows there is no room: the table is read again after a while.
    pub(super) fn table_failed(
        &mut self,
        table: TableId,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if is_permanent && !self.has_been_live {
            self.shut_down(Failure::ReadRefused { table, why }, now);
            return;
        }
        self.give_up_table(table, &why, now);
        // A held table is read once it is followed again, and not before.
        if !self.tables[table.0].is_held() {
            self.retry_read(table, why, now);
        }
    }

    /// Ends the work of Q for a table.
    fn give_up_table(&mut self, table: TableId, why: &str, now: Instant) {
        self.end_comparison(table, Some(why.to_string()), now);
        if self.reads.give_up_read(table) {
            self.outputs.push_back(Output::GiveUpRead { table });
        }
    }
}
