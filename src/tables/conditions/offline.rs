//! [`evaluate`]: conditions without a server, for values whose text means the same everywhere.

use super::{Compared, Conditions, Written, column, condition};
use crate::failure::with_hint;
use crate::tables::catalog::{CatalogColumn, CatalogTable};
use crate::tables::conditions::Operator;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::CellType;

/// Makes conditions of the written ones while the server is away. `labels` has the labels of enums,
/// by the names of their columns, as they were when the server was last asked.
///
/// # Errors
/// If a column is unknown, an enum lacks a label, or PostgreSQL alone can read a value.
pub fn evaluate(
    table: &CatalogTable,
    written: &[Written],
    labels: &[(String, Vec<String>)],
) -> anyhow::Result<Conditions> {
    let conditions = written.iter().map(|written| {
        let column = column(table, written.column())?;
        let cell = if written.is_null() || written.operator == Operator::Matches {
            None
        } else {
            let own = labels.iter().find(|(name, _)| *name == column.name);
            let own = own.map(|(_, labels)| labels.as_slice());
            let cell = cell(column, written, own.unwrap_or_default());
            Some(cell.ok_or_else(|| unread(column, written))?)
        };
        condition(column, written, cell, Compared::default())
    });
    Ok(Conditions(conditions.collect::<anyhow::Result<_>>()?))
}

fn unread(column: &CatalogColumn, written: &Written) -> anyhow::Error {
    with_hint(
        anyhow!(
            "{written} cannot be read for the type {} while the server is away",
            column.type_name
        ),
        "whole and decimal numbers, texts, uuids, labels of enums, true, false and null can; or ask \
        again when the server is there",
    )
}

/// Tells whether a text is a uuid as PostgreSQL writes it.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let is_hex = |c: char| c.is_ascii_hexdigit();
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(|group| group.chars().all(is_hex))
}

/// Returns the cell of a value; `None` if PostgreSQL alone can read it. `labels` are those that the
/// enum had.
fn cell(column: &CatalogColumn, written: &Written, labels: &[String]) -> Option<Vec<u8>> {
    let text = written.value.as_str();
    let mut cell = Vec::new();
    // A domain may have an operator of its own.
    let is_domain = column.type_name != column.plain_type_name;
    if written.operator == Operator::Computed || (is_domain && written.operator.is_equality()) {
        return None;
    }
    if column.is_enum {
        // A label that is not known may be misspelt. Without this it would be equal to no row, and
        // somebody would take the empty answer for the truth.
        let is_known = !column.is_array && labels.iter().any(|label| label == text);
        if !is_known {
            return None;
        }
        // A label is its own binary form.
        column.kind.from_binary(text.as_bytes(), &mut cell).ok()?;
        return Some(cell);
    }
    let json = match column.kind {
        CellType::Int2 | CellType::Int4 | CellType::Int8 => text.parse::<i64>().ok()?.to_string(),
        // A number as JSON has it means the same to PostgreSQL: no blanks, no NaN. Cells are
        // compared digit by digit, and PostgreSQL writes neither an exponent nor a zero with a
        // sign.
        CellType::Numeric if !text.starts_with("-0") && !text.contains(['e', 'E']) => {
            serde_json::from_str::<serde_json::Number>(text).ok()?;
            text.to_string()
        }
        CellType::Bool if text == "true" || text == "false" => text.to_string(),
        // The one form that PostgreSQL writes; it reads others as well.
        CellType::Uuid if is_uuid(text) => format!("\"{text}\""),
        // A type of a fixed length is filled up with blanks, or cut.
        // Which texts a collation calls equal is known to PostgreSQL alone.
        CellType::Text
            if !column.is_nondeterministic
                && matches!(
                    column.plain_type_name.as_str(),
                    "text" | "character varying"
                ) =>
        {
            serde_json::Value::from(text).to_string()
        }
        _ => return None,
    };
    column.kind.from_json(&json, &mut cell).ok()?;
    Some(cell)
}
