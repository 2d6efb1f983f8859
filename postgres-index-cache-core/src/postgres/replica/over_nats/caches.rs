//! [`ModelCaches`]: the caches of a replica over a log. They take the tables that the application
//! wants, and leave out the log's other ones.

use crate::log::TableName;
use crate::nats::{Caches, LogError, TableDescription};
use crate::postgres::apply::models::OnMisfit;
use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::replica::builder::RequestedTable;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::model_needs::{ModelNeeds, OfferedColumn, OfferedTable};
use crate::postgres::replica::supervisor::MakeWriter;
use crate::postgres::schema::catalog::parse_name;
use crate::table_cache::TableShape;
use crate::value::CellType;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A table of the replica as the log's last snapshot has it.
#[derive(Debug, Clone)]
pub(super) struct FoundTable {
    pub(super) name: TableName,
    pub(super) shape: Arc<TableShape>,
}

/// What became of the tables of the replica with the log's last snapshot; empty before the first.
pub(super) type Found = Vec<Result<FoundTable, ReplicaError>>;

/// A table that the application wants.
struct WantedTable {
    name: Arc<str>,
    /// The table that was meant by the name when the replica was opened.
    resolved: Option<TableName>,
    needs: ModelNeeds,
    make_writer: MakeWriter,
}

/// The caches of a replica over a log.
pub(super) struct ModelCaches {
    /// Name of the log, for people.
    log: String,
    wanted: Vec<WantedTable>,
    found: Arc<Mutex<Found>>,
    /// Whether the replica is open. Before that an older snapshot may have had other tables.
    is_open: Arc<AtomicBool>,
}

impl ModelCaches {
    pub(super) fn new(log: String, requested: Vec<RequestedTable>) -> Self {
        let wanted = requested.into_iter().map(|table| WantedTable {
            name: table.name,
            resolved: None,
            needs: table.needs,
            // A row that does not fit is kept out in any case: the log's next entry may mend it.
            make_writer: (table.make_writer)(OnMisfit::Quarantine),
        });
        Self {
            log,
            wanted: wanted.collect(),
            found: Arc::default(),
            is_open: Arc::default(),
        }
    }

    /// Returns the place where is told what became of the tables.
    pub(super) fn found(&self) -> Arc<Mutex<Found>> {
        Arc::clone(&self.found)
    }

    /// Returns the place where is told that the replica is open.
    pub(super) fn is_open(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_open)
    }

    /// Returns the place, among the log's tables, of the one that an application wants. A name keeps
    /// the schema that it had when the replica was opened.
    ///
    /// # Errors
    /// If there is none, or several.
    fn place(
        &self,
        wanted: &WantedTable,
        described: &[TableDescription],
    ) -> Result<usize, ReplicaError> {
        let name = &*wanted.name;
        let parts = parse_name(name).unwrap_or_default();
        let fits = |table: &TableDescription| match (&wanted.resolved, parts.as_slice()) {
            (Some(resolved), _) => table.name() == *resolved,
            (None, [only]) => table.table == *only,
            (None, [schema, only]) => table.schema == *schema && table.table == *only,
            (None, _) => false,
        };
        let mut places = described.iter().enumerate();
        let mut next = || places.find(|(_, table)| fits(table)).map(|(at, _)| at);
        match (next(), next()) {
            (Some(at), None) => Ok(at),
            (Some(_), Some(_)) => Err(ReplicaError::Ambiguous {
                table: name.to_string(),
                log: self.log.clone(),
            }),
            (None, _) => {
                let has = described.iter().map(|table| display_name(&table.name()));
                let has: Vec<String> = has.collect();
                Err(ReplicaError::NotInLog {
                    table: name.to_string(),
                    log: self.log.clone(),
                    has: has.join(", "),
                })
            }
        }
    }
}

impl Caches for ModelCaches {
    fn open(
        &mut self,
        described: &[TableDescription],
    ) -> Result<Vec<Option<Box<dyn CacheWriter>>>, LogError> {
        if self.is_open.load(Ordering::Relaxed) {
            let before = self.found.lock();
            for (wanted, table) in self.wanted.iter_mut().zip(&*before) {
                if let Ok(found) = table {
                    wanted.resolved.get_or_insert_with(|| found.name.clone());
                }
            }
        }
        let shapes = described.iter().map(TableDescription::checked_shape);
        let shapes: Vec<Arc<TableShape>> = shapes.collect::<Result<_, _>>()?;
        let mut writers: Vec<Option<Box<dyn CacheWriter>>> = Vec::new();
        writers.resize_with(described.len(), || None);
        let mut taken: HashSet<usize> = HashSet::new();
        let mut found = Found::new();
        for wanted in &self.wanted {
            let at = self.place(wanted, described).and_then(|at| {
                if !taken.insert(at) {
                    return Err(ReplicaError::Twice(wanted.name.to_string()));
                }
                wanted.needs.check(&offered(&described[at], &shapes[at]))?;
                Ok(at)
            });
            found.push(match at {
                Ok(at) => {
                    writers[at] = Some((wanted.make_writer)(&shapes[at]));
                    Ok(FoundTable {
                        name: described[at].name(),
                        shape: Arc::clone(&shapes[at]),
                    })
                }
                Err(error) => Err(error),
            });
        }
        *self.found.lock() = found;
        Ok(writers)
    }
}

/// Returns a table's name for people.
fn display_name(name: &TableName) -> String {
    format!("{}.{}", name.schema, name.name)
}

/// Offers a table of the log to a model. Every column of it was sent.
fn offered<'a>(table: &'a TableDescription, shape: &'a TableShape) -> OfferedTable<'a> {
    let columns = shape.columns().iter().map(|column| OfferedColumn {
        name: &column.name,
        kind: column.kind,
        is_array: column.kind == CellType::WrittenArray,
        type_name: column
            .kind
            .described()
            .trim_start_matches("type ")
            .to_string(),
        is_sent: true,
    });
    OfferedTable {
        name: display_name(&table.name()),
        key: Some(&table.key),
        columns: columns.collect(),
    }
}
