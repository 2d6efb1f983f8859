//! [`ServerSeen`]: the state of the server as a whole: who listens, and how full the queue is.

use crate::connect::Place;
use crate::tables::catalog::Catalog;
use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use postgres_index_cache_core::tooling::postgres::ADVISORY_KEY;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};
use tokio_postgres::types::Type;

/// A session that listens, or seems to.
#[derive(Debug, Clone)]
pub struct ListenerSeen {
    pub pid: i32,
    pub user: String,
    /// The address of the client; `local` for a socket of the server's machine.
    pub address: String,
    pub application: String,
    pub state: String,
    /// The time since which the session has not changed its state.
    pub since: String,
    /// Whether the session holds the advisory lock of a pgic or a library that listens. Other
    /// sessions are guessed from their last statement.
    pub is_certain: bool,
    /// Whether the server waits for the client to read.
    pub is_slow: bool,
    /// The channels that the last statement of the session names, without those of pgic's own.
    /// Others may be listened to as well.
    pub channels: Vec<String>,
}

/// The state of the server as a whole.
#[derive(Debug, Clone, Default)]
pub struct ServerSeen {
    pub is_standby: bool,
    /// The share of the notification queue that is in use, from 0 to 1.
    pub queue: f64,
    pub listeners: Vec<ListenerSeen>,
    /// The number of sessions whose last statement this role must not see.
    pub unseen: i64,
    /// Where the command is connected.
    pub place: Option<Place>,
}

impl ServerSeen {
    /// Reads the state of the server, and which sessions of this database listen.
    pub async fn read(catalog: &Catalog<'_>, place: Option<Place>) -> anyhow::Result<Self> {
        let row = catalog
            .query_typed_one(
                "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_notification_queue_usage()",
                &[],
            )
            .await
            .context("ask for the state of the server")?;
        // PostgreSQL does not tell who listens. A session whose last statement was LISTEN probably
        // does, but any later statement hides that. So pgic and the library hold a shared advisory
        // lock while they listen, which cannot be missed.
        let listeners = catalog
        .query_typed(
            "SELECT a.pid, coalesce(a.usename::text, '') AS usename, coalesce(a.application_name, \
            '') AS application,
                    coalesce(a.state, '') AS state, l.pid IS NOT NULL AS is_certain,
                    coalesce(a.wait_event, '') = 'ClientWrite' AS is_slow,
                    coalesce(a.query, '') AS query,
                    coalesce(pg_catalog.host(a.client_addr), 'local') AS address,
                    coalesce(pg_catalog.to_char(a.state_change AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '') AS since
             FROM pg_catalog.pg_stat_activity a
             LEFT JOIN pg_catalog.pg_locks l
               ON l.pid = a.pid AND l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted
              AND l.database = a.datid AND l.classid = 0 AND l.objid = $1::int8::oid AND \
              l.objsubid = 1
             WHERE a.datname = pg_catalog.current_database() AND a.pid <> \
             pg_catalog.pg_backend_pid()
               AND (l.pid IS NOT NULL OR a.query ~* '^\\s*listen\\s')
             ORDER BY is_certain DESC, a.pid",
            &[(&ADVISORY_KEY, Type::INT8)],
        )
        .await
        .context("look for listeners")?;
        let unseen = catalog
            .query_typed_one(
                "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
             WHERE a.datname = pg_catalog.current_database()
               AND a.query = '<insufficient privilege>'",
                &[],
            )
            .await
            .context("look for listeners")?;
        Ok(Self {
            is_standby: row.get(0),
            queue: row.get(1),
            unseen: unseen.get(0),
            place,
            listeners: listeners
                .iter()
                .map(|row| ListenerSeen {
                    pid: row.get("pid"),
                    user: row.get("usename"),
                    application: row.get("application"),
                    state: row.get("state"),
                    address: row.get("address"),
                    since: row.get("since"),
                    is_certain: row.get("is_certain"),
                    is_slow: row.get("is_slow"),
                    channels: channels_of(row.get("query")),
                })
                .collect(),
        })
    }

    /// Returns the problems of the server as a whole.
    pub fn problems(&self, has_announced: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.is_standby {
            problems.push(Problem {
                code: "standby",
                severity: Severity::Critical,
                text: "the server is a standby: LISTEN does not work here".to_string(),
                remedy: None,
            });
        }
        if self.queue > FULL_QUEUE {
            problems.push(Problem {
                code: "queue-full",
                severity: Severity::Critical,
                text: format!(
                    "the notification queue is {:.1} % full: when it is full, commits that notify \
                    fail; a session that listens in a long transaction holds it",
                    self.queue * 100.0
                ),
                remedy: None,
            });
        }
        if !has_announced {
            problems.push(Problem {
                code: "nothing-announced",
                severity: Severity::Critical,
                text: "no table announces its changes".to_string(),
                remedy: Some(Remedy::Command {
                    what: "install triggers",
                    command: "pgic install-triggers TABLE".to_string(),
                }),
            });
        }
        problems
    }
}

/// Returns the channels that a statement listens on, as far as it is one, without those of pgic's
/// own. PostgreSQL cuts long statements, so some may be missing.
fn channels_of(statement: &str) -> Vec<String> {
    let mut channels: Vec<String> = Vec::new();
    let mut rest = statement;
    while let Some(at) = rest.to_ascii_lowercase().find("listen") {
        let before = rest[..at].chars().next_back();
        rest = &rest[at + "listen".len()..];
        // `UNLISTEN`, or the end of another word.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let text = rest.trim_start();
        let channel = if let Some(quoted) = text.strip_prefix('"') {
            // A quote inside is written twice.
            let mut name = String::new();
            let mut chars = quoted.chars().peekable();
            loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        name.push('"');
                    }
                    Some('"') => break name,
                    Some(c) => name.push(c),
                    // The statement was cut within the name.
                    None => break String::new(),
                }
            }
        } else {
            let word: String = text
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '$')
                .collect();
            word.to_lowercase()
        };
        let is_own = channel.starts_with("pgic_");
        if !channel.is_empty() && text.len() < rest.len() && !is_own && !channels.contains(&channel)
        {
            channels.push(channel);
        }
    }
    channels
}

/// The share of the notification queue past which something is wrong.
const FULL_QUEUE: f64 = 0.5;

/// Returns the server's clock less ours, and how long the question took: the difference is known to
/// half of that.
///
/// # Errors
/// If the server refuses.
pub async fn clock_ahead(
    catalog: &Catalog<'_>,
) -> anyhow::Result<(SignedDuration, SignedDuration)> {
    let before = Timestamp::now();
    let clock = catalog
        .query_typed_one(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8",
            &[],
        )
        .await
        .context("ask for the server's clock")?;
    Ok(clock_difference(before, clock.get(0), Timestamp::now()))
}

/// Returns the server's clock less ours, and how long the question took. `clock` is the server's,
/// in microseconds since 1970. The answer was written between `before` and `after`.
fn clock_difference(
    before: Timestamp,
    clock: i64,
    after: Timestamp,
) -> (SignedDuration, SignedDuration) {
    let asking = after.duration_since(before);
    let middle = before.as_microsecond() + asking.as_micros() as i64 / 2;
    (
        SignedDuration::from_micros(clock.saturating_sub(middle)),
        asking,
    )
}

#[cfg(test)]
mod tests {
    use super::{channels_of, clock_difference};
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn the_clock_is_compared_with_the_middle_of_the_question() {
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        let (difference, asking) = clock_difference(at(1_000_000), 1_150_000, at(1_200_000));
        assert_eq!(difference, SignedDuration::from_millis(50));
        assert_eq!(asking, SignedDuration::from_millis(200));
    }

    #[test]
    fn the_channels_of_a_statement() {
        for (statement, channels) in [
            ("LISTEN cache_invalidation", &["cache_invalidation"][..]),
            (
                "listen Cache; LISTEN \"Cache\";LISTEN \"a \"\" b\"",
                &["cache", "Cache", "a \" b"],
            ),
            (
                "SELECT set_config('a', 'b', false); LISTEN \"x\";LISTEN \"pgic_fence_1\";",
                &["x"],
            ),
            ("UNLISTEN x", &[]),
            ("SELECT listen_to()", &[]),
            ("LISTEN \"cut he", &[]),
            ("SELECT 1", &[]),
        ] {
            assert_eq!(channels_of(statement), channels, "{statement}");
        }
    }
}
