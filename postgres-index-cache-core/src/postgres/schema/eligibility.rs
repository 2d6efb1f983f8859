//! [`TableConfig`]: whether a table can be followed, which columns the cache keeps, and everything
//! else that driver and engine must know of the table.

use crate::postgres::quote::quote_identifier;
use crate::postgres::schema::catalog::{self, CatalogTable, RelationKind};
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::postgres::schema::triggers::{
    Announced, Problem, RowCondition, Severity, check_table, diagnose, untrusted_columns,
};
use crate::sync::TableSpec;
use crate::table_cache::{Column, IndexedColumns, ShapeError, TableCache, TableShape};
use crate::value::CellType;
use std::sync::Arc;

/// The expected rows from which on a table is large: a thread and a session of its own are worth
/// their cost while it is read.
const LARGE: usize = 20_000;

/// A table to follow, with everything that a driver must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// The engine's part of the description.
    pub followed: TableSpec,
    /// The columns that the cache keeps, and the key.
    pub shape: Arc<TableShape>,
    /// Whether a query of the table may run functions of the table's owner with our rights.
    pub distrust: Distrust,
    /// The types as which the values of the key's columns are read, in key order, as they are
    /// written in SQL. `None` for a type that has no codec here: the JSON of its values is compared
    /// instead.
    pub key_types: Vec<Option<String>>,
    /// The names of the triggers that announce the table's changes. If one of them is gone or
    /// disabled, the table is not followed any more. The list is empty if no trigger announces
    /// changes and that is accepted.
    pub announced_by: Vec<String>,
    /// Roughly how many rows the table has (`pg_class.reltuples`); 0 if unknown.
    pub expected_rows: usize,
    /// The condition that the rows of the cache fulfil, in SQL, with the columns by their names
    /// alone; `None` if the cache has all rows.
    pub condition: Option<String>,
    /// The condition that must not run, since it may be code of others; `None` if there is none.
    pub foreign_condition: Option<String>,
    /// The columns that have an index in a cache of cells.
    pub indexed: IndexedColumns,
    /// The oids of the types of the columns that are kept, in the shape's order; empty if nobody
    /// has looked.
    pub column_types: Vec<u32>,
    /// The fingerprint as of when the table was described; `None` if nobody has looked.
    pub fingerprint: Option<Fingerprint>,
}

/// The reason why a table cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The table's rows cannot be told apart, or something is critically wrong with the triggers
    /// that announce its changes.
    #[error("{}", .0.text)]
    Problem(Box<Problem>),
    /// A cache cannot have these columns.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl FollowError {
    /// Returns what a person can do about it; `None` if nothing is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.remedy.as_ref().map(ToString::to_string),
            Self::Shape(_) => None,
        }
    }
}

/// Checks that a cache can follow the table, whatever triggers it has.
///
/// # Errors
/// Returns the problem if no cache can: the table is a view or has no key, for example.
pub fn check_kind(table: &CatalogTable) -> Result<(), FollowError> {
    check_table(table).map_or(Ok(()), |problem| {
        Err(FollowError::Problem(Box::new(problem)))
    })
}

/// Checks that a cache can be kept in step with the table. Returns the problems that do not prevent
/// that, as texts for people.
///
/// # Errors
/// Returns the worst problem if it is critical: changes of the table are not announced, or not as
/// this table's.
pub fn check_announced(table: &CatalogTable) -> Result<Vec<String>, FollowError> {
    let problems = diagnose(table, None);
    match problems
        .iter()
        .find(|problem| problem.severity == Severity::Critical)
    {
        Some(problem) => Err(FollowError::Problem(Box::new(problem.clone()))),
        None => Ok(problems.iter().map(ToString::to_string).collect()),
    }
}

/// Returns the columns that a cache can keep, in table order: those that the triggers send.
pub fn sent<'a>(
    table: &'a CatalogTable,
    announced: Option<&Announced<'_>>,
) -> Vec<&'a catalog::CatalogColumn> {
    let sent = announced.and_then(Announced::sent_columns);
    table
        .columns
        .iter()
        .filter(|column| sent.is_none_or(|sent| sent.contains(&column.name)))
        .collect()
}

/// Returns the shape of a cache that keeps the key and the columns for which `is_kept` returns
/// `true`, in table order.
///
/// # Errors
/// Returns an error if there is no key, or if there are too many columns.
pub fn shape(
    table: &CatalogTable,
    is_kept: impl Fn(&catalog::CatalogColumn) -> bool,
) -> Result<Arc<TableShape>, FollowError> {
    let key = table
        .key
        .as_ref()
        .map(|key| key.columns.clone())
        .unwrap_or_default();
    let kept = table
        .columns
        .iter()
        .filter(|column| key.contains(&column.name) || is_kept(column));
    let columns = kept.map(|column| Column {
        name: column.name.clone(),
        kind: column.kind,
        nullable: !column.not_null,
    });
    Ok(Arc::new(TableShape::new(columns.collect(), &key)?))
}

/// Whether a query of a table may run functions of the table's owner while it is planned, with the
/// rights of the superuser who reads.
///
/// Without this:
///
/// 1. Somebody makes an index on `(a + evil(1))`, where `evil` is an immutable function.
/// 2. A superuser's `SELECT` of the table is planned, and the planner computes the constant
///    `evil(1)`.
/// 3. The function runs with the rights of a superuser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// No query is distrusted: the owner has no fewer rights than we, or is the role that reads.
    None,
    /// Queries are distrusted, but reading the whole table needs none: a COPY of the table itself
    /// is not planned, and gives the values as they are kept.
    OfQueries,
    /// Reading the whole table needs a query as well, which computes the values that are kept.
    /// Before it runs, the table is locked against new indexes and statistics, and the existing
    /// ones are checked.
    OfTable,
}

impl TableConfig {
    /// Returns whether a thread of its own is worth its cost while the table is read.
    pub(in crate::postgres) fn is_large(&self) -> bool {
        self.expected_rows >= LARGE
    }

    /// Describes for the driver a table whose cache keeps `shape`.
    pub fn new(
        table: &CatalogTable,
        announced: Option<&Announced<'_>>,
        shape: &Arc<TableShape>,
    ) -> Self {
        let untrusted = untrusted_columns(table, announced.and_then(|announced| announced.row));
        let condition = announced
            .and_then(Announced::options)
            .and_then(|options| options.condition.as_ref());
        let distrust = distrust(table, shape, condition);
        let expected_rows = table.estimated_rows.unwrap_or(0) as usize;
        let followed = TableSpec {
            schema: table.schema.clone(),
            name: table.name.clone(),
            oid: table.oid,
            leaves: table.leaves.iter().map(|leaf| leaf.oid).collect(),
            is_partitioned: table.kind == RelationKind::Partitioned,
            deferrable_key: table.key.as_ref().is_some_and(|key| key.is_deferrable),
            sends_plain_form: announced.is_some_and(Announced::sends_plain_form),
            sends_whole_rows: !untrusted
                .iter()
                .any(|column| shape.position(column).is_some()),
            // Whoever distrusts the owner takes a lock that conflicts with itself.
            is_for_side_read: expected_rows >= LARGE && distrust != Distrust::OfTable,
            shape: Some(Arc::clone(shape)),
        };
        let key_types = table
            .key
            .iter()
            .flat_map(|key| &key.columns)
            .filter_map(|name| table.column(name))
            .map(key_type)
            .collect();
        // A trigger that does not fire when the table is described will not be missed later.
        let announced_by = announced
            .iter()
            .flat_map(|announced| announced.firing())
            .map(|trigger| trigger.name.clone())
            .collect();
        // A column that was added after the fingerprint was taken gets the type 0. So the first
        // read finds that the table was altered.
        let column_types = shape
            .columns()
            .iter()
            .map(|column| table.fingerprint.type_of(&column.name).unwrap_or_default())
            .collect();
        Self {
            distrust,
            foreign_condition: condition
                .filter(|condition| condition.in_statement(table).is_none())
                .map(|condition| condition.sql.clone()),
            condition: condition.and_then(|condition| condition.in_statement(table)),
            followed,
            shape: Arc::clone(shape),
            key_types,
            announced_by,
            expected_rows,
            indexed: IndexedColumns::default(),
            column_types,
            fingerprint: Some(table.fingerprint.clone()),
        }
    }

    /// Makes the empty cache of cells for the table.
    pub(in crate::postgres) fn empty_cache(&self) -> TableCache {
        TableCache::with_indexes(Arc::clone(&self.shape), 0, self.indexed.clone())
    }

    /// Returns whether a cache of one table is a cache of the other.
    ///
    /// The estimate of rows, and what follows from it, does not count. The leaves, and everything
    /// else in a fingerprint, do not count either: each read sees them afresh.
    pub fn is_same_table(&self, other: &Self) -> bool {
        let followed = TableSpec {
            leaves: self.followed.leaves.clone(),
            is_for_side_read: self.followed.is_for_side_read,
            ..other.followed.clone()
        };
        let expected_rows = self.expected_rows;
        let fingerprint = self.fingerprint.clone();
        *self
            == Self {
                followed,
                expected_rows,
                fingerprint,
                ..other.clone()
            }
    }

    /// Returns the first column that is kept and had another type, or was gone, when a read took
    /// the fingerprint `seen`.
    pub(in crate::postgres) fn changed_column(&self, seen: &Fingerprint) -> Option<&str> {
        let mut kept = self.shape.columns().iter().zip(&self.column_types);
        kept.find(|(column, oid)| seen.type_of(&column.name) != Some(**oid))
            .map(|(column, _)| column.name.as_str())
    }

    /// Returns `schema.table` without quotes, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.followed.schema, self.followed.name)
    }

    /// Returns the relation to lock and to read, in SQL: a table without the tables that inherit
    /// from it, or a partitioned table with its partitions.
    pub fn relation(&self) -> String {
        let only = if self.followed.is_partitioned {
            ""
        } else {
            "ONLY "
        };
        format!(
            "{only}{}.{}",
            quote_identifier(&self.followed.schema),
            quote_identifier(&self.followed.name)
        )
    }
}

/// Returns the type as which the values of a key's column are read; `None` if their JSON is
/// compared instead.
fn key_type(column: &catalog::CatalogColumn) -> Option<String> {
    // Reading the key of a notification as a value of such a type has three faults: an array gets
    // the usual bounds, a domain's constraint is evaluated, and a text that is no value of the type
    // fails the read. Any role can send such a text.
    let has_codec = !matches!(
        column.kind,
        CellType::Other | CellType::Written | CellType::WrittenArray
    );
    has_codec.then(|| column.plain_type_name.clone())
}

/// Returns how far queries of a table are distrusted if its cache keeps `shape` of the rows that
/// fulfil `condition`.
fn distrust(
    table: &CatalogTable,
    shape: &TableShape,
    condition: Option<&RowCondition>,
) -> Distrust {
    if !table.is_distrusted {
        return Distrust::None;
    }
    // COPY of a partitioned table, and of some rows of a table, takes a query.
    let is_copied_as_kept = table.kind == RelationKind::Table
        && condition.is_none()
        && shape
            .columns()
            .iter()
            .all(|column| is_copied_as_kept(table, column));
    if is_copied_as_kept {
        Distrust::OfQueries
    } else {
        Distrust::OfTable
    }
}

/// Returns whether COPY of the table itself gives a column's values as the cache keeps them.
fn is_copied_as_kept(table: &CatalogTable, column: &Column) -> bool {
    let Some(described) = table.column(&column.name) else {
        return false;
    };
    match column.kind {
        CellType::Other | CellType::WrittenArray => false,
        // The binary form of an enum is its label, which is also its text.
        CellType::Written => described.is_enum && !described.is_array && !described.is_generated,
        // COPY of a table takes no column that is computed.
        _ => !described.is_generated,
    }
}
