//! The traits an application's rows implement: which uuid is the key, which values are indexed.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use uuid::Uuid;

/// A row that is identified by one uuid, the primary key of its table.
pub trait HasPrimaryKey {
    /// The primary key of this row.
    fn primary_key(&self) -> Uuid;
}

/// The values by which a row can be found, by the name of their index.
///
/// The two maps are all that a model has to write. A model whose rows change often can override the
/// two visitor methods as well and hand its values over without building a map of `String`s for
/// every row; the two must agree.
pub trait Indexable {
    /// Index name to value, for 64-bit integer indexes. `None` is SQL NULL: the row is not found by
    /// that index.
    fn i64_keys(&self) -> HashMap<String, Option<i64>>;

    /// Index name to value, for uuid indexes. `None` is SQL NULL: the row is not found by that
    /// index.
    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>>;

    /// Calls `visit` with each integer index name and value.
    fn visit_i64_keys(&self, visit: &mut dyn FnMut(&str, Option<i64>)) {
        for (name, value) in self.i64_keys() {
            visit(&name, value);
        }
    }

    /// Calls `visit` with each uuid index name and value.
    fn visit_uuid_keys(&self, visit: &mut dyn FnMut(&str, Option<Uuid>)) {
        for (name, value) in self.uuid_keys() {
            visit(&name, value);
        }
    }
}

/// Runs `code`, which calls into an application's model, and gives what a panic in it said as an
/// error.
///
/// One row that the model cannot take must not end the task that keeps every row in step. Whatever
/// `code` changes must be sound when it stops half-way: a cache asks the model for everything
/// before its first change.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code))
        .map_err(|panic| format!("the model panicked: {}", panic_text(&*panic)))
}

/// What a panic said, as far as it said text.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_string())
}
