//! The checks of the server's sessions: long transactions, who holds the notification queue, who
//! waits for the notify lock, and how many listen.

use super::{Examination, Findings, found};
use crate::render::count;
use crate::server_seen::ServerSeen;
use crate::tables::catalog::{self, Catalog};
use anyhow::Context as _;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// The share of the queue from which somebody must be holding it: one that is read is empty.
const HELD_QUEUE: f64 = 0.01;
/// The share of the queue from which commits are in danger.
const FULL_QUEUE: f64 = 0.5;
/// How often the notify lock is looked at, and the time from one look to the next.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(30);
/// The number of listeners from which a commit costs noticeably more.
const MANY_LISTENERS: usize = 20;
/// What a commit costs with so many listeners, in microseconds, as measured on PostgreSQL 15 with
/// two cores. `docs/checks/PGIC025.md` has the figures.
const COSTS: &[(usize, u64)] = &[(0, 39), (1, 95), (10, 205), (100, 1658)];

/// The result of several looks at the notify lock.
pub(super) struct LockWaits {
    /// The most sessions that waited at once.
    most: i64,
    /// The looks at which somebody waited.
    looks: u32,
    /// The holder at the last look: the process, and the event for which the holder waits.
    holder: Option<(i32, String)>,
}

/// Looks at who waits for the lock that every commit with a notification takes.
///
/// # Errors
/// If the server refuses.
pub(super) async fn watch_lock(client: &mut Client) -> anyhow::Result<LockWaits> {
    const WAITS: &str = "
        SELECT count(*) FILTER (WHERE NOT l.granted),
            min(l.pid) FILTER (WHERE l.granted),
            min(coalesce(a.wait_event, '')) FILTER (WHERE l.granted)
        FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objid = 0
            AND l.pid <> pg_backend_pid()";
    let mut waits = LockWaits {
        most: 0,
        looks: 0,
        holder: None,
    };
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let catalog = catalog::reading(client).await?;
        let row = catalog
            .query_typed_one(WAITS, &[])
            .await
            .context("look at the notify lock")?;
        let waiting: i64 = row.get(0);
        waits.most = waits.most.max(waiting);
        waits.looks += u32::from(waiting > 0);
        let holder: Option<i32> = row.get(1);
        waits.holder = holder.map(|pid| (pid, row.get::<_, Option<String>>(2).unwrap_or_default()));
        // A healthy server is looked at once more, and not kept waiting.
        if look == 1 && waits.looks == 0 {
            break;
        }
    }
    Ok(waits)
}

/// Adds the outcomes of the checks of sessions.
///
/// # Errors
/// If the server refuses.
pub(super) async fn check(
    findings: &mut Findings,
    catalog: &Catalog<'_>,
    seen: &ServerSeen,
    waits: &LockWaits,
    examination: &Examination,
) -> anyhow::Result<()> {
    let long = long_transactions(catalog, examination.long_transaction).await?;
    let hidden = match seen.unseen {
        0 => String::new(),
        hidden => format!(
            "; {} cannot be seen",
            count(hidden.unsigned_abs(), "session")
        ),
    };
    findings.add(
        "transactions",
        format!(
            "{} of {} s or longer{hidden}",
            count(long.len() as u64, "transaction"),
            examination.long_transaction.as_secs_f64()
        ),
        long.iter()
            .map(|transaction| found(transaction.problem()))
            .collect(),
    );
    let queue = queue(seen.queue, &long, seen);
    findings.add(
        "queue",
        format!("{:.1} % full", seen.queue * 100.0),
        queue.into_iter().map(found).collect(),
    );
    findings.add(
        "notify-lock",
        format!(
            "{} waited for it at once",
            count(waits.most.unsigned_abs(), "commit")
        ),
        lock_problem(waits).map(found).into_iter().collect(),
    );
    let listeners = seen.listeners.len();
    let cost = cost_of_commit(listeners);
    findings.add(
        "listeners",
        format!(
            "{}, about {cost} us a commit",
            count(listeners as u64, "listener")
        ),
        many_listeners(listeners, cost)
            .map(found)
            .into_iter()
            .collect(),
    );
    Ok(())
}

/// A transaction that is open for long.
struct LongTransaction {
    pid: i32,
    who: String,
    state: String,
    seconds: f64,
    /// Whether its session is known to listen.
    listens: bool,
}

impl LongTransaction {
    fn problem(&self) -> Problem {
        let Self {
            pid,
            who,
            state,
            seconds,
            listens,
        } = self;
        let (severity, effect) = if *listens {
            (
                Severity::Critical,
                "its session listens: nothing leaves the notification queue until it ends",
            )
        } else {
            (
                Severity::Warning,
                "if its session listens, it holds the notification queue; pgic install-triggers \
                waits for its locks, and VACUUM for its snapshot",
            )
        };
        Problem {
            code: "long-transaction",
            severity,
            text: format!(
                "process {pid} ({who}) is {state} in a transaction of {seconds:.0} s: {effect}"
            ),
            remedy: Some(Remedy::Sql {
                what: "end it, if it is not needed",
                sql: format!("SELECT pg_terminate_backend({pid})"),
            }),
        }
    }
}

/// Returns the transactions that are open for at least so long, the oldest first.
async fn long_transactions(
    catalog: &Catalog<'_>,
    at_least: Duration,
) -> anyhow::Result<Vec<LongTransaction>> {
    const LONG: &str = "
        SELECT a.pid, concat_ws(', ', a.usename, nullif(a.application_name, ''), host(a.client_addr))
                AS who, coalesce(a.state, '?') AS state,
            extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
            coalesce(a.query, '') ~* '^\\s*listen\\s' OR EXISTS (SELECT FROM pg_locks l
                WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.mode = 'ShareLock'
                    AND l.classid = 0 AND l.objid = $1::int8::oid AND l.objsubid = 1) AS listens
        FROM pg_stat_activity a
        WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
            AND a.datname = current_database()
            AND extract(epoch FROM clock_timestamp() - a.xact_start)::float8 >= $2
        ORDER BY a.xact_start LIMIT 50";
    let key = postgres_index_cache_core::tooling::postgres::ADVISORY_KEY;
    let seconds = at_least.as_secs_f64();
    let rows = catalog
        .query_typed(LONG, &[(&key, Type::INT8), (&seconds, Type::FLOAT8)])
        .await
        .context("look for long transactions")?;
    let transactions = rows.iter().map(|row| LongTransaction {
        pid: row.get("pid"),
        who: row.get("who"),
        state: row.get("state"),
        seconds: row.get("seconds"),
        listens: row.get("listens"),
    });
    Ok(transactions.collect())
}

/// Returns the problem that the queue is held, and by whom, as far as that is known.
fn queue(usage: f64, long: &[LongTransaction], seen: &ServerSeen) -> Option<Problem> {
    let severity = match usage {
        usage if usage >= FULL_QUEUE => Severity::Critical,
        usage if usage >= HELD_QUEUE => Severity::Warning,
        _ => return None,
    };
    let slow = seen.listeners.iter().find(|listener| listener.is_slow);
    let held = long
        .iter()
        .find(|transaction| transaction.listens)
        .or(long.first());
    let (by, pid) = match (held, slow) {
        (Some(held), _) if held.listens => (
            format!(
                "process {} ({}), which listens, is in a transaction",
                held.pid, held.who
            ),
            Some(held.pid),
        ),
        (_, Some(slow)) => (
            format!(
                "process {} ({}) does not read what is sent to it",
                slow.pid, slow.user
            ),
            Some(slow.pid),
        ),
        (Some(held), None) => (
            format!(
                "process {} ({}) is in a long transaction, and holds the queue if it listens",
                held.pid, held.who
            ),
            Some(held.pid),
        ),
        (None, None) => (
            "a session that listens, of any database, is in a transaction or does not read"
                .to_string(),
            None,
        ),
    };
    Some(Problem {
        code: "queue-held",
        severity,
        text: format!(
            "the notification queue is {:.1} % full, and commits that notify fail once it is \
            full: {by}",
            usage * 100.0
        ),
        remedy: Some(match pid {
            Some(pid) => Remedy::Sql {
                what: "end that session",
                sql: format!("SELECT pg_terminate_backend({pid})"),
            },
            None => Remedy::Advice(
                "look in pg_stat_activity, in all databases, for the oldest xact_start and for \
                wait_event ClientWrite, and end that session"
                    .to_string(),
            ),
        }),
    })
}

/// Returns the problem that commits wait for each other.
fn lock_problem(waits: &LockWaits) -> Option<Problem> {
    // Who notifies takes turns: that somebody waits for a moment is no fault.
    if waits.looks < LOOKS && waits.most < 3 {
        return None;
    }
    let is_held = waits.looks == LOOKS;
    let holder = match &waits.holder {
        Some((pid, event)) if !event.is_empty() => {
            format!("; process {pid} holds it, and waits for {event}")
        }
        Some((pid, _)) => format!("; process {pid} holds it"),
        None => String::new(),
    };
    let waits_for_standby = waits
        .holder
        .as_ref()
        .is_some_and(|(_, event)| event == "SyncRep");
    let advice = if waits_for_standby {
        "the commit waits for a synchronous standby: bring that back, or take it out of \
        synchronous_standby_names"
    } else {
        "notify less: --on-change, one statement for many rows, one transaction for many \
        statements"
    };
    Some(Problem {
        code: "notify-lock",
        severity: if is_held {
            Severity::Critical
        } else {
            Severity::Warning
        },
        text: format!(
            "up to {} at once waited for the lock that every commit with a notification takes, \
            one after the other{holder}",
            count(waits.most.unsigned_abs(), "commit")
        ),
        remedy: Some(Remedy::Advice(advice.to_string())),
    })
}

/// Returns what a commit that notifies costs with so many listeners in the database, in
/// microseconds, by the measured [`COSTS`].
fn cost_of_commit(listeners: usize) -> u64 {
    let behind = COSTS.iter().position(|(number, _)| *number >= listeners);
    let at = behind.unwrap_or(COSTS.len() - 1).max(1);
    let ((from, low), (to, high)) = (COSTS[at - 1], COSTS[at]);
    // Past the last one the line goes on.
    let each = (high - low) as f64 / (to - from) as f64;
    (low as f64 + (listeners.saturating_sub(from)) as f64 * each).round() as u64
}

fn many_listeners(listeners: usize, cost: u64) -> Option<Problem> {
    (listeners >= MANY_LISTENERS).then(|| Problem {
        code: "many-listeners",
        severity: Severity::Warning,
        text: format!(
            "{listeners} sessions listen, and each commit that notifies wakes all of them, whatever \
            their channel: about {cost} us a commit, instead of {} with one",
            cost_of_commit(1)
        ),
        remedy: Some(Remedy::Advice(
            "let one process of each host listen, and pass on to the others".to_string(),
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_commit_follows_the_figures() {
        let costs = [0, 1, 10, 55, 100, 200].map(cost_of_commit);
        assert_eq!(costs, [39, 95, 205, 932, 1658, 3272]);
    }

    #[test]
    fn a_queue_that_is_held_is_worse_when_it_is_half_full() {
        let seen = ServerSeen::default();
        let severity = |usage| queue(usage, &[], &seen).map(|problem| problem.severity);
        assert_eq!(severity(0.0), None);
        assert_eq!(severity(0.02), Some(Severity::Warning));
        assert_eq!(severity(0.6), Some(Severity::Critical));
    }
}
