//! [`OptionChanges`]: what a person asks to be changed of a table's [`TriggerOptions`].

use crate::failure::with_hint;
use crate::tables::catalog::CatalogTable;
pub use postgres_index_cache_core::postgres::triggers::TriggerOptions;

/// What is asked for. What is not asked for keeps what is installed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the command line"
)]
#[derive(Debug, Clone, Default)]
pub struct OptionChanges {
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
    /// `--print-sql`: somebody else runs it, so that this role's privileges do not count.
    pub prints_only: bool,
    /// `--replace-function`: a function of the needed name is replaced whoever made it.
    pub replace_function: bool,
}

impl OptionChanges {
    /// What comes of it over what is installed. What is kept is what can be: a column that is gone
    /// is not sent any more, and a table whose key is not `id` leaves the generic function.
    /// [`not_kept`](Self::not_kept) says so.
    ///
    /// # Errors
    /// When a column is not one of the table's.
    pub fn over(
        &self,
        installed: Option<&TriggerOptions>,
        table: &CatalogTable,
    ) -> anyhow::Result<TriggerOptions> {
        let kept = installed
            .filter(|_| !self.defaults)
            .cloned()
            .unwrap_or_default();
        let is_special = self.columns.is_some() || self.no_data || self.on_change || self.no_guard;
        if self.generic || (kept.generic && (is_special || takes_generic(table))) {
            return self.generic_over(kept, is_special, table);
        }
        let columns = match &self.columns {
            Some(columns) => Some(sent_columns(table, columns)?),
            None => kept
                .columns
                .as_ref()
                .filter(|_| !self.no_data)
                .map(|columns| {
                    let there: Vec<String> = columns
                        .iter()
                        .filter(|column| table.column(column).is_some())
                        .cloned()
                        .collect();
                    sent_columns(table, &there)
                })
                .transpose()?,
        };
        Ok(TriggerOptions {
            channel: self.channel.clone().unwrap_or(kept.channel),
            columns,
            no_data: self.no_data || (kept.no_data && self.columns.is_none()),
            on_change: self.on_change || kept.on_change,
            always: self.always || kept.always,
            no_truncate: self.no_truncate || kept.no_truncate,
            no_guard: self.no_guard || kept.no_guard,
            generic: false,
        })
    }

    /// What of the options that are `installed` could not be kept in `options`, though nobody asked
    /// for that.
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
                "it has a function of its own from now on: the generic one needs a key called id"
                    .to_string(),
            );
        }
        if self.columns.is_none() && !self.no_data {
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

    /// The one function of all tables knows none of their columns but the key, which must be called
    /// `id`.
    fn generic_over(
        &self,
        kept: TriggerOptions,
        is_special: bool,
        table: &CatalogTable,
    ) -> anyhow::Result<TriggerOptions> {
        if is_special {
            return Err(with_hint(
                anyhow::anyhow!(
                    "--columns, --no-data, --on-change and --no-guard need a function of the \
                    table's own"
                ),
                "leave --generic out, and give --defaults where it is installed",
            ));
        }
        if !takes_generic(table) {
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

/// Whether the generic function, which knows no column but `id`, can announce a table.
fn takes_generic(table: &CatalogTable) -> bool {
    table.key.as_ref().is_some_and(|key| key.columns == ["id"])
}

/// The columns to send, in table order, with the key.
fn sent_columns(table: &CatalogTable, names: &[String]) -> anyhow::Result<Vec<String>> {
    let mut sent: Vec<&str> = table
        .key
        .iter()
        .flat_map(|key| &key.columns)
        .map(String::as_str)
        .collect();
    for name in names {
        let column = table.column(name).ok_or_else(|| {
            let has: Vec<&str> = table
                .columns
                .iter()
                .map(|column| column.name.as_str())
                .collect();
            let hint = format!(
                "its columns are {}; name others with --columns, or send all with --defaults",
                has.join(", ")
            );
            with_hint(
                anyhow::anyhow!("{} has no column {name}", table.display_name()),
                hint,
            )
        })?;
        sent.push(&column.name);
    }
    let in_order = table.columns.iter().map(|column| column.name.clone());
    Ok(in_order
        .filter(|name| sent.contains(&name.as_str()))
        .collect())
}
