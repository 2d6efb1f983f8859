//! [`likely`]: the likely cause of a finding, as far as the catalogue and the notifications that
//! were received tell.

use crate::tables::catalog::{Catalog, CatalogColumn, CatalogTable, Enabled};
use crate::triggers::observe::{Observed, Version};
use postgres_index_cache_core::tooling::postgres::triggers::{
    Problem, Severity, TriggerOptions, diagnose,
};
use postgres_index_cache_core::tooling::postgres::{
    DifferingColumn, Finding, FindingKind, Notified,
};
use std::collections::{HashMap, HashSet};

/// The largest number of processes that the server is asked about.
const MOST_SENDERS: usize = 20;

/// The senders of notifications by their server processes, as far as their sessions still exist.
#[derive(Debug, Default)]
pub struct Senders(HashMap<i32, String>);

impl Senders {
    /// Asks the server which roles and applications these processes serve.
    pub async fn look(catalog: &Catalog<'_>, processes: HashSet<i32>) -> Self {
        let mut known = HashMap::new();
        for process in processes.into_iter().take(MOST_SENDERS) {
            if let Some(who) = catalog.who_is(process).await {
                known.insert(process, who);
            }
        }
        Self(known)
    }

    /// Returns a process in words: its number, and whom it serves if that is known.
    pub fn name(&self, process: i32) -> String {
        match self.0.get(&process) {
            Some(who) => format!("process {process}, {who}"),
            None => format!("process {process}, whose session is gone"),
        }
    }
}

/// The last notification that changed a row in the cache, and the row of the table.
#[derive(Debug, Clone)]
pub struct LastHeard {
    /// Who sent the notification, in words.
    pub sender: String,
    /// The transaction that the notification told of, if it said.
    pub xid: Option<u64>,
    /// The transaction that wrote the row which the table has, in its low 32 bits; `None` if that is
    /// not known.
    pub written_by: Option<u32>,
}

impl LastHeard {
    /// Makes the description of a notification about the row that was found. `writers` are the
    /// transactions that wrote rows of the table, by their keys as JSON.
    pub fn of(
        notified: Notified,
        found: &Finding,
        senders: &Senders,
        writers: &HashMap<String, u32>,
    ) -> Self {
        Self {
            sender: senders.name(notified.sender),
            xid: notified.xid,
            written_by: writers.get(&found.key).copied(),
        }
    }

    /// Tells whether the row in the table is older than the transaction that the notification told of.
    /// So that transaction did not write the row.
    fn is_younger_than_the_row(&self) -> bool {
        let (Some(xid), Some(written_by)) = (self.xid, self.written_by) else {
            return false;
        };
        // Ids of transactions are compared in a circle of 2^32.
        (written_by.wrapping_sub(xid as u32) as i32) < 0
    }
}

/// Returns the likely cause of a row of `table` that differs in this way and in these columns, if
/// they are known. Notifications were listened for on `channel`.
///
/// `heard` is the last notification that changed the row in the cache, if one did.
pub fn likely(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    channel: &str,
    kind: FindingKind,
    columns: &[DifferingColumn],
    heard: Option<&LastHeard>,
) -> String {
    let install = format!("pgic install-triggers {}", table.typed_name());
    // The order is from certain to possible: the first cause that fits is told.
    let problems = diagnose(table, None);
    if let Some(problem) = problems
        .iter()
        .find(|problem| problem.severity == Severity::Critical)
    {
        return problem.to_string();
    }
    let Some((seen, row)) = seen.and_then(|seen| Some((seen, seen.row?))) else {
        return format!("no trigger announces its changes; install them: {install}");
    };
    if let Some(other) = seen.channel.as_deref().filter(|other| *other != channel) {
        return format!("the trigger notifies on {other} now, and {channel} was listened to");
    }
    if differs_in_object_names(table, columns) {
        return "the value is written as the name of another object, which was renamed or dropped: \
            nothing announces that"
            .to_string();
    }
    // A TRUNCATE that nobody announced leaves ghosts, which no notification was about.
    if kind == FindingKind::Ghost
        && heard.is_none()
        && let Some(cause) = silent_truncate(seen, &problems, &install)
    {
        return cause;
    }
    match (&seen.version, kind) {
        (Version::Foreign, FindingKind::Stale) => {
            return format!(
                "the trigger sends the plain form: PostgreSQL folds identical payloads of a \
                transaction, and sends those of nested triggers in another order; drop it, then \
                {install}"
            );
        }
        (Version::Foreign, FindingKind::Missing | FindingKind::Ghost) => {
            return format!(
                "the trigger sends the plain form: a changed key is announced by the new one \
                alone, and identical payloads are folded; drop it, then {install}"
            );
        }
        (Version::Outdated, _) => {
            return format!("the trigger's function is outdated; refresh it: {install}");
        }
        (Version::Current, _) => {}
    }
    let always = if row.enabled == Enabled::Always {
        String::new()
    } else {
        format!("; announce those too: {install} --always")
    };
    let silent = "under session_replication_role = replica, by logical replication, or while the \
        trigger was disabled";
    let Some(heard) = heard else {
        return format!("no notification told of it: written {silent}{always}");
    };
    let sender = &heard.sender;
    // The trigger is right, and does not announce what was not written.
    if kind != FindingKind::Ghost && heard.is_younger_than_the_row() {
        return format!(
            "a notification about the row says otherwise: a forged one, perhaps, which any role \
            can send; it was sent by {sender}"
        );
    }
    let became = match kind {
        FindingKind::Ghost => "deleted",
        FindingKind::Stale | FindingKind::Missing => "written again",
    };
    format!(
        "{became} after the last notification about it, and nothing told of that: {silent}{always}; \
        or that notification, sent by {sender}, was forged"
    )
}

/// Tells whether a row differs in nothing but columns whose values are written as the names of
/// other objects, such as `regclass`.
fn differs_in_object_names(table: &CatalogTable, columns: &[DifferingColumn]) -> bool {
    !columns.is_empty()
        && columns.iter().all(|differing| {
            table
                .column(&differing.column)
                .is_some_and(CatalogColumn::names_objects)
        })
}

/// Returns the cause if TRUNCATE of the table is not announced, or not by a trigger that fires.
fn silent_truncate(seen: &Observed<'_>, problems: &[Problem], install: &str) -> Option<String> {
    if let Some(problem) = problems
        .iter()
        .find(|problem| problem.code.starts_with("truncate-"))
    {
        return Some(problem.to_string());
    }
    let options = seen.options().filter(|options| options.no_truncate)?;
    // The remedy needs --defaults, which forgets all other options too, for example the columns
    // that are sent. Say so if there are any.
    let others = TriggerOptions {
        no_truncate: false,
        ..options.clone()
    };
    let and_those = if others == TriggerOptions::default() {
        ""
    } else {
        ", with the other options that it has"
    };
    Some(format!(
        "no trigger announces TRUNCATE; announce it: {install} --defaults{and_those}"
    ))
}
