//! Why a cache may differ from its table: the likely cause of a finding, as far as the catalogue
//! and the notifications that were received tell.

use crate::tables::catalog::{Catalog, CatalogTable, Enabled};
use crate::triggers::observe::{Observed, Version};
use postgres_index_cache_core::postgres::triggers::{Problem, Severity, TriggerOptions, diagnose};
use postgres_index_cache_core::postgres::{Finding, FindingKind};
use std::collections::{HashMap, HashSet};

/// How many processes are asked about at most.
const MOST_SENDERS: usize = 20;

/// Who sent notifications, as far as the sessions are still there.
#[derive(Debug, Default)]
pub struct Senders(HashMap<i32, String>);

impl Senders {
    /// Looks up these processes of the server.
    pub async fn look(catalog: &Catalog<'_>, processes: HashSet<i32>) -> Self {
        let mut known = HashMap::new();
        for process in processes.into_iter().take(MOST_SENDERS) {
            if let Some(who) = catalog.who_is(process).await {
                known.insert(process, who);
            }
        }
        Self(known)
    }

    /// A process in words.
    pub fn name(&self, process: i32) -> String {
        match self.0.get(&process) {
            Some(who) => format!("process {process}, {who}"),
            None => format!("process {process}, whose session is gone"),
        }
    }
}

/// Returns the likely cause of a finding in `table`, whose notifications were listened for on
/// `channel`; `heard` names who sent the last notification that changed the row in the cache, if
/// one did.
pub fn likely(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    channel: &str,
    found: &Finding,
    heard: Option<&str>,
) -> String {
    let install = format!("pgic install-triggers {}", table.typed_name());
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
    let names_objects = |name: &str| {
        table
            .column(name)
            .is_some_and(crate::tables::catalog::CatalogColumn::names_objects)
    };
    if !found.columns.is_empty()
        && found
            .columns
            .iter()
            .all(|differing| names_objects(&differing.column))
    {
        return "the value is written as the name of another object, which was renamed or dropped: \
            nothing announces that"
            .to_string();
    }
    let is_of_truncate = |problem: &&Problem| problem.code.starts_with("truncate-");
    let silent_truncate = problems
        .iter()
        .find(is_of_truncate)
        .map(ToString::to_string);
    let is_left_out = seen.options().is_some_and(|options| options.no_truncate);
    if found.kind == FindingKind::Ghost
        && heard.is_none()
        && (silent_truncate.is_some() || is_left_out)
    {
        return silent_truncate.unwrap_or_else(|| {
            // --defaults forgets the other options too, which columns are sent for example.
            let others = seen.options().map(|options| TriggerOptions {
                no_truncate: false,
                ..options.clone()
            });
            let and_those = if others.is_none_or(|others| others == TriggerOptions::default()) {
                ""
            } else {
                ", with the other options that it has"
            };
            format!("no trigger announces TRUNCATE; announce it: {install} --defaults{and_those}")
        });
    }
    match (&seen.version, found.kind) {
        (Version::Foreign, FindingKind::Stale) => {
            return format!(
                "the trigger sends the plain form: PostgreSQL folds identical payloads of a \
                transaction, and sends those of \
                 nested triggers in another order; drop it, then {install}"
            );
        }
        (Version::Foreign, FindingKind::Missing | FindingKind::Ghost) => {
            return format!(
                "the trigger sends the plain form: a changed key is announced by the new one \
                alone, and identical payloads \
                 are folded; drop it, then {install}"
            );
        }
        (Version::Outdated, _) => {
            return format!("the trigger's function is outdated; refresh it: {install}");
        }
        (Version::Current, _) => {}
    }
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
        replication, or while the \
         trigger was disabled{always}"
    )
}
