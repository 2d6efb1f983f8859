//! `pgic tail --diff TABLE`: what each change did to the rows of a table, old to new.

use crate::catalog;
use crate::commands::watch::{Style, Watch};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::following::estimate;
use crate::following::subject::{Subject, load, prepare};
use postgres_index_cache_core::postgres::Driver;

/// Loads the table, follows it, and prints what becomes of its rows.
pub(super) async fn run(context: &Context, name: &str) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let (watch, driver) = tokio::select! {
        opened = open(context, name) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    if !context.quiet {
        anstream::eprintln!("following {}", crate::render::escape::escape(&watch.subject.name()));
    }
    watch.run(context, driver, interrupted).await
}

async fn open(context: &Context, name: &str) -> anyhow::Result<(Watch, Driver)> {
    let server = context.server("tail")?;
    let client = server.client().await?;
    let mut notices = Vec::new();
    let table = catalog::resolve_one(&client, name).await?;
    let subject = Subject::announced(table, &mut notices)?;
    context.notices(&notices);
    let subjects = [subject];
    let options = prepare(&client, &subjects, estimate::default_limit()).await?;
    drop(client);
    let driver = load(&server, &subjects, options, context.quiet).await?;
    let [subject] = subjects;
    Ok((Watch { subject, format: context.format, style: Style::Changes }, driver))
}
