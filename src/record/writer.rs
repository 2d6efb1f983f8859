//! [`Recorder`]: writes entries into a folder, and seals the segments that are full.

use super::index::{Frame, VERSION, read_index};
use super::{LONGEST_LINE, SEALED, SegmentFiles, entry, open_regular, segments};
use crate::failure::with_hint;
use crate::feed::queue::{Item, Note};
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags, flock};
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The bytes of lines that make a frame, the least that is read to answer a question.
const FRAME: usize = 1 << 20;
/// The level of zstd's compression.
const LEVEL: i32 = 3;
/// How often the lines are forced to the disk.
const SYNC: Duration = Duration::from_secs(1);

/// When a segment is full.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// The bytes of a segment before it is compressed.
    pub max_size: u64,
    /// The time from its first entry.
    pub max_age: Duration,
}

/// The state in which a recorder has found the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// The bytes of a torn last line, which were cut.
    pub cut: u64,
    /// The segments that were there.
    pub segments: usize,
}

/// A segment that was sealed.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The name of its file.
    pub name: String,
    /// The number of entries.
    pub entries: u64,
    /// The bytes before and after the compression.
    pub plain_bytes: u64,
    pub bytes: u64,
}

/// The segment that is being written.
struct Segment {
    files: SegmentFiles,
    file: File,
    bytes: u64,
    began: Instant,
}

/// The writer of a record.
pub struct Recorder {
    folder: PathBuf,
    rotation: Rotation,
    segment: Option<Segment>,
    /// The name of the segment before, once that is full.
    previous: Option<String>,
    synced: Instant,
    /// Segments to seal, for the thread that does it.
    seals: Option<mpsc::Sender<SegmentFiles>>,
    sealed: mpsc::Receiver<anyhow::Result<Sealed>>,
    sealer: Option<JoinHandle<()>>,
    /// Held while this process writes.
    _lock: File,
}

impl Recorder {
    /// Opens a folder, and makes it if it does not exist. Cuts a torn line, and seals what another
    /// recorder left.
    ///
    /// # Errors
    /// If the folder cannot be written, or another process writes it.
    pub fn open(folder: &Path, rotation: Rotation) -> anyhow::Result<(Self, Found)> {
        let shown = folder.display();
        // Payloads have rows in them: what every role of the database may hear is not for every
        // user of this machine.
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        made.with_context(|| format!("make the folder {shown}"))?;
        let lock = folder.join(".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock);
        let lock = lock.with_context(|| format!("write into {shown}"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(with_hint(
                anyhow!("another pgic record writes into {shown}"),
                "give each its own folder",
            ));
        }
        let left = segments(folder).with_context(|| format!("read the folder {shown}"))?;
        let mut found = Found {
            segments: left.len(),
            ..Found::default()
        };
        let (seals, to_seal) = mpsc::channel::<SegmentFiles>();
        let (done, sealed) = mpsc::channel();
        for files in left {
            let plain = files.plain();
            // It is removed last: both are there if that was not done.
            let is_sealed = files.sealed().exists() && is_whole(&files);
            if is_sealed && plain.exists() {
                remove_if_there(&plain).with_context(|| format!("remove {}", plain.display()))?;
            } else if plain.exists() {
                found.cut += cut_torn(&plain)
                    .with_context(|| format!("look at the end of {}", plain.display()))?;
                let _ = seals.send(files);
            }
        }
        let sealer = std::thread::Builder::new()
            .name("sealer".to_string())
            .spawn(move || {
                for files in to_seal {
                    let what = files.plain();
                    let outcome = seal(&files);
                    let outcome = outcome.with_context(|| format!("compress {}", what.display()));
                    if done.send(outcome).is_err() {
                        return;
                    }
                }
            });
        let recorder = Self {
            folder: folder.to_path_buf(),
            rotation,
            segment: None,
            previous: None,
            synced: Instant::now(),
            seals: Some(seals),
            sealed,
            sealer: Some(sealer.context("start the thread that compresses")?),
            _lock: lock,
        };
        Ok((recorder, found))
    }

    /// Writes the lines of entries, each with its newline. They are in the file when this returns,
    /// and forced to the disk within a second.
    ///
    /// # Errors
    /// If they cannot be written, or a segment cannot be compressed, for example because the disk
    /// is full. What was written before stays, and of these lines those that are whole.
    pub fn write(&mut self, lines: &str) -> anyhow::Result<()> {
        let is_full = self.segment.as_ref().is_some_and(|segment| {
            segment.bytes >= self.rotation.max_size
                || segment.began.elapsed() >= self.rotation.max_age
        });
        if is_full {
            self.rotate()?;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            None => {
                let mut segment = Segment::create(&self.folder)?;
                if let Some(previous) = self.previous.take() {
                    segment.continues(previous)?;
                }
                self.segment.insert(segment)
            }
        };
        let written = segment.file.write_all(lines.as_bytes());
        if let Err(error) = written {
            // The torn line is taken back, so that the file ends with a whole one.
            let path = segment.files.plain();
            let _ = cut_torn(&path);
            let error = anyhow::Error::new(error).context(format!("write {}", path.display()));
            return Err(with_hint(
                error,
                "what was recorded before is whole; make room, and start again: the time between \
                is a gap",
            ));
        }
        segment.bytes += lines.len() as u64;
        if self.synced.elapsed() >= SYNC {
            self.sync()?;
        }
        Ok(())
    }

    /// Forces the lines to the disk.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn sync(&mut self) -> anyhow::Result<()> {
        self.synced = Instant::now();
        if let Some(segment) = &self.segment {
            let path = segment.files.plain();
            let synced = segment.file.sync_data();
            synced.with_context(|| format!("force {} to the disk", path.display()))?;
        }
        Ok(())
    }

    /// Returns the segments that were sealed since the last call.
    ///
    /// # Errors
    /// If one could not be.
    pub fn sealed(&mut self) -> anyhow::Result<Vec<Sealed>> {
        self.sealed.try_iter().collect()
    }

    /// Ends the segment, and lets it be sealed.
    fn rotate(&mut self) -> anyhow::Result<()> {
        self.sync()?;
        if let (Some(segment), Some(seals)) = (self.segment.take(), &self.seals) {
            self.previous = Some(segment.files.stem.clone());
            let _ = seals.send(segment.files);
        }
        Ok(())
    }

    /// Seals the last segment, and waits until all are sealed. Returns those that were since the
    /// last call of [`sealed`](Self::sealed).
    ///
    /// # Errors
    /// If one could not be sealed: then its entries are still in the plain file.
    pub fn finish(mut self) -> anyhow::Result<Vec<Sealed>> {
        self.rotate()?;
        // The thread ends when there is nobody who could send more.
        self.seals = None;
        let sealed = self.sealed.iter().collect();
        if let Some(sealer) = self.sealer.take() {
            let _ = sealer.join();
        }
        sealed
    }
}

impl Segment {
    /// Notes behind which segment this one goes on, as its first line.
    fn continues(&mut self, previous: String) -> anyhow::Result<()> {
        let at = Timestamp::now();
        let note = Note::Continues(previous);
        let mut line = String::new();
        entry::write(&Item::Note { at, note }, &mut line);
        let path = self.files.plain();
        let written = self.file.write_all(line.as_bytes());
        written.with_context(|| format!("write {}", path.display()))?;
        self.bytes = line.len() as u64;
        Ok(())
    }

    /// Makes a segment whose name no other has.
    fn create(folder: &Path) -> anyhow::Result<Self> {
        loop {
            let files = SegmentFiles {
                folder: folder.to_path_buf(),
                stem: Timestamp::now().strftime("%Y%m%dT%H%M%S.%6fZ").to_string(),
            };
            let path = files.plain();
            let file = private().create_new(true).append(true).open(&path);
            match file {
                // One of the same microsecond, or of a clock that was set back.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Ok(_) if files.sealed().exists() => {
                    remove_if_there(&path).with_context(|| format!("remove {}", path.display()))?;
                }
                file => {
                    return Ok(Self {
                        file: file.with_context(|| format!("make {}", path.display()))?,
                        files,
                        bytes: 0,
                        began: Instant::now(),
                    });
                }
            }
        }
    }
}

/// Tells whether a sealed segment is as long as its index says: it was not cut, nor is it somebody
/// else's file of that name.
fn is_whole(files: &SegmentFiles) -> bool {
    matches!(read_index(files), Ok(Some(_)))
}

/// Returns options that make files which the user of this process alone can read.
fn private() -> std::fs::OpenOptions {
    let mut options = File::options();
    options.mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Cuts the last line of a file, if it is torn. Returns how many bytes were cut.
fn cut_torn(path: &Path) -> std::io::Result<u64> {
    let mut file = open_regular(File::options().read(true).write(true), path)?;
    let length = file.metadata()?.len();
    let whole = whole_lines(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok(length - whole)
}

/// Returns how many bytes of a file are whole lines.
fn whole_lines(file: &mut File, length: u64) -> std::io::Result<u64> {
    const STEP: u64 = 1 << 16;
    let mut end = length;
    let mut piece = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(begin))?;
        piece.clear();
        (&mut *file).take(end - begin).read_to_end(&mut piece)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Compresses a segment, and makes its index. Then the plain file is removed.
fn seal(files: &SegmentFiles) -> anyhow::Result<Sealed> {
    let plain = files.plain();
    let aside = |path: &Path| PathBuf::from(format!("{}.tmp", path.display()));
    let (new_sealed, new_index) = (aside(&files.sealed()), aside(&files.index()));
    let create = |path: &Path| private().create(true).write(true).truncate(true).open(path);
    let mut sealed = BufWriter::new(create(&new_sealed)?);
    let mut index = BufWriter::new(create(&new_index)?);
    writeln!(index, "{VERSION}")?;
    let mut lines = BufReader::new(open_regular(File::options().read(true), &plain)?);
    let (mut text, mut line) = (Vec::new(), Vec::new());
    let mut frame = Frame::new(0);
    let (mut entries, mut plain_bytes) = (0, 0);
    loop {
        line.clear();
        let read = (&mut lines)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        let is_end = read == 0;
        if !is_end {
            plain_bytes += read as u64;
            // A line that is no entry stays, and is counted by whoever reads it.
            let entry = std::str::from_utf8(&line).map(str::trim_end);
            if let Ok(line) = entry
                && let Some(item) = entry::parse(line)
            {
                frame.add(&item, line);
            }
            text.extend_from_slice(&line);
        }
        if text.len() >= FRAME || (is_end && !text.is_empty()) {
            let compressed = zstd::bulk::compress(&text, LEVEL)?;
            sealed.write_all(&compressed)?;
            frame.end(compressed.len() as u64);
            entries += frame.entries;
            serde_json::to_writer(&mut index, &frame)?;
            writeln!(index)?;
            frame = Frame::new(frame.offset + frame.bytes);
            text.clear();
        }
        if is_end {
            break;
        }
    }
    for writer in [sealed, index] {
        let file = writer
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
    }
    std::fs::rename(&new_index, files.index())?;
    std::fs::rename(&new_sealed, files.sealed())?;
    // The names must be on the disk before the plain file may be gone.
    File::open(&files.folder)?.sync_all()?;
    std::fs::remove_file(&plain)?;
    Ok(Sealed {
        name: format!("{}{SEALED}", files.stem),
        entries,
        plain_bytes,
        bytes: frame.offset,
    })
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Appends the lines of items.
pub fn lines<'a>(items: impl IntoIterator<Item = &'a Item>, text: &mut String) {
    for item in items {
        entry::write(item, text);
    }
}
