//! [`update`]: what the triggers of a table cost, by an UPDATE of one row that changes nothing and
//! is rolled back.

use crate::failure::with_hint;
use crate::tables::catalog::CatalogTable;
use crate::tables::touch::{assigned_column, foreign_owner};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// How often a row is updated. The least time counts: the first compiles the functions, and others
/// may have waited for something.
const TRIES: usize = 7;

/// The times of an UPDATE, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Times {
    /// The whole statement.
    pub(super) statement: f64,
    /// All triggers of the table together.
    pub(super) triggers: f64,
}

/// Updates one row of a table, with the values that it has, and rolls back. Nothing is announced:
/// NOTIFY takes effect at a commit (manual, NOTIFY). Returns `None` for a table without rows.
///
/// # Errors
/// If no lock is had in a second, if the triggers are those of a role that is not trusted, or if
/// the server refuses.
pub(super) async fn update(
    client: &mut Client,
    table: &CatalogTable,
) -> anyhow::Result<Option<Times>> {
    let measuring = || format!("measure {}", table.display_name());
    let who = foreign_owner(client, table).await.with_context(measuring)?;
    if let Some(who) = who {
        let error = anyhow!(
            "a trigger of {} runs a function of {who}, which would run as the role of this session",
            table.display_name()
        );
        return Err(with_hint(error, "leave --measure out")).with_context(measuring);
    }
    let assigned = assigned_column(client, table)
        .await
        .with_context(measuring)?;
    let Some(column) = assigned else {
        return Ok(None);
    };
    let mut best: Option<Times> = None;
    let transaction = client.transaction().await.with_context(measuring)?;
    transaction
        .batch_execute("SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'")
        .await
        .with_context(measuring)?;
    let name = table.sql_name();
    let column = quote_identifier(&column);
    // The path is that of the session, since the triggers of others may need it: no operator is
    // looked up in it.
    let sql = format!(
        "EXPLAIN (ANALYZE, FORMAT JSON) UPDATE {name} SET {column} = {column} WHERE ROW (tableoid, \
         ctid) OPERATOR(pg_catalog.=) (SELECT tableoid, ctid FROM {name} LIMIT 1)"
    );
    for _ in 0..TRIES {
        let row = transaction.query_one(&sql, &[]).await;
        let plan: Json = row.and_then(|row| row.try_get(0)).with_context(measuring)?;
        let Some(times) = times(&plan.0) else {
            break;
        };
        if best.is_none_or(|best| times.statement < best.statement) {
            best = Some(times);
        }
    }
    transaction.rollback().await.with_context(measuring)?;
    Ok(best)
}

/// Reads the times from the plan of EXPLAIN; `None` if no row was updated.
fn times(plan: &Value) -> Option<Times> {
    let plan = &plan[0];
    let triggers = plan["Triggers"].as_array()?;
    let is_empty = plan["Plan"]["Plans"][0]["Actual Rows"].as_f64() == Some(0.0);
    let time = |value: &Value| value.as_f64();
    (!is_empty).then_some(Times {
        statement: time(&plan["Execution Time"])?,
        triggers: triggers
            .iter()
            .filter_map(|trigger| time(&trigger["Time"]))
            // An empty sum of floats is -0.
            .sum::<f64>()
            .max(0.0),
    })
}

/// A value of type `json`.
struct Json(Value);

impl<'a> tokio_postgres::types::FromSql<'a> for Json {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}
