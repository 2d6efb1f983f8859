//! The one diagnosis of a table: what keeps its changes from being announced and followed exactly.
//!
//! `status`, `verify`, the causes of findings, whoever follows a table and the plans of
//! `install-triggers` all ask here, so that what one command calls right no other calls wrong.

use crate::DEFAULT_CACHE_CHANNEL;
use crate::postgres::connection::session::quote_identifier;
use crate::postgres::schema::catalog::{CatalogTable, Enabled, Leaf, RelationKind, Trigger};
use crate::postgres::schema::triggers::{
    Announced, announced, is_edited, is_ours, read_comment, untrusted_columns,
};
use std::fmt;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Changes are lost or misunderstood: a cache of the table cannot be live.
    Critical,
    /// Nothing is lost, but something is found late or costs more than it need.
    Warning,
    /// Worth knowing.
    Notice,
}

impl Severity {
    /// Returns the word that stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// What mends a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// A command line of pgic, and what it does: `install them`.
    Command {
        /// What it does.
        what: &'static str,
        /// The command line.
        command: String,
    },
    /// A statement, and what it does.
    Sql {
        /// What it does.
        what: &'static str,
        /// The statement.
        sql: String,
    },
    /// A statement, then a command line of pgic.
    Steps {
        /// What both do.
        what: &'static str,
        /// The statement.
        sql: String,
        /// The command line.
        command: String,
    },
    /// What a person must decide.
    Advice(String),
}

impl Remedy {
    /// Returns what is to be run, in this order: statements, and command lines that begin with
    /// `pgic `. Advice has nothing.
    pub fn runnable(&self) -> Vec<&str> {
        match self {
            Self::Command { command, .. } => vec![command],
            Self::Sql { sql, .. } => vec![sql],
            Self::Steps { sql, command, .. } => vec![sql, command],
            Self::Advice(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { what, command } => write!(f, "{what}: {command}"),
            Self::Sql { what, sql } => write!(f, "{what}: {sql}"),
            Self::Steps { what, sql, command } => write!(f, "{what}: {sql}; then {command}"),
            Self::Advice(advice) => f.write_str(advice),
        }
    }
}

/// One thing that is not as it should be with a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable name, for scripts.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in words that name the table or the trigger.
    pub text: String,
    /// What mends it, where something does.
    pub remedy: Option<Remedy>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remedy {
            Some(remedy) => write!(f, "{}; {remedy}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

fn critical(code: &'static str, text: String, remedy: Remedy) -> Problem {
    Problem {
        code,
        severity: Severity::Critical,
        text,
        remedy: Some(remedy),
    }
}

fn warning(code: &'static str, text: String, remedy: Remedy) -> Problem {
    Problem {
        code,
        severity: Severity::Warning,
        text,
        remedy: Some(remedy),
    }
}

/// Why a relation cannot be announced and followed whatever triggers it has; `None` when it can.
pub fn check_table(table: &CatalogTable) -> Option<Problem> {
    let name = table.display_name();
    let problem = |code, what: &str, advice: &str| {
        Some(critical(
            code,
            format!("{name} is {what}"),
            Remedy::Advice(advice.to_string()),
        ))
    };
    match table.kind {
        RelationKind::Table if table.is_temporary => problem(
            "temporary-table",
            "a temporary table",
            "only its own session sees it, so no cache can follow it",
        ),
        RelationKind::Table
            if matches!(
                table.schema.as_str(),
                "pg_catalog" | "information_schema" | "pg_toast"
            ) =>
        {
            problem("system-table", "a system table", "name a table of your own")
        }
        RelationKind::Table | RelationKind::Partitioned if table.is_partition => problem(
            "partition",
            "a partition",
            "name the table that it is a partition of: its changes are announced as that one's",
        ),
        RelationKind::Table if table.has_children => problem(
            "inheritance-parent",
            "a table that others inherit from (INHERITS, or a hypertable): who reads it sees their \
            rows, and no trigger of \
             it announces them",
            "name the tables that hold the rows, or make it a partitioned table",
        ),
        RelationKind::Table | RelationKind::Partitioned if table.key.is_none() => {
            let text = format!(
                "{name} has neither a primary key nor a unique key of columns that are known to be \
                NOT NULL for every row"
            );
            let advice = "add one: without a key no cache can tell its rows apart";
            Some(critical("no-key", text, Remedy::Advice(advice.to_string())))
        }
        RelationKind::Table | RelationKind::Partitioned => None,
        RelationKind::View => problem("view", "a view", "name the tables under it"),
        RelationKind::MaterializedView => {
            problem("view", "a materialised view", "name the tables under it")
        }
        RelationKind::Foreign => problem(
            "foreign-table",
            "a foreign table",
            "connect to the server where it lives",
        ),
        RelationKind::Other => problem("not-a-table", "not a table", "name a table"),
    }
}

/// What is looked at, with the words that several problems share.
struct Diagnosis<'a> {
    table: &'a CatalogTable,
    name: String,
    seen: &'a Announced<'a>,
    /// Whether the function is one that pgic makes.
    is_ours: bool,
    problems: Vec<Problem>,
}

/// Returns everything that is not as it should be with a table and what announces it, the worst
/// first. `is_current` says whether a function of ours is word for word what would be made today,
/// where somebody knows.
pub fn diagnose(table: &CatalogTable, is_current: Option<bool>) -> Vec<Problem> {
    if let Some(problem) = check_table(table) {
        return vec![problem];
    }
    let seen = announced(table);
    let Some(seen) = seen else {
        let text = format!("no trigger announces changes of {}", table.display_name());
        return vec![critical(
            "not-announced",
            text,
            install(table, "install them", ""),
        )];
    };
    let is_ours = seen.comment.is_some();
    let mut diagnosis = Diagnosis {
        table,
        name: table.display_name(),
        seen: &seen,
        is_ours,
        problems: Vec::new(),
    };
    diagnosis.look_at_row_trigger();
    diagnosis.look_at_contract();
    diagnosis.look_at_function(is_current);
    diagnosis.look_at_truncate();
    diagnosis.look_at_columns();
    let mut problems = diagnosis.problems;
    problems.sort_by_key(|problem| problem.severity);
    problems
}

/// The command that makes a table's triggers what they should be.
fn install(table: &CatalogTable, what: &'static str, options: &str) -> Remedy {
    Remedy::Command {
        what,
        command: format!("pgic install-triggers {}{options}", table.typed_name()),
    }
}

/// Whether a problem says already that a function was made for something else. What differs in
/// smaller things is then neither news nor mended otherwise.
fn is_of_contract(problem: &Problem) -> bool {
    matches!(
        problem.code,
        "another-name" | "key-changed" | "key-unknown" | "function-edited"
    )
}

fn fires(trigger: &Trigger) -> bool {
    matches!(trigger.enabled, Enabled::Origin | Enabled::Always)
}

impl Diagnosis<'_> {
    fn install(&self, what: &'static str) -> Remedy {
        install(self.table, what, "")
    }

    /// What makes a trigger fire: pgic where it made the trigger, else a statement.
    fn enable(&self, trigger: &Trigger) -> Remedy {
        if self.is_ours {
            return self.install("enable it");
        }
        let sql = format!(
            "ALTER TABLE {} ENABLE TRIGGER {}",
            self.table.sql_name(),
            quote_identifier(&trigger.name)
        );
        Remedy::Sql {
            what: "enable it",
            sql,
        }
    }

    /// Whether each change of a row fires a trigger that announces it.
    fn look_at_row_trigger(&mut self) {
        let name = self.name.clone();
        let Some(row) = self.seen.row else {
            let text = format!("the row trigger of {name} is missing");
            self.problems
                .push(critical("not-announced", text, self.install("create it")));
            return;
        };
        let trigger = format!("the trigger {} of {name}", row.name);
        if !fires(row) {
            let text = format!("{trigger} is {}", row.enabled.as_str());
            self.problems
                .push(critical("trigger-disabled", text, self.enable(row)));
        }
        let enabling: Vec<&str> = self.table.fingerprint.enabling(&row.name).collect();
        if !enabling.is_empty() {
            let sql = enabling.join("; ");
            let text = format!(
                "{trigger} is disabled on a partition, or does not fire there for what logical \
                replication writes to it"
            );
            self.problems.push(critical(
                "trigger-disabled",
                text,
                Remedy::Sql {
                    what: "enable it",
                    sql,
                },
            ));
        }
        if row.is_conditional {
            let text = format!(
                "{trigger} has a condition or a list of columns: it does not fire for every change"
            );
            self.problems
                .push(critical("trigger-conditional", text, self.remake(row)));
        }
        // After the statement (not BEFORE: 2, not INSTEAD OF: 64) and for each row (1).
        if row.kind & (2 | 64) != 0 || row.kind & 1 == 0 {
            let text =
                format!("{trigger} does not fire after each row: what it announces may not happen");
            self.problems
                .push(critical("trigger-timing", text, self.remake(row)));
        }
        let events = self.seen.events();
        let missing: Vec<&str> = ["insert", "update", "delete"]
            .into_iter()
            .filter(|event| !events.contains(event))
            .collect();
        if !missing.is_empty() {
            let text = format!(
                "the triggers of {name} do not announce {}",
                missing.join(", ")
            );
            self.problems
                .push(critical("event-missing", text, self.remake(row)));
        }
        if self.table.fingerprint.is_subscribed && row.enabled != Enabled::Always && fires(row) {
            let text =
                format!("{trigger} does not fire for what logical replication writes to the table");
            let remedy = if self.is_ours {
                install(self.table, "let it", " --always")
            } else {
                let sql = format!(
                    "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}",
                    self.table.sql_name(),
                    quote_identifier(&row.name)
                );
                Remedy::Sql {
                    what: "let it",
                    sql,
                }
            };
            self.problems.push(critical("subscriber", text, remedy));
        }
    }

    /// What makes a trigger anew: pgic where it made the trigger, else dropping it comes first.
    fn remake(&self, trigger: &Trigger) -> Remedy {
        if self.is_ours {
            return self.install("refresh it");
        }
        // A function that has the name which pgic needs must be replaced as well.
        let function = &trigger.function;
        let table = self.table;
        let is_in_the_way = function.schema == table.schema
            && function.name == format!("notify_cache_change_{}", table.name);
        let option = if is_in_the_way {
            " --replace-function"
        } else {
            ""
        };
        Remedy::Steps {
            what: "replace it",
            sql: format!(
                "DROP TRIGGER {} ON {}",
                quote_identifier(&trigger.name),
                table.sql_name()
            ),
            command: format!("pgic install-triggers {}{option}", table.typed_name()),
        }
    }

    /// Whether what the trigger sends is meant for this table, and for the key that it has.
    fn look_at_contract(&mut self) {
        let table = self.table;
        let name = self.name.clone();
        let key = table
            .key
            .as_ref()
            .map(|key| key.columns.clone())
            .unwrap_or_default();
        let Some(comment) = &self.seen.comment else {
            let source = self
                .seen
                .row
                .map(|row| row.function.source.to_lowercase())
                .unwrap_or_default();
            let sends_id = source.contains("new.id") || source.contains("old.id");
            if sends_id && key != ["id"] {
                let text = format!(
                    "the function of {name}'s trigger sends the column id as the key, and the \
                    table's key is {}",
                    key.join(", ")
                );
                self.problems.extend(
                    self.seen
                        .row
                        .map(|row| critical("key-changed", text, self.remake(row))),
                );
            }
            return;
        };
        if !comment.options.generic
            && (&comment.schema, &comment.table) != (&table.schema, &table.name)
        {
            let text = format!(
                "changes of {name} are announced as those of {}.{}, which it was called once",
                comment.schema, comment.table
            );
            self.problems
                .push(critical("another-name", text, self.install("refresh it")));
        }
        match &comment.key {
            Some(made_for) if *made_for != key => {
                let text = format!(
                    "the function of {name}'s trigger sends the key {}, and the table's key is {}",
                    made_for.join(", "),
                    key.join(", ")
                );
                self.problems
                    .push(critical("key-changed", text, self.install("refresh it")));
            }
            None => {
                let text = format!(
                    "the function of {name}'s trigger does not say for which key it was made"
                );
                self.problems
                    .push(critical("key-unknown", text, self.install("refresh it")));
            }
            Some(_) => {}
        }
    }

    /// Whether the function is what its comment says.
    fn look_at_function(&mut self, is_current: Option<bool>) {
        let name = self.name.clone();
        let functions: Vec<&Trigger> = self.seen.announcing.clone();
        if self.is_ours
            && self
                .seen
                .row
                .is_some_and(|row| is_ours(&row.function) && is_edited(&row.function))
        {
            let text = format!(
                "the function of {name}'s trigger was edited by hand: nobody knows what it \
                announces"
            );
            self.problems.push(critical(
                "function-edited",
                text,
                self.install("refresh it"),
            ));
        } else if is_current == Some(false)
            && self.problems.iter().all(|problem| !is_of_contract(problem))
        {
            let text = format!(
                "the function of {name}'s trigger is not what this version of pgic makes for these \
                columns"
            );
            self.problems.push(warning(
                "function-outdated",
                text,
                self.install("refresh it"),
            ));
        }
        let is_planted = |trigger: &&&Trigger| {
            !trigger.function.is_trusted
                && read_comment(trigger.function.comment.as_deref()).is_some()
        };
        if let Some(planted) = functions.iter().find(is_planted) {
            let text = format!(
                "the function of {name}'s trigger belongs to {}, who is neither the table's owner \
                ({}) nor a member of it",
                planted.function.owner, self.table.owner
            );
            let remedy = install(
                self.table,
                "replace it, and give it to the owner",
                " --replace-function",
            );
            self.problems
                .push(warning("function-planted", text, remedy));
        }
        let foreign = self.seen.row.filter(|_| !self.is_ours);
        if let Some(row) =
            foreign.filter(|row| !row.function.source.to_lowercase().contains("notify"))
        {
            let text = format!(
                "the function {}.{} of {name}'s trigger notifies nobody: its text has no pg_notify \
                and no NOTIFY",
                row.function.schema, row.function.name
            );
            self.problems
                .push(critical("function-silent", text, self.remake(row)));
        } else if let Some(row) = self.seen.row.filter(|_| self.seen.channel.is_none()) {
            let text = format!(
                "on which channel the function {}.{} of {name}'s trigger notifies is not told by \
                its text and arguments",
                row.function.schema, row.function.name
            );
            let remedy = if self.is_ours {
                install(
                    self.table,
                    "choose one",
                    &format!(" --channel {DEFAULT_CACHE_CHANNEL}"),
                )
            } else {
                self.remake(row)
            };
            self.problems
                .push(critical("channel-unknown", text, remedy));
        } else if let Some(row) = foreign {
            let text = format!(
                "the trigger of {name} sends the plain form, without transaction ids: changes that \
                PostgreSQL folds or \
                 sends in another order leave stale rows"
            );
            let remedy = Some(self.remake(row));
            self.problems.push(Problem {
                code: "plain-form",
                severity: Severity::Notice,
                text,
                remedy,
            });
        }
        let of_rows: Vec<&&Trigger> = functions
            .iter()
            .filter(|trigger| trigger.kind & (4 | 8 | 16) != 0)
            .collect();
        if of_rows.len() > 1 {
            let names: Vec<&str> = of_rows
                .iter()
                .map(|trigger| trigger.name.as_str())
                .collect();
            let kept = self.seen.row.map(|row| row.name.as_str());
            let drops = of_rows
                .iter()
                .filter(|trigger| Some(trigger.name.as_str()) != kept)
                .map(|trigger| {
                    format!(
                        "DROP TRIGGER {} ON {}",
                        quote_identifier(&trigger.name),
                        self.table.sql_name()
                    )
                });
            let sql = drops.collect::<Vec<_>>().join("; ");
            let text = format!(
                "{} triggers announce rows of {name}: {}",
                of_rows.len(),
                names.join(", ")
            );
            let remedy = Remedy::Sql {
                what: "drop all but one",
                sql,
            };
            self.problems
                .push(warning("several-triggers", text, remedy));
        }
    }

    /// Whether TRUNCATE is announced. Where it is not, a cache keeps the rows until its next look
    /// at the table's files.
    fn look_at_truncate(&mut self) {
        let name = self.name.clone();
        let is_left_out = self
            .seen
            .options()
            .is_some_and(|options| options.no_truncate);
        match self.seen.truncate {
            None if is_left_out => {}
            None => {
                let text = format!(
                    "no trigger announces TRUNCATE of {name}: its rows would stay in a cache"
                );
                // Whether a function of somebody else's can be called for a statement nobody knows:
                // one that looks at NEW would fail the TRUNCATE.
                let remedy = match self.seen.row {
                    Some(row) if !self.is_ours => self.remake(row),
                    Some(_) | None => self.install("create it"),
                };
                self.problems
                    .push(warning("truncate-missing", text, remedy));
            }
            Some(truncate) if !fires(truncate) => {
                let text = format!(
                    "the trigger {} of {name} is {}",
                    truncate.name,
                    truncate.enabled.as_str()
                );
                self.problems
                    .push(warning("truncate-disabled", text, self.enable(truncate)));
            }
            Some(_) => {}
        }
        let has_truncate = |leaf: &&Leaf| {
            leaf.triggers.iter().any(|trigger| {
                trigger.kind == crate::postgres::schema::triggers::TRUNCATE_EVENT
                    && crate::postgres::schema::triggers::announces(trigger)
            })
        };
        let lacking: Vec<String> = self
            .table
            .leaves
            .iter()
            .filter(|leaf| !has_truncate(leaf))
            .map(Leaf::display_name)
            .collect();
        if !lacking.is_empty() && self.is_ours && !is_left_out {
            let text = format!(
                "TRUNCATE of {name}'s partitions {} is not announced",
                lacking.join(", ")
            );
            self.problems
                .push(warning("truncate-missing", text, self.install("create it")));
        }
    }

    /// Columns whose values cannot be had from payloads, or change when something else does.
    fn look_at_columns(&mut self) {
        let name = self.name.clone();
        let is_sent = |column: &str| {
            self.seen
                .options()
                .is_none_or(|options| options.sends(column))
        };
        let untrusted: Vec<&str> = untrusted_columns(self.table, self.seen.row)
            .into_iter()
            .filter(|column| is_sent(column))
            .filter(|column| {
                self.table
                    .column(column)
                    .is_some_and(|column| !column.is_virtual)
            })
            .collect();
        if self.is_ours && !untrusted.is_empty() && !self.problems.iter().any(is_of_contract) {
            let text = format!(
                "the function of {name}'s trigger was not made for the columns {}: rows are read \
                again by their keys",
                untrusted.join(", ")
            );
            self.problems.push(warning(
                "columns-outdated",
                text,
                self.install("refresh it"),
            ));
        }
        let named: Vec<&str> = self
            .table
            .columns
            .iter()
            .filter(|column| column.names_objects() && is_sent(&column.name))
            .map(|column| column.name.as_str())
            .collect();
        if !named.is_empty() {
            let text = format!(
                "the columns {} of {name} are written as names of other objects: a rename \
                elsewhere changes them, and \
                 announces nothing",
                named.join(", ")
            );
            self.problems.push(Problem {
                code: "names-objects",
                severity: Severity::Notice,
                text,
                remedy: None,
            });
        }
    }
}
