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
    if secrets::is_misplaced(&arguments) {
        note(
            "error: a connection string stands where none belongs, and is not repeated\nhint: name the server with --database-url\n",
        );
        return ExitCode::Failed.into();
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    let code = match commands::run(cli) {
        Ok(code) => code,
        // The reader has what it wanted.
        Err(error) if error.downcast_ref::<OutputClosed>().is_some() => ExitCode::Yes,
        Err(error) => {
            note(&failure::lines(&error).iter().map(|line| format!("{}\n", printable(line))).collect::<String>());
            ExitCode::Failed
        }
    };
    code.into()
}

/// A text of ours with its lines; what the server or a user wrote is escaped.
fn printable(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

/// What was typed is not understood, or help is asked for. What is repeated of it is escaped.
fn refuse(refused: &clap::Error) -> std::process::ExitCode {
    let plain = refused.render().to_string();
    let escaped = printable(&plain);
    if escaped == plain {
        refused.exit();
    }
    note(&escaped);
    ExitCode::Failed.into()
}
