//! The index beside a sealed segment: which frame has which times and rows, so that a question is
//! answered without reading all of a record.

use super::entry;
use crate::feed::queue::Item;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the form, on the first line.
pub(super) const VERSION: &str = "{\"pgic_record_index\":1}";

/// A frame of a sealed segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Frame {
    /// The first byte of the frame, and its length, in the compressed file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// The earliest and the latest time of an entry. A clock may have been set back within.
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) entries: u64,
    /// The digests of the rows that its notifications tell of, in order.
    pub(super) rows: Vec<u32>,
    /// The lines of the entries that are no notifications, but for those that tell what is covered.
    pub(super) events: Vec<String>,
    /// The last time up to which nothing is missing.
    pub(super) covered: Option<Timestamp>,
}

impl Frame {
    /// Begins a frame at this place.
    pub(super) fn new(offset: u64) -> Self {
        Self {
            offset,
            bytes: 0,
            from: Timestamp::MAX,
            to: Timestamp::MIN,
            entries: 0,
            rows: Vec::new(),
            events: Vec::new(),
            covered: None,
        }
    }

    /// Adds an entry, whose line has no newline.
    pub(super) fn add(&mut self, item: &Item, line: &str) {
        if let Some(at) = entry::time(item) {
            self.from = self.from.min(at);
            self.to = self.to.max(at);
        }
        if let Item::Gap { from, .. } = item {
            self.from = self.from.min(*from);
        }
        self.entries += 1;
        match item {
            Item::Notification { .. } => self.rows.extend(entry::rows(item)),
            Item::Covered { at } => self.covered = Some(*at),
            _ => self.events.push(line.to_string()),
        }
    }

    /// Ends the frame, whose compressed length is now known.
    pub(super) fn end(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.rows.sort_unstable();
        self.rows.dedup();
    }

    /// Tells whether the frame may tell of one of these rows.
    pub(super) fn has_any(&self, rows: &[u32]) -> bool {
        rows.iter().any(|row| self.rows.binary_search(row).is_ok())
    }
}
