//! `pgic man`: man pages, made from the text of the help.

use super::help::{TOPICS, Topic, commands_and_topics};
use crate::exit_code::ExitCode;
use crate::failure::HintExt as _;
use crate::render::print;
use anyhow::Context as _;
use clap::ValueHint;
use clap_mangen::Man;
use roff::{Roff, roman};
use std::io;
use std::path::PathBuf;

/// Print a man page, or write all of them into a folder
///
/// There is a page for pgic, one for each command, with the text of --help, and one for each topic.
/// Without a command the page of pgic is printed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The command or topic that the page is about
    #[arg(value_name = "COMMAND|TOPIC", add = commands_and_topics())]
    pub command: Option<String>,
    /// Write all pages into this folder, which is made if it is missing
    #[arg(long, value_name = "DIR", conflicts_with = "command", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic man tail > pgic-tail.1; man ./pgic-tail.1
  pgic man --dir ~/.local/share/man/man1

Exit codes:
  0  done
  2  there is no such command, or a page could not be written";

/// A man page.
#[derive(Debug)]
pub struct Page {
    /// The name of the command or topic; `None` for the page of the whole command line.
    pub command: Option<String>,
    /// The name of the file: `pgic-tail.1`.
    pub file: String,
    /// The page, in the language of roff.
    pub text: String,
}

/// Returns the man pages of `pgic`, the whole command line: first its own, then one for each
/// command, in the order of the help.
///
/// # Errors
/// If a page cannot be made.
pub fn pages(pgic: &clap::Command) -> io::Result<Vec<Page>> {
    let mut pgic = pgic.clone();
    pgic.build();
    let own = page(&pgic, None);
    let commands = pgic
        .get_subcommands()
        .map(|command| page(command, Some(command.get_name().to_string())));
    let topics = TOPICS.iter().map(|topic| Ok(topic_page(topic)));
    std::iter::once(own).chain(commands).chain(topics).collect()
}

/// Returns the page of a topic, whose lines stay as they are.
fn topic_page(topic: &Topic) -> Page {
    let mut roff = Roff::new();
    let title = format!("pgic-{}", topic.name);
    roff.control("TH", [title.as_str(), "7"])
        .control("SH", ["NAME"])
        .text([roman(format!("{title} - {}", topic.about))])
        .control("SH", ["DESCRIPTION"])
        .control("nf", []);
    for line in topic.text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    Page {
        command: Some(topic.name.to_string()),
        file: format!("{title}.7"),
        text: roff.render(),
    }
}

/// Returns the man page of a command.
fn page(command: &clap::Command, name: Option<String>) -> io::Result<Page> {
    let after = command
        .get_after_long_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    // clap_mangen would fill the lines of this text, examples and tables included, into one
    // paragraph. So the page is made without the text, which follows with its lines as they are.
    let man = Man::new(
        command
            .clone()
            .after_help(None::<&str>)
            .after_long_help(None::<&str>),
    )
    .source(concat!("pgic ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned() + &sections(&after).render();
    Ok(Page {
        command: name,
        file: man.get_filename(),
        text,
    })
}

/// Returns the text that stands behind the options of a help as sections, one for each heading: a
/// line such as `Examples:`. Text without a heading becomes the section NOTES.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    for block in text.split("\n\n") {
        let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
        let (heading, lines) = match first.strip_suffix(':') {
            Some(heading) => (heading.to_uppercase(), rest),
            None => ("NOTES".to_string(), block),
        };
        if lines.is_empty() {
            continue;
        }
        roff.control("SH", [heading.as_str()]);
        let is_table = lines.starts_with("  ");
        if is_table {
            roff.control("nf", []);
        }
        for line in lines.lines() {
            roff.text([roman(line)]);
        }
        if is_table {
            roff.control("fi", []);
        }
    }
    roff
}

/// Prints a man page of `pgic`, the whole command line, or writes all of them. Needs no server.
///
/// # Errors
/// If there is no such command, or a page cannot be written.
pub fn run(args: &Args, pgic: &clap::Command) -> anyhow::Result<ExitCode> {
    let pages = pages(pgic).context("make the man pages")?;
    let Some(dir) = &args.dir else {
        let asked = pages.iter().find(|page| page.command == args.command);
        let page = asked
            .with_context(|| {
                format!(
                    "there is no command or topic {}",
                    args.command.as_deref().unwrap_or_default()
                )
            })
            .hint("pgic --help lists the commands")?;
        print(&page.text)?;
        return Ok(ExitCode::Yes);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("make the folder {}", dir.display()))?;
    for page in &pages {
        let path = dir.join(&page.file);
        std::fs::write(&path, &page.text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitCode::Yes)
}
