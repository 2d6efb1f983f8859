//! The command line as a whole: the options that every command takes, and the list of commands.
//!
//! The help of a command stands on `Args`, in the command's own file: the first paragraph of the
//! doc comment is the short help (`-h`), the whole comment the long one (`--help`), followed by
//! examples and exit codes. Every help lists options in one order: the command's own in the order
//! of `Args`, then those of [`Global`].

use crate::commands::{
    announce, completions, demo, doctor, help, install_triggers, man, monitor, nodes, ping, query,
    record, relay, remove_triggers, replay, shell, status, tail, top, verify, wait, why,
};
use crate::render::Format;
use crate::render::layout::Expanded;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{ColorChoice, Parser, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Operate and debug a cache-invalidation pipeline on PostgreSQL: row triggers that NOTIFY, caches
/// that LISTEN
///
/// install-triggers makes tables announce their changes, status and tail show whether that works.
/// query and shell load tables into the cache that an application has, and answer from that. verify
/// proves that such a cache is equal to its table.
#[derive(Debug, Parser)]
#[command(name = "pgic", version, styles = STYLES, max_term_width = 100, propagate_version = true)]
#[command(disable_help_subcommand = true, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
pub struct Cli {
    /// The options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, or the answer is yes; 1 the answer is no; 2 it could not be done; 3 the server \
could not be reached.
Topics: pgic help conditions, json, schema, config, recipes, privileges. More options: --help.
Without --database-url, DATABASE_URL and then libpq's variables (PGHOST, PGUSER, …) say where to \
connect.";

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic demo                          show all of this on a throw-away server
  pgic install-triggers users        make a table announce its changes
  pgic status                        check the triggers of all tables
  pgic tail                          print each change as it arrives
  pgic query users username_hash=1   answer from an application's cache
  pgic verify users                  compare such a cache with its table

Topics:
  pgic help conditions   which rows query, shell, tail and --watch show
  pgic help json         the objects that -o json prints
  pgic help config       what pgic.toml may hold
  pgic help recipes      commands for common questions, with jq
  pgic help privileges   what a role must be allowed

Exit codes:
  0  done, or the answer is yes
  1  the answer is no: no row matched, a problem or a difference was found, …
  2  it could not be done: usage, password, privilege, database error
  3  the server could not be reached, or took no session: trying again may
     help

Answers go to stdout, everything else to stderr. A reader that leaves
(| head) is a quiet end.

Without --database-url, DATABASE_URL and then libpq's variables (PGHOST,
PGUSER, …) say where to connect.";

/// The form of answers, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text for people.
    Text,
    /// JSON for programs, one object on each line.
    Json,
    /// Metrics, for pgic doctor alone.
    Prometheus,
}

impl Output {
    /// Returns the form of everything but metrics.
    pub fn format(self) -> Format {
        match self {
            Self::Json => Format::Json,
            Self::Text | Self::Prometheus => Format::Text,
        }
    }
}

/// The heading of the options that every command takes.
const GLOBAL: &str = "Output and connection";

/// The options that every command takes.
// clap numbers the arguments of each command from 0 on, these included: without `display_order`
// they would stand in between the command's own. `-h` and `-V` have 999, clap's default.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, clap::Args)]
pub struct Global {
    /// How answers are printed [default: text]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    #[arg(help_heading = GLOBAL, display_order = 900)]
    pub output: Option<Output>,
    /// When the columns of a row stand below each other: auto is on a terminal, for one row or if
    /// the table is wider
    #[arg(short = 'x', long, global = true, value_enum, value_name = "WHEN")]
    #[arg(default_value_t = Expanded::Auto, num_args = 0..=1, default_missing_value = "on")]
    #[arg(require_equals = true, help_heading = GLOBAL, display_order = 901)]
    pub expanded: Expanded,
    /// Keep rows in a table, however wide: the same as --expanded=off
    #[arg(long, global = true, conflicts_with = "expanded")]
    #[arg(help_heading = GLOBAL, display_order = 902, hide_short_help = true)]
    pub wide: bool,
    /// When to use colour [default: auto]
    #[arg(long, global = true, value_enum)]
    #[arg(value_name = "WHEN", help_heading = GLOBAL, display_order = 903)]
    pub color: Option<ColorChoice>,
    /// Show times in UTC
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 903, hide_short_help = true)]
    pub utc: bool,
    /// Print no notices and no progress
    #[arg(short, long, global = true, help_heading = GLOBAL, display_order = 904)]
    pub quiet: bool,
    /// Trace pgic's work to stderr; twice for more
    ///
    /// -v shows connections, states and reloads (INFO), and each statement that is sent, cut after
    /// 4000 characters (DEBUG). -vv shows each input and output of the engine as well (TRACE),
    /// notifications with their payloads among them. A line has the time in UTC, the level, a text
    /// and fields. Keys and the values of conditions are shown, and with -vv values of rows; the
    /// password of a connection is not.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    #[arg(help_heading = GLOBAL, display_order = 905)]
    pub verbose: u8,
    /// Where to connect: a postgresql:// URL, a key=value string, or a database's name
    #[arg(short, long, global = true, value_name = "URL")]
    #[arg(help_heading = GLOBAL, display_order = 906)]
    pub database_url: Option<String>,
    /// Connect as pgic.toml says under this name
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "database_url"
    )]
    #[arg(help_heading = GLOBAL, display_order = 907, hide_short_help = true)]
    pub connection: Option<String>,
    /// The file of settings [default: pgic.toml, upwards from here]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = GLOBAL, display_order = 908, hide_short_help = true)]
    pub config: Option<PathBuf>,
    /// Never ask for a password
    #[arg(short = 'w', long, global = true, conflicts_with = "password")]
    #[arg(help_heading = GLOBAL, display_order = 909, hide_short_help = true)]
    pub no_password: bool,
    /// Ask for a password before connecting
    ///
    /// Without this option, pgic asks on the terminal if the server wants a password and none is
    /// given.
    #[arg(short = 'W', long, global = true)]
    #[arg(help_heading = GLOBAL, display_order = 910, hide_short_help = true)]
    pub password: bool,
    /// A command that prints the password, run for each connection
    ///
    /// For tokens that end after minutes, and for vaults. The command is run by sh, with PGHOST,
    /// PGPORT, PGUSER and PGDATABASE set. Its first line counts, before PGPASSWORD and the password
    /// file. PGIC_PASSWORD_COMMAND does the same.
    #[arg(long, global = true, value_name = "COMMAND")]
    #[arg(help_heading = GLOBAL, display_order = 911, hide_short_help = true)]
    pub password_command: Option<String>,
}

/// Tells whether a command line that was refused asks for JSON, as far as that can be told.
pub fn asks_for_json(arguments: &[OsString]) -> bool {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let is_one_word = words.iter().any(|word| {
        // Flags may stand before it in one word: `-qojson`.
        let short = word.strip_prefix('-').filter(|word| !word.starts_with('-'));
        let short = short.and_then(|word| word.split_once('o'));
        let short = short.filter(|(flags, _)| flags.chars().all(|flag| "qvxwW".contains(flag)));
        let value = word
            .strip_prefix("--output=")
            .or(short.map(|(_, value)| value));
        value.is_some_and(|value| value.trim_start_matches('=') == "json")
    });
    let are_two = words.windows(2).any(|pair| {
        let flags = pair[0]
            .strip_suffix('o')
            .and_then(|flags| flags.strip_prefix('-'));
        let is_short = flags.is_some_and(|flags| flags.chars().all(|flag| "qvxwW".contains(flag)));
        (is_short || pair[0] == "--output") && pair[1] == "json"
    });
    is_one_word || are_two
}

/// The commands.
// The variants have no doc comments of their own: clap would take such a comment in place of the
// help that stands on the command's `Args`, the long one included.
#[derive(Debug, Subcommand)]
pub enum Command {
    InstallTriggers(install_triggers::Args),
    RemoveTriggers(remove_triggers::Args),
    Status(status::Args),
    Tail(tail::Args),
    Query(query::Args),
    Shell(shell::Args),
    Verify(verify::Args),
    Top(top::Args),
    Why(why::Args),
    Nodes(nodes::Args),
    Announce(announce::Args),
    Doctor(doctor::Args),
    Ping(ping::Args),
    Wait(wait::Args),
    Monitor(monitor::Args),
    Record(record::Args),
    Replay(replay::Args),
    Relay(relay::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
    Help(help::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_refused_command_line_may_ask_for_json() {
        for (line, expected) in [
            ("-o json", true),
            ("--output json --nosuch", true),
            ("--output=json", true),
            ("-ojson", true),
            ("-o=json", true),
            ("-qo json", true),
            ("-qojson", true),
            ("-o text json", false),
            ("--json", false),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(asks_for_json(&words), expected, "{line}");
        }
    }
}
