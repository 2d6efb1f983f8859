//! Tests of [`TableCache`]: random operations against a map of rows, rows from both sources, and
//! the memory that dead records take.

use super::*;
use crate::value::CellType;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn column(name: &str, kind: CellType, nullable: bool) -> Column {
    Column {
        name: name.to_string(),
        kind,
        nullable,
    }
}

fn shape(key: &[&str]) -> Arc<TableShape> {
    let columns = vec![
        column("id", CellType::Int4, false),
        column("part", CellType::Text, false),
        column("hash", CellType::Int8, true),
        column("price", CellType::Numeric, true),
        column("note", CellType::Text, true),
        column("doc", CellType::Json, true),
    ];
    let key: Vec<String> = key.iter().map(ToString::to_string).collect();
    Arc::new(TableShape::new(columns, &key).unwrap())
}

fn row(shape: &TableShape, json: &str) -> Result<RowBuf, RowError> {
    let mut row = RowBuf::default();
    row.read_json(shape, json, JsonNulls::Listed(&["doc".to_string()]))
        .map(|()| row)
}

fn key(shape: &TableShape, id: &str) -> KeyBuf {
    let mut key = KeyBuf::default();
    key.read_json(shape, id).unwrap();
    key
}

/// A row of the oracle. `part` follows from `id`, and `doc` is always SQL NULL.
#[derive(Debug, Clone, PartialEq)]
struct Plain {
    id: i32,
    hash: Option<i64>,
    price: Option<u8>,
    note: Option<String>,
}

impl Plain {
    fn json(&self) -> String {
        fn json(value: Option<String>) -> String {
            value.unwrap_or_else(|| "null".to_string())
        }
        format!(
            r#"{{"id":{},"part":"p{}","hash":{},"price":{},"note":{},"doc":null}}"#,
            self.id,
            self.id % 3,
            json(self.hash.map(|hash| hash.to_string())),
            json(self.price.map(price_text)),
            json(self.note.as_ref().map(|note| format!("\"{note}\""))),
        )
    }

    fn id_json(&self, is_composite: bool) -> String {
        if is_composite {
            format!(r#"["p{}",{}]"#, self.id % 3, self.id)
        } else {
            self.id.to_string()
        }
    }
}

/// Writes prices 2 and 3 as 2.10 and 2.1: one value in two spellings, which an index must not tell
/// apart.
fn price_text(price: u8) -> String {
    if price.is_multiple_of(2) {
        format!("{price}.10")
    } else {
        format!("{}.1", price - 1)
    }
}

fn plain_rows() -> impl Strategy<Value = Plain> {
    // A note of 300 shares a chunk of the arena; one of 70,000 gets a chunk of its own.
    let note = prop::option::of(prop_oneof![
        "[a-c]{0,3}".boxed(),
        Just("y".repeat(300)).boxed(),
        Just("x".repeat(70_000)).boxed()
    ]);
    (
        0..30_i32,
        prop::option::of(0..5_i64),
        prop::option::of(0..4_u8),
        note,
    )
        .prop_map(|(id, hash, price, note)| Plain {
            id,
            hash,
            price,
            note,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn a_cache_agrees_with_a_map_of_rows(
        operations in prop::collection::vec((plain_rows(), 0_u8..9), 0..150),
        composite in any::<bool>(),
        expected in 0_usize..100,
    ) {
        let shape = shape(if composite { &["part", "id"] } else { &["id"] });
        let mut cache = TableCache::new(Arc::clone(&shape), expected);
        let mut oracle: BTreeMap<i32, Plain> = BTreeMap::new();
        for (plain, operation) in operations {
            match operation {
                0 | 1 => {
                    let removed = cache.remove(&key(&shape, &plain.id_json(composite)));
                    prop_assert_eq!(removed, oracle.remove(&plain.id).is_some());
                }
                2 => cache.ensure_index(3),
                8 => {
                    // A new snapshot, which lacks some rows and has one other row.
                    let mut seen = SeenRows::default();
                    let before = oracle.clone();
                    oracle.retain(|id, _| id % 3 != plain.id % 3);
                    oracle.insert(plain.id, plain);
                    for plain in oracle.values() {
                        let row = row(&shape, &plain.json()).unwrap();
                        cache.merge(&row, &mut seen).unwrap();
                        // A snapshot with one key twice is not one of this table.
                        prop_assert!(cache.merge(&row, &mut seen).is_err());
                    }
                    let mut swept = 0;
                    cache.sweep(&seen, |_| swept += 1);
                    let gone = before.keys().filter(|id| !oracle.contains_key(id));
                    prop_assert_eq!(swept, gone.count());
                }
                3 => {
                    let inserted = cache.insert_unique(&row(&shape, &plain.json()).unwrap());
                    prop_assert_eq!(inserted.is_ok(), !oracle.contains_key(&plain.id));
                    oracle.entry(plain.id).or_insert(plain);
                }
                _ => {
                    let upserted = cache.upsert(&row(&shape, &plain.json()).unwrap()).unwrap();
                    let before = oracle.insert(plain.id, plain.clone());
                    // 2.10 in place of 2.1 is a change: a row is its text, not only its values.
                    let expected = match before {
                        None => Upserted::Added,
                        Some(before) if before.json() == plain.json() => Upserted::Unchanged,
                        Some(_) => Upserted::Changed,
                    };
                    prop_assert_eq!(upserted, expected);
                }
            }
            cache.validate().map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(cache.len(), oracle.len());
        for plain in oracle.values() {
            let key = key(&shape, &plain.id_json(composite));
            let found = cache.get(&key).expect("the row is there");
            prop_assert_eq!(format!("{found:?}"), plain.json());
        }
        for hash in 0..5_i64 {
            let wanted = Predicate::Cell(hash.to_le_bytes().to_vec());
            let found = cache.find(&[Condition { column: 2, wanted }]);
            prop_assert_eq!(found.access, AccessPath::Index(2));
            let expected = oracle.values().filter(|row| row.hash == Some(hash));
            prop_assert_eq!(found.rows.len(), expected.count());
        }
        let null_hash = Condition { column: 2, wanted: Predicate::Null };
        let with_note = Condition { column: 4, wanted: Predicate::NotNull };
        let expected = oracle.values().filter(|row| row.hash.is_none() && row.note.is_some());
        prop_assert_eq!(cache.find(&[null_hash, with_note]).rows.len(), expected.count());
        // By a scan or, after `ensure_index`, by the index: 2.10 is found as 2.1.
        let price = Condition { column: 3, wanted: Predicate::Cell(b"2.1".to_vec()) };
        let expected = oracle.values().filter(|row| matches!(row.price, Some(2 | 3)));
        prop_assert_eq!(cache.find(&[price]).rows.len(), expected.count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn rows_that_are_appended_are_as_if_they_were_added_one_by_one(
        rows in prop::collection::vec((plain_rows(), 0_u8..20), 0..200),
        before in prop::collection::vec(plain_rows(), 0..10),
        composite in any::<bool>(),
        expected in 0_usize..300,
    ) {
        let shape = shape(if composite { &["part", "id"] } else { &["id"] });
        let mut cache = TableCache::new(Arc::clone(&shape), expected);
        let mut oracle: BTreeMap<i32, Plain> = BTreeMap::new();
        for plain in before {
            cache.upsert(&row(&shape, &plain.json()).unwrap()).unwrap();
            oracle.insert(plain.id, plain);
        }
        let mut known = oracle.clone();
        let mut has_double = false;
        for (plain, indexes) in rows {
            cache.append(&row(&shape, &plain.json()).unwrap()).unwrap();
            has_double |= oracle.contains_key(&plain.id);
            // The first row with a key stays.
            oracle.entry(plain.id).or_insert(plain);
            // What is not indexed is no part of the cache.
            prop_assert_eq!(cache.len(), known.len());
            prop_assert_eq!(cache.rows().count(), known.len());
            if indexes == 0 {
                prop_assert_eq!(cache.index_appended().is_err(), has_double);
                has_double = false;
                known = oracle.clone();
            }
        }
        prop_assert_eq!(cache.index_appended().is_err(), has_double);
        cache.validate().map_err(TestCaseError::fail)?;
        let mut rows: Vec<String> = cache.rows().map(|row| format!("{row:?}")).collect();
        rows.sort();
        let mut wanted: Vec<String> = oracle.values().map(Plain::json).collect();
        wanted.sort();
        prop_assert_eq!(rows, wanted);
        // And the cache goes on as any other, with the room of the doubles used again.
        for id in 0..60 {
            let plain = Plain { id, hash: Some(1), price: None, note: None };
            cache.upsert(&row(&shape, &plain.json()).unwrap()).unwrap();
        }
        cache.validate().map_err(TestCaseError::fail)?;
        prop_assert_eq!(cache.len(), 60);
    }
}

#[test]
fn many_rows_are_indexed_as_they_are_appended() {
    let columns = vec![
        column("id", CellType::Int4, false),
        column("few", CellType::Int4, true),
        column("each", CellType::Int8, false),
    ];
    let shape = Arc::new(TableShape::new(columns, &["id".to_string()]).unwrap());
    // One cache has room from the start, the other one splits as it grows.
    for expected in [0, 600_000] {
        let mut cache = TableCache::new(Arc::clone(&shape), expected);
        let mut changed = RowBuf::default();
        for id in 0..600_000 {
            let json = format!(r#"{{"id":{id},"few":{},"each":{}}}"#, id % 7, id * 2);
            changed
                .read_json(&shape, &json, JsonNulls::Unknown)
                .unwrap();
            cache.append(&changed).unwrap();
        }
        assert_eq!(cache.stored(), 600_000);
        assert_eq!(cache.len(), 2 * APPENDED, "two parts are full");
        cache.index_appended().unwrap();
        cache.validate().unwrap();
        let few = equals(&cache, "few", &3_i32.to_le_bytes());
        assert_eq!(cache.find(&[few]).rows.len(), 600_000 / 7);
        let each = equals(&cache, "each", &800_000_i64.to_le_bytes());
        assert_eq!(
            format!("{:?}", cache.find(&[each]).rows[0]),
            r#"{"id":400000,"few":6,"each":800000}"#
        );
        // To bring rows near changes nothing, whether they are there or not.
        let here = key(&shape, "5");
        let gone = key(&shape, "-5");
        cache.touch(&[
            Touched::Key(&here),
            Touched::Key(&gone),
            Touched::Row(&changed),
        ]);
        assert_eq!(cache.len(), 600_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn many_values_are_found_as_one_at_a_time(
        rows in prop::collection::vec(plain_rows(), 0..80),
        wanted in prop::collection::vec((0..30_i32, 0..5_i64, 0..4_u8), 0..150),
        key_number in 0..KEYS.len(),
    ) {
        let mut cache = TableCache::new(shape(KEYS[key_number]), 0);
        for mut plain in rows {
            plain.price.get_or_insert(0);
            plain.note.get_or_insert_default();
            cache.upsert(&row(cache.shape(), &plain.json()).unwrap()).unwrap();
        }
        // By the key or a scan, by an index, and by a column with several cells for one value.
        let ids = wanted.iter().map(|(id, ..)| id.to_le_bytes().to_vec()).collect();
        let hashes = wanted.iter().map(|(_, hash, _)| hash.to_le_bytes().to_vec()).collect();
        let prices = wanted.iter().map(|(.., price)| price_text(*price).into_bytes()).collect();
        let values: [(usize, Vec<Vec<u8>>); 3] = [(0, ids), (2, hashes), (3, prices)];
        for (column, cells) in values {
            let mut by_many: Vec<(usize, String)> = Vec::new();
            let borrowed: Vec<&[u8]> = cells.iter().map(Vec::as_slice).collect();
            cache.find_many(column, &borrowed, |at, row| by_many.push((at, format!("{row:?}"))));
            prop_assert!(by_many.is_sorted_by_key(|(at, _)| *at));
            by_many.sort();
            let mut one_by_one = Vec::new();
            for (at, cell) in cells.into_iter().enumerate() {
                let condition = Condition { column, wanted: Predicate::Cell(cell) };
                let rows = found(&cache, &[condition]);
                one_by_one.extend(rows.into_iter().map(|row| (at, row)));
            }
            prop_assert_eq!(by_many, one_by_one);
        }
    }
}

/// The keys for whose rows `find` looks below: of an integer, of a text, of a type that has several
/// cells for one value, and of two columns.
const KEYS: [&[&str]; 4] = [&["id"], &["note"], &["price"], &["part", "id"]];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn an_index_that_is_made_at_any_time_finds_what_a_scan_finds(
        changes in prop::collection::vec((plain_rows(), any::<bool>()), 0..80),
        indexed_after in 0_usize..80,
        key_number in 0..KEYS.len(),
    ) {
        let shape = shape(KEYS[key_number]);
        let mut scanned = TableCache::new(Arc::clone(&shape), 0);
        let mut indexed = TableCache::new(Arc::clone(&shape), 0);
        for (at, (mut plain, is_removed)) in changes.into_iter().enumerate() {
            if at == indexed_after {
                for column in 0..shape.columns().len() {
                    indexed.ensure_index(column);
                }
            }
            // Any of these may be a key column here, which is never null.
            plain.price.get_or_insert(0);
            plain.note.get_or_insert_default();
            let row = row(&shape, &plain.json()).unwrap();
            for cache in [&mut scanned, &mut indexed] {
                if is_removed {
                    cache.remove(&KeyBuf::of_row(&shape, &row));
                } else {
                    cache.upsert(&row).unwrap();
                }
            }
            indexed.validate().map_err(TestCaseError::fail)?;
        }
        let wanted = [
            ("note", Predicate::Cell(b"a".to_vec())),
            ("note", Predicate::Null),
            ("price", Predicate::Cell(b"2.1".to_vec())),
            ("part", Predicate::Cell(b"p1".to_vec())),
            ("doc", Predicate::Null),
            ("note", Predicate::NotNull),
        ];
        for (name, wanted) in wanted {
            let column = shape.position(name).unwrap();
            let condition = [Condition { column, wanted }];
            let by_scan: Vec<String> = found(&scanned, &condition);
            prop_assert_eq!(found(&indexed, &condition), by_scan, "{:?}", condition);
        }
    }
}

/// Returns the rows that fulfil the conditions as JSON, in one order for all caches.
fn found(cache: &TableCache, conditions: &[Condition]) -> Vec<String> {
    let answer = cache.find(conditions);
    let mut rows: Vec<String> = answer.rows.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    rows
}

/// Returns a cache of thirty rows with this key.
fn filled(key: &[&str]) -> TableCache {
    let mut cache = TableCache::new(shape(key), 0);
    for id in 0..30 {
        let plain = Plain {
            id,
            hash: None,
            price: Some(u8::try_from(id).unwrap()),
            note: Some(format!("n{id}")),
        };
        let row = row(cache.shape(), &plain.json()).unwrap();
        cache.upsert(&row).unwrap();
    }
    cache
}

/// Returns the condition that a column has this cell.
fn equals(cache: &TableCache, column: &str, cell: &[u8]) -> Condition {
    Condition {
        column: cache.shape().position(column).unwrap(),
        wanted: Predicate::Cell(cell.to_vec()),
    }
}

#[test]
fn a_row_is_found_by_its_whole_key_of_any_type() {
    let by_text = filled(&["note"]);
    let answer = by_text.find(&[equals(&by_text, "note", b"n7")]);
    assert_eq!((answer.access, answer.rows.len()), (AccessPath::Key, 1));
    // All columns of the key are needed, in any order.
    let by_two = filled(&["part", "id"]);
    let part = equals(&by_two, "part", b"p1");
    let id = equals(&by_two, "id", &7_i32.to_le_bytes());
    let answer = by_two.find(&[id, part.clone()]);
    assert_eq!((answer.access, answer.rows.len()), (AccessPath::Key, 1));
    let answer = by_two.find(std::slice::from_ref(&part));
    assert_eq!((answer.access, answer.rows.len()), (AccessPath::Scan, 10));
    // The key table has 2.10 and 2.1 in two places, though they are one value to SQL: both rows of
    // this cache must be found. An index has them in one.
    let mut by_number = filled(&["price"]);
    let price = [equals(&by_number, "price", b"2.1")];
    assert_eq!(by_number.find(&price).access, AccessPath::Scan);
    assert_eq!(by_number.find(&price).rows.len(), 2);
    assert_eq!(by_number.missing_indexes(&price), [3]);
    by_number.ensure_index(3);
    assert_eq!(by_number.find(&price).access, AccessPath::Index(3));
    assert_eq!(by_number.find(&price).rows.len(), 2);
}

#[test]
fn only_indexes_that_would_help_are_missing() {
    let mut cache = filled(&["id"]);
    let note = equals(&cache, "note", b"n7");
    let part = equals(&cache, "part", b"p1");
    let hash = equals(&cache, "hash", &1_i64.to_le_bytes());
    let id = equals(&cache, "id", &7_i32.to_le_bytes());
    let with_price = Condition {
        column: 3,
        wanted: Predicate::NotNull,
    };
    let conditions = [note.clone(), part, note.clone(), hash, with_price];
    assert_eq!(cache.missing_indexes(&conditions), [1, 4]);
    // The key finds the row, whatever else is asked of it.
    assert!(cache.missing_indexes(&[note.clone(), id]).is_empty());
    assert_eq!(
        cache.find(std::slice::from_ref(&note)).access,
        AccessPath::Scan
    );
    cache.ensure_index(4);
    assert!(
        cache
            .missing_indexes(std::slice::from_ref(&note))
            .is_empty()
    );
    let answer = cache.find(&[note]);
    assert_eq!(answer.access, AccessPath::Index(4));
    assert_eq!((answer.rows.len(), answer.looked_at), (1, 1));
}

#[test]
fn an_index_takes_at_most_the_bytes_that_are_said() {
    // Each note stands in two rows, of which an index takes most.
    let mut cache = TableCache::new(shape(&["id"]), 0);
    for id in 0..10_000 {
        let json = format!(
            r#"{{"id":{id},"part":"","hash":null,"price":null,"note":"n{}","doc":null}}"#,
            id / 2
        );
        let row = row(cache.shape(), &json).unwrap();
        cache.upsert(&row).unwrap();
    }
    let expected = cache.memory_bytes() + cache.index_bytes();
    cache.ensure_index(4);
    assert!(
        cache.memory_bytes() <= expected,
        "{} bytes, {expected} expected",
        cache.memory_bytes()
    );
}

#[test]
fn dead_records_do_not_pile_up() {
    fn write(cache: &mut TableCache, id: i32, version: i32) {
        let note = format!("{version} {}", "y".repeat(2_000));
        let json =
            format!(r#"{{"id":{id},"part":"","hash":1,"price":1,"note":"{note}","doc":{{}}}}"#);
        let row = row(cache.shape(), &json).unwrap();
        cache.upsert(&row).unwrap();
    }
    let mut cache = TableCache::new(shape(&["id"]), 0);
    // Fifty rows change, then one alone. The records of the others must not keep alive the chunks
    // in which all else has died.
    for version in 0..100 {
        for id in 0..50 {
            write(&mut cache, id, version);
        }
    }
    for version in 100..5_100 {
        write(&mut cache, 0, version);
    }
    cache.validate().unwrap();
    let live = 50 * 2_100;
    assert!(
        cache.memory_bytes() < 3 * live + 3 * 256 * 1024,
        "{} bytes",
        cache.memory_bytes()
    );
}

#[test]
fn data_that_does_not_fit_names_the_column() {
    let shape = shape(&["id"]);
    for (json, message) in [
        (r#"{"id":1,"part":""}"#, r#"column "hash" is missing"#),
        (
            r#"{"id":"x","part":""}"#,
            r#"column "id": "x" is not a value of type integer"#,
        ),
        (
            r#"{"id":1,"part":null,"hash":1,"price":1,"note":"","doc":1}"#,
            r#"column "part" is null and may not be"#,
        ),
        ("[1]", r#""data" is not a row"#),
        (
            r#"{"id":1,"id":2}"#,
            r#""data" is not a row: column "id" is named twice"#,
        ),
    ] {
        let error = row(&shape, json).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let wrong_width = KeyBuf::default()
        .read_json(&self::shape(&["part", "id"]), "[1]")
        .unwrap_err();
    assert_eq!(
        wrong_width,
        RowError::KeyWidth {
            expected: 2,
            found: 1
        }
    );
}

#[test]
fn a_copy_tuple_gives_the_same_row_as_its_json() {
    let shape = shape(&["id"]);
    let mut tuple = 6_u16.to_be_bytes().to_vec();
    let fields = [
        Some(&7_i32.to_be_bytes()[..]),
        Some(b"p1"),
        None,
        None,
        Some(b"n"),
        // A json value keeps its white space in COPY. In a payload, the parser takes off the outer.
        Some(b" {\"a\":1}\n"),
    ];
    for field in fields {
        match field {
            Some(field) => {
                tuple.extend((field.len() as u32).to_be_bytes());
                tuple.extend(field);
            }
            None => tuple.extend((-1_i32).to_be_bytes()),
        }
    }
    let mut from_copy = RowBuf::default();
    from_copy.read_copy_tuple(&shape, &tuple).unwrap();
    let from_json = row(
        &shape,
        r#"{"id":7,"part":"p1","hash":null,"price":null,"note":"n","doc":{"a":1}}"#,
    )
    .unwrap();
    for column in 0..6 {
        assert_eq!(
            from_copy.cell(column),
            from_json.cell(column),
            "column {column}"
        );
    }
    // A tuple that is cut anywhere is an error: no length in it is believed.
    for end in 0..tuple.len() {
        assert!(
            from_copy.read_copy_tuple(&shape, &tuple[..end]).is_err(),
            "cut at {end}"
        );
    }
}
