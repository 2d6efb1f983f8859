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

mod diff;
mod feed;
mod filter;
mod queue;

use super::install_triggers::parse_channel;
use super::watch::Limit;
use super::{Context, interrupted};
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::render::change::{Arrival, ChangeStyle, Event, claims_change, write_json, write_text};
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, note, written};
use crate::tables::catalog;
use crate::units::parse_duration;
use anyhow::Context as _;
use filter::{Filter, Prepared};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::Payload;
use postgres_index_cache_core::{Action, DEFAULT_CACHE_CHANNEL};
use queue::{Item, Queue};
use std::io::{IsTerminal as _, Write};
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
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Only changes of these tables: users, or app.users
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
    /// A channel to listen on; may be repeated [default: PGIC_CHANNEL, else cache_invalidation]
    #[arg(short, long = "channel", value_name = "NAME")]
    #[arg(value_parser = parse_channel)]
    pub channels: Vec<String>,
    /// The same as a TABLE; several with commas
    #[arg(
        short = 't',
        long = "table",
        value_name = "TABLE",
        value_delimiter = ','
    )]
    pub more_tables: Vec<String>,
    /// Only this action: insert, update, delete, truncate or reload
    #[arg(long = "action", value_name = "ACTION", value_parser = parse_action)]
    pub actions: Vec<Action>,
    /// Only the row with this key; a composite key is written a,b
    #[arg(long = "id", value_name = "KEY")]
    pub ids: Vec<String>,
    /// Only rows that fulfil this condition, as pgic query takes it; all of several must hold
    #[arg(long = "where", value_name = "CONDITION")]
    pub conditions: Vec<String>,
    /// Keep this table in a cache, and show the effect of each change on the rows, old to new; a
    /// gap is told row by row
    #[arg(long, value_name = "TABLE")]
    #[arg(conflicts_with_all = ["tables", "more_tables", "channels", "actions", "ids", "conditions", "raw"])]
    pub diff: Option<String>,
    /// Stop after this many notifications
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
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
  pgic tail --count 1 --duration 30s || echo nothing came

Exit codes:
  0  ended by --count, --duration, a signal, or its reader
  1  --duration was over before --count notifications were shown
  2  the channels could not be listened to, or the output failed
  3  the server could not be reached, or took no session: trying again may help";

/// Parses the name of an action, for clap.
fn parse_action(word: &str) -> Result<Action, String> {
    let found = Action::ALL
        .into_iter()
        .find(|action| action.as_str() == word);
    found.ok_or_else(|| "expected insert, update, delete, truncate or reload".to_string())
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
        return diff::run(context, table, limit).await;
    }
    if args.channels.is_empty() {
        let channel = context.settings.channel.as_deref();
        let channel = channel.unwrap_or(DEFAULT_CACHE_CHANNEL);
        args.channels.push(channel.to_string());
    }
    let mut interrupted = std::pin::pin!(interrupted());
    let server = context.server("tail")?;
    let filter = tokio::select! {
        prepared = prepare(&server, &args) => prepared?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    context.notices(&filter.notices);
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
    let passed = Arc::new(Passed::default());
    let printer = Printer::new(context, &args, filter.filter, Arc::clone(&passed));
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
        failed = feed::run(driver, &queue, |text| context.notice(text)) => failed.map(|()| false),
        // The printer has printed `--count` notifications, or its output failed.
        _ = done => Ok(true),
        () = deadline => Ok(false),
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
    // A signal is a person's decision, and a yes; only the end of the time makes too few a no.
    let too_few = args.count.is_some_and(|count| printed.shown < count);
    Ok(if too_few && !is_on_time {
        ExitCode::No
    } else {
        ExitCode::Yes
    })
}

/// Makes the filter, by a session that ends with that.
async fn prepare(server: &Server, args: &Args) -> anyhow::Result<Prepared> {
    let mut client = server.client().await?;
    let mut catalog = catalog::reading(&mut client).await?;
    Filter::prepare(&mut catalog, args).await
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

/// The consumer of the queue, which turns items into lines and writes them to stdout.
struct Printer {
    format: Format,
    is_raw: bool,
    is_terminal: bool,
    is_quiet: bool,
    style: ChangeStyle,
    filter: Filter,
    passed: Arc<Passed>,
    /// The number of notifications after which the printer ends.
    limit: u64,
}

impl Printer {
    fn new(context: &Context, args: &Args, filter: Filter, passed: Arc<Passed>) -> Self {
        Self {
            format: context.format,
            is_raw: args.raw,
            is_terminal: std::io::stdout().is_terminal(),
            is_quiet: context.quiet,
            style: ChangeStyle {
                look: context.look.clone(),
                with_channel: args.channels.len() > 1,
            },
            filter,
            passed,
            limit: args.count.unwrap_or(u64::MAX),
        }
    }

    /// Prints items until [`Item::End`] comes or the limit is reached.
    ///
    /// # Errors
    /// If stdout takes nothing more.
    fn run(&self, queue: &Queue) -> anyhow::Result<Printed> {
        let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout());
        let mut printed = Printed::default();
        let mut line = String::new();
        loop {
            let items = match queue.try_take() {
                Some(items) => items,
                None => {
                    // In a burst lines are written in blocks. As soon as nothing waits, the rest
                    // is flushed, so that a person sees the last line at once.
                    written(out.flush())?;
                    queue.take()
                }
            };
            for item in items {
                line.clear();
                if matches!(item, Item::End) {
                    written(out.flush())?;
                    return Ok(printed);
                }
                self.write(&item, &mut line, &mut printed);
                written(out.write_all(line.as_bytes()))?;
                if printed.shown >= self.limit {
                    written(out.flush())?;
                    return Ok(printed);
                }
            }
        }
    }

    /// Renders an item into `line`, which stays empty if there is nothing to show, and counts the
    /// item.
    fn write(&self, item: &Item, line: &mut String, printed: &mut Printed) {
        let event = match item {
            Item::Notification { at, notification } => {
                let payload = notification.payload();
                let arrival = Arrival {
                    at: *at,
                    channel: notification.channel(),
                    pid: notification.process_id(),
                    payload,
                };
                return self.write_notification(arrival, line, printed);
            }
            Item::Connected {
                at,
                channels,
                place,
            } => Event::Connected {
                at: *at,
                channels,
                place: place.as_ref(),
            },
            Item::Disconnected { at, why } => Event::Disconnected { at: *at, why },
            Item::Gap { from, to } => Event::Gap {
                from: *from,
                to: *to,
            },
            Item::Resumed { at } => Event::Resumed { at: *at },
            Item::Dropped { at, count } => {
                printed.dropped += count;
                Event::Dropped {
                    at: *at,
                    count: *count,
                }
            }
            Item::End => return,
        };
        self.emit(&event, line);
    }

    fn write_notification(&self, arrival: Arrival<'_>, line: &mut String, printed: &mut Printed) {
        self.passed.received.fetch_add(1, Ordering::Relaxed);
        let parsed = Payload::parse(arrival.payload);
        let is_invalid = parsed.is_err() && claims_change(arrival.payload);
        printed.invalid += u64::from(is_invalid);
        match &parsed {
            Ok(payload) if self.filter.accepts(payload) => {
                self.emit(&Event::Change { arrival, payload }, line);
            }
            // A filter asks for properties that a payload which does not parse cannot have.
            Err(_) if self.filter.is_empty() && !is_invalid => {
                self.emit(&Event::Payload { arrival }, line);
            }
            Err(error) if self.filter.is_empty() => {
                self.emit(
                    &Event::Invalid {
                        arrival,
                        error: error.to_string(),
                    },
                    line,
                );
            }
            Ok(_) | Err(_) => return,
        }
        printed.shown += 1;
        self.passed.shown.fetch_add(1, Ordering::Relaxed);
    }

    /// Renders an event in the format that was asked for: into `line`, which goes to stdout, or to
    /// stderr if the event is no data in that format.
    fn emit(&self, event: &Event<'_>, line: &mut String) {
        match (self.is_raw, self.format, event) {
            (
                true,
                _,
                Event::Change { arrival, .. }
                | Event::Payload { arrival }
                | Event::Invalid { arrival, .. },
            ) => {
                line.push_str(&if self.is_terminal {
                    escape(arrival.payload)
                } else {
                    arrival.payload.into()
                });
                line.push('\n');
            }
            // Raw output has payloads alone, and text has no banner: scripts read them. In JSON the
            // banner is an event. A gap or dropped notifications concern whoever reads raw output,
            // so they are told on stderr even with `--quiet`.
            // Of a lost connection, a notice on stderr has told already.
            (
                true,
                _,
                Event::Connected { .. } | Event::Resumed { .. } | Event::Disconnected { .. },
            )
            | (false, Format::Text, Event::Disconnected { .. }) => {}
            (false, Format::Text, Event::Connected { .. } | Event::Resumed { .. }) => {
                if !self.is_quiet {
                    note(&self.plain_text(event));
                }
            }
            (true, _, Event::Gap { .. } | Event::Dropped { .. }) => note(&self.plain_text(event)),
            (false, Format::Text, _) => write_text(event, &self.style, line),
            (false, Format::Json, _) => write_json(event, line),
        }
    }

    /// Returns an event as text for stderr. `--color` may be right for stdout alone, so it has
    /// none.
    fn plain_text(&self, event: &Event<'_>) -> String {
        let style = ChangeStyle {
            look: self.style.look.plain(),
            ..self.style.clone()
        };
        let mut text = String::new();
        write_text(event, &style, &mut text);
        text
    }
}
