//! [`resolve`]: tables found by the names that people write, as PostgreSQL itself resolves them.

use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogTable, describe};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::catalog::{CatalogError, parse_name};
use tokio_postgres::types::Type;

/// How often the tables are described, if they are renamed in between each time.
const ATTEMPTS: usize = 5;

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`. A table that is named
/// twice is returned once.
///
/// # Errors
/// If a table does not exist. The hint names tables that may be meant.
pub async fn resolve(catalog: &Catalog<'_>, names: &[String]) -> anyhow::Result<Vec<CatalogTable>> {
    // A name is resolved in one statement and the table described in others. Without the second
    // look at the names:
    // 1. `users` is found to be table 1.
    // 2. Table 1 is renamed, and table 2 gets the name `users`.
    // 3. Table 1 is described, so the caller takes the wrong table for `users`.
    let mut found = find(catalog, names).await?;
    for _ in 0..ATTEMPTS {
        let tables = match describe(catalog, &found).await {
            // The table was dropped a moment ago, and another may have the name by now.
            Err(CatalogError::Gone(_)) => {
                found = find(catalog, names).await?;
                continue;
            }
            tables => tables?,
        };
        let again = find(catalog, names).await?;
        if again == found {
            return Ok(tables);
        }
        found = again;
    }
    Err(with_hint(
        anyhow!("the tables were renamed while they were described"),
        "try again",
    ))
}

/// Returns the oids of the tables that have these names now, each once.
async fn find(catalog: &Catalog<'_>, names: &[String]) -> anyhow::Result<Vec<u32>> {
    let mut oids = Vec::new();
    for name in names {
        match catalog.find(name).await {
            Ok(Some(oid)) if !oids.contains(&oid) => oids.push(oid),
            Ok(Some(_)) => {}
            Ok(None) => return Err(unknown(catalog, name).await),
            Err(error @ CatalogError::NoName(_)) => {
                let hint = "name it like users, app.users or '\"Odd Name\"' (quotes inside quotes, \
                    for the shell); the database is named with --database-url";
                return Err(with_hint(error, hint));
            }
            Err(error) => return Err(error).with_context(|| format!("find the table {name}")),
        }
    }
    Ok(oids)
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
/// or schema alone.
async fn unknown(catalog: &Catalog<'_>, name: &str) -> anyhow::Error {
    const SIMILAR: &str = "
        SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND pg_catalog.lower(c.relname) = pg_catalog.lower($1)
        ORDER BY 1 LIMIT 5";
    let error = anyhow!("the table {name} does not exist");
    let bare = parse_name(name)
        .and_then(|mut parts| parts.pop())
        .unwrap_or_default();
    // The hint is worth no second error.
    let similar: Vec<String> = match catalog.query_typed(SIMILAR, &[(&bare, Type::TEXT)]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(_) => Vec::new(),
    };
    let hint = match similar.as_slice() {
        [] => "check the name, the database and the search_path".to_string(),
        tables => format!("there is {}", tables.join(", ")),
    };
    with_hint(error, hint)
}
