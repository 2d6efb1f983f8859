//! The checks and settings that every command needs before it follows a table: whether a cache can
//! follow the table, which columns the cache keeps, how much memory it takes, and how the driver is
//! set up.
//!
//! ```text
//! names ─→ catalog ─→ CatalogTable ─┬─→ checks of this module
//! conditions as written ─→ conditions ─→ target::Target ─→ target::open      one load
//!                                                     └──→ supervised::open  followed for long
//! ```

pub mod bounds;
pub mod catalog;
pub mod conditions;
pub mod estimate;
pub mod key;
pub mod near_limit;
pub mod nearest;
pub mod row;
pub mod supervised;
pub mod target;
pub mod touch;
pub mod written_by;

use crate::failure::{ConnectFailure, HintExt as _, with_hint};
use crate::tables::bounds::Bounds;
use crate::tables::catalog::{Catalog, CatalogTable};
use crate::triggers::DEFAULT_CACHE_CHANNEL;
use crate::triggers::observe::Observed;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::postgres::{
    self, ClaimError, DriverError, DriverOptions, FollowError, ReadError, TableConfig, sqlstate,
};
use postgres_index_cache_core::tooling::sync::{AuxConnection, Failure};
use postgres_index_cache_core::tooling::{IndexedColumns, TableShape};
use std::sync::Arc;

/// Checks that a cache can follow the table.
///
/// # Errors
/// If the table cannot be followed: a view, for example, or a table without a key.
pub fn check_kind(table: &CatalogTable) -> anyhow::Result<()> {
    postgres::check_kind(table).map_err(refused)
}

/// Returns an error of the core with its remedy as a hint.
fn refused(error: FollowError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => with_hint(error, hint),
        None => error.into(),
    }
}

/// Returns the columns that the trigger sends; `None` if all of them are sent.
pub fn sent_columns<'a>(seen: Option<&'a Observed<'_>>) -> Option<&'a Vec<String>> {
    seen.and_then(|seen| seen.sent_columns())
}

/// Returns the columns that a cache can be asked for, in table order.
pub fn shown(table: &CatalogTable, seen: Option<&Observed<'_>>) -> Vec<String> {
    postgres::sent(table, seen.map(|seen| &seen.announced))
        .into_iter()
        .map(|column| column.name.clone())
        .collect()
}

/// Checks that the trigger sends a column. A cache could not keep another column in step.
///
/// A trigger that sends keys alone (`--no-data`) names no columns: the whole row is refetched.
///
/// # Errors
/// If the trigger sends named columns, and `column` is neither among them nor in the key.
pub fn check_sent(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    column: &str,
) -> anyhow::Result<()> {
    // The key is sent with every payload, named or not.
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

/// Checks that a cache can be kept in step with the table. Returns notices about problems that do
/// not prevent this.
///
/// # Errors
/// If not all changes of the table are announced.
pub fn check_announced(table: &CatalogTable) -> anyhow::Result<Vec<String>> {
    postgres::check_announced(table).map_err(refused)
}

/// Returns the notice of the worst problem that keeps changes of the table from being announced
/// though there is a trigger; `None` if there is no such problem.
///
/// An answer is then no newer than the read of the table: a fence behind the read shows nothing.
pub fn unannounced_notice(table: &CatalogTable) -> Option<String> {
    let error = postgres::check_announced(table).err()?;
    let remedy = error.hint().map(|hint| format!("; {hint}"));
    Some(format!(
        "the answer is the table as it was when it was read: {error}{}",
        remedy.unwrap_or_default()
    ))
}

/// Returns the shape of a cache that keeps the key and the columns for which `is_kept` is true, in
/// table order.
///
/// # Errors
/// If the table has no key, or too many columns are kept.
pub fn shape(
    table: &CatalogTable,
    is_kept: impl Fn(&catalog::CatalogColumn) -> bool,
) -> anyhow::Result<Arc<TableShape>> {
    postgres::shape(table, is_kept).map_err(refused)
}

/// A cache that is to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct PlannedCache<'a> {
    /// The table to load.
    pub table: &'a CatalogTable,
    /// The columns that the cache keeps, and the key.
    pub shape: &'a TableShape,
    /// The columns that it has indexes on.
    pub indexed: &'a IndexedColumns,
}

/// Checks that the caches of all tables together would take at most `allowed` bytes.
///
/// # Errors
/// If they would take more, or the server refuses a query.
pub async fn check_memory(
    catalog: &mut Catalog<'_>,
    planned: &[PlannedCache<'_>],
    allowed: usize,
) -> anyhow::Result<()> {
    // An estimate, before anything is loaded. The driver measures the caches while it loads them.
    let mut wanted = 0_usize;
    for cache in planned {
        let bytes = estimate::memory(catalog, cache).await?;
        wanted = wanted.saturating_add(bytes);
    }
    if wanted <= allowed {
        return Ok(());
    }
    let names: Vec<String> = planned
        .iter()
        .map(|cache| cache.table.display_name())
        .collect();
    Err(with_hint(
        anyhow!(
            "loading {} would take about {}, more than the {} allowed",
            names.join(", "),
            estimate::human(wanted),
            estimate::human(allowed)
        ),
        MEMORY_HINT,
    ))
}

/// Returns the driver's configuration for a table whose cache has `shape`.
pub fn follow(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    shape: &Arc<TableShape>,
) -> TableConfig {
    TableConfig::new(table, seen.map(|seen| &seen.announced), shape)
}

/// Returns the channel of a table's trigger, or the default one if the channel is not known for
/// certain. In that case a notice is added.
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

/// Returns the options of a driver that listens on `channels`.
pub fn options(channels: Vec<String>, bounds: Bounds) -> DriverOptions {
    DriverOptions {
        channels,
        holds_altered: false,
        ..bounds.driver_options()
    }
}

/// The hint for a cache that takes more memory than is allowed. All commands that load caches give
/// it.
const MEMORY_HINT: &str =
    "raise --max-memory; pgic query can load fewer columns, with --columns or --count";

/// The notice while nothing can be announced.
pub const COMMITS_BLOCKED: &str =
    "commits are blocked: nothing is announced until whoever holds the notify lock is done";

/// Returns the notice of the loss of F or Q alone, for this reason.
pub fn opened_again(via: AuxConnection, why: &str) -> String {
    format!("the connection {} is opened again: {why}", via.purpose())
}

/// Returns the error of a driver that gave up, with a hint if one is known.
pub fn explain_failure(error: DriverError) -> anyhow::Error {
    // What the driver was doing tells more than the server's code, so it is asked first.
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
        (DriverError::CodeOfOthers { .. } | DriverError::ConditionOfOthers { .. }, _) => {
            "connect as the owner of the table, or as a role that is no superuser and has SELECT \
            on it"
        }
        (DriverError::Memory { .. } | DriverError::RowTooLong { .. }, _) => MEMORY_HINT,
        (DriverError::Parts { .. }, _) => "try again without --jobs: one session reads the table",
        // The attempt to connect knows more than the server's code.
        (_, Some(_)) if is_connect_failure(&error) => return error.into(),
        (_, Some(code)) => match sqlstate::hint(code) {
            Some(hint) => hint,
            None => return error.into(),
        },
        _ => return error.into(),
    };
    with_hint(error, hint)
}

/// Tells whether an error comes from an attempt to connect.
fn is_connect_failure(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.any(<dyn std::error::Error>::is::<ConnectFailure>)
}
