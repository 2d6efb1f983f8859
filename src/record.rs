//! Records: what has arrived on channels, kept in a folder by `pgic record`, and read again by `tail
//! --from`, `why --record` and `replay`.
//!
//! ```text
//! DIR/.lock                                  held by the one who writes
//! DIR/20261126T031500.123456Z.ndjson         the segment that is written: a line for each entry
//! DIR/20261126T021500.004711Z.ndjson.zst     a sealed one: frames of zstd, each readable alone
//! DIR/20261126T021500.004711Z.ndjson.idx     a line for each frame: its times, place and keys
//! ```
//!
//! A segment is sealed into files aside, which are renamed when they are whole; then the plain file
//! is removed. So a crash at any time leaves each entry in at least one whole file. Only the last
//! line of the segment that was being written can be torn.

pub mod entry;
mod index;
pub mod reader;
pub mod writer;

use std::path::{Path, PathBuf};

/// The end of the names of segments.
const PLAIN: &str = ".ndjson";
/// The end of the names of sealed segments.
const SEALED: &str = ".ndjson.zst";
/// The end of the names of the indexes beside them.
const INDEX: &str = ".ndjson.idx";

/// The files of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SegmentFiles {
    folder: PathBuf,
    /// The name without its end: the time at which the segment was begun.
    stem: String,
}

impl SegmentFiles {
    fn plain(&self) -> PathBuf {
        self.folder.join(format!("{}{PLAIN}", self.stem))
    }

    fn sealed(&self) -> PathBuf {
        self.folder.join(format!("{}{SEALED}", self.stem))
    }

    fn index(&self) -> PathBuf {
        self.folder.join(format!("{}{INDEX}", self.stem))
    }
}

/// Returns the segments of a folder, the oldest first.
///
/// # Errors
/// If the folder cannot be read.
fn segments(folder: &Path) -> std::io::Result<Vec<SegmentFiles>> {
    let mut stems = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let name = file?.file_name();
        let name = name.to_string_lossy();
        let stem = name
            .strip_suffix(SEALED)
            .or_else(|| name.strip_suffix(PLAIN));
        if let Some(stem) = stem {
            stems.push(stem.to_string());
        }
    }
    stems.sort();
    stems.dedup();
    let files = stems.into_iter().map(|stem| SegmentFiles {
        folder: folder.to_path_buf(),
        stem,
    });
    Ok(files.collect())
}
