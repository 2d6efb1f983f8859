//! Any bytes in any pieces, through the COPY decoder, into rows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_index_cache_core::postgres::{CopyDecoder, CopyError};
use postgres_index_cache_core::{Column, CellType, RowBuf, TableCache, TableShape};
use std::sync::Arc;

// The first byte says how long the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let column = |name: &str, kind| Column { name: name.to_string(), kind, nullable: true };
    let columns = vec![column("id", CellType::Int4), column("a", CellType::Numeric), column("b", CellType::Jsonb), column("c", CellType::Text)];
    let shape = Arc::new(TableShape::new(columns, &["id".to_string()]).expect("a shape"));
    let mut cache = TableCache::new(Arc::clone(&shape), 0);
    let mut decoder = CopyDecoder::default();
    let mut row = RowBuf::default();
    for piece in bytes.chunks(usize::from(size) + 1) {
        let pushed = decoder.push::<CopyError>(piece, |tuple| {
            if row.read_copy_tuple(&shape, tuple).is_ok() {
                cache.upsert(&row).expect("there is room");
            }
            Ok(())
        });
        if pushed.is_err() {
            break;
        }
    }
    cache.validate().expect("the cache is sound");
});
