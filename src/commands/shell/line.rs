//! [`Line`]: the commands and questions that can be typed in the shell, and how a line is cut into
//! words. Nothing here knows the tables: names are looked up by the session.

use crate::failure::with_hint;
use crate::tables::catalog::CatalogTable;
use crate::tables::conditions::{Operator, Written};
use crate::tables::nearest::nearest;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::postgres::catalog::{CatalogError, parse_name};
use postgres_index_cache_core::tooling::postgres::read_quoted;
use std::collections::VecDeque;

/// A command as `.help` shows it.
#[derive(Debug)]
pub(super) struct CommandHelp {
    /// The first word of the line.
    pub(super) name: &'static str,
    /// The words that may follow.
    pub(super) takes: &'static str,
    /// The effect, in a few words.
    pub(super) does: &'static str,
}

impl CommandHelp {
    const fn new(name: &'static str, takes: &'static str, does: &'static str) -> Self {
        Self { name, takes, does }
    }
}

/// The commands. The first entry is no word by itself, but stands for the name of any table.
pub(super) const COMMANDS: &[CommandHelp] = &[
    CommandHelp::new(
        "TABLE",
        "[KEY] [COLUMN=VALUE]…",
        "the row with this key, or the rows that fulfil every condition",
    ),
    CommandHelp::new("count", "TABLE [KEY] [COLUMN=VALUE]…", "how many they are"),
    CommandHelp::new(".tables", "", "the tables that are followed"),
    CommandHelp::new(
        ".stats",
        "",
        "the state of the cache, and what has been counted",
    ),
    CommandHelp::new(
        ".watch",
        "[TABLE [KEY] [COLUMN=VALUE]…]",
        "show each change of these rows as it happens; alone lists the watches, off ends them",
    ),
    CommandHelp::new(
        ".history",
        "TABLE KEY",
        "what became of a row since the shell began; or TABLE COLUMN=VALUE…",
    ),
    CommandHelp::new(
        ".verify",
        "TABLE",
        "compare the cache with the table, row by row, at one exact cut",
    ),
    CommandHelp::new(
        ".nodes",
        "",
        "every node that keeps caches of this database, and its state",
    ),
    CommandHelp::new(
        ".reconnect",
        "",
        "describe and reload the tables now, for example after a cause was mended",
    ),
    CommandHelp::new(".limit", "[N]", "how many rows an answer shows at most"),
    CommandHelp::new(".help", "", "this list"),
    CommandHelp::new(".quit", "", "leave; Ctrl-D too"),
];

/// The command or question of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `TABLE [KEY] [CONDITION]…`: the rows of a table that have the key and fulfil every
    /// condition.
    Rows(Wanted),
    /// `count TABLE [KEY] [CONDITION]…`: the number of such rows.
    Count(Wanted),
    /// `.tables`: a list of the tables.
    Tables,
    /// `.stats`: the state of the caches, and the counters.
    Stats,
    /// `.watch TABLE [KEY] [CONDITION]…`: each change of such rows from now on.
    Watch(Wanted),
    /// `.watch off`: ends all watches.
    WatchOff,
    /// `.watch`: a list of what is watched.
    Watches,
    /// `.history`: the changes of the rows with this key, or that fulfil the conditions. There is
    /// a key or a condition.
    History(Wanted),
    /// `.verify TABLE`: a comparison of the cache with the table.
    Verify(Name),
    /// `.nodes`: every node, by its own answer.
    Nodes,
    /// `.reconnect`: describes and reloads all tables.
    Reconnect,
    /// `.limit [N]`: sets the limit, or with `None` shows the present one.
    Limit(Option<usize>),
    /// `.help`: the commands.
    Help,
    /// `.quit`: ends the shell.
    Quit,
}

/// The rows that a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) table: Name,
    /// The key of a row, as it was typed.
    pub(super) key: Option<String>,
    pub(super) conditions: Vec<Written>,
}

impl Wanted {
    /// Parses the words from the table on. The first word behind it is a key if it is no condition.
    fn parse(table: &str, words: &[&str]) -> anyhow::Result<Self> {
        let key = words.first().filter(|word| Written::parse(word).is_err());
        let conditions = words.iter().skip(usize::from(key.is_some()));
        Ok(Self {
            table: Name::parse(table)?,
            key: key.map(|key| (*key).to_string()),
            conditions: conditions
                .map(|word| Written::parse(word))
                .collect::<anyhow::Result<_>>()?,
        })
    }
}

/// The name of a table as it was typed, with its parts folded to lower case as SQL does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl Line {
    /// Parses a line; `None` for an empty line or a comment.
    ///
    /// # Errors
    /// If the line is not understood.
    pub(super) fn parse(line: &str) -> anyhow::Result<Option<Self>> {
        // People who know psql end a line with a semicolon. A value that ends so stands in quotes.
        let line = line.trim_end().strip_suffix(';').unwrap_or(line);
        let words = words(line)?;
        let Some((&first, rest)) = words.split_first() else {
            return Ok(None);
        };
        // Scripts that are fed to the shell have comments.
        if first.starts_with('#') || first.starts_with("--") {
            return Ok(None);
        }
        let parsed = match first {
            ".tables" => alone(first, rest, Self::Tables),
            ".stats" => alone(first, rest, Self::Stats),
            ".nodes" => alone(first, rest, Self::Nodes),
            ".reconnect" => alone(first, rest, Self::Reconnect),
            ".help" | "help" | "?" => alone(first, rest, Self::Help),
            // Whatever a person knows from another shell ends this one.
            ".quit" | ".exit" | "\\q" | "quit" | "exit" => alone(first, rest, Self::Quit),
            ".watch" => parse_watch(rest),
            ".verify" => parse_verify(rest),
            ".history" => parse_history(rest),
            ".limit" => parse_limit(rest),
            "count" => parse_count(rest),
            // No table's name begins with a dot: this is a command that is misspelt.
            dotted if dotted.starts_with('.') => {
                let commands = COMMANDS.iter().map(|command| command.name);
                let hint = match nearest(dotted, commands) {
                    Some(near) => format!("{near} may be meant; see .help"),
                    None => "see .help".to_string(),
                };
                Err(with_hint(anyhow!("there is no command {dotted}"), hint))
            }
            sql if sql.eq_ignore_ascii_case("select") => Err(with_hint(
                anyhow!("this is no SQL"),
                "write TABLE [KEY] [COLUMN=VALUE]…, for example users id=1; see .help",
            )),
            // Commands without a dot hide tables of their names: such a name is typed in quotes.
            table => Ok(Self::Rows(Wanted::parse(table, rest)?)),
        };
        parsed.map(Some)
    }
}

/// Returns `line` if nothing follows the command.
fn alone(command: &str, rest: &[&str], line: Line) -> anyhow::Result<Line> {
    match rest {
        [] => Ok(line),
        [more, ..] => Err(with_hint(
            anyhow!("{command} takes nothing, not {more}"),
            "see .help",
        )),
    }
}

fn parse_watch(words: &[&str]) -> anyhow::Result<Line> {
    match words {
        [] => Ok(Line::Watches),
        ["off"] => Ok(Line::WatchOff),
        [table, rest @ ..] => Ok(Line::Watch(Wanted::parse(table, rest)?)),
    }
}

fn parse_verify(words: &[&str]) -> anyhow::Result<Line> {
    match words {
        [table] => Ok(Line::Verify(Name::parse(table)?)),
        _ => Err(with_hint(
            anyhow!(".verify takes a table"),
            "write .verify users",
        )),
    }
}

fn parse_history(words: &[&str]) -> anyhow::Result<Line> {
    match words {
        [table, rest @ ..] if !rest.is_empty() => Ok(Line::History(Wanted::parse(table, rest)?)),
        _ => Err(with_hint(
            anyhow!(".history takes a table and a key"),
            "write .history users KEY",
        )),
    }
}

fn parse_limit(words: &[&str]) -> anyhow::Result<Line> {
    match words {
        [] => Ok(Line::Limit(None)),
        [number] => match number.parse() {
            Ok(limit) if limit > 0 => Ok(Line::Limit(Some(limit))),
            _ => Err(with_hint(
                anyhow!("{number} is no number of rows"),
                "write .limit 1000",
            )),
        },
        _ => Err(with_hint(
            anyhow!(".limit takes one number"),
            "write .limit 1000",
        )),
    }
}

fn parse_count(words: &[&str]) -> anyhow::Result<Line> {
    let [table, rest @ ..] = words else {
        return Err(with_hint(
            anyhow!("count takes a table"),
            "write count users username_hash=123",
        ));
    };
    Ok(Line::Count(Wanted::parse(table, rest)?))
}

impl Name {
    /// Parses a name: one part, or two with a dot in between.
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

    /// Returns whether the name means this table. Without a schema it means tables of every schema.
    pub(super) fn means(&self, table: &CatalogTable) -> bool {
        let schema = self.schema.as_ref();
        self.name == table.name && schema.is_none_or(|schema| *schema == table.schema)
    }
}

/// Returns the position behind the closing quote of a text that starts with a quote, single or
/// double; `None` if the quote is not closed.
fn end_of_quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let unquoted = read_quoted(&text[quote.len_utf8()..], quote)?;
    Some(text.len() - unquoted.rest.len())
}

/// Cuts a line into words at its spaces. Spaces do not count in names in double quotes and in
/// values in single quotes, nor in SQL (behind `:=`) while a quote or a parenthesis is open.
///
/// # Errors
/// If a quote is not closed.
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

/// Cuts the text before the cursor into the words that are complete and the one that is being
/// typed, which may be empty, or have a quote that is not closed yet.
pub(super) fn split_last(before: &str) -> (Vec<&str>, &str) {
    let mut complete = Vec::new();
    let mut rest = before.trim_start();
    loop {
        match end_of_word(rest) {
            Ok(end) if end < rest.len() => {
                complete.push(&rest[..end]);
                rest = rest[end..].trim_start();
            }
            Ok(_) | Err(_) => return (complete, rest),
        }
    }
}

/// Cuts a pasted text into lines. A line whose quote is not closed goes on in the next one: the
/// line break is part of a value then.
pub(super) fn split_pasted(text: &str) -> VecDeque<String> {
    let mut lines: VecDeque<String> = VecDeque::new();
    let mut open = String::new();
    for line in text.lines() {
        if !open.is_empty() {
            open.push('\n');
        }
        open.push_str(line);
        // In a comment a quote is a letter.
        let is_comment = open.trim_start().starts_with('#') || open.trim_start().starts_with("--");
        if is_comment || words(&open).is_ok() {
            lines.push_back(std::mem::take(&mut open));
        }
    }
    // A quote that is never closed: each line is refused by itself.
    lines.extend(open.lines().map(str::to_string));
    if lines.is_empty() {
        lines.push_back(String::new());
    }
    lines
}

/// Returns the position behind the first word of a text that starts with a word.
fn end_of_word(text: &str) -> anyhow::Result<usize> {
    let mut at = 0;
    let mut depth = 0_usize;
    // The position at which the value of a condition begins.
    let mut value = None;
    // Whether that value is SQL, which PostgreSQL computes.
    let mut is_sql = false;
    while let Some(c) = text[at..].chars().next() {
        // Elsewhere a quote is a character like any other: `name=O'Hara` and `size=5"` are what
        // people type. A name may be quoted at its beginning and behind a dot, a value as a whole,
        // SQL anywhere.
        let may_quote = match c {
            '"' => is_sql || at == 0 || (value.is_none() && text[..at].ends_with('.')),
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
        // Only the first operator counts; the value may hold more.
        let sign = value.is_none().then(|| Operator::at_start(&text[at..]));
        if let Some((sign, operator)) = sign.flatten() {
            at += sign.len();
            value = Some(at);
            is_sql = operator == Operator::Computed;
            continue;
        }
        match c {
            '(' if is_sql => depth += 1,
            // One too many is PostgreSQL's to refuse.
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

    #[test]
    fn a_paste_is_several_lines_but_for_values_with_line_breaks() {
        let lines = |text: &str| Vec::from(split_pasted(text));
        assert_eq!(lines("users"), ["users"]);
        assert_eq!(lines(""), [""]);
        assert_eq!(
            lines("users id=1\ncount users\n"),
            ["users id=1", "count users"]
        );
        assert_eq!(lines("t a='x\ny'\nt"), ["t a='x\ny'", "t"]);
        assert_eq!(lines("t a='x\nt"), ["t a='x", "t"]);
        assert_eq!(
            lines("# 'tis\nt\n-- 'twas\nt"),
            ["# 'tis", "t", "-- 'twas", "t"]
        );
    }
    use postgres_index_cache_core::tooling::postgres::quote_identifier;

    fn name(schema: Option<&str>, name: &str) -> Name {
        Name {
            schema: schema.map(str::to_string),
            name: name.to_string(),
        }
    }

    #[test]
    fn a_line_is_cut_where_a_person_would() {
        assert_eq!(
            words("  users  a=1 b='two words' ").unwrap(),
            ["users", "a=1", "b='two words'"]
        );
        assert_eq!(
            words("\"Odd \"\" Name\" \"a b\"='it''s'").unwrap(),
            ["\"Odd \"\" Name\"", "\"a b\"='it''s'"]
        );
        assert_eq!(
            words("u h:=hashtextextended('a b)', 0) n=O'Hara").unwrap(),
            ["u", "h:=hashtextextended('a b)', 0)", "n=O'Hara"]
        );
        assert_eq!(
            words("app.\"A b\" a=b='c d").unwrap(),
            ["app.\"A b\"", "a=b='c", "d"]
        );
        assert_eq!(words("s size=5\"").unwrap(), ["s", "size=5\""]);
        for word in ["a!='c d'", "a<'c d'", "a>='c d'", "a~'c d'", "\"a<\"~'c d'"] {
            assert_eq!(words(&format!("s {word} e")).unwrap(), ["s", word, "e"]);
        }
        assert_eq!(words("s a~b='c d").unwrap(), ["s", "a~b='c", "d"]);
        assert!(words(" \t").unwrap().is_empty());
        assert!(words("users a='open").is_err() && words("\"open").is_err());
    }

    #[test]
    fn names_fold_as_in_sql() {
        for (text, expected) in [
            ("Users", name(None, "users")),
            ("App.\"U.x\"\"y\"", name(Some("app"), "U.x\"y")),
        ] {
            assert_eq!(Name::parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "a.b.c", "\"a\"b", "a.", "."] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    fn wanted(table: &str, key: Option<&str>) -> Wanted {
        Wanted {
            table: name(None, table),
            key: key.map(str::to_string),
            conditions: vec![],
        }
    }

    #[test]
    fn lines_are_understood_or_refused() {
        for (line, expected) in [
            ("  ", None),
            ("# a note", None),
            (".limit 5", Some(Line::Limit(Some(5)))),
            ("count users", Some(Line::Count(wanted("users", None)))),
            // In quotes a command's word is the name of a table.
            ("\"count\"", Some(Line::Rows(wanted("count", None)))),
            // A word behind the table that is no condition is the key.
            ("users a", Some(Line::Rows(wanted("users", Some("a"))))),
            (
                ".history users 42,2",
                Some(Line::History(wanted("users", Some("42,2")))),
            ),
        ] {
            assert_eq!(Line::parse(line).unwrap(), expected, "{line}");
        }
        for bad in [
            ".limit 0",
            ".limit x",
            ".limit 1 2",
            ".nothing",
            "count",
            ".quit now",
            "users a b",
            "users a=1 b",
            "SELECT * FROM users",
            ".history users",
        ] {
            assert!(Line::parse(bad).is_err(), "{bad}");
        }
    }

    /// Random lines are understood or refused. A shell must not end because of a line that makes no
    /// sense.
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
