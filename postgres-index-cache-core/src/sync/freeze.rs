//! [`Freeze`]: a cache that stands still at a cut which somebody else has made, so that the caches
//! of many nodes can be compared with one snapshot of the table.
//!
//! ```text
//! asker ─ NOTIFY freeze ─→ snapshot S ─ NOTIFY digest, with S ─→ reads the table under S
//!              │                             │
//! node      Holding ───────────────────→   Frozen ─ digests are computed ─→ over
//!           changes are held               what S sees is applied; the rest is kept by key
//! ```
//!
//! - Every change that arrived before the freeze was committed before S was taken. PostgreSQL puts
//!   notifications into its queue in the order of the commits, and S is taken after the commit of
//!   the freeze. So S sees these changes.
//! - The digest's question was sent after S was taken. So every change that S sees has arrived
//!   before the question.
//! - Changes that S does not see are held back.
//!
//! So a frozen cache is S, except for rows that are *open*: those that are to be refetched, or were
//! refetched under a snapshot that may be later than S. The asker leaves these rows out. The rule
//! behind this is [`Rule::Freeze`](super::rules::Rule::Freeze).
//!
//! Any role can send both questions, with a snapshot of its own invention. So a freeze is short,
//! keeps a distance to the one before, and never changes the order of two changes of one row.

use super::change::Change;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The longest time between the two questions. Afterwards the changes that were held are applied.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(2);
/// The longest time for the digests of a frozen cache.
pub(super) const LONGEST_DIGEST: Duration = Duration::from_secs(15);
/// The distance to the next freeze, as a multiple of the time that the last one took: a cache
/// stands still for at most a quarter of the time, whoever asks.
const DISTANCE: u32 = 3;
/// The most open rows of a freeze. With more, an answer would not fit into a notification.
pub(super) const MOST_OPEN: usize = 100;

/// How far a freeze is.
#[derive(Debug)]
pub(super) enum Freeze {
    /// Entered by the first question. Changes are held, in order.
    Holding {
        number: u64,
        held: Vec<Change>,
        /// How many bytes `held` takes.
        bytes: usize,
        /// The rows that were open at the first question. Their refetches may be done by the
        /// second one, under a snapshot later than S.
        open: BTreeSet<String>,
    },
    /// Entered by the second question. The cache is not changed, except for open rows: changes wait
    /// in the table's backlog.
    Frozen { number: u64 },
}

impl Freeze {
    /// Returns the driver's number for the freeze.
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Holding { number, .. } | Self::Frozen { number } => *number,
        }
    }
}

/// When a table was frozen, and when it may be again.
#[derive(Debug, Default)]
pub(super) struct FreezeTimes {
    /// When the freeze that is underway began; `None` if none is.
    began: Option<Instant>,
    /// When the freeze that is underway must be over; `None` if none is.
    pub(super) deadline: Option<Instant>,
    /// When the next freeze may begin.
    not_before: Option<Instant>,
}

impl FreezeTimes {
    /// Returns how long the next freeze must wait; `None` if it need not.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.not_before?.saturating_duration_since(now);
        Some(wait).filter(|wait| !wait.is_zero())
    }

    /// Notes that a freeze begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        self.deadline = Some(now + LONGEST_HOLD);
    }

    /// Notes that the second question has come.
    pub(super) fn cut(&mut self, now: Instant) {
        self.deadline = Some(now + LONGEST_DIGEST);
    }

    /// Notes that the freeze is over.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(began) = self.began.take() {
            let took = now.saturating_duration_since(began);
            self.not_before = Some(now + took * DISTANCE);
        }
        self.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Anybody can ask: without a distance, somebody who asks without end would hold a cache back
    // for ever.
    #[test]
    fn a_cache_stands_still_for_a_quarter_of_the_time_at_most() {
        let start = Instant::now();
        let mut times = FreezeTimes::default();
        assert_eq!(times.wait(start), None);
        times.begin(start);
        assert_eq!(times.deadline, Some(start + LONGEST_HOLD));
        let end = start + Duration::from_millis(10);
        times.end(end);
        assert_eq!(times.deadline, None);
        assert_eq!(times.wait(end), Some(Duration::from_millis(30)));
        assert_eq!(times.wait(end + Duration::from_millis(30)), None);
    }
}
