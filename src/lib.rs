//! The parts of the `pgic` command. It has no stable API: what stands here is reached by its tests
//! and benchmarks.

#![doc(hidden)]

pub mod causes;
pub mod cli;
pub mod commands;
pub mod connect;
pub mod exit_code;
pub mod failure;
pub mod line_editor;
pub mod render;
pub mod secrets;
pub mod suspend;
pub mod tables;
pub mod triggers;
