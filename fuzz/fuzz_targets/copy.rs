//! Any bytes in pieces of any length, through the COPY decoder, into rows of a cache.
//!
//! The first byte of the input is the length of the pieces, less one. A network cuts a stream
//! anywhere, so the decoder must not depend on where.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_index_cache_core::tooling::postgres::{CopyDecoder, CopyError};
use postgres_index_cache_core::tooling::{CellType, Column, RowBuf, TableCache, TableShape};
use std::sync::Arc;

fn column(name: &str, kind: CellType) -> Column {
    Column {
        name: name.to_string(),
        kind,
        nullable: true,
    }
}

/// Returns a table with a key of fixed width and columns of variable width.
fn shape() -> Arc<TableShape> {
    let columns = vec![
        column("id", CellType::Int4),
        column("a", CellType::Numeric),
        column("b", CellType::Jsonb),
        column("c", CellType::Text),
    ];
    Arc::new(TableShape::new(columns, &["id".to_string()]).expect("a shape"))
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else {
        return;
    };
    let shape = shape();
    let mut cache = TableCache::new(Arc::clone(&shape), 0);
    let mut decoder = CopyDecoder::default();
    let mut row = RowBuf::default();
    for piece in bytes.chunks(usize::from(size) + 1) {
        let pushed = decoder.push::<CopyError>(piece, |tuple| {
            // A tuple that does not fit is an error of its own, and not the end of the stream.
            if row.read_copy_tuple(&shape, tuple).is_ok() {
                cache.upsert(&row).expect("there is room");
            }
            Ok(())
        });
        // After an error the place of the next tuple is not known.
        if pushed.is_err() {
            break;
        }
    }
    cache.validate().expect("the cache is sound");
});
