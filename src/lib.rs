//! The parts of the `pgic` command. It has no stable API: what stands here is reached by its tests
//! and benchmarks.

#![doc(hidden)]

pub mod catalog;
pub mod causes;
pub mod cli;
pub mod commands;
pub mod conditions;
pub mod connect;
pub mod exit_code;
pub mod failure;
pub mod following;
pub mod line_editor;
pub mod render;
pub mod secrets;
pub mod suspend;
pub mod throwaway;
pub mod triggers;
