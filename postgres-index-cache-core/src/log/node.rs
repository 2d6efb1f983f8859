//! [`Node`]: whoever follows a log. Decides when messages are read again, when a snapshot is
//! loaded, and when the rows are live.
//!
//! ```text
//! Disconnected ─→ Loading ─→ Reading ─→ Reading, live
//!    ▲   ▲  no image   │ a snapshot   a fence of this node's own
//!    │   │             ▼              is reached, and proofs come
//!    │   └──────── Waiting: there is none
//!    └─ at each loss of the connection; the image stays
//! ```
//!
//! A node does no I/O. Whoever drives the node hands in an [`NodeInput`] for each event and each
//! message by [`message`](Node::message), carries out each [`NodeOutput`], and says
//! [`NodeInput::TimePassed`] at [`poll_timeout`](Node::poll_timeout).

use super::entry::{Body, Entry};
use super::follower::{Follower, Image, Took};
use super::position::{Position, Sequence};
use super::rules::{Rule, Rules};
use super::snapshot::SnapshotPlace;
use crate::split_mix::SplitMix;
use crate::sync::{Backoff, FenceId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bounds of a node's waits.
#[derive(Debug, Clone, Copy)]
pub struct NodeLimits {
    /// The longest time between two proofs. Rows are not live for longer behind a proof.
    pub patience: Duration,
    /// The wait for the answer to a question, before the node asks anew. Where the answer is known,
    /// the wait until something of the log in front of its position has come.
    pub ask_timeout: Duration,
}

/// An event that the driver of a node reports.
#[derive(Debug, Clone, Copy)]
pub enum NodeInput {
    /// The engine can be reached, for the first time or again.
    Connected,
    /// The engine is lost.
    Disconnected,
    /// The answer to [`NodeOutput::Load`]: the rows of a snapshot that is usable are in the image,
    /// which had no other rows or was cleared; or there is no such snapshot. If a snapshot could
    /// not be fetched, say [`Disconnected`](Self::Disconnected): nothing is known of the log then.
    Loaded {
        /// Number of the load.
        load: u64,
        /// Part of the log that the snapshot stands for.
        snapshot: Option<SnapshotPlace>,
    },
    /// The log's end was looked at, and no message has come for a while. Say this at intervals as
    /// long as messages take to arrive.
    End {
        /// Number of the read that was underway when the end was asked for.
        read: u64,
        /// Number of the last message that stands in the log; `None` if there is none.
        end: Option<Sequence>,
    },
    /// The answer to [`NodeOutput::Ask`].
    Answered {
        /// Number of the question.
        ask: u64,
        /// Position of the proof. `None` if nobody can prove anything now.
        position: Option<Position>,
    },
    /// A message of the read with this number cannot be read: it is of a kind that is not known
    /// here, or is no entry.
    Unreadable {
        /// Number of the read.
        read: u64,
    },
    /// A caller asks for a fence. Later fences have higher numbers.
    FenceWanted(FenceId),
    /// A caller does not wait for a fence any more.
    FenceDropped(FenceId),
    /// The time of [`Node::poll_timeout`] has come.
    TimePassed,
}

/// A request of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeOutput {
    /// Load a snapshot that is usable into the image.
    Load {
        /// Number of the load, for the answer.
        load: u64,
    },
    /// Read the log from the message `from` on, that one included. Messages of earlier reads are
    /// not wanted any more.
    Read {
        /// Number of the read, which its messages are handed in with.
        read: u64,
        /// First message to read.
        from: Sequence,
    },
    /// Ask whoever writes the log for a fence. Numbers begin at 1 when a process starts, so the
    /// answer must be addressed to this process.
    Ask {
        /// Number of the question, for the answer.
        ask: u64,
    },
    /// All that was committed before this fence was asked for is in the image.
    FenceReached(FenceId),
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Entered when the engine is lost.
    Disconnected,
    /// Entered when a snapshot was asked for.
    Loading,
    /// Entered when there was no usable snapshot, or loading one was of no use. Ends at the time.
    Waiting(Instant),
    /// Entered when the driver was asked to read.
    Reading,
}

/// A question that is on its way, or whose answer is waited for in the log.
#[derive(Debug, Clone, Copy)]
struct Ask {
    number: u64,
    /// The last fence that was asked for before the question was.
    covers: Option<FenceId>,
    /// The position of the answer.
    position: Option<Position>,
    /// When the node asks anew.
    until: Instant,
    /// The position of the image when the wait began.
    waits_from: Option<Position>,
}

/// Figures of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Snapshots that were loaded.
    pub loads: u64,
    /// Reads that went on from the last message.
    pub resumed: u64,
    /// Holes between messages.
    pub holes: u64,
    /// How often nothing that was known stood in the log any more.
    pub lost: u64,
    /// How often the rows were not those of the writer.
    pub differing: u64,
    /// Messages that could not be read.
    pub unreadable: u64,
}

/// Follows a log.
#[derive(Debug)]
pub struct Node {
    follower: Follower,
    limits: NodeLimits,
    rules: Rules,
    /// Whether the node asks for fences, so that it can be live. A relay that stands by does not.
    asks_for_fences: bool,
    phase: Phase,
    /// The number of the last read.
    read: u64,
    /// The number of the last load.
    load: u64,
    /// The number of the last question.
    asked: u64,
    ask: Option<Ask>,
    /// The fences that callers wait for, in the order in which they asked.
    fences: VecDeque<FenceId>,
    /// Whether a fence was reached that this node has asked for since the last read began.
    is_fresh: bool,
    /// Until when the last proof counts.
    proven_until: Option<Instant>,
    /// The last message that was seen when the log was found to go on behind that message.
    stalled_at: Option<Sequence>,
    /// How many loads in a row have not led to the log's end.
    failed_loads: u32,
    /// The log's end at the first look since the last load.
    end_since_load: Option<Sequence>,
    /// The last message that was seen when there was a hole, and how often in a row.
    hole_at: Option<Sequence>,
    holes_there: u32,
    /// The wait before the next load.
    backoff: Backoff,
    random: SplitMix,
    /// Whether the last message of the log was seen, when the log's end was last heard of.
    is_at_end: bool,
    counters: NodeCounters,
    outputs: VecDeque<NodeOutput>,
}

impl Node {
    /// Returns a node without an image. `seed` decides the random part of waits, which keeps nodes
    /// apart that have lost one engine.
    pub fn new(limits: NodeLimits, seed: u64) -> Self {
        Self {
            follower: Follower::default(),
            limits,
            rules: Rules::default(),
            asks_for_fences: true,
            phase: Phase::Disconnected,
            read: 0,
            load: 0,
            asked: 0,
            ask: None,
            fences: VecDeque::new(),
            is_fresh: false,
            proven_until: None,
            stalled_at: None,
            failed_loads: 0,
            end_since_load: None,
            hole_at: None,
            holes_there: 0,
            backoff: Backoff::default(),
            random: SplitMix::new(seed),
            is_at_end: false,
            counters: NodeCounters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Returns a node that follows the log in order to write on, and never asks for fences.
    pub fn standing_by(limits: NodeLimits, seed: u64) -> Self {
        Self {
            asks_for_fences: false,
            ..Self::new(limits, seed)
        }
    }

    /// Disables rules, at most three.
    #[cfg(any(test, feature = "simulation"))]
    pub fn disable(&mut self, rules: &[Rule]) {
        self.rules = Rules::without_all(rules);
        self.follower = self.follower.clone().with_rules(self.rules);
    }

    /// Returns the rules by which messages are taken, with the messages that they have seen.
    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Returns the figures.
    pub fn counters(&self) -> NodeCounters {
        self.counters
    }

    /// Returns whether the rows are the image of a position at or after the last fence that this
    /// node has asked for (I3), and a proof has come in time.
    pub fn is_live(&self, now: Instant) -> bool {
        let is_fresh = self.is_fresh || !self.rules.keeps(Rule::OwnFence);
        let is_timely = self.proven_until.is_some_and(|until| now < until);
        self.phase == Phase::Reading && is_fresh && is_timely && self.follower.is_proven()
    }

    /// Returns whether the image is exact, and the log's end was seen.
    pub fn is_at_end(&self) -> bool {
        self.phase == Phase::Reading && self.is_at_end && self.follower.is_exact()
    }

    /// Returns whether nobody can follow the log as it is: there is no usable snapshot, or each one
    /// leads to a term that has none.
    ///
    /// Whoever writes next must begin anew. Without the second case:
    /// 1. A relay begins anew, and is killed before its snapshot is put.
    /// 2. The snapshots of the term before are usable. Whoever loads one reads up to the new
    ///    `begin`, and loads again.
    /// 3. No relay that stands by ever reaches the log's end, so none writes.
    pub fn cannot_follow(&self) -> bool {
        /// A relay that dies at a bad moment must not cost everybody a snapshot.
        const ENOUGH: u32 = 3;
        self.failed_loads >= ENOUGH && self.phase != Phase::Reading
    }

    /// Returns the next request.
    pub fn poll(&mut self) -> Option<NodeOutput> {
        self.outputs.pop_front()
    }

    /// Returns when [`NodeInput::TimePassed`] is to be said.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = match self.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Disconnected | Phase::Loading | Phase::Reading => None,
        };
        let ask = self.ask.map(|ask| ask.until);
        let proof = self.proven_until.filter(|_| self.is_fresh);
        [retry, ask, proof].into_iter().flatten().min()
    }

    /// Takes an event.
    pub fn handle(&mut self, input: NodeInput, now: Instant) {
        match input {
            NodeInput::Connected => self.read_again(),
            NodeInput::Disconnected => {
                self.phase = Phase::Disconnected;
                self.forget_answers();
            }
            NodeInput::Loaded { load, snapshot } if load == self.load => {
                self.loaded(snapshot, now);
            }
            NodeInput::Loaded { .. } => {}
            NodeInput::End { read, end } => {
                if read == self.read && self.phase == Phase::Reading {
                    self.end_is(end, now);
                }
            }
            NodeInput::Unreadable { read } => {
                if read == self.read && self.phase == Phase::Reading {
                    self.counters.unreadable += 1;
                    self.load_failed(now);
                }
            }
            NodeInput::Answered { ask, position } => self.answered(ask, position),
            NodeInput::FenceWanted(fence) => self.fences.push_back(fence),
            NodeInput::FenceDropped(fence) => self.fences.retain(|waiting| *waiting != fence),
            NodeInput::TimePassed => self.time_passed(now),
        }
        self.check_ask(now);
    }

    /// Takes a message of the read with this number. Messages of earlier reads are ignored.
    pub fn message(
        &mut self,
        read: u64,
        sequence: Sequence,
        entry: &Entry,
        image: &mut impl Image,
        now: Instant,
    ) {
        if self.phase != Phase::Reading || read != self.read {
            return;
        }
        // A process that was stopped for an hour finds old messages in its buffers when it goes on.
        // The time that a proof counts must be over before one of them is taken.
        self.end_overdue(now);
        match self.follower.take(sequence, entry, image) {
            Took::Applied => {
                if matches!(entry.body, Body::Proof(_)) && self.follower.is_proven() {
                    self.proven_until = Some(now + self.limits.patience);
                }
                self.check_caught_up();
            }
            Took::Ignored => {}
            Took::Hole => self.hole(now),
            Took::Lost => self.lost(now),
            Took::Differs => {
                self.counters.differing += 1;
                self.load_failed(now);
            }
        }
        self.check_ask(now);
    }

    /// Begins to read, from the last message that was seen. Loads a snapshot if there is no image.
    fn read_again(&mut self) {
        self.forget_answers();
        self.follower.read_again();
        match self.follower.read_from() {
            Some(from) => {
                self.counters.resumed += 1;
                self.start_read(from);
            }
            None => self.ask_for_snapshot(),
        }
    }

    fn start_read(&mut self, from: Sequence) {
        self.phase = Phase::Reading;
        self.is_at_end = false;
        self.stalled_at = None;
        self.read += 1;
        self.outputs.push_back(NodeOutput::Read {
            read: self.read,
            from,
        });
    }

    /// Reads again from the last message that was seen, since the next one is missing.
    ///
    /// An engine that has lost a message in the middle never sends that message, however often the
    /// log is read. A snapshot from behind the hole helps.
    fn hole(&mut self, now: Instant) {
        /// A message may be dropped again on its way.
        const ENOUGH: u32 = 5;
        self.counters.holes += 1;
        let seen = self.follower.seen_sequence();
        self.holes_there = if self.hole_at == seen {
            self.holes_there + 1
        } else {
            1
        };
        self.hole_at = seen;
        if self.holes_there < ENOUGH {
            return self.read_again();
        }
        self.hole_at = None;
        self.lost(now);
    }

    /// Gives the image up: the log is another one.
    fn lost(&mut self, now: Instant) {
        self.counters.lost += 1;
        self.load_failed(now);
    }

    /// Gives the image up. Loads a snapshot, after a while if loading was of no use before.
    ///
    /// Without the wait:
    /// 1. A relay begins anew, and writes a snapshot, which takes seconds.
    /// 2. A thousand nodes load the snapshot from before, read up to the new `begin`, and load
    ///    again, as fast as the network goes.
    /// 3. The relay's snapshot waits behind all of that.
    fn load_failed(&mut self, now: Instant) {
        self.failed_loads += 1;
        if self.failed_loads == 1 {
            return self.ask_for_snapshot();
        }
        self.give_up_image();
        self.phase = Phase::Waiting(now + self.backoff.next(self.random.share()));
    }

    /// Notes that loading has helped, once the log's end is reached as of the first look at it
    /// since.
    fn check_caught_up(&mut self) {
        let seen = self.follower.seen_sequence();
        let is_past = self.end_since_load.is_some() && seen >= self.end_since_load;
        if self.is_at_end() || (is_past && self.follower.is_exact()) {
            self.failed_loads = 0;
            self.backoff.reset();
        }
    }

    fn give_up_image(&mut self) {
        self.end_since_load = None;
        self.forget_answers();
        self.follower = Follower::default().with_rules(self.rules);
    }

    fn ask_for_snapshot(&mut self) {
        self.give_up_image();
        self.phase = Phase::Loading;
        self.load += 1;
        self.outputs.push_back(NodeOutput::Load { load: self.load });
    }

    fn loaded(&mut self, snapshot: Option<SnapshotPlace>, now: Instant) {
        let Some(snapshot) = snapshot else {
            self.failed_loads += 1;
            self.phase = Phase::Waiting(now + self.backoff.next(self.random.share()));
            return;
        };
        self.counters.loads += 1;
        self.follower = Follower::of_snapshot(&snapshot).with_rules(self.rules);
        if let Some(from) = self.follower.read_from() {
            self.start_read(from);
        }
    }

    /// Rule::OwnFence: forgets the answer that is waited for, and the proofs of fences. Callers
    /// go on waiting, and are asked for anew.
    fn forget_answers(&mut self) {
        self.is_fresh = false;
        self.proven_until = None;
        self.ask = None;
    }

    /// Takes word of the log's last message.
    fn end_is(&mut self, end: Option<Sequence>, now: Instant) {
        let end = end.unwrap_or_default();
        let is_overlap_due = self.follower.read_from() == self.follower.seen_sequence();
        let seen = self.follower.seen_sequence();
        if self.follower.is_ahead_of(end) {
            // Rule::Overlap. To read again helps only if the message that was seen is in question,
            // and not if the end of a snapshot is gone.
            if is_overlap_due || seen <= Some(end) {
                self.lost(now);
            } else if self.stalled_at == seen {
                self.read_again();
            } else {
                // The message may have come since the end was asked for. The next word will tell.
                self.stalled_at = seen;
            }
            return;
        }
        self.is_at_end = seen == Some(end);
        self.end_since_load.get_or_insert(end);
        self.check_caught_up();
        // Messages may be on their way. If none has come since the last word of the end, none is.
        let is_stalled = seen.is_some() && self.stalled_at == seen;
        let is_behind = seen < Some(end) || is_overlap_due;
        if is_behind && is_stalled && self.rules.keeps(Rule::Silence) {
            self.read_again();
        } else {
            self.stalled_at = seen.filter(|_| is_behind);
        }
    }

    /// Takes the answer to a question.
    fn answered(&mut self, number: u64, position: Option<Position>) {
        if let Some(ask) = &mut self.ask
            && (ask.number == number || !self.rules.keeps(Rule::Answers))
            // Nobody can prove anything now: the node asks anew when the time is over.
            && position.is_some()
        {
            ask.position = position;
        }
    }

    fn time_passed(&mut self, now: Instant) {
        self.end_overdue(now);
        if let Some(ask) = &mut self.ask
            && ask.until <= now
        {
            // A reader that is behind gets to the answer in time. To ask anew would put the answer
            // further behind, again and again. An answer of another term may never come: the relay
            // gives the position before the proof is stored.
            let position = self.follower.position();
            let is_in_front = ask
                .position
                .zip(position)
                .is_some_and(|(answer, at)| answer.has(&at));
            let is_nearer = is_in_front && position != ask.waits_from;
            if is_nearer {
                ask.waits_from = position;
                ask.until = now + self.limits.ask_timeout;
            } else {
                self.ask = None;
            }
        }
        if matches!(self.phase, Phase::Waiting(until) if until <= now) {
            self.ask_for_snapshot();
        }
    }

    /// Ends the proofs of fences, if no proof has come for too long. Forgets a question that should
    /// have been asked anew long ago: the process was stopped, and the answer is as old as that.
    fn end_overdue(&mut self, now: Instant) {
        let is_overdue = self.proven_until.is_some_and(|until| until <= now);
        let is_old = self
            .ask
            .is_some_and(|ask| ask.until + self.limits.patience <= now);
        if is_overdue || is_old {
            self.forget_answers();
        }
    }

    /// Ends the wait for an answer whose position is reached, and asks the next question.
    fn check_ask(&mut self, now: Instant) {
        if self.phase != Phase::Reading {
            return;
        }
        if let Some(Ask {
            covers,
            position: Some(answer),
            ..
        }) = self.ask
            && let Some(position) = self.follower.position()
        {
            if position.has(&answer) && self.follower.is_proven() {
                self.is_fresh = true;
                while self.fences.front().copied() <= covers
                    && let Some(fence) = self.fences.pop_front()
                {
                    self.outputs.push_back(NodeOutput::FenceReached(fence));
                }
                self.ask = None;
            } else if position.epoch.number > answer.epoch.number {
                // The term of the answer is over, and its proof will not come.
                self.ask = None;
            }
        }
        let is_wanted = !self.fences.is_empty() || !self.is_fresh;
        if self.asks_for_fences && is_wanted && self.ask.is_none() {
            self.asked += 1;
            self.ask = Some(Ask {
                number: self.asked,
                covers: self.fences.back().copied(),
                position: None,
                until: now + self.limits.ask_timeout,
                waits_from: self.follower.position(),
            });
            self.outputs.push_back(NodeOutput::Ask { ask: self.asked });
        }
    }
}
