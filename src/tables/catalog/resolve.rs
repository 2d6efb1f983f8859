//! [`resolve`]: tables found by the names that people write, as PostgreSQL itself resolves them.

use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogTable, describe};
use crate::tables::nearest::nearest;
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::catalog::{CatalogError, parse_name};

/// The most tables that a hint names.
const LONGEST_LIST: usize = 5;

/// How often the tables are described, if they are renamed in between each time.
const ATTEMPTS: usize = 5;

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`. A table that is named
/// twice is returned once.
///
/// # Errors
/// If a table does not exist. The hint names tables that may be meant.
pub async fn resolve(catalog: &Catalog<'_>, names: &[String]) -> anyhow::Result<Vec<CatalogTable>> {
    // A name is resolved in one statement and the table described in others. Unless all of them see
    // the catalogue as of one moment, without the second look at the names:
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
        if catalog.is_of_one_moment() {
            return Ok(tables);
        }
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
