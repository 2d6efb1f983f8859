//! [`install`] and [`remove`]: the statements that give a table the triggers that it should have,
//! or take them away.
//!
//! A plan is made before anything is changed. All that can be refused is refused while it is made,
//! so a dry run promises nothing that would fail.

use super::observe::observe;
use super::sql::{self, Expected, ExpectedTrigger};
use super::{OptionChanges, TriggerOptions, script};
use crate::failure::with_hint;
use crate::tables::catalog::{
    self, Catalog, CatalogKey, CatalogTable, Enabled, Function, Leaf, RelationKind, Trigger,
};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::triggers::{
    Problem, TRUNCATE_EVENT, announces, check_table, is_for, is_ours, read_comment,
};
use postgres_index_cache_core::tooling::postgres::{quote_identifier, quote_literal};
use std::fmt;
use tokio_postgres::types::Type;

/// One statement of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The kind of the statement, from which its lock and its turn follow.
    pub kind: StepKind,
    /// The statement's effect in words, for example `create trigger users_cache_notify`.
    pub what: String,
    /// The statement.
    pub sql: String,
}

/// The action of a statement of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// Creates, replaces or comments on a function, or changes its owner.
    ChangeFunction,
    /// Creates a trigger, or replaces one in place.
    CreateTrigger,
    /// Drops a trigger and creates another of the same name.
    RecreateTrigger,
    /// Changes whether a trigger fires, and for which sessions.
    EnableTrigger,
    /// Drops a trigger.
    DropTrigger,
    /// Drops the function of this name, as SQL takes it: `"app"."notify_cache_change"()`.
    DropFunction(String),
}

impl StepKind {
    /// Tells whether the statement drops a trigger, which takes a stronger lock than to create one.
    pub fn drops_trigger(&self) -> bool {
        matches!(self, Self::RecreateTrigger | Self::DropTrigger)
    }
}

/// The outcome of a plan for one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanResult {
    /// The table had nothing that pgic made, and gets triggers.
    Created,
    /// The table's triggers or their function are changed.
    Refreshed,
    /// The table's triggers are as they should be.
    Unchanged,
    /// The table's triggers are removed.
    Removed,
    /// The table has no trigger that pgic made.
    NothingToRemove,
}

impl PlanResult {
    /// Returns the words that a command prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Refreshed => "refreshed",
            Self::Unchanged => "unchanged",
            Self::Removed => "removed",
            Self::NothingToRemove => "nothing to remove",
        }
    }
}

impl fmt::Display for PlanResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The plan for one table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table's name for people: `schema.table`.
    pub table: String,
    /// The table's name as SQL takes it: `"schema"."table"`, quoted.
    pub sql_name: String,
    /// Whether the table has partitions.
    pub is_partitioned: bool,
    /// The outcome.
    pub result: PlanResult,
    /// The installed options; `None` if none are known.
    pub old_options: Option<TriggerOptions>,
    /// The options to install; `None` if the triggers are removed.
    pub new_options: Option<TriggerOptions>,
    /// The channel of the trigger to remove; `None` if the plan installs one, or the channel is not
    /// known.
    pub channel: Option<String>,
    /// The function's name for people: `schema.function`.
    pub function: String,
    /// The function that the triggers are to call, as SQL takes it. `None` if the triggers are
    /// removed.
    pub sql_function: Option<String>,
    /// The schema whose generic function is created, replaced or dropped, if the plan touches one.
    /// Another installer may work on the same function.
    pub shares: Option<String>,
    /// Notes on things that are left alone, with the reason.
    pub notes: Vec<String>,
    /// The statements, in order; empty if there is nothing to do.
    pub steps: Vec<Step>,
    /// The same result as part of a migration file that works whatever is installed.
    pub script: String,
}

/// A reason why triggers cannot be installed, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Refusal {
    what: String,
    /// The remedy; `None` if there is none.
    hint: Option<String>,
}

impl Refusal {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: Some(hint.into()),
        }
    }

    /// Returns the error to show, with the remedy as its hint.
    fn into_error(mut self) -> anyhow::Error {
        let hint = self.hint.take();
        hinted(self.into(), hint)
    }

    /// As [`into_error`](Self::into_error), and names the table that triggers were to be installed
    /// on.
    fn while_installing(mut self, table: &CatalogTable) -> anyhow::Error {
        let hint = self.hint.take();
        hinted(anyhow::Error::new(self).context(installing(table)), hint)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            what: problem.text,
            hint: problem.remedy.map(|remedy| remedy.to_string()),
        }
    }
}

/// Returns `error` with the hint, if there is one. An empty hint would be a line without advice.
fn hinted(error: anyhow::Error, hint: Option<String>) -> anyhow::Error {
    match hint {
        Some(hint) => with_hint(error, hint),
        None => error,
    }
}

/// Returns the context of an error that stops the installation on `table`.
fn installing(table: &CatalogTable) -> String {
    format!("install triggers on {}", table.display_name())
}

/// Plans the triggers of a table. Options that are not asked for keep their installed values.
///
/// # Errors
/// If the table cannot have triggers, if an object of a needed name is not one that pgic made, or
/// if the role lacks a privilege. Planning changes nothing.
pub async fn install(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    asked: &OptionChanges,
    version: i32,
) -> anyhow::Result<TablePlan> {
    let key = installable_key(table).map_err(|refusal| refusal.while_installing(table))?;
    let own = catalog::find_function(catalog, table, &sql::function_name(&table.name)).await?;
    let installed = installed_options(table, own.as_ref());
    let options = asked
        .over(installed.as_ref(), table)
        .with_context(|| installing(table))?;
    let function = if options.generic {
        catalog::find_function(catalog, table, sql::GENERIC_FUNCTION).await?
    } else {
        own
    };
    let expected = Expected::new(table, key, &options);
    check_function(catalog, table, &expected, function.as_ref(), asked).await?;
    let mut steps = Vec::new();
    function_steps(&mut steps, table, &expected, function.as_ref());
    let firing = Firing {
        always: options.always,
        forgets: asked.defaults,
    };
    for wanted in expected.triggers() {
        let found = table
            .triggers
            .iter()
            .find(|trigger| trigger.name == wanted.name);
        if let Some(found) = found {
            check_trigger(table, &expected, found, asked)
                .map_err(|refusal| refusal.while_installing(table))?;
        }
        trigger_steps(
            &mut steps,
            &table.sql_name(),
            &expected,
            wanted,
            found,
            firing,
            version,
        );
    }
    for leaf in &table.leaves {
        leaf_steps(&mut steps, leaf, &expected, firing, version)?;
    }
    let stale = stale_triggers(table, &expected);
    let functions = functions_of_ours(table, Some(&expected));
    let mut notes = drop_all(catalog, &mut steps, table, &stale, &functions, &[]).await?;
    notes.extend(
        installed
            .as_ref()
            .map(|installed| asked.not_kept(installed, &options, table))
            .unwrap_or_default(),
    );
    let had_any = function.is_some()
        || table
            .triggers
            .iter()
            .any(|trigger| is_ours(&trigger.function));
    let result = match (steps.is_empty(), had_any) {
        (true, _) => PlanResult::Unchanged,
        (false, true) => PlanResult::Refreshed,
        (false, false) => PlanResult::Created,
    };
    Ok(TablePlan {
        script: script::install(table, &expected, &options, version),
        table: table.display_name(),
        sql_name: table.sql_name(),
        is_partitioned: table.kind == RelationKind::Partitioned,
        result,
        old_options: installed,
        new_options: Some(options),
        channel: None,
        function: format!("{}.{}", expected.schema, expected.function),
        sql_function: Some(expected.sql_function()),
        shares: expected.is_generic.then(|| expected.schema.clone()),
        notes,
        steps,
    })
}

/// Returns the key of a table that can have announcing triggers.
fn installable_key(table: &CatalogTable) -> Result<&CatalogKey, Refusal> {
    if let Some(problem) = check_table(table) {
        return Err(problem.into());
    }
    table.key.as_ref().ok_or_else(|| {
        let what = format!("{} has no key", table.display_name());
        Refusal::new(what, "add one")
    })
}

/// Returns the options that the table's triggers were last installed with; `None` if none are
/// known. `own` is the function that has the name of the table's own function.
fn installed_options(table: &CatalogTable, own: Option<&Function>) -> Option<TriggerOptions> {
    let observed = observe(table).and_then(|observed| observed.options().cloned());
    // If somebody dropped the triggers alone, the comment of the table's own function still says
    // which options were chosen.
    let remembered = own
        .filter(|function| is_for(function, table))
        .and_then(|function| read_comment(function.comment.as_deref()))
        .map(|comment| comment.options);
    observed.or(remembered)
}

/// Refuses to install if `function`, which has the needed name, must not or cannot be replaced, or
/// if there is none and the role may not create it.
async fn check_function(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    expected: &Expected,
    function: Option<&Function>,
    asked: &OptionChanges,
) -> anyhow::Result<()> {
    if let Some(function) = function
        && !asked.replace_function
        && !is_for(function, table)
    {
        return Err(foreign_function(function, table).while_installing(table));
    }
    if asked.prints_only {
        return Ok(());
    }
    let row = catalog
        .query_typed_one("SELECT current_user::pg_catalog.text", &[])
        .await
        .context("ask for the role")?;
    check_function_privileges(table, expected, function, row.get(0))
        .map_err(|refusal| refusal.while_installing(table))
}

/// Refuses to replace a trigger of a needed name that calls somebody else's function.
fn check_trigger(
    table: &CatalogTable,
    expected: &Expected,
    found: &Trigger,
    asked: &OptionChanges,
) -> Result<(), Refusal> {
    // With --replace-function the called function itself becomes ours, and the trigger with it.
    let becomes_ours = asked.replace_function && expected.is_called_by(found);
    if is_ours(&found.function) || becomes_ours {
        return Ok(());
    }
    Err(Refusal::new(
        format!(
            "a trigger called {} exists and calls {}.{}(), which pgic did not make",
            found.name, found.function.schema, found.function.name
        ),
        format!(
            "to replace it: DROP TRIGGER {} ON {};",
            quote_identifier(&found.name),
            table.sql_name()
        ),
    ))
}

/// Returns the table's triggers that pgic made under names that are not wanted any more.
///
/// They stay behind if the table or the trigger was renamed. Each change would be announced twice.
fn stale_triggers<'a>(table: &'a CatalogTable, expected: &Expected) -> Vec<&'a Trigger> {
    let wanted = expected.triggers();
    table
        .triggers
        .iter()
        .filter(|trigger| is_ours(&trigger.function))
        .filter(|trigger| !wanted.iter().any(|wanted| wanted.name == trigger.name))
        .collect()
}

/// Returns the refusal for a function that has the needed name and was not made for `table`.
fn foreign_function(function: &Function, table: &CatalogTable) -> Refusal {
    let name = sql_function_name(function);
    match read_comment(function.comment.as_deref()) {
        Some(comment) if function.is_trusted => Refusal::new(
            format!(
                "the function {name} exists and was made for {}.{}",
                comment.schema, comment.table
            ),
            "refresh that table's triggers first, or remove them",
        ),
        // Our comment alone proves nothing: anyone with CREATE on the schema can plant a function
        // of this name with a comment like ours, and CREATE OR REPLACE would keep its owner.
        Some(_) => Refusal::new(
            format!(
                "the function {name} exists and belongs to {}, who is neither the owner of the \
                table ({}) nor a member of it",
                function.owner, table.owner
            ),
            "if it can be trusted, give it to the table's owner: ALTER FUNCTION … OWNER TO …; else \
            drop it",
        ),
        None => Refusal::new(
            format!("the function {name} exists and is not one that pgic made for this table"),
            "rename or drop it first, or have it replaced with --replace-function",
        ),
    }
}

/// Returns the name of a function as SQL takes it: `"app"."notify_cache_change"()`.
fn sql_function_name(function: &Function) -> String {
    format!(
        "{}.{}()",
        quote_identifier(&function.schema),
        quote_identifier(&function.name)
    )
}

/// Refuses statements that the server would refuse halfway, so that a dry run promises nothing
/// that fails.
fn check_function_privileges(
    table: &CatalogTable,
    expected: &Expected,
    found: Option<&Function>,
    role: &str,
) -> Result<(), Refusal> {
    match found {
        None if !table.can_create => Err(Refusal::new(
            format!(
                "the role {role} may not create a function in the schema {}",
                table.schema
            ),
            // Somebody else runs the GRANT, so it names the role: CURRENT_USER would be them.
            format!(
                "allow it: GRANT CREATE ON SCHEMA {} TO {}",
                quote_identifier(&table.schema),
                quote_identifier(role)
            ),
        )),
        Some(found) if !expected.is(found) && !found.is_owned => Err(Refusal::new(
            format!(
                "the function {} belongs to {}, who alone can replace it",
                expected.sql_function(),
                found.owner
            ),
            format!(
                "give it to the table's owner: ALTER FUNCTION {} OWNER TO {}",
                expected.sql_function(),
                quote_identifier(&table.owner)
            ),
        )),
        None | Some(_) => Ok(()),
    }
}

/// Plans the statements that make the triggers' function, if `found` is not that function already.
fn function_steps(
    steps: &mut Vec<Step>,
    table: &CatalogTable,
    expected: &Expected,
    found: Option<&Function>,
) {
    // A function that is not trusted may have been planted. Its owner could change the text again
    // after we replaced it, so the function is given to the table's owner even by a role that would
    // otherwise leave the owner alone.
    let is_planted = found.is_some_and(|found| !found.is_trusted);
    let is_owned = found.is_some_and(|found| found.owner == table.owner)
        || !(table.can_give_to_owner || is_planted);
    let name = expected.sql_function();
    if !found.is_some_and(|found| expected.is(found)) {
        let (verb, sql) = match found {
            Some(_) => ("replace", expected.create_function.clone()),
            // Without OR REPLACE: a function that somebody plants meanwhile would keep its owner,
            // so the statement must fail instead.
            None => (
                "create",
                expected
                    .create_function
                    .replacen("CREATE OR REPLACE ", "CREATE ", 1),
            ),
        };
        steps.push(Step {
            kind: StepKind::ChangeFunction,
            what: format!("{verb} function {name}"),
            sql,
        });
        steps.push(Step {
            kind: StepKind::ChangeFunction,
            what: format!("comment on function {name}"),
            sql: format!(
                "COMMENT ON FUNCTION {name} IS {};",
                quote_literal(&expected.comment)
            ),
        });
    }
    if !is_owned {
        // Last: whoever gives a function away may not be able to change it any more.
        steps.push(Step {
            kind: StepKind::ChangeFunction,
            what: format!("give function {name} to {}", table.owner),
            sql: format!(
                "ALTER FUNCTION {name} OWNER TO {};",
                quote_identifier(&table.owner)
            ),
        });
    }
}

/// The sessions that new and changed triggers are to fire for.
#[derive(Debug, Clone, Copy)]
struct Firing {
    /// Fire under `session_replication_role = replica` too.
    always: bool,
    /// Forget an ALWAYS that somebody set by hand (`--defaults`).
    forgets: bool,
}

/// Plans the TRUNCATE trigger of a leaf. Without one, nothing would fire if the leaf alone is
/// truncated: the root's trigger does not.
///
/// The root's row trigger needs no counterpart, since PostgreSQL clones it to the leaves. A leaf
/// that had triggers of ours before it was attached would announce each change twice, so all others
/// are dropped.
fn leaf_steps(
    steps: &mut Vec<Step>,
    leaf: &Leaf,
    expected: &Expected,
    firing: Firing,
    version: i32,
) -> anyhow::Result<()> {
    let name = Expected::leaf_trigger(leaf);
    let found = leaf.triggers.iter().find(|trigger| trigger.name == name);
    if let Some(found) = found.filter(|found| !is_ours(&found.function)) {
        let function = &found.function;
        let what = format!(
            "a trigger called {name} exists on its partition {} and calls {}.{}(), which pgic did \
            not make",
            leaf.display_name(),
            function.schema,
            function.name
        );
        let hint = format!(
            "to replace it: DROP TRIGGER {} ON {};",
            quote_identifier(&name),
            leaf.sql_name()
        );
        return Err(Refusal::new(what, hint).into_error());
    }
    let is_wanted = !expected.is_without_truncate;
    if is_wanted {
        let wanted = ExpectedTrigger {
            name: &name,
            events: TRUNCATE_EVENT,
        };
        trigger_steps(
            steps,
            &leaf.sql_name(),
            expected,
            wanted,
            found,
            firing,
            version,
        );
    }
    let stale = leaf
        .triggers
        .iter()
        .filter(|trigger| is_ours(&trigger.function))
        .filter(|trigger| !(is_wanted && trigger.name == name));
    steps.extend(stale.map(|trigger| drop_leaf_trigger(leaf, trigger)));
    Ok(())
}

/// Returns the step that drops a trigger of a leaf.
fn drop_leaf_trigger(leaf: &Leaf, trigger: &Trigger) -> Step {
    let name = quote_identifier(&trigger.name);
    Step {
        kind: StepKind::DropTrigger,
        what: format!("drop trigger {name} on {}", leaf.display_name()),
        sql: format!("DROP TRIGGER {name} ON {};", leaf.sql_name()),
    }
}

/// Plans the statements that make `wanted` on `relation`, if `found` is not that trigger already.
fn trigger_steps(
    steps: &mut Vec<Step>,
    relation: &str,
    expected: &Expected,
    wanted: ExpectedTrigger<'_>,
    found: Option<&Trigger>,
    firing: Firing,
    version: i32,
) {
    let is_right = found.is_some_and(|found| expected.is_right(found, wanted));
    let trigger = quote_identifier(wanted.name);
    if !is_right {
        // PostgreSQL 13 cannot replace a trigger, and no release replaces a constraint trigger.
        let can_replace = version >= 140_000 && found.is_none_or(|found| !found.is_constraint);
        let (kind, verb, create) = match (found, can_replace) {
            (None, _) => (
                StepKind::CreateTrigger,
                "create",
                "CREATE TRIGGER".to_string(),
            ),
            (Some(_), true) => (
                StepKind::CreateTrigger,
                "replace",
                "CREATE OR REPLACE TRIGGER".to_string(),
            ),
            (Some(_), false) => (
                StepKind::RecreateTrigger,
                "replace",
                format!("DROP TRIGGER {trigger} ON {relation};\nCREATE TRIGGER"),
            ),
        };
        steps.push(Step {
            kind,
            what: format!("{verb} trigger {trigger}"),
            sql: format!(
                "{create} {trigger} {} EXECUTE FUNCTION {};",
                expected.when(wanted.events, relation),
                expected.call()
            ),
        });
    }
    let enabled = found.map_or(Enabled::Origin, |found| found.enabled);
    // Keep an ALWAYS that a DBA set by hand, but not a state in which the trigger does not fire.
    let is_always_wanted = firing.always || (enabled == Enabled::Always && !firing.forgets);
    let enable = match (is_always_wanted, enabled) {
        (true, Enabled::Always) if is_right => return,
        // A new trigger fires as origin, and CREATE OR REPLACE TRIGGER resets ALWAYS to origin.
        (true, _) => "ENABLE ALWAYS",
        (false, Enabled::Origin) => return,
        (false, Enabled::Always) if !is_right => return,
        (false, Enabled::Always | Enabled::Disabled | Enabled::Replica) => "ENABLE",
    };
    steps.push(Step {
        kind: StepKind::EnableTrigger,
        what: format!("{} trigger {trigger}", enable.to_lowercase()),
        sql: format!("ALTER TABLE {relation} {enable} TRIGGER {trigger};"),
    });
}

/// Plans to drop `triggers`, then each of `functions` that no other trigger calls. Returns a note
/// for each function that is left.
///
/// `removed_from` are the oids of the tables whose triggers are removed in the same run: their
/// calls of a function do not count.
async fn drop_all(
    catalog: &Catalog<'_>,
    steps: &mut Vec<Step>,
    table: &CatalogTable,
    triggers: &[&Trigger],
    functions: &[&Function],
    removed_from: &[u32],
) -> anyhow::Result<Vec<String>> {
    const OTHER_USERS: &str = "SELECT count(*) FROM pg_catalog.pg_trigger
            WHERE tgfoid = $1 AND tgrelid <> ALL ($2::pg_catalog.oid[]) AND NOT tgisinternal AND \
            tgparentid = 0";
    let mut notes = Vec::new();
    for trigger in triggers {
        let name = quote_identifier(&trigger.name);
        steps.push(Step {
            kind: StepKind::DropTrigger,
            what: format!("drop trigger {name}"),
            sql: format!("DROP TRIGGER {name} ON {};", table.sql_name()),
        });
    }
    let own: Vec<u32> = table
        .leaves
        .iter()
        .map(|leaf| leaf.oid)
        .chain([table.oid])
        .chain(removed_from.iter().copied())
        .collect();
    for function in functions {
        let row = catalog
            .query_typed_one(
                OTHER_USERS,
                &[(&function.oid, Type::OID), (&own, Type::OID_ARRAY)],
            )
            .await
            .context("look for other users of the function")?;
        let name = sql_function_name(function);
        if row.get::<_, i64>(0) == 0 {
            // Without CASCADE: if something depends on the function after all, the statement fails
            // and the transaction changes nothing.
            steps.push(Step {
                what: format!("drop function {name}"),
                sql: format!("DROP FUNCTION {name};"),
                kind: StepKind::DropFunction(name),
            });
        } else {
            notes.push(format!(
                "the function {name} is left: other triggers call it"
            ));
        }
    }
    Ok(notes)
}

/// Returns the functions that pgic made and the table's triggers call, each once. The function of
/// `keep` is left out.
fn functions_of_ours<'a>(table: &'a CatalogTable, keep: Option<&Expected>) -> Vec<&'a Function> {
    let mut functions: Vec<&Function> = Vec::new();
    for trigger in &table.triggers {
        let function = &trigger.function;
        let is_kept = keep.is_some_and(|keep| keep.is_called_by(trigger));
        let is_known = functions.iter().any(|known| known.oid == function.oid);
        if is_ours(function) && !is_kept && !is_known {
            functions.push(function);
        }
    }
    functions
}

/// Plans the removal of a table's triggers, and of their function if nothing else calls it.
///
/// `removed_from` are the oids of all tables that lose their triggers in the same run.
///
/// # Errors
/// If the server refuses a query.
pub async fn remove(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    removed_from: &[u32],
) -> anyhow::Result<TablePlan> {
    let announcing = table.triggers.iter().filter(|trigger| announces(trigger));
    let (ours, foreign): (Vec<&Trigger>, Vec<&Trigger>) =
        announcing.partition(|trigger| is_ours(&trigger.function));
    let mut steps = Vec::new();
    // The leaves' triggers call the same function, which can be dropped after them alone.
    for leaf in &table.leaves {
        let ours = leaf
            .triggers
            .iter()
            .filter(|trigger| is_ours(&trigger.function));
        steps.extend(ours.map(|trigger| drop_leaf_trigger(leaf, trigger)));
    }
    let mut notes = drop_all(
        catalog,
        &mut steps,
        table,
        &ours,
        &functions_of_ours(table, None),
        removed_from,
    )
    .await?;
    notes.extend(foreign.iter().map(|trigger| {
        format!(
            "the trigger {} is left: it calls {}.{}(), which pgic did not make",
            trigger.name, trigger.function.schema, trigger.function.name
        )
    }));
    let observed = observe(table);
    let installed = observed
        .as_ref()
        .and_then(|observed| observed.options().cloned());
    // A table without a key never had triggers of ours, so its script is empty.
    let expected = table
        .key
        .as_ref()
        .map(|key| Expected::new(table, key, &installed.clone().unwrap_or_default()));
    Ok(TablePlan {
        script: expected
            .map(|expected| script::remove(table, &expected))
            .unwrap_or_default(),
        table: table.display_name(),
        sql_name: table.sql_name(),
        is_partitioned: table.kind == RelationKind::Partitioned,
        result: if steps.is_empty() {
            PlanResult::NothingToRemove
        } else {
            PlanResult::Removed
        },
        old_options: installed,
        new_options: None,
        channel: observed.and_then(|observed| observed.announced.channel),
        function: ours
            .first()
            .map(|trigger| format!("{}.{}", trigger.function.schema, trigger.function.name))
            .unwrap_or_default(),
        sql_function: None,
        shares: ours
            .iter()
            .find(|trigger| trigger.function.name == sql::GENERIC_FUNCTION)
            .map(|trigger| trigger.function.schema.clone()),
        notes,
        steps,
    })
}

/// The purpose of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// To [`install`] triggers with the options that are asked for.
    Install,
    /// To [`remove`] the triggers that pgic made.
    Remove,
}

impl PlanKind {
    /// Returns the mode of the lock that is taken on each table first, as LOCK TABLE takes it.
    ///
    /// Without the lock, a statement that is running goes on with the old function: all rows of a
    /// long INSERT follow the text that was there when the INSERT began.
    pub fn lock(self) -> &'static str {
        // Writers wait for either lock, readers for the second alone. CREATE TRIGGER takes the
        // first and DROP TRIGGER the second.
        match self {
            Self::Install => "SHARE ROW EXCLUSIVE",
            Self::Remove => "ACCESS EXCLUSIVE",
        }
    }
}

/// Plans for all tables of `oids`, in that order.
///
/// # Errors
/// If a table is refused, or the server refuses a query.
pub(super) async fn plan_all(
    catalog: &Catalog<'_>,
    kind: PlanKind,
    oids: &[u32],
    asked: &OptionChanges,
    version: i32,
) -> anyhow::Result<Vec<TablePlan>> {
    let mut plans: Vec<TablePlan> = Vec::new();
    for table in catalog::describe(catalog, oids).await? {
        if !asked.prints_only {
            check_owner(&table)?;
        }
        let mut plan = match kind {
            PlanKind::Install => install(catalog, &table, asked, version).await?,
            PlanKind::Remove => remove(catalog, &table, oids).await?,
        };
        // Tables that share the generic function each plan its statements: keep the first ones.
        plan.steps
            .retain(|step| !plans.iter().any(|earlier| earlier.steps.contains(step)));
        plans.push(plan);
    }
    // If two tables swapped their names, each plans to drop the function that the other one needs.
    let wanted: Vec<String> = plans
        .iter()
        .filter_map(|plan| plan.sql_function.clone())
        .collect();
    for plan in &mut plans {
        plan.steps.retain(
            |step| !matches!(&step.kind, StepKind::DropFunction(name) if wanted.contains(name)),
        );
    }
    Ok(plans)
}

/// Refuses a role that cannot act as the table's owner, who alone can replace and drop triggers.
/// Otherwise the server would refuse only after some statements.
fn check_owner(table: &CatalogTable) -> anyhow::Result<()> {
    if table.is_owned {
        return Ok(());
    }
    let name = table.display_name();
    Err(with_hint(
        anyhow!(
            "{name} belongs to {}, and this role is no member of that: its triggers cannot be \
            changed",
            table.owner
        ),
        format!(
            "run it as {}, or as a role that is a member of it",
            table.owner
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::lines;
    use postgres_index_cache_core::tooling::postgres::triggers::{Remedy, Severity};

    // A problem without a remedy had an empty line "hint: " behind it.
    #[test]
    fn a_refusal_has_a_hint_if_there_is_a_remedy() {
        let problem = |remedy| Problem {
            code: "view",
            severity: Severity::Critical,
            text: "users is a view".to_string(),
            remedy,
        };
        let refusal = Refusal::from(problem(None));
        assert_eq!(lines(&refusal.into_error()), ["error: users is a view"]);
        let remedy = Remedy::Advice("name the tables under it".to_string());
        let refusal = Refusal::from(problem(Some(remedy)));
        assert_eq!(
            lines(&refusal.into_error()),
            ["error: users is a view", "hint: name the tables under it"]
        );
    }
}
