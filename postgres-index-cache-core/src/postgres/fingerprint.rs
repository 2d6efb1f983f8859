//! [`Fingerprint`]: what a table is, in a word. DDL announces nothing: only who looks sees it.

use tokio_postgres::{Client, Error};

/// What is seen of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    relation: u32,
    schema: String,
    name: String,
    /// Changes when the definition does.
    definition: String,
    /// Changes when a partition is attached, detached, or truncated.
    partitions: String,
    /// The oids of the leaves, where it is partitioned.
    pub(super) leaves: Vec<u32>,
    /// The triggers that fire.
    triggers: Vec<String>,
}

impl Fingerprint {
    /// Whether rows that were read under the one can be compared with rows that were read under the other.
    pub(super) fn is_same_definition(&self, other: &Self) -> bool {
        self.relation == other.relation && self.definition == other.definition
    }

    /// Whether the table still has this name: what is read by name must be what announces.
    pub(super) fn is_named(&self, schema: &str, name: &str) -> bool {
        self.schema == schema && self.name == name
    }
}

/// Looks at the tables of these oids; those that are gone are not among the answers.
pub(super) async fn look(client: &Client, relations: &[u32]) -> Result<Vec<Fingerprint>, Error> {
    let rows = client.query(include_str!("fingerprint.sql"), &[&relations]).await?;
    let print = |row: &tokio_postgres::Row| Fingerprint {
        relation: row.get("relation"),
        schema: row.get("schema"),
        name: row.get("name"),
        definition: row.get("definition"),
        partitions: row.get("partitions"),
        leaves: row.get("leaves"),
        triggers: row.get("triggers"),
    };
    Ok(rows.iter().map(print).collect())
}

/// What is to be said of a table that was seen as `before`, if it is another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// It must be read again.
    Altered(&'static str),
    /// Nothing announces its changes any more.
    Silent(String),
}

/// What has become of the table of this oid, whose changes `announced_by` announce.
pub(super) fn compare(before: &Fingerprint, seen: &[Fingerprint], announced_by: &[String]) -> Option<Difference> {
    let Some(now) = seen.iter().find(|print| print.relation == before.relation) else {
        return Some(Difference::Altered("the table is gone"));
    };
    if let Some(missing) = announced_by.iter().find(|name| !now.triggers.contains(name)) {
        return Some(Difference::Silent(missing.clone()));
    }
    (now.definition != before.definition || now.partitions != before.partitions)
        .then_some(Difference::Altered("its definition, or one of its partitions, is another one"))
}
