//! The checks of tables and triggers: the one diagnosis of a table, and the wishes of `pgic.toml`.

use super::{Examination, Findings, Found, found};
use crate::render::count;
use crate::settings::Settings;
use crate::tables::catalog::{self, Catalog, CatalogTable, RelationKind};
use crate::triggers::check::is_current;
use crate::triggers::configured::Configured;
use crate::triggers::observe::observe;
use crate::triggers::plan::{self, FunctionFacts};
use crate::triggers::secret_columns::secret_columns;
use crate::triggers::{TriggerOptions, condition};
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity, diagnose};
use tokio_postgres::Client;

/// A table that is examined.
pub(super) struct Table {
    pub(super) described: CatalogTable,
    /// Whether a trigger announces the table.
    pub(super) is_announced: bool,
    /// The channel on which the table is announced, if it is known.
    pub(super) channel: Option<String>,
    /// The options of the triggers; `None` if they are not known.
    pub(super) options: Option<TriggerOptions>,
    /// The problems with the table and its triggers.
    problems: Vec<Problem>,
}

impl Table {
    /// Describes a table that is as it is; `differs` is the problem that `pgic.toml` wants another.
    fn new(table: CatalogTable, differs: Option<Problem>) -> Self {
        let seen = observe(&table);
        let mut problems = diagnose(&table, is_current(seen.as_ref()));
        problems.extend(differs);
        let (channel, options) = match &seen {
            Some(seen) => (seen.channel.clone(), seen.options().cloned()),
            None => (None, None),
        };
        Self {
            is_announced: seen.is_some(),
            channel,
            options,
            problems,
            described: table,
        }
    }

    /// Looks at whether the condition of the triggers can be computed.
    pub(super) async fn look_at_condition(&mut self, client: &mut Client) {
        let problem = condition::problem(client, &self.described).await;
        self.problems.extend(problem);
    }

    /// Returns a problem of this table.
    pub(super) fn found(&self, problem: Problem) -> Found {
        Found {
            table: Some((self.described.schema.clone(), self.described.name.clone())),
            problem,
        }
    }

    /// Tells whether a column is sent, as far as is known.
    pub(super) fn sends(&self, column: &str) -> bool {
        let options = self.options.as_ref();
        options.is_none_or(|options| options.sends(column))
    }

    /// Returns the command that leaves these columns out of payloads. `None` if one of them is
    /// of the key, which is always sent.
    pub(super) fn leave_out(&self, columns: &[&str]) -> Option<String> {
        let key = self.described.key.as_ref()?;
        if columns
            .iter()
            .any(|column| key.columns.iter().any(|own| own == column))
        {
            return None;
        }
        let table = self.described.typed_name();
        let named = self
            .options
            .as_ref()
            .and_then(|options| options.columns.as_ref());
        Some(match named {
            Some(named) => {
                let kept = named.iter().map(String::as_str);
                let kept: Vec<&str> = kept.filter(|name| !columns.contains(name)).collect();
                if kept.is_empty() {
                    format!("pgic install-triggers {table} --no-data")
                } else {
                    let kept = typed_list(&kept);
                    format!("pgic install-triggers {table} --columns {kept}")
                }
            }
            None => {
                let left_out = typed_list(columns);
                format!("pgic install-triggers {table} --exclude-columns {left_out}")
            }
        })
    }
}

/// Returns names as a list on a command line.
fn typed_list(names: &[&str]) -> String {
    let list = names.join(",");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ',';
    if list.chars().all(is_plain) {
        list
    } else {
        format!("'{}'", list.replace('\'', "'\\''"))
    }
}

/// The tables that are examined.
pub(super) struct Tables {
    pub(super) all: Vec<Table>,
    /// Problems of tables that `pgic.toml` names and the database does not have.
    missing: Vec<Problem>,
    /// Whether all tables with triggers are examined.
    pub(super) are_all: bool,
}

impl Tables {
    /// Returns the tables that a trigger announces.
    pub(super) fn announced(&self) -> impl Iterator<Item = &Table> {
        self.all.iter().filter(|table| table.is_announced)
    }

    /// Returns the channels on which the tables are announced, each once, in order.
    pub(super) fn channels(&self) -> Vec<String> {
        let channels = self.announced().filter_map(|table| table.channel.clone());
        let mut channels: Vec<String> = channels.collect();
        channels.sort();
        channels.dedup();
        channels
    }

    /// Returns how many tables a trigger announces, in words.
    pub(super) fn in_words(&self) -> String {
        count(self.announced().count() as u64, "table")
    }
}

/// Describes the tables that are to be examined.
///
/// # Errors
/// If a name is no table's, or the server refuses.
pub(super) async fn read(
    catalog: &Catalog<'_>,
    settings: &Settings,
    examination: &Examination,
    version: i32,
) -> anyhow::Result<Tables> {
    let configured = Configured::find(catalog, settings).await?;
    let are_all = examination.tables.is_empty();
    let described = if are_all {
        let mut oids = catalog::tables_with_triggers(catalog).await?;
        for oid in configured.oids() {
            if !oids.contains(&oid) {
                oids.push(oid);
            }
        }
        catalog::describe(catalog, &oids).await?
    } else {
        catalog::resolve(catalog, &examination.tables).await?
    };
    let facts = FunctionFacts::read(catalog, &described).await?;
    let mut tables = Vec::new();
    for table in described {
        let differs = match configured.options(&table) {
            Some(options) => {
                let planned = plan::install(&facts, &table, options, version);
                let planned = planned.map_err(anyhow::Error::from);
                configured.problem(&table, &planned, observe(&table).is_some())
            }
            None => None,
        };
        tables.push(Table::new(table, differs));
    }
    Ok(Tables {
        all: tables,
        missing: if are_all {
            configured.missing().collect()
        } else {
            Vec::new()
        },
        are_all,
    })
}

/// The checks of the one diagnosis, each with the codes of its problems.
const DIAGNOSED: &[(&str, &[&str])] = &[
    (
        "announced",
        &[
            "not-announced",
            "nothing-announced",
            "table-missing",
            "not-as-configured",
        ],
    ),
    (
        "trigger-fires",
        &[
            "trigger-disabled",
            "trigger-conditional",
            "trigger-timing",
            "event-missing",
            "bulk-unfit",
        ],
    ),
    ("subscriber", &["subscriber"]),
    (
        "contract",
        &[
            "another-name",
            "key-bounds",
            "key-changed",
            "key-unknown",
            "condition-outdated",
        ],
    ),
    ("drift", &["function-outdated", "columns-outdated"]),
    (
        "function",
        &[
            "function-edited",
            "function-silent",
            "channel-unknown",
            "plain-form",
        ],
    ),
    ("planted", &["function-planted"]),
    ("several-triggers", &["several-triggers"]),
    ("truncate", &["truncate-missing", "truncate-disabled"]),
    ("key", &["no-key"]),
    (
        "relation",
        &[
            "temporary-table",
            "system-table",
            "partition",
            "inheritance-parent",
            "view",
            "foreign-table",
            "not-a-table",
        ],
    ),
    ("columns", &["names-objects", "virtual-columns"]),
];

/// Adds the outcomes of the checks that the catalogue decides.
pub(super) fn check(findings: &mut Findings, tables: &Tables) {
    let mut all: Vec<Found> = tables.missing.iter().cloned().map(found).collect();
    if tables.are_all && tables.announced().next().is_none() {
        all.push(found(Problem {
            code: "nothing-announced",
            severity: Severity::Critical,
            text: "no table announces its changes".to_string(),
            remedy: Some(Remedy::Advice(
                "install triggers: pgic install-triggers TABLE".to_string(),
            )),
        }));
    }
    for table in &tables.all {
        all.extend(
            table
                .problems
                .iter()
                .cloned()
                .map(|problem| table.found(problem)),
        );
        all.extend(virtual_columns(table).map(|problem| table.found(problem)));
    }
    for (check, codes) in DIAGNOSED {
        let own = all
            .iter()
            .filter(|found| codes.contains(&found.problem.code));
        findings.add(check, tables.in_words(), own.cloned().map(worse).collect());
    }
    let secrets = tables.announced().filter_map(secrets);
    findings.add("secrets", tables.in_words(), secrets.collect());
}

/// Returns a finding with the severity that a doctor gives to it. For `status` the plain form and
/// columns that name objects are facts; for a doctor they can leave a stale row.
fn worse(mut found: Found) -> Found {
    if matches!(found.problem.code, "plain-form" | "names-objects") {
        found.problem.severity = Severity::Warning;
    }
    found
}

/// Returns the problem that a table has virtual columns which are wanted in payloads.
fn virtual_columns(table: &Table) -> Option<Problem> {
    if !table.is_announced
        || !matches!(
            table.described.kind,
            RelationKind::Table | RelationKind::Partitioned
        )
    {
        return None;
    }
    let columns = table.described.columns.iter();
    let columns: Vec<&str> = columns
        .filter(|column| column.is_virtual && table.sends(&column.name))
        .map(|column| column.name.as_str())
        .collect();
    let command = table.leave_out(&columns)?;
    (!columns.is_empty()).then(|| Problem {
        code: "virtual-columns",
        severity: Severity::Warning,
        text: format!(
            "a trigger does not see the virtual columns {}: each change makes every cache read the \
            row again",
            columns.join(", ")
        ),
        remedy: Some(Remedy::Command {
            what: "leave them out",
            command,
        }),
    })
}

/// Returns the problem that columns are sent which look like secrets. Columns that somebody has
/// named with --columns are taken for a decision.
fn secrets(table: &Table) -> Option<Found> {
    let options = table.options.clone().unwrap_or_default();
    if options.columns.is_some() || options.no_data {
        return None;
    }
    let columns = secret_columns(&table.described, &options);
    if columns.is_empty() {
        return None;
    }
    let remedy = table.leave_out(&columns).map(|command| Remedy::Command {
        what: "leave it out",
        command,
    });
    Some(table.found(Problem {
        code: "secret-columns",
        severity: Severity::Warning,
        text: format!(
            "{} sends {}, which by the name is a secret: any role of the database can LISTEN and \
            read it",
            table.described.display_name(),
            columns.join(", ")
        ),
        remedy,
    }))
}
