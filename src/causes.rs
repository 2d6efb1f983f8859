//! [`likely`]: the likely cause of a finding, as far as the catalogue and the notifications that
//! were received tell.

use crate::tables::catalog::{Catalog, CatalogColumn, CatalogTable, Enabled};
use crate::triggers::observe::{Observed, Version};
use postgres_index_cache_core::tooling::postgres::triggers::{
    Problem, Severity, TriggerOptions, diagnose,
};
use postgres_index_cache_core::tooling::postgres::{DifferingColumn, FindingKind};
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

/// Returns the likely cause of a row of `table` that differs in this way and in these columns, if
/// they are known. Notifications were listened for on `channel`.
///
/// `heard` names the sender of the last notification that changed the row in the cache, if one did.
pub fn likely(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    channel: &str,
    kind: FindingKind,
    columns: &[DifferingColumn],
    heard: Option<&str>,
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
    // The trigger is right, so a notification that left the row wrong was not the trigger's.
    if let Some(sender) = heard {
        return format!(
            "a notification about the row says otherwise: a forged one, perhaps, which any role \
            can send; it was sent by {sender}"
        );
    }
    let always = if row.enabled == Enabled::Always {
        String::new()
    } else {
        format!("; announce those too: {install} --always")
    };
    format!(
        "no notification told of it: written under session_replication_role = replica, by logical \
        replication, or while the trigger was disabled{always}"
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
