//! `pgic completions`: scripts that make a shell complete pgic's commands and options.

use crate::exit_code::ExitCode;
use crate::render::print;
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
  mkdir -p ~/.zfunc; pgic completions zsh > ~/.zfunc/_pgic
  mkdir -p ~/.config/fish/completions; pgic completions fish > ~/.config/fish/completions/pgic.fish

Exit codes:
  0  done
  2  the script could not be written";

/// Returns the completion script of `pgic`, the whole command line, for `shell`.
pub fn script(shell: Shell, pgic: &mut clap::Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, pgic, "pgic", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints the completion script of `pgic`, the whole command line. Needs no server.
///
/// # Errors
/// If the script cannot be written to stdout.
pub fn run(args: &Args, pgic: &mut clap::Command) -> anyhow::Result<ExitCode> {
    print(&script(args.shell, pgic))?;
    Ok(ExitCode::Yes)
}
