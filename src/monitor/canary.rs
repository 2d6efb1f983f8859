//! The canary: a notification to ourselves, again and again.

use super::{Attempts, Plan, Shared};
use crate::connect::Server;
use crate::fleet::Fleet;
use anyhow::anyhow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When one that has not come is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends notifications to ourselves, and never ends.
pub(super) async fn run(server: &Server, plan: &Plan, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut attempts = Attempts::new("canary");
    loop {
        let Err(error) = send(server, plan, shared, &mut attempts).await;
        attempts.failed(&error, shared).await;
    }
}

async fn send(
    server: &Server,
    plan: &Plan,
    shared: &Shared,
    attempts: &mut Attempts,
) -> Result<std::convert::Infallible, anyhow::Error> {
    let mut fleet = Fleet::connect(server).await?;
    loop {
        match fleet.round_trip(PATIENCE).await? {
            Some(took) => {
                shared.metrics.canary.observe(took.as_secs_f64());
                shared.status.lock().canary = Some((Instant::now(), took));
                attempts.succeeded();
            }
            None => {
                shared.metrics.canary_lost.inc();
                // The session may be deaf for ever: the next is another one.
                return Err(anyhow!(
                    "a notification of our own did not come back within {PATIENCE:?}"
                ));
            }
        }
        tokio::time::sleep(plan.canary_every).await;
    }
}
