//! A [`Diagnosis`] as metrics.

use super::Diagnosis;
use crate::metrics::{Labels, TextFormat, encode, labels};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// A gauge of a number that need not be whole.
type FloatGauge = Gauge<f64, AtomicU64>;

/// The metrics of a diagnosis, which are set anew by each.
#[derive(Debug, Default)]
pub struct DiagnosisMetrics {
    verdict: Family<Labels, Gauge>,
    problems: Family<Labels, Gauge>,
    took: FloatGauge,
}

impl DiagnosisMetrics {
    /// Makes the metrics, and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "pgic_check_verdict",
            "Verdict of a check of pgic doctor: 0 ok, 1 warning, 2 critical, -1 unknown",
            metrics.verdict.clone(),
        );
        registry.register(
            "pgic_check_problems",
            "Number of problems that a check of pgic doctor has found",
            metrics.problems.clone(),
        );
        registry.register(
            "pgic_doctor_duration_seconds",
            "How long the last examination took",
            metrics.took.clone(),
        );
        metrics
    }

    /// Sets the metrics to these outcomes.
    pub fn set(&self, diagnosis: &Diagnosis) {
        for outcome in &diagnosis.outcomes {
            let check = labels([("code", outcome.check.code), ("check", outcome.check.name)]);
            self.verdict
                .get_or_create(&check)
                .set(outcome.verdict.as_number());
            self.problems
                .get_or_create(&check)
                .set(outcome.found.len() as i64);
        }
        self.took.set(diagnosis.took.as_secs_f64());
    }
}

/// Returns a diagnosis as text that Prometheus reads.
pub fn of_diagnosis(diagnosis: &Diagnosis) -> String {
    let mut registry = Registry::default();
    DiagnosisMetrics::register(&mut registry).set(diagnosis);
    encode(&registry, TextFormat::Prometheus)
}
