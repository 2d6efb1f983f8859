//! The checks after each step of a run, at each fence, and at the end.

use crate::server::{KEYS, TABLES};
use crate::world::World;
use postgres_index_cache_core::tooling::sync::{State, TableId};

/// A fence that the engine calls reached while operations that came before the fence wait for the
/// cache's lock.
#[derive(Debug)]
pub struct HeldFence {
    pub table: usize,
    pub fence: u64,
}

/// The engine's claim that a table is live: its cache has everything up to `commit`.
#[derive(Debug)]
pub struct Claim {
    pub table: usize,
    pub commit: u64,
}

/// The keys that a check of a cache is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Everything,
    /// The keys that the commit itself has written.
    OfThatCommit,
}

impl World {
    /// Checks that each cache is equal to its table.
    pub fn check_equal(&self) -> Result<(), String> {
        if self.withheld.is_some() {
            return Ok(());
        }
        for (table, relation) in self.server.definitions.named.iter().enumerate() {
            let rows = &self.server.tables()[*relation];
            if self.caches[table].rows != *rows {
                return Err(format!(
                    "table {table} is {rows:?}, its cache {:?}",
                    self.caches[table]
                ));
            }
        }
        Ok(())
    }

    /// Checks the fences whose caches have nothing pending any more. The driver says that a fence
    /// is reached only once every operation in front of the fence is applied.
    pub(super) fn check_held_fences(&mut self) -> Result<(), String> {
        for held in std::mem::take(&mut self.held_fences) {
            let cache = &self.caches[held.table];
            let is_done = cache.pending.is_empty() && !cache.is_busy;
            let state = self.engine.table_state(TableId(held.table));
            if is_done && state == State::Live {
                self.check_fence(held.table, held.fence)?;
            } else {
                self.held_fences.push(held);
            }
        }
        Ok(())
    }

    fn check_fence(&mut self, table: usize, id: u64) -> Result<(), String> {
        if id <= self.reached[table] {
            return Err(format!("fence {id} is reached twice for table {table}"));
        }
        self.reached[table] = id;
        self.statistics.fences_checked += 1;
        let asked = *self
            .fences
            .get(&id)
            .ok_or("a fence is reached that nobody asked for")?;
        self.check_has(
            table,
            asked,
            Wanted::Everything,
            &format!("fence {id} is reached"),
        )
    }

    /// Checks each claim whose table is still live once all outputs are carried out.
    pub(super) fn check_claims(&self, claims: Vec<Claim>) -> Result<(), String> {
        for Claim { table, commit } in claims {
            if self.engine.table_state(TableId(table)) == State::Live {
                self.check_has(table, commit, Wanted::Everything, "it is live")?;
            }
        }
        Ok(())
    }

    /// Checks what the engine says of a transaction that was begun not long ago: that it has ended,
    /// or that a cache has everything that it has committed.
    pub(super) fn check_transaction(&mut self) -> Result<(), String> {
        let begun = &self.server.begun;
        let last = &begun[begun.len().saturating_sub(8)..];
        let Some(&transaction) = self.random.choice(last) else {
            return Ok(());
        };
        let table = self.random.usize(0..TABLES.len());
        let end = self.server.ended.get(&transaction.xid()).copied();
        let is_known_to_have_ended = self.engine.has_ended_transaction(transaction.xid());
        if is_known_to_have_ended && end.is_none() {
            return Err(format!(
                "{transaction} is in progress, and is said to have ended"
            ));
        }
        let cache = &self.caches[table];
        let is_done = cache.pending.is_empty() && !cache.is_busy;
        if !is_done || !self.engine.has_transaction(TableId(table), transaction) {
            return Ok(());
        }
        if is_known_to_have_ended {
            self.statistics.seen_ended += 1;
        } else {
            self.statistics.heard += 1;
        }
        let followed = self.followed[table].relation;
        match end {
            None => Err(format!(
                "{transaction} is in progress, and table {table} has it"
            )),
            Some(None) => Ok(()),
            // Until a look finds that another relation has the name, the cache is that of the one
            // that had the name.
            Some(Some(commit)) if self.server.named_at(commit)[table] != followed => Ok(()),
            Some(Some(commit)) => {
                let claim = format!("table {table} has {transaction}");
                self.check_has(table, commit, Wanted::OfThatCommit, &claim)
            }
        }
    }

    /// Checks that a cache has everything up to the commit `asked`: each key is as it was then, or
    /// later.
    ///
    /// A cache may hold any relation that had the table's name then or later: names may have been
    /// swapped between the commit and this check.
    fn check_has(
        &self,
        table: usize,
        asked: u64,
        wanted: Wanted,
        claim: &str,
    ) -> Result<(), String> {
        if self.withheld.is_some() {
            return Ok(());
        }
        let then = self
            .server
            .names
            .iter()
            .rposition(|(commit, _)| *commit <= asked)
            .unwrap_or_default();
        // The error of the last relation is the one to report: it has the name now.
        let mut why = String::new();
        for (_, named) in &self.server.names[then..] {
            match self.check_is(table, named[table], asked, wanted, claim) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Checks that a cache has everything of one relation up to the commit `asked`.
    ///
    /// A relation that was redefined after `asked` is not checked: until the next look the engine
    /// believes what its trigger sends.
    fn check_is(
        &self,
        table: usize,
        relation: usize,
        asked: u64,
        wanted: Wanted,
        claim: &str,
    ) -> Result<(), String> {
        if self
            .server
            .redefined
            .iter()
            .any(|(commit, of)| *of == relation && *commit > asked)
        {
            return Ok(());
        }
        for (&(of, key), history) in &self.server.history {
            if of != relation {
                continue;
            }
            // Under another key than its trigger sends a row is not found, until a look finds that.
            // The row itself is in the cache.
            let is_rekeyed = self
                .server
                .rekeyed
                .get(&asked)
                .is_some_and(|of| of[relation]);
            if wanted == Wanted::OfThatCommit && is_rekeyed {
                continue;
            }
            if wanted == Wanted::OfThatCommit && !history.iter().any(|(commit, _)| *commit == asked)
            {
                continue;
            }
            let cached = self.caches[table].rows.get(&key).copied();
            let (_, then) = history
                .iter()
                .rev()
                .find(|(commit, _)| *commit <= asked)
                .copied()
                .unwrap_or((0, None));
            // Nobody promises that a cache stops at `asked`: a later value is right as well.
            let is_later = match cached {
                Some(value) => self
                    .server
                    .committed
                    .get(&value)
                    .is_some_and(|(commit, _)| *commit > asked),
                None => history.iter().any(|(commit, _)| *commit > asked),
            };
            if cached != then && !is_later {
                return Err(format!(
                    "{claim}, as of commit {asked}: key {key} of table {table} (relation \
                    {relation}) was {then:?} then and is {cached:?} in the cache; {history:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks the caches as a reader sees them after a step: no value that was never committed,
    /// and no older value after a newer one while the table is live.
    pub(super) fn check_seen(&mut self) -> Result<(), String> {
        if self.withheld.is_some() {
            return Ok(());
        }
        for (table, cache) in self.caches.iter().enumerate() {
            for key in 0..KEYS {
                let Some(value) = cache.rows.get(&key) else {
                    continue;
                };
                let Some(&place) = self.server.committed.get(value) else {
                    return Err(format!(
                        "key {key} of table {table} is {value}, which was never committed"
                    ));
                };
                // A change in the plain form names no transaction, so nobody can tell whether the
                // snapshot has it. It is applied once more until a fence has come.
                let must_not_go_back = match self.engine.table_state(TableId(table)) {
                    State::CatchingUp => !TABLES[table].plain,
                    state => state == State::Live,
                };
                if !must_not_go_back {
                    continue;
                }
                let newest = self.newest.entry((table, key)).or_insert(place);
                if place < *newest {
                    return Err(format!(
                        "key {key} of table {table} goes back from {newest:?} to {place:?}"
                    ));
                }
                *newest = place;
            }
        }
        Ok(())
    }
}
