//! What a [`Driver`] sees that no notification tells: the definitions of the tables, looked at on F.

use super::{Driver, DriverEvent, Event};
use crate::postgres::error::DriverError;
use crate::postgres::fingerprint::{Difference, Fingerprint, compare, look};
use crate::postgres::followee::Followee;
use crate::postgres::sqlstate::Policy;
use crate::sync::{Failure, Input, State, TableId, Via};
use std::time::Instant;

impl Driver {
    /// Looks at the definitions of the tables now, as it does every heartbeat; [`is_looking`](Self::is_looking) says whether
    /// that is done. Whoever answers a question by a fence may want to know that what no notification tells is seen too.
    pub fn ask_to_look(&mut self) {
        self.next_look = None;
        if self.is_looking() {
            self.looks_again = true;
        } else {
            self.look_at_once();
        }
    }

    /// Whether a look that was asked for is underway.
    pub fn is_looking(&self) -> bool {
        self.looking.is_some_and(|epoch| self.is_current(Via::Fences, epoch))
    }

    /// Looks at the tables on F, at most once a heartbeat: DDL announces nothing.
    pub(super) fn look(&mut self) {
        if self.engine.state() == State::Live && self.next_look.is_none_or(|at| at <= Instant::now()) {
            self.look_at_once();
        }
    }

    fn look_at_once(&mut self) {
        let Some((client, epoch)) = self.client(Via::Fences).filter(|_| self.options.looks) else { return };
        let now = Instant::now();
        self.looking = Some(epoch);
        self.next_look = Some(now + self.options.limits.heartbeat);
        let sender = self.sender.clone();
        let relations: Vec<u32> = self.tables.iter().map(|table| table.follow.followed.oid).collect();
        tokio::spawn(async move {
            let seen = look(&*client, &relations).await;
            // A driver that is gone wants to hear nothing.
            let _ = sender.send(Event::Looked { epoch, seen }).await;
        });
    }

    pub(super) fn looked(&mut self, seen: Result<Vec<Fingerprint>, tokio_postgres::Error>) {
        match seen {
            Ok(seen) => self.compare(&seen),
            Err(source) => {
                let doing = "look at the definitions of the tables".to_string();
                let error = DriverError::Server { doing, source };
                match error.policy() {
                    Policy::Lost => self.one_lost(Via::Fences, error),
                    // The next look will tell.
                    Policy::Starting | Policy::Passing | Policy::Counted | Policy::Refused => {
                        tracing::warn!(%error, "no look")
                    }
                }
            }
        }
    }

    fn compare(&mut self, seen: &[Fingerprint]) {
        for at in 0..self.tables.len() {
            let Followee { fingerprint, follow, .. } = &self.tables[at];
            let Some(before) = fingerprint else { continue };
            let truncated_by = self.engine.truncated_by(TableId(at));
            let input = match compare(before, seen, &follow.announced_by, truncated_by) {
                None => continue,
                Some(Difference::Truncated) => {
                    let now = seen.iter().find(|print| print.relation() == before.relation()).cloned();
                    self.tables[at].fingerprint = now;
                    continue;
                }
                Some(Difference::Altered(why)) => {
                    self.tell(DriverEvent::Altered { table: TableId(at) });
                    Input::TableAltered { table: TableId(at), why: why.to_string() }
                }
                Some(Difference::Silent(trigger)) => {
                    Input::GivenUp(Failure::NotFollowed { name: follow.name(), trigger })
                }
            };
            // Whatever failed before is not why.
            self.failure = None;
            self.engine.handle(input, Instant::now());
        }
    }
}
