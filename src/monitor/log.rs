//! The log of a relay: whether its relay proves it, and the nodes that follow it.

use super::{Attempts, Plan, Shared};
use crate::connect::Server;
use crate::failure::Report;
use crate::metrics::labels;
use crate::nats::LogAddress;
use anyhow::anyhow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a question that is not answered is lost. Nodes are not live by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nodes may take to answer.
const ROLL: Duration = Duration::from_secs(3);

/// Watches the log, and never ends. Without a log there is nothing to do.
pub(super) async fn run(server: &Server, plan: &Plan, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let Some(address) = &plan.log else {
        return Ok(());
    };
    let (of_proofs, of_nodes) = (address.apart(), address.apart());
    tokio::join!(
        prove_for_ever(server, plan, &of_proofs, shared),
        call_roll_for_ever(plan, &of_nodes, shared),
    );
    Ok(())
}

/// Asks the relay for proofs of the log, and begins again whenever there is none.
async fn prove_for_ever(server: &Server, plan: &Plan, address: &LogAddress, shared: &Shared) {
    let mut attempts = Attempts::new("log");
    loop {
        let Err(error) = prove(server, plan, address, shared, &mut attempts).await;
        let error = address.explain(error);
        note_unproven(&error, shared);
        attempts.failed(&error, shared).await;
    }
}

/// Notes that the log is not proven. Nodes are not live by then, so nobody waits to be told.
fn note_unproven(error: &anyhow::Error, shared: &Shared) {
    shared.metrics.log_proven.set(0);
    shared.status.lock().log_failure = Some(Report::new(error).one_line());
}

/// Asks the relay for a proof of the log, as nodes do, again and again.
async fn prove(
    server: &Server,
    plan: &Plan,
    address: &LogAddress,
    shared: &Shared,
    attempts: &mut Attempts,
) -> Result<Infallible, anyhow::Error> {
    let session = server.client().await?;
    let log = address.log_of("monitor", &session).await?;
    drop(session);
    loop {
        let asked = Instant::now();
        if log.ask(PATIENCE).await.is_none() {
            shared.metrics.log_lost.inc();
            let error = address.explain(anyhow!("no relay has proven the rows of {address}"));
            note_unproven(&error, shared);
            attempts.note(&error, shared);
            tokio::time::sleep(plan.canary_every).await;
            continue;
        }
        let took = asked.elapsed();
        shared.metrics.log_fence.observe(took.as_secs_f64());
        shared.metrics.log_proven.set(1);
        {
            let mut status = shared.status.lock();
            status.log_proven = Some((Instant::now(), took));
            status.log_failure = None;
        }
        attempts.succeeded();
        tokio::time::sleep(plan.canary_every).await;
    }
}

/// Calls the roll of the log's nodes, and begins again whenever they cannot be asked. What they
/// said before is not exported then.
async fn call_roll_for_ever(plan: &Plan, address: &LogAddress, shared: &Shared) {
    let mut attempts = Attempts::new("log-nodes");
    loop {
        let Err(error) = call_roll(plan, address, shared, &mut attempts).await;
        shared.status.lock().log_nodes = None;
        shared.metrics.log_nodes.clear();
        attempts.failed(&error, shared).await;
    }
}

/// Calls the roll of the log's nodes, again and again.
async fn call_roll(
    plan: &Plan,
    address: &LogAddress,
    shared: &Shared,
    attempts: &mut Attempts,
) -> Result<Infallible, anyhow::Error> {
    loop {
        let nodes = address.call_roll("monitor", ROLL).await?;
        let live = nodes
            .iter()
            .filter(|(node, _)| node.state == "live")
            .count();
        shared.status.lock().log_nodes = Some((live, nodes.len()));
        for (state, number) in [("live", live), ("not_live", nodes.len() - live)] {
            let state = labels([("state", state)]);
            let gauge = shared.metrics.log_nodes.get_or_create(&state);
            gauge.set(number as i64);
        }
        attempts.succeeded();
        tokio::time::sleep(plan.look_every).await;
    }
}
