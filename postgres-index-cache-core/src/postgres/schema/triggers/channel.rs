//! The channel that somebody else's function notifies on, if the function's text tells it for
//! certain.
//!
//! Listening on the wrong channel looks like a table that nobody writes to: a cache of the table
//! would be live and miss every change. So a text that is not understood completely tells no
//! channel.

/// The longest name of a channel, in bytes (manual, NOTIFY).
const LONGEST_CHANNEL: usize = 63;

/// Returns whether PostgreSQL accepts this as the name of a channel.
pub fn is_channel(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_CHANNEL && !name.contains('\0')
}

/// A token of SQL or PL/pgSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword, or a name without quotes, in lower case.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A string in single quotes, without the quotes.
    Text(String),
    /// Any other character, also each digit of a number.
    Symbol(char),
    /// A string with escapes, or a `$` of a dollar quote. Nothing is concluded from it.
    Opaque,
}

use crate::postgres::quote::{Unquoted, read_quoted};
use Token::{Name, Opaque, Symbol, Text, Word};

/// Returns the channel on which a function with this text notifies if a trigger passes it these
/// arguments; `None` if the text does not tell for certain, or tells several channels.
pub fn told_by(source: &str, arguments: &[String]) -> Option<String> {
    let tokens = tokens(source)?;
    let mut channel: Option<String> = None;
    for at in 0..tokens.len() {
        let found = match (&tokens[at], tokens.get(at + 1)) {
            (Word(word), Some(Symbol('('))) if word == "pg_notify" => {
                let first = first_argument(&tokens[at + 2..])?;
                value(first, &tokens, arguments, true)?
            }
            // NOTIFY takes a name, which is never an expression.
            (Word(word), Some(Word(name) | Name(name))) if word == "notify" => name.clone(),
            _ => continue,
        };
        if !is_channel(&found) || channel.as_ref().is_some_and(|channel| *channel != found) {
            return None;
        }
        channel = Some(found);
    }
    channel
}

/// Splits a text of SQL or PL/pgSQL into tokens (manual, Lexical Structure); `None` if a comment or
/// a string has no end.
fn tokens(source: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if rest.starts_with("/*") {
            rest = after_comment(rest)?;
        } else if first == '\'' || first == '"' {
            let Unquoted { text, rest: after } = read_quoted(&rest[first.len_utf8()..], first)?;
            // The texts of E'…' and U&'…' have escapes, so they are not the characters that stand
            // there.
            let has_escapes = match tokens.last() {
                Some(Word(word)) => word == "e" || word == "u",
                Some(Symbol(symbol)) => *symbol == '&',
                _ => false,
            };
            tokens.push(match first {
                _ if has_escapes => Opaque,
                '"' => Name(text),
                _ => Text(text),
            });
            rest = after;
        } else if first.is_alphabetic() || first == '_' {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
                .unwrap_or(rest.len());
            tokens.push(Word(rest[..end].to_lowercase()));
            rest = &rest[end..];
        } else if first == '$' {
            // A dollar quote, or a parameter such as $1. The tokens behind it are read on as code.
            tokens.push(Opaque);
            rest = &rest[1..];
        } else {
            if !first.is_whitespace() {
                tokens.push(Symbol(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(tokens)
}

/// Returns the text behind the comment with which `text` begins; `None` if the comment has no end.
/// Comments nest.
fn after_comment(text: &str) -> Option<&str> {
    let mut depth = 0;
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return text.get(at..);
            }
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
}

/// Returns the tokens of a call's first argument, up to its comma; `None` if there is no second
/// argument.
fn first_argument(tokens: &[Token]) -> Option<&[Token]> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Symbol('(' | '[') => depth += 1,
            Symbol(')' | ']') if depth == 0 => return None,
            Symbol(')' | ']') => depth -= 1,
            Symbol(',') if depth == 0 => return Some(&tokens[..at]),
            _ => {}
        }
    }
    None
}

/// Returns the text that an expression evaluates to; `None` if it is none of those understood here.
///
/// These are a literal, the trigger's first argument, and COALESCE of them. If `follows_variables`,
/// a variable that is assigned one of these exactly once is understood as well.
fn value(
    expression: &[Token],
    all: &[Token],
    arguments: &[String],
    follows_variables: bool,
) -> Option<String> {
    match expression {
        [Text(text)] => Some(text.clone()),
        // A cast, for example to text.
        [inner @ .., Symbol(':'), Symbol(':'), Word(_)] => {
            value(inner, all, arguments, follows_variables)
        }
        // The lexer leaves digits as symbols.
        [word, Symbol('['), Symbol('0'), Symbol(']')] if is_word(word, "tg_argv") => {
            arguments.first().cloned()
        }
        [word, Symbol('('), inner @ .., Symbol(')')] if is_word(word, "coalesce") => {
            let first = first_argument(inner)?;
            let second = &inner[first.len() + 1..];
            match value(first, all, arguments, follows_variables) {
                Some(first) => Some(first),
                // A trigger argument that is not given is NULL. Of any other expression it is not
                // known whether it is NULL.
                None if first.first().is_some_and(|word| is_word(word, "tg_argv"))
                    && arguments.is_empty() =>
                {
                    value(second, all, arguments, follows_variables)
                }
                None => None,
            }
        }
        [variable @ Word(_)] if follows_variables => {
            // With two assignments the order in which they run would decide. A variable that is
            // filled in another way (SELECT … INTO) has no assignment, and is not understood.
            let mut assignments = (1..all.len())
                .filter(|&at| all[at] == Symbol('=') && assigned(&all[..at]) == Some(variable));
            let at = assignments
                .next()
                .filter(|_| assignments.next().is_none())?;
            let end = all[at..].iter().position(|token| *token == Symbol(';'))?;
            value(&all[at + 1..at + end], all, arguments, false)
        }
        _ => None,
    }
}

/// Returns the variable that an assignment is for; `None` if `before`, the tokens before a `=`,
/// does not end with the `:` of `:=`. In a declaration, the type stands between variable and `:`.
fn assigned(before: &[Token]) -> Option<&Token> {
    let before = before.strip_suffix(&[Symbol(':')])?;
    let start = before
        .iter()
        .rposition(ends_statement_before)
        .map_or(0, |at| at + 1);
    before.get(start)
}

/// Returns whether a new statement or declaration begins behind this token.
fn ends_statement_before(token: &Token) -> bool {
    match token {
        Symbol(symbol) => *symbol == ';',
        Word(word) => matches!(&**word, "declare" | "begin" | "then" | "else" | "loop"),
        Name(_) | Text(_) | Opaque => false,
    }
}

fn is_word(token: &Token, wanted: &str) -> bool {
    matches!(token, Word(word) if word == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_told_where_the_text_is_certain_of_it() {
        let given = ["given".to_string()];
        for (source, arguments, channel) in [
            (
                "PERFORM pg_notify('cache_invalidation', payload);",
                &[][..],
                Some("cache_invalidation"),
            ),
            (
                "PERFORM pg_catalog.pg_notify ( 'it''s' , p);",
                &[],
                Some("it's"),
            ),
            ("PERFORM pg_notify('c'::text, p);", &[], Some("c")),
            (
                "-- was: pg_notify('old', p)\nPERFORM pg_notify('c', p);",
                &[],
                Some("c"),
            ),
            (
                "/* pg_notify('old', /* nested */ p) */ PERFORM pg_notify('c', p);",
                &[],
                Some("c"),
            ),
            (
                "IF a THEN PERFORM pg_notify('c', p); ELSE PERFORM pg_notify('c', q); END IF;",
                &[],
                Some("c"),
            ),
            ("NOTIFY Chan, 'x';", &[], Some("chan")),
            ("NOTIFY \"Chan\";", &[], Some("Chan")),
            ("PERFORM pg_notify(TG_ARGV[0], p);", &given, Some("given")),
            (
                "PERFORM pg_notify(coalesce(TG_ARGV[0], 'c'), p);",
                &given,
                Some("given"),
            ),
            (
                "PERFORM pg_notify(coalesce(TG_ARGV[0], 'c'), p);",
                &[],
                Some("c"),
            ),
            (
                "DECLARE channel text := 'c'; BEGIN PERFORM pg_notify(channel, p); END",
                &[],
                Some("c"),
            ),
            (
                "DECLARE channel text := TG_ARGV[0]; BEGIN PERFORM pg_notify(channel, p); END",
                &given,
                Some("given"),
            ),
            // Not certain: an expression, escapes, no valid name, an argument that is missing or
            // not the first, several channels, a variable that is not assigned exactly once,
            // dynamic SQL.
            (
                "PERFORM pg_notify('cache_' || TG_TABLE_NAME, p);",
                &[],
                None,
            ),
            ("PERFORM pg_notify(E'c\\x41', p);", &[], None),
            ("PERFORM pg_notify($$c$$, p);", &[], None),
            ("PERFORM pg_notify('', p);", &[], None),
            ("PERFORM pg_notify(TG_ARGV[0], p);", &[], None),
            ("PERFORM pg_notify(TG_ARGV[1], p);", &given, None),
            (
                "PERFORM pg_notify('a', p); PERFORM pg_notify('b', p);",
                &[],
                None,
            ),
            (
                "channel := 'a'; channel := 'b'; PERFORM pg_notify(channel, p);",
                &[],
                None,
            ),
            (
                "SELECT name INTO channel FROM channels; PERFORM pg_notify(channel, p);",
                &[],
                None,
            ),
            (
                "EXECUTE 'SELECT pg_notify(''cache_invalidation'', $1)' USING p;",
                &[],
                None,
            ),
            ("PERFORM pg_notify('c", &[], None),
            ("/* PERFORM pg_notify('c', p)", &[], None),
            ("RETURN NULL;", &[], None),
        ] {
            assert_eq!(told_by(source, arguments).as_deref(), channel, "{source}");
        }
        assert_eq!(
            told_by(&format!("PERFORM pg_notify('{}', p);", "x".repeat(64)), &[]),
            None
        );
    }
}
