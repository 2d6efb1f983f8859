//! `pgic tail --diff TABLE`: what each change did to the rows of a table, old to new.

use crate::commands::watch::{Limit, Style, Watch};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::tables::catalog;
use crate::tables::estimate;
use crate::tables::supervised::{AnnouncedTargets, open as open_supervised};
use crate::tables::target::Target;
use postgres_index_cache_core::postgres::Supervisor;

/// Loads the table, follows it, and prints what becomes of its rows.
pub(super) async fn run(context: &Context, name: &str, limit: Limit) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let (watch, supervisor) = tokio::select! {
        opened = open(context, name, limit) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    if !context.quiet {
        crate::render::note(&format!(
            "following {}\n",
            crate::render::escape::escape(&watch.target.name())
        ));
    }
    watch.run(context, supervisor, interrupted).await
}

async fn open(
    context: &Context,
    name: &str,
    limit: Limit,
) -> anyhow::Result<(Watch, Supervisor<Target>)> {
    let server = context.server("tail")?;
    let max_memory = estimate::default_limit();
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let mut notices = Vec::new();
    let target = Target::announced(catalog::resolve_one(&catalog, name).await?, &mut notices)?;
    context.notices(&notices);
    let say = |text: &str| context.notice(text);
    let supervisor = open_supervised(
        &server,
        catalog,
        vec![target],
        AnnouncedTargets,
        max_memory,
        context.quiet,
        say,
    )
    .await?;
    let target = supervisor
        .target(postgres_index_cache_core::sync::TableId(0))
        .clone();
    let mut supervisor = supervisor;
    supervisor.driver_mut().record_row_events();
    Ok((
        Watch {
            target,
            format: context.format,
            style: Style::Changes,
            limit,
        },
        supervisor,
    ))
}
