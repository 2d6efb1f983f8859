//! [`OptionChanges`]: the [`TriggerOptions`] that a person asks to change, merged with those that
//! are installed.

use super::condition::AskedCondition;
use super::sql::channel_of_table;
use crate::DEFAULT_CACHE_CHANNEL;
use crate::postgres::catalog::CatalogTable;
use crate::postgres::install::error::TriggerError;
pub use crate::postgres::triggers::TriggerOptions;

/// The changes that a command line asks for. An option that is not named keeps its installed value.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, Clone, Default)]
pub struct OptionChanges {
    /// `--channel`.
    pub channel: Option<String>,
    /// `--channel-per-table`: notify on a channel of the table's own.
    pub channel_per_table: bool,
    /// `--columns`.
    pub columns: Option<Vec<String>>,
    /// `--exclude-columns`: send all columns but these, and the key.
    pub exclude_columns: Option<Vec<String>>,
    /// `--where`: announce the rows that fulfil this condition.
    pub condition: Option<AskedCondition>,
    /// The channel of a table that has no triggers yet; `None` for the default.
    pub default_channel: Option<String>,
    /// `--bulk`: statement triggers, which send the rows of a statement packed.
    pub bulk: bool,
    /// `--no-bulk`: a row trigger, where statement triggers are installed.
    pub no_bulk: bool,
    /// `--rows`: how many rows of a statement they send at most.
    pub rows: Option<u32>,
    /// `--no-data`.
    pub no_data: bool,
    /// `--on-change`.
    pub on_change: bool,
    /// `--always`.
    pub always: bool,
    /// `--no-truncate`.
    pub no_truncate: bool,
    /// `--long-numbers-as-text`.
    pub long_numbers_as_text: bool,
    /// `--no-guard`.
    pub no_guard: bool,
    /// `--generic`.
    pub generic: bool,
    /// `--defaults`: start from the defaults instead of the installed options.
    pub defaults: bool,
    /// `--print-sql`: another role may run the SQL, so this role's privileges are not checked.
    pub prints_only: bool,
    /// `--replace-function`: replace a function of the needed name even if pgic did not make it.
    pub replace_function: bool,
    /// Whether a trigger of a needed name that pgic did not make is replaced.
    pub replace_trigger: bool,
}

/// How many rows of a statement are sent at most if nobody says. A cache takes about half a second
/// to apply them, and a little longer to read a table of a million rows: see `docs/triggers.md`.
const BULK_ROWS: u32 = 100_000;

/// Returns the options as answers in JSON have them: as in the comment on a function, but `where`
/// is the text of the condition alone.
pub fn options_to_json(options: &TriggerOptions) -> serde_json::Value {
    let mut json = serde_json::json!(options);
    if let Some(condition) = &options.condition {
        json["where"] = condition.sql.clone().into();
    }
    json
}

/// A table, and the changes of its options that are asked for.
#[derive(Debug, Clone)]
pub struct AskedTable {
    /// The oid of the table.
    pub oid: u32,
    /// The changes.
    pub changes: OptionChanges,
}

impl AskedTable {
    /// Asks for the same changes of several tables.
    pub fn all(oids: impl IntoIterator<Item = u32>, changes: &OptionChanges) -> Vec<Self> {
        let tables = oids.into_iter().map(|oid| Self {
            oid,
            changes: changes.clone(),
        });
        tables.collect()
    }
}

impl OptionChanges {
    /// Returns the options that these changes make of the `installed` ones.
    ///
    /// An installed option is kept only as far as the table still allows it. A column that was
    /// dropped is not sent any more. A table whose key is not called `id` gets a function of its
    /// own instead of the generic one. [`not_kept`](Self::not_kept) reports both.
    ///
    /// # Errors
    /// If a named column is not one of the table's, or if the generic function cannot do what is
    /// asked for.
    pub fn over(
        &self,
        installed: Option<&TriggerOptions>,
        table: &CatalogTable,
    ) -> Result<TriggerOptions, TriggerError> {
        let mut kept = installed
            .filter(|_| !self.defaults)
            .cloned()
            .unwrap_or_default();
        if let (Some(channel), None) = (&self.default_channel, installed) {
            kept.channel.clone_from(channel);
        }
        if self.channel_per_table {
            let base = self.default_channel.as_deref();
            kept.channel = channel_of_table(base.unwrap_or(DEFAULT_CACHE_CHANNEL), table);
        }
        let has_condition = !matches!(self.condition, None | Some(AskedCondition::AllRows));
        let is_special = self.names_columns()
            || self.bulk
            || self.no_data
            || self.on_change
            || self.long_numbers_as_text
            || self.no_guard
            || has_condition;
        // An installed generic function stays generic only while it still fits the key. A table
        // whose key was renamed would otherwise be refused, though nobody asked for --generic.
        if self.generic || (kept.generic && (is_special || takes_generic(table))) {
            return self.generic_over(kept, is_special, table);
        }
        let columns = match self.columns_of(table)? {
            Some(columns) => Some(columns),
            // --no-data sends no column, so an installed list would have no meaning beside it.
            None if self.no_data => None,
            None => match &kept.columns {
                Some(columns) => Some(sent_columns(table, &existing(table, columns))?),
                None => None,
            },
        };
        let condition = match &self.condition {
            // The text of a file is kept as it stands there, to be compared with it later.
            Some(AskedCondition::Checked(condition)) if self.defaults => Some(condition.clone()),
            Some(asked) => asked.over(installed.and_then(|installed| installed.condition.clone())),
            None => kept.condition,
        };
        let bulk = match kept.bulk {
            kept if self.bulk => Some(self.rows.or(kept).unwrap_or(BULK_ROWS)),
            kept => kept.filter(|_| !self.no_bulk),
        };
        if bulk.is_some() && (self.on_change || kept.on_change) {
            return Err(TriggerError::new("--bulk and --on-change exclude each other: a statement trigger does not know \
                    which row became which").with_hint("leave one of them out; where it is installed, --no-bulk or --defaults takes it away"));
        }
        Ok(TriggerOptions {
            channel: self.channel.clone().unwrap_or(kept.channel),
            columns,
            condition,
            bulk,
            // --columns is how a person ends an installed --no-data.
            no_data: self.no_data || (kept.no_data && !self.names_columns()),
            on_change: self.on_change || kept.on_change,
            always: self.always || kept.always,
            no_truncate: self.no_truncate || kept.no_truncate,
            long_numbers_as_text: self.long_numbers_as_text || kept.long_numbers_as_text,
            no_guard: self.no_guard || kept.no_guard,
            generic: false,
        })
    }

    /// Tells whether the columns to send are asked for, by their names or by those of the others.
    fn names_columns(&self) -> bool {
        self.columns.is_some() || self.exclude_columns.is_some()
    }

    /// Returns the columns that are asked for, in table order; `None` if none are.
    fn columns_of(&self, table: &CatalogTable) -> Result<Option<Vec<String>>, TriggerError> {
        if let Some(columns) = &self.columns {
            return sent_columns(table, columns).map(Some);
        }
        let Some(excluded) = &self.exclude_columns else {
            return Ok(None);
        };
        let mut left_out = Vec::new();
        for name in excluded {
            let column = table
                .column(name)
                .ok_or_else(|| no_such_column(table, name))?;
            let is_of_key = table
                .key
                .as_ref()
                .is_some_and(|key| key.columns.contains(&column.name));
            if is_of_key {
                return Err(TriggerError::new(format!(
                    "{} is of the key of {}, which is always sent",
                    column.name,
                    table.display_name()
                )));
            }
            left_out.push(&column.name);
        }
        let sent = table.columns.iter().map(|column| &column.name);
        Ok(Some(
            sent.filter(|name| !left_out.contains(name))
                .cloned()
                .collect(),
        ))
    }

    /// Returns notes on the `installed` options that `options` could not keep though nobody asked
    /// to change them.
    pub fn not_kept(
        &self,
        installed: &TriggerOptions,
        options: &TriggerOptions,
        table: &CatalogTable,
    ) -> Vec<String> {
        if self.defaults {
            return Vec::new();
        }
        let mut notes = Vec::new();
        if installed.generic && !options.generic {
            notes.push(
                "it has a function of its own from now on: the generic one needs a key called id that is \
                no array"
                    .to_string(),
            );
        }
        if !self.names_columns() && !self.no_data {
            let gone = installed
                .columns
                .iter()
                .flatten()
                .filter(|column| table.column(column).is_none());
            notes.extend(gone.map(|column| {
                format!(
                    "the column {column} is gone, and not sent any more; --columns names others"
                )
            }));
        }
        notes
    }

    /// Returns the options of a table that uses the generic function.
    ///
    /// The generic function serves all tables of a schema and knows none of their columns but the
    /// key, which must be called `id`. `is_special` tells whether an option is asked for that needs
    /// a function of the table's own.
    fn generic_over(
        &self,
        kept: TriggerOptions,
        is_special: bool,
        table: &CatalogTable,
    ) -> Result<TriggerOptions, TriggerError> {
        if is_special {
            return Err(TriggerError::new(
                "--columns, --exclude-columns, --where, --bulk, --no-data, --on-change, \
                    --long-numbers-as-text and --no-guard need a function of the table's own",
            )
            .with_hint("leave --generic out, and give --defaults where it is installed"));
        }
        if !takes_generic(table) {
            return Err(TriggerError::new(format!(
                "the generic function needs a key of one column called id that is no array, \
                    which {} has not",
                table.display_name()
            ))
            .with_hint("leave --generic out: a function of the table's own takes any key"));
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

/// Tells whether the generic function can announce a table. It knows no column but `id`, and sends
/// arrays without their bounds.
fn takes_generic(table: &CatalogTable) -> bool {
    let is_id = table.key.as_ref().is_some_and(|key| key.columns == ["id"]);
    is_id && table.column("id").is_some_and(|column| !column.is_array)
}

/// Returns those of `columns` that the table still has.
fn existing(table: &CatalogTable, columns: &[String]) -> Vec<String> {
    columns
        .iter()
        .filter(|column| table.column(column).is_some())
        .cloned()
        .collect()
}

/// Returns the columns to send, in table order: those named and the key's.
///
/// # Errors
/// If the table has no column of a name.
fn sent_columns(table: &CatalogTable, names: &[String]) -> Result<Vec<String>, TriggerError> {
    // A payload without the key could not be applied to any row.
    let mut sent: Vec<&str> = table
        .key
        .iter()
        .flat_map(|key| &key.columns)
        .map(String::as_str)
        .collect();
    for name in names {
        let column = table
            .column(name)
            .ok_or_else(|| no_such_column(table, name))?;
        sent.push(&column.name);
    }
    let in_order = table.columns.iter().map(|column| column.name.clone());
    Ok(in_order
        .filter(|name| sent.contains(&name.as_str()))
        .collect())
}

/// Returns the error for a column that the table does not have; the hint lists those that it has.
fn no_such_column(table: &CatalogTable, name: &str) -> TriggerError {
    let has: Vec<&str> = table
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    TriggerError::new(format!("{} has no column {name}", table.display_name())).with_hint(format!(
        "its columns are {}; name others with --columns, or send all with --defaults",
        has.join(", ")
    ))
}
