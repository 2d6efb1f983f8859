//! The checks of a whole pipeline: triggers, rows, channels, sessions and the server. `pgic doctor`
//! prints the [`Diagnosis`], and `pgic monitor` exports it.
//!
//! ```text
//! Examination ─┬─ tables    tables and triggers, by the catalogue
//!              ├─ data      a bounded sample of their rows
//!              ├─ listening a session of its own: does a NOTIFY come back, do updates change rows
//!              ├─ server    version, settings, limits, the role
//!              ├─ sessions  transactions, the queue, the notify lock, listeners
//!              └─ channels  who announces where, who listens where
//! ```
//!
//! Each check has an entry in [`CHECKS`] and a page in `docs/checks/`. Nothing is written but
//! a notification on a channel that nobody else knows.

mod channels;
mod data;
mod listening;
pub mod metrics;
mod registry;
mod server;
mod sessions;
mod tables;

pub use registry::{CHECKS, Check, find_check};

use crate::connect::Server;
use crate::server_seen::ServerSeen;
use crate::settings::Settings;
use crate::tables::catalog;
use anyhow::Context as _;
use listening::Listening;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Severity};
use server::ServerFacts;
use std::time::{Duration, Instant};

/// The extent of an examination.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The names of the tables; empty for all with triggers, and those of `pgic.toml`.
    pub tables: Vec<String>,
    /// How long to listen to the traffic at least.
    pub traffic: Duration,
    /// The age from which a transaction is long.
    pub long_transaction: Duration,
}

/// How a check ended, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Nothing is wrong, as far as was looked.
    Ok,
    /// It could not be looked, or there was nothing to look at.
    Unknown,
    /// No change is lost, but something may become wrong, or costs more than necessary.
    Warning,
    /// Changes are lost, or can be at any time.
    Critical,
}

impl Verdict {
    /// Returns the word that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Returns the number that stands in metrics.
    pub fn as_number(self) -> i64 {
        match self {
            Self::Unknown => -1,
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
        }
    }
}

/// A problem, and the table that it is about.
#[derive(Debug, Clone)]
pub struct Found {
    /// The schema and the name of the table; `None` if the problem is not one of a table.
    pub table: Option<(String, String)>,
    /// The problem. A notice makes no check worse.
    pub problem: Problem,
}

/// The outcome of one check.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The check.
    pub check: &'static Check,
    /// The verdict.
    pub verdict: Verdict,
    /// The objects that were looked at, or the reason why nothing could be.
    pub looked_at: String,
    /// The problems that were found, the worst first.
    pub found: Vec<Found>,
}

/// The outcomes of all checks.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// The outcomes, in the order of [`CHECKS`].
    pub outcomes: Vec<Outcome>,
    /// How long the examination took.
    pub took: Duration,
}

impl Diagnosis {
    /// Returns how many checks ended like this.
    pub fn count(&self, verdict: Verdict) -> usize {
        let outcomes = self.outcomes.iter();
        outcomes
            .filter(|outcome| outcome.verdict == verdict)
            .count()
    }
}

/// The outcomes that are being collected.
#[derive(Debug, Default)]
struct Findings {
    outcomes: Vec<Outcome>,
}

impl Findings {
    /// Adds the outcome of a check that looked at this and found that.
    fn add(&mut self, name: &str, looked_at: impl Into<String>, found: Vec<Found>) {
        let severities = found.iter().map(|found| found.problem.severity);
        let verdict = match severities.min() {
            Some(Severity::Critical) => Verdict::Critical,
            Some(Severity::Warning) => Verdict::Warning,
            Some(Severity::Notice) | None => Verdict::Ok,
        };
        self.push(name, verdict, looked_at.into(), found);
    }

    /// Adds the outcome of a check that could not look, for this reason.
    fn unknown(&mut self, name: &str, why: impl Into<String>) {
        self.push(name, Verdict::Unknown, why.into(), Vec::new());
    }

    fn push(&mut self, name: &str, verdict: Verdict, looked_at: String, mut found: Vec<Found>) {
        found.sort_by_key(|found| found.problem.severity);
        self.outcomes.push(Outcome {
            check: registry::named(name),
            verdict,
            looked_at,
            found,
        });
    }
}

/// Makes a problem that is about no table.
fn found(problem: Problem) -> Found {
    Found {
        table: None,
        problem,
    }
}

/// Examines a database and its server, with two sessions.
///
/// # Errors
/// If the server cannot be reached, a table is not found, or the catalogue cannot be read.
pub async fn examine(
    server: &Server,
    settings: &Settings,
    examination: &Examination,
) -> anyhow::Result<Diagnosis> {
    let began = Instant::now();
    let mut findings = Findings::default();
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let facts = ServerFacts::read(&catalog).await?;
    let seen = ServerSeen::read(&catalog, server.place()).await?;
    let mut tables = tables::read(&catalog, settings, examination, facts.version).await?;
    // Samples and waits come next: no transaction stays open meanwhile.
    catalog.roll_back().await.context("end the transaction")?;
    for table in &mut tables.all {
        table.look_at_condition(&mut client).await;
    }
    tables::check(&mut findings, &tables);

    let listening = Listening::open(server, &facts, &tables.channels()).await;
    let round_trip = match &listening {
        Ok(listening) => Some(listening.round_trip(&client).await),
        Err(_) => None,
    };
    let waits = sessions::watch_lock(&mut client).await?;
    data::check(&mut findings, &mut client, &tables).await;
    let catalog = catalog::reading(&mut client).await?;
    // `seen` is of before our own session listened, which so counts as no listener.
    sessions::check(&mut findings, &catalog, &seen, &waits, examination).await?;
    channels::check(&mut findings, &tables, &seen);
    server::check(&mut findings, &catalog, &facts, &tables).await?;
    let counted = listening::counted_updates(&catalog, &tables).await?;
    catalog.roll_back().await.context("end the transaction")?;
    listening::check(
        &mut findings,
        listening,
        round_trip,
        &tables,
        &counted,
        began + examination.traffic,
    )
    .await;

    let order = |outcome: &Outcome| outcome.check.code;
    findings.outcomes.sort_by_key(order);
    Ok(Diagnosis {
        outcomes: findings.outcomes,
        took: began.elapsed(),
    })
}
