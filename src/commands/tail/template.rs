//! [`Template`]: a line that a person lays out, such as `{at} {table} {row.status}`.

use crate::render::change::{Arrival, age_ms, members, plain};
use crate::render::escape::escape;
use crate::tables::catalog::CatalogTable;
use anyhow::{anyhow, ensure};
use postgres_index_cache_core::Key;
use postgres_index_cache_core::tooling::Payload;

/// The names that may stand in braces, beside `row.COLUMN`.
const NAMES: [&str; 14] = [
    "at", "schema", "table", "key", "channel", "pid", "bytes", "action", "row", "old_key",
    "new_key", "xid", "sent_at", "age_ms",
];

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A member of the event.
    Member(String),
    /// A column of the row.
    Column(String),
}

/// A line with places for members of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Reads a template. `{{` and `}}` stand for braces, `\n` and `\t` for a line break and a tab.
    ///
    /// # Errors
    /// If a brace is not closed, or a name is not known.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}', '\\']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            let replaced = [
                ("{{", "{"),
                ("}}", "}"),
                ("\\n", "\n"),
                ("\\t", "\t"),
                ("\\", "\\"),
            ]
            .into_iter()
            .find(|(written, _)| rest.starts_with(written));
            if let Some((written, meant)) = replaced {
                plain.push_str(meant);
                rest = &rest[written.len()..];
                continue;
            }
            ensure!(
                !rest.starts_with('}'),
                "a brace is closed that was not opened"
            );
            let end = rest
                .find('}')
                .ok_or_else(|| anyhow!("a brace is not closed: {rest}"))?;
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(place(&rest[1..end])?);
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        pieces.push(Piece::Text(plain));
        Ok(Self(pieces))
    }

    /// Returns the line of a change, without its end. A member that the change does not have is
    /// empty. Line breaks and what else a terminal obeys are escaped in members, so that none
    /// passes for a line of its own; those of the template are a person's own.
    pub(super) fn line(&self, arrival: &Arrival<'_>, payload: &Payload<'_>) -> String {
        let mut line = String::new();
        for piece in &self.0 {
            let value = match piece {
                Piece::Text(text) => {
                    line.push_str(text);
                    continue;
                }
                Piece::Member(name) => member(name, arrival, payload),
                Piece::Column(name) => column(name, payload),
            };
            line.push_str(&escape(&value));
        }
        line
    }

    /// Returns the first column of the template that no table has; `None` if no table is known.
    pub(super) fn unknown_column(&self, tables: &[CatalogTable]) -> Option<&str> {
        let columns = self.0.iter().filter_map(|piece| match piece {
            Piece::Column(name) => Some(name.as_str()),
            Piece::Text(_) | Piece::Member(_) => None,
        });
        let has = |name: &str| {
            let mut columns = tables.iter().flat_map(|table| &table.columns);
            columns.any(|column| column.name == name)
        };
        columns
            .into_iter()
            .find(|name| !tables.is_empty() && !has(name))
    }
}

/// Returns the value of a column as text; empty if the payload does not have it.
fn column(name: &str, payload: &Payload<'_>) -> String {
    let data = payload.data.map(members).unwrap_or_default();
    let found = data.iter().find(|(column, _)| column == name);
    match found {
        Some((_, value)) if *value == "null" => "NULL".to_string(),
        Some((_, value)) => plain(value),
        None => String::new(),
    }
}

/// Reads what stands in braces.
fn place(name: &str) -> anyhow::Result<Piece> {
    if let Some(column) = name.strip_prefix("row.") {
        return Ok(Piece::Column(column.to_string()));
    }
    ensure!(
        NAMES.contains(&name),
        "{{{name}}} is not known; there are {}, row.COLUMN",
        NAMES.join(", ")
    );
    Ok(Piece::Member(name.to_string()))
}

/// Returns a member of a change as text; empty if it has none.
fn member(name: &str, arrival: &Arrival<'_>, payload: &Payload<'_>) -> String {
    let key = |json| Key::of_json(json).to_string();
    let text = match name {
        "at" => Some(arrival.at.to_string()),
        "schema" => payload.schema.as_ref().map(ToString::to_string),
        "table" => Some(payload.table.to_string()),
        "key" => payload.id.map(key),
        "channel" => Some(arrival.channel.to_string()),
        "pid" => Some(arrival.pid.to_string()),
        "bytes" => Some(arrival.payload.len().to_string()),
        "action" => Some(payload.action.to_string()),
        "row" => payload.data.map(ToString::to_string),
        "old_key" => payload.old_id.map(key),
        "new_key" => payload.new_id.map(key),
        "xid" => payload.xid.map(|xid| xid.to_string()),
        "sent_at" => payload.at.as_ref().map(ToString::to_string),
        "age_ms" => age_ms(arrival, payload).map(|age| format!("{age:.3}")),
        _ => None,
    };
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(template: &str) -> String {
        let text = concat!(
            r#"{"table":"users","action":"update","id":[1,"b"],"schema":"app","#,
            r#""data":{"status":"a b","n":1.10,"none":null}}"#
        );
        let arrival = Arrival {
            at: "2026-11-23T10:00:00.5Z".parse().unwrap(),
            channel: "c",
            pid: 7,
            payload: text,
        };
        let payload = Payload::parse(text).unwrap();
        Template::parse(template).unwrap().line(&arrival, &payload)
    }

    #[test]
    fn members_and_columns_stand_in_their_places() {
        assert_eq!(
            line("{at} {schema}.{table} {action} {key}"),
            "2026-11-23T10:00:00.5Z app.users update 1,b"
        );
        assert_eq!(
            line("{row.status}|{row.n}|{row.none}|{row.nosuch}|{xid}|"),
            "a b|1.10|NULL|||"
        );
        assert_eq!(line(r"{{{pid}}}\t\n\x"), "{7}\t\n\\x");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in ["{", "}", "{nosuch}", "{at", "{}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
