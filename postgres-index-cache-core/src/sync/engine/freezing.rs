//! The engine and a freeze of a cache, from the first question to the end.
//!
//! The phases of a freeze, and why the frozen cache is exact, stand at
//! [`freeze`](crate::sync::freeze).

use super::Engine;
use crate::sync::freeze::{Freeze, MOST_OPEN};
use crate::sync::snapshot::Snapshot;
use crate::sync::{Output, State, TableId};
use std::time::Instant;

impl Engine {
    /// Begins a freeze, or says why there is none.
    pub(super) fn begin_freeze(&mut self, table: TableId, number: u64, now: Instant) {
        if let Some(why) = self.no_freeze(table, now) {
            return self.freeze_failed(table, number, why);
        }
        self.freeze_times[table.0].begin(now);
        let steps = self.tables[table.0].begin_freeze(number);
        self.apply_steps(table, steps, now);
    }

    /// Returns why a table cannot be frozen now; `None` if it can.
    fn no_freeze(&self, table: TableId, now: Instant) -> Option<String> {
        let own = &self.tables[table.0];
        if let Some(wait) = self.freeze_times[table.0].wait(now) {
            // Any role can ask: see `FreezeTimes`.
            return Some(format!(
                "it was frozen a moment ago, ask again in {} ms",
                wait.as_millis() + 1
            ));
        }
        if own.freeze().is_some() {
            return Some("another comparison is underway".to_string());
        }
        self.not_live(table).or_else(|| {
            own.is_busy()
                .then(|| "its cache is locked or compared".to_string())
        })
    }

    /// Returns why a table's rows are not those of its last fence; `None` if they are.
    fn not_live(&self, table: TableId) -> Option<String> {
        let own = &self.tables[table.0];
        let is_live = own.is_proven()
            && !own.is_stale()
            && !own.is_reload_due()
            && !own.is_to_be_seen_truncated()
            && self.looks.blind().is_none()
            && self.connections.is_following();
        (!is_live).then(|| match self.states[table.0] {
            State::Live => "it is being loaded".to_string(),
            state => format!("it is {}", state.word()),
        })
    }

    /// Freezes a table at the snapshot of the second question. What the snapshot sees is applied.
    pub(super) fn cut_freeze(
        &mut self,
        table: TableId,
        number: u64,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let is_held = matches!(
            self.tables[table.0].freeze(),
            Some(Freeze::Holding { number: own, .. }) if *own == number
        );
        if !is_held {
            return self.freeze_failed(table, number, "it is not held any more".to_string());
        }
        self.freeze_times[table.0].cut(now);
        let mut cut = self.tables[table.0].cut_freeze(snapshot);
        self.count_what_waited(table);
        let steps = std::mem::take(&mut cut.steps);
        self.apply_steps(table, steps, now);
        let open: Result<Vec<String>, String> = match &cut.open {
            Err(why) => Err((*why).to_string()),
            Ok(open) if open.len() > MOST_OPEN => {
                Err(format!("{} rows are being refetched", open.len()))
            }
            Ok(open) => match self.not_live(table) {
                Some(why) => Err(why),
                None => Ok(open.iter().cloned().collect()),
            },
        };
        // One of the changes may have ended the freeze.
        if self.tables[table.0].freeze().is_none() {
            return;
        }
        if let Ok(open) = &open {
            self.outputs.push_back(Output::Frozen {
                table,
                freeze: number,
                open: open.clone(),
            });
        }
        let steps = self.tables[table.0].keep_unseen(cut);
        self.count_what_waited(table);
        self.apply_steps(table, steps, now);
        if let Err(why) = open {
            self.end_freeze(table, Some(why), now);
        }
    }

    /// Returns whether a table is frozen by the freeze with this number, and its rows are not
    /// doubted. If not, digests that were computed for it count for nothing. For example, a change
    /// that could not be stored asks for a reload, which may have to wait.
    pub fn is_frozen(&self, table: TableId, freeze: u64) -> bool {
        let is_frozen = matches!(
            self.tables[table.0].freeze(),
            Some(Freeze::Frozen { number }) if *number == freeze
        );
        is_frozen && self.not_live(table).is_none()
    }

    /// Ends the freeze with this number, whose digests are computed.
    pub(super) fn freeze_over(&mut self, table: TableId, number: u64, now: Instant) {
        let underway = self.tables[table.0].freeze().map(Freeze::number);
        if underway == Some(number) {
            self.end_freeze(table, None, now);
        }
    }

    /// Ends the freeze of a table, if one is underway. `why` says why it was in vain; `None` if it
    /// was not.
    pub(super) fn end_freeze(&mut self, table: TableId, why: Option<String>, now: Instant) {
        self.freeze_times[table.0].end(now);
        let Some(number) = self.tables[table.0].freeze().map(Freeze::number) else {
            return;
        };
        let steps = self.tables[table.0].end_freeze(self.limits.waiting_bytes);
        self.count_what_waited(table);
        if let Some(why) = why {
            self.freeze_failed(table, number, why);
        }
        self.apply_steps(table, steps, now);
        // A fence proves the rows that were refetched, so that the next freeze finds fewer open
        // ones. Nobody else may ask for one until the next heartbeat.
        if self.tables[table.0].has_open_rows() && self.connections.is_following() {
            self.send_fence(None, now);
        }
    }

    /// Ends the freezes that take too long. Whoever asked may be gone.
    pub(super) fn end_late_freezes(&mut self, now: Instant) {
        for table in 0..self.tables.len() {
            let deadline = self.freeze_times[table].deadline;
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.end_freeze(TableId(table), Some("it took too long".to_string()), now);
            }
        }
    }

    /// Forgets the freeze of a table whose connections are lost.
    pub(super) fn drop_freeze(&mut self, table: TableId, now: Instant) {
        if let Some(number) = self.tables[table.0].freeze().map(Freeze::number) {
            self.freeze_times[table.0].end(now);
            self.freeze_failed(table, number, "a connection was lost".to_string());
        }
    }

    fn freeze_failed(&mut self, table: TableId, freeze: u64, why: String) {
        self.outputs
            .push_back(Output::FreezeFailed { table, freeze, why });
    }
}
