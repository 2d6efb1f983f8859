//! [`Fingerprint`]: a table's definition, files and triggers, reduced to values that can be
//! compared.
//!
//! DDL sends no notification. So fingerprints are taken again and again, and [`compare`] says what
//! a difference means.

use crate::postgres::connection::traced::Traced;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient, Row};

/// The definition, the files and the triggers of a table, as one look has seen them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The oid of the table.
    relation: u32,
    schema: String,
    name: String,
    /// A digest that changes if the definition changes.
    definition: String,
    /// The names of the columns, each with the oid of its type, in table order.
    columns: Vec<(String, u32)>,
    /// A text that changes if the table, or a partition, is rewritten or truncated, or if a
    /// partition is attached or detached.
    files: String,
    /// The low 32 bits of the id of the transaction that changed the table's entry in `pg_class`
    /// last, as a rewrite and a TRUNCATE do; `None` for a partitioned table.
    filed_by: Option<i64>,
    /// A digest that changes if a column is altered, even if its definition is the same afterwards.
    /// A rewrite by `ALTER … TYPE … USING` may leave the definition as it was.
    column_marks: String,
    /// The oids of the leaves, if the table is partitioned.
    pub(in crate::postgres) leaves: Vec<u32>,
    /// The oids of the leaves that are being detached. Their changes are not the table's any more.
    pub(in crate::postgres) detaching: Vec<u32>,
    /// A digest that changes if a trigger of a leaf does.
    leaf_marks: String,
    /// The triggers that do not fire for everything that is written to a leaf.
    silenced: Vec<SilencedTrigger>,
    /// Whether a subscription of logical replication writes to the table or to a leaf.
    pub(in crate::postgres) is_subscribed: bool,
    /// The triggers of the table that fire in an ordinary session.
    triggers: Vec<MarkedTrigger>,
}

/// A trigger that does not fire for everything that is written to one of a table's leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SilencedTrigger {
    name: String,
    /// The statement that makes the trigger fire there.
    enabling: String,
}

/// A trigger that fires, and how to tell whether it is still the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MarkedTrigger {
    name: String,
    /// A text that changes if the trigger is made anew or calls something else.
    mark: String,
}

impl Fingerprint {
    /// Takes a fingerprint from a row of `fingerprint.sql`.
    fn of_row(row: &Row) -> Self {
        // Each list of pairs comes as two arrays of one length.
        let columns = std::iter::zip(
            row.get::<_, Vec<String>>("column_names"),
            row.get::<_, Vec<u32>>("column_types"),
        );
        let silenced = std::iter::zip(
            row.get::<_, Vec<String>>("silenced"),
            row.get::<_, Vec<String>>("enabling"),
        );
        let triggers = std::iter::zip(
            row.get::<_, Vec<String>>("triggers"),
            row.get::<_, Vec<String>>("trigger_marks"),
        );
        Self {
            relation: row.get("relation"),
            schema: row.get("schema"),
            name: row.get("name"),
            definition: row.get("definition"),
            columns: columns.collect(),
            files: row.get("files"),
            filed_by: row.get("filed_by"),
            column_marks: row.get("column_marks"),
            leaves: row.get("leaves"),
            detaching: row.get("detaching"),
            leaf_marks: row.get("leaf_marks"),
            silenced: silenced
                .map(|(name, enabling)| SilencedTrigger { name, enabling })
                .collect(),
            is_subscribed: row.get("is_subscribed"),
            triggers: triggers
                .map(|(name, mark)| MarkedTrigger { name, mark })
                .collect(),
        }
    }

    /// Returns the oid of the table.
    pub(in crate::postgres) fn relation(&self) -> u32 {
        self.relation
    }

    /// Returns whether rows that were read under one of the fingerprints can be compared with rows
    /// that were read under the other.
    pub(in crate::postgres) fn is_same_definition(&self, other: &Self) -> bool {
        self.relation == other.relation
            && self.definition == other.definition
            && self.leaves == other.leaves
    }

    /// Returns whether the table had the same files in both looks.
    pub(in crate::postgres) fn has_files_of(&self, other: &Self) -> bool {
        self.files == other.files
    }

    /// Returns whether the table has this name. A table is read by its name, which must be that of
    /// the table whose triggers announce changes.
    pub(in crate::postgres) fn is_named(&self, schema: &str, name: &str) -> bool {
        self.schema == schema && self.name == name
    }

    /// Returns the statements that make a trigger fire for everything that is written to the
    /// leaves. There are none if the trigger does already.
    pub(in crate::postgres) fn enabling(&self, trigger: &str) -> impl Iterator<Item = &str> {
        self.silenced
            .iter()
            .filter(move |silenced| silenced.name == trigger)
            .map(|silenced| silenced.enabling.as_str())
    }

    /// Returns the mark of a trigger; `None` if no trigger of this name fires.
    fn mark(&self, trigger: &str) -> Option<&str> {
        self.triggers
            .iter()
            .find(|marked| marked.name == trigger)
            .map(|marked| marked.mark.as_str())
    }

    /// Returns whether changes of the table, or of a leaf, do not all fire a trigger.
    fn is_silent(&self, trigger: &str) -> bool {
        self.mark(trigger).is_none() || self.enabling(trigger).next().is_some()
    }

    /// Returns the oid of a column's type; `None` if there is no such column.
    pub(in crate::postgres) fn type_of(&self, column: &str) -> Option<u32> {
        self.columns
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, oid)| *oid)
    }
}

/// Takes the fingerprints of the tables with these oids, in any order. Tables that are gone are
/// left out.
pub(in crate::postgres) async fn look(
    client: &Traced<impl GenericClient + Sync>,
    relations: &[u32],
) -> Result<Vec<Fingerprint>, Error> {
    let rows = client
        .query_typed(
            include_str!("fingerprint.sql"),
            &[(&relations, Type::OID_ARRAY)],
        )
        .await?;
    Ok(rows.iter().map(Fingerprint::of_row).collect())
}

/// The difference between two looks at a table.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Difference {
    /// The definition, the leaves or the triggers differ, for this reason. The table must be
    /// described afresh.
    Altered(&'static str),
    /// The definition is the same and the rows may differ, for this reason. The table must be read
    /// again.
    Rewritten(&'static str),
    /// Nothing announces the table's changes any more: the trigger of this name is gone, or does
    /// not fire for all of them.
    Silent(String),
    /// The table has other files since a TRUNCATE that was announced. Nothing needs to be done.
    Truncated,
}

/// Compares the fingerprint `before` with that of the table with the same oid among `seen`; `None`
/// if they do not differ.
///
/// `announced_by` names the triggers that announce the table's changes. `truncated_by` is the
/// transaction of the last TRUNCATE that was announced.
pub(in crate::postgres) fn compare(
    before: &Fingerprint,
    seen: &[Fingerprint],
    announced_by: &[String],
    truncated_by: Option<u64>,
) -> Option<Difference> {
    let Some(now) = seen.iter().find(|print| print.relation == before.relation) else {
        return Some(Difference::Altered("the table is gone"));
    };
    // First, since a reload would not mend it: while a trigger is silent, changes are missed.
    if let Some(missing) = announced_by.iter().find(|name| now.is_silent(name)) {
        return Some(Difference::Silent(missing.clone()));
    }
    if now.definition != before.definition || now.leaves != before.leaves {
        return Some(Difference::Altered(
            "its definition, or one of its partitions, is another one",
        ));
    }
    // A trigger that was silent between two looks has another mark. Changes of that time are
    // missed.
    let is_trigger_changed = announced_by
        .iter()
        .any(|name| now.mark(name) != before.mark(name));
    let is_watched = !announced_by.is_empty();
    if is_trigger_changed || (is_watched && now.leaf_marks != before.leaf_marks) {
        return Some(Difference::Altered(
            "a trigger that announces it was changed",
        ));
    }
    if now.files == before.files {
        return None;
    }
    // Only the low 32 bits of a transaction's id stand in `pg_class.xmin`.
    let is_filed_by_truncate = now.filed_by.is_some_and(|xid| {
        truncated_by.is_some_and(|truncated| truncated & 0xffff_ffff == xid as u64)
    });
    // The transaction may have rewritten the table as well:
    // 1. It truncates the table, which is announced, and inserts rows, which are announced.
    // 2. It runs ALTER … TYPE … USING, which makes other values of those rows and announces
    //    nothing. So the columns must be untouched for the TRUNCATE to explain the files.
    let is_truncated = is_filed_by_truncate && now.column_marks == before.column_marks;
    Some(if is_truncated {
        Difference::Truncated
    } else {
        Difference::Rewritten("it was rewritten or truncated, and nothing announced it")
    })
}
