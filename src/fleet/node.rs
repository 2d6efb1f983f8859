//! [`Node`]: a node by its own answer and by the server's sessions. [`Roster`]: all of them.

use super::sessions::{SessionSeen, Sessions, Trust};
use super::{Fleet, Heard};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::fleet::{Ask, TableRef};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// A table of a node, in the node's own words.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct NodeTable {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The table's oid.
    pub rel: u32,
    /// The number of rows in the cache.
    pub rows: Option<u64>,
    /// How far the cache is.
    pub state: String,
    /// When it came to be in that state, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Why it is not live.
    pub why: Option<String>,
    /// How often the table was read.
    pub reads: Option<u64>,
    /// How many changes were followed.
    pub changes: Option<u64>,
    /// How many rows do not fit the application's type.
    pub quarantined: Option<u64>,
}

/// The fields of a node's answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Fields {
    version: Option<String>,
    state: String,
    since_ms: Option<i64>,
    lag_us: Option<u64>,
    last_xid: Option<u64>,
    gaps: Option<u64>,
    reloads: Option<u64>,
    memory: Option<u64>,
    unanswered: Option<u64>,
    more_tables: Option<u64>,
    tables: Vec<NodeTable>,
}

/// A node that has answered.
#[derive(Debug, Clone)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The machine, in the node's own words.
    pub host: String,
    /// The process on that machine.
    pub pid: u32,
    /// The server's process of the session that listens.
    pub listener: i32,
    /// That session, as the server has it.
    pub session: Option<SessionSeen>,
    /// The library and its version.
    pub version: Option<String>,
    /// The state of its worst table.
    pub state: String,
    /// When it was started.
    pub since: Option<Timestamp>,
    /// How long its last fence took.
    pub lag: Option<Duration>,
    /// The highest transaction that was announced to it.
    pub last_xid: Option<u64>,
    /// How often its connections were lost.
    pub gaps: Option<u64>,
    /// How often a table was to be reloaded.
    pub reloads: Option<u64>,
    /// The bytes that its caches take.
    pub memory: Option<u64>,
    /// The questions that it did not answer.
    pub unanswered: Option<u64>,
    /// The tables that did not fit into the answer.
    pub more_tables: u64,
    /// Its tables.
    pub tables: Vec<NodeTable>,
    /// The time from the question to the answer.
    pub after: Duration,
    /// Why the answer is not believed; `None` if it is.
    pub forged: Option<String>,
    /// The server's process that sent the answer.
    pub sender: i32,
}

impl Node {
    /// Returns the node of an answer; `None` if the answer is none about a node.
    fn new(heard: &Heard, sessions: &Sessions) -> Option<Self> {
        let fields = serde_json::Value::Object(heard.answer.fields.clone());
        let fields = Fields::deserialize(fields).ok()?;
        let node = &heard.answer.node;
        Some(Self {
            name: node.name.clone(),
            host: node.host.clone(),
            pid: node.pid,
            listener: node.listener,
            session: sessions.get(node.listener).cloned(),
            version: fields.version,
            state: fields.state,
            since: fields.since_ms.and_then(time),
            lag: fields.lag_us.map(Duration::from_micros),
            last_xid: fields.last_xid,
            gaps: fields.gaps,
            reloads: fields.reloads,
            memory: fields.memory,
            unanswered: fields.unanswered,
            more_tables: fields.more_tables.unwrap_or_default(),
            tables: fields.tables,
            after: heard.after,
            forged: match sessions.trust(heard) {
                Trust::Likely => None,
                Trust::Forged(why) => Some(why),
            },
            sender: heard.sender,
        })
    }

    /// Returns whether the node says that every table is live.
    pub fn is_live(&self) -> bool {
        self.state == "live"
    }

    /// Returns the node's table that a question means.
    pub fn table(&self, table: &TableRef) -> Option<&NodeTable> {
        self.tables.iter().find(|own| own.rel == table.rel)
    }

    /// Returns the name of the node for a list of findings: name, and machine if it is known.
    pub fn label(&self) -> String {
        label(&self.name, &self.host, self.pid)
    }

    /// Returns the address of the node: the server's, else the node's own word for its machine.
    pub fn address(&self) -> &str {
        let seen = self
            .session
            .as_ref()
            .and_then(|seen| seen.address.as_deref());
        match seen {
            Some("local") | None if !self.host.is_empty() => &self.host,
            Some(address) => address,
            None => "?",
        }
    }

    /// Returns the number of rows of all tables.
    pub fn rows(&self) -> u64 {
        // Saturating: the numbers are what somebody has sent.
        let rows = self.tables.iter().filter_map(|table| table.rows);
        rows.fold(0, u64::saturating_add)
    }

    /// Returns the number of rows of all tables that do not fit the application's type.
    pub fn quarantined(&self) -> u64 {
        let rows = self.tables.iter().filter_map(|table| table.quarantined);
        rows.fold(0, u64::saturating_add)
    }

    /// Returns since when the node is in its state: the latest change of its tables.
    pub fn state_since(&self) -> Option<Timestamp> {
        let worst = self.tables.iter().filter(|table| table.state == self.state);
        worst
            .filter_map(|table| table.since_ms)
            .max()
            .and_then(time)
    }
}

/// Returns the name of a node: `web-1 (host 4711)`.
pub fn label(name: &str, host: &str, pid: u32) -> String {
    if host.is_empty() {
        name.to_string()
    } else {
        format!("{name} ({host} {pid})")
    }
}

/// Returns a time given in milliseconds since 1970.
pub fn time(millis: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis).ok()
}

/// The nodes that have answered, and the sessions that listen and have not.
#[derive(Debug, Default)]
pub struct Roster {
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// The answers that are not believed.
    pub forged: Vec<Node>,
    /// The sessions of nodes that did not answer.
    pub silent: Vec<SessionSeen>,
    /// Other sessions that listen.
    pub others: Vec<SessionSeen>,
    /// Sessions that hold the nodes' lock exclusively, so that nodes which start meanwhile cannot
    /// be told from other sessions.
    pub hiding: Vec<SessionSeen>,
}

impl Roster {
    /// Asks every node who it is, and waits for `patience` for those that do not answer.
    ///
    /// # Errors
    /// If the question cannot be sent, or the sessions cannot be looked at.
    pub async fn call(fleet: &mut Fleet, patience: Duration) -> anyhow::Result<Self> {
        let expected = fleet.sessions().await?.nodes();
        // Without a node that is known, somebody may answer all the same: a node that could not
        // take the lock. That is worth a moment.
        let patience = if expected.is_empty() {
            patience.min(Duration::from_millis(300))
        } else {
            patience
        };
        let heard = fleet.ask(Ask::Who, &expected, patience).await?;
        let sessions = fleet.sessions().await?;
        let mut roster = Self::of(&heard, &sessions);
        roster.doubt_unprivileged(fleet).await?;
        Ok(roster)
    }

    /// Doubts the nodes that claim to have rows which their roles may not read: anybody can answer
    /// for a session of their own.
    async fn doubt_unprivileged(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        let mut claims = BTreeSet::new();
        for node in &self.nodes {
            let user = node.session.as_ref().map(|session| session.user.clone());
            for table in node.tables.iter().filter(|table| table.state == "live") {
                claims.extend(user.clone().map(|user| (user, table.rel)));
            }
        }
        let unreadable = fleet.unreadable(&claims).await?;
        let (doubted, nodes) = std::mem::take(&mut self.nodes)
            .into_iter()
            .partition::<Vec<Node>, _>(|node| {
                let user = node.session.as_ref().map(|session| session.user.clone());
                user.is_some_and(|user| {
                    let mut tables = node.tables.iter().filter(|table| table.state == "live");
                    tables.any(|table| unreadable.contains(&(user.clone(), table.rel)))
                })
            });
        self.nodes = nodes;
        for mut node in doubted {
            let user = node.session.as_ref().map_or("?", |session| &session.user);
            node.forged = Some(format!(
                "it claims to have rows that its role {user} may not read (process {})",
                node.sender
            ));
            self.forged.push(node);
        }
        Ok(())
    }

    fn of(heard: &[Heard], sessions: &Sessions) -> Self {
        let mut roster = Self::default();
        let mut answered = BTreeSet::new();
        for heard in heard {
            let Some(node) = Node::new(heard, sessions) else {
                continue;
            };
            // The first answer of a listener counts: a second one is no node's own.
            if node.forged.is_none() && answered.insert(node.listener) {
                roster.nodes.push(node);
            } else {
                roster.forged.push(node);
            }
        }
        for session in sessions.listeners() {
            if answered.contains(&session.pid) {
                continue;
            }
            if session.is_node {
                roster.silent.push(session.clone());
            } else {
                roster.others.push(session.clone());
            }
        }
        roster.hiding = sessions.hiding().cloned().collect();
        roster
            .nodes
            .sort_by(|left, right| (&left.name, left.listener).cmp(&(&right.name, right.listener)));
        roster
    }

    /// Returns whether every node that is there has answered, and is live.
    pub fn is_live(&self) -> bool {
        let is_complete = self.silent.is_empty() && self.hiding.is_empty();
        !self.nodes.is_empty() && is_complete && self.nodes.iter().all(Node::is_live)
    }

    /// Returns the listening processes of the nodes that have answered.
    pub fn listeners(&self) -> BTreeSet<i32> {
        self.nodes.iter().map(|node| node.listener).collect()
    }

    /// Returns the listening processes of the nodes that have a table.
    pub fn with_table(&self, table: &TableRef) -> BTreeSet<i32> {
        let nodes = self.nodes.iter();
        let nodes = nodes.filter(|node| node.table(table).is_some() || node.more_tables > 0);
        nodes.map(|node| node.listener).collect()
    }

    /// Returns the node that listens in a process of the server.
    pub fn node(&self, listener: i32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.listener == listener)
    }
}
