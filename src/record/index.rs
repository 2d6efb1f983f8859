//! The index beside a sealed segment: which frame has which times and rows, so that a question is
//! answered without reading all of a record.

use super::{SegmentFiles, entry, open_regular};
use crate::feed::queue::Item;
use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};

/// The most bytes of a frame's line: about a mebibyte of entries has fewer rows and events than
/// that.
const LONGEST_FRAME_LINE: u64 = 16 << 20;

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
    /// The lines of the entries that are no notifications, except for those of `covered`.
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

/// Reads the index of a sealed segment; `None` if there is none that fits the segment.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn read_index(files: &SegmentFiles) -> anyhow::Result<Option<Vec<Frame>>> {
    let path = files.index();
    let file = match open_regular(File::options().read(true), &path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let length = std::fs::metadata(files.sealed())
        .with_context(|| format!("look at {}", files.sealed().display()))?
        .len();
    let mut lines = BufReader::new(file);
    let mut next = || -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut lines)
            .take(LONGEST_FRAME_LINE)
            .read_until(b'\n', &mut line)?;
        Ok(Some(line).filter(|line| line.last() == Some(&b'\n')))
    };
    if next()?.as_deref().map(<[u8]>::trim_ascii_end) != Some(VERSION.as_bytes()) {
        return Ok(None);
    }
    let mut frames: Vec<Frame> = Vec::new();
    // A part of an index would hide the rest of the segment.
    let mut end = 0;
    while let Some(line) = next()? {
        let Ok(frame) = serde_json::from_slice::<Frame>(&line) else {
            return Ok(None);
        };
        if frame.offset != end {
            return Ok(None);
        }
        end += frame.bytes.min(length);
        frames.push(frame);
    }
    Ok(Some(frames).filter(|_| end == length))
}
