//! [`Change`]: a notification that waits or is to be applied, owning its payload.

use crate::notification::{Action, Payload};
use crate::table_cache::JsonNulls;
use std::hash::BuildHasher;
use std::ops::Range;

/// What a change does to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Store the row of [`Change::data`] under [`Change::id`].
    Upsert,
    /// Remove the row of [`Change::old_id`] and store that of [`Change::data`], so that no reader
    /// sees one without the other.
    ReplaceKey,
    /// Remove the row of [`Change::id`].
    Remove,
    /// About the whole table; never handed out.
    Whole,
}

/// One announced change of a followed table. Its parts are pieces of the payload, which a parser
/// has seen to be valid.
#[derive(Debug, Clone)]
pub struct Change {
    payload: String,
    pub(super) action: Action,
    operation: Operation,
    id: Range<usize>,
    data: Option<Range<usize>>,
    old_id: Option<Range<usize>>,
    new_id: Option<Range<usize>>,
    pub(super) xid: Option<u64>,
    pub(super) recheck: bool,
    rel: Option<u32>,
    /// The json columns that are SQL NULL; `None` where nobody said.
    nulls: Option<Vec<String>>,
    /// Why it asks for the table to be read again.
    why: Option<String>,
    /// The server's process whose session sent it.
    pub(crate) sender: i32,
}

/// How many characters are kept of why a table is to be read again: any role can send them.
const LONGEST_WHY: usize = 200;

impl Change {
    pub(crate) fn new(text: &str, payload: &Payload<'_>, sender: i32) -> Self {
        // A part is borrowed from the text, so the difference of the addresses is where it stands
        // in it.
        let range = |part: &str| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            start..start + part.len()
        };
        Self {
            payload: text.to_string(),
            action: payload.action,
            operation: match payload.action {
                Action::Insert | Action::Update => Operation::Upsert,
                Action::Delete => Operation::Remove,
                Action::Truncate | Action::Reload => Operation::Whole,
            },
            id: payload.id.map_or(0..0, |id| range(id.get())),
            data: payload.data.map(|data| range(data.get())),
            old_id: payload.old_id.map(|id| range(id.get())),
            new_id: payload.new_id.map(|id| range(id.get())),
            xid: payload.xid,
            recheck: payload.recheck,
            rel: payload.rel,
            nulls: (payload.xid.is_some() && !payload.generic).then(|| payload.nulls.clone()),
            why: payload
                .why
                .as_ref()
                .map(|why| why.chars().take(LONGEST_WHY).collect()),
            sender,
        }
    }

    /// What it does.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The key as JSON; empty for what is about the whole table.
    pub fn id(&self) -> &str {
        &self.payload[self.id.clone()]
    }

    /// The row as JSON. An [`Operation::Upsert`] or [`Operation::ReplaceKey`] that is handed out
    /// has one.
    pub fn data(&self) -> Option<&str> {
        self.data.clone().map(|range| &self.payload[range])
    }

    /// The key that this one replaces, as JSON.
    pub fn old_id(&self) -> Option<&str> {
        self.old_id.clone().map(|range| &self.payload[range])
    }

    /// What a JSON null in a `json` column stands for.
    pub fn json_nulls(&self) -> JsonNulls<'_> {
        self.nulls
            .as_ref()
            .map_or(JsonNulls::Unknown, |nulls| JsonNulls::Listed(nulls))
    }

    /// Why it asks for the table to be read again, in the words of who sent it.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    pub(super) fn bytes(&self) -> usize {
        let nulls = self
            .nulls
            .iter()
            .flatten()
            .map(|name| name.capacity() + size_of::<String>())
            .sum::<usize>();
        self.payload.len() + size_of::<Self>() + nulls
    }

    /// Whether the relation of this oid sent it, or nobody said who did.
    pub(super) fn is_from(&self, oid: u32) -> bool {
        self.rel.is_none_or(|rel| rel == oid)
    }

    /// A key change comes as two notifications: whether this is the first.
    pub(super) fn is_first_half(&self) -> bool {
        self.action == Action::Delete && self.new_id.is_some() && self.xid.is_some()
    }

    /// Whether `second` is the other half of this one.
    pub(super) fn is_completed_by(&self, second: &Self) -> bool {
        let new_id = self.new_id.clone().map(|range| &self.payload[range]);
        self.xid == second.xid
            && second.action == Action::Update
            && second.old_id() == Some(self.id())
            && new_id == Some(second.id())
    }

    /// The keys that it is about; none for what is about the whole table.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let old = (self.operation == Operation::ReplaceKey)
            .then(|| self.old_id())
            .flatten();
        let own = self.action.is_about_a_row().then(|| self.id());
        old.into_iter().chain(own)
    }

    /// A key change of which the end of the old key alone is left to be done.
    pub(super) fn remove_old(mut self) -> Self {
        self.operation = Operation::Remove;
        self.id = self.old_id.take().unwrap_or_default();
        self.data = None;
        self
    }

    /// A key change of which the new row alone is left to be done.
    pub(super) fn store_new(mut self) -> Self {
        self.operation = Operation::Upsert;
        self
    }

    /// Makes the second half of a key change carry the first.
    pub(crate) fn replace_key(mut self) -> Self {
        self.operation = Operation::ReplaceKey;
        self
    }

    /// Keys are told apart by their JSON text: one trigger writes one key in one way.
    pub(super) fn key_hash(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one(self.id())
    }
}
