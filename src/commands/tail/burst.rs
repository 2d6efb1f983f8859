//! [`Burst`]: many changes of one transaction as one line, for a terminal.
//!
//! A person who watches a terminal learns nothing from 6,000 lines of one UPDATE, and loses the
//! lines before them.

use super::lookups::Distrust;
use crate::render::change::Arrival;
use crate::render::count;
use crate::render::escape::excerpt;
use crate::render::look::{Look, Tone};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::Payload;
use postgres_index_cache_core::{Action, Key};

/// The most changes of one transaction that are shown one by one.
const SHOWN: u64 = 10;

/// The longest key in the line, in characters.
const LONGEST_KEY: usize = 40;

/// The changes that belong together.
#[derive(Debug, PartialEq, Eq)]
struct Of {
    pid: i32,
    xid: u64,
    schema: Option<String>,
    table: String,
    action: Action,
    distrust: Option<Distrust>,
}

/// Changes that follow each other and belong together.
#[derive(Debug)]
struct Changes {
    of: Of,
    at: Timestamp,
    count: u64,
    /// The lines of the first [`SHOWN`] changes.
    lines: String,
    first: String,
    last: String,
}

/// The changes that are held back until it is known how many they are.
#[derive(Debug, Default)]
pub(super) struct Burst(Option<Changes>);

impl Burst {
    /// Adds the line of a change. Returns the text to print before: that of changes which do not
    /// belong to this one.
    pub(super) fn add(
        &mut self,
        look: &Look,
        arrival: &Arrival<'_>,
        payload: &Payload<'_>,
        distrust: Option<Distrust>,
        line: &str,
    ) -> String {
        let (Some(xid), Some(id)) = (payload.xid, payload.id) else {
            return self.take(look) + line;
        };
        let of = Of {
            pid: arrival.pid,
            xid,
            schema: payload.schema.as_ref().map(ToString::to_string),
            table: payload.table.to_string(),
            action: payload.action,
            distrust,
        };
        let key = Key::of_json(id).to_string();
        if let Some(changes) = self.0.as_mut().filter(|changes| changes.of == of) {
            changes.count += 1;
            changes.last = key;
            if changes.count <= SHOWN {
                changes.lines.push_str(line);
            }
            return String::new();
        }
        let before = self.take(look);
        self.0 = Some(Changes {
            of,
            at: arrival.at,
            count: 1,
            lines: line.to_string(),
            first: key.clone(),
            last: key,
        });
        before
    }

    /// Tells whether more changes are held back than would be shown one by one.
    pub(super) fn is_long(&self) -> bool {
        self.0.as_ref().is_some_and(|changes| changes.count > SHOWN)
    }

    /// Returns the text of what is held back, and holds nothing any more.
    pub(super) fn take(&mut self, look: &Look) -> String {
        let Some(changes) = self.0.take() else {
            return String::new();
        };
        if changes.count <= SHOWN {
            return changes.lines;
        }
        let Changes {
            of,
            at,
            count: number,
            first,
            last,
            ..
        } = changes;
        let table = match of.schema {
            Some(schema) => format!("{schema}.{}", of.table),
            None => of.table,
        };
        let distrust = of
            .distrust
            .map(|distrust| format!("  ({})", distrust.words()));
        let distrust = look.paint(Tone::Changed, &distrust.unwrap_or_default());
        format!(
            "{}  {} {}  {} in one transaction, keys {} … {}  (--all shows each){distrust}\n",
            look.paint(Tone::Dim, &look.clock(at)),
            look.paint(Tone::of(of.action), &format!("{:<8}", of.action.as_str())),
            excerpt(&table, LONGEST_KEY),
            count(number, "row"),
            excerpt(&first, LONGEST_KEY),
            excerpt(&last, LONGEST_KEY),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds changes of a transaction with these keys, and returns what is printed meanwhile.
    fn add(burst: &mut Burst, xid: u64, keys: std::ops::Range<u32>) -> String {
        let mut printed = String::new();
        for key in keys {
            let text = format!(
                r#"{{"table":"t","schema":"s","action":"update","id":{key},"xid":"{xid}"}}"#
            );
            let arrival = Arrival {
                at: Timestamp::UNIX_EPOCH,
                channel: "c",
                pid: 7,
                payload: &text,
            };
            let payload = Payload::parse(&text).unwrap();
            let look = Look::default();
            printed += &burst.add(&look, &arrival, &payload, None, &format!("line {key}\n"));
        }
        printed
    }

    #[test]
    fn many_changes_of_one_transaction_are_one_line() {
        let look = Look::default();
        let mut burst = Burst::default();
        assert_eq!(add(&mut burst, 1, 1..4), "");
        assert!(!burst.is_long());
        // Another transaction: the lines of the former one are printed as they are.
        assert_eq!(add(&mut burst, 2, 1..12), "line 1\nline 2\nline 3\n");
        assert!(burst.is_long());
        assert_eq!(
            burst.take(&look),
            "00:00:00.000  update   s.t  11 rows in one transaction, keys 1 … 11  (--all shows \
            each)\n"
        );
        assert_eq!(burst.take(&look), "");
    }
}
