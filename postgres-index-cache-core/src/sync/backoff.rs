//! [`Backoff`]: how long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Full jitter: the wait is any time up to a bound that doubles from 100 ms to 10 s, so that the
/// nodes of an application do not come back all at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt; `random` is a number from 0 to 1 that the caller draws.
    pub fn next(&mut self, random: f64) -> Duration {
        let bound = FIRST
            .saturating_mul(1 << self.attempts.min(10))
            .min(LONGEST);
        self.attempts += 1;
        bound.mul_f64(if random.is_nan() {
            0.0
        } else {
            random.clamp(0.0, 1.0)
        })
    }

    /// An attempt has succeeded: the next wait is short again.
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
