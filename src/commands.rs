//! The commands, one file each, and the [`Context`] that all of them get: where to connect, how to
//! print, which signals end them.

pub mod completions;
pub mod demo;
pub mod install_triggers;
pub mod query;
pub mod remove_triggers;
pub mod shell;
pub mod status;
pub mod tail;
pub mod verify;
mod watch;

use crate::cli::{Cli, Command, Global};
use crate::connect::{Environment, Server};
use crate::exit_code::ExitCode;
use crate::failure::HintExt as _;
use crate::render::escape::escape;
use crate::render::{Format, Trace, note};
use crate::suspend::Suspension;
use anyhow::Context as _;
use clap::ColorChoice;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The options, variables and handles that every command gets beside the arguments.
#[derive(Debug)]
pub struct Context {
    /// The value of `--database-url`, if given.
    pub database_url: Option<String>,
    /// The environment variables of this process.
    pub environment: Environment,
    /// The format of answers: text, or JSON.
    pub format: Format,
    /// Whether answers on stdout are coloured.
    pub color: bool,
    /// Whether notices and progress are left out (`--quiet`).
    pub quiet: bool,
    /// Closes the connections when this process is about to be stopped by Ctrl-Z.
    pub suspension: Suspension,
}

impl Context {
    fn new(global: &Global) -> Self {
        let choice = match global.color {
            ColorChoice::Auto => anstream::AutoStream::choice(&std::io::stdout()),
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        // stderr follows `--color` too, but with `auto` it decides for itself: it may be a terminal
        // where stdout is a pipe.
        match global.color {
            ColorChoice::Auto => {}
            ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
            ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
        }
        Self {
            database_url: global.database_url.clone(),
            environment: Environment::of_process(),
            format: global.output,
            color: choice != anstream::ColorChoice::Never,
            quiet: global.quiet,
            suspension: Suspension::default(),
        }
    }

    /// Returns the server to connect to, for the command with this name. Does not connect yet.
    /// Prints a notice if the server is another machine and the connection will not be encrypted.
    ///
    /// # Errors
    /// If the connection string, or a variable, is not understood.
    pub fn server(&self, command: &str) -> anyhow::Result<Server> {
        let server = Server::new(self.database_url.as_deref(), &self.environment, command)?;
        if let Some(notice) = server.plaintext_notice() {
            self.notice(&notice);
        }
        Ok(server.until(self.suspension.clone()))
    }

    /// Prints a notice on stderr, unless `--quiet` was given.
    pub fn notice(&self, text: &str) {
        if !self.quiet {
            note(&format!("notice: {}\n", escape(text)));
        }
    }

    /// Prints each text as a [`notice`](Self::notice).
    pub fn notices(&self, texts: &[String]) {
        for text in texts {
            self.notice(text);
        }
    }
}

/// Runs the command that was parsed, and returns the exit code.
///
/// # Errors
/// If the command could not be carried out.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    trace(cli.global.verbose);
    let context = Context::new(&cli.global);
    // A shell may load completions whenever it starts: neither a runtime nor a limit on files is in
    // the way of that.
    if let Command::Completions(args) = &cli.command {
        return completions::run(args);
    }
    check_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.context("start the runtime")?;
    let done = runtime.block_on(async {
        // At a prompt the terminal is in raw mode, so Ctrl-Z arrives as a key: the line editor
        // closes the connections and stops the process itself. The demo's commands are processes of
        // their own, which get the signal of Ctrl-Z too and close their connections themselves.
        let has_prompt = matches!(cli.command, Command::Shell(_)) && shell::is_at_terminal();
        if has_prompt {
            context.suspension.catch_continue();
        } else if !matches!(cli.command, Command::Demo(_)) {
            context.suspension.catch_stop();
        }
        match cli.command {
            Command::InstallTriggers(args) => install_triggers::run(&context, args).await,
            Command::RemoveTriggers(args) => remove_triggers::run(&context, args).await,
            Command::Status(args) => status::run(&context, args).await,
            Command::Tail(args) => Box::pin(tail::run(&context, args)).await,
            Command::Query(args) => Box::pin(query::run(&context, args)).await,
            Command::Shell(args) => Box::pin(shell::run(&context, args)).await,
            Command::Verify(args) => Box::pin(verify::run(&context, args)).await,
            Command::Demo(args) => demo::run(&context, args).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    // Dropping the runtime would wait for tasks that block: one that waits for a server that is
    // gone must not keep this process from ending.
    runtime.shutdown_background();
    done
}

/// Checks that this process may open as many files as the runtime and the connections take.
///
/// Otherwise the runtime would fail at a file that it needs, and say nothing of the limit.
fn check_files() -> anyhow::Result<()> {
    const NEEDED: usize = 12;
    let opened: std::io::Result<Vec<std::fs::File>> = (0..NEEDED)
        .map(|_| std::fs::File::open("/dev/null"))
        .collect();
    drop(
        opened
            .with_context(|| format!("open {NEEDED} files at once"))
            .hint("raise the limit: ulimit -n 64")?,
    );
    Ok(())
}

/// Sends traces to stderr: none, those of debug level (`-v`), or all (`-vv`).
fn trace(verbosity: u8) {
    let level = match verbosity {
        0 => return,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // It fails if there is a subscriber already: that one is a test's, and stays.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Trace)
        .with_ansi(false)
        .log_internal_errors(false)
        .try_init();
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
