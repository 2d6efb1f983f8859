//! [`ModelNeeds`]: whether a table has what a model reads.
//! [`OfferedTable`]: the table, as the catalogue or a log describes it.

use crate::model::{CacheModel, FieldKind, ModelColumn};
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::schema::catalog::{CatalogColumn, CatalogTable};
use crate::value::CellType;
use std::any::TypeId;
use uuid::Uuid;

/// A table as it is offered to a model.
pub(super) struct OfferedTable<'a> {
    /// The name for people.
    pub(super) name: String,
    /// The columns of the key; `None` if the table has none.
    pub(super) key: Option<&'a [String]>,
    pub(super) columns: Vec<OfferedColumn<'a>>,
}

/// A column of a table as it is offered to a model.
pub(super) struct OfferedColumn<'a> {
    pub(super) name: &'a str,
    pub(super) kind: CellType,
    pub(super) is_array: bool,
    /// The type's name for people.
    pub(super) type_name: String,
    /// Whether the triggers send the column.
    pub(super) is_sent: bool,
}

impl<'a> OfferedTable<'a> {
    /// Offers a table of the catalogue, of which the triggers send the columns `sent`.
    pub(super) fn of_catalog(table: &'a CatalogTable, sent: &[&CatalogColumn]) -> Self {
        let column = |column: &'a CatalogColumn| OfferedColumn {
            name: &column.name,
            kind: column.kind,
            is_array: column.is_array,
            type_name: column.type_name.clone(),
            is_sent: sent.iter().any(|sent| sent.name == column.name),
        };
        Self {
            name: table.display_name(),
            key: table.key.as_ref().map(|key| key.columns.as_slice()),
            columns: table.columns.iter().map(column).collect(),
        }
    }

    fn column(&self, name: &str) -> Option<&OfferedColumn<'a>> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Returns whether the key is one column of type uuid.
    fn has_uuid_key(&self) -> bool {
        let Some([only]) = self.key else { return false };
        self.column(only)
            .is_some_and(|column| column.kind == CellType::Uuid)
    }
}

/// What a model needs of its table, as far as the model tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelNeeds {
    columns: Option<&'static [ModelColumn]>,
    key_columns: Option<&'static [&'static str]>,
    /// Whether the model's key is a uuid.
    key_is_uuid: bool,
    /// The name of the model's type.
    model: &'static str,
}

impl ModelNeeds {
    /// Returns what the model `T` needs.
    pub(super) fn of<T: CacheModel>() -> Self {
        Self {
            columns: T::COLUMNS,
            key_columns: T::KEY_COLUMNS,
            key_is_uuid: TypeId::of::<T::Key>() == TypeId::of::<Uuid>(),
            model: short_name(std::any::type_name::<T>()),
        }
    }

    /// Returns the needs of whoever takes each table as it is.
    #[cfg(feature = "nats")]
    pub(super) fn nothing() -> Self {
        Self {
            columns: None,
            key_columns: None,
            key_is_uuid: false,
            model: "",
        }
    }

    /// Returns whether the model reads the column.
    pub(super) fn reads(&self, column: &str) -> bool {
        self.columns
            .is_none_or(|columns| columns.iter().any(|read| read.column == column))
    }

    /// Checks that the table has what the model needs.
    ///
    /// # Errors
    /// If the table has not, with every column that is wrong.
    pub(super) fn check(&self, table: &OfferedTable<'_>) -> Result<(), ReplicaError> {
        let mut wrong: Vec<String> = self.key_problem(table).into_iter().collect();
        for column in self.columns.unwrap_or_default() {
            wrong.extend(column_problem(column, table));
        }
        if !wrong.is_empty() {
            return Err(ReplicaError::ModelUnfit {
                model: self.model,
                table: table.name.clone(),
                wrong: wrong.join("; "),
            });
        }
        // A model that tells the columns of its key may have a uuid that stands in a text.
        if self.key_is_uuid && self.key_columns.is_none() && !table.has_uuid_key() {
            return Err(ReplicaError::KeyNotUuid(table.name.clone()));
        }
        Ok(())
    }

    /// Returns what is wrong with the key, if the model tells the columns of its key.
    fn key_problem(&self, table: &OfferedTable<'_>) -> Option<String> {
        let wanted = self.key_columns?;
        let key = table.key?;
        let is_same = key.iter().map(String::as_str).eq(wanted.iter().copied());
        (!is_same).then(|| {
            format!(
                "the key of the table is ({}), that of the model ({})",
                key.join(", "),
                wanted.join(", ")
            )
        })
    }
}

/// Returns what is wrong with the column of a field.
fn column_problem(needed: &ModelColumn, table: &OfferedTable<'_>) -> Option<String> {
    let ModelColumn {
        field,
        column,
        field_type,
        holds,
        is_optional,
    } = *needed;
    let Some(found) = table.column(column) else {
        return (!is_optional).then(|| format!("the field {field}: there is no column {column}"));
    };
    if !found.is_sent {
        return (!is_optional)
            .then(|| format!("the field {field}: the triggers do not send the column {column}"));
    }
    // An array in the key is a text, and no uuid.
    let is_no_uuid = found.is_array && holds == FieldKind::Uuid;
    (is_no_uuid || !fits(holds, found.kind)).then(|| {
        format!(
            "the field {field} is {field_type}, and the column {column} is of type {}",
            found.type_name
        )
    })
}

/// Returns whether a field can be read from a column of this kind.
fn fits(field: FieldKind, column: CellType) -> bool {
    // Of these each value may be another type's.
    if matches!(column, CellType::Json | CellType::Jsonb) {
        return true;
    }
    let is_integer = matches!(column, CellType::Int2 | CellType::Int4 | CellType::Int8);
    let is_real = matches!(column, CellType::Float4 | CellType::Float8);
    match field {
        FieldKind::Any => true,
        FieldKind::Bool => column == CellType::Bool,
        FieldKind::Integer => is_integer || column == CellType::Numeric,
        FieldKind::Float => is_integer || is_real || column == CellType::Numeric,
        // A uuid, a time or a label is a text in JSON, and an array or an object is none. Of types
        // without a codec it is not known.
        FieldKind::Text => {
            let is_number = is_integer || is_real || column == CellType::Numeric;
            !is_number && column != CellType::Bool
        }
        FieldKind::Uuid => matches!(
            column,
            CellType::Uuid | CellType::Text | CellType::Bpchar | CellType::Written
        ),
    }
}

/// Returns the last part of a type's path.
fn short_name(path: &'static str) -> &'static str {
    // The parameters of a generic type have paths too.
    let base = path.find('<').unwrap_or(path.len());
    let start = path[..base].rfind("::").map_or(0, |at| at + 2);
    &path[start..]
}
