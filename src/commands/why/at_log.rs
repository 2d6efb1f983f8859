//! The log of a relay, and the nodes that follow it: whether they have the row as the table has it.

use super::Case;
use super::link::{Link, Verdict};
use super::touch::Touched;
use crate::commands::nodes::log_node_json;
use crate::connect::Server;
use crate::failure::Report;
use crate::nats::LogAddress;
use crate::render::{Format, count, print};
use crate::tables::row::{RowNow, read_row, reader};
use crate::tables::target::Target;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::KeyBuf;
use postgres_index_cache_core::tooling::fleet::{Digest, RowDigester};
use postgres_index_cache_core::tooling::nats::{Follow, LogNode, LoggedTable};
use std::time::Duration;

/// How often a row that changes meanwhile is looked at.
const TRIES: usize = 5;

/// A log that is followed as a node does.
pub(super) struct Log<'a> {
    address: &'a LogAddress,
    follow: Result<Box<Follow>, anyhow::Error>,
}

/// What the log has of the row.
enum Found {
    /// The row as the table has it; if none, neither has one.
    Same,
    /// Another row, or none, or one that the table does not have.
    Other(&'static str),
    /// The row changes faster than it can be looked at.
    Unsettled,
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
        let Some(table) = table_of(follow, case.target) else {
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
        };
        if RowDigester::new(table.cache.read().shape()).columns() != case.row.columns {
            return Ok(link(Verdict::Broken)
                .code("other-columns")
                .text("the log has other columns of the table than the trigger sends")
                .for_good(Some("pgic status names what the trigger sends".to_string())));
        }
        let found = match compare(self.address, follow, server, case).await {
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
            Found::Same => {
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
            Found::Other(what) => link(Verdict::Broken)
                .code("log-stale")
                .text(&format!("{at} {what}"))
                .now(Some(case.announce()))
                .for_good(Some(format!(
                    "look whether others differ: pgic verify {} --from {}",
                    case.target.table.typed_name(),
                    self.address
                ))),
            Found::Unsettled => link(Verdict::Unknown).text(&format!(
                "the row changed each of {TRIES} times between the look at the table and at {at}"
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

/// Returns the table of the log that the row is in.
fn table_of<'f>(follow: &'f Follow, target: &Target) -> Option<&'f LoggedTable> {
    let names = target.names();
    follow.tables().find(|table| {
        let description = &table.description;
        (description.schema.as_str(), description.table.as_str()) == names
    })
}

/// Compares the log's row with the table's.
///
/// A row that is written meanwhile may differ for a moment. So the log is wrong only if its row is
/// neither that of the table before a fence nor that behind it, and both of these are the same.
///
/// # Errors
/// If the table cannot be read, or nobody proves the log's rows.
async fn compare(
    address: &LogAddress,
    follow: &mut Follow,
    server: &Server,
    case: &Case<'_>,
) -> anyhow::Result<Found> {
    let mut reader = reader(server).await?;
    let mut before = case.row.clone();
    for _ in 0..TRIES {
        address.prove(follow).await?;
        let logged = digest_of(follow, case)?;
        if logged == before.digest {
            return Ok(Found::Same);
        }
        let now: RowNow = read_row(&mut reader, case.target, case.key).await?;
        if logged == now.digest {
            return Ok(Found::Same);
        }
        if now.digest == before.digest {
            return Ok(Found::Other(match (logged, now.digest) {
                (None, _) => "does not have the row",
                (Some(_), None) => "still has the row",
                (Some(_), Some(_)) => "has another row of this key",
            }));
        }
        before = now;
    }
    Ok(Found::Unsettled)
}

/// Returns the digest of the log's row; `None` if there is none.
fn digest_of(follow: &Follow, case: &Case<'_>) -> anyhow::Result<Option<Digest>> {
    let table = table_of(follow, case.target);
    let table = table.ok_or_else(|| anyhow!("the log has lost {}", case.target.name()))?;
    let cache = table.cache.read();
    let mut key = KeyBuf::default();
    key.read_json(cache.shape(), case.key)
        .map_err(|error| anyhow!("read the key {}: {error}", case.key))?;
    let mut digester = RowDigester::new(cache.shape());
    Ok(cache
        .get(&key)
        .map(|row| digester.row(|column| row.cell(column))))
}
