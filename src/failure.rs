//! Errors as people see them: what was tried, what the server said, then a hint.

use crate::connect::ConnectFailure;
use crate::render::escape::escape;
use std::fmt;
use throwaway_postgres::INSTALL_HINT;

/// What to do next, carried along with an error and printed on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint(pub String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Attaches a hint to an error.
pub trait HintExt<T> {
    /// The same error with a hint.
    ///
    /// # Errors
    /// The error.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> HintExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| with_hint(error, hint))
    }
}

/// An error with a hint.
pub fn with_hint(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> anyhow::Error {
    error.into().context(Hint(hint.into()))
}

/// The lines to print for an error: its chain on one, what the server adds, then the hint. What a
/// terminal obeys is escaped.
pub fn lines(error: &anyhow::Error) -> Vec<String> {
    let hint = error.downcast_ref::<Hint>().cloned();
    let hint_text = hint.as_ref().map(ToString::to_string);
    let mut causes: Vec<String> = Vec::new();
    let mut details = Vec::new();
    let mut server_hint = None;
    for cause in error.chain() {
        let mut text = cause.to_string();
        if Some(&text) == hint_text.as_ref() {
            continue;
        }
        let failed = cause
            .downcast_ref::<ConnectFailure>()
            .and_then(ConnectFailure::hint);
        server_hint = failed.map(|hint| format!("hint: {hint}")).or(server_hint);
        if let Some(server) = cause.downcast_ref::<tokio_postgres::error::DbError>() {
            text = format!("{} (SQLSTATE {})", server.message(), server.code().code());
            details.extend(
                server
                    .detail()
                    .map(|detail| format!("detail: {}", escape(detail))),
            );
            server_hint = server
                .hint()
                .map(|hint| format!("hint: {}", escape(hint)))
                .or(server_hint);
        } else if cause.downcast_ref::<tokio_postgres::Error>().is_some()
            && cause.source().is_some()
        {
            // Its own text only says "db error" or the like; its cause comes next.
            continue;
        }
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    // Nothing that somebody else wrote may pass for a line of ours.
    let mut lines = vec![escape(&format!("error: {}", causes.join(": "))).into_owned()];
    lines.extend(details);
    let own = |Hint(hint): Hint| {
        if hint == INSTALL_HINT {
            hint
        } else {
            escape(&hint).into_owned()
        }
    };
    lines.extend(
        hint.map(|hint| format!("hint: {}", own(hint)))
            .or(server_hint),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

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
    }
}
