//! The commands, one file each, and what they share: where to connect, how to print.

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

/// What a command is given besides its own arguments.
#[derive(Debug)]
pub struct Context {
    /// `--database-url`.
    pub database_url: Option<String>,
    /// The variables of the process.
    pub environment: Environment,
    /// How to print.
    pub format: Format,
    /// Whether stdout takes colour.
    pub color: bool,
    /// Whether to keep notices and progress to ourselves.
    pub quiet: bool,
    /// Ends the connections when this process is about to be stopped.
    pub suspension: Suspension,
}

impl Context {
    fn new(global: &Global) -> Self {
        let choice = match global.color {
            ColorChoice::Auto => anstream::AutoStream::choice(&std::io::stdout()),
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
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

    /// Where to connect.
    ///
    /// # Errors
    /// When that is not understood.
    pub fn server(&self, command: &str) -> anyhow::Result<Server> {
        let server = Server::new(self.database_url.as_deref(), &self.environment, command)?;
        if let Some(notice) = server.plaintext_notice() {
            self.notice(&notice);
        }
        Ok(server.until(self.suspension.clone()))
    }

    /// Says something on stderr that is not the answer.
    pub fn notice(&self, text: &str) {
        if !self.quiet {
            note(&format!("notice: {}\n", escape(text)));
        }
    }

    /// Says each of these so.
    pub fn notices(&self, texts: &[String]) {
        for text in texts {
            self.notice(text);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it could not be done.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    trace(cli.global.verbose);
    let context = Context::new(&cli.global);
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
        // A prompt stops the process itself: see `line_editor`.
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
            Command::Tail(args) => tail::run(&context, args).await,
            Command::Query(args) => query::run(&context, args).await,
            Command::Shell(args) => Box::pin(shell::run(&context, args)).await,
            Command::Verify(args) => Box::pin(verify::run(&context, args)).await,
            Command::Demo(args) => demo::run(&context, args).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    // A task that waits for a server that is gone must not keep us.
    runtime.shutdown_background();
    done
}

/// Whether as many files can be opened as the runtime and the connections take; the runtime does
/// not survive it otherwise.
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

fn trace(verbosity: u8) {
    let level = match verbosity {
        0 => return,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // A subscriber that is there already is a test's.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Trace)
        .with_ansi(false)
        .log_internal_errors(false)
        .try_init();
}

/// SIGINT and SIGTERM, caught from the making of this on: what is begun before they are waited for
/// ends in order too.
#[derive(Debug)]
pub struct Signals(Option<(Signal, Signal)>);

impl Signals {
    /// Catches them.
    pub fn catch() -> Self {
        let caught = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        );
        // Without handlers a signal ends the process as it always does.
        Self(if let (Ok(interrupt), Ok(terminate)) = caught {
            Some((interrupt, terminate))
        } else {
            None
        })
    }

    /// Waits for the next one.
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

/// Waits for SIGINT or SIGTERM, caught from this call on.
pub fn interrupted() -> impl Future<Output = ()> {
    let mut signals = Signals::catch();
    async move {
        signals.next().await;
    }
}
