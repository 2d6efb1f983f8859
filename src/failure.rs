//! [`Report`]: an error as people see it: the attempt, the server's words, then a hint.

mod connecting;

use crate::exit_code::ExitCode;
use crate::render::Format;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::triggers::TriggerError;
use anstyle::AnsiColor;
pub use connecting::ConnectFailure;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::sqlstate::{self, Policy};
use std::error::Error as StdError;
use std::fmt;
use throwaway_postgres::INSTALL_HINT;

/// Advice on the next step. Attached to an error by [`with_hint`], and printed on a separate line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hint {
    text: String,
    /// The texts of the hints that were attached to the error before this one. They are links of
    /// the chain, where nothing but the text tells a hint from a cause.
    earlier: Vec<String>,
}

impl Hint {
    /// Tells whether a link of the chain is this hint, or an earlier one.
    fn is_or_replaces(&self, text: &str) -> bool {
        self.text == text || self.earlier.iter().any(|earlier| earlier == text)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Attaches a hint to the error of a result.
pub trait HintExt<T> {
    /// Attaches `hint` to the error, if the result is one.
    ///
    /// # Errors
    /// The error of the result.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> HintExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| with_hint(error, hint))
    }
}

/// Returns `error` with a hint, which replaces one that was attached before: the caller knows more
/// of what was tried.
pub fn with_hint(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> anyhow::Error {
    let error = error.into();
    let earlier = match error.downcast_ref::<Hint>() {
        Some(Hint { text, earlier }) => {
            let mut texts = earlier.clone();
            texts.push(text.clone());
            texts
        }
        None => Vec::new(),
    };
    error.context(Hint {
        text: hint.into(),
        earlier,
    })
}

/// Tells whether the server's code in a chain of errors means that the session was lost, or the
/// server is starting. The connection may not be closed yet: its reason arrives first.
pub fn lost_session(error: &anyhow::Error) -> bool {
    error.chain().filter_map(sqlstate::of).any(|code| {
        matches!(
            sqlstate::policy(Some(code)),
            Policy::Lost | Policy::Starting
        )
    })
}

/// An error in parts, each safe to print: characters that a terminal obeys are escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The chain of causes on one line, from the attempt to the root cause.
    pub error: String,
    /// Details that the server added.
    pub details: Vec<String>,
    /// Advice: the hint that was attached to the error, else the server's own.
    pub hint: Option<String>,
}

impl Report {
    /// Takes an error apart.
    pub fn new(error: &anyhow::Error) -> Self {
        let attached = error.downcast_ref::<Hint>();
        let carried = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<TriggerError>()?.hint())
            .map(|hint| escape(hint).into_owned());
        let mut causes: Vec<String> = Vec::new();
        let mut details = Vec::new();
        let mut server_hint = None;
        for cause in error.chain() {
            let mut text = cause.to_string();
            // The hint is a link of the chain like any other.
            if attached.is_some_and(|hint| hint.is_or_replaces(&text)) {
                continue;
            }
            if let Some(failure) = cause.downcast_ref::<ConnectFailure>() {
                let found = failure.details();
                details.extend(found.iter().map(|detail| escape(detail).into_owned()));
                let hint = failure.hint().map(|hint| escape(&hint).into_owned());
                server_hint = hint.or(server_hint);
            }
            if let Some(server) = cause.downcast_ref::<tokio_postgres::error::DbError>() {
                text = format!("{} (SQLSTATE {})", server.message(), server.code().code());
                details.extend(server.detail().map(|detail| escape(detail).into_owned()));
                let hint = server.hint().map(|hint| escape(hint).into_owned());
                server_hint = hint.or(server_hint);
            } else if is_empty_frame(cause) {
                continue;
            }
            // An error that passes on its source's text would repeat that text.
            if !causes.contains(&text) {
                causes.push(text);
            }
        }
        Self {
            // Escaped as a whole: a newline in a name could make somebody else's text pass for a
            // line of ours.
            error: escape(&causes.join(": ")).into_owned(),
            details,
            hint: attached.map(own_hint).or(carried).or(server_hint),
        }
    }

    /// Returns the lines to print, each named: `error: …`, `detail: …`,
    /// `hint: …`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {}", self.error)];
        lines.extend(
            self.details
                .iter()
                .map(|detail| format!("detail: {detail}")),
        );
        lines.extend(self.hint.iter().map(|hint| format!("hint: {hint}")));
        lines
    }

    /// Returns all parts on one line.
    pub fn one_line(&self) -> String {
        std::iter::once(&self.error)
            .chain(&self.details)
            .chain(&self.hint)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Returns an error as text for stderr, see [`Report::lines`], or as an object of JSON.
pub fn text(error: &anyhow::Error, format: Format, at: Timestamp) -> String {
    let report = Report::new(error);
    if format == Format::Text {
        return report
            .lines()
            .iter()
            .map(|line| format!("{}\n", painted(line)))
            .collect();
    }
    let code = match ExitCode::of(error) {
        ExitCode::Unreachable => "unreachable",
        ExitCode::Yes | ExitCode::No | ExitCode::Failed => "failed",
    };
    EventLine::new("error", at)
        .member("code", code)
        .optional("sqlstate", sqlstate::of(error.as_ref()))
        .member("text", &report.error)
        .member("details", &report.details)
        .optional("hint", report.hint.as_ref())
        .end()
}

/// Returns a line of a report with its first word in colour. What prints the line takes the codes
/// off where no colour is wanted.
fn painted(line: &str) -> String {
    let Some((word, rest)) = line.split_once(':') else {
        return line.to_string();
    };
    let style = match word {
        "error" => AnsiColor::Red.on_default().bold(),
        "hint" => AnsiColor::Cyan.on_default(),
        _ => return line.to_string(),
    };
    format!("{style}{word}:{style:#}{rest}")
}

/// Returns a usage error, which clap or pgic wrote as lines of text, as an object of JSON.
pub fn usage(text: &str, at: Timestamp) -> String {
    EventLine::new("error", at)
        .member("code", "usage")
        .member("text", text.trim_start_matches("error: ").trim_end())
        .member("details", [""; 0])
        .end()
}

/// Returns the lines to print for an error; see [`Report::lines`].
#[cfg(test)]
pub fn lines(error: &anyhow::Error) -> Vec<String> {
    Report::new(error).lines()
}

/// Tells whether a cause says nothing by itself. The text of a `tokio_postgres::Error` is "db
/// error" or the like; the server's words come from the next link of the chain.
fn is_empty_frame(cause: &(dyn StdError + 'static)) -> bool {
    let is_silent = cause
        .downcast_ref::<TriggerError>()
        .is_some_and(TriggerError::is_silent);
    (is_silent || cause.is::<tokio_postgres::Error>()) && cause.source().is_some()
}

/// Returns the text of an attached hint, escaped. The hint with the install command has several
/// lines and no text from outside, so it is printed as it stands.
fn own_hint(Hint { text, .. }: &Hint) -> String {
    if text == INSTALL_HINT {
        text.clone()
    } else {
        escape(text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    // The hint is a context like "list tables", in the middle of the chain here.
    #[test]
    fn the_hint_is_a_line_of_its_own_wherever_it_was_attached() {
        let failed: Result<(), _> = Err(std::io::Error::other("refused"));
        let error = failed
            .context("connect")
            .hint("start the server")
            .context("list tables")
            .unwrap_err();
        assert_eq!(
            lines(&error),
            [
                "error: list tables: connect: refused",
                "hint: start the server"
            ]
        );
        assert_eq!(
            Report::new(&error).one_line(),
            "list tables: connect: refused; start the server"
        );
    }

    // The inner hints were printed as causes: "error: install: give it more time: lock users".
    #[test]
    fn of_several_hints_the_outermost_is_printed_and_none_is_a_cause() {
        let failed: Result<(), _> = Err(std::io::Error::other("not in time"));
        let error = failed
            .hint("look who holds the lock")
            .context("lock users")
            .hint("give it more time")
            .context("install")
            .hint("try again")
            .unwrap_err();
        assert_eq!(
            lines(&error),
            ["error: install: lock users: not in time", "hint: try again"]
        );
    }
}
