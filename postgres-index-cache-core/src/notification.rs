//! [`CacheNotification`]: what a payload says, in the plain form of the specification and in the
//! extended one.
//!
//! ```json
//! {"table":"users","action":"update","id":7,"data":{…},"schema":"app","rel":16385,"xid":"742","v":"(0,3)","at":"…"}
//! ```
//!
//! `table`, `action`, `id` and `data` are the plain form; the rest is what triggers made by `pgic`
//! add. A payload is parsed in one typed pass that borrows from it ([`Payload`]): anybody may send
//! on a channel, so nothing in it is trusted to be of the right shape.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// What happened to a row or to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A row was inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// The table was truncated.
    Truncate,
    /// The change could not be put into a payload: the table must be read again.
    Reload,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 5] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::Reload,
    ];

    /// The word that stands in a payload.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Reload => "reload",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// Whether this action is about one row, which `id` names.
    pub fn is_about_a_row(self) -> bool {
        match self {
            Self::Insert | Self::Update | Self::Delete => true,
            Self::Truncate | Self::Reload => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a payload is no notification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is not a JSON object with the fields of a notification.
    #[error("not a notification: {0}")]
    NotANotification(String),
    /// The action is none that is known.
    #[error("unknown action \"{0}\"")]
    UnknownAction(String),
    /// A change of a row without the row's key.
    #[error("{0} without an \"id\"")]
    MissingId(Action),
    /// `xid` is not a decimal number.
    #[error("\"xid\" is not a transaction id: \"{0}\"")]
    BadXid(String),
}

/// A payload, borrowed: the fields as they stand in it.
#[derive(Debug, Clone)]
pub struct Payload<'a> {
    /// The table's name, without its schema.
    pub table: Cow<'a, str>,
    /// What happened.
    pub action: Action,
    /// The row's key as it stands in the payload, null too; `None` for what is about the whole
    /// table.
    pub id: Option<&'a RawValue>,
    /// The row; `None` for deletes, and where it was not sent.
    pub data: Option<&'a RawValue>,
    /// The table's schema; `None` in the plain form.
    pub schema: Option<Cow<'a, str>>,
    /// The oid of the table whose trigger sent this.
    pub rel: Option<u32>,
    /// The 64-bit id of the top-level transaction; `None` in the plain form.
    pub xid: Option<u64>,
    /// When the trigger ran, as the server wrote it.
    pub at: Option<Cow<'a, str>>,
    /// Whether a later version of the row may have been announced before this one.
    pub recheck: bool,
    /// Whether `data` is missing because it would not have fitted.
    pub truncated: bool,
    /// The `json` and `jsonb` columns that are SQL NULL.
    pub nulls: Vec<String>,
    /// Whether the generic function sent it, which cannot tell SQL NULL from a JSON null.
    pub generic: bool,
    /// The key that this update replaced.
    pub old_id: Option<&'a RawValue>,
    /// The key that replaces the one that this delete removes.
    pub new_id: Option<&'a RawValue>,
    /// Why the table must be read again.
    pub why: Option<Cow<'a, str>>,
}

/// The fields as serde finds them; the checks come after.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    rel: Option<&'a RawValue>,
    #[serde(borrow, default)]
    xid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    at: Option<Cow<'a, str>>,
    #[serde(default)]
    recheck: bool,
    #[serde(default)]
    truncated: bool,
    #[serde(default)]
    nulls: Vec<String>,
    #[serde(default)]
    generic: bool,
    #[serde(borrow, default)]
    old_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    new_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    why: Option<Cow<'a, str>>,
}

/// A member that is there, null or not: a key of type jsonb may be a JSON null.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    member: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(member).map(Some)
}

impl<'a> Payload<'a> {
    /// Parses a payload, in the plain or in the extended form. Fields that are not known are passed
    /// over.
    ///
    /// # Errors
    /// When it is no notification; never a panic, whatever it is.
    pub fn parse(payload: &'a str) -> Result<Self, ParseError> {
        // Serde reads a struct from an array as well: ["users","delete",7] would be a change of
        // users.
        if !payload.trim_start().starts_with('{') {
            return Err(ParseError::NotANotification(
                "it is no JSON object".to_string(),
            ));
        }
        let fields: Fields<'a> = serde_json::from_str(payload)
            .map_err(|error| ParseError::NotANotification(error.to_string()))?;
        let action = Action::parse(&fields.action)
            .ok_or_else(|| ParseError::UnknownAction(fields.action.chars().take(40).collect()))?;
        let id = fields
            .id
            .filter(|id| action.is_about_a_row() || id.get() != "null");
        if action.is_about_a_row() && id.is_none() {
            return Err(ParseError::MissingId(action));
        }
        let xid = match &fields.xid {
            Some(text) => {
                let number = text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit())
                    .then(|| text.parse().ok())
                    .flatten();
                Some(number.ok_or_else(|| ParseError::BadXid(text.chars().take(40).collect()))?)
            }
            None => None,
        };
        Ok(Self {
            table: fields.table,
            action,
            id,
            data: fields.data.filter(|data| data.get() != "null"),
            schema: fields.schema,
            // PostgreSQL's JSON quotes an oid; a hand-written trigger may not.
            rel: fields
                .rel
                .and_then(|rel| rel.get().trim_matches('"').parse().ok()),
            xid,
            at: fields.at,
            recheck: fields.recheck,
            truncated: fields.truncated,
            nulls: fields.nulls,
            generic: fields.generic,
            old_id: fields.old_id,
            new_id: fields.new_id,
            why: fields.why,
        })
    }
}

/// A primary key as a payload has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// A JSON number without a fraction that fits.
    Integer(i64),
    /// A string that is a uuid as PostgreSQL writes it.
    Uuid(Uuid),
    /// Any other string.
    Text(String),
    /// An array: the parts of a composite key, in key order (or a key whose type is an array).
    Composite(Vec<Key>),
    /// Anything else, as JSON: a number with a fraction, a boolean, an object.
    Other(String),
}

impl Key {
    /// The key for the `id` of a payload.
    pub fn from_json(id: &RawValue) -> Self {
        let raw = id.get();
        let other = || Self::Other(raw.to_string());
        match raw.as_bytes().first() {
            Some(b'"') => match serde_json::from_str::<String>(raw) {
                Ok(text) => match Uuid::try_parse(&text) {
                    // Only the form that PostgreSQL writes is one: a text key that looks alike
                    // keeps its spelling.
                    Ok(uuid) if uuid.hyphenated().to_string() == text => Self::Uuid(uuid),
                    _ => Self::Text(text),
                },
                Err(_) => other(),
            },
            Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(raw) {
                // An array inside an array is an array-typed part; it is not looked into any
                // deeper.
                Ok(parts) => Self::Composite(
                    parts
                        .into_iter()
                        .map(|part| match part.get().as_bytes().first() {
                            Some(b'[') => Self::Other(part.get().to_string()),
                            _ => Self::from_json(part),
                        })
                        .collect(),
                ),
                Err(_) => other(),
            },
            _ => raw.parse().map_or_else(|_| other(), Self::Integer),
        }
    }

    /// The key as a uuid, when it is one.
    pub fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Self::Uuid(uuid) => Some(*uuid),
            Self::Text(text) => Uuid::try_parse(text).ok(),
            Self::Integer(_) | Self::Composite(_) | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Uuid(uuid) => write!(f, "{uuid}"),
            Self::Text(text) | Self::Other(text) => f.write_str(text),
            Self::Composite(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if at > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// A notification on its own: what a [`CacheNotificationHandler`](crate::CacheNotificationHandler)
/// is given.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheNotification {
    /// The table's name, without its schema.
    pub table: String,
    /// What happened.
    pub action: Action,
    /// The row's key; `None` for what is about the whole table.
    pub id: Option<Key>,
    /// The row as JSON; `None` for deletes, and where it was not sent.
    pub data: Option<Box<RawValue>>,
    /// The table's schema; `None` in the plain form.
    pub schema: Option<String>,
    /// The 64-bit id of the top-level transaction; `None` in the plain form.
    pub xid: Option<u64>,
    /// When the trigger ran, as the server wrote it.
    pub at: Option<String>,
    /// Whether `data` is missing because it would not have fitted.
    pub truncated: bool,
    /// The key that this update replaced.
    pub old_id: Option<Key>,
    /// The key that replaces the one that this delete removes.
    pub new_id: Option<Key>,
    /// Why the table must be read again.
    pub why: Option<String>,
}

impl CacheNotification {
    /// Parses a payload, in the plain or in the extended form.
    ///
    /// # Errors
    /// When it is no notification; never a panic, whatever it is.
    pub fn parse(payload: &str) -> Result<Self, ParseError> {
        Payload::parse(payload).map(|payload| Self::from(&payload))
    }
}

impl From<&Payload<'_>> for CacheNotification {
    fn from(payload: &Payload<'_>) -> Self {
        Self {
            table: payload.table.clone().into_owned(),
            action: payload.action,
            id: payload.id.map(Key::from_json),
            data: payload.data.map(ToOwned::to_owned),
            schema: payload.schema.clone().map(Cow::into_owned),
            xid: payload.xid,
            at: payload.at.clone().map(Cow::into_owned),
            truncated: payload.truncated,
            old_id: payload.old_id.map(Key::from_json),
            new_id: payload.new_id.map(Key::from_json),
            why: payload.why.clone().map(Cow::into_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_plain_form_parses() {
        let insert = r#"{
          "table": "users",
          "action": "insert",
          "id": "550e8400-e29b-41d4-a716-446655440000",
          "data": {"id": "550e8400-e29b-41d4-a716-446655440000", "username_hash": 123456789}
        }"#;
        let parsed = CacheNotification::parse(insert).unwrap();
        assert_eq!(
            (parsed.table.as_str(), parsed.action, parsed.xid),
            ("users", Action::Insert, None)
        );
        assert!(matches!(parsed.id, Some(Key::Uuid(_))));
        assert!(parsed.data.is_some());
    }

    #[test]
    fn the_extended_form_parses() {
        let update = r#"{"table":"t","action":"update","id":["a",7],"schema":"S \"q\"","rel":"16385","xid":"8589934592",
            "v":"(0,1)","at":"2026-01-01T00:00:00+00:00","recheck":true,"old_id":["b",7],"truncated":true,"nulls":["doc"],"future":[]}"#;
        let parsed = Payload::parse(update).unwrap();
        assert_eq!(
            (parsed.rel, parsed.xid, parsed.recheck, parsed.truncated),
            (Some(16385), Some(1 << 33), true, true)
        );
        assert_eq!(parsed.schema.as_deref(), Some("S \"q\""));
        assert_eq!(parsed.nulls, ["doc"]);
        let old = parsed.old_id.map(Key::from_json);
        assert_eq!(
            old,
            Some(Key::Composite(vec![Key::Text("b".into()), Key::Integer(7)]))
        );
    }

    #[test]
    fn keys_of_every_shape_are_told_apart() {
        let key = |raw: &str| Key::from_json(&RawValue::from_string(raw.to_string()).unwrap());
        assert_eq!(key("-9223372036854775808"), Key::Integer(i64::MIN));
        assert_eq!(
            key("\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\""),
            Key::Text("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11".into())
        );
        assert_eq!(key("1.10"), Key::Other("1.10".into()));
        assert_eq!(
            key("[1,[2,3]]"),
            Key::Composite(vec![Key::Integer(1), Key::Other("[2,3]".into())])
        );
        assert_eq!(key("[\"x\", 1]").to_string(), "x,1");
    }

    #[test]
    fn what_is_no_notification_says_why() {
        let error = |payload: &str| CacheNotification::parse(payload).unwrap_err();
        assert!(matches!(error("hello"), ParseError::NotANotification(_)));
        assert!(matches!(error("[]"), ParseError::NotANotification(_)));
        assert!(matches!(
            error(r#"["users","delete",7]"#),
            ParseError::NotANotification(_)
        ));
        assert!(matches!(
            error(r#"{"table":"t","action":"insert","id":1"#),
            ParseError::NotANotification(_)
        ));
        assert!(matches!(
            error(r#"{"table":7,"action":"insert","id":1}"#),
            ParseError::NotANotification(_)
        ));
        assert!(matches!(
            error(r#"{"table":"t","table":"u","action":"insert","id":1}"#),
            ParseError::NotANotification(_)
        ));
        assert_eq!(
            error(r#"{"table":"t","action":"upsert","id":1}"#),
            ParseError::UnknownAction("upsert".into())
        );
        assert_eq!(
            error(r#"{"table":"t","action":"delete"}"#),
            ParseError::MissingId(Action::Delete)
        );
        assert_eq!(
            error(r#"{"table":"t","action":"delete","id":1,"xid":"-1"}"#),
            ParseError::BadXid("-1".into())
        );
        let deep = format!(
            "{{\"table\":\"t\",\"action\":\"insert\",\"id\":{}{}}}",
            "[".repeat(3_000),
            "]".repeat(3_000)
        );
        let _ = CacheNotification::parse(&deep);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(payload in ".{0,200}") {
            let _ = CacheNotification::parse(&payload);
        }

        #[test]
        fn any_field_values_are_parsed_or_refused(values in prop::collection::vec("null|true|-?[0-9]{1,20}|\"[a-z\\\\\"0-9]{0,5}\"|\\[1,\\[\\]\\]|\\{\\}", 8)) {
            let names = ["table", "action", "id", "data", "xid", "rel", "nulls", "old_id"];
            let fields: Vec<String> = names.iter().zip(&values).map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let _ = CacheNotification::parse(&format!("{{{}}}", fields.join(",")));
        }
    }
}
