//! Look-ups in caches of a million rows. Each look-up of the dependent kind needs the answer of the
//! one before; those of the independent kind may overlap in the processor.

use crate::data::{self, User};
use crate::report::{Report, Target, ns_each};
use hashbrown::HashMap;
use postgres_index_cache_core::tooling::{Condition, KeyBuf, Predicate, TableCache};
use std::hint::black_box;
use std::time::Instant;
use uuid::Uuid;

const ROWS: u64 = 1_000_000;
const LOOKUPS: usize = 1_000_000;

/// Measures look-ups by key and by an index on bigint.
pub fn run(report: &mut Report, rounds: usize) {
    let table = data::table_cache(ROWS, ROWS as usize);
    let models = data::model_cache(ROWS);
    let hasher = foldhash::quality::RandomState::default();
    let mut rows: HashMap<Uuid, User, _> = HashMap::with_capacity_and_hasher(ROWS as usize, hasher);
    let hasher = foldhash::quality::RandomState::default();
    let mut by_n: HashMap<i64, Uuid, _> = HashMap::with_capacity_and_hasher(ROWS as usize, hasher);
    for number in 0..ROWS {
        let id = data::key(number);
        rows.insert(
            id,
            User {
                id,
                n: number as i64,
                m: 0,
            },
        );
        by_n.insert(number as i64, id);
    }
    let mut random = fastrand::Rng::with_seed(1);
    let order: Vec<u64> = (0..LOOKUPS).map(|_| random.u64(0..ROWS)).collect();
    let keys: Vec<Uuid> = order.iter().map(|&number| data::key(number)).collect();
    let key_bufs: Vec<KeyBuf> = keys.iter().map(|key| key_buf(&table, key)).collect();
    let numbers: Vec<[u8; 8]> = order.iter().map(|number| number.to_le_bytes()).collect();
    let cells: Vec<&[u8]> = numbers.iter().map(<[u8; 8]>::as_slice).collect();
    let conditions: Vec<Condition> = order.iter().map(|&number| is_n(number as i64)).collect();

    let mut measure = |what: &str,
                       target: f64,
                       ours: &mut dyn FnMut() -> u64,
                       theirs: &mut dyn FnMut() -> u64| {
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let began = Instant::now();
            black_box(ours());
            let own = ns_each(began.elapsed(), LOOKUPS);
            let began = Instant::now();
            black_box(theirs());
            pairs.push((own, ns_each(began.elapsed(), LOOKUPS)));
        }
        report.pairs(what, "ns", "hashbrown", &pairs, Target::None);
        let own: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        report.alone(
            &format!("{what}, alone"),
            "ns",
            &own,
            Target::AtMost(target),
        );
    };
    let by_n_theirs = |number: i64| {
        by_n.get(&number)
            .and_then(|id| rows.get(id))
            .map_or(0, |user| user.n as u64)
    };
    measure(
        "bigint index to row, 1M, dependent (TableCache)",
        350.0,
        &mut || {
            let mut last = 0;
            let mut condition = [is_n(0)];
            for &number in &order {
                let number = number ^ (last & 1 & (last >> 63));
                condition[0].wanted = Predicate::Cell((number as i64).to_le_bytes().to_vec());
                last = n_of(&table.find(&condition).rows[0]);
            }
            last
        },
        &mut || {
            let mut last = 0;
            for &number in &order {
                let number = number ^ (last & 1 & (last >> 63));
                last = by_n_theirs(number as i64);
            }
            last
        },
    );
    measure(
        "bigint index to row, 1M, independent (TableCache.find)",
        350.0,
        &mut || {
            conditions
                .iter()
                .map(|condition| n_of(&table.find(std::slice::from_ref(condition)).rows[0]))
                .sum()
        },
        &mut || order.iter().map(|&number| by_n_theirs(number as i64)).sum(),
    );
    measure(
        "bigint index to row, 1M, many at once (TableCache.find_many)",
        70.0,
        &mut || {
            let mut sum = 0;
            table.find_many(1, &cells, |_, row| sum += n_of(&row));
            sum
        },
        &mut || order.iter().map(|&number| by_n_theirs(number as i64)).sum(),
    );
    measure(
        "key to row, 1M, dependent (TableCache)",
        258.0,
        &mut || {
            let mut last = 0_u64;
            for at in 0..key_bufs.len() {
                let at = at ^ (last & 1 & (last >> 63)) as usize;
                last = table.get(&key_bufs[at]).map_or(0, |row| n_of(&row));
            }
            last
        },
        &mut || {
            let mut last = 0_u64;
            for at in 0..keys.len() {
                let at = at ^ (last & 1 & (last >> 63)) as usize;
                last = rows.get(&keys[at]).map_or(0, |user| user.n as u64);
            }
            last
        },
    );
    measure(
        "key to row, 1M, independent (TableCache)",
        125.0,
        &mut || {
            key_bufs
                .iter()
                .map(|key| table.get(key).map_or(0, |row| n_of(&row)))
                .sum()
        },
        &mut || {
            keys.iter()
                .map(|key| rows.get(key).map_or(0, |user| user.n as u64))
                .sum()
        },
    );
    measure(
        "key to row, 1M, dependent (IdxModelCache)",
        258.0,
        &mut || {
            let mut last = 0_u64;
            for at in 0..keys.len() {
                let at = at ^ (last & 1 & (last >> 63)) as usize;
                last = models
                    .get_by_primary(&keys[at])
                    .map_or(0, |user| user.n as u64);
            }
            last
        },
        &mut || {
            let mut last = 0_u64;
            for at in 0..keys.len() {
                let at = at ^ (last & 1 & (last >> 63)) as usize;
                last = rows.get(&keys[at]).map_or(0, |user| user.n as u64);
            }
            last
        },
    );
    measure(
        "key to row, 1M, independent (IdxModelCache)",
        125.0,
        &mut || {
            keys.iter()
                .map(|key| models.get_by_primary(key).map_or(0, |user| user.n as u64))
                .sum()
        },
        &mut || {
            keys.iter()
                .map(|key| rows.get(key).map_or(0, |user| user.n as u64))
                .sum()
        },
    );
    measure(
        "bigint index to row, 1M, dependent (IdxModelCache)",
        350.0,
        &mut || {
            let mut last = 0_u64;
            for &number in &order {
                let number = number ^ (last & 1 & (last >> 63));
                let mut found = models
                    .get_by_i64_index("n", &(number as i64))
                    .into_iter()
                    .flatten();
                let user = found.next().and_then(|key| models.get_by_primary(key));
                last = user.map_or(0, |user| user.n as u64);
            }
            last
        },
        &mut || {
            let mut last = 0;
            for &number in &order {
                let number = number ^ (last & 1 & (last >> 63));
                last = by_n_theirs(number as i64);
            }
            last
        },
    );
}

fn key_buf(table: &TableCache, key: &Uuid) -> KeyBuf {
    let mut buf = KeyBuf::default();
    buf.read_json(table.shape(), &format!("\"{key}\""))
        .expect("a key");
    buf
}

fn is_n(number: i64) -> Condition {
    Condition {
        column: 1,
        wanted: Predicate::Cell(number.to_le_bytes().to_vec()),
    }
}

fn n_of(row: &postgres_index_cache_core::tooling::Row<'_>) -> u64 {
    let cell = row.cell(1).expect("n is never NULL");
    u64::from_le_bytes(cell.try_into().expect("eight bytes"))
}
