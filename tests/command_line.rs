//! Tests of the command line's own texts: help, completion scripts, usage errors. They need no
//! server.

use clap::{CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use pgic::cli::Cli;
use pgic::commands::completions::script;
use pgic::commands::help::TOPICS;
use pgic::commands::man::pages;
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
fn the_man_pages_are_fresh() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages = pages(&Cli::command()).unwrap();
    for page in &pages {
        let stored = std::fs::read_to_string(folder.join(&page.file)).unwrap_or_default();
        assert!(
            stored == page.text,
            "man/{} is stale: run scripts/man",
            page.file
        );
    }
    // A page without a command would stay behind when a command is renamed.
    let stored = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(
        stored,
        pages.len(),
        "man/ has a page too many: run scripts/man"
    );
}

// Each example stands on a line of its own: roff fills lines that are not told to stay.
#[test]
fn a_man_page_is_printed_with_the_examples_line_by_line() {
    let page = stdout(&["man", "completions"]);
    assert!(page.starts_with(".ie"), "{page}");
    assert!(page.contains("pgic\\-completions"), "{page}");
    let (_, examples) = page.split_once(".SH EXAMPLES\n.nf\n").unwrap();
    assert!(
        examples.starts_with("  source <(pgic completions bash)\n"),
        "{page}"
    );
    assert!(
        page.contains("\n.SH \"EXIT CODES\"\n.nf\n  0  done\n"),
        "{page}"
    );
    assert!(stdout(&["man"]).contains("pgic\\-man(1)"));
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
        let help = command.render_long_help().to_string();
        let (_, last) = help.split_once("\nOutput and connection:\n").unwrap();
        let options: Vec<&str> = last
            .lines()
            .filter(|line| line.trim_start().starts_with('-'))
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
            .collect();
        let name = command.get_name();
        let expected = [
            "--output",
            "--expanded[=<WHEN>]",
            "--wide",
            "--color",
            "--utc",
            "--quiet",
            "--verbose...",
            "--database-url",
        ];
        assert_eq!(options[..8], expected, "{name}");
    }
}

/// Returns pgic itself, then its commands, as wide as a help is at most.
fn commands() -> Vec<clap::Command> {
    let mut command = Cli::command().term_width(100);
    command.build();
    let own = command.clone();
    let commands = command.get_subcommands().cloned();
    std::iter::once(own).chain(commands).collect()
}

/// Runs `pgic` and returns its stdout.
fn stdout(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pgic"))
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
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
fn the_topics_of_the_help_fit_a_terminal() {
    for topic in &TOPICS {
        assert_eq!(stdout(&["help", topic.name]), topic.text);
        for line in topic.text.lines() {
            assert!(line.chars().count() < 80, "{}: {line}", topic.name);
        }
    }
    assert!(stdout(&["help", "tail"]).contains("Usage: pgic tail"));
}

#[test]
fn usage_errors_end_with_two_and_help_with_zero() {
    // 1 means that the answer is no. A script must not take a misspelt option for that answer.
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["query", "--help"],
        &["completions", "bash"],
        &["man", "tail"],
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
        &["man", "dance"],
        &["man", "tail", "--dir", "pages"],
    ] {
        assert_eq!(exit_code(arguments), Some(2), "{arguments:?}");
    }
}
