//! [`ModelCache`] under random changes, against a naive oracle. Some of the rows do not fit the
//! model.

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
use std::time::Duration;

/// The number of keys that rows can have. Few keys make the changes meet.
const KEYS: u128 = 8;
/// A value that does not fit: the model has one byte for it.
const TOO_LARGE: i64 = 300;
/// A value that becomes a model whose index functions panic.
const PANICS: i64 = 13;
const VALUES: [i64; 5] = [1, 2, 3, TOO_LARGE, PANICS];

#[derive(Debug, serde::Deserialize)]
struct Row {
    id: Uuid,
    n: u8,
}

impl HasPrimaryKey for Row {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Row {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        assert_ne!(i64::from(self.n), PANICS, "it has no index values");
        HashMap::from([("n".to_string(), Some(i64::from(self.n)))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Returns whether a row with this value belongs in the cache.
fn fits(n: i64) -> bool {
    n != TOO_LARGE && n != PANICS
}

fn json(id: Uuid, n: i64) -> String {
    format!(r#"{{"id":"{id}","n":{n}}}"#)
}

/// Returns the tuple of a row in a binary COPY.
fn tuple(id: Uuid, n: i64) -> Vec<u8> {
    let key = [&[0, 0, 0, 16], &id.as_bytes()[..]].concat();
    [&[0, 2], &key[..], &[0, 0, 0, 8], &n.to_be_bytes()].concat()
}

/// Returns a binary COPY of these rows.
fn copy_of<'a>(rows: impl Iterator<Item = (&'a Uuid, &'a i64)>) -> Bytes {
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (id, n) in rows {
        stream.extend(tuple(*id, *n));
    }
    stream.extend([0xff, 0xff]);
    stream.into()
}

/// A table, its cache, and the rows that are known to a reader of all events.
struct World {
    table: BTreeMap<Uuid, i64>,
    cache: Arc<RwLock<ModelCache<Row>>>,
    writer: SinkWriter<ModelCache<Row>>,
    /// The keys of which events told, and whether the last event of the key said that the row fits.
    events: BTreeMap<Uuid, bool>,
}

/// Returns a column that is never null.
fn column(name: &str, kind: CellType) -> Column {
    Column {
        name: name.to_string(),
        kind,
        nullable: false,
    }
}

/// Returns the key of a finding.
fn key_of_finding(found: &Finding) -> Uuid {
    Uuid::parse_str(found.key.trim_matches('"')).unwrap()
}

impl World {
    fn new() -> Self {
        let columns = vec![column("id", CellType::Uuid), column("n", CellType::Int8)];
        let shape = Arc::new(TableShape::new(columns, &["id".to_string()]).unwrap());
        let cache = Arc::new(RwLock::new(ModelCache::new(OnMisfit::Quarantine)));
        let decoder = ModelDecoder::new(shape, OnMisfit::Quarantine);
        let mut writer = SinkWriter::new(Arc::clone(&cache), decoder);
        writer.record_events();
        Self {
            table: BTreeMap::new(),
            cache,
            writer,
            events: BTreeMap::new(),
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
        self.writer.load(vec![copy_of(self.table.iter())]).unwrap();
        self.writer.finish().unwrap();
    }

    /// Changes the table at random, and hands the writer what the engine would.
    fn step(&mut self, random: &mut Rng) {
        let id = Uuid::from_u128(random.u128(1..=KEYS));
        let n = VALUES[random.usize(0..VALUES.len())];
        match random.u8(0..20) {
            0..9 => {
                self.table.insert(id, n);
                self.change(&format!(
                    r#"{{"table":"t","action":"update","id":"{id}","data":{}}}"#,
                    json(id, n)
                ));
            }
            9..12 => {
                self.table.remove(&id);
                self.change(&format!(r#"{{"table":"t","action":"delete","id":"{id}"}}"#));
            }
            12..15 => {
                let old = Uuid::from_u128(random.u128(1..=KEYS));
                if old != id && self.table.remove(&old).is_some() {
                    self.table.insert(id, n);
                    self.change(&format!(
                        concat!(
                            r#"{{"table":"t","action":"update","id":"{}","old_id":"{}","#,
                            r#""data":{}}}"#
                        ),
                        id,
                        old,
                        json(id, n)
                    ));
                }
            }
            15..17 => {
                // Rows are refetched, after changes that nobody announced.
                let keys: Vec<Uuid> = (1..=KEYS)
                    .filter(|_| random.bool())
                    .map(Uuid::from_u128)
                    .collect();
                for key in &keys {
                    match random.u8(0..3) {
                        0 => drop(self.table.remove(key)),
                        1 => drop(self.table.insert(*key, n)),
                        _ => {}
                    }
                }
                let rows = self.table.iter().filter(|(key, _)| keys.contains(key));
                let copy = copy_of(rows);
                let keys = keys.iter().map(|key| format!("\"{key}\"")).collect();
                self.writer.expect(Incoming::Refetch(keys));
                self.writer.begin(0);
                self.writer.load(vec![copy]).unwrap();
                self.writer.finish().unwrap();
                self.writer.store_refetched().unwrap();
            }
            17 => {
                // A TRUNCATE spares the rows that were read after it.
                let kept: Vec<Uuid> = self
                    .table
                    .keys()
                    .copied()
                    .filter(|_| random.bool())
                    .collect();
                self.table.retain(|key, _| kept.contains(key));
                let kept: Vec<String> = kept.iter().map(|key| format!("\"{key}\"")).collect();
                self.writer.clear(&kept).unwrap();
            }
            _ => {
                // A gap: the table changes unheard, and is reloaded.
                for key in (1..=KEYS).map(Uuid::from_u128) {
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
                    assert_ne!(self.events.insert(key, true), Some(true));
                }
                RowEvent::Model {
                    key,
                    change: RowChangeKind::Changed,
                } => {
                    assert_eq!(self.events.get(&key), Some(&true));
                }
                RowEvent::Model {
                    key,
                    change: RowChangeKind::Removed,
                } => {
                    assert_eq!(self.events.remove(&key), Some(true));
                }
                RowEvent::Misfit { key, why, .. } => {
                    assert!(!why.is_empty());
                    assert_ne!(
                        self.events.insert(key, false),
                        Some(true),
                        "a row that was there is removed first"
                    );
                }
                other => panic!("{other:?} is of no application's cache"),
            }
        }
        let cache = self.cache.read();
        cache.rows.validate().unwrap();
        let rows: BTreeMap<Uuid, i64> = cache
            .rows
            .iter()
            .map(|row| (row.id, i64::from(row.n)))
            .collect();
        let expected: BTreeMap<Uuid, i64> = self
            .table
            .iter()
            .filter(|(_, n)| fits(**n))
            .map(|(id, n)| (*id, *n))
            .collect();
        assert_eq!(rows, expected);
        let out: Vec<Uuid> = cache.misfits().map(|(key, _)| *key).collect();
        let expected: Vec<Uuid> = self
            .table
            .iter()
            .filter(|(_, n)| !fits(**n))
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(out, expected);
        let known: Vec<Uuid> = self
            .events
            .iter()
            .filter(|(_, fits)| **fits)
            .map(|(key, _)| *key)
            .collect();
        assert_eq!(
            known,
            rows.keys().copied().collect::<Vec<_>>(),
            "the events do not tell of all rows"
        );
        assert_eq!(
            self.writer.kept_out().map_or(0, |(count, _)| *count),
            out.len()
        );
        // The comparison locks the cache itself. It finds nothing, and counts the rows that are
        // rightly kept out.
        drop(cache);
        let comparison = self.compare(&self.table.clone());
        assert_eq!(
            (comparison.findings, comparison.kept_out),
            (Vec::new(), out.len())
        );
    }

    /// Compares the cache with these rows.
    fn compare(&mut self, table: &BTreeMap<Uuid, i64>) -> ComparisonReport {
        self.writer.expect(Incoming::Comparison);
        self.writer.load(vec![copy_of(table.iter())]).unwrap();
        self.writer.finish().unwrap();
        self.writer.take_comparison().unwrap()
    }

    /// Checks that a comparison finds each change that the cache has missed. Rows that do not fit
    /// count as well. One exception: a row that was kept out and now is one that becomes no model
    /// is kept out as it must be.
    fn check_that_what_is_missed_is_found(&mut self, random: &mut Rng) {
        let mut other = self.table.clone();
        for key in (1..=KEYS).map(Uuid::from_u128) {
            match random.u8(0..6) {
                0 => drop(other.remove(&key)),
                1 => drop(other.insert(key, VALUES[random.usize(0..VALUES.len())])),
                _ => {}
            }
        }
        let mut expected: Vec<(FindingKind, Uuid)> = Vec::new();
        for key in (1..=KEYS).map(Uuid::from_u128) {
            expected.extend(match (self.table.get(&key), other.get(&key)) {
                (None, None) => None,
                (None, Some(_)) => Some((FindingKind::Missing, key)),
                (Some(_), None) => Some((FindingKind::Ghost, key)),
                // The cache does not know which of two rows that become no model it has seen.
                (Some(cached), Some(there))
                    if cached == there || (!fits(*cached) && *there == TOO_LARGE) =>
                {
                    None
                }
                (Some(_), Some(_)) => Some((FindingKind::Stale, key)),
            });
        }
        let mut found: Vec<(FindingKind, Uuid)> = self
            .compare(&other)
            .findings
            .iter()
            .map(|found| (found.kind, key_of_finding(found)))
            .collect();
        found.sort_by_key(|(_, key)| *key);
        assert_eq!(found, expected, "{:?} {other:?}", self.table);
    }
}

#[test]
fn whatever_happens_to_rows_that_do_not_fit_the_cache_is_the_table_without_them() {
    for seed in 0..300 {
        // Shown if the test fails, among the messages of the model's panics, which are meant.
        println!("seed {seed}");
        let mut random = Rng::with_seed(seed);
        let mut world = World::new();
        for _ in 0..60 {
            for _ in 0..random.u8(1..4) {
                world.step(&mut random);
            }
            world.check();
            world.check_that_what_is_missed_is_found(&mut random);
        }
    }
}
