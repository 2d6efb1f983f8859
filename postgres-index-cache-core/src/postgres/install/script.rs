//! [`file`](fn@file): the triggers as a migration file, with statements that may be run again and
//! work whatever is installed. [`remove`] writes the inverse of [`install`].

use super::TriggerOptions;
use super::sql::{
    Expected, ExpectedTrigger, ask_for_reload, bulk_triggers, row_trigger_name,
    truncate_trigger_name,
};
use crate::postgres::catalog::{CatalogTable, RelationKind, Trigger};
use crate::postgres::triggers::is_ours;
use crate::postgres::{quote_identifier, quote_literal};
use std::fmt::Write as _;
use std::time::Duration;

/// Returns a file of one transaction around the statements that are given for each table.
///
/// `mode` is the lock that the transaction takes first, so that no running statement goes on with
/// an old function. `version` is the server's version as a number, 150018 for 15.18.
pub fn file(
    title: &str,
    version: i32,
    mode: &str,
    lock_timeout: Duration,
    tables: &[(&CatalogTable, String)],
) -> String {
    let mut sorted: Vec<&(&CatalogTable, String)> = tables.iter().collect();
    // Two installers that lock in different orders would wait for each other, so everybody locks
    // by name.
    sorted.sort_by_key(|(table, _)| table.sql_name());
    // The locks are taken one after the other: together they may wait as long as is allowed.
    let timeout = (lock_timeout.as_millis() / sorted.len().max(1) as u128).max(1);
    let mut sql = format!(
        "-- {title}, for PostgreSQL {} and later; made by pgic.\n\
         BEGIN;\n\
         SET LOCAL lock_timeout = {timeout};\n\
         SET LOCAL search_path = pg_catalog, pg_temp;\n",
        version / 10_000,
    );
    for (table, _) in &sorted {
        let only = if table.kind == RelationKind::Partitioned {
            ""
        } else {
            "ONLY "
        };
        // Writing into a String cannot fail.
        let _ = writeln!(sql, "LOCK TABLE {only}{} IN {mode} MODE;", table.sql_name());
    }
    for (_, body) in sorted {
        let _ = write!(sql, "\n{body}");
    }
    sql.push_str("\nCOMMIT;\n");
    sql
}

/// Returns the statements that make a table's triggers, whether some of them exist already or not.
pub fn install(
    table: &CatalogTable,
    expected: &Expected,
    options: &TriggerOptions,
    version: i32,
) -> String {
    let mut sql = expected.create_function.clone();
    // Writing into a String cannot fail.
    let _ = writeln!(
        sql,
        "COMMENT ON FUNCTION {} IS {};",
        expected.sql_function(),
        quote_literal(&expected.comment)
    );
    for trigger in expected.triggers() {
        install_trigger(&mut sql, table, expected, options, trigger, version);
    }
    for leaf in &table.leaves {
        let relation = leaf.sql_name();
        let wanted = expected.leaf_triggers(leaf);
        for (name, events) in &wanted {
            let trigger = quote_identifier(name);
            let _ = writeln!(
                sql,
                "DROP TRIGGER IF EXISTS {trigger} ON {relation};\n\
                 CREATE TRIGGER {trigger} {} EXECUTE FUNCTION {};",
                expected.when(*events, &relation),
                expected.call()
            );
            if options.always {
                enable_always(&mut sql, &relation, &trigger);
            }
        }
        let stale = leaf.triggers.iter().filter(|found| {
            is_ours(&found.function) && wanted.iter().all(|(name, _)| *name != found.name)
        });
        for found in stale {
            let _ = writeln!(sql, "{}", drop_trigger(&relation, &found.name));
        }
    }
    // Those of the other kind may have been installed before.
    let former: Vec<String> = match options.bulk {
        Some(_) => vec![row_trigger_name(&table.name)]
            .into_iter()
            .filter(|name| {
                let mut found = table.triggers.iter().filter(|found| found.name == *name);
                found.all(|found| is_ours(&found.function))
            })
            .collect(),
        None => bulk_triggers(&table.name)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| table.triggers.iter().any(|found| found.name == *name))
            .collect(),
    };
    for name in former {
        let _ = writeln!(sql, "{}", drop_trigger(&table.sql_name(), &name));
    }
    if options.condition.is_some() {
        // The triggers may have been installed for other rows before.
        let _ = writeln!(sql, "{}", ask_for_reload(table, &[&options.channel]));
    }
    if options.no_truncate {
        // The triggers may have been installed without --no-truncate before.
        let _ = writeln!(
            sql,
            "{}",
            drop_trigger(&table.sql_name(), &expected.truncate_trigger)
        );
    }
    sql
}

/// Appends the statements that make one trigger of the table itself.
fn install_trigger(
    sql: &mut String,
    table: &CatalogTable,
    expected: &Expected,
    options: &TriggerOptions,
    wanted: ExpectedTrigger<'_>,
    version: i32,
) {
    let trigger = quote_identifier(wanted.name);
    let relation = table.sql_name();
    // PostgreSQL 13 has no CREATE OR REPLACE TRIGGER.
    let create = if version >= 140_000 {
        "CREATE OR REPLACE TRIGGER".to_string()
    } else {
        format!("DROP TRIGGER IF EXISTS {trigger} ON {relation};\nCREATE TRIGGER")
    };
    let _ = writeln!(
        sql,
        "{create} {trigger} {} EXECUTE FUNCTION {};",
        expected.when(wanted.events, &relation),
        expected.call()
    );
    if options.always {
        enable_always(sql, &relation, &trigger);
    }
}

/// Appends the statement that makes a trigger fire under `session_replication_role = replica` too.
fn enable_always(sql: &mut String, relation: &str, trigger: &str) {
    let _ = writeln!(
        sql,
        "ALTER TABLE {relation} ENABLE ALWAYS TRIGGER {trigger};"
    );
}

/// Returns the statements that take a table's triggers away, whichever of them exist. A key is not
/// needed: the triggers may be older than the table's loss of it. A trigger that pgic did not make
/// is left, though it has the name of one of ours.
///
/// `functions` are the functions to drop, as SQL takes them. `is_generic` says that the triggers
/// call the generic function, which is not dropped: other tables may need it.
pub fn remove(table: &CatalogTable, is_generic: bool, functions: &[String]) -> String {
    let mut sql = String::new();
    for leaf in &table.leaves {
        let names = vec![truncate_trigger_name(&leaf.name)];
        drop_triggers(&mut sql, &leaf.sql_name(), names, &leaf.triggers);
    }
    let names = vec![
        row_trigger_name(&table.name),
        truncate_trigger_name(&table.name),
    ];
    drop_triggers(&mut sql, &table.sql_name(), names, &table.triggers);
    if is_generic {
        sql.push_str(
            "-- The function is that of all tables of its schema: drop it with the last of their \
            triggers.\n",
        );
    }
    for function in functions {
        // Writing into a String cannot fail.
        let _ = writeln!(sql, "DROP FUNCTION IF EXISTS {function};");
    }
    sql
}

/// Appends the statements that drop the triggers `names` and those of `found` that pgic made, but
/// none of `found` that pgic did not make.
fn drop_triggers(sql: &mut String, relation: &str, mut names: Vec<String>, found: &[Trigger]) {
    for trigger in found {
        let is_named = names.contains(&trigger.name);
        match is_ours(&trigger.function) {
            true if !is_named => names.push(trigger.name.clone()),
            false => names.retain(|name| *name != trigger.name),
            true => {}
        }
    }
    for name in names {
        let _ = writeln!(sql, "{}", drop_trigger(relation, &name));
    }
}

/// Returns the statement that drops a trigger of the table or leaf `relation`, if it exists.
fn drop_trigger(relation: &str, name: &str) -> String {
    format!(
        "DROP TRIGGER IF EXISTS {} ON {relation};",
        quote_identifier(name)
    )
}
