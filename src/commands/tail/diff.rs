//! `pgic tail --diff TABLE`: what each change did to the rows of a table, old to new.

use crate::catalog;
use crate::commands::watch::{Style, Watch};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::following::estimate;
use crate::following::follower::{Follower, announced_again};
use crate::following::subject::{Subject, load, prepare};

/// Loads the table, follows it, and prints what becomes of its rows.
pub(super) async fn run(context: &Context, name: &str) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let (watch, follower) = tokio::select! {
        opened = open(context, name) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    if !context.quiet {
        anstream::eprintln!("following {}", crate::render::escape::escape(&follower.subjects()[0].name()));
    }
    watch.run(context, follower, interrupted).await
}

async fn open(context: &Context, name: &str) -> anyhow::Result<(Watch, Follower)> {
    let server = context.server("tail")?;
    let client = server.client().await?;
    let mut notices = Vec::new();
    let table = catalog::resolve_one(&client, name).await?;
    let subject = Subject::announced(table, &mut notices)?;
    context.notices(&notices);
    let subjects = vec![subject];
    let max_memory = estimate::default_limit();
    let options = prepare(&client, &subjects, max_memory).await?;
    drop(client);
    let driver = load(&server, &subjects, options, context.quiet).await?;
    let watch = Watch { subject: subjects[0].clone(), format: context.format, style: Style::Changes };
    Ok((watch, Follower::new(server, announced_again(&subjects), max_memory, subjects, driver)))
}
