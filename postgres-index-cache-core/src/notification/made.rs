//! Notifications that an application makes: for its tests, or to tell of what no trigger sees. They
//! are serialised as the payloads that the trigger sends.

use super::{Action, CacheNotification, Key};
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

impl From<Uuid> for Key {
    fn from(key: Uuid) -> Self {
        Self::Uuid(key)
    }
}

impl From<i64> for Key {
    fn from(key: i64) -> Self {
        Self::Integer(key)
    }
}

impl From<i32> for Key {
    fn from(key: i32) -> Self {
        Self::Integer(key.into())
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self::Text(key.to_string())
    }
}

impl From<String> for Key {
    fn from(key: String) -> Self {
        Self::Text(key)
    }
}

/// The parts of a composite key, in key order.
impl From<Vec<Key>> for Key {
    fn from(parts: Vec<Key>) -> Self {
        Self::Composite(parts)
    }
}

/// As it stands in a payload.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Uuid(uuid) => uuid.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Composite(parts) => {
                let mut array = serializer.serialize_seq(Some(parts.len()))?;
                parts
                    .iter()
                    .try_for_each(|part| array.serialize_element(part))?;
                array.end()
            }
            Self::Other(json) => RawValue::from_string(json.clone())
                .map_err(S::Error::custom)?
                .serialize(serializer),
        }
    }
}

impl CacheNotification {
    /// Makes the notification of a row that was inserted. `data` is the row, with the columns' names.
    ///
    /// ```
    /// use postgres_index_cache_core::{CacheNotification, Key};
    ///
    /// let row = serde_json::json!({"id": 7, "name": "ann"});
    /// let inserted = CacheNotification::insert("users", 7_i64, &row)?;
    /// assert_eq!(
    ///     serde_json::to_string(&inserted)?,
    ///     r#"{"table":"users","action":"insert","id":7,"data":{"id":7,"name":"ann"}}"#
    /// );
    /// assert_eq!(inserted.id, Some(Key::Integer(7)));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the row cannot be serialised.
    pub fn insert(
        table: impl Into<String>,
        id: impl Into<Key>,
        data: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let data = to_raw_value(data)?;
        Ok(Self::of_row(table, Action::Insert, id, Some(data)))
    }

    /// Makes the notification of a row that was updated. `data` is the row as it is now.
    ///
    /// # Errors
    /// If the row cannot be serialised.
    pub fn update(
        table: impl Into<String>,
        id: impl Into<Key>,
        data: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let data = to_raw_value(data)?;
        Ok(Self::of_row(table, Action::Update, id, Some(data)))
    }

    /// Makes the notification of a row that was deleted.
    pub fn delete(table: impl Into<String>, id: impl Into<Key>) -> Self {
        Self::of_row(table, Action::Delete, id, None)
    }

    /// Makes a notification in the plain form. Its fields can be set afterwards.
    fn of_row(
        table: impl Into<String>,
        action: Action,
        id: impl Into<Key>,
        data: Option<Box<RawValue>>,
    ) -> Self {
        Self {
            table: table.into(),
            action,
            id: Some(id.into()),
            data,
            schema: None,
            xid: None,
            at: None,
            truncated: false,
            old_id: None,
            new_id: None,
            why: None,
        }
    }
}

/// The payload of the notification, with the members that it has.
impl Serialize for CacheNotification {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            table,
            action,
            id,
            data,
            schema,
            xid,
            at,
            truncated,
            old_id,
            new_id,
            why,
        } = self;
        let mut payload = serializer.serialize_map(None)?;
        payload.serialize_entry("table", table)?;
        payload.serialize_entry("action", &action.to_string())?;
        // Also where there is none: the payload of a TRUNCATE has it as null.
        payload.serialize_entry("id", id)?;
        if let Some(old_id) = old_id {
            payload.serialize_entry("old_id", old_id)?;
        }
        if let Some(new_id) = new_id {
            payload.serialize_entry("new_id", new_id)?;
        }
        if let Some(data) = data {
            payload.serialize_entry("data", data)?;
        }
        if *truncated {
            payload.serialize_entry("truncated", truncated)?;
        }
        if let Some(schema) = schema {
            payload.serialize_entry("schema", schema)?;
        }
        if let Some(xid) = xid {
            // As a text: JavaScript has no integers of 64 bits.
            payload.serialize_entry("xid", &xid.to_string())?;
            // Which of the nulls in `data` are SQL NULL is not known here.
            payload.serialize_entry("generic", &true)?;
        }
        if let Some(at) = at {
            payload.serialize_entry("at", at)?;
        }
        if let Some(why) = why {
            payload.serialize_entry("why", why)?;
        }
        payload.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a payload, serialises it, and checks that it means the same.
    fn round_trip(payload: &str) {
        let parsed = CacheNotification::parse(payload).unwrap();
        let again = serde_json::to_string(&parsed).unwrap();
        let parsed_again = CacheNotification::parse(&again).unwrap();
        assert_eq!(
            format!("{parsed:?}"),
            format!("{parsed_again:?}"),
            "{again}"
        );
    }

    #[test]
    fn a_payload_is_serialised_as_it_was_sent() {
        for payload in [
            r#"{"table":"t","action":"insert","id":7,"data":{"n":1.10},"schema":"public","xid":"9"}"#,
            r#"{"table":"t","action":"update","id":["a\"",1,[2,3],1.5,null],"truncated":true}"#,
            r#"{"table":"t","action":"update","id":1,"old_id":2,"data":{},"at":"2024-01-01"}"#,
            r#"{"table":"t","action":"delete","id":1,"new_id":"x"}"#,
            r#"{"table":"t","action":"truncate","id":null}"#,
            r#"{"table":"t","action":"reload","id":null,"why":"row too long","xid":"18446744073709551615"}"#,
        ] {
            round_trip(payload);
        }
    }

    #[test]
    fn what_is_made_can_be_parsed() {
        let id = Uuid::from_u128(7);
        let data = serde_json::json!({"id": id});
        for made in [
            CacheNotification::insert("t", id, &data).unwrap(),
            CacheNotification::update("t", "a", &data).unwrap(),
            CacheNotification::delete("t", vec![Key::from("a"), 1.into()]),
        ] {
            let payload = serde_json::to_string(&made).unwrap();
            let parsed = CacheNotification::parse(&payload).unwrap();
            assert_eq!(format!("{parsed:?}"), format!("{made:?}"));
        }
        // What cannot be serialised is an error, and no notification.
        let no_json = std::collections::HashMap::from([((1, 2), 3)]);
        CacheNotification::insert("t", 1, &no_json).unwrap_err();
    }
}
