//! [`install`], [`plan`] and [`remove`]: the triggers of tables, from code.

use super::apply;
use super::check_channel;
use super::condition::{self, AskedCondition};
use super::error::{Attempt as _, TriggerError};
use super::options::{AskedTable, OptionChanges};
use super::plan::{PlanKind, PlanResult, TablePlan};
use crate::postgres::catalog::{Catalog, CatalogAccess, CatalogTable, resolve};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use tracing::Instrument as _;

/// How long the locks of all tables are waited for if nobody says.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of [`install`]. An option that is not set keeps its installed value, unless
/// [`from_defaults`](Self::from_defaults) is called.
///
/// So an option that was set by a former release of your program stays after the line that set it
/// is gone: a program that installs its triggers when it starts begins with `from_defaults`.
///
/// Each is an option of `pgic install-triggers`, which is named with it; `docs/triggers.md` in the
/// repository says what it costs and what a cache makes of it.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    changes: OptionChanges,
    lock_timeout: Duration,
}

impl Default for InstallOptions {
    fn default() -> Self {
        Self {
            changes: OptionChanges::default(),
            lock_timeout: LOCK_TIMEOUT,
        }
    }
}

/// Returns names as a list of owned ones.
fn owned<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Vec<String> {
    names.into_iter().map(Into::into).collect()
}

impl InstallOptions {
    /// Notifies on this channel; [`DEFAULT_CACHE_CHANNEL`](crate::DEFAULT_CACHE_CHANNEL) by default
    /// (`--channel`).
    pub fn channel(&mut self, name: impl Into<String>) -> &mut Self {
        self.changes.channel = Some(name.into());
        self
    }

    /// Notifies on a channel of each table's own, such as `cache_invalidation.users`: the
    /// [`channel`](Self::channel) is the part before the point (`--channel-per-table`).
    pub fn channel_per_table(&mut self) -> &mut Self {
        self.changes.channel_per_table = true;
        self
    }

    /// Sends these columns alone, and those of the key. By default all are sent (`--columns`).
    pub fn columns<S: Into<String>>(&mut self, names: impl IntoIterator<Item = S>) -> &mut Self {
        self.changes.columns = Some(owned(names));
        self.changes.exclude_columns = None;
        self.changes.no_data = false;
        self
    }

    /// Sends all columns but these. Those of the key are always sent (`--exclude-columns`).
    pub fn exclude_columns<S: Into<String>>(
        &mut self,
        names: impl IntoIterator<Item = S>,
    ) -> &mut Self {
        let names = owned(names);
        self.changes.exclude_columns = (!names.is_empty()).then_some(names);
        self.changes.columns = None;
        self.changes.no_data = false;
        self
    }

    /// Announces the rows that fulfil this condition alone; `true` for all rows. PostgreSQL checks
    /// the text, which may call immutable functions alone. That makes a temporary table for a
    /// moment: it takes TEMPORARY on the database and SELECT on the table (`--where`).
    pub fn condition(&mut self, sql: &str) -> &mut Self {
        self.changes.condition = Some(AskedCondition::written(sql));
        self
    }

    /// Announces the rows of a statement packed, by statement triggers. A statement that changes
    /// more than `rows` rows asks caches to read the table again; `None` for the default (`--bulk`,
    /// `--rows`). Excludes [`on_change`](Self::on_change).
    pub fn bulk(&mut self, rows: Option<u32>) -> &mut Self {
        self.changes.bulk = true;
        self.changes.no_bulk = false;
        self.changes.rows = rows;
        self
    }

    /// Announces each row by itself, where [`bulk`](Self::bulk) is installed (`--no-bulk`).
    pub fn no_bulk(&mut self) -> &mut Self {
        self.changes.no_bulk = true;
        self.changes.bulk = false;
        self
    }

    /// Sends keys only: a cache reads the rows itself (`--no-data`).
    pub fn no_data(&mut self) -> &mut Self {
        self.changes.no_data = true;
        self.changes.columns = None;
        self.changes.exclude_columns = None;
        self
    }

    /// Does not announce an UPDATE that changes nothing that is sent (`--on-change`).
    pub fn on_change(&mut self) -> &mut Self {
        self.changes.on_change = true;
        self
    }

    /// Fires under `session_replication_role = replica` too (`--always`).
    pub fn always(&mut self) -> &mut Self {
        self.changes.always = true;
        self
    }

    /// Does not announce TRUNCATE (`--no-truncate`).
    pub fn no_truncate(&mut self) -> &mut Self {
        self.changes.no_truncate = true;
        self
    }

    /// Sends `bigint` and `numeric` values that a double may not hold as JSON texts
    /// (`--long-numbers-as-text`).
    pub fn long_numbers_as_text(&mut self) -> &mut Self {
        self.changes.long_numbers_as_text = true;
        self
    }

    /// Lets a failure of the trigger fail the write (`--no-guard`).
    pub fn no_guard(&mut self) -> &mut Self {
        self.changes.no_guard = true;
        self
    }

    /// Starts from the defaults instead of the installed options: afterwards the triggers are
    /// exactly as these options say (`--defaults`).
    pub fn from_defaults(&mut self) -> &mut Self {
        self.changes.defaults = true;
        self
    }

    /// Takes the place of triggers that have a needed name and that this library did not make, such
    /// as those of a script that was run by hand. Their function stays (`--replace-trigger`).
    pub fn replace_triggers(&mut self) -> &mut Self {
        self.changes.replace_trigger = true;
        self
    }

    /// Replaces functions that have a needed name and that this library did not make
    /// (`--replace-function`).
    pub fn replace_functions(&mut self) -> &mut Self {
        self.changes.replace_function = true;
        self
    }

    /// Sets how long the locks of all tables together are waited for; 5 s by default.
    pub fn lock_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.lock_timeout = timeout;
        self
    }
}

/// What is done, or would be done, to the triggers of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedTable {
    /// The table's name: `schema.table`.
    pub name: String,
    /// The outcome.
    pub result: PlanResult,
    /// The channel on which the triggers notify; empty if there are none.
    pub channel: String,
    /// The steps in words, for people; empty if there is nothing to do.
    pub steps: Vec<String>,
    /// The statement of each step.
    pub sql: Vec<String>,
    /// Notes on things that are left alone, with the reason.
    pub notes: Vec<String>,
}

impl From<TablePlan> for PlannedTable {
    fn from(plan: TablePlan) -> Self {
        let options = plan.new_options.or(plan.old_options);
        let (steps, sql) = plan
            .steps
            .into_iter()
            .map(|step| (step.what, step.sql))
            .unzip();
        Self {
            name: plan.table,
            result: plan.result,
            channel: options
                .map(|options| options.channel)
                .or(plan.channel)
                .unwrap_or_default(),
            steps,
            sql,
            notes: plan.notes,
        }
    }
}

/// Installs the triggers that announce changes of `tables`, or changes them to these options.
/// Tables are named as in SQL: `users`, `app.users`, `"Odd Name"`. Returns what was done to each
/// table; a table that is named twice is returned once.
///
/// `client` must not be in a transaction that was begun by a statement of SQL: these functions
/// begin transactions of their own, and would end that one. No setting of the session is left
/// changed. Dropping the future rolls back what was not committed.
///
/// # Errors
/// If a table is refused, a lock is not had in time ([`TriggerError::is_busy`]), or the server
/// refuses. Nothing was changed then.
pub async fn install(
    client: &mut Client,
    tables: &[impl AsRef<str> + Sync],
    options: &InstallOptions,
) -> Result<Vec<PlannedTable>, TriggerError> {
    let span = tracing::info_span!("triggers.install");
    run(client, PlanKind::Install, tables, options, false)
        .instrument(span)
        .await
}

/// Returns what [`install`] would do, and does nothing. [`PlannedTable::result`] is the outcome
/// that is planned.
///
/// # Errors
/// As [`install`].
pub async fn plan(
    client: &mut Client,
    tables: &[impl AsRef<str> + Sync],
    options: &InstallOptions,
) -> Result<Vec<PlannedTable>, TriggerError> {
    run(client, PlanKind::Install, tables, options, true).await
}

/// Removes the triggers of `tables`, and their functions if nothing else calls them. A trigger that
/// this library did not make is left alone, with a note. Returns what was done to each table.
///
/// Readers and writers wait while triggers are removed; the locks are waited for until
/// `lock_timeout` is over. `client` is as in [`install`].
///
/// # Errors
/// If a lock is not had in time, or the server refuses. Nothing was changed then.
pub async fn remove(
    client: &mut Client,
    tables: &[impl AsRef<str> + Sync],
    lock_timeout: Duration,
) -> Result<Vec<PlannedTable>, TriggerError> {
    let mut options = InstallOptions::default();
    options.lock_timeout(lock_timeout);
    let span = tracing::info_span!("triggers.remove");
    run(client, PlanKind::Remove, tables, &options, false)
        .instrument(span)
        .await
}

async fn run(
    client: &mut Client,
    kind: PlanKind,
    tables: &[impl AsRef<str> + Sync],
    options: &InstallOptions,
    is_dry: bool,
) -> Result<Vec<PlannedTable>, TriggerError> {
    let mut changes = options.changes.clone();
    if let Some(channel) = &changes.channel {
        check_channel(channel)?;
    }
    if changes.channel_per_table {
        changes.default_channel = changes.channel.take();
    }
    if changes.rows == Some(0) {
        let error = TriggerError::new("statement triggers need to send at least 1 row");
        return Err(error.with_hint("without a number they send the default"));
    }
    let give_up = apply::deadline(options.lock_timeout);
    let tables = find(client, tables).await?;
    let oids = tables.iter().map(|table| table.oid);
    let mut asked = AskedTable::all(oids, &changes);
    if kind == PlanKind::Install {
        condition::check_all(client, &tables, &mut asked, options.lock_timeout).await?;
    }
    let left = give_up.saturating_duration_since(Instant::now());
    let plans = apply::run(client, kind, &tables, &asked, left, is_dry).await?;
    Ok(plans.into_iter().map(PlannedTable::from).collect())
}

/// Returns the tables of these names.
pub(super) async fn find(
    client: &mut Client,
    tables: &[impl AsRef<str> + Sync],
) -> Result<Vec<CatalogTable>, TriggerError> {
    let names = owned(tables.iter().map(AsRef::as_ref));
    let catalog = Catalog::begin(client, CatalogAccess::ReadOnly)
        .await
        .context("begin a transaction")?;
    let tables = resolve(&catalog, &names).await?;
    // Whoever asked may take locks next, each in a transaction of its own.
    catalog.roll_back().await.context("end the transaction")?;
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::install::check::check;

    /// A task of a runtime with several threads may run them.
    #[test]
    fn the_futures_are_send() {
        fn is_send<T: Send>(_: impl FnOnce(&'static mut Client) -> T) {}
        is_send(|client| async move {
            let options = InstallOptions::default();
            let tables = ["users"];
            let _ = plan(client, &tables, &options).await;
            let _ = install(client, &tables, &options).await;
            let _ = check(client, &tables).await;
            remove(client, &tables, LOCK_TIMEOUT).await
        });
    }
}
