//! [`DriverOptions`]: how a driver works.

use crate::sync::Limits;
use std::time::Duration;

/// How a driver works.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// The channels on which the tables' triggers notify.
    pub channels: Vec<String>,
    /// A channel of the driver's own, for fences. Nobody else may know its name: make it of random
    /// digits.
    pub fence_channel: String,
    /// The bounds of the engine.
    pub limits: Limits,
    /// The settings that the triggers pin (`TimeZone` …), each with its value. Q has them too, so
    /// that COPY and payloads write values alike.
    pub settings: Vec<(String, String)>,
    /// How many bytes the caches and the changes that wait for them may take. Past it the changes
    /// are dropped and their table is read again. If the caches alone take more, the driver ends
    /// with [`DriverError::Memory`](crate::postgres::DriverError::Memory).
    pub max_memory: usize,
    /// How long a read may wait for its lock, and a fence for commits that are blocked.
    pub lock_timeout: Duration,
    /// Whether somebody describes a table afresh that was altered
    /// ([`DriverEvent::Altered`](crate::postgres::DriverEvent::Altered)): it is held until then. If
    /// false, it is read again as it is.
    pub holds_altered: bool,
    /// Whether [`DriverEvent::Row`](crate::postgres::DriverEvent::Row) tells of each row that
    /// changes. That costs a copy of each row, which is kept until
    /// [`Driver::take_events`](crate::postgres::Driver::take_events) takes it: call that after each
    /// step.
    pub row_events: bool,
}
