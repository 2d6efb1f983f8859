//! The link of the record: whether the transaction that wrote the row was announced, as `pgic
//! record` has it.
//!
//! That it was not is said only if the record proves it. Each of these forbids the proof:
//!
//! - The record is of another database, server or channel, or begins after the row was written.
//! - It has a gap around that time: the connection was lost, a recorder was started anew, a file is
//!   missing, a line cannot be read, notifications were dropped.
//! - A clock cannot be trusted: those of server and recorder differed, or one was set.
//! - The transaction has announced something of the same table: the row may have had another key, or
//!   the table another name.

use super::Case;
use super::at_row::Seen;
use super::link::{Link, Verdict};
use crate::commands::record::CLOCKS;
use crate::connect::Place;
use crate::feed::queue::{Item, Note};
use crate::record::entry;
use crate::record::reader::{LeftOut, Record, Wanted};
use crate::render::count;
use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use postgres_index_cache_core::Key;
use postgres_index_cache_core::tooling::{Payload, unpack};
use serde_json::value::RawValue;
use std::ops::ControlFlow;

/// How far apart two entries of a recorder that runs may be: it writes one every few seconds.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// How long after its commit a notification may come that is taken for that of a savepoint's
/// transaction.
const DELAY: SignedDuration = SignedDuration::from_secs(60);
/// How many transactions may have begun between that of a savepoint and the savepoint.
const SAVEPOINTS: u32 = 100_000;

/// The row that is looked for.
struct Wish {
    schema: String,
    table: String,
    /// The oids of the table and of its partitions.
    relations: Vec<u32>,
    key: Box<RawValue>,
    /// The channel on which the table is announced.
    channel: String,
    /// Where the row was read.
    place: Option<Place>,
    /// The transaction that wrote the row, as PostgreSQL stores it.
    xmin: Option<u32>,
}

/// A notification of the row.
struct Announced {
    at: Timestamp,
    pid: i32,
    channel: String,
    xid: Option<u64>,
    action: &'static str,
}

/// The entries of a record that concern a row.
#[derive(Default)]
struct Told {
    /// The first time that is recorded, and the last up to which nothing is missing.
    from: Option<Timestamp>,
    covered: Option<Timestamp>,
    /// The time of the last entry that was looked at.
    last: Option<Timestamp>,
    /// The times in which notifications may be missing.
    gaps: Vec<(Timestamp, Timestamp)>,
    /// The reason why this record proves nothing, if there is one.
    unfit: Option<&'static str>,
    /// How many starts of a recorder lack the comparison of the clocks.
    without_clock: u32,
    /// Those that tell of the row, in order.
    announced: Vec<Announced>,
    /// Whether the transaction that wrote the row has announced something of the table.
    has_announced_others: bool,
}

/// Looks into the record.
///
/// # Errors
/// If the record cannot be read.
pub(super) async fn look(
    case: &Case<'_>,
    seen: &Seen,
    place: Option<Place>,
    record: Record,
) -> anyhow::Result<Link> {
    let table = &case.target.table;
    let leaves = table.leaves.iter().map(|leaf| leaf.oid);
    let wish = Wish {
        schema: table.schema.clone(),
        table: table.name.clone(),
        relations: [table.oid].into_iter().chain(leaves).collect(),
        key: RawValue::from_string(case.key.to_string()).context("read the key")?,
        channel: case.target.channel.clone(),
        place,
        xmin: seen.xmin(),
    };
    let reading = tokio::task::spawn_blocking(move || {
        // The index finds notifications quickly. That there is none is told by all lines alone.
        let (told, _) = read(&record, &wish, false)?;
        if told.of_writer(wish.xmin).is_some() {
            return anyhow::Ok((told, LeftOut::default()));
        }
        read(&record, &wish, true)
    });
    let (told, left_out) = reading.await.context("read the record")??;
    Ok(link(case, seen, &told, left_out))
}

/// Reads the entries of a record that concern a row: by the index, or every line.
fn read(record: &Record, wish: &Wish, reads_all: bool) -> anyhow::Result<(Told, LeftOut)> {
    let row = entry::row(&wish.table, wish.key.get());
    let wanted = Wanted {
        rows: (!reads_all).then(|| vec![row]),
        reads_all,
        ..Wanted::default()
    };
    let mut told = Told::default();
    let left_out = record.read(&wanted, |item| {
        told.take(item, wish, reads_all);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((told, left_out))
}

impl Told {
    fn take(&mut self, item: &Item, wish: &Wish, is_every_line: bool) {
        let Some(at) = entry::time(item) else { return };
        if let Some(last) = self.last {
            // The time up to which all is covered is a little past; other entries are of now.
            let is_of_now = !matches!(item, Item::Covered { .. });
            if is_of_now && last.duration_since(at) > CLOCKS {
                self.unfit = Some("a clock was set back within the record");
            } else if is_every_line && at.duration_since(last) > SILENCE {
                self.gaps.push((last, at));
            }
        }
        self.from = Some(self.from.map_or(at, |from| from.min(at)));
        match item {
            Item::Covered { at } => self.covered = self.covered.max(Some(*at)),
            Item::Gap { from, to } => self.gaps.push((*from, *to)),
            // The dropped ones had come since the entry before.
            Item::Dropped { at, .. } => self.gaps.push((self.last.unwrap_or(*at), *at)),
            Item::Connected {
                channels, place, ..
            } => {
                self.without_clock += 1;
                if !channels.contains(&wish.channel) {
                    self.unfit = Some("it is not of the channel of the table");
                }
                if !is_same(place.as_ref(), wish.place.as_ref()) {
                    self.unfit =
                        Some("it is of another database, or by another name of the server");
                }
            }
            Item::Note {
                note: Note::Clock(ahead),
                ..
            } => {
                self.without_clock = self.without_clock.saturating_sub(1);
                if SignedDuration::from_millis(*ahead).abs() > CLOCKS {
                    self.unfit = Some("the clocks of server and recorder differed");
                }
            }
            Item::Notification { at, message } => {
                for change in unpack(message.payload()) {
                    if let Ok(payload) = Payload::parse(&change) {
                        let (pid, channel) = (message.process_id(), message.channel());
                        self.notification(*at, pid, channel, &payload, wish);
                    }
                }
            }
            _ => {}
        }
        self.last = self.last.max(Some(at));
    }

    fn notification(
        &mut self,
        at: Timestamp,
        pid: i32,
        channel: &str,
        payload: &Payload<'_>,
        wish: &Wish,
    ) {
        let is_relation = payload.rel.is_some_and(|rel| wish.relations.contains(&rel));
        let is_schema = payload
            .schema
            .as_ref()
            .is_none_or(|own| *own == wish.schema);
        let is_table = payload.table == wish.table && is_schema;
        let key = Key::from_json(&wish.key).to_string();
        let keys = [payload.id, payload.old_id, payload.new_id];
        let is_key = keys
            .into_iter()
            .flatten()
            .any(|own| Key::of_json(own).to_string() == key);
        if (is_table || is_relation) && is_key {
            self.announced.push(Announced {
                at,
                pid,
                channel: channel.to_string(),
                xid: payload.xid,
                action: payload.action.as_str(),
            });
        } else if is_relation || is_table {
            let xid = payload.xid.map(|xid| xid as u32);
            self.has_announced_others |= xid.is_some() && xid == wish.xmin;
        }
    }

    /// Returns the notification of the transaction that wrote the row.
    fn of_writer(&self, xmin: Option<u32>) -> Option<&Announced> {
        let xmin = xmin?;
        // PostgreSQL keeps 32 bits of a transaction's id with a row.
        self.announced
            .iter()
            .find(|announced| announced.xid.is_some_and(|xid| xid as u32 == xmin))
    }

    /// Tells whether nothing is missing between these times.
    fn covers(&self, from: Timestamp, to: Timestamp) -> bool {
        let is_within = self.from.is_some_and(|own| own <= from)
            && self.covered.is_some_and(|covered| covered >= to);
        let mut gaps = self.gaps.iter();
        is_within && !gaps.any(|(begin, end)| *begin <= to && *end >= from)
    }
}

/// Tells whether two places are one database, as far as their names tell.
fn is_same(recorded: Option<&Place>, now: Option<&Place>) -> bool {
    match (recorded, now) {
        (Some(recorded), Some(now)) => {
            recorded.database == now.database && recorded.server == now.server
        }
        _ => false,
    }
}

/// Returns the link: `Broken` only if the record proves it.
fn link(case: &Case<'_>, seen: &Seen, told: &Told, left_out: LeftOut) -> Link {
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
    if let Some(announced) = told.of_writer(Some(xmin)) {
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
    let before = committed.saturating_sub(CLOCKS * 2).unwrap_or(committed);
    let behind = committed.saturating_add(CLOCKS * 2).unwrap_or(committed);
    let late = committed.saturating_add(DELAY).unwrap_or(committed);
    // A savepoint writes the row under an id of its own; the payload has that of the transaction,
    // which is a little lower.
    let around = told.announced.iter().find(|announced| {
        let is_before = announced
            .xid
            .is_some_and(|xid| (1..SAVEPOINTS).contains(&xmin.wrapping_sub(xid as u32)));
        is_before && announced.at >= before && announced.at <= late
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
    if let Some(why) = told.unfit {
        return unknown(&format!("the record proves nothing: {why}"));
    }
    if told.without_clock > 0 {
        return unknown("the record proves nothing: the clocks were not compared");
    }
    if left_out.unread > 0 {
        return unknown("the record proves nothing: a part of it cannot be read");
    }
    if told.has_announced_others {
        return unknown(
            "the transaction has announced other rows of the table, or this one by another key or \
            name",
        );
    }
    if !told.covers(before, behind) {
        return unknown("the record does not have all of the time at which the row was written");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::queue::Message;

    fn place() -> Place {
        Place {
            database: "shop".to_string(),
            server: "db:5432".to_string(),
            user: "a".to_string(),
            version: "15.18".to_string(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
    }

    fn connected(second: i64) -> [Item; 2] {
        let started = Item::Connected {
            at: at(second),
            channels: vec!["c".to_string()],
            place: Some(place()),
        };
        [started, clock(second, 3)]
    }

    fn clock(second: i64, ahead: i64) -> Item {
        Item::Note {
            at: at(second),
            note: Note::Clock(ahead),
        }
    }

    fn covered(seconds: impl IntoIterator<Item = i64>) -> Vec<Item> {
        let items = seconds
            .into_iter()
            .map(|second| Item::Covered { at: at(second) });
        items.collect()
    }

    fn told(items: &[Item]) -> Told {
        let wish = Wish {
            schema: "public".to_string(),
            table: "t".to_string(),
            relations: vec![7],
            key: RawValue::from_string("1".to_string()).unwrap(),
            channel: "c".to_string(),
            place: Some(place()),
            xmin: Some(700),
        };
        let mut told = Told::default();
        for item in items {
            told.take(item, &wish, true);
        }
        told
    }

    #[test]
    fn a_record_without_a_gap_covers_its_time() {
        let told = told(&[&connected(0)[..], &covered((0..120).step_by(10))].concat());
        assert_eq!((told.unfit, told.without_clock), (None, 0));
        assert!(told.covers(at(10), at(110)));
        assert!(!told.covers(at(-5), at(10)) && !told.covers(at(100), at(120)));
    }

    /// The first recorder's clock was ahead: by its times it has what nobody has recorded.
    #[test]
    fn a_clock_that_was_set_proves_nothing() {
        let first = [&connected(0)[..], &covered((0..60).step_by(10))].concat();
        let set_back = told(&[&first[..], &connected(40)].concat());
        assert!(set_back.unfit.is_some());
        // Set forward, or stopped with the machine: nothing was written for longer than it ever is.
        let forward = told(&[&first[..], &covered([500])].concat());
        assert!(forward.covers(at(10), at(40)) && !forward.covers(at(100), at(200)));
        // The clocks differed, or nobody has compared them.
        let differ = told(&[&[clock(0, 5_000)], &covered([0, 10])[..]].concat());
        assert!(differ.unfit.is_some());
        let [started, _] = connected(0);
        assert_eq!(told(&[started]).without_clock, 1);
    }

    #[test]
    fn what_the_transaction_has_announced_of_the_table_counts() {
        let payload = |table: &str, rel: u32, id: &str| Item::Notification {
            at: at(1),
            message: Message::Recorded {
                channel: "c".to_string(),
                pid: 1,
                payload: format!(
                    "{{\"table\":\"{table}\",\"schema\":\"public\",\"rel\":{rel},\"xid\":\"700\",\
                    \"action\":\"update\",\"id\":{id}}}"
                ),
            },
        };
        // By the name, or by the relation that had another name then.
        for item in [payload("t", 9, "1"), payload("former", 7, "1")] {
            assert!(told(&[item]).of_writer(Some(700)).is_some());
        }
        for (item, counts) in [
            (payload("t", 7, "1.0"), true),
            (payload("former", 7, "2"), true),
            (payload("another", 8, "1"), false),
        ] {
            let told = told(&[item]);
            assert_eq!(
                (told.announced.len(), told.has_announced_others),
                (0, counts)
            );
        }
    }
}
