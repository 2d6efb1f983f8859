//! [`TablesImage`]: the caches into which the rows of a log go.

use super::description::TableDescription;
use super::error::LogError;
use crate::log::{Image, JsonRow, Proof, RowChanges, TableProof};
use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::sink_writer::SinkWriter;
use crate::postgres::apply::writer::{CacheWriter, Flushed, Incoming};
use crate::table_cache::{IndexedColumns, TableCache};
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;

/// The time for which a flush waits for a lock before other work goes on.
const LOCK_PATIENCE: Duration = Duration::from_millis(1);

/// A table of a log, and the cache that has its rows.
#[derive(Debug, Clone)]
pub struct LoggedTable {
    /// The table.
    pub description: TableDescription,
    /// The rows. While the lock is held for reading, the log's changes wait.
    pub cache: Arc<RwLock<TableCache>>,
}

impl LoggedTable {
    /// Makes an empty cache for a table.
    ///
    /// # Errors
    /// If columns and key make no shape.
    pub fn empty(description: TableDescription) -> Result<Self, LogError> {
        let shape = description.shape().map_err(|error| LogError::Snapshot {
            snapshot: description.table.clone(),
            why: error.to_string(),
        })?;
        let indexed = IndexedColumns::Only(Vec::new());
        let cache = TableCache::with_indexes(Arc::new(shape), 0, indexed);
        Ok(Self {
            description,
            cache: Arc::new(RwLock::new(cache)),
        })
    }
}

/// A table of an image.
struct ImageTable {
    logged: LoggedTable,
    writer: Box<dyn CacheWriter>,
}

/// The rows of all tables of a log.
#[derive(Default)]
pub(super) struct TablesImage {
    tables: Vec<ImageTable>,
    /// Why the rows are not those of the log; `None` while they are.
    broken: Option<String>,
}

impl TablesImage {
    /// Returns the tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &LoggedTable> {
        self.tables.iter().map(|table| &table.logged)
    }

    /// Begins to load a snapshot of these tables, with about so many rows each. A table that is
    /// there already with these columns keeps its cache: the snapshot is laid over its rows.
    pub(super) fn begin_load(
        &mut self,
        described: Vec<(TableDescription, usize)>,
    ) -> Result<(), LogError> {
        let mut known: Vec<LoggedTable> = self.tables().cloned().collect();
        self.tables.clear();
        self.broken = None;
        for (description, rows) in described {
            let fits = |table: &LoggedTable| table.description == description;
            let logged = match known.iter().position(fits) {
                Some(at) => known.swap_remove(at),
                None => LoggedTable::empty(description)?,
            };
            let decoder = CellDecoder::new(Arc::clone(logged.cache.read().shape()));
            let mut writer = Box::new(SinkWriter::new(Arc::clone(&logged.cache), decoder));
            writer.expect(Incoming::Snapshot);
            writer.begin(rows);
            self.tables.push(ImageTable { logged, writer });
        }
        Ok(())
    }

    /// Adds a row of a snapshot to the table with this place among the described ones.
    pub(super) fn load(&mut self, table: usize, id: &str, row: &JsonRow) {
        let Some(table) = self.tables.get_mut(table) else {
            self.broken = Some("a row of an unknown table".to_string());
            return;
        };
        if let Err(error) = table.writer.load_row(id, row) {
            self.broken = Some(error.to_string());
        }
    }

    /// Ends the load of a snapshot.
    pub(super) fn end_load(&mut self) {
        for table in &mut self.tables {
            table.writer.end_load();
        }
    }

    /// Puts into the caches what waits. Waits for readers, which hold locks, without end.
    pub(super) async fn flush(&mut self) {
        for table in &mut self.tables {
            loop {
                match table.writer.flush(LOCK_PATIENCE) {
                    Ok(Flushed::Done) => break,
                    Ok(Flushed::Locked) => tokio::time::sleep(LOCK_PATIENCE).await,
                    Err(error) => self.broken = Some(error.error.to_string()),
                }
            }
        }
    }

    /// Returns why the rows are not those of the log; `None` while they are.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

impl Image for TablesImage {
    fn apply(&mut self, changes: &RowChanges) {
        let is_table = |table: &&mut ImageTable| {
            let description = &table.logged.description;
            description.schema == changes.table.schema && description.table == changes.table.name
        };
        let Some(table) = self.tables.iter_mut().find(is_table) else {
            self.broken = Some(format!("rows of an unknown table, {}", changes.table.name));
            return;
        };
        for op in &changes.ops {
            if let Err(error) = table.writer.row_op(op) {
                // The digest of the next proof would tell as much, and not why.
                self.broken = Some(error.to_string());
            }
        }
    }

    fn is_as(&mut self, proof: &Proof) -> bool {
        let mut is_proven = |proof: &TableProof| {
            let is_table = |table: &&mut ImageTable| table.logged.description.name() == proof.table;
            let table = self.tables.iter_mut().find(is_table);
            table.is_some_and(|table| table.writer.sum() == proof.rows)
        };
        let are_proven = proof.tables.iter().all(&mut is_proven);
        self.broken.is_none() && are_proven && proof.tables.len() == self.tables.len()
    }
}
