//! [`Relay`]: a driver of [`Writer`] on the models of PostgreSQL and the broker.

use crate::broker::{Append, Snapshot};
use crate::reader::Reader;
use crate::rows::{Rows, table};
use crate::server::{Note, Question};
use crate::world::World;
use postgres_index_cache_core::tooling::log::{
    Base, DeferredKeys, Place, Recovered, RowChanges, RowOp, Rule, Writer, WriterInput,
    WriterLimits, WriterOutput,
};
use std::collections::VecDeque;
use std::time::Duration;

/// Bounds that are reached often: an entry with two rows has about 250 bytes.
const LIMITS: WriterLimits = WriterLimits {
    answer_timeout: Duration::from_millis(1500),
    most_unanswered: 1200,
    kept: 1500,
    most_deferred: 300,
    // Most entries of several rows are sent in parts.
    longest_entry: 150,
};

/// The broker's answer to an append.
#[derive(Debug)]
pub enum Answer {
    Stored { round: u64, place: Place },
    Refused { round: u64 },
}

/// A recovery that the writer has asked for.
#[derive(Debug)]
pub enum Recovery {
    Asked { round: u64, places: Vec<Place> },
    Read { round: u64, found: Recovered },
}

/// A snapshot that the relay reads.
#[derive(Debug)]
pub enum Reading {
    /// The rows with even keys were read.
    Half(Rows),
    /// All rows were read, and their place is not known yet.
    Whole(Rows),
}

/// A relay that writes.
#[derive(Debug)]
pub struct Lead {
    pub writer: Writer,
    /// The rows as the relay's exact replica has them.
    cache: Rows,
    listens: bool,
    has_read: bool,
    questions: Vec<Question>,
    recovery: Option<Recovery>,
    reading: Option<Reading>,
    /// A snapshot on its way to the broker.
    upload: Option<Snapshot>,
}

impl Lead {
    /// Returns whether the relay's session was asked for.
    pub fn listens(&self) -> bool {
        self.listens
    }

    fn changes(ops: Vec<RowOp>) -> RowChanges {
        RowChanges {
            table: table(),
            ops,
        }
    }
}

/// A relay: one that stands by, or one that writes.
#[derive(Debug)]
pub struct Relay {
    pub reader: Reader,
    pub lead: Option<Lead>,
    /// The number of the connection to the broker. Entries on earlier ones may arrive late.
    pub connection: u64,
    pub answers: VecDeque<Answer>,
    pub is_paused: bool,
}

impl Relay {
    pub fn new(without: &[Rule], seed: u64) -> Self {
        Self {
            reader: Reader::new(true, without, seed),
            lead: None,
            connection: 0,
            answers: VecDeque::new(),
            is_paused: false,
        }
    }
}

impl World {
    /// Does one thing at a relay.
    pub fn relay_step(&mut self, relay: usize) {
        if self.relays[relay].is_paused {
            return;
        }
        if self.relays[relay].lead.is_none() {
            self.stand_by(relay);
        } else {
            self.take_answers(relay);
            self.go_on_recovering(relay);
            self.follow_server(relay);
            self.read_snapshot(relay);
            self.put_snapshot(relay);
        }
        self.take_outputs(relay);
    }

    /// Follows the log, and begins to write if nobody does.
    fn stand_by(&mut self, relay: usize) {
        let reader = &mut self.relays[relay].reader;
        let stepped = reader.step(&self.broker, &mut self.random, self.now);
        self.statistics.dropped += u64::from(stepped.is_dropped);
        let node = &reader.node;
        let has_image = node.is_at_end();
        let has_nothing = node.cannot_follow();
        let may_lead = self.server.lock.is_none() && self.broker.is_up;
        if !may_lead || !(has_image || has_nothing) || self.random.u8(0..4) > 0 {
            return;
        }
        self.server.lock = Some(relay);
        let name = format!("relay {relay}");
        let seed = self.random.u64(..);
        let follower = node.follower();
        let base = follower.position().zip(follower.seen());
        let base = base.filter(|_| has_image);
        let mut writer = match base {
            Some((position, seen)) => {
                Writer::lead(&name, Base { position, seen }, LIMITS, seed, self.now)
            }
            None => Writer::start_anew(&name, self.broker.end(), LIMITS, seed, self.now),
        };
        writer.disable(self.without);
        let cache = match base {
            Some(_) => reader.rows.clone(),
            None => Rows::default(),
        };
        self.statistics.begun += 1;
        self.relays[relay].lead = Some(Lead {
            writer,
            cache,
            listens: false,
            has_read: false,
            questions: Vec::new(),
            recovery: None,
            reading: None,
            upload: None,
        });
    }

    /// Hands the broker's answers in.
    fn take_answers(&mut self, relay: usize) {
        let now = self.now;
        let answers = std::mem::take(&mut self.relays[relay].answers);
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        if lead.writer.poll_timeout().is_some_and(|at| at <= now) {
            lead.writer.handle(WriterInput::TimePassed, now);
        }
        for answer in answers {
            let input = match answer {
                Answer::Stored { round, place } => WriterInput::Stored { round, place },
                Answer::Refused { round } => WriterInput::Refused { round },
            };
            lead.writer.handle(input, now);
        }
    }

    /// Reads the log for a recovery, or hands in the messages.
    fn go_on_recovering(&mut self, relay: usize) {
        if !self.broker.is_up {
            return;
        }
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        match lead.recovery.take() {
            None => {}
            Some(Recovery::Asked { round, places }) => {
                let found = Recovered {
                    messages: self.broker.messages_from(&places),
                    end: self.broker.end(),
                };
                lead.recovery = Some(Recovery::Read { round, found });
            }
            Some(Recovery::Read { round, found }) => {
                lead.writer
                    .handle(WriterInput::Recovered { round, found }, self.now);
            }
        }
    }

    /// Listens, reads the table, and publishes the changes that come.
    fn follow_server(&mut self, relay: usize) {
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        if !lead.listens {
            let is_taken = self.server.lock.is_some_and(|owner| owner != relay);
            if is_taken {
                return self.step_down(relay);
            }
            if self.random.u8(0..3) == 0 {
                self.server.lock = Some(relay);
                self.server.sessions[relay] = Some(VecDeque::new());
                lead.listens = true;
            }
            return;
        }
        if !lead.has_read {
            return match self.server.read(relay) {
                Some(rows) => self.lay_over(relay, rows),
                None => self.session_lost(relay),
            };
        }
        match self.server.sessions[relay]
            .as_mut()
            .map(VecDeque::pop_front)
        {
            None if self.random.u8(0..6) == 0 => self.session_lost(relay),
            None => {}
            Some(Some(note)) => self.take_note(relay, note),
            Some(None) => {
                let questions = std::mem::take(&mut lead.questions);
                if !questions.is_empty() || self.random.u8(0..8) == 0 {
                    let commit = self.server.commit_number();
                    if let Some(session) = &mut self.server.sessions[relay] {
                        session.push_back(Note::Fence { commit, questions });
                    }
                }
            }
        }
    }

    /// Lays the table's rows over those of the cache, and publishes the difference in two parts.
    fn lay_over(&mut self, relay: usize, rows: Rows) {
        let now = self.now;
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        let mut ops = rows.difference(&lead.cache);
        lead.cache = rows;
        lead.has_read = true;
        let rest = ops.split_off(ops.len() / 2);
        for part in [ops, rest] {
            lead.writer.publish(Lead::changes(part), now);
        }
    }

    fn take_note(&mut self, relay: usize, note: Note) {
        let now = self.now;
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        match note {
            Note::Change { ops, .. } => {
                for op in &ops {
                    lead.cache.carry_out(op);
                }
                lead.writer.publish(Lead::changes(ops), now);
            }
            Note::Fence { commit, questions } => {
                let Some(position) = lead.writer.prove(lead.cache.proof(), now) else {
                    lead.questions.extend(questions);
                    return;
                };
                self.proofs.insert(position, commit);
                for Question { node, started, ask } in questions {
                    let node = &mut self.nodes[node];
                    if node.started == started {
                        node.inbox.push((ask, position));
                    }
                }
            }
        }
    }

    /// Notes that the relay's session with PostgreSQL is lost.
    pub fn session_lost(&mut self, relay: usize) {
        self.statistics.gaps += 1;
        self.server.end_session(relay);
        let now = self.now;
        if let Some(lead) = &mut self.relays[relay].lead {
            lead.listens = false;
            lead.has_read = false;
            lead.questions.clear();
            lead.writer.stale("the session was lost", now);
        }
    }

    /// Puts the snapshot that is on its way, or loses it.
    fn put_snapshot(&mut self, relay: usize) {
        let arrives = self.random.u8(0..5) == 0;
        let is_lost = self.random.u8(0..10) == 0;
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        if !self.broker.is_up || !arrives {
            return;
        }
        if let Some(snapshot) = lead.upload.take().filter(|_| !is_lost) {
            self.statistics.snapshots += 1;
            let place = snapshot.place;
            self.broker.put_snapshot(snapshot);
            lead.writer
                .handle(WriterInput::SnapshotPut(place), self.now);
        }
    }

    /// Reads a snapshot bit by bit, now and then and where none can be used.
    fn read_snapshot(&mut self, relay: usize) {
        let is_due = self.random.u8(0..25) == 0;
        let goes_on = self.random.u8(0..4) == 0;
        // A relay looks for itself now and then, since the engine may have cut the log.
        let looks = self.broker.is_up && self.random.u8(0..20) == 0;
        let has_none = looks && self.broker.usable().next().is_none();
        let Some(lead) = &mut self.relays[relay].lead else {
            return;
        };
        let is_wanted = is_due || has_none || lead.writer.wants_snapshot();
        match &mut lead.reading {
            None if is_wanted && lead.upload.is_none() && lead.writer.start_snapshot() => {
                lead.reading = Some(Reading::Half(lead.cache.with_keys(true)));
            }
            Some(Reading::Half(rows)) if goes_on => {
                let mut rows = std::mem::take(rows);
                rows.0.extend(lead.cache.with_keys(false).0);
                lead.reading = Some(Reading::Whole(rows));
                lead.writer.end_snapshot();
            }
            None | Some(_) => {}
        }
    }

    /// Carries out the requests of the writer.
    fn take_outputs(&mut self, relay: usize) {
        loop {
            let now = self.now;
            let Some(lead) = &mut self.relays[relay].lead else {
                return;
            };
            let Some(output) = lead.writer.poll() else {
                return;
            };
            match output {
                WriterOutput::Append { round, entry } => {
                    let connection = self.relays[relay].connection;
                    self.net.push_back(Append {
                        relay,
                        connection,
                        round,
                        entry,
                    });
                }
                WriterOutput::Recover { round, places } => {
                    self.statistics.recoveries += 1;
                    lead.recovery = Some(Recovery::Asked { round, places });
                    self.drop_link(relay);
                }
                WriterOutput::PublishDeferred(keys) => {
                    self.statistics.published_deferred += 1;
                    let ops = deferred_rows(&keys, &lead.cache);
                    // Two parts, so that a reader sees a state in between.
                    let (first, rest) = ops.split_at(ops.len() / 2);
                    for part in [first, rest] {
                        lead.writer.publish(Lead::changes(part.to_vec()), now);
                    }
                    lead.writer.deferred_are_published();
                }
                WriterOutput::PutSnapshot(place) => {
                    if let Some(Reading::Whole(rows)) = lead.reading.take() {
                        lead.upload = Some(Snapshot { place, rows });
                    }
                }
                WriterOutput::DropSnapshot => {
                    self.statistics.dropped_snapshots += 1;
                    lead.reading = None;
                }
                WriterOutput::StepDown => self.step_down(relay),
            }
        }
    }

    /// Follows the log again, from nothing.
    fn step_down(&mut self, relay: usize) {
        self.statistics.stepped_down += 1;
        self.end_term(relay);
        let seed = self.random.u64(..);
        self.relays[relay].reader = Reader::new(true, self.without, seed);
        self.server.end_session(relay);
    }

    /// Ends a relay's term, and keeps the figures of that term.
    pub fn end_term(&mut self, relay: usize) {
        if let Some(lead) = self.relays[relay].lead.take() {
            self.statistics.add_writer(&lead.writer);
        }
    }

    /// Asks a relay for a fence, if one writes and can be reached.
    pub fn ask_relay(&mut self, question: Question) {
        let mut running = self.relays.iter_mut().filter(|relay| !relay.is_paused);
        if let Some(lead) = running.find_map(|relay| relay.lead.as_mut()) {
            lead.questions.push(question);
        }
    }

    /// Connects a relay to the broker anew. Entries on their way may arrive late, or never.
    pub fn drop_link(&mut self, relay: usize) {
        self.relays[relay].connection += 1;
        self.relays[relay].answers.clear();
        let (own, others) = std::mem::take(&mut self.net)
            .into_iter()
            .partition::<VecDeque<_>, _>(|append| append.relay == relay);
        self.net = others;
        for append in own {
            if self.random.bool() {
                self.late.push(append);
            }
        }
    }

    /// Loses a relay's connection to the broker.
    pub fn lose_link(&mut self, relay: usize) {
        self.drop_link(relay);
        let now = self.now;
        self.relays[relay].reader.disconnect(now);
        if let Some(lead) = &mut self.relays[relay].lead {
            lead.writer.handle(WriterInput::Disconnected, now);
        }
    }

    /// Stores or refuses an entry that has reached the broker.
    pub fn store(&mut self, append: &Append, is_late: bool) {
        let place = self.broker.append(append);
        self.statistics.refused += u64::from(place.is_none());
        self.statistics.stored_late += u64::from(is_late && place.is_some());
        let relay = &mut self.relays[append.relay];
        if is_late || relay.connection != append.connection {
            return;
        }
        // An answer may not come, though the connection lives.
        if self.random.u8(0..200) == 0 {
            self.statistics.answers_lost += 1;
            return;
        }
        let round = append.round;
        relay.answers.push_back(match place {
            Some(place) => Answer::Stored { round, place },
            None => Answer::Refused { round },
        });
    }
}

/// Returns the present state of the rows with the deferred keys.
fn deferred_rows(keys: &DeferredKeys, cache: &Rows) -> Vec<RowOp> {
    let keys = keys.tables().flat_map(|(_, keys)| keys);
    keys.map(|id| cache.state_of(id)).collect()
}
