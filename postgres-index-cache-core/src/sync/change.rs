//! [`Change`]: a notification of a followed table that waits or is to be applied.
//!
//! A change owns its payload, and refers to the key and the row by their places in the payload. So
//! waiting costs one copy of the payload.

use crate::notification::{Action, Payload};
use crate::table_cache::JsonNulls;
use std::hash::BuildHasher;
use std::ops::Range;

/// The effect of a change on a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Store the row of [`Change::data`] under [`Change::id`].
    Upsert,
    /// Remove the row of [`Change::old_id`] and store that of [`Change::data`], so that no reader
    /// sees one without the other.
    ReplaceKey,
    /// Remove the row of [`Change::id`].
    Remove,
    /// Change the whole table: a TRUNCATE or a reload. The engine never hands such a change out.
    Whole,
}

/// One announced change of a followed table. The parts are pieces of the payload, which the parser
/// has found to be valid JSON.
#[derive(Debug, Clone)]
pub struct Change {
    payload: String,
    pub(super) action: Action,
    operation: Operation,
    /// Place of the key in the payload; empty for a change of the whole table.
    id: Range<usize>,
    data: Option<Range<usize>>,
    old_id: Option<Range<usize>>,
    new_id: Option<Range<usize>>,
    pub(crate) xid: Option<u64>,
    pub(super) recheck: bool,
    /// Whether the row is to be read anew, whatever the payload has: nothing has changed.
    pub(super) reread: bool,
    rel: Option<u32>,
    /// The json columns that are SQL NULL; `None` if the payload does not say.
    nulls: Option<Vec<String>>,
    /// Why the sender asks for the table to be reloaded.
    why: Option<String>,
    /// The server's process whose session sent the notification.
    pub(crate) sender: i32,
}

/// How many characters of a sender's reason for a reload are kept. Any role can send a longer one.
const LONGEST_WHY: usize = 200;

/// Returns the place of `part` in `text`, from which it was borrowed.
fn range_within(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

impl Change {
    /// Returns the change that `payload`, which was parsed from `text`, announces.
    pub(crate) fn new(text: &str, payload: &Payload<'_>, sender: i32) -> Self {
        Self {
            payload: text.to_string(),
            action: payload.action,
            operation: match payload.action {
                Action::Insert | Action::Update => Operation::Upsert,
                Action::Delete => Operation::Remove,
                Action::Truncate | Action::Reload => Operation::Whole,
            },
            id: payload.id.map_or(0..0, |id| range_within(text, id)),
            data: payload.data.map(|data| range_within(text, data)),
            old_id: payload.old_id.map(|id| range_within(text, id)),
            new_id: payload.new_id.map(|id| range_within(text, id)),
            xid: payload.xid,
            recheck: payload.recheck,
            reread: payload.reread,
            rel: payload.rel,
            // The plain form and the generic function cannot tell SQL NULL from a JSON null. An
            // empty list would claim that no column is SQL NULL.
            nulls: (payload.xid.is_some() && !payload.generic).then(|| payload.nulls.clone()),
            why: payload
                .why
                .as_ref()
                .map(|why| why.chars().take(LONGEST_WHY).collect()),
            sender,
        }
    }

    /// Returns the effect of the change.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Returns the key as JSON; empty for a change of the whole table.
    pub fn id(&self) -> &str {
        &self.payload[self.id.clone()]
    }

    /// Returns the row as JSON. `Some` for each [`Operation::Upsert`] and [`Operation::ReplaceKey`]
    /// that the engine hands out.
    pub fn data(&self) -> Option<&str> {
        self.data.clone().map(|range| &self.payload[range])
    }

    /// Returns the key that [`Change::id`] replaces, as JSON; `None` unless the key has changed.
    pub fn old_id(&self) -> Option<&str> {
        self.old_id.clone().map(|range| &self.payload[range])
    }

    /// Returns the meaning of a JSON null in a `json` or `jsonb` column of [`Change::data`].
    pub fn json_nulls(&self) -> JsonNulls<'_> {
        self.nulls
            .as_ref()
            .map_or(JsonNulls::Unknown, |nulls| JsonNulls::Listed(nulls))
    }

    /// Returns the reason for a reload, in the words of the sender.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Returns how many bytes the change takes.
    pub(super) fn bytes(&self) -> usize {
        let nulls = self
            .nulls
            .iter()
            .flatten()
            .map(|name| name.capacity() + size_of::<String>())
            .sum::<usize>();
        self.payload.len() + size_of::<Self>() + nulls
    }

    /// Returns whether the trigger of the relation with this oid sent the change. True if the
    /// payload does not say who did.
    pub(super) fn is_from(&self, oid: u32) -> bool {
        self.rel.is_none_or(|rel| rel == oid)
    }

    /// Returns whether this is the first of the two notifications of a key change: the delete of
    /// the old key, which names the new one. The plain form has no such halves.
    pub(super) fn is_first_half(&self) -> bool {
        self.action == Action::Delete && self.new_id.is_some() && self.xid.is_some()
    }

    /// Returns whether `second` is the other half of this first half of a key change.
    pub(super) fn is_completed_by(&self, second: &Self) -> bool {
        let new_id = self.new_id.clone().map(|range| &self.payload[range]);
        self.xid == second.xid
            && second.action == Action::Update
            && second.old_id() == Some(self.id())
            && new_id == Some(second.id())
    }

    /// Returns the keys that the change is about: two for a key change, none for a change of the
    /// whole table.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        // The second half alone names the old key too, but does not remove it.
        let is_key_change = self.operation == Operation::ReplaceKey;
        let old = is_key_change.then(|| self.old_id()).flatten();
        let own = self.action.is_about_a_row().then(|| self.id());
        old.into_iter().chain(own)
    }

    /// Returns the part of a key change that removes the old key.
    pub(super) fn remove_old(mut self) -> Self {
        self.operation = Operation::Remove;
        self.id = self.old_id.take().unwrap_or_default();
        self.data = None;
        self
    }

    /// Returns the part of a key change that stores the new row.
    pub(super) fn store_new(mut self) -> Self {
        self.operation = Operation::Upsert;
        self
    }

    /// Returns the second half of a key change, made into the whole key change.
    pub(crate) fn replace_key(mut self) -> Self {
        self.operation = Operation::ReplaceKey;
        self
    }

    /// Spells the keys as `spell` does, which returns `None` for a key that is spelled so already.
    pub(super) fn respell(&mut self, spell: impl Fn(&str) -> Option<String>) {
        for field in [0, 1, 2] {
            let range = match field {
                0 => Some(self.id.clone()).filter(|_| self.action.is_about_a_row()),
                1 => self.old_id.clone(),
                _ => self.new_id.clone(),
            };
            let Some(spelled) = range.and_then(|range| spell(&self.payload[range])) else {
                continue;
            };
            // Behind the payload, which nobody reads as a whole any more.
            let start = self.payload.len();
            self.payload.push_str(&spelled);
            let range = start..self.payload.len();
            match field {
                0 => self.id = range,
                1 => self.old_id = Some(range),
                _ => self.new_id = Some(range),
            }
        }
    }

    /// Returns a hash of the key. Keys are compared by their JSON text: one trigger writes one key
    /// in one way.
    pub(super) fn key_hash(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(payload: &str) -> Change {
        let parsed = Payload::parse(payload).expect("a payload");
        Change::new(payload, &parsed, 1)
    }

    fn keys(change: &Change) -> Vec<&str> {
        change.keys().collect()
    }

    #[test]
    fn the_parts_of_a_change_are_pieces_of_its_payload() {
        let change = change(
            r#"{"table":"users","action":"insert","id":[1,"é"],"data":{"n":null},"xid":"7"}"#,
        );
        assert_eq!(change.id(), r#"[1,"é"]"#);
        assert_eq!(change.data(), Some(r#"{"n":null}"#));
        assert_eq!(change.operation(), Operation::Upsert);
        assert!(matches!(change.json_nulls(), JsonNulls::Listed([])));
    }

    #[test]
    fn the_plain_form_does_not_say_which_nulls_are_sql_nulls() {
        let change = change(r#"{"table":"users","action":"insert","id":1,"data":{"n":null}}"#);
        assert!(matches!(change.json_nulls(), JsonNulls::Unknown));
    }

    #[test]
    fn a_key_change_is_about_both_keys_and_can_be_taken_apart() {
        let first = change(
            r#"{"table":"users","action":"delete","id":1,"new_id":2,"xid":"7","schema":"app"}"#,
        );
        let second = change(concat!(
            r#"{"table":"users","action":"update","id":2,"old_id":1,"data":{"id":2},"#,
            r#""xid":"7","schema":"app"}"#
        ));
        let other = change(concat!(
            r#"{"table":"users","action":"update","id":2,"old_id":1,"data":{"id":2},"#,
            r#""xid":"8","schema":"app"}"#
        ));
        assert!(first.is_first_half() && first.is_completed_by(&second));
        assert!(!first.is_completed_by(&other), "of another transaction");
        assert_eq!(keys(&second), ["2"]);
        let whole = second.replace_key();
        assert_eq!(keys(&whole), ["1", "2"]);
        let new = whole.clone().store_new();
        assert_eq!((new.operation(), new.id()), (Operation::Upsert, "2"));
        let old = whole.remove_old();
        assert_eq!((old.operation(), old.id()), (Operation::Remove, "1"));
        assert_eq!(old.data(), None);
    }

    // Any role can send a reason, as long as a payload may be.
    #[test]
    fn a_long_reason_is_cut() {
        let why = "é".repeat(1000);
        let change = change(&format!(
            r#"{{"table":"users","action":"reload","id":null,"xid":"7","why":"{why}"}}"#
        ));
        let kept = change.why().map(|why| why.chars().count());
        assert_eq!(kept, Some(LONGEST_WHY));
        assert!(keys(&change).is_empty());
    }
}
