//! The triggers that announce a table's changes: which they are, whose function they call, on which
//! channel, with which options.
//!
//! - `options`: the options that may be chosen for a table's triggers.
//! - `comment`: the comment by which a generated function is known, with its options.
//! - `condition`: the condition that a row fulfils to be announced.
//! - `made_for`: the columns for which a generated function was made.
//! - `channel`: the channel of a function that is not ours, read from its text.
//! - `check_table`: whether a relation can be announced and followed at all.
//! - `diagnosis`: everything that is wrong with a table's triggers, with remedies.

mod channel;
mod check_table;
mod comment;
mod condition;
mod diagnosis;
mod made_for;
mod options;
mod problem;

pub use channel::is_channel;
pub use check_table::{check_bulk, check_table};
pub use comment::{Comment, read as read_comment, write as write_comment};
pub use condition::{ROW_NAME, RowCondition, is_contained, qualified};
pub use diagnosis::diagnose;
pub use made_for::{digest, is_edited, settings, untrusted_columns};
pub use options::{TriggerOptions, from_arguments, to_arguments};
pub use problem::{Problem, Remedy, Severity};

use crate::postgres::schema::catalog::{CatalogTable, Enabled, Function, Trigger};

// The bits of `pg_trigger.tgtype`. A trigger without `FOR_EACH_ROW` fires once a statement, and one
// with neither `BEFORE` nor `INSTEAD_OF` fires after it.
const FOR_EACH_ROW: i16 = 1;
const BEFORE: i16 = 2;
const ON_INSERT: i16 = 4;
const ON_DELETE: i16 = 8;
const ON_UPDATE: i16 = 16;
const INSTEAD_OF: i16 = 64;

/// The bits of `pg_trigger.tgtype` for a change of a row, whether the trigger fires for each row or
/// once a statement.
const ROW_CHANGES: i16 = ON_INSERT | ON_DELETE | ON_UPDATE;
/// The bits of `pg_trigger.tgtype` for AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW.
pub const ROW_EVENTS: i16 = FOR_EACH_ROW | ROW_CHANGES;
/// The bit of `pg_trigger.tgtype` for AFTER TRUNCATE, FOR EACH STATEMENT.
pub const TRUNCATE_EVENT: i16 = 32;

/// The names and the bits of `pg_trigger.tgtype` of the events that one statement trigger each
/// announces, with the rows of the statement packed. PostgreSQL takes no trigger with transition
/// tables for more than one event.
pub const BULK_EVENTS: [(&str, i16); 3] = [
    ("insert", ON_INSERT),
    ("update", ON_UPDATE),
    ("delete", ON_DELETE),
];
/// The name of the transition table of the rows before a statement, in a function of ours.
pub const OLD_ROWS: &str = "pgic_old";
/// The name of the transition table of the rows after a statement, in a function of ours.
pub const NEW_ROWS: &str = "pgic_new";

/// The settings of a writer's session that change how values are written as JSON, each with the
/// value that the triggers pin.
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

/// The triggers that announce a table's changes.
#[derive(Debug, Clone)]
pub struct Announced<'a> {
    /// The trigger for changes of rows, or the first of the statement triggers for them.
    pub row: Option<&'a Trigger>,
    /// Of statement triggers for changes of rows, those behind the first.
    pub others: Vec<&'a Trigger>,
    /// The trigger for TRUNCATE.
    pub truncate: Option<&'a Trigger>,
    /// The channel that the triggers notify on; `None` if that is not certain.
    pub channel: Option<String>,
    /// The comment on the function; `None` if the function is somebody else's.
    pub comment: Option<Comment>,
    /// All triggers that announce changes. There should be one for rows and one for TRUNCATE.
    pub announcing: Vec<&'a Trigger>,
}

impl Announced<'_> {
    /// Returns the options that the function was made with; `None` if the function is not ours.
    pub fn options(&self) -> Option<&TriggerOptions> {
        self.comment.as_ref().map(|comment| &comment.options)
    }

    /// Returns whether the triggers send the plain form of the specification. Only a function of
    /// ours is known to send the extended form.
    pub fn sends_plain_form(&self) -> bool {
        self.comment.is_none()
    }

    /// Returns the names of the columns that are sent; `None` if all are, as far as is known.
    pub fn sent_columns(&self) -> Option<&Vec<String>> {
        self.options().and_then(|options| options.columns.as_ref())
    }

    /// Returns the triggers for changes of rows: one row trigger, or several statement triggers.
    pub fn of_rows(&self) -> impl Iterator<Item = &Trigger> {
        self.row.into_iter().chain(self.others.iter().copied())
    }

    /// Returns the triggers for changes of rows and for TRUNCATE.
    pub fn all(&self) -> impl Iterator<Item = &Trigger> {
        self.of_rows().chain(self.truncate)
    }

    /// Returns the triggers that fire for the writes of an ordinary session.
    pub fn firing(&self) -> impl Iterator<Item = &Trigger> {
        self.all()
            .filter(|trigger| matches!(trigger.enabled, Enabled::Origin | Enabled::Always))
    }

    /// Returns whether statement triggers send the rows of a statement packed.
    pub fn is_bulk(&self) -> bool {
        self.options().is_some_and(|options| options.bulk.is_some())
    }

    /// Returns the names of the events that are announced: `insert`, `update`, `delete`,
    /// `truncate`.
    pub fn events(&self) -> Vec<&'static str> {
        let kind = self.all().fold(0, |kinds, trigger| kinds | trigger.kind);
        let names = [
            (ON_INSERT, "insert"),
            (ON_UPDATE, "update"),
            (ON_DELETE, "delete"),
            (TRUNCATE_EVENT, "truncate"),
        ];
        names
            .iter()
            .filter(|(bit, _)| kind & bit != 0)
            .map(|(_, name)| *name)
            .collect()
    }
}

/// Returns the names that a trigger of ours for these events gives to its transition tables: of the
/// rows before the statement, and of those after it.
pub fn transition_tables(events: i16) -> (Option<&'static str>, Option<&'static str>) {
    let has = |bits| BULK_EVENTS.iter().any(|(_, bit)| *bit == events) && events & bits != 0;
    (
        has(ON_UPDATE | ON_DELETE).then_some(OLD_ROWS),
        has(ON_UPDATE | ON_INSERT).then_some(NEW_ROWS),
    )
}

/// Returns what follows REFERENCING in the statement that creates a statement trigger of ours.
pub fn referencing(events: i16) -> String {
    let (old, new) = transition_tables(events);
    let old = old.map(|name| format!("OLD TABLE AS {name}"));
    let new = new.map(|name| format!("NEW TABLE AS {name}"));
    old.into_iter().chain(new).collect::<Vec<_>>().join(" ")
}

/// Returns whether a function is ours: the comment says so, and the owner is trusted. Anyone with
/// CREATE on the schema can plant a function with our comment.
pub fn is_ours(function: &Function) -> bool {
    function.is_trusted && read_comment(function.comment.as_deref()).is_some()
}

/// Returns whether a function is ours and was made for this table, so that it may be replaced or
/// dropped with the table's triggers. This is so if the comment names the table, or if the function
/// stands in the table's schema and no other table's trigger calls the function.
///
/// The comment alone does not tell. After `ALTER SCHEMA … RENAME` the comment names a schema that
/// is gone. If two schemas have swapped their names, the comment names the table of the other one.
pub fn is_for(function: &Function, table: &CatalogTable) -> bool {
    let Some(comment) = read_comment(function.comment.as_deref()).filter(|_| is_ours(function))
    else {
        return false;
    };
    // The generic function serves all tables of its schema.
    if comment.options.generic {
        return function.schema == table.schema;
    }
    let is_named = comment.schema == table.schema && comment.table == table.name;
    is_named || (function.schema == table.schema && !function.is_shared)
}

/// Returns whether a trigger announces changes. Its function tells: either the name begins as that
/// of the specification does, or the function is ours.
pub fn announces(trigger: &Trigger) -> bool {
    trigger.function.name.starts_with("notify_cache_change") || is_ours(&trigger.function)
}

/// Returns the triggers that announce a table's changes; `None` if there are none.
pub fn announced(table: &CatalogTable) -> Option<Announced<'_>> {
    let row = announcing_trigger(table, ROW_CHANGES);
    let truncate = announcing_trigger(table, TRUNCATE_EVENT);
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
            others: Vec::new(),
            truncate,
            channel,
            comment: None,
            announcing,
        });
    }
    let comment = read_comment(trigger.function.comment.as_deref()).map(|comment| {
        if comment.options.generic {
            // All tables of a schema share the generic function and its comment. The options of
            // this table are the arguments of its trigger.
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
    let mut row = row;
    let mut others = Vec::new();
    if comment
        .as_ref()
        .is_some_and(|own| own.options.bulk.is_some())
    {
        let mut of_statements = statement_triggers(table, &trigger.function);
        row = of_statements.next().or(row);
        others = of_statements.collect();
    }
    Some(Announced {
        row,
        others,
        truncate,
        channel,
        comment,
        announcing,
    })
}

/// Returns the statement triggers, as pgic makes them, that call `function`: the first for each
/// event.
fn statement_triggers<'a>(
    table: &'a CatalogTable,
    function: &Function,
) -> impl Iterator<Item = &'a Trigger> {
    BULK_EVENTS.iter().filter_map(move |(_, event)| {
        table.triggers.iter().find(|trigger| {
            trigger.function.oid == function.oid && is_statement_trigger(trigger, *event)
        })
    })
}

/// Returns whether a trigger fires once a statement of this event, behind it, and has the
/// transition tables that a function of ours reads.
fn is_statement_trigger(trigger: &Trigger, event: i16) -> bool {
    trigger.kind == event && trigger.transition_tables() == transition_tables(event)
}

/// Returns the trigger that announces one of `events`, bits of `pg_trigger.tgtype`.
///
/// If there are several, one whose function was made for this table counts, else one whose function
/// is ours, else the first by name.
fn announcing_trigger(table: &CatalogTable, events: i16) -> Option<&Trigger> {
    let mut found = table
        .triggers
        .iter()
        .filter(|trigger| announces(trigger) && trigger.kind & events != 0);
    let of_table = found
        .clone()
        .find(|trigger| is_for(&trigger.function, table));
    of_table
        .or_else(|| found.clone().find(|trigger| is_ours(&trigger.function)))
        .or_else(|| found.next())
}
