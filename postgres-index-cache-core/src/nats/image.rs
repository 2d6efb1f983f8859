//! [`TablesImage`]: the caches into which the rows of a log go.

use super::description::TableDescription;
use super::error::LogError;
use crate::log::{Image, JsonRow, Proof, RowChanges, TableProof};
use crate::postgres::apply::cells::CellDecoder;
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
            let writer = SinkWriter::new(Arc::clone(&logged.cache), decoder);
            let mut writer = Box::new(writer.all_together());
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
                    // A row that was removed and added again while the relay read its rows is read
                    // twice. The log's entries up to the snapshot's end have it as it is.
                    Err(FlushError {
                        is_of_snapshot: true,
                        error: StoreError::DuplicateKey(_),
                    }) => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, RangeSum, RowDigester, key_digest, salted};
    use crate::log::{RowOp, TableName};
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
        let tables = image.tables().map(|table| {
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
        }
    }

    // A row that was removed and added again while the relay read its rows.
    #[tokio::test]
    async fn a_row_may_stand_in_a_snapshot_twice() {
        let mut image = TablesImage::default();
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
    async fn the_sum_follows_each_change() {
        let mut image = TablesImage::default();
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
