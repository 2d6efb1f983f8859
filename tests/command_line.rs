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
            stored == script(*shell, &mut Cli::command()),
            "{} is stale: run scripts/completions",
            path.display()
        );
    }
}

#[test]
fn the_whole_help_is_as_it_was() {
    let help: String = commands()
        .iter_mut()
        .map(|command| format!("{}\n────\n", command.render_help()))
        .collect();
    insta::assert_snapshot!(help);
}

/// The long help was written and shown by none for a while: clap took other comments in its place.
#[test]
fn the_whole_long_help_is_as_it_was() {
    let help: String = commands()
        .iter_mut()
        .map(|command| format!("{}\n────\n", command.render_long_help()))
        .collect();
    insta::assert_snapshot!(help);
}

#[test]
fn every_long_help_has_the_exit_codes() {
    for mut command in commands() {
        let help = command.render_long_help().to_string();
        let name = command.get_name();
        assert!(help.contains("\nExit codes:\n  0  "), "{name}");
        assert!(help.contains("\nExamples:\n"), "{name}");
    }
}

/// clap numbers the arguments of each command, and of what all commands take, from 0 on: without
/// an order of their own the latter stood in between the former.
#[test]
fn every_help_ends_with_the_same_options() {
    for mut command in commands() {
        let help = command.render_help().to_string();
        let (_, last) = help.split_once("\nOutput and connection:\n").unwrap();
        let options: Vec<&str> = last
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
            .collect();
        let name = command.get_name();
        let expected = [
            "--output",
            "--color",
            "--quiet",
            "--verbose...",
            "--database-url",
        ];
        assert_eq!(options[..5], expected, "{name}");
    }
}

/// Returns pgic itself, then its commands, as wide as a help is at most.
fn commands() -> Vec<clap::Command> {
    let mut command = Cli::command().term_width(100);
    command.build();
    let own = command.clone();
    let commands = command.get_subcommands().cloned();
    std::iter::once(own)
        .chain(commands.filter(|command| command.get_name() != "help"))
        .collect()
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
