//! Table names as people write them, made into oids as PostgreSQL resolves them.

use super::{Table, describe};
use crate::failure::{HintExt as _, with_hint};
use anyhow::{Context as _, anyhow};
use tokio_postgres::GenericClient;

/// Makes a session safe from what a schema on its search_path holds, and remembers the path: names that people write are
/// resolved by it.
pub const REMEMBER_PATH: &str =
    "SELECT pg_catalog.set_config('pgic.search_path', pg_catalog.current_setting('search_path'), false);
    SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)";
/// Goes back to the path that was remembered.
pub const USER_PATH: &str = "SELECT pg_catalog.set_config('search_path',
    coalesce(pg_catalog.current_setting('pgic.search_path', true), pg_catalog.current_setting('search_path')), false)";
const SAFE_PATH: &str = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)
    WHERE pg_catalog.current_setting('pgic.search_path', true) IS NOT NULL";

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`.
///
/// # Errors
/// When one of them does not exist; the hint names tables that may be meant.
pub async fn resolve(client: &impl GenericClient, names: &[String]) -> anyhow::Result<Vec<Table>> {
    let mut oids: Vec<u32> = Vec::new();
    for name in names {
        client.batch_execute(USER_PATH).await.context("use the session's own search_path")?;
        let row = client.query_one("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[name]).await;
        client.batch_execute(SAFE_PATH).await.context("leave the session's own search_path")?;
        let row = row
            .with_context(|| format!("find the table {name}"))
            .hint("name it like users, app.users or '\"Odd Name\"' (quotes inside quotes, for the shell)")?;
        match row.get::<_, Option<u32>>(0) {
            Some(oid) if !oids.contains(&oid) => oids.push(oid),
            Some(_) => {}
            None => return Err(unknown(client, name).await),
        }
    }
    Ok(describe(client, &oids).await?)
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
