//! [`World`]: the server, the engine, and what stands between them, driven by a seed. What must hold is checked after
//! each step.

use crate::server::{CHANNEL, Fault, KEYS, Rows, Seen, Server, TABLES};
use fastrand::Rng;
use postgres_index_cache_core::sync::{
    Change, Counters, Engine, FenceId, Followed, Input, Limits, Operation, Output, Rule, State, TableId, Via,
};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

const FENCES: &str = "fences";

/// What is made wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Rule(Rule),
    Fault(Fault),
}

/// What the driver is doing.
#[derive(Debug, Clone)]
enum Task {
    /// The LISTEN is to be committed.
    Connect {
        before: Seen,
    },
    /// F or Q is to be opened again.
    Reopen {
        via: Via,
    },
    Notify {
        via: Via,
        token: String,
    },
    /// A NOTIFY that is committed and not acknowledged.
    Acknowledge {
        token: String,
    },
    Read {
        table: TableId,
        generation: u64,
        stage: Stage,
    },
    Refetch {
        table: TableId,
        batch: u64,
        keys: Vec<u8>,
        seen: Option<Seen>,
    },
    /// The snapshot of a round is to be taken.
    Cut {
        table: TableId,
        round: u64,
    },
    /// The cache is to be compared with it.
    Compare {
        table: TableId,
        round: u64,
    },
}

/// What is to be done to a cache.
#[derive(Debug)]
enum Doing {
    Store(Vec<u8>, Rows),
    Apply(Change),
    Clear(Vec<String>),
}

/// A cache that readers may lock.
#[derive(Debug, Default)]
struct Cache {
    rows: Rows,
    is_locked: bool,
    /// What waits for the lock.
    pending: Vec<Doing>,
    /// Whether the engine knows that it does.
    is_busy: bool,
}

impl Cache {
    fn apply(&mut self, doing: Doing) {
        let key = |text: &str| -> u8 { text.parse().expect("keys are numbers") };
        match doing {
            Doing::Store(keys, rows) => {
                self.rows.retain(|key, _| !keys.contains(key));
                self.rows.extend(rows);
            }
            Doing::Clear(keep) => self.rows.retain(|key, _| keep.contains(&key.to_string())),
            Doing::Apply(change) => {
                if let (Operation::ReplaceKey, Some(old)) = (change.operation(), change.old_id()) {
                    self.rows.remove(&key(old));
                }
                match change.data() {
                    Some(data) => self.rows.insert(key(change.id()), data.parse().expect("values are numbers")),
                    None => self.rows.remove(&key(change.id())),
                };
            }
        }
    }
}

/// How far a read is.
#[derive(Debug, Clone)]
enum Stage {
    Asked,
    /// The snapshot is taken and not told.
    Taken(Seen),
    /// The rows that are still to come.
    Rows {
        rest: Vec<(u8, u32)>,
        laid: Vec<u8>,
    },
}

pub struct World {
    random: Rng,
    now: Instant,
    engine: Engine,
    server: Server,
    wrong: Option<Wrong>,
    caches: Vec<Cache>,
    /// Fences that are reached once what waits for locks is done.
    held_fences: Vec<u64>,
    tasks: Vec<Task>,
    /// Answers of connections that are gone; they come all the same.
    late_tasks: Vec<Task>,
    refetched: HashMap<u64, (Vec<u8>, Rows)>,
    last_generation: HashMap<usize, u64>,
    before_listen: Option<Seen>,
    /// What a server that lags behind has, and whether Q has been opened on it by mistake.
    lagging: Seen,
    is_misplaced: bool,
    /// The latest that was seen of each key since it was last stale.
    newest: BTreeMap<(usize, u8), (u64, usize)>,
    /// When each token was sent, in commits; and of the first that came since the tables were read.
    sent: HashMap<String, u64>,
    first_heard: Option<u64>,
    /// Whether a table has been read since it was live.
    was_read: bool,
    /// When each fence was asked for, in commits.
    fences: HashMap<u64, u64>,
    next_fence: u64,
    pub fences_checked: u64,
    pub spared: u64,
    pub late: u64,
    pub blocked: u64,
    pub altered: u64,
    pub misplaced: u64,
    /// How often there was no memory for what waited.
    pub short: u64,
    /// The rounds whose caches were compared, and those that did not count.
    pub compared: u64,
    pub inconclusive: u64,
    /// What the round that is underway compares with.
    cut: Option<Seen>,
    is_quiet: bool,
}

impl World {
    pub fn new(seed: u64, wrong: Option<Wrong>) -> Self {
        let mut random = Rng::with_seed(seed);
        let fault = match wrong {
            Some(Wrong::Fault(fault)) => Some(fault),
            Some(Wrong::Rule(_)) | None => None,
        };
        let followed = TABLES.map(|kind| Followed {
            schema: "s".into(),
            name: kind.name.into(),
            oid: kind.oid,
            leaves: kind.leaves.to_vec(),
            is_partitioned: !kind.leaves.is_empty(),
            deferrable_key: kind.deferrable,
            sends_plain_form: kind.plain,
            sends_whole_rows: true,
        });
        let limits = Limits {
            probe_timeout: Duration::from_secs(1000),
            fence_timeout: Duration::from_secs(1000),
            waiting_bytes: if random.u8(0..5) == 0 { 2_000 } else { 1 << 20 },
            heartbeat: Duration::from_secs(5),
            heals: true,
        };
        let mut engine = Engine::new(followed.into(), vec![CHANNEL.into()], FENCES.into(), limits);
        if let Some(Wrong::Rule(rule)) = wrong {
            engine = engine.without(rule);
        }
        let server = Server::new(&mut random, fault);
        let lagging = server.see();
        Self {
            random,
            now: Instant::now(),
            engine,
            server,
            wrong,
            caches: TABLES.iter().map(|_| Cache::default()).collect(),
            held_fences: Vec::new(),
            tasks: Vec::new(),
            late_tasks: Vec::new(),
            refetched: HashMap::new(),
            last_generation: HashMap::new(),
            before_listen: None,
            lagging,
            is_misplaced: false,
            newest: BTreeMap::new(),
            sent: HashMap::new(),
            first_heard: None,
            was_read: false,
            fences: HashMap::new(),
            next_fence: 0,
            fences_checked: 0,
            spared: 0,
            late: 0,
            blocked: 0,
            altered: 0,
            misplaced: 0,
            short: 0,
            compared: 0,
            inconclusive: 0,
            cut: None,
            is_quiet: false,
        }
    }

    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// Runs load and faults, then lets it come to rest, when the caches must be the tables.
    pub fn run(&mut self) -> Result<(), String> {
        self.handle(Input::TimePassed)?;
        for _ in 0..self.random.usize(300..1500) {
            self.step()?;
        }
        self.is_quiet = true;
        while self.server.open() > 0 {
            self.server.commit(0);
        }
        for table in 0..TABLES.len() {
            self.unlock(table)?;
        }
        if self.is_misplaced {
            self.lose_one(Via::Reads)?;
        }
        self.ask_for_fence()?;
        let last = self.next_fence;
        for _ in 0..3000 {
            self.step()?;
            if !self.fences.contains_key(&last) && self.engine.state() == State::Live {
                return self.check_equal();
            }
        }
        Err(format!("it never comes to rest: {:?}, {:?}", self.engine, self.tasks))
    }

    fn check_equal(&self) -> Result<(), String> {
        for (table, rows) in self.server.tables().iter().enumerate() {
            if self.caches[table].rows != *rows {
                return Err(format!("table {table} is {rows:?}, its cache {:?}", self.caches[table]));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let open = self.server.open();
        let choice = if self.is_quiet { self.random.u8(60..95) } else { self.random.u8(0..100) };
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
            95 => self.ask_for_fence()?,
            96 if self.random.u8(0..3) == 0 => self.lose("a fault")?,
            96 if self.random.bool() => {
                let via = if self.random.bool() { Via::Fences } else { Via::Reads };
                self.lose_one(via)?;
            }
            96 => {
                let table = TableId(self.random.usize(0..TABLES.len()));
                self.handle(Input::VerifyWanted { table })?;
            }
            97 if self.random.u8(0..5) == 0 => {
                self.short += u64::from(self.engine.waiting_bytes() > 0);
                self.handle(Input::MemoryShort)?;
            }
            97 => self.forge(),
            99 => {
                let table = self.random.usize(0..TABLES.len());
                if self.caches[table].is_locked {
                    self.unlock(table)?;
                } else {
                    self.caches[table].is_locked = true;
                }
            }
            98 if self.random.u8(0..3) == 0 => {
                let table = TableId(self.random.usize(0..TABLES.len()));
                // A fingerprint may differ for nothing, and does after DDL.
                if self.random.bool() {
                    self.altered += u64::from(self.server.alter(table.0));
                }
                self.handle(Input::TableAltered { table, why: "a fingerprint".into() })?;
            }
            _ => {}
        }
        if self.random.u8(0..60) == 0 {
            self.lagging = self.server.see();
        }
        self.check_seen()
    }

    fn deliver(&mut self) -> Result<(), String> {
        match self.server.queue.pop_front() {
            Some((channel, payload)) => self.handle(Input::Notification { channel: &channel, payload: &payload }),
            None => Ok(()),
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let most = if self.random.bool() { 50 } else { 6_000 };
        self.now += Duration::from_millis(self.random.u64(0..most));
        // Deadlines count when L has nothing more.
        if self.server.queue.is_empty() { self.handle(Input::TimePassed) } else { Ok(()) }
    }

    fn ask_for_fence(&mut self) -> Result<(), String> {
        self.next_fence += 1;
        self.fences.insert(self.next_fence, self.server.commits);
        self.handle(Input::FenceWanted(FenceId(self.next_fence)))
    }

    /// A reader lets go of a cache: what waits is done, and the engine told.
    fn unlock(&mut self, table: usize) -> Result<(), String> {
        let cache = &mut self.caches[table];
        cache.is_locked = false;
        for doing in std::mem::take(&mut cache.pending) {
            cache.apply(doing);
        }
        if std::mem::take(&mut cache.is_busy) {
            self.handle(Input::CacheFree { table: TableId(table) })?;
        }
        self.check_held()
    }

    /// Fences behind what waited for a lock are reached once it is done.
    fn check_held(&mut self) -> Result<(), String> {
        let is_done = self.caches.iter().all(|cache| cache.pending.is_empty() && !cache.is_busy);
        if is_done && self.engine.state() == State::Live {
            let held = std::mem::take(&mut self.held_fences);
            held.into_iter().try_for_each(|id| self.check_fence(id))?;
        }
        Ok(())
    }

    fn lose(&mut self, why: &str) -> Result<(), String> {
        self.server.is_listening = false;
        self.server.queue.clear();
        self.handle(Input::Lost(why.into()))
    }

    fn lose_one(&mut self, via: Via) -> Result<(), String> {
        self.handle(Input::OneLost { via, why: "a fault".into() })
    }

    /// What F or Q was doing when it was lost.
    fn drop_tasks_of(&mut self, lost: Via) {
        for task in std::mem::take(&mut self.tasks) {
            match task {
                // It may have been committed all the same.
                Task::Notify { via, token } if via == lost => {
                    if self.random.bool() {
                        self.send(via, &token);
                    }
                }
                Task::Acknowledge { .. } if lost == Via::Fences => {}
                Task::Read { .. } | Task::Refetch { .. } | Task::Cut { .. } | Task::Compare { .. }
                    if lost == Via::Reads =>
                {
                    self.late_tasks.push(task);
                }
                other => self.tasks.push(other),
            }
        }
    }

    fn send(&mut self, via: Via, token: &str) {
        self.sent.insert(token.to_string(), self.server.commits);
        if !(self.is_misplaced && via == Via::Reads) {
            self.server.notify(FENCES, token);
        }
    }

    /// What Q sees.
    fn see(&self) -> Seen {
        if self.is_misplaced { self.lagging.clone() } else { self.server.see() }
    }

    /// What any role may send, and what must change nothing.
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
        self.server.notify(FENCES, "fences.1");
    }

    /// One of the things that the driver waits for happens.
    fn advance_task(&mut self) -> Result<(), String> {
        if self.tasks.is_empty() {
            return Ok(());
        }
        let at = self.random.usize(0..self.tasks.len());
        match self.tasks.swap_remove(at) {
            Task::Connect { before } => {
                if !self.is_quiet && self.random.u8(0..6) == 0 {
                    let why = "starting up".to_string();
                    return self.handle(Input::ConnectFailed { code: None, why, is_permanent: false });
                }
                self.before_listen = (self.wrong == Some(Wrong::Fault(Fault::SnapshotBeforeListen))).then_some(before);
                self.server.is_listening = true;
                self.handle(Input::Listening)
            }
            Task::Notify { via, token } => {
                if via == Via::Fences && self.random.u8(0..20) == 0 && !self.is_quiet {
                    self.blocked += 1;
                    return self.handle(Input::SendBlocked { token: &token });
                }
                self.send(via, &token);
                self.tasks.push(Task::Acknowledge { token });
                Ok(())
            }
            Task::Reopen { via } if !self.is_quiet && self.random.u8(0..4) == 0 => {
                let (code, why) = (None, "too many connections".to_string());
                self.handle(Input::ReopenFailed { via, code, why, is_permanent: false })
            }
            Task::Reopen { via } => {
                if via == Via::Reads {
                    self.is_misplaced = !self.is_quiet && self.random.u8(0..3) == 0;
                    self.misplaced += u64::from(self.is_misplaced);
                }
                self.handle(Input::Reopened { via })
            }
            Task::Acknowledge { token } => self.handle(Input::Sent { token: &token }),
            Task::Read { table, generation, stage } => self.advance_read(table, generation, stage),
            Task::Refetch { table, batch, keys, seen } => self.advance_refetch(table, batch, keys, seen),
            Task::Cut { table, round } => {
                if !self.is_quiet && self.random.u8(0..40) == 0 {
                    return self.handle(Input::RoundFailed { table, round, why: "a lock is held".into() });
                }
                let seen = self.see();
                let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
                self.cut = Some(seen);
                self.handle(Input::CutTaken { table, round, snapshot })
            }
            Task::Compare { table, round } => {
                if !self.is_quiet && self.random.u8(0..4) != 0 {
                    // It takes a while.
                    self.tasks.push(Task::Compare { table, round });
                    return Ok(());
                }
                let seen = self.cut.take().ok_or("a round compares without a snapshot")?;
                let (cached, stored) = (&self.caches[table.0].rows, &seen.tables[table.0]);
                if cached != stored {
                    return Err(format!("round {round} finds {cached:?} where the table was {stored:?}"));
                }
                self.compared += 1;
                self.handle(Input::Compared { table, round })
            }
        }
    }

    fn advance_read(&mut self, table: TableId, generation: u64, stage: Stage) -> Result<(), String> {
        if self.caches[table.0].is_locked && matches!(stage, Stage::Rows { .. }) {
            // Its rows wait for the lock, and Q with them.
            self.tasks.push(Task::Read { table, generation, stage });
            return Ok(());
        }
        if !self.is_quiet && self.random.u8(0..40) == 0 {
            let (code, why) = (None, "a lock is held".to_string());
            return self.handle(Input::ReadFailed { table, work: generation, code, why, is_permanent: false });
        }
        let stage = match stage {
            Stage::Asked => Stage::Taken(self.before_listen.take().unwrap_or_else(|| self.see())),
            Stage::Taken(seen) => {
                let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
                self.handle(Input::SnapshotTaken { table, generation, snapshot })?;
                let mut rest: Vec<(u8, u32)> = seen.tables[table.0].iter().map(|(&key, &value)| (key, value)).collect();
                self.random.shuffle(&mut rest);
                Stage::Rows { rest, laid: Vec::new() }
            }
            Stage::Rows { mut rest, mut laid } => {
                let is_asked = self.last_generation.get(&table.0) == Some(&generation);
                match rest.pop() {
                    Some((key, value)) => {
                        if is_asked {
                            self.caches[table.0].rows.insert(key, value);
                        }
                        laid.push(key);
                        Stage::Rows { rest, laid }
                    }
                    None => {
                        if is_asked {
                            self.caches[table.0].rows.retain(|key, _| laid.contains(key));
                        }
                        return self.handle(Input::SnapshotLoaded { table, generation });
                    }
                }
            }
        };
        self.tasks.push(Task::Read { table, generation, stage });
        Ok(())
    }

    fn advance_refetch(&mut self, table: TableId, batch: u64, keys: Vec<u8>, seen: Option<Seen>) -> Result<(), String> {
        if !self.is_quiet && self.random.u8(0..40) == 0 {
            let (code, why) = (None, "a lock is held".to_string());
            return self.handle(Input::ReadFailed { table, work: batch, code, why, is_permanent: false });
        }
        let Some(seen) = seen else {
            let seen = Some(self.see());
            self.tasks.push(Task::Refetch { table, batch, keys, seen });
            return Ok(());
        };
        self.answer_refetch(table, batch, keys, &seen)
    }

    fn answer_refetch(&mut self, table: TableId, batch: u64, keys: Vec<u8>, seen: &Seen) -> Result<(), String> {
        let rows = seen.tables[table.0].iter().filter(|(key, _)| keys.contains(key)).map(|(&key, &value)| (key, value));
        let rows = rows.collect();
        self.refetched.insert(batch, (keys, rows));
        let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
        self.handle(Input::Refetched { table, batch, snapshot })
    }

    /// What an old connection was asked for comes after all.
    fn late_answer(&mut self) -> Result<(), String> {
        match self.late_tasks.pop() {
            Some(Task::Refetch { table, batch, keys, seen: Some(seen) }) => {
                self.late += 1;
                self.answer_refetch(table, batch, keys, &seen)
            }
            Some(Task::Read { table, generation, stage: Stage::Rows { .. } }) => {
                self.late += 1;
                self.handle(Input::SnapshotLoaded { table, generation })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn handle(&mut self, input: Input<'_>) -> Result<(), String> {
        if let Input::Notification { channel: FENCES, payload } = &input
            && self.engine.state() == State::CatchingUp
            && self.was_read
        {
            self.first_heard = self.first_heard.or_else(|| self.sent.get(*payload).copied());
        }
        let mut claimed = None;
        self.engine.handle(input, self.now);
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Connect { channels } => {
                    if channels != [CHANNEL, FENCES] {
                        return Err(format!("it listens on {channels:?}"));
                    }
                    let before = self.server.see();
                    self.tasks.push(Task::Connect { before });
                }
                Output::OneLost { via, .. } => {
                    self.drop_tasks_of(via);
                    if via == Via::Reads {
                        self.is_misplaced = false;
                    }
                }
                Output::Reopen { via } => self.tasks.push(Task::Reopen { via }),
                Output::Notify { via, token, .. } => self.tasks.push(Task::Notify { via, token }),
                Output::ReadTable { table, generation } => {
                    self.last_generation.insert(table.0, generation);
                    self.tasks.push(Task::Read { table, generation, stage: Stage::Asked });
                }
                Output::Refetch { table, batch, keys, is_within_round } => {
                    let keys = keys.iter().map(|key| key.parse().expect("keys are numbers")).collect();
                    let seen = if is_within_round { self.cut.clone() } else { None };
                    self.tasks.push(Task::Refetch { table, batch, keys, seen });
                }
                Output::TakeCut { table, round } => self.tasks.push(Task::Cut { table, round }),
                Output::Compare { table, round } => self.tasks.push(Task::Compare { table, round }),
                Output::RoundEnded { inconclusive, .. } => {
                    self.inconclusive += u64::from(inconclusive.is_some());
                    // What is left of it is not waited for.
                    self.tasks.retain(|task| !matches!(task, Task::Cut { .. } | Task::Compare { .. }));
                    self.cut = None;
                }
                Output::Store { table, batch } => {
                    let (keys, rows) = self.refetched.remove(&batch).ok_or("a batch that never came is stored")?;
                    self.caches[table.0].pending.push(Doing::Store(keys, rows));
                }
                Output::Apply { table, change } => self.caches[table.0].pending.push(Doing::Apply(change)),
                Output::Clear { table, keep } => {
                    self.spared += u64::from(!keep.is_empty());
                    self.caches[table.0].pending.push(Doing::Clear(keep));
                }
                Output::FenceReached(FenceId(id)) => self.held_fences.push(id),
                Output::StateChanged(state) => {
                    // A cache that is locked is not stale: no reader may see time run backwards.
                    if !matches!(state, State::Live | State::CatchingUp) {
                        self.newest.clear();
                        self.first_heard = None;
                        self.was_read = true;
                    }
                    if state == State::Live {
                        self.was_read = false;
                        claimed = self.first_heard.take();
                    }
                }
                Output::CommitsBlocked | Output::ReadAgain { .. } => {}
                Output::Disconnected { failure, retry_in } => {
                    if retry_in.is_none() {
                        return Err(format!("it gave up: {failure}"));
                    }
                    self.server.is_listening = false;
                    self.server.queue.clear();
                    self.late_tasks.append(&mut self.tasks);
                    self.is_misplaced = false;
                    if self.engine.state() == State::Live {
                        return Err("it is live without a connection".to_string());
                    }
                }
            }
        }
        for table in 0..TABLES.len() {
            let cache = &mut self.caches[table];
            if !cache.is_locked {
                for doing in std::mem::take(&mut cache.pending) {
                    cache.apply(doing);
                }
            } else if !cache.pending.is_empty() && !std::mem::replace(&mut cache.is_busy, true) {
                self.handle(Input::CacheBusy { table: TableId(table) })?;
            }
        }
        if let Some(commit) = claimed.filter(|_| self.engine.state() == State::Live) {
            self.check_has(commit, "it is live")?;
        }
        self.check_held()
    }

    fn check_fence(&mut self, id: u64) -> Result<(), String> {
        let reached: Vec<u64> = self.fences.keys().copied().filter(|of| *of <= id).collect();
        let asked = reached.iter().filter_map(|of| self.fences.remove(of)).max().ok_or("a fence is reached twice")?;
        self.fences_checked += reached.len() as u64;
        if self.engine.state() != State::Live {
            return Err("a fence is reached and the replica is not live".to_string());
        }
        self.check_has(asked, &format!("fence {id} is reached"))
    }

    /// Everything that was committed before is in the caches: each key is as it was then, or later.
    fn check_has(&self, asked: u64, what: &str) -> Result<(), String> {
        for (&(table, key), history) in &self.server.history {
            let cached = self.caches[table].rows.get(&key).copied();
            let then = history.iter().rev().find(|(commit, _)| *commit <= asked).map_or((0, None), |last| *last);
            let is_then = cached == then.1;
            let is_later = match cached {
                Some(value) => self.server.committed.get(&value).is_some_and(|(commit, _)| *commit > asked),
                None => history.iter().any(|(commit, _)| *commit > asked),
            };
            if !is_then && !is_later {
                return Err(format!(
                    "{what}, as of commit {asked}: key {key} of table {table} was {:?} then and is {cached:?} in the cache; \
                     {history:?}",
                    then.1
                ));
            }
        }
        Ok(())
    }

    /// Nobody sees what was never committed, nor an older value after a newer one while it is live.
    fn check_seen(&mut self) -> Result<(), String> {
        for (table, cache) in self.caches.iter().enumerate() {
            for key in 0..KEYS {
                let Some(value) = cache.rows.get(&key) else { continue };
                let Some(&place) = self.server.committed.get(value) else {
                    return Err(format!("key {key} of table {table} is {value}, which was never committed"));
                };
                // What a snapshot has of the plain form cannot be told: it is applied once more until a fence has come.
                let is_held_to_it = match self.engine.state() {
                    State::CatchingUp => !TABLES[table].plain,
                    state => state == State::Live,
                };
                if !is_held_to_it {
                    continue;
                }
                let newest = self.newest.entry((table, key)).or_insert(place);
                if place < *newest {
                    return Err(format!("key {key} of table {table} goes back from {newest:?} to {place:?}"));
                }
                *newest = place;
            }
        }
        Ok(())
    }
}
