//! The rows that the figures in this process are measured with: a uuid key and two bigints.

use postgres_index_cache_core::tooling::{
    CellType, Column, JsonNulls, RowBuf, TableCache, TableShape,
};
use postgres_index_cache_core::{HasPrimaryKey, IdxModelCache, Indexable};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The model of a row.
#[derive(Debug, Clone, Deserialize)]
pub struct User {
    pub id: Uuid,
    pub n: i64,
    #[expect(dead_code, reason = "a column that is kept")]
    pub m: i64,
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("n".to_string(), Some(self.n))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Returns the key of a row. Keys are spread, as random uuids are.
pub fn key(number: u64) -> Uuid {
    let mut random = fastrand::Rng::with_seed(number);
    Uuid::from_u128(random.u128(..) & !(0xf << 76) | (4 << 76))
}

/// Returns the shape of the table, with `n` and `m`.
pub fn shape() -> Arc<TableShape> {
    let column = |name: &str, kind| Column {
        name: name.to_string(),
        kind,
        nullable: false,
    };
    let columns = vec![
        column("id", CellType::Uuid),
        column("n", CellType::Int8),
        column("m", CellType::Int8),
    ];
    Arc::new(TableShape::new(columns, &["id".to_string()]).expect("a shape"))
}

/// Returns a row as the tuple that COPY sends.
pub fn tuple(number: u64) -> Vec<u8> {
    let mut tuple = 3_u16.to_be_bytes().to_vec();
    for field in [
        key(number).as_bytes().as_slice(),
        &number.to_be_bytes(),
        &(number * 7).to_be_bytes(),
    ] {
        tuple.extend((field.len() as u32).to_be_bytes());
        tuple.extend(field);
    }
    tuple
}

/// Returns the `data` of a row's payload.
pub fn data(number: u64, n: u64) -> String {
    format!(r#"{{"id":"{}","n":{n},"m":{}}}"#, key(number), number * 7)
}

/// Returns the payload of a change, in the extended form.
pub fn payload(action: &str, number: u64, n: u64, xid: u64) -> String {
    let data = match action {
        "delete" => String::new(),
        _ => format!(r#","data":{}"#, data(number, n)),
    };
    format!(
        r#"{{"table" : "users", "action" : "{action}", "id" : "{}"{data}, "schema" : "public", "rel" : "16385", "xid" : "{xid}", "v" : "(0,3)", "at" : "2026-11-20T12:34:56.789012+00:00"}}"#,
        key(number)
    )
}

/// Returns a cache of so many rows, with an index on `n`.
pub fn table_cache(rows: u64, expected: usize) -> TableCache {
    let shape = shape();
    let mut cache = TableCache::with_indexes(
        Arc::clone(&shape),
        expected,
        postgres_index_cache_core::tooling::IndexedColumns::Only(vec![1]),
    );
    let mut row = RowBuf::default();
    for number in 0..rows {
        row.read_copy_tuple(&shape, &tuple(number)).expect("a row");
        cache.append(&row).expect("a new row");
    }
    cache.index_appended().expect("new rows");
    cache
}

/// Returns a cache of models with so many rows.
pub fn model_cache(rows: u64) -> IdxModelCache<User> {
    let mut cache = IdxModelCache::with_capacity(rows as usize);
    for number in 0..rows {
        cache.add(User {
            id: key(number),
            n: number as i64,
            m: 0,
        });
    }
    cache
}

/// Reads the data of a payload into a row.
pub fn read(shape: &TableShape, row: &mut RowBuf, data: &str) {
    row.read_json(shape, data, JsonNulls::Listed(&[]))
        .expect("a row");
}
