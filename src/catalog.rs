//! Tables as PostgreSQL describes them, found by the names that people write; what describes them is the core's.

mod resolve;

use anyhow::Context as _;
pub use postgres_index_cache_core::postgres::catalog::{
    Column, Enabled, Function, Key, Leaf, RelationKind, Table, Trigger, describe, find_function,
};
pub use resolve::{REMEMBER_PATH, USER_PATH, resolve, resolve_one};
use tokio_postgres::{Client, GenericClient};

/// The oids of all tables that have a trigger which calls a function of the given kind of name, by schema and name.
///
/// # Errors
/// When the server refuses.
pub async fn tables_with_triggers(client: &Client) -> anyhow::Result<Vec<u32>> {
    let rows = client.query(include_str!("catalog/announcing.sql"), &[]).await.context("read the catalogue")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The oids of all tables of a schema that can have triggers: no temporary ones, no partitions.
///
/// # Errors
/// When there is no such schema, or the server refuses.
pub async fn tables_of_schema(client: &Client, schema: &str) -> anyhow::Result<Vec<u32>> {
    let rows = client.query(include_str!("catalog/of_schema.sql"), &[&schema]).await.context("read the catalogue")?;
    if rows.is_empty() {
        let exists = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1";
        let found = client.query_opt(exists, &[&schema]).await.context("read the catalogue")?;
        anyhow::ensure!(found.is_some(), "the schema {schema} does not exist");
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Describes tables that are there already, in this order.
///
/// # Errors
/// When one of them is gone, or the server refuses.
pub async fn describe_all(client: &Client, oids: &[u32]) -> anyhow::Result<Vec<Table>> {
    let tables = describe(client, oids).await?;
    anyhow::ensure!(tables.len() == oids.len(), "a table was dropped");
    Ok(tables)
}

/// The server's version as a number: 150018 is 15.18.
///
/// # Errors
/// When the server refuses.
pub async fn version_number(client: &impl GenericClient) -> anyhow::Result<i32> {
    let row = client.query_one("SELECT pg_catalog.current_setting('server_version_num')::int4", &[]).await;
    Ok(row.context("ask for the server's version")?.get(0))
}
