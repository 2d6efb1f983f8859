//! The check of channels: somebody listens where triggers announce, and nobody a letter beside.

use super::tables::Tables;
use super::{Findings, Found, found};
use crate::render::count;
use crate::server_seen::ServerSeen;
use crate::tables::nearest::nearest;
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};
use std::collections::BTreeMap;

/// Adds the outcome of the check.
pub(super) fn check(findings: &mut Findings, tables: &Tables, seen: &ServerSeen) {
    let announced = tables.channels();
    let mut listened: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for listener in &seen.listeners {
        for channel in &listener.channels {
            listened.entry(channel).or_default().push(listener.pid);
        }
    }
    let mut problems = twins(tables, &announced);
    problems.extend(misspelt(&announced, &listened, tables.are_all));
    for channel in &announced {
        if !listened.contains_key(channel.as_str()) {
            problems.push(found(Problem {
                code: "nobody-listens",
                severity: Severity::Notice,
                text: format!(
                    "no session is known to listen on {channel}; those whose last statement was \
                    another one cannot be seen"
                ),
                remedy: None,
            }));
        }
    }
    let looked_at = format!(
        "{} announced, {} heard by somebody",
        count(announced.len() as u64, "channel"),
        announced
            .iter()
            .filter(|channel| listened.contains_key(channel.as_str()))
            .count()
    );
    findings.add("channels", looked_at, problems);
}

/// Returns a channel in lower case, without other characters than letters and digits: people
/// confuse those.
fn folded(channel: &str) -> String {
    let letters = channel.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// Returns a problem for each table whose channel differs from another table's by nothing but case
/// and punctuation. The channel of most tables is taken for the right one.
fn twins(tables: &Tables, announced: &[String]) -> Vec<Found> {
    let users = |channel: &String| {
        let tables = tables.announced();
        tables
            .filter(|table| table.channel.as_ref() == Some(channel))
            .count()
    };
    let mut problems = Vec::new();
    for table in tables.announced() {
        let Some(own) = &table.channel else { continue };
        let others = announced
            .iter()
            .filter(|other| *other != own && folded(other) == folded(own));
        let Some(right) = others.max_by_key(|other| (users(other), std::cmp::Reverse(*other)))
        else {
            continue;
        };
        // One of the two is left as it is.
        if (users(right), std::cmp::Reverse(right)) < (users(own), std::cmp::Reverse(own)) {
            continue;
        }
        let option = if right.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            right.clone()
        } else {
            format!("'{}'", right.replace('\'', "'\\''"))
        };
        problems.push(table.found(Problem {
            code: "channel-twin",
            severity: Severity::Warning,
            text: format!(
                "{} announces on {own}, and other tables on {right}: whoever listens on one does \
                not hear the other",
                table.described.display_name()
            ),
            remedy: Some(Remedy::Command {
                what: "announce on the same channel",
                command: format!(
                    "pgic install-triggers {} --channel {option}",
                    table.described.typed_name()
                ),
            }),
        }));
    }
    problems
}

/// Returns a problem for each channel that is listened to, not announced, and nearly the name of
/// one that is. `are_all` tells whether all announced tables are known.
fn misspelt<'a>(
    announced: &'a [String],
    listened: &'a BTreeMap<&str, Vec<i32>>,
    are_all: bool,
) -> impl Iterator<Item = Found> + 'a {
    listened.iter().filter_map(move |(channel, pids)| {
        if !are_all || announced.iter().any(|own| own == channel) {
            return None;
        }
        let twin = announced.iter().find(|own| folded(own) == folded(channel));
        let meant = match twin {
            Some(twin) => twin.as_str(),
            None => nearest(channel, announced.iter().map(String::as_str))?,
        };
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        Some(found(Problem {
            code: "channel-misspelt",
            severity: Severity::Warning,
            text: format!(
                "process {} listens on {channel}, where no trigger announces; {meant} may be meant",
                pids.join(", ")
            ),
            remedy: Some(Remedy::Advice(format!(
                "let the application run: LISTEN {} (without quotes PostgreSQL folds a name to lower \
                case)",
                quote_identifier(meant)
            ))),
        }))
    })
}
