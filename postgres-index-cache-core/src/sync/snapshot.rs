//! [`Snapshot`]: the transactions that a read has seen.

use std::fmt;
use std::str::FromStr;

/// The value of `pg_current_snapshot()` (manual, 9.27.8 Transaction ID and Snapshot Information
/// Functions), with 64-bit transaction ids, which never wrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Lowest transaction that was in progress.
    xmin: u64,
    /// One past the highest transaction that was completed.
    xmax: u64,
    /// The transactions in progress from `xmin` on and below `xmax`, ascending.
    in_progress: Vec<u64>,
}

/// Error of a text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a snapshot: expected xmin:xmax:xip,…")]
pub struct SnapshotError(String);

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        parse(text).ok_or_else(|| SnapshotError(text.chars().take(80).collect()))
    }
}

/// Parses `xmin:xmax:xip,…`, with a list that may be empty.
fn parse(text: &str) -> Option<Snapshot> {
    let mut fields = text.splitn(3, ':');
    let xmin = fields.next()?.parse().ok()?;
    let xmax = fields.next()?.parse().ok()?;
    let list = fields.next()?;
    let mut in_progress = list
        .split(',')
        .filter(|xid| !xid.is_empty())
        .map(|xid| xid.parse().ok())
        .collect::<Option<Vec<u64>>>()?;
    // PostgreSQL sorts the list already, but `sees` must not depend on that.
    in_progress.sort_unstable();
    Some(Snapshot {
        xmin,
        xmax,
        in_progress,
    })
}

/// The form that `pg_current_snapshot()` writes.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (at, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Returns whether the snapshot sees the changes of a top-level transaction.
    ///
    /// The transaction must have committed by now, as every transaction that is announced has. For
    /// one that was rolled back, or for the id of a subtransaction, the answer means nothing.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_had_committed() {
        let snapshot: Snapshot = "10:20:15,12,18".parse().unwrap();
        let seen: Vec<u64> = (5..25).filter(|&xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [5, 6, 7, 8, 9, 10, 11, 13, 14, 16, 17, 19]);
        assert_eq!(snapshot.to_string(), "10:20:12,15,18");
        let idle: Snapshot = "8589934600:8589934600:".parse().unwrap();
        assert!(idle.sees(8_589_934_599) && !idle.sees(8_589_934_600));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "-1:2:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }
}
