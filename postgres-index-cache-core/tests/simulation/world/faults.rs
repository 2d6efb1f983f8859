//! The faults of a run: lost connections, late answers, forged payloads, DDL.

use crate::server::{CHANNEL, Fault, TABLES};
use crate::world::tasks::{ReadSession, ReadTask, Stage, Task};
use crate::world::{FENCES, World};
use postgres_index_cache_core::tooling::sync::{AuxConnection, Input, Rule, TableId};

/// A mistake that is made on purpose, for the test that some seed finds each of them. The
/// scenarios are at `RULES` and at the variants of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A rule that is taken out of the engine.
    Rule(Rule),
    /// A fault of the trigger or the driver.
    Fault(Fault),
}

impl World {
    /// Makes something unusual happen; `choice` is from 95 to 99.
    pub(super) fn disturb(&mut self, choice: u8) -> Result<(), String> {
        match choice {
            95 => self.ask_for_fence()?,
            96 if self.random.u8(0..3) == 0 => self.lose_all("a fault")?,
            96 if self.random.bool() => {
                let via = if self.random.bool() {
                    AuxConnection::Fences
                } else {
                    AuxConnection::Reads
                };
                self.lose_one(via)?;
            }
            96 => {
                let table = TableId(self.random.usize(0..TABLES.len()));
                self.next_question += 1;
                self.handle(Input::VerifyWanted {
                    table,
                    question: self.next_question,
                })?;
            }
            97 if self.random.u8(0..5) == 0 => {
                self.statistics.short += u64::from(self.engine.waiting_bytes() > 0);
                self.handle(Input::MemoryShort)?;
            }
            97 => self.forge(),
            98 => self.run_ddl()?,
            99 => {
                let table = self.random.usize(0..TABLES.len());
                if self.caches[table].is_locked {
                    self.unlock(table)?;
                } else {
                    self.caches[table].is_locked = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Runs DDL, or reports a fingerprint that differs. DDL itself announces nothing: a look
    /// finds the change.
    fn run_ddl(&mut self) -> Result<(), String> {
        match self.random.u8(0..10) {
            0 => {
                let table = self.random.usize(0..TABLES.len());
                self.statistics.altered += u64::from(self.server.alter(table));
            }
            1 => {
                self.statistics.altered += u64::from(self.server.redefine(&mut self.random));
            }
            2..4 => {
                // A fingerprint may differ though nothing that matters was changed.
                let table = TableId(self.random.usize(0..TABLES.len()));
                self.handle(Input::TableAltered {
                    table,
                    why: "a fingerprint".into(),
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Loses L, and with it every notification that is still in the queue.
    fn lose_all(&mut self, why: &str) -> Result<(), String> {
        // PostgreSQL keeps nothing for a listener that is gone.
        self.heard = None;
        self.handle(Input::Lost(why.into()))
    }

    pub(super) fn lose_one(&mut self, via: AuxConnection) -> Result<(), String> {
        self.handle(Input::AuxConnectionLost {
            via,
            why: "a fault".into(),
        })
    }

    /// Drops the tasks of F or Q when the connection is lost. The answers of some may still come
    /// late.
    pub(super) fn drop_tasks_of(&mut self, lost: AuxConnection) {
        for task in std::mem::take(&mut self.tasks) {
            match task {
                // Nobody knows whether the server committed the NOTIFY before the loss.
                Task::Notify { via, token, .. } if via == lost => {
                    if self.random.bool() {
                        self.send(via, &token);
                    }
                }
                Task::Acknowledge { .. } if lost == AuxConnection::Fences => {}
                Task::Look { .. } if lost == AuxConnection::Fences => self.late_tasks.push(task),
                // Side reads go on: their sessions are their own.
                Task::Read(
                    ReadTask {
                        session: ReadSession::Q,
                        ..
                    },
                    _,
                )
                | Task::Refetch { .. }
                | Task::Cut { .. }
                | Task::Compare { .. }
                    if lost == AuxConnection::Reads =>
                {
                    self.late_tasks.push(task);
                }
                other => self.tasks.push(other),
            }
        }
    }

    /// Sends payloads that any role can send, and that must change nothing in a cache.
    fn forge(&mut self) {
        let payloads = [
            "{",
            r#"{"table":"a","action":"insert","id":1,"data":1}"#,
            r#"{"table":"a","action":"update","id":1,"data":1,"schema":"other","xid":"1"}"#,
            r#"{"table":"b","action":"delete","id":1,"schema":"s","rel":999,"xid":"1"}"#,
            r#"{"table":"c","action":"truncate","id":null,"schema":"s","xid":"1"}"#,
            // A partition that nobody knows: the table is read again.
            r#"{"table":"p","action":"delete","id":1,"schema":"s","rel":22,"xid":"1"}"#,
        ];
        let payload = payloads[self.random.usize(0..payloads.len())];
        self.server.notify(CHANNEL, payload);
        // The id of another's transaction, which everybody can see.
        if self.random.u8(0..6) == 0
            && let Some(transaction) = self.server.begun.last()
        {
            let xid = transaction.xid();
            let payload = format!(
                r#"{{"table":"a","action":"reload","id":null,"schema":"s","rel":{},"xid":"{xid}"}}"#,
                TABLES[0].oid
            );
            self.server.notify(CHANNEL, &payload);
        }
        // The engine's first token, which anybody who has seen it may repeat.
        self.server.notify_node(self.node, FENCES, "fences.1");
    }

    /// Hands in an answer of a connection that is gone. The engine must ignore such an answer.
    pub(super) fn late_answer(&mut self) -> Result<(), String> {
        match self.late_tasks.pop() {
            Some(Task::Refetch {
                table,
                batch,
                keys,
                seen: Some(seen),
            }) => {
                self.statistics.late += 1;
                self.answer_refetch(table, batch, keys, &seen)
            }
            Some(Task::Read(
                ReadTask {
                    table, generation, ..
                },
                Stage::Rows { .. },
            )) => {
                self.statistics.late += 1;
                self.handle(Input::SnapshotLoaded {
                    table,
                    generation,
                    has_changed: true,
                })
            }
            Some(Task::Look {
                look,
                seen: Some(seen),
            }) => {
                self.statistics.late += 1;
                self.answer_look(look, &seen)
            }
            Some(_) | None => Ok(()),
        }
    }
}
