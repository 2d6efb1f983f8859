//! The log of a relay, and the nodes that follow it: whether they have the row as the table has it.

use super::Case;
use super::link::{Link, Verdict};
use super::touch::Touched;
use crate::commands::nodes::log_node_json;
use crate::connect::Server;
use crate::failure::Report;
use crate::nats::LogAddress;
use crate::nats::logged_row::{RowInLog, compare_row, logged_table};
use crate::render::{Format, count, print};
use crate::tables::target::Target;
use postgres_index_cache_core::tooling::log::Position;
use postgres_index_cache_core::tooling::nats::{Follow, LogNode, LogNodeTable};
use postgres_index_cache_core::tooling::postgres::Traced;
use std::time::Duration;
use tokio_postgres::Client;

/// What mends a log that nobody proves.
const START_A_RELAY: &str =
    "start pgic relay for this log, or look at the output of the one that runs";

/// A log that is followed as a node does.
pub(super) struct Log<'a> {
    address: &'a LogAddress,
    follow: Box<Follow>,
    /// Why nobody has proven the rows; `None` if they were proven.
    unproven: Option<String>,
}

impl<'a> Log<'a> {
    /// Follows the log until its rows are live, or it is known that nobody proves them.
    ///
    /// # Errors
    /// If NATS cannot be reached, there is no such log, or it is one of another database.
    pub(super) async fn open(address: &'a LogAddress, server: &Server) -> anyhow::Result<Self> {
        let session = server.client().await?;
        let mut follow = Box::new(Box::pin(address.open("why", &session)).await?);
        let proven = address.prove(&mut follow).await;
        Ok(Self {
            address,
            follow,
            unproven: proven.err().map(|error| Report::new(&error).one_line()),
        })
    }

    /// Returns whether a row of the table could be found in the log.
    pub(super) fn is_of_use(&self, target: &Target) -> bool {
        self.unproven.is_none() && logged_table(&self.follow, target).is_some()
    }

    /// Looks for the row in the log. `touched` is when the row was written anew, if it was.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(super) async fn look(
        &mut self,
        server: &Server,
        session: &Traced<Client>,
        case: &Case<'_>,
        touched: Option<&Touched>,
    ) -> anyhow::Result<Link> {
        let link = |verdict| Link::new("log", verdict);
        let unproven = |why: &str| {
            let link = link(Verdict::Broken).code("log-not-proven").text(why);
            link.for_good(Some(START_A_RELAY.to_string()))
        };
        if let Some(why) = &self.unproven {
            return Ok(unproven(why));
        }
        let (address, target) = (self.address, case.target);
        let name = target.table.typed_name();
        if logged_table(&self.follow, target).is_none() {
            let text = format!("the relay of {address} does not follow {}", target.name());
            let remedy = format!("start the relay with this table too: pgic relay … {name}");
            let broken = link(Verdict::Broken).code("not-in-log").text(&text);
            return Ok(broken.for_good(Some(remedy)));
        }
        let follow = &mut self.follow;
        let found = compare_row(address, follow, server, session, target, case.key).await?;
        let position = self.follow.position();
        let at = position.map_or_else(String::new, |position| position.to_string());
        let log = format!("{address} at {at}");
        Ok(match found {
            RowInLog::Same { exists } => {
                let has = if exists {
                    "has the row as it is"
                } else {
                    "has no such row either"
                };
                // Without a notification the time would be that of waiting for one.
                let arrived = touched.filter(|touched| touched.arrived.is_some());
                let after = arrived.map_or_else(String::new, |touched| {
                    let after = touched.committed.elapsed().as_secs_f64() * 1000.0;
                    format!(", at most {after:.1} ms after the commit")
                });
                link(Verdict::Ok).text(&format!("{log} {has}{after}"))
            }
            RowInLog::Other(what) => link(Verdict::Broken)
                .code("log-stale")
                .text(&format!("{log} {what}"))
                .now(Some(format!("{} --from {address}", case.announce())))
                .for_good(Some(format!(
                    "look whether others differ: pgic verify {name} --from {address}"
                ))),
            RowInLog::Unsettled(why) => {
                link(Verdict::Unknown).text(&format!("{log} could not be compared: {why}"))
            }
            RowInLog::NotProven(why) => unproven(&why),
        })
    }

    /// Calls the roll of the log's nodes, and says which of them have what the log had at the last
    /// look.
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
            .filter(|(node, _)| table_of(node, case.target).is_some())
            .collect();
        nodes.sort_by(|(a, _), (b, _)| (&a.node, &a.host).cmp(&(&b.node, &b.host)));
        if case.context.format == Format::Json {
            let lines = nodes
                .iter()
                .map(|(node, after)| log_node_json(node, *after));
            print(&lines.collect::<String>())?;
        }
        let at = self.follow.position().filter(|_| self.unproven.is_none());
        let states: Vec<NodeState> = nodes
            .iter()
            .map(|(node, _)| NodeState::of(node, case.target, at))
            .collect();
        let of = |wanted: NodeState| states.iter().filter(|state| **state == wanted).count();
        let (stale, unclear) = (of(NodeState::NotLive), of(NodeState::Unclear));
        let all = count(states.len() as u64, "node");
        let verdict = if states.is_empty() {
            link(Verdict::Unknown).text("no node of the log that answers keeps this table")
        } else if stale > 0 {
            let live = states.len() - stale;
            let broken = link(Verdict::Broken).code("node-stale");
            broken.text(&format!("{live} of {all} live"))
        } else if unclear > 0 {
            let having = states.len() - unclear;
            link(Verdict::Unknown).text(&format!("{having} of {all} are known to have it"))
        } else {
            link(Verdict::Ok).text(&format!("{all} live, with what the log had then"))
        };
        let details = std::iter::zip(&nodes, &states);
        Ok(details.fold(verdict, |link, ((node, _), state)| {
            link.detail(&detail(node, case.target, *state))
        }))
    }
}

/// What is known of a node's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeState {
    /// The node's table is live, as of the position that was looked at, or later.
    HasIt,
    /// The table is live, and whether it has the row is not known.
    Unclear,
    /// The table is not live.
    NotLive,
}

impl NodeState {
    /// `at` is the position at which the log was looked at; `None` if that is not known.
    fn of(node: &LogNode, target: &Target, at: Option<Position>) -> Self {
        let table = table_of(node, target);
        if table.is_none_or(|table| table.state != "live") {
            return Self::NotLive;
        }
        let own = node.position.as_deref();
        let own = own.and_then(|position| position.parse::<Position>().ok());
        let is_as_far = own.zip(at).is_some_and(|(own, at)| own.has(&at));
        // Any row may be one of those that are kept out.
        let is_whole = table.is_some_and(|table| table.kept_out == 0);
        if is_as_far && is_whole {
            Self::HasIt
        } else {
            Self::Unclear
        }
    }
}

/// Returns the line about one node.
fn detail(node: &LogNode, target: &Target, state: NodeState) -> String {
    let table = table_of(node, target);
    let word = table.map_or("", |table| table.state.as_str());
    let place = match &node.position {
        Some(position) => format!(" at {position}"),
        None => ", without a position".to_string(),
    };
    let why = node
        .why
        .as_ref()
        .filter(|_| state == NodeState::NotLive)
        .map_or_else(String::new, |why| format!(" ({why})"));
    let kept_out = table.map_or(0, |table| table.kept_out);
    let kept_out = match kept_out {
        0 => String::new(),
        rows => format!(
            ", keeps {} out that do not fit its type",
            count(rows, "row")
        ),
    };
    let behind = match state {
        NodeState::Unclear => ", which is not known to be as far as the log was",
        NodeState::HasIt | NodeState::NotLive => "",
    };
    format!(
        "{} on {}: {word}{place}{behind}{kept_out}{why}",
        node.node, node.host
    )
}

/// Returns what a node says of the table, by the name that its application uses.
fn table_of<'n>(node: &'n LogNode, target: &Target) -> Option<&'n LogNodeTable> {
    let (schema, name) = target.names();
    let with_schema = format!("{schema}.{name}");
    let mut tables = node.tables.iter();
    tables.find(|table| table.table == name || table.table == with_schema)
}
