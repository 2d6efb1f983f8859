//! [`World`]: one run. Its seed alone decides who does something next, and what breaks.

use crate::broker::{Append, Broker};
use crate::reader::{PATIENCE, Reader, Stepped};
use crate::relay::Relay;
use crate::rows::Rows;
use crate::server::{Question, Server};
use postgres_index_cache_core::tooling::log::{Body, NodeInput, Position, Rule, Writer};
use postgres_index_cache_core::tooling::sync::FenceId;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

const NODES: usize = 4;
const RELAYS: usize = 2;
/// Steps in which things break.
const STEPS: u32 = 2500;
/// Steps after them, in which all nodes must become live.
const CALM_STEPS: u32 = 12_000;
/// The time that a step takes.
const STEP: Duration = Duration::from_millis(10);

/// Why a run has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// A node has shown wrong rows as live, or behind a fence.
    Wrong(String),
    /// Nothing breaks any more, and a node does not become live.
    NotLive(String),
}

/// How often things have happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Statistics {
    pub commits: u64,
    pub begun: u64,
    pub resets: u64,
    pub resumed_writers: u64,
    pub deferrals: u64,
    pub in_parts: u64,
    pub parts_abandoned: u64,
    pub published_deferred: u64,
    pub stepped_down: u64,
    pub recoveries: u64,
    pub refused: u64,
    pub stored_late: u64,
    pub rollbacks: u64,
    pub wipes: u64,
    pub cuts: u64,
    pub snapshots: u64,
    pub dropped_snapshots: u64,
    pub answers_lost: u64,
    pub quiet_losses: u64,
    pub images_compared: u64,
    pub crashes: u64,
    pub gaps: u64,
    pub dropped: u64,
    pub flips: u64,
    pub stops: u64,
    pub loads: u64,
    pub resumed: u64,
    pub holes: u64,
    pub lost: u64,
    pub differing: u64,
    pub fences: u64,
    pub live_steps: u64,
}

impl Statistics {
    /// Adds the figures of a writer whose term is over.
    pub fn add_writer(&mut self, writer: &Writer) {
        let counters = writer.counters();
        self.resets += counters.resets;
        self.resumed_writers += counters.resumed;
        self.deferrals += counters.deferred;
        self.in_parts += counters.in_parts;
    }

    fn add_reader(&mut self, reader: &Reader) {
        let counters = reader.node.counters();
        self.loads += counters.loads;
        self.resumed += counters.resumed;
        self.holes += counters.holes;
        self.lost += counters.lost;
        self.differing += counters.differing;
    }
}

/// A node, and the facts that the checks need.
#[derive(Debug)]
pub struct TestedNode {
    pub reader: Reader,
    /// How often the node was started.
    pub started: u32,
    /// Answers to questions, which may come in any order.
    pub inbox: Vec<(u64, Position)>,
    is_stopped: bool,
    /// The last commit when each fence was asked for.
    fences: BTreeMap<u64, usize>,
    fence_count: u64,
    /// The last commit that a reader was shown. Rows must not go back while the node is live.
    shown: usize,
    /// The last commit when the node's last read began. A live node is not older.
    read_since: usize,
    /// The commit of the last proof that the node has taken, and when that was.
    proven: usize,
    proven_at: Option<Instant>,
    /// Whether a row was changed by a flipped bit, so that the rows are those of no position.
    is_flipped: bool,
    /// Whether the last entry that the node has taken is a part with others to come.
    awaits_part: bool,
}

impl TestedNode {
    fn new(started: u32, shown: usize, without: &[Rule], seed: u64) -> Self {
        Self {
            reader: Reader::new(false, without, seed),
            started,
            inbox: Vec::new(),
            is_stopped: false,
            fences: BTreeMap::new(),
            fence_count: 0,
            shown,
            read_since: 0,
            proven: 0,
            proven_at: None,
            is_flipped: false,
            awaits_part: false,
        }
    }
}

impl TestedNode {
    /// Returns whether the node is live with these rows, and each of its fences was reached.
    fn is_live_with(&self, rows: &Rows, now: Instant) -> bool {
        self.reader.node.is_live(now) && self.reader.rows == *rows && self.fences.is_empty()
    }
}

/// One run.
#[derive(Debug)]
pub struct World {
    pub random: fastrand::Rng,
    pub now: Instant,
    pub server: Server,
    pub broker: Broker,
    pub relays: Vec<Relay>,
    pub nodes: Vec<TestedNode>,
    /// Entries on their way to the broker, in order.
    pub net: VecDeque<Append>,
    /// Entries that were sent on connections that are gone.
    pub late: Vec<Append>,
    /// The commit up to which each proof proves.
    pub proofs: HashMap<Position, usize>,
    /// The rows of each position, as the first reader had them that was there.
    images: HashMap<Position, Rows>,
    pub without: &'static [Rule],
    /// Whether nothing breaks any more.
    pub is_calm: bool,
    pub statistics: Statistics,
}

impl World {
    /// Returns a run from this seed. Without `compares` the broker appends whatever comes.
    pub fn new(seed: u64, without: &'static [Rule], compares: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let relays = (0..RELAYS).map(|_| Relay::new(without, random.u64(..)));
        let relays = relays.collect();
        let nodes = (0..NODES).map(|_| TestedNode::new(0, 0, without, random.u64(..)));
        let nodes = nodes.collect();
        Self {
            random,
            now: Instant::now(),
            server: Server::new(RELAYS),
            broker: Broker::new(compares),
            relays,
            nodes,
            net: VecDeque::new(),
            late: Vec::new(),
            proofs: HashMap::new(),
            images: HashMap::new(),
            without,
            is_calm: false,
            statistics: Statistics::default(),
        }
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Result<(), Failed> {
        for _ in 0..STEPS {
            self.step().map_err(Failed::Wrong)?;
        }
        self.is_calm = true;
        self.broker.is_up = true;
        self.late.clear();
        for relay in &mut self.relays {
            relay.is_paused = false;
        }
        for node in &mut self.nodes {
            node.is_stopped = false;
        }
        for _ in 0..CALM_STEPS {
            self.step().map_err(Failed::Wrong)?;
            if self.are_all_live() {
                self.sum_up();
                return Ok(());
            }
        }
        Err(Failed::NotLive(self.what_is_not_live()))
    }

    fn sum_up(&mut self) {
        for relay in 0..RELAYS {
            self.end_term(relay);
        }
        for node in &self.nodes {
            self.statistics.add_reader(&node.reader);
        }
    }

    fn are_all_live(&self) -> bool {
        let rows = self.server.rows();
        self.nodes
            .iter()
            .all(|node| node.is_live_with(rows, self.now))
    }

    fn what_is_not_live(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| {
                let is_live = node.reader.node.is_live(self.now);
                let is_equal = node.reader.rows == *self.server.rows();
                format!("live {is_live}, equal {is_equal}: {:?}", node.reader)
            })
            .collect();
        format!(
            "not all nodes are live in the end.\n{}\nrelays: {:#?}\nlog ends at {:?}",
            nodes.join("\n"),
            self.relays,
            self.broker.end()
        )
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += STEP;
        match self.random.u8(0..100) {
            0..18 if !self.is_calm => {
                self.server.commit(&mut self.random);
                self.statistics.commits += 1;
            }
            18..45 => {
                let relay = self.random.usize(0..RELAYS);
                self.relay_step(relay);
            }
            45..65 if self.broker.is_up => {
                if let Some(append) = self.net.pop_front() {
                    self.store(&append, false);
                }
            }
            65..97 => {
                let node = self.random.usize(0..NODES);
                // Readers are faster than the writer in the end, or they would never catch up.
                let times = if self.is_calm { 4 } else { 1 };
                for _ in 0..times {
                    self.node_step(node)?;
                }
            }
            97 => self.broker.is_up = true,
            98 if !self.is_calm => self.fault(),
            _ => {}
        }
        Ok(())
    }

    /// Does one thing at a node, and checks the node.
    fn node_step(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].is_stopped {
            return Ok(());
        }
        // Whoever reads first after a stop must not be told that old rows are live.
        self.check_live(node)?;
        if !self.is_calm && self.random.u8(0..20) == 0 {
            self.want_fence(node)?;
        }
        let follower = &mut self.nodes[node];
        let stepped = if !follower.inbox.is_empty() && self.random.u8(0..3) == 0 {
            let at = self.random.usize(0..follower.inbox.len());
            let (ask, position) = follower.inbox.remove(at);
            let input = NodeInput::Answered {
                ask,
                position: Some(position),
            };
            follower.reader.answer(input, self.now)
        } else {
            let reader = &mut follower.reader;
            reader.step(&self.broker, &mut self.random, self.now)
        };
        self.stepped(node, stepped)?;
        self.check_live(node)
    }

    fn want_fence(&mut self, node: usize) -> Result<(), String> {
        let commit = self.server.commit_number();
        let follower = &mut self.nodes[node];
        follower.fence_count += 1;
        let fence = follower.fence_count;
        follower.fences.insert(fence, commit);
        let input = NodeInput::FenceWanted(FenceId(fence));
        let stepped = follower.reader.answer(input, self.now);
        self.stepped(node, stepped)
    }

    /// Carries out the requests of a node, and checks the fences that it calls reached.
    fn stepped(&mut self, node: usize, stepped: Stepped) -> Result<(), String> {
        self.statistics.dropped += u64::from(stepped.is_dropped);
        let commit = self.server.commit_number();
        let follower = &mut self.nodes[node];
        if stepped.has_begun {
            follower.read_since = commit;
        }
        if let Some(entry) = &stepped.message
            && matches!(entry.body, Body::Proof(_))
            && follower.reader.node.follower().position() == Some(entry.position)
            && let Some(proven) = self.proofs.get(&entry.position)
        {
            follower.proven = *proven;
            follower.proven_at = Some(self.now);
        }
        if let Some(entry) = &stepped.message
            && follower.reader.node.follower().position() == Some(entry.position)
        {
            let is_new_term = matches!(entry.body, Body::Begin { .. });
            self.statistics.parts_abandoned += u64::from(follower.awaits_part && is_new_term);
            follower.awaits_part = matches!(
                &entry.body,
                Body::Part(part) if part.number + 1 < part.count
            );
        }
        for FenceId(fence) in stepped.reached {
            self.statistics.fences += 1;
            let Some(since) = follower.fences.remove(&fence) else {
                return Err(format!("node {node}: fence {fence} is reached twice"));
            };
            let rows = &follower.reader.rows;
            if !self.server.history[since..].contains(rows) {
                return Err(format!(
                    "node {node}: a fence of commit {since} is reached with {rows:?}, now commit \
                    {commit}: {:?}",
                    self.server.rows()
                ));
            }
        }
        self.check_image(node)?;
        let started = self.nodes[node].started;
        for ask in stepped.asks {
            self.ask_relay(Question { node, started, ask });
        }
        Ok(())
    }

    /// Checks that all readers have one image at one position (I1).
    fn check_image(&mut self, node: usize) -> Result<(), String> {
        let follower = &mut self.nodes[node];
        let rules = follower.reader.node.follower();
        if follower.is_flipped || !rules.is_exact() {
            // A snapshot that is loaded has other rows.
            follower.is_flipped &= rules.position().is_some();
            return Ok(());
        }
        let Some(position) = rules.position() else {
            return Ok(());
        };
        let rows = &follower.reader.rows;
        self.statistics.images_compared += 1;
        let first = self.images.entry(position).or_insert_with(|| rows.clone());
        if first == rows {
            Ok(())
        } else {
            Err(format!(
                "node {node} has {rows:?} at {position}, another reader had {first:?}"
            ))
        }
    }

    /// Checks that a live node has the rows of a commit that is not older than its last proof,
    /// its question, or the rows that were shown.
    fn check_live(&mut self, node: usize) -> Result<(), String> {
        let follower = &mut self.nodes[node];
        if !follower.reader.node.is_live(self.now) {
            return Ok(());
        }
        self.statistics.live_steps += 1;
        let is_timely = follower
            .proven_at
            .is_some_and(|at| self.now < at + PATIENCE);
        if !is_timely {
            return Err(format!(
                "node {node} is live, and no proof has come for long"
            ));
        }
        let since = follower.shown.max(follower.proven).max(follower.read_since);
        let rows = &follower.reader.rows;
        let states = &self.server.history[since..];
        let Some(found) = states.iter().position(|state| state == rows) else {
            return Err(format!(
                "node {node} is live with {rows:?}: no state from commit {since} on (proven {}, \
                shown {}, read since {}); the last is {:?}",
                follower.proven,
                follower.shown,
                follower.read_since,
                self.server.rows()
            ));
        };
        follower.shown = since + found;
        Ok(())
    }

    /// Breaks something.
    fn fault(&mut self) {
        let relay = self.random.usize(0..RELAYS);
        let node = self.random.usize(0..NODES);
        match self.random.u8(0..16) {
            0 => self.crash(relay),
            1 => {
                let leads = self.relays[relay].lead.as_ref();
                if leads.is_some_and(crate::relay::Lead::listens) {
                    self.session_lost(relay);
                    self.relays[relay].reader.disconnect(self.now);
                }
            }
            // The relay does not know.
            2 => self.server.end_session(relay),
            3 => {
                self.relays[relay].is_paused = !self.relays[relay].is_paused;
                if self.relays[relay].is_paused && self.random.bool() {
                    self.server.end_session(relay);
                }
            }
            4 => {
                self.broker.is_up = false;
                self.lose_links();
            }
            5 => {
                self.statistics.rollbacks += 1;
                self.broker.lose_tail(self.random.usize(1..8));
                // A cluster that lost its leader may go on with its clients' connections.
                if self.random.bool() {
                    self.lose_links();
                } else {
                    self.statistics.quiet_losses += 1;
                }
            }
            6 if self.random.u8(0..6) == 0 => {
                self.statistics.wipes += 1;
                self.broker.wipe(self.random.bool());
                self.lose_links();
            }
            7 => {
                self.statistics.cuts += 1;
                let most = self.broker.log.len();
                self.broker.cut(self.random.usize(0..=most));
            }
            8 => self.nodes[node].reader.disconnect(self.now),
            9 => self.restart(node),
            10 => self.lose_link(relay),
            11 | 14 if !self.late.is_empty() && self.broker.is_up => {
                let at = self.random.usize(0..self.late.len());
                let append = self.late.remove(at);
                self.store(&append, true);
            }
            12 => {
                self.statistics.stops += 1;
                self.nodes[node].is_stopped = !self.nodes[node].is_stopped;
            }
            13 | 15 => self.flip_a_bit(node),
            _ => {}
        }
    }

    /// Kills a relay and starts it again.
    fn crash(&mut self, relay: usize) {
        self.statistics.crashes += 1;
        self.end_term(relay);
        self.drop_link(relay);
        let seed = self.random.u64(..);
        self.relays[relay].reader = Reader::new(true, self.without, seed);
        self.server.end_session(relay);
    }

    /// Kills a node and starts it again.
    fn restart(&mut self, node: usize) {
        let TestedNode { started, shown, .. } = self.nodes[node];
        let seed = self.random.u64(..);
        self.statistics.add_reader(&self.nodes[node].reader);
        self.nodes[node] = TestedNode::new(started + 1, shown, self.without, seed);
    }

    /// Loses all connections to the broker.
    fn lose_links(&mut self) {
        for relay in 0..RELAYS {
            self.lose_link(relay);
        }
        for node in &mut self.nodes {
            node.reader.disconnect(self.now);
        }
    }

    /// Changes a row of a node that has proven nothing yet.
    fn flip_a_bit(&mut self, node: usize) {
        let reader = &mut self.nodes[node].reader;
        let follower = reader.node.follower();
        // Nothing but the digest notices that, so a run without the digest and another rule would
        // fail for the digest's sake.
        let is_by_digest = self.without.contains(&Rule::Digest) && self.without.len() > 1;
        if follower.is_proven() || !follower.is_exact() || is_by_digest {
            return;
        }
        if let Some(data) = reader.rows.0.values_mut().next() {
            data.push(' ');
            self.nodes[node].is_flipped = true;
            self.statistics.flips += 1;
        }
    }
}
