//! `pgic query`: answers from a cache of one table, once, or with `--watch` whenever the answer
//! changes.

mod of_log;

use super::watch::{Limit, Style, SupervisedRows, Watch};
use super::{Context, interrupted};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::rows::rows;
use crate::render::{Format, count, note, print};
use crate::tables::bounds::{BoundArgs, Bounds};
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::conditions::{self, Conditions, Written};
use crate::tables::supervised::{self, MakeTarget};
use crate::tables::target::{Opened, Target, open};
use crate::tables::{self, estimate, key};
use crate::triggers::observe::{Observed, observe};
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::Driver;
use postgres_index_cache_core::tooling::sync::TableId;
use postgres_index_cache_core::tooling::{AccessPath, QueryResult, Row, TableShape};
use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// Load a table into a cache, catch up, and answer from the cache
///
/// The cache is the one that an application has. The answer has everything that was committed
/// before the question. If changes of the table are not announced, the answer is as of the moment
/// when the table was read; a notice says so.
///
/// Conditions are ANDed. Values are compared as PostgreSQL compares values of the column's type.
/// Where = is a function of somebody's own, a condition is refused.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The table: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", add = completion::tables())]
    pub table: String,
    /// The key of a row (42, or 42,2), or conditions that the rows must fulfil
    #[arg(value_name = "KEY|CONDITION", add = completion::conditions())]
    pub conditions: Vec<String>,
    /// The same as a CONDITION
    #[arg(long = "where", value_name = "CONDITION", add = completion::conditions())]
    pub more_conditions: Vec<String>,
    /// Keep the cache live and print the answer again whenever it changes; with -o json the rows
    /// that were added, changed and removed
    #[arg(long, conflicts_with_all = ["count", "limit"])]
    pub watch: bool,
    #[command(flatten)]
    pub bounds: BoundArgs,
    /// Show these columns alone
    #[arg(short, long, value_name = "A,B", value_delimiter = ',', add = completion::columns())]
    pub columns: Vec<String>,
    /// Show at most this many rows
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the number of rows alone
    #[arg(long)]
    pub count: bool,
    /// Say on stderr how the answer was found
    #[arg(long)]
    pub explain: bool,
    /// Answer from a log that pgic relay writes, as a node does: nats://host:4222/shop
    #[arg(long, value_name = "URL", conflicts_with_all = ["explain", "max_memory", "jobs"])]
    pub from: Option<String>,
}

const AFTER_LONG_HELP: &str = "\
Conditions:
  COLUMN=VALUE   the column has this value; also != < <= > >=
  COLUMN~REGEX   the regular expression matches the value's text
  COLUMN=        the column is the empty string
  COLUMN=null    the column is NULL; COLUMN!=null: it is not
  COLUMN='null'  the column is this text, in single quotes inside your shell's
  COLUMN:=SQL    the column has the value that PostgreSQL computes

Examples:
  pgic query orders 42
  pgic query orders customer_id=7 'total>=100'
  pgic query users username_hash=123
  pgic query users \"username_hash:=hashtextextended('ann', 0)\" --explain
  pgic query users email_hash=7 --columns id,username -o json
  pgic query users email_hash=7 --watch
  pgic query users 42 --from nats://n1/shop --watch

Exit codes:
  0  a row matches; with --watch it was ended by a signal, or by its reader
  1  no row matches, with --count too
  2  the table or a condition was refused, or the server could not be used
  3  the server could not be reached, or took no session: trying again may
     help";

/// The time that each part of an answer took, for `--explain`.
#[derive(Debug, Clone, Copy)]
struct Timing {
    load: Duration,
    fence: Duration,
    find: Duration,
}

/// Loads the table, catches up with the notifications, and prints the answer.
///
/// # Errors
/// If the table or a condition is refused, or the server cannot be used.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if let Some(url) = &args.from {
        return of_log::run(context, &args, url).await;
    }
    let mut words = args.conditions.clone();
    words.extend(args.more_conditions.iter().cloned());
    let asked = Asked::parse(&words)?;
    let server = context.server("query")?;
    let bounds = args.bounds.bounds();
    if args.watch {
        return Box::pin(keep_watching(context, server, bounds, args, asked)).await;
    }
    let mut started = Instant::now();
    let Opened {
        targets,
        driver,
        read_at,
    } = open(
        &server,
        bounds,
        context.quiet,
        |options| {
            // A person who asks once wants to be told that a connection was lost, not to wait.
            options.limits.reconnect = false;
            // The snapshot is younger than the question, and its read looks at the definition. A
            // trigger that is dropped behind it cannot make the answer older than the question.
            options.limits.watch_ddl = false;
        },
        |text| context.notice(text),
        async |catalog| {
            let table = catalog::resolve_one(catalog, &args.table).await?;
            let mut notices = Vec::new();
            let described = describe(catalog, table, &args, &asked, &mut notices).await;
            // Notices often tell why an error comes next, so they are printed before it.
            context.notices(&notices);
            // `open` describes a table again that was altered while it was loaded: the time to
            // load is that of the last try.
            started = Instant::now();
            Ok(vec![described?])
        },
    )
    .await?;
    // The question is older than the snapshot and than the fence behind it, so the answer has all
    // that was committed before it was asked.
    let load = read_at.saturating_duration_since(started);
    let fence = started.elapsed().saturating_sub(load);
    let target = &targets[0];
    let cache = driver.cache(TableId(0));
    let mut answer = cache.find(&target.conditions);
    sort_by_key(&mut answer.rows, cache.shape());
    let timing = Timing {
        load,
        fence,
        find: started.elapsed().saturating_sub(load + fence),
    };
    if args.explain {
        note(&explain(context.format, &driver, target, &answer, timing));
    }
    let found = answer.rows.len();
    // With `--count` the 0 that is printed says as much.
    if found == 0 && !args.count {
        context.notice("no row matches");
    }
    print(&show(context, &args, target, &answer))?;
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

/// Sorts rows by their keys. Texts are in the order of their bytes: that of the database's
/// collation is known to PostgreSQL alone.
pub(super) fn sort_by_key(rows: &mut [Row<'_>], shape: &TableShape) {
    rows.sort_by(|one, other| {
        let orders = shape.key().iter().map(|column| {
            let kind = shape.columns()[*column].kind;
            let one = one.cell(*column).unwrap_or_default();
            let other = other.cell(*column).unwrap_or_default();
            let order = kind.order(one, other);
            order.unwrap_or_else(|| one.cmp(other))
        });
        orders.fold(Ordering::Equal, Ordering::then)
    });
}

/// Prints the answer, and again after each change, until a signal comes or nobody reads.
async fn keep_watching(
    context: &Context,
    server: Server,
    bounds: Bounds,
    args: Args,
    asked: Asked,
) -> anyhow::Result<ExitCode> {
    let mut client = server.client().await?;
    let mut catalog = catalog::reading(&mut client).await?;
    let table = catalog::resolve_one(&catalog, &args.table).await?;
    let mut notices = Vec::new();
    let described = describe(&mut catalog, table, &args, &asked, &mut notices).await;
    context.notices(&notices);
    let targets = vec![described?];
    let asking = Asking { args, asked };
    let supervisor = supervised::open(
        &server,
        catalog,
        targets,
        asking,
        bounds,
        context.quiet,
        |text| context.notice(text),
    )
    .await?;
    if context.format == Format::Json {
        context.print_place(&server)?;
    }
    // The session that described the table has no more work, and a watch may last for days.
    drop(client);
    let watched = SupervisedRows::new(supervisor);
    let watch = Watch::new(context, &watched, Style::QueryResult, Limit::default());
    watch
        .run(context, watched, std::pin::pin!(interrupted()))
        .await
}

/// The question of a watch, which is put again to each table that has the name: conditions are
/// computed for the types that the columns have by then.
struct Asking {
    args: Args,
    asked: Asked,
}

/// The rows that are asked for, as they were written.
struct Asked {
    /// The key of the row, if it was written.
    key: Option<String>,
    conditions: Vec<Written>,
}

impl Asked {
    /// Reads the words behind the table: a key, conditions, or a key with conditions behind.
    ///
    /// # Errors
    /// If a word other than the first is no condition.
    fn parse(words: &[String]) -> anyhow::Result<Self> {
        let is_key = |word: &&String| Written::parse(word).is_err();
        let key = words.first().filter(is_key);
        let conditions = words.iter().skip(usize::from(key.is_some()));
        Ok(Self {
            key: key.cloned(),
            conditions: conditions
                .map(|word| Written::parse(word))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Returns the conditions on a table, those of the key first.
    ///
    /// # Errors
    /// If the key of the table has more or fewer columns.
    fn of(&self, table: &CatalogTable) -> anyhow::Result<Vec<Written>> {
        let mut written = Vec::new();
        if let Some(column) = self.key.as_ref().and_then(|key| table.column(key)) {
            return Err(anyhow!("{} is a column: write {0}=VALUE", column.name));
        }
        if let (Some(key), Some(columns)) = (&self.key, &table.key) {
            let found = key::conditions(&columns.columns, key);
            written = found.with_context(|| {
                format!(
                    "find the row of {} with the key {key}",
                    table.display_name()
                )
            })?;
        }
        written.extend(self.conditions.iter().cloned());
        Ok(written)
    }
}

impl MakeTarget for Asking {
    async fn make(&self, catalog: &mut Catalog<'_>, table: CatalogTable) -> anyhow::Result<Target> {
        describe(catalog, table, &self.args, &self.asked, &mut Vec::new()).await
    }
}

/// Makes a target of a table: checks that the question can be answered, computes the conditions,
/// and chooses the columns that the cache keeps.
async fn describe(
    catalog: &mut Catalog<'_>,
    table: CatalogTable,
    args: &Args,
    asked: &Asked,
    notices: &mut Vec<String>,
) -> anyhow::Result<Target> {
    tables::check_kind(&table)?;
    let seen = observe(&table);
    if args.watch {
        notices.extend(tables::check_announced(&table)?);
    } else if seen.is_some() {
        notices.extend(tables::unannounced_notice(&table));
    }
    let shown = shown_columns(&table, seen.as_ref(), args, notices)?;
    let written = asked.of(&table)?;
    let evaluated = conditions::evaluate(catalog, &table, &written).await;
    let asked = match &asked.key {
        Some(key) => evaluated.with_context(|| format!("find the row with the key {key}"))?,
        None => evaluated?,
    };
    check_sent(&table, seen.as_ref(), &shown, &asked)?;
    notices.extend(asked.notices());
    drop(seen);
    // Columns that are neither shown nor compared would only take memory and time. `Target` keeps
    // the key in any case.
    let kept: Vec<String> = table
        .columns
        .iter()
        .map(|column| &column.name)
        .filter(|name| asked.names(name) || (!args.count && shown.contains(name)))
        .cloned()
        .collect();
    Target::new(
        table,
        &shown,
        |column| kept.contains(&column.name),
        asked,
        notices,
    )
}

/// Returns the columns to print: those of `--columns`, in that order, else all that the trigger
/// sends.
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
        let columns = table.columns.iter().map(|column| &column.name);
        let unsent: Vec<&str> = columns
            .filter(|name| !sent.contains(name))
            .map(String::as_str)
            .collect();
        let name = table.display_name();
        // The shorter list says more.
        notices.push(if unsent.len() < sent.len() {
            format!(
                "the trigger of {name} does not send {}, so the answer is without",
                unsent.join(", ")
            )
        } else {
            format!("the trigger of {name} sends {} alone", sent.join(", "))
        });
    }
    Ok(tables::shown(table, seen))
}

/// Refuses a column that is shown or compared and that the trigger does not send: a cache could not
/// keep it in step. Where the trigger sends keys alone, every column is fine, since rows are
/// refetched.
fn check_sent(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    shown: &[String],
    asked: &Conditions,
) -> anyhow::Result<()> {
    table
        .columns
        .iter()
        .map(|column| &column.name)
        .filter(|name| shown.contains(name) || asked.names(name))
        .try_for_each(|name| tables::check_sent(table, seen, name))
}

/// Returns the answer as text or JSON lines.
fn show(context: &Context, args: &Args, target: &Target, answer: &QueryResult<'_>) -> String {
    let count = answer.rows.len();
    if args.count {
        return match context.format {
            Format::Text => format!("{count}\n"),
            Format::Json => EventLine::new("count", Timestamp::now())
                .of(target.names())
                .member("count", count)
                .end(),
        };
    }
    let shown = answer.rows.iter().take(args.limit.unwrap_or(usize::MAX));
    rows(
        context.format,
        context.layout,
        &context.look,
        &target.shape,
        &target.shown,
        shown,
    )
}

/// Returns the lines of `--explain`, or an object of JSON: how rows were found, how much was read,
/// and how many notifications did what.
fn explain(
    format: Format,
    driver: &Driver,
    target: &Target,
    answer: &QueryResult<'_>,
    timing: Timing,
) -> String {
    let cache = driver.cache(TableId(0));
    let shape = cache.shape();
    let counters = driver.engine().counters();
    if format == Format::Json {
        let (access, column) = match answer.access {
            AccessPath::Key => ("key", None),
            AccessPath::Index(column) => ("index", Some(&shape.columns()[column].name)),
            AccessPath::Scan => ("scan", None),
        };
        return EventLine::new("explain", Timestamp::now())
            .of(target.names())
            .member("access", access)
            .optional("column", column)
            .member("looked_at", answer.looked_at)
            .member("matched", answer.rows.len())
            .member("rows", cache.len())
            .member("memory_bytes", cache.memory_bytes())
            .member("load_ms", milliseconds(timing.load))
            .member("fence_ms", milliseconds(timing.fence))
            .member("find_ms", milliseconds(timing.find))
            .member("received", counters.received)
            .member("applied", counters.applied)
            .member("skipped", counters.skipped)
            .member("reloads", counters.reloads)
            .end();
    }
    let found = match answer.access {
        AccessPath::Key => "by the key".to_string(),
        AccessPath::Index(column) => {
            format!("by the index on {}", escape(&shape.columns()[column].name))
        }
        AccessPath::Scan => "by looking at every row".to_string(),
    };
    format!(
        "found: {found}, {} looked at, {} match, {:.3} ms\n\
         snapshot: {} rows of {} in {:.1} ms, {}\n\
         fence: {:.1} ms; {} notifications received, {} applied, {} in the snapshot already, {} \
         reloads\n",
        count(answer.looked_at as u64, "row"),
        answer.rows.len(),
        milliseconds(timing.find),
        cache.len(),
        escape(&target.name()),
        milliseconds(timing.load),
        estimate::human(cache.memory_bytes()),
        milliseconds(timing.fence),
        counters.received,
        counters.applied,
        counters.skipped,
        counters.reloads,
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
