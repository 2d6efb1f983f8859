//! [`LogName`]: the name of a log, and the names of its subjects and streams in NATS.

use crate::log::TableName;
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

/// The name of a log: letters, digits, `-` and `_`, at most 64 of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogName(String);

/// A text that is no name of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a log: use letters, digits, - and _, at most 64 of them")]
pub struct LogNameError(String);

impl FromStr for LogName {
    type Err = LogNameError;

    fn from_str(name: &str) -> Result<Self, LogNameError> {
        /// A subject is sent with each entry.
        const LONGEST: usize = 64;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_name = !name.is_empty() && name.len() <= LONGEST && name.bytes().all(is_plain);
        is_name
            .then(|| Self(name.to_string()))
            .ok_or_else(|| LogNameError(name.to_string()))
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LogName {
    /// Returns the name of the stream that has the entries.
    pub fn stream(&self) -> String {
        format!("PGIC_{self}")
    }

    /// Returns the name of the stream that has the snapshots.
    pub fn snapshot_stream(&self) -> String {
        format!("PGICSNAP_{self}")
    }

    /// Returns the subjects of all entries.
    pub(super) fn entries(&self) -> String {
        format!("pgic.{self}.log.>")
    }

    /// Returns the subject of the entries that are no rows.
    pub(super) fn control(&self) -> String {
        format!("pgic.{self}.log.ctl")
    }

    /// Returns the subject of the rows of a table.
    pub(super) fn rows(&self, table: &TableName) -> String {
        let (schema, name) = (token(&table.schema), token(&table.name));
        format!("pgic.{self}.log.t.{schema}.{name}")
    }

    /// Returns the subjects on which stored entries are sent on to whoever listens.
    pub(super) fn live(&self) -> String {
        format!("pgic.{self}.live.>")
    }

    /// Returns the subject of requests for fences.
    pub(super) fn ask(&self) -> String {
        format!("pgic.{self}.ask")
    }

    /// Returns the subject on which the roll of the nodes is called.
    pub(super) fn roll(&self) -> String {
        format!("pgic.{self}.nodes")
    }

    /// Returns the subject on which a node answers.
    pub(super) fn roll_answer(&self, instance: &str) -> String {
        format!("pgic.{self}.node.{instance}")
    }

    /// Returns the subjects on which all nodes answer.
    pub(super) fn roll_answers(&self) -> String {
        format!("pgic.{self}.node.*")
    }

    /// Returns the subjects of all parts of snapshots.
    pub(super) fn snapshots(&self) -> String {
        format!("pgic.{self}.snap.>")
    }

    /// Returns the subject of the list of snapshots.
    pub(super) fn snapshot_list(&self) -> String {
        format!("pgic.{self}.snap.list")
    }

    /// Returns the subject of a part of a snapshot; `*` stands for every snapshot.
    pub(super) fn snapshot_part(&self, snapshot: &str, part: impl fmt::Display) -> String {
        format!("pgic.{self}.snap.{snapshot}.{part}")
    }
}

/// Returns a name as one token of a subject. A dot, a blank, `*` and `>` mean something else there.
fn token(name: &str) -> String {
    let mut token = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(token, "%{byte:02X}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_token_of_a_subject() {
        for name in ["shop", "Shop-2_x", &"x".repeat(64)] {
            assert_eq!(name.parse::<LogName>().expect("a name").to_string(), name);
        }
        for name in ["", "a.b", "a b", "*", ">", "ä", &"x".repeat(65)] {
            assert!(name.parse::<LogName>().is_err(), "{name}");
        }
    }

    #[test]
    fn any_table_has_a_subject_of_its_own() {
        let name: LogName = "shop".parse().expect("a name");
        let subject = |schema: &str, table: &str| {
            name.rows(&TableName {
                schema: schema.to_string(),
                name: table.to_string(),
            })
        };
        assert_eq!(subject("app", "users"), "pgic.shop.log.t.app.users");
        assert_eq!(subject("a.b", "* >"), "pgic.shop.log.t.a%2Eb.%2A%20%3E");
        // The escape itself is escaped: no two names have one subject.
        assert_eq!(subject("a", "%2E"), "pgic.shop.log.t.a.%252E");
    }
}
