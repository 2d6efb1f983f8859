//! [`LogNode`]: what a node says of itself to whoever calls the roll of a log's nodes.
//!
//! ```text
//! pgic nodes ─ pgic.shop.nodes ─────────────→ every node
//!     ▲                                           │
//!     └── pgic.shop.node.<instance>: a LogNode ───┘
//! ```
//!
//! An answer has states and counts, and no values. Nothing is sent unless somebody asks.

use super::error::LogError;
use super::stream::NatsLog;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The most nodes that are listened to: anybody who may publish can make some up.
const MOST_NODES: usize = 10_000;

/// The most bytes of answers that are kept.
const MOST_BYTES: usize = 64 << 20;

/// The longest answer that is read, in bytes.
const LONGEST: usize = 256 << 10;

/// A node of a log, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNode {
    /// The node's name.
    pub node: String,
    /// The machine.
    pub host: String,
    /// Tells this node of this process from all others: 16 hexadecimal digits.
    pub instance: String,
    /// The version of the library.
    pub version: String,
    /// `live`, `degraded`, `loading` or `stale`.
    pub state: String,
    /// Why the node is not live; `None` if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The position of the log that the rows are as of; `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The tables that the node follows.
    pub tables: Vec<LogNodeTable>,
}

/// A table of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNodeTable {
    /// The table, as the application names it.
    pub table: String,
    /// `live`, `degraded`, `loading` or `stale`.
    pub state: String,
    /// The number of rows in the cache.
    pub rows: u64,
    /// The bytes that the cache takes.
    pub memory: u64,
    /// The number of rows that do not fit the application's type and are kept out.
    pub kept_out: u64,
}

impl NatsLog {
    /// Calls the roll: returns the nodes that answer in time, by their instances, each with the time
    /// that the answer took. A node that is busy or gone is not there.
    ///
    /// # Errors
    /// If NATS does not take the question.
    pub async fn call_roll(
        &self,
        patience: Duration,
    ) -> Result<Vec<(LogNode, Duration)>, LogError> {
        let subject = self.name().roll_answers();
        let tried = format!("subscribe to {subject}");
        let listening = self.client().subscribe(subject).await;
        let mut answers = listening.map_err(LogError::tried(tried))?;
        let subject = self.name().roll();
        let tried = || format!("publish on {subject}");
        let asked = self.client().publish(subject.clone(), Bytes::new()).await;
        asked.map_err(LogError::tried(tried()))?;
        // A question that has not gone out is not one that nobody answers.
        let flushed = tokio::time::timeout(patience, self.client().flush()).await;
        let flushed = flushed.map_err(LogError::tried(tried()))?;
        flushed.map_err(LogError::tried(tried()))?;
        let asked_at = Instant::now();
        let mut nodes = BTreeMap::new();
        let mut bytes = 0;
        let collect = async {
            while let Some(answer) = answers.next().await {
                if answer.payload.len() > LONGEST {
                    continue;
                }
                let Ok(node) = serde_json::from_slice::<LogNode>(&answer.payload) else {
                    continue;
                };
                let took = asked_at.elapsed();
                let before = nodes.len();
                nodes.entry(node.instance.clone()).or_insert((node, took));
                if nodes.len() > before {
                    bytes += answer.payload.len();
                }
                if nodes.len() >= MOST_NODES || bytes >= MOST_BYTES {
                    return;
                }
            }
        };
        // The time is over when everybody has had theirs.
        let _ = tokio::time::timeout(patience, collect).await;
        Ok(nodes.into_values().collect())
    }

    /// Listens for whoever calls the roll.
    pub(crate) async fn roll_calls(&self) -> Result<async_nats::Subscriber, LogError> {
        let subject = self.name().roll();
        let tried = format!("subscribe to {subject}");
        let listening = self.client().subscribe(subject).await;
        listening.map_err(LogError::tried(tried))
    }

    /// Answers whoever has called the roll.
    pub(crate) async fn answer_roll(&self, node: &LogNode) {
        // Texts and numbers: nothing can fail.
        let answer = serde_json::to_vec(node).unwrap_or_default();
        let subject = self.name().roll_answer(&node.instance);
        if let Err(error) = self.client().publish(subject, answer.into()).await {
            tracing::debug!(%error, "the roll was not answered");
        }
    }
}
