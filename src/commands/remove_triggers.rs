//! `pgic remove-triggers`: the inverse of `install-triggers`, whose tables and migration files it
//! shows in the same form.

use super::plans::Plans;
use super::{Context, confirm, install_triggers};
use crate::completion;
use crate::exit_code::ExitCode;
use crate::render::{count, print};
use crate::tables::catalog;
use crate::triggers::apply::run as apply;
use crate::triggers::plan::PlanKind;
use crate::triggers::{AskedTable, OptionChanges};
use crate::units::parse_duration;
use anyhow::Context as _;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Drop the triggers that pgic made
///
/// Drops all that install-triggers made: the triggers, and each function that nothing else calls,
/// all tables in one transaction. Triggers and functions of others stay. Nothing is dropped with
/// CASCADE.
///
/// Readers and writers of a table wait while triggers are dropped. Only the owner of the table, or
/// a member of that role, can run this.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(required_unless_present = "all", value_name = "TABLE")]
    #[arg(add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// Every table of the database that has them
    #[arg(long, conflicts_with = "tables")]
    pub all: bool,
    /// With --all: those of these schemas alone; may be repeated
    #[arg(
        long = "schema",
        value_name = "SCHEMA",
        value_delimiter = ',',
        requires = "all",
        conflicts_with = "tables"
    )]
    #[arg(add = completion::schemas())]
    pub schemas: Vec<String>,
    /// With --all: but not these tables
    #[arg(long, value_name = "TABLE", value_delimiter = ',', requires = "all")]
    #[arg(add = completion::announced_tables())]
    pub exclude: Vec<String>,
    /// Do not ask before all triggers are removed; without a terminal, --all needs this or --schema
    #[arg(short, long)]
    pub yes: bool,
    /// How long to wait for the tables' locks, all together: 500ms, 5s, 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub lock_timeout: Duration,
    /// Show the steps, and take none
    #[arg(long)]
    pub dry_run: bool,
    /// Print the SQL as a migration file that may be run again, and do nothing: the inverse of
    /// install-triggers'
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    pub print_sql: bool,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic remove-triggers users
  pgic remove-triggers --all --schema app --dry-run
  pgic remove-triggers --all --yes
  pgic remove-triggers users --print-sql > 0043_no_triggers.sql

Exit codes:
  0  done, or there was nothing to remove
  1  the question was answered with no
  2  the server refused, or a lock was not granted in time; nothing has been
     changed then
  3  the server could not be reached, or took no session: trying again may
     help";

/// Removes the triggers, or shows the steps that this takes.
///
/// # Errors
/// If a table is not found, a lock is not granted in time, or the server refuses. Nothing has been
/// changed then.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let server = context.server("remove-triggers")?;
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog.version_number().await?;
    // `--all` means the tables that have triggers of pgic's: a table without any is no news here,
    // while one that was named is reported as having nothing to remove.
    let tables = if args.all {
        let oids = catalog::tables_with_triggers(&catalog).await?;
        let mut tables = catalog::describe(&catalog, &oids).await?;
        let excluded = catalog::resolve(&catalog, &args.exclude).await?;
        tables.retain(|table| {
            let is_of_schema = args.schemas.is_empty() || args.schemas.contains(&table.schema);
            is_of_schema && excluded.iter().all(|other| other.oid != table.oid)
        });
        tables
    } else {
        catalog::resolve(&catalog, &args.tables).await?
    };
    // `apply` takes locks in short tries, each in a transaction of its own: this one must not keep
    // its locks meanwhile.
    catalog.roll_back().await.context("end the transaction")?;
    if args.all && !args.dry_run && !args.print_sql && !args.yes && !tables.is_empty() {
        let place = match server.place() {
            Some(place) => place.to_string(),
            None => server.to_string(),
        };
        let what = format!(
            "remove the triggers of {} of {place}",
            count(tables.len() as u64, "table")
        );
        // Without a terminal a schema must have been chosen: a script that means another database
        // would empty this one.
        let may_ask = std::io::stdin().is_terminal() || args.schemas.is_empty();
        let hint = "give --yes, or name the schema with --schema";
        if may_ask && !confirm(&what, hint)? {
            context.notice("nothing was removed");
            return Ok(ExitCode::No);
        }
    }
    if !args.print_sql {
        context.print_place(&server)?;
    }
    let changes = OptionChanges {
        prints_only: args.print_sql,
        ..OptionChanges::default()
    };
    let plans = apply(
        &mut client,
        PlanKind::Remove,
        &tables,
        &AskedTable::all(tables.iter().map(|table| table.oid), &changes),
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
    print(&Plans::new(context, PlanKind::Remove, args.dry_run, args.lock_timeout).show(&plans))?;
    if plans.iter().all(|plan| plan.steps.is_empty()) {
        context.notice("nothing to remove: no trigger here is one that pgic made");
    }
    Ok(ExitCode::Yes)
}
