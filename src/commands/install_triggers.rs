//! `pgic install-triggers`.

use super::Context;
use crate::catalog;
use crate::cli::parse_duration;
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::table::{Heading, render};
use crate::render::{Format, print};
use crate::triggers::check_channel;
use crate::triggers::plan::{Kind, TablePlan, run as run_plan};
use anyhow::Context as _;
use std::time::Duration;

/// `pgic install-triggers TABLE…`.
///
/// Each table gets a trigger function of its own beside it, a row trigger and a TRUNCATE trigger. All tables are done in
/// one transaction: all of it happens or nothing. Running it again changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(required = true, value_name = "TABLE")]
    pub tables: Vec<String>,
    /// The channel to notify on [default: what is installed, else cache_invalidation]
    #[arg(long, value_name = "NAME", value_parser = |name: &str| check_channel(name).map_err(|error| error.to_string()))]
    pub channel: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for each table's lock
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub lock_timeout: Duration,
}

/// Installs.
///
/// # Errors
/// When a table is refused or the server refuses; nothing has been changed then.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut client = context.server("install-triggers")?.client().await?;
    let tables = catalog::resolve(&client, &args.tables).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let plans = run_plan(&mut client, Kind::Install, &oids, args.channel.as_deref(), args.lock_timeout, args.dry_run)
        .await
        .context("install triggers")?;
    print(&show(context.format, &plans, args.dry_run))?;
    if plans.iter().all(|plan| plan.steps.is_empty()) {
        context.notice("nothing to change: the triggers are as they should be");
    }
    Ok(ExitCode::Yes)
}

/// A row a table, and the steps when nothing was done yet.
pub fn show(format: Format, plans: &[TablePlan], dry_run: bool) -> String {
    match format {
        Format::Json => plans.iter().map(|plan| json(plan, dry_run)).collect(),
        Format::Text => {
            let headings = ["table", "result", "channel", "function"].map(Heading::text);
            let mut text = render(&headings, plans.iter().map(|plan| row(plan, dry_run)));
            for plan in plans {
                let lead = |line: &String| format!("  {}: {}\n", escape(&plan.table), escape(line));
                text.extend(plan.notes.iter().map(lead));
                if dry_run {
                    text.extend(plan.steps.iter().map(|step| lead(&step.what)));
                }
            }
            text
        }
    }
}

fn result(plan: &TablePlan, dry_run: bool) -> String {
    match (plan.steps.is_empty(), dry_run) {
        (false, true) => format!("would be {}", plan.result),
        _ => plan.result.to_string(),
    }
}

fn row(plan: &TablePlan, dry_run: bool) -> Vec<String> {
    let (old, new) = &plan.channel;
    let channel = match old {
        Some(old) if new.is_empty() => old.clone(),
        Some(old) if old != new => format!("{old} -> {new}"),
        _ => new.clone(),
    };
    vec![plan.table.clone(), result(plan, dry_run), channel, plan.function.clone()]
}

fn json(plan: &TablePlan, dry_run: bool) -> String {
    let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
    let (old, new) = &plan.channel;
    let object = serde_json::json!({
        "table": plan.table,
        "result": result(plan, dry_run),
        "channel": if new.is_empty() { old.as_ref() } else { Some(new) },
        "old_channel": old,
        "function": plan.function,
        "steps": steps,
        "notes": plan.notes,
    });
    format!("{}\n", postgres_index_cache_core::one_line_json(&object.to_string()))
}
