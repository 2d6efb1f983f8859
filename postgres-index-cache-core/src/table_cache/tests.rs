//! A table cache against a map of rows, under random operations.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn shape(key: &[&str]) -> Arc<TableShape> {
    let column = |name: &str, kind, nullable| Column {
        name: name.to_string(),
        kind,
        nullable,
    };
    let columns = vec![
        column("id", CellType::Int4, false),
        column("part", CellType::Text, false),
        column("hash", CellType::Int8, true),
        column("price", CellType::Numeric, true),
        column("note", CellType::Text, true),
        column("doc", CellType::Json, true),
    ];
    Arc::new(
        TableShape::new(
            columns,
            &key.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )
        .unwrap(),
    )
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

#[derive(Debug, Clone, PartialEq)]
struct Plain {
    id: i32,
    hash: Option<i64>,
    price: Option<u8>,
    note: Option<String>,
}

impl Plain {
    fn json(&self) -> String {
        let json = |value: Option<String>| value.unwrap_or_else(|| "null".to_string());
        format!(
            r#"{{"id":{},"part":"p{}","hash":{},"price":{},"note":{},"doc":null}}"#,
            self.id,
            self.id % 3,
            json(self.hash.map(|hash| hash.to_string())),
            // One value in two spellings: 1.10 and 1.1.
            json(self.price.map(|price| if price % 2 == 0 {
                format!("{price}.10")
            } else {
                format!("{}.1", price - 1)
            })),
            json(self.note.as_ref().map(|note| format!("\"{note}\""))),
        )
    }
}

fn plain_rows() -> impl Strategy<Value = Plain> {
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
        let id_of = |row: &Plain| {
            if composite { format!(r#"["p{}",{}]"#, row.id % 3, row.id) } else { row.id.to_string() }
        };
        let mut cache = TableCache::new(Arc::clone(&shape), expected);
        let mut oracle: BTreeMap<i32, Plain> = BTreeMap::new();
        for (plain, operation) in operations {
            match operation {
                0 | 1 => {
                    let removed = cache.remove(&key(&shape, &id_of(&plain)));
                    prop_assert_eq!(removed, oracle.remove(&plain.id).is_some());
                }
                2 => cache.ensure_index(3),
                8 => {
                    // A new snapshot: it lacks some rows, and one is another.
                    let mut seen = SeenRows::default();
                    let before = oracle.clone();
                    oracle.retain(|id, _| id % 3 != plain.id % 3);
                    oracle.insert(plain.id, plain);
                    for plain in oracle.values() {
                        cache.merge(&row(&shape, &plain.json()).unwrap(), &mut seen).unwrap();
                        prop_assert!(cache.merge(&row(&shape, &plain.json()).unwrap(), &mut seen).is_err());
                    }
                    let mut swept = 0;
                    cache.sweep(&seen, |_| swept += 1);
                    prop_assert_eq!(swept, before.keys().filter(|id| !oracle.contains_key(id)).count());
                }
                3 => {
                    let inserted = cache.insert_unique(&row(&shape, &plain.json()).unwrap());
                    prop_assert_eq!(inserted.is_ok(), !oracle.contains_key(&plain.id));
                    oracle.entry(plain.id).or_insert(plain);
                }
                _ => {
                    let upserted = cache.upsert(&row(&shape, &plain.json()).unwrap()).unwrap();
                    let before = oracle.insert(plain.id, plain.clone());
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
            let found = cache.get(&key(&shape, &id_of(plain))).expect("the row is there");
            prop_assert_eq!(format!("{found:?}"), plain.json());
        }
        for hash in 0..5_i64 {
            let found = cache.find(&[Condition { column: 2, wanted: Predicate::Cell(hash.to_le_bytes().to_vec()) }]);
            prop_assert_eq!(found.access, AccessPath::Index(2));
            prop_assert_eq!(found.rows.len(), oracle.values().filter(|row| row.hash == Some(hash)).count());
        }
        let null_hash = Condition { column: 2, wanted: Predicate::Null };
        let with_note = Condition { column: 4, wanted: Predicate::NotNull };
        let expected = oracle.values().filter(|row| row.hash.is_none() && row.note.is_some()).count();
        prop_assert_eq!(cache.find(&[null_hash, with_note]).rows.len(), expected);
        let price = Condition { column: 3, wanted: Predicate::Cell(b"2.1".to_vec()) };
        let expected = oracle.values().filter(|row| matches!(row.price, Some(2 | 3))).count();
        prop_assert_eq!(cache.find(&[price]).rows.len(), expected);
    }
}

#[test]
fn dead_records_do_not_pile_up() {
    let shape = shape(&["id"]);
    let mut cache = TableCache::new(Arc::clone(&shape), 0);
    let long = "y".repeat(2_000);
    for round in 0..200 {
        // Fifty hot rows, then one: what stays cold must not pin what dies around it.
        for id in 0..if round < 100 { 50 } else { 1 } {
            let json = format!(
                r#"{{"id":{id},"part":"","hash":1,"price":1,"note":"{round} {long}","doc":{{}}}}"#
            );
            cache.upsert(&row(&shape, &json).unwrap()).unwrap();
        }
    }
    cache.validate().unwrap();
    for round in 0..5_000 {
        let json = format!(
            r#"{{"id":0,"part":"","hash":1,"price":1,"note":"{round} {long}","doc":{{}}}}"#
        );
        cache.upsert(&row(&shape, &json).unwrap()).unwrap();
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
    let unfit = |json: &str| row(&shape, json).unwrap_err().to_string();
    assert_eq!(unfit(r#"{"id":1,"part":""}"#), "column \"hash\" is missing");
    assert_eq!(
        unfit(r#"{"id":"x","part":""}"#),
        "column \"id\": \"x\" is not a value of kind Int4"
    );
    assert_eq!(
        unfit(r#"{"id":1,"part":null,"hash":1,"price":1,"note":"","doc":1}"#),
        "column \"part\" is null and may not be"
    );
    assert!(unfit("[1]").starts_with("\"data\" is not a row"));
    assert!(unfit(r#"{"id":1,"id":2}"#).contains("stands twice"));
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
    for field in [
        Some(&7_i32.to_be_bytes()[..]),
        Some(b"p1"),
        None,
        None,
        Some(b"n"),
        Some(b" {\"a\":1}\n"),
    ] {
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
    for end in 0..tuple.len() {
        assert!(
            from_copy.read_copy_tuple(&shape, &tuple[..end]).is_err(),
            "cut at {end}"
        );
    }
}
