//! The delivery: whether a notification arrives, how full the queue is, and who holds it up.

use super::link::{Link, Verdict};
use crate::connect::Server;
use crate::failure::Report;
use crate::fleet::Fleet;
use anyhow::Context as _;
use tokio_postgres::Client;

/// The share of the queue past which something is wrong.
const FULL: f64 = 0.5;
/// The age, in seconds, of a transaction of a listener that is worth a word.
const LONG: f64 = 60.0;

/// Sends a notification to ourselves. Returns the link, and whether the notification arrived.
///
/// # Errors
/// If the server cannot be asked.
pub(super) async fn look(fleet: &mut Fleet, server: &Server) -> anyhow::Result<(Link, bool)> {
    let delivered = fleet.deliver().await;
    // Our own session may be held up, so another one looks.
    let client = server.client().await?;
    let (usage, is_standby) = queue(&client).await?;
    let slow = slow_listener(&client).await;
    let filled = format!("the queue is {:.1} % full", usage * 100.0);
    let link = match delivered {
        Err(_) if is_standby => Link::new("delivery", Verdict::Broken)
            .code("standby")
            .text("the server is a standby, where NOTIFY does not work"),
        Err(error) => {
            let holder = lock_holder(&client).await;
            let broken = Link::new("delivery", Verdict::Broken);
            match holder {
                Some(holder) => broken
                    .code("notify-lock-held")
                    .text(&format!("commits that notify wait for {}", holder.text))
                    .now(Some(format!("SELECT pg_terminate_backend({})", holder.pid))),
                None => broken
                    .code("not-delivered")
                    .text(&Report::new(&error).one_line()),
            }
            .detail(&filled)
        }
        Ok(_) if usage > FULL => Link::new("delivery", Verdict::Broken)
            .code("queue-full")
            .text(&format!(
                "{filled}: when it is full, commits that notify fail"
            ))
            .now(
                slow.as_ref()
                    .map(|slow| format!("SELECT pg_terminate_backend({})", slow.pid)),
            ),
        Ok(took) => Link::new("delivery", Verdict::Ok).text(&format!(
            "a notification came back in {:.1} ms; {filled}",
            took.as_secs_f64() * 1000.0
        )),
    };
    let is_delivered = link.verdict == Verdict::Ok || usage > FULL;
    let link = match slow {
        Some(slow) => link.detail(&format!(
            "{} listens and is in a long transaction: it keeps the queue from being emptied",
            slow.text
        )),
        None => link,
    };
    Ok((link, is_delivered))
}

/// A session that is in the way.
struct InTheWay {
    pid: i32,
    text: String,
}

/// Returns the share of the queue that is in use, and whether the server is a standby.
async fn queue(client: &Client) -> anyhow::Result<(f64, bool)> {
    let row = client
        .query_typed_one(
            "SELECT pg_catalog.pg_notification_queue_usage(), pg_catalog.pg_is_in_recovery()",
            &[],
        )
        .await
        .context("ask for the notification queue")?;
    Ok((row.get(0), row.get(1)))
}

/// Returns the session that holds the lock which every commit that notifies takes (manual, NOTIFY:
/// the queue is in the order of the commits). It is the lock on no database.
async fn lock_holder(client: &Client) -> Option<InTheWay> {
    const HOLDER: &str = "SELECT l.pid, coalesce(a.usename::text, '?'),
            coalesce(nullif(a.application_name, ''), '?'), coalesce(a.state, '?'),
            pg_catalog.left(coalesce(a.query, ''), 60)
        FROM pg_catalog.pg_locks l
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
        WHERE l.locktype OPERATOR(pg_catalog.=) 'object' AND l.granted
            AND l.classid OPERATOR(pg_catalog.=) 1262 AND l.objid OPERATOR(pg_catalog.=) 0
            AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'
        LIMIT 1";
    // The answer is worth no error: without it, the cause is only less exact.
    let rows = client.query_typed(HOLDER, &[]).await.ok()?;
    let row = rows.first()?;
    let pid: i32 = row.get(0);
    let (user, application, state, query): (String, String, String, String) =
        (row.get(1), row.get(2), row.get(3), row.get(4));
    Some(InTheWay {
        pid,
        text: format!("process {pid} (user {user}, application {application}, {state}): {query}"),
    })
}

/// Returns the session that listens, as far as can be seen, in the oldest transaction.
async fn slow_listener(client: &Client) -> Option<InTheWay> {
    const SLOW: &str = "SELECT a.pid, coalesce(a.usename::text, '?'),
            coalesce(nullif(a.application_name, ''), '?'),
            extract(epoch FROM pg_catalog.now() - a.xact_start)::pg_catalog.float8
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
            AND a.xact_start IS NOT NULL AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
            AND (a.query OPERATOR(pg_catalog.~*) '^\\s*listen\\s'
                OR a.pid OPERATOR(pg_catalog.=) ANY (ARRAY(
                    SELECT l.pid FROM pg_catalog.pg_locks l
                    WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
                        AND l.objid OPERATOR(pg_catalog.=) 1885825379)))
        ORDER BY a.xact_start LIMIT 1";
    let rows = client.query_typed(SLOW, &[]).await.ok()?;
    let row = rows.first()?;
    let pid: i32 = row.get(0);
    let (user, application): (String, String) = (row.get(1), row.get(2));
    let age: f64 = row.get(3);
    (age > LONG).then(|| InTheWay {
        pid,
        text: format!("process {pid} (user {user}, application {application}), for {age:.0} s,"),
    })
}
