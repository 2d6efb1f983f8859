//! [`PromptStatus`]: the state of the caches, as the prompt shows it.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The state of a cache, or of all of them, as the prompt shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptState {
    /// A table is being read.
    Loading,
    /// Every cache has the rows of its table.
    Live,
    /// A cache may lack changes that were committed since the cache was live.
    Stale,
}

impl PromptState {
    /// Returns the word that the prompt and JSON have.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Live => "live",
            Self::Stale => "stale",
        }
    }
}

/// The state of all caches, shared with the thread that draws the prompt.
#[derive(Debug, Default)]
pub(super) struct PromptStatus {
    state: AtomicU8,
    /// The number of tables that are stale while others are not; 0 if that is not so.
    stale: AtomicUsize,
}

impl PromptStatus {
    /// Returns the state that was set last.
    pub(super) fn get(&self) -> PromptState {
        match self.state.load(Ordering::Relaxed) {
            0 => PromptState::Loading,
            1 => PromptState::Live,
            _ => PromptState::Stale,
        }
    }

    /// Returns the words of the prompt, at most seven characters: `live`, or `1 stale` if the other
    /// tables are not.
    pub(super) fn words(&self) -> String {
        match (self.get(), self.stale.load(Ordering::Relaxed)) {
            (PromptState::Stale, some @ 1..=9) => format!("{some} stale"),
            (state, _) => state.as_str().to_string(),
        }
    }

    /// Sets the states of all tables.
    pub(super) fn set(&self, states: &[PromptState]) {
        let count = |wanted: PromptState| states.iter().filter(|state| **state == wanted).count();
        let stale = count(PromptState::Stale);
        let state = if stale > 0 {
            PromptState::Stale
        } else if count(PromptState::Loading) > 0 {
            PromptState::Loading
        } else {
            PromptState::Live
        };
        let partly = if stale < states.len() { stale } else { 0 };
        self.stale.store(partly, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_state_is_shown_with_the_number_of_tables_unless_it_is_that_of_all() {
        use PromptState::{Live, Loading, Stale};
        let status = PromptStatus::default();
        for (states, expected) in [
            (&[Live, Live][..], "live"),
            (&[Live, Loading], "loading"),
            (&[Stale, Loading], "1 stale"),
            (&[Stale, Live, Stale], "2 stale"),
            (&[Stale, Stale], "stale"),
        ] {
            status.set(states);
            assert_eq!(status.words(), expected);
            // The prompt has room for so many characters.
            assert!(status.words().len() <= 7);
        }
        let mut many = vec![Stale; 10];
        many.push(Live);
        status.set(&many);
        assert_eq!(status.words(), "stale");
    }
}
