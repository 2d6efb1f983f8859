//! [`EventLine`]: an event as one line of JSON. All streams of pgic's have the same envelope.
//!
//! ```text
//! {"event":…,"at":…,"schema":…,"table":…,"key":…, then the members of the event}
//! ```
//!
//! `docs/output.schema.json` describes every event; the tests hold each line that pgic prints to
//! that schema.

use crate::connect::Place;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::one_line_json;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;

/// A line that is being written: begun by [`new`](Self::new), ended by [`end`](Self::end). Members
/// stand in the order of the calls, so [`of`](Self::of) and [`key`](Self::key) come first.
#[derive(Debug)]
#[must_use]
pub struct EventLine {
    text: String,
    /// Where the line begins in `text`.
    start: usize,
}

impl EventLine {
    /// Begins the line of an event that happened, or was seen, at this time.
    pub fn new(event: &str, at: Timestamp) -> Self {
        Self::behind(String::new(), event, at)
    }

    /// Begins a line behind other text.
    pub fn behind(text: String, event: &str, at: Timestamp) -> Self {
        let start = text.len();
        let mut line = Self { text, start };
        line.text.push('{');
        // Words of ours and digits need no escapes. Writing into a String cannot fail.
        let _ = write!(line.text, "\"event\":\"{event}\",\"at\":\"{at}\"");
        line
    }

    /// Adds where a command is connected, as far as that is known.
    pub fn place(self, place: Option<&Place>) -> Self {
        self.optional("database", place.map(|place| &place.database))
            .optional("server", place.map(|place| &place.server))
            .optional("user", place.map(|place| &place.user))
            .optional("version", place.map(|place| &place.version))
    }

    /// Adds the table that the event is about.
    pub fn of(self, (schema, table): (&str, &str)) -> Self {
        self.member("schema", schema).member("table", table)
    }

    /// Adds the key of the row that the event is about: a scalar of JSON, or an array of several.
    pub fn key(self, key: &str) -> Self {
        self.raw("key", key)
    }

    /// Adds a member.
    pub fn member(self, name: &str, value: impl Serialize) -> Self {
        // Numbers, texts and lists: serde cannot fail on them.
        let value = serde_json::to_string(&value).unwrap_or_else(|_| "null".to_string());
        self.raw(name, &value)
    }

    /// Adds a member, unless there is no value.
    pub fn optional(self, name: &str, value: Option<impl Serialize>) -> Self {
        match value {
            Some(value) => self.member(name, value),
            None => self,
        }
    }

    /// Adds a member that is text.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        let is_plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
        if !value.as_bytes().iter().all(is_plain) {
            return self.member(name, value);
        }
        self.begin(name);
        self.text.push('"');
        self.text.push_str(value);
        self.text.push('"');
        self
    }

    /// Adds a member that is text, unless there is none.
    pub fn optional_text(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a member that is a whole number.
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.begin(name);
        // Writing into a String cannot fail.
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds a member whose value is JSON already, so that no digit of a number is lost.
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        self.begin(name);
        self.text.push_str(json);
        self
    }

    /// Adds a member whose value `write` appends as JSON.
    pub fn written(mut self, name: &str, write: impl FnOnce(&mut String)) -> Self {
        self.begin(name);
        write(&mut self.text);
        self
    }

    /// Appends a comma and the name of a member.
    fn begin(&mut self, name: &str) {
        self.text.push_str(",\"");
        self.text.push_str(name);
        self.text.push_str("\":");
    }

    /// Returns the text with the line, which ends with a newline. Characters that a terminal obeys
    /// are escaped.
    pub fn end(mut self) -> String {
        self.text.push('}');
        // JSON that was copied may have line breaks between its members. Nearly none has, and then
        // the line stays as it was written.
        if let Cow::Owned(clean) = one_line_json(&self.text[self.start..]) {
            self.text.truncate(self.start);
            self.text.push_str(&clean);
        }
        self.text.push('\n');
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_nothing_is_obeyed() {
        let at: Timestamp = "2026-11-23T10:00:00.5Z".parse().unwrap();
        let line = EventLine::behind("before\n".to_string(), "row", at)
            .of(("app", "users\u{1b}"))
            .key("[1,\n2]")
            .member("b", "\u{9b}\n")
            .optional("none", None::<i32>)
            .optional("a", Some(1));
        assert_eq!(
            line.end(),
            concat!(
                "before\n",
                r#"{"event":"row","at":"2026-11-23T10:00:00.5Z","schema":"app","#,
                r#""table":"users\u001b","key":[1, 2],"b":"\u009b\n","a":1}"#,
                "\n"
            )
        );
    }
}
