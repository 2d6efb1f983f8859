//! `pgic install-triggers`: makes tables announce their changes. The triggers that a table has,
//! those that it should have, and the steps in between are worked out in
//! [`triggers`](crate::triggers); this file asks for them and shows them.

mod measure;

use super::Context;
use super::plans::Plans;
use crate::completion;
use crate::exit_code::ExitCode;
use crate::failure::{Report, with_hint};
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, print};
use crate::settings::Settings;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::triggers::apply::run as apply;
use crate::triggers::condition::{self, AskedCondition};
use crate::triggers::plan::{FunctionFacts, PlanKind, TablePlan, refusal};
use crate::triggers::secret_columns::secret_columns;
use crate::triggers::{AskedTable, OptionChanges, check_channel, script};
use crate::units::parse_duration;
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use measure::Times;
use postgres_index_cache_core::tooling::is_obeyed;
use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio_postgres::Client;

/// Create or refresh the triggers that announce changes of tables
///
/// Each table gets a function of its own in the same schema, a row trigger and a TRUNCATE trigger.
/// All tables are done in one transaction: everything happens or nothing. Running the command again
/// changes nothing. An option that is not given stays as installed.
///
/// Writers of a table wait while triggers are made, readers do not. Only the owner of the table, or
/// a member of that role, with CREATE on the schema, can run this.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", add = completion::tables())]
    pub tables: Vec<String>,
    /// Every table of a schema that has a key
    #[arg(long, conflicts_with = "tables", requires = "schemas")]
    pub all: bool,
    /// The schemas for --all; may be repeated
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
    #[arg(add = completion::tables())]
    pub exclude: Vec<String>,
    /// With --all: name the tables that are refused, and install the others
    #[arg(long, requires = "all")]
    pub skip_refused: bool,
    /// The tables of pgic.toml, each with its options there
    #[arg(long, conflicts_with_all = ["tables", "all", "channel", "columns", "exclude_columns"])]
    #[arg(conflicts_with_all = ["channel_per_table", "condition", "bulk", "no_bulk", "no_data"])]
    #[arg(conflicts_with_all = ["on_change", "always", "no_truncate", "no_guard", "generic", "defaults"])]
    #[arg(conflicts_with_all = ["long_numbers_as_text"])]
    pub from_config: bool,
    /// The channel to notify on [default: as installed, else cache_invalidation]
    #[arg(long, value_name = "NAME", value_parser = parse_channel)]
    #[arg(add = completion::channels())]
    pub channel: Option<String>,
    /// Notify on a channel of each table's own, such as cache_invalidation.users
    #[arg(long, conflicts_with = "channel")]
    pub channel_per_table: bool,
    /// Send these columns alone, and the key
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        conflicts_with = "no_data"
    )]
    #[arg(add = completion::columns())]
    pub columns: Vec<String>,
    /// Send all columns but these; those of the key are always sent
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        conflicts_with_all = ["columns", "no_data"]
    )]
    #[arg(add = completion::columns())]
    pub exclude_columns: Vec<String>,
    /// Announce the rows that fulfil this condition alone: a row that ceases to is announced as
    /// deleted, one that begins to as inserted; 'true' for all rows
    #[arg(long = "where", value_name = "CONDITION", allow_hyphen_values = true)]
    pub condition: Option<String>,
    /// Announce a statement's rows packed, by statement triggers: cheaper for writers of many rows
    #[arg(long, conflicts_with_all = ["on_change", "generic"])]
    pub bulk: bool,
    /// Announce each row by itself again, where --bulk is installed
    #[arg(long, conflicts_with = "bulk")]
    pub no_bulk: bool,
    /// With --bulk: a statement that changes more rows asks caches to read the table again
    /// [default: as installed, else 100000]
    #[arg(long, value_name = "N", requires = "bulk", value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: Option<u32>,
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
    /// Send bigint and numeric values that JavaScript's numbers do not hold as texts in quotes
    #[arg(long, conflicts_with = "generic")]
    pub long_numbers_as_text: bool,
    /// Let a failure of the trigger fail the write
    #[arg(long)]
    pub no_guard: bool,
    /// Call the schema's one notify_cache_change() instead of a function of the table's own; the
    /// key must be called id
    #[arg(long)]
    pub generic: bool,
    /// Reset the options that are not given, which otherwise stay as installed
    #[arg(long)]
    pub defaults: bool,
    /// Replace a function of the needed name that pgic did not make; its triggers stay
    #[arg(long)]
    pub replace_function: bool,
    /// Take the place of a trigger of the needed name that pgic did not make, such as the
    /// specification's own; its function stays
    #[arg(long)]
    pub replace_trigger: bool,
    /// How long to wait for the tables' locks, all together: 500ms, 5s, 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub lock_timeout: Duration,
    /// Say what the triggers cost: update a row of each table before and after, without a change,
    /// and roll back
    #[arg(long, conflicts_with_all = ["dry_run", "check", "print_sql"])]
    pub measure: bool,
    /// Show the steps, and take none
    #[arg(long)]
    pub dry_run: bool,
    /// As --dry-run, and end with 1 if something would be done
    #[arg(long, conflicts_with = "print_sql")]
    pub check: bool,
    /// Print the SQL as a migration file that may be run again, and do nothing; remove-triggers
    /// prints the inverse
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    pub print_sql: bool,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic install-triggers users products
  pgic install-triggers users --columns username,email_hash
  pgic install-triggers users --exclude-columns password_hash,token
  pgic install-triggers users --where 'deleted_at IS NULL'
  pgic install-triggers --schema app --all --exclude app.logs --dry-run
  pgic install-triggers --from-config --check
  pgic install-triggers orders --measure
  pgic install-triggers users --print-sql > 0042_announce_users.sql

Exit codes:
  0  done, or nothing had to be changed
  1  --check found that something would be done
  2  a table was refused, the server refused, or a lock was not granted in
     time; nothing has been changed then
  3  the server could not be reached, or took no session: trying again may
     help";

/// Parses a channel's name, for clap: here and in `tail`.
///
/// # Errors
/// A text for people, if PostgreSQL does not take the name.
pub(super) fn parse_channel(name: &str) -> Result<String, String> {
    check_channel(name).map_err(|error| error.to_string())
}

/// Installs the triggers, or shows the steps that this takes.
///
/// # Errors
/// If a table is refused, a lock is not granted in time, or the server refuses. Nothing has been
/// changed then.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if args.tables.is_empty() && !args.all && !args.from_config {
        let hint = "name tables, or give --all --schema app, or --from-config with a pgic.toml";
        return Err(with_hint(anyhow!("no table is named"), hint));
    }
    let server = context.server("install-triggers")?;
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog.version_number().await?;
    let (mut tables, mut asked) = tables_and_options(context, &catalog, &args).await?;
    // `apply` takes locks in short tries, each in a transaction of its own: this one must not keep
    // its locks meanwhile.
    catalog.roll_back().await.context("end the transaction")?;
    condition::check_all(&mut client, &tables, &mut asked, args.lock_timeout).await?;
    if args.skip_refused {
        leave_out_refused(context, &mut client, &mut tables, &mut asked).await?;
    }
    if tables.is_empty() {
        let schemas = args.schemas.join(", ");
        let hint = "a table that is named is told why it is refused: pgic install-triggers TABLE";
        return Err(with_hint(
            anyhow!("there is no table to install triggers on in the schema {schemas}"),
            hint,
        ));
    }
    if !args.print_sql {
        context.print_place(&server)?;
    }
    let is_dry = args.dry_run || args.check || args.print_sql;
    let mut before = Vec::new();
    if args.measure {
        for table in &tables {
            before.push(measure::update(&mut client, table).await?);
        }
    }
    let plans = apply(
        &mut client,
        PlanKind::Install,
        &tables,
        &asked,
        args.lock_timeout,
        is_dry,
    )
    .await?;
    for ((table, plan), asked) in tables.iter().zip(&plans).zip(&asked) {
        let named = asked.changes.columns.as_deref().unwrap_or_default();
        if let Some(warning) = warn_of_secrets(table, plan, named) {
            context.notice(&warning);
        }
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
    print(&Plans::new(context, PlanKind::Install, is_dry, args.lock_timeout).show(&plans))?;
    for (table, before) in tables.iter().zip(before) {
        // The triggers are there: a row that is locked just now is no reason to call that failed.
        match measure::update(&mut client, table).await {
            Ok(after) => print(&cost(context.format, table, before, after))?,
            Err(error) => context.notice(&Report::new(&error).one_line()),
        }
    }
    let has_steps = plans.iter().any(|plan| !plan.steps.is_empty());
    if !has_steps {
        context.notice("nothing to change: the triggers are as they should be");
    }
    Ok(if args.check && has_steps {
        ExitCode::No
    } else {
        ExitCode::Yes
    })
}

/// Leaves out the tables on which triggers are refused, and says why.
///
/// # Errors
/// If the server refuses to be asked.
async fn leave_out_refused(
    context: &Context,
    client: &mut Client,
    tables: &mut Vec<CatalogTable>,
    asked: &mut Vec<AskedTable>,
) -> anyhow::Result<()> {
    let catalog = catalog::reading(client).await?;
    let version = catalog.version_number().await?;
    let facts = FunctionFacts::read(&catalog, tables).await?;
    catalog.roll_back().await.context("end the transaction")?;
    let mut refused = HashSet::new();
    for (table, asked) in tables.iter().zip(asked.iter()) {
        if let Some(why) = refusal(&facts, table, asked, version) {
            let why = Report::new(&why.into()).one_line();
            context.notice(&format!("{} is left out: {why}", table.display_name()));
            refused.insert(table.oid);
        }
    }
    tables.retain(|table| !refused.contains(&table.oid));
    asked.retain(|asked| !refused.contains(&asked.oid));
    Ok(())
}

/// Says what an UPDATE of one row took before and after the installation.
fn cost(
    format: Format,
    table: &CatalogTable,
    before: Option<Times>,
    after: Option<Times>,
) -> String {
    if format == Format::Json {
        return EventLine::new("measure", Timestamp::now())
            .of((&table.schema, &table.name))
            .optional("before_ms", before.map(|times| times.statement))
            .optional("before_triggers_ms", before.map(|times| times.triggers))
            .optional("after_ms", after.map(|times| times.statement))
            .optional("after_triggers_ms", after.map(|times| times.triggers))
            .end();
    }
    let name = table.display_name();
    let name = escape(&name);
    match (before, after) {
        (Some(before), Some(after)) => format!(
            "  {name}: an UPDATE of one row takes {:.3} ms, {:.3} of them in triggers; before it took \
            {:.3} ms, {:.3} of them in triggers\n",
            after.statement, after.triggers, before.statement, before.triggers
        ),
        _ => format!("  {name}: there is no row to measure with\n"),
    }
}

/// Returns the tables that are meant, and the options that are asked for each of them.
async fn tables_and_options(
    context: &Context,
    catalog: &Catalog<'_>,
    args: &Args,
) -> anyhow::Result<(Vec<CatalogTable>, Vec<AskedTable>)> {
    let changes = OptionChanges {
        channel: args.channel.clone(),
        channel_per_table: args.channel_per_table,
        default_channel: context.settings.channel.clone(),
        columns: (!args.columns.is_empty()).then(|| args.columns.clone()),
        exclude_columns: (!args.exclude_columns.is_empty()).then(|| args.exclude_columns.clone()),
        condition: args.condition.as_deref().map(AskedCondition::written),
        bulk: args.bulk,
        no_bulk: args.no_bulk,
        rows: args.rows,
        no_data: args.no_data,
        on_change: args.on_change,
        always: args.always,
        no_truncate: args.no_truncate,
        long_numbers_as_text: args.long_numbers_as_text,
        no_guard: args.no_guard,
        generic: args.generic,
        defaults: args.defaults,
        prints_only: args.print_sql,
        replace_function: args.replace_function,
        replace_trigger: args.replace_trigger,
    };
    if args.from_config {
        return configured(context, catalog, &changes).await;
    }
    let mut tables = Vec::new();
    for schema in &args.schemas {
        tables.extend(tables_with_key(context, catalog, schema, &args.exclude).await?);
    }
    if args.schemas.is_empty() {
        tables = catalog::resolve(catalog, &args.tables).await?;
    }
    let asked = AskedTable::all(tables.iter().map(|table| table.oid), &changes);
    Ok((tables, asked))
}

/// Returns the tables of `pgic.toml`, each with its options there. `changes` has the options of the
/// command line that belong to no table.
async fn configured(
    context: &Context,
    catalog: &Catalog<'_>,
    changes: &OptionChanges,
) -> anyhow::Result<(Vec<CatalogTable>, Vec<AskedTable>)> {
    let Settings { tables, file, .. } = &context.settings;
    if tables.is_empty() {
        let what = match file {
            Some(path) => format!("{} names no table", path.display()),
            None => "there is no pgic.toml here, nor in a folder above".to_string(),
        };
        return Err(with_hint(
            anyhow!(what),
            "pgic help config shows how to write one",
        ));
    }
    let mut described = Vec::new();
    let mut asked: Vec<AskedTable> = Vec::new();
    for wanted in tables {
        let table = catalog::resolve_one(catalog, &wanted.name).await?;
        if asked.iter().any(|other| other.oid == table.oid) {
            return Err(anyhow!("pgic.toml names {} twice", table.display_name()));
        }
        asked.push(AskedTable {
            oid: table.oid,
            changes: OptionChanges {
                prints_only: changes.prints_only,
                replace_function: changes.replace_function,
                replace_trigger: changes.replace_trigger,
                ..wanted.options.clone()
            },
        });
        described.push(table);
    }
    Ok((described, asked))
}

/// Returns the tables of a schema that have a key, but for the excluded ones and those of
/// extensions, and says which ones are left out.
async fn tables_with_key(
    context: &Context,
    catalog: &Catalog<'_>,
    schema: &str,
    excluded: &[String],
) -> anyhow::Result<Vec<CatalogTable>> {
    let excluded = catalog::resolve(catalog, excluded).await?;
    let mut found = catalog::tables_of_schema(catalog, schema).await?;
    found.retain(|table| excluded.iter().all(|other| other.oid != table.oid));
    let oids: Vec<u32> = found.iter().map(|table| table.oid).collect();
    let mut tables = catalog::describe(catalog, &oids).await?;
    tables.retain(|table| {
        let own = found.iter().find(|found| found.oid == table.oid);
        let Some(extension) = own.and_then(|own| own.extension.as_ref()) else {
            return true;
        };
        // pg_dump writes CREATE EXTENSION in place of the table, and no trigger on it.
        let name = table.display_name();
        context.notice(&format!(
            "{name} is left out: it is a part of the extension {extension}, and a dump would lose \
            its triggers"
        ));
        false
    });
    let (with_key, without_key): (Vec<CatalogTable>, Vec<CatalogTable>) =
        tables.into_iter().partition(|table| table.key.is_some());
    // A table that is named and has no key is refused; here that would make `--all` useless for
    // every schema that has one such table.
    for table in without_key {
        let name = table.display_name();
        context.notice(&format!("{name} is left out: it has no key"));
    }
    Ok(with_key)
}

/// Returns a warning about columns that are sent and look like secrets, unless they were `named`
/// with `--columns`, which is taken for a decision. Any role of the database can LISTEN, also one
/// that may not SELECT.
fn warn_of_secrets(table: &CatalogTable, plan: &TablePlan, named: &[String]) -> Option<String> {
    let options = plan.new_options.as_ref()?;
    let secrets: Vec<&str> = secret_columns(table, options)
        .into_iter()
        .filter(|name| !named.iter().any(|own| own == name))
        .collect();
    (!secrets.is_empty()).then(|| {
        format!(
            "{} sends {}, which by the name is a secret: any role of the database can LISTEN and \
            read it; to leave it out: --exclude-columns {}",
            table.display_name(),
            secrets.join(", "),
            secrets.join(",")
        )
    })
}

/// Prints a migration file. On a terminal, characters that the terminal would obey are escaped,
/// with a notice that says so.
///
/// # Errors
/// If the file cannot be written to stdout, see [`print`].
pub fn print_migration(context: &Context, sql: &str) -> anyhow::Result<()> {
    // In a file or a pipe the SQL must stay as it is: escaped, it would name other objects.
    if !std::io::stdout().is_terminal() || !sql.chars().any(|c| c != '\n' && is_obeyed(c)) {
        return print(sql);
    }
    context.notice(
        "names have characters that a terminal obeys, and are shown escaped: redirect the output \
        for the SQL as it is",
    );
    let mut shown = String::new();
    for line in sql.split_inclusive('\n') {
        // `escape` would take the line's own end for text.
        match line.strip_suffix('\n') {
            Some(line) => shown.push_str(&format!("{}\n", escape(line))),
            None => shown.push_str(&escape(line)),
        }
    }
    print(&shown)
}

/// Returns the migration file that carries out `plans`, one for each of `tables`, in their order.
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
