//! How a relay writes snapshots: when one is due, bit by bit, and the cut of the log behind that.

use super::Lead;
use crate::log::{LONGEST_CHANGES, SnapshotPlace, WriterInput};
use crate::nats::error::LogError;
use crate::nats::follow::{random, random_share};
use crate::nats::relay::RelayEvent;
use crate::nats::snapshot::{self, SnapshotInfo, SnapshotReader, Upload};
use crate::nats::stream::NatsLog;
use crate::postgres::SupervisedTable;
use crate::postgres::error_chain::chain;
use std::time::Instant;
use tokio::sync::mpsc;

/// The most entries between two snapshots: whoever loads one reads all entries behind that, proofs
/// included, and nothing is cut before the next.
const MOST_ENTRIES: u64 = 10_000;

/// The least bytes of entries between two snapshots.
const LEAST_BETWEEN: u64 = 4 << 20;

/// A snapshot whose rows are being read, or were read.
pub(super) struct Snapshotting {
    pub(super) reader: SnapshotReader,
    pub(super) upload: Upload,
    /// Whether the last row was read.
    pub(super) is_read: bool,
}

/// Whether a snapshot is due.
#[derive(Default)]
pub(super) struct Due {
    /// Bytes of entries since the last snapshot began.
    pub(super) since: u64,
    /// Number of entries since the last snapshot began.
    pub(super) entries: u64,
    /// The two numbers when the snapshot that is underway began.
    begun: (u64, u64),
    /// Bytes of the rows in the last snapshot.
    last: u64,
    /// Whether nodes have no snapshot to load.
    is_lacking: bool,
}

impl Due {
    /// Returns whether one is due in a log that keeps the last `most` bytes of entries for sure.
    fn is_due(&self, most: u64) -> bool {
        let enough = self.last.max(LEAST_BETWEEN).min(most);
        let is_long = self.since > enough || self.entries > MOST_ENTRIES;
        self.is_lacking || is_long
    }
}

impl<T: SupervisedTable> Lead<T> {
    /// Begins a snapshot if one is due and the caches are fit to be read.
    pub(super) fn begin_snapshot(&mut self) {
        // Whoever loads a snapshot needs the entries behind that.
        let most = u64::try_from(self.options.storage.max_bytes);
        let most = most.map_or(u64::MAX, |most| (most / 4).max(LEAST_BETWEEN));
        let is_due = self.due.is_due(most) || self.writer.wants_snapshot();
        let is_free = self.snapshot.is_none() && self.finishing.is_none();
        let is_time = self.waits.snapshot_at.is_none_or(|at| at <= Instant::now());
        if !is_due || !is_free || !is_time || !self.tables.is_live {
            return;
        }
        // Changes that come while rows are read must be events.
        self.supervisor.driver_mut().record_row_events();
        if !self.writer.start_snapshot() {
            return;
        }
        let name = format!("{}-{:08x}", self.writer.position().number, random());
        self.snapshot = Some(Snapshotting {
            reader: SnapshotReader::new(self.logged_tables()),
            upload: Upload::begin(&self.log, name, self.options.storage),
            is_read: false,
        });
        self.due.begun = (self.due.since, self.due.entries);
    }

    /// Reads the next rows of the snapshot.
    pub(super) fn read_snapshot(&mut self, permit: Option<mpsc::OwnedPermit<String>>) {
        let Some(snapshot) = &mut self.snapshot else {
            return;
        };
        let table = snapshot.reader.table();
        match (permit, snapshot.reader.next()) {
            // A text of one long row: no node could load the snapshot.
            (_, Some(text)) if text.len() > LONGEST_CHANGES => {
                self.fail_at_row(table.unwrap_or_default(), text.len());
            }
            (Some(permit), Some(text)) => {
                permit.send(text);
            }
            // The upload has failed, and says so when it is finished.
            (None, _) | (Some(_), None) => {
                snapshot.is_read = true;
                // Every change that the rows may have is published first.
                self.publish_events();
                self.writer.end_snapshot();
            }
        }
    }

    /// Ends the upload of the snapshot, whose place is known.
    pub(super) fn finish_snapshot(&mut self, place: SnapshotPlace) {
        if let Some(Snapshotting { reader, upload, .. }) = self.snapshot.take() {
            let log = self.log.clone();
            let finishing = async move { upload.finish(&log, place, &reader).await };
            self.finishing = Some(tokio::spawn(finishing));
        }
    }

    /// Notes that a snapshot can be loaded, or was not put. Cuts the log in front of the snapshot
    /// before that.
    pub(super) fn take_snapshot(&mut self, put: Result<SnapshotInfo, LogError>) {
        let info = match put {
            Ok(info) => info,
            Err(error) => {
                let _ = self.events.send(RelayEvent::Failed(chain(&error)));
                self.due.is_lacking = true;
                let wait = self.waits.snapshot.next(random_share());
                self.waits.snapshot_at = Some(Instant::now() + wait);
                return;
            }
        };
        self.due.is_lacking = false;
        self.due.since -= self.due.begun.0;
        self.due.entries -= self.due.begun.1;
        self.waits.snapshot.reset();
        self.due.last = info.text_bytes;
        self.writer
            .handle(WriterInput::SnapshotPut(info.place), Instant::now());
        let rows = info.tables.iter().map(|table| table.rows).sum();
        let _ = self.events.send(RelayEvent::Snapshot {
            rows,
            bytes: info.bytes,
        });
        let log = self.log.clone();
        tokio::spawn(async move {
            if let Err(error) = cut(&log).await {
                tracing::info!(error = chain(&error), "the log was not cut");
            }
        });
    }

    pub(super) fn take_look(&mut self, found: Result<Option<SnapshotInfo>, LogError>) {
        match found {
            Ok(found) => {
                self.due.is_lacking = found.is_none();
                if let Some(found) = found {
                    self.due.last = found.text_bytes;
                }
            }
            Err(error) => tracing::info!(error = chain(&error), "snapshots could not be looked at"),
        }
    }
}

/// Cuts the log in front of the last but one snapshot.
async fn cut(log: &NatsLog) -> Result<(), LogError> {
    for snapshot in snapshot::list(log).await?.iter().skip(1) {
        let start = snapshot.place.start;
        // One of a log that was deleted has numbers of that log.
        if snapshot::stands(log, start).await? {
            return log.cut(start.sequence).await;
        }
    }
    Ok(())
}
