//! [`Metrics`]: the metrics of a pipeline that is watched, each described where it is registered.

use crate::doctor::metrics::DiagnosisMetrics;
use crate::metrics::{Labels, TextFormat, encode, labels};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// A gauge of a number that need not be whole.
type FloatGauge = Gauge<f64, AtomicU64>;

/// The bounds of round trips and ages, in seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The metrics.
pub struct Metrics {
    registry: Registry,
    pub(super) server_up: Gauge,
    pub(super) server_restarts: Counter,
    pub(super) task_failures: Family<Labels, Counter>,
    pub(super) table_live: Family<Labels, Gauge>,
    pub(super) table_rows: Family<Labels, Gauge>,
    pub(super) table_memory: Family<Labels, Gauge>,
    pub(super) changes: Family<Labels, Counter>,
    pub(super) other_notifications: Counter,
    pub(super) age: Histogram,
    pub(super) gaps: Counter,
    pub(super) reloads: Counter,
    pub(super) refetched: Counter,
    pub(super) invalid: Counter,
    pub(super) lag: FloatGauge,
    pub(super) canary: Histogram,
    pub(super) canary_lost: Counter,
    pub(super) queue: FloatGauge,
    pub(super) listeners: Gauge,
    pub(super) nodes: Family<Labels, Gauge>,
    pub(super) log_proven: Gauge,
    pub(super) log_fence: Histogram,
    pub(super) log_lost: Counter,
    pub(super) log_nodes: Family<Labels, Gauge>,
    pub(super) verify_rounds: Family<Labels, Counter>,
    pub(super) verify_differing: Family<Labels, Gauge>,
    pub(super) verify_time: Family<Labels, FloatGauge>,
    pub(super) node_verdicts: Family<Labels, Gauge>,
    pub(super) diagnosis: DiagnosisMetrics,
    pub(super) doctor_time: FloatGauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Registers metrics: `name: help` for each field that is listed.
macro_rules! register {
    ($registry:ident, $metrics:ident, $($field:ident $name:literal $help:literal),* $(,)?) => {
        $($registry.register($name, $help, $metrics.$field.clone());)*
    };
}

impl Metrics {
    /// Registers the metrics, with those of a relay's log if one is watched.
    pub(super) fn new(has_log: bool) -> Self {
        let mut registry = Registry::default();
        let version = Info::new(labels([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("pgic_build", "The version of pgic", version);
        let diagnosis = DiagnosisMetrics::register(&mut registry);
        let metrics = Self {
            server_up: Gauge::default(),
            server_restarts: Counter::default(),
            task_failures: Family::default(),
            table_live: Family::default(),
            table_rows: Family::default(),
            table_memory: Family::default(),
            changes: Family::default(),
            other_notifications: Counter::default(),
            age: Histogram::new(SECONDS),
            gaps: Counter::default(),
            reloads: Counter::default(),
            refetched: Counter::default(),
            invalid: Counter::default(),
            lag: FloatGauge::default(),
            canary: Histogram::new(SECONDS),
            canary_lost: Counter::default(),
            queue: FloatGauge::default(),
            listeners: Gauge::default(),
            nodes: Family::default(),
            log_proven: Gauge::default(),
            log_fence: Histogram::new(SECONDS),
            log_lost: Counter::default(),
            log_nodes: Family::default(),
            verify_rounds: Family::default(),
            verify_differing: Family::default(),
            verify_time: Family::default(),
            node_verdicts: Family::default(),
            doctor_time: FloatGauge::default(),
            diagnosis,
            registry: Registry::default(),
        };
        register!(registry, metrics,
            server_up "pgic_server_up" "Whether the last look at the server succeeded",
            server_restarts "pgic_server_restarts"
                "How often the server was seen to have been started anew",
            task_failures "pgic_task_failures"
                "Attempts of a task of pgic monitor that failed, by the task",
            table_live "pgic_table_live" "Whether the cache of a table is live: 1, or 0",
            table_rows "pgic_table_rows" "Rows in the cache of a table",
            table_memory "pgic_table_memory_bytes" "Memory of the cache of a table",
            changes "pgic_changes"
                "Notifications of a table that is followed, by table and action",
            other_notifications "pgic_other_notifications"
                "Notifications on the same channels that are about no table that is followed",
            age "pgic_notification_age_seconds"
                "Time from the trigger to the arrival, by the clocks of server and monitor",
            gaps "pgic_gaps" "Times that all connections of the caches were lost",
            reloads "pgic_reloads" "Reads of a table beyond its first",
            refetched "pgic_refetched_rows" "Rows that were read again by their keys",
            invalid "pgic_invalid_payloads" "Payloads that are no notification",
            lag "pgic_lag_seconds" "How long the last fence of the caches took to come back",
            canary "pgic_canary_round_trip_seconds"
                "Time from sending a notification to ourselves to its arrival",
            canary_lost "pgic_canary_lost" "Notifications to ourselves that did not come back",
            queue "pgic_queue_usage_ratio" "Share of the notification queue that is in use",
            listeners "pgic_listeners" "Sessions of the database that are known to listen",
            nodes "pgic_nodes" "Nodes that keep caches, by state: live, not_live or silent",
            verify_rounds "pgic_verify_rounds"
                "Comparisons of a cache with its table, by verdict",
            verify_differing "pgic_verify_differing_rows"
                "Rows that differed at the last comparison of a cache with its table",
            verify_time "pgic_verify_timestamp_seconds"
                "When a cache was last compared with its table",
            node_verdicts "pgic_node_verdicts"
                "Nodes by the verdict of the last comparison of their caches with a table",
            doctor_time "pgic_doctor_timestamp_seconds" "When the last examination ended",
        );
        // Who watches no log has none of these: a zero would look like a log that is not proven.
        if has_log {
            register!(registry, metrics,
                log_proven "pgic_log_proven"
                    "Whether a relay has proven its log at the last question: 1, or 0",
                log_fence "pgic_log_fence_seconds"
                    "Time from the question for a proof of the log to the answer",
                log_lost "pgic_log_fences_lost" "Questions for a proof that nobody has answered",
                log_nodes "pgic_log_nodes" "Nodes that follow the log, by state: live or not_live",
            );
        }
        let of_log: &[&str] = if has_log { &["log", "log-nodes"] } else { &[] };
        // A counter that begins with its first event has no increase for Prometheus.
        for task in ["follow", "canary", "look", "doctor"].iter().chain(of_log) {
            let task = labels([("task", *task)]);
            drop(metrics.task_failures.get_or_create(&task));
        }
        Self {
            registry,
            ..metrics
        }
    }

    /// Returns the metrics as text.
    pub fn text(&self, format: TextFormat) -> String {
        encode(&self.registry, format)
    }

    /// Counts an attempt of a task that failed.
    pub(super) fn task_failed(&self, task: &str) {
        self.task_failures
            .get_or_create(&labels([("task", task)]))
            .inc();
    }
}
