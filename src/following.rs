//! A table as something to follow: whether it can be, what its cache keeps, what the engine is told of it.

pub mod estimate;

use crate::catalog::{self, Enabled, RelationKind, Table};
use crate::failure::{HintExt as _, with_hint};
use crate::triggers::observe::Observed;
use crate::triggers::{DEFAULT_CACHE_CHANNEL, sql::PINNED};
use anyhow::anyhow;
use postgres_index_cache_core::postgres::{DriverError, DriverOptions, FollowTable, quote_identifier};
use postgres_index_cache_core::sync::{Failure, Followed, Limits};
use postgres_index_cache_core::{Column, TableShape};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

/// Whether a cache can follow the table.
///
/// # Errors
/// When it cannot: it is a view, has no key, ….
pub fn check_kind(table: &Table) -> anyhow::Result<()> {
    let name = table.display_name();
    let refuse = |what: &str, hint: &str| Err(anyhow!("{name} is {what}")).hint(hint);
    match table.kind {
        RelationKind::Table if table.is_temporary => refuse("a temporary table", "only its own session sees it"),
        RelationKind::Table | RelationKind::Partitioned if table.key.is_none() => refuse(
            "without a primary key or a unique key of NOT NULL columns",
            "add one: without a key no cache can tell its rows apart",
        ),
        RelationKind::Table | RelationKind::Partitioned if table.is_partition => {
            refuse("a partition", "name the table that it is a partition of: its changes are announced as that one's")
        }
        RelationKind::Table | RelationKind::Partitioned => Ok(()),
        RelationKind::View | RelationKind::MaterializedView => refuse("a view", "name the tables under it"),
        RelationKind::Foreign => refuse("a foreign table", "connect to the server where it lives"),
        RelationKind::Other => refuse("not a table", "name a table"),
    }
}

/// The columns that the trigger sends, where it does not send all.
pub fn sent_columns<'a>(seen: Option<&'a Observed<'_>>) -> Option<&'a Vec<String>> {
    seen.and_then(Observed::options).and_then(|options| options.columns.as_ref())
}

/// The columns that a cache can be asked for, in table order.
pub fn shown(table: &Table, seen: Option<&Observed<'_>>) -> Vec<String> {
    let sent = sent_columns(seen);
    let is_sent = |column: &&catalog::Column| sent.is_none_or(|sent| sent.contains(&column.name));
    table.columns.iter().filter(is_sent).map(|column| column.name.clone()).collect()
}

/// Refuses a column that the trigger does not send: it cannot be kept in step. Where it sends keys alone, rows are read
/// again.
///
/// # Errors
/// When the trigger does not send the column.
pub fn check_sent(table: &Table, seen: Option<&Observed<'_>>, column: &str) -> anyhow::Result<()> {
    let is_key = table.key.iter().flat_map(|key| &key.columns).any(|name| name == column);
    match sent_columns(seen).filter(|sent| !is_key && !sent.iter().any(|name| name == column)) {
        None => Ok(()),
        Some(sent) => {
            let name = table.display_name();
            let hint = format!("send it with: pgic install-triggers {name} --columns {},{column}", sent.join(","));
            Err(anyhow!("the trigger of {name} does not send the column {column}")).hint(hint)
        }
    }
}

/// Whether a cache can be kept in step with the table; gives what should be said about how.
///
/// # Errors
/// When nothing announces its changes, or not all of them.
pub fn check_announced(table: &Table, seen: Option<&Observed<'_>>) -> anyhow::Result<Vec<String>> {
    let name = table.display_name();
    let install = format!("install it with: pgic install-triggers {name}");
    let Some((seen, row)) = seen.and_then(|seen| Some((seen, seen.row?))) else {
        return Err(anyhow!("no trigger announces changes of {name}: a cache of it would not be live")).hint(install);
    };
    if !matches!(row.enabled, Enabled::Origin | Enabled::Always) {
        return Err(anyhow!("the trigger {} of {name} is {}", row.name, row.enabled.as_str())).hint(format!(
            "enable it with: ALTER TABLE {} ENABLE TRIGGER {}",
            table.sql_name(),
            quote_identifier(&row.name)
        ));
    }
    let events = seen.events();
    if let Some(missing) = ["insert", "update", "delete"].iter().find(|event| !events.contains(event)) {
        return Err(anyhow!("the triggers of {name} do not announce {missing}")).hint(install);
    }
    let mut notices = Vec::new();
    let truncate = seen.truncate.filter(|trigger| matches!(trigger.enabled, Enabled::Origin | Enabled::Always));
    if truncate.is_none() {
        notices.push(format!("no trigger announces TRUNCATE of {name}: its rows would stay in the cache"));
    }
    if seen.sends_plain_form() {
        notices.push(format!(
            "the trigger of {name} sends the plain form, without transaction ids: changes that PostgreSQL folds or sends \
             in another order leave stale rows; {install}"
        ));
    }
    Ok(notices)
}

/// A cache for the key and the columns that `is_kept` names; in table order.
///
/// # Errors
/// When there is no key, or too many columns.
pub fn shape(table: &Table, is_kept: impl Fn(&catalog::Column) -> bool) -> anyhow::Result<Arc<TableShape>> {
    let key = table.key.as_ref().map(|key| key.columns.clone()).unwrap_or_default();
    let kept = table.columns.iter().filter(|column| key.contains(&column.name) || is_kept(column));
    let columns =
        kept.map(|column| Column { name: column.name.clone(), kind: column.kind, nullable: !column.not_null });
    Ok(Arc::new(TableShape::new(columns.collect(), &key)?))
}

/// Refuses tables whose caches would take more than `allowed` bytes.
///
/// # Errors
/// When they would, or the server refuses to say.
pub async fn check_memory(client: &Client, tables: &[(&Table, &TableShape)], allowed: usize) -> anyhow::Result<()> {
    let mut wanted = 0_usize;
    for (table, shape) in tables {
        wanted = wanted.saturating_add(estimate::memory(client, table, shape).await?);
    }
    if wanted <= allowed {
        return Ok(());
    }
    let names: Vec<String> = tables.iter().map(|(table, _)| table.display_name()).collect();
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
pub fn follow(table: &Table, seen: Option<&Observed<'_>>, shape: &Arc<TableShape>) -> FollowTable {
    let followed = Followed {
        schema: table.schema.clone(),
        name: table.name.clone(),
        oid: table.oid,
        leaves: table.leaves.iter().map(|leaf| leaf.oid).collect(),
        is_partitioned: table.kind == RelationKind::Partitioned,
        deferrable_key: table.key.as_ref().is_some_and(|key| key.is_deferrable),
        sends_plain_form: seen.is_some_and(Observed::sends_plain_form),
        sends_whole_rows: !table
            .columns
            .iter()
            .any(|column| column.is_virtual && shape.position(&column.name).is_some()),
    };
    let key = table.key.iter().flat_map(|key| &key.columns);
    let key_types = key.filter_map(|name| table.column(name)).map(|column| column.type_name.clone()).collect();
    let expected_rows = table.estimated_rows.unwrap_or(0) as usize;
    let announcing = seen.into_iter().flat_map(|seen| [seen.row, seen.truncate]).flatten();
    // One that does not fire today is not missed.
    let fires = |trigger: &&catalog::Trigger| matches!(trigger.enabled, Enabled::Origin | Enabled::Always);
    let announced_by = announcing.filter(fires).map(|trigger| trigger.name.clone()).collect();
    FollowTable { followed, shape: Arc::clone(shape), key_types, announced_by, expected_rows }
}

/// The channel of a table's trigger. Where it is not known for certain, `notice` is told.
pub fn channel(table: &Table, seen: Option<&Observed<'_>>, notice: impl Fn(&str)) -> String {
    let name = table.display_name();
    let Some(seen) = seen else {
        notice(&format!("no trigger announces changes of {name}: the answer is the table as it was when it was read"));
        return DEFAULT_CACHE_CHANNEL.to_string();
    };
    seen.channel.clone().unwrap_or_else(|| {
        notice(&format!("the channel of {name}'s trigger is not known; listening on {DEFAULT_CACHE_CHANNEL}"));
        DEFAULT_CACHE_CHANNEL.to_string()
    })
}

/// How the driver works, listening on `channels`.
pub fn options(channels: Vec<String>, max_memory: usize) -> DriverOptions {
    DriverOptions {
        channels,
        fence_channel: format!("pgic_fence_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        limits: Limits::default(),
        settings: PINNED.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect(),
        max_memory,
        lock_timeout: Duration::from_secs(10),
        tells_rows: false,
    }
}

/// What to do about a driver that gave up.
pub fn explain_failure(error: DriverError) -> anyhow::Error {
    let code = crate::failure::sqlstate(&error);
    let hint = match (&error, code.as_deref()) {
        (DriverError::Failed(Failure::ProbeLost { .. }), _) => {
            "a pooler in transaction mode takes LISTEN and passes nothing on: connect to the server itself"
        }
        (DriverError::Failed(Failure::FenceLost { .. }), _) => {
            "commits may be blocked, or the connection dead: look at pg_stat_activity, and try again"
        }
        (DriverError::Failed(Failure::ConnectionLost(_)), _) => "try again",
        (DriverError::Failed(Failure::NotFollowed { .. }), _) => {
            "pgic status says what is wrong, pgic install-triggers mends it"
        }
        (DriverError::Memory { .. }, _) => "raise --max-memory, or load fewer columns with --columns or --count",
        (_, Some("25006")) => "this server is a standby, where LISTEN does not work: connect to the primary",
        (_, Some("42501")) => {
            "reading takes SELECT on the whole table, without row security that hides rows from this role"
        }
        (_, Some("55P03")) => "something holds the table, a migration perhaps: try again when it is done",
        _ => return error.into(),
    };
    with_hint(error, hint)
}
