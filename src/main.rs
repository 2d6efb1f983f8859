//! The `pgic` program: parses the command line, runs the command, prints the error if there is one,
//! and exits with the command's code.

use clap::Parser as _;
use jiff::Timestamp;
use pgic::cli::{Cli, asks_for_json};
use pgic::connect::restore_terminal;
use pgic::exit_code::ExitCode;
use pgic::render::escape::escape;
use pgic::render::{OutputClosed, note};
use pgic::{completion, dispatch, failure, secrets};
use std::ffi::OsString;

fn main() -> std::process::ExitCode {
    // The script of a shell that completes a command line: it has no more to do.
    completion::answer_script();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Before clap parses anything: its errors repeat what was typed, and that may hold a password.
    if secrets::is_misplaced(arguments.get(1..).unwrap_or_default()) {
        return refuse(
            &arguments,
            "error: a connection string stands where none belongs, and is not repeated\nhint: name \
            the server with --database-url\n",
        );
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(refused) => return refused_by_clap(&refused, &arguments),
    };
    let (format, done) = dispatch::run(cli);
    let code = match done {
        Ok(code) => code,
        // A closed pipe (`pgic tail | head`) is no failure: the reader has all that it wanted.
        Err(error) if error.downcast_ref::<OutputClosed>().is_some() => ExitCode::Yes,
        Err(error) => {
            note(&failure::text(&error, format, Timestamp::now()));
            ExitCode::of(&error)
        }
    };
    restore_terminal();
    code.into()
}

/// Tells whether errors are to be JSON, before the command line is understood.
fn is_json(arguments: &[OsString]) -> bool {
    asks_for_json(arguments) || std::env::var("PGIC_OUTPUT").is_ok_and(|form| form == "json")
}

/// Prints a usage error, as text or as JSON if that was asked for.
fn refuse(arguments: &[OsString], text: &str) -> std::process::ExitCode {
    note(&if is_json(arguments) {
        failure::usage(text, Timestamp::now())
    } else {
        text.to_string()
    });
    ExitCode::Failed.into()
}

/// Ends the process with clap's own text: help that was asked for, or a usage error.
///
/// A usage error repeats arguments as they were typed. A terminal would obey the control characters
/// in them, so arguments that hold some are escaped and parsed once more, for a text that is safe.
fn refused_by_clap(refused: &clap::Error, arguments: &[OsString]) -> std::process::ExitCode {
    let escaped: Vec<String> = arguments
        .iter()
        .map(|argument| escape(&argument.to_string_lossy()).into_owned())
        .collect();
    if std::iter::zip(&escaped, arguments).all(|(escaped, argument)| escaped.as_str() == argument) {
        return exit(refused, arguments);
    }
    match Cli::try_parse_from(escaped) {
        Err(refused) => exit(&refused, arguments),
        // The escaped form can be valid where the raw one was not; its command must not run.
        Ok(_) => refuse(
            arguments,
            "error: an argument has characters that it must not have\n",
        ),
    }
}

/// Prints help that was asked for, or a usage error.
fn exit(refused: &clap::Error, arguments: &[OsString]) -> std::process::ExitCode {
    if refused.use_stderr() && is_json(arguments) {
        refuse(arguments, &refused.to_string())
    } else {
        refused.exit()
    }
}
