//! [`Question`]: what a node asks whoever writes the log, and the answers.
//!
//! ```text
//! (nothing)                                             ─→ 3.00c0ffee00c0ffee.3
//! {"transaction":"742.31337"}                           ─→ reached
//! {"verify":{"schema":"app","table":"users","ask":7}}   ─→ {"rows":2,"missing":0,"stale":1,…}
//! ```
//!
//! A comparison may take long, and a question or an answer may be lost. A node asks again with the
//! same number, which begins no further comparison.
//!
//! An empty answer says that nobody can tell now, and that the node should ask again.

use crate::log::{Position, TableName};
use crate::postgres::{ComparisonReport, Finding, FindingKind};
use crate::table_cache::{KeyBuf, TableShape};
use crate::transaction::TransactionToken;
use serde::{Deserialize, Serialize};

/// The answer to a question for a transaction that is in the relay's caches.
pub(super) const REACHED: &[u8] = b"reached";

/// A question of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// For the position of a proof that comes behind everything committed before the question.
    Fence,
    /// For a word once everything that a transaction has committed is in the relay's caches.
    Transaction(TransactionToken),
    /// For a comparison of the relay's cache of a table with the table.
    Verify {
        table: TableName,
        /// The number of the question, which the node has drawn.
        ask: u64,
    },
}

/// The members of a question in JSON.
#[derive(Serialize, Deserialize)]
struct WireQuestion {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<WireTable>,
}

#[derive(Serialize, Deserialize)]
struct WireTable {
    schema: String,
    table: String,
    ask: u64,
}

impl Question {
    /// Returns the message.
    pub(super) fn to_json(&self) -> String {
        let question = match self {
            Self::Fence => return String::new(),
            Self::Transaction(transaction) => WireQuestion {
                transaction: Some(transaction.to_string()),
                verify: None,
            },
            Self::Verify { table, ask } => WireQuestion {
                transaction: None,
                verify: Some(WireTable {
                    schema: table.schema.clone(),
                    table: table.name.clone(),
                    ask: *ask,
                }),
            },
        };
        // Texts alone: nothing can fail.
        serde_json::to_string(&question).unwrap_or_default()
    }

    /// Reads a message; `None` if it is no question that is known here.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        if message.is_empty() {
            return Some(Self::Fence);
        }
        let question: WireQuestion = serde_json::from_slice(message).ok()?;
        match (question.transaction, question.verify) {
            (Some(transaction), None) => transaction.parse().ok().map(Self::Transaction),
            (None, Some(WireTable { schema, table, ask })) => Some(Self::Verify {
                table: TableName {
                    schema,
                    name: table,
                },
                ask,
            }),
            _ => None,
        }
    }
}

/// The answer to [`Question::Verify`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RelayReport {
    /// Why the comparison proves nothing; `None` if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inconclusive: Option<String>,
    /// Whether there is no comparison now, and the node should ask again.
    #[serde(default)]
    pub(super) is_busy: bool,
    /// The term of the relay that has compared.
    #[serde(default)]
    pub(crate) term: Option<Position>,
    rows: usize,
    missing: usize,
    stale: usize,
    ghosts: usize,
    findings: Vec<RelayFinding>,
}

/// A row that differs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RelayFinding {
    kind: FindingKind,
    /// JSON.
    key: String,
}

impl RelayReport {
    /// The most rows that are named: an answer must fit into a message.
    const MOST: usize = 100;

    /// The most bytes of a key that is named.
    const LONGEST_KEY: usize = 1024;

    /// Makes the answer for a comparison in the term of `position`.
    pub(super) fn of(report: &ComparisonReport, position: Position) -> Self {
        let named = report
            .findings
            .iter()
            .filter(|finding| finding.key.len() <= Self::LONGEST_KEY);
        Self {
            inconclusive: None,
            is_busy: false,
            term: Some(position),
            rows: report.rows,
            missing: report.missing,
            stale: report.stale,
            ghosts: report.ghosts,
            findings: named
                .take(Self::MOST)
                .map(|finding| RelayFinding {
                    kind: finding.kind,
                    key: finding.key.clone(),
                })
                .collect(),
        }
    }

    /// Makes the answer for a comparison that proves nothing.
    pub(crate) fn inconclusive(why: String) -> Self {
        Self {
            inconclusive: Some(why),
            is_busy: false,
            term: None,
            rows: 0,
            missing: 0,
            stale: 0,
            ghosts: 0,
            findings: Vec::new(),
        }
    }

    /// Makes the answer that the node should ask again.
    pub(super) fn busy() -> Self {
        Self {
            is_busy: true,
            ..Self::inconclusive("the relay is busy".to_string())
        }
    }

    /// Returns whether the comparison was made by the relay that writes at `position`.
    pub(crate) fn is_of_term(&self, position: Option<Position>) -> bool {
        let terms = self.term.zip(position);
        terms.is_some_and(|(own, other)| own.epoch == other.epoch)
    }

    /// Returns the report for a node whose rows are those of the relay, and of which `kept_out` do
    /// not fit the node's model.
    pub(crate) fn for_node(&self, shape: &TableShape, kept_out: usize) -> ComparisonReport {
        let finding = |finding: &RelayFinding| {
            let mut key_cells = KeyBuf::default();
            key_cells.read_json(shape, &finding.key).ok()?;
            Some(Finding {
                kind: finding.kind,
                key: finding.key.clone(),
                key_cells,
                columns: Vec::new(),
            })
        };
        let mut report = ComparisonReport::default();
        report.rows = self.rows;
        report.missing = self.missing;
        report.stale = self.stale;
        report.ghosts = self.ghosts;
        report.kept_out = kept_out;
        report.findings = self.findings.iter().filter_map(finding).collect();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_back_from_their_messages() {
        let table = TableName {
            schema: "app".to_string(),
            name: "odd \"name\"".to_string(),
        };
        let token: TransactionToken = "742.31337".parse().expect("a token");
        for question in [
            Question::Fence,
            Question::Transaction(token),
            Question::Verify {
                table,
                ask: u64::MAX,
            },
        ] {
            let message = question.to_json();
            assert_eq!(Question::parse(message.as_bytes()), Some(question));
        }
        for message in ["x", "{}", r#"{"transaction":"x"}"#, r#"{"later":1}"#] {
            assert_eq!(Question::parse(message.as_bytes()), None, "{message}");
        }
    }
}
