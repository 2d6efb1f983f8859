//! Completion on a shell's command line: commands and options by clap, and tables, columns, values
//! and channels by the server.
//!
//! The script of `pgic completions` calls this program with `PGIC_COMPLETE` set. It must answer at
//! once and say nothing: without a server, or after a second, nothing is offered.

use crate::cli::Cli;
use crate::connect::{ConnectionOptions, Environment, Server};
use crate::settings::Settings;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::conditions::known_values;
use crate::triggers::observe::observe;
use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use std::ffi::OsStr;
use std::time::Duration;

/// The variable by which the script asks for completions.
pub const VARIABLE: &str = "PGIC_COMPLETE";

/// How long a person who pressed Tab waits at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers the script of a shell and ends the process, if it is a script that asks.
pub fn answer_script() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .complete();
}

/// Completes with tables that are announced.
pub fn announced_tables() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, Asked::AnnouncedTables))
}

/// Completes with tables of all schemas.
pub fn tables() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, Asked::Tables))
}

/// Completes with schemas.
pub fn schemas() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, Asked::Schemas))
}

/// Completes with channels on which tables are announced.
pub fn channels() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, Asked::Channels))
}

/// Completes with columns of the table that stands before.
pub fn columns() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, Asked::Columns))
}

/// Completes with conditions on the table that stands before: a column, then a value if those are
/// few and known.
pub fn conditions() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, Asked::Conditions))
}

/// What can stand at a place of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    AnnouncedTables,
    Tables,
    Schemas,
    Channels,
    Columns,
    Conditions,
}

/// Returns what can stand in place of `current`.
fn offer(current: &OsStr, asked: Asked) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else {
        return Vec::new();
    };
    let words = words(std::env::args_os().map(|word| word.to_string_lossy().into_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    let found = runtime.block_on(async {
        let asking = ask(&words, current, asked);
        tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()
    });
    // A task that drives a connection to a server that is gone must not keep the shell waiting.
    runtime.shutdown_background();
    let mut found = found.unwrap_or_default();
    found.sort();
    found.dedup();
    found
        .into_iter()
        .filter(|word| word.starts_with(current) && is_harmless(word))
        .map(CompletionCandidate::new)
        .collect()
}

/// Tells whether a word means itself to every shell. A table may be called `$(reboot)`, and a
/// person who completes that name would run it.
fn is_harmless(word: &str) -> bool {
    // A word that begins so is an option, or a command's path to zsh.
    !word.starts_with(['-', '='])
        && word
            .chars()
            .all(|c| c.is_alphanumeric() || "_.=,:-".contains(c))
}

/// Returns the words that are typed so far, which stand behind `--`.
fn words(arguments: impl Iterator<Item = String>) -> Vec<String> {
    arguments.skip_while(|word| word != "--").skip(1).collect()
}

/// Asks the server.
async fn ask(words: &[String], current: &str, asked: Asked) -> anyhow::Result<Vec<String>> {
    let mut client = server(words)?.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    match asked {
        Asked::Tables => catalog::table_names(&catalog).await,
        Asked::Schemas => catalog::schema_names(&catalog).await,
        Asked::AnnouncedTables => {
            let described = announced(&catalog).await?;
            let mut names: Vec<String> = described.iter().map(|table| table.name.clone()).collect();
            names.extend(described.iter().map(CatalogTable::display_name));
            Ok(names)
        }
        Asked::Channels => {
            let described = announced(&catalog).await?;
            let channels = described
                .iter()
                .filter_map(|table| observe(table)?.channel.clone());
            Ok(channels.collect())
        }
        Asked::Columns => {
            let table = table(&catalog, words).await?;
            Ok(table
                .columns
                .into_iter()
                .map(|column| column.name)
                .collect())
        }
        Asked::Conditions => {
            let table = table(&catalog, words).await?;
            Ok(conditions_of(&catalog, &table, words, current).await)
        }
    }
}

/// Returns the conditions on a table that `current` may become.
async fn conditions_of(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    words: &[String],
    current: &str,
) -> Vec<String> {
    // bash makes words of their own of the sign and of the value behind it, and of the sign none at
    // the cursor.
    let before: Vec<&str> = words.iter().rev().map(String::as_str).take(3).collect();
    let line = std::env::var("PGIC_LINE").unwrap_or_default();
    let split = match before.as_slice() {
        [_, "=", column] => Some(*column),
        ["" | "=", column, ..] if line.ends_with('=') => Some(*column),
        _ => None,
    };
    let split = split.map(|column| column.trim_end_matches('!'));
    let (column, prefix) = match (split, current.split_once('=')) {
        (Some(column), _) => (column, String::new()),
        (None, Some((column, _))) => (column, format!("{column}=")),
        (None, None) => {
            let columns = table.columns.iter();
            return columns.map(|column| format!("{}=", column.name)).collect();
        }
    };
    match table.column(column) {
        Some(column) => {
            let values = known_values(catalog, column).await;
            values
                .iter()
                // Without quotes that is SQL NULL.
                .filter(|value| !value.eq_ignore_ascii_case("null"))
                .map(|value| format!("{prefix}{value}"))
                .collect()
        }
        None => Vec::new(),
    }
}

/// Describes the tables that are announced.
async fn announced(catalog: &Catalog<'_>) -> anyhow::Result<Vec<CatalogTable>> {
    let oids = catalog::tables_with_triggers(catalog).await?;
    Ok(catalog::describe(catalog, &oids).await?)
}

/// Describes the table that is typed already: the first word that is neither the command nor an
/// option, nor the value of one.
async fn table(catalog: &Catalog<'_>, words: &[String]) -> anyhow::Result<CatalogTable> {
    catalog::resolve_one(catalog, typed_table(words).unwrap_or_default()).await
}

/// Returns the table that is typed already.
fn typed_table(words: &[String]) -> Option<&str> {
    let mut pgic = Cli::command();
    pgic.build();
    let name = words
        .iter()
        .find(|word| pgic.find_subcommand(word.as_str()).is_some())?;
    let command = pgic.find_subcommand(name)?;
    let takes_value = |option: &str| {
        command.get_arguments().any(|argument| {
            let long = argument.get_long().map(|long| format!("--{long}"));
            let short = argument.get_short().map(|short| format!("-{short}"));
            let is_meant = long.as_deref() == Some(option) || short.as_deref() == Some(option);
            is_meant && argument.get_action().takes_values() && !argument.is_require_equals_set()
        })
    };
    let mut behind = words.iter().skip_while(|word| *word != name).skip(1);
    while let Some(word) = behind.next() {
        match word.strip_prefix('-') {
            None => return Some(word),
            Some(_) if takes_value(word) => {
                behind.next();
            }
            Some(_) => {}
        }
    }
    None
}

/// Returns the server that the options typed so far lead to. Nobody is asked for a password.
fn server(words: &[String]) -> anyhow::Result<Server> {
    let mut options = vec!["pgic".to_string()];
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let is_option = ["-d", "--database-url", "--connection", "--config"]
            .iter()
            .any(|option| word == option);
        if is_option {
            options.extend([word.clone(), rest.next().cloned().unwrap_or_default()]);
        } else if ["--database-url=", "--connection=", "--config="]
            .iter()
            .any(|option| word.starts_with(option))
            || (word.starts_with("-d") && !word.starts_with("--"))
        {
            options.push(word.clone());
        }
    }
    options.push("status".to_string());
    let global = Cli::try_parse_from(options)?.global;
    let environment = Environment::of_process();
    let settings = Settings::load(&global, &environment)?;
    let connection = ConnectionOptions {
        database_url: global.database_url.or(settings.url),
        ..ConnectionOptions::default()
    };
    Server::new(&connection, &environment, "completion")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn the_table_is_found_behind_options_and_their_values() {
        for (line, expected) in [
            ("pgic query orders st", Some("orders")),
            ("pgic -d shop query -n 5 orders", Some("orders")),
            ("pgic query --wide -c id orders", Some("orders")),
            ("pgic query -x orders", Some("orders")),
            ("pgic query", None),
            ("pgic", None),
        ] {
            assert_eq!(typed_table(&split(line)), expected, "{line}");
        }
    }

    #[test]
    fn no_word_is_offered_that_a_shell_would_obey() {
        for word in ["users", "app.order_items", "status=paid", "größe"] {
            assert!(is_harmless(word), "{word}");
        }
        for word in [
            "$(reboot)",
            "a b",
            "a;b",
            "`a`",
            "a\u{1b}",
            "--help",
            "=ls",
            "\"A\"",
            "a*",
            "~a",
        ] {
            assert!(!is_harmless(word), "{word}");
        }
    }

    #[test]
    fn what_is_typed_stands_behind_two_dashes() {
        let arguments = ["pgic", "--", "pgic", "query", ""].map(str::to_string);
        assert_eq!(words(arguments.into_iter()), ["pgic", "query", ""]);
    }
}
