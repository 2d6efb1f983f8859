//! Tables as PostgreSQL describes them, found by the names that people write; what describes them
//! is the core's.

mod resolve;

use anyhow::Context as _;
pub use postgres_index_cache_core::postgres::catalog::{
    Catalog, CatalogAccess, CatalogColumn, CatalogKey, CatalogTable, Enabled, Function, Leaf,
    RelationKind, Trigger, describe, find_function,
};
pub use resolve::{resolve, resolve_one};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// Begins a transaction that reads the catalogue.
///
/// # Errors
/// What the server says.
pub async fn reading(client: &mut Client) -> anyhow::Result<Catalog<'_>> {
    Catalog::begin(client, CatalogAccess::ReadOnly)
        .await
        .context("begin a transaction")
}

/// The oids of all tables that have a trigger which calls a function of the given kind of name, by
/// schema and name.
///
/// # Errors
/// When the server refuses.
pub async fn tables_with_triggers(catalog: &Catalog<'_>) -> anyhow::Result<Vec<u32>> {
    let rows = catalog
        .query_typed(include_str!("catalog/announcing.sql"), &[])
        .await
        .context("read the catalogue")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The oids of all tables of a schema that can have triggers: no temporary ones, no partitions.
///
/// # Errors
/// When there is no such schema, or the server refuses.
pub async fn tables_of_schema(catalog: &Catalog<'_>, name: &str) -> anyhow::Result<Vec<u32>> {
    let schema = [(&name as &(dyn ToSql + Sync), Type::NAME)];
    let rows = catalog
        .query_typed(include_str!("catalog/of_schema.sql"), &schema)
        .await
        .context("read the catalogue")?;
    if rows.is_empty() {
        let exists = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1";
        let found = catalog
            .query_typed_opt(exists, &schema)
            .await
            .context("read the catalogue")?;
        anyhow::ensure!(found.is_some(), "the schema {name} does not exist");
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The server's version as a number: 150018 is 15.18.
///
/// # Errors
/// When the server refuses.
pub async fn version_number(catalog: &Catalog<'_>) -> anyhow::Result<i32> {
    let row = catalog
        .query_typed_one(
            "SELECT pg_catalog.current_setting('server_version_num')::int4",
            &[],
        )
        .await;
    Ok(row.context("ask for the server's version")?.get(0))
}
