//! A notification as a line: for people, or as one JSON object.

use super::escape::{escape, excerpt};
use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use postgres_index_cache_core::{Action, Key, Payload, one_line_json};
use serde_json::value::RawValue;
use std::fmt::Write as _;

/// How many characters of a value a line for people shows.
const LONGEST_VALUE: usize = 60;

/// What a `tail` prints.
#[derive(Debug)]
pub enum Event<'a> {
    /// The listener hears.
    Connected {
        /// When.
        at: Timestamp,
        /// The channels.
        channels: &'a [String],
    },
    /// A notification that parses.
    Change {
        /// How it came.
        arrival: Arrival<'a>,
        /// What it says.
        payload: &'a Payload<'a>,
    },
    /// A notification that does not.
    Invalid {
        /// How it came.
        arrival: Arrival<'a>,
        /// What is wrong with it.
        error: String,
    },
    /// Nothing was heard in between.
    Gap {
        /// When the connection was lost.
        from: Timestamp,
        /// When the listener heard again.
        to: Timestamp,
    },
    /// The listener hears again.
    Resumed {
        /// When.
        at: Timestamp,
    },
    /// Notifications came faster than the output took them.
    Dropped {
        /// How many are missing here.
        count: u64,
    },
}

/// How a notification came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// When it was received.
    pub at: Timestamp,
    /// On which channel.
    pub channel: &'a str,
    /// From which backend.
    pub pid: i32,
    /// What was sent.
    pub payload: &'a str,
}

/// How lines for people look.
#[derive(Debug, Clone)]
pub struct ChangeStyle {
    /// Whether to use colour.
    pub color: bool,
    /// The zone of the times.
    pub zone: TimeZone,
    /// Whether to name the channel: there are several.
    pub with_channel: bool,
}

/// Appends the line for people.
pub fn write_text(event: &Event<'_>, look: &ChangeStyle, line: &mut String) {
    let paint = |style: Style, text: &str| {
        if look.color {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    };
    let dim = Style::new().dimmed();
    let alarm = AnsiColor::Red.on_default().bold();
    // Writing into a String cannot fail.
    let _ = match event {
        Event::Connected { at, channels } => {
            let names: Vec<_> = channels.iter().map(|channel| escape(channel)).collect();
            writeln!(
                line,
                "{}",
                paint(
                    dim,
                    &format!("{}  listening on {}", clock(*at, look), names.join(", "))
                )
            )
        }
        Event::Change { arrival, payload } => {
            let _ = write!(line, "{}  ", paint(dim, &clock(arrival.at, look)));
            if look.with_channel {
                let _ = write!(line, "{}  ", escape(arrival.channel));
            }
            let action = format!("{:<8}", payload.action.as_str());
            let _ = write!(
                line,
                "{} {}",
                paint(style_of(payload.action), &action),
                table_of(payload)
            );
            write_row(payload, line);
            match age_ms(arrival, payload) {
                Some(age) => writeln!(line, "  {}", paint(dim, &format!("({age:.1} ms)"))),
                None => writeln!(line),
            }
        }
        Event::Invalid { arrival, error } => writeln!(
            line,
            "{}  {} {}  ({})",
            paint(dim, &clock(arrival.at, look)),
            paint(alarm, "invalid "),
            excerpt(arrival.payload, 200),
            escape(error)
        ),
        Event::Gap { from, to } => {
            let seconds = to.duration_since(*from).as_secs_f64();
            let text = format!(
                "--- gap: nothing was heard from {} to {} ({seconds:.1} s); what changed in \
                between is not shown ---",
                clock(*from, look),
                clock(*to, look)
            );
            writeln!(line, "{}", paint(alarm, &text))
        }
        Event::Resumed { at } => writeln!(
            line,
            "{}",
            paint(dim, &format!("{}  listening again", clock(*at, look)))
        ),
        Event::Dropped { count } => {
            writeln!(
                line,
                "{}",
                paint(
                    alarm,
                    &format!("--- {count} notifications dropped: the output is too slow ---")
                )
            )
        }
    };
}

fn clock(at: Timestamp, look: &ChangeStyle) -> String {
    at.to_zoned(look.zone.clone())
        .strftime("%H:%M:%S%.3f")
        .to_string()
}

fn style_of(action: Action) -> Style {
    match action {
        Action::Insert => AnsiColor::Green.on_default(),
        Action::Update => AnsiColor::Yellow.on_default(),
        Action::Delete => AnsiColor::Red.on_default(),
        Action::Truncate | Action::Reload => AnsiColor::Magenta.on_default().bold(),
    }
}

fn table_of(payload: &Payload<'_>) -> String {
    match &payload.schema {
        Some(schema) => format!("{}.{}", escape(schema), escape(&payload.table)),
        None => escape(&payload.table).into_owned(),
    }
}

fn write_row(payload: &Payload<'_>, line: &mut String) {
    let key = |id: &RawValue| excerpt(&Key::from_json(id).to_string(), LONGEST_VALUE).into_owned();
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

/// The members of an object, in its order; what is no object has none.
pub fn members(data: &RawValue) -> Vec<(String, &RawValue)> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    serde::Deserializer::deserialize_map(
        &mut serde_json::Deserializer::from_str(data.get()),
        Members,
    )
    .unwrap_or_default()
}

/// A value without the quotes of a string.
pub fn plain(value: &RawValue) -> String {
    serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_string())
}

/// A value for people: NULL is no text `null`, and one with a space or a sign in it, which could be
/// taken for more, has quotes.
fn shown(value: &RawValue) -> String {
    if value.get() == "null" {
        return "NULL".to_string();
    }
    let text = plain(value);
    let is_text = value.get().starts_with('"');
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

/// Milliseconds from the trigger to here; the two clocks may differ.
fn age_ms(arrival: &Arrival<'_>, payload: &Payload<'_>) -> Option<f64> {
    let at: Timestamp = payload.at.as_ref()?.parse().ok()?;
    Some(arrival.at.duration_since(at).as_secs_f64() * 1000.0)
}

/// Appends the JSON line.
pub fn write_json(event: &Event<'_>, line: &mut String) {
    let start = line.len();
    // Writing into a String cannot fail.
    let _ = match event {
        Event::Connected { at, channels } => {
            write!(
                line,
                r#"{{"event":"connected","at":"{at}","channels":{}}}"#,
                serde_json::json!(channels)
            )
        }
        Event::Change { arrival, payload } => {
            write_arrival("change", arrival, line);
            write_payload(arrival, payload, line);
            write!(line, "}}")
        }
        Event::Invalid { arrival, error } => {
            write_arrival("invalid", arrival, line);
            write!(
                line,
                r#","payload":{},"error":{}}}"#,
                string(arrival.payload),
                string(error)
            )
        }
        Event::Gap { from, to } => write!(line, r#"{{"event":"gap","from":"{from}","to":"{to}"}}"#),
        Event::Resumed { at } => write!(line, r#"{{"event":"resumed","at":"{at}"}}"#),
        Event::Dropped { count } => write!(line, r#"{{"event":"dropped","count":{count}}}"#),
    };
    if let std::borrow::Cow::Owned(clean) = one_line_json(&line[start..]) {
        line.truncate(start);
        line.push_str(&clean);
    }
    line.push('\n');
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write_arrival(event: &str, arrival: &Arrival<'_>, line: &mut String) {
    let _ = write!(
        line,
        r#"{{"event":"{event}","channel":{},"pid":{},"received_at":"{}","bytes":{}"#,
        string(arrival.channel),
        arrival.pid,
        arrival.at,
        arrival.payload.len()
    );
}

fn write_payload(arrival: &Arrival<'_>, payload: &Payload<'_>, line: &mut String) {
    let _ = write!(line, r#","table":{}"#, string(&payload.table));
    if let Some(schema) = &payload.schema {
        let _ = write!(line, r#","schema":{}"#, string(schema));
    }
    let _ = write!(
        line,
        r#","action":"{}","id":{}"#,
        payload.action,
        payload.id.map_or("null", RawValue::get)
    );
    for (name, value) in [
        ("data", payload.data),
        ("old_id", payload.old_id),
        ("new_id", payload.new_id),
    ] {
        if let Some(value) = value {
            let _ = write!(line, r#","{name}":{value}"#);
        }
    }
    for (name, flag) in [
        ("truncated", payload.truncated),
        ("recheck", payload.recheck),
    ] {
        if flag {
            let _ = write!(line, r#","{name}":true"#);
        }
    }
    if let Some(why) = &payload.why {
        let _ = write!(line, r#","why":{}"#, string(why));
    }
    if let Some(xid) = payload.xid {
        let _ = write!(line, r#","xid":"{xid}""#);
    }
    if let Some(at) = &payload.at {
        let _ = write!(line, r#","at":{}"#, string(at));
    }
    if let Some(age) = age_ms(arrival, payload) {
        let _ = write!(line, r#","age_ms":{age:.3}"#);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-11-23T10:00:00.5Z";

    fn both(payload: &str) -> (String, String) {
        let arrival = Arrival {
            at: AT.parse().unwrap(),
            channel: "c\u{1b}",
            pid: 7,
            payload,
        };
        let parsed = Payload::parse(payload);
        let event = match &parsed {
            Ok(payload) => Event::Change { arrival, payload },
            Err(error) => Event::Invalid {
                arrival,
                error: error.to_string(),
            },
        };
        let mut text = String::new();
        let mut json = String::new();
        write_text(
            &event,
            &ChangeStyle {
                color: false,
                zone: TimeZone::UTC,
                with_channel: false,
            },
            &mut text,
        );
        write_json(&event, &mut json);
        (text, json)
    }

    #[test]
    fn a_change_is_a_line() {
        let (text, json) = both(
            r#"{"table":"users","action":"update","id":7,"schema":"app","xid":"742","at":"2026-11-23T10:00:00.498+00:00","old_id":6,"data":{"id":7,"name":"Ann"}}"#,
        );
        assert_eq!(
            text,
            "10:00:00.500  update   app.users  6 -> 7  id=7 name=Ann  (2.0 ms)\n"
        );
        assert_eq!(
            json,
            "{\"event\":\"change\",\"channel\":\"c\\u001b\",\"pid\":7,\"received_at\":\"2026-11-23T10:00:00.5Z\",\"bytes\":146,\"table\":\"users\",\
             \"schema\":\"app\",\"action\":\"update\",\"id\":7,\"data\":{\"id\":7,\"name\":\"Ann\"},\"old_id\":6,\"xid\":\"742\",\
             \"at\":\"2026-11-23T10:00:00.498+00:00\",\"age_ms\":2.000}\n"
        );
    }

    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        let (text, json) = both(
            "{\"table\":\"u\\u001b[31m\",\"action\":\"insert\",\"id\":\"\u{202e}x\",\"data\":{\"a\":\"\\u0007\u{9b}\",\"j\":{\"k\":\n1}}}",
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
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["data"]["a"], "\u{7}\u{9b}");
        let (text, json) = both("\u{1b}]0;owned\u{7}");
        assert!(
            text.starts_with("10:00:00.500  invalid  \\u{1b}]0;owned\\u{7}"),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&value["event"], &value["payload"]),
            (&"invalid".into(), &"\u{1b}]0;owned\u{7}".into())
        );
    }
}
