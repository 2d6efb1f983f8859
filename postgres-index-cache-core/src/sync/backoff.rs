//! [`Backoff`]: the wait before the next attempt to connect or to read.

use std::time::Duration;

/// The bound of the first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The bound that the doubling ends at.
const LONGEST: Duration = Duration::from_secs(10);

/// Waits with full jitter: each wait is any time up to a bound that doubles from 100 ms to 10 s.
/// The nodes of an application, which lose their server at one moment, do not come back all at
/// once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Returns the wait before the next attempt, and counts the attempt. `random` is a number from
    /// 0 to 1 that the caller draws.
    pub fn next(&mut self, random: f64) -> Duration {
        // The shift is bounded too: 100 ms times 2 to the 10th is past the longest bound.
        let bound = FIRST
            .saturating_mul(1 << self.attempts.min(10))
            .min(LONGEST);
        self.attempts += 1;
        // `mul_f64` panics for NaN and for a negative product, and the number is the caller's.
        let share = if random.is_nan() {
            0.0
        } else {
            random.clamp(0.0, 1.0)
        };
        bound.mul_f64(share)
    }

    /// Notes that an attempt has succeeded: the next wait is short again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_to_ten_seconds_and_starts_again() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u128> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(
            bounds,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(50));
        assert_eq!(backoff.next(f64::NAN).as_millis(), 0);
    }
}
