//! `pgic record`: keeps notifications in a folder, for later questions.

use super::install_triggers::parse_channel;
use super::{Context, interrupted};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::feed;
use crate::feed::queue::{Item, Note, Queue};
use crate::record::writer::{Recorder, Rotation, Sealed, lines};
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, count, print};
use crate::server_seen::clock_ahead;
use crate::tables::catalog;
use crate::tables::estimate::human;
use crate::units::{parse_bytes, parse_duration};
use anyhow::Context as _;
use clap::ValueHint;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the writer waits for items before it forces the last ones to the disk.
const IDLE: Duration = Duration::from_secs(1);

/// How far the clocks may differ for a proof.
pub const CLOCKS: SignedDuration = SignedDuration::from_millis(500);

/// Keep notifications in a folder, for later questions
///
/// Writes every notification as a line of JSON into DIR, with the times at which none could be
/// received. Files that are full are compressed with zstd, and get an index by time and key. pgic
/// tail --from reads the folder, pgic why --record proves from it whether a change was announced,
/// and pgic replay sends it again.
///
/// A process that is killed leaves at most one torn line, which the next one cuts and reports. A
/// disk that is full ends the command at once, and nothing that was written before is lost. Files
/// are never removed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The folder; made if it does not exist
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// A channel to record; may be repeated [default: PGIC_CHANNEL, else cache_invalidation]
    #[arg(short, long = "channel", value_name = "NAME")]
    #[arg(value_parser = parse_channel, add = completion::channels())]
    pub channels: Vec<String>,
    /// The size from which a file is full, before it is compressed
    #[arg(long, value_name = "SIZE", default_value = "64MB", value_parser = parse_bytes)]
    pub max_size: usize,
    /// The age from which a file is full
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub max_age: Duration,
    /// Stop after this time: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic record --dir /var/lib/pgic/shop
  pgic record --dir DIR -c cache_invalidation -c jobs --max-age 15m
  pgic tail --from DIR --since 03:00 --until 03:10
  pgic why orders 42 --record DIR
  zstdcat DIR/*.zst | jq 'select(.event == \"gap\")'
  find DIR -name '*.ndjson.*' -mtime +14 -delete

Exit codes:
  0  ended by --duration or a signal
  2  the folder could not be written, or the channels not be listened to
  3  the server could not be reached, or took no session: trying again may
     help";

/// The numbers of a recording.
#[derive(Debug, Default)]
struct Recorded {
    notifications: u64,
    gaps: u64,
    dropped: u64,
}

/// Returns the server's clock less ours.
async fn clock(server: &Server) -> anyhow::Result<SignedDuration> {
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    Ok(clock_ahead(&catalog).await?.0)
}

/// Listens and writes until a signal comes, or the time is over.
///
/// # Errors
/// If the channels cannot be listened to, or the folder cannot be written.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let rotation = Rotation {
        max_size: args.max_size as u64,
        max_age: args.max_age,
    };
    // A folder that cannot be written is told before anything is listened to.
    let (recorder, found) = Recorder::open(&args.dir, rotation)?;
    if found.cut > 0 {
        context.notice(&format!(
            "cut {} of a line that was torn when the last pgic record ended",
            count(found.cut, "byte")
        ));
    }
    let channels = context.channels(args.channels);
    let server = context.server("record")?;
    let ahead = tokio::select! {
        ahead = clock(&server) => ahead?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    if ahead.abs() > CLOCKS {
        context.notice(&format!(
            "the clocks of the server and of this machine differ by {:.1} s: pgic why --record will prove \
            nothing",
            ahead.abs().as_secs_f64()
        ));
    }
    let queue = Arc::new(Queue::default());
    let driver = tokio::select! {
        opened = feed::open(&server, &channels, &queue) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    // In front of the notifications that have come meanwhile, the start before the clock.
    queue.push_first(Item::Note {
        at: Timestamp::now(),
        note: Note::Clock(ahead.as_millis() as i64),
    });
    queue.push_first(Item::Connected {
        at: Timestamp::now(),
        channels: channels.clone(),
        place: server.place(),
    });
    context.print_place(&server)?;
    context.notice(&format!(
        "recording {} into {}",
        channels.join(", "),
        args.dir.display()
    ));
    let (failed_sender, failed) = tokio::sync::oneshot::channel::<()>();
    let format = context.format;
    let for_writer = Arc::clone(&queue);
    let thread = std::thread::Builder::new()
        .name("recorder".to_string())
        .spawn(move || {
            let recorded = write(recorder, &for_writer, format);
            // The end of the sender wakes `failed`.
            drop(failed_sender);
            recorded
        });
    let thread = thread.context("start the writer")?;
    let deadline = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        failed = feed::run(driver, &queue, true, |text| context.notice(text)) => failed,
        // The writer ends before it is told to only if it failed.
        _ = failed => Ok(()),
        () = deadline => Ok(()),
        () = &mut interrupted => Ok(()),
    };
    queue.push(Item::End);
    let recorded = thread
        .join()
        .map_err(|_| anyhow::anyhow!("the writer failed"))??;
    ended?;
    let Recorded {
        notifications,
        gaps,
        dropped,
    } = recorded;
    print(&match format {
        Format::Json => EventLine::new("record", Timestamp::now())
            .member("notifications", notifications)
            .member("gaps", gaps)
            .member("dropped", dropped)
            .end(),
        Format::Text => format!(
            "{} recorded, {}, {dropped} dropped\n",
            count(notifications, "notification"),
            count(gaps, "gap")
        ),
    })?;
    Ok(ExitCode::Yes)
}

/// Writes the items of the queue until [`Item::End`] comes.
fn write(mut recorder: Recorder, queue: &Queue, format: Format) -> anyhow::Result<Recorded> {
    let mut recorded = Recorded::default();
    let mut text = String::new();
    loop {
        let items = queue.take_within(IDLE).unwrap_or_default();
        if items.is_empty() {
            recorder.sync()?;
        }
        for item in &items {
            match item {
                Item::Notification { .. } => recorded.notifications += 1,
                Item::Gap { .. } => recorded.gaps += 1,
                Item::Dropped { count, .. } => recorded.dropped += count,
                _ => {}
            }
        }
        text.clear();
        lines(&items, &mut text);
        if !text.is_empty() {
            recorder.write(&text)?;
        }
        for sealed in recorder.sealed()? {
            print(&sealed_text(format, &sealed))?;
        }
        if matches!(items.back(), Some(Item::End)) {
            for sealed in recorder.finish()? {
                print(&sealed_text(format, &sealed))?;
            }
            return Ok(recorded);
        }
    }
}

/// Returns the line of a file that was compressed.
fn sealed_text(format: Format, sealed: &Sealed) -> String {
    let Sealed {
        name,
        entries,
        plain_bytes,
        bytes,
    } = sealed;
    match format {
        Format::Json => EventLine::new("segment", Timestamp::now())
            .member("file", name)
            .member("entries", entries)
            .member("plain_bytes", plain_bytes)
            .member("bytes", bytes)
            .end(),
        Format::Text => format!(
            "{}  {}, {} compressed to {}\n",
            escape(name),
            if *entries == 1 {
                "1 entry".to_string()
            } else {
                format!("{entries} entries")
            },
            human(*plain_bytes as usize),
            human(*bytes as usize)
        ),
    }
}
