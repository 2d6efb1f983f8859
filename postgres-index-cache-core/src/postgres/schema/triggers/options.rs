//! [`TriggerOptions`]: what may be chosen about a table's triggers, as it is kept in the function's
//! comment.

use crate::DEFAULT_CACHE_CHANNEL;
use serde::{Deserialize, Serialize};

/// What is chosen about a table's triggers. What is not written in a comment is the default.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerOptions {
    /// The channel to notify on.
    pub channel: String,
    /// The columns to send, in table order, the key among them; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Send keys only.
    #[serde(skip_serializing_if = "is_off")]
    pub no_data: bool,
    /// Say nothing of an UPDATE that changes nothing that is sent.
    #[serde(skip_serializing_if = "is_off")]
    pub on_change: bool,
    /// Fire under `session_replication_role = replica` too.
    #[serde(skip_serializing_if = "is_off")]
    pub always: bool,
    /// Do not announce TRUNCATE.
    #[serde(skip_serializing_if = "is_off")]
    pub no_truncate: bool,
    /// Let a failure of the trigger fail the write.
    #[serde(skip_serializing_if = "is_off")]
    pub no_guard: bool,
    /// Call the one `notify_cache_change()` of the schema instead of a function of the table's own.
    #[serde(skip_serializing_if = "is_off")]
    pub generic: bool,
}

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
            no_data: false,
            on_change: false,
            always: false,
            no_truncate: false,
            no_guard: false,
            generic: false,
        }
    }
}

impl TriggerOptions {
    /// The options in words, the channel aside: `columns id,name; on-change`. Empty where all are
    /// the default.
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
            (self.no_guard, "no-guard"),
            (self.generic, "generic"),
        ];
        let flags = flags
            .iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, name)| (*name).to_string());
        columns
            .into_iter()
            .chain(flags)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Whether payloads carry this column's value.
    pub fn sends(&self, column: &str) -> bool {
        !self.no_data
            && self
                .columns
                .as_ref()
                .is_none_or(|columns| columns.iter().any(|name| name == column))
    }
}

/// What a trigger's arguments say of the options: the generic function's comment is that of many
/// tables.
pub fn from_arguments(arguments: &[String]) -> TriggerOptions {
    let has = |flag: &str| arguments.iter().skip(1).any(|argument| argument == flag);
    TriggerOptions {
        channel: arguments
            .first()
            .cloned()
            .unwrap_or_else(|| TriggerOptions::default().channel),
        always: has("always"),
        no_truncate: has("no-truncate"),
        generic: true,
        ..TriggerOptions::default()
    }
}

/// The inverse of [`from_arguments`]: the channel, which the function reads, then what pgic keeps
/// there.
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
    if flags.is_empty() && options.channel == DEFAULT_CACHE_CHANNEL {
        return flags;
    }
    std::iter::once(options.channel.clone())
        .chain(flags)
        .collect()
}
