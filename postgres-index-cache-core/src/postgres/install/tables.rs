//! [`install`], [`plan`] and [`remove`]: the triggers of tables, from code.

use super::apply;
use super::check_channel;
use super::condition::{self, AskedCondition};
use super::error::{Attempt as _, TriggerError};
use super::options::{AskedTable, OptionChanges};
use super::plan::{PlanKind, PlanResult, TablePlan};
use crate::postgres::catalog::{Catalog, CatalogAccess, CatalogTable, resolve};
use std::time::Duration;
use tokio_postgres::Client;

/// How long the locks of all tables are waited for if nobody says.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of [`install`]. An option that is not set keeps its installed value, unless
/// [`from_defaults`](Self::from_defaults) is called.
///
/// Each is an option of `pgic install-triggers`; `docs/triggers.md` in the repository says what it
/// costs and what a cache makes of it.
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
    /// Notifies on this channel; [`DEFAULT_CACHE_CHANNEL`](crate::DEFAULT_CACHE_CHANNEL) by default.
    pub fn channel(&mut self, name: impl Into<String>) -> &mut Self {
        self.changes.channel = Some(name.into());
        self
    }

    /// Notifies on a channel of each table's own, such as `cache_invalidation.users`.
    pub fn channel_per_table(&mut self) -> &mut Self {
        self.changes.channel_per_table = true;
        self
    }

    /// Sends these columns alone, and those of the key. By default all are sent.
    pub fn columns<S: Into<String>>(&mut self, names: impl IntoIterator<Item = S>) -> &mut Self {
        self.changes.columns = Some(owned(names));
        self.changes.exclude_columns = None;
        self
    }

    /// Sends all columns but these. Those of the key are always sent.
    pub fn exclude_columns<S: Into<String>>(
        &mut self,
        names: impl IntoIterator<Item = S>,
    ) -> &mut Self {
        self.changes.exclude_columns = Some(owned(names));
        self.changes.columns = None;
        self
    }

    /// Announces the rows that fulfil this condition alone; `true` for all rows. PostgreSQL checks
    /// the text, which may call immutable functions alone.
    pub fn condition(&mut self, sql: &str) -> &mut Self {
        self.changes.condition = Some(AskedCondition::written(sql));
        self
    }

    /// Announces the rows of a statement packed, by statement triggers. A statement that changes
    /// more than `rows` rows asks caches to read the table again; `None` for the default.
    pub fn bulk(&mut self, rows: Option<u32>) -> &mut Self {
        self.changes.bulk = true;
        self.changes.rows = rows;
        self
    }

    /// Sends keys only: a cache reads the rows itself.
    pub fn no_data(&mut self) -> &mut Self {
        self.changes.no_data = true;
        self
    }

    /// Does not announce an UPDATE that changes nothing that is sent.
    pub fn on_change(&mut self) -> &mut Self {
        self.changes.on_change = true;
        self
    }

    /// Fires under `session_replication_role = replica` too.
    pub fn always(&mut self) -> &mut Self {
        self.changes.always = true;
        self
    }

    /// Does not announce TRUNCATE.
    pub fn no_truncate(&mut self) -> &mut Self {
        self.changes.no_truncate = true;
        self
    }

    /// Lets a failure of the trigger fail the write.
    pub fn no_guard(&mut self) -> &mut Self {
        self.changes.no_guard = true;
        self
    }

    /// Starts from the defaults instead of the installed options: afterwards the triggers are
    /// exactly as these options say.
    pub fn from_defaults(&mut self) -> &mut Self {
        self.changes.defaults = true;
        self
    }

    /// Takes the place of triggers that have a needed name and that this library did not make, such
    /// as those of a script that was run by hand. Their function stays.
    pub fn replace_triggers(&mut self) -> &mut Self {
        self.changes.replace_trigger = true;
        self
    }

    /// Sets how long the locks of all tables together are waited for; 5 s by default.
    pub fn lock_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.lock_timeout = timeout;
        self
    }
}

/// What is done, or would be done, to the triggers of a table.
#[derive(Debug, Clone)]
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
/// Dropping the future rolls back what was not committed.
///
/// # Errors
/// If a table is refused, a lock is not had in time, or the server refuses. Nothing was changed
/// then.
pub async fn install(
    client: &mut Client,
    tables: &[impl AsRef<str> + Sync],
    options: &InstallOptions,
) -> Result<Vec<PlannedTable>, TriggerError> {
    run(client, PlanKind::Install, tables, options, false).await
}

/// Returns what [`install`] would do, and does nothing. [`PlannedTable::result`] is the outcome that
/// is planned.
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
/// `lock_timeout` is over.
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
    run(client, PlanKind::Remove, tables, &options, false).await
}

async fn run(
    client: &mut Client,
    kind: PlanKind,
    tables: &[impl AsRef<str> + Sync],
    options: &InstallOptions,
    is_dry: bool,
) -> Result<Vec<PlannedTable>, TriggerError> {
    if let Some(channel) = &options.changes.channel {
        check_channel(channel)?;
    }
    let tables = find(client, tables).await?;
    let oids = tables.iter().map(|table| table.oid);
    let mut asked = AskedTable::all(oids, &options.changes);
    if kind == PlanKind::Install {
        condition::check_all(client, &tables, &mut asked).await?;
    }
    let patience = options.lock_timeout;
    let plans = apply::run(client, kind, &tables, &asked, patience, is_dry).await?;
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
