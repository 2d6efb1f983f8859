//! The answer of `status` as lines of JSON: one for each table and each listener, then one for the
//! server.

use super::{TableSeen, enabled};
use crate::render::json::EventLine;
use crate::server_seen::ServerSeen;
use crate::tables::catalog::CatalogTable;
use crate::triggers::observe::Observed;
use crate::triggers::options::options_to_json;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy};
use serde_json::{Value, json};

/// Returns a problem as an object. Every JSON stream of pgic's has problems in this form.
pub(in crate::commands) fn problem_json(problem: &Problem) -> Value {
    json!({
        "code": problem.code,
        "severity": problem.severity.as_str(),
        "text": problem.text,
        "remedy": problem.remedy.as_ref().map(ToString::to_string),
        "run": problem.remedy.as_ref().map(Remedy::runnable).unwrap_or_default(),
    })
}

/// Returns the whole answer as lines of JSON.
pub(super) fn answer(rows: &[TableSeen<'_>], of_server: &[Problem], server: &ServerSeen) -> String {
    let at = Timestamp::now();
    let mut text = String::new();
    for row in rows {
        text.push_str(&table(at, row));
    }
    for listener in &server.listeners {
        text.push_str(
            &EventLine::new("listener", at)
                .member("pid", listener.pid)
                .member("user", &listener.user)
                .member("application", &listener.application)
                .member("state", &listener.state)
                .member("address", &listener.address)
                .member("since", &listener.since)
                .member("certain", listener.is_certain)
                .end(),
        );
    }
    let problems: Vec<Value> = of_server.iter().map(problem_json).collect();
    text + &EventLine::new("server", at)
        .place(server.place.as_ref())
        .member("standby", server.is_standby)
        .member("queue_usage", server.queue)
        .member("unseen_sessions", server.unseen)
        .member("problems", problems)
        .end()
}

fn table(at: Timestamp, row: &TableSeen<'_>) -> String {
    let TableSeen {
        table,
        seen,
        near_limit,
        problems,
    } = row;
    let seen = seen.as_ref();
    let problems: Vec<Value> = problems.iter().map(problem_json).collect();
    let near_limit = near_limit
        .as_ref()
        .map(|near| json!({"rows": near.rows, "sampled": near.sampled}));
    EventLine::new("table", at)
        .of((&table.schema, &table.name))
        .member("channel", seen.and_then(|seen| seen.channel.clone()))
        .member("events", seen.map(|seen| seen.events()))
        .member("columns", seen.and_then(|seen| sent_columns(table, seen)))
        .member(
            "options",
            seen.and_then(|seen| seen.options()).map(options_to_json),
        )
        .member("state", seen.map(|seen| enabled(seen).replace(' ', "_")))
        .member("function", seen.map(|seen| seen.version.as_str()))
        .member("rows", table.estimated_rows)
        .member("near_limit", near_limit)
        .member("problems", problems)
        .end()
}

/// Returns the names of the columns that are sent, in the table's order. Those of the key are
/// always sent. `None` if the function is not one of pgic's.
fn sent_columns<'a>(table: &'a CatalogTable, seen: &Observed<'_>) -> Option<Vec<&'a String>> {
    let options = seen.options()?;
    let key: Vec<&String> = table.key.iter().flat_map(|key| &key.columns).collect();
    let names = table.columns.iter().map(|column| &column.name);
    Some(
        names
            .filter(|name| options.sends(name) || key.contains(name))
            .collect(),
    )
}
