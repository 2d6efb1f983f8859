//! The answers about the shell itself: `.tables`, `.stats` and `.help`.

use super::answer::Answer;
use super::changes::Watched;
use super::line::COMMANDS;
use super::live::LiveCaches;
use crate::render::Format;
use crate::render::json::EventLine;
use crate::render::table::{Heading, render};
use crate::tables::conditions::Written;
use crate::tables::estimate;
use crate::tables::target::Target;
use jiff::Timestamp;

/// Answers `.tables`: a row for each table, with the size of its cache.
pub(super) fn tables(live: &LiveCaches, format: Format) -> Answer {
    let numbered = live.targets().enumerate();
    let text = match format {
        Format::Text => {
            let headings = [
                Heading::text("table"),
                Heading::number("rows"),
                Heading::number("memory"),
                Heading::text("channel"),
                Heading::text("columns"),
            ];
            let rows = numbered.map(|(at, target)| {
                let cache = live.cache(at);
                vec![
                    target.name(),
                    cache.len().to_string(),
                    estimate::human(cache.memory_bytes()),
                    target.channel.clone(),
                    columns(target).join(","),
                ]
            });
            render(&headings, rows)
        }
        Format::Json => numbered
            .map(|(at, target)| {
                let cache = live.cache(at);
                event("cache")
                    .of(target.names())
                    .member("state", live.state(at).as_str())
                    .member("rows", cache.len())
                    .member("memory_bytes", cache.memory_bytes())
                    .member("channel", &target.channel)
                    .member("columns", columns(target))
                    .end()
            })
            .collect(),
    };
    Answer {
        text,
        rows: live.targets().len(),
        ..Answer::default()
    }
}

/// Returns the names of the columns that are shown.
fn columns(target: &Target) -> Vec<&str> {
    let all = target.shape.columns();
    target
        .shown
        .iter()
        .map(|&column| all[column].name.as_str())
        .collect()
}

/// Answers `.stats`: state, lag, size, and the fate of the notifications, over all tables.
pub(super) fn stats(live: &LiveCaches, format: Format) -> Answer {
    let engine = live.driver().engine();
    let counters = engine.counters();
    let mut total = 0;
    let mut bytes = 0;
    for at in 0..live.targets().len() {
        // One guard at a time: the driver cannot change a cache while somebody holds its guard.
        let cache = live.cache(at);
        total += cache.len();
        bytes += cache.memory_bytes();
    }
    let counted = [
        ("rows", total as u64),
        ("memory_bytes", bytes as u64),
        ("received", counters.received),
        ("applied", counters.applied),
        ("skipped", counters.skipped),
        ("other_tables", counters.other_tables),
        ("invalid", counters.invalid),
        ("plain", counters.plain),
        ("collapsed", counters.collapsed),
        ("refetched", counters.refetched),
        ("reloads", counters.reloads),
        ("gaps", counters.gaps),
        ("reopened", counters.reopened),
    ];
    // Milliseconds with three digits behind the point: the clock of the lag has no more to say.
    let lag_ms = engine
        .lag()
        .map(|lag| (lag.as_secs_f64() * 1e6).round() / 1e3);
    let state = live.status().get().as_str();
    let why = live.any_failure();
    let text = match format {
        Format::Text => {
            let mut lines = vec![vec!["state".to_string(), state.to_string()]];
            lines.extend(why.map(|why| vec!["why".to_string(), why]));
            lines.extend(lag_ms.map(|lag| vec!["lag".to_string(), format!("{lag} ms")]));
            for (name, count) in counted {
                lines.push(match name {
                    "memory_bytes" => vec!["memory".to_string(), estimate::human(bytes)],
                    _ => vec![name.replace('_', " "), count.to_string()],
                });
            }
            list(lines)
        }
        Format::Json => {
            let line = event("stats")
                .member("state", state)
                .optional("why", why)
                .member("lag_ms", lag_ms);
            let line = counted
                .into_iter()
                .fold(line, |line, (name, count)| line.member(name, count));
            line.end()
        }
    };
    Answer {
        text,
        rows: 1,
        ..Answer::default()
    }
}

/// Answers `.watch`: a row for each watch, oldest first.
pub(super) fn watches(live: &LiveCaches, watched: &[Watched], format: Format) -> Answer {
    let lines = watched.iter().map(|watched| {
        let conditions: Vec<String> = watched.written.iter().map(Written::to_string).collect();
        (live.target(watched.table), conditions)
    });
    let text = match format {
        Format::Text => {
            let headings = [Heading::text("table"), Heading::text("conditions")];
            render(
                &headings,
                lines.map(|(target, conditions)| vec![target.name(), conditions.join(" ")]),
            )
        }
        Format::Json => lines
            .map(|(target, conditions)| {
                event("watch")
                    .of(target.names())
                    .member("conditions", conditions)
                    .end()
            })
            .collect(),
    };
    let nothing = watched.is_empty().then(|| "nothing is watched".to_string());
    Answer {
        text: if watched.is_empty() {
            String::new()
        } else {
            text
        },
        rows: watched.len(),
        notices: nothing.into_iter().collect(),
        ..Answer::default()
    }
}

/// Answers `.help`: a row for each command.
pub(super) fn help(format: Format) -> Answer {
    let text = match format {
        Format::Text => {
            let words = COMMANDS.iter().map(|command| {
                let typed = format!("{} {}", command.name, command.takes);
                vec![typed.trim_end().to_string(), command.does.to_string()]
            });
            let conditions = "\nconditions: COLUMN=VALUE  COLUMN='two words'  COLUMN=null  \
                COLUMN:=SQL\nalso != < <= > >= and ~ with a regular expression; pgic help conditions\n";
            list(words) + conditions
        }
        Format::Json => COMMANDS
            .iter()
            .map(|command| {
                event("help")
                    .member("command", command.name)
                    .member("takes", command.takes)
                    .member("does", command.does)
                    .end()
            })
            .collect(),
    };
    Answer {
        text,
        rows: COMMANDS.len(),
        ..Answer::default()
    }
}

/// Begins an event of JSON.
fn event(event: &str) -> EventLine {
    EventLine::new(event, Timestamp::now())
}

/// Lays out two columns without headings.
fn list(lines: impl IntoIterator<Item = Vec<String>>) -> String {
    render(&[Heading::text(""), Heading::text("")], lines)
        // The line of the empty headings.
        .trim_start()
        .to_string()
}
