//! `pgic query --from`: answers from the rows that a node of a log has.

use super::{Args, sort_by_key};
use crate::commands::watch::{Limit, LoggedRows, Style, Watch, WatchedTable};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::failure::{HintExt as _, with_hint};
use crate::nats::{LogAddress, find_table};
use crate::render::json::EventLine;
use crate::render::rows::rows;
use crate::render::{Format, print};
use crate::tables::conditions::Written;
use crate::tables::key;
use anyhow::anyhow;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::nats::LoggedTable;
use postgres_index_cache_core::tooling::{CellType, Condition, KeyBuf, Predicate, Row, TableShape};

/// Follows the log until its rows are live, and prints the row of a key, or all rows.
///
/// # Errors
/// If the rows are not proven, the table is not in the log, or the key is none of the table.
pub(super) async fn run(context: &Context, args: &Args, url: &str) -> anyhow::Result<ExitCode> {
    let is_condition = |word: &String| Written::parse(word).is_ok();
    let has_conditions = args.conditions.iter().any(is_condition);
    if has_conditions || args.conditions.len() > 1 || !args.more_conditions.is_empty() {
        return Err(with_hint(
            anyhow!("--from takes a TABLE and a KEY alone: a node has no SQL"),
            "filter the rows: pgic query TABLE --from URL -o json | jq 'select(…)'",
        ));
    }
    let address = LogAddress::new(url, None, &context.environment)?;
    if args.watch {
        return keep_watching(context, args, address).await;
    }
    let follow = Box::pin(address.live("query")).await?;
    let table = find_table(&follow, &args.table)?;
    let cache = table.cache.read();
    let shape = cache.shape();
    let columns = columns(shape, &args.columns)?;
    let mut found: Vec<Row<'_>> = match args.conditions.first() {
        Some(written) => {
            let key = read_key(shape, &table.description.key, written)?;
            cache.get(&key).into_iter().collect()
        }
        None => cache.rows().collect(),
    };
    sort_by_key(&mut found, shape);
    let count = found.len();
    let text = if args.count {
        match context.format {
            Format::Text => format!("{count}\n"),
            Format::Json => EventLine::new("count", Timestamp::now())
                .of((&table.description.schema, &table.description.table))
                .member("count", count)
                .end(),
        }
    } else {
        let shown = found.iter().take(args.limit.unwrap_or(usize::MAX));
        let (layout, look) = (context.layout, &context.look);
        rows(context.format, layout, look, shape, &columns, shown)
    };
    print(&text)?;
    if count == 0 && !args.count {
        context.notice("no row matches");
    }
    if let Some(limit) = args.limit.filter(|limit| *limit < count && !args.count) {
        context.notice(&format!(
            "{} more rows match; --limit {limit} cut them off",
            count - limit
        ));
    }
    Ok(if count > 0 {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

/// Prints the answer, and again after each change, until a signal comes or nobody reads.
async fn keep_watching(
    context: &Context,
    args: &Args,
    address: LogAddress,
) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let follow = tokio::select! {
        follow = Box::pin(address.live("query")) => follow?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    let table = find_table(&follow, &args.table)?.clone();
    let key = args.conditions.first().cloned();
    let names = args.columns.clone();
    let show = move |table: &LoggedTable| {
        let mut watched = WatchedTable::of_log(table);
        watched.shown = columns(&watched.shape, &names)?;
        if let Some(written) = &key {
            let key = read_key(&watched.shape, &table.description.key, written)?;
            let cells = key.cells().map(|cell| Predicate::Cell(cell.to_vec()));
            let of_key = std::iter::zip(watched.shape.key(), cells);
            watched.conditions = of_key
                .map(|(column, wanted)| Condition {
                    column: *column,
                    wanted,
                })
                .collect();
        }
        Ok(watched)
    };
    let watched = LoggedRows::new(follow, address, table, Box::new(show))?;
    let watch = Watch::new(context, &watched, Style::QueryResult, Limit::default());
    watch.run(context, watched, interrupted).await
}

/// Returns the columns to show, by their positions.
fn columns(shape: &TableShape, names: &[String]) -> anyhow::Result<Vec<usize>> {
    if names.is_empty() {
        return Ok((0..shape.columns().len()).collect());
    }
    let position = |name: &String| {
        let known = shape.position(name);
        known.ok_or_else(|| anyhow!("the log has no column {name} of this table"))
    };
    names.iter().map(position).collect()
}

/// Reads a key as it is written: `42`, or `42,2`.
fn read_key(shape: &TableShape, columns: &[String], written: &str) -> anyhow::Result<KeyBuf> {
    let parts = key::values(columns, written)?;
    let kinds = shape.key().iter().map(|at| shape.columns()[*at].kind);
    let json: Vec<String> = parts
        .iter()
        .zip(kinds)
        .map(|(part, kind)| match kind {
            CellType::Int2
            | CellType::Int4
            | CellType::Int8
            | CellType::Numeric
            | CellType::Bool => part.clone(),
            _ => serde_json::Value::from(part.as_str()).to_string(),
        })
        .collect();
    let id = match json.as_slice() {
        [only] => only.clone(),
        several => format!("[{}]", several.join(",")),
    };
    let mut key = KeyBuf::default();
    let read = key.read_json(shape, &id);
    read.map_err(|error| anyhow!(error.to_string()).context(format!("read the key {written}")))
        .hint("write the key as PostgreSQL does: 42, or 42,2 for two columns")?;
    Ok(key)
}
