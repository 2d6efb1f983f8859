//! `pgic`: parse, run, say how it ended.

use clap::Parser as _;
use pgic::cli::Cli;
use pgic::exit_code::ExitCode;
use pgic::render::escape::escape;
use pgic::render::{OutputClosed, note};
use pgic::{commands, failure, secrets};
use std::ffi::OsString;

fn main() -> std::process::ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if secrets::is_misplaced(arguments.get(1..).unwrap_or_default()) {
        note(
            "error: a connection string stands where none belongs, and is not repeated\nhint: name \
            the server with --database-url\n",
        );
        return ExitCode::Failed.into();
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused, &arguments),
    };
    let code = match commands::run(cli) {
        Ok(code) => code,
        // The reader has what it wanted.
        Err(error) if error.downcast_ref::<OutputClosed>().is_some() => ExitCode::Yes,
        Err(error) => {
            note(
                &failure::lines(&error)
                    .iter()
                    .map(|line| format!("{line}\n"))
                    .collect::<String>(),
            );
            ExitCode::Failed
        }
    };
    code.into()
}

/// What was typed is not understood, or help is asked for. What is repeated of it is escaped, so it
/// is parsed once more so.
fn refuse(refused: &clap::Error, arguments: &[OsString]) -> std::process::ExitCode {
    let escaped: Vec<String> = arguments
        .iter()
        .map(|argument| escape(&argument.to_string_lossy()).into_owned())
        .collect();
    if std::iter::zip(&escaped, arguments).all(|(escaped, argument)| escaped.as_str() == argument) {
        refused.exit();
    }
    match Cli::try_parse_from(escaped) {
        Err(refused) => refused.exit(),
        Ok(_) => note("error: an argument has characters that it must not have\n"),
    }
    ExitCode::Failed.into()
}
