//! The definitions of tables: columns, keys and triggers as PostgreSQL describes them, whether a
//! table can be followed, and whether its definition has changed.

pub mod catalog;
pub(super) mod eligibility;
pub(super) mod fingerprint;
pub mod triggers;
