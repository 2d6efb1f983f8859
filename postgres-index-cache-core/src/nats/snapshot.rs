//! Snapshots: the rows of all tables in a compressed form, in parts of one size.
//!
//! ```text
//! pgic.shop.snap.list                the last snapshots, the newest first; JSON
//! pgic.shop.snap.<snapshot>.<part>   a part of the bytes of that snapshot
//! ```
//!
//! The bytes are zstd frames one behind the other. Their text has a line for each row, in JSON:
//!
//! ```json
//! {"table":0}
//! {"id":7,"data":{"id":7,"j":null},"nulls":["j"]}
//! ```
//!
//! A line with `table` says which table of the list the next rows are of.

use super::description::TableDescription;
use super::error::LogError;
use super::image::LoggedTable;
use super::row_ops::row_json;
use super::stream::{LogStorage, NatsLog};
use crate::log::{JsonRow, LONGEST_CHANGES, Place, SnapshotPlace};
use crate::table_cache::KeyBuf;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::Write as _;
use std::io::Write as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The bytes of a part. NATS takes messages of at most 1 MB by default.
const PART: usize = 256 << 10;

/// The bytes of text that are compressed together, about.
const FRAME: usize = 512 << 10;

/// The snapshots that are kept: a node may still load the one before the last.
const KEPT: usize = 2;

/// A snapshot as the list has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotInfo {
    /// Name of the snapshot: a token of its parts' subjects.
    pub(super) name: String,
    /// The part of the log that the rows stand for.
    pub(super) place: SnapshotPlace,
    /// Number of parts.
    pub(super) parts: u64,
    /// Size of all parts in bytes.
    pub(super) bytes: u64,
    /// Size in bytes of what they are the compressed form of.
    pub(super) text_bytes: u64,
    pub(super) tables: Vec<SnapshotTable>,
}

/// A table of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotTable {
    #[serde(flatten)]
    pub(super) description: TableDescription,
    /// Number of rows, about: entries went on while they were read.
    pub(super) rows: u64,
}

/// A line of a snapshot.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<usize>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nulls: Vec<String>,
}

/// Returns the list of snapshots, the newest first.
///
/// # Errors
/// If NATS does not answer, or the list cannot be read.
pub(super) async fn list(log: &NatsLog) -> Result<Vec<SnapshotInfo>, LogError> {
    let Some(list) = log.snapshot_list().await? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&list).map_err(|error| LogError::Snapshot {
        snapshot: "list".to_string(),
        why: error.to_string(),
    })
}

/// Returns the snapshots both of whose ends stand in the log (R7), the newest first.
///
/// # Errors
/// As [`list`].
pub(super) async fn usable(log: &NatsLog) -> Result<Vec<SnapshotInfo>, LogError> {
    let mut usable = Vec::new();
    for snapshot in list(log).await? {
        let SnapshotPlace { start, end } = snapshot.place;
        if stands(log, start).await? && stands(log, end).await? {
            usable.push(snapshot);
        }
    }
    Ok(usable)
}

/// Returns the newest snapshot if it is usable and no part is missing; `None` otherwise.
///
/// # Errors
/// As [`list`].
pub(super) async fn newest(log: &NatsLog) -> Result<Option<SnapshotInfo>, LogError> {
    let Some(snapshot) = list(log).await?.into_iter().next() else {
        return Ok(None);
    };
    let SnapshotPlace { start, end } = snapshot.place;
    let parts = log.name().snapshot_part(&snapshot.name, "*");
    let is_whole = log.snapshot_subjects(parts).await?.len() as u64 == snapshot.parts;
    let stands = stands(log, start).await? && stands(log, end).await?;
    Ok(Some(snapshot).filter(|_| is_whole && stands))
}

/// Returns whether an entry stands in the log where it is said to.
pub(super) async fn stands(log: &NatsLog, place: Place) -> Result<bool, LogError> {
    let found = log.message(place.sequence).await?;
    let entry = found.and_then(|message| message.entry());
    Ok(entry.is_some_and(|entry| entry.position == place.position))
}

/// A row of a snapshot: the place of its table among the described ones, the key, and the row.
pub(super) type LoadedRow = (usize, String, JsonRow);

/// Reads the rows of a snapshot, and passes them on in batches.
///
/// # Errors
/// If a part is missing or cannot be read.
pub(super) async fn load(
    log: &NatsLog,
    snapshot: &SnapshotInfo,
    rows: &mpsc::Sender<Vec<LoadedRow>>,
) -> Result<(), LogError> {
    /// The parts that are asked for before the first has come.
    const TOGETHER: usize = 4;
    /// The bytes that are decompressed at once. A few bytes can stand for 128 kB of text.
    const SLICE: usize = 1 << 10;
    /// The text that is collected before its rows are read.
    const TEXT: usize = 4 << 20;
    let unreadable = |why: String| LogError::Snapshot {
        snapshot: snapshot.name.clone(),
        why,
    };
    let parts = futures_util::stream::iter(0..snapshot.parts).map(|part| async move {
        let subject = log.name().snapshot_part(&snapshot.name, part);
        Ok::<_, LogError>((part, log.get(subject).await?))
    });
    let mut parts = std::pin::pin!(parts.buffered(TOGETHER));
    let mut decoder = zstd::stream::write::Decoder::new(Vec::new())
        .map_err(|error| unreadable(error.to_string()))?;
    let mut table = 0;
    // How much of the text has no end of a line.
    let mut searched = 0;
    while let Some((part, bytes)) = parts.try_next().await? {
        let bytes = bytes.ok_or_else(|| unreadable(format!("part {part} is missing")))?;
        let mut slices = bytes.chunks(SLICE).peekable();
        while let Some(slice) = slices.next() {
            let decoded = decoder.write_all(slice).and_then(|()| decoder.flush());
            decoded.map_err(|error| unreadable(error.to_string()))?;
            let text = decoder.get_mut();
            if slices.peek().is_some() && text.len() < TEXT {
                continue;
            }
            let whole = text[searched..].iter().rposition(|byte| *byte == b'\n');
            let Some(end) = whole.map(|at| searched + at + 1) else {
                searched = text.len();
                if text.len() > LONGEST_CHANGES {
                    return Err(unreadable("a row is too long".to_string()));
                }
                continue;
            };
            let batch = read_lines(&text[..end], &mut table).map_err(unreadable)?;
            text.drain(..end);
            searched = text.len();
            // Whoever loads may have given up.
            if rows.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }
    if decoder.get_ref().is_empty() {
        Ok(())
    } else {
        Err(unreadable("the last part is not whole".to_string()))
    }
}

/// Reads lines of a snapshot. `table` is the table that the first rows are of.
fn read_lines(text: &[u8], table: &mut usize) -> Result<Vec<LoadedRow>, String> {
    let mut rows = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if let Some(next) = line.table {
            *table = next;
        }
        if let (Some(id), Some(data)) = (line.id, line.data) {
            let row = JsonRow {
                data: data.get().to_string(),
                nulls: line.nulls,
            };
            rows.push((*table, id.get().to_string(), row));
        }
    }
    Ok(rows)
}

/// Reads the rows of caches bit by bit, while entries go on.
#[derive(Debug)]
pub(super) struct SnapshotReader {
    tables: Vec<LoggedTable>,
    /// The table that is being read.
    table: usize,
    /// The slot to go on from.
    slot: u32,
    counts: Vec<u64>,
    text_bytes: u64,
}

impl SnapshotReader {
    pub(super) fn new(tables: Vec<LoggedTable>) -> Self {
        Self {
            counts: vec![0; tables.len()],
            tables,
            table: 0,
            slot: 0,
            text_bytes: 0,
        }
    }

    /// Returns the name of the table whose rows come next; `None` after the last row.
    pub(super) fn table(&self) -> Option<String> {
        let logged = self.tables.get(self.table)?;
        Some(logged.description.table.clone())
    }

    /// Returns the text of the next rows; `None` after the last one.
    pub(super) fn next(&mut self) -> Option<String> {
        /// The rows that are read under one lock, for which a writer may wait.
        const TOGETHER: usize = 2048;
        let logged = self.tables.get(self.table)?;
        let mut text = format!("{{\"table\":{}}}\n", self.table);
        let mut next = None;
        let mut is_over = true;
        {
            let cache = logged.cache.read();
            let shape = cache.shape();
            for row in cache.rows_from(self.slot).take(TOGETHER) {
                let row_buf = row.to_buf();
                let id = KeyBuf::of_row(shape, &row_buf).to_json(shape);
                let JsonRow { data, nulls } = row_json(shape, &row_buf);
                // Writing to a String cannot fail.
                let _ = write!(text, "{{\"id\":{id},\"data\":{data}");
                if !nulls.is_empty() {
                    let nulls = serde_json::to_string(&nulls).unwrap_or_default();
                    let _ = write!(text, ",\"nulls\":{nulls}");
                }
                text.push_str("}\n");
                self.counts[self.table] += 1;
                next = Some(row.slot() + 1);
                if text.len() >= FRAME {
                    is_over = false;
                    break;
                }
            }
        }
        match next {
            Some(slot) => self.slot = slot,
            None if is_over => {
                self.table += 1;
                self.slot = 0;
            }
            None => {}
        }
        self.text_bytes += text.len() as u64;
        Some(text)
    }

    /// Returns the tables with the numbers of rows that were read.
    fn described(&self) -> Vec<SnapshotTable> {
        let counted = self.tables.iter().zip(&self.counts);
        let described = counted.map(|(table, rows)| SnapshotTable {
            description: table.description.clone(),
            rows: *rows,
        });
        described.collect()
    }
}

/// A snapshot on its way to NATS.
pub(super) struct Upload {
    name: String,
    texts: mpsc::Sender<String>,
    /// Returns the number of parts and of bytes.
    task: JoinHandle<Result<(u64, u64), LogError>>,
}

impl Upload {
    /// Begins to put a snapshot with this name. Makes the stream if it is missing.
    pub(super) fn begin(log: &NatsLog, name: String, storage: LogStorage) -> Self {
        /// The texts that may wait for NATS, half a megabyte each.
        const WAITING: usize = 2;
        let (texts, waiting) = mpsc::channel(WAITING);
        let (log, own) = (log.clone(), name.clone());
        let task = tokio::spawn(async move {
            log.set_up(storage).await?;
            let put = put_parts(&log, &own, waiting).await;
            if put.is_err() {
                // What was put of it would be left for good. A failure here is told by the other.
                let _ = log.drop_snapshot(log.name().snapshot_part(&own, ">")).await;
            }
            put
        });
        Self { name, texts, task }
    }

    /// Waits until the next text is wanted. Returns `None` if the upload has failed.
    pub(super) async fn ready(&self) -> Option<mpsc::OwnedPermit<String>> {
        self.texts.clone().reserve_owned().await.ok()
    }

    /// Ends the snapshot, and puts it at the head of the list.
    ///
    /// # Errors
    /// If NATS has refused a part.
    pub(super) async fn finish(
        self,
        log: &NatsLog,
        place: SnapshotPlace,
        reader: &SnapshotReader,
    ) -> Result<SnapshotInfo, LogError> {
        let Self { name, texts, task } = self;
        drop(texts);
        let put = task.await.map_err(LogError::tried("compress a snapshot"))?;
        let (parts, bytes) = put?;
        let snapshot = SnapshotInfo {
            name,
            place,
            parts,
            bytes,
            text_bytes: reader.text_bytes,
            tables: reader.described(),
        };
        // A list that cannot be read is written anew.
        let mut known = list(log).await.unwrap_or_default();
        known.insert(0, snapshot.clone());
        known.truncate(KEPT);
        let json = serde_json::to_vec(&known);
        let json = json.map_err(LogError::tried("write the list of snapshots"))?;
        log.put(log.name().snapshot_list(), json.into()).await?;
        drop_others(log, &known).await?;
        Ok(snapshot)
    }
}

/// Drops the parts of all snapshots that are not in the list, also of those that were never ended.
async fn drop_others(log: &NatsLog, kept: &[SnapshotInfo]) -> Result<(), LogError> {
    let name = log.name();
    let first_parts = log.snapshot_subjects(name.snapshot_part("*", 0)).await?;
    for subject in first_parts {
        let is_kept = |snapshot: &SnapshotInfo| name.snapshot_part(&snapshot.name, 0) == subject;
        if kept.iter().any(is_kept) {
            continue;
        }
        if let Some(snapshot) = subject.rsplit('.').nth(1) {
            log.drop_snapshot(name.snapshot_part(snapshot, ">")).await?;
        }
    }
    Ok(())
}

/// Compresses texts, and puts them in parts.
async fn put_parts(
    log: &NatsLog,
    name: &str,
    mut texts: mpsc::Receiver<String>,
) -> Result<(u64, u64), LogError> {
    /// zstd's fastest level makes a quarter of JSON already.
    const LEVEL: i32 = 1;
    let mut parts = 0;
    let mut bytes = 0;
    let mut waiting: Vec<u8> = Vec::new();
    loop {
        let text = texts.recv().await;
        let is_over = text.is_none();
        if let Some(text) = text {
            let frame = zstd::bulk::compress(text.as_bytes(), LEVEL);
            waiting.extend(frame.map_err(LogError::tried("compress a snapshot"))?);
        }
        while waiting.len() >= PART || (is_over && !waiting.is_empty()) {
            let rest = waiting.split_off(waiting.len().min(PART));
            let part = std::mem::replace(&mut waiting, rest);
            bytes += part.len() as u64;
            log.put(log.name().snapshot_part(name, parts), part.into())
                .await?;
            parts += 1;
        }
        if is_over {
            return Ok((parts, bytes));
        }
    }
}
