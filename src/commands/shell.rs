//! `pgic shell`.
//!
//! ```text
//! terminal or pipe ─→ input (a thread) ─ a line ─→ Session: driver, caches ─ Reply ─→ input prints it
//! ```
//!
//! The session's task never writes to stdout nor waits for a terminal: a reader that stops reading
//! does not keep it from taking what the server sends.

mod changes;
mod input;
mod line;
mod live;
mod notices;
mod session;

use super::{Context, Signals};
use crate::cli::parse_bytes;
use crate::exit_code::ExitCode;
use anyhow::Context as _;
use input::{Input, Request};
use session::Session;
use std::io::IsTerminal as _;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

/// `pgic shell TABLE…`.
///
/// Loads the tables into the caches that an application has, keeps them live, and answers lines
/// like `users username_hash=123` and `count users` from them; `.help` lists the rest. Each answer
/// has everything that was committed before its line was read. Works from a pipe: a line, an
/// answer, in order; exit code 2 when one of the lines could not be answered.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", required = true)]
    pub tables: Vec<String>,
    /// What the caches may take [default: a quarter of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<usize>,
}

/// Whether there is a prompt: a person types, and sees the answers.
pub(super) fn is_at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Whether a line is understood: for who feeds it anything.
#[doc(hidden)]
pub fn understands(line: &str) -> bool {
    line::Line::parse(line).is_ok()
}

/// Loads the tables and answers until there are no more lines.
///
/// # Errors
/// When a table is refused, or the server refuses, or the output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch();
    let mut session = tokio::select! {
        opened = Session::open(context, &args) => opened?,
        _ = signals.next() => return Ok(ExitCode::Yes),
    };
    let is_terminal = is_at_terminal();
    let input = Input::new(
        is_terminal,
        context.quiet,
        session.guide(),
        context.suspension.clone(),
    )?;
    let terminal = input.terminal();
    session.say_through(input.notices());
    let (sender, mut lines) = mpsc::channel(1);
    let thread = std::thread::Builder::new()
        .name("input".to_string())
        .spawn(move || input.run(&sender));
    let thread = thread.context("start the thread that reads lines")?;
    // At a prompt Ctrl-C gives up a line; as a signal it ends what comes from a pipe.
    let is_key = |signal| is_terminal && signal == SignalKind::interrupt();
    let mut has_failed = false;
    let interrupted = loop {
        let asked: Request = tokio::select! {
            asked = lines.recv() => match asked {
                Some(asked) => asked,
                None => break false,
            },
            () = session.idle() => continue,
            signal = signals.next() => if is_key(signal) { continue } else { break true },
        };
        let reply = tokio::select! {
            reply = session.answer(&asked.line) => reply,
            signal = signals.next() => if is_key(signal) { session.cancelled(&asked.line) } else { break true },
        };
        has_failed |= reply.is_failure;
        let is_last = reply.is_last;
        // An input that is gone has its reason, which its end tells.
        let _ = asked.reply.send(reply);
        if is_last {
            break false;
        }
    };
    drop(lines);
    if interrupted {
        // The thread may wait for a line that never comes.
        terminal.restore();
        return Ok(ExitCode::Yes);
    }
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that reads lines failed"))??;
    Ok(if has_failed && !is_terminal {
        ExitCode::Failed
    } else {
        ExitCode::Yes
    })
}
