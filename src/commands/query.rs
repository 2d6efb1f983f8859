//! `pgic query`.

mod conditions;
mod estimate;

use super::Context;
use crate::catalog::{self, RelationKind, Table};
use crate::cli::parse_bytes;
use crate::exit_code::ExitCode;
use crate::failure::{HintExt as _, with_hint};
use crate::render::escape::escape;
use crate::render::progress::Progress;
use crate::render::table::{Heading, render};
use crate::render::{Format, print};
use crate::triggers::observe::{Observed, observe};
use crate::triggers::{DEFAULT_CACHE_CHANNEL, sql::PINNED};
use anyhow::anyhow;
use conditions::Asked;
use postgres_index_cache_core::postgres::{Driver, DriverError, DriverOptions, FollowTable};
use postgres_index_cache_core::sync::{Failure, Followed, Limits, TableId};
use postgres_index_cache_core::{Access, Answer, Column, Kind, Row, TableShape, one_line_json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `pgic query TABLE [COLUMN=VALUE]…`.
///
/// Loads the table into the cache that an application has, catches up with the notifications, and answers from it.
/// Conditions are ANDed: COLUMN=VALUE; COLUMN= is the empty string; COLUMN=null and COLUMN!=null; COLUMN:=SQL lets
/// PostgreSQL compute the value. Exit code 1 when no row matches.
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
    let server = context.server("query")?;
    let mut client = server.client().await?;
    let tables = catalog::resolve(&client, std::slice::from_ref(&args.table)).await?;
    let table = tables.first().ok_or_else(|| anyhow!("name a table"))?;
    check_kind(table)?;
    let seen = observe(table);
    let shown = shown_columns(context, table, seen.as_ref(), &args)?;
    let asked = conditions::evaluate(&mut client, table, &args.conditions).await?;
    check_sent(table, seen.as_ref(), &shown, &asked)?;
    for column in table.columns.iter().filter(|column| asked.compares(&column.name) && is_compared_as_text(column.kind))
    {
        context.notice(&format!(
            "{} is of type {}: it is compared as PostgreSQL writes it, so {} rows that are equal in SQL may not be found",
            column.name, column.type_name, table.display_name()
        ));
    }
    let shape = shape(table, &shown, &asked, &args)?;
    let max_memory = args.max_memory.unwrap_or_else(estimate::default_limit);
    let estimate = estimate::memory(&client, table, &shape).await?;
    if estimate > max_memory {
        return Err(with_hint(
            anyhow!(
                "loading {} would take about {}, more than the {} allowed",
                table.display_name(),
                estimate::human(estimate),
                estimate::human(max_memory)
            ),
            "raise --max-memory, or load fewer columns with --columns or --count",
        ));
    }
    let options = options(context, table, seen.as_ref(), &shape, max_memory);
    drop(client);
    let expected_rows = table.estimated_rows.unwrap_or(0) as usize;
    let follow = FollowTable { followed: options.1, shape: Arc::clone(&shape), expected_rows };
    let progress = Progress::new(&format!("loading {}", table.display_name()), table.estimated_rows, !context.quiet);
    let started = Instant::now();
    let mut driver = Driver::open(&server, vec![follow], options.0).await.map_err(explain_failure)?;
    driver.until_live(|loaded| progress.set(loaded.rows)).await.map_err(explain_failure)?;
    let load = started.elapsed();
    driver.fence().await.map_err(explain_failure)?;
    let fence = started.elapsed().saturating_sub(load);
    drop(progress);
    let conditions = asked.conditions(&shape)?;
    let answer = driver.cache(TableId(0)).find(&conditions);
    let timing = Timing { load, fence, find: started.elapsed().saturating_sub(load + fence) };
    if args.explain {
        anstream::eprint!("{}", explain(&driver, table, &answer, timing));
    }
    let found = answer.rows.len();
    if found == 0 && !args.count {
        context.notice("no row matches");
    }
    print(&show(context.format, &args, &shape, &shown, &answer))?;
    if let Some(limit) = args.limit.filter(|limit| *limit < found && !args.count) {
        context.notice(&format!("{} more rows match; --limit {limit} cut them off", found - limit));
    }
    Ok(if found > 0 { ExitCode::Yes } else { ExitCode::No })
}

/// Whether a cache has nothing but a value's text to compare: jsonb calls 1.0 and 1 equal, an interval 30 days and a month.
fn is_compared_as_text(kind: Kind) -> bool {
    matches!(kind, Kind::Json | Kind::Jsonb | Kind::Other)
}

fn check_kind(table: &Table) -> anyhow::Result<()> {
    let name = table.display_name();
    let refuse = |what: &str, hint: &str| Err(anyhow!("{name} is {what}")).hint(hint);
    match table.kind {
        RelationKind::Table if table.is_temporary => refuse("a temporary table", "only its own session sees it"),
        RelationKind::Table | RelationKind::Partitioned if table.key.is_none() => refuse(
            "without a primary key or a unique key of NOT NULL columns",
            "add one: without a key no cache can tell its rows apart",
        ),
        RelationKind::Table | RelationKind::Partitioned if table.is_partition => {
            refuse("a partition", "name the table that it is a partition of: its changes are announced as that one's")
        }
        RelationKind::Table | RelationKind::Partitioned => Ok(()),
        RelationKind::View | RelationKind::MaterializedView => refuse("a view", "name the tables under it"),
        RelationKind::Foreign => refuse("a foreign table", "connect to the server where it lives"),
        RelationKind::Other => refuse("not a table", "name a table"),
    }
}

/// The columns to print: those that were asked for, in that order, else all that the trigger sends.
fn shown_columns(
    context: &Context,
    table: &Table,
    seen: Option<&Observed<'_>>,
    args: &Args,
) -> anyhow::Result<Vec<String>> {
    if args.columns.is_empty() {
        let all = table.columns.iter().map(|column| column.name.clone());
        let Some(sent) = seen.and_then(Observed::options).and_then(|options| options.columns.as_ref()) else {
            return Ok(all.collect());
        };
        if !args.count {
            context.notice(&format!("the trigger of {} sends {} alone", table.display_name(), sent.join(", ")));
        }
        return Ok(all.filter(|column| sent.contains(column)).collect());
    }
    args.columns.iter().map(|name| Ok(conditions::column(table, name)?.name.clone())).collect()
}

/// A column that the trigger does not send cannot be kept in step. Where it sends keys alone, rows are read again.
fn check_sent(table: &Table, seen: Option<&Observed<'_>>, shown: &[String], asked: &Asked) -> anyhow::Result<()> {
    let Some(sent) = seen.and_then(Observed::options).and_then(|options| options.columns.as_ref()) else {
        return Ok(());
    };
    let key = table.key.iter().flat_map(|key| &key.columns);
    let is_missing = |column: &&catalog::Column| {
        (shown.contains(&column.name) || asked.names(&column.name))
            && !sent.contains(&column.name)
            && !key.clone().any(|name| *name == column.name)
    };
    match table.columns.iter().find(is_missing) {
        None => Ok(()),
        Some(column) => {
            Err(anyhow!("the trigger of {} does not send the column {}", table.display_name(), column.name)).hint(
                format!(
                    "send it with: pgic install-triggers {} --columns {},{}",
                    table.display_name(),
                    sent.join(","),
                    column.name
                ),
            )
        }
    }
}

/// The columns to keep: the key, those in conditions, and those to be printed; in table order.
fn shape(table: &Table, shown: &[String], asked: &Asked, args: &Args) -> anyhow::Result<Arc<TableShape>> {
    let key = table.key.as_ref().map(|key| key.columns.clone()).unwrap_or_default();
    let is_kept = |column: &&catalog::Column| {
        key.contains(&column.name) || asked.names(&column.name) || (!args.count && shown.contains(&column.name))
    };
    let kept = table.columns.iter().filter(is_kept);
    let columns =
        kept.map(|column| Column { name: column.name.clone(), kind: column.kind, nullable: !column.not_null });
    Ok(Arc::new(TableShape::new(columns.collect(), &key)?))
}

fn options(
    context: &Context,
    table: &Table,
    seen: Option<&Observed<'_>>,
    shape: &TableShape,
    max_memory: usize,
) -> (DriverOptions, Followed) {
    let name = table.display_name();
    let channel = match seen {
        None => {
            context.notice(&format!(
                "no trigger announces changes of {name}: the answer is the table as it was when it was read"
            ));
            DEFAULT_CACHE_CHANNEL.to_string()
        }
        Some(seen) => seen.channel.clone().unwrap_or_else(|| {
            context
                .notice(&format!("the channel of {name}'s trigger is not known; listening on {DEFAULT_CACHE_CHANNEL}"));
            DEFAULT_CACHE_CHANNEL.to_string()
        }),
    };
    let followed = Followed {
        schema: table.schema.clone(),
        name: table.name.clone(),
        oid: table.oid,
        leaves: table.leaves.iter().map(|leaf| leaf.oid).collect(),
        is_partitioned: table.kind == RelationKind::Partitioned,
        deferrable_key: table.key.as_ref().is_some_and(|key| key.is_deferrable),
        sends_plain_form: seen.is_some_and(Observed::sends_plain_form),
        sends_whole_rows: !table
            .columns
            .iter()
            .any(|column| column.is_virtual && shape.position(&column.name).is_some()),
    };
    let options = DriverOptions {
        channels: vec![channel],
        fence_channel: format!("pgic_fence_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        limits: Limits::default(),
        settings: PINNED.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect(),
        max_memory,
        lock_timeout: Duration::from_secs(10),
    };
    (options, followed)
}

/// What to do about a driver that gave up.
fn explain_failure(error: DriverError) -> anyhow::Error {
    let code = crate::failure::sqlstate(&error);
    let hint = match (&error, code.as_deref()) {
        (DriverError::Failed(Failure::ProbeLost { .. }), _) => {
            "a pooler in transaction mode takes LISTEN and passes nothing on: connect to the server itself"
        }
        (DriverError::Failed(Failure::FenceLost { .. }), _) => {
            "commits may be blocked, or the connection dead: look at pg_stat_activity, and try again"
        }
        (DriverError::Failed(Failure::ConnectionLost(_)), _) => "try again",
        (DriverError::Memory { .. }, _) => "raise --max-memory, or load fewer columns with --columns or --count",
        (_, Some("25006")) => "this server is a standby, where LISTEN does not work: connect to the primary",
        (_, Some("42501")) => {
            "reading takes SELECT on the whole table, without row security that hides rows from this role"
        }
        (_, Some("55P03")) => "something holds the table, a migration perhaps: try again when it is done",
        _ => return error.into(),
    };
    with_hint(error, hint)
}

fn show(format: Format, args: &Args, shape: &TableShape, shown: &[String], answer: &Answer<'_>) -> String {
    let count = answer.rows.len();
    if args.count {
        return match format {
            Format::Text => format!("{count}\n"),
            Format::Json => format!("{{\"count\":{count}}}\n"),
        };
    }
    let columns: Vec<usize> = shown.iter().filter_map(|name| shape.position(name)).collect();
    let rows = answer.rows.iter().take(args.limit.unwrap_or(usize::MAX));
    match format {
        Format::Json => rows
            .map(|row| {
                let mut line = String::new();
                row.write_json(&columns, &mut line);
                format!("{}\n", one_line_json(&line))
            })
            .collect(),
        Format::Text if count == 0 => String::new(),
        Format::Text => {
            let headings: Vec<Heading> = columns.iter().map(|&column| heading(&shape.columns()[column])).collect();
            render(&headings, rows.map(|row| columns.iter().map(|&column| cell(shape, row, column)).collect()))
        }
    }
}

fn heading(column: &Column) -> Heading {
    match column.kind {
        Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float4 | Kind::Float8 | Kind::Numeric => {
            Heading::number(&column.name)
        }
        _ => Heading::text(&column.name),
    }
}

fn cell(shape: &TableShape, row: &Row<'_>, column: usize) -> String {
    let mut text = String::new();
    match row.cell(column) {
        Some(cell) => shape.columns()[column].kind.write_text(cell, &mut text),
        None => text.push_str("NULL"),
    }
    text
}

fn explain(driver: &Driver, table: &Table, answer: &Answer<'_>, timing: Timing) -> String {
    let cache = driver.cache(TableId(0));
    let shape = cache.shape();
    let found = match answer.access {
        Access::Key => "by the key".to_string(),
        Access::Index(column) => format!("by the index on {}", escape(&shape.columns()[column].name)),
        Access::Scan => "by looking at every row".to_string(),
    };
    let counters = driver.replica().counters();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    format!(
        "found: {found}, {} rows looked at, {} match, {:.3} ms\n\
         snapshot: {} rows of {} in {:.1} ms, {}\n\
         fence: {:.1} ms; {} notifications received, {} applied, {} in the snapshot already, {} reloads\n",
        answer.looked_at,
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
