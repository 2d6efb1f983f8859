//! A bar on stderr while a snapshot is read, when that is a terminal. The one home of indicatif.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// A progress bar, or nothing where nobody looks.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar for `what`, of roughly `expected` rows.
    pub fn new(what: &str, expected: Option<u64>, wanted: bool) -> Self {
        let bar = ProgressBar::with_draw_target(expected, ProgressDrawTarget::stderr_with_hz(10));
        if !wanted || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = match expected {
            Some(_) => "{msg} {wide_bar} {human_pos} of about {human_len} rows, {eta} left",
            None => "{msg} {spinner} {human_pos} rows",
        };
        // The templates are constants that a test renders.
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(super::escape::escape(what).into_owned());
        Self(bar)
    }

    /// That something goes on, and for how long it has.
    pub fn waiting(what: &str, wanted: bool) -> Self {
        let bar = Self::new(what, None, wanted);
        let style = ProgressStyle::with_template("{msg} {spinner} {elapsed}");
        bar.0
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.0.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// So many rows are read.
    pub fn set(&self, rows: usize) {
        let rows = rows as u64;
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
