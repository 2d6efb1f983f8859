//! [`IdxModelCache`] with indexes over fields, under random changes, against a naive oracle.

use super::{HashIndex, IdxModelCache, IndexField, OrderedField, OrderedIndex};
use crate::model::CacheModel;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A row with a key of two columns, found by a text, by two fields together, and in the order of
/// texts and numbers. A row without a nickname is not found by one.
#[derive(Debug, Clone, PartialEq)]
struct Person {
    country: String,
    number: i32,
    nick: Option<String>,
    age: i32,
}

impl CacheModel for Person {
    type Key = (String, i32);
    type Indexes = (
        HashIndex<ByNick>,
        HashIndex<ByCountryAndAge>,
        OrderedIndex<InOrderOfNick>,
        OrderedIndex<InOrderOfAge>,
    );

    fn key(&self) -> (String, i32) {
        (self.country.clone(), self.number)
    }
}

struct ByNick;

impl IndexField for ByNick {
    type Row = Person;
    type Value<'r> = &'r str;

    fn value(row: &Person) -> Option<&str> {
        row.nick.as_deref()
    }
}

struct ByCountryAndAge;

impl IndexField for ByCountryAndAge {
    type Row = Person;
    type Value<'r> = (&'r str, i32);

    fn value(row: &Person) -> Option<(&str, i32)> {
        Some((&row.country, row.age))
    }
}

struct InOrderOfNick;

impl OrderedField for InOrderOfNick {
    type Row = Person;
    type Value = String;

    fn value(row: &Person) -> Option<String> {
        row.nick.clone()
    }
}

struct InOrderOfAge;

impl OrderedField for InOrderOfAge {
    type Row = Person;
    type Value = i32;

    fn value(row: &Person) -> Option<i32> {
        Some(row.age)
    }
}

fn persons() -> impl Strategy<Value = Person> {
    ("[ab]", 0..20, prop::option::of("[xyé]{0,3}"), -3..3).prop_map(
        |(country, number, nick, age)| Person {
            country,
            number,
            nick,
            age,
        },
    )
}

/// Returns rows in the order of their keys.
fn sorted<'a>(rows: impl Iterator<Item = &'a Person>) -> Vec<&'a Person> {
    let mut rows: Vec<&Person> = rows.collect();
    rows.sort_by_key(|row| row.key());
    rows
}

/// Checks that rows are in the order of a value, that no row is missing, and that they are the same
/// from the back.
fn check_order<'a, V: Ord>(
    found: impl DoubleEndedIterator<Item = &'a Person> + Clone,
    expected: impl Iterator<Item = &'a Person>,
    value: impl Fn(&Person) -> V,
) {
    let forward: Vec<&Person> = found.clone().collect();
    assert!(forward.is_sorted_by_key(|row| value(row)), "{forward:?}");
    let mut backward: Vec<&Person> = found.rev().collect();
    backward.reverse();
    assert_eq!(forward, backward);
    assert_eq!(sorted(forward.into_iter()), sorted(expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_cache_agrees_with_a_list_of_rows(
        operations in prop::collection::vec((persons(), 0_u8..4), 0..150),
        (low, high) in (-4..4, -4..4),
        nick in "[xyé]{0,2}",
    ) {
        let mut cache = IdxModelCache::with_capacity(4);
        let mut oracle: BTreeMap<(String, i32), Person> = BTreeMap::new();
        for (row, operation) in operations {
            match operation {
                0 => prop_assert_eq!(cache.remove(&row.key()), oracle.remove(&row.key())),
                1 => {
                    let is_new = !oracle.contains_key(&row.key());
                    prop_assert_eq!(cache.insert_unique(row.clone()).is_ok(), is_new);
                    if is_new {
                        oracle.insert(row.key(), row);
                    }
                }
                _ => prop_assert_eq!(cache.upsert(row.clone()), oracle.insert(row.key(), row)),
            }
            cache.validate().map_err(TestCaseError::fail)?;
        }
        let all = || oracle.values();
        let found = cache.find(|indexes| &indexes.0, nick.as_str());
        prop_assert_eq!(found.len(), found.clone().count());
        prop_assert_eq!(
            sorted(found),
            sorted(all().filter(|row| row.nick.as_ref() == Some(&nick)))
        );
        prop_assert_eq!(
            sorted(cache.find(|indexes| &indexes.1, ("a", low))),
            sorted(all().filter(|row| row.country == "a" && row.age == low))
        );
        prop_assert_eq!(
            sorted(cache.find_ordered(|indexes| &indexes.3, &low)),
            sorted(all().filter(|row| row.age == low))
        );
        // The bounds may be in the wrong order, or the same.
        for range in [
            (Bound::Included(low), Bound::Excluded(high)),
            (Bound::Excluded(low), Bound::Included(high)),
            (Bound::Excluded(low), Bound::Excluded(high)),
            (Bound::Included(low), Bound::Included(high)),
            (Bound::Unbounded, Bound::Excluded(high)),
            (Bound::Excluded(low), Bound::Unbounded),
        ] {
            let in_range = |age: i32| match range {
                (Bound::Included(low), _) if age < low => false,
                (Bound::Excluded(low), _) if age <= low => false,
                (_, Bound::Included(high)) if age > high => false,
                (_, Bound::Excluded(high)) if age >= high => false,
                _ => true,
            };
            check_order(
                cache.range(|indexes| &indexes.3, range),
                all().filter(|row| in_range(row.age)),
                |row| row.age,
            );
        }
        check_order(
            cache.prefix(|indexes| &indexes.2, &nick),
            all().filter(|row| row.nick.as_ref().is_some_and(|own| own.starts_with(&nick))),
            |row| row.nick.clone(),
        );
        let bytes = cache.memory_bytes();
        prop_assert!(bytes > 0 || oracle.is_empty());
        cache.clear();
        cache.validate().map_err(TestCaseError::fail)?;
        prop_assert!(cache.range::<InOrderOfAge, i32>(|indexes| &indexes.3, ..).next().is_none());
    }
}

#[test]
fn a_value_of_many_rows_is_read_from_both_ends() {
    let persons = (0..3000).map(|number| Person {
        country: "a".to_string(),
        number,
        nick: None,
        age: 0,
    });
    let cache = IdxModelCache::new(persons.collect()).unwrap();
    let mut rows = cache.range(|indexes| &indexes.3, 0..=0);
    let mut from_front = Vec::new();
    let mut from_back = Vec::new();
    // Meets in the middle of a list of several blocks.
    while let Some(row) = rows.next() {
        from_front.push(row.number);
        from_back.extend(rows.next_back().map(|row| row.number));
    }
    from_back.reverse();
    from_front.extend(from_back);
    assert_eq!(from_front, (0..3000).collect::<Vec<_>>());
}
