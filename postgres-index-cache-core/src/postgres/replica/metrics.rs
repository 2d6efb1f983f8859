//! [`Metrics`]: a replica's figures in the metrics of the service that embeds it.
//!
//! A figure that `pgic monitor` has too has the same name there, so that one dashboard shows both.

use crate::postgres::replica::status::SharedStatus;
use crate::sync::Counters;
use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};
use std::sync::Arc;

/// The label that tells the replicas of a process apart.
const NODE: &str = "node";

/// The metrics of one replica, in the recorder that is installed when the replica is opened.
pub(super) struct Metrics {
    tables: Vec<TableMetrics>,
    lag: Gauge,
    gaps: Counter,
    reloads: Counter,
    refetched: Counter,
    invalid: Counter,
    received: Counter,
    applied: Counter,
}

/// The metrics of one table.
struct TableMetrics {
    live: Gauge,
    rows: Gauge,
    memory: Gauge,
    kept_out: Gauge,
}

impl Metrics {
    /// Registers the metrics of the replica `node` with the tables `names`.
    pub(super) fn new(node: &str, names: &[Arc<str>]) -> Self {
        describe();
        let tables = names.iter().map(|name| {
            let labels = [(NODE, node.to_string()), ("table", name.to_string())];
            TableMetrics {
                live: gauge!("pgic_table_live", &labels),
                rows: gauge!("pgic_table_rows", &labels),
                memory: gauge!("pgic_table_memory_bytes", &labels),
                kept_out: gauge!("pgic_table_kept_out_rows", &labels),
            }
        });
        let labels = [(NODE, node.to_string())];
        Self {
            tables: tables.collect(),
            lag: gauge!("pgic_lag_seconds", &labels),
            gaps: counter!("pgic_gaps_total", &labels),
            reloads: counter!("pgic_reloads_total", &labels),
            refetched: counter!("pgic_refetched_rows_total", &labels),
            invalid: counter!("pgic_invalid_payloads_total", &labels),
            received: counter!("pgic_notifications_total", &labels),
            applied: counter!("pgic_applied_changes_total", &labels),
        }
    }

    /// Sets the metrics to what the replica has now.
    pub(super) fn publish(&self, shared: &SharedStatus) {
        let tables = self.tables.iter().zip(&shared.tables).zip(&shared.sizes);
        for ((metrics, table), size) in tables {
            let is_live = shared.ended.is_none() && table.status.is_live();
            metrics.live.set(u8::from(is_live));
            metrics.rows.set(count(size.rows));
            metrics.memory.set(count(size.memory_bytes));
            metrics.kept_out.set(count(size.kept_out));
        }
        // Nothing is listened to: no figure is better than that of a fence of long ago.
        let lag = shared.stats.lag.map_or(f64::NAN, |lag| lag.as_secs_f64());
        self.lag.set(lag);
        let Counters {
            received,
            applied,
            invalid,
            reloads,
            refetched,
            gaps,
            ..
        } = shared.stats.counters;
        for (metric, count) in [
            (&self.received, received),
            (&self.applied, applied),
            (&self.invalid, invalid),
            (&self.reloads, reloads),
            (&self.refetched, refetched),
            (&self.gaps, gaps),
        ] {
            metric.absolute(count);
        }
    }
}

/// Describes the metrics. To describe one again changes nothing.
fn describe() {
    describe_gauge!(
        "pgic_table_live",
        "Whether the cache of a table is live: 1, or 0"
    );
    describe_gauge!("pgic_table_rows", "Rows in the cache of a table");
    describe_gauge!(
        "pgic_table_memory_bytes",
        Unit::Bytes,
        "Memory of the cache of a table, without what the models hold on the heap"
    );
    describe_gauge!(
        "pgic_table_kept_out_rows",
        "Rows of a table that do not fit the model and are kept out of the cache"
    );
    describe_gauge!(
        "pgic_lag_seconds",
        Unit::Seconds,
        "How long the last fence took to come back; NaN while nothing is listened to"
    );
    describe_counter!(
        "pgic_gaps_total",
        "Times that all connections of the caches were lost"
    );
    describe_counter!("pgic_reloads_total", "Reads of a table beyond its first");
    describe_counter!(
        "pgic_refetched_rows_total",
        "Rows that were read again by their keys"
    );
    describe_counter!(
        "pgic_invalid_payloads_total",
        "Payloads that are no notification"
    );
    describe_counter!(
        "pgic_notifications_total",
        "Notifications received, without fences"
    );
    describe_counter!(
        "pgic_applied_changes_total",
        "Changes handed out to be applied"
    );
}

/// Returns a count as gauges take it.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; counts past 2^53 do not occur"
)]
fn count(number: usize) -> f64 {
    number as f64
}
