//! [`Status`]: the state of a pipeline that is watched, for `/readyz` and `/status`.

use super::Plan;
use crate::connect::Place;
use crate::doctor::Diagnosis;
use crate::render::count;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::sync::State;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How old the states of the tables may be: they are looked at every half second.
const FRESH: Duration = Duration::from_secs(5);

/// The state of one table.
#[derive(Debug, Clone)]
pub struct TableStatus {
    /// The name as it was given.
    pub asked: String,
    /// The schema and the name, once they are known.
    pub names: Option<(String, String)>,
    /// Until when the cache may be behind, since it was held for a comparison; `None` if it was
    /// not.
    pub held_until: Option<Instant>,
    /// The state; `None` while nothing is known of the table.
    pub state: Option<State>,
    /// Why it is not live, as far as is known.
    pub why: Option<String>,
    /// When the state began.
    pub since: Timestamp,
    /// The rows of its cache.
    pub rows: usize,
    /// The last comparison; `None` before the first.
    pub verified: Option<Verified>,
}

impl TableStatus {
    /// Returns the name, with the schema once it is known.
    pub fn name(&self) -> String {
        match &self.names {
            Some((schema, name)) => format!("{schema}.{name}"),
            None => self.asked.clone(),
        }
    }

    /// Tells whether the table is live. A cache that is held for a comparison of ours is: it takes
    /// the changes that have come since when the comparison is done.
    pub fn is_live(&self) -> bool {
        match self.state {
            Some(State::Live) => true,
            Some(State::CatchingUp) => self.held_until.is_some_and(|until| Instant::now() < until),
            _ => false,
        }
    }
}

/// The result of the last comparison of a table with its cache.
#[derive(Debug, Clone)]
pub struct Verified {
    /// When the comparison was done.
    pub at: Timestamp,
    /// How many rows differed.
    pub differing: usize,
    /// The first of those rows, each with the kind of the difference and the key.
    pub rows: String,
}

/// The state of the pipeline.
#[derive(Debug)]
pub struct Status {
    /// Where the tables are followed; `None` if nothing was reached yet.
    pub place: Option<Place>,
    /// The tables.
    pub tables: Vec<TableStatus>,
    /// When the states of the tables were looked at.
    pub looked_at: Option<Instant>,
    /// The last notification to ourselves that came back: when, and how long it took.
    pub canary: Option<(Instant, Duration)>,
    /// How long one that has come counts.
    canary_counts: Duration,
    /// The share of the notification queue that is in use.
    pub queue: Option<f64>,
    /// The sessions that are known to listen.
    pub listeners: Option<usize>,
    /// The nodes that answer and are live, that answer, and that are silent.
    pub nodes: Option<(usize, usize, usize)>,
    /// The relay's log that is watched, as people write it; `None` if there is none.
    log: Option<String>,
    /// The last proof of the log: when, and how long the question took.
    pub log_proven: Option<(Instant, Duration)>,
    /// Why the last question for a proof failed; `None` if it did not.
    pub log_failure: Option<String>,
    /// The nodes of the log that are live, and that answer; `None` if they cannot be asked.
    pub log_nodes: Option<(usize, usize)>,
    /// How often the server was seen to have been started anew.
    pub restarts: u64,
    /// The last examination.
    pub diagnosis: Option<Diagnosis>,
}

impl Status {
    pub(super) fn new(plan: &Plan) -> Self {
        let now = Timestamp::now();
        let tables = plan.tables.iter().map(|name| TableStatus {
            asked: name.clone(),
            names: None,
            held_until: None,
            state: None,
            why: Some("not loaded yet".to_string()),
            since: now,
            rows: 0,
            verified: None,
        });
        Self {
            place: None,
            tables: tables.collect(),
            looked_at: None,
            canary: None,
            canary_counts: 3 * plan.canary_every + Duration::from_secs(5),
            queue: None,
            listeners: None,
            nodes: None,
            log: plan.log.as_ref().map(ToString::to_string),
            log_proven: None,
            log_failure: None,
            log_nodes: None,
            restarts: 0,
            diagnosis: None,
        }
    }

    /// Returns why the pipeline is not live; nothing if it is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let is_fresh = self.looked_at.is_some_and(|at| at.elapsed() < FRESH);
        if !is_fresh {
            problems.push("the tables are not looked at".to_string());
        }
        for table in &self.tables {
            if !table.is_live() {
                let state = table.state.map_or("unknown", State::word);
                let why = table.why.as_ref().map(|why| format!(": {why}"));
                problems.push(format!(
                    "{} is {state}{}",
                    table.name(),
                    why.unwrap_or_default()
                ));
            } else if let Some(verified) = &table.verified
                && verified.differing > 0
            {
                problems.push(format!(
                    "{} differs from the table in {}: {}",
                    table.name(),
                    count(verified.differing as u64, "row"),
                    verified.rows
                ));
            }
        }
        match self.canary {
            None => problems.push("no notification of our own has come back yet".to_string()),
            Some((at, _)) if at.elapsed() > self.canary_counts => problems.push(format!(
                "no notification of our own has come back for {} s",
                at.elapsed().as_secs()
            )),
            Some(_) => {}
        }
        if let Some(log) = &self.log {
            match (&self.log_failure, self.log_proven) {
                (Some(why), _) => problems.push(format!("the log {log} is not proven: {why}")),
                (None, None) => problems.push(format!("no relay has proven the log {log} yet")),
                (None, Some((at, _))) if at.elapsed() > self.canary_counts => {
                    problems.push(format!("the log {log} is not looked at"));
                }
                (None, Some(_)) => {}
            }
        }
        problems
    }

    /// Returns everything as JSON.
    pub fn json(&self) -> Value {
        let problems = self.problems();
        let tables = self.tables.iter().map(|table| {
            json!({
                "table": table.name(),
                "state": table.state.map_or("unknown", State::word),
                "why": table.why,
                "since": table.since.to_string(),
                "rows": table.rows,
                "verified_at": table.verified.as_ref().map(|verified| verified.at.to_string()),
                "differing_rows": table.verified.as_ref().map(|verified| verified.differing),
                "differing": table.verified.as_ref().map(|verified| &verified.rows),
            })
        });
        let checks = self
            .diagnosis
            .iter()
            .flat_map(|diagnosis| &diagnosis.outcomes);
        let checks = checks.map(|outcome| {
            json!({
                "code": outcome.check.code,
                "name": outcome.check.name,
                "verdict": outcome.verdict.as_str(),
                "problems": outcome.found.iter().map(|found| found.problem.to_string())
                    .collect::<Vec<String>>(),
            })
        });
        json!({
            "ready": problems.is_empty(),
            "problems": problems,
            "connected": self.place.as_ref().map(ToString::to_string),
            "tables": tables.collect::<Vec<Value>>(),
            "canary_ms": self.canary.map(|(_, took)| took.as_secs_f64() * 1000.0),
            "queue_usage": self.queue,
            "listeners": self.listeners,
            "nodes": self.nodes.map(|(live, answering, silent)| json!({
                "live": live, "answering": answering, "silent": silent,
            })),
            "log": self.log.as_ref().map(|log| json!({
                "log": log,
                "why": self.log_failure,
                "proof_ms": self.log_proven.map(|(_, took)| took.as_secs_f64() * 1000.0),
                "nodes": self.log_nodes.map(|(live, answering)| json!({
                    "live": live, "answering": answering,
                })),
            })),
            "server_restarts": self.restarts,
            "checks": checks.collect::<Vec<Value>>(),
        })
    }
}
