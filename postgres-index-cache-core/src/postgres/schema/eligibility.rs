//! [`TableConfig`]: a table as something to follow: whether it can be, what its cache keeps, what
//! the engine is told of it.

use crate::CellType;
use crate::postgres::connection::session::quote_identifier;
use crate::postgres::schema::catalog::{self, CatalogTable, RelationKind};
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::postgres::schema::triggers::{
    Announced, Problem, Severity, check_table, diagnose, untrusted_columns,
};
use crate::sync::TableSpec;
use crate::table_cache::{Column, ShapeError, TableShape};
use std::sync::Arc;

/// A table to follow, as the catalogue describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// What the engine knows of it.
    pub followed: TableSpec,
    /// The columns to keep and the key.
    pub shape: Arc<TableShape>,
    /// Whether a query of the table may run functions of its owner's with our rights.
    pub distrust: Distrust,
    /// The types that the values of the key's columns are read as, in key order, as SQL takes them;
    /// `None` where their JSON is compared instead, since the type has no codec here.
    pub key_types: Vec<Option<String>>,
    /// The triggers that announce its changes: when one is gone or disabled, the table is not
    /// followed any more. Empty where nothing announces them and that is known.
    pub announced_by: Vec<String>,
    /// Roughly how many rows it has (`pg_class.reltuples`).
    pub expected_rows: usize,
    /// The types of the columns that are kept, by their oids, in the shape's order; empty where
    /// nobody has looked.
    pub column_types: Vec<u32>,
    /// What was seen of it when it was described; `None` where nobody has looked.
    pub fingerprint: Option<Fingerprint>,
}

/// Why a table cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// It is no table whose rows can be told apart, or what announces it is not what it should be.
    #[error("{}", .0.text)]
    Problem(Box<Problem>),
    /// A cache cannot have these columns.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl FollowError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.remedy.as_ref().map(ToString::to_string),
            Self::Shape(_) => None,
        }
    }
}

/// Whether a cache can follow the table.
///
/// # Errors
/// When it cannot: it is a view, has no key, ….
pub fn check_kind(table: &CatalogTable) -> Result<(), FollowError> {
    check_table(table).map_or(Ok(()), |problem| {
        Err(FollowError::Problem(Box::new(problem)))
    })
}

/// Whether a cache can be kept in step with the table; gives what should be said about how.
///
/// # Errors
/// The worst problem, when changes of the table are not announced, or not as this table's.
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

/// The columns that a cache can be asked for, in table order: those that are sent.
pub fn sent<'a>(
    table: &'a CatalogTable,
    announced: Option<&Announced<'_>>,
) -> Vec<&'a catalog::CatalogColumn> {
    let sent = announced.and_then(Announced::sent_columns);
    let is_sent =
        |column: &&catalog::CatalogColumn| sent.is_none_or(|sent| sent.contains(&column.name));
    table.columns.iter().filter(is_sent).collect()
}

/// A cache for the key and the columns that `is_kept` names; in table order.
///
/// # Errors
/// When there is no key, or too many columns.
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

/// Whether a query of a table may run functions of its owner's while it is planned, with the rights
/// of a superuser who asks.
///
/// Without this: 1. Somebody makes an index on `(a + evil(1))`, an immutable function. 2. A
/// superuser's `SELECT` of the table is planned, and what is constant computed. 3. The function
/// does as a superuser does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// The owner is trusted, or has no less rights than we.
    None,
    /// Not where all of it is read: a COPY of the table itself is not planned, and gives what is
    /// kept.
    OfQueries,
    /// Also there: what is kept takes a query. It is locked against new indexes and statistics, and
    /// those that are there looked at.
    OfTable,
}

impl TableConfig {
    /// What the driver is told of a table whose cache keeps `shape`.
    pub fn new(
        table: &CatalogTable,
        announced: Option<&Announced<'_>>,
        shape: &Arc<TableShape>,
    ) -> Self {
        let untrusted = untrusted_columns(table, announced.and_then(|announced| announced.row));
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
        };
        let key = table.key.iter().flat_map(|key| &key.columns);
        // Of the others the JSON is compared. An array of the usual bounds would be made of it, a
        // constraint of a domain be evaluated, and a text that is no value of the type, which any
        // role can send as a key, would fail the read.
        let is_native = |kind| {
            !matches!(
                kind,
                CellType::Other | CellType::Written | CellType::WrittenArray
            )
        };
        let key_type = |column: &catalog::CatalogColumn| {
            is_native(column.kind).then(|| column.plain_type_name.clone())
        };
        let key_types = key
            .filter_map(|name| table.column(name))
            .map(key_type)
            .collect();
        // One that does not fire today is not missed.
        let announced_by = announced.iter().flat_map(|announced| announced.firing());
        let announced_by = announced_by.map(|trigger| trigger.name.clone()).collect();
        let expected_rows = table.estimated_rows.unwrap_or(0) as usize;
        // One that came while the table was described is of no type: the first read will say that
        // it was altered.
        let types = shape
            .columns()
            .iter()
            .map(|column| table.fingerprint.type_of(&column.name));
        let column_types = types.map(Option::unwrap_or_default).collect();
        let fingerprint = Some(table.fingerprint.clone());
        let is_sent_as_kept = |column: &Column| match (column.kind, table.column(&column.name)) {
            (CellType::Other | CellType::WrittenArray, _) | (_, None) => false,
            // What an enum's send function gives is its label.
            (CellType::Written, Some(described)) => described.is_enum && !described.is_generated,
            // COPY of a table takes no column that is computed.
            (_, Some(described)) => !described.is_generated,
        };
        let distrust = if !table.is_distrusted {
            Distrust::None
        } else if table.kind == RelationKind::Table && shape.columns().iter().all(is_sent_as_kept) {
            Distrust::OfQueries
        } else {
            Distrust::OfTable
        };
        Self {
            distrust,
            followed,
            shape: Arc::clone(shape),
            key_types,
            announced_by,
            expected_rows,
            column_types,
            fingerprint,
        }
    }

    /// Whether a cache of the one is a cache of the other. An estimate is no part of what a table
    /// is; each read sees the leaves, and whatever else a fingerprint has.
    pub fn is_same_table(&self, other: &Self) -> bool {
        let followed = TableSpec {
            leaves: self.followed.leaves.clone(),
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

    /// The first column that is kept and is no more what it was, by what a read has seen.
    pub(in crate::postgres) fn changed_column(&self, seen: &Fingerprint) -> Option<&str> {
        let mut kept = self.shape.columns().iter().zip(&self.column_types);
        kept.find(|(column, oid)| seen.type_of(&column.name) != Some(**oid))
            .map(|(column, _)| column.name.as_str())
    }

    /// `schema.table`, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.followed.schema, self.followed.name)
    }

    /// The relation to lock and to read: a table without the tables that inherit from it, or a
    /// table with its partitions.
    pub(in crate::postgres) fn relation(&self) -> String {
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
