//! The definitions of tables.
//!
//! - [`catalog`]: columns, keys and triggers as PostgreSQL describes them.
//! - [`triggers`]: which triggers announce a table's changes, and the problems with them.
//! - [`eligibility`]: whether a table can be followed, and how.
//! - [`fingerprint`]: whether a table's definition has changed since it was described.

pub mod catalog;
pub(super) mod eligibility;
pub(super) mod fingerprint;
pub mod triggers;
