//! [`Notices`]: a bounded queue of texts that are shown while nobody asks, on their way to a
//! terminal or a reader that may have stopped.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The most lines that wait.
const WAITING: usize = 1000;

/// A text that is shown while nobody asks, with its newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A state of the caches: for stderr, unless `--quiet` was given.
    Notice(String),
    /// A change of rows that are watched: for stdout.
    Change(String),
}

/// The sending end of the queue. Sending never waits: the session must not stop for a reader.
#[derive(Debug, Clone)]
pub(super) struct Notices {
    sender: SyncSender<Said>,
    /// The number of changes that were left out, since too many lines waited.
    missed: u64,
}

impl Notices {
    /// Makes a queue, and returns both ends.
    pub(super) fn new() -> (Self, Receiver<Said>) {
        Self::holding(WAITING)
    }

    /// Makes a queue for so many lines.
    fn holding(waiting: usize) -> (Self, Receiver<Said>) {
        let (sender, receiver) = sync_channel(waiting);
        (Self { sender, missed: 0 }, receiver)
    }

    /// Shows a state of the caches. Without room the text is left out: the prompt shows the state
    /// as well.
    pub(super) fn say(&self, line: String) {
        let _ = self.sender.try_send(Said::Notice(line));
    }

    /// Shows a change, or counts one that is left out if there is no room. Once there is room
    /// again, the line that `dropped` makes of the count comes before the next change.
    pub(super) fn show(&mut self, line: String, dropped: impl Fn(u64) -> String) {
        // A change must not be shown before the line that tells of those left out before it. If
        // that line takes the last place, the change is the first of the next ones that are left
        // out.
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
        for line in ["a", "b", "c", "d"] {
            notices.show(line.to_string(), dropped);
        }
        notices.say("no room".to_string());
        assert_eq!(take(&receiver, 1), [change("a")]);
        notices.show("e".to_string(), dropped);
        // The line about those left out took the last place, so "e" is left out too.
        assert_eq!(take(&receiver, 2), [change("b"), change("2 dropped")]);
        notices.show("f".to_string(), dropped);
        assert_eq!(take(&receiver, 2), [change("1 dropped"), change("f")]);
    }

    fn dropped(count: u64) -> String {
        format!("{count} dropped")
    }

    fn change(text: &str) -> Said {
        Said::Change(text.to_string())
    }

    fn take(receiver: &Receiver<Said>, count: usize) -> Vec<Said> {
        receiver.iter().take(count).collect()
    }
}
