//! [`Cache`]: a cache as the driver keeps one, behind a lock that readers may hold.

use crate::server::{Fault, Rows};
use crate::world::{World, Wrong};
use postgres_index_cache_core::tooling::sync::{Change, Input, Operation, TableId};

/// An operation on a cache that the engine has asked for.
#[derive(Debug)]
pub enum PendingOp {
    /// Store the rows of a refetch. Each key that was asked for and is not among the rows is
    /// removed.
    Store {
        keys: Vec<u8>,
        rows: Rows,
    },
    Apply(Change),
    /// Remove every row but those of these keys.
    Clear(Vec<String>),
}

#[derive(Debug, Default)]
pub struct Cache {
    pub rows: Rows,
    /// Whether a reader holds the lock.
    pub is_locked: bool,
    /// The operations that wait for the lock, in order.
    pub pending: Vec<PendingOp>,
    /// Whether the engine has been told that operations wait.
    pub is_busy: bool,
}

impl Cache {
    /// Applies one operation to the rows. A row that the model refuses is an error, and then
    /// nothing of the operation is applied.
    fn apply(&mut self, op: PendingOp, model: Model) -> Result<(), Misfit> {
        match op {
            // Checked before the first mutation: a batch is stored as a whole or not at all.
            PendingOp::Store { rows, .. } if rows.values().any(|value| !model.takes(*value)) => {
                return Err(Misfit);
            }
            PendingOp::Store { keys, rows } => {
                self.rows.retain(|key, _| !keys.contains(key));
                self.rows.extend(rows);
            }
            PendingOp::Clear(keep) => self.rows.retain(|key, _| keep.contains(&key.to_string())),
            PendingOp::Apply(change) => {
                let value = change
                    .data()
                    .map(|data| data.parse::<u32>().expect("values are numbers"));
                if value.is_some_and(|value| !model.takes(value)) {
                    return Err(Misfit);
                }
                // Both halves of a key change in one step, so that no reader sees one without the
                // other.
                if let (Operation::ReplaceKey, Some(old)) = (change.operation(), change.old_id()) {
                    self.rows.remove(&parse_key(old));
                }
                let key = parse_key(change.id());
                match value {
                    Some(value) => self.rows.insert(key, value),
                    None => self.rows.remove(&key),
                };
            }
        }
        Ok(())
    }
}

pub fn parse_key(text: &str) -> u8 {
    text.parse().expect("keys are numbers")
}

/// The error of a row that the application's model refuses.
#[derive(Debug, Clone, Copy)]
struct Misfit;

/// The values that an application's model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    All,
    /// Some values are refused. A refused row makes its table stale until the row is gone, or the
    /// model takes the value.
    Most,
}

impl Model {
    pub fn takes(self, value: u32) -> bool {
        self == Self::All || !value.is_multiple_of(19)
    }
}

impl World {
    /// Lets a reader release a cache: applies what waits, and tells the engine.
    pub(super) fn unlock(&mut self, table: usize) -> Result<(), String> {
        self.caches[table].is_locked = false;
        self.apply_pending(table)?;
        // In this order: `CacheFree` promises that what had been handed out is applied.
        let cache = &mut self.caches[table];
        if std::mem::take(&mut cache.is_busy) {
            self.handle(Input::CacheFree {
                table: TableId(table),
            })?;
        }
        self.check_held_fences()
    }

    /// Applies what waits for a cache, and tells the engine of rows that the model refuses.
    pub(super) fn apply_pending(&mut self, table: usize) -> Result<(), String> {
        let cache = &mut self.caches[table];
        let misfits = std::mem::take(&mut cache.pending)
            .into_iter()
            .map(|op| cache.apply(op, self.model))
            .filter(Result::is_err)
            .count();
        if misfits == 0 || self.wrong == Some(Wrong::Fault(Fault::SwallowsMisfits)) {
            return Ok(());
        }
        self.statistics.misfits += 1;
        self.handle(Input::ChangeUnfit {
            table: TableId(table),
            why: "a row does not fit the model".into(),
            sender: None,
        })
    }
}
