//! The COPY statements that Q runs: of all rows of a table, or of the rows with some keys.

use crate::postgres::error::{DriverError, ReadError};
use crate::postgres::quote::{quote_identifier, quote_literal};
use crate::postgres::read::parts::Pages;
use crate::postgres::schema::eligibility::{Distrust, TableConfig};
use crate::sync::TableSpec;
use crate::table_cache::Column;
use crate::table_cache::RowError;
use crate::value::{CellType, write_json_string};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The code of the error with which a statement fails if a row is too long (`substring_error`). No
/// other part of the statements asks for a substring.
pub(in crate::postgres) const TOO_LONG: &str = "22011";

/// The statement that copies the rows which a read wants.
#[derive(Debug, Clone)]
pub(in crate::postgres) enum CopyStatement {
    /// A statement that copies the table itself. PostgreSQL plans nothing for it.
    Table(String),
    /// A statement that copies the rows of a query.
    Query(CopyQuery),
}

/// A query whose rows are copied.
#[derive(Debug, Clone)]
pub(in crate::postgres) struct CopyQuery {
    /// The query of all rows, in SQL.
    select: String,
    /// The conditions that a row must fulfil, in SQL.
    conditions: Vec<String>,
}

impl CopyStatement {
    /// Makes the statement that copies every row of a table, or the rows with `keys`, which are
    /// JSON. The statement fails with [`TOO_LONG`] if a row has more than `longest` bytes.
    ///
    /// Under [`Distrust::OfQueries`] all rows are copied without a query.
    ///
    /// # Errors
    /// If a key is no JSON.
    pub(in crate::postgres) fn new(
        config: &TableConfig,
        distrust: Distrust,
        keys: Option<&[String]>,
        longest: usize,
    ) -> Result<Self, DriverError> {
        // Such a statement has no place for a condition on the rows' length. The client finds rows
        // that are too long, once they are there.
        if keys.is_none() && distrust == Distrust::OfQueries {
            return Ok(Self::Table(copy_of_table(config)));
        }
        let mut conditions = Vec::new();
        // Where the owner is distrusted, the reader has checked the condition before this runs.
        conditions.extend(config.condition.as_ref().map(|sql| format!("({sql})")));
        if let Some(keys) = keys {
            conditions.push(key_condition(config, keys)?);
        }
        conditions.extend(no_longer_than(config, longest));
        Ok(Self::Query(CopyQuery {
            select: select(config),
            conditions,
        }))
    }

    /// Returns the statement in SQL.
    pub(in crate::postgres) fn sql(&self) -> String {
        match self {
            Self::Table(sql) => sql.clone(),
            Self::Query(query) => query.sql(),
        }
    }
}

impl CopyQuery {
    /// Returns the statement, in SQL, that copies all rows of the query.
    fn sql(&self) -> String {
        let Self { select, conditions } = self;
        let only = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!("COPY ({select}{only}) TO STDOUT (FORMAT binary)")
    }

    /// Returns the statement, in SQL, that copies the rows on some pages of the table.
    pub(in crate::postgres) fn sql_of(&self, pages: Pages) -> String {
        let mut part = self.clone();
        // Cheaper than the conditions behind it, which look at the values.
        part.conditions.insert(0, pages.condition());
        part.sql()
    }
}

/// Returns the query of all rows, which selects the columns that the cache keeps, in order.
fn select(config: &TableConfig) -> String {
    let columns: Vec<String> = config
        .shape
        .columns()
        .iter()
        .map(|column| {
            let name = quote_identifier(&column.name);
            column.kind.select_expression(&name)
        })
        .collect();
    format!("SELECT {} FROM {}", columns.join(", "), config.relation())
}

/// Returns the statement that copies the table itself.
///
/// While PostgreSQL plans a query, it computes expressions of the table's indexes, which are code
/// of the table's owner. PostgreSQL plans nothing for this statement.
fn copy_of_table(config: &TableConfig) -> String {
    let columns: Vec<String> = config
        .shape
        .columns()
        .iter()
        .map(|column| quote_identifier(&column.name))
        .collect();
    let TableSpec { schema, name, .. } = &config.followed;
    format!(
        "COPY {}.{} ({}) TO STDOUT (FORMAT binary)",
        quote_identifier(schema),
        quote_identifier(name),
        columns.join(", ")
    )
}

/// Returns the condition that a row has at most `longest` bytes. A longer row makes the statement
/// fail with [`TOO_LONG`]. Returns `None` if no row can be that long.
///
/// The client would find out too late: the code that reads from the socket collects a row whole
/// before the client sees any of it. So the server checks.
fn no_longer_than(config: &TableConfig, longest: usize) -> Option<String> {
    /// The largest value that PostgreSQL takes: 1 GB.
    const LARGEST: usize = 1 << 30;
    let sizes: Vec<String> = config
        .shape
        .columns()
        .iter()
        .filter_map(size_expression)
        .collect();
    if longest >= LARGEST || sizes.is_empty() {
        return None;
    }
    let sum = sizes.join(" + ");
    // A substring of negative length is an error. The length depends on the row, so PostgreSQL does
    // not compute it, and fail, while planning.
    Some(format!(
        "CASE WHEN {sum} > {longest} THEN pg_catalog.substr('', 1, \
        (-({sum}))::pg_catalog.int4) = '' ELSE true END"
    ))
}

/// Returns the SQL expression of the size in bytes of a column's value. Returns `None` if all
/// values of the column have one size.
fn size_expression(column: &Column) -> Option<String> {
    let name = quote_identifier(&column.name);
    match column.kind {
        // PostgreSQL knows the length of a text without reading the text.
        CellType::Text | CellType::Bpchar | CellType::Bytea => Some(format!(
            "coalesce(pg_catalog.octet_length({name}), 0)::pg_catalog.int8"
        )),
        kind if kind.width().is_some() => None,
        // The stored size is that of the compressed value, so it says enough only if it is small. A
        // larger value is written out to learn its size.
        _ => Some(format!(
            "CASE WHEN pg_catalog.pg_column_size({name}) > 2000 THEN \
            pg_catalog.octet_length(pg_catalog.concat({name}))
                ELSE coalesce(pg_catalog.pg_column_size({name}), 0) END::pg_catalog.int8"
        )),
    }
}

/// Returns the condition, in SQL, that a row has one of `keys`. The server itself makes values of
/// the keys' JSON, so that each value is read as the trigger wrote it.
///
/// # Errors
/// If a key is no JSON.
pub fn key_condition(config: &TableConfig, keys: &[String]) -> Result<String, DriverError> {
    let shape = &config.shape;
    let key_columns = shape.key().iter().map(|&at| &shape.columns()[at]);
    let columns: Vec<String> = std::iter::zip(key_columns, &config.key_types)
        .map(|(column, key_type)| {
            let name = quote_identifier(&column.name);
            match key_type {
                Some(_) => name,
                // Values of this type cannot be read from JSON. Their JSON texts are compared.
                None => format!(
                    "pg_catalog.to_json({})::pg_catalog.text",
                    column.kind.json_argument(&name)
                ),
            }
        })
        .collect();
    let records = keys
        .iter()
        .map(|key| record_of(config, key))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| DriverError::Snapshot {
            table: config.name(),
            source: ReadError::Row(RowError::Malformed(format!("a key is no JSON: {error}"))),
        })?;
    let names: Vec<String> = (0..columns.len()).map(|at| format!("k.k{at}")).collect();
    let types: Vec<String> = config
        .key_types
        .iter()
        .enumerate()
        .map(|(at, key_type)| format!("k{at} {}", read_as(key_type.as_ref())))
        .collect();
    Ok(format!(
        "({}) IN (SELECT {} FROM pg_catalog.json_to_recordset({}::pg_catalog.json) k ({}))",
        columns.join(", "),
        names.join(", "),
        quote_literal(&format!("[{}]", records.join(","))),
        types.join(", ")
    ))
}

/// Returns a key as a JSON object with the members `k0`, `k1` …, in key order.
///
/// # Errors
/// If the key is no JSON, or for a composite key no JSON array.
fn record_of(config: &TableConfig, key: &str) -> Result<String, serde_json::Error> {
    let parts: Vec<&RawValue> = if config.key_types.len() == 1 {
        vec![serde_json::from_str(key)?]
    } else {
        serde_json::from_str(key)?
    };
    let members: Vec<String> = std::iter::zip(&parts, &config.key_types)
        .enumerate()
        .map(|(at, (part, key_type))| {
            let value = match key_type {
                Some(_) => Cow::Borrowed(part.get()),
                None => Cow::Owned(json_string(part.get())),
            };
            format!("\"k{at}\":{value}")
        })
        .collect();
    Ok(format!("{{{}}}", members.join(",")))
}

/// Returns the type as which a part of a key is read. Without a known type, the part is read as a
/// text of JSON.
fn read_as(key_type: Option<&String>) -> &str {
    key_type.map_or("pg_catalog.text", String::as_str)
}

/// Returns a text as a JSON string.
fn json_string(text: &str) -> String {
    let mut json = String::new();
    write_json_string(text, &mut json);
    json
}
