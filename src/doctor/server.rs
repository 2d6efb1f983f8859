//! The checks of the server, of its settings and limits, and of the role that looks.

use super::tables::Tables;
use super::{Findings, Found, found};
use crate::render::count;
use crate::server_seen::clock_ahead;
use crate::tables::catalog::Catalog;
use anyhow::Context as _;
use jiff::SignedDuration;
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};
use tokio_postgres::types::Type;

/// The sessions that one replica of the library has.
const SESSIONS_OF_A_NODE: i64 = 3;
/// How far the clocks may differ beyond the time of the question.
const CLOCK: SignedDuration = SignedDuration::from_millis(500);

/// The minors that repaired the notification queue: before them VACUUM could remove the part of
/// pg_xact that a notification in the queue still needed, and the next LISTEN failed (PostgreSQL's
/// release notes of November 2025). `(major, first good minor)`.
const QUEUE_REPAIRED: &[(i32, i32)] = &[(13, 23), (14, 20), (15, 15), (16, 11), (17, 7), (18, 1)];

/// Facts of the server, read at once.
pub(super) struct ServerFacts {
    /// `server_version_num`: 150018 for 15.18.
    pub(super) version: i32,
    pub(super) is_standby: bool,
    /// Whether the role may see the statements of others.
    pub(super) sees_all: bool,
    role: String,
    max_prepared: i32,
    /// The sessions that may be opened, and those that are open: of the server, of the role and of
    /// the database. `None` where there is no limit.
    limits: [(&'static str, Option<i64>, i64); 3],
    is_encrypted: bool,
    /// The address of this client, as the server sees it; `None` for a socket.
    address: Option<String>,
    /// The server's clock less ours.
    clock: SignedDuration,
    /// How long the question for the clock took.
    asking: SignedDuration,
}

impl ServerFacts {
    /// Reads the facts.
    ///
    /// # Errors
    /// If the server refuses.
    pub(super) async fn read(catalog: &Catalog<'_>) -> anyhow::Result<Self> {
        const FACTS: &str = "
            SELECT current_setting('server_version_num')::int4 AS version,
                pg_is_in_recovery() AS is_standby,
                pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
                current_user::text AS role, r.rolsuper,
                current_setting('max_prepared_transactions')::int4 AS max_prepared,
                current_setting('max_connections')::int8 - CASE WHEN r.rolsuper THEN 0 ELSE
                    current_setting('superuser_reserved_connections')::int8 +
                    coalesce(current_setting('reserved_connections', true), '0')::int8 END
                    AS of_server,
                (SELECT coalesce(sum(numbackends), 0)::int8 FROM pg_stat_database) AS in_server,
                nullif(r.rolconnlimit, -1)::int8 AS of_role,
                (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid) AS in_role,
                nullif(d.datconnlimit, -1)::int8 AS of_database,
                (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid) AS in_database,
                coalesce((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false)
                    AS is_encrypted,
                host(inet_client_addr()) AS address
            FROM pg_roles r, pg_database d
            WHERE r.rolname = current_user AND d.datname = current_database()";
        let row = catalog
            .query_typed_one(FACTS, &[])
            .await
            .context("ask for the facts of the server")?;
        // No limit holds for a superuser but the server's.
        let is_super: bool = row.get("rolsuper");
        let limit = |name: &str| row.get::<_, Option<i64>>(name).filter(|_| !is_super);
        let (clock, asking) = clock_ahead(catalog).await?;
        Ok(Self {
            version: row.get("version"),
            is_standby: row.get("is_standby"),
            sees_all: row.get("sees_all"),
            role: row.get("role"),
            max_prepared: row.get("max_prepared"),
            limits: [
                (
                    "the server",
                    Some(row.get("of_server")),
                    row.get("in_server"),
                ),
                ("the role", limit("of_role"), row.get("in_role")),
                ("the database", limit("of_database"), row.get("in_database")),
            ],
            is_encrypted: row.get("is_encrypted"),
            address: row.get("address"),
            clock,
            asking,
        })
    }
}

/// Adds the outcomes of the checks of the server.
pub(super) async fn check(
    findings: &mut Findings,
    catalog: &Catalog<'_>,
    facts: &ServerFacts,
    tables: &Tables,
) -> anyhow::Result<()> {
    let has_tables = tables.announced().next().is_some();
    let (major, minor) = (facts.version / 10_000, facts.version % 10_000);
    findings.add(
        "version",
        format!("PostgreSQL {major}.{minor}"),
        version(major, minor).map(found).into_iter().collect(),
    );
    findings.add(
        "standby",
        if facts.is_standby {
            "a standby"
        } else {
            "a primary"
        },
        standby(facts.is_standby).map(found).into_iter().collect(),
    );
    findings.add(
        "prepared-transactions",
        format!("max_prepared_transactions is {}", facts.max_prepared),
        prepared(facts.max_prepared)
            .filter(|_| has_tables)
            .map(found)
            .into_iter()
            .collect(),
    );
    let (looked_at, problem) = sessions(facts);
    findings.add(
        "sessions",
        looked_at,
        problem.map(found).into_iter().collect(),
    );
    check_encryption(findings, catalog, facts).await?;
    findings.add(
        "clock",
        format!(
            "{} ms {} ours, to {} ms",
            facts.clock.abs().as_millis(),
            if facts.clock.is_negative() {
                "behind"
            } else {
                "ahead of"
            },
            facts.asking.as_millis() / 2 + 1
        ),
        clock(facts).map(found).into_iter().collect(),
    );
    check_replica_role(findings, catalog).await?;
    check_privileges(findings, catalog, facts, tables).await
}

/// Returns the problem that this version of PostgreSQL has a known fault in NOTIFY.
fn version(major: i32, minor: i32) -> Option<Problem> {
    let repaired = QUEUE_REPAIRED.iter().find(|(known, _)| *known == major);
    let is_old = match repaired {
        Some((_, repaired)) => minor < *repaired,
        // Versions before these get no repairs any more.
        None => major < 13,
    };
    let upgrade = match repaired {
        Some((major, repaired)) => format!("upgrade to {major}.{repaired} or later"),
        None => "upgrade to a version that is maintained".to_string(),
    };
    is_old.then(|| Problem {
        code: "queue-fault",
        severity: Severity::Warning,
        text: format!(
            "PostgreSQL {major}.{minor} can lose the state of transactions that the notification \
            queue still needs: after VACUUM, LISTEN fails with \"could not access status of \
            transaction\""
        ),
        remedy: Some(Remedy::Advice(upgrade)),
    })
}

fn standby(is_standby: bool) -> Option<Problem> {
    is_standby.then(|| Problem {
        code: "standby",
        severity: Severity::Critical,
        text: "the server is a standby: LISTEN does not work here".to_string(),
        remedy: Some(Remedy::Advice(
            "connect to the primary, with all hosts and target_session_attrs=primary".to_string(),
        )),
    })
}

fn prepared(max_prepared: i32) -> Option<Problem> {
    (max_prepared > 0).then(|| Problem {
        code: "prepared-transactions",
        severity: Severity::Warning,
        text: "PREPARE TRANSACTION is allowed, and fails in a transaction that has written to an \
            announced table: PostgreSQL prepares none that has notified"
            .to_string(),
        remedy: Some(Remedy::Sql {
            what: "if nobody uses two-phase commit, forbid it (takes effect at the next start)",
            sql: "ALTER SYSTEM SET max_prepared_transactions = 0".to_string(),
        }),
    })
}

/// Looks at how many sessions may still be opened.
fn sessions(facts: &ServerFacts) -> (String, Option<Problem>) {
    let free = facts.limits.iter().filter_map(|(who, limit, used)| {
        limit.map(|limit| ((limit - used).max(0), *who, limit, *used))
    });
    // The server's own limit is always there.
    let Some((free, who, limit, used)) = free.min() else {
        return ("no limit is known".to_string(), None);
    };
    let looked_at =
        format!("{free} of {limit} of {who} are free, a node takes {SESSIONS_OF_A_NODE}");
    let severity = match free {
        0..SESSIONS_OF_A_NODE => Severity::Critical,
        _ if free < 2 * SESSIONS_OF_A_NODE => Severity::Warning,
        _ => return (looked_at, None),
    };
    let remedy = if who == "the role" {
        Remedy::Sql {
            what: "raise the limit",
            sql: format!(
                "ALTER ROLE {} CONNECTION LIMIT {}",
                quote_identifier(&facts.role),
                limit + 20
            ),
        }
    } else {
        Remedy::Advice(format!(
            "end sessions that nobody needs, or raise the limit of {who}"
        ))
    };
    let problem = Problem {
        code: "few-sessions",
        severity,
        text: format!(
            "{used} of {limit} sessions of {who} are taken: {} could start",
            match free / SESSIONS_OF_A_NODE {
                0 => "no node".to_string(),
                nodes => count(nodes.unsigned_abs(), "node"),
            }
        ),
        remedy: Some(remedy),
    };
    (looked_at, Some(problem))
}

/// Looks for sessions that are not encrypted and come over a network: our own, and those that
/// listen, as far as they can be seen.
async fn check_encryption(
    findings: &mut Findings,
    catalog: &Catalog<'_>,
    facts: &ServerFacts,
) -> anyhow::Result<()> {
    const PLAIN: &str = "
        SELECT DISTINCT coalesce(a.usename::text, '?') AS role, host(a.client_addr) AS address
        FROM pg_stat_activity a JOIN pg_stat_ssl s ON s.pid = a.pid
        WHERE a.datname = current_database() AND a.client_addr IS NOT NULL AND NOT s.ssl
            AND a.pid <> pg_backend_pid()
        ORDER BY 1, 2 LIMIT 100";
    let rows = catalog
        .query_typed(PLAIN, &[])
        .await
        .context("look at the encryption")?;
    let mut plain: Vec<(String, String)> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if let Some(address) = facts.address.clone().filter(|_| !facts.is_encrypted) {
        plain.push((facts.role.clone(), address));
    }
    plain.retain(|(_, address)| !is_loopback(address));
    plain.sort();
    plain.dedup();
    let problems = plain.iter().map(|(role, address)| {
        found(Problem {
            code: "not-encrypted",
            severity: Severity::Warning,
            text: format!(
                "{role} is connected from {address} without TLS: rows and payloads can be read, \
                and changed, on the way"
            ),
            remedy: Some(Remedy::Advice(
                "set sslmode=verify-full in its connection string, and take only hostssl in \
                pg_hba.conf"
                    .to_string(),
            )),
        })
    });
    let looked_at = match (&facts.address, facts.is_encrypted) {
        (None, _) => "this session is local".to_string(),
        (Some(address), true) => format!("this session, from {address}, is encrypted"),
        (Some(address), false) => format!("this session, from {address}, is not encrypted"),
    };
    findings.add("tls", looked_at, problems.collect());
    Ok(())
}

/// Tells whether an address is one of the machine itself.
fn is_loopback(address: &str) -> bool {
    let address = address.parse::<std::net::IpAddr>();
    address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn clock(facts: &ServerFacts) -> Option<Problem> {
    (facts.clock.abs() > facts.asking + CLOCK).then(|| Problem {
        code: "clocks-differ",
        severity: Severity::Warning,
        text: format!(
            "the clocks of the server and of this machine differ by {:.1} s: ages and lags that \
            are told from sent_at are wrong by that",
            facts.clock.abs().as_secs_f64()
        ),
        remedy: Some(Remedy::Advice(
            "let both follow a time server (NTP)".to_string(),
        )),
    })
}

/// Looks for roles and databases whose sessions fire no ordinary trigger.
async fn check_replica_role(findings: &mut Findings, catalog: &Catalog<'_>) -> anyhow::Result<()> {
    const SET: &str = "
        SELECT coalesce(r.rolname::text, ''), coalesce(d.datname::text, '')
        FROM pg_db_role_setting s
        LEFT JOIN pg_roles r ON r.oid = s.setrole
        LEFT JOIN pg_database d ON d.oid = s.setdatabase
        WHERE (s.setdatabase = 0 OR d.datname = current_database()) AND EXISTS (
            SELECT FROM unnest(s.setconfig) c WHERE c = 'session_replication_role=replica')
        ORDER BY 1, 2";
    let rows = catalog
        .query_typed(SET, &[])
        .await
        .context("look at the settings of roles")?;
    let problems = rows.iter().map(|row| {
        let (role, database): (String, String) = (row.get(0), row.get(1));
        let (role, database) = (role.as_str(), database.as_str());
        let (who, alter) = match (role, database) {
            ("", database) => (
                format!("all sessions of the database {database}"),
                format!("ALTER DATABASE {}", quote_identifier(database)),
            ),
            (role, "") => (
                format!("all sessions of the role {role}"),
                format!("ALTER ROLE {}", quote_identifier(role)),
            ),
            (role, database) => (
                format!("all sessions of the role {role} in {database}"),
                format!(
                    "ALTER ROLE {} IN DATABASE {}",
                    quote_identifier(role),
                    quote_identifier(database)
                ),
            ),
        };
        found(Problem {
            code: "replica-role",
            severity: Severity::Critical,
            text: format!(
                "session_replication_role is replica for {who}: what they write fires no trigger, \
                and is not announced"
            ),
            remedy: Some(Remedy::Sql {
                what: "reset it",
                sql: format!("{alter} RESET session_replication_role"),
            }),
        })
    });
    findings.add(
        "replica-role",
        "settings of roles and database",
        problems.collect(),
    );
    Ok(())
}

/// Looks at the privileges of the role, and at whether writers may notify.
async fn check_privileges(
    findings: &mut Findings,
    catalog: &Catalog<'_>,
    facts: &ServerFacts,
    tables: &Tables,
) -> anyhow::Result<()> {
    const READABLE: &str = "
        SELECT t.oid, has_schema_privilege(c.relnamespace, 'USAGE') AND
            (has_table_privilege(t.oid, 'SELECT') OR has_any_column_privilege(t.oid, 'SELECT'))
        FROM unnest($1::oid[]) t (oid) JOIN pg_class c ON c.oid = t.oid";
    const NOTIFY: &str = "
        SELECT has_function_privilege('public', 'pg_catalog.pg_notify(text,text)', 'EXECUTE')";
    let mut problems: Vec<Found> = Vec::new();
    let oids: Vec<u32> = tables
        .announced()
        .map(|table| table.described.oid)
        .collect();
    let rows = catalog
        .query_typed(READABLE, &[(&oids, Type::OID_ARRAY)])
        .await
        .context("look at the privileges of the role")?;
    let unreadable: Vec<u32> = rows
        .iter()
        .filter(|row| !row.get::<_, Option<bool>>(1).unwrap_or(false))
        .map(|row| row.get(0))
        .collect();
    for table in tables
        .announced()
        .filter(|table| unreadable.contains(&table.described.oid))
    {
        let (role, name) = (quote_identifier(&facts.role), table.described.sql_name());
        let schema = quote_identifier(&table.described.schema);
        problems.push(table.found(Problem {
            code: "not-readable",
            // A role that is on call need not read tables.
            severity: Severity::Notice,
            text: format!(
                "the role {} may not read {}: no cache of it could follow the table",
                facts.role,
                table.described.display_name()
            ),
            remedy: Some(Remedy::Sql {
                what: "as the owner, allow it",
                sql: format!(
                    "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {name} TO {role}"
                ),
            }),
        }));
    }
    let notifies = catalog
        .query_typed_one(NOTIFY, &[])
        .await
        .context("look at pg_notify")?;
    if !notifies.get::<_, bool>(0) {
        problems.push(found(Problem {
            code: "notify-revoked",
            severity: Severity::Warning,
            text:
                "not every role may execute pg_notify: a trigger function that is not pgic's fails \
                the writes of the others"
                    .to_string(),
            remedy: Some(Remedy::Sql {
                what: "as a superuser, allow it",
                sql: "GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) TO PUBLIC"
                    .to_string(),
            }),
        }));
    }
    if !facts.sees_all {
        problems.push(found(Problem {
            code: "statements-hidden",
            severity: Severity::Notice,
            text: format!(
                "the role {} does not see the statements of other roles: their listeners and \
                transactions are not judged",
                facts.role
            ),
            remedy: Some(Remedy::Sql {
                what: "as a superuser, allow it",
                sql: format!(
                    "GRANT pg_read_all_stats TO {}",
                    quote_identifier(&facts.role)
                ),
            }),
        }));
    }
    findings.add("privileges", format!("the role {}", facts.role), problems);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_fault_are_told_from_those_without() {
        for (major, minor, has_fault) in [
            (12, 22, true),
            (13, 22, true),
            (13, 23, false),
            (15, 14, true),
            (15, 15, false),
            (15, 18, false),
            (18, 0, true),
            (18, 1, false),
            (19, 0, false),
        ] {
            assert_eq!(
                version(major, minor).is_some(),
                has_fault,
                "{major}.{minor}"
            );
        }
    }

    #[test]
    fn addresses_of_the_machine_itself() {
        for (address, is) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.2", true),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(address), is, "{address}");
        }
    }
}
