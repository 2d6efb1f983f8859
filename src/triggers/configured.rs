//! [`Configured`]: the tables of `pgic.toml`, and how those of the database differ from them.

use crate::failure::Report;
use crate::settings::{Settings, WantedTable};
use crate::tables::catalog::{Catalog, CatalogTable};
use crate::triggers::plan::TablePlan;
use crate::triggers::{OptionChanges, TriggerOptions};
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity};

/// The code of the problem that a table is not as the file wants it.
pub const NOT_AS_CONFIGURED: &str = "not-as-configured";

/// The command that makes the triggers as the file wants them.
const INSTALL: &str = "pgic install-triggers --from-config";

/// The tables that the file wants to be announced, as far as the database has them.
pub struct Configured<'a> {
    tables: Vec<(u32, &'a WantedTable)>,
    /// The names that no table of the database has.
    missing: Vec<&'a str>,
}

impl<'a> Configured<'a> {
    /// Finds the tables of the file in the database.
    ///
    /// # Errors
    /// If a name is none, or the server refuses.
    pub async fn find(catalog: &Catalog<'_>, settings: &'a Settings) -> anyhow::Result<Self> {
        let mut configured = Self {
            tables: Vec::new(),
            missing: Vec::new(),
        };
        for wanted in &settings.tables {
            match catalog.find(&wanted.name).await? {
                Some(oid) => configured.tables.push((oid, wanted)),
                None => configured.missing.push(&wanted.name),
            }
        }
        Ok(configured)
    }

    /// Returns the tables of the file, in its order.
    pub fn oids(&self) -> impl Iterator<Item = u32> {
        self.tables.iter().map(|(oid, _)| *oid)
    }

    /// Returns the options that the file wants for a table; `None` if it does not name the table.
    pub fn options(&self, table: &CatalogTable) -> Option<&OptionChanges> {
        let found = self.tables.iter().find(|(oid, _)| *oid == table.oid);
        found.map(|(_, wanted)| &wanted.options)
    }

    /// Returns the problem that a table is not as the file wants it; `None` if it is. `planned` is
    /// the plan that makes it so, and `is_announced` tells whether a trigger announces the table.
    pub fn problem(
        &self,
        table: &CatalogTable,
        planned: &anyhow::Result<TablePlan>,
        is_announced: bool,
    ) -> Option<Problem> {
        let has_tables = !self.tables.is_empty() || !self.missing.is_empty();
        if self.options(table).is_none() {
            return (has_tables && is_announced).then(|| Problem {
                code: "not-in-config",
                severity: Severity::Notice,
                text: format!("{} is not in pgic.toml", table.display_name()),
                remedy: None,
            });
        }
        let (text, remedy) = match planned {
            Ok(plan) => {
                let old = plan.old_options.as_ref()?;
                let new = plan.new_options.as_ref()?;
                if old == new {
                    return None;
                }
                let text = format!("pgic.toml wants {}", differences(old, new).join(", "));
                let remedy = Remedy::Command {
                    what: "make it so",
                    command: INSTALL.to_string(),
                };
                (text, Some(remedy))
            }
            Err(error) => {
                let report = Report::new(error);
                (
                    format!("not as pgic.toml wants it: {}", report.one_line()),
                    None,
                )
            }
        };
        Some(Problem {
            code: NOT_AS_CONFIGURED,
            severity: Severity::Warning,
            text,
            remedy,
        })
    }

    /// Returns a problem for each table of the file that the database does not have.
    pub fn missing(&self) -> impl Iterator<Item = Problem> {
        self.missing.iter().map(|name| Problem {
            code: "table-missing",
            severity: Severity::Critical,
            text: format!("pgic.toml wants {name} to be announced, which does not exist here"),
            remedy: None,
        })
    }
}

/// Returns the columns that are sent, in words.
fn columns(options: &TriggerOptions) -> String {
    match &options.columns {
        Some(columns) => format!("columns {}", columns.join(",")),
        None => "all columns".to_string(),
    }
}

/// Returns the rows that are announced, in words.
fn rows(options: &TriggerOptions) -> String {
    match &options.condition {
        Some(condition) => format!("rows where {}", condition.given),
        None => "all rows".to_string(),
    }
}

/// Says how the wanted options differ from the installed ones.
fn differences(installed: &TriggerOptions, wanted: &TriggerOptions) -> Vec<String> {
    let mut differences = Vec::new();
    if installed.channel != wanted.channel {
        differences.push(format!(
            "channel {}, installed is {}",
            wanted.channel, installed.channel
        ));
    }
    if installed.columns != wanted.columns {
        differences.push(format!(
            "{}, installed are {}",
            columns(wanted),
            columns(installed)
        ));
    }
    if installed.condition != wanted.condition {
        differences.push(format!(
            "{}, installed are {}",
            rows(wanted),
            rows(installed)
        ));
    }
    if installed.bulk != wanted.bulk {
        let rows = |options: &TriggerOptions| match options.bulk {
            Some(rows) => format!("bulk of {rows} rows"),
            None => "a trigger for each row".to_string(),
        };
        differences.push(format!(
            "{}, installed is {}",
            rows(wanted),
            rows(installed)
        ));
    }
    for (name, installed, wanted) in [
        ("no-data", installed.no_data, wanted.no_data),
        ("on-change", installed.on_change, wanted.on_change),
        ("always", installed.always, wanted.always),
        ("no-truncate", installed.no_truncate, wanted.no_truncate),
        (
            "long-numbers-as-text",
            installed.long_numbers_as_text,
            wanted.long_numbers_as_text,
        ),
        ("no-guard", installed.no_guard, wanted.no_guard),
        ("generic", installed.generic, wanted.generic),
    ] {
        match (installed, wanted) {
            (false, true) => differences.push(name.to_string()),
            (true, false) => differences.push(format!("no {name}")),
            _ => {}
        }
    }
    differences
}
