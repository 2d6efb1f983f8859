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

mod made;

use crate::json_scan::{Member, Scanner};
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
    pub id: Option<&'a str>,
    /// The row as JSON; `None` for deletes, and if the row was not sent.
    pub data: Option<&'a str>,
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
    pub old_id: Option<&'a str>,
    /// In the delete that begins a change of the key: the key that the row has now.
    pub new_id: Option<&'a str>,
    /// With [`Action::Reload`]: the reason why the table must be read again.
    pub why: Option<Cow<'a, str>>,
}

/// The fields of a payload, before they are checked. Values of any type stand as their JSON.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the payload, and any of them may be set"
)]
#[derive(Debug, Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "not_null")]
    data: Option<&'a str>,
    #[serde(borrow, default)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "not_null")]
    rel: Option<&'a str>,
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
    #[serde(borrow, default, deserialize_with = "not_null")]
    old_id: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "not_null")]
    new_id: Option<&'a str>,
    #[serde(borrow, default)]
    why: Option<Cow<'a, str>>,
}

/// Reads a member that is there, even if its value is null: a key of type jsonb may be a JSON null.
/// Serde alone would make `None` of that.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    member: D,
) -> Result<Option<&'a str>, D::Error> {
    <&'a RawValue>::deserialize(member).map(|value| Some(value.get()))
}

/// Reads a member as its JSON; `None` if that is null.
fn not_null<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    member: D,
) -> Result<Option<&'a str>, D::Error> {
    Ok(present(member)?.filter(|value| *value != "null"))
}

impl<'a> Payload<'a> {
    /// Parses a payload, in the plain or in the extended form. Unknown fields are ignored. No text
    /// makes this function panic.
    ///
    /// # Errors
    /// If the payload is no notification; see [`ParseError`].
    pub fn parse(payload: &'a str) -> Result<Self, ParseError> {
        match Fields::scan(payload) {
            Some(fields) => fields.check(),
            None => Fields::parse(payload)?.check(),
        }
    }
}

impl<'a> Fields<'a> {
    /// Reads the fields of a usual payload in one pass; `None` if serde has to look.
    fn scan(payload: &'a str) -> Option<Self> {
        /// The numbers of `table` and `action`, which may not be missing.
        const NEEDED: u32 = 0b110;
        let mut fields = Self::default();
        let mut scanner = Scanner::new(payload);
        scanner.enter_object()?;
        let mut seen = 0_u32;
        let mut count = 0;
        while let Member::Named(name) = scanner.next_member(count)? {
            count += 1;
            let value = scanner.value()?;
            let field = fields.take(name, value)?;
            // Serde refuses a field that comes twice.
            if field > 0 && seen & (1 << field) != 0 {
                return None;
            }
            seen |= 1 << field;
        }
        scanner.end()?;
        (seen & NEEDED == NEEDED).then_some(fields)
    }

    /// Takes a member. Returns the number of the field, 0 for one that is not known; `None` if the
    /// value is not the usual one.
    fn take(&mut self, name: &str, value: &'a str) -> Option<u32> {
        let text = || plain_text(value).map(Cow::Borrowed);
        let optional_text = || match value {
            "null" => Some(None),
            _ => plain_text(value).map(|text| Some(Cow::Borrowed(text))),
        };
        let not_null = Some(value).filter(|value| *value != "null");
        Some(match name {
            "table" => {
                self.table = text()?;
                1
            }
            "action" => {
                self.action = text()?;
                2
            }
            "id" => {
                self.id = Some(value);
                3
            }
            "data" => {
                self.data = not_null;
                4
            }
            "schema" => {
                self.schema = optional_text()?;
                5
            }
            "rel" => {
                self.rel = not_null;
                6
            }
            "xid" => {
                self.xid = optional_text()?;
                7
            }
            "at" => {
                self.at = optional_text()?;
                8
            }
            "recheck" => {
                self.recheck = value.parse().ok()?;
                9
            }
            "reread" => {
                self.reread = value.parse().ok()?;
                10
            }
            "truncated" => {
                self.truncated = value.parse().ok()?;
                11
            }
            "nulls" => {
                self.nulls = serde_json::from_str(value).ok()?;
                12
            }
            "generic" => {
                self.generic = value.parse().ok()?;
                13
            }
            "old_id" => {
                self.old_id = not_null;
                14
            }
            "new_id" => {
                self.new_id = not_null;
                15
            }
            "why" => {
                self.why = optional_text()?;
                16
            }
            _ => 0,
        })
    }

    /// Reads the fields of any payload.
    ///
    /// # Errors
    /// If the payload is not a JSON object with the fields of a notification.
    fn parse(payload: &'a str) -> Result<Self, ParseError> {
        // Serde reads a struct from an array as well: ["users","delete",7] would be a change of
        // users. No trigger writes that.
        if !payload.trim_start().starts_with('{') {
            return Err(ParseError::NotANotification(
                "it is not a JSON object".to_string(),
            ));
        }
        serde_json::from_str(payload)
            .map_err(|error| ParseError::NotANotification(error.to_string()))
    }

    /// Checks the fields.
    ///
    /// # Errors
    /// If they are not those of a notification; see [`ParseError`].
    fn check(self) -> Result<Payload<'a>, ParseError> {
        let action = Action::parse(&self.action)
            .ok_or_else(|| ParseError::UnknownAction(start_of(&self.action)))?;
        // A TRUNCATE is sent with `"id":null`, which is no key. For a row, null may be one.
        let id = self
            .id
            .filter(|id| action.is_about_a_row() || *id != "null");
        if action.is_about_a_row() && id.is_none() {
            return Err(ParseError::MissingId(action));
        }
        // A transaction id that cannot be read is an error, not the plain form: without its id, a
        // change would be applied that the snapshot has already.
        let xid = self.xid.as_deref().map(parse_xid).transpose()?;
        Ok(Payload {
            table: self.table,
            action,
            id,
            data: self.data.filter(|data| *data != "null"),
            schema: self.schema,
            // PostgreSQL's JSON quotes an oid; a hand-written trigger may not.
            rel: self.rel.and_then(|rel| rel.trim_matches('"').parse().ok()),
            xid,
            at: self.at,
            recheck: self.recheck,
            reread: self.reread,
            truncated: self.truncated,
            nulls: self.nulls,
            generic: self.generic,
            old_id: self.old_id,
            new_id: self.new_id,
            why: self.why,
        })
    }
}

/// Returns the content of a JSON string without escapes; `None` for any other value.
fn plain_text(value: &str) -> Option<&str> {
    let content = value.strip_prefix('"')?.strip_suffix('"')?;
    (!content.contains('\\')).then_some(content)
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
        Self::of_json(id.get())
    }

    /// Returns the key that the JSON `raw`, from a payload, holds.
    pub fn of_json(raw: &str) -> Self {
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
            id: payload.id.map(Key::of_json),
            // The payload was valid JSON, and so is a part of it.
            data: payload
                .data
                .and_then(|data| RawValue::from_string(data.to_string()).ok()),
            schema: payload.schema.clone().map(Cow::into_owned),
            xid: payload.xid,
            at: payload.at.clone().map(Cow::into_owned),
            truncated: payload.truncated,
            old_id: payload.old_id.map(Key::of_json),
            new_id: payload.new_id.map(Key::of_json),
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
        let old = parsed.old_id.map(Key::of_json);
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
        fn a_payload_is_scanned_as_serde_reads_it(
            members in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "table", "action", "id", "data", "schema", "rel", "xid", "at", "recheck",
                        "nulls", "generic", "old_id", "why", "other",
                    ]),
                    prop::sample::select(vec![
                        "null", "true", "7", "\"7\"", "\"insert\"", "\"a\\nb\"", "[\"x\"]", "[]",
                        "{\"a\": 1}", "1.50", "\"\"",
                    ]),
                ),
                0..8,
            ),
            is_whole in any::<bool>(),
        ) {
            let mut text: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("\"{name}\" : {value}"))
                .collect();
            if is_whole {
                text.splice(0..0, ["\"table\" : \"t\"".to_string(), "\"action\":\"update\"".to_string()]);
            }
            let text = format!("{{{}}}", text.join(", "));
            let by_serde = Fields::parse(&text);
            if let Some(scanned) = Fields::scan(&text) {
                let by_serde = by_serde.expect("serde reads what is scanned");
                prop_assert_eq!(format!("{scanned:?}"), format!("{by_serde:?}"));
            }
        }

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
