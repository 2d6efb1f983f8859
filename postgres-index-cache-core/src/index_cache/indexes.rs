//! [`Indexes`]: what a cache asks of the indexes of its model. [`StoredRows`]: what these see of the
//! cache. A tuple of indexes is the indexes of a model that has several.

use crate::index::SegVec;
use foldhash::quality::RandomState;
use std::hash::{BuildHasher, Hash};

/// The rows of a cache by slot, and the hasher of the cache: what an index looks at.
pub struct StoredRows<T> {
    pub(super) hasher: RandomState,
    /// The rows by slot; `None` in a slot that was released.
    pub(super) rows: SegVec<Option<T>>,
}

impl<T> StoredRows<T> {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            rows: SegVec::new(),
        }
    }

    /// Returns the row in `slot`.
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.rows.get(slot)?.as_ref()
    }

    /// Returns the hash of a value in this cache.
    pub(super) fn hash_of(&self, value: &(impl Hash + ?Sized)) -> u64 {
        self.hasher.hash_one(value)
    }
}

/// The sizes that an index is made with when the first row is put into that index.
#[derive(Clone, Copy)]
pub struct IndexSize {
    /// The number of values to make room for.
    pub(super) expected: usize,
    /// One past the highest slot that was ever used.
    pub(super) slots_end: u32,
}

/// The indexes over the rows of a cache.
///
/// A row is stored in these steps, and only the first may call the application's code and panic:
///
/// 1. [`collect`](Self::collect) asks the model for what the row is found by.
/// 2. [`unlink`](Self::unlink) takes out the row that is replaced, if there is one.
/// 3. The row stands in its slot.
/// 4. [`link`](Self::link) enters the row under what was collected.
///
/// This trait is sealed: its methods name types of this crate alone.
pub trait Indexes<T>: Default + Send + Sync {
    /// Takes from the model what `row` is indexed under, and keeps that until the next call.
    #[doc(hidden)]
    fn collect(&mut self, row: &T, stored: &StoredRows<T>, size: IndexSize);

    /// Takes the stored row in `slot` out of the indexes in which `new` has another value. `new` is
    /// the row that was collected last; `None` if the stored row is removed.
    #[doc(hidden)]
    fn unlink(&mut self, stored: &StoredRows<T>, slot: u32, new: Option<&T>);

    /// Enters the row in `slot`, whose values were collected last.
    #[doc(hidden)]
    fn link(&mut self, stored: &StoredRows<T>, slot: u32);

    /// As [`link`](Self::link), of a row whose slot is in no index. The entry may be put off until
    /// [`link_put_off`](Self::link_put_off).
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    fn link_later(&mut self, stored: &StoredRows<T>, slot: u32) {
        self.link(stored, slot);
    }

    /// Makes the entries that were put off: many at once, whose lines of memory are asked for
    /// together.
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    fn link_put_off(&mut self, _stored: &StoredRows<T>) {}

    /// Brings near in memory what the next changes of the rows in `slots` look at. What is returned
    /// means nothing.
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    fn touch(&self, stored: &StoredRows<T>, slots: &[u32]) -> u32;

    /// Returns the bytes that the indexes occupy.
    #[doc(hidden)]
    fn memory_bytes(&self) -> usize;

    /// Checks that each index holds exactly the rows in the slots `used`, which are in ascending
    /// order, that have a value in that index.
    ///
    /// # Errors
    /// If that is not so, with a text that says how.
    #[doc(hidden)]
    fn validate(&self, stored: &StoredRows<T>, used: &[u32]) -> Result<(), String>;
}

/// Implements [`Indexes`] for tuples of these indexes, and for all shorter ones.
macro_rules! impl_for_tuples {
    () => {
        impl_for_tuple!();
    };
    ($first:ident $($rest:ident)*) => {
        impl_for_tuples!($($rest)*);
        impl_for_tuple!($first $($rest)*);
    };
}

macro_rules! impl_for_tuple {
    ($($index:ident)*) => {
        #[allow(
            non_snake_case,
            unused_variables,
            clippy::unused_unit,
            reason = "an element has the name of its type, and the empty tuple has none"
        )]
        impl<T, $($index: Indexes<T>),*> Indexes<T> for ($($index,)*) {
            fn collect(&mut self, row: &T, stored: &StoredRows<T>, size: IndexSize) {
                let ($($index,)*) = self;
                $($index.collect(row, stored, size);)*
            }

            fn unlink(&mut self, stored: &StoredRows<T>, slot: u32, new: Option<&T>) {
                let ($($index,)*) = self;
                $($index.unlink(stored, slot, new);)*
            }

            fn link(&mut self, stored: &StoredRows<T>, slot: u32) {
                let ($($index,)*) = self;
                $($index.link(stored, slot);)*
            }

            #[cfg(feature = "postgres")]
            fn link_later(&mut self, stored: &StoredRows<T>, slot: u32) {
                let ($($index,)*) = self;
                $($index.link_later(stored, slot);)*
            }

            #[cfg(feature = "postgres")]
            fn link_put_off(&mut self, stored: &StoredRows<T>) {
                let ($($index,)*) = self;
                $($index.link_put_off(stored);)*
            }

            #[cfg(feature = "postgres")]
            fn touch(&self, stored: &StoredRows<T>, slots: &[u32]) -> u32 {
                let ($($index,)*) = self;
                0 $(^ $index.touch(stored, slots))*
            }

            fn memory_bytes(&self) -> usize {
                let ($($index,)*) = self;
                0 $(+ $index.memory_bytes())*
            }

            fn validate(&self, stored: &StoredRows<T>, used: &[u32]) -> Result<(), String> {
                let ($($index,)*) = self;
                $($index.validate(stored, used)?;)*
                Ok(())
            }
        }
    };
}

// The tuples of the standard library have traits up to twelve elements: `Default` is one of these.
impl_for_tuples!(A B C D E F G H I J K L);
