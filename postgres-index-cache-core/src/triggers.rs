//! The triggers that announce a table's changes: planned, installed, checked and removed from code,
//! as `pgic install-triggers`, `status` and `remove-triggers` do.
//!
//! A service can install them when it starts, and a test when its database is made:
//!
//! ```no_run
//! use postgres_index_cache_core::tokio_postgres::Client;
//! use postgres_index_cache_core::triggers::{self, InstallOptions, TriggerError};
//!
//! # async fn announce(client: &mut Client) -> Result<(), TriggerError> {
//! let mut options = InstallOptions::default();
//! options.from_defaults().exclude_columns(["password_hash"]);
//! for table in triggers::install(client, &["users"], &options).await? {
//!     println!("{}: {}, on {}", table.name, table.result, table.channel);
//! }
//! # Ok(()) }
//! ```
//!
//! All tables of a call are done in one transaction: everything happens or nothing. Installing again
//! changes nothing, and no writer waits for that, so every node of a service may do it, and several
//! at once. (Nodes of different versions of this library write different functions: while they are
//! exchanged one by one, let the new ones install.) Writers of a table wait while its triggers are
//! made, readers only where a trigger is dropped. The locks are waited for in tries of less than a
//! second, [`InstallOptions::lock_timeout`] in all. Only the owner of a table, or a member of that
//! role, with CREATE on the schema, can install triggers on it.

pub use crate::postgres::install::{
    CheckedTable, InstallOptions, PlanResult, PlannedTable, TriggerError, TriggerProblem, check,
    install, plan, remove,
};
