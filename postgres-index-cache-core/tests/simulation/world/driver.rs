//! The model of the driver: hands inputs to the engine, carries the outputs out, and knows the
//! definition of each table that was described.

use crate::server::{CHANNEL, Definitions, Fault, Seen, TABLES};
use crate::world::cache::{PendingOp, parse_key};
use crate::world::checks::{Claim, HeldFence};
use crate::world::freezes::Question;
use crate::world::tasks::{ReadSession, ReadTask, Stage, Task};
use crate::world::{FENCES, World, Wrong};
use postgres_index_cache_core::tooling::sync::{
    AuxConnection, Failure, FenceId, Input, Output, Reader, State, TableId, TableSpec,
};
use std::time::Duration;

/// The definition of a followed table as of when the driver described or read the table last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownTable {
    pub relation: usize,
    pub version: u64,
    pub files: u64,
    pub is_held: bool,
}

impl KnownTable {
    /// A relation as it is at the start of a run.
    pub fn new(relation: usize) -> Self {
        Self {
            relation,
            version: 0,
            files: 0,
            is_held: false,
        }
    }

    /// Returns whether the relation still has the table's name and the known definition.
    fn is_as_seen(&self, table: usize, seen: &Definitions, wrong: Option<Wrong>) -> bool {
        let is_named = seen.named[table] == self.relation
            || wrong == Some(Wrong::Fault(Fault::StaysWithRelation));
        is_named && seen.versions[self.relation] == self.version
    }
}

/// Returns the engine's description of a table whose name `relation` has.
pub fn spec(table: usize, relation: usize) -> TableSpec {
    let definition = TABLES[relation];
    TableSpec {
        schema: "s".into(),
        name: TABLES[table].name.into(),
        oid: definition.oid,
        leaves: definition.leaves.to_vec(),
        is_partitioned: !definition.leaves.is_empty(),
        deferrable_key: definition.deferrable,
        sends_plain_form: definition.plain,
        sends_whole_rows: true,
        is_for_side_read: true,
        shape: None,
    }
}

/// Whether a replica has been live yet. Before it was, a failure that will not go away ends the
/// replica; afterwards nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Some table has not been live yet.
    NeverLive,
    WasLive,
    /// The replica gave up before it was live.
    GivenUp,
}

impl World {
    /// Hands an input to the engine, carries all outputs out, and checks what they claim.
    pub(super) fn handle(&mut self, input: Input<'_>) -> Result<(), String> {
        if let Input::Notification {
            channel: FENCES,
            payload,
            ..
        } = &input
        {
            self.note_heard(payload);
        }
        let mut claims: Vec<Claim> = Vec::new();
        self.engine.handle(input, self.now);
        while let Some(output) = self.engine.poll() {
            if let Some(outputs) = &mut self.outputs {
                outputs.push(format!("{output:?}"));
            }
            claims.extend(self.carry_out(output)?);
        }
        // Only now, since `CacheBusy` is said once for all that one input has handed out.
        for table in 0..TABLES.len() {
            let cache = &mut self.caches[table];
            if !cache.is_locked {
                self.apply_pending(table)?;
            } else if !cache.pending.is_empty() && !std::mem::replace(&mut cache.is_busy, true) {
                self.handle(Input::CacheBusy {
                    table: TableId(table),
                })?;
            }
        }
        // A claim counts once all outputs are carried out: a later one may take the state back.
        self.check_claims(claims)?;
        self.check_held_fences()
    }

    /// Notes the first fence that arrives after each table was read. When the table becomes live,
    /// the cache must have everything up to when that fence was asked for.
    fn note_heard(&mut self, token: &str) {
        for table in 0..TABLES.len() {
            // A table that was read can be stale as well: while looks fail.
            let state = self.engine.table_state(TableId(table));
            if matches!(state, State::CatchingUp | State::Stale) && self.was_read[table] {
                let heard = &mut self.first_heard[table];
                *heard = heard.or_else(|| self.asked.get(token).copied());
            }
        }
    }

    /// Carries one output out. Returns the claim of a table that becomes live with this output.
    fn carry_out(&mut self, output: Output) -> Result<Option<Claim>, String> {
        match output {
            Output::Connect { channels } => {
                if channels != [CHANNEL, FENCES] {
                    return Err(format!("it listens on {channels:?}"));
                }
                let before = self.server.see();
                self.tasks.push(Task::Connect { before });
            }
            Output::ListenAlso { channels } => {
                return Err(format!("it listens on {channels:?} as well"));
            }
            Output::AuxConnectionLost { via, .. } => {
                self.drop_tasks_of(via);
                if via == AuxConnection::Reads {
                    self.is_misplaced = false;
                }
            }
            Output::Reopen { via } => self.tasks.push(Task::Reopen { via }),
            Output::Notify { via, token, .. } => {
                // A fence promises everything up to when it was asked for. What is committed while
                // the NOTIFY is on the way to the server need not be seen.
                self.asked
                    .entry(token.clone())
                    .or_insert(self.server.commits);
                self.tasks.push(Task::Notify {
                    via,
                    token,
                    snapshot: None,
                });
            }
            Output::ReadTable {
                table,
                generation,
                reader,
            } => self.begin_read(table, generation, reader)?,
            Output::Refetch {
                table,
                batch,
                keys,
                is_within_comparison,
            } => {
                self.check_alone(table)?;
                let seen = self.cut.clone().filter(|_| is_within_comparison);
                self.tasks.push(Task::Refetch {
                    table,
                    batch,
                    keys: keys.iter().map(|key| parse_key(key)).collect(),
                    seen,
                });
            }
            Output::TakeCut { table, comparison } => {
                self.tasks.push(Task::Cut { table, comparison });
            }
            Output::Compare { table, comparison } => {
                self.tasks.push(Task::Compare { table, comparison });
            }
            Output::ComparisonEnded {
                inconclusive,
                doubt,
                ..
            } => self.end_comparison(inconclusive.is_some(), doubt.is_some())?,
            Output::Frozen {
                table: TableId(table),
                freeze,
                open,
            } => {
                let question = Question { table, freeze };
                self.tasks.push(Task::Digest { question, open });
            }
            Output::FreezeFailed { .. } => self.statistics.unfrozen += 1,
            Output::Store { table, batch } => {
                let (keys, rows) = self
                    .refetched
                    .remove(&batch)
                    .ok_or("a batch that never came is stored")?;
                let op = PendingOp::Store { keys, rows };
                self.caches[table.0].pending.push(op);
            }
            Output::Apply { table, change } => {
                self.caches[table.0].pending.push(PendingOp::Apply(change));
            }
            Output::Clear { table, keep } => {
                self.statistics.spared += u64::from(!keep.is_empty());
                self.caches[table.0].pending.push(PendingOp::Clear(keep));
            }
            Output::FenceReached {
                table: TableId(table),
                fence: FenceId(fence),
            } => self.held_fences.push(HeldFence { table, fence }),
            Output::Look { look } => self.tasks.push(Task::Look { look, seen: None }),
            Output::GiveUpRead { table } => self.give_up_read(table),
            Output::TableStateChanged { table, state } => {
                return Ok(self.note_state(table.0, state));
            }
            Output::StateChanged(State::Live) => self.fate = Fate::WasLive,
            Output::StateChanged(_) | Output::CommitsBlocked | Output::ReadScheduled { .. } => {}
            Output::Disconnected { failure, retry_in } => self.disconnect(&failure, retry_in)?,
        }
        Ok(None)
    }

    /// Returns an error if something reads the table already: the rows of both would go into one
    /// cache.
    fn check_alone(&self, asked: TableId) -> Result<(), String> {
        let is_read = self.tasks.iter().any(|task| match task {
            Task::Read(ReadTask { table, .. }, _)
            | Task::Refetch { table, .. }
            | Task::Compare { table, .. } => *table == asked,
            _ => false,
        });
        if is_read {
            return Err(format!("two sessions read {asked:?} at once"));
        }
        Ok(())
    }

    fn begin_read(
        &mut self,
        table: TableId,
        generation: u64,
        reader: Reader,
    ) -> Result<(), String> {
        self.check_alone(table)?;
        self.last_generation.insert(table.0, generation);
        let (session, stage) = match reader {
            Reader::Q => (ReadSession::Q, Stage::Asked),
            Reader::Side => (
                ReadSession::Side {
                    is_misplaced: false,
                },
                Stage::Opening,
            ),
        };
        let read = ReadTask {
            table,
            generation,
            session,
        };
        self.tasks.push(Task::Read(read, stage));
        Ok(())
    }

    /// Ends the comparison that is underway. A difference is an error of the engine, unless the
    /// comparison is inconclusive or the table is doubted.
    fn end_comparison(&mut self, is_inconclusive: bool, is_doubted: bool) -> Result<(), String> {
        if let Some(differs) = self.differs.take()
            && !is_inconclusive
            && !is_doubted
            && self.withheld.is_none()
        {
            return Err(differs);
        }
        self.statistics.inconclusive += u64::from(is_inconclusive);
        // The driver does not wait for the rest of the comparison.
        let dropped = self.tasks.extract_if(.., |task| {
            matches!(
                task,
                Task::Cut { .. } | Task::Compare { .. } | Task::Refetch { .. }
            )
        });
        self.late_tasks.extend(dropped);
        self.cut = None;
        Ok(())
    }

    fn give_up_read(&mut self, given_up: TableId) {
        let dropped = self.tasks.extract_if(.., |task| match task {
            Task::Read(ReadTask { table, .. }, _) | Task::Refetch { table, .. } => {
                *table == given_up
            }
            _ => false,
        });
        self.late_tasks.extend(dropped);
    }

    /// Notes the new state of a table. Returns the claim of a table that becomes live.
    fn note_state(&mut self, table: usize, state: State) -> Option<Claim> {
        // A cache that readers keep locked is catching up, not stale: even then no reader may see
        // a row go back.
        if !matches!(state, State::Live | State::CatchingUp) {
            self.newest.retain(|(of, _), _| *of != table);
        }
        if state == State::Snapshotting {
            self.first_heard[table] = None;
            self.was_read[table] = true;
        }
        if state != State::Live {
            return None;
        }
        self.was_read[table] = false;
        let commit = self.first_heard[table].take()?;
        Some(Claim { table, commit })
    }

    fn disconnect(&mut self, failure: &Failure, retry_in: Option<Duration>) -> Result<(), String> {
        if retry_in.is_none() && self.fate == Fate::WasLive {
            return Err(format!("it gave up, and was live once: {failure}"));
        }
        if retry_in.is_none() {
            self.fate = Fate::GivenUp;
        }
        self.heard = None;
        // A table is described over a connection of its own, which is not lost with L, F and Q.
        let dropped = self
            .tasks
            .extract_if(.., |task| !matches!(task, Task::Describe { .. }));
        self.late_tasks.extend(dropped);
        self.is_misplaced = false;
        if self.engine.state() == State::Live {
            return Err("it is live without a connection".to_string());
        }
        Ok(())
    }

    /// Notifies a token, if the connection leads to the server that L listens on.
    pub(super) fn send(&mut self, via: AuxConnection, token: &str) {
        if !(self.is_misplaced && via == AuxConnection::Reads) {
            self.server.notify_node(self.node, FENCES, token);
        }
    }

    /// Returns what Q sees: the server, or another one that lags behind.
    pub(super) fn see(&self) -> Seen {
        self.see_from(self.is_misplaced)
    }

    /// Returns what a session sees that leads to the server, or to another one that lags behind.
    pub(super) fn see_from(&self, is_misplaced: bool) -> Seen {
        if is_misplaced {
            self.lagging.clone()
        } else {
            self.server.see()
        }
    }

    /// Returns whether a read or a look has seen the definition of a table that is known.
    pub(super) fn is_as_known(&self, table: TableId, seen: &Definitions) -> bool {
        self.followed[table.0].is_as_seen(table.0, seen, self.wrong)
    }

    /// Holds a table whose definition is another one than is known, until the table is described
    /// again.
    pub(super) fn hold(&mut self, table: TableId) -> Result<(), String> {
        if std::mem::replace(&mut self.followed[table.0].is_held, true) {
            return Ok(());
        }
        self.statistics.held += 1;
        self.tasks.push(Task::Describe { table, seen: None });
        self.handle(Input::TableHeld {
            table,
            why: "it is another one".into(),
        })
    }
}
