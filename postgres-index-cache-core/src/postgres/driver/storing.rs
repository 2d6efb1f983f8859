//! The messages of reads, taken: rows go into the caches, those of several tables side by side.

use super::outputs::LOCK_PATIENCE;
use super::{Driver, Loaded};
use crate::postgres::apply::writer::{CacheWriter, FlushError, Flushed};
use crate::postgres::error::ReadError;
use crate::postgres::read::request::{ReadMessage, ReadRequest};
use bytes::Bytes;
use std::thread;

/// The bytes of rows from which on a thread of their own is worth its start.
const WORTH_A_THREAD: usize = 32 << 10;

/// Rows of a read, to be put into their cache.
enum Rows {
    /// Pieces of the COPY stream with this number.
    Pieces(usize, Vec<Bytes>),
    /// Rows of so many bytes, which the cache's own decoder has made.
    Decoded(usize),
}

impl Rows {
    fn bytes(&self) -> usize {
        match self {
            Self::Pieces(_, pieces) => pieces.iter().map(Bytes::len).sum(),
            Self::Decoded(bytes) => *bytes,
        }
    }
}

/// Rows with the cache that they go into.
struct Storing<'a> {
    /// The rows; `None` once they are stored, by a thread or by the driver itself.
    rows: Option<Rows>,
    writer: &'a mut dyn CacheWriter,
    /// The most bytes that the rows of a refetch may have.
    most_refetched: usize,
    stored: Stored,
}

/// What became of rows.
struct Stored {
    asked: ReadRequest,
    loaded: Result<(), ReadError>,
    /// What the lock's holder did; `None` if nothing waited for the lock.
    flushed: Option<Result<Flushed, FlushError>>,
}

impl Storing<'_> {
    /// Decodes the rows and puts them into the cache, unless that was done.
    fn run(&mut self) {
        let Some(rows) = self.rows.take() else {
            return;
        };
        self.stored.loaded = self.load(rows);
        if self.stored.loaded.is_ok() && self.writer.is_waiting() {
            self.stored.flushed = Some(self.writer.flush(LOCK_PATIENCE));
        }
    }

    fn load(&mut self, rows: Rows) -> Result<(), ReadError> {
        match rows {
            Rows::Pieces(stream, pieces) => self.writer.load(stream, pieces)?,
            Rows::Decoded(bytes) => self.writer.take_decoded(bytes),
        }
        // Rows of a refetch are collected. If they are too many, the read fails, and the engine
        // reloads the table, whose rows are stored as they come.
        if self.stored.asked.kind.is_refetch() && self.writer.copied() > self.most_refetched {
            return Err(ReadError::TooMuch);
        }
        Ok(())
    }
}

impl Driver {
    /// Takes messages of reads, at most one of each lane. Messages of reads that were given up are
    /// ignored.
    pub(super) fn take_messages(
        &mut self,
        messages: Vec<ReadMessage>,
        progress: &mut impl FnMut(Loaded),
    ) {
        let mut batches: Vec<(ReadRequest, Rows)> = Vec::new();
        for message in messages {
            let asked = message.asked();
            let Some(lane) = self.reads.lane_of(asked) else {
                continue;
            };
            match message {
                ReadMessage::Snapshot {
                    snapshot,
                    fingerprint,
                    ..
                } => self.snapshot_taken(lane, asked, snapshot, *fingerprint),
                ReadMessage::Rows { stream, pieces, .. } => {
                    batches.push((asked, Rows::Pieces(stream, pieces)));
                    continue;
                }
                ReadMessage::Decoded { bytes, .. } => {
                    batches.push((asked, Rows::Decoded(bytes)));
                    continue;
                }
                ReadMessage::All { streams, .. } => self.all_read(lane, asked, streams),
            }
            self.report(asked, progress);
        }
        // A message of one lane may have ended the read of another.
        batches.retain(|(asked, _)| self.reads.lane_of(*asked).is_some());
        for Stored {
            asked,
            loaded,
            flushed,
        } in self.store(batches)
        {
            if let Err(source) = loaded {
                self.unreadable(asked, source);
                continue;
            }
            if let Some(flushed) = flushed {
                self.flushed(asked.table, flushed);
            }
            self.check_loading(asked);
            self.report(asked, progress);
        }
    }

    /// Tells how many rows of a table there are.
    fn report(&self, asked: ReadRequest, progress: &mut impl FnMut(Loaded)) {
        let table = asked.table;
        progress(Loaded {
            table,
            rows: self.tables[table.0].writer.rows(),
        });
    }

    /// Puts rows into their caches. The rows of several tables are stored side by side, each
    /// table's on a thread: storing is most of the work of a load. Two lanes never read one table,
    /// so each table has one batch at most.
    fn store(&mut self, mut batches: Vec<(ReadRequest, Rows)>) -> Vec<Stored> {
        let most_refetched = self.options.max_memory / 2;
        let mut storing: Vec<Storing<'_>> = Vec::with_capacity(batches.len());
        for (at, table) in self.tables.iter_mut().enumerate() {
            let own = batches.iter().position(|(asked, _)| asked.table.0 == at);
            if let Some((asked, rows)) = own.map(|own| batches.swap_remove(own)) {
                storing.push(Storing {
                    rows: Some(rows),
                    writer: &mut *table.writer,
                    most_refetched,
                    stored: Stored {
                        asked,
                        loaded: Ok(()),
                        flushed: None,
                    },
                });
            }
        }
        if let Some((first, others)) = storing.split_first_mut() {
            thread::scope(|scope| {
                for other in others {
                    let bytes = other.rows.as_ref().map_or(0, Rows::bytes);
                    if bytes >= WORTH_A_THREAD {
                        let thread = thread::Builder::new().name("pgic-store".to_string());
                        // Without a thread they are stored below.
                        let _ = thread.spawn_scoped(scope, move || other.run());
                    }
                }
                first.run();
            });
        }
        let stored = storing.into_iter().map(|mut storing| {
            storing.run();
            storing.stored
        });
        // Rows that are left over must not be missed in silence: the table would be live without
        // them.
        let left_over = batches.into_iter().map(|(asked, _)| Stored {
            asked,
            loaded: Err(ReadError::Thread(
                "two sessions read it at once".to_string(),
            )),
            flushed: None,
        });
        stored.chain(left_over).collect()
    }
}
