//! A table as something to follow: whether it can be, what its cache keeps, what the engine is told
//! of it.

pub mod catalog;
pub mod conditions;
pub mod estimate;
pub mod supervised;
pub mod target;

use crate::failure::{HintExt as _, with_hint};
use crate::tables::catalog::{Catalog, CatalogTable};
use crate::triggers::DEFAULT_CACHE_CHANNEL;
use crate::triggers::observe::Observed;
use anyhow::anyhow;
use postgres_index_cache_core::TableShape;
use postgres_index_cache_core::postgres::triggers::PINNED;
use postgres_index_cache_core::postgres::{
    self, ClaimError, DriverError, DriverOptions, FollowError, ReadError, TableConfig, sqlstate,
};
use postgres_index_cache_core::sync::{Failure, Limits};
use std::sync::Arc;
use std::time::Duration;

/// Whether a cache can follow the table.
///
/// # Errors
/// When it cannot: it is a view, has no key, ….
pub fn check_kind(table: &CatalogTable) -> anyhow::Result<()> {
    postgres::check_kind(table).map_err(refused)
}

fn refused(error: FollowError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => with_hint(error, hint),
        None => error.into(),
    }
}

/// The columns that the trigger sends, where it does not send all.
pub fn sent_columns<'a>(seen: Option<&'a Observed<'_>>) -> Option<&'a Vec<String>> {
    seen.and_then(|seen| seen.sent_columns())
}

/// The columns that a cache can be asked for, in table order.
pub fn shown(table: &CatalogTable, seen: Option<&Observed<'_>>) -> Vec<String> {
    postgres::sent(table, seen.map(|seen| &seen.announced))
        .into_iter()
        .map(|column| column.name.clone())
        .collect()
}

/// Refuses a column that the trigger does not send: it cannot be kept in step. Where it sends keys
/// alone, rows are read again.
///
/// # Errors
/// When the trigger does not send the column.
pub fn check_sent(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    column: &str,
) -> anyhow::Result<()> {
    let is_key = table
        .key
        .iter()
        .flat_map(|key| &key.columns)
        .any(|name| name == column);
    match sent_columns(seen).filter(|sent| !is_key && !sent.iter().any(|name| name == column)) {
        None => Ok(()),
        Some(sent) => {
            let name = table.display_name();
            let typed = table.typed_name();
            let hint = format!(
                "send it with: pgic install-triggers {typed} --columns {},{column}",
                sent.join(",")
            );
            Err(anyhow!(
                "the trigger of {name} does not send the column {column}"
            ))
            .hint(hint)
        }
    }
}

/// Whether a cache can be kept in step with the table; gives what should be said about how.
///
/// # Errors
/// When nothing announces its changes, or not all of them.
pub fn check_announced(table: &CatalogTable) -> anyhow::Result<Vec<String>> {
    postgres::check_announced(table).map_err(refused)
}

/// A cache for the key and the columns that `is_kept` names; in table order.
///
/// # Errors
/// When there is no key, or too many columns.
pub fn shape(
    table: &CatalogTable,
    is_kept: impl Fn(&catalog::CatalogColumn) -> bool,
) -> anyhow::Result<Arc<TableShape>> {
    postgres::shape(table, is_kept).map_err(refused)
}

/// Refuses tables whose caches would take more than `allowed` bytes.
///
/// # Errors
/// When they would, or the server refuses to say.
pub async fn check_memory(
    catalog: &mut Catalog<'_>,
    tables: &[(&CatalogTable, &TableShape)],
    allowed: usize,
) -> anyhow::Result<()> {
    let mut wanted = 0_usize;
    for (table, shape) in tables {
        wanted = wanted.saturating_add(estimate::memory(catalog, table, shape).await?);
    }
    if wanted <= allowed {
        return Ok(());
    }
    let names: Vec<String> = tables
        .iter()
        .map(|(table, _)| table.display_name())
        .collect();
    Err(with_hint(
        anyhow!(
            "loading {} would take about {}, more than the {} allowed",
            names.join(", "),
            estimate::human(wanted),
            estimate::human(allowed)
        ),
        "raise --max-memory, or load fewer columns with --columns or --count",
    ))
}

/// What the driver is told of the table.
pub fn follow(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    shape: &Arc<TableShape>,
) -> TableConfig {
    TableConfig::new(table, seen.map(|seen| &seen.announced), shape)
}

/// The channel of a table's trigger. Where it is not known for certain, `notices` say so.
pub fn channel(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    notices: &mut Vec<String>,
) -> String {
    let name = table.display_name();
    let Some(seen) = seen else {
        notices.push(format!(
            "no trigger announces changes of {name}: the answer is the table as it was when it was \
            read"
        ));
        return DEFAULT_CACHE_CHANNEL.to_string();
    };
    seen.channel.clone().unwrap_or_else(|| {
        notices.push(format!(
            "the channel of {name}'s trigger is not known; listening on {DEFAULT_CACHE_CHANNEL}"
        ));
        DEFAULT_CACHE_CHANNEL.to_string()
    })
}

/// How the driver works, listening on `channels`.
pub fn options(channels: Vec<String>, max_memory: usize) -> DriverOptions {
    DriverOptions {
        channels,
        fence_channel: format!(
            "pgic_fence_{:016x}{:016x}",
            fastrand::u64(..),
            fastrand::u64(..)
        ),
        limits: Limits::default(),
        settings: PINNED
            .iter()
            .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
            .collect(),
        max_memory,
        lock_timeout: Duration::from_secs(10),
        holds_altered: false,
        row_events: false,
    }
}

/// What to do about a driver that gave up.
pub fn explain_failure(error: DriverError) -> anyhow::Error {
    let hint = match (&error, sqlstate::of(&error)) {
        (DriverError::Failed(Failure::ProbeLost { .. }), _) => {
            "a pooler in transaction mode takes LISTEN and passes nothing on: connect to the \
            server itself"
        }
        (
            DriverError::Claim {
                source: ClaimError::Shared,
                ..
            },
            _,
        ) => {
            "this command LISTENs, which takes a session of its own: connect to the server itself, \
            or to a pool in session mode"
        }
        (DriverError::Failed(Failure::FenceLost { .. }), _) => {
            "commits may be blocked, or the connection dead: look at pg_stat_activity, and try \
            again"
        }
        (DriverError::Failed(Failure::ConnectionLost(_)), _) => "try again",
        (DriverError::Failed(Failure::NotFollowed { .. }), _) => {
            "pgic status says what is wrong, pgic install-triggers mends it"
        }
        (
            DriverError::Snapshot {
                source: ReadError::Altered(_),
                ..
            },
            _,
        ) => "the table is being altered: try again when that is done",
        (DriverError::CodeOfOthers { .. }, _) => {
            "connect as the owner of the table, or as a role that is no superuser and has SELECT \
            on it"
        }
        (DriverError::Memory { .. } | DriverError::RowTooLong { .. }, _) => {
            "raise --max-memory, or load fewer columns with --columns or --count"
        }
        (_, Some(code)) => match sqlstate::hint(code) {
            Some(hint) => hint,
            None => return error.into(),
        },
        _ => return error.into(),
    };
    with_hint(error, hint)
}
