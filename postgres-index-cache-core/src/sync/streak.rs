//! [`Streak`]: how often in a row attempts failed with one error code.
//!
//! A replica that was never live gives up at the third such failure: trying again does not mend an
//! error that stays, and whoever waits should see the error.

/// How many failures in a row with one error code are a refusal.
pub(super) const FAILURES: u32 = 3;

/// The last error code, and how often in a row attempts failed with it.
#[derive(Debug, Default)]
pub(super) struct Streak(Option<(String, u32)>);

impl Streak {
    /// Notes a failure and returns whether it is the third in a row with this code.
    ///
    /// A failure without a code passes by itself, for example a lock that somebody holds. Such a
    /// failure ends the streak and never completes one.
    pub(super) fn is_refusal(&mut self, code: Option<String>) -> bool {
        let before = self.0.take();
        self.0 = match (before, code) {
            (Some((last, times)), Some(code)) if last == code => Some((code, times + 1)),
            // Another code begins a streak of its own.
            (_, code) => code.map(|code| (code, 1)),
        };
        self.0.as_ref().is_some_and(|(_, times)| *times >= FAILURES)
    }

    /// Notes a success.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(streak: &mut Streak, code: &str) -> bool {
        streak.is_refusal(Some(code.to_string()))
    }

    #[test]
    fn the_third_failure_in_a_row_with_one_code_is_a_refusal() {
        let mut streak = Streak::default();
        assert!(!fails(&mut streak, "42501"));
        assert!(!fails(&mut streak, "42501"));
        assert!(!fails(&mut streak, "28000"), "another code begins anew");
        assert!(!fails(&mut streak, "42501"));
        assert!(
            !streak.is_refusal(None),
            "a failure that passes ends the streak"
        );
        assert!(!fails(&mut streak, "42501"));
        assert!(!fails(&mut streak, "42501"));
        assert!(fails(&mut streak, "42501"));
        streak.reset();
        assert!(!fails(&mut streak, "42501"));
    }
}
