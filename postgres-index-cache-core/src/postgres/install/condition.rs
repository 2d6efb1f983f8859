//! [`check_all`]: makes a [`RowCondition`] of the text of `--where`.
//!
//! PostgreSQL itself judges the text. On an empty temporary table with the columns of the table, an
//! index is made of the rows that fulfil the condition. PostgreSQL takes for that just what is
//! needed here: one expression on the columns of the row, without queries, without aggregates, and
//! with immutable functions alone (manual, CREATE INDEX). Then PostgreSQL writes the condition as
//! it has understood it. All is rolled back.

use super::AskedTable;
use super::apply::deadline;
use crate::postgres::catalog::{Catalog, CatalogAccess, CatalogTable};
use crate::postgres::install::error::{Attempt as _, TriggerError};
use crate::postgres::install::observe::observe;
use crate::postgres::triggers::{
    PINNED, Problem, ROW_NAME, Remedy, RowCondition, Severity, is_contained, qualified,
};
use crate::postgres::{Traced, quote_identifier, quote_literal};
use std::time::{Duration, Instant};
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
            Self::Checked(condition) => {
                let given = installed.given.clone();
                *installed
                    == RowCondition {
                        given,
                        ..condition.clone()
                    }
            }
            Self::AllRows => false,
        }
    }

    /// Returns what a text asks for.
    pub fn written(text: &str) -> Self {
        if text.trim().eq_ignore_ascii_case("true") {
            Self::AllRows
        } else {
            Self::Written(text.to_string())
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
                follows_path: true,
                columns: Vec::new(),
            }),
            Self::AllRows => None,
        }
    }
}

/// Has PostgreSQL check the conditions that are asked for, each for its table, and those that are
/// installed and kept: the table may be another one since. Leaves no trace. Locks of the tables are
/// waited for until `patience` is over, all together.
///
/// # Errors
/// If a text is no condition that triggers can have, or a lock is not had in time.
pub async fn check_all(
    client: &mut Client,
    tables: &[CatalogTable],
    asked: &mut [AskedTable],
    patience: Duration,
) -> Result<(), TriggerError> {
    let give_up = deadline(patience);
    for (table, AskedTable { changes, .. }) in tables.iter().zip(asked) {
        let checked = match &changes.condition {
            Some(AskedCondition::Written(text)) => {
                let settings = Settings::OfSession;
                check(client, table, text, text, settings, give_up).await?
            }
            None if !changes.defaults && !changes.generic => {
                let installed = installed(table);
                let Some(RowCondition { given, sql, .. }) = installed.as_ref() else {
                    continue;
                };
                // The owner's text, which must not run with the rights of a superuser.
                let Some(text) = installed.as_ref().and_then(|kept| kept.in_statement(table))
                else {
                    continue;
                };
                let checked = check(client, table, &text, given, Settings::Pinned, give_up).await;
                checked.map_err(|error| {
                    let hint = format!(
                        "the condition {sql} is as it was installed, and the table is another one \
                        since: give another with --where, or --where true for all rows"
                    );
                    error.with_hint(hint)
                })?
            }
            _ => continue,
        };
        changes.condition = Some(match checked {
            Some(condition) => AskedCondition::Checked(condition),
            None => AskedCondition::AllRows,
        });
    }
    Ok(())
}

/// Returns the problem that the condition of a table's triggers cannot be computed any more, though
/// its columns are there: one has another type, or what the condition names was renamed. Then no
/// cache can be read, and each write asks for a reload. Returns `None` if the condition works, or
/// is not known to: the table is locked, or the condition must not run here.
pub async fn problem(client: &mut Client, table: &CatalogTable) -> Option<Problem> {
    // To plan a query of the table would run expressions of its indexes, which are the owner's
    // code.
    if table.is_distrusted {
        return None;
    }
    let condition = installed(table)?;
    let text = condition.in_statement(table)?;
    if condition.missing_column(table).is_some() {
        return None;
    }
    let catalog = Catalog::begin(client, CatalogAccess::ReadLatest)
        .await
        .ok()?;
    let tried = async {
        catalog
            .batch_execute("SET LOCAL lock_timeout = '200ms'")
            .await?;
        let sql = format!("SELECT FROM {} WHERE ({text}) LIMIT 0", table.sql_name());
        catalog.query_typed(&sql, &[]).await
    };
    let tried = tried.await;
    // What is left of a transaction that failed is ended with the session at the latest.
    let _ = catalog.roll_back().await;
    let error = tried.err()?;
    // A lock, a privilege or a lost connection tells nothing of the condition.
    let is_refused = error.code().is_some_and(|code| {
        let class = code.code().get(..2).unwrap_or_default();
        matches!(class, "42" | "22" | "3F") && *code != SqlState::INSUFFICIENT_PRIVILEGE
    });
    let said = error.as_db_error().filter(|_| is_refused)?.message();
    let typed = table.typed_name();
    Some(Problem {
        code: "condition-outdated",
        severity: Severity::Critical,
        text: format!(
            "the condition of {}'s triggers, {}, cannot be computed: {said}",
            table.display_name(),
            condition.sql
        ),
        remedy: Some(Remedy::Advice(format!(
            "pgic install-triggers {typed} with another --where, or with --where true for all rows"
        ))),
    })
}

/// Returns the condition with which the triggers of a table are installed.
fn installed(table: &CatalogTable) -> Option<RowCondition> {
    observe(table)?.options()?.condition.clone()
}

/// The settings under which the text of a condition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settings {
    /// Those of the person who wrote it.
    OfSession,
    /// Those under which PostgreSQL wrote it when it was checked before.
    Pinned,
}

/// Checks the condition `text` for a table; `given` is the text of the person who asked for it.
/// Returns `None` if all rows fulfil the condition: its text is `true`.
async fn check(
    client: &mut Client,
    table: &CatalogTable,
    text: &str,
    given: &str,
    settings: Settings,
    give_up: Instant,
) -> Result<Option<RowCondition>, TriggerError> {
    let mut catalog = Catalog::begin(client, CatalogAccess::ReadWrite)
        .await
        .context("begin a transaction")?;
    // A timeout of 0 would mean none.
    let left = give_up
        .saturating_duration_since(Instant::now())
        .as_millis();
    let bound = format!("SET LOCAL lock_timeout = {}", left.clamp(1, 86_400_000));
    catalog
        .batch_execute(&bound)
        .await
        .context("bound the wait for locks")?;
    let attempt = catalog.attempt().await.context("set a savepoint")?;
    let checked = check_on_copy(&attempt, table, text, given, settings).await;
    // Whatever was made is undone, also where PostgreSQL refused.
    attempt.rollback().await.context("undo the check")?;
    catalog.roll_back().await.context("end the transaction")?;
    checked
}

async fn check_on_copy(
    attempt: &Traced<Transaction<'_>>,
    table: &CatalogTable,
    text: &str,
    given: &str,
    settings: Settings,
) -> Result<Option<RowCondition>, TriggerError> {
    let checking = || {
        let shown: String = given.chars().take(LONGEST_SHOWN).collect();
        format!("check the condition {shown:?} for {}", table.display_name())
    };
    // The text may call the table by its name. The names of what else is made here begin like
    // these.
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
        .map_err(|error| {
            let hint = match error.code() {
                Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                    "the check makes a temporary table: it takes TEMPORARY on the database and \
                    SELECT on the table"
                }
                Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    "another session holds the table, as a migration does: try again, or give \
                    --lock-timeout more"
                }
                Some(&SqlState::DUPLICATE_TABLE) => {
                    "this session has a temporary table of that name: try again in another session"
                }
                _ => return TriggerError::of(error),
            };
            TriggerError::of(error).with_hint(hint)
        })
        .with_context(checking)?;
    if settings == Settings::Pinned {
        pin(attempt).await.with_context(checking)?;
    }
    // The end of the line ends a comment in the text. A statement that is prepared is one
    // statement: the text cannot begin another.
    let index = format!("CREATE INDEX pgic_condition ON pg_temp.{name} ((1)) WHERE ({text}\n)");
    if let Err(error) = attempt.query_typed(&index, &[]).await {
        return Err(refused(error)).with_context(checking);
    }
    // Whatever the text was read under, PostgreSQL writes its literals under settings that never
    // change: '2020-02-01' would be '01/02/2020' to some.
    pin(attempt).await.with_context(checking)?;
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
        let error = TriggerError::new(format!(
            "{column} is computed when it is read, and triggers see NULL in it"
        ));
        return Err(error).with_context(checking);
    }
    if !is_contained(&sql) {
        let error = TriggerError::new(format!(
            "PostgreSQL writes it as {sql}, which cannot be put into a query"
        ));
        return Err(error).with_context(checking);
    }
    let (of_row, follows_path) = match qualified(&sql, table) {
        Some(of_row) => (of_row, false),
        None => (
            of_row(attempt, table, &name, &sql)
                .await
                .with_context(checking)?,
            true,
        ),
    };
    try_of_row(attempt, &name, &of_row)
        .await
        .with_context(checking)?;
    Ok(Some(RowCondition {
        given: given.to_string(),
        of_row,
        follows_path,
        sql,
        columns,
    }))
}

/// Makes the settings those under which literals are written and read alike by everybody.
async fn pin(attempt: &Traced<Transaction<'_>>) -> Result<(), tokio_postgres::Error> {
    let pinned = PINNED
        .iter()
        .filter(|(name, _)| *name != "search_path")
        .map(|(name, value)| format!("SET LOCAL {name} = {}", quote_literal(value)));
    let pinned: Vec<String> = pinned.collect();
    attempt.batch_execute(&pinned.join("; ")).await
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
) -> Result<String, TriggerError> {
    // A column of the second table that is called like one of the first could mean either.
    let mut other = "pgic_other".to_string();
    while table.columns.iter().any(|column| column.name == other) {
        other.push('_');
    }
    // A column may be called like a keyword of PL/pgSQL, which PostgreSQL would leave without
    // quotes.
    attempt
        .batch_execute("SET LOCAL quote_all_identifiers = on")
        .await?;
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
    let (start, rest) = texts[1].split_once("true").ok_or_else(unknown_view)?;
    // PostgreSQL begins a new line before CASE.
    let of_row = texts[0]
        .strip_prefix(start.trim_end())
        .and_then(|text| text.strip_suffix(rest))
        .map(|text| text.trim_start().to_string())
        .ok_or_else(unknown_view)?;
    Ok(of_row)
}

/// Returns the error for a view whose text is not as PostgreSQL writes views.
fn unknown_view() -> TriggerError {
    TriggerError::new("a view is written in an unknown way")
}

/// Runs a condition as the trigger will, for a row without values.
async fn try_of_row(
    attempt: &Traced<Transaction<'_>>,
    copy: &str,
    of_row: &str,
) -> Result<(), TriggerError> {
    let mut quote = "$pgic$".to_string();
    while of_row.contains(&quote) {
        quote.insert(1, 'x');
    }
    let tried = format!(
        "DO {quote} DECLARE {ROW_NAME} pg_temp.{copy}%ROWTYPE; fulfils pg_catalog.bool;
         BEGIN fulfils := ({of_row}) IS TRUE; END {quote}"
    );
    attempt.batch_execute(&tried).await.map_err(refused)
}

/// The most characters of a condition that an error shows.
const LONGEST_SHOWN: usize = 200;

/// Returns the error for a text that PostgreSQL refused, with what a condition may be.
fn refused(error: tokio_postgres::Error) -> TriggerError {
    let hint = match error.code() {
        Some(&SqlState::INVALID_OBJECT_DEFINITION) => {
            "the condition may call immutable functions alone: the same row must fulfil it today \
            and tomorrow, whoever asks"
        }
        Some(&SqlState::PROGRAM_LIMIT_EXCEEDED) => {
            "PostgreSQL takes conditions up to some thousand bytes, as for a partial index: compare \
            with a column of the table instead of a long list"
        }
        Some(&SqlState::UNDEFINED_FUNCTION | &SqlState::UNDEFINED_OBJECT) => {
            "names of other schemas than pg_catalog are written with their schema: app.is_hot(n), \
            'new'::app.state, a OPERATOR(public.=) b"
        }
        _ => "a condition is SQL on the columns of one row, such as deleted_at IS NULL",
    };
    TriggerError::of(error).with_hint(hint)
}
