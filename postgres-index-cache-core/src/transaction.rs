//! [`TransactionToken`]: names a transaction, so that a node can wait for what it has written.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A transaction that was given an id, and the server's process that ran it.
///
/// A writer takes the token inside of its transaction, commits, and hands the token on as text, in
/// a header or a cookie: `742.31337`, the transaction's id and the process. Whoever has a
/// `Replica` waits with it until everything that the transaction has written is in the cache.
///
/// The text is no secret and no proof: whoever makes one up waits for another transaction, or for
/// one that never comes, and learns nothing else. Wait with a timeout for a token that a client
/// sends.
///
/// A token is good on the server that gave it, and on a standby of that server once it is promoted.
///
/// ```
/// use postgres_index_cache_core::TransactionToken;
///
/// let token: TransactionToken = "742.31337".parse()?;
/// assert_eq!((token.xid(), token.process()), (742, Some(31337)));
/// assert_eq!(token.to_string(), "742.31337");
/// # Ok::<(), postgres_index_cache_core::TokenError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionToken {
    xid: u64,
    process: Option<i32>,
}

/// Error of a text that is no [`TransactionToken`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a transaction's token: expected its id, a dot and a process, as 742.31337")]
pub struct TokenError(String);

impl TransactionToken {
    /// The query of a transaction for its own token: one row with one column, the token's text.
    ///
    /// Run the query after BEGIN in the transaction that writes. Outside of a transaction block
    /// the answer is a transaction of the query alone.
    ///
    /// The transaction gets an id if it has none yet (manual, 9.27.8 Transaction ID and Snapshot
    /// Information Functions). Nothing need be installed, and any role may run the query.
    pub const QUERY: &str = "SELECT pg_catalog.format('%s.%s', \
        pg_catalog.pg_current_xact_id(), pg_catalog.pg_backend_pid())";

    /// Returns the token of the transaction with the id `xid`, as `pg_current_xact_id()` returns
    /// it, in the server's process `process`, as `pg_backend_pid()` returns it.
    pub fn new(xid: u64, process: i32) -> Self {
        Self {
            xid,
            process: Some(process),
        }
    }

    /// Returns the transaction's id.
    pub fn xid(&self) -> u64 {
        self.xid
    }

    /// Returns the server's process that ran the transaction; `None` if nobody knows.
    pub fn process(&self) -> Option<i32> {
        self.process
    }
}

/// The token of a transaction of which nothing is known but its id. It is known by fences alone:
/// any role can send a notification that names another's id, so one that names this id proves
/// nothing.
impl From<u64> for TransactionToken {
    fn from(xid: u64) -> Self {
        Self { xid, process: None }
    }
}

impl fmt::Display for TransactionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some(process) => write!(f, "{}.{process}", self.xid),
            None => write!(f, "{}", self.xid),
        }
    }
}

impl FromStr for TransactionToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        parse(text).ok_or_else(|| TokenError(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<TransactionToken> {
    let (xid, process) = match text.split_once('.') {
        Some((xid, process)) => (xid, Some(process)),
        None => (text, None),
    };
    // `parse` takes a sign, which no token has.
    let is_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(xid) || !process.is_none_or(is_digits) {
        return None;
    }
    Some(TransactionToken {
        xid: xid.parse().ok()?,
        process: process.map(str::parse).transpose().ok()?,
    })
}

/// As text.
impl Serialize for TransactionToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From text.
impl<'de> Deserialize<'de> for TransactionToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        for text in ["742.31337", "742", "18446744073709551615.2147483647"] {
            let token: TransactionToken = text.parse().unwrap();
            assert_eq!(token.to_string(), text);
            let json = serde_json::to_string(&token).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            let read: TransactionToken = serde_json::from_str(&json).unwrap();
            assert_eq!(read, token);
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let texts = [
            "",
            ".",
            "1.",
            ".1",
            "+1.2",
            "1.-2",
            "1.2.3",
            "a.1",
            "1.99999999999",
            " 1.2",
        ];
        for text in texts {
            assert!(text.parse::<TransactionToken>().is_err(), "{text}");
        }
    }
}
