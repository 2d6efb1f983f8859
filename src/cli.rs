//! The command line as a whole: what every command takes, and the list of commands.

use crate::commands::{
    completions, demo, install_triggers, query, remove_triggers, shell, status, tail, verify,
};
use crate::render::Format;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{ColorChoice, Parser, Subcommand};
use std::time::Duration;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Operate and debug a cache-invalidation pipeline on PostgreSQL: row triggers that NOTIFY, caches
/// that LISTEN.
#[derive(Debug, Parser)]
#[command(name = "pgic", version, styles = STYLES, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, or the answer is yes; 1 the answer is no; 2 it could not be \
        done.\n\
    Without --database-url, DATABASE_URL and then libpq's variables (PGHOST, PGUSER, …) say where \
    to connect."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Where to connect: a postgresql:// URL or a key=value string
    #[arg(short, long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// How answers are printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Print no notices and no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Trace what happens to stderr; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or refresh the triggers that announce changes of tables
    InstallTriggers(install_triggers::Args),
    /// Drop the triggers that pgic made
    RemoveTriggers(remove_triggers::Args),
    /// Show which tables announce their changes, who listens, and how full the queue is
    Status(status::Args),
    /// Print notifications as they arrive
    Tail(tail::Args),
    /// Load a table into a cache, catch up, and answer from it
    Query(query::Args),
    /// Keep tables in a cache, live, and ask it at a prompt
    Shell(shell::Args),
    /// Compare a cache that is fed by notifications with its table, at one exact cut
    Verify(verify::Args),
    /// Show it all at work on a throw-away PostgreSQL
    Demo(demo::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// A time like `500ms`, `5s`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// When it is none.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("expected a time like 500ms, 5s or 2m, not \"{text}\""))?;
    let seconds = match &text[digits.len()..] {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        unit => return Err(format!("unknown unit \"{unit}\": use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("\"{text}\" is not a time"))
}

/// A size like `512MB`, `2GiB`, `1000000`; the units are powers of 1024.
///
/// # Errors
/// When it is none.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits
        .trim()
        .parse()
        .map_err(|_| format!("expected a size like 512MB or 2GB, not \"{text}\""))?;
    let unit = text[digits.len()..].to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("unknown unit \"{unit}\": use KB, MB, GB or TB")),
    };
    let bytes = number * 1024_f64.powi(power);
    if bytes.is_finite() && bytes >= 0.0 {
        Ok(bytes as usize)
    } else {
        Err(format!("\"{text}\" is not a size"))
    }
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
    fn times_and_sizes_are_read() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        for bad in ["", "x", "3d", "-1s", "1e300h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("512MB"), Ok(512 << 20));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(parse_bytes("123"), Ok(123));
        for bad in ["", "GB", "1XB", "-1MB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
