//! The library on a real PostgreSQL: the driver, the replica, faults, what hostile roles send,
//! and the examples. Each test has a database of its own in one throw-away cluster.
//!
//! The triggers are installed with the tool `pgic`, which `cargo test --workspace` builds.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod changes;
mod consumers;
mod driver;
mod example;
mod faults;
mod forged;
mod health;
mod listening;
mod objects;
mod over_nats;
mod parts;
mod reference;
mod relay;
mod replica;
mod side_reads;
mod spans;
mod staged;
mod transactions;
mod triggers;
mod typed;
