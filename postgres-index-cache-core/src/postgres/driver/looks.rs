//! The looks of a [`Driver`] at the definitions of its tables: changes that no notification tells.

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
    /// Looks at the tables on F. The answer carries the number of the look.
    pub(super) fn look(&mut self, number: u64) {
        // While F is lost the engine asks for nothing.
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

    /// Takes the answer to a look.
    ///
    /// The engine is told of the findings before it is told that the look is done: a fence must not
    /// be reached in between. A table that became another one meanwhile is not among `relations`;
    /// nothing was seen of it.
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
            if relations.contains(&self.tables[table.0].config.followed.oid) {
                self.take_look(table, look, &seen);
            }
        }
        self.engine.handle(Input::Looked { look }, Instant::now());
    }

    fn look_failed(&mut self, look: u64, source: tokio_postgres::Error) {
        let doing = "look at the definitions of the tables".to_string();
        let error = DriverError::Server { doing, source };
        match error.policy() {
            Policy::Lost | Policy::Starting => {
                self.aux_connection_lost(AuxConnection::Fences, error);
            }
            Policy::Passing | Policy::Counted | Policy::Refused => {
                let why = chain(&error);
                tracing::warn!(why, "a look at the definitions failed");
                let input = Input::LookFailed { look, why };
                self.engine.handle(input, Instant::now());
            }
        }
    }

    /// Takes what a look has seen of one table.
    fn take_look(&mut self, table: TableId, look: u64, seen: &[Fingerprint]) {
        // Before `compare` puts the new fingerprint in the place of the old one.
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

    /// Compares a table with what was seen of it, and tells the engine what follows. Returns whether
    /// the table is as it was, except for its files.
    pub(super) fn compare(&mut self, table: TableId, seen: &[Fingerprint]) -> bool {
        let own = &self.tables[table.0];
        let Some(before) = own.fingerprint.as_ref().filter(|_| !own.is_held) else {
            return true;
        };
        let truncated_by = self.engine.truncated_by(table);
        match compare(before, seen, &own.config.announced_by, truncated_by) {
            None => true,
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

    /// Returns whether a table has other files than when it was read, or seen truncated, last; `None`
    /// if that is not known.
    fn has_other_files(&self, table: TableId, seen: &[Fingerprint]) -> Option<bool> {
        let before = self.tables[table.0].fingerprint.as_ref()?;
        let now = seen
            .iter()
            .find(|print| print.relation() == before.relation())?;
        Some(!now.has_files_of(before))
    }

    /// A table is another one than was described.
    ///
    /// If somebody describes it afresh it is held until then: its trigger may have been made for
    /// another table or another key. Otherwise it is read again.
    pub(super) fn altered(&mut self, table: TableId, why: &str) {
        // An earlier failure is not the cause.
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

    /// Makes a table be neither read nor changed, until [`resume`](Self::resume). `why` says why it
    /// cannot be followed.
    pub(in crate::postgres) fn hold(&mut self, table: TableId, why: String) {
        self.tables[table.0].is_held = true;
        let input = Input::TableHeld { table, why };
        self.engine.handle(input, Instant::now());
    }

    /// Does what follows from tables that were held or resumed, so that their states are published.
    pub(in crate::postgres) fn apply(&mut self) -> Result<(), DriverError> {
        self.perform_outputs()
    }

    /// Returns whether a table is held.
    pub(in crate::postgres) fn is_held(&self, table: TableId) -> bool {
        self.tables[table.0].is_held
    }

    /// Follows a table, held or not, as `config` describes it, and reads it anew: into the cache of
    /// `writer` if that is given, else into the cache that the table has.
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
            own.writer = writer;
            // A reader may hold the lock of the old cache; it is nobody's concern any more.
            if own.busy_until.take().is_some() {
                self.engine
                    .handle(Input::CacheFree { table }, Instant::now());
            }
        }
        let input = Input::TableFollowed { table, followed };
        self.engine.handle(input, Instant::now());
    }

    /// Returns how many rows of a table did not fit the application's model, and the first of them
    /// with the reason.
    pub(in crate::postgres) fn kept_out(&self, table: TableId) -> Option<&(usize, String)> {
        self.tables[table.0].writer.kept_out()
    }

    /// Listens on these channels from now on.
    pub(in crate::postgres) fn set_channels(&mut self, channels: Vec<String>) {
        self.options.channels.clone_from(&channels);
        self.engine
            .handle(Input::ChannelsChanged(channels), Instant::now());
    }
}
