//! The traits that an application's rows implement, to name their key and their indexed values; and
//! the guard for calls of the application's code.

use crate::index_cache::{Indexes, NamedIndexes};
use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use uuid::Uuid;

/// A row that is identified by one uuid, the primary key of its table.
pub trait HasPrimaryKey {
    /// Returns the primary key of this row.
    fn primary_key(&self) -> Uuid;
}

/// A row that names the values by which it can be found.
///
/// A model has to write the two methods that return maps. If its rows change often, a model can
/// override the two visitor methods as well: the caches then read the values without a map of
/// `String`s for every row. A visitor must visit exactly the entries of the map.
pub trait Indexable {
    /// Returns the row's value in each 64-bit integer index, by the name of the index. A value of
    /// `None` is SQL NULL: the row is not found by that index.
    fn i64_keys(&self) -> HashMap<String, Option<i64>>;

    /// Returns the row's value in each uuid index, by the name of the index. A value of `None` is
    /// SQL NULL: the row is not found by that index.
    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>>;

    /// Calls `visit` with the name of each integer index and the row's value there.
    fn visit_i64_keys(&self, visit: &mut dyn FnMut(&str, Option<i64>)) {
        for (name, value) in self.i64_keys() {
            visit(&name, value);
        }
    }

    /// Calls `visit` with the name of each uuid index and the row's value there.
    fn visit_uuid_keys(&self, visit: &mut dyn FnMut(&str, Option<Uuid>)) {
        for (name, value) in self.uuid_keys() {
            visit(&name, value);
        }
    }
}

/// A type that can be the key of a cache's rows: an integer, a uuid, a text, a date, a newtype of
/// one, or a tuple of several. Every type that has these traits is one.
pub trait CacheKey: Clone + Debug + Eq + Hash + Send + Sync + 'static {}

impl<K: Clone + Debug + Eq + Hash + Send + Sync + 'static> CacheKey for K {}

/// A row of a cache: its key, of any type, and its indexes, over fields of any type.
///
/// `#[derive(CacheModel)]` writes this from the fields of a struct, and a trait `…Lookup` with a
/// method for each index, so that a misspelt index does not compile:
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```ignore")]
/// use postgres_index_cache_core::{CacheModel, IdxModelCache};
///
/// #[derive(serde::Deserialize, CacheModel)]
/// #[cache(table = "app.places", key(country, number))]
/// #[cache(index(country, opened), ordered)]
/// struct Place {
///     number: i32,
///     country: String,
///     #[cache(index, ordered)]
///     name: String,
///     #[cache(index, unique)]
///     code: Option<i64>,
///     opened: String,
/// }
///
/// let ulm = Place {
///     number: 1,
///     country: "de".to_string(),
///     name: "Ulm".to_string(),
///     code: Some(731),
///     opened: "0854-07-22".to_string(),
/// };
/// let places = IdxModelCache::new(vec![ulm])?;
/// assert!(places.get_by_primary(&("de".to_string(), 1)).is_some());
/// assert_eq!(places.by_code(731).map(|place| place.number), Some(1));
/// assert_eq!(places.by_name("Ulm").len(), 1);
/// assert_eq!(places.by_name_prefix("U").count(), 1);
/// assert_eq!(places.by_name_range("A".."U").count(), 0);
/// assert_eq!(places.by_country_opened("de", "0854-07-22").len(), 1);
/// # Ok::<(), postgres_index_cache_core::CacheError<(String, i32)>>(())
/// ```
///
/// | attribute | on | what |
/// |---|---|---|
/// | `table = "app.users"` | struct | the table, for [`ReplicaBuilder::model`](crate::ReplicaBuilder::model) |
/// | `key` | field | the field is the key, or belongs to it; several are a tuple, in their order |
/// | `key(a, b)` | struct | the fields of the key, in the order of the table's key |
/// | `index` | field | an index by hash: `by_name(value)` |
/// | `index(a, b)` | struct or field | an index over several fields: `by_a_b(a, b)` |
/// | `…, ordered` | behind an index | in the order of the values too: `by_name_range(range)`, and of texts `by_name_prefix(text)` |
/// | `…, unique` | behind an index | the look-up returns one row or none |
///
/// A field of type `Option` that is `None` is not found by an index. serde reads the rows: so
/// `#[serde(rename)]`, `rename_all`, `skip` and `default` are followed. (`#[cache(rename)]` and
/// `#[cache(skip)]` say the same, and are checked against serde's.) A column that no field is read
/// from is not read. When a replica is opened, a column that is missing, that the triggers do not
/// send, or whose type cannot be the field's is an error.
///
/// A type with [`HasPrimaryKey`] and [`Indexable`] is a model too, whose key is a uuid and whose
/// indexes are named at run time.
pub trait CacheModel: Sized {
    /// The type of the primary key.
    type Key: CacheKey;
    /// The indexes: a tuple of [`HashIndex`](crate::HashIndex) and
    /// [`OrderedIndex`](crate::OrderedIndex), or `()`.
    type Indexes: Indexes<Self>;

    /// The columns that the fields are read from; `None` if that is not known. A replica then reads
    /// every column.
    const COLUMNS: Option<&'static [ModelColumn]> = None;
    /// The columns of the key, in the order of [`Key`](Self::Key); `None` if that is not known.
    const KEY_COLUMNS: Option<&'static [&'static str]> = None;

    /// Returns the primary key of this row.
    fn key(&self) -> Self::Key;
}

/// A model that knows the name of its table; see
/// [`ReplicaBuilder::model`](crate::ReplicaBuilder::model).
pub trait TableModel: CacheModel {
    /// The name of the table, `users` or `app.users`.
    const TABLE: &'static str;
}

/// The column that a field of a model is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelColumn {
    /// The name of the field.
    pub field: &'static str,
    /// The name of the column.
    pub column: &'static str,
    /// The type of the field as it is written in Rust.
    pub field_type: &'static str,
    /// What the field holds, as far as that is known.
    pub holds: FieldKind,
    /// Whether the field has a value of its own if there is no such column.
    pub is_optional: bool,
}

/// What a field of a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldKind {
    /// Not known: columns of every type are read, and rows that do not fit are kept out.
    Any,
    /// `bool`.
    Bool,
    /// A whole number.
    Integer,
    /// `f32` or `f64`.
    Float,
    /// A text.
    Text,
    /// A uuid.
    Uuid,
}

impl<T: HasPrimaryKey + Indexable> CacheModel for T {
    type Key = Uuid;
    type Indexes = NamedIndexes;

    fn key(&self) -> Uuid {
        self.primary_key()
    }
}

/// Runs `code`, which calls into an application's model.
///
/// One row that the model cannot take must not end the task that keeps every row in step.
///
/// # Errors
/// If `code` panics, with the message of the panic.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    // `AssertUnwindSafe` is a promise that all which `code` changes is sound if `code` stops
    // half-way. A cache keeps the promise: it asks the model for everything before its first
    // change.
    catch_unwind(AssertUnwindSafe(code))
        .map_err(|panic| format!("the model panicked: {}", panic_text(&*panic)))
}

/// Returns the message of a panic, or `no text` if the panic was raised with a value that is no
/// text.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    // A message without arguments is a `&str`, one that was formatted is a `String`.
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no text".to_string()
    }
}
