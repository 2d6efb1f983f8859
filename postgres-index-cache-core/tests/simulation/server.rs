//! [`Server`]: PostgreSQL as the engine can see it: transactions with their xids, snapshots, the
//! queue of notifications.
//!
//! Keys are small numbers; every value that is ever written is another number, so that a value
//! tells when it was written.

use fastrand::Rng;
use std::collections::{BTreeMap, HashMap, VecDeque};

pub const CHANNEL: &str = "cache_invalidation";
pub const KEYS: u8 = 6;

pub type Rows = BTreeMap<u8, u32>;

/// What the trigger or the driver does wrong, for a test that shows that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The trigger sends the xid of the subtransaction.
    SubtransactionXid,
    /// The trigger does not say that an announcement may be stale.
    NoRecheck,
    /// Identical payloads of one transaction are sent, and folded into the first.
    Folded,
    /// TRUNCATE is not announced.
    NoTruncate,
    /// A key change names the new key alone.
    NewKeyAlone,
    /// The snapshot is taken before LISTEN.
    SnapshotBeforeListen,
    /// The driver follows a table whatever its trigger was made for.
    AnyContract,
    /// The driver follows a relation, whatever name it has.
    StaysWithRelation,
    /// The cache passes over a row that does not fit, and says nothing.
    SwallowsMisfits,
}

/// A table of the model.
#[derive(Debug, Clone, Copy)]
pub struct TableDefinition {
    pub name: &'static str,
    pub oid: u32,
    pub deferrable: bool,
    /// Whether its trigger is the specification's: no transaction, no schema. It does not announce
    /// TRUNCATE, and what it cannot say right does not happen to this table: nested triggers, key
    /// changes, folded payloads, and DDL that rewrites rows whose last change is still to come.
    pub plain: bool,
    /// The leaves of a partitioned table: a key is in one of them, by its remainder.
    pub leaves: &'static [u32],
}

impl TableDefinition {
    /// What announces the row of a key.
    fn relation(&self, key: u8) -> u32 {
        if self.leaves.is_empty() {
            self.oid
        } else {
            self.leaves[usize::from(key) % self.leaves.len()]
        }
    }
}

pub const TABLES: [TableDefinition; 4] = [
    TableDefinition {
        name: "a",
        oid: 10,
        deferrable: false,
        plain: false,
        leaves: &[],
    },
    TableDefinition {
        name: "b",
        oid: 11,
        deferrable: true,
        plain: false,
        leaves: &[],
    },
    TableDefinition {
        name: "p",
        oid: 12,
        deferrable: false,
        plain: false,
        leaves: &[20, 21],
    },
    TableDefinition {
        name: "old",
        oid: 13,
        deferrable: false,
        plain: true,
        leaves: &[],
    },
];

/// What a read sees.
#[derive(Debug, Clone)]
pub struct Seen {
    pub snapshot: String,
    /// The rows of each relation.
    pub tables: Vec<Rows>,
    pub definitions: Definitions,
}

/// What the catalogue says. Relations and names have the places of [`TABLES`]; at the start each
/// relation has its own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definitions {
    /// The relation that has each name.
    pub named: [usize; TABLES.len()],
    /// The name that each relation's trigger was made for.
    made_for: [usize; TABLES.len()],
    /// Whether each relation's trigger is disabled.
    is_silent: [bool; TABLES.len()],
    /// Whether each relation has another key than its trigger was made for: the trigger sends the
    /// old one.
    is_rekeyed: [bool; TABLES.len()],
    /// How often each relation or its trigger was altered, and how often its rows were rewritten.
    pub versions: [u64; TABLES.len()],
    pub files: [u64; TABLES.len()],
}

impl Definitions {
    /// Whether what a relation's trigger sends is what it should be.
    pub fn is_announced(&self, relation: usize) -> bool {
        self.named[self.made_for[relation]] == relation
            && !self.is_silent[relation]
            && !self.is_rekeyed[relation]
    }
}

#[derive(Debug, Clone, Default)]
struct Work {
    rows: Vec<BTreeMap<u8, Option<u32>>>,
    payloads: Vec<String>,
    /// What was written, in order.
    written: Vec<u32>,
}

#[derive(Debug)]
struct Transaction {
    xid: u64,
    /// The innermost subtransaction that has written.
    subxid: u64,
    work: Work,
    savepoints: Vec<(Work, u64)>,
}

/// The state of a key after each commit that touched it.
type History = Vec<(u64, Option<u32>)>;

#[derive(Debug)]
pub struct Server {
    pub fault: Option<Fault>,
    next_xid: u64,
    next_value: u32,
    open: Vec<Transaction>,
    tables: Vec<Rows>,
    pub definitions: Definitions,
    /// Which relation had each name from each commit on.
    pub names: Vec<(u64, [usize; TABLES.len()])>,
    /// Which relation was redefined by each commit.
    pub redefined: Vec<(u64, usize)>,
    /// Commits, counted.
    pub commits: u64,
    pub history: HashMap<(usize, u8), History>,
    /// When a value was written: the commit, and its place in the transaction. Those of no commit
    /// are not here.
    pub committed: HashMap<u32, (u64, usize)>,
    pub is_listening: bool,
    pub queue: VecDeque<(String, String)>,
}

impl Server {
    pub fn new(random: &mut Rng, fault: Option<Fault>) -> Self {
        let mut server = Self {
            fault,
            next_xid: 100,
            next_value: 1,
            open: Vec::new(),
            tables: vec![Rows::new(); TABLES.len()],
            definitions: Definitions {
                named: std::array::from_fn(|at| at),
                made_for: std::array::from_fn(|at| at),
                is_silent: [false; TABLES.len()],
                is_rekeyed: [false; TABLES.len()],
                versions: [0; TABLES.len()],
                files: [0; TABLES.len()],
            },
            names: vec![(0, std::array::from_fn(|at| at))],
            redefined: Vec::new(),
            commits: 0,
            history: HashMap::new(),
            committed: HashMap::new(),
            is_listening: false,
            queue: VecDeque::new(),
        };
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

    /// What a read that starts now sees.
    pub fn see(&self) -> Seen {
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

    /// A NOTIFY in a transaction of its own.
    pub fn notify(&mut self, channel: &str, payload: &str) {
        self.next_xid += 1;
        if self.is_listening {
            self.queue
                .push_back((channel.to_string(), payload.to_string()));
        }
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    pub fn begin(&mut self) {
        self.next_xid += 1;
        let xid = self.next_xid - 1;
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
            transaction.work = work;
            transaction.subxid = subxid;
        }
    }

    pub fn rollback(&mut self, at: usize) {
        self.open.swap_remove(at);
    }

    pub fn commit(&mut self, at: usize) {
        let transaction = self.open.swap_remove(at);
        self.commits += 1;
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
        if self.is_listening {
            let mut sent: Vec<String> = Vec::new();
            for payload in transaction.work.payloads {
                if self.fault != Some(Fault::Folded) || !sent.contains(&payload) {
                    sent.push(payload);
                }
            }
            self.queue.extend(
                sent.into_iter()
                    .map(|payload| (CHANNEL.to_string(), payload)),
            );
        }
    }

    /// Whether another transaction holds the row.
    fn is_locked(&self, at: usize, table: usize, key: u8) -> bool {
        self.open.iter().enumerate().any(|(other, transaction)| {
            let held = |work: &Work| work.rows[table].contains_key(&key);
            other != at
                && (held(&transaction.work)
                    || transaction.savepoints.iter().any(|(work, _)| held(work)))
        })
    }

    fn value(&self, at: usize, table: usize, key: u8) -> Option<u32> {
        let own = self.open[at].work.rows[table].get(&key);
        own.copied()
            .unwrap_or_else(|| self.tables[table].get(&key).copied())
    }

    fn fresh(&mut self, at: usize) -> u32 {
        self.next_value += 1;
        self.open[at].work.written.push(self.next_value);
        self.next_value
    }

    fn set(&mut self, at: usize, table: usize, key: u8, value: Option<u32>) {
        self.open[at].work.rows[table].insert(key, value);
    }

    fn send(&mut self, at: usize, table: usize, action: &str, id: Option<u8>, more: &str) {
        let Definitions {
            made_for,
            is_silent,
            is_rekeyed,
            ..
        } = &self.definitions;
        if is_silent[table] {
            return;
        }
        // The names in a trigger's function are literals.
        let name = TABLES[made_for[table]].name;
        // The column that was the key holds other values.
        let id = id.map(|id| {
            if is_rekeyed[table] {
                (id + 3) % KEYS
            } else {
                id
            }
        });
        let transaction = &mut self.open[at];
        let xid = if self.fault == Some(Fault::SubtransactionXid) {
            transaction.subxid
        } else {
            transaction.xid
        };
        let unique = match self.fault {
            Some(Fault::Folded) => String::new(),
            _ => format!(r#","v":"{}""#, transaction.work.payloads.len()),
        };
        let TableDefinition { oid, plain, .. } = TABLES[table];
        let relation = id.map_or(oid, |id| TABLES[table].relation(id));
        let id = id.map_or("null".to_string(), |id| id.to_string());
        if plain {
            let payload =
                format!(r#"{{"table":"{name}","action":"{action}","id":{id}{unique}{more}}}"#);
            return transaction.work.payloads.push(payload);
        }
        transaction.work.payloads.push(format!(
            r#"{{"table":"{name}","action":"{action}","id":{id},"schema":"s","rel":{relation},"xid":"{xid}"{unique}{more}}}"#
        ));
    }

    /// The row of a payload: now and then it is too long to be sent.
    fn data(random: &mut Rng, value: u32) -> String {
        if random.u8(0..6) == 0 {
            r#","truncated":true"#.to_string()
        } else {
            format!(r#","data":{value}"#)
        }
    }

    fn recheck(&self, is_stale: bool, random: &mut Rng) -> &'static str {
        // A row lock sets it too, with nothing behind it.
        let says = is_stale || random.u8(0..10) == 0;
        if says && self.fault != Some(Fault::NoRecheck) {
            r#","recheck":true"#
        } else {
            ""
        }
    }

    fn send_key_change(&mut self, at: usize, table: usize, from: u8, to: u8, more: &str) {
        if self.fault != Some(Fault::NewKeyAlone) {
            self.send(
                at,
                table,
                "delete",
                Some(from),
                &format!(r#","new_id":{to}"#),
            );
        }
        self.send(
            at,
            table,
            "update",
            Some(to),
            &format!(r#","old_id":{from}{more}"#),
        );
    }

    /// One statement of a transaction, whatever can be done with the rows that it meets.
    pub fn write(&mut self, random: &mut Rng, at: usize) {
        let table = random.usize(0..TABLES.len());
        let key = random.u8(0..KEYS);
        let other = random.u8(0..KEYS);
        if self.is_locked(at, table, key) || self.is_locked(at, table, other) {
            return;
        }
        let here = self.value(at, table, key);
        let there = self.value(at, table, other);
        if TABLES[table].plain {
            return self.write_plain(random, at, table, key, here.is_some());
        }
        match (random.u8(0..100), here) {
            (0..4, _) if (0..KEYS).all(|key| !self.is_locked(at, table, key)) => {
                if TABLES[table].leaves.is_empty() || random.bool() {
                    self.truncate(at, table);
                } else {
                    self.truncate_leaf(at, table, key);
                }
            }
            (4..5, _) => self.send(at, table, "reload", None, r#","why":"x""#),
            (5..40, None) => {
                let value = self.fresh(at);
                self.set(at, table, key, Some(value));
                let more = Self::data(random, value);
                self.send(at, table, "insert", Some(key), &more);
            }
            (40..60, None) => self.nested_insert(random, at, table, key),
            (5..35, Some(_)) => {
                // A-B-A happens to values; here each is new, and the payloads of Fault::Folded
                // alike.
                let value = self.fresh(at);
                self.set(at, table, key, Some(value));
                let more = Self::data(random, value) + self.recheck(false, random);
                self.send(at, table, "update", Some(key), &more);
            }
            (35..50, Some(_)) => {
                self.set(at, table, key, None);
                self.send(at, table, "delete", Some(key), "");
            }
            (50..60, Some(_)) => {
                // DELETE with an AFTER trigger that inserts the key again: its announcement comes
                // first.
                let value = self.fresh(at);
                self.set(at, table, key, Some(value));
                let more = Self::data(random, value);
                self.send(at, table, "insert", Some(key), &more);
                self.send(at, table, "delete", Some(key), "");
                if random.bool() {
                    // Two DELETEs of several rows, one inside a trigger of the other, which inserts
                    // the key in between: what each has deleted is announced when all is done.
                    self.send(at, table, "delete", Some(key), "");
                }
            }
            // A key change that moves a row between leaves is a DELETE and an INSERT.
            (60..75, Some(_))
                if key != other
                    && there.is_none()
                    && TABLES[table].relation(key) != TABLES[table].relation(other) =>
            {
                let value = self.fresh(at);
                self.set(at, table, key, None);
                self.set(at, table, other, Some(value));
                let more = Self::data(random, value);
                self.send(at, table, "delete", Some(key), "");
                self.send(at, table, "insert", Some(other), &more);
            }
            (60..75, Some(_)) if key != other && there.is_none() => {
                self.change_key(random, at, table, key, other);
            }
            (75..90, Some(_)) if key != other && there.is_some() && TABLES[table].deferrable => {
                self.swap(random, at, table, key, other);
            }
            _ => {}
        }
    }

    fn write_plain(&mut self, random: &mut Rng, at: usize, table: usize, key: u8, is_there: bool) {
        if is_there && random.bool() {
            self.set(at, table, key, None);
            return self.send(at, table, "delete", Some(key), "");
        }
        let value = self.fresh(at);
        self.set(at, table, key, Some(value));
        let more = Self::data(random, value);
        self.send(
            at,
            table,
            if is_there { "update" } else { "insert" },
            Some(key),
            &more,
        );
    }

    fn truncate(&mut self, at: usize, table: usize) {
        for key in 0..KEYS {
            self.set(at, table, key, None);
        }
        if self.fault != Some(Fault::NoTruncate) {
            self.send(at, table, "truncate", None, "");
            // TRUNCATE of the root fires the triggers of its leaves too.
            for leaf in TABLES[table].leaves {
                self.send_reload(at, table, *leaf);
            }
        }
    }

    /// TRUNCATE of one leaf.
    fn truncate_leaf(&mut self, at: usize, table: usize, key: u8) {
        let leaf = TABLES[table].relation(key);
        for key in (0..KEYS).filter(|key| TABLES[table].relation(*key) == leaf) {
            self.set(at, table, key, None);
        }
        if self.fault != Some(Fault::NoTruncate) {
            self.send_reload(at, table, leaf);
        }
    }

    fn send_reload(&mut self, at: usize, table: usize, leaf: u32) {
        if self.definitions.is_silent[table] {
            return;
        }
        let Transaction { xid, work, .. } = &mut self.open[at];
        let name = TABLES[table].name;
        let place = work.payloads.len();
        work.payloads.push(format!(
            r#"{{"table":"{name}","action":"reload","id":null,"schema":"s","rel":{leaf},"xid":"{xid}","v":"{place}","why":"truncate"}}"#
        ));
    }

    /// DDL that rewrites a table, and announces nothing: every row is another one. Only where
    /// nobody holds the table.
    pub fn alter(&mut self, table: usize) -> bool {
        if TABLES[table].plain || self.is_held(table) {
            return false;
        }
        self.definitions.files[table] += 1;
        self.begin();
        let at = self.open.len() - 1;
        let keys: Vec<u8> = self.tables[table].keys().copied().collect();
        for key in keys {
            let value = self.fresh(at);
            self.set(at, table, key, Some(value));
        }
        self.commit(at);
        true
    }

    /// Whether a transaction has written to a relation, so that DDL must wait.
    fn is_held(&self, table: usize) -> bool {
        (0..KEYS).any(|key| self.is_locked(usize::MAX, table, key))
    }

    /// DDL that changes what announces a relation, or which relation a name means. Whether it was
    /// done.
    pub fn redefine(&mut self, random: &mut Rng) -> bool {
        let table = random.usize(0..TABLES.len());
        if TABLES[table].plain || self.is_held(table) {
            return false;
        }
        self.commits += 1;
        self.redefined.push((self.commits, table));
        let is_mended = !self.definitions.is_announced(table) && random.bool();
        match random.u8(0..4) {
            _ if is_mended => self.mend(table),
            0 => self.definitions.is_silent[table] = true,
            1 if TABLES[table].leaves.is_empty() => self.definitions.is_rekeyed[table] = true,
            // Two relations swap their names.
            2 if table < 2 && !self.is_held(1 - table) => {
                self.definitions.named.swap(0, 1);
                self.definitions.versions[1 - table] += 1;
                self.redefined.push((self.commits, 1 - table));
                self.names.push((self.commits, self.definitions.named));
            }
            _ => self.mend(table),
        }
        self.definitions.versions[table] += 1;
        true
    }

    /// The triggers of a relation are installed anew.
    fn mend(&mut self, table: usize) {
        let Definitions {
            named,
            made_for,
            is_silent,
            is_rekeyed,
            ..
        } = &mut self.definitions;
        made_for[table] = named
            .iter()
            .position(|relation| *relation == table)
            .unwrap_or(table);
        (is_silent[table], is_rekeyed[table]) = (false, false);
    }

    /// Installs the triggers of all relations anew; nobody may hold one.
    pub fn mend_all(&mut self) {
        for table in 0..TABLES.len() {
            self.mend(table);
            self.definitions.versions[table] += 1;
        }
    }

    /// INSERT with an AFTER trigger that updates the row: the update is announced before the
    /// insert.
    fn nested_insert(&mut self, random: &mut Rng, at: usize, table: usize, key: u8) {
        let first = self.fresh(at);
        let second = self.fresh(at);
        self.set(at, table, key, Some(second));
        let more = Self::data(random, second);
        self.send(at, table, "update", Some(key), &more);
        let more = Self::data(random, first) + self.recheck(true, random);
        self.send(at, table, "insert", Some(key), &more);
    }

    fn change_key(&mut self, random: &mut Rng, at: usize, table: usize, from: u8, to: u8) {
        let value = self.fresh(at);
        self.set(at, table, from, None);
        self.set(at, table, to, Some(value));
        if random.u8(0..4) == 0 {
            // An AFTER UPDATE trigger inserts the old key: announced before the key change.
            let again = self.fresh(at);
            self.set(at, table, from, Some(again));
            let more = Self::data(random, again);
            self.send(at, table, "insert", Some(from), &more);
        }
        let more = Self::data(random, value) + self.recheck(false, random);
        self.send_key_change(at, table, from, to, &more);
    }

    /// Two rows change their keys in one statement, which a deferrable key allows.
    fn swap(&mut self, random: &mut Rng, at: usize, table: usize, left: u8, right: u8) {
        let new_right = self.fresh(at);
        let new_left = self.fresh(at);
        self.set(at, table, right, Some(new_right));
        self.set(at, table, left, Some(new_left));
        let more = Self::data(random, new_right);
        self.send_key_change(at, table, left, right, &more);
        let more = Self::data(random, new_left);
        self.send_key_change(at, table, right, left, &more);
    }
}
