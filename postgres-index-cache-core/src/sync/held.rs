//! Tables that became others: held while they cannot be followed, and followed anew as they are
//! now.

use super::link::ConnectionPhase;
use super::reads::Work;
use super::{Engine, Failure, Output, Rule, TableId, TableSpec};
use std::time::Instant;

impl Engine {
    /// A table cannot be followed as it is: what is read of it, or waits for it, is given up.
    pub(super) fn hold(&mut self, table: TableId, why: String, now: Instant) {
        if self.without == Some(Rule::Held) {
            return;
        }
        self.give_up_table(table, &why, now);
        self.tables[table.0].hold(why);
    }

    /// A table can be followed, as `followed` says from now on: it is read anew. It need not have
    /// been held before, so Q may be at work for it.
    pub(super) fn follow_table(&mut self, table: TableId, followed: TableSpec, now: Instant) {
        self.give_up_table(table, "the table is followed anew", now);
        self.tables[table.0].follow_anew(followed);
    }

    /// A table cannot be kept: there is no room for it.
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
        if !self.tables[table.0].is_held() {
            self.retry_read(table, why, now);
        }
    }

    /// Ends what Q does for a table.
    pub(super) fn give_up_table(&mut self, table: TableId, why: &str, now: Instant) {
        self.end_comparison(table, None, Some(why.to_string()), now);
        if let Some(Work::Read { table: of, .. } | Work::Refetch { table: of, .. }) = self.work
            && of == table
        {
            self.work = None;
            self.outputs.push_back(Output::GiveUpRead { table });
        }
    }

    /// The triggers notify on other channels: L must LISTEN on those, and nothing is read until it
    /// does. What it listens on and nobody needs any more does no harm until it connects again.
    pub(super) fn change_channels(&mut self, channels: Vec<String>, now: Instant) {
        self.channels = channels;
        let missing = |channel: &&String| !self.listened.contains(channel);
        let new: Vec<String> = self.channels.iter().filter(missing).cloned().collect();
        match self.link {
            _ if new.is_empty() => {}
            ConnectionPhase::Following if !self.is_listening_also => {
                self.listened.extend(new.iter().cloned());
                self.is_listening_also = true;
                self.outputs.push_back(Output::ListenAlso { channels: new });
            }
            // It is rare enough to begin anew: nothing is live yet, or another LISTEN is on its
            // way.
            ConnectionPhase::Following
            | ConnectionPhase::Subscribing
            | ConnectionPhase::Probing { .. } => {
                let why = "the tables are announced on other channels".to_string();
                self.disconnect(Failure::ConnectionLost(why), false, now);
            }
            // It will listen on them.
            ConnectionPhase::Disconnected { .. } => {}
        }
    }
}
