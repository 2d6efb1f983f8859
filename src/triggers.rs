//! The triggers that announce a table's changes, and how pgic installs and removes them.
//!
//! ```text
//! catalog::CatalogTable ─→ sql::Expected ─────┐
//!                                             ├─→ plan: steps of SQL, or none ─→ apply
//! catalog::CatalogTable.triggers ─→ observe ──┘         └─→ script: a migration file
//! ```
//!
//! [`sql`] generates the text that a table's function and triggers should have. [`observe`] tells
//! which announcing triggers a table has and who made them. [`plan`] lists the statements that lead
//! from the second to the first, and [`apply`] runs them in one transaction. [`condition`] has
//! PostgreSQL check the condition of `--where` before.

pub mod apply;
pub mod condition;
pub mod configured;
pub mod observe;
pub mod options;
pub mod plan;
pub mod script;
pub mod secret_columns;
pub mod sql;

/// The channel that triggers notify on if no other channel is chosen.
pub use postgres_index_cache_core::DEFAULT_CACHE_CHANNEL;

pub use options::{AskedTable, OptionChanges, TriggerOptions};

use anyhow::{bail, ensure};

/// Returns `name` unchanged if NOTIFY takes it as a channel: 1 to 63 bytes, none of them zero.
///
/// # Errors
/// If NOTIFY would refuse the name.
pub fn check_channel(name: &str) -> anyhow::Result<String> {
    ensure!(!name.is_empty(), "a channel needs a name");
    if name.len() > 63 {
        bail!(
            "the channel name has {} bytes; PostgreSQL allows 63",
            name.len()
        );
    }
    // The protocol sends text with a zero byte at its end, so a statement cannot hold one.
    ensure!(
        !name.contains('\0'),
        "a channel name cannot contain a zero byte"
    );
    Ok(name.to_string())
}
