//! [`Position`]: which entry of a log is meant. [`Place`]: where that entry stands.
//!
//! A position is the writer's name for an entry, and says in which order a writer wrote. A sequence
//! is the engine's number for a message. An engine that lost its tail gives a number twice, so a
//! sequence alone names nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// One writer's term. A term that builds upon another has a higher number.
///
/// The nonce tells two terms of one number apart: two relays may begin at once, and a log that was
/// rolled back or wiped may see a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Number of the term.
    pub number: u64,
    /// Random number that the writer has drawn for the term.
    pub nonce: u64,
}

/// An entry's name: the term of its writer, and the entry's number in that term, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Term of the writer.
    pub epoch: Epoch,
    /// Number of the entry in the term.
    pub number: u64,
}

impl Position {
    /// Returns whether this is the entry behind `earlier`, in the same term.
    pub fn follows(&self, earlier: &Self) -> bool {
        self.epoch == earlier.epoch && self.number == earlier.number + 1
    }

    /// Returns whether whoever has this entry has `earlier` too, as far as positions tell: both
    /// are of one term.
    pub fn has(&self, earlier: &Self) -> bool {
        self.epoch == earlier.epoch && self.number >= earlier.number
    }
}

impl fmt::Display for Position {
    /// Writes `<epoch>.<nonce in hexadecimal>.<number>`: the entry's identity in the engine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch { number, nonce } = self.epoch;
        write!(f, "{number}.{nonce:016x}.{}", self.number)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position of a log, such as 3.00c0ffee00c0ffee.17")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        /// Numbers beyond that are no writer's, and the next one must be a number too.
        const MOST: u64 = u64::MAX / 2;
        let parsed = || {
            let mut parts = text.split('.');
            let number = parts.next()?.parse().ok()?;
            let nonce = u64::from_str_radix(parts.next()?, 16).ok()?;
            let position = Self {
                epoch: Epoch { number, nonce },
                number: parts.next()?.parse().ok()?,
            };
            // One spelling alone names an entry.
            let is_canonical = position.to_string() == text;
            let is_small = position.epoch.number.max(position.number) <= MOST;
            (is_canonical && is_small).then_some(position)
        };
        parsed().ok_or_else(|| PositionError(text.to_string()))
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The engine's number for a message of the log. A later message has a higher one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Returns the number behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Where an entry stands: the claim that the message with this sequence is the entry with this
/// position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Number of the message.
    pub sequence: Sequence,
    /// Name of the entry.
    pub position: Position,
}

impl Place {
    /// Returns whether all entries from this place to `end` are of one term and stand one behind
    /// the other.
    pub fn is_unbroken_to(&self, end: &Self) -> bool {
        let entries = end.position.number.checked_sub(self.position.number);
        let messages = end.sequence.0.checked_sub(self.sequence.0);
        self.position.epoch == end.position.epoch && entries.is_some() && entries == messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, number: u64) -> Position {
        Position {
            epoch: Epoch {
                number: epoch,
                nonce: 0xc0_ffee,
            },
            number,
        }
    }

    #[test]
    fn a_position_has_one_spelling() {
        let position = at(3, 17);
        assert_eq!(position.to_string(), "3.0000000000c0ffee.17");
        assert_eq!(position.to_string().parse(), Ok(position));
        let json = serde_json::to_string(&position).expect("a text");
        assert_eq!(
            serde_json::from_str::<Position>(&json).expect("a position"),
            position
        );
        for text in [
            "",
            "3.c0ffee.17",
            "3.0000000000C0FFEE.17",
            "03.0000000000c0ffee.17",
            "3.0000000000c0ffee",
            "3.0000000000c0ffee.17.1",
            "+3.0000000000c0ffee.17",
            "3.0000000000c0ffee.18446744073709551615",
            "18446744073709551615.0000000000c0ffee.17",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_lies_between_two_places_is_unbroken_only_if_both_numbers_say_so() {
        let start = Place {
            sequence: Sequence(10),
            position: at(3, 5),
        };
        let place = |sequence, position| Place {
            sequence: Sequence(sequence),
            position,
        };
        assert!(start.is_unbroken_to(&start));
        assert!(start.is_unbroken_to(&place(12, at(3, 7))));
        assert!(!start.is_unbroken_to(&place(13, at(3, 7))), "a stranger's");
        assert!(!start.is_unbroken_to(&place(12, at(4, 7))));
        assert!(!start.is_unbroken_to(&place(9, at(3, 4))));
    }
}
