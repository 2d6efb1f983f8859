//! [`TriggerOptions`]: the options of a table's triggers. They are kept in the comment of a
//! generated function, or in the arguments of a trigger that calls the generic function.

use super::condition::RowCondition;
use crate::DEFAULT_CACHE_CHANNEL;
use serde::{Deserialize, Serialize};

/// The options of a table's triggers. An option that a comment does not have is the default.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerOptions {
    /// The channel to notify on.
    pub channel: String,
    /// The names of the columns to send, in table order, with the key's columns; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The condition that a row fulfils to be announced; `None` for all rows.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<RowCondition>,
    /// Whether statement triggers send the rows of a statement packed, and how many rows at most: a
    /// statement that changes more asks for the table to be read again. `None` for a row trigger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bulk: Option<u32>,
    /// Whether only keys are sent.
    #[serde(skip_serializing_if = "is_off")]
    pub no_data: bool,
    /// Whether an UPDATE is left out if it changes no column that is sent.
    #[serde(skip_serializing_if = "is_off")]
    pub on_change: bool,
    /// Whether the triggers fire under `session_replication_role = replica` as well.
    #[serde(skip_serializing_if = "is_off")]
    pub always: bool,
    /// Whether TRUNCATE is not announced.
    #[serde(skip_serializing_if = "is_off")]
    pub no_truncate: bool,
    /// Whether `bigint` and `numeric` values that a double may not hold are sent as JSON texts.
    #[serde(skip_serializing_if = "is_off")]
    pub long_numbers_as_text: bool,
    /// Whether a failure of the trigger fails the write.
    #[serde(skip_serializing_if = "is_off")]
    pub no_guard: bool,
    /// Whether the triggers call the generic function of the schema, `notify_cache_change()`,
    /// instead of one that is generated for the table.
    #[serde(skip_serializing_if = "is_off")]
    pub generic: bool,
}

/// Returns whether an option is off. A comment leaves out options that are off.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_off(option: &bool) -> bool {
    !option
}

impl Default for TriggerOptions {
    fn default() -> Self {
        Self {
            channel: DEFAULT_CACHE_CHANNEL.to_string(),
            columns: None,
            condition: None,
            bulk: None,
            no_data: false,
            on_change: false,
            always: false,
            no_truncate: false,
            long_numbers_as_text: false,
            no_guard: false,
            generic: false,
        }
    }
}

impl TriggerOptions {
    /// Returns the options in words, without the channel: `columns id,name; on-change`. The text is
    /// empty if all are the default.
    pub fn describe(&self) -> String {
        let columns = self
            .columns
            .as_ref()
            .map(|columns| format!("columns {}", columns.join(",")));
        let flags = [
            (self.no_data, "no-data"),
            (self.on_change, "on-change"),
            (self.always, "always"),
            (self.no_truncate, "no-truncate"),
            (self.long_numbers_as_text, "long-numbers-as-text"),
            (self.no_guard, "no-guard"),
            (self.generic, "generic"),
        ];
        let flags = flags
            .iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, name)| (*name).to_string());
        let condition = self
            .condition
            .as_ref()
            .map(|condition| format!("where {}", condition.sql));
        let bulk = self.bulk.map(|rows| format!("bulk {rows}"));
        columns
            .into_iter()
            .chain(condition)
            .chain(bulk)
            .chain(flags)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Returns whether payloads carry the value of this column.
    pub fn sends(&self, column: &str) -> bool {
        !self.no_data
            && self
                .columns
                .as_ref()
                .is_none_or(|columns| columns.iter().any(|name| name == column))
    }
}

/// Reads the options of a table from the arguments of a trigger that calls the generic function.
/// The function's comment does not have them, since many tables share the function.
pub fn from_arguments(arguments: &[String]) -> TriggerOptions {
    // The first argument is the channel, even if it is called like an option.
    let flags = arguments.get(1..).unwrap_or_default();
    TriggerOptions {
        channel: arguments
            .first()
            .cloned()
            .unwrap_or_else(|| TriggerOptions::default().channel),
        always: flags.iter().any(|flag| flag == "always"),
        no_truncate: flags.iter().any(|flag| flag == "no-truncate"),
        generic: true,
        ..TriggerOptions::default()
    }
}

/// Returns the arguments for a trigger that calls the generic function: the inverse of
/// [`from_arguments`]. The function reads the first one, the channel. The others are flags, which
/// only pgic reads. There are no arguments if these options are the default.
pub fn to_arguments(options: &TriggerOptions) -> Vec<String> {
    let flags = [
        (options.always, "always"),
        (options.no_truncate, "no-truncate"),
    ];
    let flags: Vec<String> = flags
        .iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, name)| (*name).to_string())
        .collect();
    // Without arguments the function takes its default channel.
    if flags.is_empty() && options.channel == DEFAULT_CACHE_CHANNEL {
        return flags;
    }
    std::iter::once(options.channel.clone())
        .chain(flags)
        .collect()
}
