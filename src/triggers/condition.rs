//! [`check_all`]: makes a [`RowCondition`] of the text of `--where`.
//!
//! PostgreSQL itself judges the text. On an empty temporary table with the columns of the table, an
//! index is made of the rows that fulfil the condition. PostgreSQL takes for that just what is
//! needed here: one expression on the columns of the row, without queries, without aggregates, and
//! with immutable functions alone (manual, CREATE INDEX). Then PostgreSQL writes the condition as
//! it has understood it. All is rolled back.

use super::AskedTable;
use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogAccess, CatalogTable};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::Traced;
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use postgres_index_cache_core::tooling::postgres::triggers::{ROW_NAME, RowCondition};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

/// The condition that a command line or `pgic.toml` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedCondition {
    /// The text as it was written, which nobody has checked.
    Written(String),
    /// A condition that PostgreSQL has checked for the table.
    Checked(RowCondition),
    /// None: all rows are announced.
    AllRows,
}

impl AskedCondition {
    /// Returns whether an installed condition is the one that is asked for, as far as the texts
    /// tell.
    fn is(&self, installed: &RowCondition) -> bool {
        match self {
            Self::Written(text) => installed.given == *text || installed.sql == *text,
            Self::Checked(condition) => installed.sql == condition.sql,
            Self::AllRows => false,
        }
    }

    /// Returns the condition to install over the `installed` one.
    pub fn over(&self, installed: Option<RowCondition>) -> Option<RowCondition> {
        // The same condition in other words is no reason to make the triggers anew.
        if let Some(same) = installed.filter(|installed| self.is(installed)) {
            return Some(same);
        }
        match self {
            Self::Checked(condition) => Some(condition.clone()),
            // For a plan that is only compared with what is installed.
            Self::Written(text) => Some(RowCondition {
                given: text.clone(),
                sql: text.clone(),
                of_row: text.clone(),
                columns: Vec::new(),
            }),
            Self::AllRows => None,
        }
    }
}

/// Has PostgreSQL check the conditions that are asked for, each for its table. Leaves no trace.
///
/// # Errors
/// If a text is no condition that triggers can have.
pub async fn check_all(
    client: &mut Client,
    tables: &[CatalogTable],
    asked: &mut [AskedTable],
) -> anyhow::Result<()> {
    for (table, asked) in tables.iter().zip(asked) {
        if let Some(AskedCondition::Written(text)) = &asked.changes.condition {
            let checked = check(client, table, text).await?;
            asked.changes.condition = Some(match checked {
                Some(condition) => AskedCondition::Checked(condition),
                None => AskedCondition::AllRows,
            });
        }
    }
    Ok(())
}

/// Checks the condition `text` for a table. Returns `None` if all rows fulfil the condition: its
/// text is `true`.
async fn check(
    client: &mut Client,
    table: &CatalogTable,
    text: &str,
) -> anyhow::Result<Option<RowCondition>> {
    let mut catalog = Catalog::begin(client, CatalogAccess::ReadWrite)
        .await
        .context("begin a transaction")?;
    let attempt = catalog.attempt().await.context("set a savepoint")?;
    let checked = check_on_copy(&attempt, table, text).await;
    // Whatever was made is undone, also where PostgreSQL refused.
    attempt.rollback().await.context("undo the check")?;
    catalog.roll_back().await.context("end the transaction")?;
    checked
}

async fn check_on_copy(
    attempt: &Traced<Transaction<'_>>,
    table: &CatalogTable,
    text: &str,
) -> anyhow::Result<Option<RowCondition>> {
    let checking = || format!("check the condition {text:?} for {}", table.display_name());
    // The text may call the table by its name. The names of what else is made here begin like these.
    let name = if table.name.starts_with("pgic_") {
        "copy".to_string()
    } else {
        quote_identifier(&table.name)
    };
    let copy = format!(
        "CREATE TEMPORARY TABLE pg_temp.{name} (LIKE {})",
        table.sql_name()
    );
    attempt
        .batch_execute(&copy)
        .await
        .map_err(anyhow::Error::from)
        .map_err(|error| {
            let hint = "the check makes a temporary table: it takes TEMPORARY on the database and \
                SELECT on the table";
            with_hint(error, hint)
        })
        .with_context(checking)?;
    // The end of the line ends a comment in the text. A statement that is prepared is one
    // statement: the text cannot begin another.
    let index = format!("CREATE INDEX pgic_condition ON pg_temp.{name} ((1)) WHERE ({text}\n)");
    if let Err(error) = attempt.query_typed(&index, &[]).await {
        return Err(refused(error)).with_context(checking);
    }
    let row = attempt
        .query_typed_one(include_str!("condition.sql"), &[])
        .await
        .with_context(checking)?;
    let Some(sql) = row.get::<_, Option<String>>("condition") else {
        return Ok(None);
    };
    let columns: Vec<String> = row.get("columns");
    let is_virtual = |name: &String| table.column(name).is_some_and(|column| column.is_virtual);
    if let Some(column) = columns.iter().find(|name| is_virtual(name)) {
        let error = anyhow!("{column} is computed when it is read, and triggers see NULL in it");
        return Err(error).with_context(checking);
    }
    Ok(Some(RowCondition {
        given: text.to_string(),
        of_row: of_row(attempt, table, &name, &sql)
            .await
            .with_context(checking)?,
        sql,
        columns,
    }))
}

/// Returns a condition with its columns as fields of [`ROW_NAME`].
///
/// PostgreSQL writes columns without the name of their table only where one table is read. So it is
/// given a view that reads two, and its text is cut where that of a view with `true` in the
/// condition's place goes on.
async fn of_row(
    attempt: &Traced<Transaction<'_>>,
    table: &CatalogTable,
    copy: &str,
    sql: &str,
) -> anyhow::Result<String> {
    // A column of the second table that is called like one of the first could mean either.
    let mut other = "pgic_other".to_string();
    while table.columns.iter().any(|column| column.name == other) {
        other.push('_');
    }
    let mut texts = Vec::new();
    for (name, selected) in [("pgic_of_row", sql), ("pgic_of_true", "true")] {
        let view = format!(
            "CREATE TEMPORARY VIEW {name} AS SELECT {selected} AS condition
             FROM pg_temp.{copy} AS {ROW_NAME}, (VALUES (1)) AS {other} ({other})"
        );
        attempt.batch_execute(&view).await.map_err(refused)?;
        let text =
            format!("SELECT pg_catalog.pg_get_viewdef('pg_temp.{name}'::pg_catalog.regclass)");
        let row = attempt.query_typed_one(&text, &[]).await?;
        texts.push(row.get::<_, String>(0));
    }
    let (start, rest) = texts[1]
        .split_once("true")
        .context("a view is written in an unknown way")?;
    texts[0]
        .strip_prefix(start)
        .and_then(|text| text.strip_suffix(rest))
        .map(str::to_string)
        .context("a view is written in an unknown way")
}

/// Returns the error for a text that PostgreSQL refused, with what a condition may be.
fn refused(error: tokio_postgres::Error) -> anyhow::Error {
    let hint = match error.code() {
        Some(&SqlState::INVALID_OBJECT_DEFINITION) => {
            "the condition may call immutable functions alone: the same row must fulfil it today \
            and tomorrow, whoever asks"
        }
        Some(&SqlState::UNDEFINED_FUNCTION | &SqlState::UNDEFINED_OBJECT) => {
            "names of other schemas than pg_catalog are written with their schema: app.is_hot(n), \
            'new'::app.state, a OPERATOR(public.=) b"
        }
        _ => "a condition is SQL on the columns of one row, such as deleted_at IS NULL",
    };
    with_hint(error, hint)
}
