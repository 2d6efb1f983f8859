//! [`File`]: the text of `pgic.toml`.

use anyhow::anyhow;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The settings as the file has them. A key that is not known is an error: a misspelt one would
/// have no effect, and nobody would notice.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) output: Option<String>,
    pub(super) color: Option<String>,
    #[serde(default)]
    pub(super) utc: bool,
    pub(super) channel: Option<String>,
    #[serde(default)]
    pub(super) connections: BTreeMap<String, ConnectionSection>,
    #[serde(default)]
    pub(super) tables: BTreeMap<String, TableSection>,
}

/// A connection, found by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionSection {
    pub(super) url: String,
}

/// Without the connection string, which may hold a password.
impl std::fmt::Debug for ConnectionSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionSection").finish_non_exhaustive()
    }
}

/// The options of a table's triggers.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct TableSection {
    pub(super) channel: Option<String>,
    pub(super) channel_per_table: bool,
    pub(super) columns: Option<Vec<String>>,
    pub(super) exclude_columns: Option<Vec<String>>,
    #[serde(rename = "where")]
    pub(super) condition: Option<String>,
    pub(super) bulk: bool,
    pub(super) rows: Option<u32>,
    pub(super) no_data: bool,
    pub(super) on_change: bool,
    pub(super) always: bool,
    pub(super) no_truncate: bool,
    pub(super) long_numbers_as_text: bool,
    pub(super) no_guard: bool,
    pub(super) generic: bool,
}

impl File {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// If the text is no TOML, or holds what is not known. The error has the number of the line and
    /// no value of the file: one may be a password.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| {
                let before = text.get(..span.start).unwrap_or_default();
                format!("line {}: ", before.matches('\n').count() + 1)
            });
            let message = without_value(error.message());
            anyhow!("{}{message}", line.unwrap_or_default())
        })?;
        for (name, section) in &file.tables {
            let chosen = [
                section.columns.is_some(),
                section.exclude_columns.is_some(),
                section.no_data,
            ];
            anyhow::ensure!(
                chosen.iter().filter(|is_chosen| **is_chosen).count() <= 1,
                "the table {name} has more than one of columns, exclude-columns and no-data"
            );
            anyhow::ensure!(
                section.bulk || section.rows.is_none(),
                "the table {name} has rows, which is for statement triggers: add bulk = true"
            );
            anyhow::ensure!(section.rows != Some(0), "rows of the table {name} is 0");
        }
        Ok(file)
    }
}

/// Returns the message of a parser without the value that it found.
fn without_value(message: &str) -> String {
    let found = ["invalid type: ", "invalid value: "]
        .into_iter()
        .find(|start| message.starts_with(start));
    match (found, message.rsplit_once(", expected ")) {
        (Some(_), Some((_, expected))) => format!("expected {expected}"),
        _ => message.to_string(),
    }
}
