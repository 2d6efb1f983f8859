//! [`Payload`] and [`CacheNotification`]: the parsed payload of a notification, borrowed and owned.
//!
//! ```json
//! {"table":"users","action":"update","id":7,"data":{…},
//!  "schema":"app","rel":16385,"xid":"742","v":"(0,3)","at":"…"}
//! ```
//!
//! `table`, `action`, `id` and `data` are the plain form, which is the specification's. Triggers
//! made by `pgic` add the other fields: the extended form. A payload is parsed in one typed pass,
//! without a tree of values. Anybody may send on a channel, so nothing in a payload is trusted to
//! be of the right shape.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// The kind of change that a notification announces.
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
    /// The change could not be put into a payload, so the table must be read again.
    Reload,
}

impl Action {
    /// Every action there is.
    pub const ALL: [Self; 5] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::Reload,
    ];

    /// Returns the word that stands for this action in a payload.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Reload => "reload",
        }
    }

    /// Returns the action that `word` stands for in a payload.
    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// Returns whether this action is about one row, whose key is in `id`.
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

/// The reason why a payload is no notification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The payload is not a JSON object with the fields of a notification.
    #[error("not a notification: {0}")]
    NotANotification(String),
    /// `action` is not a known word.
    #[error("unknown action \"{0}\"")]
    UnknownAction(String),
    /// The action is about a row, but the row's key is missing.
    #[error("{0} without an \"id\"")]
    MissingId(Action),
    /// `xid` is not a decimal number.
    #[error("\"xid\" is not a transaction id: \"{0}\"")]
    BadXid(String),
}

/// A parsed payload, whose fields borrow from its text.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the payload, and any of them may be set"
)]
#[derive(Debug, Clone)]
pub struct Payload<'a> {
    /// The table's name, without its schema.
    pub table: Cow<'a, str>,
    /// The kind of change.
    pub action: Action,
    /// The row's key as JSON, which may be null. `None` if the change is about the whole table.
    pub id: Option<&'a RawValue>,
    /// The row as JSON; `None` for deletes, and if the row was not sent.
    pub data: Option<&'a RawValue>,
    /// The table's schema; `None` in the plain form.
    pub schema: Option<Cow<'a, str>>,
    /// The oid of the table whose trigger sent the payload, for a partitioned table a partition's;
    /// `None` in the plain form.
    pub rel: Option<u32>,
    /// The 64-bit id of the top-level transaction; `None` in the plain form.
    pub xid: Option<u64>,
    /// The time at which the trigger ran, as the server wrote it; `None` in the plain form.
    pub at: Option<Cow<'a, str>>,
    /// Whether a later version of the row may have been announced before this one.
    pub recheck: bool,
    /// Whether caches are asked to read the row anew, instead of taking `data`: nothing has
    /// changed.
    pub reread: bool,
    /// Whether `data` is missing because the row would not have fitted into a payload.
    pub truncated: bool,
    /// The `json` and `jsonb` columns that are SQL NULL.
    pub nulls: Vec<String>,
    /// Whether the generic trigger function sent the payload. That function cannot tell SQL NULL
    /// from a JSON null.
    pub generic: bool,
    /// In the update that follows a change of the key: the key that the row had before.
    pub old_id: Option<&'a RawValue>,
    /// In the delete that begins a change of the key: the key that the row has now.
    pub new_id: Option<&'a RawValue>,
    /// With [`Action::Reload`]: the reason why the table must be read again.
    pub why: Option<Cow<'a, str>>,
}

/// The fields of a payload as serde reads them, before they are checked.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the payload, and any of them may be set"
)]
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
    reread: bool,
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

/// Reads a member that is there, even if its value is null: a key of type jsonb may be a JSON null.
/// Serde alone would make `None` of that.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    member: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(member).map(Some)
}

impl<'a> Payload<'a> {
    /// Parses a payload, in the plain or in the extended form. Unknown fields are ignored. No text
    /// makes this function panic.
    ///
    /// # Errors
    /// If the payload is no notification; see [`ParseError`].
    pub fn parse(payload: &'a str) -> Result<Self, ParseError> {
        // Serde reads a struct from an array as well: ["users","delete",7] would be a change of
        // users. No trigger writes that.
        if !payload.trim_start().starts_with('{') {
            return Err(ParseError::NotANotification(
                "it is not a JSON object".to_string(),
            ));
        }
        let fields: Fields<'a> = serde_json::from_str(payload)
            .map_err(|error| ParseError::NotANotification(error.to_string()))?;
        let action = Action::parse(&fields.action)
            .ok_or_else(|| ParseError::UnknownAction(start_of(&fields.action)))?;
        // A TRUNCATE is sent with `"id":null`, which is no key. For a row, null may be one.
        let id = fields
            .id
            .filter(|id| action.is_about_a_row() || id.get() != "null");
        if action.is_about_a_row() && id.is_none() {
            return Err(ParseError::MissingId(action));
        }
        // A transaction id that cannot be read is an error, not the plain form: without its id, a
        // change would be applied that the snapshot has already.
        let xid = fields.xid.as_deref().map(parse_xid).transpose()?;
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
            reread: fields.reread,
            truncated: fields.truncated,
            nulls: fields.nulls,
            generic: fields.generic,
            old_id: fields.old_id,
            new_id: fields.new_id,
            why: fields.why,
        })
    }
}

/// Parses the id of a transaction: digits alone.
fn parse_xid(text: &str) -> Result<u64, ParseError> {
    // `parse` would take a sign as well.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| ParseError::BadXid(start_of(text)))
}

/// Returns the first 40 characters of a text, for an error message.
fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A primary key as it stands in a payload. The table's key is not known here, so the JSON decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// A JSON number without a fraction that fits into 64 bits.
    Integer(i64),
    /// A string that is a uuid as PostgreSQL writes one.
    Uuid(Uuid),
    /// Any other string.
    Text(String),
    /// An array: the parts of a composite key, in key order, or a key whose type is an array.
    Composite(Vec<Key>),
    /// Any other JSON value, as text: a number with a fraction, a boolean, an object.
    Other(String),
}

impl Key {
    /// Returns the key that `id`, from a payload, holds.
    pub fn from_json(id: &RawValue) -> Self {
        let raw = id.get();
        let key = match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).ok().map(Self::from_text),
            Some(b'[') => {
                let parts = serde_json::from_str::<Vec<&RawValue>>(raw).ok();
                parts.map(|parts| Self::Composite(parts.into_iter().map(Self::from_part).collect()))
            }
            _ => raw.parse().ok().map(Self::Integer),
        };
        key.unwrap_or_else(|| Self::Other(raw.to_string()))
    }

    /// Returns the key that a JSON string holds.
    fn from_text(text: String) -> Self {
        match Uuid::try_parse(&text) {
            // Other spellings of a uuid stay text: a key of type text may look like a uuid, and
            // must keep its spelling.
            Ok(uuid) if uuid.hyphenated().to_string() == text => Self::Uuid(uuid),
            _ => Self::Text(text),
        }
    }

    /// Returns the key that an element of a JSON array holds.
    fn from_part(part: &RawValue) -> Self {
        // An array inside an array is one part whose type is an array. To take it apart would be
        // recursion as deep as the sender likes.
        if part.get().starts_with('[') {
            Self::Other(part.get().to_string())
        } else {
            Self::from_json(part)
        }
    }

    /// Returns the key as a uuid, if the key is a uuid in any spelling.
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

/// A parsed payload that owns its fields, for a
/// [`CacheNotificationHandler`](crate::CacheNotificationHandler).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheNotification {
    /// The table's name, without its schema.
    pub table: String,
    /// The kind of change.
    pub action: Action,
    /// The row's key; `None` if the change is about the whole table.
    pub id: Option<Key>,
    /// The row as JSON; `None` for deletes, and if the row was not sent.
    pub data: Option<Box<RawValue>>,
    /// The table's schema; `None` in the plain form.
    pub schema: Option<String>,
    /// The 64-bit id of the top-level transaction; `None` in the plain form.
    pub xid: Option<u64>,
    /// The time at which the trigger ran, as the server wrote it; `None` in the plain form.
    pub at: Option<String>,
    /// Whether `data` is missing because the row would not have fitted into a payload.
    pub truncated: bool,
    /// In the update that follows a change of the key: the key that the row had before.
    pub old_id: Option<Key>,
    /// In the delete that begins a change of the key: the key that the row has now.
    pub new_id: Option<Key>,
    /// With [`Action::Reload`]: the reason why the table must be read again.
    pub why: Option<String>,
}

impl CacheNotification {
    /// Parses a payload, in the plain or in the extended form. No text makes this function panic.
    ///
    /// # Errors
    /// If the payload is no notification; see [`ParseError`].
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
        // The specification's example, with its white space.
        let insert = r#"{
          "table": "users",
          "action": "insert",
          "id": "550e8400-e29b-41d4-a716-446655440000",
          "data": {"id": "550e8400-e29b-41d4-a716-446655440000", "username_hash": 123456789}
        }"#;
        let parsed = CacheNotification::parse(insert).unwrap();
        assert_eq!(parsed.table, "users");
        assert_eq!(parsed.action, Action::Insert);
        assert_eq!(parsed.xid, None);
        assert!(matches!(parsed.id, Some(Key::Uuid(_))));
        assert!(parsed.data.is_some());
    }

    #[test]
    fn the_extended_form_parses() {
        // A schema with quotes, an id past 32 bits, and a field that a later version may add.
        let update = r#"{"table":"t","action":"update","id":["a",7],"schema":"S \"q\"",
            "rel":"16385","xid":"8589934592","v":"(0,1)","at":"2026-01-01T00:00:00+00:00",
            "recheck":true,"old_id":["b",7],"truncated":true,"nulls":["doc"],"future":[]}"#;
        let parsed = Payload::parse(update).unwrap();
        assert_eq!(parsed.rel, Some(16385));
        assert_eq!(parsed.xid, Some(1 << 33));
        assert!(parsed.recheck);
        assert!(parsed.truncated);
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
        fn key(raw: &str) -> Key {
            Key::from_json(&RawValue::from_string(raw.to_string()).unwrap())
        }
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
        fn error(payload: &str) -> ParseError {
            CacheNotification::parse(payload).unwrap_err()
        }
        for payload in [
            "hello",
            "[]",
            r#"["users","delete",7]"#,
            r#"{"table":"t","action":"insert","id":1"#,
            r#"{"table":7,"action":"insert","id":1}"#,
            r#"{"table":"t","table":"u","action":"insert","id":1}"#,
        ] {
            let error = error(payload);
            assert!(
                matches!(error, ParseError::NotANotification(_)),
                "{payload}: {error:?}"
            );
        }
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
        // A payload of nothing but brackets must not exhaust the stack.
        let deep = format!(
            r#"{{"table":"t","action":"insert","id":{}{}}}"#,
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
        fn any_field_values_are_parsed_or_refused(
            values in prop::collection::vec(
                "null|true|-?[0-9]{1,20}|\"[a-z\\\\\"0-9]{0,5}\"|\\[1,\\[\\]\\]|\\{\\}",
                8,
            ),
        ) {
            let names = ["table", "action", "id", "data", "xid", "rel", "nulls", "old_id"];
            let fields = names.iter().zip(&values);
            let fields: Vec<String> = fields
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            let _ = CacheNotification::parse(&format!("{{{}}}", fields.join(",")));
        }
    }
}
