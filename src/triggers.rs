//! The triggers that announce a table's changes. The core plans, installs and removes them
//! ([`postgres_index_cache_core::triggers`]); here stands what only a person at a command line
//! needs: the wishes of `pgic.toml`, and a warning of columns that look like secrets.

pub mod configured;
pub mod secret_columns;

pub use postgres_index_cache_core::tooling::postgres::install::{
    AskedTable, OptionChanges, TriggerError, TriggerOptions, apply, check, check_channel,
    condition, observe, options, plan, script, sql,
};

/// The channel that triggers notify on if no other channel is chosen.
pub use postgres_index_cache_core::DEFAULT_CACHE_CHANNEL;
