//! [`Record`]: reads the entries of a folder or a file, by time and by row.

use super::index::read_index;
use super::{LONGEST_LINE, PLAIN, SEALED, SegmentFiles, entry, is_stem, open_regular, segments};
use crate::failure::with_hint;
use crate::feed::queue::{Item, Note};
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

/// A record that is read.
#[derive(Debug)]
pub struct Record {
    segments: Vec<SegmentFiles>,
}

/// The entries that are wanted.
#[derive(Debug, Default, Clone)]
pub struct Wanted {
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Up to this time.
    pub until: Option<Timestamp>,
    /// Only notifications that may tell of one of these rows ([`entry::row`]); `None` for all.
    /// Entries that are no notifications come all the same.
    pub rows: Option<Vec<u32>>,
    /// Whether every line is read, and no index trusted.
    pub reads_all: bool,
}

/// The lines that were left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Last lines that are torn: the recorder was stopped, or is writing them.
    pub torn: u64,
    /// Lines that are no entries.
    pub unread: u64,
}

impl Record {
    /// Opens the record of a folder, or one segment of it by its file.
    ///
    /// # Errors
    /// If there is no record.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let is_folder = std::fs::metadata(path)
            .with_context(|| format!("open the record {shown}"))?
            .is_dir();
        let segments = if is_folder {
            segments(path).with_context(|| format!("read the folder {shown}"))?
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stem = name
                .strip_suffix(SEALED)
                .or_else(|| name.strip_suffix(PLAIN));
            let stem = stem.filter(|stem| is_stem(stem)).ok_or_else(|| {
                anyhow!(
                    "{shown} is no segment of a record: their names end with {PLAIN} or {SEALED}"
                )
            })?;
            vec![SegmentFiles {
                folder: path.parent().map(Path::to_path_buf).unwrap_or_default(),
                stem: stem.to_string(),
            }]
        };
        if segments.is_empty() {
            let error = anyhow!("{shown} has no record: no file ends with {PLAIN} or {SEALED}");
            return Err(with_hint(error, "pgic record --dir DIR writes one"));
        }
        Ok(Self { segments })
    }

    /// Calls `each` with the entries, in order, until it breaks. Where a recorder was started anew,
    /// a gap is told.
    ///
    /// # Errors
    /// If a file cannot be read, and the error of `each`.
    pub fn read(
        &self,
        wanted: &Wanted,
        mut each: impl FnMut(&Item) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<LeftOut> {
        let mut reading = Reading {
            wanted,
            each: &mut each,
            last: None,
            previous: None,
            stem: None,
            is_first: false,
            left_out: LeftOut::default(),
            is_done: false,
        };
        for files in &self.segments {
            // A segment may be sealed while it is looked for: the plain file is removed last.
            let plain = files.plain();
            reading.begins(&files.stem);
            match open_regular(File::options().read(true), &plain) {
                Ok(file) => reading
                    .lines(BufReader::new(file), true)
                    .with_context(|| format!("read {}", plain.display()))?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let sealed = files.sealed();
                    reading
                        .sealed(files)
                        .with_context(|| format!("read {}", sealed.display()))?;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("open {}", plain.display()));
                }
            }
            if reading.is_done {
                break;
            }
        }
        Ok(reading.left_out)
    }
}

/// A record that is being read.
struct Reading<'a, E> {
    wanted: &'a Wanted,
    each: &'a mut E,
    /// The time of the last entry.
    last: Option<Timestamp>,
    /// The segment before, and the one that is read.
    previous: Option<String>,
    stem: Option<String>,
    /// Whether the next entry is the first of its segment.
    is_first: bool,
    left_out: LeftOut,
    is_done: bool,
}

impl<E: FnMut(&Item) -> anyhow::Result<ControlFlow<()>>> Reading<'_, E> {
    /// Begins with the segment of this name.
    fn begins(&mut self, stem: &str) {
        self.previous = self.stem.replace(stem.to_string());
        self.is_first = true;
    }

    /// Reads a sealed segment: of an index that is there, only the frames that are wanted.
    fn sealed(&mut self, files: &SegmentFiles) -> anyhow::Result<()> {
        let mut file = open_regular(File::options().read(true), &files.sealed())?;
        let index = if self.wanted.reads_all {
            None
        } else {
            read_index(files)?
        };
        let Some(frames) = index else {
            // Somebody has copied the segment alone.
            let decoder = zstd::stream::read::Decoder::new(file)?;
            return self.lines(BufReader::new(decoder), false);
        };
        for frame in frames {
            if self.is_done {
                return Ok(());
            }
            let is_in_time = self.wanted.since.is_none_or(|since| frame.to >= since)
                && self.wanted.until.is_none_or(|until| frame.from <= until);
            let has_rows = match &self.wanted.rows {
                Some(rows) => frame.has_any(rows),
                None => true,
            };
            if is_in_time && has_rows {
                file.seek(SeekFrom::Start(frame.offset))?;
                let part = (&mut file).take(frame.bytes);
                let decoder = zstd::stream::read::Decoder::new(part)?;
                self.lines(BufReader::new(decoder), false)?;
                continue;
            }
            // Gaps and starts count all the same: they decide about proofs.
            for line in &frame.events {
                match entry::parse(line) {
                    Some(item) => self.item(&item)?,
                    None => self.left_out.unread += 1,
                }
            }
            if let Some(at) = frame.covered {
                self.item(&Item::Covered { at })?;
            }
            self.last = Some(frame.to);
            self.is_first = false;
        }
        Ok(())
    }

    /// Reads lines. If `may_be_torn`, the last one may lack its end.
    fn lines(&mut self, mut lines: impl BufRead, may_be_torn: bool) -> anyhow::Result<()> {
        let mut line = Vec::new();
        while !self.is_done {
            line.clear();
            let read = (&mut lines)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            let is_whole = line.last() == Some(&b'\n');
            let text = std::str::from_utf8(&line).map(str::trim_end);
            match text.ok().filter(|_| is_whole).and_then(entry::parse) {
                Some(item) => self.item(&item)?,
                None if !is_whole && may_be_torn => self.left_out.torn += 1,
                None => self.left_out.unread += 1,
            }
        }
        Ok(())
    }

    /// Hands an entry on, if it is wanted.
    fn item(&mut self, item: &Item) -> anyhow::Result<()> {
        let at = entry::time(item).unwrap_or(Timestamp::MAX);
        // A recorder that is started knows nothing of the time before. Nor does anybody of a
        // segment that is missing: each names the one before.
        let follows = match item {
            Item::Connected { .. } => false,
            Item::Note {
                note: Note::Continues(previous),
                ..
            } => self.previous.as_ref() == Some(previous),
            _ => !self.is_first,
        };
        self.is_first = false;
        if let Some(last) = self.last.filter(|_| !follows) {
            // The clock may have been set back in between.
            let (from, to) = (last.min(at), last.max(at));
            self.hand_on(&Item::Gap { from, to })?;
        }
        self.last = Some(at);
        self.hand_on(item)
    }

    fn hand_on(&mut self, item: &Item) -> anyhow::Result<()> {
        let Wanted {
            since, until, rows, ..
        } = self.wanted;
        let to = entry::time(item).unwrap_or(Timestamp::MAX);
        let from = match item {
            Item::Gap { from, .. } => *from,
            _ => to,
        };
        let is_in_time =
            since.is_none_or(|since| to >= since) && until.is_none_or(|until| from <= until);
        let is_row = match (rows, item) {
            (Some(rows), Item::Notification { .. }) => {
                entry::rows(item).iter().any(|row| rows.contains(row))
            }
            _ => true,
        };
        if is_in_time && is_row && !self.is_done {
            self.is_done = (self.each)(item)?.is_break();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::queue::Message;
    use crate::record::INDEX;
    use crate::record::writer::{Recorder, Rotation, lines};
    use jiff::ToSpan as _;
    use std::time::Duration;

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + second.seconds()
    }

    fn change(second: i64, key: i64, filler: usize) -> Item {
        Item::Notification {
            at: at(second),
            message: Message::Recorded {
                channel: "c".to_string(),
                pid: 1,
                payload: format!(
                    "{{\"table\":\"t\",\"action\":\"update\",\"id\":{key},\"data\":{{\"f\":\"{}\"}}}}",
                    "x".repeat(filler)
                ),
            },
        }
    }

    fn connected(second: i64) -> Item {
        Item::Connected {
            at: at(second),
            channels: vec!["c".to_string()],
            place: None,
        }
    }

    const ROTATION: Rotation = Rotation {
        max_size: 3 << 20,
        max_age: Duration::from_secs(3600),
    };

    /// Records items in pieces of ten.
    fn record(folder: &Path, items: &[Item]) {
        let (mut recorder, _) = Recorder::open(folder, ROTATION).unwrap();
        for items in items.chunks(10) {
            let mut text = String::new();
            lines(items, &mut text);
            recorder.write(&text).unwrap();
        }
        recorder.finish().unwrap();
    }

    fn read(folder: &Path, wanted: &Wanted) -> (Vec<String>, LeftOut) {
        let mut items = Vec::new();
        let left_out = Record::open(folder).unwrap().read(wanted, |item| {
            if !matches!(item, Item::Note { .. }) {
                items.push(format!("{item:?}"));
            }
            Ok(ControlFlow::Continue(()))
        });
        (items, left_out.unwrap())
    }

    #[test]
    fn what_was_recorded_is_read_by_time_and_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut items = vec![connected(0)];
        // About eight megabytes: several segments of several frames.
        items.extend((1..2000).map(|second| change(second, second % 100, 4000)));
        record(folder.path(), &items);
        let names = std::fs::read_dir(folder.path()).unwrap();
        let names: Vec<String> = names
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert!(
            names.iter().filter(|name| name.ends_with(INDEX)).count() > 1,
            "{names:?}"
        );
        assert!(
            !names
                .iter()
                .any(|name| name.ends_with(PLAIN) || name.contains(".tmp"))
        );

        let all: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        assert_eq!(
            read(folder.path(), &Wanted::default()),
            (all.clone(), LeftOut::default())
        );
        let wanted = Wanted {
            since: Some(at(700)),
            until: Some(at(709)),
            ..Wanted::default()
        };
        assert_eq!(read(folder.path(), &wanted).0, all[700..=709]);
        let wanted = Wanted {
            rows: Some(vec![entry::row("t", "7")]),
            ..Wanted::default()
        };
        let of_row = items.iter().enumerate();
        let of_row = of_row.filter(|(at, _)| at % 100 == 7 || *at == 0);
        let of_row: Vec<String> = of_row.map(|(_, item)| format!("{item:?}")).collect();
        assert_eq!(read(folder.path(), &wanted).0, of_row);
    }

    /// A recorder that was killed leaves a torn line. Whoever reads counts it, and the next
    /// recorder cuts it. The time in between is a gap.
    #[test]
    fn a_torn_line_is_left_out_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let items = [connected(0), change(1, 1, 10), change(2, 2, 10)];
        let mut text = String::new();
        lines(&items, &mut text);
        for cut in 1..text.len() {
            let own = folder.path().join(cut.to_string());
            std::fs::create_dir(&own).unwrap();
            std::fs::write(own.join("20260101T000000.000000Z.ndjson"), &text[..cut]).unwrap();
            let whole = text[..cut].matches('\n').count();
            let is_torn = !text[..cut].ends_with('\n');
            let (found, left_out) = read(&own, &Wanted::default());
            assert_eq!(
                (found.len(), left_out.torn),
                (whole, u64::from(is_torn)),
                "{cut}"
            );

            record(&own, &[connected(10), change(11, 3, 10)]);
            let (found, left_out) = read(&own, &Wanted::default());
            assert_eq!(left_out, LeftOut::default());
            let gap = usize::from(whole > 0);
            assert_eq!(found.len(), whole + gap + 2, "{found:?}");
            if whole > 0 {
                let gap = Item::Gap {
                    from: at(whole as i64 - 1),
                    to: at(10),
                };
                assert_eq!(found[whole], format!("{gap:?}"));
            }
        }
    }

    /// A crash while a segment is sealed: some of the new files are there, and the plain one.
    #[test]
    fn a_seal_that_was_not_done_loses_and_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let items = [connected(0), change(1, 1, 10)];
        record(folder.path(), &items);
        let sealed = segments(folder.path()).unwrap().remove(0);
        let mut text = String::new();
        lines(&items, &mut text);
        let expected = read(folder.path(), &Wanted::default());
        // Everything but the removal was done.
        std::fs::write(sealed.plain(), &text).unwrap();
        assert_eq!(read(folder.path(), &Wanted::default()), expected);
        drop(Recorder::open(folder.path(), ROTATION).unwrap());
        assert!(!sealed.plain().exists());
        assert_eq!(read(folder.path(), &Wanted::default()), expected);
        // The index was renamed, the segment not.
        std::fs::write(sealed.plain(), &text).unwrap();
        std::fs::remove_file(sealed.sealed()).unwrap();
        assert_eq!(read(folder.path(), &Wanted::default()), expected);
        record(folder.path(), &[]);
        assert!(!sealed.plain().exists() && sealed.sealed().exists());
        assert_eq!(read(folder.path(), &Wanted::default()), expected);
        // Without its index a segment is read as a whole.
        std::fs::remove_file(sealed.index()).unwrap();
        assert_eq!(read(folder.path(), &Wanted::default()), expected);
    }

    #[test]
    fn two_recorders_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = Recorder::open(folder.path(), ROTATION).unwrap();
        let second = Recorder::open(folder.path(), ROTATION)
            .err()
            .expect("it is held");
        let report = crate::failure::Report::new(&second);
        assert!(report.error.contains("another pgic record"), "{report:?}");
        drop(first);
        Recorder::open(folder.path(), ROTATION).unwrap();
    }

    #[test]
    fn lines_that_are_no_entries_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = String::new();
        lines(&[connected(0)], &mut text);
        text.push_str("nonsense\n{\"event\":\"recorded\",\"at\":\"x\"}\n");
        lines(&[change(1, 1, 1)], &mut text);
        let mut bytes = text.into_bytes();
        bytes.extend(b"\xff\xfe\n");
        std::fs::write(folder.path().join("20260101T000000.000000Z.ndjson"), bytes).unwrap();
        let (found, left_out) = read(folder.path(), &Wanted::default());
        assert_eq!((found.len(), left_out), (2, LeftOut { torn: 0, unread: 3 }));
        record(folder.path(), &[]);
        assert_eq!(read(folder.path(), &Wanted::default()), (found, left_out));
    }
}
