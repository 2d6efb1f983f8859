//! The settings of F and Q. They are made once the sessions are proven to be ours alone.

use crate::postgres::options::DriverOptions;
use crate::postgres::quote::quote_literal;
use std::time::Duration;

/// A statement that switches off the timeouts which only some versions have:
/// `idle_session_timeout` (PostgreSQL 14 and later), `transaction_timeout` (17 and later). A SET
/// would fail on older servers.
pub(in crate::postgres) const NO_TIMEOUTS: &str =
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
    WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// The least time that Q may be idle inside a transaction. A comparison leaves Q idle while it
/// waits for its fence, so the time is raised to twice the time allowed for a fence. A process
/// of ours that is stopped inside a transaction keeps the table locked against migrations no longer
/// than that.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Returns the statements that set up Q.
///
/// With `row_security` off, a policy that hides rows is an error. With it on, the table would seem
/// smaller than it is. With the timeouts off, no default of the role ends a long COPY.
pub(in crate::postgres) fn read_settings(options: &DriverOptions) -> String {
    let longest_pause = LONGEST_PAUSE.max(2 * options.limits.fence_timeout);
    let mut settings = vec![
        ("row_security".to_string(), "off".to_string()),
        ("statement_timeout".to_string(), "0".to_string()),
        (
            "idle_in_transaction_session_timeout".to_string(),
            longest_pause.as_millis().to_string(),
        ),
        (
            "lock_timeout".to_string(),
            options.lock_timeout.as_millis().to_string(),
        ),
    ];
    // Those that the triggers pin: COPY must write values as the triggers do.
    settings.extend(options.settings.iter().cloned());
    let mut sql: String = settings
        .iter()
        .map(|(name, value)| {
            format!(
                "SELECT pg_catalog.set_config({}, {}, false);",
                quote_literal(name),
                quote_literal(value)
            )
        })
        .collect();
    sql.push_str(NO_TIMEOUTS);
    sql
}
