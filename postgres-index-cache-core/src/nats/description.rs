//! [`TableDescription`]: a table as a snapshot describes it, for nodes that have no catalogue.

use super::error::LogError;
use crate::log::TableName;
use crate::table_cache::{Column, ShapeError, TableShape};
use crate::value::CellType;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A table of a log: its name, the columns that the relay keeps, and the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDescription {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub table: String,
    /// Names of the key's columns, in key order.
    pub key: Vec<String>,
    columns: Vec<DescribedColumn>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DescribedColumn {
    name: String,
    kind: CellType,
    nullable: bool,
}

impl TableDescription {
    /// Describes a table whose cache has this shape.
    pub fn new(schema: &str, table: &str, shape: &TableShape) -> Self {
        let columns = shape.columns();
        Self {
            schema: schema.to_string(),
            table: table.to_string(),
            key: shape
                .key()
                .iter()
                .map(|at| columns[*at].name.clone())
                .collect(),
            columns: columns
                .iter()
                .map(|column| DescribedColumn {
                    name: column.name.clone(),
                    kind: column.kind,
                    nullable: column.nullable,
                })
                .collect(),
        }
    }

    /// Returns the shape of a cache of the table.
    ///
    /// # Errors
    /// If columns and key do not make one.
    pub fn shape(&self) -> Result<TableShape, ShapeError> {
        let columns = self.columns.iter().map(|column| Column {
            name: column.name.clone(),
            kind: column.kind,
            nullable: column.nullable,
        });
        TableShape::new(columns.collect(), &self.key)
    }

    /// Returns the shape of a cache of the table.
    ///
    /// # Errors
    /// If columns and key do not make one: the snapshot is of no use then.
    pub(crate) fn checked_shape(&self) -> Result<Arc<TableShape>, LogError> {
        self.shape()
            .map(Arc::new)
            .map_err(|error| LogError::Snapshot {
                snapshot: self.table.clone(),
                why: error.to_string(),
            })
    }

    /// Returns the table's name.
    pub fn name(&self) -> TableName {
        TableName {
            schema: self.schema.clone(),
            name: self.table.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_comes_back_from_its_description() {
        let columns = [("b", CellType::Jsonb, true), ("a", CellType::Int8, false)];
        let columns = columns.map(|(name, kind, nullable)| Column {
            name: name.to_string(),
            kind,
            nullable,
        });
        let shape = TableShape::new(columns.into(), &["a".to_string()]).expect("a shape");
        let description = TableDescription::new("app", "odd \"name\"", &shape);
        let json = serde_json::to_string(&description).expect("JSON");
        assert!(json.contains(r#""kind":"jsonb""#), "{json}");
        let read: TableDescription = serde_json::from_str(&json).expect("a description");
        assert_eq!(read, description);
        assert_eq!(read.shape().expect("a shape"), shape);
    }
}
