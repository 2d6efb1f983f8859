//! What stands on a table: which triggers announce its changes, whose function they call, on which channel.

use super::comment::{self, Comment};
use super::sql::Expected;
use super::{DEFAULT_CACHE_CHANNEL, TriggerOptions, options, sql};
use crate::catalog::{Function, Table, Trigger};

/// The bits of `pg_trigger.tgtype` for AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW.
pub const ROW_EVENTS: i16 = 1 | 4 | 8 | 16;
/// The bit for TRUNCATE, AFTER, FOR EACH STATEMENT.
pub const TRUNCATE_EVENT: i16 = 32;

/// Whose a trigger's function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Generated for this table, word for word what would be generated today.
    Current,
    /// Generated for this table by another version or for other columns, or edited.
    Outdated,
    /// Somebody else's: the specification's generic function, or one of the same kind of name.
    Foreign,
}

impl Version {
    /// The word that `status` shows.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Outdated => "outdated",
            Self::Foreign => "foreign",
        }
    }
}

/// A table's announcing triggers.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The one for rows.
    pub row: Option<&'a Trigger>,
    /// The one for TRUNCATE.
    pub truncate: Option<&'a Trigger>,
    /// Whose function it is.
    pub version: Version,
    /// The channel that it notifies on, as far as can be told.
    pub channel: Option<String>,
    /// What the comment of a function of ours says.
    pub comment: Option<Comment>,
    /// All triggers that announce, where there should be one for rows and one for TRUNCATE.
    pub announcing: Vec<&'a Trigger>,
}

impl Observed<'_> {
    /// The options that a function of ours was made with.
    pub fn options(&self) -> Option<&TriggerOptions> {
        self.comment.as_ref().map(|comment| &comment.options)
    }

    /// Whether it sends the plain form of the specification, as far as can be told: only a function of ours is known
    /// not to.
    pub fn sends_plain_form(&self) -> bool {
        self.version == Version::Foreign
    }

    /// The events that are announced.
    pub fn events(&self) -> Vec<&'static str> {
        let kind = self.row.map_or(0, |trigger| trigger.kind) | self.truncate.map_or(0, |trigger| trigger.kind);
        let names = [(4, "insert"), (16, "update"), (8, "delete"), (32, "truncate")];
        names.iter().filter(|(bit, _)| kind & bit != 0).map(|(_, name)| *name).collect()
    }
}

/// Whether a function is ours: its comment says so, and its owner is none that may have planted it.
pub fn is_ours(function: &Function) -> bool {
    function.is_trusted && comment::read(function.comment.as_deref()).is_some()
}

/// Whether a function of ours was made for this table, under the name that it has today.
pub fn is_for(function: &Function, table: &Table) -> bool {
    let comment = comment::read(function.comment.as_deref());
    is_ours(function)
        && comment.is_some_and(|comment| {
            comment.schema == table.schema && (comment.table == table.name || comment.options.generic)
        })
}

/// Whether a trigger is one that announces changes, by what it calls.
pub fn announces(trigger: &Trigger) -> bool {
    trigger.function.name.starts_with("notify_cache_change") || is_ours(&trigger.function)
}

/// What stands on a table; `None` when nothing announces its rows.
pub fn observe(table: &Table) -> Option<Observed<'_>> {
    let of = |events: i16| {
        let mut found = table.triggers.iter().filter(|trigger| announces(trigger) && trigger.kind & events != 0);
        // Where there are several, ours is the one that counts.
        let ours = found.clone().find(|trigger| is_for(&trigger.function, table));
        let ours = ours.or_else(|| found.clone().find(|trigger| is_ours(&trigger.function)));
        ours.or_else(|| found.next())
    };
    let (row, truncate) = (of(ROW_EVENTS & !1), of(TRUNCATE_EVENT));
    let function = &row.or(truncate)?.function;
    let announcing: Vec<&Trigger> = table.triggers.iter().filter(|trigger| announces(trigger)).collect();
    if !is_ours(function) {
        let channel = row.or(truncate).and_then(foreign_channel);
        return Some(Observed { row, truncate, version: Version::Foreign, channel, comment: None, announcing });
    }
    let comment = comment::read(function.comment.as_deref()).map(|comment| match row.or(truncate) {
        // The generic function's comment is that of many tables: what holds for this one stands in its trigger.
        Some(trigger) if comment.options.generic => {
            Comment { table: table.name.clone(), options: options::from_arguments(&trigger.arguments), ..comment }
        }
        _ => comment,
    });
    let expected = match (&table.key, &comment) {
        (Some(key), Some(comment)) => Some(Expected::new(table, key, &comment.options)),
        _ => None,
    };
    let is_current = expected.is_some_and(|expected| expected.is(function));
    Some(Observed {
        row,
        truncate,
        version: if is_current { Version::Current } else { Version::Outdated },
        channel: comment.as_ref().map(|comment| comment.options.channel.clone()),
        comment,
        announcing,
    })
}

/// Whether the text of a function of ours was changed after it was made.
pub fn is_edited(function: &Function) -> bool {
    comment::read(function.comment.as_deref()).is_some_and(|comment| comment.digest != sql::digest(&function.source))
}

/// The channel of somebody else's function: the trigger's argument, else the literal that its text notifies on.
fn foreign_channel(trigger: &Trigger) -> Option<String> {
    let source = &trigger.function.source;
    if source.contains("TG_ARGV") {
        return trigger.arguments.first().cloned().or_else(|| Some(DEFAULT_CACHE_CHANNEL.to_string()));
    }
    let after = source.split_once("pg_notify")?.1.trim_start().strip_prefix('(')?.trim_start().strip_prefix('\'')?;
    after.split_once('\'').map(|(channel, _)| channel.to_string())
}
