//! [`Progress`]: a bar on stderr while snapshots are read. The only module that uses indicatif.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// A progress bar, hidden if not wanted or if stderr is no terminal. Removed from the screen when
/// dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows a bar with the text `what`, of roughly `expected` rows. Shows a spinner if the number
    /// is `None`.
    pub fn new(what: &str, expected: Option<u64>, wanted: bool) -> Self {
        let bar = ProgressBar::with_draw_target(expected, ProgressDrawTarget::stderr_with_hz(10));
        if !wanted || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = match expected {
            Some(_) => "{msg} {wide_bar} {human_pos} of about {human_len} rows, {eta} left",
            None => "{msg} {spinner} {human_pos} rows",
        };
        // The templates are constants that a test renders, so the default style is never used.
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(super::escape::escape(what).into_owned());
        Self(bar)
    }

    /// Shows a spinner with the text `what` and the time since the start.
    pub fn waiting(what: &str, wanted: bool) -> Self {
        let bar = Self::new(what, None, wanted);
        let style = ProgressStyle::with_template("{msg} {spinner} {elapsed}");
        bar.0
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.0.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// Moves the bar to `rows` rows read.
    pub fn set(&self, rows: usize) {
        let rows = rows as u64;
        // The expected number was an estimate: a larger table moves the end of the bar.
        if self.0.length().is_some_and(|length| length < rows) {
            self.0.set_length(rows);
        }
        self.0.set_position(rows);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_larger_than_its_estimate_moves_the_end() {
        let progress = Progress::new("loading", Some(10), false);
        progress.set(25);
        assert_eq!((progress.0.length(), progress.0.position()), (Some(25), 25));
    }
}
