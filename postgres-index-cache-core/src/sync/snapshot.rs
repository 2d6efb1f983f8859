//! [`Snapshot`]: which transactions a read has seen.

use std::str::FromStr;

/// What `pg_current_snapshot()` says (manual, 9.27.8 Transaction ID and Snapshot Information
/// Functions), with 64-bit transaction ids, which never wrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// The transactions in progress at the time, ascending.
    in_progress: Vec<u64>,
}

/// A text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a snapshot: expected xmin:xmax:xip,…")]
pub struct SnapshotError(String);

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let bad = || SnapshotError(text.chars().take(80).collect());
        let mut fields = text.splitn(3, ':');
        let mut field = || fields.next().ok_or_else(bad);
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let xmin = number(field()?)?;
        let xmax = number(field()?)?;
        let list = field()?;
        let mut in_progress = list
            .split(',')
            .filter(|xid| !xid.is_empty())
            .map(number)
            .collect::<Result<Vec<_>, _>>()?;
        in_progress.sort_unstable();
        Ok(Self {
            xmin,
            xmax,
            in_progress,
        })
    }
}

impl Snapshot {
    /// Whether the snapshot sees what this top-level transaction, which has committed, did.
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
