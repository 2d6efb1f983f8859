//! Looks at the server as a whole: the queue, who listens, the nodes, and whether it was restarted.

use super::{Attempts, Plan, Shared};
use crate::connect::Server;
use crate::fleet::Fleet;
use crate::fleet::compare::{compare_nodes, pause_after};
use crate::fleet::cut::Verdict;
use crate::fleet::node::Roster;
use crate::metrics::labels;
use crate::server_seen::ServerSeen;
use crate::tables::catalog::{self, Catalog};
use crate::tables::row;
use crate::tables::target::Target;
use anyhow::Context as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// How long nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks again and again, and never ends.
pub(super) async fn run(server: &Server, plan: &Plan, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut attempts = Attempts::new("look");
    // When the server was started, as of the last look.
    let mut started: Option<String> = None;
    loop {
        let Err(error) = look(server, plan, shared, &mut attempts, &mut started).await;
        shared.metrics.server_up.set(0);
        attempts.failed(&error, shared).await;
    }
}

async fn look(
    server: &Server,
    plan: &Plan,
    shared: &Shared,
    attempts: &mut Attempts,
    started: &mut Option<String>,
) -> Result<std::convert::Infallible, anyhow::Error> {
    let mut client = server.client().await?;
    let mut fleet = Fleet::connect(server).await?;
    let mut compare_at = Instant::now();
    loop {
        look_at_server(&mut client, shared, started).await?;
        let roster = Roster::call(&mut fleet, PATIENCE).await?;
        let live = roster.nodes.iter().filter(|node| node.is_live()).count();
        let counts = (live, roster.nodes.len(), roster.silent.len());
        shared.status.lock().nodes = Some(counts);
        for (state, number) in [
            ("live", live),
            ("not_live", roster.nodes.len() - live),
            ("silent", roster.silent.len()),
        ] {
            let state = labels([("state", state)]);
            shared
                .metrics
                .nodes
                .get_or_create(&state)
                .set(number as i64);
        }
        attempts.succeeded();
        if !plan.verify_every.is_zero() && !roster.nodes.is_empty() && Instant::now() >= compare_at
        {
            let rows = compare(server, plan, shared, &mut client, &mut fleet).await?;
            let pause = pause_after(rows, plan.max_rows_per_second);
            compare_at = Instant::now() + plan.verify_every.max(pause);
        }
        tokio::time::sleep(plan.look_every).await;
    }
}

/// Looks at the queue and the listeners.
async fn look_at_server(
    client: &mut Client,
    shared: &Shared,
    started: &mut Option<String>,
) -> anyhow::Result<()> {
    let catalog = catalog::reading(client).await?;
    let seen = ServerSeen::read(&catalog, None).await?;
    let now = started_at(&catalog).await?;
    catalog.roll_back().await.context("end the transaction")?;
    let metrics = &shared.metrics;
    metrics.server_up.set(1);
    metrics.queue.set(seen.queue);
    metrics.listeners.set(seen.listeners.len() as i64);
    let was_restarted = started.as_ref().is_some_and(|before| *before != now);
    if was_restarted {
        metrics.server_restarts.inc();
        shared.say("the server was started anew");
    }
    *started = Some(now);
    let mut status = shared.status.lock();
    status.queue = Some(seen.queue);
    status.listeners = Some(seen.listeners.len());
    status.restarts += u64::from(was_restarted);
    Ok(())
}

/// Returns when the server was started, as text. After a crash it has begun anew as well.
async fn started_at(catalog: &Catalog<'_>) -> anyhow::Result<String> {
    // After a crash of a process the postmaster lives on: its statistics begin anew then.
    const STARTED: &str = "
        SELECT concat(pg_postmaster_start_time(), ' ', (
            SELECT min(backend_start) FROM pg_stat_activity WHERE backend_type = 'checkpointer'))";
    let row = catalog.query_typed_one(STARTED, &[]).await;
    Ok(row.context("ask when the server was started")?.get(0))
}

/// Compares the caches of the nodes with the tables. Returns how many rows those have.
async fn compare(
    server: &Server,
    plan: &Plan,
    shared: &Shared,
    client: &mut Client,
    fleet: &mut Fleet,
) -> anyhow::Result<u64> {
    let catalog = catalog::reading(client).await?;
    let tables = catalog::resolve(&catalog, &plan.tables).await?;
    catalog.roll_back().await.context("end the transaction")?;
    let mut reader = row::reader(server).await?;
    let mut rows = 0;
    for table in tables {
        let target = Target::whole(table, &mut Vec::new())?;
        let compared = compare_nodes(fleet, &mut reader, &target).await?;
        rows += compared.outcome.rows;
        let verdicts = compared
            .outcome
            .nodes
            .values()
            .map(|verdict| match verdict {
                Verdict::Equal { .. } => "equal",
                Verdict::Differs { .. } => "differs",
                Verdict::Inconclusive(_) => "inconclusive",
                Verdict::Silent => "silent",
            });
        let verdicts: Vec<&str> = verdicts.collect();
        for word in ["equal", "differs", "inconclusive", "silent"] {
            let number = verdicts.iter().filter(|verdict| **verdict == word).count();
            let (schema, table) = target.names();
            let own = labels([("schema", schema), ("table", table), ("verdict", word)]);
            shared
                .metrics
                .node_verdicts
                .get_or_create(&own)
                .set(number as i64);
            if word == "differs" && number > 0 {
                shared.say(&format!(
                    "the cache of {} at {number} of {} nodes differs: pgic verify {} --nodes says \
                    which rows",
                    target.name(),
                    verdicts.len(),
                    target.table.typed_name()
                ));
            }
        }
    }
    Ok(rows)
}
