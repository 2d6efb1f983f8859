//! `pgic verify --from`: what a node of a log has, compared with PostgreSQL by the relay.

use super::{Args, Summary, finish, verdict_line};
use crate::commands::Context;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::nats::{LogAddress, find_table};
use crate::render::escape::escape;
use crate::render::finding;
use crate::render::look::Tone;
use crate::render::{Format, count, print};
use anyhow::anyhow;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::log::TableName;
use postgres_index_cache_core::tooling::postgres::{ComparisonReport, Verification};
use std::time::Instant;

/// Why a row may differ. The relay's cache has the same row.
const CAUSE: &str = "the relay's cache has that row too: pgic why TABLE KEY looks for the cause";

/// Follows the log as a node does, has the relay compare each table, and prints the verdicts.
///
/// # Errors
/// If the rows are not proven, or no comparison can be finished.
pub(super) async fn run(context: &Context, args: &Args, url: &str) -> anyhow::Result<ExitCode> {
    let address = LogAddress::new(url, None, &context.environment)?;
    let mut follow = Box::pin(address.live("verify")).await?;
    let tables: Vec<TableName> = args
        .tables
        .iter()
        .map(|name| Ok(find_table(&follow, name)?.description.name()))
        .collect::<anyhow::Result<_>>()?;
    let mut summary = Summary::default();
    for _ in 0..args.rounds.unwrap_or(1) {
        for table in &tables {
            let began = Instant::now();
            match follow.verify(table).await {
                Verification::Compared(report) => {
                    summary.add(&report);
                    summary.compared += 1;
                    show(context, table, &report, began)?;
                }
                Verification::Inconclusive(why) => {
                    let error = anyhow!("{}.{}: {why}", table.schema, table.name);
                    return Err(with_hint(
                        error,
                        "try again; pgic status --from shows the log",
                    ));
                }
            }
        }
        if summary.differing() > 0 {
            break;
        }
    }
    finish(context, tables.len(), &summary)
}

/// Prints the verdict on a table, with the rows that differ.
fn show(
    context: &Context,
    table: &TableName,
    report: &ComparisonReport,
    began: Instant,
) -> anyhow::Result<()> {
    let names = (table.schema.as_str(), table.name.as_str());
    let findings = report.findings.iter().map(|found| {
        let (format, look) = (context.format, &context.look);
        finding::finding(format, look, Timestamp::now(), names, found, CAUSE)
    });
    print(&findings.collect::<String>())?;
    let more = report.differing() - report.findings.len().min(report.differing());
    if more > 0 {
        context.notice(&format!(
            "{more} more rows of {}.{} differ",
            names.0, names.1
        ));
    }
    let is_equal = report.differing() == 0;
    match context.format {
        Format::Json => {
            let word = if is_equal { "equal" } else { "differs" };
            print(&verdict_line(names, word, report, 0, began.elapsed()).end())
        }
        Format::Text if is_equal => {
            let text = format!(
                "{}.{}  {}, as the relay has compared them and this node has them",
                names.0,
                names.1,
                count(report.rows as u64, "row")
            );
            let word = context.look.paint(Tone::Good, "equal");
            print(&format!("{word}    {}\n", escape(&text)))
        }
        Format::Text => Ok(()),
    }
}
