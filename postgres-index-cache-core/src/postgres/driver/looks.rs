//! What a [`Driver`] sees that no notification tells: the definitions of the tables, looked at on
//! F.

use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::driver::{Driver, DriverEvent, Event};
use crate::postgres::error::{DriverError, chain};
use crate::postgres::schema::eligibility::TableConfig;
use crate::postgres::schema::fingerprint::{Difference, Fingerprint, compare, look};
use crate::postgres::sqlstate::Policy;
use crate::sync::{AuxConnection, Failure, Input, TableId};
use std::time::Instant;

impl Driver {
    /// Looks at the tables on F; the answer carries the number of the look.
    pub(super) fn look(&mut self, number: u64) {
        // While F is lost the engine asks for nothing.
        let Some((client, epoch)) = self.client(AuxConnection::Fences) else {
            return;
        };
        let sender = self.sender.clone();
        let relations: Vec<u32> = self
            .tables
            .iter()
            .map(|table| table.follow.followed.oid)
            .collect();
        tokio::spawn(async move {
            let seen = look(&*client, &relations).await;
            // A driver that is gone wants to hear nothing.
            let _ = sender
                .send(Event::Looked {
                    epoch,
                    look: number,
                    relations,
                    seen,
                })
                .await;
        });
    }

    /// A look has come. What it found is said to the engine before the look is said to be done: a
    /// fence must not be reached in between.
    ///
    /// A table that became another one while it was looked at was not among `relations`: nothing
    /// was seen of it.
    pub(super) fn looked(
        &mut self,
        look: u64,
        relations: &[u32],
        seen: Result<Vec<Fingerprint>, tokio_postgres::Error>,
    ) {
        match seen {
            Ok(seen) => {
                for table in (0..self.tables.len()).map(TableId) {
                    if relations.contains(&self.tables[table.0].follow.followed.oid) {
                        // Before what is compared takes its place.
                        let has_other_files = self.has_other_files(table, &seen);
                        self.compare(table, &seen);
                        // A look that began before the announcement came may have seen what is
                        // announced.
                        let has_happened = has_other_files == Some(true);
                        let must_have =
                            has_other_files.is_some() && self.engine.must_be_truncated(table, look);
                        if has_happened || must_have {
                            self.engine.handle(
                                Input::TruncateSeen {
                                    table,
                                    has_happened,
                                },
                                Instant::now(),
                            );
                        }
                    }
                }
                self.engine.handle(Input::Looked { look }, Instant::now());
            }
            Err(source) => {
                let doing = "look at the definitions of the tables".to_string();
                let error = DriverError::Server { doing, source };
                match error.policy() {
                    Policy::Lost | Policy::Starting => {
                        self.aux_connection_lost(AuxConnection::Fences, error);
                    }
                    Policy::Passing | Policy::Counted | Policy::Refused => {
                        let why = chain(&error);
                        tracing::warn!(why, "a look at the definitions failed");
                        self.engine
                            .handle(Input::LookFailed { look, why }, Instant::now());
                    }
                }
            }
        }
    }

    /// Compares a table with what was seen of it, and says to the engine what follows. Gives
    /// whether it is as it was, but for its files.
    pub(super) fn compare(&mut self, table: TableId, seen: &[Fingerprint]) -> bool {
        let DriverTable {
            fingerprint,
            follow,
            is_held,
            ..
        } = &self.tables[table.0];
        let Some(before) = fingerprint.as_ref().filter(|_| !is_held) else {
            return true;
        };
        let truncated_by = self.engine.truncated_by(table);
        match compare(before, seen, &follow.announced_by, truncated_by) {
            None => true,
            Some(Difference::Truncated) => {
                let now = seen
                    .iter()
                    .find(|print| print.relation() == before.relation())
                    .cloned();
                self.tables[table.0].fingerprint = now;
                true
            }
            Some(Difference::Rewritten(why)) => {
                self.failure = None;
                self.engine.handle(
                    Input::TableAltered {
                        table,
                        why: why.to_string(),
                    },
                    Instant::now(),
                );
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
                    name: follow.name(),
                    trigger,
                };
                self.failure = None;
                self.engine.handle(Input::GivenUp(failure), Instant::now());
                false
            }
        }
    }

    /// Whether a table has other files than when it was read last, or when a TRUNCATE was seen;
    /// `None` where that is not known.
    fn has_other_files(&self, table: TableId, seen: &[Fingerprint]) -> Option<bool> {
        let before = self.tables[table.0].fingerprint.as_ref()?;
        let now = seen
            .iter()
            .find(|print| print.relation() == before.relation())?;
        Some(!now.has_files_of(before))
    }

    /// A table is another one than was described. Where somebody describes it afresh, it is held
    /// until then: its trigger may be made for another table or another key. Otherwise it is read
    /// again.
    pub(super) fn altered(&mut self, table: TableId, why: &str) {
        // Whatever failed before is not why.
        self.failure = None;
        if self.options.holds_altered {
            self.hold(table, format!("{why}; it is being described afresh"));
        } else {
            self.engine.handle(
                Input::TableAltered {
                    table,
                    why: why.to_string(),
                },
                Instant::now(),
            );
        }
        self.emit(DriverEvent::Altered { table });
    }

    /// Neither reads nor changes a table from now on, and says why it cannot be followed; until
    /// [`resume`](Self::resume).
    pub(in crate::postgres) fn hold(&mut self, table: TableId, why: String) {
        self.tables[table.0].is_held = true;
        self.engine
            .handle(Input::TableHeld { table, why }, Instant::now());
    }

    /// Does what follows from tables that were held or resumed: their states are others from then
    /// on.
    pub(in crate::postgres) fn apply(&mut self) -> Result<(), DriverError> {
        self.perform_outputs()
    }

    /// Whether a table is held.
    pub(in crate::postgres) fn is_held(&self, table: TableId) -> bool {
        self.tables[table.0].is_held
    }

    /// Follows a table that was held, or any other, as `follow` describes it, and reads it anew;
    /// into `store` where that is given, else into the cache that it has.
    pub(in crate::postgres) fn resume(
        &mut self,
        table: TableId,
        follow: TableConfig,
        store: Option<Box<dyn CacheWriter>>,
    ) {
        let driver_table = &mut self.tables[table.0];
        let followed = Box::new(follow.followed.clone());
        driver_table.is_held = false;
        driver_table.fingerprint.clone_from(&follow.fingerprint);
        driver_table.follow = follow;
        if let Some(mut store) = store {
            if self.options.row_events {
                store.record_events();
            }
            driver_table.store = store;
            // The lock of the old cache is nobody's concern any more.
            if driver_table.busy_until.take().is_some() {
                self.engine
                    .handle(Input::CacheFree { table }, Instant::now());
            }
        }
        self.engine
            .handle(Input::TableFollowed { table, followed }, Instant::now());
    }

    /// How many rows of a table did not fit the application's model, and the first of them with the
    /// cause.
    pub(in crate::postgres) fn kept_out(&self, table: TableId) -> Option<&(usize, String)> {
        self.tables[table.0].store.kept_out()
    }

    /// Listens on these channels from now on.
    pub(in crate::postgres) fn set_channels(&mut self, channels: Vec<String>) {
        self.options.channels.clone_from(&channels);
        self.engine
            .handle(Input::ChannelsChanged(channels), Instant::now());
    }
}
