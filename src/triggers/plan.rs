//! What it takes to get a table's triggers where they should be, or to take them away: refusals
//! first, then steps.

use super::observe::{TRUNCATE_EVENT, announces, is_for, is_ours, observe};
use super::sql::{self, Expected};
use super::{OptionChanges, TriggerOptions, script};
use crate::failure::with_hint;
use crate::tables::catalog::{
    self, Catalog, CatalogTable, Enabled, Function, Leaf, RelationKind, Trigger,
};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::postgres::triggers::{check_table, read_comment};
use postgres_index_cache_core::postgres::{quote_identifier, quote_literal};
use tokio_postgres::types::Type;

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
    /// Whether it has partitions.
    pub is_partitioned: bool,
    /// What comes of it in a word: created, refreshed, unchanged; removed, nothing.
    pub result: &'static str,
    /// The options, old and new; none where none are known.
    pub options: (Option<TriggerOptions>, Option<TriggerOptions>),
    /// The channel of somebody else's trigger.
    pub channel: Option<String>,
    /// The function.
    pub function: String,
    /// The function as it stands in SQL, where the triggers are to call one.
    pub sql_function: Option<String>,
    /// The schema whose generic function is made, replaced or dropped: other installers may be at
    /// that too.
    pub shares: Option<String>,
    /// What is left alone, and why.
    pub notes: Vec<String>,
    /// The statements; none when nothing is to be done.
    pub steps: Vec<Step>,
    /// The same as a piece of a migration file, whatever is installed.
    pub script: String,
}

/// Plans the triggers of a table. What is not asked for keeps what is installed.
///
/// # Errors
/// When the table cannot have them, or something of their name is not ours. Nothing has been
/// changed then.
pub async fn install(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    asked: &OptionChanges,
    version: i32,
) -> anyhow::Result<TablePlan> {
    let refuse = |(what, hint): (String, &str)| {
        with_hint(
            anyhow!(what).context(format!("install triggers on {}", table.display_name())),
            hint,
        )
    };
    if let Some(problem) = check_table(table) {
        let remedy = problem
            .remedy
            .map_or_else(String::new, |remedy| remedy.to_string());
        return Err(refuse((problem.text, &remedy)));
    }
    let Some(key) = &table.key else {
        return Err(refuse((
            format!("{} has no key", table.display_name()),
            "add one",
        )));
    };
    let observed = observe(table).and_then(|observed| observed.options().cloned());
    // Where the triggers are gone, a function of the table's own still says what was chosen.
    let own = catalog::find_function(catalog, table, &sql::function_name(&table.name)).await?;
    let remembered = own.as_ref().filter(|function| is_for(function, table));
    let remembered = remembered
        .and_then(|function| read_comment(function.comment.as_deref()))
        .map(|comment| comment.options);
    let installed = observed.or(remembered);
    let options = asked
        .over(installed.as_ref(), table)
        .context(format!("install triggers on {}", table.display_name()))?;
    let function = if options.generic {
        catalog::find_function(catalog, table, sql::GENERIC_FUNCTION).await?
    } else {
        own
    };
    if let Some(function) = function
        .as_ref()
        .filter(|function| !asked.replace_function && !is_for(function, table))
    {
        return Err(refuse(foreign_function(function, table)));
    }
    let expected = Expected::new(table, key, &options);
    if !asked.prints_only {
        let row = catalog
            .query_typed_one("SELECT current_user::pg_catalog.text", &[])
            .await
            .context("ask for the role")?;
        let checked = check_function_privileges(table, &expected, function.as_ref(), row.get(0));
        checked.map_err(|(what, hint)| refuse((what, &hint)))?;
    }
    let mut steps = Vec::new();
    function_steps(&mut steps, table, &expected, function.as_ref());
    for (name, events) in expected.triggers() {
        let found = table.triggers.iter().find(|trigger| trigger.name == name);
        // One that calls the function which is replaced becomes ours with that.
        let is_replaced = |found: &Trigger| {
            asked.replace_function
                && (&found.function.schema, &found.function.name)
                    == (&expected.schema, &expected.function)
        };
        if let Some(found) = found.filter(|found| !is_ours(&found.function) && !is_replaced(found))
        {
            let what = format!(
                "a trigger called {name} exists and calls {}.{}(), which pgic did not make",
                found.function.schema, found.function.name
            );
            let hint = format!(
                "to replace it: DROP TRIGGER {} ON {};",
                quote_identifier(name),
                table.sql_name()
            );
            return Err(refuse((what, &hint)));
        }
        let wanted = (options.always, asked.defaults);
        trigger_steps(
            &mut steps,
            &table.sql_name(),
            &expected,
            (name, events),
            found,
            wanted,
            version,
        );
    }
    for leaf in &table.leaves {
        leaf_steps(
            &mut steps,
            leaf,
            &expected,
            (options.always, asked.defaults),
            version,
        )?;
    }
    // Triggers of ours under other names: the table, or the trigger, was renamed. Each change would
    // be announced twice.
    let is_wanted = |trigger: &&Trigger| {
        expected
            .triggers()
            .iter()
            .any(|(name, _)| *name == trigger.name)
    };
    let stale: Vec<&Trigger> = table
        .triggers
        .iter()
        .filter(|trigger| is_ours(&trigger.function) && !is_wanted(trigger))
        .collect();
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
        (true, _) => "unchanged",
        (false, true) => "refreshed",
        (false, false) => "created",
    };
    Ok(TablePlan {
        script: script::install(table, &expected, &options, version),
        table: table.display_name(),
        sql_name: table.sql_name(),
        is_partitioned: table.kind == RelationKind::Partitioned,
        result,
        options: (installed, Some(options)),
        channel: None,
        function: format!("{}.{}", expected.schema, expected.function),
        sql_function: Some(expected.sql_function()),
        shares: expected.is_generic.then(|| expected.schema.clone()),
        notes,
        steps,
    })
}

/// A function of the name that is needed and that is not ours, and what to do about it.
fn foreign_function(function: &Function, table: &CatalogTable) -> (String, &'static str) {
    let name = format!(
        "{}.{}()",
        quote_identifier(&function.schema),
        quote_identifier(&function.name)
    );
    match read_comment(function.comment.as_deref()) {
        Some(comment) if function.is_trusted => (
            format!(
                "the function {name} exists and was made for {}.{}",
                comment.schema, comment.table
            ),
            "refresh that table's triggers first, or remove them",
        ),
        Some(_) => (
            format!(
                "the function {name} exists and belongs to {}, who is neither the owner of the \
                table ({}) nor a member of it",
                function.owner, table.owner
            ),
            "if it can be trusted, give it to the table's owner: ALTER FUNCTION … OWNER TO …; else \
            drop it",
        ),
        None => (
            format!("the function {name} exists and is not one that pgic made for this table"),
            "rename or drop it first, or have it replaced with --replace-function",
        ),
    }
}

/// Refuses what the server would refuse halfway: a dry run promises nothing that fails.
fn check_function_privileges(
    table: &CatalogTable,
    expected: &Expected,
    found: Option<&Function>,
    role: &str,
) -> Result<(), (String, String)> {
    match found {
        None if !table.can_create => Err((
            format!(
                "the role {role} may not create a function in the schema {}",
                table.schema
            ),
            // Somebody else runs it, so the role is named.
            format!(
                "allow it: GRANT CREATE ON SCHEMA {} TO {}",
                quote_identifier(&table.schema),
                quote_identifier(role)
            ),
        )),
        Some(found) if !expected.is(found) && !found.is_owned => Err((
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

fn function_steps(
    steps: &mut Vec<Step>,
    table: &CatalogTable,
    expected: &Expected,
    found: Option<&Function>,
) {
    // Who replaces somebody else's function must make it the table's owner's too: its owner could
    // change it again.
    let is_planted = found.is_some_and(|found| !found.is_trusted);
    let is_owned = found.is_some_and(|found| found.owner == table.owner)
        || !(table.can_give_to_owner || is_planted);
    let give = || Step {
        what: format!(
            "give function {} to {}",
            expected.sql_function(),
            table.owner
        ),
        sql: format!(
            "ALTER FUNCTION {} OWNER TO {};",
            expected.sql_function(),
            quote_identifier(&table.owner)
        ),
    };
    if found.is_some_and(|found| expected.is(found)) {
        steps.extend((!is_owned).then(give));
        return;
    }
    let (verb, sql) = match found {
        Some(_) => ("replace", expected.create_function.clone()),
        // Not OR REPLACE: a function that was planted meanwhile would keep its owner.
        None => (
            "create",
            expected
                .create_function
                .replacen("CREATE OR REPLACE ", "CREATE ", 1),
        ),
    };
    steps.push(Step {
        what: format!("{verb} function {}", expected.sql_function()),
        sql,
    });
    steps.push(Step {
        what: format!("comment on function {}", expected.sql_function()),
        sql: format!(
            "COMMENT ON FUNCTION {} IS {};",
            expected.sql_function(),
            quote_literal(&expected.comment)
        ),
    });
    steps.extend((!is_owned).then(give));
}

/// A leaf's own trigger for TRUNCATE: the one of its root does not fire for it. The one for rows is
/// cloned by PostgreSQL; another of ours on a leaf, from before it was attached, would announce
/// each change twice.
fn leaf_steps(
    steps: &mut Vec<Step>,
    leaf: &Leaf,
    expected: &Expected,
    wanted: (bool, bool),
    version: i32,
) -> anyhow::Result<()> {
    let name = Expected::leaf_trigger(leaf);
    let is_truncate = |trigger: &&Trigger| trigger.name == name;
    let found = leaf.triggers.iter().find(is_truncate);
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
        return Err(with_hint(anyhow!(what), hint));
    }
    let is_wanted = !expected.is_without_truncate;
    if is_wanted {
        trigger_steps(
            steps,
            &leaf.sql_name(),
            expected,
            (&name, TRUNCATE_EVENT),
            found,
            wanted,
            version,
        );
    }
    let stale = leaf
        .triggers
        .iter()
        .filter(|trigger| is_ours(&trigger.function) && !(is_wanted && is_truncate(trigger)));
    for trigger in stale {
        let trigger = quote_identifier(&trigger.name);
        let sql = format!("DROP TRIGGER {trigger} ON {};", leaf.sql_name());
        steps.push(Step {
            what: format!("drop trigger {trigger} on {}", leaf.display_name()),
            sql,
        });
    }
    Ok(())
}

fn trigger_steps(
    steps: &mut Vec<Step>,
    relation: &str,
    expected: &Expected,
    (name, events): (&str, i16),
    found: Option<&Trigger>,
    (always, defaults): (bool, bool),
    version: i32,
) {
    let is_right = |found: &Trigger| expected.is_right(found, name, events);
    let trigger = quote_identifier(name);
    if !found.is_some_and(is_right) {
        let can_replace = version >= 140_000 && found.is_none_or(|found| !found.is_constraint);
        let (verb, create) = match (found, can_replace) {
            (None, _) => ("create", "CREATE TRIGGER".to_string()),
            (Some(_), true) => ("replace", "CREATE OR REPLACE TRIGGER".to_string()),
            // PostgreSQL 13 cannot replace a trigger, and no release replaces a constraint trigger.
            (Some(_), false) => (
                "replace",
                format!("DROP TRIGGER {trigger} ON {relation};\nCREATE TRIGGER"),
            ),
        };
        steps.push(Step {
            what: format!("{verb} trigger {trigger}"),
            sql: format!(
                "{create} {trigger} {} EXECUTE FUNCTION {};",
                expected.when(events, relation),
                expected.call()
            ),
        });
    }
    let enabled = found.map_or(Enabled::Origin, |found| found.enabled);
    let is_replaced = found.is_none_or(|found| !is_right(found));
    // What a DBA set by hand is kept, but for what keeps a trigger from firing.
    let is_always_wanted = always || (enabled == Enabled::Always && !defaults);
    let enable = match (is_always_wanted, enabled) {
        // A new trigger, and one that is replaced, fires as origin.
        (true, Enabled::Always) if !is_replaced => return,
        (true, _) => "ENABLE ALWAYS",
        (false, Enabled::Origin) => return,
        (false, Enabled::Always) if is_replaced => return,
        (false, Enabled::Always | Enabled::Disabled | Enabled::Replica) => "ENABLE",
    };
    steps.push(Step {
        what: format!("{} trigger {trigger}", enable.to_lowercase()),
        sql: format!("ALTER TABLE {relation} {enable} TRIGGER {trigger};"),
    });
}

/// Plans to drop triggers, then each of `functions` that nothing else calls. What is left is said
/// in the notes.
async fn drop_all(
    catalog: &Catalog<'_>,
    steps: &mut Vec<Step>,
    table: &CatalogTable,
    triggers: &[&Trigger],
    functions: &[&Function],
    removed_from: &[u32],
) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    for trigger in triggers {
        let name = quote_identifier(&trigger.name);
        let sql = format!("DROP TRIGGER {name} ON {};", table.sql_name());
        steps.push(Step {
            what: format!("drop trigger {name}"),
            sql,
        });
    }
    for function in functions {
        let own = table.leaves.iter().map(|leaf| leaf.oid).chain([table.oid]);
        let own: Vec<u32> = own.chain(removed_from.iter().copied()).collect();
        let users = "SELECT count(*) FROM pg_catalog.pg_trigger
            WHERE tgfoid = $1 AND tgrelid <> ALL ($2::pg_catalog.oid[]) AND NOT tgisinternal AND \
            tgparentid = 0";
        let row = catalog
            .query_typed_one(
                users,
                &[(&function.oid, Type::OID), (&own, Type::OID_ARRAY)],
            )
            .await
            .context("look for other users of the function")?;
        let name = format!(
            "{}.{}()",
            quote_identifier(&function.schema),
            quote_identifier(&function.name)
        );
        if row.get::<_, i64>(0) == 0 {
            // Without CASCADE: whatever depends on it after all makes this fail, and nothing is
            // changed.
            steps.push(Step {
                what: format!("drop function {name}"),
                sql: format!("DROP FUNCTION {name};"),
            });
        } else {
            notes.push(format!(
                "the function {name} is left: other triggers call it"
            ));
        }
    }
    Ok(notes)
}

/// The functions of ours that a table's triggers call, each once, but for the one to keep.
fn functions_of_ours<'a>(table: &'a CatalogTable, keep: Option<&Expected>) -> Vec<&'a Function> {
    let mut functions: Vec<&Function> = Vec::new();
    for function in table
        .triggers
        .iter()
        .map(|trigger| &trigger.function)
        .filter(|function| is_ours(function))
    {
        let is_kept = keep
            .is_some_and(|keep| keep.schema == function.schema && keep.function == function.name);
        if !is_kept && !functions.iter().any(|known| known.oid == function.oid) {
            functions.push(function);
        }
    }
    functions
}

/// Plans the removal of a table's triggers, and of their function when nothing else uses it;
/// `removed_from` are the tables that lose theirs in the same run.
///
/// # Errors
/// When the server refuses.
pub async fn remove(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    removed_from: &[u32],
) -> anyhow::Result<TablePlan> {
    let announcing = table.triggers.iter().filter(|trigger| announces(trigger));
    let (ours, foreign): (Vec<&Trigger>, Vec<&Trigger>) =
        announcing.partition(|trigger| is_ours(&trigger.function));
    let mut steps = Vec::new();
    for leaf in &table.leaves {
        for trigger in leaf
            .triggers
            .iter()
            .filter(|trigger| is_ours(&trigger.function))
        {
            let name = quote_identifier(&trigger.name);
            let sql = format!("DROP TRIGGER {name} ON {};", leaf.sql_name());
            steps.push(Step {
                what: format!("drop trigger {name} on {}", leaf.display_name()),
                sql,
            });
        }
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
    // Without a key the table never had triggers of ours.
    let options = observe(table)
        .and_then(|observed| observed.options().cloned())
        .unwrap_or_default();
    let expected = table
        .key
        .as_ref()
        .map(|key| Expected::new(table, key, &options));
    Ok(TablePlan {
        script: expected
            .map(|expected| script::remove(table, &expected))
            .unwrap_or_default(),
        table: table.display_name(),
        sql_name: table.sql_name(),
        is_partitioned: table.kind == RelationKind::Partitioned,
        result: if steps.is_empty() {
            "nothing to remove"
        } else {
            "removed"
        },
        options: (
            observe(table).and_then(|observed| observed.options().cloned()),
            None,
        ),
        channel: observe(table).and_then(|observed| observed.announced.channel),
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

/// What a plan does to tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// [`install`], with what is asked for.
    Install,
    /// [`remove`].
    Remove,
}

impl PlanKind {
    /// The lock that is taken first, so that no writer's statement goes on with the old function.
    pub fn lock(self) -> &'static str {
        // Writers wait for either, readers for the second alone.
        match self {
            Self::Install => "SHARE ROW EXCLUSIVE",
            Self::Remove => "ACCESS EXCLUSIVE",
        }
    }
}

/// Plans for all of these tables, in the order of their oids.
///
/// # Errors
/// When a table is refused, or the server refuses.
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
        // A function that several of these tables share is made once.
        plan.steps
            .retain(|step| !plans.iter().any(|earlier| earlier.steps.contains(step)));
        plans.push(plan);
    }
    // Where two tables swapped their names, the function that one leaves is the one that the other
    // needs.
    let wanted: Vec<String> = plans
        .iter()
        .filter_map(|plan| plan.sql_function.clone())
        .collect();
    for plan in &mut plans {
        plan.steps.retain(|step| {
            !wanted
                .iter()
                .any(|function| step.sql == format!("DROP FUNCTION {function};"))
        });
    }
    Ok(plans)
}

/// Only the owner of a table can replace and drop its triggers, and let nobody but itself find out
/// halfway.
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
