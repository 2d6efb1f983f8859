//! [`Server`]: a model of PostgreSQL as a relay's exact replica shows it: commits in order, and
//! sessions that hear of each commit once, or are lost.

use crate::rows::{Rows, json_row, upsert};
use postgres_index_cache_core::tooling::log::RowOp;
use std::collections::VecDeque;

/// The keys of the table's rows.
const KEYS: u8 = 6;

/// A fence that a node asks a relay for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub node: usize,
    /// How often the node was started. Answers to a node that was restarted since reach nobody.
    pub started: u32,
    pub ask: u64,
}

/// A message to a relay's session.
#[derive(Debug, Clone)]
pub enum Note {
    /// The commit with this number, and its changes.
    Change { commit: usize, ops: Vec<RowOp> },
    /// A fence of the relay: the session was told of all commits up to this one.
    Fence {
        commit: usize,
        questions: Vec<Question>,
    },
}

/// The table, with all of its history.
#[derive(Debug)]
pub struct Server {
    /// The rows after each commit. The first are those before any.
    pub history: Vec<Rows>,
    /// The messages on their way to each relay's session; `None` if there is no session.
    pub sessions: Vec<Option<VecDeque<Note>>>,
    /// The relay that has the advisory lock.
    pub lock: Option<usize>,
    /// How many values were written.
    values: u64,
}

impl Server {
    pub fn new(relays: usize) -> Self {
        Self {
            history: vec![Rows::default()],
            sessions: vec![None; relays],
            lock: None,
            values: 0,
        }
    }

    /// Returns the number of the last commit.
    pub fn commit_number(&self) -> usize {
        self.history.len() - 1
    }

    /// Returns the rows of now.
    pub fn rows(&self) -> &Rows {
        &self.history[self.commit_number()]
    }

    /// Commits a random transaction.
    pub fn commit(&mut self, random: &mut fastrand::Rng) {
        let mut rows = self.rows().clone();
        let mut ops = Vec::new();
        for _ in 0..random.usize(1..=2) {
            self.values += 1;
            let id = random.u8(0..KEYS).to_string();
            let data = format!(r#"{{"v":{}}}"#, self.values);
            let op = match random.u8(0..14) {
                0 => RowOp::Clear { spared: Vec::new() },
                1..=3 => RowOp::Remove { id },
                4..=5 => {
                    let old_id = random.u8(0..KEYS).to_string();
                    let row = json_row(&data);
                    RowOp::Replace { old_id, id, row }
                }
                _ => upsert(&id, &data),
            };
            rows.carry_out(&op);
            ops.push(op);
        }
        self.history.push(rows);
        let commit = self.commit_number();
        for session in self.sessions.iter_mut().flatten() {
            session.push_back(Note::Change {
                commit,
                ops: ops.clone(),
            });
        }
    }

    /// Ends the session of a relay, which does not know yet.
    pub fn end_session(&mut self, relay: usize) {
        self.sessions[relay] = None;
        if self.lock == Some(relay) {
            self.lock = None;
        }
    }

    /// Returns the rows of a snapshot for a relay, and drops the messages that its session does
    /// not need any more. `None` if there is no session.
    pub fn read(&mut self, relay: usize) -> Option<Rows> {
        let last = self.commit_number();
        let session = self.sessions[relay].as_mut()?;
        session.retain(|note| !matches!(note, Note::Change { commit, .. } if *commit <= last));
        Some(self.rows().clone())
    }
}
