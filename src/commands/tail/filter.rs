//! [`Filter`]: which changes to show.

use crate::render::change::{members, plain};
use postgres_index_cache_core::{Action, Key, Payload};

/// What a change must be. An empty list asks for nothing; of several tables, actions or keys one
/// must fit; all conditions must hold.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) tables: Vec<String>,
    pub(super) actions: Vec<Action>,
    pub(super) ids: Vec<String>,
    pub(super) conditions: Vec<(String, String)>,
}

/// `column=value`.
pub(super) fn parse_condition(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.to_string(), value.to_string())),
        _ => Err("expected COLUMN=VALUE".to_string()),
    }
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.actions.is_empty()
            && self.ids.is_empty()
            && self.conditions.is_empty()
    }

    pub(super) fn accepts(&self, payload: &Payload<'_>) -> bool {
        (self.tables.is_empty() || self.tables.iter().any(|table| is_table(table, payload)))
            && (self.actions.is_empty() || self.actions.contains(&payload.action))
            && (self.ids.is_empty() || self.has_key(payload))
            && (self.conditions.is_empty() || self.has_values(payload))
    }

    fn has_key(&self, payload: &Payload<'_>) -> bool {
        // A key change is of interest to whoever watches either key.
        let keys = [payload.id, payload.old_id, payload.new_id]
            .into_iter()
            .flatten()
            .map(|id| Key::from_json(id).to_string());
        keys.into_iter().any(|key| self.ids.contains(&key))
    }

    fn has_values(&self, payload: &Payload<'_>) -> bool {
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

/// A name as it is written, or as SQL reads it: `app."Odd Name"`, `Users`.
fn is_table(wanted: &str, payload: &Payload<'_>) -> bool {
    is_exactly(wanted, payload) || is_exactly(&as_sql_reads(wanted), payload)
}

/// Without quotes around names, and in lower case outside of them.
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

    #[test]
    fn a_filter_asks_for_all_that_it_names() {
        let text = r#"{"table":"users","schema":"app","action":"update","id":["a",7],"old_id":["a",6],"data":{"n":7,"s":"x","z":null}}"#;
        let payload = Payload::parse(text).unwrap();
        let accepts = |tables: &[&str], ids: &[&str], conditions: &[&str]| {
            let filter = Filter {
                tables: tables.iter().map(ToString::to_string).collect(),
                actions: vec![Action::Update],
                ids: ids.iter().map(ToString::to_string).collect(),
                conditions: conditions
                    .iter()
                    .map(|condition| parse_condition(condition).unwrap())
                    .collect(),
            };
            filter.accepts(&payload)
        };
        assert!(accepts(&["users"], &["a,7"], &["n=7", "s=x", "z=null"]));
        assert!(accepts(&["other", "app.users"], &["a,6"], &[]));
        assert!(accepts(&["USERS"], &[], &[]) && accepts(&["App.\"users\""], &[], &[]));
        assert!(!accepts(&["\"Users\""], &[], &[]));
        assert!(!accepts(&["public.users"], &[], &[]));
        assert!(!accepts(&[], &["7"], &[]));
        assert!(!accepts(&[], &[], &["n=7", "s=y"]));
        assert!(!accepts(&[], &[], &["absent=1"]));
        assert!(parse_condition("=1").is_err() && parse_condition("x").is_err());
    }
}
