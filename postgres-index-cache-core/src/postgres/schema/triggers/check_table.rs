//! [`check_table`]: whether a relation can be announced and followed at all.

use super::problem::{Problem, Remedy, critical};
use crate::postgres::schema::catalog::{CatalogTable, RelationKind};

/// Returns the reason why a relation cannot be announced and followed, whatever triggers it has;
/// `None` if it can.
pub fn check_table(table: &CatalogTable) -> Option<Problem> {
    match table.kind {
        RelationKind::Table if table.is_temporary => Some(unfit(
            table,
            "temporary-table",
            "a temporary table",
            "only its own session sees it, so no cache can follow it",
        )),
        RelationKind::Table if is_system_schema(&table.schema) => Some(unfit(
            table,
            "system-table",
            "a system table",
            "name a table of your own",
        )),
        RelationKind::Table | RelationKind::Partitioned if table.is_partition => Some(unfit(
            table,
            "partition",
            "a partition",
            "name the table that it is a partition of: its changes are announced as that one's",
        )),
        RelationKind::Table if table.has_children => Some(unfit(
            table,
            "inheritance-parent",
            "a table that others inherit from (INHERITS, or a hypertable): a read of it returns \
            their rows, and no trigger of it announces them",
            "name the tables that hold the rows, or make it a partitioned table",
        )),
        RelationKind::Table | RelationKind::Partitioned if table.key.is_none() => {
            let text = format!(
                "{} has neither a primary key nor a unique key of columns that are known to be NOT \
                NULL for every row",
                table.display_name()
            );
            let advice = "add one: without a key no cache can tell its rows apart";
            Some(critical("no-key", text, Remedy::Advice(advice.to_string())))
        }
        RelationKind::Table | RelationKind::Partitioned => None,
        RelationKind::View => Some(unfit(table, "view", "a view", "name the tables under it")),
        RelationKind::MaterializedView => Some(unfit(
            table,
            "view",
            "a materialised view",
            "name the tables under it",
        )),
        RelationKind::Foreign => Some(unfit(
            table,
            "foreign-table",
            "a foreign table",
            "connect to the server where it lives",
        )),
        RelationKind::Other => Some(unfit(table, "not-a-table", "not a table", "name a table")),
    }
}

/// Returns the reason why statement triggers (`--bulk`) would not announce every change of a table;
/// `None` if they do. Row triggers announce them all.
pub fn check_bulk(table: &CatalogTable) -> Option<Problem> {
    let why = if table.has_branches {
        "has partitions that are partitioned: a statement on one of these fires no statement \
        trigger of its partitions"
    } else if table.leaves.iter().any(|leaf| leaf.is_foreign) {
        "has a partition that is a foreign table, whose statements have no transition tables"
    } else if table.has_parents {
        "inherits from another table: a statement on that one changes rows of this one, and fires \
        no statement trigger of it"
    } else if table.fingerprint.is_subscribed {
        "is written to by logical replication, which fires no statement trigger"
    } else {
        return None;
    };
    let text = format!(
        "statement triggers (--bulk) do not announce every change: {} {why}",
        table.display_name()
    );
    let remedy = Remedy::Command {
        what: "install a row trigger",
        command: format!("pgic install-triggers {} --no-bulk", table.typed_name()),
    };
    Some(critical("bulk-unfit", text, remedy))
}

/// Makes the problem of a relation that cannot be followed: `is` says which kind of relation it is.
fn unfit(table: &CatalogTable, code: &'static str, is: &str, advice: &str) -> Problem {
    critical(
        code,
        format!("{} is {is}", table.display_name()),
        Remedy::Advice(advice.to_string()),
    )
}

fn is_system_schema(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema" | "pg_toast")
}
