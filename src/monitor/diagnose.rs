//! The examinations of `pgic doctor`, now and then.

use super::{Attempts, Plan, Shared};
use crate::connect::Server;
use crate::doctor::{Examination, examine};
use crate::settings::Settings;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// The age from which a transaction is long.
const LONG_TRANSACTION: Duration = Duration::from_secs(300);

/// Examines, and never ends.
pub(super) async fn run(
    server: &Server,
    settings: &Settings,
    plan: &Plan,
    shared: &Arc<Shared>,
) -> anyhow::Result<()> {
    if plan.doctor_every.is_zero() {
        return Ok(());
    }
    let examination = Examination {
        tables: plan.tables.clone(),
        traffic: Duration::ZERO,
        long_transaction: LONG_TRANSACTION,
    };
    let mut attempts = Attempts::new("doctor");
    loop {
        match examine(server, settings, &examination).await {
            Ok(diagnosis) => {
                attempts.succeeded();
                shared.metrics.diagnosis.set(&diagnosis);
                let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
                shared.metrics.doctor_time.set(now);
                shared.status.lock().diagnosis = Some(diagnosis);
                tokio::time::sleep(plan.doctor_every).await;
            }
            Err(error) => attempts.failed(&error, shared).await,
        }
    }
}
