//! The link of the record: whether the transaction that wrote the row was announced, as `pgic record`
//! has it.

use super::Case;
use super::at_row::Seen;
use super::link::{Link, Verdict};
use crate::feed::queue::Item;
use crate::record::entry;
use crate::record::reader::{Record, Wanted};
use crate::render::count;
use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use postgres_index_cache_core::tooling::Payload;
use serde_json::value::RawValue;
use std::ops::ControlFlow;
use std::path::Path;

/// How far the clocks of the server and of the recorder may differ.
const CLOCKS: SignedDuration = SignedDuration::from_secs(1);

/// A notification of the row.
struct Announced {
    at: Timestamp,
    pid: i32,
    channel: String,
    xid: Option<u64>,
    action: &'static str,
}

/// What a record has of a row.
#[derive(Default)]
struct Told {
    /// The first time that is recorded, and the last up to which nothing is missing.
    from: Option<Timestamp>,
    covered: Option<Timestamp>,
    /// The time of the last entry that was looked at.
    last: Option<Timestamp>,
    /// The times in which notifications may be missing.
    gaps: Vec<(Timestamp, Timestamp)>,
    /// Those that tell of the row, in order.
    announced: Vec<Announced>,
}

/// Looks into the record.
///
/// # Errors
/// If the record cannot be read.
pub(super) async fn look(case: &Case<'_>, seen: &Seen, path: &Path) -> anyhow::Result<Link> {
    let record = Record::open(path)?;
    let table = case.target.table.clone();
    let key = RawValue::from_string(case.key.to_string()).context("read the key")?;
    let told =
        tokio::task::spawn_blocking(move || read(&record, (&table.schema, &table.name), &key));
    let told = told.await.context("read the record")??;
    Ok(link(case, seen, &told))
}

/// Reads what the record has of the row of a table.
fn read(record: &Record, (schema, table): (&str, &str), key: &RawValue) -> anyhow::Result<Told> {
    let row = entry::row(table, key);
    let wanted = Wanted {
        rows: Some(vec![row]),
        ..Wanted::default()
    };
    let mut told = Told::default();
    record.read(&wanted, |item| {
        told.take(item, schema, table, row);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(told)
}

impl Told {
    fn take(&mut self, item: &Item, schema: &str, table: &str, row: u32) {
        let Some(at) = entry::time(item) else { return };
        self.from = Some(self.from.map_or(at, |from| from.min(at)));
        match item {
            Item::Covered { at } => self.covered = self.covered.max(Some(*at)),
            Item::Gap { from, to } => self.gaps.push((*from, *to)),
            // What was dropped had come some time before.
            Item::Dropped { at, .. } => {
                // What was dropped had come since the entry before.
                self.gaps.push((self.last.unwrap_or(*at), *at));
            }
            Item::Notification { message, .. } => {
                let Ok(payload) = Payload::parse(message.payload()) else {
                    return;
                };
                let is_schema = payload.schema.as_ref().is_none_or(|own| own == schema);
                // Rows share digests by chance; what an index names is compared.
                if payload.table != table || !is_schema || !entry::rows(item).contains(&row) {
                    return;
                }
                self.announced.push(Announced {
                    at,
                    pid: message.process_id(),
                    channel: message.channel().to_string(),
                    xid: payload.xid,
                    action: payload.action.as_str(),
                });
            }
            _ => {}
        }
        self.last = Some(at);
    }

    /// Tells whether nothing is missing between these times.
    fn covers(&self, from: Timestamp, to: Timestamp) -> bool {
        let is_within = self.from.is_some_and(|own| own <= from)
            && self.covered.is_some_and(|covered| covered >= to);
        is_within
            && !self
                .gaps
                .iter()
                .any(|(begin, end)| *begin <= to && *end >= from)
    }
}

/// Returns the link: `Broken` only if the record proves it.
fn link(case: &Case<'_>, seen: &Seen, told: &Told) -> Link {
    let clock = |at: Timestamp| case.context.look.clock(at);
    let last = told.announced.last().map(|last| {
        format!(
            "its last notification ({}) came at {} on {}, by process {}{}",
            last.action,
            clock(last.at),
            last.channel,
            last.pid,
            last.xid
                .map_or(String::new(), |xid| format!(", transaction {xid}"))
        )
    });
    let known = last
        .clone()
        .unwrap_or_else(|| "no notification of the row is in it".to_string());
    let unknown = |text: &str| {
        Link::new("record", Verdict::Unknown)
            .text(&known)
            .detail(text)
    };
    let Some(xmin) = seen.xmin() else {
        return match told.announced.last() {
            Some(last) if last.action == "delete" => Link::new("record", Verdict::Ok).text(&known),
            _ => unknown("by which transaction the row was written is not known"),
        };
    };
    // PostgreSQL keeps 32 bits of a transaction's id with a row.
    let of_writer = told
        .announced
        .iter()
        .find(|announced| announced.xid.is_some_and(|xid| xid as u32 == xmin));
    if let Some(announced) = of_writer {
        let text = format!(
            "transaction {xmin} was announced at {} on {}, by process {}",
            clock(announced.at),
            announced.channel,
            announced.pid
        );
        let link = Link::new("record", Verdict::Ok).text(&text);
        return match last.filter(|_| told.announced.len() > 1) {
            Some(last) => link.detail(&format!(
                "{}; {last}",
                count(told.announced.len() as u64, "notification")
            )),
            None => link,
        };
    }
    let Some(committed) = seen.committed() else {
        return unknown(
            "when the row was written is not known (track_commit_timestamp is off), so that \
            nothing is proven",
        );
    };
    let before = committed.saturating_sub(CLOCKS).unwrap_or(committed);
    let behind = committed.saturating_add(CLOCKS).unwrap_or(committed);
    if !told.covers(before, behind) {
        return unknown("the record does not have all of the time at which the row was written");
    }
    // A savepoint writes the row under an id of its own; the payload has that of the transaction,
    // which is lower.
    let around = told.announced.iter().find(|announced| {
        announced
            .xid
            .is_none_or(|xid| (xid as u32).wrapping_sub(xmin) as i32 <= 0)
            && announced.at >= before
    });
    if let Some(around) = around {
        return Link::new("record", Verdict::Ok).text(&format!(
            "announced at {} on {}, by process {}: the row was written under a savepoint of that \
            transaction",
            clock(around.at),
            around.channel,
            around.pid
        ));
    }
    Link::new("record", Verdict::Broken)
        .code("never-announced")
        .text(&format!(
            "transaction {xmin}, committed at {}, was never announced: the record has all \
            notifications of that time, and none of it",
            clock(committed)
        ))
        .detail(&known)
        .detail(
            "its session had session_replication_role = replica, or the trigger was disabled or not \
            there yet",
        )
        .now(Some(case.announce()))
}
