//! `pgic tail --diff TABLE`: what each change did to the rows of a table, old to new.

use crate::catalog;
use crate::commands::watch::{Limit, Style, Watch};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::following::estimate;
use crate::following::follower::{Follower, announced_again};
use crate::following::subject::{Subject, open as open_subjects};
use tokio_postgres::Client;

/// Loads the table, follows it, and prints what becomes of its rows.
pub(super) async fn run(context: &Context, name: &str, limit: Limit) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let (watch, follower) = tokio::select! {
        opened = open(context, name, limit) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    if !context.quiet {
        anstream::eprintln!("following {}", crate::render::escape::escape(&follower.subjects()[0].name()));
    }
    watch.run(context, follower, interrupted).await
}

async fn open(context: &Context, name: &str, limit: Limit) -> anyhow::Result<(Watch, Follower)> {
    let server = context.server("tail")?;
    let max_memory = estimate::default_limit();
    let describe = async |client: &mut Client| {
        let mut notices = Vec::new();
        let subject = Subject::announced(catalog::resolve_one(client, name).await?, &mut notices)?;
        context.notices(&notices);
        Ok(vec![subject])
    };
    let (subjects, driver) = open_subjects(&server, max_memory, context.quiet, |_| {}, describe).await?;
    let watch = Watch { subject: subjects[0].clone(), format: context.format, style: Style::Changes, limit };
    Ok((watch, Follower::new(server, announced_again(&subjects), max_memory, subjects, driver)))
}
