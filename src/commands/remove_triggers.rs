//! `pgic remove-triggers`.

use super::{Context, install_triggers};
use crate::cli::parse_duration;
use crate::exit_code::ExitCode;
use crate::render::print;
use crate::tables::catalog;
use crate::triggers::OptionChanges;
use crate::triggers::apply::run as apply;
use crate::triggers::plan::PlanKind;
use anyhow::Context as _;
use std::time::Duration;

/// `pgic remove-triggers TABLE… | --all`.
///
/// Drops what `pgic install-triggers` made: the triggers, and each function that nothing else
/// calls. Triggers and functions of others stay.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(required_unless_present = "all", value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Every table of the database that has them
    #[arg(long, conflicts_with = "tables")]
    pub all: bool,
    /// With --all: those of this schema alone
    #[arg(
        long,
        value_name = "SCHEMA",
        requires = "all",
        conflicts_with = "tables"
    )]
    pub schema: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the SQL as a migration file that may be run again, and do nothing: the inverse of
    /// install-triggers'
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    pub print_sql: bool,
    /// How long to wait for the tables' locks, all together
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub lock_timeout: Duration,
}

/// Removes.
///
/// # Errors
/// When the server refuses; nothing has been changed then.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut client = context.server("remove-triggers")?.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog::version_number(&catalog).await?;
    let tables = if args.all {
        let oids = catalog::tables_with_triggers(&catalog).await?;
        let mut tables = catalog::describe(&catalog, &oids).await?;
        tables.retain(|table| {
            args.schema
                .as_ref()
                .is_none_or(|schema| *schema == table.schema)
        });
        tables
    } else {
        catalog::resolve(&catalog, &args.tables).await?
    };
    catalog.roll_back().await.context("end the transaction")?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let plans = apply(
        &mut client,
        PlanKind::Remove,
        &oids,
        &OptionChanges {
            prints_only: args.print_sql,
            ..OptionChanges::default()
        },
        args.lock_timeout,
        args.dry_run || args.print_sql,
    )
    .await
    .context("remove triggers")?;
    if args.print_sql {
        let title = "Without the triggers that announce changes";
        let sql = install_triggers::migration(
            title,
            version,
            PlanKind::Remove,
            args.lock_timeout,
            &tables,
            &plans,
        );
        install_triggers::print_migration(context, &sql)?;
        return Ok(ExitCode::Yes);
    }
    print(&install_triggers::show(
        context.format,
        &plans,
        args.dry_run,
    ))?;
    if plans.iter().all(|plan| plan.steps.is_empty()) {
        context.notice("nothing to remove: no trigger here is one that pgic made");
    }
    Ok(ExitCode::Yes)
}
