//! [`Listening`]: a session that LISTENs while the rest is examined. Shows whether a NOTIFY comes
//! back, and whether the updates of that time have changed rows.

use super::server::ServerFacts;
use super::tables::{Table, Tables};
use super::{Findings, Found, found};
use crate::connect::Server;
use crate::failure::Report;
use crate::fleet::own_session;
use crate::render::count;
use crate::tables::catalog::Catalog;
use anyhow::Context as _;
use postgres_index_cache_core::Action;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};
use postgres_index_cache_core::tooling::postgres::{
    ClaimError, Listener, SessionPurpose, quote_identifier, quote_literal, sqlstate,
};
use postgres_index_cache_core::tooling::{Payload, unpack};
use postgres_index_cache_core::uuid::Uuid;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// How long a notification of ours may wait for its commit, and then for its arrival.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most rows whose last value is remembered.
const REMEMBERED: usize = 100_000;
/// The updates that must have been compared before their share means something.
const ENOUGH: u64 = 20;
/// The share of updates that change nothing from which leaving them out pays.
const IDLE_SHARE: f64 = 0.2;

/// A session that listens.
pub(super) struct Listening {
    /// The channel of our own notification.
    reply: String,
    token: String,
    arrived: Arc<tokio::sync::Notify>,
    traffic: Arc<Mutex<Traffic>>,
    task: JoinHandle<()>,
}

/// The reason why nothing can be listened to.
pub(super) enum Deaf {
    /// The server is a standby.
    Standby,
    /// A pooler in transaction mode shares the session with others.
    Shared,
    /// Anything else.
    Failed(String),
}

/// The way of our own notification.
pub(super) enum RoundTrip {
    Took(Duration),
    /// It was committed, and did not arrive.
    Lost,
    /// The server did not commit it, for this reason.
    Refused(String),
}

/// The updates that came in.
#[derive(Default)]
struct Traffic {
    /// The digest of the last row that came, by the digest of its table and key.
    last: HashMap<u64, u64>,
    /// By schema and table.
    tables: HashMap<(String, String), Updates>,
}

#[derive(Default, Clone, Copy)]
struct Updates {
    /// Those whose row had come before.
    compared: u64,
    /// Those that brought the same row once more.
    idle: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listening {
    /// Listens on these channels, and on one of its own.
    pub(super) async fn open(
        server: &Server,
        facts: &ServerFacts,
        channels: &[String],
    ) -> Result<Self, Deaf> {
        if facts.is_standby {
            return Err(Deaf::Standby);
        }
        let session = own_session(server, SessionPurpose::Listen).await;
        let session = session.map_err(|error| {
            let is_shared = error
                .chain()
                .any(|cause| matches!(cause.downcast_ref(), Some(ClaimError::Shared)));
            if is_shared {
                Deaf::Shared
            } else {
                Deaf::Failed(Report::new(&error).one_line())
            }
        })?;
        let random = Uuid::new_v4().simple().to_string();
        let reply = format!("pgic_doctor_{random}");
        let token = Uuid::new_v4().simple().to_string();
        let mut all = channels.to_vec();
        all.push(reply.clone());
        let listener = Listener::open(session, &all).await;
        let mut listener = listener.map_err(|error| {
            let error = anyhow::Error::new(error).context("LISTEN");
            Deaf::Failed(Report::new(&error).one_line())
        })?;
        let arrived = Arc::new(tokio::sync::Notify::new());
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let task = {
            let (arrived, traffic) = (Arc::clone(&arrived), Arc::clone(&traffic));
            let (reply, token) = (reply.clone(), token.clone());
            tokio::spawn(async move {
                while let Some(Ok(notification)) = listener.next().await {
                    if notification.channel() != reply {
                        let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
                        traffic.take(notification.payload());
                    } else if notification.payload() == token {
                        arrived.notify_one();
                    }
                }
            })
        };
        Ok(Self {
            reply,
            token,
            arrived,
            traffic,
            task,
        })
    }

    /// Sends a notification by another session, and waits for it.
    pub(super) async fn round_trip(&self, client: &Client) -> RoundTrip {
        let began = Instant::now();
        // The lock that is waited for is taken by COMMIT.
        let sql = format!(
            "BEGIN READ WRITE; SET LOCAL lock_timeout = {}; NOTIFY {}, {}; COMMIT",
            PATIENCE.as_millis(),
            quote_identifier(&self.reply),
            quote_literal(&self.token)
        );
        if let Err(error) = client.batch_execute(&sql).await {
            // The session may be gone as well; the next statement says so.
            let _ = client.batch_execute("ROLLBACK").await;
            let is_held = sqlstate::of(&error) == Some("55P03");
            let error = anyhow::Error::new(error);
            return RoundTrip::Refused(if is_held {
                format!("other commits hold the notify lock for longer than {PATIENCE:?}")
            } else {
                Report::new(&error).one_line()
            });
        }
        match tokio::time::timeout(PATIENCE, self.arrived.notified()).await {
            Ok(()) => RoundTrip::Took(began.elapsed()),
            Err(_) => RoundTrip::Lost,
        }
    }

    /// Returns the updates of a table that came in.
    fn updates(&self, table: &Table) -> Updates {
        let traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (table.described.schema.clone(), table.described.name.clone());
        traffic.tables.get(&name).copied().unwrap_or_default()
    }
}

impl Traffic {
    /// Takes a payload, which may announce several changes.
    fn take(&mut self, payload: &str) {
        for change in unpack(payload) {
            self.take_change(&change);
        }
    }

    /// Takes the payload of one change. One that tells no row is left out.
    fn take_change(&mut self, payload: &str) {
        let Ok(payload) = Payload::parse(payload) else {
            return;
        };
        // `pgic announce` sends rows that nobody has written.
        if payload.reread {
            return;
        }
        let (Some(id), Some(data)) = (payload.id, payload.data) else {
            return;
        };
        let table = (
            payload.schema.unwrap_or_default().to_string(),
            payload.table.to_string(),
        );
        let row = digest(data);
        let key = digest((&table, id));
        let is_known = self.last.contains_key(&key);
        if !is_known && self.last.len() >= REMEMBERED {
            return;
        }
        let before = self.last.insert(key, row);
        if let (Action::Update, Some(before)) = (payload.action, before) {
            let updates = self.tables.entry(table).or_default();
            updates.compared += 1;
            updates.idle += u64::from(before == row);
        }
    }
}

fn digest(value: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Returns how many updates the server has counted of each table, by the table's oid: since its
/// statistics began (manual, The Cumulative Statistics System).
///
/// # Errors
/// If the server refuses.
pub(super) async fn counted_updates(
    catalog: &Catalog<'_>,
    tables: &Tables,
) -> anyhow::Result<HashMap<u32, i64>> {
    const COUNTED: &str = "
        SELECT t.relation, sum(pg_stat_get_tuples_updated(t.part))::int8
        FROM ROWS FROM (unnest($1::oid[]), unnest($2::oid[])) t (relation, part)
        GROUP BY t.relation";
    let (mut relations, mut parts) = (Vec::new(), Vec::new());
    for table in tables.announced().map(|table| &table.described) {
        let leaves = table.leaves.iter().map(|leaf| leaf.oid);
        for part in leaves.chain([table.oid]) {
            relations.push(table.oid);
            parts.push(part);
        }
    }
    let rows = catalog
        .query_typed(
            COUNTED,
            &[(&relations, Type::OID_ARRAY), (&parts, Type::OID_ARRAY)],
        )
        .await
        .context("ask for the statistics of the tables")?;
    let counts = rows.iter().map(|row| {
        let updates: Option<i64> = row.get(1);
        (row.get(0), updates.unwrap_or_default())
    });
    Ok(counts.collect())
}

/// Adds the outcomes of the checks that listen. Waits until `until` for more traffic.
pub(super) async fn check(
    findings: &mut Findings,
    listening: Result<Listening, Deaf>,
    round_trip: Option<RoundTrip>,
    tables: &Tables,
    counted: &HashMap<u32, i64>,
    until: Instant,
) {
    let listening = match listening {
        Ok(listening) => listening,
        Err(deaf) => {
            let why = match deaf {
                Deaf::Standby => "the server is a standby".to_string(),
                Deaf::Failed(why) => why,
                Deaf::Shared => {
                    findings.add("pooler", "a session for LISTEN", vec![found(shared())]);
                    for check in ["delivery", "idle-updates"] {
                        findings.unknown(check, "nothing can be listened to through the pooler");
                    }
                    return;
                }
            };
            for check in ["pooler", "delivery", "idle-updates"] {
                findings.unknown(check, why.clone());
            }
            return;
        }
    };
    findings.add("pooler", "the session is ours alone", Vec::new());
    match round_trip {
        Some(RoundTrip::Took(took)) => {
            let millis = took.as_secs_f64() * 1000.0;
            let text = format!("a notification came back in {millis:.1} ms");
            findings.add("delivery", text, Vec::new());
        }
        Some(RoundTrip::Lost) => {
            let text = format!("a notification of our own did not come back within {PATIENCE:?}");
            findings.add(
                "delivery",
                "a notification of our own",
                vec![found(lost(text))],
            );
        }
        Some(RoundTrip::Refused(why)) => {
            let text = format!("a notification of our own could not be sent: {why}");
            findings.add(
                "delivery",
                "a notification of our own",
                vec![found(lost(text))],
            );
        }
        None => findings.unknown("delivery", "no notification was sent"),
    }
    tokio::time::sleep_until(until.into()).await;
    let mut all = Updates::default();
    let mut problems = Vec::new();
    for table in tables.announced() {
        let updates = listening.updates(table);
        all.compared += updates.compared;
        all.idle += updates.idle;
        let counted = counted.get(&table.described.oid).copied();
        problems.extend(idle_updates(table, updates, counted.unwrap_or_default()));
    }
    if all.compared == 0 {
        findings.unknown("idle-updates", "no row was updated twice: --traffic 30s");
    } else {
        let looked_at = format!(
            "{} of {} changed nothing",
            all.idle,
            count(all.compared, "update")
        );
        findings.add("idle-updates", looked_at, problems);
    }
}

/// Returns the problem that many updates of a table change nothing. `counted` is the number of its
/// updates since the server counts.
fn idle_updates(table: &Table, updates: Updates, counted: i64) -> Option<Found> {
    let Updates { compared, idle } = updates;
    let share = idle as f64 / compared as f64;
    if compared < ENOUGH || share < IDLE_SHARE {
        return None;
    }
    let name = table.described.display_name();
    Some(table.found(Problem {
        code: "idle-updates",
        severity: Severity::Warning,
        text: format!(
            "{idle} of {compared} updates of {name} that were compared sent the same row once more: \
            they cost a notification, and change no cache (pg_stat has counted {counted} updates)"
        ),
        remedy: Some(Remedy::Command {
            what: "announce only what changes",
            command: format!("pgic install-triggers {} --on-change", table.described.typed_name()),
        }),
    }))
}

fn shared() -> Problem {
    Problem {
        code: "pooler",
        severity: Severity::Critical,
        text: "a pooler in transaction mode stands before the server: it takes LISTEN and passes \
            nothing on"
            .to_string(),
        remedy: Some(Remedy::Advice(
            "connect to the server itself, or to a pool in session mode".to_string(),
        )),
    }
}

fn lost(text: String) -> Problem {
    Problem {
        code: "not-delivered",
        severity: Severity::Critical,
        text,
        remedy: Some(Remedy::Advice(
            "see the checks notify-lock, queue and transactions for who is in the way".to_string(),
        )),
    }
}
