//! [`finding`]: a row that differs between cache and table, on one line.

use super::Format;
use super::escape::escape;
use super::json::EventLine;
use super::look::{Look, Tone};
use jiff::Timestamp;
use postgres_index_cache_core::Key;
use postgres_index_cache_core::tooling::postgres::{DifferingColumn, Finding, FindingKind};
use serde::Serialize;
use serde_json::value::RawValue;

/// Returns the word for a kind of finding.
pub fn word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Missing => "missing",
        FindingKind::Stale => "stale",
        FindingKind::Ghost => "ghost",
    }
}

/// A column of a finding, as JSON shows it.
#[derive(Serialize)]
struct Differing {
    column: String,
    cache: Box<RawValue>,
    table: Box<RawValue>,
}

/// Returns the line for a finding in a table, with the likely cause.
pub fn finding(
    format: Format,
    look: &Look,
    at: Timestamp,
    (schema, table): (&str, &str),
    finding: &Finding,
    cause: &str,
) -> String {
    match format {
        Format::Text => {
            let columns: Vec<String> = finding.columns.iter().map(difference).collect();
            let columns = if columns.is_empty() {
                String::new()
            } else {
                format!("  {}", columns.join("; "))
            };
            let kind = look.paint(Tone::Bad, &format!("{:<7}", word(finding.kind)));
            // As it can be typed.
            let key = Key::from_json(&raw(&finding.key)).to_string();
            let rest = format!("{schema}.{table}  {key}{columns}  (likely: {cause})");
            // Names, values and the sender's application are text from outside.
            format!("{kind}  {}\n", escape(&rest))
        }
        Format::Json => {
            let columns = finding.columns.iter().map(|differing| Differing {
                column: differing.column.clone(),
                cache: raw(&differing.cache),
                table: raw(&differing.table),
            });
            EventLine::new("finding", at)
                .of((schema, table))
                .key(&finding.key)
                .member("kind", word(finding.kind))
                .member("columns", columns.collect::<Vec<Differing>>())
                .member("cause", cause)
                .end()
        }
    }
}

/// Returns the two values of a column that differs, for people.
fn difference(differing: &DifferingColumn) -> String {
    format!(
        "{} is {} in the cache, {} in the table",
        differing.column, differing.cache, differing.table
    )
}

/// Returns the given JSON, copied so that no digit of a number is lost; null if `json` is none.
fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
