//! The tables of the model, their definitions, and the DDL that changes them.

use super::{KEYS, Server};
use fastrand::Rng;

/// A table of the model. Nothing in here ever changes; see [`Definitions`] for the rest.
#[derive(Debug, Clone, Copy)]
pub struct TableDefinition {
    pub name: &'static str,
    pub oid: u32,
    /// Whether the primary key is deferrable, so that two rows can swap keys in one statement.
    pub deferrable: bool,
    /// Whether the trigger is the specification's: its payloads name no transaction and no schema.
    ///
    /// The plain form cannot say right some of what can happen, so these never happen to a plain
    /// table: TRUNCATE, nested triggers, key changes, folded payloads, and DDL that rewrites rows
    /// whose last change is still to come.
    pub plain: bool,
    /// Whether the triggers are statement triggers, which pack the rows of a statement.
    pub packs: bool,
    /// The oids of the leaves of a partitioned table, empty for any other table. The remainder of
    /// a key chooses the leaf.
    pub leaves: &'static [u32],
}

impl TableDefinition {
    /// Returns the oid of the relation whose trigger announces the row of `key`.
    pub(super) fn relation(&self, key: u8) -> u32 {
        if self.leaves.is_empty() {
            self.oid
        } else {
            self.leaves[usize::from(key) % self.leaves.len()]
        }
    }
}

pub const TABLES: [TableDefinition; 5] = [
    TableDefinition {
        name: "a",
        oid: 10,
        deferrable: false,
        plain: false,
        packs: false,
        leaves: &[],
    },
    TableDefinition {
        name: "b",
        oid: 11,
        deferrable: true,
        plain: false,
        packs: false,
        leaves: &[],
    },
    TableDefinition {
        name: "p",
        oid: 12,
        deferrable: false,
        plain: false,
        packs: false,
        leaves: &[20, 21],
    },
    TableDefinition {
        name: "old",
        oid: 13,
        deferrable: false,
        plain: true,
        packs: false,
        leaves: &[],
    },
    TableDefinition {
        name: "bulk",
        oid: 14,
        deferrable: false,
        plain: false,
        packs: true,
        leaves: &[],
    },
];

/// The part of the catalogue that DDL changes. Relations and names are indexes into [`TABLES`]; at
/// the start each relation has its own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definitions {
    /// The relation that has each name.
    pub named: [usize; TABLES.len()],
    /// The name that each relation's trigger was made for.
    pub(super) made_for: [usize; TABLES.len()],
    /// Whether each relation's trigger is disabled.
    pub(super) is_silent: [bool; TABLES.len()],
    /// Whether each relation has another key than the trigger was made for. The trigger then sends
    /// the values of the old key column.
    pub(super) is_rekeyed: [bool; TABLES.len()],
    /// How often each relation or its trigger was altered.
    pub versions: [u64; TABLES.len()],
    /// How often each relation's rows were rewritten.
    pub files: [u64; TABLES.len()],
}

impl Definitions {
    pub(super) fn new() -> Self {
        Self {
            named: std::array::from_fn(|at| at),
            made_for: std::array::from_fn(|at| at),
            is_silent: [false; TABLES.len()],
            is_rekeyed: [false; TABLES.len()],
            versions: [0; TABLES.len()],
            files: [0; TABLES.len()],
        }
    }

    /// Returns whether a relation's trigger announces every change, under the relation's name and
    /// with the relation's key.
    pub fn is_announced(&self, relation: usize) -> bool {
        self.named[self.made_for[relation]] == relation
            && !self.is_silent[relation]
            && !self.is_rekeyed[relation]
    }

    /// Installs the triggers of a relation again, for its name and key as they are now.
    fn mend(&mut self, table: usize) {
        self.made_for[table] = self
            .named
            .iter()
            .position(|relation| *relation == table)
            .unwrap_or(table);
        self.is_silent[table] = false;
        self.is_rekeyed[table] = false;
    }
}

impl Server {
    /// Rewrites a table as an ALTER TABLE does: every row gets another value, and nothing is
    /// announced. Returns `false` if the DDL cannot be done: the table is plain, or a transaction
    /// has written to it.
    pub fn alter(&mut self, table: usize) -> bool {
        if TABLES[table].plain || self.is_held(table) {
            return false;
        }
        self.definitions.files[table] += 1;
        // One transaction, as DDL is: all new values have one commit.
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

    /// Returns whether a transaction has written to a relation. DDL must wait for its end.
    fn is_held(&self, table: usize) -> bool {
        (0..KEYS).any(|key| self.is_locked(usize::MAX, table, key))
    }

    /// Changes how a random relation is announced, or which relation a name means. Returns `false`
    /// if the DDL cannot be done, as [`Server::alter`] does.
    pub fn redefine(&mut self, random: &mut Rng) -> bool {
        let table = random.usize(0..TABLES.len());
        if TABLES[table].plain || self.is_held(table) {
            return false;
        }
        // DDL is a commit as well. A fence that was asked for before it promises nothing of the
        // relation as it is afterwards; see `World::check_is`.
        self.commits += 1;
        self.redefined.push((self.commits, table));
        let is_mended = !self.definitions.is_announced(table) && random.bool();
        match random.u8(0..4) {
            _ if is_mended => self.definitions.mend(table),
            0 => self.definitions.is_silent[table] = true,
            // A partitioned table keeps its key: the key also chooses the leaf.
            1 if TABLES[table].leaves.is_empty() => self.definitions.is_rekeyed[table] = true,
            // Two relations swap their names, as a migration does that fills a new table.
            2 if table < 2 && !self.is_held(1 - table) => {
                self.definitions.named.swap(0, 1);
                self.definitions.versions[1 - table] += 1;
                self.redefined.push((self.commits, 1 - table));
                self.names.push((self.commits, self.definitions.named));
            }
            _ => self.definitions.mend(table),
        }
        self.definitions.versions[table] += 1;
        true
    }

    /// Installs the triggers of all relations again. No transaction may be open.
    pub fn mend_all(&mut self) {
        for table in 0..TABLES.len() {
            self.definitions.mend(table);
            self.definitions.versions[table] += 1;
        }
    }
}
