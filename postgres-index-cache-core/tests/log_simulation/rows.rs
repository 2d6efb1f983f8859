//! [`Rows`]: the rows of the one table of a run, as readers and relays keep them.

use postgres_index_cache_core::tooling::log::{
    Image, JsonRow, Proof, RangeSum, RowChanges, RowOp, TableName, TableProof,
};
use std::collections::BTreeMap;

/// Rows by key, both as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(pub BTreeMap<String, String>);

impl Rows {
    /// Carries out one operation.
    pub fn carry_out(&mut self, op: &RowOp) {
        match op {
            RowOp::Upsert { id, row } => {
                self.0.insert(id.clone(), row.data.clone());
            }
            RowOp::Replace { old_id, id, row } => {
                self.0.remove(old_id);
                self.0.insert(id.clone(), row.data.clone());
            }
            RowOp::Remove { id } => {
                self.0.remove(id);
            }
            RowOp::Clear { spared } => self.0.retain(|id, _| spared.contains(id)),
        }
    }

    /// Returns the operations that make these rows of `before`.
    pub fn difference(&self, before: &Self) -> Vec<RowOp> {
        let gone = before.0.keys().filter(|id| !self.0.contains_key(*id));
        let gone = gone.map(|id| RowOp::Remove { id: id.clone() });
        let changed = self
            .0
            .iter()
            .filter(|(id, data)| before.0.get(*id) != Some(*data));
        gone.chain(changed.map(|(id, data)| upsert(id, data)))
            .collect()
    }

    /// Returns the operation after which the row with this key is as it is here.
    pub fn state_of(&self, id: &str) -> RowOp {
        match self.0.get(id) {
            Some(data) => upsert(id, data),
            None => RowOp::Remove { id: id.to_string() },
        }
    }

    /// Returns the rows with even keys, or those with odd ones.
    pub fn with_keys(&self, even: bool) -> Self {
        let is_even = |id: &str| id.bytes().last().is_some_and(|digit| digit % 2 == 0);
        let rows = self.0.iter().filter(|(id, _)| is_even(id) == even);
        Self(rows.map(|(id, data)| (id.clone(), data.clone())).collect())
    }

    /// Returns the claim that the rows are these.
    pub fn proof(&self) -> Proof {
        Proof {
            tables: vec![TableProof {
                table: table(),
                rows: self.sum(),
            }],
            asked_at: None,
        }
    }

    /// Returns the sum of the rows' digests.
    fn sum(&self) -> RangeSum {
        let sum = self.0.iter().map(|(id, data)| digest(id, data));
        RangeSum {
            rows: self.0.len() as u64,
            sum: sum.fold(0, u128::wrapping_add),
        }
    }
}

impl Image for Rows {
    fn apply(&mut self, changes: &RowChanges) {
        for op in &changes.ops {
            self.carry_out(op);
        }
    }

    fn is_as(&mut self, proof: &Proof) -> bool {
        proof.tables.iter().all(|proof| proof.rows == self.sum())
    }
}

/// Returns the name of the table.
pub fn table() -> TableName {
    TableName {
        schema: "app".to_string(),
        name: "users".to_string(),
    }
}

/// Returns the operation after which the row with this key is `data`.
pub fn upsert(id: &str, data: &str) -> RowOp {
    RowOp::Upsert {
        id: id.to_string(),
        row: json_row(data),
    }
}

/// Returns a row as an operation has it.
pub fn json_row(data: &str) -> JsonRow {
    JsonRow {
        data: data.to_string(),
        nulls: Vec::new(),
    }
}

/// Returns a digest of a row that suffices where nobody means harm (FNV-1a).
fn digest(id: &str, data: &str) -> u128 {
    let bytes = id.bytes().chain([0]).chain(data.bytes());
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_013b)
    })
}
