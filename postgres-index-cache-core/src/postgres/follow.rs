//! [`FollowTable`]: a table as something to follow: whether it can be, what its cache keeps, what the engine is told of it.

use super::announced::Announced;
use super::catalog::{self, Enabled, RelationKind, Table};
use super::fingerprint::Fingerprint;
use super::session::quote_identifier;
use crate::sync::Followed;
use crate::table_cache::{Column, ShapeError, TableShape};
use std::sync::Arc;

/// A table to follow, as the catalogue describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowTable {
    /// What the engine knows of it.
    pub followed: Followed,
    /// The columns to keep and the key.
    pub shape: Arc<TableShape>,
    /// The types of the key's columns, in key order, as SQL takes them.
    pub key_types: Vec<String>,
    /// The triggers that announce its changes: when one is gone or disabled, the table is not followed any more. Empty
    /// where nothing announces them and that is known.
    pub announced_by: Vec<String>,
    /// Roughly how many rows it has (`pg_class.reltuples`).
    pub expected_rows: usize,
    /// The types of the columns that are kept, by their oids, in the shape's order; empty where nobody has looked.
    pub column_types: Vec<u32>,
    /// What was seen of it when it was described; `None` where nobody has looked.
    pub fingerprint: Option<Fingerprint>,
}

/// Why a table cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// It is no table whose rows can be told apart by whoever looks from outside.
    #[error("{table} is {what}")]
    Kind {
        /// The table.
        table: String,
        /// What it is.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Nothing announces its changes.
    #[error("no trigger announces changes of {table}: a cache of it would not be live")]
    NotAnnounced {
        /// The table.
        table: String,
        /// Its name as it is typed on a command line.
        typed: String,
    },
    /// What announces them does not fire.
    #[error("the trigger {trigger} of {table} is {state}")]
    Disabled {
        /// The table.
        table: String,
        /// The trigger.
        trigger: String,
        /// What it is: disabled, replica only.
        state: &'static str,
        /// What to do.
        hint: String,
    },
    /// Some changes are not announced.
    #[error("the triggers of {table} do not announce {event}")]
    EventMissing {
        /// The table.
        table: String,
        /// Its name as it is typed on a command line.
        typed: String,
        /// The event.
        event: &'static str,
    },
    /// A cache cannot have these columns.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl FollowError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kind { hint, .. } => Some((*hint).to_string()),
            Self::Disabled { hint, .. } => Some(hint.clone()),
            Self::NotAnnounced { typed, .. } | Self::EventMissing { typed, .. } => Some(install(typed)),
            Self::Shape(_) => None,
        }
    }
}

fn install(typed: &str) -> String {
    format!("install it with: pgic install-triggers {typed}")
}

/// Whether a cache can follow the table.
///
/// # Errors
/// When it cannot: it is a view, has no key, ….
pub fn check_kind(table: &Table) -> Result<(), FollowError> {
    let refuse = |what, hint| Err(FollowError::Kind { table: table.display_name(), what, hint });
    match table.kind {
        RelationKind::Table if table.is_temporary => refuse("a temporary table", "only its own session sees it"),
        RelationKind::Table | RelationKind::Partitioned if table.key.is_none() => refuse(
            "without a primary key or a unique key of NOT NULL columns",
            "add one: without a key no cache can tell its rows apart",
        ),
        RelationKind::Table | RelationKind::Partitioned if table.is_partition => {
            refuse("a partition", "name the table that it is a partition of: its changes are announced as that one's")
        }
        RelationKind::Table | RelationKind::Partitioned => Ok(()),
        RelationKind::View | RelationKind::MaterializedView => refuse("a view", "name the tables under it"),
        RelationKind::Foreign => refuse("a foreign table", "connect to the server where it lives"),
        RelationKind::Other => refuse("not a table", "name a table"),
    }
}

/// Whether a cache can be kept in step with the table; gives what should be said about how.
///
/// # Errors
/// When nothing announces its changes, or not all of them.
pub fn check_announced(table: &Table, announced: Option<&Announced<'_>>) -> Result<Vec<String>, FollowError> {
    let name = table.display_name();
    let Some((announced, row)) = announced.and_then(|announced| Some((announced, announced.row?))) else {
        return Err(FollowError::NotAnnounced { table: name, typed: table.typed_name() });
    };
    if !matches!(row.enabled, Enabled::Origin | Enabled::Always) {
        let (trigger, state) = (row.name.clone(), row.enabled.as_str());
        let hint =
            format!("enable it with: ALTER TABLE {} ENABLE TRIGGER {}", table.sql_name(), quote_identifier(&row.name));
        return Err(FollowError::Disabled { table: name, trigger, state, hint });
    }
    let events = announced.events();
    if let Some(event) = ["insert", "update", "delete"].into_iter().find(|event| !events.contains(event)) {
        return Err(FollowError::EventMissing { table: name, typed: table.typed_name(), event });
    }
    let mut notices = Vec::new();
    let truncate = announced.truncate.filter(|trigger| matches!(trigger.enabled, Enabled::Origin | Enabled::Always));
    if truncate.is_none() {
        notices.push(format!("no trigger announces TRUNCATE of {name}: its rows would stay in the cache"));
    }
    if announced.sends_plain_form() {
        notices.push(format!(
            "the trigger of {name} sends the plain form, without transaction ids: changes that PostgreSQL folds or sends \
             in another order leave stale rows; {}",
            install(&table.typed_name())
        ));
    }
    Ok(notices)
}

/// The columns that a cache can be asked for, in table order: those that are sent.
pub fn sent<'a>(table: &'a Table, announced: Option<&Announced<'_>>) -> Vec<&'a catalog::Column> {
    let sent = announced.and_then(Announced::sent_columns);
    let is_sent = |column: &&catalog::Column| sent.is_none_or(|sent| sent.contains(&column.name));
    table.columns.iter().filter(is_sent).collect()
}

/// A cache for the key and the columns that `is_kept` names; in table order.
///
/// # Errors
/// When there is no key, or too many columns.
pub fn shape(table: &Table, is_kept: impl Fn(&catalog::Column) -> bool) -> Result<Arc<TableShape>, FollowError> {
    let key = table.key.as_ref().map(|key| key.columns.clone()).unwrap_or_default();
    let kept = table.columns.iter().filter(|column| key.contains(&column.name) || is_kept(column));
    let columns =
        kept.map(|column| Column { name: column.name.clone(), kind: column.kind, nullable: !column.not_null });
    Ok(Arc::new(TableShape::new(columns.collect(), &key)?))
}

impl FollowTable {
    /// What the driver is told of a table whose cache keeps `shape`.
    pub fn new(table: &Table, announced: Option<&Announced<'_>>, shape: &Arc<TableShape>) -> Self {
        let followed = Followed {
            schema: table.schema.clone(),
            name: table.name.clone(),
            oid: table.oid,
            leaves: table.leaves.iter().map(|leaf| leaf.oid).collect(),
            is_partitioned: table.kind == RelationKind::Partitioned,
            deferrable_key: table.key.as_ref().is_some_and(|key| key.is_deferrable),
            sends_plain_form: announced.is_some_and(Announced::sends_plain_form),
            sends_whole_rows: !table
                .columns
                .iter()
                .any(|column| column.is_virtual && shape.position(&column.name).is_some()),
        };
        let key = table.key.iter().flat_map(|key| &key.columns);
        let key_types = key.filter_map(|name| table.column(name)).map(|column| column.type_name.clone()).collect();
        // One that does not fire today is not missed.
        let announced_by = announced.iter().flat_map(|announced| announced.firing());
        let announced_by = announced_by.map(|trigger| trigger.name.clone()).collect();
        let expected_rows = table.estimated_rows.unwrap_or(0) as usize;
        // One that came while the table was described is of no type: the first read will say that it was altered.
        let types = shape.columns().iter().map(|column| table.fingerprint.type_of(&column.name));
        let column_types = types.map(Option::unwrap_or_default).collect();
        let fingerprint = Some(table.fingerprint.clone());
        Self { followed, shape: Arc::clone(shape), key_types, announced_by, expected_rows, column_types, fingerprint }
    }

    /// Whether a cache of the one is a cache of the other. An estimate is no part of what a table is; each read sees the
    /// leaves, and whatever else a fingerprint has.
    pub fn is_same_table(&self, other: &Self) -> bool {
        let followed = Followed { leaves: self.followed.leaves.clone(), ..other.followed.clone() };
        let (expected_rows, fingerprint) = (self.expected_rows, self.fingerprint.clone());
        *self == Self { followed, expected_rows, fingerprint, ..other.clone() }
    }

    /// The first column that is kept and is no more what it was, by what a read has seen.
    pub(super) fn changed_column(&self, seen: &Fingerprint) -> Option<&str> {
        let mut kept = self.shape.columns().iter().zip(&self.column_types);
        kept.find(|(column, oid)| seen.type_of(&column.name) != Some(**oid)).map(|(column, _)| column.name.as_str())
    }

    /// `schema.table`, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.followed.schema, self.followed.name)
    }

    /// The relation to lock and to read: a table without the tables that inherit from it, or a table with its partitions.
    pub(super) fn relation(&self) -> String {
        let only = if self.followed.is_partitioned { "" } else { "ONLY " };
        format!("{only}{}.{}", quote_identifier(&self.followed.schema), quote_identifier(&self.followed.name))
    }
}
