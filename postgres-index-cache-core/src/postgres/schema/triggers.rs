//! What announces a table's changes: which triggers, whose function they call, on which channel,
//! with which options.

mod channel;
mod comment;
mod diagnosis;
mod made_for;
mod options;

pub use channel::is_channel;
pub use comment::{Comment, read as read_comment, write as write_comment};
pub use diagnosis::{Problem, Remedy, Severity, check_table, diagnose};
pub use made_for::{digest, is_edited, settings, untrusted_columns};
pub use options::{TriggerOptions, from_arguments, to_arguments};

use crate::postgres::schema::catalog::{CatalogTable, Enabled, Function, Trigger};

/// The bits of `pg_trigger.tgtype` for AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW.
pub const ROW_EVENTS: i16 = 1 | 4 | 8 | 16;
/// The bit for TRUNCATE, AFTER, FOR EACH STATEMENT.
pub const TRUNCATE_EVENT: i16 = 32;

/// The settings of a writer's session that change how values are written as JSON, with the value
/// that the triggers pin.
pub const PINNED: [(&str, &str); 9] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("search_path", "pg_catalog, pg_temp"),
];

/// A table's announcing triggers.
#[derive(Debug, Clone)]
pub struct Announced<'a> {
    /// The one for rows.
    pub row: Option<&'a Trigger>,
    /// The one for TRUNCATE.
    pub truncate: Option<&'a Trigger>,
    /// The channel that it notifies on; `None` where that cannot be told for certain.
    pub channel: Option<String>,
    /// What the comment of a function of ours says; `None` for somebody else's.
    pub comment: Option<Comment>,
    /// All triggers that announce, where there should be one for rows and one for TRUNCATE.
    pub announcing: Vec<&'a Trigger>,
}

impl Announced<'_> {
    /// The options that a function of ours was made with.
    pub fn options(&self) -> Option<&TriggerOptions> {
        self.comment.as_ref().map(|comment| &comment.options)
    }

    /// Whether it sends the plain form of the specification, as far as can be told: only a function
    /// of ours is known not to.
    pub fn sends_plain_form(&self) -> bool {
        self.comment.is_none()
    }

    /// The columns that are sent, where they are not all.
    pub fn sent_columns(&self) -> Option<&Vec<String>> {
        self.options().and_then(|options| options.columns.as_ref())
    }

    /// The triggers that fire for what an ordinary session writes.
    pub fn firing(&self) -> impl Iterator<Item = &Trigger> {
        let announcing = [self.row, self.truncate].into_iter().flatten();
        announcing.filter(|trigger| matches!(trigger.enabled, Enabled::Origin | Enabled::Always))
    }

    /// The events that are announced.
    pub fn events(&self) -> Vec<&'static str> {
        let kind = self.row.map_or(0, |trigger| trigger.kind)
            | self.truncate.map_or(0, |trigger| trigger.kind);
        let names = [
            (4, "insert"),
            (16, "update"),
            (8, "delete"),
            (32, "truncate"),
        ];
        names
            .iter()
            .filter(|(bit, _)| kind & bit != 0)
            .map(|(_, name)| *name)
            .collect()
    }
}

/// Whether a function is ours: its comment says so, and its owner is none that may have planted it.
pub fn is_ours(function: &Function) -> bool {
    function.is_trusted && read_comment(function.comment.as_deref()).is_some()
}

/// Whether a function of ours was made for this table, so that it may be replaced or dropped with
/// the table's triggers: its comment names the table, or no other table's trigger calls it.
///
/// The comment alone does not tell: after `ALTER SCHEMA … RENAME` it names a schema that is gone,
/// or, when two schemas swapped their names, the other one's table.
pub fn is_for(function: &Function, table: &CatalogTable) -> bool {
    let Some(comment) = read_comment(function.comment.as_deref()).filter(|_| is_ours(function))
    else {
        return false;
    };
    if comment.options.generic {
        return function.schema == table.schema;
    }
    let is_named = comment.schema == table.schema && comment.table == table.name;
    is_named || (function.schema == table.schema && !function.is_shared)
}

/// Whether a trigger is one that announces changes, by what it calls.
pub fn announces(trigger: &Trigger) -> bool {
    trigger.function.name.starts_with("notify_cache_change") || is_ours(&trigger.function)
}

/// What announces a table's changes; `None` when nothing announces its rows.
pub fn announced(table: &CatalogTable) -> Option<Announced<'_>> {
    let of = |events: i16| {
        let mut found = table
            .triggers
            .iter()
            .filter(|trigger| announces(trigger) && trigger.kind & events != 0);
        // Where there are several, ours is the one that counts.
        let ours = found
            .clone()
            .find(|trigger| is_for(&trigger.function, table));
        let ours = ours.or_else(|| found.clone().find(|trigger| is_ours(&trigger.function)));
        ours.or_else(|| found.next())
    };
    let row = of(ROW_EVENTS & !1);
    let truncate = of(TRUNCATE_EVENT);
    let trigger = row.or(truncate)?;
    let announcing: Vec<&Trigger> = table
        .triggers
        .iter()
        .filter(|trigger| announces(trigger))
        .collect();
    if !is_ours(&trigger.function) {
        let channel = channel::told_by(&trigger.function.source, &trigger.arguments);
        return Some(Announced {
            row,
            truncate,
            channel,
            comment: None,
            announcing,
        });
    }
    let comment = read_comment(trigger.function.comment.as_deref()).map(|comment| {
        if comment.options.generic {
            // The generic function's comment is that of many tables: what holds for this one stands
            // in its trigger.
            Comment {
                table: table.name.clone(),
                options: from_arguments(&trigger.arguments),
                ..comment
            }
        } else {
            comment
        }
    });
    let channel = comment
        .as_ref()
        .map(|comment| comment.options.channel.clone())
        .filter(|channel| is_channel(channel));
    Some(Announced {
        row,
        truncate,
        channel,
        comment,
        announcing,
    })
}
