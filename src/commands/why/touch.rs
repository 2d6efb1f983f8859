//! Writing the row anew, or explaining what an UPDATE of it would run.

use super::Case;
use crate::commands::Context;
use crate::commands::install_triggers::measure::{assigned_column, foreign_owner};
use crate::connect::Server;
use crate::failure::with_hint;
use crate::fleet::Fleet;
use crate::render::Format;
use crate::render::json::EventLine;
use crate::tables::row::{RowNow, read_row, reader};
use crate::tables::target::Target;
use anyhow::{Context as _, anyhow, bail};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::Payload;
use postgres_index_cache_core::tooling::postgres::{
    Listener, SessionPurpose, key_condition, quote_identifier,
};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The bounds of the UPDATE: a row that somebody has locked is not waited for.
const BOUNDS: &str = "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'";
/// How long the notification may take.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A row that was written anew.
pub(super) struct Touched {
    /// When the commit was acknowledged.
    pub(super) committed: Instant,
    /// How long the UPDATE and the commit took.
    took: Duration,
    /// How long after that the notification arrived here; `None` if it did not.
    arrived: Option<Duration>,
    sent_to: String,
}

impl Touched {
    /// Returns the line about it.
    pub(super) fn text(&self, context: &Context, case: &Case<'_>) -> String {
        let arrived = self.arrived.map(|arrived| arrived.as_micros() as u64);
        match context.format {
            Format::Json => EventLine::new("touched", Timestamp::now())
                .of(case.target.names())
                .key(case.key)
                .member("took_us", self.took.as_micros() as u64)
                .optional("arrived_us", arrived)
                .end(),
            Format::Text => {
                let arrived = match self.arrived {
                    Some(arrived) => format!(
                        "its notification was here {:.1} ms later",
                        arrived.as_secs_f64() * 1000.0
                    ),
                    None => format!("no notification came on {}", self.sent_to),
                };
                format!(
                    "{:20}written anew in {:.1} ms; {arrived}\n",
                    "",
                    self.took.as_secs_f64() * 1000.0
                )
            }
        }
    }
}

/// Returns the UPDATE of the row that changes nothing.
async fn update_of(client: &Client, target: &Target, key: &str) -> anyhow::Result<String> {
    let writing = || format!("write {} {key} anew", target.name());
    let owner = foreign_owner(client, &target.table)
        .await
        .with_context(writing)?;
    if let Some(who) = owner {
        let error = anyhow!(
            "a trigger of {} runs a function of {who}, which would run as the role of this session",
            target.name()
        );
        return Err(with_hint(error, "do it as that role")).with_context(writing);
    }
    let column = assigned_column(client, &target.table)
        .await
        .with_context(writing)?;
    let Some(column) = column else {
        bail!("{} has no column to write", target.name());
    };
    let column = quote_identifier(&column);
    let condition = key_condition(&target.follow, &[key.to_string()])?;
    let name = target.table.sql_name();
    Ok(format!(
        "UPDATE {name} SET {column} = {column} WHERE {condition}"
    ))
}

/// Writes the row anew, and listens for its notification. Returns the row as it is then.
///
/// # Errors
/// If the role may not, the row is locked, or there is no such row.
pub(super) async fn write(
    server: &Server,
    fleet: &mut Fleet,
    case: &Case<'_>,
) -> anyhow::Result<(RowNow, Touched)> {
    let target = case.target;
    let writing = || format!("write {} {} anew", target.name(), case.key);
    let session = server.session(SessionPurpose::Listen).await?;
    let channel = target.channel.clone();
    let mut listener = Listener::open(session, std::slice::from_ref(&channel))
        .await
        .with_context(|| format!("listen on {channel}"))?;
    let client = server.client().await?;
    let update = update_of(&client, target, case.key).await?;
    let began = Instant::now();
    let sql = format!("BEGIN; {BOUNDS}; {update}; COMMIT");
    let done = client.simple_query(&sql).await.with_context(writing)?;
    let committed = Instant::now();
    let written = done.iter().filter_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    if written.sum::<u64>() == 0 {
        return Err(anyhow!("there is no such row")).with_context(writing);
    }
    let arrival = async {
        while let Some(Ok(notification)) = listener.next().await {
            let payload = Payload::parse(notification.payload());
            if let Ok(payload) = payload
                && payload.id.is_some_and(|id| id.get() == case.key)
                && payload.table == target.table.name
            {
                return committed.elapsed();
            }
        }
        std::future::pending().await
    };
    let arrived = tokio::time::timeout(ARRIVAL, arrival).await.ok();
    let row = read_row(&mut reader(server).await?, target, case.key).await?;
    // The question behind this has everything that was committed before it.
    fleet.deliver().await?;
    let touched = Touched {
        committed,
        took: committed.duration_since(began),
        arrived,
        sent_to: channel,
    };
    Ok((row, touched))
}

/// Explains an UPDATE of the row that changes nothing, and rolls it back. Returns which triggers ran.
/// Nothing is announced: NOTIFY takes effect at a commit (manual, NOTIFY).
///
/// # Errors
/// As [`write`].
pub(super) async fn explain(server: &Server, target: &Target, key: &str) -> anyhow::Result<String> {
    let client = server.client().await?;
    let update = update_of(&client, target, key).await?;
    let sql =
        format!("BEGIN; {BOUNDS}; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {update}; ROLLBACK");
    let explained = client
        .simple_query(&sql)
        .await
        .with_context(|| format!("explain an UPDATE of {} {key}", target.name()))?;
    let lines = explained.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
        _ => None,
    });
    let triggers: Vec<String> = lines.filter(|line| line.starts_with("Trigger ")).collect();
    Ok(if triggers.is_empty() {
        "an UPDATE of the row runs no trigger".to_string()
    } else {
        format!("an UPDATE of the row runs: {}", triggers.join("; "))
    })
}
