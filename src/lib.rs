//! The parts of the `pgic` command. This crate has no stable API: there is a library only so that
//! the command's tests, benchmarks and fuzz targets can reach the parts.

#![doc(hidden)]

pub mod causes;
pub mod cli;
pub mod commands;
pub mod completion;
pub mod connect;
pub mod dispatch;
pub mod doctor;
pub mod exit_code;
pub mod failure;
pub mod feed;
pub mod fleet;
pub mod line_editor;
pub mod metrics;
pub mod monitor;
pub mod nats;
pub mod record;
pub mod render;
pub mod secrets;
pub mod server_seen;
mod settings;
pub mod suspend;
pub mod tables;
pub mod triggers;
pub mod units;
