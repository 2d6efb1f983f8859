//! [`run`]: a parsed command line is carried out, with a runtime and traces around the command.

use crate::cli::{Cli, Command, Global, Output};
use crate::commands::{
    Context, announce, completions, demo, doctor, help, install_triggers, man, monitor, nodes,
    ping, query, record, relay, remove_triggers, replay, shell, status, tail, top, verify, wait,
    why,
};
use crate::connect::{ConnectionOptions, Environment};
use crate::exit_code::ExitCode;
use crate::failure::{HintExt as _, with_hint};
use crate::render::layout::{Expanded, Layout};
use crate::render::look::Look;
use crate::render::{Format, Trace, terminal_width};
use crate::settings::Settings;
use crate::suspend::Suspension;
use anyhow::{Context as _, anyhow};
use clap::{ColorChoice, CommandFactory as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pg_connect::AskWhen;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Runs the command that was parsed. Returns the form in which an error is to be printed, and the
/// exit code.
pub fn run(cli: Cli) -> (Format, anyhow::Result<ExitCode>) {
    let asked = cli.global.output.map(Output::format).unwrap_or_default();
    let is_metrics = cli.global.output == Some(Output::Prometheus);
    if is_metrics && !matches!(cli.command, Command::Doctor(_)) {
        let error = anyhow!("this command prints no metrics");
        let hint = "-o prometheus is for pgic doctor";
        return (asked, Err(with_hint(error, hint)));
    }
    // A shell may load completions whenever it starts, and a package is built where no server is:
    // neither settings nor a runtime nor a limit on files is in the way of that.
    let pgic = &mut Cli::command();
    match &cli.command {
        Command::Completions(args) => return (asked, completions::run(args)),
        Command::Man(args) => return (asked, man::run(args, pgic)),
        Command::Help(args) => return (asked, help::run(args, pgic)),
        _ => {}
    }
    let environment = Environment::of_process();
    match Settings::load(&cli.global, &environment) {
        Ok(settings) => {
            trace(cli.global.verbose, settings.output);
            (settings.output, run_with(cli, environment, settings))
        }
        Err(error) => {
            let is_json = environment.get("PGIC_OUTPUT") == Some("json");
            let format = cli.global.output.map(Output::format);
            let format = format.or(is_json.then_some(Format::Json));
            (format.unwrap_or_default(), Err(error))
        }
    }
}

/// Runs a command that works on a server.
fn run_with(cli: Cli, environment: Environment, settings: Settings) -> anyhow::Result<ExitCode> {
    let context = context(&cli.global, environment, settings);
    context.notices(&context.settings.notices);
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
            Command::Why(args) => Box::pin(why::run(&context, args)).await,
            Command::Announce(args) => Box::pin(announce::run(&context, args)).await,
            Command::Nodes(args) => nodes::run(&context, args).await,
            Command::Ping(args) => Box::pin(ping::run(&context, args)).await,
            Command::Top(args) => Box::pin(top::run(&context, args)).await,
            Command::Monitor(args) => Box::pin(monitor::run(&context, args)).await,
            Command::Record(args) => Box::pin(record::run(&context, args)).await,
            Command::Replay(args) => Box::pin(replay::run(&context, args)).await,
            Command::Relay(args) => Box::pin(relay::run(&context, args)).await,
            Command::Wait(args) => Box::pin(wait::run(&context, args)).await,
            Command::Doctor(args) => Box::pin(doctor::run(&context, args)).await,
            Command::Demo(args) => demo::run(&context, args).await,
            // These three have run before.
            Command::Completions(_) | Command::Man(_) | Command::Help(_) => Ok(ExitCode::Yes),
        }
    });
    // Dropping the runtime would wait for tasks that block: one that waits for a server that is
    // gone must not keep this process from ending.
    runtime.shutdown_background();
    done
}

/// Returns the context that all commands get, from the options of the command line.
fn context(global: &Global, environment: Environment, settings: Settings) -> Context {
    let choice = match settings.color {
        ColorChoice::Auto => anstream::AutoStream::choice(&std::io::stdout()),
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    // stderr follows `--color` too, but with `auto` it decides for itself: it may be a terminal
    // where stdout is a pipe.
    match settings.color {
        ColorChoice::Auto => {}
        ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    Context {
        connection: connection(global, &settings),
        environment,
        format: settings.output,
        look: Look::new(
            choice != anstream::ColorChoice::Never,
            if settings.utc {
                TimeZone::UTC
            } else {
                TimeZone::system()
            },
            Timestamp::now(),
        ),
        layout: Layout {
            expanded: if global.wide {
                Expanded::Off
            } else {
                global.expanded
            },
            width: terminal_width(),
        },
        quiet: global.quiet,
        metrics: global.output == Some(Output::Prometheus),
        suspension: Suspension::default(),
        settings,
    }
}

/// Returns the options that say where to connect, and how to get in.
fn connection(global: &Global, settings: &Settings) -> ConnectionOptions {
    let database_url = global.database_url.clone();
    ConnectionOptions {
        database_url: database_url.or_else(|| settings.url.clone()),
        ask: if global.no_password {
            None
        } else if global.password {
            Some(AskWhen::Always)
        } else {
            Some(AskWhen::Needed)
        },
        password_command: global.password_command.clone(),
    }
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

/// Sends the traces of our crates to stderr, one a line: none, those of info and debug level
/// (`-v`), or all (`-vv`). A line has the time, the level, the text and the fields; in JSON they
/// are the text of an event.
fn trace(verbosity: u8, format: Format) {
    let level = match verbosity {
        0 => return,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // Of other crates we do not know whether a trace holds a password.
    let ours = Targets::new()
        .with_target("pgic", level)
        .with_target("pg_connect", level)
        .with_target("postgres_index_cache_core", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Trace(format))
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .with_filter(ours);
    // It fails if there is a subscriber already: that one is a test's, and stays.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}
