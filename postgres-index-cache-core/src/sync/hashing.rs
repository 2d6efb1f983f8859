//! [`SeededState`]: hash maps whose order depends on a seed alone.
//!
//! Some outputs of the engine follow the order of a hash map: the changes that waited for a locked
//! cache, the keys that a TRUNCATE spares. With the standard library's random state two runs of one
//! seed would differ, and a failing seed of the simulation could not be replayed.
//!
//! The keys come from payloads, which anybody can send. The seed is derived from the fence channel,
//! a random name that only this process and its server know, so that nobody can choose keys that
//! collide.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher};

/// Builds SipHash hashers that have taken in a seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeededState(u64);

impl SeededState {
    /// Returns the state for `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for SeededState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        // `DefaultHasher::new` has fixed keys of zero. The seed goes in as the first input instead.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// Builds hashers that return what they are given: for keys that are hashes already.
pub(super) type AsIs = BuildHasherDefault<AsIsHasher>;

/// A hasher that returns the last number that was written to it.
#[derive(Debug, Default)]
pub(super) struct AsIsHasher(u64);

impl Hasher for AsIsHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Only numbers are hashed so. Any other input would still be hashed, if badly.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Returns a seed made from `text` (FNV-1a).
pub(super) fn seed_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn order(seed: u64) -> Vec<i32> {
        let mut map = HashMap::with_hasher(SeededState::new(seed));
        map.extend((0..100).map(|key| (key, key)));
        map.into_keys().collect()
    }

    #[test]
    fn the_order_of_a_map_depends_on_the_seed_alone() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_ne!(seed_of("a"), seed_of("b"));
    }
}
