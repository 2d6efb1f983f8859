//! [`Announcers`]: which tables of the database are announced on which channel, and notices where
//! nothing can ever come.

use crate::tables::catalog::CatalogTable;
use crate::tables::nearest::nearest;
use crate::triggers::observe::observe;
use crate::triggers::sql::channel_of_table;
use postgres_index_cache_core::tooling::postgres::triggers::{Severity, diagnose};
use std::collections::BTreeMap;

/// The most channels that a notice names.
const LONGEST_LIST: usize = 5;

/// The tables that are announced, by the channel of their triggers.
#[derive(Debug)]
pub(super) struct Announcers<'a>(BTreeMap<String, Vec<&'a CatalogTable>>);

impl<'a> Announcers<'a> {
    /// Looks at the triggers of tables.
    pub(super) fn of(tables: &'a [CatalogTable]) -> Self {
        let mut announcers: BTreeMap<String, Vec<&CatalogTable>> = BTreeMap::new();
        for table in tables {
            // A function that pgic did not make may notify on any channel.
            let channel = observe(table).and_then(|seen| seen.announced.channel.clone());
            if let Some(channel) = channel {
                announcers.entry(channel).or_default().push(table);
            }
        }
        Self(announcers)
    }

    /// Returns `channels`, and behind them the channels that tables have for themselves under one of
    /// them: of the `named` tables, or of all if none is named.
    pub(super) fn with_own(&self, channels: &[String], named: &[CatalogTable]) -> Vec<String> {
        let is_meant = |table: &CatalogTable| {
            named.is_empty() || named.iter().any(|other| other.oid == table.oid)
        };
        let own = self.0.iter().filter(|(channel, tables)| {
            tables.iter().any(|table| {
                let is_own = |base: &String| channel_of_table(base, table) == **channel;
                is_meant(table) && channels.iter().any(is_own)
            })
        });
        let own = own.map(|(channel, _)| channel.clone());
        channels.iter().cloned().chain(own).collect()
    }

    /// Returns notices about tables and channels of which nothing can come, as far as the triggers
    /// tell. A program may notify by itself, so none of this is an error.
    pub(super) fn notices(&self, channels: &[String], named: &[CatalogTable]) -> Vec<String> {
        let mut notices: Vec<String> = named
            .iter()
            .filter_map(|table| table_notice(channels, table))
            .collect();
        // Of a named table is said on which channel it is announced.
        if named.is_empty() {
            notices.extend(channels.iter().filter_map(|name| self.channel_notice(name)));
        }
        notices
    }

    /// Returns a notice if no table is announced on a channel.
    fn channel_notice(&self, channel: &str) -> Option<String> {
        if self.0.contains_key(channel) {
            return None;
        }
        if self.0.is_empty() {
            return Some(format!(
                "no table of this database is announced on {channel}, nor on any other channel; \
                programs may notify by themselves"
            ));
        }
        let known = self.0.keys().map(String::as_str);
        let meant = match nearest(channel, known.clone()) {
            Some(near) => format!("{near} may be meant; "),
            None => String::new(),
        };
        let mut names: Vec<String> = known
            .take(LONGEST_LIST)
            .map(|name| {
                format!(
                    "{name} ({})",
                    crate::render::count(self.tables(name), "table")
                )
            })
            .collect();
        if self.0.len() > LONGEST_LIST {
            names.push("…".to_string());
        }
        Some(format!(
            "no table of this database is announced on {channel}; {meant}tables are announced on {}",
            names.join(", ")
        ))
    }

    fn tables(&self, channel: &str) -> u64 {
        self.0.get(channel).map_or(0, |tables| tables.len() as u64)
    }
}

/// Returns a notice if a table is not announced on one of these channels.
fn table_notice(channels: &[String], table: &CatalogTable) -> Option<String> {
    let name = table.display_name();
    let Some(seen) = observe(table) else {
        return Some(format!(
            "no trigger announces {name}: pgic install-triggers {}",
            table.typed_name()
        ));
    };
    // A trigger that is disabled, or fires for some writers alone, announces too little.
    let problems = diagnose(table, None);
    let silent = problems
        .iter()
        .find(|problem| problem.severity == Severity::Critical);
    if let Some(problem) = silent {
        return Some(problem.to_string());
    }
    let channel = seen.announced.channel.as_ref()?;
    let is_heard = channels.contains(channel);
    (!is_heard).then(|| format!("{name} is announced on another channel: --channel {channel}"))
}
