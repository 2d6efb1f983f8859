//! The work of the hot paths in instructions of the processor, which do not depend on the machine's
//! load as times do. A test fails only if a path takes far more than when its bound was written
//! down: a copy or an allocation for each row, a lost fast path. The bounds are twice what a build
//! for tests takes, in which dependencies are not optimised.
//!
//! Valgrind counts. Where it is not installed nothing is counted, and the tests say so.

use postgres_index_cache_core::tooling::{
    CellType, Column, Condition, IndexedColumns, JsonNulls, KeyBuf, Payload, Predicate, RowBuf,
    TableCache, TableShape,
};
use std::process::Command;
use std::sync::Arc;

/// The variable that tells a test to do its work so often, and to count nothing.
const WORK: &str = "PGIC_COUNTED_WORK";

/// Does `work`, which takes a number of rounds, under valgrind, and checks that a round takes at
/// most `most` instructions. `test` is the name of the calling test.
fn takes_at_most(most: u64, test: &str, work: impl Fn(u64)) {
    const ROUNDS: u64 = 20_000;
    if let Ok(rounds) = std::env::var(WORK) {
        return work(rounds.parse().expect("a number of rounds"));
    }
    let counted = |rounds: u64| -> Option<u64> {
        let ran = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().expect("the path of this test"))
            .args(["--exact", test])
            .env(WORK, rounds.to_string())
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let printed = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{printed}{said}");
        let count = said.split("Collected :").nth(1)?.split_whitespace().next();
        count?.parse().ok()
    };
    // Twice, so that what is done once is no part of the difference.
    let (Some(few), Some(many)) = (counted(ROUNDS), counted(2 * ROUNDS)) else {
        println!("valgrind is not installed: nothing was counted");
        return;
    };
    let each = (many - few) / ROUNDS;
    println!("{test}: {each} instructions");
    assert!(
        each <= most,
        "{test}: {each} instructions, not {most} at most"
    );
}

fn shape() -> Arc<TableShape> {
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
    Arc::new(TableShape::new(columns, &["id".to_string()]).unwrap())
}

/// Returns the key of a row.
fn key(number: u64) -> [u8; 16] {
    let spread = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    spread.to_be_bytes()
}

/// Writes the tuple of a row, as COPY sends it.
fn write_tuple(number: u64, tuple: &mut Vec<u8>) {
    tuple.clear();
    tuple.extend(3_u16.to_be_bytes());
    for field in [
        &key(number)[..],
        &number.to_be_bytes(),
        &(number * 7).to_be_bytes(),
    ] {
        tuple.extend((field.len() as u32).to_be_bytes());
        tuple.extend(field);
    }
}

/// Returns a cache of so many rows, with an index on `n`.
fn loaded(rows: u64) -> TableCache {
    let shape = shape();
    let indexed = IndexedColumns::Only(vec![1]);
    let mut cache = TableCache::with_indexes(Arc::clone(&shape), rows as usize, indexed);
    let mut row = RowBuf::default();
    let mut tuple = Vec::new();
    for number in 0..rows {
        write_tuple(number, &mut tuple);
        row.read_copy_tuple(&shape, &tuple).unwrap();
        cache.append(&row).unwrap();
    }
    cache.index_appended().unwrap();
    cache
}

/// Returns the payload of an update, in the extended form.
fn payload(number: u64) -> String {
    let id = uuid::Uuid::from_bytes(key(number));
    format!(
        r#"{{"table" : "users", "action" : "update", "id" : "{id}", "data" : {{"id":"{id}","n":{number},"m":9}}, "schema" : "public", "rel" : "16385", "xid" : "742", "v" : "(0,3)", "at" : "2026-11-20T12:34:56.789012+00:00"}}"#
    )
}

#[test]
fn a_row_of_a_snapshot() {
    takes_at_most(4000, "a_row_of_a_snapshot", |rounds| {
        assert_eq!(loaded(rounds).len() as u64, rounds);
    });
}

#[test]
fn a_lookup_by_an_index() {
    takes_at_most(2200, "a_lookup_by_an_index", |rounds| {
        let cache = loaded(1000);
        for number in 0..rounds {
            let wanted = Predicate::Cell((number % 1000).to_le_bytes().to_vec());
            let found = cache.find(&[Condition { column: 1, wanted }]);
            assert_eq!(found.rows.len(), 1);
        }
    });
}

#[test]
fn a_change_that_is_parsed_and_stored() {
    takes_at_most(50_000, "a_change_that_is_parsed_and_stored", |rounds| {
        let mut cache = loaded(1000);
        let shape = shape();
        let mut key = KeyBuf::default();
        let mut row = RowBuf::default();
        for number in 0..rounds {
            let text = payload(number % 1000);
            let payload = Payload::parse(&text).unwrap();
            key.read_json(&shape, payload.id.unwrap()).unwrap();
            row.read_json(&shape, payload.data.unwrap(), JsonNulls::Listed(&[]))
                .unwrap();
            assert!(row.has_key(&shape, &key));
            cache.upsert(&row).unwrap();
        }
    });
}
