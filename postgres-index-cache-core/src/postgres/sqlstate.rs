//! The one table of error codes: what a server's SQLSTATE means for whoever follows a table, and
//! what a person can do about it (manual, Appendix A, PostgreSQL Error Codes).
//!
//! A policy says what happens *before* a replica was live for the first time. Once it was live, no
//! code ends it: it is stale, says why, and tries again for ever (see
//! [`Engine`](crate::sync::Engine)).

/// What an error means while a replica is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The connection is gone, or the server is stopping: connect again.
    Lost,
    /// The server is starting: wait for it, also with the very first connection.
    Starting,
    /// Passes by itself, a held lock for example: try again.
    Passing,
    /// Nothing is known about it: try again a few times.
    Counted,
    /// Trying again is of no use until somebody changes something: name it and stop.
    Refused,
}

/// What is known of a code.
struct Known {
    code: &'static str,
    policy: Policy,
    hint: &'static str,
}

const fn known(code: &'static str, policy: Policy, hint: &'static str) -> Known {
    Known { code, policy, hint }
}

/// A code of two characters stands for its class. The first entry that fits counts.
const TABLE: &[Known] = &[
    known(
        "25006",
        Policy::Refused,
        "this server is a standby, where LISTEN does not work: connect to the primary",
    ),
    known(
        "25P03",
        Policy::Lost,
        "the session said nothing inside a transaction for too long; try again",
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
        security that hides rows from \
         this role",
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

fn find(code: &str) -> Option<&'static Known> {
    TABLE.iter().find(|known| code.starts_with(known.code))
}

/// What an error with this code means; without a code it was the connection that failed.
pub fn policy(code: Option<&str>) -> Policy {
    match code {
        None => Policy::Lost,
        Some(code) => find(code).map_or(Policy::Counted, |known| known.policy),
    }
}

/// What to do about an error with this code.
pub fn hint(code: &str) -> Option<&'static str> {
    find(code).map(|known| known.hint)
}

/// The server's error code among the causes of an error.
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
