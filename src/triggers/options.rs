//! [`TriggerOptions`]: what may be chosen about a table's triggers, as it is kept in the function's comment; and [`Asked`],
//! what a person asks to be changed of it.

use crate::catalog::Table;
use crate::failure::with_hint;
use postgres_index_cache_core::DEFAULT_CACHE_CHANNEL;
use serde::{Deserialize, Serialize};

/// What is chosen about a table's triggers. What is not written in a comment is the default.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own on the command line")]
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
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
    /// The options in words, the channel aside: `columns id,name; on-change`. Empty where all are the default.
    pub fn describe(&self) -> String {
        let columns = self.columns.as_ref().map(|columns| format!("columns {}", columns.join(",")));
        let flags = [
            (self.no_data, "no-data"),
            (self.on_change, "on-change"),
            (self.always, "always"),
            (self.no_truncate, "no-truncate"),
            (self.no_guard, "no-guard"),
            (self.generic, "generic"),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| (*name).to_string());
        columns.into_iter().chain(flags).collect::<Vec<_>>().join("; ")
    }

    /// Whether payloads carry this column's value.
    pub fn sends(&self, column: &str) -> bool {
        !self.no_data && self.columns.as_ref().is_none_or(|columns| columns.iter().any(|name| name == column))
    }
}

/// What is asked for. What is not asked for keeps what is installed.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own on the command line")]
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `--channel`.
    pub channel: Option<String>,
    /// `--columns`.
    pub columns: Option<Vec<String>>,
    /// `--no-data`.
    pub no_data: bool,
    /// `--on-change`.
    pub on_change: bool,
    /// `--always`.
    pub always: bool,
    /// `--no-truncate`.
    pub no_truncate: bool,
    /// `--no-guard`.
    pub no_guard: bool,
    /// `--generic`.
    pub generic: bool,
    /// `--defaults`: forget what is installed.
    pub defaults: bool,
    /// `--replace-function`: a function of the needed name is replaced whoever made it.
    pub replace_function: bool,
}

impl Asked {
    /// What comes of it over what is installed.
    ///
    /// # Errors
    /// When a column is not one of the table's.
    pub fn over(&self, installed: Option<&TriggerOptions>, table: &Table) -> anyhow::Result<TriggerOptions> {
        let kept = installed.filter(|_| !self.defaults).cloned().unwrap_or_default();
        let is_special = self.columns.is_some() || self.no_data || self.on_change || self.no_guard;
        if self.generic || kept.generic {
            return self.generic_over(kept, is_special, table);
        }
        let columns = match &self.columns {
            Some(columns) => Some(columns),
            None => kept.columns.as_ref().filter(|_| !self.no_data),
        };
        Ok(TriggerOptions {
            channel: self.channel.clone().unwrap_or(kept.channel),
            columns: columns.map(|columns| sent_columns(table, columns)).transpose()?,
            no_data: self.no_data || (kept.no_data && self.columns.is_none()),
            on_change: self.on_change || kept.on_change,
            always: self.always || kept.always,
            no_truncate: self.no_truncate || kept.no_truncate,
            no_guard: self.no_guard || kept.no_guard,
            generic: false,
        })
    }

    /// The one function of all tables knows none of their columns but the key, which must be called `id`.
    fn generic_over(&self, kept: TriggerOptions, is_special: bool, table: &Table) -> anyhow::Result<TriggerOptions> {
        if is_special {
            return Err(with_hint(
                anyhow::anyhow!("--columns, --no-data, --on-change and --no-guard need a function of the table's own"),
                "leave --generic out, and give --defaults where it is installed",
            ));
        }
        if table.key.as_ref().is_none_or(|key| key.columns != ["id"]) {
            return Err(with_hint(
                anyhow::anyhow!(
                    "the generic function needs a key of one column called id, which {} has not",
                    table.display_name()
                ),
                "leave --generic out: a function of the table's own takes any key",
            ));
        }
        Ok(TriggerOptions {
            channel: self.channel.clone().unwrap_or(kept.channel),
            always: self.always || kept.always,
            no_truncate: self.no_truncate || kept.no_truncate,
            generic: true,
            ..TriggerOptions::default()
        })
    }
}

/// What a trigger's arguments say of the options: the generic function's comment is that of many tables.
pub fn from_arguments(arguments: &[String]) -> TriggerOptions {
    let has = |flag: &str| arguments.iter().skip(1).any(|argument| argument == flag);
    TriggerOptions {
        channel: arguments.first().cloned().unwrap_or_else(|| TriggerOptions::default().channel),
        always: has("always"),
        no_truncate: has("no-truncate"),
        generic: true,
        ..TriggerOptions::default()
    }
}

/// The inverse of [`from_arguments`]: the channel, which the function reads, then what pgic keeps there.
pub fn to_arguments(options: &TriggerOptions) -> Vec<String> {
    let flags = [(options.always, "always"), (options.no_truncate, "no-truncate")];
    let flags: Vec<String> = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| (*name).to_string()).collect();
    if flags.is_empty() && options.channel == DEFAULT_CACHE_CHANNEL {
        return flags;
    }
    std::iter::once(options.channel.clone()).chain(flags).collect()
}

/// The columns to send, in table order, with the key.
fn sent_columns(table: &Table, names: &[String]) -> anyhow::Result<Vec<String>> {
    let mut sent: Vec<&str> = table.key.iter().flat_map(|key| &key.columns).map(String::as_str).collect();
    for name in names {
        let column = table.column(name).ok_or_else(|| {
            let has: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            let hint =
                format!("its columns are {}; name others with --columns, or send all with --defaults", has.join(", "));
            with_hint(anyhow::anyhow!("{} has no column {name}", table.display_name()), hint)
        })?;
        sent.push(&column.name);
    }
    let in_order = table.columns.iter().map(|column| column.name.clone());
    Ok(in_order.filter(|name| sent.contains(&name.as_str())).collect())
}
