//! `pgic completions`: scripts that make a shell complete pgic's commands and options.

use crate::cli::Cli;
use crate::exit_code::ExitCode;
use crate::render::print;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print a completion script for a shell
///
/// The script completes commands, options and the words that an option takes. Load the script from
/// the file that the shell runs at the start, or put it where the shell looks for such scripts.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  source <(pgic completions bash)
  pgic completions zsh > ~/.zfunc/_pgic
  pgic completions fish > ~/.config/fish/completions/pgic.fish

Exit codes:
  0  done
  2  the script could not be written";

/// Returns the completion script for `shell`. Needs no server.
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgic", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints the completion script.
///
/// # Errors
/// If the script cannot be written to stdout.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    print(&script(args.shell))?;
    Ok(ExitCode::Yes)
}
