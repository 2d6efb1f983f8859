//! The traits that an application's rows implement, to name their key and their indexed values; and
//! the guard for calls of the application's code.

use std::any::Any;
use std::collections::HashMap;
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
