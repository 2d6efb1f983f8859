//! `pgic remove-triggers`.

use super::{Context, install_triggers};
use crate::catalog;
use crate::cli::parse_duration;
use crate::exit_code::ExitCode;
use crate::render::print;
use crate::triggers::Asked;
use crate::triggers::plan::{Kind, run as run_plan};
use anyhow::Context as _;
use std::time::Duration;

/// `pgic remove-triggers TABLE… | --all`.
///
/// Drops what `pgic install-triggers` made: the triggers, and each function that nothing else calls. Triggers and
/// functions of others stay.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(required_unless_present = "all", value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Every table of the database that has them
    #[arg(long, conflicts_with = "tables")]
    pub all: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for each table's lock
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub lock_timeout: Duration,
}

/// Removes.
///
/// # Errors
/// When the server refuses; nothing has been changed then.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut client = context.server("remove-triggers")?.client().await?;
    let oids = if args.all {
        catalog::tables_with_triggers(&client).await?
    } else {
        catalog::resolve(&client, &args.tables).await?.iter().map(|table| table.oid).collect()
    };
    let plans = run_plan(&mut client, Kind::Remove, &oids, &Asked::default(), args.lock_timeout, args.dry_run)
        .await
        .context("remove triggers")?;
    print(&install_triggers::show(context.format, &plans, args.dry_run))?;
    if plans.iter().all(|plan| plan.steps.is_empty()) {
        context.notice("nothing to remove: no trigger here is one that pgic made");
    }
    Ok(ExitCode::Yes)
}
