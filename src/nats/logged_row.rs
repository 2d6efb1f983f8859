//! [`compare_row`]: whether a log has a row as the table has it.

use super::LogAddress;
use crate::connect::Server;
use crate::failure::Report;
use crate::tables::row::{RowNow, read_row, read_version, reader};
use crate::tables::target::Target;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::KeyBuf;
use postgres_index_cache_core::tooling::fleet::{Digest, RowDigester};
use postgres_index_cache_core::tooling::nats::{Follow, LoggedTable};
use postgres_index_cache_core::tooling::postgres::Traced;
use tokio_postgres::Client;

/// How often a row that changes meanwhile is looked at.
const TRIES: usize = 5;

/// What a log has of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowInLog {
    /// The row as the table has it.
    Same {
        /// Whether there is one: if not, the log has none either.
        exists: bool,
    },
    /// Another row, or none, or one that the table does not have: said in words.
    Other(&'static str),
    /// It cannot be told, for this reason.
    Unsettled(String),
    /// Nobody proves the log's rows, for this reason.
    NotProven(String),
}

/// Returns the table of the log that `target` is.
pub fn logged_table<'f>(follow: &'f Follow, target: &Target) -> Option<&'f LoggedTable> {
    let names = target.names();
    follow.tables().find(|table| {
        let description = &table.description;
        (description.schema.as_str(), description.table.as_str()) == names
    })
}

/// Compares the log's row of a key, which is JSON, with the table's. `session` is for looks at the
/// row's version.
///
/// A row that is written meanwhile may differ for a moment:
///
/// 1. The table has version 1 of the row.
/// 2. Version 2 is committed, and is in the log behind the fence.
/// 3. Version 3 is committed, which looks like version 1. We read it.
///
/// So the log is wrong only if the table has had one version of the row from before the fence to
/// behind our look. An absent row has no version: then the same must be found twice in a row.
///
/// # Errors
/// If the table cannot be read.
pub async fn compare_row(
    address: &LogAddress,
    follow: &mut Follow,
    server: &Server,
    session: &Traced<Client>,
    target: &Target,
    key: &str,
) -> anyhow::Result<RowInLog> {
    let mut reader = reader(server).await?;
    let mut absent_beside = None;
    for round in 0..TRIES {
        // Most rows are in the log as they are, which needs no version.
        let before = match round {
            0 => None,
            _ => match read_version(session, target, key).await? {
                Ok(version) => Some(version),
                Err(unseen) => return Ok(RowInLog::Unsettled(unseen)),
            },
        };
        if let Err(error) = address.prove(follow).await {
            return Ok(RowInLog::NotProven(Report::new(&error).one_line()));
        }
        let logged = digest_of(follow, target, key)?;
        let now = read_row(&mut reader, target, key).await?;
        if !has_columns_of(follow, target, &now) {
            return Ok(RowInLog::Other(
                "has other columns of the table than the trigger sends",
            ));
        }
        if logged == now.digest {
            let exists = now.digest.is_some();
            return Ok(RowInLog::Same { exists });
        }
        let Some(before) = before else {
            continue;
        };
        let after = match read_version(session, target, key).await? {
            Ok(version) => version,
            Err(unseen) => return Ok(RowInLog::Unsettled(unseen)),
        };
        let is_settled = match (before, after) {
            (Some(before), Some(after)) => before == after,
            (None, None) => absent_beside.replace(logged) == Some(logged),
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_settled {
            return Ok(RowInLog::Other(match (logged, now.digest) {
                (None, _) => "does not have the row",
                (Some(_), None) => "still has the row",
                (Some(_), Some(_)) => "has another row of this key",
            }));
        }
    }
    Ok(RowInLog::Unsettled(
        "the row was changed at each of the looks at it".to_string(),
    ))
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
