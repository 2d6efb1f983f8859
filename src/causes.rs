//! Why a cache may differ from its table: the likely cause of a finding, as far as the catalogue and what was heard tell.

use crate::catalog::{Enabled, Table};
use crate::triggers::observe::{Observed, TRUNCATE_EVENT, Version, announces};
use postgres_index_cache_core::postgres::FindingKind;

/// The likely cause of a finding in `table`, whose notifications were listened for on `channel`; `was_heard` says whether a
/// notification changed the row in the cache.
pub fn likely(table: &Table, seen: Option<&Observed<'_>>, channel: &str, kind: FindingKind, was_heard: bool) -> String {
    let install = format!("pgic install-triggers {}", table.typed_name());
    let Some((seen, row)) = seen.and_then(|seen| Some((seen, seen.row?))) else {
        return format!("no trigger announces its changes; install them: {install}");
    };
    if !matches!(row.enabled, Enabled::Origin | Enabled::Always) {
        return format!("the trigger {} is {}", row.name, row.enabled.as_str());
    }
    if let Some(other) = seen.channel.as_deref().filter(|other| *other != channel) {
        return format!("the trigger notifies on {other} now, and {channel} was listened to");
    }
    let events = seen.events();
    if let Some(missing) = ["insert", "update", "delete"].iter().find(|event| !events.contains(event)) {
        return format!("the triggers do not announce {missing}: {install}");
    }
    if row.is_conditional {
        return format!(
            "the trigger {} has a condition or a list of columns: it does not fire for every change",
            row.name
        );
    }
    if kind == FindingKind::Ghost && !was_heard {
        let is_silent =
            seen.truncate.is_none_or(|trigger| !matches!(trigger.enabled, Enabled::Origin | Enabled::Always));
        if is_silent {
            return format!("no trigger announces TRUNCATE: {install}");
        }
        let has_truncate = |leaf: &&crate::catalog::Leaf| {
            leaf.triggers.iter().any(|trigger| trigger.kind == TRUNCATE_EVENT && announces(trigger))
        };
        if let Some(leaf) = table.leaves.iter().find(|leaf| !has_truncate(leaf)) {
            return format!("TRUNCATE of the partition {} is not announced: {install}", leaf.display_name());
        }
    }
    match (&seen.version, kind) {
        (Version::Foreign, FindingKind::Stale) => {
            return format!(
                "the trigger sends the plain form: PostgreSQL folds identical payloads of a transaction, and sends those of \
                 nested triggers in another order: {install}"
            );
        }
        (Version::Foreign, FindingKind::Missing | FindingKind::Ghost) => {
            return format!(
                "the trigger sends the plain form: a changed key is announced by the new one alone, and identical payloads \
                 are folded: {install}"
            );
        }
        (Version::Outdated, _) => return format!("the trigger's function is outdated: {install}"),
        (Version::Current, _) => {}
    }
    if was_heard {
        return "a notification about the row says otherwise: a forged one, perhaps, which any role can send"
            .to_string();
    }
    let always = if row.enabled == Enabled::Always {
        String::new()
    } else {
        format!("; announce those too: {install} --always")
    };
    format!(
        "no notification told of it: written under session_replication_role = replica, by logical replication, or while the \
         trigger was disabled{always}"
    )
}
