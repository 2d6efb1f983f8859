//! The looks of a [`Driver`] at the definitions of its tables. A look finds the changes of which no
//! notification tells: DDL, rewritten rows, triggers that are gone or disabled.
//!
//! ```text
//! heartbeat ─→ look: F reads the fingerprints ─→ looked ─→ compare, table by table
//!                                                            ├─ as before
//!                                                            ├─ rewritten ─→ reload
//!                                                            └─ altered, silent ─→ held, reload
//! ```

use super::turn::TaskEvent;
use super::{Driver, DriverEvent};
use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::connection::sessions::AuxClient;
use crate::postgres::error::DriverError;
use crate::postgres::error_chain::chain;
use crate::postgres::schema::eligibility::TableConfig;
use crate::postgres::schema::fingerprint::{Difference, Fingerprint, compare, look};
use crate::postgres::sqlstate::Policy;
use crate::sync::{AuxConnection, Failure, Input, TableId};
use std::time::Instant;

impl Driver {
    /// Starts a task that reads the fingerprints of all tables on F. The answer carries `number`,
    /// the number of the look.
    pub(super) fn look(&mut self, number: u64) {
        // The engine asks for no look while F is lost.
        let Some(AuxClient { client, epoch }) = self.aux_client(AuxConnection::Fences) else {
            return;
        };
        tracing::debug!(number, "look at the definitions");
        let driver = self.channels.tasks_tx.clone();
        let relations: Vec<u32> = self
            .tables
            .iter()
            .map(|table| table.config.followed.oid)
            .collect();
        tokio::spawn(async move {
            let seen = look(&*client, &relations).await;
            let event = TaskEvent::Looked {
                epoch,
                look: number,
                relations,
                seen,
            };
            // If the driver is gone, nobody waits for this event.
            let _ = driver.send(event).await;
        });
    }

    /// Takes the answer to a look. `relations` are the tables that the look was asked about.
    pub(super) fn looked(
        &mut self,
        look: u64,
        relations: &[u32],
        seen: Result<Vec<Fingerprint>, tokio_postgres::Error>,
    ) {
        let seen = match seen {
            Ok(seen) => seen,
            Err(source) => return self.look_failed(look, source),
        };
        for table in (0..self.tables.len()).map(TableId) {
            // A name may have become another table's since the look was asked for. Of the table
            // that is followed now this look has seen nothing.
            if relations.contains(&self.tables[table.0].config.followed.oid) {
                self.take_look(table, look, &seen);
            }
        }
        // The findings come first. Otherwise a fence that waits for this look would be reached
        // before the engine knows that the table was altered.
        self.engine.handle(Input::Looked { look }, Instant::now());
    }

    /// Takes the error with which a look has failed.
    fn look_failed(&mut self, look: u64, source: tokio_postgres::Error) {
        let doing = "look at the definitions of the tables".to_string();
        let error = DriverError::Server { doing, source };
        match error.policy() {
            Policy::Lost | Policy::Starting => {
                self.aux_connection_lost(AuxConnection::Fences, error);
            }
            // F is in order. The engine counts looks that fail in a row, and asks again.
            Policy::Passing | Policy::Counted | Policy::Refused => {
                let why = chain(&error);
                tracing::warn!(why, "a look at the definitions failed");
                let input = Input::LookFailed { look, why };
                self.engine.handle(input, Instant::now());
            }
        }
    }

    /// Takes the fingerprints that a look has read, as far as they are of one table.
    fn take_look(&mut self, table: TableId, look: u64, seen: &[Fingerprint]) {
        // Asked before `compare` puts the new fingerprint in the place of the old one.
        let has_other_files = self.has_other_files(table, seen);
        self.compare(table, seen);
        // A look that began before a TRUNCATE was announced may have seen its files already, so
        // other files count for any look. That there are none counts only if the look must have
        // seen them.
        let has_happened = has_other_files == Some(true);
        let must_have = has_other_files.is_some() && self.engine.must_be_truncated(table, look);
        if has_happened || must_have {
            let input = Input::TruncateSeen {
                table,
                has_happened,
            };
            self.engine.handle(input, Instant::now());
        }
    }

    /// Compares a table's fingerprint with the one in `seen`, and tells the engine what follows.
    /// Returns whether the definition is as before; the rows may have been rewritten or truncated.
    pub(super) fn compare(&mut self, table: TableId, seen: &[Fingerprint]) -> bool {
        let own = &self.tables[table.0];
        // A held table has nothing to compare: it is another one, and is being described afresh.
        let Some(before) = own.fingerprint.as_ref().filter(|_| !own.is_held) else {
            return true;
        };
        let truncated_by = self.engine.truncated_by(table);
        match compare(before, seen, &own.config.announced_by, truncated_by) {
            None => true,
            // A TRUNCATE that was announced. Its files are those to compare with from now on, or
            // the next look would find them again.
            Some(Difference::Truncated) => {
                let relation = before.relation();
                let now = seen.iter().find(|print| print.relation() == relation);
                self.tables[table.0].fingerprint = now.cloned();
                true
            }
            Some(Difference::Rewritten(why)) => {
                self.failure = None;
                let input = Input::TableAltered {
                    table,
                    why: why.to_string(),
                };
                self.engine.handle(input, Instant::now());
                true
            }
            Some(Difference::Altered(why)) => {
                self.altered(table, why);
                false
            }
            Some(Difference::Silent(trigger)) if self.options.holds_altered => {
                self.altered(
                    table,
                    &format!("its trigger \"{trigger}\" is gone or disabled"),
                );
                false
            }
            // Nobody describes tables afresh for this driver, so nothing would mend the trigger.
            Some(Difference::Silent(trigger)) => {
                let failure = Failure::NotFollowed {
                    name: own.config.name(),
                    trigger,
                };
                self.failure = None;
                self.engine.handle(Input::GivenUp(failure), Instant::now());
                false
            }
        }
    }

    /// Returns whether a table has other files than in its last fingerprint. Returns `None` if that
    /// is not known: the table has no fingerprint yet, or `seen` has none of the table.
    fn has_other_files(&self, table: TableId, seen: &[Fingerprint]) -> Option<bool> {
        let before = self.tables[table.0].fingerprint.as_ref()?;
        let now = seen
            .iter()
            .find(|print| print.relation() == before.relation())?;
        Some(!now.has_files_of(before))
    }

    /// Tells the engine that the definition of a table has changed.
    ///
    /// If somebody describes altered tables afresh, the table is held until then: the trigger may
    /// have been made for another table or another key. Otherwise the table is reloaded.
    pub(super) fn altered(&mut self, table: TableId, why: &str) {
        // An earlier failure is not the cause, and must not be told as such.
        self.failure = None;
        if self.options.holds_altered {
            self.hold(table, format!("{why}; it is being described afresh"));
        } else {
            let input = Input::TableAltered {
                table,
                why: why.to_string(),
            };
            self.engine.handle(input, Instant::now());
        }
        self.emit(DriverEvent::Altered { table });
    }

    /// Holds a table: its cache is neither reloaded nor changed until [`resume`](Self::resume).
    /// `why` is the reason why the table cannot be followed.
    pub(in crate::postgres) fn hold(&mut self, table: TableId, why: String) {
        self.tables[table.0].is_held = true;
        let input = Input::TableHeld { table, why };
        self.engine.handle(input, Instant::now());
    }

    /// Carries out the engine's outputs after tables were held or resumed, so that their states are
    /// published.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub(in crate::postgres) fn apply(&mut self) -> Result<(), DriverError> {
        self.perform_outputs()
    }

    /// Returns whether a table is held.
    pub(in crate::postgres) fn is_held(&self, table: TableId) -> bool {
        self.tables[table.0].is_held
    }

    /// Follows a table as `config` describes it, and reloads the table. The table may be held. The
    /// rows go into the cache of `writer` if there is one, else into the cache that the table has.
    pub(in crate::postgres) fn resume(
        &mut self,
        table: TableId,
        config: TableConfig,
        writer: Option<Box<dyn CacheWriter>>,
    ) {
        let own = &mut self.tables[table.0];
        let followed = Box::new(config.followed.clone());
        own.is_held = false;
        own.fingerprint.clone_from(&config.fingerprint);
        own.config = config;
        if let Some(mut writer) = writer {
            if self.options.row_events {
                writer.record_events();
            }
            if self.answers.is_some() {
                writer.keep_history();
            }
            own.writer = writer;
            // A reader may hold the lock of the old cache. Nothing waits for that lock any more,
            // and the engine would wait for ever to hear that the cache is free.
            if own.busy_until.take().is_some() {
                self.engine
                    .handle(Input::CacheFree { table }, Instant::now());
            }
        }
        let input = Input::TableFollowed { table, followed };
        self.engine.handle(input, Instant::now());
    }

    /// Returns the number of rows of a table that do not fit the application's model, and the first
    /// of these rows with the reason. Returns `None` if every row fits.
    pub(in crate::postgres) fn kept_out(&self, table: TableId) -> Option<&(usize, String)> {
        self.tables[table.0].writer.kept_out()
    }

    /// Makes L listen on these channels from now on.
    pub(in crate::postgres) fn set_channels(&mut self, channels: Vec<String>) {
        self.options.channels.clone_from(&channels);
        self.engine
            .handle(Input::ChannelsChanged(channels), Instant::now());
    }
}
