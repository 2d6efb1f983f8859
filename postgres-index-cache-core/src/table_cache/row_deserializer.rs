//! [`RowDeserializer`]: a row of cells as serde reads it, in place of the row's JSON.
//!
//! An application's type is read from a row as from the object that `row_to_json` would write: the
//! same members, with values of the same types. Integers, texts, uuids and booleans, of which most
//! rows are, are handed over without being written as JSON first. Of any other value its JSON is
//! written and read, so that no type sees a difference.

#[cfg(feature = "postgres")]
use super::row::KeyBuf;
use super::row::RowBuf;
use super::shape::TableShape;
use crate::value::CellType;
#[cfg(feature = "postgres")]
use serde::de::DeserializeOwned;
use serde::de::value::BorrowedStrDeserializer;
#[cfg(feature = "postgres")]
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Error;
use serde_json::de::IoRead;

/// The beginning of the names by which types of serde_json, such as `RawValue`, ask for the JSON
/// itself.
const OF_SERDE_JSON: &str = "$serde_json::private::";

/// A row that serde reads.
#[derive(Clone, Copy)]
pub(crate) struct RowDeserializer<'de> {
    shape: &'de TableShape,
    row: &'de RowBuf,
}

impl<'de> RowDeserializer<'de> {
    /// Makes a row of `shape` readable.
    pub(crate) fn new(shape: &'de TableShape, row: &'de RowBuf) -> Self {
        Self { shape, row }
    }

    /// Returns the row as JSON.
    fn json(self) -> String {
        let columns: Vec<usize> = (0..self.shape.columns().len()).collect();
        let mut json = String::new();
        self.row.write_json(self.shape, &columns, &mut json);
        json
    }
}

impl<'de> Deserializer<'de> for RowDeserializer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Members { row: self, next: 0 })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name.starts_with(OF_SERDE_JSON) {
            return by_json(&self.json(), |json| {
                json.deserialize_newtype_struct(name, visitor)
            });
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        by_json(&self.json(), |json| {
            json.deserialize_enum(name, variants, visitor)
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The members of a row, in the order of the columns.
struct Members<'de> {
    row: RowDeserializer<'de>,
    /// The position of the column that comes next.
    next: usize,
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        match self.row.shape.columns().get(self.next) {
            Some(column) => {
                let name = BorrowedStrDeserializer::new(&column.name);
                seed.deserialize(name).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let at = self.next;
        self.next += 1;
        seed.deserialize(CellDeserializer {
            kind: self.row.shape.columns()[at].kind,
            cell: self.row.row.cell(at),
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.row.shape.columns().len() - self.next)
    }
}

/// A cell that serde reads; `None` is SQL NULL.
#[derive(Clone, Copy)]
struct CellDeserializer<'de> {
    kind: CellType,
    cell: Option<&'de [u8]>,
}

impl<'de> CellDeserializer<'de> {
    /// Returns the value as JSON.
    fn json(self) -> String {
        let mut json = String::new();
        match self.cell {
            Some(cell) => self.kind.write_json(cell, &mut json),
            None => json.push_str("null"),
        }
        json
    }

    /// Returns the text of a value whose JSON is that text as a string; `None` for other values.
    fn text(self) -> Option<&'de str> {
        match self.kind {
            CellType::Text | CellType::Bpchar | CellType::Written => {
                std::str::from_utf8(self.cell?).ok()
            }
            _ => None,
        }
    }

    /// Returns a whole number; `None` for other values.
    fn integer(self) -> Option<i64> {
        let cell = self.cell?;
        match self.kind {
            CellType::Int2 => cell.try_into().ok().map(i16::from_le_bytes).map(i64::from),
            CellType::Int4 => cell.try_into().ok().map(i32::from_le_bytes).map(i64::from),
            CellType::Int8 => cell.try_into().ok().map(i64::from_le_bytes),
            _ => None,
        }
    }
}

impl<'de> Deserializer<'de> for CellDeserializer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Some(cell) = self.cell else {
            return visitor.visit_unit();
        };
        if let Some(number) = self.integer() {
            // As serde_json hands numbers over.
            return match u64::try_from(number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(number),
            };
        }
        if let Some(text) = self.text() {
            return visitor.visit_borrowed_str(text);
        }
        match (self.kind, cell) {
            (CellType::Bool, [value]) => visitor.visit_bool(*value != 0),
            (CellType::Uuid, _) if cell.len() == 16 => {
                let uuid = uuid::Uuid::from_slice(cell).unwrap_or_default();
                visitor.visit_str(
                    uuid.hyphenated()
                        .encode_lower(&mut uuid::Uuid::encode_buffer()),
                )
            }
            _ => by_json(&self.json(), |json| json.deserialize_any(visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // A JSON null is null to the type, as SQL NULL is.
        let is_null = match self.cell {
            None => true,
            Some(cell) => self.kind.has_json_null() && cell == b"null",
        };
        if is_null {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name.starts_with(OF_SERDE_JSON) {
            return by_json(&self.json(), |json| {
                json.deserialize_newtype_struct(name, visitor)
            });
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.text() {
            Some(text) => visitor.visit_enum(text.into_deserializer()),
            None => by_json(&self.json(), |json| {
                json.deserialize_enum(name, variants, visitor)
            }),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(&self.json(), |json| json.deserialize_bytes(visitor))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(&self.json(), |json| json.deserialize_byte_buf(visitor))
    }

    // A number of more than 64 bits is read of its digits: as any number it would be a float.
    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(&self.json(), |json| json.deserialize_i128(visitor))
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(&self.json(), |json| json.deserialize_u128(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

/// Reads a key: of one column as the value, of several as a tuple, or as a struct whose fields have
/// the columns' names.
///
/// # Errors
/// If the key does not fit the type.
#[cfg(feature = "postgres")]
pub(crate) fn read_key<K: DeserializeOwned>(shape: &TableShape, key: &KeyBuf) -> Result<K, Error> {
    let columns = shape.key().iter().map(|&column| &shape.columns()[column]);
    let cells: Vec<(&str, CellDeserializer<'_>)> = columns
        .zip(key.cells())
        .map(|(column, cell)| {
            let cell = CellDeserializer {
                kind: column.kind,
                cell: Some(cell),
            };
            (column.name.as_str(), cell)
        })
        .collect();
    match cells.as_slice() {
        [(_, only)] => K::deserialize(*only),
        _ => K::deserialize(CompositeKey(&cells)),
    }
}

/// The columns of a composite key by their names, in key order.
#[cfg(feature = "postgres")]
struct CompositeKey<'a, 'de>(&'a [(&'de str, CellDeserializer<'de>)]);

#[cfg(feature = "postgres")]
impl<'de> IntoDeserializer<'de, Error> for CellDeserializer<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(feature = "postgres")]
impl<'de> Deserializer<'de> for CompositeKey<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut cells = SeqDeserializer::new(self.0.iter().map(|(_, cell)| *cell));
        let key = visitor.visit_seq(&mut cells)?;
        cells.end()?;
        Ok(key)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(MapDeserializer::new(self.0.iter().copied()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct enum identifier ignored_any
    }
}

/// Lets `read` read a JSON text, which does not live as long as what is read of it.
fn by_json<T>(
    json: &str,
    read: impl FnOnce(&mut serde_json::Deserializer<IoRead<&[u8]>>) -> Result<T, Error>,
) -> Result<T, Error> {
    read(&mut serde_json::Deserializer::from_reader(json.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_cache::{Column, JsonNulls};
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};
    use serde_json::value::RawValue;
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    const KINDS: [(&str, CellType); 12] = [
        ("small", CellType::Int2),
        ("whole", CellType::Int8),
        ("price", CellType::Numeric),
        ("real4", CellType::Float4),
        ("real8", CellType::Float8),
        ("yes", CellType::Bool),
        ("name", CellType::Text),
        ("key", CellType::Uuid),
        ("at", CellType::Timestamptz),
        ("raw", CellType::Bytea),
        ("doc", CellType::Jsonb),
        ("list", CellType::Other),
    ];

    fn shape() -> TableShape {
        let columns = KINDS.map(|(name, kind)| Column {
            name: name.to_string(),
            kind,
            nullable: true,
        });
        TableShape::new(columns.to_vec(), &["small".to_string()]).unwrap()
    }

    /// Reads a row as the type, by its cells and by its JSON, which must be the same.
    fn read<T: DeserializeOwned + Debug>(data: &str) -> Result<String, String> {
        let shape = shape();
        let mut row = RowBuf::default();
        row.read_json(&shape, data, JsonNulls::Unknown).unwrap();
        let cells = RowDeserializer::new(&shape, &row);
        let by_cells = T::deserialize(cells).map(|row| format!("{row:?}"));
        let by_json = serde_json::from_str::<T>(&cells.json()).map(|row| format!("{row:?}"));
        assert_eq!(
            by_cells.is_ok(),
            by_json.is_ok(),
            "{by_cells:?}, {by_json:?}"
        );
        if let (Ok(by_cells), Ok(by_json)) = (&by_cells, &by_json) {
            assert_eq!(by_cells, by_json);
        }
        by_cells.map_err(|error| error.to_string())
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "the fields are printed")]
    struct Plain {
        small: u8,
        whole: i64,
        price: f64,
        real4: f64,
        real8: f32,
        yes: bool,
        name: String,
        key: uuid::Uuid,
        at: String,
        raw: String,
        doc: serde_json::Value,
        list: Vec<i32>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "the fields are printed")]
    struct Optional {
        small: Newtype<i16>,
        whole: Option<u64>,
        name: Option<Kind>,
        doc: Option<Box<RawValue>>,
        price: Option<Box<RawValue>>,
        missing: Option<String>,
        #[serde(flatten)]
        rest: BTreeMap<String, serde_json::Value>,
    }

    #[derive(Debug, Deserialize)]
    struct Newtype<T>(T);

    #[derive(Debug, Deserialize)]
    enum Kind {
        #[serde(rename = "ann")]
        Ann,
        #[serde(other)]
        Other,
    }

    #[derive(Debug, Deserialize, Serialize)]
    #[serde(untagged)]
    enum Either {
        Text { name: i64 },
        Any(BTreeMap<String, serde_json::Value>),
    }

    const WHOLE: &str = concat!(
        r#"{"small":7,"whole":-9,"price":1.50,"real4":0.1,"real8":1e+20,"yes":true,"name":"ann","#,
        r#""key":"550e8400-e29b-41d4-a716-446655440000","at":"2024-02-29T23:59:59.12+00:00","#,
        r#""raw":"\\x00ff","doc":{"a": [1, null]},"list":[1,2]}"#
    );

    #[test]
    fn a_type_is_read_from_cells_as_from_json() {
        let plain = read::<Plain>(WHOLE).unwrap();
        assert!(
            plain.contains("whole: -9") && plain.contains("real4: 0.1,"),
            "{plain}"
        );
        read::<Optional>(WHOLE).unwrap_err();
        read::<Optional>(&WHOLE.replace("-9", "9")).unwrap();
        read::<Either>(WHOLE).unwrap();
        read::<Box<RawValue>>(WHOLE).unwrap();
        read::<serde_json::Value>(WHOLE).unwrap();
        assert!(read::<Plain>(&WHOLE.replace("true", "null")).is_err());
        read::<Optional>(
            &WHOLE
                .replace("-9", "null")
                .replace(r#"{"a": [1, null]}"#, "null"),
        )
        .unwrap();
        read::<Plain>(&WHOLE.replace("\"ann\"", r#""a \"q\" \u00e9""#)).unwrap();
    }

    proptest! {
        #[test]
        fn any_row_is_read_alike(
            whole in any::<i64>(),
            real in any::<f32>(),
            name in prop::option::of(".{0,12}"),
            yes in any::<bool>(),
        ) {
            let name = name.map_or("null".to_string(), |name| serde_json::to_string(&name).unwrap());
            let real = if real.is_finite() { real } else { 0.5 };
            let data = WHOLE
                .replace("-9", &whole.to_string())
                .replace("\"ann\"", &name)
                .replace("0.1", &format!("{real:?}"))
                .replace("true", &yes.to_string());
            let _ = read::<Plain>(&data);
            let _ = read::<Optional>(&data);
            let _ = read::<Either>(&data);
            let _ = read::<serde_json::Value>(&data);
        }
    }
}
