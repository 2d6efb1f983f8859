//! [`ask_for_row`]: what every node has of one row, compared with the table.

use super::cut::table_ref;
use super::node::time;
use super::sessions::Trust;
use super::{Fleet, Heard, new_salt};
use crate::tables::row::RowNow;
use crate::tables::target::Target;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::fleet::Ask;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a node's row compares with the table's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Has {
    /// It has the row as it is, or rightly has none.
    Current,
    /// It does not, for this reason.
    Not(String),
    /// It did not answer.
    Silent,
}

/// A node's answer about a row.
#[derive(Debug, Clone)]
pub struct RowAnswer {
    /// How the row compares.
    pub has: Has,
    /// How the row came to the node: snapshot, notification or refetch.
    pub by: Option<String>,
    /// The transaction that brought it.
    pub xid: Option<u64>,
    /// When it came.
    pub at: Option<Timestamp>,
    /// The time from the question to the answer.
    pub after: Option<Duration>,
}

impl RowAnswer {
    /// Returns how the row came, in words; empty if the node did not say.
    pub fn came(&self, clock: impl Fn(Timestamp) -> String) -> String {
        let Some(by) = self.by.as_deref().filter(|by| *by != "unknown") else {
            return String::new();
        };
        let at = self.at.map(|at| format!(" at {}", clock(at)));
        let xid = self.xid.map(|xid| format!(" of transaction {xid}"));
        format!(
            "by {by}{}{}",
            xid.unwrap_or_default(),
            at.unwrap_or_default()
        )
    }
}

/// Asks the nodes for a row, which is `row` in the table.
///
/// # Errors
/// If the question cannot be sent.
pub async fn ask_for_row(
    fleet: &mut Fleet,
    target: &Target,
    key: &str,
    row: &RowNow,
    nodes: &BTreeSet<i32>,
    patience: Duration,
) -> anyhow::Result<BTreeMap<i32, RowAnswer>> {
    let mut answers: BTreeMap<i32, RowAnswer> = nodes
        .iter()
        .map(|node| {
            let silent = RowAnswer {
                has: Has::Silent,
                by: None,
                xid: None,
                at: None,
                after: None,
            };
            (*node, silent)
        })
        .collect();
    if nodes.is_empty() {
        return Ok(answers);
    }
    let salt = new_salt();
    let question = Ask::Row {
        table: table_ref(target),
        key: key.to_string(),
        salt,
    };
    let expected = row.salted(salt).map(|digest| digest.to_string());
    let columns = row.columns.to_string();
    let heard = fleet.ask(question, nodes, patience).await?;
    let sessions = fleet.sessions().await?;
    for heard in &heard {
        let own = answers.get_mut(&heard.answer.node.listener);
        if let Some(own) = own
            && own.has == Has::Silent
            && sessions.trust(heard) == Trust::Likely
        {
            *own = read(heard, expected.as_deref(), &columns);
        }
    }
    Ok(answers)
}

/// Reads an answer. `expected` is the salted digest of the table's row, if there is one.
fn read(heard: &Heard, expected: Option<&str>, columns: &str) -> RowAnswer {
    let fields = &heard.answer.fields;
    let text = |name: &str| fields.get(name).and_then(|value| value.as_str());
    let flag = |name: &str| fields.get(name).and_then(serde_json::Value::as_bool);
    let reason = if flag("quarantined") == Some(true) {
        Some("the row does not fit the node's type, and is kept out")
    } else if flag("open") == Some(true) {
        Some("it is still reading the row")
    } else if text("columns").is_some_and(|own| own != columns) {
        Some("it keeps other columns than the trigger sends")
    } else if text("digest") == expected {
        None
    } else {
        Some(match (flag("has"), expected) {
            (Some(false), _) => "it does not have the row",
            (_, None) => "it has a row that the table does not have",
            (_, Some(_)) => "it has another version of the row",
        })
    };
    let state = text("state").filter(|state| *state != "live");
    let at = fields.get("at_ms").and_then(serde_json::Value::as_i64);
    RowAnswer {
        has: match (reason, state) {
            (None, _) => Has::Current,
            (Some(reason), None) => Has::Not(reason.to_string()),
            (Some(reason), Some(state)) => Has::Not(format!("{reason}; its table is {state}")),
        },
        by: text("by").map(str::to_string),
        xid: fields.get("xid").and_then(serde_json::Value::as_u64),
        at: at.and_then(time),
        after: Some(heard.after),
    }
}
