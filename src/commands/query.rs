//! `pgic query`.

use super::watch::{Limit, Style, Watch};
use super::{Context, interrupted};
use crate::cli::parse_bytes;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::rows::rows;
use crate::render::{Format, count, note, print};
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::conditions::{self, Conditions, Written};
use crate::tables::supervised::{self, MakeTarget};
use crate::tables::target::{Target, open};
use crate::tables::{self, estimate, explain_failure};
use crate::triggers::observe::{Observed, observe};
use postgres_index_cache_core::postgres::{Driver, DriverOptions};
use postgres_index_cache_core::sync::TableId;
use postgres_index_cache_core::{AccessPath, QueryResult};
use std::time::{Duration, Instant};

/// `pgic query TABLE [COLUMN=VALUE]…`.
///
/// Loads the table into the cache that an application has, catches up with the notifications, and
/// answers from it. Conditions are ANDed: COLUMN=VALUE; COLUMN= is the empty string; COLUMN=null
/// and COLUMN!=null; COLUMN:=SQL lets PostgreSQL compute the value. Exit code 1 when no row
/// matches.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The table: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// What the rows must have
    #[arg(value_name = "COLUMN=VALUE")]
    pub conditions: Vec<String>,
    /// Show these columns alone
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Show at most this many rows
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the number of rows alone
    #[arg(long)]
    pub count: bool,
    /// Say on stderr how the answer was found
    #[arg(long)]
    pub explain: bool,
    /// Keep the cache live and print the answer again whenever it changes; with -o json the rows
    /// that were added, changed and removed
    #[arg(long, conflicts_with_all = ["count", "limit"])]
    pub watch: bool,
    /// What the cache may take [default: a quarter of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<usize>,
}

/// How long it took, for `--explain`.
#[derive(Debug, Clone, Copy)]
struct Timing {
    load: Duration,
    fence: Duration,
    find: Duration,
}

/// Loads, catches up, answers.
///
/// # Errors
/// When the table or a condition is refused, or the server refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let written: Vec<Written> = args
        .conditions
        .iter()
        .map(|text| Written::parse(text))
        .collect::<Result<_, _>>()?;
    let server = context.server("query")?;
    let max_memory = args.max_memory.unwrap_or_else(estimate::default_limit);
    if args.watch {
        return keep_watching(context, server, max_memory, args, written).await;
    }
    // Who asks once wants to know that a connection was lost.
    let adjust = |options: &mut DriverOptions| options.limits.reconnect = false;
    let mut started = Instant::now();
    let describe = async |catalog: &mut Catalog<'_>| {
        let table = catalog::resolve_one(catalog, &args.table).await?;
        let mut notices = Vec::new();
        let described = describe(catalog, table, &args, &written, &mut notices).await;
        context.notices(&notices);
        started = Instant::now();
        Ok(vec![described?])
    };
    let (targets, mut driver) = open(
        &server,
        max_memory,
        context.quiet,
        adjust,
        |text| context.notice(text),
        describe,
    )
    .await?;
    let load = started.elapsed();
    driver.fence().await.map_err(explain_failure)?;
    let fence = started.elapsed().saturating_sub(load);
    let target = &targets[0];
    let cache = driver.cache(TableId(0));
    let answer = cache.find(&target.conditions);
    let timing = Timing {
        load,
        fence,
        find: started.elapsed().saturating_sub(load + fence),
    };
    if args.explain {
        note(&explain(&driver, &target.table, &answer, timing));
    }
    let found = answer.rows.len();
    if found == 0 && !args.count {
        context.notice("no row matches");
    }
    print(&show(context.format, &args, target, &answer))?;
    if let Some(limit) = args.limit.filter(|limit| *limit < found && !args.count) {
        context.notice(&format!(
            "{} more rows match; --limit {limit} cut them off",
            found - limit
        ));
    }
    Ok(if found > 0 {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

/// Prints the answer again whenever it changes.
async fn keep_watching(
    context: &Context,
    server: Server,
    max_memory: usize,
    args: Args,
    written: Vec<Written>,
) -> anyhow::Result<ExitCode> {
    let mut client = server.client().await?;
    let mut catalog = catalog::reading(&mut client).await?;
    let table = catalog::resolve_one(&catalog, &args.table).await?;
    let mut notices = Vec::new();
    let described = describe(&mut catalog, table, &args, &written, &mut notices).await;
    context.notices(&notices);
    let targets = vec![described?];
    let asking = Asking { args, written };
    let say = |text: &str| context.notice(text);
    let opened = supervised::open(
        &server,
        catalog,
        targets,
        asking,
        max_memory,
        context.quiet,
        say,
    )
    .await;
    let mut supervisor = opened?;
    drop(client);
    supervisor.driver_mut().record_row_events();
    let target = supervisor.target(TableId(0)).clone();
    let watch = Watch {
        target,
        format: context.format,
        style: Style::QueryResult,
        limit: Limit::default(),
    };
    watch
        .run(context, supervisor, std::pin::pin!(interrupted()))
        .await
}

/// What is asked of a table that is watched, whatever it has become.
struct Asking {
    args: Args,
    written: Vec<Written>,
}

impl MakeTarget for Asking {
    async fn make(&self, catalog: &mut Catalog<'_>, table: CatalogTable) -> anyhow::Result<Target> {
        describe(catalog, table, &self.args, &self.written, &mut Vec::new()).await
    }
}

/// What is asked of a table.
async fn describe(
    catalog: &mut Catalog<'_>,
    table: CatalogTable,
    args: &Args,
    written: &[Written],
    notices: &mut Vec<String>,
) -> anyhow::Result<Target> {
    tables::check_kind(&table)?;
    let seen = observe(&table);
    if args.watch {
        notices.extend(tables::check_announced(&table)?);
    }
    let shown = shown_columns(&table, seen.as_ref(), args, notices)?;
    let asked = conditions::evaluate(catalog, &table, written).await?;
    check_sent(&table, seen.as_ref(), &shown, &asked)?;
    notices.extend(asked.notices(&table));
    drop(seen);
    let is_shown = |column: &catalog::CatalogColumn| !args.count && shown.contains(&column.name);
    let kept: Vec<String> = table
        .columns
        .iter()
        .filter(|column| asked.names(&column.name) || is_shown(column))
        .map(|column| column.name.clone())
        .collect();
    Target::new(
        table,
        &shown,
        |column| kept.contains(&column.name),
        asked,
        notices,
    )
}

/// The columns to print: those that were asked for, in that order, else all that the trigger sends.
fn shown_columns(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    args: &Args,
    notices: &mut Vec<String>,
) -> anyhow::Result<Vec<String>> {
    if !args.columns.is_empty() {
        return args
            .columns
            .iter()
            .map(|name| Ok(conditions::column(table, name)?.name.clone()))
            .collect();
    }
    if let Some(sent) = tables::sent_columns(seen).filter(|_| !args.count) {
        notices.push(format!(
            "the trigger of {} sends {} alone",
            table.display_name(),
            sent.join(", ")
        ));
    }
    Ok(tables::shown(table, seen))
}

/// A column that the trigger does not send cannot be kept in step. Where it sends keys alone, rows
/// are read again.
fn check_sent(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    shown: &[String],
    asked: &Conditions,
) -> anyhow::Result<()> {
    let is_wanted = |column: &&catalog::CatalogColumn| {
        shown.contains(&column.name) || asked.names(&column.name)
    };
    let mut wanted = table.columns.iter().filter(is_wanted);
    wanted.try_for_each(|column| tables::check_sent(table, seen, &column.name))
}

fn show(format: Format, args: &Args, target: &Target, answer: &QueryResult<'_>) -> String {
    let count = answer.rows.len();
    if args.count {
        return match format {
            Format::Text => format!("{count}\n"),
            Format::Json => format!("{{\"count\":{count}}}\n"),
        };
    }
    let shown = answer.rows.iter().take(args.limit.unwrap_or(usize::MAX));
    rows(format, &target.shape, &target.shown, shown)
}

fn explain(
    driver: &Driver,
    table: &CatalogTable,
    answer: &QueryResult<'_>,
    timing: Timing,
) -> String {
    let cache = driver.cache(TableId(0));
    let shape = cache.shape();
    let found = match answer.access {
        AccessPath::Key => "by the key".to_string(),
        AccessPath::Index(column) => {
            format!("by the index on {}", escape(&shape.columns()[column].name))
        }
        AccessPath::Scan => "by looking at every row".to_string(),
    };
    let counters = driver.engine().counters();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    format!(
        "found: {found}, {} looked at, {} match, {:.3} ms\n\
         snapshot: {} rows of {} in {:.1} ms, {}\n\
         fence: {:.1} ms; {} notifications received, {} applied, {} in the snapshot already, {} \
         reloads\n",
        count(answer.looked_at as u64, "row"),
        answer.rows.len(),
        ms(timing.find),
        cache.len(),
        escape(&table.display_name()),
        ms(timing.load),
        estimate::human(cache.memory_bytes()),
        ms(timing.fence),
        counters.received,
        counters.applied,
        counters.skipped,
        counters.reloads,
    )
}
