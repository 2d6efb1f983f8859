//! Caches that are built of rows, beside hash maps that are built of the same.

use crate::data::{self, User};
use crate::report::{Report, Target};
use hashbrown::HashMap;
use postgres_index_cache_core::tooling::{IndexedColumns, RowBuf, TableCache};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Builds caches of 100,000 to 5,000,000 rows with one index.
pub fn run(report: &mut Report, rounds: usize) {
    for (name, rows) in [("100k", 100_000_u64), ("1M", 1_000_000), ("5M", 5_000_000)] {
        let tuples: Vec<Vec<u8>> = (0..rows).map(data::tuple).collect();
        let shape = data::shape();
        for (presized, expected) in [("presized", rows as usize), ("not presized", 0)] {
            let mut pairs = Vec::new();
            let mut bytes = 0.0;
            for _ in 0..rounds {
                let began = Instant::now();
                let indexed = IndexedColumns::Only(vec![1]);
                let mut cache = TableCache::with_indexes(Arc::clone(&shape), expected, indexed);
                let mut row = RowBuf::default();
                for tuple in &tuples {
                    row.read_copy_tuple(&shape, tuple).expect("a row");
                    cache.append(&row).expect("a new row");
                }
                cache.index_appended().expect("new rows");
                let ours = rows as f64 / began.elapsed().as_secs_f64() / 1e6;
                bytes = cache.memory_bytes() as f64 / rows as f64;
                assert_eq!(cache.len() as u64, rows);
                drop(cache);
                let theirs = rows as f64 / hash_maps(&tuples, expected) / 1e6;
                pairs.push((ours, theirs));
            }
            let what = format!("build of {name} rows, {presized}");
            report.pairs(&what, "Mrows/s", "hashbrown", &pairs, Target::AtLeast(1.0));
            let most = if expected > 0 { 60.0 } else { 66.0 };
            let what = format!("bytes a row, {name}, {presized}");
            report.alone(&what, "B", &[bytes], Target::AtMost(most));
        }
    }
    let cache = data::model_cache(1_000_000);
    let bytes = cache.memory_bytes() as f64 / 1e6;
    report.alone(
        "IdxModelCache, bytes a row",
        "B",
        &[bytes],
        Target::AtMost(115.0),
    );
}

/// Builds two maps of the rows: by key, and from `n` to key. Returns the seconds that took.
fn hash_maps(tuples: &[Vec<u8>], expected: usize) -> f64 {
    let began = Instant::now();
    let hasher = foldhash::quality::RandomState::default();
    let mut rows: HashMap<Uuid, User, _> = HashMap::with_capacity_and_hasher(expected, hasher);
    let hasher = foldhash::quality::RandomState::default();
    let mut by_n: HashMap<i64, Uuid, _> = HashMap::with_capacity_and_hasher(expected, hasher);
    for tuple in tuples {
        let number =
            |at: usize| i64::from_be_bytes(tuple[at..at + 8].try_into().expect("eight bytes"));
        let user = User {
            id: Uuid::from_slice(&tuple[6..22]).expect("a key"),
            n: number(26),
            m: number(38),
        };
        by_n.insert(user.n, user.id);
        rows.insert(user.id, user);
    }
    assert_eq!(rows.len(), by_n.len());
    began.elapsed().as_secs_f64()
}
