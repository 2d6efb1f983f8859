//! The row itself: which transaction wrote it and when, before the trigger was made or after.

use super::Case;
use super::link::{Link, Verdict};
use crate::fleet::Fleet;
use crate::render::look::Look;
use crate::tables::row::read_version;
use crate::triggers::observe::observe;
use anyhow::Context as _;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::Traced;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// What the server tells of a row.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether there is such a row.
    pub(super) exists: bool,
    /// The transaction that wrote the row, as PostgreSQL stores it.
    xmin: Option<String>,
    /// When that transaction committed, if the server keeps that.
    committed: Option<Timestamp>,
    /// The replication origin of that transaction, if there is one.
    pub(super) origin: Option<String>,
    /// Whether the row was written before the trigger or its function was made or altered.
    pub(super) is_before_trigger: bool,
    /// The condition that announced rows fulfil; `None` if all rows are announced.
    condition: Option<String>,
    /// Why the row could not be looked at; `None` if it was.
    unseen: Option<String>,
}

/// Looks at the row.
///
/// # Errors
/// If the server refuses.
pub(super) async fn look(fleet: &Fleet, case: &Case<'_>) -> anyhow::Result<Seen> {
    let client = fleet.client();
    let mut seen = Seen {
        exists: case.row.digest.is_some(),
        condition: case.target.follow.condition.clone(),
        ..Seen::default()
    };
    if !seen.exists {
        return Ok(seen);
    }
    let version = match read_version(client, case.target, case.key).await? {
        Ok(Some(version)) => version,
        Ok(None) => return Ok(seen),
        Err(unseen) => {
            seen.unseen = Some(unseen);
            return Ok(seen);
        }
    };
    let xmin = version.xmin;
    let commit = commit_of(client, &xmin).await;
    seen.committed = commit.as_ref().and_then(|commit| commit.at);
    seen.origin = commit.and_then(|commit| commit.origin);
    seen.is_before_trigger = is_before_trigger(client, case, &xmin).await?;
    seen.xmin = Some(xmin);
    Ok(seen)
}

/// The commit of a transaction.
struct Commit {
    at: Option<Timestamp>,
    origin: Option<String>,
}

/// Returns when a transaction committed, and where it came from. `None` unless
/// `track_commit_timestamp` is on, and the server still knows.
async fn commit_of(client: &Traced<Client>, xmin: &str) -> Option<Commit> {
    const TIME: &str = "SELECT pg_catalog.to_char(
            pg_catalog.pg_xact_commit_timestamp($1::text::pg_catalog.xid) AT TIME ZONE 'UTC',
            'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
    // From PostgreSQL 14 on. The origin has a name, unless it was dropped.
    const ORIGIN: &str = "SELECT coalesce(o.roname, c.roident::text)
        FROM pg_catalog.pg_xact_commit_timestamp_origin($1::text::pg_catalog.xid) c
        LEFT JOIN pg_catalog.pg_replication_origin o ON o.roident = c.roident
        WHERE c.roident <> 0";
    let parameter = [(
        &xmin as &(dyn tokio_postgres::types::ToSql + Sync),
        Type::TEXT,
    )];
    let row = client.query_typed_one(TIME, &parameter).await.ok()?;
    let rows = client.query_typed(ORIGIN, &parameter).await;
    let origin = rows.ok().and_then(|rows| Some(rows.first()?.get(0)));
    Some(Commit {
        at: row
            .get::<_, Option<String>>(0)
            .and_then(|at| at.parse().ok()),
        origin,
    })
}

/// Tells whether the transaction `xmin` is older than the last change of the trigger and that of
/// its function. To enable a trigger is such a change.
///
/// Both ages are taken in one statement: an age grows with each transaction of the server, so of
/// two statements the second would find a trigger that was made later to be the older one.
async fn is_before_trigger(
    client: &Traced<Client>,
    case: &Case<'_>,
    xmin: &str,
) -> anyhow::Result<bool> {
    let Some(observed) = observe(&case.target.table) else {
        return Ok(false);
    };
    let Some(trigger) = observed.row else {
        return Ok(false);
    };
    let sql = "SELECT pg_catalog.age($3::text::pg_catalog.xid)
            > least(pg_catalog.age(t.xmin), pg_catalog.age(p.xmin))
        FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = $1 AND t.tgname = $2::text::pg_catalog.name AND NOT t.tgisinternal";
    let rows = client
        .query_typed(
            sql,
            &[
                (&case.target.table.oid, Type::OID),
                (&trigger.name.as_str(), Type::TEXT),
                (&xmin, Type::TEXT),
            ],
        )
        .await
        .context("look at the trigger")?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

impl Seen {
    /// Returns the transaction that wrote the row, as PostgreSQL stores it.
    pub(super) fn xmin(&self) -> Option<u32> {
        self.xmin.as_ref()?.parse().ok()
    }

    /// Returns when that transaction committed, if the server keeps that.
    pub(super) fn committed(&self) -> Option<Timestamp> {
        self.committed
    }

    /// Returns the link of the row.
    pub(super) fn link(&self, look: &Look) -> Link {
        if let Some(why) = &self.unseen {
            return Link::new("row", Verdict::Unknown).text(&format!("it is there; {why}"));
        }
        if !self.exists {
            let text = match &self.condition {
                Some(condition) => format!(
                    "the table has no such row that fulfils the condition of the triggers, \
                    {condition}: no node must have it"
                ),
                None => "the table has no such row: no node must have it".to_string(),
            };
            return Link::new("row", Verdict::Ok).text(&text);
        }
        let xmin = self.xmin.as_deref().unwrap_or("?");
        let committed = match &self.committed {
            Some(at) => format!(", committed at {}", look.clock(*at)),
            None => String::new(),
        };
        let origin = match &self.origin {
            Some(origin) => format!(", by logical replication ({origin})"),
            None => String::new(),
        };
        let link = Link::new("row", Verdict::Ok)
            .text(&format!("written by transaction {xmin}{committed}{origin}"));
        if self.is_before_trigger {
            link.detail(
                "before the trigger was last made, enabled or altered: a node that was not started or \
                reloaded since does not know of it",
            )
        } else if self.committed.is_none() {
            link.detail("track_commit_timestamp is off: when it was written is not known")
        } else {
            link
        }
    }
}
