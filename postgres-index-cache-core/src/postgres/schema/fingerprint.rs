//! [`Fingerprint`]: what a table is, in a word. DDL announces nothing: only who looks sees it.

use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient};

/// What is seen of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    relation: u32,
    schema: String,
    name: String,
    /// Changes when the definition does.
    definition: String,
    /// The columns with the oids of their types.
    columns: Vec<(String, u32)>,
    /// Changes when the table, or a partition, is rewritten or truncated, and when a partition is
    /// attached or detached.
    files: String,
    /// The low 32 bits of the transaction that gave a table its files, as far as that is known.
    filed_by: Option<i64>,
    /// Changes when a column does, also one whose definition is what it was: a rewrite by `ALTER …
    /// TYPE … USING` does that.
    column_marks: String,
    /// The oids of the leaves, where it is partitioned.
    pub(in crate::postgres) leaves: Vec<u32>,
    /// Those that are being detached: what they announce is not the table's any more.
    pub(in crate::postgres) detaching: Vec<u32>,
    /// Changes when a trigger of a leaf does.
    leaf_marks: String,
    /// The triggers of the table that do not fire for all that is written to some leaf, each with
    /// the statement that makes it do so.
    silenced: Vec<(String, String)>,
    /// Whether a subscription of logical replication writes to it.
    pub(in crate::postgres) is_subscribed: bool,
    /// The triggers that fire, and what changes when one is made anew, or calls something else.
    triggers: Vec<(String, String)>,
}

impl Fingerprint {
    /// The oid of the table.
    pub(in crate::postgres) fn relation(&self) -> u32 {
        self.relation
    }

    /// Whether rows that were read under the one can be compared with rows that were read under the
    /// other.
    pub(in crate::postgres) fn is_same_definition(&self, other: &Self) -> bool {
        self.relation == other.relation
            && self.definition == other.definition
            && self.leaves == other.leaves
    }

    /// Whether both have the same files.
    pub(in crate::postgres) fn has_files_of(&self, other: &Self) -> bool {
        self.files == other.files
    }

    /// Whether the table still has this name: what is read by name must be what announces.
    pub(in crate::postgres) fn is_named(&self, schema: &str, name: &str) -> bool {
        self.schema == schema && self.name == name
    }

    /// The statements that make a trigger fire for all that is written to the leaves; none when it
    /// does.
    pub(in crate::postgres) fn enabling(&self, trigger: &str) -> impl Iterator<Item = &str> {
        self.silenced
            .iter()
            .filter(move |(name, _)| name == trigger)
            .map(|(_, enabling)| enabling.as_str())
    }

    /// The type of a column, by its oid.
    pub(in crate::postgres) fn type_of(&self, column: &str) -> Option<u32> {
        self.columns
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, oid)| *oid)
    }
}

/// Looks at the tables of these oids; those that are gone are not among the answers.
pub(in crate::postgres) async fn look(
    client: &impl GenericClient,
    relations: &[u32],
) -> Result<Vec<Fingerprint>, Error> {
    let rows = client
        .query_typed(
            include_str!("fingerprint.sql"),
            &[(&relations, Type::OID_ARRAY)],
        )
        .await?;
    let print = |row: &tokio_postgres::Row| Fingerprint {
        relation: row.get("relation"),
        schema: row.get("schema"),
        name: row.get("name"),
        definition: row.get("definition"),
        columns: std::iter::zip(
            row.get::<_, Vec<String>>("column_names"),
            row.get::<_, Vec<u32>>("column_types"),
        )
        .collect(),
        files: row.get("files"),
        filed_by: row.get("filed_by"),
        column_marks: row.get("column_marks"),
        leaves: row.get("leaves"),
        detaching: row.get("detaching"),
        leaf_marks: row.get("leaf_marks"),
        silenced: std::iter::zip(
            row.get::<_, Vec<String>>("silenced"),
            row.get::<_, Vec<String>>("enabling"),
        )
        .collect(),
        is_subscribed: row.get("is_subscribed"),
        triggers: std::iter::zip(
            row.get::<_, Vec<String>>("triggers"),
            row.get::<_, Vec<String>>("trigger_marks"),
        )
        .collect(),
    };
    Ok(rows.iter().map(print).collect())
}

/// What is to be said of a table that was seen before, if it is another one.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Difference {
    /// Its definition, its leaves or its triggers are others: what was described of it holds no
    /// more.
    Altered(&'static str),
    /// Its definition is the same and its rows may be others: it must be read again.
    Rewritten(&'static str),
    /// Nothing announces its changes any more.
    Silent(String),
    /// It has other files since a TRUNCATE that was announced: nothing follows.
    Truncated,
}

/// What has become of the table of this oid, whose changes `announced_by` announce; `truncated_by`
/// is the transaction of the last TRUNCATE that was announced.
pub(in crate::postgres) fn compare(
    before: &Fingerprint,
    seen: &[Fingerprint],
    announced_by: &[String],
    truncated_by: Option<u64>,
) -> Option<Difference> {
    let Some(now) = seen.iter().find(|print| print.relation == before.relation) else {
        return Some(Difference::Altered("the table is gone"));
    };
    let mark = |print: &Fingerprint, name: &String| {
        print
            .triggers
            .iter()
            .find(|(of, _)| of == name)
            .map(|(_, mark)| mark.clone())
    };
    let is_silent =
        |name: &&String| mark(now, name).is_none() || now.enabling(name).next().is_some();
    if let Some(missing) = announced_by.iter().find(is_silent) {
        return Some(Difference::Silent(missing.clone()));
    }
    if now.definition != before.definition || now.leaves != before.leaves {
        return Some(Difference::Altered(
            "its definition, or one of its partitions, is another one",
        ));
    }
    let is_watched = !announced_by.is_empty();
    if announced_by
        .iter()
        .any(|name| mark(now, name) != mark(before, name))
        || (is_watched && now.leaf_marks != before.leaf_marks)
    {
        return Some(Difference::Altered(
            "a trigger that announces it was changed",
        ));
    }
    if now.files == before.files {
        return None;
    }
    let is_truncated = now.filed_by.is_some_and(|xid| {
        truncated_by.is_some_and(|truncated| truncated & 0xffff_ffff == xid as u64)
    });
    // The transaction that truncated it may have filled it again, and made other values of those
    // rows.
    let is_truncated = is_truncated && now.column_marks == before.column_marks;
    Some(if is_truncated {
        Difference::Truncated
    } else {
        Difference::Rewritten("it was rewritten or truncated, and nothing announced it")
    })
}
