//! `pgic`: parse, run, say how it ended.

use clap::Parser as _;
use pgic::cli::Cli;
use pgic::exit_code::ExitCode;
use pgic::render::OutputClosed;
use pgic::render::escape::escape;
use pgic::{commands, failure};

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let code = match commands::run(cli) {
        Ok(code) => code,
        // The reader has what it wanted.
        Err(error) if error.downcast_ref::<OutputClosed>().is_some() => ExitCode::Yes,
        Err(error) => {
            for line in failure::lines(&error) {
                // A hint may have several lines of ours; what the server or a user wrote is escaped.
                line.lines().for_each(|line| anstream::eprintln!("{}", escape(line)));
            }
            ExitCode::Failed
        }
    };
    code.into()
}
