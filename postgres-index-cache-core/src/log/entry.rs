//! [`Entry`]: one message of a log, and the JSON in which it is sent.
//!
//! ```json
//! {"position":"3.00c0ffee00c0ffee.1","behind":"2.0badcafe0badcafe.92","kind":"begin",
//!     "after":"2.0badcafe0badcafe.91","writer":"relay-1"}
//! {"position":"3.00c0ffee00c0ffee.2","behind":"3.00c0ffee00c0ffee.1","kind":"rows",
//!     "schema":"app","table":"users","ops":[
//!     {"action":"upsert","id":7,"data":{"id":7,"j":null},"nulls":["j"]},
//!     {"action":"replace","old_id":8,"id":9,"data":{"id":9,"j":[]}},
//!     {"action":"remove","id":5},
//!     {"action":"clear","spared":[7]}]}
//! {"position":"3.00c0ffee00c0ffee.3","behind":"3.00c0ffee00c0ffee.2","kind":"proof","tables":[
//!     {"schema":"app","table":"users","rows":1,"digest":"000102030405060708090a0b0c0d0e0f"}],
//!     "asked_at":1764332938000000}
//! {"position":"3.00c0ffee00c0ffee.4","behind":"3.00c0ffee00c0ffee.3","kind":"stale",
//!     "why":"the listening connection was closed"}
//! {"position":"3.00c0ffee00c0ffee.5","behind":"3.00c0ffee00c0ffee.4","kind":"part",
//!     "schema":"app","table":"users","part":0,"of":2,"text":"[{\"action\":\"remove\","}
//! {"position":"3.00c0ffee00c0ffee.6","behind":"3.00c0ffee00c0ffee.5","kind":"part",
//!     "schema":"app","table":"users","part":1,"of":2,"text":"\"id\":5}]"}
//! ```
//!
//! `behind` is the entry that the log ended with when this one was appended. `after` is the entry
//! whose rows a term builds upon: entries that nobody takes may stand between the two.
//!
//! A proof may have `asked_at`: when its fence was asked for, in microseconds since 1970 by the
//! writer's clock.
//!
//! Changes that are too long for one message come in parts: the texts one behind the other are the
//! `ops` of a `rows`. They count once the last part is there. A reader that has not seen the first
//! part has a snapshot that was begun behind that part, and whose rows have the changes. Such a
//! reader passes over the other parts.
//!
//! Keys and rows are the JSON that a payload has (`docs/payload.md`), digit by digit. `nulls` names
//! the members that are SQL NULL, as opposed to the JSON value `null`.

use super::position::Position;
use crate::digest::{Digest, RangeSum};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The most bytes of changes of rows, or of a row of a snapshot, as JSON: a reader has them in
/// memory as a whole.
pub const LONGEST_CHANGES: usize = 256 << 20;

/// One message of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the entry.
    pub position: Position,
    /// Name of the entry in front of this one, whoever wrote that; `None` if this is the log's
    /// first.
    pub behind: Option<Position>,
    /// Message of the writer.
    pub body: Body,
}

/// The message of an entry, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The first entry of a term.
    Begin {
        /// The position whose rows the term builds upon. With `None` the term builds upon a
        /// snapshot of its own, and all rows of earlier terms are void.
        after: Option<Position>,
        /// Who writes, for people.
        writer: String,
    },
    /// Changes of the rows of one table.
    Rows(RowChanges),
    /// A part of the changes of rows of one table, which were too long for one entry.
    Part(Part),
    /// Everything that was committed before a fence of the writer is at or before this entry.
    Proof(Proof),
    /// From here to the next proof nothing is known of PostgreSQL.
    Stale {
        /// Reason, for people.
        why: String,
    },
}

/// A table's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table, without the schema.
    pub name: String,
}

/// Changes of the rows of one table, in order. A reader shows all of them or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChanges {
    /// Table of the rows.
    pub table: TableName,
    /// Operations, in order.
    pub ops: Vec<RowOp>,
}

/// A part of [`RowChanges`]. All parts stand one behind the other in their term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Table of the rows.
    pub table: TableName,
    /// Number of the part, from 0.
    pub number: u32,
    /// Number of all parts.
    pub count: u32,
    /// Piece of the JSON of the operations.
    pub text: String,
}

/// A change of one row, or of all. Each operation has the row's state after the change, so that one
/// which is carried out twice does no harm. Keys are JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOp {
    /// There is a row with this key.
    Upsert {
        /// Key of the row.
        id: String,
        /// Row after the change.
        row: JsonRow,
    },
    /// A row has got another key. No row has the former one any more.
    Replace {
        /// Former key of the row.
        old_id: String,
        /// Key of the row.
        id: String,
        /// Row after the change.
        row: JsonRow,
    },
    /// There is no row with this key.
    Remove {
        /// Key that no row has.
        id: String,
    },
    /// There are no rows.
    Clear {
        /// Keys of rows that are left all the same.
        spared: Vec<String>,
    },
}

/// A row as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonRow {
    /// The row: an object with a member for each column.
    pub data: String,
    /// The members that are SQL NULL, as opposed to the JSON value `null`.
    pub nulls: Vec<String>,
}

/// The claim that the log has everything that was committed before a fence, and how to check that
/// a reader's rows are the writer's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// The rows of each table, in the order of their names.
    pub tables: Vec<TableProof>,
    /// When the fence was asked for, in microseconds since 1970 by the writer's clock; `None` if
    /// the writer does not say.
    pub asked_at: Option<u64>,
}

/// The rows of one table: their number, and the sum of their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableProof {
    /// Table of the rows.
    pub table: TableName,
    /// Number of the rows, and the sum of their digests.
    pub rows: RangeSum,
}

/// A message that is no entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The message is no JSON, or members are missing or of another type.
    #[error("the message is no entry of a log")]
    Malformed(#[source] serde_json::Error),
    /// A member that the entry's kind or action needs is missing.
    #[error("the entry lacks \"{0}\"")]
    Lacks(&'static str),
}

/// The kinds of entries, as JSON names them.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Begin,
    Rows,
    Part,
    Proof,
    Stale,
}

/// An entry's members in JSON. Serde's tagged enums would lose the digits of numbers: they read the
/// members into values of their own first.
#[derive(Serialize, Deserialize)]
struct WireEntry<'a> {
    position: Position,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<Position>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    ops: Option<Vec<WireOp<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tables: Option<Vec<WireProof>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The kinds of operations, as JSON names them.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Upsert,
    Replace,
    Remove,
    Clear,
}

/// An operation's members in JSON.
#[derive(Serialize, Deserialize)]
struct WireOp<'a> {
    action: Action,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    old_id: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nulls: Vec<String>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    spared: Option<Vec<&'a RawValue>>,
}

/// The part of a proof for one table, in JSON.
#[derive(Serialize, Deserialize)]
struct WireProof {
    schema: String,
    table: String,
    rows: u64,
    digest: String,
}

impl Entry {
    /// Returns the entry as JSON.
    ///
    /// # Errors
    /// If a key or a row is not JSON.
    pub fn to_json(&self) -> Result<String, EntryError> {
        let mut wire = WireEntry::new(self, Kind::Stale);
        match &self.body {
            Body::Begin { after, writer } => {
                wire.kind = Kind::Begin;
                wire.after = *after;
                wire.writer = Some(writer.clone());
            }
            Body::Rows(changes) => {
                wire.kind = Kind::Rows;
                wire.schema = Some(changes.table.schema.clone());
                wire.table = Some(changes.table.name.clone());
                let ops = changes.ops.iter().map(RowOp::to_wire);
                wire.ops = Some(ops.collect::<Result<_, _>>()?);
            }
            Body::Part(part) => {
                wire.kind = Kind::Part;
                wire.schema = Some(part.table.schema.clone());
                wire.table = Some(part.table.name.clone());
                wire.part = Some(part.number);
                wire.of = Some(part.count);
                wire.text = Some(part.text.clone());
            }
            Body::Proof(proof) => {
                wire.kind = Kind::Proof;
                wire.tables = Some(proof.tables.iter().map(TableProof::to_wire).collect());
                wire.asked_at = proof.asked_at;
            }
            Body::Stale { why } => wire.why = Some(why.clone()),
        }
        serde_json::to_string(&wire).map_err(EntryError::Malformed)
    }

    /// Reads an entry. Members that are not known are ignored.
    ///
    /// # Errors
    /// If the text is no entry of a kind that is known here.
    pub fn from_json(text: &str) -> Result<Self, EntryError> {
        let wire: WireEntry = serde_json::from_str(text).map_err(EntryError::Malformed)?;
        let body = match wire.kind {
            Kind::Begin => Body::Begin {
                after: wire.after,
                writer: wire.writer.ok_or(EntryError::Lacks("writer"))?,
            },
            Kind::Rows => {
                let ops = wire.ops.ok_or(EntryError::Lacks("ops"))?;
                Body::Rows(RowChanges {
                    table: table_name(wire.schema, wire.table)?,
                    ops: ops
                        .into_iter()
                        .map(RowOp::of_wire)
                        .collect::<Result<_, _>>()?,
                })
            }
            Kind::Part => Body::Part(Part {
                table: table_name(wire.schema, wire.table)?,
                number: wire.part.ok_or(EntryError::Lacks("part"))?,
                count: wire.of.ok_or(EntryError::Lacks("of"))?,
                text: wire.text.ok_or(EntryError::Lacks("text"))?,
            }),
            Kind::Proof => {
                let tables = wire.tables.ok_or(EntryError::Lacks("tables"))?;
                let tables = tables.into_iter().map(TableProof::of_wire);
                Body::Proof(Proof {
                    tables: tables.collect::<Result<_, _>>()?,
                    asked_at: wire.asked_at,
                })
            }
            Kind::Stale => Body::Stale {
                why: wire.why.ok_or(EntryError::Lacks("why"))?,
            },
        };
        Ok(Self {
            position: wire.position,
            behind: wire.behind,
            body,
        })
    }
}

impl WireEntry<'_> {
    /// Returns an entry without the members that are of one kind alone.
    fn new(entry: &Entry, kind: Kind) -> Self {
        Self {
            position: entry.position,
            behind: entry.behind,
            kind,
            after: None,
            writer: None,
            schema: None,
            table: None,
            ops: None,
            part: None,
            of: None,
            text: None,
            tables: None,
            asked_at: None,
            why: None,
        }
    }
}

/// Returns the name of a table, both parts of which must be there.
fn table_name(schema: Option<String>, name: Option<String>) -> Result<TableName, EntryError> {
    Ok(TableName {
        schema: schema.ok_or(EntryError::Lacks("schema"))?,
        name: name.ok_or(EntryError::Lacks("table"))?,
    })
}

impl RowChanges {
    /// Returns the operations as JSON.
    ///
    /// # Errors
    /// If a key or a row is not JSON.
    pub(super) fn ops_json(&self) -> Result<String, EntryError> {
        let ops = self.ops.iter().map(RowOp::to_wire);
        let ops = ops.collect::<Result<Vec<_>, _>>()?;
        serde_json::to_string(&ops).map_err(EntryError::Malformed)
    }

    /// Reads the operations of a table from JSON.
    ///
    /// # Errors
    /// If the text is no list of operations.
    pub(super) fn from_ops_json(table: TableName, text: &str) -> Result<Self, EntryError> {
        let ops: Vec<WireOp<'_>> = serde_json::from_str(text).map_err(EntryError::Malformed)?;
        let ops = ops.into_iter().map(RowOp::of_wire);
        Ok(Self {
            table,
            ops: ops.collect::<Result<_, _>>()?,
        })
    }
}

/// Returns a text of JSON as a value that serde copies as it is.
fn raw(json: &str) -> Result<&RawValue, EntryError> {
    serde_json::from_str(json).map_err(EntryError::Malformed)
}

/// Returns the text of a member that must be there.
fn text(member: Option<&RawValue>, name: &'static str) -> Result<String, EntryError> {
    let member = member.ok_or(EntryError::Lacks(name))?;
    Ok(member.get().to_string())
}

impl RowOp {
    fn to_wire(&self) -> Result<WireOp<'_>, EntryError> {
        let mut wire = WireOp {
            action: Action::Clear,
            old_id: None,
            id: None,
            data: None,
            nulls: Vec::new(),
            spared: None,
        };
        match self {
            Self::Upsert { id, row } => {
                wire.action = Action::Upsert;
                wire.id = Some(raw(id)?);
                wire.set_row(row)?;
            }
            Self::Replace { old_id, id, row } => {
                wire.action = Action::Replace;
                wire.old_id = Some(raw(old_id)?);
                wire.id = Some(raw(id)?);
                wire.set_row(row)?;
            }
            Self::Remove { id } => {
                wire.action = Action::Remove;
                wire.id = Some(raw(id)?);
            }
            Self::Clear { spared } => {
                let spared = spared.iter().map(|id| raw(id));
                wire.spared = Some(spared.collect::<Result<_, _>>()?);
            }
        }
        Ok(wire)
    }

    fn of_wire(wire: WireOp<'_>) -> Result<Self, EntryError> {
        Ok(match wire.action {
            Action::Upsert => Self::Upsert {
                id: text(wire.id, "id")?,
                row: wire.into_row()?,
            },
            Action::Replace => Self::Replace {
                old_id: text(wire.old_id, "old_id")?,
                id: text(wire.id, "id")?,
                row: wire.into_row()?,
            },
            Action::Remove => Self::Remove {
                id: text(wire.id, "id")?,
            },
            Action::Clear => {
                let spared = wire.spared.ok_or(EntryError::Lacks("spared"))?;
                Self::Clear {
                    spared: spared.into_iter().map(|id| id.get().to_string()).collect(),
                }
            }
        })
    }
}

impl<'a> WireOp<'a> {
    fn set_row(&mut self, row: &'a JsonRow) -> Result<(), EntryError> {
        self.data = Some(raw(&row.data)?);
        self.nulls.clone_from(&row.nulls);
        Ok(())
    }

    fn into_row(self) -> Result<JsonRow, EntryError> {
        Ok(JsonRow {
            data: text(self.data, "data")?,
            nulls: self.nulls,
        })
    }
}

impl TableProof {
    fn to_wire(&self) -> WireProof {
        WireProof {
            schema: self.table.schema.clone(),
            table: self.table.name.clone(),
            rows: self.rows.rows,
            digest: Digest::of_number(self.rows.sum).to_string(),
        }
    }

    fn of_wire(wire: WireProof) -> Result<Self, EntryError> {
        let digest = Digest::from_hex(&wire.digest).ok_or(EntryError::Lacks("digest"))?;
        Ok(Self {
            table: TableName {
                schema: wire.schema,
                name: wire.table,
            },
            rows: RangeSum {
                rows: wire.rows,
                sum: digest.number(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of the module's page: whoever writes a reader in another language starts there.
    #[test]
    fn the_documented_entries_are_read_and_written_as_they_are() {
        let page = include_str!("entry.rs");
        let start = page.find("```json").expect("the examples");
        let end = page[start..].find("//! ```\n").expect("their end") + start;
        let examples = page[start..end].lines().skip(1);
        let text: String = examples
            .map(|line| line.trim_start_matches("//!").trim())
            .collect();
        let mut count = 0;
        for example in text.replace("}{", "}\n{").lines() {
            let entry = Entry::from_json(example).expect(example);
            assert_eq!(entry.to_json().expect("JSON"), example);
            count += 1;
        }
        assert_eq!(count, 6);
    }

    fn rows(ops: Vec<RowOp>) -> Entry {
        Entry {
            position: "3.00c0ffee00c0ffee.2".parse().expect("a position"),
            behind: None,
            body: Body::Rows(RowChanges {
                table: TableName {
                    schema: "app".to_string(),
                    name: "users".to_string(),
                },
                ops,
            }),
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_texts_their_spelling() {
        let entry = rows(vec![RowOp::Upsert {
            id: "9007199254740993".to_string(),
            row: JsonRow {
                data: r#"{"n":1.10,"big":123456789012345678901234567890,"e":1e400,"t":"\u00e9"}"#
                    .to_string(),
                nulls: Vec::new(),
            },
        }]);
        let json = entry.to_json().expect("JSON");
        assert_eq!(Entry::from_json(&json).expect("an entry"), entry);
    }

    #[test]
    fn what_is_no_json_is_not_sent() {
        let op = RowOp::Remove {
            id: "1,2".to_string(),
        };
        assert!(matches!(
            rows(vec![op]).to_json(),
            Err(EntryError::Malformed(_))
        ));
    }

    #[test]
    fn an_entry_that_is_not_known_or_not_whole_is_an_error() {
        let position = r#""position":"3.00c0ffee00c0ffee.2""#;
        for (members, lacks) in [
            (r#""kind":"begin""#, Some("writer")),
            (r#""kind":"rows","schema":"a","table":"b""#, Some("ops")),
            (r#""kind":"rows","table":"b","ops":[]"#, Some("schema")),
            (
                r#""kind":"rows","schema":"a","table":"b","ops":[{"action":"upsert","id":1}]"#,
                Some("data"),
            ),
            (r#""kind":"proof""#, Some("tables")),
            (
                r#""kind":"part","schema":"a","table":"b","part":0,"of":1"#,
                Some("text"),
            ),
            (r#""kind":"stale""#, Some("why")),
            (r#""kind":"shape""#, None),
        ] {
            let text = format!("{{{position},{members}}}");
            match (Entry::from_json(&text), lacks) {
                (Err(EntryError::Lacks(member)), Some(lacks)) => assert_eq!(member, lacks),
                (Err(EntryError::Malformed(_)), None) => {}
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
    }
}
