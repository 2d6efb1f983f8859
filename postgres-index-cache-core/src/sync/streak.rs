//! [`Streak`]: how often in a row an attempt failed in one way.

/// How many failures in a row with the same error code are a refusal.
pub(super) const FAILURES: u32 = 3;

/// The last error code, and how often in a row attempts failed with it.
#[derive(Debug, Default)]
pub(super) struct Streak(Option<(String, u32)>);

impl Streak {
    /// Notes a failure and returns whether it is the third in a row with this code.
    ///
    /// A failure without a code, a lock that somebody holds for example, passes by itself: it ends
    /// the streak and never completes one.
    pub(super) fn is_refusal(&mut self, code: Option<String>) -> bool {
        self.0 = match (self.0.take(), code) {
            (Some((last, times)), Some(code)) if last == code => Some((code, times + 1)),
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

    #[test]
    fn the_third_failure_in_a_row_with_one_code_is_a_refusal() {
        let mut streak = Streak::default();
        let fails = |streak: &mut Streak, code: &str| streak.is_refusal(Some(code.to_string()));
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
