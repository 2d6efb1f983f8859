//! [`Rules`]: a switch for each rule of a protocol. In a release every rule is in force.
//!
//! A test is worth something only if it fails when the code is wrong. So a simulation can disable
//! one rule at a time, and a test shows that some seed then fails. The switch exists in tests and
//! with the cargo feature `simulation` alone. Otherwise [`keeps`](Rules::keeps) is constant and
//! costs nothing.
//!
//! Each protocol has an enum of its rules. Each variant has the scenario that the rule prevents.
//! The code that enforces a rule names the rule in a comment.

/// The rules of a protocol that are in force. `R` names them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<R> {
    #[cfg(any(test, feature = "simulation"))]
    disabled: [Option<R>; 3],
    #[cfg(not(any(test, feature = "simulation")))]
    named_by: std::marker::PhantomData<R>,
}

impl<R: Copy> Default for Rules<R> {
    /// Returns all rules.
    fn default() -> Self {
        Self {
            #[cfg(any(test, feature = "simulation"))]
            disabled: [None; 3],
            #[cfg(not(any(test, feature = "simulation")))]
            named_by: std::marker::PhantomData,
        }
    }
}

impl<R: Copy + PartialEq> Rules<R> {
    /// Returns all rules but `rule`.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn without(rule: R) -> Self {
        Self {
            disabled: [Some(rule), None, None],
        }
    }

    /// Returns all rules but these, of which at most three count: some rules stand in for another.
    #[cfg(all(feature = "postgres", any(test, feature = "simulation")))]
    pub(crate) fn without_all(rules: &[R]) -> Self {
        Self {
            disabled: [0, 1, 2].map(|at| rules.get(at).copied()),
        }
    }

    /// Returns whether `rule` is in force.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn keeps(self, rule: R) -> bool {
        !self.disabled.contains(&Some(rule))
    }

    /// Returns true: a release keeps every rule.
    #[cfg(not(any(test, feature = "simulation")))]
    #[expect(clippy::unused_self, reason = "as with the feature `simulation`")]
    pub(crate) const fn keeps(self, _: R) -> bool {
        true
    }
}
