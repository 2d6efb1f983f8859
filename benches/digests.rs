//! The cost of a row's digest beside the cost of applying a change, and the time for the digests of
//! a table of a million rows.
//!
//! `cargo bench --bench digests` prints nanoseconds and shares. It is run by hand: the figures of
//! two machines cannot be compared, their ratios can.

use postgres_index_cache_core::tooling::fleet::{Digest, RowDigester, digest_of_key, salted};
use postgres_index_cache_core::tooling::{
    CellType, Column, JsonNulls, RowBuf, TableCache, TableShape,
};
use postgres_index_cache_core::{
    CacheNotificationListener, HasPrimaryKey, IdxModelCache, IndexCacheHandler, Indexable,
    parking_lot::RwLock, uuid::Uuid,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHANGES: usize = 200_000;
const ROWS: u128 = 1_000_000;

#[derive(Deserialize)]
struct User {
    id: Uuid,
    username_hash: i64,
    email_hash: i64,
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([
            ("username_hash".to_string(), Some(self.username_hash)),
            ("email_hash".to_string(), Some(self.email_hash)),
        ])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

fn row_json(number: u128) -> String {
    format!(
        r#"{{"id":"{}","username":"user{number}","username_hash":{number},"email_hash":{}}}"#,
        Uuid::from_u128(number),
        number * 7
    )
}

fn shape() -> Arc<TableShape> {
    let column = |name: &str, kind| Column {
        name: name.to_string(),
        kind,
        nullable: true,
    };
    let columns = vec![
        column("id", CellType::Uuid),
        column("username", CellType::Text),
        column("username_hash", CellType::Int8),
        column("email_hash", CellType::Int8),
    ];
    Arc::new(TableShape::new(columns, &["id".to_string()]).expect("a shape"))
}

fn per_change(took: Duration) -> f64 {
    took.as_nanos() as f64 / CHANGES as f64
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let payloads: Vec<String> = (0..CHANGES as u128)
        .map(|number| {
            format!(
                r#"{{"table":"users","action":"update","id":"{}","data":{}}}"#,
                Uuid::from_u128(number % 50_000),
                row_json(number % 50_000).replace("user", &format!("u{number}"))
            )
        })
        .collect();
    let users = Arc::new(RwLock::new(
        IdxModelCache::<User>::new(Vec::new()).expect("a cache"),
    ));
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(Arc::new(IndexCacheHandler::new("users".into(), users)));
    let began = Instant::now();
    runtime.block_on(async {
        for payload in &payloads {
            listener.process_notification(payload).await;
        }
    });
    let model = per_change(began.elapsed());

    let shape = shape();
    let rows: Vec<String> = (0..CHANGES as u128).map(row_json).collect();
    let mut row = RowBuf::default();
    let began = Instant::now();
    for json in &rows {
        row.read_json(&shape, json, JsonNulls::Unknown)
            .expect("a row");
        black_box(&row);
    }
    let cells = per_change(began.elapsed());

    let mut digester = RowDigester::new(&shape);
    let began = Instant::now();
    for _ in 0..CHANGES {
        black_box(digester.row(|at| row.cell(at)));
    }
    let digest = per_change(began.elapsed());
    let apply = model + cells;
    println!("a change of a model: {model:.0} ns and its cells {cells:.0} ns");
    println!(
        "its digest: {digest:.0} ns, {:.1} % of the whole",
        100.0 * digest / (apply + digest)
    );

    let mut cache = TableCache::new(Arc::clone(&shape), ROWS as usize);
    for number in 0..ROWS {
        row.read_json(&shape, &row_json(number), JsonNulls::Unknown)
            .expect("a row");
        cache.insert_unique(&row).expect("a new row");
    }
    let salt = Digest::of_number(1);
    let began = Instant::now();
    let mut sum = 0_u128;
    for row in cache.rows() {
        let key = digest_of_key(row.cell(0).into_iter());
        let digest = digester.row(|at| row.cell(at));
        sum = sum.wrapping_add(salted(salt, key, digest).number());
    }
    let took = began.elapsed();
    println!("the salted digests of {ROWS} rows: {took:?} ({sum:032x})");
}
