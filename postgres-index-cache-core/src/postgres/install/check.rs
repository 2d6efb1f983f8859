//! [`check`]: whether the triggers of tables announce every change, from code.

use super::condition;
use super::error::{Attempt as _, TriggerError};
use super::observe::{Observed, Version, observe};
use super::options::OptionChanges;
use super::plan::{self, FunctionFacts, TablePlan};
use super::tables::find;
use crate::postgres::catalog::{Catalog, CatalogAccess, CatalogTable};
use crate::postgres::triggers::{Problem, Remedy, Severity, diagnose};
use std::fmt;
use tokio_postgres::Client;

/// A table whose triggers were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedTable {
    /// The table's name: `schema.table`.
    pub name: String,
    /// The channel on which the triggers notify; `None` if no trigger announces the table, or the
    /// channel is not known.
    pub channel: Option<String>,
    /// Everything that is wrong, the worst first.
    pub problems: Vec<TriggerProblem>,
}

impl CheckedTable {
    /// Tells whether a replica can follow the table: no problem is critical. A warning may say that
    /// TRUNCATE is not announced, so look at [`problems`](Self::problems) too.
    pub fn is_announced(&self) -> bool {
        self.problems.iter().all(|problem| !problem.is_critical)
    }
}

/// A thing that is wrong with a table's triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TriggerProblem {
    /// A stable name, such as `not-announced`; `pgic doctor --explain CODE` says more.
    pub code: &'static str,
    /// Whether changes are lost or misunderstood, so that no cache of the table can be live.
    pub is_critical: bool,
    /// The problem in words.
    pub text: String,
    /// What to do, if there is something to do.
    pub remedy: Option<String>,
}

impl fmt::Display for TriggerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remedy {
            Some(remedy) => write!(f, "{}; {remedy}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl From<Problem> for TriggerProblem {
    fn from(problem: Problem) -> Self {
        Self {
            code: problem.code,
            is_critical: problem.severity == Severity::Critical,
            text: problem.text,
            remedy: problem.remedy.map(|remedy| remedy.to_string()),
        }
    }
}

/// Checks the triggers of `tables`: finds what `pgic status` says of each table. Changes nothing, and
/// waits for no lock longer than 0.2 s.
///
/// Not for a session that is in a transaction, as [`install`](super::install).
///
/// # Errors
/// If a table does not exist, or the server refuses.
pub async fn check(
    client: &mut Client,
    tables: &[impl AsRef<str> + Sync],
) -> Result<Vec<CheckedTable>, TriggerError> {
    let tables = find(client, tables).await?;
    let catalog = Catalog::begin(client, CatalogAccess::ReadOnly)
        .await
        .context("begin a transaction")?;
    let version = catalog.version_number().await?;
    let facts = FunctionFacts::read(&catalog, &tables).await?;
    catalog.roll_back().await.context("end the transaction")?;
    let mut checked = Vec::new();
    for table in &tables {
        let as_installed = OptionChanges::default();
        let planned = plan::install(&facts, table, &as_installed, version);
        let seen = observe(table);
        let mut problems = diagnose(table, is_current(seen.as_ref()));
        problems.extend(not_as_planned(
            table,
            seen.as_ref(),
            planned.as_ref().ok(),
            &problems,
        ));
        problems.extend(condition::problem(client, table).await);
        // Stable: those of one severity stay in the order in which they were found.
        problems.sort_by_key(|problem| problem.severity);
        checked.push(CheckedTable {
            name: table.display_name(),
            channel: seen.and_then(|seen| seen.announced.channel),
            problems: problems.into_iter().map(TriggerProblem::from).collect(),
        });
    }
    Ok(checked)
}

/// Returns whether the function of a table's triggers is word for word the one that would be made
/// today; `None` if it is not one of ours.
pub fn is_current(seen: Option<&Observed<'_>>) -> Option<bool> {
    seen.filter(|seen| seen.version != Version::Foreign)
        .map(|seen| seen.version == Version::Current)
}

/// Returns the problem that `planned`, the plan to install a table's triggers as they are installed,
/// has something to do, where the `problems` that were found do not explain it: the owner of a
/// function is another, or a trigger is left of the table's former name.
pub fn not_as_planned(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    planned: Option<&TablePlan>,
    problems: &[Problem],
) -> Option<Problem> {
    let steps = &planned?.steps;
    let mut severe = problems
        .iter()
        .filter(|problem| problem.severity != Severity::Notice);
    if steps.is_empty() || is_current(seen).is_none() || severe.next().is_some() {
        return None;
    }
    let steps: Vec<&str> = steps.iter().map(|step| step.what.as_str()).collect();
    Some(Problem {
        code: "not-as-planned",
        severity: Severity::Warning,
        text: format!("not as install-triggers makes it ({})", steps.join(", ")),
        remedy: Some(Remedy::Command {
            what: "refresh it",
            command: format!("pgic install-triggers {}", table.typed_name()),
        }),
    })
}
