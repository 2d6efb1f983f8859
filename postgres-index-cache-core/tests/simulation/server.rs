//! [`Server`]: PostgreSQL as the engine can see it: transactions with their xids, snapshots, and
//! the queue of notifications.
//!
//! ```text
//!  write ─→ Transaction ── commit ─→ tables ─→ see: a snapshot with the rows
//!            rows, payloads       └→ queue of notifications, in commit order
//! ```
//!
//! Keys are small numbers, so that transactions meet. Every value that is ever written is another
//! number, so that a value tells when it was written.
//!
//! - [`tables`]: the tables, their definitions, and DDL.
//! - [`writes`]: the statements of writers, and the payloads that triggers send for them.
//! - [`packed`]: the same for statement triggers, which pack many rows into a payload.

mod packed;
mod tables;
mod writes;

pub use tables::{Definitions, TABLES};

use fastrand::Rng;
use postgres_index_cache_core::TransactionToken;
use std::collections::{BTreeMap, HashMap};

pub const CHANNEL: &str = "cache_invalidation";
pub const KEYS: u8 = 6;

/// The rows of a table: each key with its value.
pub type Rows = BTreeMap<u8, u32>;

/// A fault of the trigger or the driver, for the test that some seed finds each of them. The
/// numbered scenario is what the fault leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A trigger that sends the xid of the subtransaction.
    ///
    /// 1. T sets a savepoint and updates a row; the payload has the subtransaction's xid.
    /// 2. A read's snapshot is taken while T is open. The snapshot lists T's xid as running, and
    ///    not the subtransaction's, which thus passes for committed.
    /// 3. T commits. Its change is skipped as one that the read has: the cache keeps the old row.
    SubtransactionXid,
    /// A trigger that never sends `recheck`.
    ///
    /// 1. T inserts a row, and an AFTER trigger updates that row.
    /// 2. The update is announced first, then the insert with the older data.
    /// 3. Applied in that order, the cache keeps the inserted data.
    NoRecheck,
    /// A trigger whose payloads can be identical.
    ///
    /// 1. T deletes a key, inserts the key and deletes the key once more.
    /// 2. The two deletes have the same payload, and PostgreSQL keeps the first of two equal
    ///    payloads of a transaction.
    /// 3. The insert arrives last: the cache has a row that the table lacks.
    Folded,
    /// A table without a trigger for TRUNCATE.
    ///
    /// 1. T truncates the table, and nothing is announced.
    /// 2. A fence is reached, and the cache still has the rows.
    NoTruncate,
    /// A trigger that announces a key change by the update of the new key alone.
    ///
    /// 1. T changes a key from 1 to 2. The delete of key 1 is not sent.
    /// 2. The cache has a row under both keys.
    NewKeyAlone,
    /// A driver that takes the snapshot of the first read before LISTEN is committed.
    ///
    /// 1. The snapshot is taken.
    /// 2. T commits. Nobody listens, so T's notification is lost.
    /// 3. L listens, and the snapshot's rows are stored: no read and no change has T.
    SnapshotBeforeListen,
    /// A driver that follows a table whatever the table's trigger was made for.
    ///
    /// 1. A trigger is disabled, or the table gets another key.
    /// 2. A look finds that, and the table is held and described again.
    /// 3. The table is followed all the same: later writes are announced not at all or under wrong
    ///    keys, and fences are reached without them.
    AnyContract,
    /// A driver that stays with a relation when another one gets the name.
    ///
    /// 1. Two tables swap their names.
    /// 2. The cache of either name goes on with the rows of the relation that had the name before.
    StaysWithRelation,
    /// A driver that reads beside Q without waiting until L has heard the session.
    ///
    /// 1. The session of a side read leads to another server, which lags behind.
    /// 2. Rows of some time ago are stored, and the cache is called live.
    SideUnproven,
    /// A cache that passes over a row that the model refuses, and does not tell the engine.
    ///
    /// 1. T writes a row that the model refuses.
    /// 2. The cache keeps the state before T, and the next fence is reached.
    SwallowsMisfits,
}

/// The answer to a read.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The snapshot, as `pg_current_snapshot()` prints it.
    pub snapshot: String,
    /// The rows of each relation.
    pub tables: Vec<Rows>,
    pub definitions: Definitions,
}

/// The uncommitted work of a transaction.
#[derive(Debug, Clone, Default)]
struct Work {
    /// For each relation the keys that were written; `None` is a deleted row.
    rows: Vec<BTreeMap<u8, Option<u32>>>,
    payloads: Vec<String>,
    /// The values that were written, in order.
    written: Vec<u32>,
}

#[derive(Debug)]
struct Transaction {
    xid: u64,
    /// The xid of the innermost subtransaction that has written.
    subxid: u64,
    work: Work,
    /// The work and the `subxid` at each savepoint.
    savepoints: Vec<(Work, u64)>,
}

/// The state of a key after each commit that touched the key: the commit, and the value or `None`
/// for a deleted row.
type History = Vec<(u64, Option<u32>)>;

#[derive(Debug)]
pub struct Server {
    pub fault: Option<Fault>,
    next_xid: u64,
    next_value: u32,
    open: Vec<Transaction>,
    tables: Vec<Rows>,
    pub definitions: Definitions,
    /// The relation that has each name, from each commit on.
    pub names: Vec<(u64, [usize; TABLES.len()])>,
    /// The commits that redefined a relation, each with the relation.
    pub redefined: Vec<(u64, usize)>,
    /// The number of commits so far.
    pub commits: u64,
    /// The history of each key of each relation.
    pub history: HashMap<(usize, u8), History>,
    /// For each committed value the commit, and the value's place among those of its transaction.
    pub committed: HashMap<u32, (u64, usize)>,
    /// Every notification that was sent, in the order of the commits.
    pub sent: Vec<Sent>,
    /// The number of freezes that were asked for.
    pub freezes: u64,
    /// For each freeze, what its snapshot sees.
    pub cuts: HashMap<u64, Seen>,
    /// The snapshots that somebody has made up, by their freezes.
    pub made_up: HashMap<u64, String>,
    /// Every transaction of a writer that was begun, in order.
    pub begun: Vec<TransactionToken>,
    /// The relations that had another key than their triggers send, at each commit.
    pub rekeyed: HashMap<u64, [bool; TABLES.len()]>,
    /// The commit of each transaction that has ended, by its xid; `None` if it was rolled back.
    pub ended: HashMap<u64, Option<u64>>,
}

/// The server's process that sends what any role can send.
pub const STRANGER: i32 = 1;
/// The server's process that serves F and Q.
const FENCER: i32 = 2;
/// The first process that serves a writer.
const WRITER: i32 = 10;

/// A notification in the queue.
#[derive(Debug, Clone)]
pub struct Sent {
    pub channel: String,
    pub payload: String,
    /// The node that sent it, for a fence; `None` for what is for every node.
    pub node: Option<usize>,
    /// The server's process whose session sent it.
    pub sender: i32,
}

impl Server {
    pub fn new(random: &mut Rng, fault: Option<Fault>) -> Self {
        let mut server = Self {
            fault,
            next_xid: 100,
            next_value: 1,
            open: Vec::new(),
            tables: vec![Rows::new(); TABLES.len()],
            definitions: Definitions::new(),
            names: vec![(0, std::array::from_fn(|at| at))],
            redefined: Vec::new(),
            commits: 0,
            history: HashMap::new(),
            committed: HashMap::new(),
            sent: Vec::new(),
            freezes: 0,
            cuts: HashMap::new(),
            made_up: HashMap::new(),
            begun: Vec::new(),
            ended: HashMap::new(),
            rekeyed: HashMap::new(),
        };
        // Nobody listens yet: a snapshot alone can tell of these rows.
        for _ in 0..random.usize(0..4) {
            server.begin();
            server.write(random, 0);
            server.commit(0);
        }
        server
    }

    pub fn tables(&self) -> &[Rows] {
        &self.tables
    }

    /// Returns the relation that had each name as of a commit.
    pub fn named_at(&self, commit: u64) -> [usize; TABLES.len()] {
        let then = self.names.iter().rev().find(|(from, _)| *from <= commit);
        then.map_or_else(|| std::array::from_fn(|at| at), |(_, named)| *named)
    }

    /// Returns what a read sees that takes its snapshot now.
    pub fn see(&self) -> Seen {
        // Top-level transactions alone, as pg_current_snapshot() lists them. An xid below the
        // upper end that is not in the list passes for committed; see `Fault::SubtransactionXid`.
        let mut running: Vec<u64> = self
            .open
            .iter()
            .map(|transaction| transaction.xid)
            .collect();
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(self.next_xid);
        let list: Vec<String> = running.iter().map(u64::to_string).collect();
        Seen {
            snapshot: format!("{xmin}:{}:{}", self.next_xid, list.join(",")),
            tables: self.tables.clone(),
            definitions: self.definitions.clone(),
        }
    }

    /// Sends a notification in a transaction of its own, to every node.
    pub fn notify(&mut self, channel: &str, payload: &str) {
        self.send(channel, payload, None, STRANGER);
    }

    /// Sends a notification on a channel that `node` alone listens on.
    pub fn notify_node(&mut self, node: usize, channel: &str, payload: &str) {
        self.send(channel, payload, Some(node), FENCER);
    }

    fn send(&mut self, channel: &str, payload: &str, node: Option<usize>, sender: i32) {
        // PostgreSQL gives a transaction that notifies an xid.
        self.next_xid += 1;
        self.sent.push(Sent {
            channel: channel.to_string(),
            payload: payload.to_string(),
            node,
            sender,
        });
    }

    /// Returns the number of open transactions. They are named by their place, from 0.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    pub fn begin(&mut self) {
        self.next_xid += 1;
        let xid = self.next_xid - 1;
        // A few sessions, so that transactions of one session follow each other.
        let session = WRITER + i32::try_from(xid % 3).unwrap_or_default();
        self.begun.push(TransactionToken::new(xid, session));
        let work = Work {
            rows: vec![BTreeMap::new(); TABLES.len()],
            ..Work::default()
        };
        self.open.push(Transaction {
            xid,
            subxid: xid,
            work,
            savepoints: Vec::new(),
        });
    }

    pub fn savepoint(&mut self, at: usize) {
        self.next_xid += 1;
        let transaction = &mut self.open[at];
        transaction
            .savepoints
            .push((transaction.work.clone(), transaction.subxid));
        transaction.subxid = self.next_xid - 1;
    }

    pub fn rollback_to(&mut self, at: usize) {
        let transaction = &mut self.open[at];
        if let Some((work, subxid)) = transaction.savepoints.pop() {
            // The payloads go with the work: PostgreSQL drops the notifications of a subtransaction
            // that is rolled back.
            transaction.work = work;
            transaction.subxid = subxid;
        }
    }

    pub fn rollback(&mut self, at: usize) {
        let transaction = self.open.swap_remove(at);
        self.ended.insert(transaction.xid, None);
    }

    pub fn commit(&mut self, at: usize) {
        let transaction = self.open.swap_remove(at);
        self.commits += 1;
        self.ended.insert(transaction.xid, Some(self.commits));
        self.rekeyed
            .insert(self.commits, self.definitions.is_rekeyed);
        // Also the values that the transaction itself overwrote: a cache may show one of them
        // until the last change of the transaction arrives.
        for (place, value) in transaction.work.written.iter().enumerate() {
            self.committed.insert(*value, (self.commits, place));
        }
        for (table, rows) in transaction.work.rows.into_iter().enumerate() {
            for (key, value) in rows {
                match value {
                    Some(value) => self.tables[table].insert(key, value),
                    None => self.tables[table].remove(&key),
                };
                self.history
                    .entry((table, key))
                    .or_default()
                    .push((self.commits, value));
            }
        }
        let mut sent: Vec<String> = Vec::new();
        for payload in transaction.work.payloads {
            // PostgreSQL folds equal payloads of one transaction. The triggers make each payload
            // unique, so that folding happens with Fault::Folded alone.
            if self.fault != Some(Fault::Folded) || !sent.contains(&payload) {
                sent.push(payload);
            }
        }
        let sender = self.session_of(transaction.xid);
        self.sent.extend(sent.into_iter().map(|payload| Sent {
            channel: CHANNEL.to_string(),
            payload,
            node: None,
            sender,
        }));
    }

    /// Returns the process that runs a writer's transaction.
    fn session_of(&self, xid: u64) -> i32 {
        let begun = self.begun.iter().rev().find(|token| token.xid() == xid);
        begun
            .and_then(TransactionToken::process)
            .unwrap_or(STRANGER)
    }

    /// Returns whether another transaction than the one at `at` holds the row's lock. A rollback
    /// to a savepoint brings back the work that was set aside, so that work holds its locks too.
    fn is_locked(&self, at: usize, table: usize, key: u8) -> bool {
        self.open.iter().enumerate().any(|(other, transaction)| {
            let savepoints = transaction.savepoints.iter().map(|(work, _)| work);
            other != at
                && std::iter::once(&transaction.work)
                    .chain(savepoints)
                    .any(|work| work.rows[table].contains_key(&key))
        })
    }

    /// Returns the value of a key as the transaction at `at` sees the row.
    fn value(&self, at: usize, table: usize, key: u8) -> Option<u32> {
        let own = self.open[at].work.rows[table].get(&key);
        own.copied()
            .unwrap_or_else(|| self.tables[table].get(&key).copied())
    }

    /// Returns a value that was never written before, and notes that the transaction writes it.
    fn fresh(&mut self, at: usize) -> u32 {
        self.next_value += 1;
        self.open[at].work.written.push(self.next_value);
        self.next_value
    }

    /// Writes a row in the transaction at `at`, or deletes the row if `value` is `None`.
    fn set(&mut self, at: usize, table: usize, key: u8, value: Option<u32>) {
        self.open[at].work.rows[table].insert(key, value);
    }
}
