//! What it takes to get a table's triggers where they should be, or to take them away: refusals first, then steps.

use super::TriggerOptions;
use super::observe::{ROW_EVENTS, TRUNCATE_EVENT, is_ours, observe};
use super::sql::Expected;
use crate::catalog::{self, Enabled, Function, RelationKind, Table, Trigger};
use crate::failure::with_hint;
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::postgres::{quote_identifier, quote_literal};
use tokio_postgres::{Client, GenericClient};

/// One statement of a plan, and what it does in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In words.
    pub what: String,
    /// The statement.
    pub sql: String,
}

/// What is to be done about one table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table, for people.
    pub table: String,
    /// The table, in SQL.
    pub sql_name: String,
    /// What comes of it in a word: created, refreshed, unchanged; removed, nothing.
    pub result: &'static str,
    /// The channel, old and new.
    pub channel: (Option<String>, String),
    /// The function.
    pub function: String,
    /// What is left alone, and why.
    pub notes: Vec<String>,
    /// The statements; none when nothing is to be done.
    pub steps: Vec<Step>,
}

/// What the session is.
#[derive(Debug, Clone, Copy)]
pub struct Installer {
    /// The oid of its role.
    pub role: u32,
    /// The server's version: 150018 is 15.18.
    pub version: i32,
}

impl Installer {
    /// Asks the server.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn of(client: &impl GenericClient) -> anyhow::Result<Self> {
        let version = catalog::version_number(client).await?;
        let row = client.query_one("SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user", &[]).await;
        Ok(Self { role: row.context("ask for the current role")?.get(0), version })
    }
}

/// Why a relation cannot have announcing triggers.
fn refusal(table: &Table) -> Option<(String, &'static str)> {
    let name = table.display_name();
    let reason = match table.kind {
        RelationKind::Table if table.is_temporary => {
            (format!("{name} is a temporary table"), "only its own session sees it, so no cache can follow it")
        }
        RelationKind::Table if table.is_partition => {
            (format!("{name} is a partition"), "partitions are not supported by this version of pgic")
        }
        RelationKind::Table if matches!(table.schema.as_str(), "pg_catalog" | "information_schema" | "pg_toast") => {
            (format!("{name} is a system table"), "triggers belong on tables of your own")
        }
        RelationKind::Table if table.key.is_none() => (
            format!("{name} has neither a primary key nor a unique key of NOT NULL columns"),
            "add one: without a key no cache can tell its rows apart",
        ),
        RelationKind::Table => return None,
        RelationKind::Partitioned => {
            (format!("{name} is a partitioned table"), "partitioned tables are not supported by this version of pgic")
        }
        RelationKind::View => (format!("{name} is a view"), "install the triggers on the tables under it"),
        RelationKind::MaterializedView => (
            format!("{name} is a materialised view"),
            "PostgreSQL has no triggers on those; install them on the tables under it",
        ),
        RelationKind::Foreign => (
            format!("{name} is a foreign table"),
            "its triggers fire for local writes alone; install them where the table lives",
        ),
        RelationKind::Other => (format!("{name} is not a table"), "name a table"),
    };
    Some(reason)
}

/// Plans the triggers of a table. `channel` is what was asked for; what is installed is kept otherwise.
///
/// # Errors
/// When the table cannot have them, or something of their name is not ours. Nothing has been changed then.
pub async fn install(
    client: &impl GenericClient,
    table: &Table,
    channel: Option<&str>,
    installer: Installer,
) -> anyhow::Result<TablePlan> {
    let refuse = |(what, hint): (String, &str)| {
        with_hint(anyhow!(what).context(format!("install triggers on {}", table.display_name())), hint)
    };
    let key = match (refusal(table), &table.key) {
        (Some(reason), _) => return Err(refuse(reason)),
        (None, Some(key)) => key,
        (None, None) => return Err(refuse((format!("{} has no key", table.display_name()), "add one"))),
    };
    let installed = observe(table, installer.role).and_then(|observed| observed.comment).map(|comment| comment.channel);
    let options = TriggerOptions {
        channel: channel
            .map(str::to_string)
            .or_else(|| installed.clone())
            .unwrap_or_else(|| TriggerOptions::default().channel),
    };
    let expected = Expected::new(table, key, &options);
    let function = catalog::find_function(client, &expected.schema, &expected.function).await?;
    if let Some(function) = &function
        && !is_ours(function, table, installer.role)
    {
        let what =
            format!("the function {} exists and is not one that pgic made for this table", expected.sql_function());
        return Err(refuse((what, "rename or drop it first; pgic replaces only what it made")));
    }
    let mut steps = Vec::new();
    function_steps(&mut steps, &expected, function.as_ref());
    let wanted = [(&expected.row_trigger, ROW_EVENTS), (&expected.truncate_trigger, TRUNCATE_EVENT)];
    for (name, events) in wanted {
        let found = table.triggers.iter().find(|trigger| trigger.name == *name);
        if let Some(found) = found.filter(|found| !is_ours(&found.function, table, installer.role)) {
            let what = format!(
                "a trigger called {name} exists and calls {}.{}(), which pgic did not make",
                found.function.schema, found.function.name
            );
            let hint = format!("to replace it: DROP TRIGGER {} ON {};", quote_identifier(name), table.sql_name());
            return Err(refuse((what, &hint)));
        }
        trigger_steps(&mut steps, table, &expected, (name, events), found, installer.version);
    }
    let result = match (steps.is_empty(), function.is_some()) {
        (true, _) => "unchanged",
        (false, true) => "refreshed",
        (false, false) => "created",
    };
    Ok(TablePlan {
        table: table.display_name(),
        sql_name: table.sql_name(),
        result,
        channel: (installed, options.channel),
        function: format!("{}.{}", expected.schema, expected.function),
        notes: Vec::new(),
        steps,
    })
}

fn function_steps(steps: &mut Vec<Step>, expected: &Expected, found: Option<&Function>) {
    if found.is_some_and(|found| expected.is(found)) {
        return;
    }
    let verb = if found.is_some() { "replace" } else { "create" };
    steps.push(Step {
        what: format!("{verb} function {}", expected.sql_function()),
        sql: expected.create_function.clone(),
    });
    steps.push(Step {
        what: format!("comment on function {}", expected.sql_function()),
        sql: format!("COMMENT ON FUNCTION {} IS {};", expected.sql_function(), quote_literal(&expected.comment)),
    });
}

fn trigger_steps(
    steps: &mut Vec<Step>,
    table: &Table,
    expected: &Expected,
    (name, events): (&str, i16),
    found: Option<&Trigger>,
    version: i32,
) {
    let is_right = |found: &Trigger| {
        found.kind == events
            && !found.is_conditional
            && found.arguments.is_empty()
            && (found.function.schema.as_str(), found.function.name.as_str()) == (&expected.schema, &expected.function)
    };
    let (trigger, relation) = (quote_identifier(name), table.sql_name());
    if !found.is_some_and(is_right) {
        let (verb, create) = match (found, version >= 140_000) {
            (None, _) => ("create", "CREATE TRIGGER".to_string()),
            (Some(_), true) => ("replace", "CREATE OR REPLACE TRIGGER".to_string()),
            // PostgreSQL 13 cannot replace a trigger.
            (Some(_), false) => ("replace", format!("DROP TRIGGER {trigger} ON {relation};\nCREATE TRIGGER")),
        };
        let when = if events == ROW_EVENTS {
            "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"
        } else {
            "AFTER TRUNCATE ON {} FOR EACH STATEMENT"
        };
        steps.push(Step {
            what: format!("{verb} trigger {trigger}"),
            sql: format!(
                "{create} {trigger} {} EXECUTE FUNCTION {};",
                when.replace("{}", &relation),
                expected.sql_function()
            ),
        });
    }
    let enabled = found.map_or(Enabled::Origin, |found| found.enabled);
    let is_replaced = found.is_some_and(|found| !is_right(found));
    let enable = match enabled {
        // A replaced trigger fires like a new one: what a DBA set is set again.
        Enabled::Always if is_replaced => "ENABLE ALWAYS",
        Enabled::Disabled | Enabled::Replica => "ENABLE",
        Enabled::Always | Enabled::Origin => return,
    };
    steps.push(Step {
        what: format!("{} trigger {trigger}", enable.to_lowercase()),
        sql: format!("ALTER TABLE {relation} {enable} TRIGGER {trigger};"),
    });
}

/// Plans the removal of a table's triggers, and of their function when nothing else uses it.
///
/// # Errors
/// When the server refuses.
pub async fn remove(client: &impl GenericClient, table: &Table, installer: Installer) -> anyhow::Result<TablePlan> {
    let mut steps = Vec::new();
    let mut notes = Vec::new();
    let mut functions: Vec<&Function> = Vec::new();
    for trigger in table.triggers.iter().filter(|trigger| trigger.function.name.starts_with("notify_cache_change")) {
        if !is_ours(&trigger.function, table, installer.role) {
            notes.push(format!(
                "the trigger {} is left: it calls {}.{}(), which pgic did not make",
                trigger.name, trigger.function.schema, trigger.function.name
            ));
            continue;
        }
        let name = quote_identifier(&trigger.name);
        steps.push(Step {
            what: format!("drop trigger {name}"),
            sql: format!("DROP TRIGGER {name} ON {};", table.sql_name()),
        });
        if !functions.iter().any(|function| function.oid == trigger.function.oid) {
            functions.push(&trigger.function);
        }
    }
    for function in &functions {
        let users =
            "SELECT count(*) FROM pg_catalog.pg_trigger WHERE tgfoid = $1 AND tgrelid <> $2 AND NOT tgisinternal";
        let row = client
            .query_one(users, &[&function.oid, &table.oid])
            .await
            .context("look for other users of the function")?;
        let name = format!("{}.{}()", quote_identifier(&function.schema), quote_identifier(&function.name));
        if row.get::<_, i64>(0) == 0 {
            // Without CASCADE: whatever depends on it after all makes this fail, and nothing is changed.
            steps.push(Step { what: format!("drop function {name}"), sql: format!("DROP FUNCTION {name};") });
        } else {
            notes.push(format!("the function {name} is left: other triggers call it"));
        }
    }
    Ok(TablePlan {
        table: table.display_name(),
        sql_name: table.sql_name(),
        result: if steps.is_empty() { "nothing to remove" } else { "removed" },
        channel: (observe(table, installer.role).and_then(|observed| observed.channel), String::new()),
        function: functions
            .first()
            .map(|function| format!("{}.{}", function.schema, function.name))
            .unwrap_or_default(),
        notes,
        steps,
    })
}

/// What a plan does to tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`install`], with the channel that was asked for.
    Install,
    /// [`remove`].
    Remove,
}

impl Kind {
    /// The lock that is taken first, so that no writer's statement goes on with the old function.
    fn lock(self) -> &'static str {
        match self {
            Self::Install => "SHARE ROW EXCLUSIVE",
            Self::Remove => "ACCESS EXCLUSIVE",
        }
    }
}

/// Plans and, unless `dry_run`, carries out, all tables in one transaction: all of it happens or nothing.
///
/// # Errors
/// When a table is refused, a lock is not had in time, or the server refuses; nothing has been changed then.
pub async fn run(
    client: &mut Client,
    kind: Kind,
    oids: &[u32],
    channel: Option<&str>,
    lock_timeout: std::time::Duration,
    dry_run: bool,
) -> anyhow::Result<Vec<TablePlan>> {
    let installer = Installer::of(client).await?;
    let transaction = client.transaction().await.context("begin a transaction")?;
    // Names in what is created are qualified; this is for what the server itself looks up.
    let settings = format!(
        "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = {}; SET LOCAL client_min_messages = warning",
        lock_timeout.as_millis()
    );
    transaction.batch_execute(&settings).await.context("prepare the transaction")?;
    let plans = plan_all(&transaction, kind, oids, channel, installer).await?;
    if dry_run || plans.iter().all(|plan| plan.steps.is_empty()) {
        return Ok(plans);
    }
    let mut locked: Vec<&TablePlan> = plans.iter().filter(|plan| !plan.steps.is_empty()).collect();
    // Everybody who locks several tables does it in the same order.
    locked.sort_by(|a, b| a.sql_name.cmp(&b.sql_name));
    for plan in locked {
        let lock = format!("LOCK TABLE ONLY {} IN {} MODE", plan.sql_name, kind.lock());
        transaction.batch_execute(&lock).await.map_err(|error| {
            let is_timeout = crate::failure::sqlstate(&error).as_deref() == Some("55P03");
            let error = anyhow::Error::new(error).context(format!("lock {}", plan.table));
            if is_timeout {
                with_hint(error, format!("something holds the table for longer than {lock_timeout:?}; nothing was changed: try again, or give --lock-timeout more"))
            } else {
                error
            }
        })?;
    }
    // What was planned without a lock may have changed while it was waited for.
    let plans = plan_all(&transaction, kind, oids, channel, installer).await?;
    for plan in &plans {
        for step in &plan.steps {
            transaction.batch_execute(&step.sql).await.with_context(|| format!("{} for {}", step.what, plan.table))?;
        }
    }
    transaction.commit().await.context("commit")?;
    Ok(plans)
}

async fn plan_all(
    client: &impl GenericClient,
    kind: Kind,
    oids: &[u32],
    channel: Option<&str>,
    installer: Installer,
) -> anyhow::Result<Vec<TablePlan>> {
    let mut plans = Vec::new();
    for table in catalog::describe(client, oids).await? {
        plans.push(match kind {
            Kind::Install => install(client, &table, channel, installer).await?,
            Kind::Remove => remove(client, &table, installer).await?,
        });
    }
    Ok(plans)
}
