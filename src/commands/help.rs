//! `pgic help`: the help of a command, or a page about a topic that several commands share.

use crate::cli::Cli;
use crate::exit_code::ExitCode;
use crate::failure::HintExt as _;
use crate::render::print;
use crate::tables::nearest::nearest;
use anyhow::anyhow;
use clap::CommandFactory as _;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

/// Print the help of a command, or a page about a topic
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// A command, or a topic: conditions, json, schema, config, recipes, privileges
    #[arg(value_name = "COMMAND|TOPIC", add = commands_and_topics())]
    pub about: Option<String>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic help tail
  pgic help conditions

Exit codes:
  0  done
  2  there is no such command or topic";

/// The word that prints the JSON Schema of all events.
const SCHEMA: &str = "schema";

/// Returns what can stand behind `pgic help`, for completion.
fn known() -> Vec<CompletionCandidate> {
    let pgic = Cli::command();
    let commands = pgic
        .get_subcommands()
        .map(|command| command.get_name().to_string());
    let topics = TOPICS.iter().map(|topic| topic.name.to_string());
    let names = commands.chain(topics).chain([SCHEMA.to_string()]);
    names.map(CompletionCandidate::new).collect()
}

/// Returns the completer of commands and topics.
pub(super) fn commands_and_topics() -> ArgValueCandidates {
    ArgValueCandidates::new(known)
}

/// A page that belongs to no single command.
#[derive(Debug)]
pub struct Topic {
    /// The word behind `pgic help`.
    pub name: &'static str,
    /// One line on what the page is about.
    pub about: &'static str,
    /// The page.
    pub text: &'static str,
}

/// The pages, as the list of topics has them.
pub const TOPICS: [Topic; 5] = [
    Topic {
        name: "conditions",
        about: "which rows query, shell, tail and --watch show",
        text: include_str!("../help/conditions.txt"),
    },
    Topic {
        name: "json",
        about: "the objects that -o json prints",
        text: include_str!("../help/json.txt"),
    },
    Topic {
        name: "config",
        about: "what pgic.toml may hold",
        text: include_str!("../help/config.txt"),
    },
    Topic {
        name: "recipes",
        about: "commands for common questions, with jq",
        text: include_str!("../help/recipes.txt"),
    },
    Topic {
        name: "privileges",
        about: "what a role must be allowed",
        text: include_str!("../help/privileges.txt"),
    },
];

/// Prints the help of `pgic`, the whole command line, of a command, or of a topic. Needs no server.
///
/// # Errors
/// If there is no such command or topic.
pub fn run(args: &Args, pgic: &mut clap::Command) -> anyhow::Result<ExitCode> {
    // Without this, a command's help would lack the options that all commands take.
    pgic.build();
    let Some(about) = &args.about else {
        print(&pgic.render_long_help().to_string())?;
        return Ok(ExitCode::Yes);
    };
    if let Some(topic) = TOPICS.iter().find(|topic| topic.name == about) {
        print(topic.text)?;
        return Ok(ExitCode::Yes);
    }
    if about == SCHEMA {
        print(include_str!("../../docs/output.schema.json"))?;
        return Ok(ExitCode::Yes);
    }
    if let Some(command) = pgic.find_subcommand_mut(about) {
        print(&command.render_long_help().to_string())?;
        return Ok(ExitCode::Yes);
    }
    let commands = pgic.get_subcommands().map(clap::Command::get_name);
    let names: Vec<&str> = commands
        .chain(TOPICS.iter().map(|topic| topic.name))
        .chain([SCHEMA])
        .collect();
    let hint = match nearest(about, names.iter().copied()) {
        Some(near) => format!("{near} may be meant"),
        None => format!("there are {}", names.join(", ")),
    };
    Err(anyhow!("there is no command or topic {about}")).hint(hint)
}
