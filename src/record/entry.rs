//! Entries of a record: an [`Item`] of the feed as a line of JSON, and back.

use crate::connect::Place;
use crate::feed::queue::{Item, Message, Note};
use crate::render::json::EventLine;
use jiff::Timestamp;
use postgres_index_cache_core::Key;
use postgres_index_cache_core::tooling::{Payload, unpack};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Appends the line of an item. An item that is no entry appends nothing.
pub fn write(item: &Item, text: &mut String) {
    let begin = |text: &mut String, event, at| EventLine::behind(std::mem::take(text), event, at);
    *text = match item {
        Item::Notification { at, message } => {
            let mut line = begin(text, "recorded", *at);
            // For readers with jq. A payload is kept as it came, also one that is no change.
            let first = unpack(message.payload()).next().unwrap_or_default();
            if let Ok(payload) = Payload::parse(&first) {
                line = line
                    .optional("schema", payload.schema.as_deref())
                    .member("table", &payload.table);
                if let Some(id) = payload.id {
                    line = line.key(id);
                }
            }
            line.member("channel", message.channel())
                .member("pid", message.process_id())
                .member("payload", message.payload())
                .end()
        }
        Item::Connected {
            at,
            channels,
            place,
        } => begin(text, "connected", *at)
            .member("channels", channels)
            .place(place.as_ref())
            .end(),
        Item::Disconnected { at, why } => begin(text, "disconnected", *at).member("why", why).end(),
        Item::Gap { from, to } => begin(text, "gap", *to)
            .member("from", from)
            .member("to", to)
            .end(),
        Item::Resumed { at } => begin(text, "resumed", *at).end(),
        Item::Covered { at } => begin(text, "covered", *at).end(),
        Item::Dropped { at, count } => begin(text, "dropped", *at).member("count", count).end(),
        Item::Note { at, note } => match note {
            Note::Continues(previous) => begin(text, "continues", *at)
                .member("previous", previous)
                .end(),
            Note::Clock(ahead) => begin(text, "clock", *at)
                .member("server_ahead_ms", ahead)
                .end(),
        },
        Item::End => return,
    };
}

/// The members of a line.
#[derive(Deserialize)]
struct Line {
    event: String,
    at: Timestamp,
    channel: Option<String>,
    pid: Option<i32>,
    payload: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    database: Option<String>,
    server: Option<String>,
    user: Option<String>,
    version: Option<String>,
    why: Option<String>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    count: Option<u64>,
    previous: Option<String>,
    server_ahead_ms: Option<i64>,
}

/// Returns the item of a line; `None` if the line is no entry.
pub fn parse(line: &str) -> Option<Item> {
    let line: Line = serde_json::from_str(line).ok()?;
    let at = line.at;
    Some(match line.event.as_str() {
        "recorded" => Item::Notification {
            at,
            message: Message::Recorded {
                channel: line.channel?,
                pid: line.pid?,
                payload: line.payload?,
            },
        },
        "connected" => Item::Connected {
            at,
            channels: line.channels,
            place: match (line.database, line.server, line.user, line.version) {
                (Some(database), Some(server), Some(user), Some(version)) => Some(Place {
                    database,
                    server,
                    user,
                    version,
                }),
                _ => None,
            },
        },
        "disconnected" => Item::Disconnected { at, why: line.why? },
        "gap" => Item::Gap {
            from: line.from?,
            to: line.to?,
        },
        "resumed" => Item::Resumed { at },
        "covered" => Item::Covered { at },
        "dropped" => Item::Dropped {
            at,
            count: line.count?,
        },
        "continues" => Item::Note {
            at,
            note: Note::Continues(line.previous?),
        },
        "clock" => Item::Note {
            at,
            note: Note::Clock(line.server_ahead_ms?),
        },
        _ => return None,
    })
}

/// Returns the time of an item; that at which a gap ended. `None` for the end.
pub fn time(item: &Item) -> Option<Timestamp> {
    match item {
        Item::Notification { at, .. }
        | Item::Connected { at, .. }
        | Item::Disconnected { at, .. }
        | Item::Resumed { at }
        | Item::Covered { at }
        | Item::Note { at, .. }
        | Item::Dropped { at, .. } => Some(*at),
        Item::Gap { to, .. } => Some(*to),
        Item::End => None,
    }
}

/// Returns the digests of the rows that a notification tells of: of its key, and of the other key
/// if the key was changed. Empty for one that tells of no row.
pub fn rows(item: &Item) -> Vec<u32> {
    let Item::Notification { message, .. } = item else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for change in unpack(message.payload()) {
        if let Ok(payload) = Payload::parse(&change) {
            let keys = [payload.id, payload.old_id, payload.new_id];
            rows.extend(
                keys.into_iter()
                    .flatten()
                    .map(|key| row(&payload.table, key)),
            );
        }
    }
    rows
}

/// Returns the digest by which an index names the row of a table with this key. Different rows may
/// have the same, so whoever finds a frame compares the payloads.
pub fn row(table: &str, key: &str) -> u32 {
    // The plain form names no schema. White space within a composite key is of no meaning.
    let key = Key::of_json(key).to_string();
    let digest = Sha256::new()
        .chain_update(table.as_bytes())
        .chain_update([0])
        .chain_update(key.as_bytes())
        .finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_comes_back_as_it_was() {
        let at: Timestamp = "2026-11-26T03:04:05.123456789Z".parse().unwrap();
        let place = Place {
            database: "shop\u{1b}".to_string(),
            server: "db:5432".to_string(),
            user: "a\"b".to_string(),
            version: "15.18".to_string(),
        };
        let notification = |payload: &str| Item::Notification {
            at,
            message: Message::Recorded {
                channel: "c\u{202e}".to_string(),
                pid: 7,
                payload: payload.to_string(),
            },
        };
        let items = [
            notification(
                r#"{"table":"t","schema":"s","action":"update","id":[1, "ä\u0000"],"data":{"n":1.10}}"#,
            ),
            notification("{\"table\":\n \"t\",\t\"action\":\"delete\",\"id\":900719925474099312}"),
            notification(""),
            notification("no JSON \u{0} \u{1b}[2J \r\n"),
            Item::Connected {
                at,
                channels: vec!["a".to_string()],
                place: Some(place),
            },
            Item::Disconnected {
                at,
                why: "gone\n".to_string(),
            },
            Item::Gap { from: at, to: at },
            Item::Resumed { at },
            Item::Covered { at },
            Item::Note {
                at,
                note: Note::Continues("20260101T000000.000000Z".to_string()),
            },
            Item::Note {
                at,
                note: Note::Clock(-5),
            },
            Item::Dropped {
                at,
                count: u64::MAX,
            },
        ];
        for item in items {
            let mut line = String::new();
            write(&item, &mut line);
            let text = line.strip_suffix('\n').unwrap();
            assert!(!text.contains('\n'), "{text}");
            let back = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(format!("{back:?}"), format!("{item:?}"));
            // A line that was cut anywhere is none.
            for cut in (1..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                assert!(parse(&text[..cut]).is_none(), "{}", &text[..cut]);
            }
        }
    }

    #[test]
    fn a_row_is_found_by_each_of_its_keys() {
        let payload = r#"{"table":"t","action":"update","id":[1, 2],"old_id":[1,3]}"#;
        let item = Item::Notification {
            at: Timestamp::UNIX_EPOCH,
            message: Message::Recorded {
                channel: String::new(),
                pid: 0,
                payload: payload.to_string(),
            },
        };
        assert_eq!(rows(&item), [row("t", "[1,2]"), row("t", "[1,3]")]);
        assert_ne!(row("t", "1"), row("u", "1"));
    }
}
