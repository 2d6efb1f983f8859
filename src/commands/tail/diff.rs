//! `pgic tail --diff TABLE`: keeps a table in a cache, and shows how each change altered the rows,
//! old to new.

use crate::commands::watch::{Limit, Style, Watch};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::render::Format;
use crate::tables::bounds::Bounds;
use crate::tables::catalog;
use crate::tables::supervised::{AnnouncedTargets, open as open_supervised};
use crate::tables::target::Target;
use postgres_index_cache_core::tooling::postgres::Supervisor;
use postgres_index_cache_core::tooling::sync::TableId;

/// Loads and follows the table, and prints the changes of its rows until `limit`, a signal, or the
/// end of the reader.
pub(super) async fn run(context: &Context, name: &str, limit: Limit) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let (watch, supervisor) = tokio::select! {
        opened = open(context, name, limit) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    // As the banner of `tail`: it says that every change from now on is seen. In JSON the event
    // `live` says so.
    if !context.quiet && context.format == Format::Text {
        crate::render::note(&format!(
            "following {}\n",
            crate::render::escape::escape(&watch.target.name())
        ));
    }
    watch.run(context, supervisor, interrupted).await
}

/// Connects, and waits until the table is loaded and live.
async fn open(
    context: &Context,
    name: &str,
    limit: Limit,
) -> anyhow::Result<(Watch, Supervisor<Target>)> {
    let server = context.server("tail")?;
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let mut notices = Vec::new();
    let target = Target::announced(catalog::resolve_one(&catalog, name).await?, &mut notices)?;
    context.notices(&notices);
    let mut supervisor = open_supervised(
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
    // The table may have been altered while it was loaded: the supervisor's target is the newest.
    let target = supervisor.target(TableId(0)).clone();
    // Only from now on: the rows that were loaded are no changes.
    supervisor.driver_mut().record_row_events();
    Ok((
        Watch {
            target,
            format: context.format,
            layout: context.layout,
            look: context.look.clone(),
            style: Style::Changes,
            limit,
        },
        supervisor,
    ))
}
