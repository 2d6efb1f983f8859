//! [`World`]: the server, the engine, and what stands between them, driven by a seed. What must
//! hold is checked after each step.

use crate::server::{CHANNEL, Definitions, Fault, KEYS, Rows, Seen, Server, TABLES};
use fastrand::Rng;
use postgres_index_cache_core::sync::{
    AuxConnection, Change, Counters, Engine, FenceId, Input, Limits, Operation, Output, Rule,
    State, TableId, TableSpec,
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
        via: AuxConnection,
    },
    Notify {
        via: AuxConnection,
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
    /// The definitions are to be looked at, or were and it is to be told.
    Look {
        look: u64,
        seen: Option<Definitions>,
    },
    /// A table that was found to be another one is to be described afresh, or was.
    Describe {
        table: TableId,
        seen: Option<Definitions>,
    },
    /// The snapshot of a comparison is to be taken.
    Cut {
        table: TableId,
        comparison: u64,
    },
    /// The cache is to be compared with it.
    Compare {
        table: TableId,
        comparison: u64,
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
    /// Does one thing to the rows. A row that the model does not take is refused: nothing of it is
    /// done then.
    fn apply(&mut self, doing: Doing, model: Model) -> Result<(), Misfit> {
        let key = |text: &str| -> u8 { text.parse().expect("keys are numbers") };
        match doing {
            Doing::Store(_, rows) if rows.values().any(|value| !model.takes(*value)) => {
                return Err(Misfit);
            }
            Doing::Store(keys, rows) => {
                self.rows.retain(|key, _| !keys.contains(key));
                self.rows.extend(rows);
            }
            Doing::Clear(keep) => self.rows.retain(|key, _| keep.contains(&key.to_string())),
            Doing::Apply(change) => {
                let value = change
                    .data()
                    .map(|data| data.parse::<u32>().expect("values are numbers"));
                if value.is_some_and(|value| !model.takes(value)) {
                    return Err(Misfit);
                }
                if let (Operation::ReplaceKey, Some(old)) = (change.operation(), change.old_id()) {
                    self.rows.remove(&key(old));
                }
                match value {
                    Some(value) => self.rows.insert(key(change.id()), value),
                    None => self.rows.remove(&key(change.id())),
                };
            }
        }
        Ok(())
    }
}

/// A row that the application's model does not take.
#[derive(Debug, Clone, Copy)]
struct Misfit;

/// Which values an application's model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    All,
    /// Some make a table stale until they are gone, or the model takes them.
    Most,
}

impl Model {
    fn takes(self, value: u32) -> bool {
        self == Self::All || !value.is_multiple_of(19)
    }
}

/// What is known of a table that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    relation: usize,
    version: u64,
    files: u64,
    is_held: bool,
}

impl Known {
    /// Whether the relation is the one that was described, under its name.
    fn is_as_seen(&self, table: usize, seen: &Definitions, wrong: Option<Wrong>) -> bool {
        let is_named = seen.named[table] == self.relation
            || wrong == Some(Wrong::Fault(Fault::StaysWithRelation));
        is_named && seen.versions[self.relation] == self.version
    }
}

/// What the engine is told of a table that is this relation.
fn followed_as(table: usize, relation: usize) -> TableSpec {
    let kind = TABLES[relation];
    TableSpec {
        schema: "s".into(),
        name: TABLES[table].name.into(),
        oid: kind.oid,
        leaves: kind.leaves.to_vec(),
        is_partitioned: !kind.leaves.is_empty(),
        deferrable_key: kind.deferrable,
        sends_plain_form: kind.plain,
        sends_whole_rows: true,
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

/// What has become of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Not every table was live yet.
    NeverLive,
    WasLive,
    /// It gave up before it was live.
    GivenUp,
}

pub struct World {
    random: Rng,
    now: Instant,
    engine: Engine,
    server: Server,
    wrong: Option<Wrong>,
    caches: Vec<Cache>,
    /// Fences that are reached once what waits for locks is done, each with its table.
    held_fences: Vec<(usize, u64)>,
    /// The relation that is followed for each table, and what was known of it when it was described
    /// or read last.
    followed: [Known; TABLES.len()],
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
    /// When each token was asked for, in commits; and of the first that came since each table was
    /// read.
    asked: HashMap<String, u64>,
    first_heard: [Option<u64>; TABLES.len()],
    /// Whether each table has been read since it was live.
    was_read: [bool; TABLES.len()],
    /// When each fence was asked for, in commits.
    fences: HashMap<u64, u64>,
    next_fence: u64,
    next_question: u64,
    /// The last fence that is reached for each table.
    reached: [u64; TABLES.len()],
    pub fences_checked: u64,
    pub spared: u64,
    pub late: u64,
    pub blocked: u64,
    pub altered: u64,
    /// How often a table could not be followed, and how often one was followed by another relation.
    pub held: u64,
    pub swapped: u64,
    pub failed_looks: u64,
    model: Model,
    pub misfits: u64,
    fate: Fate,
    pub misplaced: u64,
    /// How often there was no memory for what waited.
    pub short: u64,
    /// The comparisons whose caches were compared, and those that did not count.
    pub compared: u64,
    pub inconclusive: u64,
    /// What the comparison of a comparison has found.
    differs: Option<String>,
    /// What the comparison that is underway compares with.
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
        let followed: Vec<TableSpec> = (0..TABLES.len())
            .map(|table| followed_as(table, table))
            .collect();
        let limits = Limits {
            probe_timeout: Duration::from_secs(1000),
            fence_timeout: Duration::from_secs(1000),
            waiting_bytes: if random.u8(0..5) == 0 { 2_000 } else { 1 << 20 },
            heartbeat: Duration::from_secs(5),
            reconnect: true,
            watch_ddl: true,
        };
        let mut engine = Engine::new(followed, vec![CHANNEL.into()], FENCES.into(), limits);
        if let Some(Wrong::Rule(rule)) = wrong {
            engine = engine.without(rule);
        }
        let model = if random.u8(0..4) == 0 {
            Model::Most
        } else {
            Model::All
        };
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
            followed: std::array::from_fn(|relation| Known {
                relation,
                version: 0,
                files: 0,
                is_held: false,
            }),
            tasks: Vec::new(),
            late_tasks: Vec::new(),
            refetched: HashMap::new(),
            last_generation: HashMap::new(),
            before_listen: None,
            lagging,
            is_misplaced: false,
            newest: BTreeMap::new(),
            asked: HashMap::new(),
            first_heard: [None; TABLES.len()],
            was_read: [false; TABLES.len()],
            fences: HashMap::new(),
            next_fence: 0,
            next_question: 0,
            reached: [0; TABLES.len()],
            fences_checked: 0,
            spared: 0,
            late: 0,
            blocked: 0,
            altered: 0,
            held: 0,
            swapped: 0,
            failed_looks: 0,
            model,
            misfits: 0,
            fate: Fate::NeverLive,
            misplaced: 0,
            short: 0,
            compared: 0,
            inconclusive: 0,
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

    /// Runs load and faults, then lets it come to rest, when the caches must be the tables.
    pub fn run(&mut self) -> Result<(), String> {
        self.handle(Input::TimePassed)?;
        for _ in 0..self.random.usize(300..1500) {
            self.step()?;
            if self.has_given_up() {
                return Ok(());
            }
        }
        self.is_quiet = true;
        while self.server.open() > 0 {
            self.server.commit(0);
        }
        self.server.mend_all();
        self.model = Model::All;
        for table in 0..TABLES.len() {
            self.unlock(table)?;
        }
        if self.is_misplaced {
            self.lose_one(AuxConnection::Reads)?;
        }
        self.ask_for_fence()?;
        let last = self.next_fence;
        for _ in 0..3000 {
            self.step()?;
            if self.reached.iter().all(|reached| *reached >= last)
                && self.engine.state() == State::Live
            {
                return self.check_equal();
            }
        }
        Err(format!(
            "it never comes to rest: {:?}, {:?}",
            self.engine, self.tasks
        ))
    }

    fn check_equal(&self) -> Result<(), String> {
        for (table, relation) in self.server.definitions.named.iter().enumerate() {
            let rows = &self.server.tables()[*relation];
            if self.caches[table].rows != *rows {
                return Err(format!(
                    "table {table} is {rows:?}, its cache {:?}",
                    self.caches[table]
                ));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
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
            95 => self.ask_for_fence()?,
            96 if self.random.u8(0..3) == 0 => self.lose("a fault")?,
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
            98 => match self.random.u8(0..10) {
                // Nothing tells of what DDL does: a look finds it.
                0 => {
                    self.altered +=
                        u64::from(self.server.alter(self.random.usize(0..TABLES.len())));
                }
                1 => self.altered += u64::from(self.server.redefine(&mut self.random)),
                2..4 => {
                    // A fingerprint may differ for nothing.
                    let table = TableId(self.random.usize(0..TABLES.len()));
                    self.handle(Input::TableAltered {
                        table,
                        why: "a fingerprint".into(),
                    })?;
                }
                _ => {}
            },
            _ => {}
        }
        if self.random.u8(0..60) == 0 {
            self.lagging = self.server.see();
        }
        self.check_seen()
    }

    fn deliver(&mut self) -> Result<(), String> {
        match self.server.queue.pop_front() {
            Some((channel, payload)) => self.handle(Input::Notification {
                channel: &channel,
                payload: &payload,
                sender: 1,
            }),
            None => Ok(()),
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let most = if self.random.bool() { 50 } else { 6_000 };
        self.now += Duration::from_millis(self.random.u64(0..most));
        // Deadlines count when L has nothing more.
        if self.server.queue.is_empty() {
            self.handle(Input::TimePassed)
        } else {
            Ok(())
        }
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
        self.do_pending(table)?;
        let cache = &mut self.caches[table];
        if std::mem::take(&mut cache.is_busy) {
            self.handle(Input::CacheFree {
                table: TableId(table),
            })?;
        }
        self.check_held()
    }

    /// Does what waits for a cache, and says what does not fit.
    fn do_pending(&mut self, table: usize) -> Result<(), String> {
        let cache = &mut self.caches[table];
        let misfits = std::mem::take(&mut cache.pending)
            .into_iter()
            .map(|doing| cache.apply(doing, self.model))
            .filter(Result::is_err)
            .count();
        if misfits == 0 || self.wrong == Some(Wrong::Fault(Fault::SwallowsMisfits)) {
            return Ok(());
        }
        self.misfits += 1;
        self.handle(Input::ChangeUnfit {
            table: TableId(table),
            why: "a row does not fit the model".into(),
            sender: None,
        })
    }

    /// Fences behind what waited for a lock are reached once it is done.
    fn check_held(&mut self) -> Result<(), String> {
        for (table, id) in std::mem::take(&mut self.held_fences) {
            let cache = &self.caches[table];
            let is_done = cache.pending.is_empty() && !cache.is_busy;
            if is_done && self.engine.table_state(TableId(table)) == State::Live {
                self.check_fence(table, id)?;
            } else {
                self.held_fences.push((table, id));
            }
        }
        Ok(())
    }

    fn lose(&mut self, why: &str) -> Result<(), String> {
        self.server.is_listening = false;
        self.server.queue.clear();
        self.handle(Input::Lost(why.into()))
    }

    fn lose_one(&mut self, via: AuxConnection) -> Result<(), String> {
        self.handle(Input::AuxConnectionLost {
            via,
            why: "a fault".into(),
        })
    }

    /// What F or Q was doing when it was lost.
    fn drop_tasks_of(&mut self, lost: AuxConnection) {
        for task in std::mem::take(&mut self.tasks) {
            match task {
                // It may have been committed all the same.
                Task::Notify { via, token } if via == lost => {
                    if self.random.bool() {
                        self.send(via, &token);
                    }
                }
                Task::Acknowledge { .. } if lost == AuxConnection::Fences => {}
                Task::Look { .. } if lost == AuxConnection::Fences => self.late_tasks.push(task),
                Task::Read { .. }
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

    fn send(&mut self, via: AuxConnection, token: &str) {
        if !(self.is_misplaced && via == AuxConnection::Reads) {
            self.server.notify(FENCES, token);
        }
    }

    /// What Q sees.
    fn see(&self) -> Seen {
        if self.is_misplaced {
            self.lagging.clone()
        } else {
            self.server.see()
        }
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
                    return self.handle(Input::ConnectFailed {
                        code: None,
                        why,
                        is_permanent: false,
                    });
                }
                self.before_listen = (self.wrong
                    == Some(Wrong::Fault(Fault::SnapshotBeforeListen)))
                .then_some(before);
                self.server.is_listening = true;
                self.handle(Input::Listening)
            }
            Task::Notify { via, token } => {
                if via == AuxConnection::Fences && self.random.u8(0..20) == 0 && !self.is_quiet {
                    self.blocked += 1;
                    return self.handle(Input::SendBlocked { token: &token });
                }
                self.send(via, &token);
                self.tasks.push(Task::Acknowledge { token });
                Ok(())
            }
            Task::Reopen { via } if !self.is_quiet && self.random.u8(0..4) == 0 => {
                let code = None;
                let why = "too many connections".to_string();
                self.handle(Input::ReopenFailed {
                    via,
                    code,
                    why,
                    is_permanent: false,
                })
            }
            Task::Reopen { via } => {
                if via == AuxConnection::Reads {
                    self.is_misplaced = !self.is_quiet && self.random.u8(0..3) == 0;
                    self.misplaced += u64::from(self.is_misplaced);
                }
                self.handle(Input::Reopened { via })
            }
            Task::Acknowledge { token } => self.handle(Input::Sent { token: &token }),
            Task::Read {
                table,
                generation,
                stage,
            } => self.advance_read(table, generation, stage),
            Task::Refetch {
                table,
                batch,
                keys,
                seen,
            } => self.advance_refetch(table, batch, keys, seen),
            Task::Look { look, seen } => self.advance_look(look, seen),
            Task::Describe { table, seen } => self.advance_describe(table, seen),
            Task::Cut { table, comparison } => {
                if !self.is_quiet && self.random.u8(0..40) == 0 {
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
            Task::Compare { table, comparison } => {
                if !self.is_quiet && self.random.u8(0..4) != 0 {
                    // It takes a while.
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
                // What is in doubt by the end of the comparison may differ: see `Output::ComparisonEnded`.
                self.differs = (cached != stored).then(|| {
                    format!(
                        "comparison {comparison} finds {cached:?} where the table was {stored:?}"
                    )
                });
                self.compared += 1;
                self.handle(Input::Compared { table, comparison })
            }
        }
    }

    fn advance_read(
        &mut self,
        table: TableId,
        generation: u64,
        stage: Stage,
    ) -> Result<(), String> {
        if self.caches[table.0].is_locked && matches!(stage, Stage::Rows { .. }) {
            // Its rows wait for the lock, and Q with them.
            self.tasks.push(Task::Read {
                table,
                generation,
                stage,
            });
            return Ok(());
        }
        if !self.is_quiet && self.random.u8(0..40) == 0 {
            let code = None;
            let why = "a lock is held".to_string();
            return self.handle(Input::ReadFailed {
                table,
                work: generation,
                code,
                why,
                is_permanent: false,
            });
        }
        let stage = match stage {
            Stage::Asked => Stage::Taken(self.before_listen.take().unwrap_or_else(|| self.see())),
            Stage::Taken(seen) => {
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
                Stage::Rows {
                    rest,
                    laid: Vec::new(),
                }
            }
            Stage::Rows { mut rest, mut laid } => {
                let is_asked = self.last_generation.get(&table.0) == Some(&generation);
                match rest.pop() {
                    Some((_, value)) if !self.model.takes(value) => {
                        self.misfits += 1;
                        let why = "a row does not fit the model".to_string();
                        return self.handle(Input::ReadFailed {
                            table,
                            work: generation,
                            code: None,
                            why,
                            is_permanent: false,
                        });
                    }
                    Some((key, value)) => {
                        if is_asked {
                            self.caches[table.0].rows.insert(key, value);
                        }
                        laid.push(key);
                        Stage::Rows { rest, laid }
                    }
                    None => {
                        if is_asked {
                            self.caches[table.0]
                                .rows
                                .retain(|key, _| laid.contains(key));
                        }
                        // It says how far apart reloads are, and no more: either is right.
                        let has_changed = self.random.bool();
                        return self.handle(Input::SnapshotLoaded {
                            table,
                            generation,
                            has_changed,
                        });
                    }
                }
            }
        };
        self.tasks.push(Task::Read {
            table,
            generation,
            stage,
        });
        Ok(())
    }

    fn advance_refetch(
        &mut self,
        table: TableId,
        batch: u64,
        keys: Vec<u8>,
        seen: Option<Seen>,
    ) -> Result<(), String> {
        if !self.is_quiet && self.random.u8(0..40) == 0 {
            let code = None;
            let why = "a lock is held".to_string();
            return self.handle(Input::ReadFailed {
                table,
                work: batch,
                code,
                why,
                is_permanent: false,
            });
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

    /// Whether a table is still what it was when it was described, as far as a read or a look has
    /// seen.
    fn is_as_known(&self, table: TableId, seen: &Definitions) -> bool {
        self.followed[table.0].is_as_seen(table.0, seen, self.wrong)
    }

    /// A table is another one than was thought: it cannot be followed until it is described afresh.
    fn hold(&mut self, table: TableId) -> Result<(), String> {
        if std::mem::replace(&mut self.followed[table.0].is_held, true) {
            return Ok(());
        }
        self.held += 1;
        self.tasks.push(Task::Describe { table, seen: None });
        self.handle(Input::TableHeld {
            table,
            why: "it is another one".into(),
        })
    }

    fn advance_look(&mut self, look: u64, seen: Option<Definitions>) -> Result<(), String> {
        if !self.is_quiet && self.random.u8(0..10) == 0 {
            self.failed_looks += 1;
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

    /// What a look has found is said before it is said to be done.
    fn answer_look(&mut self, look: u64, seen: &Definitions) -> Result<(), String> {
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
                // Every one has happened. Where that is not seen the table is read again, which is
                // right as well.
                let has_happened = self.random.u8(0..10) != 0;
                self.handle(Input::TruncateSeen {
                    table,
                    has_happened,
                })?;
            }
        }
        self.handle(Input::Looked { look })
    }

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
            // It is tried again until somebody has mended it.
            self.tasks.push(Task::Describe { table, seen: None });
            return Ok(());
        }
        self.swapped += u64::from(named != self.followed[table.0].relation);
        let version = seen.versions[named];
        let files = seen.files[named];
        self.followed[table.0] = Known {
            relation: named,
            version,
            files,
            is_held: false,
        };
        self.handle(Input::TableFollowed {
            table,
            followed: Box::new(followed_as(table.0, named)),
        })
    }

    fn answer_refetch(
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
            .map(|(&key, &value)| (key, value));
        let rows = rows.collect();
        self.refetched.insert(batch, (keys, rows));
        let snapshot = seen.snapshot.parse().map_err(|error| format!("{error}"))?;
        self.handle(Input::Refetched {
            table,
            batch,
            snapshot,
        })
    }

    /// What an old connection was asked for comes after all.
    fn late_answer(&mut self) -> Result<(), String> {
        match self.late_tasks.pop() {
            Some(Task::Refetch {
                table,
                batch,
                keys,
                seen: Some(seen),
            }) => {
                self.late += 1;
                self.answer_refetch(table, batch, keys, &seen)
            }
            Some(Task::Read {
                table,
                generation,
                stage: Stage::Rows { .. },
            }) => {
                self.late += 1;
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
                self.late += 1;
                self.answer_look(look, &seen)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Does what the engine asks for; `claimed` takes the tables that it says are live, each with
    /// the commit as of which.
    fn take_output(
        &mut self,
        output: Output,
        claimed: &mut Vec<(usize, u64)>,
    ) -> Result<(), String> {
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
                // A fence is as old as the question: what comes while it is on its way need not be
                // seen.
                self.asked
                    .entry(token.clone())
                    .or_insert(self.server.commits);
                self.tasks.push(Task::Notify { via, token });
            }
            Output::ReadTable { table, generation } => {
                self.last_generation.insert(table.0, generation);
                self.tasks.push(Task::Read {
                    table,
                    generation,
                    stage: Stage::Asked,
                });
            }
            Output::Refetch {
                table,
                batch,
                keys,
                is_within_comparison,
            } => {
                let keys = keys
                    .iter()
                    .map(|key| key.parse().expect("keys are numbers"))
                    .collect();
                let seen = if is_within_comparison {
                    self.cut.clone()
                } else {
                    None
                };
                self.tasks.push(Task::Refetch {
                    table,
                    batch,
                    keys,
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
            } => {
                if let (Some(differs), None, None) = (self.differs.take(), &inconclusive, doubt) {
                    return Err(differs);
                }
                self.inconclusive += u64::from(inconclusive.is_some());
                // What is left of it is not waited for.
                self.tasks
                    .retain(|task| !matches!(task, Task::Cut { .. } | Task::Compare { .. }));
                self.cut = None;
            }
            Output::Store { table, batch } => {
                let (keys, rows) = self
                    .refetched
                    .remove(&batch)
                    .ok_or("a batch that never came is stored")?;
                self.caches[table.0].pending.push(Doing::Store(keys, rows));
            }
            Output::Apply { table, change } => {
                self.caches[table.0].pending.push(Doing::Apply(change));
            }
            Output::Clear { table, keep } => {
                self.spared += u64::from(!keep.is_empty());
                self.caches[table.0].pending.push(Doing::Clear(keep));
            }
            Output::FenceReached {
                table,
                fence: FenceId(id),
            } => self.held_fences.push((table.0, id)),
            Output::Look { look } => self.tasks.push(Task::Look { look, seen: None }),
            Output::GiveUpRead { table: given_up } => {
                let is_of = |task: &Task| matches!(task, Task::Read { table, .. } | Task::Refetch { table, .. } if *table == given_up);
                self.late_tasks
                    .extend(self.tasks.extract_if(.., |task| is_of(task)));
            }
            Output::TableStateChanged {
                table: TableId(table),
                state,
            } => {
                // A cache that is locked is not stale: no reader may see time run backwards.
                if !matches!(state, State::Live | State::CatchingUp) {
                    self.newest.retain(|(of, _), _| *of != table);
                }
                if state == State::Snapshotting {
                    self.first_heard[table] = None;
                    self.was_read[table] = true;
                }
                if state == State::Live {
                    self.was_read[table] = false;
                    claimed.extend(self.first_heard[table].take().map(|commit| (table, commit)));
                }
            }
            Output::StateChanged(State::Live) => self.fate = Fate::WasLive,
            Output::StateChanged(_) | Output::CommitsBlocked | Output::ReadScheduled { .. } => {}
            Output::Disconnected { failure, retry_in } => {
                if retry_in.is_none() && self.fate == Fate::WasLive {
                    return Err(format!("it gave up, and was live once: {failure}"));
                }
                if retry_in.is_none() {
                    self.fate = Fate::GivenUp;
                }
                self.server.is_listening = false;
                self.server.queue.clear();
                // What describes a table has a connection of its own.
                let is_describing = |task: &Task| matches!(task, Task::Describe { .. });
                self.late_tasks
                    .extend(self.tasks.extract_if(.., |task| !is_describing(task)));
                self.is_misplaced = false;
                if self.engine.state() == State::Live {
                    return Err("it is live without a connection".to_string());
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, input: Input<'_>) -> Result<(), String> {
        if let Input::Notification {
            channel: FENCES,
            payload,
            ..
        } = &input
        {
            for table in 0..TABLES.len() {
                // A table that was read can be stale as well: while looks fail.
                let state = self.engine.table_state(TableId(table));
                if matches!(state, State::CatchingUp | State::Stale) && self.was_read[table] {
                    let heard = &mut self.first_heard[table];
                    *heard = heard.or_else(|| self.asked.get(*payload).copied());
                }
            }
        }
        let mut claimed: Vec<(usize, u64)> = Vec::new();
        self.engine.handle(input, self.now);
        while let Some(output) = self.engine.poll() {
            self.take_output(output, &mut claimed)?;
        }
        for table in 0..TABLES.len() {
            let cache = &mut self.caches[table];
            if !cache.is_locked {
                self.do_pending(table)?;
            } else if !cache.pending.is_empty() && !std::mem::replace(&mut cache.is_busy, true) {
                self.handle(Input::CacheBusy {
                    table: TableId(table),
                })?;
            }
        }
        for (table, commit) in claimed {
            if self.engine.table_state(TableId(table)) == State::Live {
                self.check_has(table, commit, "it is live")?;
            }
        }
        self.check_held()
    }

    fn check_fence(&mut self, table: usize, id: u64) -> Result<(), String> {
        if id <= self.reached[table] {
            return Err(format!("fence {id} is reached twice for table {table}"));
        }
        self.reached[table] = id;
        self.fences_checked += 1;
        let asked = *self
            .fences
            .get(&id)
            .ok_or("a fence is reached that nobody asked for")?;
        self.check_has(table, asked, &format!("fence {id} is reached"))
    }

    /// Everything that was committed before is in a cache: each key is as it was then, or later.
    /// The relation counts that had the table's name then, or later.
    fn check_has(&self, table: usize, asked: u64, what: &str) -> Result<(), String> {
        let then = self
            .server
            .names
            .iter()
            .rposition(|(commit, _)| *commit <= asked)
            .unwrap_or_default();
        let relations: Vec<usize> = self.server.names[then..]
            .iter()
            .map(|(_, named)| named[table])
            .collect();
        let mut why = String::new();
        for &relation in &relations {
            match self.check_is(table, relation, asked, what) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Nothing is said of a relation that was redefined later: until the next look what its trigger
    /// sends is believed.
    fn check_is(
        &self,
        table: usize,
        relation: usize,
        asked: u64,
        what: &str,
    ) -> Result<(), String> {
        if self
            .server
            .redefined
            .iter()
            .any(|(commit, of)| *of == relation && *commit > asked)
        {
            return Ok(());
        }
        for (&(of, key), history) in &self.server.history {
            if of != relation {
                continue;
            }
            let cached = self.caches[table].rows.get(&key).copied();
            let then = history
                .iter()
                .rev()
                .find(|(commit, _)| *commit <= asked)
                .map_or((0, None), |last| *last);
            let is_then = cached == then.1;
            let is_later = match cached {
                Some(value) => self
                    .server
                    .committed
                    .get(&value)
                    .is_some_and(|(commit, _)| *commit > asked),
                None => history.iter().any(|(commit, _)| *commit > asked),
            };
            if !is_then && !is_later {
                return Err(format!(
                    "{what}, as of commit {asked}: key {key} of table {table} (relation \
                    {relation}) was {:?} then and is \
                     {cached:?} in the cache; {history:?}",
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
                let Some(value) = cache.rows.get(&key) else {
                    continue;
                };
                let Some(&place) = self.server.committed.get(value) else {
                    return Err(format!(
                        "key {key} of table {table} is {value}, which was never committed"
                    ));
                };
                // What a snapshot has of the plain form cannot be told: it is applied once more
                // until a fence has come.
                let is_held_to_it = match self.engine.table_state(TableId(table)) {
                    State::CatchingUp => !TABLES[table].plain,
                    state => state == State::Live,
                };
                if !is_held_to_it {
                    continue;
                }
                let newest = self.newest.entry((table, key)).or_insert(place);
                if place < *newest {
                    return Err(format!(
                        "key {key} of table {table} goes back from {newest:?} to {place:?}"
                    ));
                }
                *newest = place;
            }
        }
        Ok(())
    }
}
