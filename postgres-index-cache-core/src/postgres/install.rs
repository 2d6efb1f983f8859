//! How the triggers that announce a table's changes are installed and removed.
//!
//! ```text
//! CatalogTable ─→ sql::Expected ───────┐
//!                                      ├─→ plan: steps of SQL, or none ─→ apply
//! CatalogTable.triggers ─→ observe ────┘         └─→ script: a migration file
//! ```
//!
//! `sql` generates the text that a table's function and triggers should have. `observe` tells which
//! announcing triggers a table has and who made them. `plan` lists the statements that lead from
//! the second to the first, and `apply` runs them in one transaction. `condition` has PostgreSQL
//! check the condition of a table before.
//! [`tables`] is what an application calls, see [`triggers`](crate::triggers).

pub mod apply;
pub mod check;
pub mod condition;
mod error;
pub mod observe;
pub mod options;
pub mod plan;
pub mod script;
pub mod sql;
mod tables;

pub use check::{CheckedTable, TriggerProblem, check};
pub use error::TriggerError;
pub use options::{AskedTable, OptionChanges, TriggerOptions};
pub use plan::PlanResult;
pub use tables::{InstallOptions, PlannedTable, install, plan, remove};

/// Returns `name` unchanged if NOTIFY takes it as a channel: 1 to 63 bytes, none of them zero.
///
/// # Errors
/// If NOTIFY would refuse the name.
pub fn check_channel(name: &str) -> Result<String, TriggerError> {
    if name.is_empty() {
        return Err(TriggerError::new("a channel needs a name"));
    }
    if name.len() > 63 {
        return Err(TriggerError::new(format!(
            "the channel name has {} bytes; PostgreSQL allows 63",
            name.len()
        )));
    }
    // The protocol sends text with a zero byte at its end, so a statement cannot hold one.
    if name.contains('\0') {
        return Err(TriggerError::new(
            "a channel name cannot contain a zero byte",
        ));
    }
    Ok(name.to_string())
}
