//! `pgic tail --diff TABLE`: what each change did to the rows of a table, old to new.

use crate::catalog;
use crate::commands::watch::{Style, Watch};
use crate::commands::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::following::{self, estimate, explain_failure};
use crate::render::progress::Progress;
use crate::triggers::observe::observe;
use anyhow::anyhow;
use postgres_index_cache_core::postgres::Driver;

/// Loads the table, follows it, and prints what becomes of its rows.
pub(super) async fn run(context: &Context, name: &str) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let (watch, driver) = tokio::select! {
        opened = open(context, name) => opened?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    if !context.quiet {
        anstream::eprintln!("following {}", crate::render::escape::escape(&watch.table));
    }
    watch.run(context, driver, interrupted).await
}

async fn open(context: &Context, name: &str) -> anyhow::Result<(Watch, Driver)> {
    let server = context.server("tail")?;
    let client = server.client().await?;
    let tables = catalog::resolve(&client, &[name.to_string()]).await?;
    let table = tables.first().ok_or_else(|| anyhow!("name a table"))?;
    following::check_kind(table)?;
    let seen = observe(table);
    for notice in following::check_announced(table, seen.as_ref())? {
        context.notice(&notice);
    }
    let shown = following::shown(table, seen.as_ref());
    let shape = following::shape(table, |column| shown.contains(&column.name))?;
    let max_memory = estimate::default_limit();
    following::check_memory(&client, &[(table, &shape)], max_memory).await?;
    drop(client);
    let channel = following::channel(table, seen.as_ref(), |notice| context.notice(notice));
    let follow = following::follow(table, seen.as_ref(), &shape);
    let progress = Progress::new(&format!("loading {}", table.display_name()), table.estimated_rows, !context.quiet);
    let options = following::options(vec![channel], max_memory);
    let mut driver = Driver::open(server, vec![follow], options).await.map_err(explain_failure)?;
    driver.until_live(|loaded| progress.set(loaded.rows)).await.map_err(explain_failure)?;
    let columns = shown.iter().filter_map(|name| shape.position(name)).collect();
    let (table, format) = (table.display_name(), context.format);
    let watch = Watch { table, shape, conditions: Vec::new(), columns, format, style: Style::Changes };
    Ok((watch, driver))
}
