//! A pipeline that is watched for long, for `pgic monitor`.
//!
//! ```text
//! follow    a cache of each table, kept in step; rounds of verify ─┐
//! canary    a notification to ourselves, again and again ──────────┤
//! look      queue, listeners, nodes, restarts ─────────────────────┼─→ Shared ─→ http
//! log       a relay's log and its nodes, with --from ──────────────┤
//! diagnose  pgic doctor, now and then ─────────────────────────────┘    metrics, status
//! ```
//!
//! Each task has sessions of its own, and opens them again for ever. A scrape reads the results of
//! the tasks, and asks the server nothing.

mod canary;
mod diagnose;
mod follow;
pub mod http;
mod log;
mod look;
pub mod metrics;
pub mod status;

use crate::connect::Server;
use crate::failure::Report;
use crate::nats::LogAddress;
use crate::settings::Settings;
use crate::tables::bounds::Bounds;
use metrics::Metrics;
use parking_lot::Mutex;
use status::Status;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// The time between two attempts of a task that failed, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// How a pipeline is watched.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The names of the tables that are followed.
    pub tables: Vec<String>,
    /// What the tables' caches, and loading them, may take.
    pub bounds: Bounds,
    /// The time from one notification to ourselves to the next.
    pub canary_every: Duration,
    /// The time from one look at queue, listeners and nodes to the next.
    pub look_every: Duration,
    /// The time from one examination to the next; zero for none.
    pub doctor_every: Duration,
    /// The time from one comparison of a table to the next; zero for none.
    pub verify_every: Duration,
    /// The most rows that are compared in a second, on average.
    pub max_rows_per_second: Option<NonZeroU64>,
    /// The log of a relay that is watched too; `None` for none.
    pub log: Option<LogAddress>,
}

/// Prints a notice.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// The results that the tasks write and the exporter reads.
pub struct Shared {
    /// The metrics.
    pub metrics: Metrics,
    /// The state of the pipeline.
    pub status: Mutex<Status>,
    say: Say,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Begins a watch of which nothing is known yet. `say` prints notices of changes.
    pub fn new(plan: &Plan, say: Say) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(plan.log.is_some()),
            status: Mutex::new(Status::new(plan)),
            say,
        })
    }

    fn say(&self, text: &str) {
        (self.say)(text);
    }
}

/// Watches the pipeline, and never ends.
///
/// # Errors
/// If the tables cannot be followed at the start, for a reason that waiting does not mend.
pub async fn watch(
    server: &Server,
    settings: &Settings,
    plan: &Plan,
    shared: &Arc<Shared>,
) -> anyhow::Result<()> {
    tokio::try_join!(
        Box::pin(follow::run(server, plan, shared)),
        Box::pin(canary::run(server, plan, shared)),
        Box::pin(look::run(server, plan, shared)),
        Box::pin(log::run(server, plan, shared)),
        Box::pin(diagnose::run(server, settings, plan, shared)),
    )?;
    Ok(())
}

/// The attempts of a task: the time until the next, and the reason that was said.
struct Attempts {
    task: &'static str,
    retry: Duration,
    said: Option<String>,
}

impl Attempts {
    fn new(task: &'static str) -> Self {
        Self {
            task,
            retry: FIRST_RETRY,
            said: None,
        }
    }

    /// Notes that an attempt succeeded.
    fn succeeded(&mut self) {
        self.retry = FIRST_RETRY;
        self.said = None;
    }

    /// Notes that an attempt failed, says why unless that was said, and waits for the next.
    async fn failed(&mut self, error: &anyhow::Error, shared: &Shared) {
        self.note(error, shared);
        tokio::time::sleep(self.retry).await;
        self.retry = (2 * self.retry).min(LONGEST_RETRY);
    }

    /// Notes that an attempt failed, and says why unless that was said.
    fn note(&mut self, error: &anyhow::Error, shared: &Shared) {
        let why = Report::new(error).one_line();
        shared.metrics.task_failed(self.task);
        if self.said.as_ref() != Some(&why) {
            shared.say(&format!("{}: {why}; trying again", self.task));
            self.said = Some(why);
        }
    }
}
