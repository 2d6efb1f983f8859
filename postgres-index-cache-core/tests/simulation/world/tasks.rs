//! [`Task`]: a statement whose answer the driver waits for, and how a task advances.
//!
//! Each advance is one event on a connection: a statement is acknowledged, a snapshot is taken, a
//! row arrives. A random task advances at a time, so the connections race with each other as they
//! do on a network. A task that has more to come goes back to the list.

use crate::server::{Definitions, Fault, Seen, TABLES};
use crate::world::driver::{KnownTable, spec};
use crate::world::freezes::Question;
use crate::world::{FENCES, World, Wrong};
use postgres_index_cache_core::tooling::sync::{AuxConnection, Input, TableId};

/// Something that the driver waits for. `seen` is `None` while the server has not been asked, and
/// the server's answer while that answer is on its way to the engine.
#[derive(Debug, Clone)]
pub enum Task {
    /// L's LISTEN is to be committed. `before` is the state of the server when it was asked for.
    Connect { before: Seen },
    /// F or Q is to be opened again.
    Reopen { via: AuxConnection },
    /// A NOTIFY is to be committed.
    Notify {
        via: AuxConnection,
        token: String,
        /// The snapshot in front of the NOTIFY, once it is taken.
        snapshot: Option<String>,
    },
    /// A NOTIFY that is committed, and is to be acknowledged.
    Acknowledge {
        token: String,
        /// The snapshot that was taken in front of the NOTIFY.
        snapshot: String,
    },
    /// A table is read.
    Read(ReadTask, Stage),
    /// Rows are read by their keys.
    Refetch {
        table: TableId,
        batch: u64,
        keys: Vec<u8>,
        seen: Option<Seen>,
    },
    /// The definitions of all tables are looked at.
    Look {
        look: u64,
        seen: Option<Definitions>,
    },
    /// A held table is described again.
    Describe {
        table: TableId,
        seen: Option<Definitions>,
    },
    /// The snapshot of a comparison is to be taken.
    Cut { table: TableId, comparison: u64 },
    /// The cache is compared with the comparison's snapshot.
    Compare { table: TableId, comparison: u64 },
    /// Somebody has asked for a freeze, and takes the snapshot next.
    Ask(Question),
    /// The digests of a frozen cache are to be computed, without the rows of these keys.
    Digest {
        question: Question,
        open: Vec<String>,
    },
}

/// The read of a table that the engine has asked for.
#[derive(Debug, Clone, Copy)]
pub struct ReadTask {
    pub table: TableId,
    pub generation: u64,
    pub session: ReadSession,
}

/// The session that reads a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSession {
    Q,
    /// A session beside Q, which may lead to the other server.
    Side {
        is_misplaced: bool,
    },
}

/// How far the read of a table is.
#[derive(Debug, Clone)]
pub enum Stage {
    /// The session of a side read is to be opened.
    Opening,
    /// The session has sent this token, which L must hear.
    Probing { token: String },
    /// The snapshot is to be taken.
    Asked,
    /// The snapshot is taken, and the engine does not know of it yet.
    Taken(Seen),
    Rows {
        /// The rows that are still to come.
        rest: Vec<(u8, u32)>,
        /// The keys of the rows that came.
        merged: Vec<u8>,
    },
}

impl World {
    /// Lets one random task advance.
    pub(super) fn advance_task(&mut self) -> Result<(), String> {
        if self.tasks.is_empty() {
            return Ok(());
        }
        let at = self.random.usize(0..self.tasks.len());
        match self.tasks.swap_remove(at) {
            Task::Connect { before } => self.advance_connect(before),
            Task::Notify {
                via,
                token,
                snapshot,
            } => self.advance_notify(via, token, snapshot),
            Task::Acknowledge { token, snapshot } => self.advance_acknowledge(&token, &snapshot),
            Task::Reopen { via } => self.advance_reopen(via),
            Task::Read(read, stage) => self.advance_read(read, stage),
            Task::Refetch {
                table,
                batch,
                keys,
                seen,
            } => self.advance_refetch(table, batch, keys, seen),
            Task::Look { look, seen } => self.advance_look(look, seen),
            Task::Describe { table, seen } => self.advance_describe(table, seen),
            Task::Cut { table, comparison } => self.advance_cut(table, comparison),
            Task::Compare { table, comparison } => self.advance_compare(table, comparison),
            Task::Ask(question) => self.advance_ask(&question),
            Task::Digest { question, open } => self.advance_digest(question, open),
        }
    }

    fn advance_connect(&mut self, before: Seen) -> Result<(), String> {
        if self.fails(6) {
            return self.handle(Input::ConnectFailed {
                code: None,
                why: "starting up".to_string(),
                is_permanent: false,
            });
        }
        let is_too_early = self.wrong == Some(Wrong::Fault(Fault::SnapshotBeforeListen));
        self.before_listen = is_too_early.then_some(before);
        self.heard = Some(self.server.sent.len());
        self.handle(Input::Listening)
    }

    fn advance_notify(
        &mut self,
        via: AuxConnection,
        token: String,
        snapshot: Option<String>,
    ) -> Result<(), String> {
        if via == AuxConnection::Fences && self.random.u8(0..20) == 0 && !self.is_quiet {
            self.statistics.blocked += 1;
            return self.handle(Input::SendBlocked { token: &token });
        }
        let (snapshot, is_taken_now) = match snapshot {
            Some(snapshot) => (snapshot, false),
            None => (self.server.see().snapshot, true),
        };
        if is_taken_now && self.random.u8(0..4) == 0 {
            // The snapshot is taken in front of the commit, and others commit in between.
            self.tasks.push(Task::Notify {
                via,
                token,
                snapshot: Some(snapshot),
            });
            return Ok(());
        }
        self.send(via, &token);
        self.tasks.push(Task::Acknowledge { token, snapshot });
        Ok(())
    }

    fn advance_acknowledge(&mut self, token: &str, snapshot: &str) -> Result<(), String> {
        let snapshot = snapshot.parse().map_err(|error| format!("{error}"))?;
        self.handle(Input::Sent {
            token,
            snapshot: Some(snapshot),
        })
    }

    fn advance_reopen(&mut self, via: AuxConnection) -> Result<(), String> {
        if self.fails(4) {
            return self.handle(Input::ReopenFailed {
                via,
                code: None,
                why: "too many connections".to_string(),
                is_permanent: false,
            });
        }
        // Behind one address there may be several servers: Q alone reaches another one now and
        // then, which the probe must find out.
        if via == AuxConnection::Reads {
            self.is_misplaced = self.fails(3);
            self.statistics.misplaced += u64::from(self.is_misplaced);
        }
        self.handle(Input::Reopened { via })
    }

    fn advance_read(&mut self, read: ReadTask, stage: Stage) -> Result<(), String> {
        if self.caches[read.table.0].is_locked && matches!(stage, Stage::Rows { .. }) {
            // The rows wait for the cache's lock, and their session waits with them.
            self.tasks.push(Task::Read(read, stage));
            return Ok(());
        }
        if matches!(read.session, ReadSession::Side { .. }) && self.fails(60) {
            return self.lose_side_read(read, "the session was ended");
        }
        if self.fails(40) {
            return self.fail_read(read.table, read.generation, "a lock is held");
        }
        let is_waiting = matches!(stage, Stage::Opening | Stage::Probing { .. });
        if is_waiting && self.engine.could_read_on_q() {
            self.statistics.side_late += 1;
            return self.handle(Input::SideReadLate {
                table: read.table,
                generation: read.generation,
            });
        }
        match stage {
            Stage::Opening => self.open_side_session(read),
            Stage::Probing { token } => self.await_side_token(read, token),
            Stage::Asked => {
                let seen = match read.session {
                    ReadSession::Q => self.before_listen.take().unwrap_or_else(|| self.see()),
                    ReadSession::Side { is_misplaced } => self.see_from(is_misplaced),
                };
                self.tasks.push(Task::Read(read, Stage::Taken(seen)));
                Ok(())
            }
            Stage::Taken(seen) => self.begin_rows(read, &seen),
            Stage::Rows { rest, merged } => self.merge_next_row(read, rest, merged),
        }
    }

    /// Opens the session of a side read, which may lead to another server, and sends the token that
    /// L must hear.
    fn open_side_session(&mut self, mut read: ReadTask) -> Result<(), String> {
        if self.fails(8) {
            return self.lose_side_read(read, "too many connections");
        }
        let is_misplaced = self.fails(4);
        self.statistics.side_misplaced += u64::from(is_misplaced);
        read.session = ReadSession::Side { is_misplaced };
        self.side_tokens += 1;
        let token = format!("side.{}", self.side_tokens);
        if !is_misplaced {
            self.server.notify_node(self.node, FENCES, &token);
        }
        self.tasks.push(Task::Read(read, Stage::Probing { token }));
        Ok(())
    }

    /// Goes on with a side read once L has heard its token. A token from another server never
    /// comes.
    fn await_side_token(&mut self, read: ReadTask, token: String) -> Result<(), String> {
        if self.side_heard.contains(&token) || self.wrong == Some(Wrong::Fault(Fault::SideUnproven))
        {
            self.statistics.side_reads += 1;
            self.tasks.push(Task::Read(read, Stage::Asked));
            return Ok(());
        }
        if read.session == (ReadSession::Side { is_misplaced: true }) {
            return self.lose_side_read(read, "no token came in time");
        }
        self.tasks.push(Task::Read(read, Stage::Probing { token }));
        Ok(())
    }

    fn lose_side_read(&mut self, read: ReadTask, why: &str) -> Result<(), String> {
        self.statistics.side_lost += 1;
        self.handle(Input::SideReadLost {
            table: read.table,
            generation: read.generation,
            why: why.to_string(),
        })
    }

    /// Says that the snapshot of a read is taken, and goes on to the rows. If the snapshot has
    /// another definition of the table than is known, no row of the table is touched.
    fn begin_rows(&mut self, read: ReadTask, seen: &Seen) -> Result<(), String> {
        let ReadTask {
            table, generation, ..
        } = read;
        if !self.is_as_known(table, &seen.definitions) {
            return self.hold(table);
        }
        let relation = self.followed[table.0].relation;
        self.followed[table.0].files = seen.definitions.files[relation];
        let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
        self.handle(Input::SnapshotTaken {
            table,
            generation,
            snapshot,
        })?;
        let mut rest: Vec<(u8, u32)> = seen.tables[relation]
            .iter()
            .map(|(&key, &value)| (key, value))
            .collect();
        self.random.shuffle(&mut rest);
        let merged = Vec::new();
        self.tasks
            .push(Task::Read(read, Stage::Rows { rest, merged }));
        Ok(())
    }

    /// Puts the next row of a read into the cache. After the last one, the rows that the read does
    /// not have are removed.
    fn merge_next_row(
        &mut self,
        read: ReadTask,
        mut rest: Vec<(u8, u32)>,
        mut merged: Vec<u8>,
    ) -> Result<(), String> {
        let ReadTask {
            table, generation, ..
        } = read;
        // A read that was asked for again must not touch the cache any more.
        let is_awaited = self.last_generation.get(&table.0) == Some(&generation);
        let cached = &mut self.caches[table.0].rows;
        let Some((key, value)) = rest.pop() else {
            if is_awaited {
                cached.retain(|key, _| merged.contains(key));
            }
            // This decides how far apart reloads are, and nothing else: either answer is right.
            let has_changed = self.random.bool();
            return self.handle(Input::SnapshotLoaded {
                table,
                generation,
                has_changed,
            });
        };
        if !self.model.takes(value) {
            self.statistics.misfits += 1;
            return self.fail_read(table, generation, "a row does not fit the model");
        }
        if is_awaited {
            cached.insert(key, value);
        }
        merged.push(key);
        self.tasks
            .push(Task::Read(read, Stage::Rows { rest, merged }));
        Ok(())
    }

    /// Ends the read of a table, or of rows, with an error that may go away. `work` is the read's
    /// generation or the batch of the rows.
    fn fail_read(&mut self, table: TableId, work: u64, why: &str) -> Result<(), String> {
        self.handle(Input::ReadFailed {
            table,
            work,
            code: None,
            why: why.to_string(),
            is_permanent: false,
        })
    }

    fn advance_refetch(
        &mut self,
        table: TableId,
        batch: u64,
        keys: Vec<u8>,
        seen: Option<Seen>,
    ) -> Result<(), String> {
        if self.fails(40) {
            return self.fail_read(table, batch, "a lock is held");
        }
        let Some(seen) = seen else {
            let seen = Some(self.see());
            self.tasks.push(Task::Refetch {
                table,
                batch,
                keys,
                seen,
            });
            return Ok(());
        };
        if !self.is_as_known(table, &seen.definitions) {
            return self.hold(table);
        }
        self.answer_refetch(table, batch, keys, &seen)
    }

    /// Keeps the rows of a refetch for `Output::Store`, and tells the engine of the snapshot that
    /// they come from.
    pub(super) fn answer_refetch(
        &mut self,
        table: TableId,
        batch: u64,
        keys: Vec<u8>,
        seen: &Seen,
    ) -> Result<(), String> {
        let relation = self.followed[table.0].relation;
        let rows = seen.tables[relation]
            .iter()
            .filter(|(key, _)| keys.contains(key))
            .map(|(&key, &value)| (key, value))
            .collect();
        self.refetched.insert(batch, (keys, rows));
        let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
        self.handle(Input::Refetched {
            table,
            batch,
            snapshot,
        })
    }

    fn advance_look(&mut self, look: u64, seen: Option<Definitions>) -> Result<(), String> {
        if self.fails(10) {
            self.statistics.failed_looks += 1;
            return self.handle(Input::LookFailed {
                look,
                why: "an operator is missing".into(),
            });
        }
        let Some(seen) = seen else {
            let seen = Some(self.server.definitions.clone());
            self.tasks.push(Task::Look { look, seen });
            return Ok(());
        };
        self.answer_look(look, &seen)
    }

    /// Tells the engine what a look has found, and then that the look is done. In the other order
    /// a fence could be reached on the strength of a look whose finding nobody knows yet.
    pub(super) fn answer_look(&mut self, look: u64, seen: &Definitions) -> Result<(), String> {
        for at in 0..TABLES.len() {
            let table = TableId(at);
            let known = self.followed[at];
            if known.is_held {
                continue;
            }
            if !self.is_as_known(table, seen) {
                self.hold(table)?;
            } else if seen.files[known.relation] != known.files {
                self.followed[at].files = seen.files[known.relation];
                self.handle(Input::TableAltered {
                    table,
                    why: "it was rewritten".into(),
                })?;
            }
        }
        for table in (0..TABLES.len()).map(TableId) {
            if self.engine.must_be_truncated(table, look) {
                // The model forges no TRUNCATE, so each one has happened. An engine that is told
                // otherwise reads the table again, which is right as well.
                let has_happened = self.random.u8(0..10) != 0;
                self.handle(Input::TruncateSeen {
                    table,
                    has_happened,
                })?;
            }
        }
        self.handle(Input::Looked { look })
    }

    /// Describes a held table by its name, and follows the table if its changes are announced.
    /// Else the table is described again, until somebody has mended the trigger.
    fn advance_describe(
        &mut self,
        table: TableId,
        seen: Option<Definitions>,
    ) -> Result<(), String> {
        let Some(seen) = seen else {
            let seen = Some(self.server.definitions.clone());
            self.tasks.push(Task::Describe { table, seen });
            return Ok(());
        };
        let named = match self.wrong {
            Some(Wrong::Fault(Fault::StaysWithRelation)) => self.followed[table.0].relation,
            _ => seen.named[table.0],
        };
        if !seen.is_announced(named) && self.wrong != Some(Wrong::Fault(Fault::AnyContract)) {
            self.tasks.push(Task::Describe { table, seen: None });
            return Ok(());
        }
        self.statistics.swapped += u64::from(named != self.followed[table.0].relation);
        self.followed[table.0] = KnownTable {
            relation: named,
            version: seen.versions[named],
            files: seen.files[named],
            is_held: false,
        };
        self.handle(Input::TableFollowed {
            table,
            followed: Box::new(spec(table.0, named)),
        })
    }

    fn advance_cut(&mut self, table: TableId, comparison: u64) -> Result<(), String> {
        if self.fails(40) {
            return self.handle(Input::ComparisonFailed {
                table,
                comparison,
                why: "a lock is held".into(),
            });
        }
        let seen = self.see();
        if !self.is_as_known(table, &seen.definitions) {
            return self.hold(table);
        }
        let known = self.followed[table.0];
        if seen.definitions.files[known.relation] != known.files {
            return self.handle(Input::TableAltered {
                table,
                why: "it was rewritten".into(),
            });
        }
        let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
        self.cut = Some(seen);
        self.handle(Input::CutTaken {
            table,
            comparison,
            snapshot,
        })
    }

    fn advance_compare(&mut self, table: TableId, comparison: u64) -> Result<(), String> {
        if !self.is_quiet && self.random.u8(0..4) != 0 {
            // The comparison takes a while, in which changes come.
            self.tasks.push(Task::Compare { table, comparison });
            return Ok(());
        }
        let seen = self
            .cut
            .take()
            .ok_or("a comparison compares without a snapshot")?;
        let relation = self.followed[table.0].relation;
        let cached = &self.caches[table.0].rows;
        let stored = &seen.tables[relation];
        // Whether a difference is an error is known when the comparison ends: it may turn out
        // inconclusive, or the table may be doubted by then. See `Output::ComparisonEnded`.
        self.differs = (cached != stored).then(|| {
            format!("comparison {comparison} finds {cached:?} where the table was {stored:?}")
        });
        self.statistics.compared += 1;
        self.handle(Input::Compared { table, comparison })
    }

    /// Returns whether something fails now: once in `one_in` times while there are faults.
    fn fails(&mut self, one_in: u8) -> bool {
        !self.is_quiet && self.random.u8(0..one_in) == 0
    }
}
