//! [`compare_row`]: whether a log has a row as the table has it.

use super::LogAddress;
use crate::connect::Server;
use crate::tables::row::{RowNow, read_row, reader};
use crate::tables::target::Target;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::KeyBuf;
use postgres_index_cache_core::tooling::fleet::{Digest, RowDigester};
use postgres_index_cache_core::tooling::nats::{Follow, LoggedTable};

/// How often a row that changes meanwhile is looked at.
const TRIES: usize = 5;

/// What a log has of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowInLog {
    /// The row as the table has it; if the table has none, neither has the log.
    Same,
    /// Another row, or none, or one that the table does not have: said in words.
    Other(&'static str),
    /// The row changes faster than it can be looked at.
    Unsettled,
}

/// Returns the table of the log that `target` is.
pub fn logged_table<'f>(follow: &'f Follow, target: &Target) -> Option<&'f LoggedTable> {
    let names = target.names();
    follow.tables().find(|table| {
        let description = &table.description;
        (description.schema.as_str(), description.table.as_str()) == names
    })
}

/// Compares the log's row of a key, which is JSON, with the table's, which was `row` a moment ago.
///
/// A row that is written meanwhile may differ for a moment. So the log is wrong only if its row is
/// neither that of the table before a fence nor that behind it, and both of these are the same.
///
/// # Errors
/// If the table cannot be read, or nobody proves the log's rows.
pub async fn compare_row(
    address: &LogAddress,
    follow: &mut Follow,
    server: &Server,
    target: &Target,
    key: &str,
    row: &RowNow,
) -> anyhow::Result<RowInLog> {
    let mut reader = reader(server).await?;
    let mut before = row.clone();
    for _ in 0..TRIES {
        address.prove(follow).await?;
        if !has_columns_of(follow, target, &before) {
            return Ok(RowInLog::Other(
                "has other columns of the table than the trigger sends",
            ));
        }
        let logged = digest_of(follow, target, key)?;
        if logged == before.digest {
            return Ok(RowInLog::Same);
        }
        let now = read_row(&mut reader, target, key).await?;
        if logged == now.digest {
            return Ok(RowInLog::Same);
        }
        if now.digest == before.digest {
            return Ok(RowInLog::Other(match (logged, now.digest) {
                (None, _) => "does not have the row",
                (Some(_), None) => "still has the row",
                (Some(_), Some(_)) => "has another row of this key",
            }));
        }
        before = now;
    }
    Ok(RowInLog::Unsettled)
}

/// Returns whether the log has the columns of a row of the table: rows of others cannot be compared.
pub fn has_columns_of(follow: &Follow, target: &Target, row: &RowNow) -> bool {
    logged_table(follow, target)
        .is_some_and(|table| RowDigester::new(table.cache.read().shape()).columns() == row.columns)
}

/// Returns the digest of the log's row; `None` if there is none.
fn digest_of(follow: &Follow, target: &Target, key: &str) -> anyhow::Result<Option<Digest>> {
    let table = logged_table(follow, target);
    let table = table.ok_or_else(|| anyhow!("the log has lost {}", target.name()))?;
    let cache = table.cache.read();
    let mut cells = KeyBuf::default();
    let read = cells.read_json(cache.shape(), key);
    read.map_err(|error| anyhow!("read the key {key}: {error}"))?;
    let mut digester = RowDigester::new(cache.shape());
    let row = cache.get(&cells);
    Ok(row.map(|row| digester.row(|column| row.cell(column))))
}
