//! Names of relations as people write them, split into the parts that the catalogue knows.

use crate::postgres::quote::{Unquoted, read_quoted};

/// Splits a name, written as in SQL, into its parts: `users`, `app.users`, `"Odd Name"`. Returns
/// `None` if the text is no name.
///
/// A part without quotes is folded to lower case, as PostgreSQL folds it (manual, 4.1.1 Identifiers
/// and Key Words).
pub fn parse_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let part;
        (part, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_part(quoted)?
        } else {
            plain_part(rest)?
        };
        parts.push(part);
        match rest.trim_start() {
            "" => return Some(parts),
            more => rest = more.strip_prefix('.')?.trim_start(),
        }
    }
}

/// Takes a quoted part from `text`, which begins behind the opening quote. Returns the part and the
/// rest of the text; `None` if there is no closing quote, or if the part is no valid identifier.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let Unquoted { text: part, rest } = read_quoted(text, '"')?;
    // PostgreSQL refuses an empty identifier, and its texts cannot contain a zero byte.
    (!part.is_empty() && !part.contains('\0')).then_some((part, rest))
}

/// Takes a part without quotes from the start of `text`. Returns the part in lower case and the
/// rest of the text; `None` if the text begins with no such part.
fn plain_part(text: &str) -> Option<(String, &str)> {
    let end = text.find(|c| !can_continue_name(c)).unwrap_or(text.len());
    let part = &text[..end];
    // ASCII letters alone are folded, as PostgreSQL folds them in a UTF-8 database.
    part.starts_with(can_begin_name)
        .then(|| (part.to_ascii_lowercase(), &text[end..]))
}

fn can_begin_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn can_continue_name(c: char) -> bool {
    can_begin_name(c) || c.is_ascii_digit() || c == '$'
}

/// Returns the message for a text that is no name.
///
/// People who know psql give a connection string as the first argument. Such a text is not
/// repeated, since it may contain a password.
pub(super) fn refused(text: &str) -> String {
    if text.contains("://") || text.contains(['@', '=']) {
        "this is no table's name; it looks like a connection string, and is not repeated"
            .to_string()
    } else {
        format!("{text} is no table's name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_sql_reads_them() {
        for (text, parts) in [
            ("users", &["users"][..]),
            (" Users ", &["users"]),
            ("App.\"U.x\"\"y\"", &["app", "U.x\"y"]),
            ("a . b", &["a", "b"]),
            ("db.app.users", &["db", "app", "users"]),
            ("_a$1", &["_a$1"]),
            ("Größe", &["größe"]),
        ] {
            assert_eq!(
                parse_name(text).as_deref(),
                Some(&parts.iter().map(|p| (*p).to_string()).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
        // Each is close to a name: an empty part, an open quote, text behind a quote, a first
        // digit.
        for bad in [
            "",
            ".",
            "a.",
            "a..b",
            "\"a\"b",
            "\"\"",
            "\"a",
            "1a",
            "a b",
            "a;b",
            "postgres://h/d",
            "a-b",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }
}
