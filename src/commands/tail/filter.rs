//! [`Filter`]: the changes that `tail` shows, by table, action, key and values.

use crate::render::change::{members, plain};
use postgres_index_cache_core::tooling::Payload;
use postgres_index_cache_core::{Action, Key};

/// The properties that a change must have. An empty list asks for nothing. Of several tables,
/// actions or keys one must fit; all conditions must hold.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) tables: Vec<String>,
    pub(super) actions: Vec<Action>,
    /// Keys as [`Key`] displays them.
    pub(super) ids: Vec<String>,
    /// Pairs of column and value, the value as the payload has it.
    pub(super) conditions: Vec<(String, String)>,
}

/// Parses `column=value`, for clap. The value may be empty, and hold `=`.
pub(super) fn parse_condition(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.to_string(), value.to_string())),
        _ => Err("expected COLUMN=VALUE".to_string()),
    }
}

impl Filter {
    /// Returns whether every change passes.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.actions.is_empty()
            && self.ids.is_empty()
            && self.conditions.is_empty()
    }

    /// Returns whether the change that `payload` tells of is to be shown.
    pub(super) fn accepts(&self, payload: &Payload<'_>) -> bool {
        (self.tables.is_empty() || self.tables.iter().any(|table| is_table(table, payload)))
            && (self.actions.is_empty() || self.actions.contains(&payload.action))
            && (self.ids.is_empty() || self.has_key(payload))
            && (self.conditions.is_empty() || self.has_values(payload))
    }

    fn has_key(&self, payload: &Payload<'_>) -> bool {
        // A change of the key concerns whoever watches the old key or the new one.
        [payload.id, payload.old_id, payload.new_id]
            .into_iter()
            .flatten()
            .map(|id| Key::from_json(id).to_string())
            .any(|key| self.ids.contains(&key))
    }

    fn has_values(&self, payload: &Payload<'_>) -> bool {
        // Without data (a delete, a row that is too long) the values are not known.
        let Some(data) = payload.data else {
            return false;
        };
        let members = members(data);
        self.conditions.iter().all(|(column, wanted)| {
            members
                .iter()
                .any(|(name, value)| name == column && plain(value) == *wanted)
        })
    }
}

/// Returns whether `wanted` names the payload's table: letter by letter, or as SQL reads it. So
/// `Odd Name` and `app."Odd Name"` name a table, and `Users` names both `Users` and `users`.
fn is_table(wanted: &str, payload: &Payload<'_>) -> bool {
    is_exactly(wanted, payload) || is_exactly(&as_sql_reads(wanted), payload)
}

/// Returns a name without the quotes around its parts, and in lower case outside of them.
fn as_sql_reads(name: &str) -> String {
    let mut read = String::new();
    let mut is_quoted = false;
    let mut characters = name.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if is_quoted && characters.next_if_eq(&'"').is_some() => read.push('"'),
            '"' => is_quoted = !is_quoted,
            c if is_quoted => read.push(c),
            c => read.extend(c.to_lowercase()),
        }
    }
    read
}

/// Returns whether `wanted` is the table's name, or the name with its schema, letter by letter.
fn is_exactly(wanted: &str, payload: &Payload<'_>) -> bool {
    let qualified = payload
        .schema
        .as_ref()
        .map(|schema| format!("{schema}.{}", payload.table));
    payload.table == wanted || qualified.as_deref() == Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a filter for updates.
    fn filter(tables: &[&str], ids: &[&str], conditions: &[&str]) -> Filter {
        Filter {
            tables: tables.iter().map(ToString::to_string).collect(),
            actions: vec![Action::Update],
            ids: ids.iter().map(ToString::to_string).collect(),
            conditions: conditions
                .iter()
                .map(|condition| parse_condition(condition).unwrap())
                .collect(),
        }
    }

    #[test]
    fn a_filter_asks_for_all_that_it_names() {
        let text = concat!(
            r#"{"table":"users","schema":"app","action":"update","id":["a",7],"old_id":["a",6],"#,
            r#""data":{"n":7,"s":"x","z":null}}"#
        );
        let payload = Payload::parse(text).unwrap();
        let accepted: [(&[&str], &[&str], &[&str]); 4] = [
            (&["users"], &["a,7"], &["n=7", "s=x", "z=null"]),
            // The old key of a row that changed its key.
            (&["other", "app.users"], &["a,6"], &[]),
            // Names as SQL reads them.
            (&["USERS"], &[], &[]),
            (&["App.\"users\""], &[], &[]),
        ];
        for (tables, ids, conditions) in accepted {
            let filter = filter(tables, ids, conditions);
            assert!(filter.accepts(&payload), "{filter:?}");
        }
        let refused: [(&[&str], &[&str], &[&str]); 5] = [
            (&["\"Users\""], &[], &[]),
            (&["public.users"], &[], &[]),
            // A part of a composite key is no key.
            (&[], &["7"], &[]),
            (&[], &[], &["n=7", "s=y"]),
            (&[], &[], &["absent=1"]),
        ];
        for (tables, ids, conditions) in refused {
            let filter = filter(tables, ids, conditions);
            assert!(!filter.accepts(&payload), "{filter:?}");
        }
        assert!(parse_condition("=1").is_err() && parse_condition("x").is_err());
    }
}
