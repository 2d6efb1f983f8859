//! [`Report`]: the table of figures, each with its peer, its ratio and its target.

use std::time::Duration;

/// One figure in the table.
struct Row {
    what: String,
    ours: String,
    peer: String,
    ratio: String,
    target: String,
    verdict: &'static str,
}

/// The figures that were measured so far. They are printed as they come, and once more as a table.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// The figure stands for itself.
    None,
}

impl Target {
    fn verdict(self, figure: f64) -> &'static str {
        match self {
            Self::AtMost(most) if figure <= most => "met",
            Self::AtLeast(least) if figure >= least => "met",
            Self::AtMost(_) | Self::AtLeast(_) => "MISSED",
            Self::None => "",
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", figure(most)),
            Self::AtLeast(least) => format!(">= {}", figure(least)),
            Self::None => String::new(),
        }
    }
}

impl Report {
    /// Notes a figure that has a peer. Both were measured in turns, pair by pair: the ratio is the
    /// median of the pairs' ratios, and its spread stands behind.
    pub fn pairs(
        &mut self,
        what: &str,
        unit: &str,
        peer: &str,
        pairs: &[(f64, f64)],
        target: Target,
    ) {
        let ours: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        let theirs: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let ratios: Vec<f64> = pairs.iter().map(|pair| pair.0 / pair.1).collect();
        let ratio = median(&ratios);
        self.add(Row {
            what: what.to_string(),
            ours: format!("{} {unit}", figure(median(&ours))),
            peer: format!("{peer} {} {unit}", figure(median(&theirs))),
            ratio: format!(
                "{} [{}..{}]",
                figure(ratio),
                figure(least(&ratios)),
                figure(most(&ratios))
            ),
            target: match target {
                Target::None => String::new(),
                target => format!("{} x", target.text()),
            },
            verdict: target.verdict(ratio),
        });
    }

    /// Notes a figure that stands alone.
    pub fn alone(&mut self, what: &str, unit: &str, values: &[f64], target: Target) {
        let value = median(values);
        self.add(Row {
            what: what.to_string(),
            ours: format!("{} {unit}", figure(value)),
            peer: String::new(),
            ratio: format!("[{}..{}]", figure(least(values)), figure(most(values))),
            target: target.text(),
            verdict: target.verdict(value),
        });
    }

    fn add(&mut self, row: Row) {
        eprintln!(
            "{}: {} | {} | {} | {} {}",
            row.what, row.ours, row.peer, row.ratio, row.target, row.verdict
        );
        self.rows.push(row);
    }

    /// Prints the table as Markdown.
    pub fn print(&self) {
        println!("| what | pgic | peer or limit | ratio, median [least..most] | target | |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            println!(
                "| {} | {} | {} | {} | {} | {} |",
                row.what, row.ours, row.peer, row.ratio, row.target, row.verdict
            );
        }
    }
}

/// Returns a number with three digits that count.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// Returns the median of some values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Returns a duration in milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns a duration for each of `count` in nanoseconds.
pub fn ns_each(duration: Duration, count: usize) -> f64 {
    duration.as_secs_f64() * 1e9 / count as f64
}
