//! `pgic shell`: keeps tables in caches, live, and answers lines from them.
//!
//! ```text
//! terminal or pipe ─→ input (a thread) ─ Request: a line ─→ Session (a task): driver, caches
//!                          ↑ prints the reply                   │
//!                          └──────────────── Reply ─────────────┘
//! ```
//!
//! The session's task never writes to stdout, nor waits for a terminal. So a reader that stops
//! reading does not keep the session from taking notifications.

mod answer;
mod changes;
mod guide;
mod input;
mod line;
mod live;
mod notices;
mod overview;
mod pager;
mod prompt_state;
mod session;

use super::{Context, Signals};
use crate::exit_code::ExitCode;
use crate::render::{Format, note};
use crate::tables::bounds::BoundArgs;
use anyhow::Context as _;
use input::{Input, Request};
use session::Session;
use std::io::IsTerminal as _;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

/// Keep tables in live caches, and ask questions at a prompt
///
/// Loads the tables into the caches that an application has, keeps them live, and answers lines
/// like users username_hash=123 and count users from them; .help lists the rest. Each answer has
/// everything that was committed before the line was read.
///
/// The prompt says live, loading or stale. Lost connections are opened again, and a table that is
/// altered is reloaded. Works from a pipe too: a line, an answer, in order.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", required = true, add = crate::completion::announced_tables())]
    pub tables: Vec<String>,
    #[command(flatten)]
    pub bounds: BoundArgs,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic shell users products
  echo 'count users' | pgic shell users -o json

Lines at the prompt:
  users username_hash=123       the rows that fulfil every condition
  count users email_hash=7      their number
  .watch users email_hash=7     show each change of these rows as it happens
  .history users KEY            what became of a row since the shell began
  .verify users                 compare the cache with the table

Exit codes:
  0  ended by .quit, the end of the input, or a signal
  2  a table was refused, or the server could not be used; from a pipe also: a
     line could not be answered
  3  the server could not be reached, or took no session: trying again may
     help";

/// Returns whether to show a prompt: a person types, and sees the answers.
pub(crate) fn is_at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Returns whether a line is understood. For the fuzz targets, which feed it anything.
#[doc(hidden)]
pub fn understands(line: &str) -> bool {
    line::Line::parse(line).is_ok()
}

/// Loads the tables and answers lines until there are no more, or a signal comes.
///
/// # Errors
/// If a table is refused, the server cannot be used, or the output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch();
    let mut session = tokio::select! {
        opened = Session::open(context, &args) => opened?,
        _ = signals.next() => return Ok(ExitCode::Yes),
    };
    let is_terminal = is_at_terminal();
    if context.format == Format::Json {
        context.print_place(session.server())?;
    } else if is_terminal && !context.quiet {
        note(&format!("{}; .help lists the commands\n", session.place()));
    }
    let input = Input::new(
        is_terminal,
        context.quiet,
        session.guide(),
        context.suspension.clone(),
    )?;
    let terminal = input.terminal();
    session.say_through(input.notices());
    // One line at a time: input waits for the reply before it reads the next.
    let (sender, mut lines) = mpsc::channel(1);
    let thread = std::thread::Builder::new()
        .name("input".to_string())
        .spawn(move || input.run(&sender));
    let thread = thread.context("start the thread that reads lines")?;
    let mut has_failed = false;
    let is_interrupted = loop {
        let asked: Request = tokio::select! {
            asked = lines.recv() => match asked {
                Some(asked) => asked,
                None => break false,
            },
            () = session.idle() => continue,
            signal = signals.next() => {
                if is_key(signal, is_terminal) {
                    continue;
                }
                break true;
            }
        };
        let reply = tokio::select! {
            reply = session.answer(&asked.line) => reply,
            signal = signals.next() => {
                if !is_key(signal, is_terminal) {
                    break true;
                }
                session.cancelled(&asked.line)
            }
        };
        has_failed |= reply.is_failure;
        let is_last = reply.is_last;
        // It fails if the input has ended. Then `join` below tells why.
        let _ = asked.reply.send(reply);
        if is_last {
            break false;
        }
    };
    drop(lines);
    if is_interrupted {
        // The thread may wait for a line that never comes, so it is not joined. It would have put
        // the terminal in order.
        terminal.restore_from_prompt();
        return Ok(ExitCode::Yes);
    }
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that reads lines failed"))??;
    // At a prompt the person has seen the error; a script has nothing but the code.
    Ok(if has_failed && !is_terminal {
        ExitCode::Failed
    } else {
        ExitCode::Yes
    })
}

/// Returns whether a signal is Ctrl-C at a prompt, which gives up a line. From a pipe the same
/// signal ends the command.
fn is_key(signal: SignalKind, is_terminal: bool) -> bool {
    is_terminal && signal == SignalKind::interrupt()
}
