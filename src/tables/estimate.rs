//! [`memory`]: the memory that a cache will take, estimated before the table is loaded.

use crate::tables::PlannedCache;
use crate::tables::catalog::{Catalog, CatalogTable};
use anyhow::Context as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Bytes of an entry in a key table or an index, with the free entries that growth leaves.
const ENTRY: usize = 9;
/// Bytes of a record for its slot and its length. A record holds the cells of a row that have no
/// fixed width, each with four more bytes for a length.
const RECORD: usize = 8;
/// The assumed width in bytes of a value of no fixed length, if there are no statistics.
const UNKNOWN_WIDTH: usize = 32;

/// Returns the bytes that the cache of a table will take, estimated from the catalogue's
/// statistics.
///
/// # Errors
/// If the server refuses.
pub async fn memory(
    catalog: &mut Catalog<'_>,
    PlannedCache {
        table,
        shape,
        indexed,
    }: &PlannedCache<'_>,
) -> anyhow::Result<usize> {
    let varying: Vec<&str> = shape
        .columns()
        .iter()
        .filter(|column| column.kind.width().is_none())
        .map(|column| column.name.as_str())
        .collect();
    let record = if varying.is_empty() {
        0
    } else {
        RECORD + 4 * varying.len() + varying_width(catalog, table, &varying).await?
    };
    // The key table, and the indexes that loading builds. Others are built on first use.
    let columns = 0..shape.columns().len();
    let indexes = 1 + columns.filter(|&column| indexed.has(shape, column)).count();
    let row = shape.stride() + record + indexes * ENTRY;
    let rows = match table.estimated_rows {
        Some(rows) => rows as usize,
        // Neither ANALYZE nor the statistics know the table. A row on disk takes at least 28 bytes
        // and its values of fixed width, so this is the largest possible number.
        None => disk_bytes(catalog, table).await? / (28 + shape.stride()),
    };
    Ok(rows.saturating_mul(row))
}

/// Returns about how many bytes the values of columns of no fixed width take in a row.
async fn varying_width(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    columns: &[&str],
) -> anyhow::Result<usize> {
    let statistics = catalog
        .query_typed_one(
            "SELECT count(*), coalesce(sum(avg_width), 0)::int8 FROM pg_catalog.pg_stats
             WHERE schemaname = $1 AND tablename = $2 AND attname = ANY ($3::name[]) AND NOT \
             inherited",
            &[
                (&table.schema, Type::NAME),
                (&table.name, Type::NAME),
                (&columns, Type::TEXT_ARRAY),
            ],
        )
        .await
        .context("read the statistics of the table")?;
    let known: i64 = statistics.get(0);
    let width: i64 = statistics.get(1);
    let unknown = columns.len().saturating_sub(known as usize);
    Ok(width as usize + unknown * UNKNOWN_WIDTH)
}

/// Returns the bytes that a table's rows take on disk; 0 if the size is not known, because another
/// session locks the table.
async fn disk_bytes(catalog: &mut Catalog<'_>, table: &CatalogTable) -> anyhow::Result<usize> {
    let mut relations: Vec<u32> = table.leaves.iter().map(|leaf| leaf.oid).collect();
    relations.push(table.oid);
    let doing = "ask for a table's size";
    // pg_relation_size opens the table, which waits for a session that holds ACCESS EXCLUSIVE.
    // A savepoint keeps the failure, and the lock, out of the caller's transaction.
    let attempt = catalog.attempt().await.context(doing)?;
    attempt
        .batch_execute("SET LOCAL lock_timeout = '2s'")
        .await
        .context(doing)?;
    let sql = "SELECT sum(pg_catalog.pg_relation_size(oid))::int8 FROM pg_catalog.unnest($1) oid";
    let size = attempt
        .query_typed_one(sql, &[(&relations, Type::OID_ARRAY)])
        .await;
    // To roll back releases the locks that the size took.
    attempt.rollback().await.context(doing)?;
    match size {
        Ok(size) => Ok(size.get::<_, Option<i64>>(0).unwrap_or(0) as usize),
        // An estimate is not worth more waiting. The driver bounds the memory while it loads, too.
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(0),
        Err(error) => Err(error).context(doing),
    }
}

/// Returns the memory that caches may take unless `--max-memory` says otherwise: a quarter of the
/// machine's, in bytes.
pub fn default_limit() -> usize {
    const FALLBACK: usize = 1 << 30;
    total_memory().map_or(FALLBACK, |total| total / 4)
}

/// Returns the machine's memory in bytes: from `/proc` on Linux, from `sysctl` on macOS.
fn total_memory() -> Option<usize> {
    if let Ok(text) = std::fs::read_to_string("/proc/meminfo") {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        return line
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<usize>()
            .ok()
            .map(|kilobytes| kilobytes * 1024);
    }
    let output = std::process::Command::new("sysctl")
        .args(["-n", "hw.memsize"])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Returns a number of bytes for people: `999 B`, `1.5 KB`.
pub fn human(bytes: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1536), "1.5 KB");
        assert_eq!(human(3 << 30), "3.0 GB");
        assert!(default_limit() > 1 << 20);
    }
}
