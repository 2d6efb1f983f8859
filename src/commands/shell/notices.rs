//! [`Notices`]: what is said while nobody asks, on its way to a terminal or a reader that may have
//! stopped.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How many lines may wait.
const WAITING: usize = 1000;

/// What is said while nobody asks; with its newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// How the caches stand: for stderr, unless it is quiet.
    Notice(String),
    /// A change that somebody watches: for stdout.
    Change(String),
}

/// The end that says: it never waits.
#[derive(Debug, Clone)]
pub(super) struct Notices {
    sender: SyncSender<Said>,
    /// How many changes were left out, since too many lines waited.
    missed: u64,
}

impl Notices {
    /// Both ends.
    pub(super) fn new() -> (Self, Receiver<Said>) {
        Self::holding(WAITING)
    }

    fn holding(waiting: usize) -> (Self, Receiver<Said>) {
        let (sender, receiver) = sync_channel(waiting);
        (Self { sender, missed: 0 }, receiver)
    }

    /// Says how the caches stand. Who does not read is not waited for; the prompt says it as well.
    pub(super) fn say(&self, line: String) {
        let _ = self.sender.try_send(Said::Notice(line));
    }

    /// Shows a change. Once there is room again, `dropped` says how many were left out before it.
    pub(super) fn show(&mut self, line: String, dropped: impl Fn(u64) -> String) {
        if self.missed > 0
            && self
                .sender
                .try_send(Said::Change(dropped(self.missed)))
                .is_ok()
        {
            self.missed = 0;
        }
        if self.missed > 0 || self.sender.try_send(Said::Change(line)).is_err() {
            self.missed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_said() {
        let (mut notices, receiver) = Notices::holding(2);
        let dropped = |count| format!("{count} dropped");
        for line in ["a", "b", "c", "d"] {
            notices.show(line.to_string(), dropped);
        }
        notices.say("no room".to_string());
        let seen = |count: usize| receiver.iter().take(count).collect::<Vec<_>>();
        let change = |text: &str| Said::Change(text.to_string());
        assert_eq!(seen(1), [change("a")]);
        notices.show("e".to_string(), dropped);
        // The word of what was dropped took the last place.
        assert_eq!(seen(2), [change("b"), change("2 dropped")]);
        notices.show("f".to_string(), dropped);
        assert_eq!(seen(2), [change("1 dropped"), change("f")]);
    }
}
