//! [`ModelCache`] under random changes, against a naive oracle. Some of the rows do not fit the
//! model.

use crate::index_cache::{HashIndex, IndexField, OrderedField, OrderedIndex};
use crate::model::{HasPrimaryKey, Indexable};
use crate::notification::Payload;
use crate::postgres::apply::models::*;
use crate::postgres::apply::sink_writer::SinkWriter;
use crate::postgres::apply::writer::{CacheWriter as _, Flushed, Incoming};
use crate::sync::Change;
use crate::table_cache::Column;
use crate::value::CellType;
use bytes::Bytes;
use fastrand::Rng;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::Duration;
use uuid::Uuid;

/// The number of keys that rows can have. Few keys make the changes meet.
const KEYS: u128 = 8;
/// A value that does not fit: the model has one byte for it.
const TOO_LARGE: i64 = 300;
/// A value that becomes a model whose index functions panic.
const PANICS: i64 = 13;
const VALUES: [i64; 5] = [1, 2, 3, TOO_LARGE, PANICS];

/// A model whose rows have a key, made of a number, and a value `n` of one byte.
trait TestModel: Model {
    /// The columns of the key, in key order.
    const KEY: &'static [(&'static str, CellType)];

    /// Returns the cells of the key with this number, as the server sends them.
    fn cells(number: u128) -> Vec<Vec<u8>>;

    /// Returns the parts of the key with this number as JSON.
    fn key_json(number: u128) -> Vec<String>;

    /// Returns the number of this row's key, and the row's value.
    fn parts(&self) -> (u128, u8);
}

/// A row of the specification's kind: a uuid, and indexes that are named at run time.
#[derive(Debug, serde::Deserialize)]
struct NamedRow {
    id: Uuid,
    n: u8,
}

impl HasPrimaryKey for NamedRow {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for NamedRow {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        assert_ne!(i64::from(self.n), PANICS, "it has no index values");
        HashMap::from([("n".to_string(), Some(i64::from(self.n)))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

impl TestModel for NamedRow {
    const KEY: &'static [(&'static str, CellType)] = &[("id", CellType::Uuid)];

    fn cells(number: u128) -> Vec<Vec<u8>> {
        vec![number.to_be_bytes().to_vec()]
    }

    fn key_json(number: u128) -> Vec<String> {
        vec![format!("\"{}\"", Uuid::from_u128(number))]
    }

    fn parts(&self) -> (u128, u8) {
        (self.id.as_u128(), self.n)
    }
}

/// The value of a row in the indexes of its field `n`.
struct ByN<T>(PhantomData<fn() -> T>);

impl<T: TestModel> IndexField for ByN<T> {
    type Row = T;
    type Value<'r> = u8;

    fn value(row: &T) -> Option<u8> {
        let (_, n) = row.parts();
        assert_ne!(i64::from(n), PANICS, "it has no index values");
        Some(n)
    }
}

impl<T: TestModel> OrderedField for ByN<T> {
    type Row = T;
    type Value = u8;

    fn value(row: &T) -> Option<u8> {
        <Self as IndexField>::value(row)
    }
}

/// Implements [`CacheModel`] with an index by hash and one in order over `n`.
macro_rules! model_with_indexes {
    ($model:ty, $key:ty, $row:ident => $own:expr) => {
        impl CacheModel for $model {
            type Key = $key;
            type Indexes = (HashIndex<ByN<Self>>, OrderedIndex<ByN<Self>>);

            fn key(&self) -> $key {
                let $row = self;
                $own
            }
        }
    };
}

/// A row with a key of two columns, the second of which is the first one's length at most.
#[derive(Debug, serde::Deserialize)]
struct CompositeRow {
    number: i32,
    name: String,
    n: u8,
}

model_with_indexes!(CompositeRow, (String, i32), row => (row.name.clone(), row.number));

impl TestModel for CompositeRow {
    const KEY: &'static [(&'static str, CellType)] =
        &[("name", CellType::Text), ("number", CellType::Int4)];

    fn cells(number: u128) -> Vec<Vec<u8>> {
        let name = "x".repeat(number as usize % 3);
        vec![name.into_bytes(), (number as i32).to_be_bytes().to_vec()]
    }

    fn key_json(number: u128) -> Vec<String> {
        let name = "x".repeat(number as usize % 3);
        vec![format!("\"{name}\""), number.to_string()]
    }

    fn parts(&self) -> (u128, u8) {
        (self.number as u128, self.n)
    }
}

/// A row whose key is an integer.
#[derive(Debug, serde::Deserialize)]
struct IntegerRow {
    id: i64,
    n: u8,
}

model_with_indexes!(IntegerRow, i64, row => row.id);

impl TestModel for IntegerRow {
    const KEY: &'static [(&'static str, CellType)] = &[("id", CellType::Int8)];

    fn cells(number: u128) -> Vec<Vec<u8>> {
        vec![(number as i64).to_be_bytes().to_vec()]
    }

    fn key_json(number: u128) -> Vec<String> {
        vec![number.to_string()]
    }

    fn parts(&self) -> (u128, u8) {
        (self.id as u128, self.n)
    }
}

/// A newtype, of whose key the cache must keep the cells.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize)]
struct Day(String);

/// A row whose key is a newtype of a date.
#[derive(Debug, serde::Deserialize)]
struct DayRow {
    day: Day,
    n: u8,
}

model_with_indexes!(DayRow, Day, row => row.day.clone());

impl TestModel for DayRow {
    const KEY: &'static [(&'static str, CellType)] = &[("day", CellType::Date)];

    fn cells(number: u128) -> Vec<Vec<u8>> {
        // Days since 2000-01-01.
        vec![(number as i32 - 1).to_be_bytes().to_vec()]
    }

    fn key_json(number: u128) -> Vec<String> {
        vec![format!("\"2000-01-{number:02}\"")]
    }

    fn parts(&self) -> (u128, u8) {
        (self.day.0[8..].parse().unwrap(), self.n)
    }
}

/// Returns whether a row with this value belongs in the cache.
fn fits(n: i64) -> bool {
    n != TOO_LARGE && n != PANICS
}

/// Returns the `id` of the key with this number in a payload.
fn id<T: TestModel>(number: u128) -> String {
    let parts = T::key_json(number);
    if parts.len() == 1 {
        parts.concat()
    } else {
        format!("[{}]", parts.join(","))
    }
}

/// Returns a row as JSON.
fn json<T: TestModel>(number: u128, n: i64) -> String {
    let names = T::KEY.iter().map(|(name, _)| name);
    let members: Vec<String> = names
        .zip(T::key_json(number))
        .map(|(name, value)| format!(r#""{name}":{value}"#))
        .collect();
    format!(r#"{{{},"n":{n}}}"#, members.join(","))
}

/// Returns the tuple of a row in a binary COPY.
fn tuple<T: TestModel>(number: u128, n: i64) -> Vec<u8> {
    let mut cells = T::cells(number);
    cells.push(n.to_be_bytes().to_vec());
    let mut tuple = (cells.len() as i16).to_be_bytes().to_vec();
    for cell in cells {
        tuple.extend((cell.len() as i32).to_be_bytes());
        tuple.extend(cell);
    }
    tuple
}

/// Returns a binary COPY of these rows.
fn copy_of<'a, T: TestModel>(rows: impl Iterator<Item = (&'a u128, &'a i64)>) -> Bytes {
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (number, n) in rows {
        stream.extend(tuple::<T>(*number, *n));
    }
    stream.extend([0xff, 0xff]);
    stream.into()
}

/// Returns the key with this number as it is named in events.
fn name<T: TestModel>(number: u128) -> Key {
    Key::of_json(&id::<T>(number))
}

/// A table whose keys are numbers, its cache, and the rows that are known to a reader of all events.
struct World<T: TestModel> {
    table: BTreeMap<u128, i64>,
    cache: Arc<RwLock<ModelCache<T>>>,
    writer: SinkWriter<ModelCache<T>>,
    /// The keys of which events told, by their names, and whether the last event of the key said
    /// that the row fits.
    events: HashMap<String, bool>,
}

/// Returns a column that is never null.
fn column(name: &str, kind: CellType) -> Column {
    Column {
        name: name.to_string(),
        kind,
        nullable: false,
    }
}

impl<T: TestModel> World<T> {
    fn new() -> Self {
        let mut world = Self::without_events();
        world.writer.record_events();
        world
    }

    /// Makes a world whose writer records no events, as that of a replica's first read.
    fn without_events() -> Self {
        let key = T::KEY.iter().map(|(name, kind)| column(name, *kind));
        let columns = key.chain([column("n", CellType::Int8)]).collect();
        let names: Vec<String> = T::KEY.iter().map(|(name, _)| (*name).to_string()).collect();
        let shape = Arc::new(TableShape::new(columns, &names).unwrap());
        let cache = Arc::new(RwLock::new(ModelCache::new(OnMisfit::Quarantine)));
        cache.write().take_rows_of(&shape);
        let decoder = ModelDecoder::new(shape, OnMisfit::Quarantine);
        let writer = SinkWriter::new(Arc::clone(&cache), decoder);
        Self {
            table: BTreeMap::new(),
            cache,
            writer,
            events: HashMap::new(),
        }
    }

    /// Hands the writer the change of a notification.
    fn change(&mut self, payload: &str) {
        let change = Change::new(payload, &Payload::parse(payload).unwrap(), 1);
        // A key change is two notifications, of which the engine makes one change.
        let change = if change.old_id().is_some() {
            change.replace_key()
        } else {
            change
        };
        self.writer.change(&change).unwrap();
    }

    /// Reloads the table: the rows are merged into those that the cache has.
    fn read(&mut self) {
        self.writer.expect(Incoming::Snapshot);
        self.writer.begin(self.table.len());
        self.writer
            .load(0, vec![copy_of::<T>(self.table.iter())])
            .unwrap();
        self.writer.finish(1).unwrap();
    }

    /// Reloads the table as [`read`](Self::read) does. The rows are decoded apart from the writer,
    /// in pieces of this many bytes.
    fn read_ahead(&mut self, piece_length: usize) {
        self.writer.expect(Incoming::Snapshot);
        self.writer.begin(self.table.len());
        let mut ahead = self.writer.decode_ahead().unwrap();
        for piece in copy_of::<T>(self.table.iter()).chunks(piece_length) {
            ahead.decode(&[Bytes::copy_from_slice(piece)]).unwrap();
            self.writer.take_decoded(piece.len());
            assert_eq!(self.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
            self.cache.read().rows.validate().unwrap();
        }
        ahead.finish().unwrap();
        self.writer.finish(1).unwrap();
    }

    /// Changes the table at random, and hands the writer what the engine would.
    fn step(&mut self, random: &mut Rng) {
        let key = random.u128(1..=KEYS);
        let n = VALUES[random.usize(0..VALUES.len())];
        match random.u8(0..20) {
            0..9 => {
                self.table.insert(key, n);
                self.change(&format!(
                    r#"{{"table":"t","action":"update","id":{},"data":{}}}"#,
                    id::<T>(key),
                    json::<T>(key, n)
                ));
            }
            9..12 => {
                self.table.remove(&key);
                self.change(&format!(
                    r#"{{"table":"t","action":"delete","id":{}}}"#,
                    id::<T>(key)
                ));
            }
            12..15 => {
                let old = random.u128(1..=KEYS);
                if old != key && self.table.remove(&old).is_some() {
                    self.table.insert(key, n);
                    self.change(&format!(
                        concat!(
                            r#"{{"table":"t","action":"update","id":{},"old_id":{},"#,
                            r#""data":{}}}"#
                        ),
                        id::<T>(key),
                        id::<T>(old),
                        json::<T>(key, n)
                    ));
                }
            }
            15..17 => {
                // Rows are refetched, after changes that nobody announced.
                let keys: Vec<u128> = (1..=KEYS).filter(|_| random.bool()).collect();
                for key in &keys {
                    match random.u8(0..3) {
                        0 => drop(self.table.remove(key)),
                        1 => drop(self.table.insert(*key, n)),
                        _ => {}
                    }
                }
                let rows = self.table.iter().filter(|(key, _)| keys.contains(key));
                let copy = copy_of::<T>(rows);
                let keys = keys.iter().map(|key| id::<T>(*key)).collect();
                self.writer.expect(Incoming::Refetch(keys));
                self.writer.begin(0);
                self.writer.load(0, vec![copy]).unwrap();
                self.writer.finish(1).unwrap();
                self.writer.store_refetched().unwrap();
            }
            17 => {
                // A TRUNCATE spares the rows that were read after it.
                let kept: Vec<u128> = self
                    .table
                    .keys()
                    .copied()
                    .filter(|_| random.bool())
                    .collect();
                self.table.retain(|key, _| kept.contains(key));
                let kept: Vec<String> = kept.iter().map(|key| id::<T>(*key)).collect();
                self.writer.clear(&kept).unwrap();
            }
            _ => {
                // A gap: the table changes unheard, and is reloaded.
                for key in 1..=KEYS {
                    match random.u8(0..4) {
                        0 => drop(self.table.remove(&key)),
                        1 => drop(
                            self.table
                                .insert(key, VALUES[random.usize(0..VALUES.len())]),
                        ),
                        _ => {}
                    }
                }
                self.read();
            }
        }
    }

    /// Checks that cache, events and comparison agree with the table.
    fn check(&mut self) {
        assert_eq!(self.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
        // Events must follow from each other: nothing is added twice, or changed before it is
        // there.
        for event in self.writer.take_row_events() {
            match event {
                RowEvent::Model {
                    key,
                    change: RowChangeKind::Added,
                } => {
                    assert_ne!(self.events.insert(key.to_string(), true), Some(true));
                }
                RowEvent::Model {
                    key,
                    change: RowChangeKind::Changed,
                } => {
                    assert_eq!(self.events.get(&key.to_string()), Some(&true));
                }
                RowEvent::Model {
                    key,
                    change: RowChangeKind::Removed,
                } => {
                    assert_eq!(self.events.remove(&key.to_string()), Some(true));
                }
                RowEvent::Misfit { key, why, .. } => {
                    assert!(!why.is_empty());
                    assert_ne!(
                        self.events.insert(key.to_string(), false),
                        Some(true),
                        "a row that was there is removed first"
                    );
                }
                other => panic!("{other:?} is of no application's cache"),
            }
        }
        let (rows, out) = self.check_rows();
        let known = self.events.iter().filter(|(_, fits)| **fits);
        let mut known: Vec<String> = known.map(|(key, _)| key.clone()).collect();
        known.sort_unstable();
        assert_eq!(
            known,
            names_of::<T>(rows.keys()),
            "the events do not tell of all rows"
        );
        assert_eq!(self.writer.kept_out().map_or(0, |(count, _)| *count), out);
        // It finds nothing, and counts the rows that are rightly kept out.
        let comparison = self.compare(&self.table.clone());
        assert_eq!(
            (comparison.findings, comparison.kept_out),
            (Vec::new(), out)
        );
    }

    /// Checks that the cache is the table without the rows that do not fit, and keeps those out.
    /// Returns the rows, and the number of those that are kept out.
    fn check_rows(&self) -> (BTreeMap<u128, i64>, usize) {
        let cache = self.cache.read();
        cache.rows.validate().unwrap();
        let rows: BTreeMap<u128, i64> = cache
            .rows
            .iter()
            .map(|row| (row.parts().0, i64::from(row.parts().1)))
            .collect();
        let (fitting, unfit): (BTreeMap<u128, i64>, BTreeMap<u128, i64>) =
            self.table.iter().partition(|(_, n)| fits(**n));
        assert_eq!(rows, fitting);
        let mut out: Vec<String> = cache.misfits().map(|(key, _)| key.to_string()).collect();
        out.sort_unstable();
        assert_eq!(out, names_of::<T>(unfit.keys()));
        (rows, out.len())
    }

    /// Compares the cache with these rows.
    fn compare(&mut self, table: &BTreeMap<u128, i64>) -> ComparisonReport {
        self.writer.expect(Incoming::Comparison);
        self.writer
            .load(0, vec![copy_of::<T>(table.iter())])
            .unwrap();
        self.writer.finish(1).unwrap();
        self.writer.take_comparison().unwrap()
    }

    /// Checks that a comparison finds each change that the cache has missed. Rows that do not fit
    /// count as well. One exception: a row that was kept out and now is one that becomes no model
    /// is kept out as it must be.
    fn check_that_what_is_missed_is_found(&mut self, random: &mut Rng) {
        let mut other = self.table.clone();
        for key in 1..=KEYS {
            match random.u8(0..6) {
                0 => drop(other.remove(&key)),
                1 => drop(other.insert(key, VALUES[random.usize(0..VALUES.len())])),
                _ => {}
            }
        }
        let mut expected: Vec<(FindingKind, String)> = Vec::new();
        for key in 1..=KEYS {
            let kind = match (self.table.get(&key), other.get(&key)) {
                (None, None) => None,
                (None, Some(_)) => Some(FindingKind::Missing),
                (Some(_), None) => Some(FindingKind::Ghost),
                // The cache does not know which of two rows that become no model it has seen.
                (Some(cached), Some(there))
                    if cached == there || (!fits(*cached) && *there == TOO_LARGE) =>
                {
                    None
                }
                (Some(_), Some(_)) => Some(FindingKind::Stale),
            };
            expected.extend(kind.map(|kind| (kind, id::<T>(key))));
        }
        let found = self.compare(&other).findings;
        let mut found: Vec<(FindingKind, String)> = found
            .into_iter()
            .map(|found| (found.kind, found.key))
            .collect();
        found.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        expected.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        assert_eq!(found, expected, "{:?} {other:?}", self.table);
    }
}

/// Returns the names of these keys, in the order of the names.
fn names_of<'a, T: TestModel>(keys: impl Iterator<Item = &'a u128>) -> Vec<String> {
    let mut names: Vec<String> = keys.map(|key| name::<T>(*key).to_string()).collect();
    names.sort_unstable();
    names
}

/// Checks that the cache is its table without the rows that do not fit, whatever happens to them.
fn check_random_changes<T: TestModel>() {
    for seed in 0..200 {
        // Shown if the test fails, among the messages of the model's panics, which are meant.
        println!("seed {seed}");
        let mut random = Rng::with_seed(seed);
        let mut world = World::<T>::new();
        for _ in 0..60 {
            for _ in 0..random.u8(1..4) {
                world.step(&mut random);
            }
            world.check();
            world.check_that_what_is_missed_is_found(&mut random);
        }
    }
}

/// Checks that a cache is its table after a first read, whose rows are appended, and after a second
/// one, whose rows are merged into those of the first.
fn check_loads<T: TestModel>() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = Rng::with_seed(seed);
        let mut world = World::<T>::without_events();
        for _ in 0..2 {
            for _ in 0..random.usize(0..3000) {
                let n = VALUES[random.usize(0..VALUES.len())];
                world.table.insert(random.u128(1..=4000), n);
            }
            world.read_ahead(random.usize(1000..40_000));
            assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
            let (_, out) = world.check_rows();
            let comparison = world.compare(&world.table.clone());
            assert_eq!(
                (comparison.findings, comparison.kept_out),
                (Vec::new(), out)
            );
            world.table.retain(|_, _| random.bool());
        }
    }
}

#[test]
fn rows_are_appended_to_an_empty_cache() {
    check_loads::<NamedRow>();
    check_loads::<CompositeRow>();
    check_loads::<IntegerRow>();
}

#[test]
fn a_key_that_a_first_read_brings_twice_fails_the_read() {
    let mut world = World::<NamedRow>::without_events();
    world.writer.expect(Incoming::Snapshot);
    world.writer.begin(2);
    let twice = [(1, 7), (1, 8)];
    let copy = copy_of::<NamedRow>(twice.iter().map(|(number, n)| (number, n)));
    world.writer.load(0, vec![copy]).unwrap();
    world.writer.finish(1).unwrap();
    let error = world.writer.flush(Duration::ZERO).unwrap_err();
    assert!(
        matches!(error.error, StoreError::DuplicateKey(_)) && error.is_of_snapshot,
        "{error:?}"
    );
    world.cache.read().rows.validate().unwrap();
}

// Fewer rows than are put off together, and then a change of one of them.
#[test]
fn a_row_that_was_appended_is_changed_before_its_indexes_are_made() {
    let mut world = World::<NamedRow>::without_events();
    world.table = (1..=5).map(|number| (number, 7)).collect();
    world.read();
    world.table.insert(2, 8);
    world.table.remove(&3);
    world.change(&format!(
        r#"{{"table":"t","action":"update","id":{},"data":{}}}"#,
        id::<NamedRow>(2),
        json::<NamedRow>(2, 8)
    ));
    world.change(&format!(
        r#"{{"table":"t","action":"delete","id":{}}}"#,
        id::<NamedRow>(3)
    ));
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    world.check_rows();
}

#[test]
fn rows_with_a_uuid_and_named_indexes() {
    check_random_changes::<NamedRow>();
}

#[test]
fn rows_with_a_composite_key() {
    check_random_changes::<CompositeRow>();
}

#[test]
fn rows_with_an_integer_as_the_key() {
    check_random_changes::<IntegerRow>();
}

#[test]
fn rows_with_a_newtype_as_the_key() {
    check_random_changes::<DayRow>();
}

/// A key that is the same for texts which differ in case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(from = "String")]
struct Folded(String);

impl From<String> for Folded {
    fn from(text: String) -> Self {
        Self(text.to_lowercase())
    }
}

/// A row whose key is not the table's: two rows of the table may have one.
#[derive(Debug, serde::Deserialize)]
struct FoldedRow {
    name: Folded,
    n: u8,
}

impl CacheModel for FoldedRow {
    type Key = Folded;
    type Indexes = ();

    fn key(&self) -> Folded {
        self.name.clone()
    }
}

impl TestModel for FoldedRow {
    const KEY: &'static [(&'static str, CellType)] = &[("name", CellType::Text)];

    fn cells(number: u128) -> Vec<Vec<u8>> {
        vec![if number == 1 {
            b"A".to_vec()
        } else {
            b"a".to_vec()
        }]
    }

    fn key_json(number: u128) -> Vec<String> {
        vec![if number == 1 { "\"A\"" } else { "\"a\"" }.to_string()]
    }

    fn parts(&self) -> (u128, u8) {
        (0, self.n)
    }
}

#[test]
fn a_row_with_the_key_of_another_one_is_kept_out_and_harms_none() {
    let mut world = World::<FoldedRow>::new();
    world.table = BTreeMap::from([(1, 7), (2, 8)]);
    world.read();
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    assert_eq!(world.writer.rows(), 1);
    let (count, why) = world.writer.kept_out().unwrap();
    assert_eq!(*count, 1);
    assert!(why.starts_with("a: another row has the key"), "{why}");
    let same = world.compare(&world.table.clone());
    assert_eq!((same.findings, same.kept_out), (Vec::new(), 1));
    // The row that is kept out is deleted, which is nothing to the other one.
    world.change(r#"{"table":"t","action":"delete","id":"a"}"#);
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    assert_eq!((world.writer.rows(), world.writer.kept_out()), (1, None));
    world.table.remove(&2);
    let same = world.compare(&world.table.clone());
    assert_eq!((same.findings, same.kept_out), (Vec::new(), 0));
}

/// Flushes what waits, and returns the values of the rows and the keys that are kept out.
fn flushed(world: &mut World<FoldedRow>) -> (Vec<u8>, Vec<String>) {
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    let cache = world.cache.read();
    cache.rows.validate().unwrap();
    let mut values: Vec<u8> = cache.rows.iter().map(|row| row.n).collect();
    values.sort_unstable();
    let out = cache.misfits().map(|(key, _)| key.to_string()).collect();
    (values, out)
}

#[test]
fn a_row_that_waits_for_another_one_is_taken_in_when_that_one_goes() {
    let insert = r#"{"table":"t","action":"insert","id":"a","data":{"name":"a","n":8}}"#;
    let delete = r#"{"table":"t","action":"delete","id":"A"}"#;
    // The other one is deleted.
    let mut world = World::<FoldedRow>::new();
    world.table = BTreeMap::from([(1, 7)]);
    world.read();
    world.change(insert);
    assert_eq!(flushed(&mut world), (vec![7], vec!["a".to_string()]));
    world.change(delete);
    assert_eq!(flushed(&mut world), (vec![8], vec![]));
    // The other one is gone in a snapshot, unheard.
    let mut world = World::<FoldedRow>::new();
    world.table = BTreeMap::from([(1, 7)]);
    world.read();
    world.table = BTreeMap::from([(2, 8)]);
    world.read();
    assert_eq!(flushed(&mut world), (vec![8], vec![]));
    let same = world.compare(&world.table.clone());
    assert_eq!((same.findings, same.kept_out), (Vec::new(), 0));
    // A TRUNCATE spares one of the two, or none.
    for (spared, values) in [(vec!["\"a\"".to_string()], vec![8]), (vec![], vec![])] {
        let mut world = World::<FoldedRow>::new();
        world.table = BTreeMap::from([(1, 7)]);
        world.read();
        world.change(insert);
        world.writer.clear(&spared).unwrap();
        assert_eq!(flushed(&mut world), (values, vec![]));
    }
}

/// A key whose own code panics: while it is read, or while keys are hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FragileKey(i64);

impl<'de> serde::Deserialize<'de> for FragileKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        assert_ne!(number, 2, "the key cannot be read");
        Ok(Self(number))
    }
}

impl std::hash::Hash for FragileKey {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        assert_ne!(self.0, 3, "the key cannot be hashed");
        self.0.hash(hasher);
    }
}

#[derive(Debug, serde::Deserialize)]
struct FragileRow {
    id: FragileKey,
    n: u8,
}

impl CacheModel for FragileRow {
    type Key = FragileKey;
    type Indexes = (HashIndex<ByFragile>, OrderedIndex<ByFragile>);

    fn key(&self) -> FragileKey {
        self.id.clone()
    }
}

/// A value that cannot be compared with another one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Fragile(u8);

impl PartialOrd for Fragile {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fragile {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        assert!(self.0 != 9 && other.0 != 9, "the value cannot be compared");
        self.0.cmp(&other.0)
    }
}

struct ByFragile;

impl IndexField for ByFragile {
    type Row = FragileRow;
    type Value<'r> = u8;

    fn value(row: &FragileRow) -> Option<u8> {
        Some(row.n)
    }
}

impl OrderedField for ByFragile {
    type Row = FragileRow;
    type Value = Fragile;

    fn value(row: &FragileRow) -> Option<Fragile> {
        Some(Fragile(row.n))
    }
}

impl TestModel for FragileRow {
    const KEY: &'static [(&'static str, CellType)] = &[("id", CellType::Int8)];

    fn cells(number: u128) -> Vec<Vec<u8>> {
        IntegerRow::cells(number)
    }

    fn key_json(number: u128) -> Vec<String> {
        IntegerRow::key_json(number)
    }

    fn parts(&self) -> (u128, u8) {
        (self.id.0 as u128, self.n)
    }
}

#[test]
fn a_key_whose_code_panics_is_one_rows_misfortune() {
    let mut world = World::<FragileRow>::new();
    world.table = (1..=4).map(|number| (number, 7)).collect();
    world.read();
    for _ in 0..2 {
        assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
        let cache = world.cache.read();
        cache.rows.validate().unwrap();
        let mut keys: Vec<i64> = cache.rows.iter().map(|row| row.id.0).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 4]);
        let out: Vec<String> = cache
            .misfits()
            .map(|(key, why)| format!("{key}: {why}"))
            .collect();
        assert!(
            out[0].starts_with("2: ") && out[0].contains("cannot be read"),
            "{out:?}"
        );
        assert!(
            out[1].starts_with("3: ") && out[1].contains("cannot be hashed"),
            "{out:?}"
        );
        drop(cache);
        let same = world.compare(&world.table.clone());
        assert_eq!((same.findings, same.kept_out), (Vec::new(), 2));
        // Notifications of such rows harm none either.
        for number in [2, 3] {
            world.change(&format!(
                r#"{{"table":"t","action":"update","id":{number},"data":{}}}"#,
                json::<FragileRow>(number, 7)
            ));
        }
    }
    world.change(r#"{"table":"t","action":"delete","id":2}"#);
    world.change(r#"{"table":"t","action":"delete","id":3}"#);
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    assert_eq!((world.writer.rows(), world.writer.kept_out()), (2, None));
}

#[test]
fn a_panic_in_the_middle_of_a_change_empties_the_cache_and_asks_for_a_reload() {
    let mut world = World::<FragileRow>::new();
    world.table = BTreeMap::from([(1, 7), (4, 8)]);
    world.read();
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    // The value of this row is linked in the first index, and cannot be in the second.
    world.change(&format!(
        r#"{{"table":"t","action":"update","id":1,"data":{}}}"#,
        json::<FragileRow>(1, 9)
    ));
    let error = world.writer.flush(Duration::ZERO).unwrap_err();
    assert!(
        format!("{error:?}").contains("the value cannot be compared"),
        "{error:?}"
    );
    world.cache.read().rows.validate().unwrap();
    assert_eq!(world.cache.read().rows.len(), 0);
    // A removal that fails half-way is told as well: nothing else would be.
    world.table = BTreeMap::from([(1, 9)]);
    world.read();
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    assert_eq!(world.writer.rows(), 1);
    world.change(r#"{"table":"t","action":"delete","id":1}"#);
    world.writer.flush(Duration::ZERO).unwrap_err();
    assert_eq!(world.cache.read().rows.len(), 0);
    assert!(world.cache.read().is_emptied());
    // Once the row is another one, a reload brings all of them.
    world.table = BTreeMap::from([(1, 6), (4, 8)]);
    world.read();
    assert_eq!(world.writer.flush(Duration::ZERO).unwrap(), Flushed::Done);
    assert_eq!((world.writer.rows(), world.writer.kept_out()), (2, None));
    assert!(!world.cache.read().is_emptied());
    world.cache.read().rows.validate().unwrap();
}
