//! `pgic tail`: prints notifications as they arrive.
//!
//! ```text
//! socket ─→ feed (a task) ─→ queue (bounded by bytes) ─→ printer (a thread)
//!           listens, reconnects                          filters, renders, writes
//! ```
//!
//! The feed never waits for the printer: a slow terminal or pipe must not hold the server's
//! notification queue. Notifications for which the bounded queue has no room are dropped, and the
//! output says how many.

mod burst;
mod diff;
mod filter;
mod lookups;
mod printer;
mod recorded;
mod tally;
mod template;

use super::install_triggers::parse_channel;
use super::watch::Limit;
use super::{Context, interrupted};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::feed;
use crate::feed::queue::{Item, Queue};
use crate::render::json::EventLine;
use crate::render::{Format, note};
use crate::tables::catalog;
use crate::tables::conditions::Written;
use crate::units::{Moment, parse_duration, parse_moment};
use anyhow::Context as _;
use clap::ValueHint;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use filter::{Filter, Prepared};
use jiff::Timestamp;
use postgres_index_cache_core::Action;
use printer::Printer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long nothing may be shown before the reason is said.
const SILENCE: Duration = Duration::from_secs(10);

/// Print notifications as they arrive
///
/// Prints every notification of the channels on arrival. A lost connection is shown as a gap,
/// and opened again; a heartbeat finds one whose far side is gone. Several filters must all fit; of
/// several tables, actions or keys one must. Keys and values are compared as pgic query compares
/// them. A notice says so if nothing can come: the table or the channel has no trigger, or the
/// trigger does not send the column.
///
/// With --diff the table is kept in a cache, and each change is shown with its effect on the rows,
/// old to new. The rows that changed in a gap are shown too, once the connection is back.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Only changes of these tables: users, or app.users; a CONDITION is the same as with --where
    #[arg(value_name = "TABLE|CONDITION", add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// A channel to listen on; may be repeated [default: PGIC_CHANNEL, else cache_invalidation]
    #[arg(short, long = "channel", value_name = "NAME")]
    #[arg(value_parser = parse_channel, add = completion::channels())]
    pub channels: Vec<String>,
    /// The same as a TABLE; several with commas
    #[arg(
        short = 't',
        long = "table",
        value_name = "TABLE",
        value_delimiter = ',',
        add = completion::announced_tables()
    )]
    pub more_tables: Vec<String>,
    /// Only this action; may be repeated
    #[arg(long = "action", value_name = "ACTION", value_parser = actions())]
    pub actions: Vec<Action>,
    /// Only the row with this key; a composite key is written a,b
    #[arg(long = "id", value_name = "KEY")]
    pub ids: Vec<String>,
    /// Only rows that fulfil this condition, as pgic query takes it; all of several must hold.
    /// Deletes carry the key alone
    #[arg(long = "where", value_name = "CONDITION", add = completion::conditions())]
    pub conditions: Vec<String>,
    /// Keep this table in a cache, and show the effect of each change on the rows, old to new; a
    /// gap is told row by row
    #[arg(long, value_name = "TABLE", add = completion::announced_tables())]
    #[arg(conflicts_with_all = ["tables", "more_tables", "channels", "actions", "ids", "conditions"])]
    #[arg(conflicts_with_all = ["raw", "template", "stats", "sender", "all"])]
    pub diff: Option<String>,
    /// Print the record of this folder, or of one file of pgic record's, instead of listening; with
    /// --diff the changes of the rows that a node of this log has: nats://host:4222/shop
    #[arg(long, value_name = "DIR|URL", value_hint = ValueHint::AnyPath)]
    #[arg(conflicts_with = "sender")]
    pub from: Option<PathBuf>,
    /// With --from: only notifications from this time on: 03:00, "2026-11-26 03:00", 10m (ago)
    #[arg(long, value_name = "TIME", value_parser = parse_moment, requires = "from")]
    #[arg(conflicts_with = "diff")]
    pub since: Option<Moment>,
    /// With --from: only notifications up to this time
    #[arg(long, value_name = "TIME", value_parser = parse_moment, requires = "from")]
    #[arg(conflicts_with = "diff")]
    pub until: Option<Moment>,
    /// Stop after this many notifications
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Say who sent each notification: the role, the application and the address of its session
    #[arg(long)]
    pub sender: bool,
    /// On a terminal, show each change of a large transaction, not one line for all
    #[arg(long)]
    pub all: bool,
    /// Print no notifications; at the end print counts, rates, sizes and ages by table and action
    #[arg(long, conflicts_with_all = ["raw", "template"])]
    pub stats: bool,
    /// Print a line of this form for each change: '{table} {key} {row.status}'
    ///
    /// The names in braces are those of the events (pgic help json): at, schema, table, key,
    /// channel, pid, bytes, action, row, old_key, new_key, xid, sent_at, age_ms, and row.COLUMN. {{
    /// is a brace, \n a line break, \t a tab.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["raw", "output"])]
    pub template: Option<String>,
    /// Print the payloads alone
    #[arg(long, conflicts_with = "output")]
    pub raw: bool,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic tail
  pgic tail orders users
  pgic tail users --action update --where email_hash=7
  pgic tail orders --where 'total>=100' --id 42
  pgic tail --diff users
  pgic tail --diff users --from nats://n1/shop
  pgic tail --stats --duration 1m
  pgic tail orders --template '{at} {action} {key} {row.status}'
  pgic tail --count 1 --duration 30s || echo nothing came
  pgic tail orders --from DIR --since 03:00 --until 03:10

Exit codes:
  0  ended by --count, --duration, a signal, or its reader
  1  --duration was over, or the record at its end, before --count
     notifications were shown
  2  the channels could not be listened to, or the output failed
  3  the server could not be reached, or took no session: trying again may
     help";

/// Returns the parser of an action's name, for clap.
fn actions() -> impl TypedValueParser<Value = Action> {
    let words = PossibleValuesParser::new(Action::ALL.map(Action::as_str));
    words.try_map(|word| {
        let action = Action::ALL
            .into_iter()
            .find(|action| action.as_str() == word);
        action.ok_or("no such action")
    })
}

/// The numbers of notifications when the printer ended.
#[derive(Debug, Default, Clone, Copy)]
struct Printed {
    shown: u64,
    invalid: u64,
    dropped: u64,
}

/// Listens and prints until a limit is reached, a signal comes, or nobody reads.
///
/// # Errors
/// If the channels cannot be listened to, or the output fails.
pub async fn run(context: &Context, mut args: Args) -> anyhow::Result<ExitCode> {
    if let Some(table) = &args.diff {
        let limit = Limit {
            count: args.count,
            duration: args.duration,
        };
        return Box::pin(diff::run(context, table, args.from.as_deref(), limit)).await;
    }
    // `tail orders status=paid` is what one types after `query orders status=paid`.
    let (conditions, tables) = std::mem::take(&mut args.tables)
        .into_iter()
        .partition(|word| Written::parse(word).is_ok());
    args.tables = tables;
    args.conditions.splice(..0, conditions);
    if let Some(from) = args.from.clone() {
        return recorded::run(context, &args, &from);
    }
    let has_channels = !args.channels.is_empty();
    args.channels = context.channels(std::mem::take(&mut args.channels));
    let mut interrupted = std::pin::pin!(interrupted());
    let server = context.server("tail")?;
    let prepared = tokio::select! {
        prepared = prepare(&server, &args, has_channels) => prepared?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    context.notices(&prepared.notices);
    args.channels.clone_from(&prepared.channels);
    let (lookups, service) = lookups::lookups(&prepared.announced);
    let passed = Arc::new(Passed::default());
    let printer = Printer::new(context, &args, prepared, lookups, Arc::clone(&passed))?;
    let queue = Arc::new(Queue::default());
    let driver = tokio::select! {
        opened = feed::open(&server, &args.channels, &queue) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    // The driver has listened for a while: a notification may wait in the queue already. The banner
    // must be printed before it.
    queue.push_first(Item::Connected {
        at: Timestamp::now(),
        channels: args.channels.clone(),
        place: server.place(),
    });
    let (done_sender, done) = tokio::sync::oneshot::channel::<()>();
    let for_printer = Arc::clone(&queue);
    let thread = std::thread::Builder::new()
        .name("printer".to_string())
        .spawn(move || {
            let printed = printer.run(&for_printer);
            // Nothing is sent: the end of the sender wakes `done`, whether the printer failed or
            // not.
            drop(done_sender);
            printed
        });
    let thread = thread.context("start the printer")?;
    let deadline = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let mut has_left = false;
    let ended: anyhow::Result<bool> = tokio::select! {
        failed = feed::run(driver, &queue, false, |text| context.notice(text)) => failed.map(|()| false),
        // The printer has printed `--count` notifications, or its output failed.
        _ = done => Ok(true),
        () = deadline => Ok(false),
        () = service.serve(&server) => Ok(true),
        () = say_silence(context, &args.channels, &passed) => Ok(true),
        () = &mut interrupted => Ok(true),
        () = crate::render::reader_gone() => {
            has_left = true;
            Ok(true)
        }
    };
    // The printer is joined before an error of the feed is returned: what arrived is printed first.
    queue.push(Item::End);
    let printed = thread
        .join()
        .map_err(|_| anyhow::anyhow!("the printer failed"))??;
    let is_on_time = ended?;
    if !context.quiet && !has_left {
        print_counts(context, printed);
    }
    // A signal is a person's decision, and a yes; only the end of the time makes too few a no, and
    // what was dropped.
    let too_few = args.count.is_some_and(|count| printed.shown < count);
    let has_dropped = printed.dropped > 0;
    Ok(if too_few && (!is_on_time || has_dropped) {
        ExitCode::No
    } else {
        ExitCode::Yes
    })
}

/// Prints the numbers on stderr.
fn print_counts(context: &Context, printed: Printed) {
    let Printed {
        shown,
        invalid,
        dropped,
    } = printed;
    note(&match context.format {
        Format::Text => {
            let shown = crate::render::count(shown, "notification");
            format!("{shown} shown, {invalid} invalid, {dropped} dropped\n")
        }
        Format::Json => EventLine::new("done", Timestamp::now())
            .member("shown", shown)
            .member("invalid", invalid)
            .member("dropped", dropped)
            .end(),
    });
}

/// Makes the filter, by a session that ends with that.
async fn prepare(server: &Server, args: &Args, has_channels: bool) -> anyhow::Result<Prepared> {
    let mut client = server.client().await?;
    let mut catalog = catalog::reading(&mut client).await?;
    Filter::prepare(&mut catalog, args, has_channels).await
}

/// The numbers of notifications so far, which the printer counts and others read.
#[derive(Debug, Default)]
struct Passed {
    received: AtomicU64,
    shown: AtomicU64,
}

/// Says once, after some seconds of silence, whether notifications came and did not pass. Never
/// ends: silence is no reason to stop.
///
/// Without this, a filter that fits nothing looks like a pipeline that is dead.
async fn say_silence(context: &Context, channels: &[String], passed: &Passed) {
    tokio::time::sleep(SILENCE).await;
    let received = passed.received.load(Ordering::Relaxed);
    if passed.shown.load(Ordering::Relaxed) == 0 {
        let seconds = SILENCE.as_secs();
        context.notice(&match received {
            0 => format!("nothing has come on {} in {seconds} s", channels.join(", ")),
            received => format!(
                "{} came in {seconds} s, and none passed the filter",
                crate::render::count(received, "notification")
            ),
        });
    }
    std::future::pending::<()>().await;
}
