//! The statements of writers, and the payloads that their triggers send.
//!
//! Row triggers can announce changes in another order than the changes were made. Each statement
//! in here that involves a nested trigger sends its payloads in the order in which PostgreSQL
//! fires the triggers.

use super::tables::TableDefinition;
use super::{Definitions, Fault, KEYS, Server, TABLES, Transaction};
use fastrand::Rng;

impl Server {
    /// Runs one random statement in the transaction at `at`, on one key or two. Does nothing if
    /// the statement would wait for another transaction's row lock.
    pub fn write(&mut self, random: &mut Rng, at: usize) {
        let table = random.usize(0..TABLES.len());
        Statement {
            server: self,
            random,
            at,
            table,
        }
        .run();
    }
}

/// A statement of the transaction at `at` on the table at `table`.
pub(super) struct Statement<'a> {
    pub(super) server: &'a mut Server,
    pub(super) random: &'a mut Rng,
    /// The place of the transaction among those that are open.
    pub(super) at: usize,
    pub(super) table: usize,
}

impl Statement<'_> {
    fn run(mut self) {
        if TABLES[self.table].packs {
            return self.run_packed();
        }
        let key = self.random.u8(0..KEYS);
        let other = self.random.u8(0..KEYS);
        if self.is_locked(key) || self.is_locked(other) {
            return;
        }
        let definition = TABLES[self.table];
        let is_there = self.is_there(key);
        if definition.plain {
            return self.write_plain(key, is_there);
        }
        let is_other_there = self.is_there(other);
        let can_move = key != other && !is_other_there;
        let is_same_leaf = definition.relation(key) == definition.relation(other);
        match (self.random.u8(0..100), is_there) {
            // TRUNCATE takes a lock on the whole table.
            (0..4, _) if (0..KEYS).all(|key| !self.is_locked(key)) => {
                if definition.leaves.is_empty() || self.random.bool() {
                    self.truncate();
                } else {
                    self.truncate_leaf(key);
                }
            }
            (4..5, _) => self.send("reload", None, r#","why":"x""#),
            (5..40, false) => self.insert(key),
            (40..60, false) => self.nested_insert(key),
            (60..70, false) => self.take_away(key, "insert"),
            (5..35, true) => self.update(key),
            (35..50, true) => {
                self.set(key, None);
                self.send("delete", Some(key), "");
            }
            (50..60, true) => self.delete_and_insert_again(key),
            (60..75, true) if can_move && !is_same_leaf => {
                self.move_to_other_leaf(key, other);
            }
            (60..75, true) if can_move => self.change_key(key, other),
            (75..90, true) if key != other && is_other_there && definition.deferrable => {
                self.swap(key, other);
            }
            (90..95, true) => self.take_away(key, "update"),
            _ => {}
        }
    }

    fn write_plain(&mut self, key: u8, is_there: bool) {
        if is_there && self.random.bool() {
            self.set(key, None);
            return self.send("delete", Some(key), "");
        }
        let action = if is_there { "update" } else { "insert" };
        let value = self.fresh();
        self.set(key, Some(value));
        let more = self.data(value);
        self.send(action, Some(key), &more);
    }

    fn insert(&mut self, key: u8) {
        let value = self.fresh();
        self.set(key, Some(value));
        let more = self.data(value);
        self.send("insert", Some(key), &more);
    }

    fn update(&mut self, key: u8) {
        // Real writers also write A, then B, then A again, whose payloads would be folded. Here
        // each value is new, so Fault::Folded makes payloads equal instead.
        let value = self.fresh();
        self.set(key, Some(value));
        let more = self.data(value) + self.recheck(false);
        self.send("update", Some(key), &more);
    }

    /// Inserts a row that an AFTER trigger updates. The update is announced before the insert.
    fn nested_insert(&mut self, key: u8) {
        let first = self.fresh();
        let second = self.fresh();
        self.set(key, Some(second));
        let more = self.data(second);
        self.send("update", Some(key), &more);
        let more = self.data(first) + self.recheck(true);
        self.send("insert", Some(key), &more);
    }

    /// Inserts or updates a row that an AFTER trigger deletes, or takes out of the rows that fulfil
    /// the condition of the triggers. The delete is announced before the insert or update.
    fn take_away(&mut self, key: u8, action: &str) {
        let first = self.fresh();
        self.set(key, None);
        self.send("delete", Some(key), "");
        let more = self.data(first) + self.recheck(true);
        self.send(action, Some(key), &more);
    }

    /// Deletes a row whose key an AFTER trigger inserts again. The insert is announced before the
    /// delete.
    fn delete_and_insert_again(&mut self, key: u8) {
        self.insert(key);
        self.send("delete", Some(key), "");
        if self.random.bool() {
            // Two DELETEs of several rows, one inside a trigger of the other, which inserts the
            // key in between. A DELETE announces its rows when all of them are deleted, so both
            // announcements of this key come behind the insert.
            self.send("delete", Some(key), "");
        }
    }

    /// Changes a key such that the row moves to another leaf: PostgreSQL runs a DELETE and an
    /// INSERT.
    fn move_to_other_leaf(&mut self, from: u8, to: u8) {
        let value = self.fresh();
        self.set(from, None);
        self.set(to, Some(value));
        let more = self.data(value);
        self.send("delete", Some(from), "");
        self.send("insert", Some(to), &more);
    }

    fn change_key(&mut self, from: u8, to: u8) {
        let value = self.fresh();
        self.set(from, None);
        self.set(to, Some(value));
        if self.random.u8(0..4) == 0 {
            // An AFTER UPDATE trigger inserts the old key: announced before the key change.
            let again = self.fresh();
            self.set(from, Some(again));
            let more = self.data(again);
            self.send("insert", Some(from), &more);
        }
        // An AFTER UPDATE trigger takes the row away: announced before the key change as well.
        let is_taken_away = self.random.u8(0..6) == 0;
        if is_taken_away {
            self.set(to, None);
            self.send("delete", Some(to), "");
        }
        let more = self.data(value) + self.recheck(is_taken_away);
        self.send_key_change(from, to, &more);
    }

    /// Swaps the keys of two rows in one statement, which a deferrable key allows.
    fn swap(&mut self, left: u8, right: u8) {
        let new_right = self.fresh();
        let new_left = self.fresh();
        self.set(right, Some(new_right));
        self.set(left, Some(new_left));
        let more = self.data(new_right);
        self.send_key_change(left, right, &more);
        let more = self.data(new_left);
        self.send_key_change(right, left, &more);
    }

    pub(super) fn truncate(&mut self) {
        for key in 0..KEYS {
            self.set(key, None);
        }
        if self.server.fault != Some(Fault::NoTruncate) {
            self.send("truncate", None, "");
            // TRUNCATE of the root fires the triggers of its leaves too.
            for leaf in TABLES[self.table].leaves {
                self.send_reload(*leaf);
            }
        }
    }

    /// Truncates the leaf that `key` belongs to. The other leaves keep their rows.
    fn truncate_leaf(&mut self, key: u8) {
        let definition = TABLES[self.table];
        let leaf = definition.relation(key);
        for key in (0..KEYS).filter(|key| definition.relation(*key) == leaf) {
            self.set(key, None);
        }
        if self.server.fault != Some(Fault::NoTruncate) {
            self.send_reload(leaf);
        }
    }

    /// Adds a payload to the transaction's, unless the trigger is disabled. `more` are further
    /// JSON fields, each with a comma before it.
    fn send(&mut self, action: &str, id: Option<u8>, more: &str) {
        let Definitions {
            made_for,
            is_silent,
            is_rekeyed,
            ..
        } = &self.server.definitions;
        if is_silent[self.table] {
            return;
        }
        // The names in a trigger's function are literals: a rename does not change the payload.
        let name = TABLES[made_for[self.table]].name;
        // The column that was the key holds other values.
        let id = match id {
            Some(id) if is_rekeyed[self.table] => Some((id + 3) % KEYS),
            id => id,
        };
        let transaction = &mut self.server.open[self.at];
        let xid = if self.server.fault == Some(Fault::SubtransactionXid) {
            transaction.subxid
        } else {
            transaction.xid
        };
        // No two payloads of a transaction may be equal: PostgreSQL would fold them.
        let unique = match self.server.fault {
            Some(Fault::Folded) => String::new(),
            _ => format!(r#","v":"{}""#, transaction.work.payloads.len()),
        };
        let TableDefinition { oid, plain, .. } = TABLES[self.table];
        let relation = id.map_or(oid, |id| TABLES[self.table].relation(id));
        let id = id.map_or("null".to_string(), |id| id.to_string());
        let extended = if plain {
            String::new()
        } else {
            format!(r#","schema":"s","rel":{relation},"xid":"{xid}""#)
        };
        transaction.work.payloads.push(format!(
            r#"{{"table":"{name}","action":"{action}","id":{id}{extended}{unique}{more}}}"#
        ));
    }

    /// Adds the payload of a leaf's TRUNCATE trigger, which asks for a reload of the root.
    fn send_reload(&mut self, leaf: u32) {
        if self.server.definitions.is_silent[self.table] {
            return;
        }
        let Transaction { xid, work, .. } = &mut self.server.open[self.at];
        let name = TABLES[self.table].name;
        let place = work.payloads.len();
        work.payloads.push(format!(
            concat!(
                r#"{{"table":"{}","action":"reload","id":null,"schema":"s","rel":{},"#,
                r#""xid":"{}","v":"{}","why":"truncate"}}"#
            ),
            name, leaf, xid, place
        ));
    }

    /// Announces a key change: the delete of the old key names the new one, and the update of the
    /// new key names the old one.
    fn send_key_change(&mut self, from: u8, to: u8, more: &str) {
        if self.server.fault != Some(Fault::NewKeyAlone) {
            let new_id = format!(r#","new_id":{to}"#);
            self.send("delete", Some(from), &new_id);
        }
        let more = format!(r#","old_id":{from}{more}"#);
        self.send("update", Some(to), &more);
    }

    /// Returns the `recheck` field, or nothing. The trigger of a row that was updated again in the
    /// meantime sets `recheck`: the newer state may have been announced already.
    fn recheck(&mut self, is_stale: bool) -> &'static str {
        // A row lock sets the field too, with no newer state behind it.
        let says = is_stale || self.random.u8(0..10) == 0;
        if says && self.server.fault != Some(Fault::NoRecheck) {
            r#","recheck":true"#
        } else {
            ""
        }
    }

    /// Returns the row's field of a payload. One row of six is too long to be sent.
    pub(super) fn data(&mut self, value: u32) -> String {
        if self.random.u8(0..6) == 0 {
            r#","truncated":true"#.to_string()
        } else {
            format!(r#","data":{value}"#)
        }
    }

    pub(super) fn is_locked(&self, key: u8) -> bool {
        self.server.is_locked(self.at, self.table, key)
    }

    pub(super) fn is_there(&self, key: u8) -> bool {
        self.value(key).is_some()
    }

    /// Returns the value of the row of `key`, as the transaction sees it.
    pub(super) fn value(&self, key: u8) -> Option<u32> {
        self.server.value(self.at, self.table, key)
    }

    pub(super) fn fresh(&mut self) -> u32 {
        self.server.fresh(self.at)
    }

    pub(super) fn set(&mut self, key: u8, value: Option<u32>) {
        self.server.set(self.at, self.table, key, value);
    }
}
