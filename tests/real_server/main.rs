//! All tests that need a real PostgreSQL, one module for each capability. They are one program, so
//! that they share one throw-away cluster; each test has a database of its own in it.

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod completion;
mod conditions;
mod configured;
mod connections;
mod demo;
mod doctor;
mod facts;
mod fleet;
mod generic_function;
mod hostile;
mod install;
mod keys;
mod long_numbers;
mod migrations;
mod monitor;
mod operations;
mod partitions;
mod ping;
mod poolers;
mod printed;
mod privileges;
mod prompt;
mod query;
mod record;
mod relay;
mod remedies;
mod schemas;
mod shell;
mod status;
mod suspended;
mod tail;
mod terminal;
mod top;
mod traces;
mod trigger;
mod typed_values;
mod verify;
mod wait;
mod why;
