//! The statements of a plan: [`Step`], and the steps for functions, triggers and partitions.

use super::facts::FunctionFacts;
use super::refusals::{refused, sql_function_name};
use crate::postgres::catalog::{CatalogTable, Enabled, Function, Leaf, Trigger};
use crate::postgres::install::error::TriggerError;
use crate::postgres::install::sql::{Expected, ExpectedTrigger, ask_for_reload};
use crate::postgres::install::{OptionChanges, TriggerOptions};
use crate::postgres::triggers::is_ours;
use crate::postgres::{quote_identifier, quote_literal};
use std::collections::HashSet;

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
    /// Asks caches to read the table again.
    AskForReload,
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

/// Plans the statements that make the triggers' function, if `found` is not that function already.
pub(super) fn function_steps(
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

/// Plans the request that caches read a table again, if other rows are announced from now on. It
/// comes with the commit, in its place among the changes: caches know at once that rows are
/// missing, or too many.
pub(super) fn reload_step(
    table: &CatalogTable,
    installed: &TriggerOptions,
    options: &TriggerOptions,
) -> Option<Step> {
    let sql = |options: &TriggerOptions| options.condition.as_ref().map(|own| own.sql.clone());
    if sql(installed) == sql(options) {
        return None;
    }
    // Those who listen on the channel of before as well.
    let mut channels = vec![installed.channel.as_str(), &options.channel];
    channels.dedup();
    Some(Step {
        kind: StepKind::AskForReload,
        what: "ask caches to read the table again".to_string(),
        sql: ask_for_reload(table, &channels),
    })
}

/// The sessions that new and changed triggers are to fire for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Firing {
    /// Fire under `session_replication_role = replica` too.
    pub(super) always: bool,
    /// Forget an ALWAYS that somebody set by hand (`--defaults`).
    pub(super) forgets: bool,
}

/// Plans the triggers of a leaf. The root's TRUNCATE trigger and statement triggers do not fire if
/// the leaf alone is named.
///
/// The root's row trigger needs no counterpart, since PostgreSQL clones it to the leaves. A leaf
/// that had triggers of ours before it was attached would announce each change twice, so all others
/// are dropped.
pub(super) fn leaf_steps(
    steps: &mut Vec<Step>,
    leaf: &Leaf,
    expected: &Expected,
    firing: Firing,
    version: i32,
    asked: &OptionChanges,
) -> Result<(), TriggerError> {
    let wanted = expected.leaf_triggers(leaf);
    for (name, events) in &wanted {
        let found = leaf.triggers.iter().find(|trigger| trigger.name == *name);
        let foreign = found.filter(|found| !is_ours(&found.function) && !asked.replace_trigger);
        if let Some(found) = foreign {
            let function = &found.function;
            let what = format!(
                "a trigger called {name} exists on its partition {} and calls {}.{}(), which pgic \
                did not make",
                leaf.display_name(),
                function.schema,
                function.name
            );
            let hint = "pgic install-triggers with --replace-trigger takes its place";
            return Err(refused(what, hint));
        }
        let wanted = ExpectedTrigger {
            name,
            events: *events,
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
        .filter(|trigger| !wanted.iter().any(|(name, _)| *name == trigger.name));
    steps.extend(stale.map(|trigger| drop_leaf_trigger(leaf, trigger)));
    Ok(())
}

/// Returns the step that drops a trigger of a leaf.
pub(super) fn drop_leaf_trigger(leaf: &Leaf, trigger: &Trigger) -> Step {
    let name = quote_identifier(&trigger.name);
    Step {
        kind: StepKind::DropTrigger,
        what: format!("drop trigger {name} on {}", leaf.display_name()),
        sql: format!("DROP TRIGGER {name} ON {};", leaf.sql_name()),
    }
}

/// Plans the statements that make `wanted` on `relation`, if `found` is not that trigger already.
pub(super) fn trigger_steps(
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
pub(super) fn drop_all(
    facts: &FunctionFacts,
    steps: &mut Vec<Step>,
    table: &CatalogTable,
    triggers: &[&Trigger],
    functions: &[&Function],
    removed_from: &HashSet<u32>,
) -> Vec<String> {
    let mut notes = Vec::new();
    for trigger in triggers {
        let name = quote_identifier(&trigger.name);
        steps.push(Step {
            kind: StepKind::DropTrigger,
            what: format!("drop trigger {name}"),
            sql: format!("DROP TRIGGER {name} ON {};", table.sql_name()),
        });
    }
    for function in functions {
        let name = sql_function_name(function);
        if facts.is_called_elsewhere(function, table, removed_from) {
            notes.push(format!(
                "the function {name} is left: other triggers call it"
            ));
            continue;
        }
        // Without CASCADE: if something depends on the function after all, the statement fails and
        // the transaction changes nothing.
        steps.push(Step {
            what: format!("drop function {name}"),
            sql: format!("DROP FUNCTION {name};"),
            kind: StepKind::DropFunction(name),
        });
    }
    notes
}

/// Returns the functions that pgic made and the table's triggers call, each once. The function of
/// `keep` is left out.
pub(super) fn functions_of_ours<'a>(
    table: &'a CatalogTable,
    keep: Option<&Expected>,
) -> Vec<&'a Function> {
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
