//! [`Changes`]: what became of rows since the shell began, as far as memory allows, and who wants
//! to be told.

use crate::render::row_change::RowChangeLine;
use crate::render::{Format, json};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use postgres_index_cache_core::postgres::RowChange;
use postgres_index_cache_core::{Condition, KeyBuf, RowBuf, TableShape};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many changes are kept for `.history`.
const KEPT: usize = 100_000;
/// How many bytes of their rows.
const KEPT_BYTES: usize = 64 << 20;

/// A change that is kept.
#[derive(Debug)]
struct KeptRow {
    at: Timestamp,
    table: usize,
    old: Option<RowBuf>,
    new: Option<RowBuf>,
    /// The server's process whose notification told of it.
    sender: Option<i32>,
}

impl KeptRow {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self
                .old
                .iter()
                .chain(&self.new)
                .map(RowBuf::memory_bytes)
                .sum::<usize>()
    }
}

/// How the rows of a table are shown.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) table: String,
    pub(super) shape: Arc<TableShape>,
    pub(super) columns: Vec<usize>,
}

/// A watch.
#[derive(Debug)]
struct Watched {
    table: usize,
    conditions: Vec<Condition>,
}

#[derive(Debug)]
pub(super) struct Changes {
    shown: Vec<Shown>,
    format: Format,
    zone: TimeZone,
    kept: VecDeque<KeptRow>,
    kept_bytes: usize,
    /// How many were let go.
    forgotten: u64,
    watched: Vec<Watched>,
}

impl Changes {
    pub(super) fn new(shown: Vec<Shown>, format: Format) -> Self {
        let kept = VecDeque::new();
        let watched = Vec::new();
        Self {
            shown,
            format,
            zone: TimeZone::system(),
            kept,
            kept_bytes: 0,
            forgotten: 0,
            watched,
        }
    }

    pub(super) fn watch(&mut self, table: usize, conditions: Vec<Condition>) {
        self.watched.push(Watched { table, conditions });
    }

    /// A table is shown otherwise from now on: what is known of its rows is let go, and they are
    /// not watched.
    pub(super) fn renew(&mut self, table: usize, shown: Shown) {
        self.shown[table] = shown;
        self.watched.retain(|watched| watched.table != table);
        self.kept.retain(|kept| kept.table != table);
        self.kept_bytes = self.kept.iter().map(KeptRow::bytes).sum();
    }

    pub(super) fn stop_watching(&mut self) -> usize {
        std::mem::take(&mut self.watched).len()
    }

    /// Takes a change; the line to say about it, if somebody watches.
    pub(super) fn take(
        &mut self,
        table: usize,
        change: RowChange,
        sender: Option<i32>,
    ) -> Option<String> {
        let (old, new) = match change {
            RowChange::Added(new) => (None, Some(new)),
            RowChange::Changed { old, new } => (Some(old), Some(new)),
            RowChange::Removed(old) => (Some(old), None),
        };
        let kept = KeptRow {
            at: Timestamp::now(),
            table,
            old,
            new,
            sender,
        };
        let line = self
            .watched
            .iter()
            .filter(|watched| watched.table == table)
            .find_map(|watched| {
                let fulfils = |row: &&RowBuf| {
                    let shape = &self.shown[table].shape;
                    watched
                        .conditions
                        .iter()
                        .all(|condition| condition.is_fulfilled_by(shape, row))
                };
                let line = self.line(
                    &kept,
                    kept.old.as_ref().filter(fulfils),
                    kept.new.as_ref().filter(fulfils),
                );
                (!line.is_empty()).then_some(line)
            });
        self.kept_bytes += kept.bytes();
        self.kept.push_back(kept);
        while self.kept.len() > KEPT || self.kept_bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= oldest.bytes();
            self.forgotten += 1;
        }
        line
    }

    /// The line that says how many changes could not be shown.
    pub(super) fn dropped(&self, count: u64) -> String {
        match self.format {
            Format::Json => json::line([("event", json!("dropped")), ("count", json!(count))]),
            Format::Text => format!("{count} changes were not shown: nobody read them in time\n"),
        }
    }

    fn line(&self, kept: &KeptRow, old: Option<&RowBuf>, new: Option<&RowBuf>) -> String {
        let Shown {
            table,
            shape,
            columns,
        } = &self.shown[kept.table];
        let change = RowChangeLine {
            table,
            shape,
            columns,
            old,
            new,
            collapsed: 0,
        };
        match self.format {
            Format::Json => change.json(Some(&kept.at.to_string())),
            Format::Text => {
                let at: Zoned = kept.at.to_zoned(self.zone.clone());
                change.text(Some(&at.strftime("%H:%M:%S%.3f").to_string()))
            }
        }
    }

    /// The server's process whose notification told last of the row of this key, as far as that is
    /// kept.
    pub(super) fn sender(&self, table: usize, key: &KeyBuf) -> Option<i32> {
        let shape = &self.shown[table].shape;
        let mut of_table = self.kept.iter().rev().filter(|kept| kept.table == table);
        let is_of_key = |kept: &&KeptRow| {
            kept.old
                .iter()
                .chain(&kept.new)
                .any(|row| KeyBuf::of_row(shape, row) == *key)
        };
        of_table.find(is_of_key)?.sender
    }

    /// What became of the rows that fulfil the conditions, before or after: the lines, their
    /// number, and how many changes of all tables are not known any more.
    pub(super) fn history(&self, table: usize, conditions: &[Condition]) -> (String, usize, u64) {
        let shape = &self.shown[table].shape;
        let fulfils = |row: &&RowBuf| {
            conditions
                .iter()
                .all(|condition| condition.is_fulfilled_by(shape, row))
        };
        let of_table = self.kept.iter().filter(|kept| kept.table == table);
        let lines: Vec<String> = of_table
            .filter(|kept| kept.old.iter().chain(&kept.new).any(|row| fulfils(&row)))
            .map(|kept| self.line(kept, kept.old.as_ref(), kept.new.as_ref()))
            .filter(|line| !line.is_empty())
            .collect();
        (lines.concat(), lines.len(), self.forgotten)
    }
}
