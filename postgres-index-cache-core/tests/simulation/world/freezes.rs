//! Somebody who asks for digests: a freeze, then a snapshot, then the question with that snapshot.
//! And the node's answer: its rows while the cache is frozen, without those that are open.
//!
//! The questions go through the queue, as every notification does. The simulation compares the rows
//! themselves, where a node would send digests.

use crate::server::{Seen, TABLES};
use crate::world::World;
use crate::world::cache::parse_key;
use crate::world::tasks::Task;
use postgres_index_cache_core::tooling::sync::{Input, State, TableId};

pub const CONTROL: &str = "control";

/// A question for digests, as of a snapshot that the server keeps for whoever asked.
#[derive(Debug, Clone)]
pub struct Question {
    pub table: usize,
    pub freeze: u64,
}

impl Question {
    fn parse(payload: &str) -> (&str, Self) {
        let words: Vec<&str> = payload.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let question = Self {
            table: number(1) as usize,
            freeze: number(2),
        };
        (words[0], question)
    }
}

impl World {
    /// Sends the first question about a random table. Now and then one that is made up.
    pub(super) fn ask_to_freeze(&mut self) -> Result<(), String> {
        let table = self.random.usize(0..TABLES.len());
        // A table that is not live gives no answer. Most questions should have one.
        let is_live = self.engine.table_state(TableId(table)) == State::Live;
        if !is_live && self.random.u8(0..10) != 0 {
            return Ok(());
        }
        self.server.freezes += 1;
        let freeze = self.server.freezes;
        if self.random.u8(0..8) == 0 {
            // Questions without the first one, or with a snapshot that never was.
            self.statistics.forged += 1;
            let made_up = format!("{}:{}:", freeze, 100 + self.random.u64(0..400));
            self.server.made_up.insert(freeze, made_up);
            if self.random.bool() {
                self.send_control("freeze", table, freeze);
            }
            self.send_control("digest", table, freeze);
            return Ok(());
        }
        self.send_control("freeze", table, freeze);
        self.tasks.push(Task::Ask(Question { table, freeze }));
        // The table may have been lost by the time that the question arrives. Mostly it is not.
        if self.random.u8(0..4) != 0 {
            while !self.has_heard_all() {
                self.deliver()?;
            }
        }
        Ok(())
    }

    fn send_control(&mut self, word: &str, table: usize, freeze: u64) {
        self.server
            .notify(CONTROL, &format!("{word} {table} {freeze}"));
    }

    /// Takes the snapshot of a question, or sends the question if the snapshot is taken.
    pub(super) fn advance_ask(&mut self, question: &Question) -> Result<(), String> {
        if self.random.u8(0..10) == 0 {
            // Whoever asked is gone.
            return Ok(());
        }
        let Question { table, freeze } = *question;
        if !self.server.cuts.contains_key(&freeze) {
            // Commits may come between the snapshot and the question.
            let seen = self.server.see();
            self.server.cuts.insert(freeze, seen);
            self.tasks.push(Task::Ask(question.clone()));
            return Ok(());
        }
        self.send_control("digest", table, freeze);
        if self.random.u8(0..4) != 0 {
            while !self.has_heard_all() {
                self.deliver()?;
            }
        }
        Ok(())
    }

    /// Returns whether a change does not reach this node. Notes its row, whose difference is no
    /// error of the engine.
    pub(super) fn is_withheld(&mut self, payload: &str) -> bool {
        if self.withheld.is_none() || self.is_quiet || self.random.u8(0..20) != 0 {
            return false;
        }
        let Ok(change) = serde_json::from_str::<serde_json::Value>(payload) else {
            return false;
        };
        let table = TABLES
            .iter()
            .position(|table| change["table"] == table.name);
        let (Some(table), Some(_)) = (table, change["id"].as_u64()) else {
            return false;
        };
        // The name may be that of another relation by now, and a key change has two keys.
        for field in ["id", "old_id", "new_id"] {
            if let (Some(key), Some(withheld)) = (change[field].as_u64(), &mut self.withheld) {
                withheld.insert((table, key as u8));
            }
        }
        self.statistics.withheld += 1;
        true
    }

    /// Hands a question in that L has received.
    pub(super) fn take_question(&mut self, payload: &str) -> Result<(), String> {
        let (word, Question { table, freeze }) = Question::parse(payload);
        let table = TableId(table);
        if word == "freeze" {
            return self.handle(Input::FreezeWanted { table, freeze });
        }
        let made_up = self.server.made_up.get(&freeze);
        let snapshot = made_up.or(self.server.cuts.get(&freeze).map(|seen| &seen.snapshot));
        let snapshot = snapshot.ok_or("a question without a snapshot")?;
        let snapshot = snapshot.parse().map_err(|error| format!("{error}"))?;
        self.handle(Input::FreezeCut {
            table,
            freeze,
            snapshot,
        })
    }

    /// Computes the digests of a frozen cache, which takes a while.
    pub(super) fn advance_digest(
        &mut self,
        question: Question,
        open: Vec<String>,
    ) -> Result<(), String> {
        let Question { table, freeze } = question;
        let is_waiting = !self.caches[table].pending.is_empty();
        if is_waiting || (!self.is_quiet && self.random.u8(0..3) != 0) {
            self.tasks.push(Task::Digest { question, open });
            return Ok(());
        }
        // The freeze may have ended meanwhile, and the rows are no answer then.
        if self.engine.is_frozen(TableId(table), freeze)
            && let Some(seen) = self.server.cuts.get(&freeze).cloned()
        {
            self.check_frozen(table, &seen, &open)?;
        }
        self.handle(Input::FreezeOver {
            table: TableId(table),
            freeze,
        })
    }

    /// Checks that a frozen cache is the table as of the snapshot, but for open rows and for rows
    /// whose changes were withheld from this node.
    fn check_frozen(&mut self, table: usize, seen: &Seen, open: &[String]) -> Result<(), String> {
        let known = self.followed[table];
        let files = seen.definitions.files[known.relation];
        if !self.is_as_known(TableId(table), &seen.definitions) || files != known.files {
            // Whoever asks names the relation and the columns, and the node would not answer.
            return Ok(());
        }
        let open: Vec<u8> = open.iter().map(|key| parse_key(key)).collect();
        let cached = &self.caches[table].rows;
        let stored = &seen.tables[known.relation];
        let keys = cached.keys().chain(stored.keys());
        let differing: Vec<u8> = keys
            .filter(|key| !open.contains(key) && cached.get(key) != stored.get(key))
            .copied()
            .collect();
        self.statistics.frozen += 1;
        self.statistics.open_rows += open.len() as u64;
        if differing.is_empty() {
            return Ok(());
        }
        if let Some(withheld) = &self.withheld
            && differing
                .iter()
                .all(|key| withheld.contains(&(table, *key)))
        {
            self.statistics.withheld_found += 1;
            return Ok(());
        }
        Err(format!(
            "the keys {differing:?} of table {table} differ at a cut: {cached:?} and {stored:?}"
        ))
    }
}
