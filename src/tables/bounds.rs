//! [`Bounds`]: what loading tables may take: memory for the caches, and sessions that read.

use super::estimate::default_limit;
use crate::units::parse_bytes;
use postgres_index_cache_core::tooling::postgres::DriverOptions;
use std::num::NonZeroU8;

/// The options of commands that load tables.
#[derive(Debug, Clone, clap::Args)]
pub struct BoundArgs {
    /// The most memory for the caches, as 512MB or 2GB [default: a quarter of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<usize>,
    /// Read with so many sessions at once: parts of a large table, or several tables
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroU8>,
}

impl BoundArgs {
    /// Returns the bounds that the options set.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            max_memory: self.max_memory.unwrap_or_else(default_limit),
            jobs: self.jobs,
        }
    }
}

/// What loading tables may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most memory for the caches, in bytes.
    pub max_memory: usize,
    /// The most sessions that read at once; `None` for the library's default.
    pub jobs: Option<NonZeroU8>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self::of_memory(default_limit())
    }
}

impl Bounds {
    /// Returns the bounds of whoever loads no table, or tables one at a time.
    pub fn of_memory(bytes: usize) -> Self {
        Self {
            max_memory: bytes,
            jobs: None,
        }
    }

    /// Returns the options of a driver that keeps within these bounds.
    pub fn driver_options(&self) -> DriverOptions {
        let mut options = DriverOptions::new(self.max_memory);
        if let Some(jobs) = self.jobs {
            options.read_by(jobs.get().into());
        }
        options
    }
}
