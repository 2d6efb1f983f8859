//! The triggers that announce changes: what they should be ([`sql`]), whose they are ([`observe`]),
//! and what it takes to get there ([`plan`]).
//!
//! ```text
//! catalog::CatalogTable ─→ expected text ─┐
//!                                  ├─→ plan: steps of SQL, or nothing to do
//! catalog::CatalogTable.triggers ─────────┘
//! ```

pub mod apply;
pub mod observe;
pub mod options;
pub mod plan;
pub mod script;
pub mod sql;

/// The channel that triggers notify on unless told otherwise.
pub use postgres_index_cache_core::DEFAULT_CACHE_CHANNEL;

pub use options::{OptionChanges, TriggerOptions};

use anyhow::{bail, ensure};

/// A channel name that NOTIFY takes: 1 to 63 bytes, kept as it is written.
///
/// # Errors
/// When it is none.
pub fn check_channel(name: &str) -> anyhow::Result<String> {
    ensure!(!name.is_empty(), "a channel needs a name");
    if name.len() > 63 {
        bail!(
            "the channel name has {} bytes; PostgreSQL allows 63",
            name.len()
        );
    }
    ensure!(
        !name.contains('\0'),
        "a channel name cannot contain a zero byte"
    );
    Ok(name.to_string())
}
