//! [`KeyCodec`]: from the cells of a key to the key of an application's model, and back.
//!
//! A key of any type is read by serde, as the model's fields are. The way back is known for the
//! usual types alone: of any other key, the cache keeps the cells.

use crate::model::guarded;
use crate::notification::Key;
use crate::table_cache::{KeyBuf, TableShape, read_key};
use crate::value::CellType;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;
use uuid::Uuid;

/// The codec of the keys of one table, which are of the model's type `K`.
#[derive(Debug)]
pub(super) struct KeyCodec<K> {
    shape: Arc<TableShape>,
    key: PhantomData<fn() -> K>,
}

impl<K> Clone for KeyCodec<K> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shape))
    }
}

impl<K> KeyCodec<K> {
    pub(super) fn new(shape: Arc<TableShape>) -> Self {
        Self {
            shape,
            key: PhantomData,
        }
    }

    /// Returns the shape of the table's rows.
    pub(super) fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    /// Returns the type of a key of one column; `None` of a composite key.
    fn only_kind(&self) -> Option<CellType> {
        match *self.shape.key() {
            [column] => Some(self.shape.columns()[column].kind),
            _ => None,
        }
    }

    /// Returns a key as JSON: one value, or for a composite key an array in key order.
    pub(super) fn json(&self, cells: &KeyBuf) -> String {
        cells.to_json(&self.shape)
    }

    /// Returns a key as it is named to people and in events.
    pub(super) fn name(&self, cells: &KeyBuf) -> Key {
        let mut parts: Vec<Key> = cells
            .cells()
            .zip(self.shape.key())
            .map(|(cell, &column)| name_of_cell(self.shape.columns()[column].kind, cell))
            .collect();
        if parts.len() == 1 {
            parts.remove(0)
        } else {
            Key::Composite(parts)
        }
    }

    /// Returns the cells in one piece, for [`unpack`](Self::unpack).
    pub(super) fn pack(cells: &KeyBuf) -> Box<[u8]> {
        let mut packed = Vec::new();
        let mut parts = cells.cells().peekable();
        while let Some(cell) = parts.next() {
            // The last cell ends where all do: the key of one column is the cell alone.
            if parts.peek().is_some() {
                packed.extend((cell.len() as u32).to_le_bytes());
            }
            packed.extend(cell);
        }
        packed.into()
    }

    /// Returns the cells that were [packed](Self::pack).
    pub(super) fn unpack(&self, mut packed: &[u8]) -> KeyBuf {
        let mut key = KeyBuf::default();
        for _ in 1..self.shape.key().len() {
            let Some((length, rest)) = packed.split_first_chunk::<4>() else {
                break;
            };
            let length = u32::from_le_bytes(*length) as usize;
            let (cell, rest) = rest.split_at(length.min(rest.len()));
            key.push(cell);
            packed = rest;
        }
        key.push(packed);
        key
    }
}

/// Returns a part of a key as it is named to people and in events.
fn name_of_cell(kind: CellType, cell: &[u8]) -> Key {
    if let Some(number) = integer(kind, cell) {
        return Key::Integer(number);
    }
    match (kind, Uuid::from_slice(cell), std::str::from_utf8(cell)) {
        (CellType::Uuid, Ok(uuid), _) => Key::Uuid(uuid),
        (CellType::Text | CellType::Bpchar | CellType::Written, _, Ok(text)) => {
            Key::Text(text.to_string())
        }
        _ => {
            let mut json = String::new();
            kind.write_json(cell, &mut json);
            match serde_json::from_str(&json) {
                Ok(text) => Key::Text(text),
                Err(_) => Key::Other(json),
            }
        }
    }
}

/// Returns the whole number in a cell; `None` if the type has others.
fn integer(kind: CellType, cell: &[u8]) -> Option<i64> {
    match kind {
        CellType::Int2 => cell.try_into().ok().map(i16::from_le_bytes).map(i64::from),
        CellType::Int4 => cell.try_into().ok().map(i32::from_le_bytes).map(i64::from),
        CellType::Int8 => cell.try_into().ok().map(i64::from_le_bytes),
        _ => None,
    }
}

impl<K: DeserializeOwned + 'static> KeyCodec<K> {
    /// Returns the key with these cells.
    ///
    /// # Errors
    /// If the key does not fit the type `K`, with the reason.
    pub(super) fn read(&self, cells: &KeyBuf) -> Result<K, String> {
        if let Some(key) = self.read_plain(cells) {
            return Ok(key);
        }
        guarded(|| read_key(&self.shape, cells))?.map_err(|error| format!("its key: {error}"))
    }

    /// Returns the key, if it is of a usual type and needs no serde.
    fn read_plain(&self, cells: &KeyBuf) -> Option<K> {
        let kind = self.only_kind()?;
        let cell = cells.cells().next()?;
        let mut key: Option<K> = None;
        let place: &mut dyn Any = &mut key;
        if let Some(uuid) = place.downcast_mut::<Option<Uuid>>() {
            *uuid = (kind == CellType::Uuid)
                .then(|| Uuid::from_slice(cell).ok())
                .flatten();
        } else if let Some(number) = place.downcast_mut::<Option<i64>>() {
            *number = integer(kind, cell);
        } else if let Some(number) = place.downcast_mut::<Option<i32>>() {
            *number = integer(kind, cell).and_then(|number| number.try_into().ok());
        }
        key
    }

    /// Returns the cells of a key whose type tells them; `None` of any other type.
    pub(super) fn cells(&self, key: &K) -> Option<KeyBuf> {
        let kind = self.only_kind()?;
        let key: &dyn Any = key;
        if let Some(uuid) = key.downcast_ref::<Uuid>() {
            return (kind == CellType::Uuid).then(|| KeyBuf::of_cell(uuid.as_bytes()));
        }
        if let Some(&number) = key.downcast_ref::<i64>() {
            return cell_of_integer(kind, number);
        }
        if let Some(&number) = key.downcast_ref::<i32>() {
            return cell_of_integer(kind, number.into());
        }
        let text = key.downcast_ref::<String>()?;
        matches!(kind, CellType::Text | CellType::Bpchar).then(|| KeyBuf::of_cell(text.as_bytes()))
    }
}

/// Returns the cell of a whole number; `None` if the type has others, or not this one.
fn cell_of_integer(kind: CellType, number: i64) -> Option<KeyBuf> {
    match kind {
        CellType::Int2 => i16::try_from(number)
            .ok()
            .map(|number| KeyBuf::of_cell(&number.to_le_bytes())),
        CellType::Int4 => i32::try_from(number)
            .ok()
            .map(|number| KeyBuf::of_cell(&number.to_le_bytes())),
        CellType::Int8 => Some(KeyBuf::of_cell(&number.to_le_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_cache::Column;
    use std::fmt::Debug;

    fn shape(kinds: &[CellType]) -> Arc<TableShape> {
        let names: Vec<String> = (0..kinds.len()).map(|at| format!("k{at}")).collect();
        let columns = kinds.iter().zip(&names).map(|(&kind, name)| Column {
            name: name.clone(),
            kind,
            nullable: false,
        });
        Arc::new(TableShape::new(columns.collect(), &names).unwrap())
    }

    /// Reads a payload's `id` as the type, and checks the ways back.
    fn read<K: DeserializeOwned + Debug + 'static>(
        kinds: &[CellType],
        id: &str,
    ) -> Result<(K, Key), String> {
        let codec = KeyCodec::<K>::new(shape(kinds));
        let mut cells = KeyBuf::default();
        cells.read_json(&codec.shape, id).unwrap();
        assert_eq!(codec.unpack(&KeyCodec::<K>::pack(&cells)), cells);
        assert_eq!(codec.json(&cells), id);
        let key = codec.read(&cells)?;
        if let Some(own) = codec.cells(&key) {
            assert_eq!(own, cells);
        }
        Ok((key, codec.name(&cells)))
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct UserId(Uuid);

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Place {
        k1: i32,
        k0: String,
    }

    #[test]
    fn keys_of_every_kind_are_read_and_named() {
        let id = "550e8400-e29b-41d4-a716-446655440000";
        let uuid = Uuid::parse_str(id).unwrap();
        let json = format!("\"{id}\"");
        let kinds = [CellType::Uuid];
        assert_eq!(read(&kinds, &json).unwrap(), (uuid, Key::Uuid(uuid)));
        assert_eq!(read::<UserId>(&kinds, &json).unwrap().0, UserId(uuid));
        assert_eq!(read::<String>(&kinds, &json).unwrap().0, id);
        assert_eq!(
            read(&[CellType::Int8], "-7").unwrap(),
            (-7_i64, Key::Integer(-7))
        );
        assert_eq!(read::<u64>(&[CellType::Int2], "7").unwrap().0, 7);
        assert_eq!(read::<i64>(&[CellType::Int4], "7").unwrap().0, 7);
        let text = read::<String>(&[CellType::Text], &json).unwrap();
        assert_eq!(text, (id.to_string(), Key::Text(id.to_string())));
        let date = read::<String>(&[CellType::Date], "\"2024-02-29\"").unwrap();
        assert_eq!(date.1, Key::Text("2024-02-29".to_string()));
    }

    #[test]
    fn a_composite_key_is_a_tuple_or_a_struct() {
        let kinds = [CellType::Text, CellType::Int4];
        let tuple = read::<(String, i64)>(&kinds, r#"["a",1]"#).unwrap();
        assert_eq!(tuple.0, ("a".to_string(), 1));
        assert_eq!(tuple.1.to_string(), "a,1");
        let place = read::<Place>(&kinds, r#"["",-1]"#).unwrap().0;
        assert_eq!((place.k1, place.k0.as_str()), (-1, ""));
    }

    #[test]
    fn a_key_that_does_not_fit_is_an_error() {
        read::<u8>(&[CellType::Int8], "300").unwrap_err();
        read::<i32>(&[CellType::Int8], "4294967296").unwrap_err();
        read::<(i64, i64)>(&[CellType::Int8], "3").unwrap_err();
        read::<i64>(&[CellType::Int8, CellType::Int8], "[1,2]").unwrap_err();
        read::<(i64,)>(&[CellType::Int8, CellType::Int8], "[1,2]").unwrap_err();
    }
}
