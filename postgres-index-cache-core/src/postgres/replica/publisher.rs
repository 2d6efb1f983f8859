//! [`Publisher`]: tells readers and subscribers how far the rows of a replica can be relied on.

use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::events::ReplicaEvent;
#[cfg(feature = "nats")]
use crate::postgres::replica::health::Health;
#[cfg(feature = "metrics")]
use crate::postgres::replica::metrics::Metrics;
use crate::postgres::replica::status::{ReplicaStatus, SharedStatus, TableStatus};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::broadcast;

/// Publishes the status of a replica's tables and, when it is dropped, the end of the replica,
/// however that comes: by a panic, or with the runtime. Whoever asks for the status of a replica
/// whose task is gone must not be told that it is live.
pub(super) struct Publisher {
    /// The tables' names, as the builder was given them.
    names: Vec<Arc<str>>,
    status: Arc<Mutex<SharedStatus>>,
    events: broadcast::Sender<ReplicaEvent>,
    #[cfg(feature = "metrics")]
    metrics: Option<Metrics>,
    /// The status of all tables together that was told last.
    told: ReplicaStatus,
}

impl Publisher {
    pub(super) fn new(
        names: Vec<Arc<str>>,
        status: Arc<Mutex<SharedStatus>>,
        events: broadcast::Sender<ReplicaEvent>,
    ) -> Self {
        Self {
            names,
            status,
            events,
            #[cfg(feature = "metrics")]
            metrics: None,
            told: ReplicaStatus::Live,
        }
    }

    /// Publishes the figures in the service's metrics as well from now on, as those of `node`.
    #[cfg(feature = "metrics")]
    pub(super) fn with_metrics_of(mut self, node: &str) -> Self {
        self.metrics = Some(Metrics::new(node, &self.names));
        self
    }

    /// Returns the number of tables.
    pub(super) fn tables(&self) -> usize {
        self.names.len()
    }

    /// Returns the name of a table.
    pub(super) fn name(&self, table: usize) -> Arc<str> {
        Arc::clone(&self.names[table])
    }

    /// Returns the status of all tables together, and what is published of each.
    #[cfg(feature = "nats")]
    pub(super) fn health(&self) -> Health {
        Health::new(&self.status.lock())
    }

    /// Returns the status of a table.
    pub(super) fn status(&self, table: usize) -> ReplicaStatus {
        self.status.lock().tables[table].status.clone()
    }

    /// Publishes the end, unless that was done.
    pub(super) fn end(&self, error: ReplicaError) {
        let mut status = self.status.lock();
        if status.ended.is_some() {
            return;
        }
        let error = Arc::new(error);
        status.ended = Some(Arc::clone(&error));
        self.publish_metrics(&status);
        drop(status);
        // Nobody need listen.
        let _ = self.events.send(ReplicaEvent::Ended { error });
    }

    /// Changes the figures by `change`, and tells the service's metrics.
    pub(super) fn set_figures(&self, change: impl FnOnce(&mut SharedStatus)) {
        let mut status = self.status.lock();
        change(&mut status);
        self.publish_metrics(&status);
    }

    /// Tells the service's metrics what the status tells.
    #[cfg(feature = "metrics")]
    fn publish_metrics(&self, status: &SharedStatus) {
        if let Some(metrics) = &self.metrics {
            metrics.publish(status);
        }
    }

    #[cfg(not(feature = "metrics"))]
    #[expect(clippy::unused_self, reason = "with the feature `metrics` it is used")]
    fn publish_metrics(&self, _status: &SharedStatus) {}

    /// Every table but the `held` ones is stale. Those were so before, for a reason of their own,
    /// which stays.
    pub(super) fn all_stale(
        &mut self,
        why: Arc<str>,
        since: SystemTime,
        held: impl Fn(usize) -> bool,
    ) {
        for table in (0..self.names.len()).filter(|table| !held(*table)) {
            let stale = ReplicaStatus::Stale {
                table: None,
                why: Arc::clone(&why),
                since,
            };
            self.set(table, stale, false);
            self.miss(table);
        }
        self.send(ReplicaEvent::Stale {
            table: None,
            why,
            since,
        });
        self.told = self.status.lock().status();
    }

    /// A table is live, perhaps without the rows that do not fit the model: `kept_out` has their
    /// number, and the first of them with the reason.
    pub(super) fn live(&mut self, table: usize, kept_out: Option<&(usize, String)>) {
        let status = match kept_out {
            None => ReplicaStatus::Live,
            Some((count, first)) => {
                let rows = if *count == 1 {
                    "1 row does".to_string()
                } else {
                    format!("{count} rows do")
                };
                let why = format!(
                    "{rows} not fit the model and is kept out, the first with the key {first}"
                );
                ReplicaStatus::Degraded {
                    table: self.name(table),
                    why: why.into(),
                }
            }
        };
        self.publish(table, status, true);
    }

    /// A table cannot be followed or read. `proven_at` is when it was last known to be as the rows
    /// are.
    pub(super) fn stale(&mut self, table: usize, why: Arc<str>, proven_at: Option<Instant>) {
        let since = match self.status(table) {
            // For another cause, but since the first one no change is sure to be there.
            ReplicaStatus::Stale { since, .. } => since,
            _ => moment(proven_at),
        };
        let stale = ReplicaStatus::Stale {
            table: Some(self.name(table)),
            why,
            since,
        };
        self.publish(table, stale, false);
        self.miss(table);
    }

    /// Notes whether the triggers of a table leave out updates that change nothing which is sent.
    pub(super) fn set_telling(&self, table: usize, leaves_out_updates: bool) {
        self.status.lock().telling[table].leaves_out_updates = leaves_out_updates;
    }

    /// Notes that writes of a table may not have been told. Call this after the table is published
    /// as not current: an object that is loaded in between would count as loaded after the loss.
    pub(super) fn miss(&self, table: usize) {
        self.status.lock().telling[table].losses += 1;
    }

    fn set(&self, table: usize, status: ReplicaStatus, is_current: bool) {
        self.status.lock().tables[table] = TableStatus { status, is_current };
    }

    /// Sets the status of a table. Sends an event if the table is stale, or if the status of all
    /// tables together has changed.
    pub(super) fn publish(&mut self, table: usize, status: ReplicaStatus, is_current: bool) {
        let is_same = self.status(table).is_same(&status);
        self.set(table, status.clone(), is_current);
        if is_same {
            return;
        }
        let all = self.status.lock().status();
        let is_news = !all.is_same(&self.told);
        self.told = all.clone();
        match (status, all) {
            (ReplicaStatus::Stale { table, why, since }, _) => {
                self.send(ReplicaEvent::Stale { table, why, since });
            }
            (_, ReplicaStatus::Live) if is_news => self.send(ReplicaEvent::Live),
            (_, ReplicaStatus::Loading) if is_news => self.send(ReplicaEvent::Loading),
            (_, ReplicaStatus::Degraded { table, why }) if is_news => {
                self.send(ReplicaEvent::Degraded { table, why });
            }
            _ => {}
        }
    }

    /// Sends an event.
    pub(super) fn send(&self, event: ReplicaEvent) {
        // Nobody need listen.
        let _ = self.events.send(event);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end(ReplicaError::ShutDown);
    }
}

/// Returns a moment on the clock of the machine; now, if nothing was ever proven.
pub(super) fn moment(at: Option<Instant>) -> SystemTime {
    let now = SystemTime::now();
    at.and_then(|at| now.checked_sub(at.elapsed()))
        .unwrap_or(now)
}
