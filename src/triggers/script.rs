//! The same triggers as a migration file: statements that may be run again, and their inverse.

use super::TriggerOptions;
use super::sql::Expected;
use crate::tables::catalog::{CatalogTable, RelationKind};
use postgres_index_cache_core::postgres::{quote_identifier, quote_literal};
use std::fmt::Write as _;
use std::time::Duration;

/// A file of one transaction around what `body` writes for each table. `mode` is the lock that is
/// taken first, so that no running statement goes on with an old function.
pub fn file(
    title: &str,
    version: i32,
    mode: &str,
    lock_timeout: Duration,
    tables: &[(&CatalogTable, String)],
) -> String {
    let mut sorted: Vec<&(&CatalogTable, String)> = tables.iter().collect();
    // Everybody who locks several tables does it in the same order.
    sorted.sort_by_key(|(table, _)| table.sql_name());
    let mut sql = format!(
        "-- {title}, for PostgreSQL {} and later; made by pgic.\nBEGIN;\nSET LOCAL lock_timeout = \
        {};\n\
         SET LOCAL search_path = pg_catalog, pg_temp;\n",
        version / 10_000,
        // One after the other they may wait as long as is allowed for all.
        (lock_timeout.as_millis() / sorted.len().max(1) as u128).max(1)
    );
    for (table, _) in &sorted {
        // Writing into a String cannot fail.
        let only = if table.kind == RelationKind::Partitioned {
            ""
        } else {
            "ONLY "
        };
        let _ = writeln!(sql, "LOCK TABLE {only}{} IN {mode} MODE;", table.sql_name());
    }
    for (_, body) in sorted {
        let _ = write!(sql, "\n{body}");
    }
    sql.push_str("\nCOMMIT;\n");
    sql
}

/// What makes a table's triggers, whatever of them is there already.
pub fn install(
    table: &CatalogTable,
    expected: &Expected,
    options: &TriggerOptions,
    version: i32,
) -> String {
    let mut sql = expected.create_function.clone();
    let _ = writeln!(
        sql,
        "COMMENT ON FUNCTION {} IS {};",
        expected.sql_function(),
        quote_literal(&expected.comment)
    );
    for (name, events) in expected.triggers() {
        let trigger = quote_identifier(name);
        let relation = table.sql_name();
        let create = if version >= 140_000 {
            "CREATE OR REPLACE TRIGGER".to_string()
        } else {
            format!("DROP TRIGGER IF EXISTS {trigger} ON {relation};\nCREATE TRIGGER")
        };
        let _ = writeln!(
            sql,
            "{create} {trigger} {} EXECUTE FUNCTION {};",
            expected.when(events, &relation),
            expected.call()
        );
        if options.always {
            let _ = writeln!(
                sql,
                "ALTER TABLE {relation} ENABLE ALWAYS TRIGGER {trigger};"
            );
        }
    }
    for leaf in table.leaves.iter().filter(|_| !options.no_truncate) {
        let trigger = quote_identifier(&Expected::leaf_trigger(leaf));
        let relation = leaf.sql_name();
        let _ = writeln!(
            sql,
            "DROP TRIGGER IF EXISTS {trigger} ON {relation};\nCREATE TRIGGER {trigger} AFTER \
            TRUNCATE ON {relation} FOR EACH STATEMENT EXECUTE FUNCTION {};",
            expected.call()
        );
        if options.always {
            let _ = writeln!(
                sql,
                "ALTER TABLE {relation} ENABLE ALWAYS TRIGGER {trigger};"
            );
        }
    }
    if options.no_truncate {
        let _ = writeln!(sql, "{}", drop_trigger(table, &expected.truncate_trigger));
    }
    sql
}

/// What takes them away, whatever of them is there.
pub fn remove(table: &CatalogTable, expected: &Expected) -> String {
    let triggers = [&expected.row_trigger, &expected.truncate_trigger];
    let of_leaves = table.leaves.iter().map(|leaf| {
        format!(
            "DROP TRIGGER IF EXISTS {} ON {};",
            quote_identifier(&Expected::leaf_trigger(leaf)),
            leaf.sql_name()
        )
    });
    let drops: Vec<String> = of_leaves
        .chain(triggers.iter().map(|name| drop_trigger(table, name)))
        .collect();
    let drop = if expected.is_generic {
        "-- The function is that of all tables of its schema: drop it with the last of their \
        triggers."
            .to_string()
    } else {
        format!("DROP FUNCTION IF EXISTS {};", expected.sql_function())
    };
    format!("{}\n{drop}\n", drops.join("\n"))
}

fn drop_trigger(table: &CatalogTable, name: &str) -> String {
    format!(
        "DROP TRIGGER IF EXISTS {} ON {};",
        quote_identifier(name),
        table.sql_name()
    )
}
