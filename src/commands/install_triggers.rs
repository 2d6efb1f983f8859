//! `pgic install-triggers`.

use super::Context;
use crate::cli::parse_duration;
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::table::{Heading, render};
use crate::render::{Format, print};
use crate::tables::catalog::{self, CatalogTable};
use crate::triggers::apply::run as apply;
use crate::triggers::plan::{PlanKind, TablePlan};
use crate::triggers::{OptionChanges, TriggerOptions, check_channel, script};
use anyhow::Context as _;
use postgres_index_cache_core::is_obeyed;
use std::io::IsTerminal as _;
use std::time::Duration;

/// `pgic install-triggers TABLE…`.
///
/// Each table gets a trigger function of its own beside it, a row trigger and a TRUNCATE trigger.
/// All tables are done in one transaction: all of it happens or nothing. Running it again changes
/// nothing.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(required_unless_present = "all", value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Every table of a schema that has a key
    #[arg(long, conflicts_with = "tables", requires = "schema")]
    pub all: bool,
    /// The schema for --all
    #[arg(
        long,
        value_name = "SCHEMA",
        requires = "all",
        conflicts_with = "tables"
    )]
    pub schema: Option<String>,
    /// The channel to notify on [default: what is installed, else cache_invalidation]
    #[arg(long, value_name = "NAME", value_parser = |name: &str| check_channel(name).map_err(|error| error.to_string()))]
    pub channel: Option<String>,
    /// Send these columns alone, and the key
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        conflicts_with = "no_data"
    )]
    pub columns: Vec<String>,
    /// Send keys only: a cache reads the rows itself
    #[arg(long)]
    pub no_data: bool,
    /// Do not announce an UPDATE that changes nothing that is sent
    #[arg(long)]
    pub on_change: bool,
    /// Fire under session_replication_role = replica too
    #[arg(long)]
    pub always: bool,
    /// Do not announce TRUNCATE
    #[arg(long)]
    pub no_truncate: bool,
    /// Let a failure of the trigger fail the write
    #[arg(long)]
    pub no_guard: bool,
    /// Call the schema's one notify_cache_change() instead of a function of the table's own; the
    /// key must be called id
    #[arg(long)]
    pub generic: bool,
    /// Start from the defaults: an option that is not given otherwise keeps what is installed
    #[arg(long)]
    pub defaults: bool,
    /// Replace a function of the needed name that pgic did not make; its triggers stay
    #[arg(long)]
    pub replace_function: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the SQL as a migration file that may be run again, and do nothing; remove-triggers
    /// prints its inverse
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    pub print_sql: bool,
    /// How long to wait for the tables' locks, all together
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub lock_timeout: Duration,
}

/// Installs.
///
/// # Errors
/// When a table is refused or the server refuses; nothing has been changed then.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut client = context.server("install-triggers")?.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog::version_number(&catalog).await?;
    let tables = match &args.schema {
        Some(schema) => {
            let oids = catalog::tables_of_schema(&catalog, schema).await?;
            let (with_key, without): (Vec<CatalogTable>, Vec<CatalogTable>) =
                catalog::describe(&catalog, &oids)
                    .await?
                    .into_iter()
                    .partition(|table| table.key.is_some());
            for table in without {
                context.notice(&format!(
                    "{} is left out: it has no key",
                    table.display_name()
                ));
            }
            with_key
        }
        None => catalog::resolve(&catalog, &args.tables).await?,
    };
    catalog.roll_back().await.context("end the transaction")?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let asked = OptionChanges {
        channel: args.channel,
        columns: (!args.columns.is_empty()).then_some(args.columns),
        no_data: args.no_data,
        on_change: args.on_change,
        always: args.always,
        no_truncate: args.no_truncate,
        no_guard: args.no_guard,
        generic: args.generic,
        defaults: args.defaults,
        prints_only: args.print_sql,
        replace_function: args.replace_function,
    };
    let is_dry = args.dry_run || args.print_sql;
    let named = asked.columns.clone().unwrap_or_default();
    let plans = apply(
        &mut client,
        PlanKind::Install,
        &oids,
        &asked,
        args.lock_timeout,
        is_dry,
    )
    .await?;
    for (table, plan) in tables.iter().zip(&plans) {
        context.notices(
            &secret_columns(table, plan, &named)
                .into_iter()
                .collect::<Vec<_>>(),
        );
    }
    if args.print_sql {
        let sql = migration(
            "Triggers that announce changes",
            version,
            PlanKind::Install,
            args.lock_timeout,
            &tables,
            &plans,
        );
        print_migration(context, &sql)?;
        return Ok(ExitCode::Yes);
    }
    print(&show(context.format, &plans, args.dry_run))?;
    if plans.iter().all(|plan| plan.steps.is_empty()) {
        context.notice("nothing to change: the triggers are as they should be");
    }
    Ok(ExitCode::Yes)
}

/// What to say of columns that are sent and look like secrets, unless they were named on purpose.
/// Any role of the database can LISTEN, whatever it may SELECT.
fn secret_columns(table: &CatalogTable, plan: &TablePlan, named: &[String]) -> Option<String> {
    let options = plan.options.1.as_ref()?;
    let is_shown =
        |name: &String| options.sends(name) && looks_like_secret(name) && !named.contains(name);
    let names: Vec<&str> = table
        .columns
        .iter()
        .map(|column| &column.name)
        .filter(|name| is_shown(name))
        .map(String::as_str)
        .collect();
    let others = table
        .columns
        .iter()
        .map(|column| &column.name)
        .filter(|name| options.sends(name) && !is_shown(name));
    let others: Vec<&str> = others.map(String::as_str).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} sends {}, which by the name is a secret: any role of the database can LISTEN and \
            read it; to leave it out: --columns {}",
            table.display_name(),
            names.join(", "),
            others.join(",")
        )
    })
}

/// Whether a column's name is that of a secret.
fn looks_like_secret(name: &str) -> bool {
    const PARTS: [&str; 10] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "apikey",
        "credential",
        "credentials",
        "otp",
    ];
    let name = name.to_lowercase();
    let has_part = |part: &str| {
        name.split(|c: char| !c.is_alphanumeric())
            .any(|own| own == part || own.strip_suffix('s') == Some(part))
    };
    PARTS.iter().any(|part| has_part(part))
        || ["password", "secret", "api_key", "private_key", "access_key"]
            .iter()
            .any(|part| name.contains(part))
}

/// Prints a migration file. On a terminal what that would obey is escaped, and said to be.
///
/// # Errors
/// As [`print`].
pub fn print_migration(context: &Context, sql: &str) -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() || !sql.chars().any(|c| c != '\n' && is_obeyed(c)) {
        return print(sql);
    }
    context.notice(
        "names have characters that a terminal obeys, and are shown escaped: redirect the output \
        for the SQL as it is",
    );
    print(
        &sql.split_inclusive('\n')
            .map(|line| match line.strip_suffix('\n') {
                Some(line) => format!("{}\n", escape(line)),
                None => escape(line).into_owned(),
            })
            .collect::<String>(),
    )
}

/// The plans as a migration file.
pub fn migration(
    title: &str,
    version: i32,
    kind: PlanKind,
    lock_timeout: Duration,
    tables: &[CatalogTable],
    plans: &[TablePlan],
) -> String {
    let pieces: Vec<(&CatalogTable, String)> = tables
        .iter()
        .zip(plans)
        .map(|(table, plan)| (table, plan.script.clone()))
        .collect();
    script::file(title, version, kind.lock(), lock_timeout, &pieces)
}

/// A row a table, and the steps when nothing was done yet.
pub fn show(format: Format, plans: &[TablePlan], dry_run: bool) -> String {
    match format {
        Format::Json => plans.iter().map(|plan| json(plan, dry_run)).collect(),
        Format::Text => {
            let has_options = plans.iter().any(|plan| !options(plan).is_empty());
            let names = ["table", "result", "channel", "function", "options"];
            let headings = names.map(Heading::text);
            let shown = if has_options {
                &headings[..]
            } else {
                &headings[..4]
            };
            let rows = plans.iter().map(|plan| {
                let mut row = row(plan, dry_run);
                row.truncate(shown.len());
                row
            });
            let mut text = render(shown, rows);
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
    vec![
        plan.table.clone(),
        result(plan, dry_run),
        channel(plan),
        plan.function.clone(),
        options(plan),
    ]
}

/// Old and new where they differ.
fn change(plan: &TablePlan, show: impl Fn(&TriggerOptions) -> String) -> Option<String> {
    let old = plan.options.0.as_ref().map(&show);
    let new = plan.options.1.as_ref().map(&show);
    let named = |text: String| {
        if text.is_empty() {
            "none".to_string()
        } else {
            text
        }
    };
    match (old, new) {
        (Some(old), Some(new)) if old != new => Some(format!("{} -> {}", named(old), named(new))),
        (old, new) => new.or(old),
    }
}

fn channel(plan: &TablePlan) -> String {
    change(plan, |options| options.channel.clone())
        .or_else(|| plan.channel.clone())
        .unwrap_or_default()
}

fn options(plan: &TablePlan) -> String {
    change(plan, TriggerOptions::describe).unwrap_or_default()
}

fn json(plan: &TablePlan, dry_run: bool) -> String {
    let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
    let (old, new) = &plan.options;
    let of = |options: &TriggerOptions| options.channel.clone();
    let object = serde_json::json!({
        "table": plan.table,
        "result": result(plan, dry_run),
        "channel": new.as_ref().or(old.as_ref()).map(of).or_else(|| plan.channel.clone()),
        "old_channel": old.as_ref().map(of),
        "options": new,
        "old_options": old,
        "function": plan.function,
        "steps": steps,
        "notes": plan.notes,
    });
    format!(
        "{}\n",
        postgres_index_cache_core::one_line_json(&object.to_string())
    )
}
