//! [`Staged`]: the rows that a transaction has written, over a cache that does not have them yet.

use super::IdxModelCache;
use crate::model::{CacheModel, HasPrimaryKey, Indexable};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// The rows that a transaction has written, for whoever runs the transaction. Nobody else sees
/// them.
///
/// Put into it what the transaction writes, and read [`over`](Self::over) the cache: the rows are
/// those of the cache with the transaction's own in their place. Drop it if the transaction is
/// rolled back. Once the transaction is committed, a replica takes over with
/// [`Replica::settle`](crate::Replica::settle): there is no moment at which the writer sees a row
/// as it was before. A cache that is kept by hand takes the rows with
/// [`apply_to`](Self::apply_to).
///
/// A savepoint is a clone.
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```ignore")]
/// use postgres_index_cache_core::{CacheModel, IdxModelCache, Staged};
///
/// #[derive(Clone, Debug, PartialEq, serde::Deserialize, CacheModel)]
/// struct User {
///     #[cache(key)]
///     id: i64,
///     #[cache(index)]
///     team: i64,
/// }
///
/// let users = IdxModelCache::new(vec![User { id: 1, team: 7 }, User { id: 2, team: 7 }])?;
/// let mut written = Staged::new();
/// written.put(User { id: 3, team: 7 }); // INSERT
/// written.put(User { id: 1, team: 8 }); // UPDATE
/// written.remove(&2); //                   DELETE
///
/// let rows = written.over(&users);
/// assert_eq!(rows.get_by_primary(&1), Some(&User { id: 1, team: 8 }));
/// assert_eq!(rows.get_by_primary(&2), None);
/// let team: Vec<i64> = rows.find(|cache| cache.by_team(7)).map(|user| user.id).collect();
/// assert_eq!(team, [3]);
/// // Nobody else sees any of this.
/// assert_eq!(users.by_team(7).count(), 2);
/// # Ok::<(), postgres_index_cache_core::CacheError<i64>>(())
/// ```
pub struct Staged<T: CacheModel> {
    /// The rows that were put.
    rows: IdxModelCache<T>,
    /// The keys of the rows that were removed.
    removed: HashSet<T::Key>,
    /// Tells whether the cache has the rows by now; `None` while nobody has taken over.
    is_settled: Option<Arc<IsSettled>>,
}

/// Tells whether a cache has the rows of a transaction.
type IsSettled = dyn Fn() -> bool + Send + Sync;

impl<T: CacheModel> Default for Staged<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: CacheModel> fmt::Debug for Staged<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged")
            .field("put", &self.rows.len())
            .field("removed", &self.removed.len())
            .finish_non_exhaustive()
    }
}

impl<T: CacheModel + Clone> Clone for Staged<T> {
    fn clone(&self) -> Self {
        let mut rows = IdxModelCache::with_capacity(self.rows.len());
        for row in self.rows.iter() {
            rows.upsert(row.clone());
        }
        Self {
            rows,
            removed: self.removed.clone(),
            is_settled: self.is_settled.clone(),
        }
    }
}

impl<T: CacheModel> Staged<T> {
    /// Makes it for a transaction that has written nothing yet.
    pub fn new() -> Self {
        Self {
            rows: IdxModelCache::with_capacity(0),
            removed: HashSet::new(),
            is_settled: None,
        }
    }

    /// Notes that the transaction has inserted or updated a row. A row whose key has changed is
    /// [removed](Self::remove) under the former key as well.
    pub fn put(&mut self, row: T) {
        self.begin_anew();
        self.removed.remove(&row.key());
        self.rows.upsert(row);
    }

    /// Notes that the transaction has deleted the row with this key.
    pub fn remove(&mut self, key: &T::Key) {
        self.begin_anew();
        self.rows.remove(key);
        self.removed.insert(key.clone());
    }

    /// Returns whether the transaction has written nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.removed.is_empty()
    }

    /// Returns the rows of a cache with the transaction's own in their place.
    ///
    /// Of a replica's table, `cache` is a [`ReadGuard`](crate::ReadGuard).
    pub fn over<'a>(&'a self, cache: &'a IdxModelCache<T>) -> StagedView<'a, T> {
        let is_settled = self.is_settled.as_ref().is_some_and(|is| is());
        StagedView {
            cache,
            staged: (!is_settled).then_some(self),
        }
    }

    /// Puts the rows into a cache that is kept by hand, after the commit.
    pub fn apply_to(self, cache: &mut IdxModelCache<T>) {
        for key in &self.removed {
            cache.remove(key);
        }
        let mut rows = self.rows;
        rows.take_rows(|_, row| {
            cache.upsert(row);
        });
        rows.clear();
    }

    /// Reads the cache alone as soon as `is_settled` returns true.
    #[cfg(feature = "postgres")]
    pub(crate) fn settle_when(&mut self, is_settled: impl Fn() -> bool + Send + Sync + 'static) {
        self.is_settled = Some(Arc::new(is_settled));
    }

    /// Forgets a transaction that a cache has taken over: another one writes now. What the cache does
    /// not have yet stays.
    fn begin_anew(&mut self) {
        if let Some(is_settled) = self.is_settled.take()
            && is_settled()
        {
            self.rows.clear();
            self.removed.clear();
        }
    }

    /// Returns whether the transaction has written the row with this key.
    fn has_written(&self, key: &T::Key) -> bool {
        self.removed.contains(key) || self.rows.contains_primary(key)
    }
}

/// The rows of a cache with those of a transaction in their place; see [`Staged::over`].
pub struct StagedView<'a, T: CacheModel> {
    cache: &'a IdxModelCache<T>,
    /// `None` once the cache has the transaction's rows.
    staged: Option<&'a Staged<T>>,
}

impl<T: CacheModel> fmt::Debug for StagedView<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedView")
            .field("staged", &self.staged)
            .finish_non_exhaustive()
    }
}

impl<'a, T: CacheModel> StagedView<'a, T> {
    /// Returns whether the rows are those of the cache alone: the cache has the transaction's by
    /// now.
    pub fn is_settled(&self) -> bool {
        self.staged.is_none()
    }

    /// Returns the row with this primary key.
    pub fn get_by_primary(&self, key: &T::Key) -> Option<&'a T> {
        match self.staged {
            Some(staged) if staged.has_written(key) => staged.rows.get_by_primary(key),
            _ => self.cache.get_by_primary(key),
        }
    }

    /// Returns whether a row has this primary key.
    pub fn contains_primary(&self, key: &T::Key) -> bool {
        self.get_by_primary(key).is_some()
    }

    /// Returns the rows that a look-up finds, by any index: first those of the cache, then the
    /// transaction's own, each in the order in which the look-up returns them. `look_up` is called
    /// with the cache, and with the transaction's rows.
    pub fn find<I, F>(&self, look_up: F) -> impl Iterator<Item = &'a T> + use<'a, T, I, F>
    where
        I: IntoIterator<Item = &'a T>,
        F: Fn(&'a IdxModelCache<T>) -> I,
    {
        let staged = self.staged;
        let own = staged.map(|staged| look_up(&staged.rows));
        look_up(self.cache)
            .into_iter()
            .filter(move |row| staged.is_none_or(|staged| !staged.has_written(&row.key())))
            .chain(own.into_iter().flatten())
    }

    /// Returns all rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &'a T> + use<'a, T> {
        self.find(IdxModelCache::iter)
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        let Some(staged) = self.staged else {
            return self.cache.len();
        };
        let put = staged.rows.iter().map(CacheModel::key);
        let written = put.chain(staged.removed.iter().cloned());
        let hidden = written.filter(|key| self.cache.contains_primary(key));
        self.cache.len() - hidden.count() + staged.rows.len()
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, T: HasPrimaryKey + Indexable> StagedView<'a, T> {
    /// Returns the rows with `value` in the integer index `name`.
    pub fn get_by_i64_index(&self, name: &str, value: &i64) -> Vec<&'a T> {
        self.find(|cache| rows_of(cache, cache.get_by_i64_index(name, value)))
            .collect()
    }

    /// Returns the rows with `value` in the uuid index `name`.
    pub fn get_by_uuid_index(&self, name: &str, value: &Uuid) -> Vec<&'a T> {
        self.find(|cache| rows_of(cache, cache.get_by_uuid_index(name, value)))
            .collect()
    }
}

/// Returns the rows with the keys that an index has found.
fn rows_of<'a, T: HasPrimaryKey + Indexable>(
    cache: &'a IdxModelCache<T>,
    keys: Option<super::PrimaryKeys<'a>>,
) -> Vec<&'a T> {
    let keys = keys.into_iter().flatten();
    keys.filter_map(|key| cache.get_by_primary(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    #[derive(Debug, Clone, PartialEq)]
    struct User {
        id: Uuid,
        team: i64,
    }

    impl HasPrimaryKey for User {
        fn primary_key(&self) -> Uuid {
            self.id
        }
    }

    impl Indexable for User {
        fn i64_keys(&self) -> HashMap<String, Option<i64>> {
            HashMap::from([("team".to_string(), Some(self.team))])
        }

        fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
            HashMap::from([("self".to_string(), Some(self.id))])
        }
    }

    fn user(id: u8, team: i64) -> User {
        User {
            id: Uuid::from_u128(id.into()),
            team,
        }
    }

    /// A write: a row that is put, or the key of one that is removed.
    type Write = (u8, Option<i64>);

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        prop::collection::vec((0..12_u8, prop::option::of(0..4_i64)), 0..20)
    }

    /// Applies writes to a table that anybody can understand.
    fn write(table: &mut BTreeMap<Uuid, User>, writes: &[Write]) {
        for &(id, team) in writes {
            let row = user(id, team.unwrap_or_default());
            match team {
                Some(_) => drop(table.insert(row.id, row)),
                None => drop(table.remove(&row.id)),
            }
        }
    }

    proptest! {
        #[test]
        fn a_view_is_the_table_as_the_transaction_has_it(
            before in writes(),
            own in writes(),
            others in writes(),
        ) {
            let mut shared = BTreeMap::new();
            write(&mut shared, &before);
            let mut cache = IdxModelCache::new(shared.values().cloned().collect()).unwrap();
            let mut staged = Staged::new();
            let mut own_keys = HashSet::new();
            for &(id, team) in &own {
                let row = user(id, team.unwrap_or_default());
                own_keys.insert(row.id);
                match team {
                    Some(_) => staged.put(row),
                    None => staged.remove(&row.id),
                }
            }
            // Others commit meanwhile. They cannot write the rows that the transaction has locked.
            for &(id, team) in &others {
                let row = user(id, team.unwrap_or_default());
                if own_keys.contains(&row.id) {
                    continue;
                }
                write(&mut shared, &[(id, team)]);
                match team {
                    Some(_) => drop(cache.upsert(row)),
                    None => drop(cache.remove(&row.id)),
                }
            }
            let mut wanted = shared.clone();
            write(&mut wanted, &own);

            let view = staged.over(&cache);
            let found: BTreeMap<Uuid, User> =
                view.iter().map(|row| (row.id, row.clone())).collect();
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(view.len(), wanted.len());
            for id in 0..12 {
                let id = Uuid::from_u128(id);
                prop_assert_eq!(view.get_by_primary(&id), wanted.get(&id));
                prop_assert_eq!(view.contains_primary(&id), wanted.contains_key(&id));
                let by_uuid = view.get_by_uuid_index("self", &id);
                prop_assert_eq!(by_uuid.first().copied(), wanted.get(&id));
            }
            for team in 0..4 {
                let mut found: Vec<Uuid> =
                    view.get_by_i64_index("team", &team).iter().map(|row| row.id).collect();
                found.sort_unstable();
                let of_team = wanted.values().filter(|row| row.team == team);
                let of_team: Vec<Uuid> = of_team.map(|row| row.id).collect();
                prop_assert_eq!(found, of_team);
            }
            // The cache has seen nothing of it, and takes all of it in the end.
            prop_assert_eq!(cache.len(), shared.len());
            staged.apply_to(&mut cache);
            cache.validate().unwrap();
            let applied: BTreeMap<Uuid, User> =
                cache.iter().map(|row| (row.id, row.clone())).collect();
            prop_assert_eq!(applied, wanted);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn another_transaction_begins_anew() {
        let cache = IdxModelCache::new(vec![user(1, 1)]).unwrap();
        for is_settled in [false, true] {
            let mut staged = Staged::new();
            staged.put(user(2, 2));
            staged.settle_when(move || is_settled);
            assert_eq!(staged.over(&cache).is_settled(), is_settled);
            staged.put(user(3, 3));
            let view = staged.over(&cache);
            assert!(!view.is_settled());
            assert!(view.contains_primary(&user(3, 3).id));
            // The cache has the first transaction's rows, or they are still shown.
            assert_eq!(view.contains_primary(&user(2, 2).id), !is_settled);
        }
    }

    #[test]
    fn a_savepoint_is_a_clone() {
        let cache = IdxModelCache::new(vec![user(1, 1)]).unwrap();
        let mut staged = Staged::new();
        staged.put(user(2, 2));
        let savepoint = staged.clone();
        staged.remove(&user(1, 1).id);
        staged.put(user(2, 3));
        assert_eq!(staged.over(&cache).len(), 1);
        let rolled_back = savepoint.over(&cache);
        assert_eq!(rolled_back.len(), 2);
        assert_eq!(rolled_back.get_by_i64_index("team", &2), [&user(2, 2)]);
    }
}
