//! The log of a relay, and the nodes that follow it: whether they have the row as the table has it.

use super::Case;
use super::link::{Link, Verdict};
use super::touch::Touched;
use crate::commands::nodes::log_node_json;
use crate::connect::Server;
use crate::failure::Report;
use crate::nats::LogAddress;
use crate::nats::logged_row::{RowInLog, compare_row, has_columns_of, logged_table};
use crate::render::{Format, count, print};
use crate::tables::target::Target;
use postgres_index_cache_core::tooling::nats::{Follow, LogNode};
use std::time::Duration;

/// A log that is followed as a node does.
pub(super) struct Log<'a> {
    address: &'a LogAddress,
    follow: Result<Box<Follow>, anyhow::Error>,
}

impl<'a> Log<'a> {
    /// Follows the log until its rows are live. If they do not become that, the link of the log says
    /// why.
    pub(super) async fn open(address: &'a LogAddress) -> Self {
        let follow = Box::pin(address.live("why")).await.map(Box::new);
        Self { address, follow }
    }

    /// Looks for the row in the log. `touched` is when the row was written anew, if it was.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(super) async fn look(
        &mut self,
        server: &Server,
        case: &Case<'_>,
        touched: Option<&Touched>,
    ) -> anyhow::Result<Link> {
        let link = |verdict| Link::new("log", verdict);
        let follow = match &mut self.follow {
            Ok(follow) => follow,
            Err(error) => {
                return Ok(link(Verdict::Broken)
                    .code("log-not-proven")
                    .text(&Report::new(error).one_line()));
            }
        };
        if logged_table(follow, case.target).is_none() {
            return Ok(link(Verdict::Broken)
                .code("not-in-log")
                .text(&format!(
                    "the relay of {} does not follow {}",
                    self.address,
                    case.target.name()
                ))
                .for_good(Some(format!(
                    "start the relay with this table too: pgic relay … {}",
                    case.target.table.typed_name()
                ))));
        }
        if !has_columns_of(follow, case.target, &case.row) {
            return Ok(link(Verdict::Broken)
                .code("other-columns")
                .text("the log has other columns of the table than the trigger sends")
                .for_good(Some("pgic status names what the trigger sends".to_string())));
        }
        let (target, key, row) = (case.target, case.key, &case.row);
        let found = match compare_row(self.address, follow, server, target, key, row).await {
            Ok(found) => found,
            Err(error) => {
                return Ok(link(Verdict::Broken)
                    .code("log-not-proven")
                    .text(&Report::new(&error).one_line()));
            }
        };
        let at = follow.position().map_or_else(String::new, |position| {
            format!("{} at {position}", self.address)
        });
        Ok(match found {
            RowInLog::Same => {
                let has = match case.row.digest {
                    Some(_) => "has the row as it is",
                    None => "has no such row either",
                };
                let after = touched.map_or_else(String::new, |touched| {
                    let after = touched.committed.elapsed();
                    format!(
                        ", at most {:.1} ms after the commit",
                        after.as_secs_f64() * 1000.0
                    )
                });
                link(Verdict::Ok).text(&format!("{at} {has}{after}"))
            }
            RowInLog::Other(what) => link(Verdict::Broken)
                .code("log-stale")
                .text(&format!("{at} {what}"))
                .now(Some(format!("{} --from {}", case.announce(), self.address)))
                .for_good(Some(format!(
                    "look whether others differ: pgic verify {} --from {}",
                    case.target.table.typed_name(),
                    self.address
                ))),
            RowInLog::Unsettled => link(Verdict::Unknown).text(&format!(
                "the row is changed again and again, so that {at} could not be compared"
            )),
        })
    }

    /// Calls the roll of the log's nodes, and says which of them are live.
    ///
    /// # Errors
    /// If the answers cannot be printed.
    pub(super) async fn look_at_nodes(&self, case: &Case<'_>) -> anyhow::Result<Link> {
        let link = |verdict| Link::new("nodes", verdict);
        let called = self.address.call_roll("why", case.timeout).await;
        let nodes: Vec<(LogNode, Duration)> = match called {
            Ok(nodes) => nodes,
            Err(error) => return Ok(link(Verdict::Unknown).text(&Report::new(&error).one_line())),
        };
        let mut nodes: Vec<(LogNode, Duration)> = nodes
            .into_iter()
            .filter(|(node, _)| follows(node, case.target))
            .collect();
        nodes.sort_by(|(a, _), (b, _)| (&a.node, &a.host).cmp(&(&b.node, &b.host)));
        if case.context.format == Format::Json {
            let lines = nodes
                .iter()
                .map(|(node, after)| log_node_json(node, *after));
            print(&lines.collect::<String>())?;
        }
        let live = nodes
            .iter()
            .filter(|(node, _)| node.state == "live")
            .count();
        let verdict = if nodes.is_empty() {
            link(Verdict::Unknown).text("no node of the log that answers keeps this table")
        } else if live == nodes.len() {
            link(Verdict::Ok).text(&format!(
                "{} live: each has what the log has at its position",
                count(live as u64, "node")
            ))
        } else {
            link(Verdict::Broken).code("node-stale").text(&format!(
                "{live} of {} live",
                count(nodes.len() as u64, "node")
            ))
        };
        Ok(nodes
            .iter()
            .fold(verdict, |link, (node, _)| link.detail(&detail(node))))
    }
}

/// Returns the line about one node.
fn detail(node: &LogNode) -> String {
    let place = match &node.position {
        Some(position) => format!(" at {position}"),
        None => String::new(),
    };
    let why = node
        .why
        .as_ref()
        .map_or_else(String::new, |why| format!(" ({why})"));
    format!("{} on {}: {}{place}{why}", node.node, node.host, node.state)
}

/// Returns whether a node has the table, by the name that its application uses.
fn follows(node: &LogNode, target: &Target) -> bool {
    let (schema, name) = target.names();
    let with_schema = format!("{schema}.{name}");
    node.tables
        .iter()
        .any(|table| table.table == name || table.table == with_schema)
}
