//! Metrics as text: in the form of OpenMetrics, and in the older one of Prometheus.

use prometheus_client::registry::Registry;
use std::collections::HashMap;

/// The labels of a metric, with their values.
pub type Labels = Vec<(String, String)>;

/// Returns labels with their values.
pub fn labels<const N: usize>(labels: [(&str, &str); N]) -> Labels {
    let labels = labels.map(|(name, value)| (name.to_string(), value.to_string()));
    labels.into()
}

/// The form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0, for whoever asks for it.
    OpenMetrics,
    /// The text format 0.0.4, which everybody reads: files of node_exporter, and promtool.
    Prometheus,
}

impl TextFormat {
    /// Returns the media type of the form.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Returns the metrics as text.
pub fn encode(registry: &Registry, format: TextFormat) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    match format {
        TextFormat::OpenMetrics => text,
        TextFormat::Prometheus => older(&text),
    }
}

/// Returns a text of OpenMetrics in the older form. There, the name of a family is that of its
/// samples: it ends with `_total` for a counter, and with `_info` for information, which is a
/// gauge. Nothing tells the unit and the end.
fn older(text: &str) -> String {
    let types: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut older = String::new();
    for line in text.lines() {
        let described = line
            .strip_prefix("# TYPE ")
            .or_else(|| line.strip_prefix("# HELP "));
        let Some(described) = described else {
            if !line.starts_with("# ") {
                older.push_str(line);
                older.push('\n');
            }
            continue;
        };
        let name = described.split(' ').next().unwrap_or_default();
        let line = match types.get(name) {
            Some(&"counter") => line.replacen(name, &format!("{name}_total"), 1),
            Some(&"info") => {
                let line = line.replacen(name, &format!("{name}_info"), 1);
                match line.strip_suffix(" info") {
                    Some(begin) if line.starts_with("# TYPE ") => format!("{begin} gauge"),
                    _ => line,
                }
            }
            _ => line.to_string(),
        };
        older.push_str(&line);
        older.push('\n');
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::info::Info;

    #[test]
    fn counters_have_another_name_in_the_older_form() {
        let mut registry = Registry::default();
        let changes: Family<Labels, Counter> = Family::default();
        registry.register("pgic_changes", "Changes", changes.clone());
        let info = Info::new(labels([("version", "1")]));
        registry.register("pgic_build", "Version", info);
        changes
            .get_or_create(&labels([("table", "a\"b\n")]))
            .inc_by(3);
        assert_eq!(
            encode(&registry, TextFormat::OpenMetrics),
            "# HELP pgic_changes Changes.\n# TYPE pgic_changes counter\n\
            pgic_changes_total{table=\"a\\\"b\\n\"} 3\n\
            # HELP pgic_build Version.\n# TYPE pgic_build info\n\
            pgic_build_info{version=\"1\"} 1\n# EOF\n"
        );
        assert_eq!(
            encode(&registry, TextFormat::Prometheus),
            "# HELP pgic_changes_total Changes.\n# TYPE pgic_changes_total counter\n\
            pgic_changes_total{table=\"a\\\"b\\n\"} 3\n\
            # HELP pgic_build_info Version.\n# TYPE pgic_build_info gauge\n\
            pgic_build_info{version=\"1\"} 1\n"
        );
    }
}
