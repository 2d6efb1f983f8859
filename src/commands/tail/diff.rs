//! `pgic tail --diff TABLE`: keeps a table in a cache, and shows how each change altered the rows,
//! old to new. With `--from` it is the cache that a node of a log has.

use crate::commands::watch::{
    Limit, LoggedRows, Style, SupervisedRows, Watch, Watched, WatchedTable,
};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::nats::{LogAddress, find_table};
use crate::render::Format;
use crate::render::escape::escape;
use crate::tables::bounds::Bounds;
use crate::tables::catalog;
use crate::tables::supervised::{AnnouncedTargets, open as open_supervised};
use crate::tables::target::Target;
use postgres_index_cache_core::tooling::nats::LoggedTable;
use std::path::Path;
use std::pin::Pin;

/// Follows the table, and prints the changes of its rows until `limit`, a signal, or the end of the
/// reader. With a log its rows are those that a node of the log has.
pub(super) async fn run(
    context: &Context,
    name: &str,
    log: Option<&Path>,
    limit: Limit,
) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let Some(log) = log else {
        let watched = tokio::select! {
            opened = open(context, name) => opened?,
            () = &mut interrupted => return Ok(ExitCode::Yes),
        };
        return watch(context, watched, limit, interrupted).await;
    };
    let address = LogAddress::new(&log.to_string_lossy(), None, &context.environment)?;
    let follow = tokio::select! {
        follow = Box::pin(address.live("tail")) => follow?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    let table = find_table(&follow, name)?.clone();
    let show = Box::new(|table: &LoggedTable| Ok(WatchedTable::of_log(table)));
    let watched = LoggedRows::new(follow, address, table, show)?;
    watch(context, watched, limit, interrupted).await
}

/// Prints the changes of rows from now on.
async fn watch(
    context: &Context,
    watched: impl Watched,
    limit: Limit,
    interrupted: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<ExitCode> {
    let watch = Watch::new(context, &watched, Style::Changes, limit);
    // As the banner of `tail`: it says that every change from now on is seen. In JSON the event
    // `live` says so.
    if !context.quiet && context.format == Format::Text {
        let name = format!("{}.{}", watch.table.schema, watch.table.name);
        crate::render::note(&format!("following {}\n", escape(&name)));
    }
    watch.run(context, watched, interrupted).await
}

/// Connects, and waits until the table is loaded and live.
async fn open(context: &Context, name: &str) -> anyhow::Result<SupervisedRows> {
    let server = context.server("tail")?;
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let mut notices = Vec::new();
    let target = Target::announced(catalog::resolve_one(&catalog, name).await?, &mut notices)?;
    context.notices(&notices);
    let supervisor = open_supervised(
        &server,
        catalog,
        vec![target],
        AnnouncedTargets,
        Bounds::default(),
        context.quiet,
        |text| context.notice(text),
    )
    .await?;
    context.print_place(&server)?;
    // Only from now on: the rows that were loaded are no changes.
    Ok(SupervisedRows::new(supervisor))
}
