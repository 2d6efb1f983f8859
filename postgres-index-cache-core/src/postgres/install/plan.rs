//! [`install`] and `remove`: the statements that give a table the triggers that it should have,
//! or take them away.
//!
//! A plan is made before anything is changed. All that can be refused is refused while it is made,
//! so a dry run promises nothing that would fail.

mod facts;
mod refusals;
mod steps;

pub use facts::FunctionFacts;
pub use steps::{Step, StepKind};

use super::observe::observe;
use super::sql::{self, Expected};
use super::{AskedTable, OptionChanges, TriggerOptions, script};
use crate::postgres::catalog::{CatalogTable, Function, RelationKind, Trigger};
use crate::postgres::install::error::{Attempt as _, TriggerError};
use crate::postgres::quote_identifier;
use crate::postgres::triggers::{announces, is_for, is_ours, read_comment};
use refusals::{
    check_function, check_options, check_owner, check_trigger, installable_key, installing,
    sql_function_name, stale_triggers,
};
use std::collections::HashSet;
use std::fmt;
use std::slice;
use steps::{
    Firing, drop_all, drop_leaf_trigger, function_steps, functions_of_ours, leaf_steps,
    reload_step, trigger_steps,
};

/// The outcome of a plan for one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
    /// The table's schema, and its name alone.
    pub names: (String, String),
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
    /// The text of the function as it is, and as it will be; `None` unless the plan replaces it.
    pub function_texts: Option<(String, String)>,
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

/// Plans the triggers of a table. Options that are not asked for keep their installed values.
///
/// # Errors
/// If the table cannot have triggers, if an object of a needed name is not one that pgic made, or
/// if the role lacks a privilege. Planning changes nothing.
pub fn install(
    facts: &FunctionFacts,
    table: &CatalogTable,
    asked: &OptionChanges,
    version: i32,
) -> Result<TablePlan, TriggerError> {
    let key = installable_key(table).with_context(|| installing(table))?;
    let own = facts.function(table, &sql::function_name(&table.name));
    let installed = installed_options(table, own);
    let options = asked
        .over(installed.as_ref(), table)
        .with_context(|| installing(table))?;
    check_options(table, &options)?;
    let function = if options.generic {
        facts.function(table, sql::GENERIC_FUNCTION)
    } else {
        own
    };
    let expected = Expected::new(table, key, &options);
    check_function(facts, table, &expected, function, asked)?;
    let mut steps = Vec::new();
    function_steps(&mut steps, table, &expected, function);
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
            check_trigger(table, &expected, found, asked).with_context(|| installing(table))?;
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
        leaf_steps(&mut steps, leaf, &expected, firing, version, asked)?;
    }
    steps.extend(
        installed
            .as_ref()
            .and_then(|installed| reload_step(table, installed, &options)),
    );
    let stale = stale_triggers(table, &expected);
    let functions = functions_of_ours(table, Some(&expected));
    let mut notes = drop_all(
        facts,
        &mut steps,
        table,
        &stale,
        &functions,
        &HashSet::new(),
    );
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
    let former = function
        .filter(|former| former.source != expected.source)
        .map(|former| (former.source.clone(), expected.source.clone()));
    Ok(TablePlan {
        function_texts: former.filter(|_| !steps.is_empty()),
        script: script::install(table, &expected, &options, version),
        table: table.display_name(),
        names: (table.schema.clone(), table.name.clone()),
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

/// Plans the removal of a table's triggers, and of their function if nothing else calls it.
///
/// `removed_from` are the oids of all tables that lose their triggers in the same run.
///
fn remove(facts: &FunctionFacts, table: &CatalogTable, removed_from: &HashSet<u32>) -> TablePlan {
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
        facts,
        &mut steps,
        table,
        &ours,
        &functions_of_ours(table, None),
        removed_from,
    );
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
    let is_generic = installed.as_ref().is_some_and(|options| options.generic);
    let mut functions = Vec::new();
    if !is_generic {
        functions.extend(own_function_to_drop(facts, table, removed_from));
    }
    for function in functions_of_ours(table, None) {
        let name = sql_function_name(function);
        let is_dropped = steps
            .iter()
            .any(|step| step.kind == StepKind::DropFunction(name.clone()));
        // The script may be run on another database, where other tables need the generic function.
        if is_dropped && function.name != sql::GENERIC_FUNCTION && !functions.contains(&name) {
            functions.push(name);
        }
    }
    TablePlan {
        script: script::remove(table, is_generic, &functions),
        function_texts: None,
        table: table.display_name(),
        names: (table.schema.clone(), table.name.clone()),
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
    }
}

/// Returns the table's own function, as SQL takes it, for a script that drops the function if it
/// exists. `None` if the function of that name is not one that pgic made, or another table's
/// triggers call it: those of a table that had this table's name before.
fn own_function_to_drop(
    facts: &FunctionFacts,
    table: &CatalogTable,
    removed_from: &HashSet<u32>,
) -> Option<String> {
    let name = sql::function_name(&table.name);
    if let Some(found) = facts.function(table, &name)
        && (!is_ours(found) || facts.is_called_elsewhere(found, table, removed_from))
    {
        return None;
    }
    Some(format!(
        "{}.{}()",
        quote_identifier(&table.schema),
        quote_identifier(&name)
    ))
}

/// The purpose of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// To [`install`] triggers with the options that are asked for.
    Install,
    /// To remove the triggers that pgic made.
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

/// Returns why triggers would be refused on a table; `None` if they would not.
pub fn refusal(
    facts: &FunctionFacts,
    table: &CatalogTable,
    asked: &AskedTable,
    version: i32,
) -> Option<TriggerError> {
    let (table, asked) = (slice::from_ref(table), slice::from_ref(asked));
    plan_all(facts, PlanKind::Install, table, asked, version).err()
}

/// Plans for all tables, each with what is asked for in the same place of `asked`.
///
/// # Errors
/// If a table is refused.
pub(super) fn plan_all(
    facts: &FunctionFacts,
    kind: PlanKind,
    tables: &[CatalogTable],
    asked: &[AskedTable],
    version: i32,
) -> Result<Vec<TablePlan>, TriggerError> {
    let removed_from: HashSet<u32> = tables.iter().map(|table| table.oid).collect();
    let mut plans: Vec<TablePlan> = Vec::new();
    // The statements so far. Tables that share the generic function each plan its statements: the
    // first ones are kept.
    let mut planned: HashSet<String> = HashSet::new();
    for (table, AskedTable { changes: asked, .. }) in tables.iter().zip(asked) {
        if !asked.prints_only {
            check_owner(table)?;
        }
        let mut plan = match kind {
            PlanKind::Install => install(facts, table, asked, version)?,
            PlanKind::Remove => remove(facts, table, &removed_from),
        };
        plan.steps.retain(|step| planned.insert(step.sql.clone()));
        plans.push(plan);
    }
    // If two tables swapped their names, each plans to drop the function that the other one needs.
    let wanted: HashSet<String> = plans
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
