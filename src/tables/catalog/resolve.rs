//! CatalogTable names as people write them, made into oids as PostgreSQL resolves them.

use crate::failure::with_hint;
use crate::tables::catalog::{Catalog, CatalogTable, describe};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::postgres::catalog::{CatalogError, parse_name};
use tokio_postgres::types::Type;

/// How often tables that are renamed meanwhile are described again.
const ATTEMPTS: usize = 5;

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`.
///
/// # Errors
/// When one of them does not exist; the hint names tables that may be meant.
pub async fn resolve(catalog: &Catalog<'_>, names: &[String]) -> anyhow::Result<Vec<CatalogTable>> {
    // What has a name may be renamed before it is described: then it is another table that has been
    // described.
    let mut found = find(catalog, names).await?;
    for _ in 0..ATTEMPTS {
        let tables = match describe(catalog, &found).await {
            // Dropped a moment ago; another may have the name by now.
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

/// The oids of the tables of these names, each once.
async fn find(catalog: &Catalog<'_>, names: &[String]) -> anyhow::Result<Vec<u32>> {
    let mut oids = Vec::new();
    for name in names {
        match catalog.find(name).await {
            Ok(Some(oid)) if !oids.contains(&oid) => oids.push(oid),
            Ok(Some(_)) => {}
            Ok(None) => return Err(unknown(catalog, name).await),
            Err(error @ CatalogError::NoName(_)) => {
                let hint = "name it like users, app.users or '\"Odd Name\"' (quotes inside quotes, \
                    for the shell); the \
                    database is named with --database-url";
                return Err(with_hint(error, hint));
            }
            Err(error) => return Err(error).with_context(|| format!("find the table {name}")),
        }
    }
    Ok(oids)
}

/// The same for one table.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_one(catalog: &Catalog<'_>, name: &str) -> anyhow::Result<CatalogTable> {
    let mut tables = resolve(catalog, &[name.to_string()]).await?;
    tables
        .pop()
        .with_context(|| format!("the table {name} was dropped a moment ago"))
}

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
