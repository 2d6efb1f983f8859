//! Conditions as people write them (`status=open`), made into cells that a cache can compare.
//!
//! ```text
//! "status=open" ─→ Written ─→ evaluate ─→ Conditions, by name ─→ Condition, by position in a cache
//! ```
//!
//! PostgreSQL reads and computes the values, so each type takes exactly the texts that SQL takes
//! for the type.

mod equality;
mod offline;
mod written;

use self::equality::Equality;

use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogColumn, CatalogTable};
use crate::tables::nearest::nearest;
use anyhow::{Context as _, anyhow};
pub use offline::evaluate as evaluate_offline;
use postgres_index_cache_core::tooling::postgres::triggers::PINNED;
use postgres_index_cache_core::tooling::postgres::{Traced, quote_literal, sqlstate};
use postgres_index_cache_core::tooling::{
    CellTest, CellType, Condition, Predicate, TableShape, output_text,
};
use regex::Regex;
use std::error::Error;
use tokio_postgres::Transaction;
use tokio_postgres::types::{FromSql, Type};
pub use written::{Operator, Written};

/// The time in which PostgreSQL must compute a value.
const TIMEOUT: &str = "5s";

/// A condition on a column that is known by name.
#[derive(Debug, Clone)]
struct NamedCondition {
    column: String,
    kind: CellType,
    /// The value that the column is compared with, if there is one.
    operand: Option<Vec<u8>>,
    wanted: Predicate,
    /// Why the texts of the values are compared, if that is not what `=` in SQL does.
    by_text: Option<String>,
}

/// Conditions on columns that are known by name.
#[derive(Debug, Clone, Default)]
pub struct Conditions(Vec<NamedCondition>);

impl Conditions {
    /// Tells whether a column stands in a condition.
    pub fn names(&self, column: &str) -> bool {
        self.0.iter().any(|condition| condition.column == column)
    }

    /// Returns the columns that stand in the conditions.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|condition| condition.column.as_str())
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the values of a payload fulfil all conditions. `value_of` returns the value
    /// of a column; `None` if the payload does not have the column.
    pub fn are_fulfilled_by<'v>(&self, value_of: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.0.iter().all(|condition| {
            let Some(value) = value_of(&condition.column) else {
                return false;
            };
            if value == "null" {
                return condition.wanted.is(condition.kind, None);
            }
            let mut cell = Vec::new();
            let read = condition.kind.from_json(value, &mut cell);
            read.is_ok() && condition.wanted.is(condition.kind, Some(&cell))
        })
    }

    /// Returns a notice for each column whose values are compared by their text, though that is not
    /// what `=` in SQL does.
    pub fn notices(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|condition| {
            let why = condition.by_text.as_ref()?;
            Some(format!("{}: {why}", condition.column))
        })
    }

    /// Returns the value that a column is compared with, if there is one.
    pub fn operand(&self, column: &str) -> Option<&[u8]> {
        let condition = self.0.iter().find(|condition| condition.column == column)?;
        condition.operand.as_deref()
    }

    /// Returns the conditions by the columns' positions in `shape`.
    ///
    /// # Errors
    /// If `shape` does not keep one of the columns.
    pub fn conditions(self, shape: &TableShape) -> anyhow::Result<Vec<Condition>> {
        self.0
            .into_iter()
            .map(|NamedCondition { column, wanted, .. }| {
                let column = shape
                    .position(&column)
                    .with_context(|| format!("the column {column} is not kept"))?;
                Ok(Condition { column, wanted })
            })
            .collect()
    }
}

/// Returns when `=` holds for values of a column, if that is not when their cells are the same.
///
/// # Errors
/// If the catalogue cannot be read.
async fn equality(
    transaction: &Traced<Transaction<'_>>,
    table: &CatalogTable,
    column: &CatalogColumn,
) -> anyhow::Result<Option<Equality>> {
    Ok(match column.kind {
        CellType::Json => Some(Equality::NotInSql),
        CellType::Jsonb => Some(Equality::Canonical(equality::Form::Jsonb)),
        CellType::Other | CellType::Written | CellType::WrittenArray => {
            Some(Equality::of(transaction, table, &column.name).await?)
        }
        _ if column.is_nondeterministic => Some(Equality::of_nondeterministic()),
        // A domain may have an operator of its own; else `=` is that of the type under it.
        _ if column.type_name != column.plain_type_name => {
            let equality = Equality::of(transaction, table, &column.name).await?;
            Some(equality).filter(|equality| matches!(equality, Equality::Unknown(_)))
        }
        _ => None,
    })
}

/// Returns the column of a name that a person wrote.
///
/// # Errors
/// If the table has no such column. The hint names the nearest one, and lists those that there are.
pub fn column<'a>(table: &'a CatalogTable, name: &str) -> anyhow::Result<&'a CatalogColumn> {
    table.column(name).ok_or_else(|| {
        let names: Vec<&str> = table
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let meant = match nearest(name, names.iter().copied()) {
            Some(near) => format!("{near} may be meant; "),
            None => String::new(),
        };
        with_hint(
            anyhow!("{} has no column {name}", table.display_name()),
            format!("{meant}its columns are {}", names.join(", ")),
        )
    })
}

/// Makes conditions of the written ones. PostgreSQL reads and computes the values, in a transaction
/// that only reads.
///
/// In SQL that computes a value, a name without a schema is looked up in `pg_catalog` alone. So no
/// function runs by accident that somebody has put into a schema of the `search_path`.
///
/// # Errors
/// If a column is unknown, or PostgreSQL does not take a value for the column's type.
pub async fn evaluate(
    catalog: &mut Catalog<'_>,
    table: &CatalogTable,
    written: &[Written],
) -> anyhow::Result<Conditions> {
    let mut conditions = Conditions::default();
    if written.is_empty() {
        return Ok(conditions);
    }
    for written in written {
        let column = column(table, &written.column)?;
        // A savepoint: a value that PostgreSQL refuses must not end the caller's transaction. And one
        // for each value, since the next one is read under the settings of the session.
        let attempt = catalog.attempt().await.context("begin a transaction")?;
        attempt
            .batch_execute(&format!("SET LOCAL statement_timeout = '{TIMEOUT}'"))
            .await
            .context("prepare the transaction")?;
        let cell = operand(&attempt, column, written).await?;
        let equality = if cell.is_some() && written.operator.is_equality() {
            equality(&attempt, table, column).await?
        } else {
            None
        };
        let key = table.key.as_ref();
        let is_whole_key = key.is_some_and(|key| key.columns == [&*column.name]);
        let compared = Compared {
            equality,
            is_key: written.is_key || is_whole_key,
        };
        let condition = condition(column, written, cell, compared)?;
        conditions.0.push(condition);
    }
    Ok(conditions)
}

/// Returns a statement that reads a literal under the session's own settings, as the person means
/// them, and writes its value under those of the caches: `value` is an expression of the literal.
///
/// PostgreSQL reads a literal when it parses the statement. The settings change when the statement
/// runs, before the value is written.
fn written_as_in_caches(value: &str) -> String {
    let settings: Vec<String> = PINNED
        .iter()
        .filter(|(name, _)| *name != "search_path")
        .map(|(name, value)| {
            format!(
                "set_config({}, {}, true)",
                quote_literal(name),
                quote_literal(value)
            )
        })
        .collect();
    format!(
        "WITH settings AS MATERIALIZED (SELECT {}) SELECT {value} FROM settings",
        settings.join(", ")
    )
}

/// Returns the cell that a condition compares with; `None` if it compares with none.
async fn operand(
    transaction: &Traced<Transaction<'_>>,
    column: &CatalogColumn,
    written: &Written,
) -> anyhow::Result<Option<Vec<u8>>> {
    if written.is_null() {
        return Ok(None);
    }
    let cell = match written.operator {
        Operator::Matches => return Ok(None),
        Operator::Computed => {
            let literal = computed(transaction, column, written, &written.value).await?;
            cell(transaction, column, written, &literal).await?
        }
        Operator::Equals
        | Operator::Differs
        | Operator::Less
        | Operator::LessOrEqual
        | Operator::Greater
        | Operator::GreaterOrEqual => cell(transaction, column, written, &written.value).await?,
    };
    Ok(Some(cell))
}

/// How the values of a column are compared.
#[derive(Default)]
struct Compared {
    /// When values are equal, if that is not when their cells are the same.
    equality: Option<Equality>,
    /// Whether the value is that of a key, or a part of one.
    is_key: bool,
}

/// Makes a condition of a written one. `cell` is its value, if it compares with one.
///
/// # Errors
/// If the operator cannot be applied to null, or to the column's type.
fn condition(
    column: &CatalogColumn,
    written: &Written,
    cell: Option<Vec<u8>>,
    compared: Compared,
) -> anyhow::Result<NamedCondition> {
    let operand = cell.clone();
    let by_text = by_text(column, written, &compared)?;
    let wanted = match (written.operator, cell) {
        (Operator::Equals, None) => Predicate::Null,
        (Operator::Differs, None) => Predicate::NotNull,
        (Operator::Matches, None) if !written.is_null() => matching(column, written)?,
        (operator, None) => {
            return Err(with_hint(
                anyhow!("{written}: nothing is {} null", operator.sign()),
                format!(
                    "to find nulls, write {}=null; for the text, 'null' in quotes",
                    column.name
                ),
            ));
        }
        (
            Operator::Equals | Operator::Computed | Operator::Differs | Operator::Matches,
            Some(cell),
        ) => equal(column.kind, written, cell, compared.equality),
        (
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual,
            Some(cell),
        ) => ordered(column, written, cell)?,
    };
    Ok(NamedCondition {
        column: column.name.clone(),
        kind: column.kind,
        operand,
        wanted,
        by_text,
    })
}

/// Returns why the texts of a column's values are compared, if that is not what `=` in SQL does.
///
/// # Errors
/// If rows that are equal in SQL would be missing from the answer. A key is compared all the same:
/// one row at most has it, and who knows the key knows its text.
fn by_text(
    column: &CatalogColumn,
    written: &Written,
    compared: &Compared,
) -> anyhow::Result<Option<String>> {
    let as_text = "it is compared as PostgreSQL writes it";
    let Some(equality) = &compared.equality else {
        return Ok(None);
    };
    match equality {
        Equality::Canonical(_) if column.has_inner_domain => Ok(Some(format!(
            "the value is taken as it stands here, since reading it would run the checks of a \
            domain; {as_text}"
        ))),
        Equality::Canonical(_) => Ok(None),
        Equality::NotInSql => Ok(Some(format!(
            "the type {} has no = in SQL; {as_text}",
            column.type_name
        ))),
        Equality::Unknown(why) if compared.is_key => Ok(Some(format!("{why}; {as_text}"))),
        Equality::Unknown(why) => Err(with_hint(
            anyhow!("{written}: {why}"),
            format!(
                "rows are found by their text: {}~ and a regular expression, for example \
                {0}~'(?i)^value$'",
                column.name
            ),
        )),
    }
}

/// Makes the predicate that a value is equal to `cell`, or differs from it.
fn equal(
    kind: CellType,
    written: &Written,
    cell: Vec<u8>,
    equality: Option<Equality>,
) -> Predicate {
    let wants_equal = written.operator != Operator::Differs;
    let text = written.to_string();
    match equality.filter(|equality| !equality.is_by_cell()) {
        None if wants_equal => Predicate::Cell(cell),
        None => Predicate::Passes(CellTest::new(text, move |other| {
            kind.comparable(&cell) != kind.comparable(other)
        })),
        Some(equality) => {
            let wanted = equality.canonical(kind, &cell);
            Predicate::Passes(CellTest::new(text, move |other| {
                // A value that is not as PostgreSQL writes it is equal to itself alone.
                let has_form = wanted.is_some() && equality.canonical(kind, other) == wanted;
                (has_form || cell == other) == wants_equal
            }))
        }
    }
}

/// Makes the predicate of a condition on the order of values.
///
/// # Errors
/// If the order of the type is not known here.
fn ordered(column: &CatalogColumn, written: &Written, cell: Vec<u8>) -> anyhow::Result<Predicate> {
    let kind = column.kind;
    if kind.order(&cell, &cell).is_none() {
        return Err(with_hint(
            anyhow!(
                "{written}: the order of type {} is not known here",
                column.type_name
            ),
            "numbers, times, uuids and bytes can be ordered; texts are found by = and by ~ with a \
            regular expression",
        ));
    }
    let operator = written.operator;
    let passes = move |other: &[u8]| {
        let order = kind.order(other, &cell);
        order.and_then(|order| operator.takes(order)) == Some(true)
    };
    Ok(Predicate::Passes(CellTest::new(
        written.to_string(),
        passes,
    )))
}

/// Makes the predicate that a regular expression matches the text of a value.
///
/// # Errors
/// If the expression is broken.
fn matching(column: &CatalogColumn, written: &Written) -> anyhow::Result<Predicate> {
    let expression = Regex::new(&written.value).map_err(|error| {
        // Its own text draws the place under the expression, on several lines.
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim().to_string();
        with_hint(
            anyhow!("{written} is no regular expression: {reason}"),
            "the syntax is that of ripgrep; put a value with special characters after =",
        )
    })?;
    let kind = column.kind;
    let passes = move |cell: &[u8]| {
        let mut text = String::new();
        kind.write_text(cell, &mut text);
        expression.is_match(&text)
    };
    Ok(Predicate::Passes(CellTest::new(
        written.to_string(),
        passes,
    )))
}

/// The bytes of a value of any type as the server sends them; `None` for NULL.
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

/// Returns the context of an error that a value caused.
fn taking(written: &Written, column: &CatalogColumn) -> String {
    format!(
        "take {written} for the column {} of type {}",
        column.name, column.type_name
    )
}

/// Returns the value that SQL computes, as its type's output function writes it.
///
/// The text is read as a value of the column's type later. A cast from the one type to the other
/// may be somebody else's function, so none is used.
async fn computed(
    transaction: &Traced<Transaction<'_>>,
    column: &CatalogColumn,
    written: &Written,
    sql: &str,
) -> anyhow::Result<String> {
    let text = output_text("computed.value");
    // The text of a value is an expression that names the value twice. OFFSET 0 keeps the planner
    // from pulling the subquery up, which would compute the value twice.
    let sql = format!("SELECT {text} FROM (SELECT ({sql}) OFFSET 0) computed (value)");
    // The text is read again: it must have every digit, and a time its offset in numbers. The order
    // of day and month stays the session's.
    transaction
        .batch_execute("SET LOCAL extra_float_digits = 3; SET LOCAL DateStyle = 'ISO'")
        .await
        .context("prepare the transaction")?;
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

/// The labels of an enum, in their order.
const LABELS: &str = "SELECT e.enumlabel::text FROM pg_catalog.pg_enum e
    WHERE e.enumtypid OPERATOR(pg_catalog.=) ANY ($1) ORDER BY e.enumsortorder";

/// Returns the values that a column can have, if those are few and known: the labels of an enum, or
/// true and false. For completion, which is worth no error.
pub async fn known_values(catalog: &Catalog<'_>, column: &CatalogColumn) -> Vec<String> {
    if column.kind == CellType::Bool {
        return ["true", "false"].map(str::to_string).to_vec();
    }
    if !column.is_enum || column.is_array {
        return Vec::new();
    }
    let rows = catalog
        .query_typed(LABELS, &[(&column.made_of, Type::OID_ARRAY)])
        .await;
    let rows = rows.unwrap_or_default();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Checks that an enum has a label, since PostgreSQL's own error does not name those that it has.
async fn check_label(
    transaction: &Traced<Transaction<'_>>,
    column: &CatalogColumn,
    label: &str,
) -> anyhow::Result<()> {
    let rows = transaction
        .query_typed(LABELS, &[(&column.made_of, Type::OID_ARRAY)])
        .await;
    let rows = rows.context("read the labels of the enum")?;
    let labels: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    if labels.contains(&label) {
        return Ok(());
    }
    let meant = match nearest(label, labels.iter().copied()) {
        Some(near) => format!("{near} may be meant; "),
        None => String::new(),
    };
    Err(with_hint(
        anyhow!(
            "{} is of the enum {}, which has no label {label}",
            column.name,
            column.type_name
        ),
        format!("{meant}its labels are {}", labels.join(", ")),
    ))
}

/// Returns the cell of a literal, which the input function of the column's type reads.
///
/// Neither a cast nor a constraint of a domain is evaluated: either may be somebody else's
/// function.
async fn cell(
    transaction: &Traced<Transaction<'_>>,
    column: &CatalogColumn,
    written: &Written,
    literal: &str,
) -> anyhow::Result<Vec<u8>> {
    if column.is_enum && !column.is_array {
        check_label(transaction, column, literal).await?;
    }
    let mut cell = Vec::new();
    let ty = match column.kind {
        CellType::Written | CellType::WrittenArray
            if column.has_inner_domain && column.is_array =>
        {
            "pg_catalog.text[]"
        }
        CellType::Written if column.has_inner_domain => {
            // To read a value of the type would evaluate the constraints of the domains in it.
            // Cells of this kind are compared as text, so the literal itself is the cell.
            column
                .kind
                .from_binary(literal.as_bytes(), &mut cell)
                .with_context(|| taking(written, column))?;
            return Ok(cell);
        }
        _ => &column.plain_type_name,
    };
    let value = column
        .kind
        .select_expression(&format!("{}::{ty}", quote_literal(literal)));
    let row = transaction
        .query_typed_one(&written_as_in_caches(&value), &[])
        .await;
    let Binary(value) = row
        .and_then(|row| row.try_get(0))
        .with_context(|| taking(written, column))?;
    let value = value.with_context(|| taking(written, column))?;
    column
        .kind
        .from_binary(&value, &mut cell)
        .with_context(|| taking(written, column))?;
    Ok(cell)
}
