//! Tables that became others: held while they cannot be followed, then followed as they are now.

use super::Engine;
use crate::sync::rules::Rule;
use crate::sync::{Failure, Output, TableId, TableSpec};
use std::time::Instant;

impl Engine {
    /// A table cannot be followed as it is: the engine gives up reads of it and what waits for it.
    pub(super) fn hold(&mut self, table: TableId, why: String, now: Instant) {
        if !self.rules.keeps(Rule::Held) {
            return;
        }
        let name = self.tables[table.0].name();
        tracing::info!(table = name, why, "the table is held");
        self.give_up_table(table, &why, now);
        self.tables[table.0].hold(why);
    }

    /// A table can be followed, as `spec` says from now on: it is read anew. It need not have been
    /// held before, so Q may be at work for it.
    pub(super) fn follow_table(&mut self, table: TableId, spec: TableSpec, now: Instant) {
        tracing::info!(table = spec.name, "the table is followed anew");
        self.give_up_table(table, "the table is followed anew", now);
        self.tables[table.0].follow_anew(spec);
    }

    /// There is no room for a table's rows.
    pub(super) fn table_failed(
        &mut self,
        table: TableId,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if is_permanent && !self.has_been_live {
            self.shut_down(Failure::ReadRefused { table, why });
            return;
        }
        self.give_up_table(table, &why, now);
        if !self.tables[table.0].is_held() {
            self.retry_read(table, why, now);
        }
    }

    /// Ends what Q does for a table.
    fn give_up_table(&mut self, table: TableId, why: &str, now: Instant) {
        self.end_comparison(table, Some(why.to_string()), now);
        if self.reads.give_up_read(table) {
            self.outputs.push_back(Output::GiveUpRead { table });
        }
    }
}
