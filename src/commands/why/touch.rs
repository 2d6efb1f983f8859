//! Writing the row anew, or explaining what an UPDATE of it would run.

use super::Case;
use crate::commands::Context;
use crate::connect::Server;
use crate::fleet::rows::{RowAnswer, ask_for_row};
use crate::fleet::{Fleet, own_session};
use crate::render::Format;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::tables::row::{RowNow, read_row, reader};
use crate::tables::target::Target;
use crate::tables::touch::{TOUCH_BOUNDS, update_of};
use crate::triggers::observe::observe;
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use postgres_index_cache_core::Key;
use postgres_index_cache_core::tooling::postgres::{Listener, SessionPurpose};
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;

/// How long the notification may take.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A row that was written anew.
pub(super) struct Touched {
    /// When the commit was acknowledged.
    pub(super) committed: Instant,
    /// When the nodes were asked for the row.
    pub(super) asked: Instant,
    /// What the nodes have answered.
    pub(super) answers: BTreeMap<i32, RowAnswer>,
    /// How long the UPDATE and the commit took.
    took: Duration,
    /// How long after that the notification arrived here; `None` if it did not.
    pub(super) arrived: Option<Duration>,
}

impl Touched {
    /// Returns the line about it.
    pub(super) fn text(&self, context: &Context, case: &Case<'_>) -> String {
        let arrived = self.arrived.map(|arrived| arrived.as_micros() as u64);
        if context.format == Format::Json {
            return EventLine::new("touched", Timestamp::now())
                .of(case.target.names())
                .key(case.key)
                .member("took_us", self.took.as_micros() as u64)
                .optional("arrived_us", arrived)
                .end();
        }
        let options = observe(&case.target.table);
        let on_change = options
            .as_ref()
            .and_then(|seen| seen.options())
            .is_some_and(|options| options.on_change);
        let arrived = match self.arrived {
            Some(arrived) => format!(
                "its notification was here {:.1} ms later",
                arrived.as_secs_f64() * 1000.0
            ),
            None if on_change => {
                "no notification came: the trigger announces no UPDATE that changes nothing \
                (--on-change)"
                    .to_string()
            }
            None => format!(
                "no notification came on {} within {} s",
                case.target.channel,
                ARRIVAL.as_secs()
            ),
        };
        format!(
            "{:20}written anew in {:.1} ms; {}\n",
            "",
            self.took.as_secs_f64() * 1000.0,
            escape(&arrived)
        )
    }
}

/// Writes the row anew, asks the nodes for it at once, and waits for its notification. Returns the
/// row as it is then.
///
/// # Errors
/// If the role may not, the row is locked, or there is no such row.
pub(super) async fn write(
    server: &Server,
    fleet: &mut Fleet,
    case: &Case<'_>,
    nodes: &BTreeSet<i32>,
) -> anyhow::Result<(RowNow, Touched)> {
    let target = case.target;
    let writing = || format!("write {} {} anew", target.name(), case.key);
    let session = own_session(server, SessionPurpose::Listen).await?;
    let channel = target.channel.clone();
    let mut listener = Listener::open(session, std::slice::from_ref(&channel))
        .await
        .with_context(|| format!("listen on {channel}"))?;
    // Sessions are opened before the clock runs.
    let mut reader = reader(server).await?;
    let client = server.client().await?;
    let update = update_of(&client, target, case.key).await?;
    let began = Instant::now();
    let sql = format!("BEGIN; {TOUCH_BOUNDS}; {update}; COMMIT");
    let done = client.simple_query(&sql).await.with_context(writing)?;
    let committed = Instant::now();
    let written = done.iter().filter_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    if written.sum::<u64>() == 0 {
        return Err(anyhow!("there is no such row")).with_context(writing);
    }
    // A long number may have been sent as a text.
    let key = Key::of_json(case.key).to_string();
    let arrival = async {
        while let Some(Ok(notification)) = listener.next().await {
            let is_awaited = |change: &str| {
                Payload::parse(change).is_ok_and(|payload| {
                    payload
                        .id
                        .is_some_and(|id| Key::of_json(id).to_string() == key)
                        && payload.table == target.table.name
                })
            };
            if unpack(notification.payload()).any(|change| is_awaited(&change)) {
                return committed.elapsed();
            }
        }
        std::future::pending().await
    };
    let arrival = tokio::time::timeout(ARRIVAL, arrival);
    let asking = async {
        // A trigger may have changed more than was written.
        let row = read_row(&mut reader, target, case.key).await?;
        let asked = Instant::now();
        let answers = ask_for_row(fleet, target, case.key, &row, nodes, case.timeout).await?;
        anyhow::Ok((row, asked, answers))
    };
    let (arrived, answered) = tokio::join!(arrival, asking);
    let (row, asked, answers) = answered?;
    let touched = Touched {
        committed,
        asked,
        answers,
        took: committed.duration_since(began),
        arrived: arrived.ok(),
    };
    Ok((row, touched))
}

/// Explains an UPDATE of the row that changes nothing, and rolls it back. Returns which triggers
/// ran, as PostgreSQL writes them. Nothing is announced: NOTIFY takes effect at a commit (manual,
/// NOTIFY).
///
/// # Errors
/// As [`write`].
pub(super) async fn explain(
    server: &Server,
    target: &Target,
    key: &str,
) -> anyhow::Result<Vec<String>> {
    let client = server.client().await?;
    let update = update_of(&client, target, key).await?;
    let sql = format!("BEGIN; {TOUCH_BOUNDS}; EXPLAIN (ANALYZE, COSTS OFF) {update}; ROLLBACK");
    let explained = client
        .simple_query(&sql)
        .await
        .with_context(|| format!("explain an UPDATE of {} {key}", target.name()))?;
    let lines = explained.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
        _ => None,
    });
    Ok(lines
        .filter_map(|line| line.strip_prefix("Trigger ").map(str::to_string))
        .collect())
}
