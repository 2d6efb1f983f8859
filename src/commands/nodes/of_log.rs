//! `pgic nodes --from`: the nodes that follow a log, by their own answers.

use super::painted;
use crate::commands::Context;
use crate::exit_code::ExitCode;
use crate::nats::LogAddress;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use crate::render::table::{Heading, render};
use crate::render::{Format, count, print};
use crate::tables::estimate::human;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::nats::LogNode;
use serde_json::{Value, json};
use std::time::Duration;

/// Calls the roll of a log's nodes, and prints their answers.
///
/// # Errors
/// If NATS cannot be asked, or has no such log.
pub(super) async fn run(
    context: &Context,
    url: &str,
    timeout: Duration,
) -> anyhow::Result<ExitCode> {
    let address = LogAddress::new(url, None, &context.environment)?;
    let mut nodes = address.call_roll("nodes", timeout).await?;
    nodes.sort_by(|(a, _), (b, _)| (&a.node, &a.host).cmp(&(&b.node, &b.host)));
    match context.format {
        Format::Json => print(&json_lines(&nodes))?,
        Format::Text => print(&text(&context.look, &nodes))?,
    }
    let are_live = !nodes.is_empty() && nodes.iter().all(|(node, _)| is_live(node));
    Ok(if are_live {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

fn is_live(node: &LogNode) -> bool {
    node.state == "live"
}

/// Returns the sum of a figure of a node's tables. The figures come from outside.
fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

fn rows_of(node: &LogNode) -> u64 {
    sum(node.tables.iter().map(|table| table.rows))
}

fn memory_of(node: &LogNode) -> u64 {
    sum(node.tables.iter().map(|table| table.memory))
}

/// Returns the answers as text: a line a node, then what is wrong.
fn text(look: &Look, nodes: &[(LogNode, Duration)]) -> String {
    let mut text = String::new();
    if !nodes.is_empty() {
        let headings = [
            Heading::text("node"),
            Heading::text("host"),
            Heading::text("state"),
            Heading::text("position"),
            Heading::number("tables"),
            Heading::number("rows"),
            Heading::number("memory"),
        ];
        let cells = nodes.iter().map(|(node, _)| {
            vec![
                node.node.clone(),
                node.host.clone(),
                node.state.clone(),
                node.position.clone().unwrap_or_default(),
                node.tables.len().to_string(),
                rows_of(node).to_string(),
                human(memory_of(node) as usize),
            ]
        });
        text = render(&headings, cells);
    }
    for (node, _) in nodes.iter().filter(|(node, _)| !is_live(node)) {
        text.push_str(&format!(
            "  {} {}: {}\n",
            escape(&node.node),
            painted(look, &node.state),
            escape(node.why.as_deref().unwrap_or("the cause is not known"))
        ));
    }
    let live = nodes.iter().filter(|(node, _)| is_live(node)).count();
    let verdict = match nodes.len() {
        0 => "no node has answered".to_string(),
        known if live == known => format!("{} live", count(live as u64, "node")),
        known => format!("{live} of {} live", count(known as u64, "node")),
    };
    let tone = if live > 0 && live == nodes.len() {
        Tone::Good
    } else {
        Tone::Alarm
    };
    text.push_str(&format!("{}\n", look.paint(tone, &verdict)));
    text
}

/// Returns a node's answer as a line of JSON. `after` is the time that the answer took.
pub fn log_node_json(node: &LogNode, after: Duration) -> String {
    let tables: Vec<Value> = node
        .tables
        .iter()
        .map(|table| {
            json!({
                "table": table.table,
                "state": table.state,
                "rows": table.rows,
                "memory": table.memory,
                "kept_out": table.kept_out,
            })
        })
        .collect();
    EventLine::new("log-node", Timestamp::now())
        .member("node", &node.node)
        .member("host", &node.host)
        .member("instance", &node.instance)
        .member("version", &node.version)
        .member("state", &node.state)
        .optional("why", node.why.as_ref())
        .optional("position", node.position.as_ref())
        .member("after_us", after.as_micros() as u64)
        .member("tables", tables)
        .end()
}

/// Returns the answers as lines of JSON.
fn json_lines(nodes: &[(LogNode, Duration)]) -> String {
    let each = nodes
        .iter()
        .map(|(node, after)| log_node_json(node, *after));
    let mut lines: String = each.collect();
    let live = nodes.iter().filter(|(node, _)| is_live(node)).count();
    let line = EventLine::new("nodes", Timestamp::now())
        .member("nodes", nodes.len())
        .member("live", live)
        .member("silent", 0)
        .member("forged", 0);
    lines.push_str(&line.end());
    lines
}
