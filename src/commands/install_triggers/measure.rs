//! [`update`]: what the triggers of a table cost, by an UPDATE of one row that changes nothing and
//! is rolled back.

use crate::failure::with_hint;
use crate::tables::catalog::CatalogTable;
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

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

/// Returns a role other than this one and superusers whose function a trigger of the table or of a
/// partition would run; `None` if there is none. Any holder of the privilege TRIGGER may have put
/// it there.
pub(in crate::commands) async fn foreign_owner(
    client: &Client,
    table: &CatalogTable,
) -> Result<Option<String>, Error> {
    const OWNERS: &str = "
        SELECT pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) p.proowner
        WHERE t.tgrelid OPERATOR(pg_catalog.=) ANY ($1) AND NOT t.tgisinternal
            AND t.tgenabled OPERATOR(pg_catalog.<>) 'D' AND NOT r.rolsuper
            AND r.rolname OPERATOR(pg_catalog.<>) current_user
        LIMIT 1";
    let leaves = table.leaves.iter().map(|leaf| leaf.oid);
    let relations: Vec<u32> = [table.oid].into_iter().chain(leaves).collect();
    let row = client
        .query_typed(OWNERS, &[(&relations, Type::OID_ARRAY)])
        .await?;
    Ok(row.first().map(|row| row.get(0)))
}

/// Returns a column that may be assigned its own value: not of the key, if there is another one.
pub(in crate::commands) async fn assigned_column(
    client: &Client,
    table: &CatalogTable,
) -> Result<Option<String>, Error> {
    const COLUMNS: &str = "
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0
            AND NOT a.attisdropped AND a.attgenerated OPERATOR(pg_catalog.=) ''
            AND a.attidentity OPERATOR(pg_catalog.<>) 'a'
        ORDER BY a.attname OPERATOR(pg_catalog.=) ANY ($2), a.attnum LIMIT 1";
    let key = table.key.iter().flat_map(|key| key.columns.clone());
    let key: Vec<String> = key.collect();
    let rows = client
        .query_typed(
            COLUMNS,
            &[(&table.oid, Type::OID), (&key, Type::NAME_ARRAY)],
        )
        .await?;
    Ok(rows.first().map(|row| row.get(0)))
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
