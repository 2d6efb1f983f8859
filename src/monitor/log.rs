//! The log of a relay: whether its relay proves it, and the nodes that follow it.

use super::{Attempts, Plan, Shared};
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
pub(super) async fn run(plan: &Plan, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let Some(address) = &plan.log else {
        return Ok(());
    };
    tokio::join!(
        again_and_again("log", shared, prove, plan, address),
        again_and_again("log-nodes", shared, call_roll, plan, address),
    );
    Ok(())
}

/// Begins a task again whenever it has failed.
async fn again_and_again(
    name: &'static str,
    shared: &Shared,
    task: impl AsyncFn(&Plan, &LogAddress, &Shared, &mut Attempts) -> Result<Infallible, anyhow::Error>,
    plan: &Plan,
    address: &LogAddress,
) {
    let mut attempts = Attempts::new(name);
    loop {
        let Err(error) = task(plan, address, shared, &mut attempts).await;
        attempts.failed(&error, shared).await;
    }
}

/// Asks the relay for a proof of the log, as nodes do, again and again.
async fn prove(
    plan: &Plan,
    address: &LogAddress,
    shared: &Shared,
    attempts: &mut Attempts,
) -> Result<Infallible, anyhow::Error> {
    let proven = async {
        let log = address.log("monitor").await?;
        loop {
            let asked = Instant::now();
            if log.ask(PATIENCE).await.is_none() {
                shared.metrics.log_lost.inc();
                return Err(anyhow!("no relay has proven the rows of {address}"));
            }
            let took = asked.elapsed();
            shared.metrics.log_fence.observe(took.as_secs_f64());
            shared.metrics.log_proven.set(1);
            shared.status.lock().log_proven = Some((Instant::now(), took));
            attempts.succeeded();
            tokio::time::sleep(plan.canary_every).await;
        }
    };
    let ended: anyhow::Result<Infallible> = proven.await;
    shared.metrics.log_proven.set(0);
    ended.map_err(|error| address.explain(error))
}

/// Calls the roll of the log's nodes, again and again.
async fn call_roll(
    plan: &Plan,
    address: &LogAddress,
    shared: &Shared,
    attempts: &mut Attempts,
) -> Result<Infallible, anyhow::Error> {
    let log = address.log("monitor").await;
    let log = log.map_err(|error| address.explain(error))?;
    loop {
        let nodes = log.call_roll(ROLL).await?;
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
