//! [`IdxModelCache`] under random changes, against a naive oracle, and with models that panic.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug, Clone, PartialEq)]
struct Row {
    id: Uuid,
    hash: Option<i64>,
    /// The value in the index `owner`; `None` if this row does not name that index at all.
    #[expect(
        clippy::option_option,
        reason = "not named, null and a value are three cases"
    )]
    owner: Option<Option<Uuid>>,
}

impl HasPrimaryKey for Row {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Row {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("hash".to_string(), self.hash)])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        self.owner
            .map(|owner| ("owner".to_string(), owner))
            .into_iter()
            .collect()
    }
}

fn uuid(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

fn rows() -> impl Strategy<Value = Row> {
    let owner = prop::option::of(prop::option::of((0_u8..4).prop_map(uuid)));
    (0_u8..40, prop::option::of(0_i64..6), owner).prop_map(|(id, hash, owner)| Row {
        id: uuid(id),
        hash,
        owner,
    })
}

fn keys_of(found: Option<PrimaryKeys<'_>>) -> BTreeSet<Uuid> {
    found.into_iter().flatten().copied().collect()
}

fn keys_where(rows: &BTreeMap<Uuid, Row>, fits: impl Fn(&Row) -> bool) -> BTreeSet<Uuid> {
    let fitting = rows.values().filter(|row| fits(row));
    fitting.map(|row| row.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_cache_agrees_with_a_map_of_rows(
        operations in prop::collection::vec((rows(), 0_u8..4), 0..200),
    ) {
        let mut cache = IdxModelCache::with_capacity(4);
        let mut oracle: BTreeMap<Uuid, Row> = BTreeMap::new();
        for (row, operation) in operations {
            match operation {
                0 => prop_assert_eq!(cache.remove(&row.id), oracle.remove(&row.id)),
                1 => {
                    let is_new = !oracle.contains_key(&row.id);
                    let inserted = cache.insert_unique(row.clone());
                    prop_assert_eq!(inserted.is_ok(), is_new);
                    if is_new {
                        oracle.insert(row.id, row);
                    }
                }
                _ => prop_assert_eq!(cache.upsert(row.clone()), oracle.insert(row.id, row)),
            }
            cache.validate().map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(cache.len(), oracle.len());
        for n in 0..40 {
            prop_assert_eq!(cache.get_by_primary(&uuid(n)), oracle.get(&uuid(n)));
        }
        for hash in 0..6 {
            let found = keys_of(cache.get_by_i64_index("hash", &hash));
            let expected = keys_where(&oracle, |row| row.hash == Some(hash));
            prop_assert_eq!(found, expected);
        }
        for owner in (0..4).map(uuid) {
            let found = keys_of(cache.get_by_uuid_index("owner", &owner));
            let expected = keys_where(&oracle, |row| row.owner == Some(Some(owner)));
            prop_assert_eq!(found, expected);
        }
        prop_assert_eq!(cache.iter().count(), oracle.len());
    }
}

#[test]
fn new_refuses_two_rows_with_one_key() {
    let row = Row {
        id: uuid(1),
        hash: None,
        owner: None,
    };
    assert_eq!(
        IdxModelCache::new(vec![row.clone(), row]).err(),
        Some(CacheError::DuplicateKey(uuid(1)))
    );
}

/// A model whose code panics where a test says so.
#[derive(Debug, Clone)]
struct Fragile {
    id: Uuid,
    hash: i64,
    breaks: bool,
}

impl HasPrimaryKey for Fragile {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Fragile {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("hash".to_string(), Some(self.hash))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        assert!(!self.breaks, "the model's own panic");
        HashMap::new()
    }
}

impl Fragile {
    fn sound(n: u8, hash: i64) -> Self {
        Self {
            id: uuid(n),
            hash,
            breaks: false,
        }
    }

    fn broken(n: u8, hash: i64) -> Self {
        Self {
            breaks: true,
            ..Self::sound(n, hash)
        }
    }
}

#[test]
fn a_model_that_panics_changes_nothing() {
    let sound = vec![Fragile::sound(1, 1), Fragile::sound(2, 2)];
    let mut cache = IdxModelCache::new(sound).unwrap();
    // A new row, and one that would replace a row. Both panic in `uuid_keys`: the integer
    // values have been collected by then, and must not have been linked.
    for broken in [Fragile::broken(3, 3), Fragile::broken(1, 9)] {
        let stored =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.upsert(broken)));
        assert!(stored.is_err());
        cache.validate().unwrap();
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.iter().count(), 2);
        assert_eq!(keys_of(cache.get_by_i64_index("hash", &1)).len(), 1);
        assert!(cache.get_by_i64_index("hash", &9).is_none());
        assert!(!cache.contains_primary(&uuid(3)));
    }
    cache.upsert(Fragile::sound(3, 3));
    cache.validate().unwrap();
    assert_eq!(cache.len(), 3);
}

#[test]
fn an_index_that_appears_late_covers_a_slot_that_is_used_again() {
    fn without_owner(n: u8) -> Row {
        Row {
            id: uuid(n),
            hash: Some(1),
            owner: None,
        }
    }
    fn with_owner(n: u8, owner: Uuid) -> Row {
        Row {
            owner: Some(Some(owner)),
            ..without_owner(n)
        }
    }
    let mut cache = IdxModelCache::new((0..9).map(without_owner).collect()).unwrap();
    cache.remove(&uuid(2));
    // The first row that names `owner` stands in the slot of the removed row: below slots that
    // were used before the index was there, and that its column must cover.
    cache.add(with_owner(50, uuid(7)));
    cache.update(with_owner(8, uuid(7)));
    assert_eq!(keys_of(cache.get_by_uuid_index("owner", &uuid(7))).len(), 2);
    assert!(cache.get_by_i64_index("no such index", &1).is_none());
    cache.validate().unwrap();
}
