//! [`TablesImage`]: the caches into which the rows of a log go.

use super::description::TableDescription;
use super::error::LogError;
use crate::log::{Image, JsonRow, Proof, RowChanges, TableName, TableProof};
use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::sink::RowEvent;
use crate::postgres::apply::sink_writer::SinkWriter;
use crate::postgres::apply::writer::{CacheWriter, FlushError, Flushed, Incoming};
use crate::table_cache::{IndexedColumns, StoreError, TableCache};
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
        let shape = description.checked_shape()?;
        let indexed = IndexedColumns::Only(Vec::new());
        let cache = TableCache::with_indexes(shape, 0, indexed);
        Ok(Self {
            description,
            cache: Arc::new(RwLock::new(cache)),
        })
    }
}

/// The caches of an image: they decide which tables of a log are kept, and as what.
pub(crate) trait Caches: Send {
    /// Returns a writer for each table of a snapshot, in their order; `None` for a table that is
    /// not kept. A cache that has rows of the same table keeps them: the snapshot is laid over.
    ///
    /// # Errors
    /// If a description is none of a table.
    fn open(
        &mut self,
        described: &[TableDescription],
    ) -> Result<Vec<Option<Box<dyn CacheWriter>>>, LogError>;

    /// Returns the tables that are kept as cells.
    fn cells(&self) -> &[LoggedTable] {
        &[]
    }
}

/// Caches of cells, with every table of the log.
#[derive(Debug, Default)]
pub(super) struct CellCaches {
    tables: Vec<LoggedTable>,
}

impl Caches for CellCaches {
    fn open(
        &mut self,
        described: &[TableDescription],
    ) -> Result<Vec<Option<Box<dyn CacheWriter>>>, LogError> {
        let mut known = std::mem::take(&mut self.tables);
        let mut writers: Vec<Option<Box<dyn CacheWriter>>> = Vec::new();
        for description in described {
            let fits = |table: &LoggedTable| table.description == *description;
            let logged = match known.iter().position(fits) {
                Some(at) => known.swap_remove(at),
                None => LoggedTable::empty(description.clone())?,
            };
            let decoder = CellDecoder::new(Arc::clone(logged.cache.read().shape()));
            let writer = SinkWriter::new(Arc::clone(&logged.cache), decoder);
            writers.push(Some(Box::new(writer)));
            self.tables.push(logged);
        }
        Ok(writers)
    }

    fn cells(&self) -> &[LoggedTable] {
        &self.tables
    }
}

/// A table of an image.
struct ImageTable {
    name: TableName,
    /// `None` if the table is not kept.
    writer: Option<Box<dyn CacheWriter>>,
}

/// The tables of which changes of rows are recorded.
enum Recorded {
    None,
    All,
    Of(TableName),
}

impl Recorded {
    fn has(&self, table: &TableName) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Of(only) => only == table,
        }
    }
}

/// The rows of the tables of a log.
pub(super) struct TablesImage {
    caches: Box<dyn Caches>,
    tables: Vec<ImageTable>,
    /// The tables of which changes of rows are recorded.
    recorded: Recorded,
    /// The bytes that the caches may take.
    max_memory: usize,
    /// The rows since the memory was looked at.
    unmeasured: usize,
    /// Whether the caches took more memory than they may: the next load begins without their rows.
    is_too_large: bool,
    /// Why the rows are not those of the log; `None` while they are.
    broken: Option<String>,
}

impl TablesImage {
    /// Makes an image of no table, whose rows are to be kept in `caches`.
    pub(super) fn new(caches: Box<dyn Caches>, max_memory: usize) -> Self {
        Self {
            caches,
            tables: Vec::new(),
            recorded: Recorded::None,
            max_memory,
            unmeasured: 0,
            is_too_large: false,
            broken: None,
        }
    }

    /// Returns the tables that are kept as cells.
    pub(super) fn cells(&self) -> &[LoggedTable] {
        self.caches.cells()
    }

    /// Returns the writers of the tables that are kept.
    fn writers(&mut self) -> impl Iterator<Item = &mut Box<dyn CacheWriter>> {
        let tables = self.tables.iter_mut();
        tables.filter_map(|table| table.writer.as_mut())
    }

    /// Returns the number of rows at the last flush.
    pub(super) fn rows(&self) -> usize {
        let writers = self.tables.iter().filter_map(|table| table.writer.as_ref());
        writers.map(|writer| writer.rows()).sum()
    }

    /// Returns the writer of a table; `None` if the log has no such table, or it is not kept.
    pub(super) fn writer(&mut self, name: &TableName) -> Option<&mut Box<dyn CacheWriter>> {
        let found = self.tables.iter_mut().find(|table| table.name == *name);
        found.and_then(|table| table.writer.as_mut())
    }

    /// Records the changes of rows of `table` from now on, or of all tables.
    pub(super) fn record_row_events_of(&mut self, table: Option<TableName>) {
        self.recorded = table.map_or(Recorded::All, Recorded::Of);
        for ImageTable { name, writer } in &mut self.tables {
            if let Some(writer) = writer.as_mut().filter(|_| self.recorded.has(name)) {
                writer.record_events();
            }
        }
    }

    /// Takes the changes of rows that were recorded, of all tables.
    pub(super) fn take_row_events(&mut self) -> Vec<RowEvent> {
        let recorded = &self.recorded;
        let tables = self
            .tables
            .iter_mut()
            .filter(|table| recorded.has(&table.name));
        let writers = tables.filter_map(|table| table.writer.as_mut());
        writers
            .flat_map(|writer| writer.take_row_events())
            .collect()
    }

    /// Begins to load a snapshot of these tables, with about so many rows each. A table that is
    /// there already keeps its rows: the snapshot is laid over them.
    pub(super) fn begin_load(
        &mut self,
        described: Vec<(TableDescription, usize)>,
    ) -> Result<(), LogError> {
        self.tables.clear();
        self.broken = None;
        let is_emptied = std::mem::take(&mut self.is_too_large);
        let (descriptions, rows): (Vec<TableDescription>, Vec<usize>) =
            described.into_iter().unzip();
        let writers = self.caches.open(&descriptions)?;
        for ((description, rows), mut writer) in descriptions.iter().zip(rows).zip(writers) {
            if let Some(writer) = &mut writer {
                writer.all_together();
                if self.recorded.has(&description.name()) {
                    writer.record_events();
                }
                if is_emptied && writer.clear(&[]).is_err() {
                    self.broken = Some("the caches cannot be emptied".to_string());
                }
                writer.expect(Incoming::Snapshot);
                writer.begin(rows);
            }
            let name = description.name();
            self.tables.push(ImageTable { name, writer });
        }
        Ok(())
    }

    /// Adds a row of a snapshot to the table with this place among the described ones.
    pub(super) fn load(&mut self, table: usize, id: &str, row: &JsonRow) {
        if self.broken.is_some() {
            return;
        }
        let Some(table) = self.tables.get_mut(table) else {
            self.broken = Some("a row of an unknown table".to_string());
            return;
        };
        if let Some(writer) = &mut table.writer {
            if let Err(error) = writer.load_row(id, row) {
                self.broken = Some(error.to_string());
            }
            self.unmeasured += 1;
        }
    }

    /// Ends the load of a snapshot.
    pub(super) fn end_load(&mut self) {
        // Without the rest of its rows the snapshot must not remove any.
        if self.broken.is_none() {
            for writer in self.writers() {
                writer.end_load();
            }
        }
    }

    /// Puts into the caches what waits. Waits for readers, which hold locks, without end.
    pub(super) async fn flush(&mut self) {
        for table in &mut self.tables {
            let Some(writer) = &mut table.writer else {
                continue;
            };
            loop {
                match writer.flush(LOCK_PATIENCE) {
                    Ok(Flushed::Done) => break,
                    Ok(Flushed::Locked) => tokio::time::sleep(LOCK_PATIENCE).await,
                    // A row that was removed and added again while the relay read its rows is read
                    // twice. The log's entries up to the snapshot's end have it as it is.
                    Err(FlushError {
                        is_of_snapshot: true,
                        error: StoreError::DuplicateKey(_),
                    }) => {}
                    // At once: the future may be dropped while the next cache is locked.
                    Err(error) => self.broken = Some(error.error.to_string()),
                }
            }
        }
        self.check_memory();
    }

    /// Gives the image up if it takes more memory than it may.
    fn check_memory(&mut self) {
        /// The rows behind which the memory is looked at.
        const ROWS: usize = 1 << 12;
        if self.unmeasured < ROWS {
            return;
        }
        let most = self.max_memory;
        self.unmeasured = 0;
        let taken: usize = self.writers().map(|writer| writer.memory_bytes()).sum();
        if taken > most {
            self.is_too_large = true;
            self.broken = Some(format!(
                "the caches take {taken} bytes, and may take {most}: max_memory"
            ));
        }
    }

    /// Returns whether something waits for a reader, who holds a lock.
    pub(super) fn is_waiting(&self) -> bool {
        let mut writers = self.tables.iter().filter_map(|table| table.writer.as_ref());
        writers.any(|writer| writer.is_waiting())
    }

    /// Returns whether the caches took more memory than they may.
    pub(super) fn is_too_large(&self) -> bool {
        self.is_too_large
    }

    /// Returns why the rows are not those of the log; `None` while they are.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

impl Image for TablesImage {
    fn apply(&mut self, changes: &RowChanges) {
        if self.broken.is_some() {
            return;
        }
        let is_table = |table: &&mut ImageTable| table.name == changes.table;
        let Some(table) = self.tables.iter_mut().find(is_table) else {
            self.broken = Some(format!("rows of an unknown table, {}", changes.table.name));
            return;
        };
        let Some(writer) = &mut table.writer else {
            return;
        };
        self.unmeasured += changes.ops.len();
        for op in &changes.ops {
            if let Err(error) = writer.row_op(op) {
                // The digest of the next proof would tell as much, and not why.
                self.broken = Some(error.to_string());
            }
        }
    }

    fn is_as(&mut self, proof: &Proof) -> bool {
        let mut is_proven = |proof: &TableProof| {
            let mut tables = self.tables.iter_mut();
            let table = tables.find(|table| table.name == proof.table);
            table.is_some_and(|table| match &mut table.writer {
                Some(writer) => writer.sum() == proof.rows,
                None => true,
            })
        };
        let are_proven = proof.tables.iter().all(&mut is_proven);
        self.broken.is_none() && are_proven && proof.tables.len() == self.tables.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, RangeSum, RowDigester, key_digest, salted};
    use crate::log::RowOp;
    use crate::table_cache::{Column, KeyBuf, TableShape};
    use crate::value::CellType;

    fn description() -> TableDescription {
        let columns = ["id", "n"].map(|name| Column {
            name: name.to_string(),
            kind: CellType::Int4,
            nullable: true,
        });
        let shape = TableShape::new(columns.into(), &["id".to_string()]).expect("a shape");
        TableDescription::new("app", "users", &shape)
    }

    fn row(id: i32, n: i32) -> JsonRow {
        JsonRow {
            data: format!(r#"{{"id":{id},"n":{n}}}"#),
            nulls: Vec::new(),
        }
    }

    async fn load(image: &mut TablesImage, rows: &[(i32, i32)]) {
        let described = vec![(description(), rows.len())];
        image.begin_load(described).expect("a load");
        for (id, n) in rows {
            image.load(0, &id.to_string(), &row(*id, *n));
        }
        image.end_load();
        image.flush().await;
    }

    fn proof(image: &TablesImage) -> Proof {
        let tables = image.cells().iter().map(|table| {
            let mut rows = RangeSum::default();
            let cache = table.cache.read();
            let mut digester = RowDigester::new(cache.shape());
            for row in cache.rows() {
                let key = KeyBuf::of_row(cache.shape(), &row.to_buf());
                let row = digester.row(|at| row.cell(at));
                rows.add(salted(Digest::default(), key_digest(&key), row));
            }
            TableProof {
                table: table.description.name(),
                rows,
            }
        });
        Proof {
            tables: tables.collect(),
            asked_at: None,
        }
    }

    // A row that was removed and added again while the relay read its rows.
    #[tokio::test]
    async fn a_row_may_stand_in_a_snapshot_twice() {
        let mut image = TablesImage::new(Box::new(CellCaches::default()), usize::MAX);
        for _ in ["into empty caches", "over the same rows"] {
            load(&mut image, &[(1, 10), (2, 20), (1, 11)]).await;
            assert_eq!(image.broken(), None);
            let op = RowOp::Upsert {
                id: "1".to_string(),
                row: row(1, 11),
            };
            let table = TableName {
                schema: "app".to_string(),
                name: "users".to_string(),
            };
            image.apply(&RowChanges {
                table,
                ops: vec![op],
            });
            image.flush().await;
            let as_it_is = proof(&image);
            assert_eq!(as_it_is.tables[0].rows.rows, 2);
            assert!(image.is_as(&as_it_is));
        }
    }

    #[tokio::test]
    async fn an_image_that_took_too_much_memory_is_loaded_once_there_is_room() {
        let mut image = TablesImage::new(Box::new(CellCaches::default()), 50_000);
        let many: Vec<(i32, i32)> = (0..10_000).map(|id| (id, id)).collect();
        for _ in ["for the first time", "again"] {
            load(&mut image, &many).await;
            assert!(image.broken().is_some_and(|why| why.contains("max_memory")));
        }
        load(&mut image, &many[..10]).await;
        assert_eq!(image.broken(), None);
        let as_it_is = proof(&image);
        assert_eq!(as_it_is.tables[0].rows.rows, 10);
        assert!(image.is_as(&as_it_is));
    }

    #[tokio::test]
    async fn the_sum_follows_each_change() {
        let mut image = TablesImage::new(Box::new(CellCaches::default()), usize::MAX);
        load(&mut image, &[(1, 10), (2, 20), (3, 30)]).await;
        let before = proof(&image);
        assert!(image.is_as(&before));
        let table = description().name();
        for op in [
            RowOp::Replace {
                old_id: "1".to_string(),
                id: "4".to_string(),
                row: row(4, 10),
            },
            RowOp::Remove {
                id: "2".to_string(),
            },
            RowOp::Remove {
                id: "2".to_string(),
            },
            RowOp::Upsert {
                id: "3".to_string(),
                row: row(3, 31),
            },
            RowOp::Clear {
                spared: vec!["3".to_string()],
            },
        ] {
            let earlier = proof(&image);
            let text = format!("{op:?}");
            image.apply(&RowChanges {
                table: table.clone(),
                ops: vec![op],
            });
            image.flush().await;
            let now = proof(&image);
            assert!(image.is_as(&now), "{text}");
            assert_eq!(image.is_as(&earlier), now == earlier, "{text}");
        }
        // Rows that are none of the table are noticed, and so is a table that is not there.
        image.apply(&RowChanges {
            table: table.clone(),
            ops: vec![RowOp::Remove {
                id: "[]".to_string(),
            }],
        });
        let now = proof(&image);
        assert!(!image.is_as(&now));
    }
}
