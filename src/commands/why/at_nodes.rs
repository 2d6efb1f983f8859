//! The nodes: what each has of the row.

use super::Case;
use super::at_row::Seen;
use super::link::{Link, Verdict};
use super::touch::Touched;
use crate::causes;
use crate::commands::nodes::session_text;
use crate::fleet::Fleet;
use crate::fleet::cut::table_ref;
use crate::fleet::node::{Roster, label};
use crate::fleet::rows::{Has, RowAnswer, ask_for_row};
use crate::render::json::EventLine;
use crate::render::{Format, print};
use crate::triggers::observe::observe;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::FindingKind;
use std::collections::BTreeMap;

/// Asks every node that has the table for the row. `touched` is when the row was written anew, if
/// it was.
///
/// # Errors
/// If the question cannot be sent.
pub(super) async fn look(
    fleet: &mut Fleet,
    roster: &Roster,
    case: &Case<'_>,
    seen: &Seen,
    touched: Option<&Touched>,
    is_trigger_broken: bool,
) -> anyhow::Result<Link> {
    let table = table_ref(case.target);
    let nodes = roster.with_table(&table);
    let answers = match touched {
        Some(touched) => touched.answers.clone(),
        None => {
            ask_for_row(
                fleet,
                case.target,
                case.key,
                &case.row,
                &nodes,
                case.timeout,
            )
            .await?
        }
    };
    let mut details = Vec::new();
    if case.context.format == Format::Json {
        let lines = answers.iter();
        print(
            &lines
                .map(|(listener, answer)| json(case, roster, *listener, answer))
                .collect::<String>(),
        )?;
    }
    for (listener, answer) in &answers {
        details.push(detail(case, roster, *listener, answer, touched));
    }
    for session in &roster.silent {
        details.push(format!(
            "silent: {}, whose tables are not known",
            session_text(session)
        ));
    }
    for node in &roster.forged {
        details.push(format!(
            "an answer in the name of {} is not believed: {}",
            node.label(),
            node.forged.as_deref().unwrap_or("it came twice")
        ));
    }
    for session in &roster.others {
        details.push(format!(
            "listens and answers no questions: {}",
            session_text(session)
        ));
    }
    let link = verdict(case, roster, seen, &answers, is_trigger_broken);
    Ok(details
        .iter()
        .fold(link, |link, detail| link.detail(detail)))
}

/// Returns a node's answer as a line of JSON.
fn json(case: &Case<'_>, roster: &Roster, listener: i32, answer: &RowAnswer) -> String {
    let (result, why) = match &answer.has {
        Has::Current => ("current", None),
        Has::Not(why) => ("not-current", Some(why)),
        Has::Silent => ("silent", None),
    };
    let node = roster.node(listener);
    EventLine::new("node-row", Timestamp::now())
        .of(case.target.names())
        .key(case.key)
        .member("node", node.map_or("", |node| &node.name))
        .member("listener", listener)
        .member("result", result)
        .optional("why", why)
        .optional("by", answer.by.as_ref())
        .optional("xid", answer.xid)
        .optional("came_at", answer.at.map(|at| at.to_string()))
        .optional(
            "after_us",
            answer.after.map(|after| after.as_micros() as u64),
        )
        .end()
}

/// Returns the line about one node.
fn detail(
    case: &Case<'_>,
    roster: &Roster,
    listener: i32,
    answer: &RowAnswer,
    touched: Option<&Touched>,
) -> String {
    let node = roster.node(listener);
    let name = node.map_or_else(
        || format!("process {listener}"),
        |node| label(&node.name, &node.host, node.pid),
    );
    let came = answer.came(|at| case.context.look.clock(at));
    let came = if came.is_empty() {
        came
    } else {
        format!(", {came}")
    };
    let word = match &answer.has {
        Has::Current if case.row.digest.is_none() => "does not have it either".to_string(),
        Has::Current => "has it as it is".to_string(),
        Has::Not(why) => why.clone(),
        Has::Silent => "does not answer".to_string(),
    };
    // Why the table is not live was asked before: who has the row by now needs no reason.
    let why = node
        .filter(|_| answer.has != Has::Current)
        .and_then(|node| node.table(&table_ref(case.target)))
        .and_then(|table| table.why.as_ref())
        .map_or_else(String::new, |why| format!(" ({why})"));
    let after = touched
        .filter(|touched| touched.arrived.is_some())
        .and_then(|touched| Some(touched.asked.duration_since(touched.committed) + answer.after?))
        .map_or_else(String::new, |after| {
            format!(
                ", at most {:.1} ms after the commit",
                after.as_secs_f64() * 1000.0
            )
        });
    format!("{name}: {word}{came}{after}{why}")
}

/// Returns the link, without its details.
fn verdict(
    case: &Case<'_>,
    roster: &Roster,
    seen: &Seen,
    answers: &BTreeMap<i32, RowAnswer>,
    is_trigger_broken: bool,
) -> Link {
    let count = |wanted: fn(&Has) -> bool| {
        let answers = answers.values();
        answers.filter(|answer| wanted(&answer.has)).count()
    };
    let current = count(|has| *has == Has::Current);
    let wrong = count(|has| matches!(has, Has::Not(_)));
    let silent = count(|has| *has == Has::Silent) + roster.silent.len();
    let all = answers.len() + roster.silent.len();
    if all == 0 {
        return Link::new("nodes", Verdict::Unknown)
            .text("no node that answers keeps this table: other caches cannot be asked");
    }
    let text = format!(
        "{current} of {} as the table is",
        crate::render::count(all as u64, "node")
    );
    if wrong == 0 && silent == 0 {
        return Link::new("nodes", Verdict::Ok).text(&text);
    }
    let broken = Link::new("nodes", Verdict::Broken).text(&text);
    if wrong == 0 {
        return broken.code("node-silent").for_good(Some(
            "look at the client of the backend that does not answer: the process is stopped, or \
            its loop is"
                .to_string(),
        ));
    }
    let broken = broken.now(Some(case.announce()));
    if is_trigger_broken {
        return broken.code("trigger-broken");
    }
    if seen.is_before_trigger {
        return broken.code("before-trigger").for_good(Some(
            "nothing more: what is written from now on is announced".to_string(),
        ));
    }
    if current > 0 {
        // Another node has it, so it was announced and delivered.
        return broken.code("node-stale").for_good(Some(
            "look into the node's own code and log: the change was announced, and other nodes \
            have it"
                .to_string(),
        ));
    }
    let kind = if seen.exists {
        FindingKind::Stale
    } else {
        FindingKind::Ghost
    };
    let observed = observe(&case.target.table);
    let channel = &case.target.channel;
    let likely = causes::likely(
        &case.target.table,
        observed.as_ref(),
        channel,
        kind,
        &[],
        None,
    );
    let others = answers.iter().any(|(listener, answer)| {
        let node = roster.node(*listener);
        let is_ours = node
            .and_then(|node| node.version.as_deref())
            .is_some_and(|version| version.starts_with("postgres-index-cache-core"));
        !is_ours && matches!(answer.has, Has::Not(_))
    });
    // A node of this library follows the trigger's channel by itself.
    let likely = if others {
        format!("{likely}; or the nodes do not listen on {channel}")
    } else {
        likely
    };
    broken.code("not-announced").for_good(Some(likely))
}
