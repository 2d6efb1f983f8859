//! [`Problem`]: a fault of a table's triggers, with a stable code, a severity and a remedy.

use std::fmt;

/// The severity of a problem, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Changes are lost or misunderstood. A cache of the table cannot be live.
    Critical,
    /// No change is lost, but some are found late, or the table costs more than necessary.
    Warning,
    /// Nothing is wrong. The fact is worth knowing.
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

/// The remedy for a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// A command line of pgic.
    Command {
        /// The effect of the command, as an imperative: `install them`.
        what: &'static str,
        /// The command line of pgic.
        command: String,
    },
    /// SQL, one statement or several.
    Sql {
        /// The effect of the statements, as an imperative.
        what: &'static str,
        /// The statements, separated by `; `.
        sql: String,
    },
    /// A statement, then a command line of pgic.
    Steps {
        /// The effect of both together, as an imperative.
        what: &'static str,
        /// The statement, to be run first.
        sql: String,
        /// The command line of pgic.
        command: String,
    },
    /// Advice in words, since a person must decide.
    Advice(String),
}

impl Remedy {
    /// Returns the statements and the command lines of pgic to run, in this order. A command line
    /// begins with `pgic `. For advice there are none.
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

/// One thing that is wrong with a table or its triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable name, for scripts.
    pub code: &'static str,
    /// The severity of the problem.
    pub severity: Severity,
    /// The problem in words, which name the table or the trigger.
    pub text: String,
    /// The remedy; `None` if there is none.
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

/// Makes a critical problem.
pub(super) fn critical(code: &'static str, text: String, remedy: Remedy) -> Problem {
    Problem {
        code,
        severity: Severity::Critical,
        text,
        remedy: Some(remedy),
    }
}

/// Makes a problem that is a warning.
pub(super) fn warning(code: &'static str, text: String, remedy: Remedy) -> Problem {
    Problem {
        code,
        severity: Severity::Warning,
        text,
        remedy: Some(remedy),
    }
}
