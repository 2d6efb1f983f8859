//! The checks of a plan: everything that can be refused is refused before anything is changed.

use super::facts::FunctionFacts;
use crate::postgres::catalog::{CatalogKey, CatalogTable, Function, Trigger};
use crate::postgres::install::error::{Attempt as _, TriggerError};
use crate::postgres::install::sql::Expected;
use crate::postgres::install::{OptionChanges, TriggerOptions};
use crate::postgres::quote_identifier;
use crate::postgres::triggers::{Problem, check_bulk, check_table, is_for, is_ours, read_comment};

impl From<Problem> for TriggerError {
    fn from(problem: Problem) -> Self {
        let error = Self::new(problem.text);
        match problem.remedy {
            Some(remedy) => error.with_hint(remedy.to_string()),
            None => error,
        }
    }
}

/// Returns the error for something that is refused, with its remedy.
pub(super) fn refused(what: impl Into<String>, remedy: impl Into<String>) -> TriggerError {
    TriggerError::new(what).with_hint(remedy)
}

/// Returns the context of an error that stops the installation on `table`.
pub(super) fn installing(table: &CatalogTable) -> String {
    format!("install triggers on {}", table.display_name())
}

/// Returns the key of a table that can have announcing triggers.
pub(super) fn installable_key(table: &CatalogTable) -> Result<&CatalogKey, TriggerError> {
    if let Some(problem) = check_table(table) {
        return Err(problem.into());
    }
    table.key.as_ref().ok_or_else(|| {
        let what = format!("{} has no key", table.display_name());
        refused(what, "add one")
    })
}

/// Refuses statement triggers on a table of which they would not announce every change.
pub(super) fn check_options(
    table: &CatalogTable,
    options: &TriggerOptions,
) -> Result<(), TriggerError> {
    match check_bulk(table).filter(|_| options.bulk.is_some()) {
        Some(problem) => Err(TriggerError::from(problem)).with_context(|| installing(table)),
        None => Ok(()),
    }
}

/// Refuses to install if `function`, which has the needed name, must not or cannot be replaced, or
/// if there is none and the role may not create it.
pub(super) fn check_function(
    facts: &FunctionFacts,
    table: &CatalogTable,
    expected: &Expected,
    function: Option<&Function>,
    asked: &OptionChanges,
) -> Result<(), TriggerError> {
    if let Some(function) = function
        && !asked.replace_function
        && !is_for(function, table)
    {
        return Err(foreign_function(function, table)).with_context(|| installing(table));
    }
    if asked.prints_only {
        return Ok(());
    }
    check_function_privileges(table, expected, function, facts.role())
        .with_context(|| installing(table))
}

/// Refuses to replace a trigger of a needed name that calls somebody else's function.
pub(super) fn check_trigger(
    table: &CatalogTable,
    expected: &Expected,
    found: &Trigger,
    asked: &OptionChanges,
) -> Result<(), TriggerError> {
    // With --replace-function the called function itself becomes ours, and the trigger with it.
    let becomes_ours = asked.replace_function && expected.is_called_by(found);
    if is_ours(&found.function) || becomes_ours || asked.replace_trigger {
        return Ok(());
    }
    Err(refused(
        format!(
            "a trigger called {} exists and calls {}.{}(), which pgic did not make",
            found.name, found.function.schema, found.function.name
        ),
        format!(
            "pgic install-triggers {} --replace-trigger takes its place, without a moment in which \
            changes are lost",
            table.typed_name()
        ),
    ))
}

/// Returns the table's triggers that pgic made under names that are not wanted any more.
///
/// They stay behind if the table or the trigger was renamed. Each change would be announced twice.
pub(super) fn stale_triggers<'a>(table: &'a CatalogTable, expected: &Expected) -> Vec<&'a Trigger> {
    let wanted = expected.triggers();
    table
        .triggers
        .iter()
        .filter(|trigger| is_ours(&trigger.function))
        .filter(|trigger| !wanted.iter().any(|wanted| wanted.name == trigger.name))
        .collect()
}

/// Returns the refusal for a function that has the needed name and was not made for `table`.
pub(super) fn foreign_function(function: &Function, table: &CatalogTable) -> TriggerError {
    let name = sql_function_name(function);
    match read_comment(function.comment.as_deref()) {
        Some(comment) if function.is_trusted => refused(
            format!(
                "the function {name} exists and was made for {}.{}",
                comment.schema, comment.table
            ),
            "refresh that table's triggers first, or remove them",
        ),
        // Our comment alone proves nothing: anyone with CREATE on the schema can plant a function
        // of this name with a comment like ours, and CREATE OR REPLACE would keep its owner.
        Some(_) => refused(
            format!(
                "the function {name} exists and belongs to {}, who is neither the owner of the \
                table ({}) nor a member of it",
                function.owner, table.owner
            ),
            "if it can be trusted, give it to the table's owner: ALTER FUNCTION … OWNER TO …; else \
            drop it",
        ),
        None => refused(
            format!("the function {name} exists and is not one that pgic made for this table"),
            "rename or drop it first, or have it replaced with --replace-function",
        ),
    }
}

/// Refuses statements that the server would refuse halfway, so that a dry run promises nothing
/// that fails.
pub(super) fn check_function_privileges(
    table: &CatalogTable,
    expected: &Expected,
    found: Option<&Function>,
    role: &str,
) -> Result<(), TriggerError> {
    match found {
        None if !table.can_create => Err(refused(
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
        Some(found) if !expected.is(found) && !found.is_owned => Err(refused(
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

/// Refuses a role that cannot act as the table's owner, who alone can replace and drop triggers.
/// Otherwise the server would refuse only after some statements.
pub(super) fn check_owner(table: &CatalogTable) -> Result<(), TriggerError> {
    if table.is_owned {
        return Ok(());
    }
    let name = table.display_name();
    Err(TriggerError::new(format!(
        "{name} belongs to {}, and this role is no member of that: its triggers cannot be \
            changed",
        table.owner
    ))
    .with_hint(format!(
        "run it as {}, or as a role that is a member of it",
        table.owner
    )))
}

/// Returns the name of a function as SQL takes it: `"app"."notify_cache_change"()`.
pub(super) fn sql_function_name(function: &Function) -> String {
    format!(
        "{}.{}()",
        quote_identifier(&function.schema),
        quote_identifier(&function.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::triggers::{Remedy, Severity};

    // A problem without a remedy had an empty line "hint: " behind it.
    #[test]
    fn a_refusal_has_a_hint_if_there_is_a_remedy() {
        let problem = |remedy| Problem {
            code: "view",
            severity: Severity::Critical,
            text: "users is a view".to_string(),
            remedy,
        };
        let refusal = TriggerError::from(problem(None));
        assert_eq!(refusal.to_string(), "users is a view");
        assert_eq!(refusal.hint(), None);
        let remedy = Remedy::Advice("name the tables under it".to_string());
        let refusal = TriggerError::from(problem(Some(remedy)));
        assert_eq!(refusal.to_string(), "users is a view");
        assert_eq!(refusal.hint(), Some("name the tables under it"));
    }
}
