//! The answer of `status` as text.

use super::{TableSeen, enabled, is_severe};
use crate::render::count;
use crate::render::escape::escape;
use crate::render::look::{Look, Tone};
use crate::render::table::{Heading, render};
use crate::server_seen::ServerSeen;
use crate::tables::catalog::CatalogTable;
use crate::tables::near_limit::NearLimit;
use crate::triggers::observe::{Observed, Version};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Severity};
use std::fmt::Write as _;

/// Returns the columns that are sent, in words: their names if they are few. And how, and of which
/// rows.
fn sent(table: &CatalogTable, seen: &Observed<'_>) -> String {
    /// The most names, in characters.
    const LONGEST: usize = 20;
    let Some(options) = seen.options() else {
        return "not known".to_string();
    };
    let columns = match &options.columns {
        _ if options.no_data => "keys alone".to_string(),
        None => "all columns".to_string(),
        Some(columns) if columns.join(",").len() <= LONGEST => columns.join(","),
        Some(columns) => format!("{} of {} columns", columns.len(), table.columns.len()),
    };
    let packed = match options.bulk {
        None => columns,
        Some(_) => format!("{columns}, packed"),
    };
    match &options.condition {
        None => packed,
        Some(condition) => format!("{packed} where {}", condition.sql),
    }
}

/// Returns the whole answer as text.
pub(super) fn answer(
    look: &Look,
    rows: &[TableSeen<'_>],
    of_server: &[Problem],
    server: &ServerSeen,
) -> String {
    let mut text = String::new();
    if !rows.is_empty() {
        let headings = ["", "table", "channel", "sent", "state"].map(Heading::text);
        let table = render(&headings, rows.iter().map(cells));
        text = table.lines().map(|line| marked(look, line)).collect();
        text.push('\n');
    }
    let severe = rows.iter().flat_map(|row| &row.problems).chain(of_server);
    let severe = severe.filter(|problem| is_severe(problem));
    let notices = rows.iter().flat_map(|row| &row.problems).chain(of_server);
    let notices = match notices.filter(|problem| !is_severe(problem)).count() {
        0 => String::new(),
        notices => format!(", {}", count(notices as u64, "notice")),
    };
    // `let _`: writing into a String cannot fail.
    let _ = match severe.count() {
        0 => writeln!(text, "{}{notices}", look.paint(Tone::Good, "ok")),
        severe => {
            let problems = count(severe as u64, "problem");
            writeln!(text, "{}{notices}", look.paint(Tone::Alarm, &problems))
        }
    };
    let named = rows.iter().flat_map(|row| {
        let problems = row.problems.iter();
        problems.map(|problem| (Some(row.table.display_name()), problem))
    });
    let mut all: Vec<(Option<String>, &Problem)> = named
        .chain(of_server.iter().map(|problem| (None, problem)))
        .collect();
    // The worst first: it is read first.
    all.sort_by_key(|(_, problem)| match problem.severity {
        Severity::Critical => 0,
        Severity::Warning => 1,
        Severity::Notice => 2,
    });
    for (name, problem) in all {
        text.push_str(&problem_line(look, name.as_ref(), problem));
    }
    for row in rows {
        if let Some(NearLimit { rows, sampled, .. }) = &row.near_limit
            && *rows > 0
        {
            let table = row.table.display_name();
            let _ = writeln!(
                text,
                "  {}: {rows} of {sampled} rows looked at are near the limit of a payload",
                escape(&table)
            );
        }
    }
    text.push_str(&listeners_text(look, server));
    let _ = writeln!(text, "queue: {:.1} % full", server.queue * 100.0);
    let place = match &server.place {
        Some(place) => place.to_string(),
        None => "server".to_string(),
    };
    let _ = writeln!(text, "{}", escape(&place));
    text
}

/// Returns a line of the table, with the mark in its colour.
fn marked(look: &Look, line: &str) -> String {
    let (tone, mark) = if line.starts_with('!') {
        (Tone::Alarm, "!")
    } else if line.starts_with("ok") {
        (Tone::Good, "ok")
    } else {
        return format!("{line}\n");
    };
    let rest = line.strip_prefix(mark).unwrap_or_default();
    format!("{}{rest}\n", look.paint(tone, mark))
}

/// Returns the line of a problem: its severity, its code, the table, the text and the remedy.
fn problem_line(look: &Look, table: Option<&String>, problem: &Problem) -> String {
    let words = problem.to_string();
    // The words of most problems name the table already.
    let table = table.filter(|table| !words.contains(table.as_str()));
    let table = table.map(|table| format!("{table}: "));
    let line = format!("[{}] {}{words}", problem.code, table.unwrap_or_default());
    let tone = match problem.severity {
        Severity::Critical => Tone::Alarm,
        Severity::Warning => Tone::Changed,
        Severity::Notice => Tone::Dim,
    };
    let severity = look.paint(tone, problem.severity.as_str());
    format!("  {severity} {}\n", escape(&line))
}

fn listeners_text(look: &Look, server: &ServerSeen) -> String {
    let mut text = "\nlisteners: none seen\n".to_string();
    if !server.listeners.is_empty() {
        let headings = [
            Heading::number("pid"),
            Heading::text("user"),
            Heading::text("address"),
            Heading::text("application"),
            Heading::text("since"),
            Heading::text(""),
        ];
        let rows = server.listeners.iter().map(|listener| {
            // Told apart, so that nobody takes a missing guess for a listener that is missing.
            let known_by = if listener.is_certain { "" } else { "a guess" };
            vec![
                listener.pid.to_string(),
                listener.user.clone(),
                listener.address.clone(),
                listener.application.clone(),
                since(look, &listener.since),
                known_by.to_string(),
            ]
        });
        text = format!("\nlisteners:\n{}", render(&headings, rows));
    }
    text.push_str(
        "  a session of another program is seen only while LISTEN is its last statement\n",
    );
    if server.unseen > 0 {
        let _ = writeln!(
            text,
            "  the statements of {} cannot be seen by this role: pg_read_all_stats shows them",
            count(server.unseen.unsigned_abs(), "session")
        );
    }
    text
}

/// Returns a time that the server wrote, as the other times of text are.
fn since(look: &Look, written: &str) -> String {
    match written.parse::<Timestamp>() {
        // A session that has listened for days is no place for milliseconds.
        Ok(at) => {
            let clock = look.clock(at);
            clock.trim_end_matches(".000").to_string()
        }
        Err(_) => written.to_string(),
    }
}

/// Returns the row of a table. Where nothing announces its changes, most cells are a dash.
fn cells(row: &TableSeen<'_>) -> Vec<String> {
    let TableSeen { table, seen, .. } = row;
    let name = table.display_name();
    let mark = if row.is_wrong() { "!" } else { "ok" };
    let observed = match seen {
        Some(seen) => [
            seen.channel.clone().unwrap_or_else(|| "?".to_string()),
            sent(table, seen),
            match seen.version {
                Version::Foreign => format!("{}, not pgic's own", enabled(seen)),
                Version::Current | Version::Outdated => enabled(seen).to_string(),
            },
        ],
        None => ["-", "-", "no trigger"].map(str::to_string),
    };
    [mark.to_string(), name]
        .into_iter()
        .chain(observed)
        .collect()
}
