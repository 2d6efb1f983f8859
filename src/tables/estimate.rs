//! What a cache will take, before it is loaded.

use crate::tables::catalog::{Catalog, CatalogTable};
use anyhow::Context as _;
use postgres_index_cache_core::TableShape;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Bytes of an entry in a key table or an index, at the fill that growth leaves.
const ENTRY: usize = 9;
/// Bytes of a record beside its cells: slot, length; and the length of each cell.
const RECORD: usize = 8;
/// What a value of no fixed length is taken for when nothing is known of it.
const UNKNOWN_WIDTH: usize = 32;

/// The bytes that the cache of a table will take, as far as the catalogue's statistics tell.
///
/// # Errors
/// When the server refuses.
pub async fn memory(
    catalog: &mut Catalog<'_>,
    table: &CatalogTable,
    shape: &TableShape,
) -> anyhow::Result<usize> {
    let varying: Vec<&str> = shape
        .columns()
        .iter()
        .filter(|column| column.kind.width().is_none())
        .map(|column| column.name.as_str())
        .collect();
    let statistics = catalog
        .query_typed_one(
            "SELECT count(*), coalesce(sum(avg_width), 0)::int8 FROM pg_catalog.pg_stats
             WHERE schemaname = $1 AND tablename = $2 AND attname = ANY ($3::name[]) AND NOT \
             inherited",
            &[
                (&table.schema, Type::NAME),
                (&table.name, Type::NAME),
                (&varying, Type::TEXT_ARRAY),
            ],
        )
        .await
        .context("read the statistics of the table")?;
    let known: i64 = statistics.get(0);
    let width: i64 = statistics.get(1);
    let unknown = varying.len().saturating_sub(known as usize);
    let record = if varying.is_empty() {
        0
    } else {
        RECORD + 4 * varying.len() + width as usize + unknown * UNKNOWN_WIDTH
    };
    let indexes = 1 + shape
        .columns()
        .iter()
        .filter(|column| column.kind.is_indexed_at_load())
        .count();
    let row = shape.stride() + record + indexes * ENTRY;
    let rows = match table.estimated_rows {
        Some(rows) => rows as usize,
        // A row on disk takes 28 bytes and its values at least.
        None => stored(catalog, table).await? / (28 + shape.stride()),
    };
    Ok(rows.saturating_mul(row))
}

/// How many bytes a table's rows take on disk; none when somebody holds its lock.
async fn stored(catalog: &mut Catalog<'_>, table: &CatalogTable) -> anyhow::Result<usize> {
    let mut relations: Vec<u32> = table.leaves.iter().map(|leaf| leaf.oid).collect();
    relations.push(table.oid);
    let doing = "ask for a table's size";
    let attempt = catalog.attempt().await.context(doing)?;
    attempt
        .batch_execute("SET LOCAL lock_timeout = '2s'")
        .await
        .context(doing)?;
    let sql = "SELECT sum(pg_catalog.pg_relation_size(oid))::int8 FROM pg_catalog.unnest($1) oid";
    let size = attempt
        .query_typed_one(sql, &[(&relations, Type::OID_ARRAY)])
        .await;
    // Its locks go with it.
    attempt.rollback().await.context(doing)?;
    match size {
        Ok(size) => Ok(size.get::<_, Option<i64>>(0).unwrap_or(0) as usize),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(0),
        Err(error) => Err(error).context(doing),
    }
}

/// A quarter of this machine's memory.
pub fn default_limit() -> usize {
    const FALLBACK: usize = 1 << 30;
    total_memory().map_or(FALLBACK, |total| total / 4)
}

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

/// Bytes for people.
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
