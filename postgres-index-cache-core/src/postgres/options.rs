//! [`DriverOptions`]: the channels, bounds and settings of a driver.

use crate::postgres::schema::triggers::PINNED;
use crate::sync::Limits;
use std::time::Duration;
use uuid::Uuid;

/// How a driver answers the fleet's questions.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// The name of the node.
    pub name: String,
    /// The name of the machine; empty if it is not known.
    pub host: String,
    /// The most answers in a second. Each is a NOTIFY, and any role can ask.
    pub per_second: u32,
}

/// The channels, bounds and settings of a driver.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// The channels on which the tables' triggers notify.
    pub channels: Vec<String>,
    /// The channel of the driver's own fences. Nobody else may know the name: make it of random
    /// digits.
    pub fence_channel: String,
    /// The times and sizes within which the engine keeps.
    pub limits: Limits,
    /// The settings that the triggers pin (`TimeZone` …), each with the pinned value. Q gets the
    /// same settings, so that COPY and payloads write values alike.
    pub settings: Vec<(String, String)>,
    /// The most bytes that the caches, and the changes that wait for them, may take. If they take
    /// more, the changes are dropped and their tables reloaded. If the caches alone take more, the
    /// driver ends with [`DriverError::Memory`](crate::postgres::DriverError::Memory).
    ///
    /// Rows on their way from the server come on top: about 1 MB for each session that reads, and
    /// half of this for each if every row is as long as the longest that is read, an eighth of
    /// this.
    pub max_memory: usize,
    /// The most sessions that read a large table at once, each some of its pages; 1 by default, and
    /// then no session is opened for that. Several large tables share this number: with two of them
    /// each is read by half as many.
    ///
    /// PostgreSQL reads a table with one core for each session. So two sessions are up to twice as
    /// fast where the server is what a read waits for: with values that are long, compressed, or
    /// `jsonb`, and over networks on which one connection is slow.
    pub jobs: usize,
    /// The longest time that a read waits for the lock of the table, and a fence for commits that
    /// are blocked.
    pub lock_timeout: Duration,
    /// Whether somebody describes altered tables afresh, of which
    /// [`DriverEvent::Altered`](crate::postgres::DriverEvent::Altered) tells. If so, an altered
    /// table is held until then. If not, the table is reloaded as it is.
    pub holds_altered: bool,
    /// Whether [`DriverEvent::Row`](crate::postgres::DriverEvent::Row) tells of each row that
    /// changes. That costs a copy of each row. The copies are kept until
    /// [`Driver::take_events`](crate::postgres::Driver::take_events) is called, which must be done
    /// after each step.
    pub row_events: bool,
    /// How the fleet's questions are answered; `None` if they are not. Then L does not listen for
    /// them.
    pub answers: Option<Box<AnswerOptions>>,
}

impl DriverOptions {
    /// Returns the options of whoever follows tables on, with caches of at most `max_memory` bytes.
    /// The channels are set when the tables are described.
    pub fn new(max_memory: usize) -> Self {
        Self {
            channels: Vec::new(),
            // The version 4 UUIDs are made of the system's random numbers: nobody can guess them.
            fence_channel: format!("pgic_fence_{}", Uuid::new_v4().simple()),
            limits: Limits::default(),
            settings: PINNED
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
                .collect(),
            max_memory,
            jobs: 1,
            lock_timeout: Duration::from_secs(10),
            holds_altered: true,
            row_events: false,
            answers: None,
        }
    }

    /// Lets so many sessions read at once, at least one: parts of a large table ([`jobs`]), or
    /// several large tables ([`Limits::side_reads`]).
    ///
    /// [`jobs`]: Self::jobs
    pub fn read_by(&mut self, sessions: usize) {
        self.jobs = sessions;
        self.limits.side_reads = sessions.saturating_sub(1);
    }
}
