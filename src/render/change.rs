//! [`Event`]: the events that `tail` prints, notifications above all, as lines of text or of JSON.

use super::escape::{escape, excerpt};
use super::json::EventLine;
use super::look::{Look, Tone};
use crate::connect::Place;
use jiff::Timestamp;
use postgres_index_cache_core::Key;
use postgres_index_cache_core::tooling::{Payload, json_members};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;

/// The largest number of characters of a value in a line of text.
const LONGEST_VALUE: usize = 60;

/// An event that `tail` prints.
#[derive(Debug)]
pub enum Event<'a> {
    /// The listener began to receive notifications.
    Connected {
        /// The time of the event.
        at: Timestamp,
        /// The channels that are listened to.
        channels: &'a [String],
        /// Where; `None` if that is not known.
        place: Option<&'a Place>,
    },
    /// The connection was lost. A [`Gap`](Self::Gap) follows when there is one again.
    Disconnected {
        /// The time of the event.
        at: Timestamp,
        /// The reason.
        why: &'a str,
    },
    /// A notification whose payload was understood.
    Change {
        /// The received notification.
        arrival: Arrival<'a>,
        /// The parsed payload.
        payload: &'a Payload<'a>,
        /// What the server says of the notification.
        beside: Beside<'a>,
    },
    /// A notification of another program, whose payload does not claim to be a change.
    Payload {
        /// The received notification.
        arrival: Arrival<'a>,
    },
    /// A notification whose payload claims to be a change, and was not understood.
    Invalid {
        /// The received notification.
        arrival: Arrival<'a>,
        /// The reason why the payload was not understood.
        error: String,
    },
    /// A time in which no notification was received.
    Gap {
        /// The time when the connection was lost.
        from: Timestamp,
        /// The time when the listener received notifications again.
        to: Timestamp,
    },
    /// The listener receives notifications again.
    Resumed {
        /// The time of the event.
        at: Timestamp,
    },
    /// Notifications came faster than the output took them.
    Dropped {
        /// The time of the event.
        at: Timestamp,
        /// The number of notifications that are missing here.
        count: u64,
    },
}

/// What the server says of a notification.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The session that sent the notification; `None` if that is gone, or was not asked for.
    pub sender: Option<&'a Sender>,
    /// The reason why a cache would not take the payload as it stands: a word, and a sentence.
    pub distrust: Option<(&'static str, &'static str)>,
}

/// A session that sent notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sender {
    /// The role.
    pub user: String,
    /// The name of the application, which may be empty.
    pub application: String,
    /// The address of the client; `local` for a socket of the server's machine.
    pub address: String,
}

/// A received notification.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The time when the notification was received.
    pub at: Timestamp,
    /// The channel.
    pub channel: &'a str,
    /// The server process of the session that sent the notification.
    pub pid: i32,
    /// The payload's text.
    pub payload: &'a str,
}

/// The look of lines of text.
#[derive(Debug, Clone)]
pub struct ChangeStyle {
    /// Colours and times.
    pub look: Look,
    /// Whether to name the channel, since there are several.
    pub with_channel: bool,
    /// The last time that was written, with its text. What came in one read of the socket has one
    /// time.
    last_clock: RefCell<Option<(Timestamp, String)>>,
}

impl ChangeStyle {
    /// Makes a look.
    pub fn new(look: Look, with_channel: bool) -> Self {
        Self {
            look,
            with_channel,
            last_clock: RefCell::default(),
        }
    }

    /// Returns text that matters less than the rest.
    fn dim(&self, text: &str) -> String {
        self.look.paint(Tone::Dim, text)
    }

    /// Returns text that must be seen.
    fn alarm(&self, text: &str) -> String {
        self.look.paint(Tone::Alarm, text)
    }

    /// Returns the time of an event.
    fn clock(&self, at: Timestamp) -> String {
        let mut last = self.last_clock.borrow_mut();
        match &*last {
            Some((time, text)) if *time == at => text.clone(),
            _ => last.insert((at, self.look.clock(at))).1.clone(),
        }
    }
}

/// Returns whether a payload that is not understood claims to be a change: an object that names a
/// table and an action, or begins like one. The payloads of other programs do not.
pub fn claims_change(payload: &str) -> bool {
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(payload) {
        Ok(members) => members.contains_key("table") && members.contains_key("action"),
        Err(_) => payload.trim_start().starts_with("{\"table\""),
    }
}

/// Returns the reason why the JSON of a payload would break a reader of our output; `None` if it
/// would not. Whoever may connect can notify anything.
pub fn unsound(payload: &Payload<'_>) -> Option<&'static str> {
    if payload.data.is_some_and(|data| !data.starts_with('{')) {
        return Some("\"data\" is no object");
    }
    let parts = [payload.data, payload.id, payload.old_id, payload.new_id];
    parts.into_iter().flatten().find_map(unsound_json)
}

/// Returns the reason why a text of JSON, which serde has accepted, is more than other readers
/// take.
fn unsound_json(json: &str) -> Option<&'static str> {
    /// The deepest nesting. jq and Python end at some thousands, others sooner.
    const DEEPEST: usize = 100;
    let bytes = json.as_bytes();
    // Without an escape a string has whole characters, and few brackets do not nest deeply.
    let brackets = bytes
        .iter()
        .filter(|byte| matches!(byte, b'{' | b'['))
        .count();
    if brackets <= DEEPEST && !bytes.contains(&b'\\') {
        return None;
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    // Whether the escape before was the first half of a character.
    let mut is_half = false;
    let mut at = 0;
    while at < bytes.len() {
        let was_half = std::mem::take(&mut is_half);
        match bytes[at] {
            b'\\' if in_string => {
                let escape = json
                    .get(at + 2..at + 6)
                    .filter(|_| bytes.get(at + 1) == Some(&b'u'));
                let unit = escape.and_then(|digits| u16::from_str_radix(digits, 16).ok());
                match unit {
                    Some(0xd800..=0xdbff) if !was_half => is_half = true,
                    Some(0xdc00..=0xdfff) if was_half => {}
                    Some(0xd800..=0xdfff) => return Some("a string has half a character"),
                    _ if was_half => return Some("a string has half a character"),
                    _ => {}
                }
                at += if unit.is_some() { 6 } else { 2 };
                continue;
            }
            _ if was_half => return Some("a string has half a character"),
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEEPEST {
                    return Some("it is nested too deeply");
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Appends the line of text for an event.
pub fn write_text(event: &Event<'_>, look: &ChangeStyle, line: &mut String) {
    match event {
        Event::Disconnected { at, why } => {
            let text = format!("{}  disconnected: {}", look.clock(*at), escape(why));
            line.push_str(&look.alarm(&text));
        }
        Event::Connected { at, channels, .. } => {
            let names: Vec<_> = channels.iter().map(|channel| escape(channel)).collect();
            let text = format!("{}  listening on {}", look.clock(*at), names.join(", "));
            line.push_str(&look.dim(&text));
        }
        Event::Change {
            arrival,
            payload,
            beside,
        } => {
            write_change(arrival, payload, look, line);
            write_beside(beside, look, line);
        }
        Event::Payload { arrival } => {
            write_start(arrival, look, line);
            line.push_str("payload  ");
            line.push_str(&escape(arrival.payload));
        }
        Event::Invalid { arrival, error } => {
            write_start(arrival, look, line);
            let invalid = look.alarm("invalid ");
            let payload = excerpt(arrival.payload, 200);
            let error = escape(error);
            line.push_str(&format!("{invalid} {payload}  ({error})"));
        }
        Event::Gap { from, to } => {
            let seconds = to.duration_since(*from).as_secs_f64();
            let text = format!(
                "--- gap: nothing was heard from {} to {} ({seconds:.1} s); what changed in \
                between is not shown ---",
                look.clock(*from),
                look.clock(*to)
            );
            line.push_str(&look.alarm(&text));
        }
        Event::Resumed { at } => {
            let text = format!("{}  listening again", look.clock(*at));
            line.push_str(&look.dim(&text));
        }
        Event::Dropped { count, .. } => {
            let text = format!("--- {count} notifications dropped: the output is too slow ---");
            line.push_str(&look.alarm(&text));
        }
    }
    line.push('\n');
}

/// Appends a change: time, channel, action, table, row, and how long ago the trigger wrote the
/// payload. That was before the commit, so it is no lag of the delivery.
fn write_change(
    arrival: &Arrival<'_>,
    payload: &Payload<'_>,
    look: &ChangeStyle,
    line: &mut String,
) {
    write_start(arrival, look, line);
    // Pad before painting: the codes of a colour would count as characters.
    let action = format!("{:<8}", payload.action.as_str());
    line.push_str(&look.look.paint(Tone::of(payload.action), &action));
    line.push(' ');
    line.push_str(&table_of(payload));
    write_row(payload, line);
    if let Some(age) = age_ms(arrival, payload) {
        line.push_str("  ");
        line.push_str(&look.dim(&format!("(written {} ago)", duration_text(age))));
    }
}

/// Appends what the server says of a notification.
fn write_beside(beside: &Beside<'_>, look: &ChangeStyle, line: &mut String) {
    if let Some(Sender {
        user,
        application,
        address,
    }) = beside.sender
    {
        let who = match application.as_str() {
            "" => format!("by {user} from {address}"),
            application => format!("by {user}, {application}, from {address}"),
        };
        line.push_str(&look.dim(&format!("  ({})", escape(&who))));
    }
    if let Some((_, words)) = beside.distrust {
        line.push_str(&look.look.paint(Tone::Changed, &format!("  ({words})")));
    }
}

/// Appends the time of a notification, and its channel if there are several.
fn write_start(arrival: &Arrival<'_>, look: &ChangeStyle, line: &mut String) {
    line.push_str(&look.dim(&look.clock(arrival.at)));
    line.push_str("  ");
    if look.with_channel {
        line.push_str(&escape(arrival.channel));
        line.push_str("  ");
    }
}

/// Returns the table's name, with the schema if the payload names one, escaped.
fn table_of(payload: &Payload<'_>) -> String {
    match &payload.schema {
        Some(schema) => format!("{}.{}", escape(schema), escape(&payload.table)),
        None => escape(&payload.table).into_owned(),
    }
}

/// Returns a key for people, escaped and cut to [`LONGEST_VALUE`].
fn key(id: &str) -> String {
    excerpt(&Key::of_json(id).to_string(), LONGEST_VALUE).into_owned()
}

/// Appends the key, the notes and the columns of a payload, as far as there are any.
fn write_row(payload: &Payload<'_>, line: &mut String) {
    // A change of the key is two notifications. The delete of the old key names the new one, the
    // update with the new key names the old one.
    if let Some(id) = payload.id {
        line.push_str("  ");
        if let Some(old) = payload.old_id {
            line.push_str(&key(old));
            line.push_str(" -> ");
        }
        line.push_str(&key(id));
        if let Some(new) = payload.new_id {
            line.push_str(" -> ");
            line.push_str(&key(new));
        }
    }
    if let Some(why) = &payload.why {
        line.push_str("  ");
        line.push_str(&escape(why));
    }
    if payload.truncated {
        line.push_str("  (the row is too long to be sent)");
    }
    let Some(data) = payload.data else { return };
    for (at, (name, value)) in members(data).into_iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = write!(
            line,
            "{}{}={}",
            if at == 0 { "  " } else { " " },
            escape(&name),
            shown(value)
        );
    }
}

/// Returns the members of a JSON object, name and value, in the object's order. Empty if `data` is
/// no object.
pub fn members(data: &str) -> Vec<(Cow<'_, str>, &str)> {
    // A visitor, since serde_json's own map sorts the members and keeps one of each name.
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de str)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                members.push((Cow::Owned(name), value.get()));
            }
            Ok(members)
        }
    }
    if let Some(members) = json_members(data) {
        return members
            .into_iter()
            .map(|(name, value)| (Cow::Borrowed(name), value))
            .collect();
    }
    // Not the usual JSON.
    serde::Deserializer::deserialize_map(&mut serde_json::Deserializer::from_str(data), Members)
        .unwrap_or_default()
}

/// Returns the text of a JSON string; the JSON itself of any other value.
pub fn plain(value: &str) -> String {
    match value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
    {
        Some(text) if !text.contains('\\') => text.to_string(),
        Some(_) => serde_json::from_str(value).unwrap_or_else(|_| value.to_string()),
        None => value.to_string(),
    }
}

/// Returns a value for people, escaped and cut to [`LONGEST_VALUE`].
///
/// JSON null is written `NULL`. A text has quotes if it could be taken for something else: if it is
/// empty, `NULL`, or has a space, a `=` or a quote in it.
fn shown(value: &str) -> String {
    if value == "null" {
        return "NULL".to_string();
    }
    let text = plain(value);
    let is_text = value.starts_with('"');
    let is_plain = !text.is_empty()
        && text != "NULL"
        && !text.contains(|c: char| c.is_whitespace() || "=\"".contains(c));
    let shown = excerpt(&text, LONGEST_VALUE);
    if is_plain || !is_text {
        shown.into_owned()
    } else {
        format!("\"{}\"", shown.replace('"', "\\\""))
    }
}

/// Returns the milliseconds from the trigger to the arrival; `None` if the payload has no time. The
/// server's clock and ours may differ, so the number can be negative.
pub fn age_ms(arrival: &Arrival<'_>, payload: &Payload<'_>) -> Option<f64> {
    let at: Timestamp = payload.at.as_ref()?.parse().ok()?;
    Some(arrival.at.duration_since(at).as_secs_f64() * 1000.0)
}

/// Returns a time as a person reads it.
fn duration_text(milliseconds: f64) -> String {
    if milliseconds.abs() < 1000.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.1} s", milliseconds / 1000.0)
    }
}

/// Appends the line of JSON for an event.
pub fn write_json(event: &Event<'_>, line: &mut String) {
    let text = std::mem::take(line);
    let begin = |word: &str, at: Timestamp| EventLine::behind(text, word, at);
    let written = match event {
        Event::Connected {
            at,
            channels,
            place,
        } => begin("connected", *at)
            .place(*place)
            .member("channels", channels),
        Event::Disconnected { at, why } => begin("disconnected", *at).member("why", why),
        Event::Change {
            arrival,
            payload,
            beside,
        } => {
            let line = with_row(begin("change", arrival.at), payload);
            with_change(with_arrival(line, arrival), arrival, payload)
                .optional("sender", beside.sender)
                .optional("distrust", beside.distrust.map(|(code, _)| code))
        }
        Event::Payload { arrival } => {
            with_arrival(begin("payload", arrival.at), arrival).member("payload", arrival.payload)
        }
        Event::Invalid { arrival, error } => with_arrival(begin("invalid", arrival.at), arrival)
            .member("payload", arrival.payload)
            .member("error", error),
        Event::Gap { from, to } => begin("gap", *to)
            .member("from", from.to_string())
            .member("to", to.to_string()),
        Event::Resumed { at } => begin("resumed", *at),
        Event::Dropped { at, count } => begin("dropped", *at).member("count", count),
    };
    *line = written.end();
}

/// Adds the table and the key of a payload. Keys are copied as they were sent.
fn with_row(mut line: EventLine, payload: &Payload<'_>) -> EventLine {
    line = line
        .optional_text("schema", payload.schema.as_deref())
        .text("table", &payload.table);
    match payload.id {
        Some(id) => line.key(id),
        None => line,
    }
}

/// Adds the members of a notification.
fn with_arrival(line: EventLine, arrival: &Arrival<'_>) -> EventLine {
    line.text("channel", arrival.channel)
        // The id of a process is above zero.
        .number("pid", u64::from(arrival.pid.unsigned_abs()))
        .number("bytes", arrival.payload.len() as u64)
}

/// Adds the members of a payload. Data and keys are copied as they were sent, so that no digit of a
/// number is lost.
fn with_change(mut line: EventLine, arrival: &Arrival<'_>, payload: &Payload<'_>) -> EventLine {
    line = line.text("action", payload.action.as_str());
    for (name, value) in [
        ("row", payload.data),
        ("old_key", payload.old_id),
        ("new_key", payload.new_id),
    ] {
        if let Some(value) = value {
            line = line.raw(name, value);
        }
    }
    for (name, flag) in [
        ("truncated", payload.truncated),
        ("recheck", payload.recheck),
        ("reread", payload.reread),
    ] {
        line = line.optional(name, flag.then_some(true));
    }
    line = line.optional_text("why", payload.why.as_deref());
    if let Some(xid) = payload.xid {
        // As text: a number past 2^53 would not survive JavaScript.
        line = line.written("xid", |text| {
            let _ = write!(text, "\"{xid}\"");
        });
    }
    line = line.optional_text("sent_at", payload.at.as_deref());
    match age_ms(arrival, payload) {
        Some(age) => line.written("age_ms", |text| {
            let _ = write!(text, "{age:.3}");
        }),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-11-23T10:00:00.5Z";

    /// Returns the lines of text and of JSON for a notification with this payload.
    fn both(payload: &str) -> (String, String) {
        let arrival = Arrival {
            at: AT.parse().unwrap(),
            channel: "c\u{1b}",
            pid: 7,
            payload,
        };
        let parsed = Payload::parse(payload);
        let event = match &parsed {
            Ok(payload) => Event::Change {
                arrival,
                payload,
                beside: Beside::default(),
            },
            Err(_) if !claims_change(arrival.payload) => Event::Payload { arrival },
            Err(error) => Event::Invalid {
                arrival,
                error: error.to_string(),
            },
        };
        let mut text = String::new();
        let mut json = String::new();
        write_text(
            &event,
            &ChangeStyle::new(
                Look::new(false, jiff::tz::TimeZone::UTC, AT.parse().unwrap()),
                false,
            ),
            &mut text,
        );
        write_json(&event, &mut json);
        (text, json)
    }

    #[test]
    fn a_change_is_a_line() {
        let (text, json) = both(concat!(
            r#"{"table":"users","action":"update","id":7,"schema":"app","xid":"742","#,
            r#""at":"2026-11-23T10:00:00.498+00:00","old_id":6,"#,
            r#""data":{"id":7,"name":"Ann"}}"#
        ));
        assert_eq!(
            text,
            "10:00:00.500  update   app.users  6 -> 7  id=7 name=Ann  (written 2.0 ms ago)\n"
        );
        assert_eq!(
            json,
            concat!(
                r#"{"event":"change","at":"2026-11-23T10:00:00.5Z","schema":"app","#,
                r#""table":"users","key":7,"channel":"c\u001b","pid":7,"bytes":146,"#,
                r#""action":"update","row":{"id":7,"name":"Ann"},"old_key":6,"xid":"742","#,
                r#""sent_at":"2026-11-23T10:00:00.498+00:00","age_ms":2.000}"#,
                "\n"
            )
        );
    }

    // Control characters as they are and as JSON escapes, a reversal of the text, a line break
    // between members, and a payload that is no JSON at all.
    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        let (text, json) = both(
            "{\"table\":\"u\\u001b[31m\",\"action\":\"insert\",\"id\":\"\u{202e}x\",\
             \"data\":{\"a\":\"\\u0007\u{9b}\",\"j\":{\"k\":\n1}}}",
        );
        assert_eq!(
            text,
            "10:00:00.500  insert   u\\u{1b}[31m  \\u{202e}x  a=\\u{7}\\u{9b} j={\"k\":\\n1}\n"
        );
        assert!(
            !json
                .trim_end()
                .chars()
                .any(|c| c.is_control() || c == '\u{202e}'),
            "{json}"
        );
        // Escaped, and still the same value.
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["row"]["a"], "\u{7}\u{9b}");
        let (text, json) = both("\u{1b}]0;owned\u{7}");
        assert_eq!(text, "10:00:00.500  payload  \\u{1b}]0;owned\\u{7}\n");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&value["event"], &value["payload"]),
            (&"payload".into(), &"\u{1b}]0;owned\u{7}".into())
        );
    }

    #[test]
    fn json_that_other_readers_do_not_take_is_found() {
        for (json, is_sound) in [
            (r#"{"a":"\ud83d\ude00","b":"\\ud800"}"#, true),
            (r#"{"a":"\ud800"}"#, false),
            (r#"{"a":"\udc00"}"#, false),
            (r#"{"a":"\ud800x"}"#, false),
            (r#"{"a":"\ud800\ud800"}"#, false),
            (r#"{"a":"é\n\u00e9[[["}"#, true),
        ] {
            assert_eq!(unsound_json(json).is_none(), is_sound, "{json}");
        }
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(unsound_json(&deep(100)).is_none() && unsound_json(&deep(101)).is_some());
    }

    #[test]
    fn payloads_of_other_programs_are_shown_as_what_they_are() {
        for payload in [
            "mine:1",
            "",
            r#"{"op":"UPDATE","table":"users"}"#,
            "[1]",
            "7",
        ] {
            let (text, json) = both(payload);
            assert_eq!(text, format!("10:00:00.500  payload  {payload}\n"));
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["event"], "payload", "{json}");
            assert_eq!(value["payload"], payload);
        }
        for payload in [
            r#"{"table":"users","action":"dance","id":1}"#,
            r#"{"table":"users","action":"ins"#,
        ] {
            let (text, _) = both(payload);
            assert!(text.starts_with("10:00:00.500  invalid  "), "{text}");
        }
    }
}
