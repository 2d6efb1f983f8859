//! [`World`]: one run of the simulation. One seeded generator decides everything that happens.
//!
//! ```text
//!            statements, DDL                   Input
//!  step ──→ Server ─── queue (L) ───→ driver ────────→ Engine
//!              ↑                      │ ↑  │              │
//!              └─── tasks (F and Q) ──┘ │  └→ Cache       │
//!                                       └──── Output ─────┘
//! ```
//!
//! - [`driver`]: carries out the engine's outputs.
//! - [`tasks`]: the statements that the driver waits for, and their answers.
//! - [`cache`]: a cache behind its lock.
//! - [`faults`]: losses, late answers, forged payloads.
//! - [`freezes`]: somebody who asks for digests at a cut.
//! - [`checks`]: the conditions that each step must meet.

mod cache;
mod checks;
mod driver;
mod faults;
mod freezes;
mod tasks;

pub use faults::Wrong;

use crate::server::{CHANNEL, Rows, Seen, Sent, Server, TABLES};
use cache::{Cache, Model};
use checks::HeldFence;
use driver::{Fate, KnownTable};
use fastrand::Rng;
use freezes::CONTROL;
use postgres_index_cache_core::tooling::sync::{
    AuxConnection, Counters, Engine, FenceId, Input, Limits, State, TableSpec,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tasks::Task;

const FENCES: &str = "fences";

/// How often each event of a run has happened that the engine does not count itself.
#[derive(Debug, Default)]
pub struct Statistics {
    pub fences_checked: u64,
    /// TRUNCATEs that spared rows.
    pub spared: u64,
    /// Answers of connections that were gone.
    pub late: u64,
    /// NOTIFYs of fences that commits blocked.
    pub blocked: u64,
    /// Tables that DDL rewrote or redefined.
    pub altered: u64,
    /// Tables that could not be followed for a while.
    pub held: u64,
    /// Tables that were followed on by another relation.
    pub swapped: u64,
    pub failed_looks: u64,
    pub misfits: u64,
    /// Reopenings of Q that reached another server.
    pub misplaced: u64,
    /// Side reads whose session was proven.
    pub side_reads: u64,
    /// Side reads whose session was lost, refused or not proven.
    pub side_lost: u64,
    /// Side reads that Q has made, since their session was not open yet.
    pub side_late: u64,
    /// Sessions of side reads that reached another server.
    pub side_misplaced: u64,
    /// Times that there was no memory for what waited.
    pub short: u64,
    /// Comparisons whose cache was compared.
    pub compared: u64,
    pub inconclusive: u64,
    /// Frozen caches that were compared with their snapshot.
    pub frozen: u64,
    /// Rows that were open in them.
    pub open_rows: u64,
    /// Frozen caches that were not compared.
    pub unfrozen: u64,
    /// Transactions of which the engine said that a cache has them, known by their notifications.
    pub heard: u64,
    /// The same, known by a snapshot in front of a fence.
    pub seen_ended: u64,
    /// Questions for digests that were made up.
    pub forged: u64,
    /// Changes that were withheld from the node.
    pub withheld: u64,
    /// Frozen caches in which a withheld change was found.
    pub withheld_found: u64,
}

pub struct World {
    random: Rng,
    now: Instant,
    engine: Engine,
    pub server: Server,
    /// The number of this node, among those of its server.
    node: usize,
    /// The place in the server's queue up to which L has received; `None` if L does not listen.
    heard: Option<usize>,
    /// The rows of which a change was withheld from this node; `None` if none is.
    withheld: Option<BTreeSet<(usize, u8)>>,
    /// Whether faults are few.
    is_gentle: bool,
    wrong: Option<Wrong>,
    /// Every output of the engine, as text, if somebody asked for that.
    outputs: Option<Vec<String>>,
    caches: Vec<Cache>,
    held_fences: Vec<HeldFence>,
    /// What the driver knows of each table.
    followed: [KnownTable; TABLES.len()],
    tasks: Vec<Task>,
    /// The tasks of connections that are gone. The answers of some come all the same.
    late_tasks: Vec<Task>,
    /// The keys and rows of each batch that waits for `Output::Store`.
    refetched: HashMap<u64, (Vec<u8>, Rows)>,
    /// The generation of each table's last read.
    last_generation: HashMap<usize, u64>,
    /// The snapshot of the first read, with `Fault::SnapshotBeforeListen` alone.
    before_listen: Option<Seen>,
    /// The state of another server, which lags behind.
    lagging: Seen,
    /// Whether Q is connected to that other server.
    is_misplaced: bool,
    /// How many sessions of side reads have sent a token.
    side_tokens: u64,
    /// The tokens of side reads that L has heard.
    side_heard: BTreeSet<String>,
    /// The latest value that a reader has seen of each key since its table was last stale: the
    /// commit, and the place in the transaction.
    newest: BTreeMap<(usize, u8), (u64, usize)>,
    /// The number of commits when each token was asked for.
    asked: HashMap<String, u64>,
    /// For each table the number of commits when the first fence was asked for that has come since
    /// the table was read.
    first_heard: [Option<u64>; TABLES.len()],
    /// Whether each table has been read since it was live.
    was_read: [bool; TABLES.len()],
    /// The number of commits when each fence was asked for.
    fences: HashMap<u64, u64>,
    next_fence: u64,
    next_question: u64,
    /// The last fence that is reached for each table.
    reached: [u64; TABLES.len()],
    pub statistics: Statistics,
    model: Model,
    fate: Fate,
    /// The difference that the comparison underway has found.
    differs: Option<String>,
    /// The snapshot of the comparison underway.
    cut: Option<Seen>,
    /// Whether load and faults are over.
    is_quiet: bool,
}

impl World {
    /// Runs a seed to its end and returns every output of the engine, in order.
    pub fn outputs_of(seed: u64) -> Vec<String> {
        let mut world = Self::new(seed, None);
        world.outputs = Some(Vec::new());
        world
            .run()
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        world.outputs.unwrap_or_default()
    }

    pub fn new(seed: u64, wrong: Option<Wrong>) -> Self {
        let mut random = Rng::with_seed(seed);
        let fault = match wrong {
            Some(Wrong::Fault(fault)) => Some(fault),
            Some(Wrong::Rule(_)) | None => None,
        };
        let tables: Vec<TableSpec> = (0..TABLES.len())
            .map(|table| driver::spec(table, table))
            .collect();
        let mut limits = Limits::default();
        // Longer than a run takes: losses are drawn from the seed, not timed out.
        limits.probe_timeout = Duration::from_secs(1000);
        limits.fence_timeout = Duration::from_secs(1000);
        // One run of five has so little room that changes are dropped and tables read again.
        limits.waiting_bytes = if random.u8(0..5) == 0 { 2_000 } else { 1 << 20 };
        limits.heartbeat = Duration::from_secs(5);
        limits.reconnect = true;
        limits.watch_ddl = true;
        limits.side_reads = random.usize(0..3);
        let mut engine = Engine::new(tables, vec![CHANNEL.into()], FENCES.into(), limits);
        if let Some(Wrong::Rule(rule)) = wrong {
            engine = engine.without(rule);
        }
        let model = if random.u8(0..4) == 0 {
            Model::Most
        } else {
            Model::All
        };
        let is_gentle = random.u8(0..4) == 0;
        let server = Server::new(&mut random, fault);
        let lagging = server.see();
        Self {
            random,
            now: Instant::now(),
            engine,
            server,
            node: 0,
            heard: None,
            withheld: None,
            is_gentle,
            wrong,
            outputs: None,
            caches: TABLES.iter().map(|_| Cache::default()).collect(),
            held_fences: Vec::new(),
            followed: std::array::from_fn(KnownTable::new),
            tasks: Vec::new(),
            late_tasks: Vec::new(),
            refetched: HashMap::new(),
            last_generation: HashMap::new(),
            before_listen: None,
            lagging,
            is_misplaced: false,
            side_tokens: 0,
            side_heard: BTreeSet::new(),
            newest: BTreeMap::new(),
            asked: HashMap::new(),
            first_heard: [None; TABLES.len()],
            was_read: [false; TABLES.len()],
            fences: HashMap::new(),
            next_fence: 0,
            next_question: 0,
            reached: [0; TABLES.len()],
            statistics: Statistics::default(),
            model,
            fate: Fate::NeverLive,
            differs: None,
            cut: None,
            is_quiet: false,
        }
    }

    pub fn has_given_up(&self) -> bool {
        self.fate == Fate::GivenUp
    }

    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// Returns the node with this number, of several.
    pub fn node(seed: u64, node: usize) -> Self {
        let mut world = Self::new(seed, None);
        world.node = node;
        world.is_gentle = true;
        world
    }

    /// Withholds changes from this node from now on, so that its caches become wrong.
    pub fn withhold(&mut self) {
        self.withheld = Some(BTreeSet::new());
    }

    /// Lets the engine begin.
    pub fn begin(&mut self) -> Result<(), String> {
        self.handle(Input::TimePassed)
    }

    /// Runs load and faults, then lets everything come to rest, when the caches must be equal to
    /// the tables. The error says which check failed.
    pub fn run(&mut self) -> Result<(), String> {
        self.begin()?;
        for _ in 0..self.random.usize(300..1500) {
            self.step()?;
            if self.has_given_up() {
                return Ok(());
            }
        }
        self.calm()?;
        for _ in 0..3000 {
            self.step()?;
            if self.is_at_rest() {
                return self.check_equal();
            }
        }
        Err(format!(
            "it never comes to rest: {:?}, {:?}",
            self.engine, self.tasks
        ))
    }

    /// Returns whether everything that was written is in the caches, and they are live.
    pub fn is_at_rest(&self) -> bool {
        let last = self.next_fence;
        self.is_quiet
            && self.reached.iter().all(|reached| *reached >= last)
            && self.engine.state() == State::Live
    }

    /// Ends load and faults.
    pub fn calm(&mut self) -> Result<(), String> {
        self.is_quiet = true;
        while self.server.open() > 0 {
            self.server.commit(0);
        }
        // A table whose trigger stayed disabled, or whose model refuses a row, would be stale for
        // ever.
        self.server.mend_all();
        self.model = Model::All;
        for table in 0..TABLES.len() {
            self.unlock(table)?;
        }
        // That Q is on another server would be found out by a timeout, and a run is too short.
        if self.is_misplaced {
            self.lose_one(AuxConnection::Reads)?;
        }
        // A last fence: without one, a change that is still in the queue would not be waited for.
        self.ask_for_fence()
    }

    /// Lets one random thing happen, and checks the caches. In the quiet phase neither writers nor
    /// faults are chosen.
    pub fn step(&mut self) -> Result<(), String> {
        let open = self.server.open();
        let choice = if self.is_quiet {
            self.random.u8(60..95)
        } else {
            self.random.u8(0..100)
        };
        match choice {
            0..8 if open < 3 => self.server.begin(),
            8..40 if open > 0 => {
                let at = self.random.usize(0..open);
                self.server.write(&mut self.random, at);
            }
            40..43 if open > 0 => self.server.savepoint(self.random.usize(0..open)),
            43..46 if open > 0 => self.server.rollback_to(self.random.usize(0..open)),
            46..58 if open > 0 => self.server.commit(self.random.usize(0..open)),
            58..60 if open > 0 => self.server.rollback(self.random.usize(0..open)),
            60..75 => {
                for _ in 0..self.random.usize(1..6) {
                    self.deliver()?;
                }
            }
            75..90 => self.advance_task()?,
            90..94 => self.pass_time()?,
            94 => self.late_answer()?,
            // In a gentle run most tables are live most of the time.
            95..100 if self.is_gentle && self.random.u8(0..8) != 0 => {}
            95..100 => self.disturb(choice)?,
            _ => {}
        }
        if !self.is_quiet && self.random.u8(0..30) == 0 {
            self.ask_to_freeze()?;
        }
        // The other server replays what was committed now and then.
        if self.random.u8(0..60) == 0 {
            self.lagging = self.server.see();
        }
        if self.random.u8(0..4) == 0 {
            self.check_transaction()?;
        }
        self.check_seen()
    }

    /// Returns the next notification of the queue that is for this node.
    fn next_sent(&mut self) -> Option<Sent> {
        let heard = self.heard.as_mut()?;
        loop {
            let sent = self.server.sent.get(*heard)?;
            *heard += 1;
            if sent.node.is_none_or(|node| node == self.node) {
                return Some(sent.clone());
            }
        }
    }

    /// Hands in the next notification of the queue.
    fn deliver(&mut self) -> Result<(), String> {
        let Some(sent) = self.next_sent() else {
            return Ok(());
        };
        match sent.channel.as_str() {
            CONTROL => self.take_question(&sent.payload),
            CHANNEL if self.is_withheld(&sent.payload) => Ok(()),
            FENCES if sent.payload.starts_with("side.") => {
                self.side_heard.insert(sent.payload);
                Ok(())
            }
            channel => self.handle(Input::Notification {
                channel,
                payload: &sent.payload,
                sender: sent.sender,
            }),
        }
    }

    /// Returns whether nothing is left in the queue for this node.
    fn has_heard_all(&self) -> bool {
        let Some(heard) = self.heard else {
            return true;
        };
        let is_own = |sent: &Sent| sent.node.is_none_or(|node| node == self.node);
        !self.server.sent[heard..].iter().any(is_own)
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let most = if self.random.bool() { 50 } else { 6_000 };
        self.now += Duration::from_millis(self.random.u64(0..most));
        // The engine takes a deadline for missed only when L has nothing more: a fence that is
        // still in the queue has arrived in time.
        if self.has_heard_all() {
            self.handle(Input::TimePassed)
        } else {
            Ok(())
        }
    }

    fn ask_for_fence(&mut self) -> Result<(), String> {
        self.next_fence += 1;
        self.fences.insert(self.next_fence, self.server.commits);
        let fence = FenceId(self.next_fence);
        if self.random.bool() {
            return self.handle(Input::FenceWanted(fence));
        }
        let is_repeated = self.random.bool();
        self.handle(Input::TransactionWanted { fence, is_repeated })
    }
}
