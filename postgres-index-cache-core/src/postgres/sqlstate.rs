//! The one table of error codes: for each SQLSTATE of the server, how a driver reacts to it and
//! what a person can do about it (manual, Appendix A, PostgreSQL Error Codes).
//!
//! A policy holds until a replica is live for the first time. After that, no error code ends the
//! replica: it becomes stale, names the reason, and tries again for ever (see
//! [`Engine`](crate::sync::Engine)).

/// The reaction to an error while a replica is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Connect again: the connection is gone, or the server is stopping.
    Lost,
    /// Wait for the server, which is starting. This holds for the very first connection as well.
    Starting,
    /// Try again: the cause passes by itself, for example a lock that is held.
    Passing,
    /// Try again a few times: nothing is known about the cause.
    Counted,
    /// Name the error and stop: a retry is useless until somebody changes something.
    Refused,
}

/// An entry of the table: the reaction to a code, and the hint for people.
struct Known {
    /// An SQLSTATE of five characters, or the two or three that it begins with.
    code: &'static str,
    policy: Policy,
    hint: &'static str,
}

const fn known(code: &'static str, policy: Policy, hint: &'static str) -> Known {
    Known { code, policy, hint }
}

/// The known codes. The first entry whose code is a prefix of an error's code counts; two
/// characters stand for a whole class. So a special code must stand before its class, which a test
/// checks.
const TABLE: &[Known] = &[
    known(
        "25006",
        Policy::Refused,
        "this server is a standby, where LISTEN does not work: connect to the primary",
    ),
    // idle_in_transaction_session_timeout, which Q sets for itself.
    known(
        "25P03",
        Policy::Lost,
        "the session was idle inside a transaction for too long; try again",
    ),
    known(
        "28P01",
        Policy::Refused,
        "check the user and its password, and pg_hba.conf on the server",
    ),
    known(
        "28",
        Policy::Refused,
        "check the user and its password, whether it may log in, and pg_hba.conf on the server",
    ),
    known(
        "3D000",
        Policy::Refused,
        "name an existing database in the URL or in PGDATABASE; `psql -l` lists them",
    ),
    known(
        "3F000",
        Policy::Refused,
        "the schema is gone or renamed: name the table as it is called now",
    ),
    known(
        "42P01",
        Policy::Refused,
        "the table is gone or renamed: name it as it is called now",
    ),
    known(
        "42703",
        Policy::Refused,
        "a column is gone or renamed: try again, the table is described afresh",
    ),
    known(
        "42501",
        Policy::Refused,
        "reading takes SELECT on the columns that are read and USAGE on the schema, without row \
        security that hides rows from this role",
    ),
    known(
        "55P03",
        Policy::Passing,
        "something holds the table, a migration perhaps: try again when it is done",
    ),
    known(
        "55000",
        Policy::Passing,
        "the server lets nobody in, or the object is not ready: try again",
    ),
    known("40", Policy::Passing, "try again"),
    known(
        "57014",
        Policy::Passing,
        "the statement was cancelled, by a timeout or by somebody: try again",
    ),
    known(
        "53300",
        Policy::Passing,
        "the server has no connection left; raise max_connections or end idle sessions",
    ),
    known(
        "53",
        Policy::Passing,
        "the server has no room left: memory, disk or connections",
    ),
    known(
        "57P03",
        Policy::Starting,
        "the server is starting or shutting down; try again",
    ),
    known(
        "57P",
        Policy::Lost,
        "the server stopped or ended the session; try again",
    ),
    known("08", Policy::Lost, "the connection was lost; try again"),
    known(
        "58",
        Policy::Counted,
        "the server could not read or write a file: look into its log",
    ),
    known(
        "XX",
        Policy::Counted,
        "the server reports damaged data or an error of its own: look into its log",
    ),
];

/// Returns the first entry that covers `code`.
fn find(code: &str) -> Option<&'static Known> {
    TABLE.iter().find(|known| code.starts_with(known.code))
}

/// Returns the reaction to an error with this code. An error without a code means that the
/// connection failed.
pub fn policy(code: Option<&str>) -> Policy {
    match code {
        None => Policy::Lost,
        // A code outside the table, of a trigger's RAISE for example, may never pass. So it is
        // counted, and not tried again for ever.
        Some(code) => find(code).map_or(Policy::Counted, |known| known.policy),
    }
}

/// Returns what a person can do about an error with this code; `None` if nothing is known.
pub fn hint(code: &str) -> Option<&'static str> {
    find(code).map(|known| known.hint)
}

/// Returns the server's error code, if the server's error is among the causes of `error`.
pub fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.find_map(|cause| {
        Some(
            cause
                .downcast_ref::<tokio_postgres::error::DbError>()?
                .code()
                .code(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_entry_counts() {
        assert_eq!(policy(None), Policy::Lost);
        assert_eq!(policy(Some("57P03")), Policy::Starting);
        assert_eq!(policy(Some("57P01")), Policy::Lost);
        assert_eq!(policy(Some("57014")), Policy::Passing);
        assert_eq!(policy(Some("28000")), Policy::Refused);
        assert_eq!(policy(Some("XX001")), Policy::Counted);
        assert_eq!(policy(Some("P0001")), Policy::Counted);
        // 53300 has a hint of its own, 53200 that of the class.
        assert!(hint("53200").is_some_and(|hint| hint != hint_of("53300")));
        assert_eq!(hint("P0001"), None);
    }

    fn hint_of(code: &str) -> &'static str {
        hint(code).unwrap_or_default()
    }

    #[test]
    fn no_entry_is_hidden_behind_a_more_general_one() {
        for (at, known) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..at]
                    .iter()
                    .all(|earlier| !known.code.starts_with(earlier.code)),
                "{}",
                known.code
            );
        }
    }
}
