//! How many rows come near the payload limit: those are announced without their data, or will be
//! soon.

use crate::tables::catalog::{self, CatalogTable, RelationKind};
use crate::triggers::TriggerOptions;
use postgres_index_cache_core::CellType;
use postgres_index_cache_core::postgres::catalog::foreign_code;
use postgres_index_cache_core::postgres::quote_identifier;
use tokio_postgres::Client;

/// How many rows are looked at, at most.
const SAMPLE: u64 = 1_000;
/// From this many bytes of values on, a row is near the 7999 bytes that a payload may have.
const NEAR: u32 = 7_000;

/// What a sample shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NearLimit {
    /// Rows near the limit.
    pub(super) rows: i64,
    /// Rows looked at.
    pub(super) sampled: i64,
}

/// Looks at a bounded sample of a table. It takes stored sizes, so that no long value is read;
/// `None` where the table cannot be read in time or at all: this is for information.
pub(super) async fn sample(
    client: &mut Client,
    table: &CatalogTable,
    options: &TriggerOptions,
) -> Option<NearLimit> {
    // What a view computes is somebody's code.
    if !matches!(table.kind, RelationKind::Table | RelationKind::Partitioned) {
        return None;
    }
    let varying = table
        .columns
        .iter()
        .filter(|column| column.is_varlena && !column.is_virtual && options.sends(&column.name));
    // The length of a text is known without reading it, compressed as it may be; of other types the
    // stored size is.
    let size_of = |kind| {
        if matches!(kind, CellType::Text | CellType::Bytea) {
            "octet_length"
        } else {
            "pg_column_size"
        }
    };
    let sizes: Vec<String> = varying
        .map(|column| {
            let size = size_of(column.kind);
            let name = quote_identifier(&column.name);
            format!("coalesce(pg_catalog.{size}(t.{name}), 0)")
        })
        .collect();
    let size = if sizes.is_empty() {
        "0".to_string()
    } else {
        sizes.join(" + ")
    };
    let only = if table.kind == RelationKind::Partitioned {
        ""
    } else {
        "ONLY "
    };
    // Twice as many as are wanted, since a sample of pages varies.
    let percent = table
        .estimated_rows
        .filter(|rows| *rows > SAMPLE)
        .map_or(100.0, |rows| 200.0 * SAMPLE as f64 / rows as f64);
    let sql = format!(
        "SELECT count(*) FILTER (WHERE size > {NEAR}), count(*)
         FROM (SELECT {size} AS size FROM {only}{} t TABLESAMPLE SYSTEM ({:.6}) LIMIT {SAMPLE}) \
         sample",
        table.sql_name(),
        percent.min(100.0)
    );
    let catalog = catalog::reading(client).await.ok()?;
    catalog
        .batch_execute("SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '500ms'")
        .await
        .ok()?;
    if table.is_distrusted {
        // Nobody may make an index with a function of its own before the query is planned.
        let lock = format!(
            "LOCK TABLE {only}{} IN SHARE UPDATE EXCLUSIVE MODE",
            table.sql_name()
        );
        catalog.batch_execute(&lock).await.ok()?;
        if foreign_code(&*catalog, table.oid).await.ok()?.is_some() {
            return None;
        }
    }
    let row = catalog.query_typed_one(&sql, &[]).await.ok()?;
    Some(NearLimit {
        rows: row.get(0),
        sampled: row.get(1),
    })
}
