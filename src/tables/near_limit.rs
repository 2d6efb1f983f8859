//! Counts rows that come near the payload limit: they are announced without their data, or will be
//! once they grow a little. The same sample finds numbers that some readers of payloads round.

use crate::tables::catalog::{Catalog, CatalogAccess, CatalogColumn, CatalogTable, RelationKind};
use crate::triggers::TriggerOptions;
use postgres_index_cache_core::tooling::CellType;
use postgres_index_cache_core::tooling::postgres::catalog::foreign_code;
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use tokio_postgres::Client;

/// The most rows that are sampled.
const SAMPLE: u64 = 1_000;
/// The bytes of values past which a row is near the limit. A payload may have 7999 bytes; the rest
/// is for names, quotes and the fields around the row.
const NEAR: u32 = 7_000;
/// The largest number that JavaScript tells from its neighbours (`Number.MAX_SAFE_INTEGER`).
const LARGEST_SAFE: u64 = (1 << 53) - 1;

/// The result of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearLimit {
    /// The number of sampled rows that are near the limit.
    pub rows: i64,
    /// The number of rows that were sampled.
    pub sampled: i64,
    /// The columns that are sent and have a number past 2^53 in the sample. JavaScript has numbers
    /// of 53 bits, and rounds it.
    pub unsafe_numbers: Vec<String>,
}

/// Counts the rows near the limit in a bounded sample of a table. Stored sizes are enough for that,
/// so no long value is read.
///
/// `None` if the table cannot be read at all, or not in time: the number is for information, and no
/// reason for `status` to fail.
pub async fn sample(
    client: &mut Client,
    table: &CatalogTable,
    options: &TriggerOptions,
) -> Option<NearLimit> {
    // To read a view would run its owner's code.
    if !matches!(table.kind, RelationKind::Table | RelationKind::Partitioned) {
        return None;
    }
    let varying = table
        .columns
        .iter()
        .filter(|column| column.is_varlena && !column.is_virtual && options.sends(&column.name));
    let sizes: Vec<String> = varying
        .map(|column| {
            // PostgreSQL knows the length of a text without decompressing it. Of other types it
            // knows the stored size alone, which is smaller if the value is compressed.
            let size = match column.kind {
                CellType::Text | CellType::Bytea => "octet_length",
                _ => "pg_column_size",
            };
            let name = quote_identifier(&column.name);
            format!("coalesce(pg_catalog.{size}(t.{name}), 0)")
        })
        .collect();
    let size = if sizes.is_empty() {
        "0".to_string()
    } else {
        sizes.join(" + ")
    };
    // Names of columns with numbers that may have more than 53 bits.
    let numbers: Vec<&str> = table
        .columns
        .iter()
        .filter(|_| !options.long_numbers_as_text)
        .filter(|column| matches!(column.kind, CellType::Int8 | CellType::Numeric))
        .filter(|column| {
            !column.is_virtual && (options.sends(&column.name) || is_key(table, column))
        })
        .map(|column| column.name.as_str())
        .collect();
    let (values, counts): (String, String) = numbers
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let name = quote_identifier(name);
            (
                format!(", t.{name} AS n{at}"),
                // NaN is greater than every number, and is sent as a text.
                format!(
                    ", count(*) FILTER (WHERE (n{at} > {LARGEST_SAFE} OR n{at} < -{LARGEST_SAFE}) \
                     AND n{at}::text NOT IN ('NaN', 'Infinity', '-Infinity'))"
                ),
            )
        })
        .unzip();
    let only = if table.kind == RelationKind::Partitioned {
        ""
    } else {
        "ONLY "
    };
    // TABLESAMPLE SYSTEM takes whole pages, so the number of rows varies: ask for twice as many.
    let percent = table
        .estimated_rows
        .filter(|rows| *rows > SAMPLE)
        .map_or(100.0, |rows| 200.0 * SAMPLE as f64 / rows as f64);
    let sql = format!(
        "SELECT count(*) FILTER (WHERE size > {NEAR}), count(*){counts}
         FROM (SELECT {size} AS size{values} FROM {only}{} t TABLESAMPLE SYSTEM ({:.6}) LIMIT {SAMPLE}) \
         sample",
        table.sql_name(),
        percent.min(100.0)
    );
    // Not under one snapshot: it would be older than the lock, and would not see an index that was
    // made before the lock was had.
    let latest = CatalogAccess::ReadLatest;
    let catalog = Catalog::begin(client, latest).await.ok()?;
    catalog
        .batch_execute("SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '500ms'")
        .await
        .ok()?;
    if table.is_distrusted {
        // 1. We look for code of others on the table, and find none. 2. Its owner makes an index
        // with a function. 3. The planner evaluates that function, with our rights. So lock new
        // indexes out before we look.
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
    let unsafe_numbers = numbers.iter().enumerate();
    let unsafe_numbers = unsafe_numbers.filter(|(at, _)| row.get::<_, i64>(2 + at) > 0);
    Some(NearLimit {
        rows: row.get(0),
        sampled: row.get(1),
        unsafe_numbers: unsafe_numbers
            .map(|(_, name)| (*name).to_string())
            .collect(),
    })
}

/// Tells whether a column is of the key, which is always sent.
fn is_key(table: &CatalogTable, column: &CatalogColumn) -> bool {
    table
        .key
        .iter()
        .any(|key| key.columns.contains(&column.name))
}
