//! Tests of the command line's own texts: help, completion scripts, usage errors. They need no
//! server.

use clap::{CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use pgic::cli::Cli;
use pgic::commands::completions::script;
use std::path::Path;
use std::process::Command;

#[test]
fn the_completion_scripts_are_fresh() {
    for shell in Shell::value_variants() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("completions/pgic.{shell}"));
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == script(*shell),
            "{} is stale: run scripts/completions",
            path.display()
        );
    }
}

#[test]
fn the_whole_help_is_as_it_was() {
    // Not a judgement of the help: any change of an option shows up in a review as a diff of text.
    let mut help = String::new();
    let mut command = Cli::command().term_width(100);
    command.build();
    for command in std::iter::once(&mut command.clone()).chain(command.get_subcommands_mut()) {
        if command.get_name() != "help" {
            help.push_str(&format!("{}\n────\n", command.render_help()));
        }
    }
    insta::assert_snapshot!(help);
}

/// Runs `pgic` and returns its exit code.
fn exit_code(arguments: &[&str]) -> Option<i32> {
    Command::new(env!("CARGO_BIN_EXE_pgic"))
        .args(arguments)
        .output()
        .unwrap()
        .status
        .code()
}

#[test]
fn usage_errors_end_with_two_and_help_with_zero() {
    // 1 means that the answer is no. A script must not take a misspelt option for that answer.
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["query", "--help"],
        &["completions", "bash"],
    ] {
        assert_eq!(exit_code(arguments), Some(0), "{arguments:?}");
    }
    for arguments in [
        &[][..],
        &["dance"],
        &["query"],
        &["tail", "--count", "0"],
        &["tail", "--duration", "soon"],
        &["query", "t", "--max-memory", "much"],
    ] {
        assert_eq!(exit_code(arguments), Some(2), "{arguments:?}");
    }
}
