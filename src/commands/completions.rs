//! `pgic completions`.

use crate::cli::Cli;
use crate::exit_code::ExitCode;
use crate::render::print;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// `pgic completions SHELL`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The script for a shell.
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgic", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints the script.
///
/// # Errors
/// When it cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    print(&script(args.shell))?;
    Ok(ExitCode::Yes)
}
