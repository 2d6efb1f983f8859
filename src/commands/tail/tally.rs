//! [`Tally`]: the counts of `pgic tail --stats`: notifications by table and action, rates, sizes
//! and ages.

use crate::render::Format;
use crate::render::change::{Arrival, age_ms};
use crate::render::json::EventLine;
use crate::render::table::{Heading, render};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::Payload;
use std::collections::BTreeMap;
use std::time::Duration;

/// A payload has at most so many bytes.
const LONGEST: usize = 8000;

/// The most kinds that are told apart: a payload may have any name in it.
const MOST_KINDS: usize = 1000;

/// The most ages that are kept of one kind. Of more, every second one is left out, again and again.
const AGES: usize = 10_000;

/// The notifications of one kind.
#[derive(Debug)]
struct Kind {
    count: u64,
    /// How many payloads have each length.
    sizes: Vec<u32>,
    /// The times between trigger and arrival, in milliseconds.
    ages: Vec<f64>,
    /// One of so many ages is kept.
    one_of: u64,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            count: 0,
            sizes: vec![0; LONGEST + 1],
            ages: Vec::new(),
            one_of: 1,
        }
    }
}

impl Kind {
    fn add(&mut self, bytes: usize, age: Option<f64>) {
        self.count += 1;
        self.sizes[bytes.min(LONGEST)] += 1;
        if let Some(age) = age
            && self.count.is_multiple_of(self.one_of)
        {
            self.ages.push(age);
            if self.ages.len() >= AGES {
                let mut at = 0;
                self.ages.retain(|_| {
                    at += 1;
                    at % 2 == 0
                });
                self.one_of *= 2;
            }
        }
    }

    /// Returns the size that this share of the payloads does not exceed.
    fn size(&self, share: f64) -> usize {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bytes, count) in self.sizes.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return bytes;
            }
        }
        LONGEST
    }

    /// Returns the age that this share does not exceed; `None` if no payload had a time.
    fn age(&self, share: f64) -> Option<f64> {
        let mut ages = self.ages.clone();
        ages.sort_by(f64::total_cmp);
        let at = ((ages.len() as f64 * share).ceil() as usize).saturating_sub(1);
        ages.get(at).copied()
    }
}

/// The counts of the notifications so far, by schema, table and action.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<[String; 3], Kind>);

impl Tally {
    /// Adds a notification. One whose payload is no change counts as the action `payload` or
    /// `invalid`, of no table.
    pub(super) fn add(
        &mut self,
        arrival: &Arrival<'_>,
        payload: Option<&Payload<'_>>,
        is_invalid: bool,
    ) {
        let kind = match payload {
            Some(payload) => [
                payload.schema.as_deref().unwrap_or_default().to_string(),
                payload.table.to_string(),
                payload.action.to_string(),
            ],
            None => {
                let word = if is_invalid { "invalid" } else { "payload" };
                [String::new(), String::new(), word.to_string()]
            }
        };
        let is_new = !self.0.contains_key(&kind);
        let kind = if is_new && self.0.len() >= MOST_KINDS {
            ["", "", "other"].map(str::to_string)
        } else {
            kind
        };
        let age = payload.and_then(|payload| age_ms(arrival, payload));
        self.0
            .entry(kind)
            .or_default()
            .add(arrival.payload.len(), age);
    }

    /// Returns the counts: a row for each kind, or a line of JSON. `time` is how long was listened.
    pub(super) fn text(&self, format: Format, time: Duration) -> String {
        if format == Format::Json {
            return self.json(time);
        }
        let headings = [
            Heading::text("table"),
            Heading::text("action"),
            Heading::number("count"),
            Heading::number("per s"),
            Heading::number("bytes"),
            Heading::number("p99"),
            Heading::number("max"),
            Heading::number("age ms"),
            Heading::number("p99"),
        ];
        let rows = self.0.iter().map(|([schema, table, action], kind)| {
            let name = match (schema.as_str(), table.as_str()) {
                ("", "") => "-".to_string(),
                ("", table) => table.to_string(),
                (schema, table) => format!("{schema}.{table}"),
            };
            let age = |share| match kind.age(share) {
                Some(age) => format!("{age:.1}"),
                None => "-".to_string(),
            };
            vec![
                name,
                action.clone(),
                kind.count.to_string(),
                format!("{:.1}", rate(kind.count, time)),
                kind.size(0.5).to_string(),
                kind.size(0.99).to_string(),
                kind.size(1.0).to_string(),
                age(0.5),
                age(0.99),
            ]
        });
        render(&headings, rows)
    }

    fn json(&self, time: Duration) -> String {
        let at = Timestamp::now();
        let lines = self.0.iter().map(|([schema, table, action], kind)| {
            let some = |text: &String| (!text.is_empty()).then(|| text.clone());
            EventLine::new("tally", at)
                .optional("schema", some(schema))
                .optional("table", some(table))
                .member("action", action)
                .member("count", kind.count)
                .member("per_second", rate(kind.count, time))
                .member("bytes_p50", kind.size(0.5))
                .member("bytes_p99", kind.size(0.99))
                .member("bytes_max", kind.size(1.0))
                .optional("age_ms_p50", kind.age(0.5))
                .optional("age_ms_p99", kind.age(0.99))
                .end()
        });
        lines.collect()
    }
}

/// Returns how many came in a second.
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_that_was_counted() {
        let mut kind = Kind::default();
        for bytes in 1..=100 {
            kind.add(bytes, Some(bytes as f64));
        }
        assert_eq!(
            (kind.size(0.5), kind.size(0.99), kind.size(1.0)),
            (50, 99, 100)
        );
        assert_eq!((kind.age(0.5), kind.age(1.0)), (Some(50.0), Some(100.0)));
        // Longer than PostgreSQL allows: still counted.
        kind.add(9000, None);
        assert_eq!(kind.size(1.0), LONGEST);
        for _ in 0..100_000 {
            kind.add(7, Some(7.0));
        }
        assert!(kind.ages.len() < AGES);
        assert_eq!(kind.age(0.5), Some(7.0));
        assert_eq!(Kind::default().age(0.5), None);
    }

    #[test]
    fn names_that_anybody_may_make_up_do_not_fill_the_memory() {
        let mut tally = Tally::default();
        for number in 0..MOST_KINDS + 50 {
            let text = format!(r#"{{"table":"t{number}","action":"delete","id":1}}"#);
            let arrival = Arrival {
                at: Timestamp::UNIX_EPOCH,
                channel: "c",
                pid: 7,
                payload: &text,
            };
            tally.add(&arrival, Payload::parse(&text).ok().as_ref(), false);
        }
        assert_eq!(tally.0.len(), MOST_KINDS + 1);
        let other = &tally.0[&["", "", "other"].map(str::to_string)];
        assert_eq!(other.count, 50);
    }
}
