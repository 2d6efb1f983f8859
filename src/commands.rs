//! The commands, one file each, and the [`Context`] that all of them get: where to connect, how to
//! print, which signals end them.

pub mod announce;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod help;
pub mod install_triggers;
pub mod man;
pub mod monitor;
pub mod nodes;
pub mod ping;
mod plans;
pub mod query;
pub mod record;
pub mod relay;
pub mod remove_triggers;
pub mod replay;
pub mod shell;
pub mod status;
pub mod tail;
pub mod top;
pub mod verify;
pub mod wait;
mod watch;
pub mod why;

use crate::connect::{ConnectionOptions, Environment, Server};
use crate::failure::with_hint;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::layout::Layout;
use crate::render::look::Look;
use crate::render::{Format, note, notice, print};
use crate::settings::Settings;
use crate::suspend::Suspension;
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use postgres_index_cache_core::DEFAULT_CACHE_CHANNEL;
use std::io::IsTerminal as _;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The options, variables and handles that every command gets beside the arguments.
#[derive(Debug)]
pub struct Context {
    /// The options that say where to connect.
    pub connection: ConnectionOptions,
    /// The environment variables of this process.
    pub environment: Environment,
    /// The format of answers: text, or JSON.
    pub format: Format,
    /// Whether metrics are asked for instead (`-o prometheus`).
    pub metrics: bool,
    /// The layout of rows of text.
    pub layout: Layout,
    /// Colours and times of answers on stdout.
    pub look: Look,
    /// Whether notices and progress are left out (`--quiet`).
    pub quiet: bool,
    /// The defaults that hold for this run.
    pub settings: Settings,
    /// Closes the connections when this process is about to be stopped by Ctrl-Z.
    pub suspension: Suspension,
}

impl Context {
    /// Returns the server to connect to, for the command with this name. Does not connect yet.
    /// Its notices are printed, for example that a connection is not encrypted.
    ///
    /// # Errors
    /// If the connection string, or a variable, is not understood.
    pub fn server(&self, command: &'static str) -> anyhow::Result<Server> {
        let server = Server::new(&self.connection, &self.environment, command)?;
        let (format, is_quiet) = (self.format, self.quiet);
        let server = server.notices(move |text| print_notice(format, text, is_quiet));
        Ok(server.until(self.suspension.clone()))
    }

    /// Returns the channels to listen on: those that were asked for, else that of the settings,
    /// else the one on which triggers notify by default.
    pub fn channels(&self, asked: Vec<String>) -> Vec<String> {
        if !asked.is_empty() {
            return asked;
        }
        let channel = self.settings.channel.as_deref();
        vec![channel.unwrap_or(DEFAULT_CACHE_CHANNEL).to_string()]
    }

    /// Prints a notice on stderr, unless `--quiet` was given.
    pub fn notice(&self, text: &str) {
        print_notice(self.format, text, self.quiet);
    }

    /// Returns a function that prints notices as [`notice`](Self::notice) does, for tasks.
    pub fn notices_fn(&self) -> Arc<dyn Fn(&str) + Send + Sync> {
        let (format, is_quiet) = (self.format, self.quiet);
        Arc::new(move |text| print_notice(format, text, is_quiet))
    }

    /// Prints where a command is connected: as a line on stderr, unless `--quiet` was given, or as
    /// the first event of a stream of JSON.
    ///
    /// # Errors
    /// If the event cannot be written.
    pub fn print_place(&self, server: &Server) -> anyhow::Result<()> {
        let place = server.place();
        match (self.format, &place) {
            (Format::Json, _) => {
                let line = EventLine::new("connected", Timestamp::now()).place(place.as_ref());
                print(&line.end())?;
            }
            (Format::Text, Some(place)) if !self.quiet => {
                note(&format!("{}\n", escape(&place.to_string())));
            }
            (Format::Text, _) => {}
        }
        Ok(())
    }

    /// Prints each text as a [`notice`](Self::notice).
    pub fn notices(&self, texts: &[String]) {
        for text in texts {
            self.notice(text);
        }
    }
}

/// Asks on the terminal whether to do this.
///
/// # Errors
/// If nobody can be asked, with this hint, or the answer cannot be read.
fn confirm(what: &str, hint: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(with_hint(anyhow!("--all would {what}"), hint));
    }
    note(&format!("{}? [y/N] ", escape(what)));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Prints a notice on stderr, unless `--quiet` was given.
fn print_notice(format: Format, text: &str, is_quiet: bool) {
    if !is_quiet {
        note(&notice(format, Timestamp::now(), text));
    }
}

/// The handlers of SIGINT and SIGTERM.
///
/// They stand from [`catch`](Signals::catch) on. A signal that arrives before somebody waits for it
/// is kept, so work that was begun in between ends in order too. `None` if the system refused one
/// of the handlers.
#[derive(Debug)]
pub struct Signals(Option<(Signal, Signal)>);

impl Signals {
    /// Installs the handlers.
    pub fn catch() -> Self {
        let caught = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        );
        // Without both handlers we wait for neither: a signal ends the process as it always does.
        Self(if let (Ok(interrupt), Ok(terminate)) = caught {
            Some((interrupt, terminate))
        } else {
            None
        })
    }

    /// Waits for the next signal, and returns that.
    pub async fn next(&mut self) -> SignalKind {
        match &mut self.0 {
            None => std::future::pending().await,
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
            },
        }
    }
}

/// Returns a future that waits for SIGINT or SIGTERM. Signals are caught from this call on, not
/// only from the first poll of the future.
pub fn interrupted() -> impl Future<Output = ()> {
    let mut signals = Signals::catch();
    async move {
        signals.next().await;
    }
}
