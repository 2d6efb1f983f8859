//! The fleet's questions and answers: JSON in notifications, by which somebody learns of every node
//! at once what it has. `docs/fleet.md` in the repository is the protocol in full.
//!
//! ```text
//! asker ─ Question on pgic_control ─→ every node's L
//!       ←─ Answer on the channel that the question names ─ each node's F
//! ```
//!
//! Any role can send a question, and any role can listen. So an answer has digests and no values, a
//! node gives a bounded number of answers a second, and answers go to no channel but one that was
//! made for answers.

use crate::digest::{Digest, Ranges};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The channel of questions.
pub const CONTROL_CHANNEL: &str = "pgic_control";
/// The beginning of the channel of an answer. Without it, anybody could make nodes send their
/// answers on the channel of the caches, or on an application's own.
pub const REPLY_PREFIX: &str = "pgic_reply_";
/// The version of the protocol. Questions of another version are ignored.
pub const VERSION: u64 = 1;
/// The most bytes of a payload (manual, NOTIFY: shorter than 8000 bytes).
pub const LONGEST_PAYLOAD: usize = 7999;
/// The most characters of an id that a question gives.
const LONGEST_ID: usize = 64;

/// The table that a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRef {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub name: String,
    /// Oid of the table. A node that follows another table of this name does not answer.
    pub rel: u32,
}

/// The second question of a freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestQuestion {
    /// Table whose rows are asked for.
    pub table: TableRef,
    /// Id of the freeze, which the same session must have sent.
    pub freeze: String,
    /// Snapshot that was taken after the freeze, as `pg_current_snapshot()` writes it.
    pub snapshot: String,
    /// Salt of the digests.
    pub salt: Digest,
    /// Digest of the names of the columns that are compared.
    pub columns: Digest,
    /// Keys that are asked for.
    pub ranges: Ranges,
    /// Whether each row is listed, instead of one sum a range.
    pub lists: bool,
}

/// What a question asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Who are you, and how are you?
    Who,
    /// Do you have this row, and which?
    Row {
        /// Table of the row.
        table: TableRef,
        /// Key of the row, as JSON.
        key: String,
        /// Salt of the digest.
        salt: Digest,
    },
    /// Let the cache of this table stand still.
    Freeze {
        /// Table to freeze.
        table: TableRef,
    },
    /// What are the digests of the rows, as of this snapshot?
    Digest(Box<DigestQuestion>),
}

/// A question, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Id that the answer repeats.
    pub id: String,
    /// Channel of the answer; empty for a freeze, which has none.
    pub reply: String,
    /// What is asked.
    pub ask: Ask,
}

/// The fields of a question as serde reads them.
#[derive(Deserialize)]
struct Fields<'a> {
    pgic: u64,
    ask: String,
    id: String,
    #[serde(default)]
    reply: String,
    #[serde(default)]
    schema: String,
    #[serde(default)]
    table: String,
    #[serde(default)]
    rel: u32,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(default)]
    salt: String,
    #[serde(default)]
    columns: String,
    #[serde(default)]
    freeze: String,
    #[serde(default)]
    snapshot: String,
    #[serde(default)]
    bits: u32,
    #[serde(default)]
    prefixes: Vec<u64>,
    #[serde(default)]
    split: u32,
    #[serde(default)]
    list: bool,
}

impl Question {
    /// Reads a question. Returns `None` for everything else: another version, an unknown question,
    /// a channel that is not one for answers, ranges that do not fit into an answer.
    pub fn parse(payload: &str) -> Option<Self> {
        let fields: Fields<'_> = serde_json::from_str(payload).ok()?;
        if fields.pgic != VERSION || fields.id.is_empty() || fields.id.len() > LONGEST_ID {
            return None;
        }
        let table = TableRef {
            schema: fields.schema,
            name: fields.table,
            rel: fields.rel,
        };
        let ask = match fields.ask.as_str() {
            "who" => Ask::Who,
            "row" => Ask::Row {
                table,
                key: fields.key?.get().to_string(),
                salt: Digest::from_hex(&fields.salt)?,
            },
            "freeze" => Ask::Freeze { table },
            "digest" => Ask::Digest(Box::new(DigestQuestion {
                table,
                freeze: fields.freeze,
                snapshot: fields.snapshot,
                salt: Digest::from_hex(&fields.salt)?,
                columns: Digest::from_hex(&fields.columns)?,
                ranges: Some(Ranges {
                    bits: fields.bits,
                    prefixes: fields.prefixes,
                    split: fields.split,
                })
                .filter(Ranges::is_valid)?,
                lists: fields.list,
            })),
            _ => return None,
        };
        let needs_no_answer = matches!(ask, Ask::Freeze { .. });
        (needs_no_answer || is_reply_channel(&fields.reply)).then_some(Self {
            id: fields.id,
            reply: fields.reply,
            ask,
        })
    }

    /// Returns the payload of the question.
    pub fn to_payload(&self) -> String {
        let mut fields = Map::new();
        fields.insert("pgic".to_string(), VERSION.into());
        let mut put = |name: &str, value: Value| {
            fields.insert(name.to_string(), value);
        };
        let table = match &self.ask {
            Ask::Who => {
                put("ask", "who".into());
                None
            }
            Ask::Row { table, key, salt } => {
                put("ask", "row".into());
                put("key", serde_json::from_str(key).unwrap_or_default());
                put("salt", salt.to_string().into());
                Some(table)
            }
            Ask::Freeze { table } => {
                put("ask", "freeze".into());
                Some(table)
            }
            Ask::Digest(question) => {
                put("ask", "digest".into());
                put("freeze", question.freeze.clone().into());
                put("snapshot", question.snapshot.clone().into());
                put("salt", question.salt.to_string().into());
                put("columns", question.columns.to_string().into());
                put("bits", question.ranges.bits.into());
                put("prefixes", question.ranges.prefixes.clone().into());
                put("split", question.ranges.split.into());
                put("list", question.lists.into());
                Some(&question.table)
            }
        };
        if let Some(TableRef { schema, name, rel }) = table {
            put("schema", schema.clone().into());
            put("table", name.clone().into());
            put("rel", (*rel).into());
        }
        put("id", self.id.clone().into());
        if !self.reply.is_empty() {
            put("reply", self.reply.clone().into());
        }
        Value::Object(fields).to_string()
    }
}

/// Returns whether answers may be sent on a channel.
fn is_reply_channel(channel: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    channel.starts_with(REPLY_PREFIX) && channel.len() < 64 && channel.bytes().all(is_plain)
}

/// The node that answers, as each of its answers says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeId {
    /// Name that the application gave its replica, or the program's.
    pub name: String,
    /// Name of the machine, as the machine has it.
    #[serde(default)]
    pub host: String,
    /// The node's process on its machine.
    #[serde(default)]
    pub pid: u32,
    /// The server's process of the session that LISTENs.
    pub listener: i32,
}

impl NodeId {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "host": self.host,
            "pid": self.pid,
            "listener": self.listener,
        })
    }
}

/// Makes the payload of an answer. `fields` are those behind the head that every answer has.
///
/// Returns `None` if the payload is too long for a notification.
pub fn answer(kind: &str, id: &str, node: &NodeId, fields: Map<String, Value>) -> Option<String> {
    let mut answer = Map::new();
    answer.insert("pgic".to_string(), VERSION.into());
    answer.insert("answer".to_string(), kind.into());
    answer.insert("id".to_string(), id.into());
    answer.insert("node".to_string(), node.to_json());
    answer.extend(fields);
    let payload = Value::Object(answer).to_string();
    (payload.len() <= LONGEST_PAYLOAD).then_some(payload)
}

/// An answer as its head says; the other fields depend on the question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The kind of question that is answered.
    pub kind: String,
    /// Id of the question.
    pub id: String,
    /// The node, by its own words.
    pub node: NodeId,
    /// Every field.
    pub fields: Map<String, Value>,
}

impl Answer {
    /// Reads an answer. Returns `None` for everything else.
    pub fn parse(payload: &str) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_str(payload).ok()?;
        if fields.get("pgic")?.as_u64()? != VERSION {
            return None;
        }
        Some(Self {
            kind: fields.get("answer")?.as_str()?.to_string(),
            id: fields.get("id")?.as_str()?.to_string(),
            node: NodeId::deserialize(fields.get("node")?).ok()?,
            fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableRef {
        TableRef {
            schema: "public".to_string(),
            name: "Odd \"Name\"".to_string(),
            rel: 16_384,
        }
    }

    #[test]
    fn questions_are_read_as_they_were_written() {
        let salt = Digest::of_number(7);
        let asks = [
            Ask::Who,
            Ask::Row {
                table: table(),
                key: r#"[1,"é"]"#.to_string(),
                salt,
            },
            Ask::Freeze { table: table() },
            Ask::Digest(Box::new(DigestQuestion {
                table: table(),
                freeze: "f".to_string(),
                snapshot: "10:20:15".to_string(),
                salt,
                columns: Digest::of_number(8),
                ranges: Ranges {
                    bits: 6,
                    prefixes: vec![1, 63],
                    split: 5,
                },
                lists: true,
            })),
        ];
        for ask in asks {
            let question = Question {
                id: "1".to_string(),
                reply: "pgic_reply_1".to_string(),
                ask,
            };
            assert_eq!(Question::parse(&question.to_payload()), Some(question));
        }
    }

    // Any role can send these.
    #[test]
    fn what_is_no_question_is_ignored() {
        for payload in [
            "",
            "{",
            "[]",
            r#"{"pgic":2,"ask":"who","id":"1","reply":"pgic_reply_1"}"#,
            r#"{"pgic":1,"ask":"dance","id":"1","reply":"pgic_reply_1"}"#,
            r#"{"pgic":1,"ask":"who","id":"","reply":"pgic_reply_1"}"#,
            r#"{"pgic":1,"ask":"who","id":"1"}"#,
            r#"{"pgic":1,"ask":"who","id":"1","reply":"cache_invalidation"}"#,
            r#"{"pgic":1,"ask":"who","id":"1","reply":"pgic_reply_\"; DROP"}"#,
            r#"{"pgic":1,"ask":"row","id":"1","reply":"pgic_reply_1","table":"a","key":1}"#,
            concat!(
                r#"{"pgic":1,"ask":"digest","id":"1","reply":"pgic_reply_1","table":"a","#,
                r#""salt":"00000000000000000000000000000000","#,
                r#""columns":"00000000000000000000000000000000","prefixes":[0],"split":40}"#
            ),
        ] {
            assert_eq!(Question::parse(payload), None, "{payload}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_into_a_notification_is_none() {
        let node = NodeId {
            name: "web-1".to_string(),
            host: "h".to_string(),
            pid: 1,
            listener: 2,
        };
        let fields = |length: usize| {
            let mut fields = Map::new();
            fields.insert("why".to_string(), "x".repeat(length).into());
            fields
        };
        let payload = answer("who", "1", &node, fields(100)).expect("it fits");
        let read = Answer::parse(&payload).expect("an answer");
        assert_eq!((read.node, read.kind.as_str()), (node.clone(), "who"));
        assert_eq!(answer("who", "1", &node, fields(8000)), None);
    }
}
