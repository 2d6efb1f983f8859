//! `pgic completions`: scripts that make a shell complete pgic's commands and options.

use crate::completion::VARIABLE;
use crate::exit_code::ExitCode;
use crate::render::print;
use clap_complete::Shell;
use clap_complete::env::Shells;

/// Print a completion script for a shell
///
/// The script completes commands, options and the words that an option takes, and asks the server
/// for tables, columns, labels of enums and channels. Without a server, or after a second, it
/// offers none of those. Load the script from the file that the shell runs at the start, or put it
/// where the shell looks for such scripts; after an upgrade, anew.
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
  mkdir -p ~/.config/fish/completions
  pgic completions fish > ~/.config/fish/completions/pgic.fish

Exit codes:
  0  done
  2  the script could not be written";

/// Returns the completion script for a shell: it asks `pgic` itself, as the `PATH` has it.
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&shell.to_string()) {
        // Writing into memory cannot fail.
        let _ = shell.write_registration(VARIABLE, "pgic", "pgic", "pgic", &mut script);
    }
    let script = String::from_utf8_lossy(&script).into_owned();
    // bash makes a word of its own of the `=` in a condition, and hides it at the cursor: the line
    // itself tells.
    let asking = format!("{VARIABLE}=\"bash\" \\");
    let with_line = format!("PGIC_LINE=\"${{COMP_LINE:0:COMP_POINT}}\" \\\n        {asking}");
    script.replace(&asking, &with_line)
}

/// Prints the completion script. Needs no server.
///
/// # Errors
/// If the script cannot be written to stdout.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    print(&script(args.shell))?;
    Ok(ExitCode::Yes)
}
