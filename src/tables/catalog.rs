//! Tables found by the names that people write, by schema, or by their triggers. The core's
//! [`describe`] reads their definitions.

mod resolve;

use crate::failure::with_hint;
use crate::tables::nearest::nearest;
use anyhow::Context as _;
pub use postgres_index_cache_core::tooling::postgres::catalog::{
    Catalog, CatalogAccess, CatalogColumn, CatalogKey, CatalogTable, Enabled, Function, Leaf,
    RelationKind, Trigger, are_as_described, describe, find_functions, refresh_triggers,
};
pub use resolve::{resolve, resolve_one};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// Begins a read-only transaction for queries of the catalogue.
///
/// # Errors
/// If the server refuses.
pub async fn reading(client: &mut Client) -> anyhow::Result<Catalog<'_>> {
    Catalog::begin(client, CatalogAccess::ReadOnly)
        .await
        .context("begin a transaction")
}

/// Returns the oids of all tables with an announcing trigger, ordered by schema and name.
///
/// # Errors
/// If the server refuses.
pub async fn tables_with_triggers(catalog: &Catalog<'_>) -> anyhow::Result<Vec<u32>> {
    let rows = catalog
        .query_typed(include_str!("catalog/announcing.sql"), &[])
        .await
        .context("read the catalogue")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A table of a schema.
#[derive(Debug)]
pub struct SchemaTable {
    /// The table's oid.
    pub oid: u32,
    /// The extension that the table is a part of, if it is.
    pub extension: Option<String>,
}

/// Returns all tables of a schema that can have announcing triggers of their own: neither temporary
/// tables nor partitions.
///
/// # Errors
/// If there is no such schema, or the server refuses.
pub async fn tables_of_schema(
    catalog: &Catalog<'_>,
    name: &str,
) -> anyhow::Result<Vec<SchemaTable>> {
    let schema = [(&name as &(dyn ToSql + Sync), Type::NAME)];
    let rows = catalog
        .query_typed(include_str!("catalog/of_schema.sql"), &schema)
        .await
        .context("read the catalogue")?;
    if rows.is_empty() {
        // A misspelt schema is an error, an empty one is not.
        let exists = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1";
        let found = catalog
            .query_typed_opt(exists, &schema)
            .await
            .context("read the catalogue")?;
        if found.is_none() {
            return Err(unknown_schema(catalog, name).await);
        }
    }
    let tables = rows.iter().map(|row| SchemaTable {
        oid: row.get(0),
        extension: row.get(1),
    });
    Ok(tables.collect())
}

/// Returns the names of all tables that can be announced, with their schemas, and without if the
/// search_path leads to them.
///
/// # Errors
/// If the server refuses.
pub async fn table_names(catalog: &Catalog<'_>) -> anyhow::Result<Vec<String>> {
    const TABLES: &str = "
        SELECT n.nspname::text, c.relname::text, n.nspname = ANY ($1::text::name[])
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        ORDER BY 1, 2";
    let searched = catalog.searched_schemas();
    let searched = [(&searched as &(dyn ToSql + Sync), Type::TEXT)];
    let rows = catalog.query_typed(TABLES, &searched).await?;
    let mut names = Vec::new();
    for row in &rows {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        names.push(format!("{schema}.{name}"));
        if row.get(2) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Returns the names of all schemas but those of the system.
///
/// # Errors
/// If the server refuses.
pub async fn schema_names(catalog: &Catalog<'_>) -> anyhow::Result<Vec<String>> {
    const SCHEMAS: &str = "SELECT nspname::text FROM pg_catalog.pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1";
    let rows = catalog.query_typed(SCHEMAS, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns the error for a schema that does not exist, with the nearest name.
async fn unknown_schema(catalog: &Catalog<'_>, name: &str) -> anyhow::Error {
    let error = anyhow::anyhow!("the schema {name} does not exist");
    // The hint is worth no second error.
    let names = schema_names(catalog).await.unwrap_or_default();
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => with_hint(error, format!("{near} may be meant")),
        None => with_hint(error, format!("the schemas are {}", names.join(", "))),
    }
}
