//! The statements on a table with statement triggers, which send the rows of a statement packed.
//!
//! A statement is modelled as a MERGE: it inserts, updates, moves and deletes some rows, and its
//! triggers fire when all is done, in any order: that of PostgreSQL's MERGE is another one than
//! that of INSERT … ON CONFLICT. Statements nest: a function or an AFTER row trigger may write to
//! the same rows in the middle. All that an inner statement did is announced before anything of the
//! outer one, whichever came first.

use super::writes::Statement;
use super::{Fault, KEYS, TABLES};

/// How deep statements are nested.
const DEEPEST: u8 = 2;

/// A row of a packed payload: the key, and the value unless the row is deleted.
type PackedRow = (u8, Option<u32>);

/// The rows that a statement has changed, as its transition tables have them.
#[derive(Debug, Default)]
struct Transition {
    inserted: Vec<PackedRow>,
    /// The keys of updated rows before the update.
    before: Vec<u8>,
    updated: Vec<PackedRow>,
    deleted: Vec<PackedRow>,
}

impl Statement<'_> {
    /// Runs one random statement on a table whose triggers pack.
    pub(super) fn run_packed(&mut self) {
        let is_free = (0..KEYS).all(|key| !self.is_locked(key));
        if is_free && self.random.u8(0..20) == 0 {
            return self.truncate();
        }
        self.merge(0);
    }

    /// Inserts, updates, moves and deletes some of the rows that no other transaction has locked.
    fn merge(&mut self, depth: u8) {
        let mut chosen: Vec<u8> = (0..KEYS).filter(|key| !self.is_locked(*key)).collect();
        chosen.retain(|_| self.random.bool());
        let nests_behind = self.random.usize(0..=chosen.len());
        let nests = depth < DEEPEST && self.random.u8(0..3) == 0;
        let mut transition = Transition::default();
        // A statement changes a row once, and does not see what a nested statement has changed.
        let mut changed = [false; KEYS as usize];
        for (at, &key) in chosen.iter().enumerate() {
            if nests && at == nests_behind {
                self.nest(depth, &mut changed);
            }
            if !changed[usize::from(key)] {
                self.change_row(key, &mut transition, &mut changed);
            }
        }
        if nests && nests_behind == chosen.len() {
            self.nest(depth, &mut changed);
        }
        self.announce(transition);
    }

    /// Runs a nested statement, and notes the keys that the outer one leaves alone from now on.
    fn nest(&mut self, depth: u8, changed: &mut [bool; KEYS as usize]) {
        let before: Vec<_> = (0..KEYS).map(|key| self.value(key)).collect();
        self.merge(depth + 1);
        for key in 0..KEYS {
            changed[usize::from(key)] |= self.value(key) != before[usize::from(key)];
        }
    }

    /// Inserts the row of `key`, or updates, moves or deletes the row that is there.
    fn change_row(
        &mut self,
        key: u8,
        transition: &mut Transition,
        changed: &mut [bool; KEYS as usize],
    ) {
        changed[usize::from(key)] = true;
        if !self.is_there(key) {
            let value = self.fresh();
            self.set(key, Some(value));
            return transition.inserted.push((key, Some(value)));
        }
        if self.random.u8(0..4) == 0 {
            self.set(key, None);
            return transition.deleted.push((key, None));
        }
        let value = self.fresh();
        let other = self.random.u8(0..KEYS);
        let can_move = !self.is_there(other) && !self.is_locked(other);
        transition.before.push(key);
        if can_move && self.random.bool() {
            changed[usize::from(other)] = true;
            self.set(key, None);
            self.set(other, Some(value));
            transition.updated.push((other, Some(value)));
        } else {
            self.set(key, Some(value));
            transition.updated.push((key, Some(value)));
        }
    }

    /// Sends what the triggers of a statement make of its transition tables.
    fn announce(&mut self, transition: Transition) {
        let Transition {
            inserted,
            before,
            updated,
            deleted,
        } = transition;
        let removed: Vec<PackedRow> = before
            .into_iter()
            .filter(|key| updated.iter().all(|(new, _)| new != key))
            .map(|key| (key, None))
            .collect();
        let mut triggers = [
            vec![("insert", inserted)],
            vec![("delete", removed), ("update", updated)],
            vec![("delete", deleted)],
        ];
        self.random.shuffle(&mut triggers);
        for (action, rows) in triggers.into_iter().flatten() {
            let mut rest = rows.as_slice();
            // A payload takes as many rows as there is room for.
            while !rest.is_empty() {
                let (first, others) = rest.split_at(self.random.usize(1..=rest.len()));
                self.send_packed(action, first);
                rest = others;
            }
        }
    }

    /// Adds a packed payload to the transaction's, unless the trigger is disabled.
    fn send_packed(&mut self, action: &str, rows: &[PackedRow]) {
        let definitions = &self.server.definitions;
        if definitions.is_silent[self.table] {
            return;
        }
        let name = TABLES[definitions.made_for[self.table]].name;
        let is_rekeyed = definitions.is_rekeyed[self.table];
        let rows: Vec<String> = rows
            .iter()
            .map(|(key, value)| {
                let id = if is_rekeyed { (key + 3) % KEYS } else { *key };
                let data = value.map(|value| self.data(value)).unwrap_or_default();
                format!(r#"{{"id":{id}{data}}}"#)
            })
            .collect();
        let fault = self.server.fault;
        let transaction = &mut self.server.open[self.at];
        let xid = match fault {
            Some(Fault::SubtransactionXid) => transaction.subxid,
            _ => transaction.xid,
        };
        let unique = match fault {
            Some(Fault::Folded) => String::new(),
            _ => format!(r#","v":"{}""#, transaction.work.payloads.len()),
        };
        let recheck = match fault {
            Some(Fault::NoRecheck) => "",
            _ => r#","recheck":true"#,
        };
        let relation = TABLES[self.table].oid;
        transaction.work.payloads.push(format!(
            concat!(
                r#"{{"rows":[{}],"table":"{}","action":"{}","schema":"s","rel":{},"#,
                r#""xid":"{}"{}{}}}"#
            ),
            rows.join(","),
            name,
            action,
            relation,
            xid,
            unique,
            recheck
        ));
    }
}
