//! What a comparison of a cache with its table found, as a line each.

use super::Format;
use super::escape::escape;
use postgres_index_cache_core::one_line_json;
use postgres_index_cache_core::postgres::{DifferingColumn, Finding, FindingKind};
use serde::Serialize;
use serde_json::value::RawValue;

/// The word for a kind.
pub fn word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Missing => "missing",
        FindingKind::Stale => "stale",
        FindingKind::Ghost => "ghost",
    }
}

#[derive(Serialize)]
struct Differing<'a> {
    column: &'a str,
    cache: &'a RawValue,
    table: &'a RawValue,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'a str,
    kind: &'a str,
    schema: &'a str,
    table: &'a str,
    key: &'a RawValue,
    columns: Vec<Differing<'a>>,
    cause: &'a str,
}

/// A finding in a table, with its likely cause.
pub fn finding(
    format: Format,
    (schema, table): (&str, &str),
    finding: &Finding,
    cause: &str,
) -> String {
    match format {
        Format::Text => {
            let column = |column: &DifferingColumn| {
                format!(
                    "{} is {} in the cache, {} in the table",
                    column.column, column.cache, column.table
                )
            };
            let columns: Vec<String> = finding.columns.iter().map(column).collect();
            let columns = if columns.is_empty() {
                String::new()
            } else {
                format!("  {}", columns.join("; "))
            };
            let line = format!(
                "{:<7}  {schema}.{table}  {}{columns}  (likely: {cause})",
                word(finding.kind),
                finding.key
            );
            format!("{}\n", escape(&line))
        }
        Format::Json => {
            let null = RawValue::NULL;
            let raw = |json: &'_ str| {
                serde_json::from_str::<&RawValue>(json)
                    .map(ToOwned::to_owned)
                    .ok()
            };
            let key = raw(&finding.key);
            let cells: Vec<_> = finding
                .columns
                .iter()
                .map(|column| (raw(&column.cache), raw(&column.table)))
                .collect();
            let columns = finding
                .columns
                .iter()
                .zip(&cells)
                .map(|(column, (cache, table))| Differing {
                    column: &column.column,
                    cache: cache.as_deref().unwrap_or(null),
                    table: table.as_deref().unwrap_or(null),
                });
            let line = Line {
                event: "finding",
                kind: word(finding.kind),
                schema,
                table,
                key: key.as_deref().unwrap_or(null),
                columns: columns.collect(),
                cause,
            };
            // Strings and JSON: serde cannot fail on them.
            let line = serde_json::to_string(&line).unwrap_or_default();
            format!("{}\n", one_line_json(&line))
        }
    }
}
