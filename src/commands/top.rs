//! `pgic top`: a live screen of notifications.
//!
//! ```text
//! feed (a task) ─→ queue ─→ ui (a thread): model ─→ draw ─→ terminal
//! look (a task) ─→ Looked ──┘     ↑ keys
//! ```
//!
//! As with `tail`, the feed never waits for the screen: a terminal that stops must not hold the
//! server's notification queue.

mod draw;
mod look;
mod model;
mod screen;

use super::install_triggers::parse_channel;
use super::{Context, interrupted};
use crate::completion;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::feed;
use crate::feed::queue::{Item, Queue};
use crate::render::Format;
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use look::Looked;
use model::Model;
use parking_lot::Mutex;
pub use screen::Screen;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the thread of the screen may take to end: the terminal may be stopped.
const ENDING: Duration = Duration::from_millis(500);

/// Watch rates, lag, queue, nodes and changes on a live screen
///
/// Listens on the channels, and shows for each table and action how many changes come in a second,
/// how many came, how large they are, and how old at their arrival; the notification queue, who
/// listens, the nodes; and the last changes.
///
/// Keys: q quits; p or the space bar holds the screen, while counting goes on; s sorts by the next
/// column; / filters by table, key or value, Esc takes the filter away; the arrow keys and Page Up
/// and Down scroll the changes; c counts from zero; ? shows the keys.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// A channel to listen on; may be repeated [default: PGIC_CHANNEL, else cache_invalidation]
    #[arg(short, long = "channel", value_name = "NAME")]
    #[arg(value_parser = parse_channel, add = completion::channels())]
    pub channels: Vec<String>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic top
  pgic top -c cache_invalidation -c jobs
  pgic tail --stats --duration 1m    the same numbers, for a script

Exit codes:
  0  ended by q or a signal
  2  there is no terminal, or the channels could not be listened to
  3  the server could not be reached, or took no session: trying again may
     help";

/// Listens, and shows the screen until somebody quits.
///
/// # Errors
/// If there is no terminal, or the channels cannot be listened to.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !is_terminal || context.format == Format::Json {
        let error = anyhow!("a live screen takes a terminal");
        return Err(with_hint(error, "pgic tail --stats counts for scripts"));
    }
    let mut interrupted = std::pin::pin!(interrupted());
    let channels = context.channels(args.channels);
    let server = context.server("top")?;
    let queue = Arc::new(Queue::default());
    let driver = tokio::select! {
        opened = feed::open(&server, &channels, &queue) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    queue.push_first(Item::Connected {
        at: Timestamp::now(),
        channels: channels.clone(),
        place: server.place(),
    });
    let looked = Arc::new(Mutex::new(Looked::default()));
    let model = Model::new(&context.look, channels.len() > 1);
    let is_over = Arc::new(AtomicBool::new(false));
    let (done_sender, done) = tokio::sync::oneshot::channel::<()>();
    let ui = {
        let (queue, looked, is_over) = (
            Arc::clone(&queue),
            Arc::clone(&looked),
            Arc::clone(&is_over),
        );
        std::thread::Builder::new()
            .name("screen".to_string())
            .spawn(move || {
                let shown = screen::show(model, &queue, &looked, &is_over);
                // The end of the sender wakes `done`.
                drop(done_sender);
                shown
            })
            .context("start the screen")?
    };
    let ended: anyhow::Result<()> = tokio::select! {
        failed = feed::run(driver, &queue, false, |_| {}) => failed,
        () = look::run(&server, &looked) => Ok(()),
        _ = done => Ok(()),
        () = &mut interrupted => Ok(()),
    };
    is_over.store(true, Ordering::Relaxed);
    // The thread restores the terminal, unless it is stuck in a write to it.
    let joined = tokio::task::spawn_blocking(move || ui.join());
    match tokio::time::timeout(ENDING, joined).await {
        Ok(shown) => shown
            .context("end the screen")?
            .map_err(|_| anyhow!("the screen failed"))??,
        Err(_) => Screen::restore(),
    }
    ended?;
    Ok(ExitCode::Yes)
}
