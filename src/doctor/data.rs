//! The checks of rows, by a bounded sample of each table.

use super::tables::{Table, Tables};
use super::{Findings, Found};
use crate::render::count;
use crate::tables::near_limit::{self, NearLimit};
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// How long tables are sampled, all together.
const BUDGET: Duration = Duration::from_millis(300);

/// Adds the outcomes of the checks of rows.
pub(super) async fn check(findings: &mut Findings, client: &mut Client, tables: &Tables) {
    let mut announced: Vec<&Table> = tables.announced().collect();
    // The largest first: most rows that are changed are theirs.
    announced.sort_by_key(|table| std::cmp::Reverse(table.described.estimated_rows));
    let until = Instant::now() + BUDGET;
    let (mut long, mut numbers) = (Vec::new(), Vec::new());
    let (mut rows, mut looked) = (0_u64, 0_u64);
    for table in &announced {
        if Instant::now() > until {
            break;
        }
        let options = table.options.clone().unwrap_or_default();
        let Some(sample) = near_limit::sample(client, &table.described, &options).await else {
            continue;
        };
        looked += 1;
        rows += sample.sampled.unsigned_abs();
        long.extend(long_rows(table, &sample));
        numbers.extend(unsafe_numbers(table, &sample));
    }
    let all = announced.len() as u64;
    if looked == 0 && all > 0 {
        let why = "no table could be sampled as this role, or in time";
        findings.unknown("long-rows", why);
        findings.unknown("numbers", why);
        return;
    }
    let looked_at = format!(
        "{} of {looked} of {}",
        count(rows, "row"),
        count(all, "table")
    );
    findings.add("long-rows", looked_at.clone(), long);
    findings.add("numbers", looked_at, numbers);
}

/// Returns the problem that rows of a table are too long, or nearly, to be sent.
fn long_rows(table: &Table, sample: &NearLimit) -> Option<Found> {
    if sample.rows == 0
        || table
            .options
            .as_ref()
            .is_some_and(|options| options.no_data)
    {
        return None;
    }
    let (name, typed) = (table.described.display_name(), table.described.typed_name());
    Some(table.found(Problem {
        code: "long-rows",
        severity: Severity::Warning,
        text: format!(
            "{} of {} sampled rows of {name} are near the 7999 bytes of a payload, or past them: \
            their data is not sent, and every cache reads such a row again",
            sample.rows, sample.sampled
        ),
        remedy: Some(Remedy::Command {
            what: "send the keys alone, or choose --columns",
            command: format!("pgic install-triggers {typed} --no-data"),
        }),
    }))
}

/// Returns the problem that numbers of a table are sent which JavaScript rounds.
fn unsafe_numbers(table: &Table, sample: &NearLimit) -> Option<Found> {
    if sample.unsafe_numbers.is_empty() {
        return None;
    }
    let columns: Vec<&str> = sample.unsafe_numbers.iter().map(String::as_str).collect();
    let parsing = "parse payloads with a parser that keeps all digits of a number (every serde_json \
        type of this library does)";
    // The generic function knows no columns.
    let is_generic = table
        .options
        .as_ref()
        .is_some_and(|options| options.generic);
    let remedy = if is_generic {
        Remedy::Advice(parsing.to_string())
    } else {
        Remedy::Command {
            what: "parse payloads with a parser that keeps all digits, or send them as texts",
            command: format!(
                "pgic install-triggers {} --long-numbers-as-text",
                table.described.typed_name()
            ),
        }
    };
    Some(table.found(Problem {
        code: "numbers-rounded",
        severity: Severity::Warning,
        text: format!(
            "{} sends numbers past 2^53 in {}: JSON.parse of JavaScript rounds them, and finds no \
            row by such a key",
            table.described.display_name(),
            columns.join(", ")
        ),
        remedy: Some(remedy),
    }))
}
