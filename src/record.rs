//! Records: notifications that `pgic record` keeps in a folder, and `tail --from`, `why --record`
//! and `replay` read.
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

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The end of the names of segments.
const PLAIN: &str = ".ndjson";
/// The end of the names of sealed segments.
const SEALED: &str = ".ndjson.zst";
/// The end of the names of the indexes beside them.
const INDEX: &str = ".ndjson.idx";

/// The most bytes that one line may have: a payload has 7999, each of which may take six in JSON.
const LONGEST_LINE: u64 = 1 << 20;

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

/// Tells whether a name is one that [`writer`] gives: `20261126T031500.123456Z`.
fn is_stem(name: &str) -> bool {
    let pattern = "00000000T000000.000000Z";
    name.len() == pattern.len()
        && name
            .bytes()
            .zip(pattern.bytes())
            .all(|(byte, wanted)| byte == wanted || (wanted == b'0' && byte.is_ascii_digit()))
}

/// Opens a regular file; one that is a link, a pipe or a device is refused.
///
/// # Errors
/// If it is none, or cannot be opened as asked for.
fn open_regular(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    // `NONBLOCK` matters for a pipe, whose opening would wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::other("it is no regular file"))
    }
}

/// Returns the segments of a folder, the oldest first.
///
/// # Errors
/// If the folder cannot be read.
fn segments(folder: &Path) -> std::io::Result<Vec<SegmentFiles>> {
    let mut stems = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        // A link would lead elsewhere, and a pipe or a device never ends.
        if !file.file_type()?.is_file() {
            continue;
        }
        let name = file.file_name();
        let name = name.to_string_lossy();
        let stem = name
            .strip_suffix(SEALED)
            .or_else(|| name.strip_suffix(PLAIN));
        // Files of others may lie there as well: they are none of ours.
        if let Some(stem) = stem.filter(|stem| is_stem(stem)) {
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
