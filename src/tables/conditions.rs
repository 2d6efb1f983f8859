//! Conditions as people write them, made into cells by PostgreSQL itself.

use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogColumn, CatalogTable};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::postgres::{quote_literal, sqlstate};
use postgres_index_cache_core::{CellType, Condition, Predicate, TableShape, output_text};
use std::error::Error;
use std::fmt;
use tokio_postgres::Transaction;
use tokio_postgres::types::{FromSql, Type};

/// How long PostgreSQL may take to compute a value.
const TIMEOUT: &str = "5s";

/// Conditions with their columns' names.
#[derive(Debug, Default)]
pub struct Conditions(Vec<(String, Predicate)>);

impl Conditions {
    /// Whether a column stands in a condition.
    pub fn names(&self, column: &str) -> bool {
        self.0.iter().any(|(name, _)| name == column)
    }

    /// Whether a condition compares a column with a value.
    fn compares(&self, column: &str) -> bool {
        self.0
            .iter()
            .any(|(name, wanted)| name == column && matches!(wanted, Predicate::Cell(_)))
    }

    /// What to say of columns whose values a cache can compare by their text alone.
    pub fn notices(&self, table: &CatalogTable) -> impl Iterator<Item = String> {
        let compared = table
            .columns
            .iter()
            .filter(|column| self.compares(&column.name));
        compared.filter_map(|column| {
            let why = if is_compared_as_text(column.kind) {
                format!(
                    "is of type {}: it is compared as PostgreSQL writes it",
                    column.type_name
                )
            } else if column.is_nondeterministic {
                "has a collation that calls different texts equal: it is compared byte by byte"
                    .to_string()
            } else {
                return None;
            };
            let rows = table.display_name();
            Some(format!(
                "{} {why}, so {rows} rows that are equal in SQL may not be found",
                column.name
            ))
        })
    }

    /// The conditions by the columns' positions in `shape`, which keeps them all.
    ///
    /// # Errors
    /// When one of them is not kept.
    pub fn conditions(self, shape: &TableShape) -> anyhow::Result<Vec<Condition>> {
        let condition = |(name, wanted): (String, Predicate)| {
            let column = shape
                .position(&name)
                .with_context(|| format!("the column {name} is not kept"))?;
            Ok(Condition { column, wanted })
        };
        self.0.into_iter().map(condition).collect()
    }
}

/// Whether a cache has nothing but a value's text to compare: jsonb calls 1.0 and 1 equal, an
/// interval 30 days and a month.
fn is_compared_as_text(kind: CellType) -> bool {
    matches!(
        kind,
        CellType::Json
            | CellType::Jsonb
            | CellType::Other
            | CellType::Written
            | CellType::WrittenArray
    )
}

/// One condition as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    column: String,
    operator: Operator,
    value: String,
    /// Whether the value stood in quotes: then `null` is a text like any other.
    is_quoted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// `=`: the value is a literal.
    Equals,
    /// `!=`: only for null.
    Differs,
    /// `:=`: the value is SQL.
    Computed,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.operator {
            Operator::Equals => "=",
            Operator::Differs => "!=",
            Operator::Computed => ":=",
        };
        write!(f, "{}{sign}{}", self.column, self.value)
    }
}

impl Written {
    /// That a column has this value, literally.
    pub fn equals(column: &str, value: String) -> Self {
        Self {
            column: column.to_string(),
            operator: Operator::Equals,
            value,
            is_quoted: true,
        }
    }

    /// `COLUMN=VALUE`, `COLUMN!=null`, `COLUMN:=SQL`; a name that holds an operator is written in
    /// double quotes.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        split(text).ok_or_else(|| {
            let hint = "write COLUMN=VALUE, COLUMN=null, COLUMN!=null, or COLUMN:=SQL";
            // With an @ it may be a part of a connection string.
            let what = if text.contains('@') { "this" } else { text };
            with_hint(anyhow!("{what} is not a condition"), hint)
        })
    }

    /// The same where no shell has taken quotes off: a literal in single quotes is what stands
    /// between them.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_quoted(text: &str) -> anyhow::Result<Self> {
        let mut written = Self::parse(text)?;
        let inner = written
            .value
            .strip_prefix('\'')
            .and_then(|value| value.strip_suffix('\''));
        if let (Operator::Equals, Some(inner)) = (written.operator, inner) {
            (written.value, written.is_quoted) = (inner.replace("''", "'"), true);
        }
        Ok(written)
    }
}

fn split(text: &str) -> Option<Written> {
    let (column, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut name = String::new();
            let mut characters = quoted.char_indices();
            let end = loop {
                match characters.next()? {
                    (at, '"') if quoted[at + 1..].starts_with('"') => {
                        characters.next();
                        name.push('"');
                    }
                    (at, '"') => break at + 1,
                    (_, c) => name.push(c),
                }
            };
            (name, &quoted[end..])
        }
        None => {
            let end = text.find('=')?;
            let end = end - usize::from(text[..end].ends_with(['!', ':']));
            (text[..end].trim().to_string(), &text[end..])
        }
    };
    let operators = [
        ("!=", Operator::Differs),
        (":=", Operator::Computed),
        ("=", Operator::Equals),
    ];
    let (operator, value) = operators
        .iter()
        .find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)))?;
    (!column.is_empty()).then(|| Written {
        column,
        operator,
        value: value.to_string(),
        is_quoted: false,
    })
}

/// A column that a person named.
///
/// # Errors
/// When the table has none of that name; the hint lists what it has.
pub fn column<'a>(table: &'a CatalogTable, name: &str) -> anyhow::Result<&'a CatalogColumn> {
    table.column(name).ok_or_else(|| {
        let names: Vec<&str> = table
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        with_hint(
            anyhow!("{} has no column {name}", table.display_name()),
            format!("its columns are {}", names.join(", ")),
        )
    })
}

/// Makes conditions of what was written. PostgreSQL parses and computes the values, in a
/// transaction that only reads.
///
/// Names in what is computed are looked up in pg_catalog alone, unless they are written with their
/// schema: what somebody has put into a schema of the search_path is not run by accident.
///
/// # Errors
/// When a column is unknown, or PostgreSQL does not take a value for the column's type.
pub async fn evaluate(
    catalog: &mut Catalog<'_>,
    table: &CatalogTable,
    written: &[Written],
) -> anyhow::Result<Conditions> {
    let mut asked = Conditions::default();
    if written.is_empty() {
        return Ok(asked);
    }
    let attempt = catalog.attempt().await.context("begin a transaction")?;
    let timeout = format!("SET LOCAL statement_timeout = '{TIMEOUT}'");
    attempt
        .batch_execute(&timeout)
        .await
        .context("prepare the transaction")?;
    for written in written {
        let column = column(table, &written.column)?;
        let wanted = match (written.operator, written.value.as_str()) {
            (Operator::Equals, "null") if !written.is_quoted => Predicate::Null,
            (Operator::Differs, "null") => Predicate::NotNull,
            (Operator::Differs, _) => {
                let hint = "leave it out and filter the answer";
                return Err(with_hint(anyhow!("{written}: != is for null alone"), hint));
            }
            (Operator::Equals, literal) => {
                Predicate::Cell(cell(&attempt, column, written, literal).await?)
            }
            (Operator::Computed, sql) => {
                let computed = computed(&attempt, column, written, sql).await?;
                Predicate::Cell(cell(&attempt, column, written, &computed).await?)
            }
        };
        asked.0.push((column.name.clone(), wanted));
    }
    Ok(asked)
}

/// The bytes of a value as they stand on the wire.
struct Binary(Option<Vec<u8>>);

impl<'a> FromSql<'a> for Binary {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw.to_vec())))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn taking(written: &Written, column: &CatalogColumn) -> String {
    format!(
        "take {written} for the column {} of type {}",
        column.name, column.type_name
    )
}

/// What SQL computes, as PostgreSQL writes it. Not by a cast to the column's type: that may be
/// somebody else's function.
async fn computed(
    transaction: &Transaction<'_>,
    column: &CatalogColumn,
    written: &Written,
    sql: &str,
) -> anyhow::Result<String> {
    let text = output_text("computed.value");
    // OFFSET keeps it from being computed twice.
    let sql = format!("SELECT {text} FROM (SELECT ({sql}) OFFSET 0) computed (value)");
    let row = transaction
        .query_typed_one(&sql, &[])
        .await
        .map_err(|error| {
            let is_unknown = matches!(sqlstate::of(&error), Some("42883" | "42P01" | "42704"));
            let error = anyhow::Error::new(error).context(taking(written, column));
            if is_unknown {
                with_hint(
                    error,
                    "names outside pg_catalog are written with their schema, like \
                app.my_function(1)",
                )
            } else {
                error
            }
        })?;
    let value: Option<String> = row.try_get(0).with_context(|| taking(written, column))?;
    value.ok_or_else(|| {
        with_hint(
            anyhow!("{written} is null, which is equal to nothing"),
            format!("to find nulls, write {}=null", column.name),
        )
    })
}

/// The cell of a value as PostgreSQL's input function of the column's type reads it. Neither a cast
/// nor a constraint of a domain is evaluated, which may be somebody else's function.
async fn cell(
    transaction: &Transaction<'_>,
    column: &CatalogColumn,
    written: &Written,
    literal: &str,
) -> anyhow::Result<Vec<u8>> {
    let what = || taking(written, column);
    let mut cell = Vec::new();
    let ty = match column.kind {
        CellType::Written if column.has_inner_domain => {
            // It is compared as it is written.
            column
                .kind
                .from_binary(literal.as_bytes(), &mut cell)
                .with_context(what)?;
            return Ok(cell);
        }
        CellType::WrittenArray if column.has_inner_domain => "pg_catalog.text[]",
        _ => &column.plain_type_name,
    };
    let value = column
        .kind
        .select_expression(&format!("{}::{ty}", quote_literal(literal)));
    let row = transaction
        .query_typed_one(&format!("SELECT {value}"), &[])
        .await;
    let Binary(value) = row.with_context(what)?.try_get(0).with_context(what)?;
    let value = value.with_context(what)?;
    column
        .kind
        .from_binary(&value, &mut cell)
        .with_context(what)?;
    Ok(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_they_are_written() {
        let written =
            |text| split(text).map(|written| (written.column, written.operator, written.value));
        let is = |column: &str, operator, value: &str| {
            Some((column.to_string(), operator, value.to_string()))
        };
        assert_eq!(written("a=1"), is("a", Operator::Equals, "1"));
        assert_eq!(written("a="), is("a", Operator::Equals, ""));
        assert_eq!(written("a=b=c"), is("a", Operator::Equals, "b=c"));
        assert_eq!(written("a!=null"), is("a", Operator::Differs, "null"));
        assert_eq!(
            written("a:=hashtextextended('x=y',0)"),
            is("a", Operator::Computed, "hashtextextended('x=y',0)")
        );
        assert_eq!(written("\"a=\"\"b\"=1"), is("a=\"b", Operator::Equals, "1"));
        for bad in ["", "a", "=1", "\"a", "\"a\"1", "\"a\""] {
            assert_eq!(written(bad), None, "{bad}");
        }
        let quoted = |text| {
            Written::parse_quoted(text)
                .map(|written| (written.value, written.is_quoted))
                .unwrap()
        };
        assert_eq!(quoted("a='it''s null'"), ("it's null".to_string(), true));
        assert_eq!(quoted("a=O'Hara"), ("O'Hara".to_string(), false));
        assert_eq!(quoted("a:='x'"), ("'x'".to_string(), false));
    }
}
