//! [`resolve`]: tables found by the names that people write, as PostgreSQL itself resolves them.

use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogTable};
use crate::tables::nearest::nearest;
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::catalog as core_catalog;
use postgres_index_cache_core::tooling::postgres::catalog::{CatalogError, parse_name};

/// The most tables that a hint names.
const LONGEST_LIST: usize = 5;

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`. A table that is named
/// twice is returned once.
///
/// # Errors
/// If a table does not exist. The hint names tables that may be meant.
pub async fn resolve(catalog: &Catalog<'_>, names: &[String]) -> anyhow::Result<Vec<CatalogTable>> {
    let error = match core_catalog::resolve(catalog, names).await {
        Ok(tables) => return Ok(tables),
        Err(error) => error,
    };
    Err(match error {
        CatalogError::NoTable(name) => unknown(catalog, &name).await,
        CatalogError::NoName(_) => {
            let hint = "name it like users, app.users or '\"Odd Name\"' (quotes inside quotes, for \
                the shell); the database is named with --database-url";
            with_hint(error, hint)
        }
        _ => error.into(),
    })
}

/// Finds and describes one table; see [`resolve`].
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_one(catalog: &Catalog<'_>, name: &str) -> anyhow::Result<CatalogTable> {
    let mut tables = resolve(catalog, &[name.to_string()]).await?;
    tables
        .pop()
        .with_context(|| format!("the table {name} was dropped a moment ago"))
}

/// Returns the error for a name that no table has. The hint lists tables whose names differ in case
/// or schema alone, else the table with the nearest name.
async fn unknown(catalog: &Catalog<'_>, name: &str) -> anyhow::Error {
    const TABLES: &str = "
        SELECT c.relname::text, pg_catalog.format('%I.%I', n.nspname, c.relname)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        ORDER BY 2";
    let error = anyhow!("the table {name} does not exist");
    let bare = parse_name(name)
        .and_then(|mut parts| parts.pop())
        .unwrap_or_default();
    // The hint is worth no second error.
    let rows = catalog.query_typed(TABLES, &[]).await.unwrap_or_default();
    let tables: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted = bare.to_lowercase();
    let mut meant: Vec<&str> = tables
        .iter()
        .filter(|(name, _)| name.to_lowercase() == wanted)
        .map(|(_, qualified)| qualified.as_str())
        .take(LONGEST_LIST)
        .collect();
    if meant.is_empty() {
        let near = nearest(&bare, tables.iter().map(|(name, _)| name.as_str()));
        let near = tables.iter().find(|(name, _)| Some(name.as_str()) == near);
        meant.extend(near.map(|(_, qualified)| qualified.as_str()));
    }
    let hint = match meant.as_slice() {
        [] => "check the name, the database and the search_path".to_string(),
        tables => format!("there is {}", tables.join(", ")),
    };
    with_hint(error, hint)
}
