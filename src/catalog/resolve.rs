//! Table names as people write them, made into oids as PostgreSQL resolves them.

use super::{Table, describe};
use crate::failure::{HintExt as _, with_hint};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::postgres::catalog::CatalogError;
use tokio_postgres::GenericClient;

/// Makes a session safe from what a schema on its search_path holds, and remembers the path: names that people write are
/// resolved by it.
pub const REMEMBER_PATH: &str =
    "SELECT pg_catalog.set_config('pgic.search_path', pg_catalog.current_setting('search_path'), false);
    SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)";
/// Goes back to the path that was remembered.
pub const USER_PATH: &str = "SELECT pg_catalog.set_config('search_path',
    coalesce(pg_catalog.current_setting('pgic.search_path', true), pg_catalog.current_setting('search_path')), false)";
/// How often tables that are renamed meanwhile are described again.
const ATTEMPTS: usize = 5;
const SAFE_PATH: &str = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)
    WHERE pg_catalog.current_setting('pgic.search_path', true) IS NOT NULL";

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`.
///
/// # Errors
/// When one of them does not exist; the hint names tables that may be meant.
pub async fn resolve(client: &impl GenericClient, names: &[String]) -> anyhow::Result<Vec<Table>> {
    // What has a name may be renamed before it is described: then it is another table that has been described.
    let mut found = find(client, names).await?;
    for _ in 0..ATTEMPTS {
        let tables = match describe(client, &found).await {
            // Dropped a moment ago; another may have the name by now.
            Err(CatalogError::Gone(_)) => {
                found = find(client, names).await?;
                continue;
            }
            tables => tables?,
        };
        let again = find(client, names).await?;
        if again == found {
            return Ok(tables);
        }
        found = again;
    }
    Err(with_hint(anyhow!("the tables were renamed while they were described"), "try again"))
}

/// The oids of the tables of these names, each once.
async fn find(client: &impl GenericClient, names: &[String]) -> anyhow::Result<Vec<u32>> {
    client.batch_execute(USER_PATH).await.context("use the session's own search_path")?;
    let found = find_by_path(client, names).await;
    let left = client.batch_execute(SAFE_PATH).await.context("leave the session's own search_path");
    let (found, ()) = (found?, left?);
    let (mut oids, mut missing) = (Vec::new(), None);
    for (name, oid) in names.iter().zip(found) {
        match oid {
            Some(oid) if !oids.contains(&oid) => oids.push(oid),
            Some(_) => {}
            None => missing = missing.or(Some(name)),
        }
    }
    match missing {
        Some(name) => Err(unknown(client, name).await),
        None => Ok(oids),
    }
}

async fn find_by_path(client: &impl GenericClient, names: &[String]) -> anyhow::Result<Vec<Option<u32>>> {
    let mut oids = Vec::new();
    for name in names {
        let row = client.query_one("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[name]).await;
        let row = row
            .with_context(|| format!("find the table {name}"))
            .hint("name it like users, app.users or '\"Odd Name\"' (quotes inside quotes, for the shell)")?;
        oids.push(row.get(0));
    }
    Ok(oids)
}

/// The same for one table.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_one(client: &impl GenericClient, name: &str) -> anyhow::Result<Table> {
    let mut tables = resolve(client, &[name.to_string()]).await?;
    tables.pop().with_context(|| format!("the table {name} was dropped a moment ago"))
}

async fn unknown(client: &impl GenericClient, name: &str) -> anyhow::Error {
    const SIMILAR: &str = "
        SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND pg_catalog.lower(c.relname) = pg_catalog.lower($1)
        ORDER BY 1 LIMIT 5";
    let error = anyhow!("the table {name} does not exist");
    let bare = name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_string();
    let similar: Vec<String> = match client.query(SIMILAR, &[&bare]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(_) => Vec::new(),
    };
    let hint = match similar.as_slice() {
        [] => "check the name, the database and the search_path".to_string(),
        tables => format!("there is {}", tables.join(", ")),
    };
    with_hint(error, hint)
}
