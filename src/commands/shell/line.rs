//! [`Line`]: what a line of the shell asks for.

use crate::failure::with_hint;
use crate::tables::conditions::Written;
use anyhow::anyhow;
use postgres_index_cache_core::postgres::catalog::{CatalogError, parse_name};

/// The commands with what they take and what they do, as `.help` shows them.
pub(super) const COMMANDS: &[(&str, &str, &str)] = &[
    (
        "TABLE",
        "[COLUMN=VALUE]…",
        "the rows that fulfil every condition",
    ),
    ("count", "TABLE [COLUMN=VALUE]…", "how many they are"),
    (".tables", "", "the tables that are followed"),
    (
        ".stats",
        "",
        "the state of the cache, and what has been counted",
    ),
    (
        ".watch",
        "TABLE [COLUMN=VALUE]…",
        "show each change of these rows as it happens; .watch off ends it",
    ),
    (
        ".history",
        "TABLE KEY",
        "what became of a row since the shell began; or TABLE COLUMN=VALUE…",
    ),
    (
        ".verify",
        "TABLE",
        "compare the cache with the table, row by row, at one exact cut",
    ),
    (
        ".reconnect",
        "",
        "follow the tables anew, for example when what ended it is mended",
    ),
    (".limit", "[N]", "how many rows an answer shows at most"),
    (".help", "", "this list"),
    (".quit", "", "leave; Ctrl-D too"),
];

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The rows of a table.
    Rows {
        table: Name,
        conditions: Vec<Written>,
    },
    /// Their number.
    Count {
        table: Name,
        conditions: Vec<Written>,
    },
    /// `.tables`.
    Tables,
    /// `.stats`.
    Stats,
    /// `.watch`; `None` ends it.
    Watch(Option<(Name, Vec<Written>)>),
    /// `.history`: of the rows with this key, or that fulfil the conditions.
    History {
        table: Name,
        key: Option<String>,
        conditions: Vec<Written>,
    },
    /// `.verify`.
    Verify(Name),
    /// `.reconnect`.
    Reconnect,
    /// `.limit`, and the new one.
    Limit(Option<usize>),
    /// `.help`.
    Help,
    /// `.quit`.
    Quit,
}

/// A table's name as it was typed: its parts, folded as SQL folds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl Line {
    /// Reads a line; `None` when it asks for nothing.
    ///
    /// # Errors
    /// When it is not understood.
    pub(super) fn parse(line: &str) -> anyhow::Result<Option<Self>> {
        // As in psql; a value that ends so stands in quotes.
        let line = line.trim_end().strip_suffix(';').unwrap_or(line);
        let words = words(line)?;
        let Some((first, rest)) = words.split_first() else {
            return Ok(None);
        };
        let alone = |line: Self| match rest {
            [] => Ok(Some(line)),
            [more, ..] => Err(with_hint(
                anyhow!("{first} takes nothing, not {more}"),
                "see .help",
            )),
        };
        match *first {
            comment if comment.starts_with('#') || comment.starts_with("--") => Ok(None),
            ".tables" => alone(Self::Tables),
            ".stats" => alone(Self::Stats),
            ".reconnect" => alone(Self::Reconnect),
            ".help" | "help" | "?" => alone(Self::Help),
            ".quit" | ".exit" | "\\q" | "quit" | "exit" => alone(Self::Quit),
            ".watch" => match rest.split_first() {
                Some((&"off", [])) => Ok(Some(Self::Watch(None))),
                Some((table, rest)) => Ok(Some(Self::Watch(Some((
                    Name::parse(table)?,
                    conditions(rest)?,
                ))))),
                None => Err(with_hint(
                    anyhow!(".watch takes a table, or off"),
                    "write .watch users username_hash=123",
                )),
            },
            ".verify" => match rest {
                [table] => Ok(Some(Self::Verify(Name::parse(table)?))),
                _ => Err(with_hint(
                    anyhow!(".verify takes a table"),
                    "write .verify users",
                )),
            },
            ".history" => match rest {
                [table, key] if Written::parse(key).is_err() => Ok(Some(Self::History {
                    table: Name::parse(table)?,
                    key: Some(unquoted(key)),
                    conditions: Vec::new(),
                })),
                [table, rest @ ..] if !rest.is_empty() => Ok(Some(Self::History {
                    table: Name::parse(table)?,
                    key: None,
                    conditions: conditions(rest)?,
                })),
                _ => Err(with_hint(
                    anyhow!(".history takes a table and a key"),
                    "write .history users KEY",
                )),
            },
            ".limit" => match rest {
                [] => Ok(Some(Self::Limit(None))),
                [number] => match number.parse() {
                    Ok(limit) if limit > 0 => Ok(Some(Self::Limit(Some(limit)))),
                    _ => Err(with_hint(
                        anyhow!("{number} is no number of rows"),
                        "write .limit 1000",
                    )),
                },
                _ => Err(with_hint(
                    anyhow!(".limit takes one number"),
                    "write .limit 1000",
                )),
            },
            dotted if dotted.starts_with('.') => Err(with_hint(
                anyhow!("there is no command {dotted}"),
                "see .help",
            )),
            "count" => {
                let Some((table, rest)) = rest.split_first() else {
                    return Err(with_hint(
                        anyhow!("count takes a table"),
                        "write count users username_hash=123",
                    ));
                };
                Ok(Some(Self::Count {
                    table: Name::parse(table)?,
                    conditions: conditions(rest)?,
                }))
            }
            table => Ok(Some(Self::Rows {
                table: Name::parse(table)?,
                conditions: conditions(rest)?,
            })),
        }
    }
}

fn conditions(words: &[&str]) -> anyhow::Result<Vec<Written>> {
    words
        .iter()
        .map(|word| Written::parse_quoted(word))
        .collect()
}

/// What stands between single quotes, if it does.
fn unquoted(word: &str) -> String {
    let inner = word
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    inner.map_or_else(|| word.to_string(), |inner| inner.replace("''", "'"))
}

impl Name {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parts = parse_name(text).unwrap_or_default();
        match (parts.pop(), parts.pop(), parts.pop()) {
            (Some(name), schema, None) => Ok(Self { schema, name }),
            _ => Err(with_hint(
                CatalogError::NoName(text.to_string()),
                "write users, app.users or \"Odd Name\"",
            )),
        }
    }
}

/// Where a text that starts with a quote has its closing one, and what follows begins.
fn end_of_quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut rest = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = rest.next() {
        if c != quote {
            continue;
        }
        // A doubled quote stands for itself.
        if rest.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + quote.len_utf8());
        }
    }
    None
}

/// Cuts a line at its spaces: not in names in double quotes, values in single quotes, nor in what
/// is computed as long as a quote or a parenthesis is open.
fn words(line: &str) -> anyhow::Result<Vec<&str>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let end = end_of_word(rest)?;
        words.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

fn end_of_word(text: &str) -> anyhow::Result<usize> {
    let mut at = 0;
    let mut depth = 0_usize;
    // Where the value of a condition begins, and whether it is computed.
    let mut value = None;
    let mut is_sql = false;
    while let Some(c) = text[at..].chars().next() {
        let before = text[..at].chars().next_back();
        let may_quote = match c {
            '"' => is_sql || at == 0 || (value.is_none() && before == Some('.')),
            '\'' => is_sql || at == 0 || value == Some(at),
            _ => false,
        };
        if may_quote {
            let end = end_of_quoted(&text[at..]);
            at += end.ok_or_else(|| {
                with_hint(
                    anyhow!("a quote is not closed: {}", &text[at..]),
                    "close it",
                )
            })?;
            continue;
        }
        match c {
            '=' if value.is_none() => {
                value = Some(at + 1);
                is_sql = before == Some(':');
            }
            '(' if is_sql => depth += 1,
            ')' if is_sql => depth = depth.saturating_sub(1),
            c if c.is_whitespace() && depth == 0 => break,
            _ => {}
        }
        at += c.len_utf8();
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_index_cache_core::postgres::quote_identifier;

    fn name(schema: Option<&str>, name: &str) -> Name {
        Name {
            schema: schema.map(str::to_string),
            name: name.to_string(),
        }
    }

    #[test]
    fn a_line_is_cut_where_a_person_would() {
        let cut = |line: &'static str| words(line).unwrap();
        assert_eq!(
            cut("  users  a=1 b='two words' "),
            ["users", "a=1", "b='two words'"]
        );
        assert_eq!(
            cut("\"Odd \"\" Name\" \"a b\"='it''s'"),
            ["\"Odd \"\" Name\"", "\"a b\"='it''s'"]
        );
        assert_eq!(
            cut("u h:=hashtextextended('a b)', 0) n=O'Hara"),
            ["u", "h:=hashtextextended('a b)', 0)", "n=O'Hara"]
        );
        assert_eq!(cut("app.\"A b\" a=b='c d"), ["app.\"A b\"", "a=b='c", "d"]);
        assert_eq!(cut("s size=5\""), ["s", "size=5\""]);
        assert!(cut(" \t").is_empty());
        assert!(words("users a='open").is_err() && words("\"open").is_err());
    }

    #[test]
    fn names_fold_as_in_sql() {
        let parsed = |text| Name::parse(text).unwrap();
        assert_eq!(parsed("Users"), name(None, "users"));
        assert_eq!(parsed("App.\"U.x\"\"y\""), name(Some("app"), "U.x\"y"));
        for bad in ["", "a.b.c", "\"a\"b", "a.", "."] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_are_understood_or_refused() {
        let parsed = |line| Line::parse(line).unwrap();
        assert_eq!(parsed("  "), None);
        assert_eq!(parsed("# a note"), None);
        assert_eq!(parsed(".limit 5"), Some(Line::Limit(Some(5))));
        assert_eq!(
            parsed("count users"),
            Some(Line::Count {
                table: name(None, "users"),
                conditions: vec![]
            })
        );
        assert_eq!(
            parsed("\"count\""),
            Some(Line::Rows {
                table: name(None, "count"),
                conditions: vec![]
            })
        );
        for bad in [
            ".limit 0",
            ".limit x",
            ".limit 1 2",
            ".nothing",
            "count",
            ".quit now",
            "users a",
        ] {
            assert!(Line::parse(bad).is_err(), "{bad}");
        }
    }

    /// Whatever is typed is understood or refused.
    #[test]
    fn no_line_is_a_panic() {
        const PIECES: [&str; 24] = [
            "users", "\"", "'", "''", "\"\"", "=", ":=", "!=", ".", "..", " ", "(", ")", ";", "é",
            "\u{202e}", ".watch", ".verify", ".history", "count", "null", "#", "--", "\u{0}",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200_000 {
            let text: String = (0..random.usize(1..10))
                .map(|_| PIECES[random.usize(0..PIECES.len())])
                .collect();
            let _ = Line::parse(&text);
            let _ = Written::parse(&text);
            if let Some(parts) = parse_name(&text) {
                let written: Vec<String> =
                    parts.iter().map(|part| quote_identifier(part)).collect();
                assert_eq!(parse_name(&written.join(".")), Some(parts), "{text}");
            }
        }
    }
}
