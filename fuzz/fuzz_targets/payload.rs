//! Any payload, through the parser, the engine, and a row of every kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_index_cache_core::{Column, JsonNulls, KeyBuf, Kind, Payload, RowBuf, TableCache, TableShape};
use std::sync::Arc;

fn shape() -> Arc<TableShape> {
    let column = |name: &str, kind| Column { name: name.to_string(), kind, nullable: true };
    let kinds = [
        ("id", Kind::Int4), ("a", Kind::Numeric), ("b", Kind::Timestamptz), ("c", Kind::Date), ("d", Kind::Bytea),
        ("e", Kind::Jsonb), ("f", Kind::Float4), ("g", Kind::Text), ("h", Kind::Other), ("i", Kind::Uuid),
    ];
    let columns = kinds.map(|(name, kind)| column(name, kind)).to_vec();
    Arc::new(TableShape::new(columns, &["id".to_string()]).expect("a shape"))
}

fuzz_target!(|text: &str| {
    let shape = shape();
    let (mut row, mut key) = (RowBuf::default(), KeyBuf::default());
    let mut cache = TableCache::new(Arc::clone(&shape), 0);
    if let Ok(payload) = Payload::parse(text) {
        if let Some(id) = payload.id {
            let _ = key.read_json(&shape, id.get());
        }
        if let Some(data) = payload.data
            && row.read_json(&shape, data.get(), JsonNulls::Listed(&payload.nulls)).is_ok()
        {
            cache.upsert(&row).expect("there is room");
        }
    }
    if row.read_json(&shape, text, JsonNulls::Unknown).is_ok() {
        cache.upsert(&row).expect("there is room");
    }
    cache.validate().expect("the cache is sound");
});
