//! The channel that somebody else's function notifies on, where its text tells it for certain.
//!
//! Listening on the wrong channel looks like a table that nobody writes to: whoever follows it
//! would be live and deaf. So a text that is not wholly understood tells nothing.

/// The longest name of a channel, in bytes (manual, NOTIFY).
const LONGEST_CHANNEL: usize = 63;

/// Whether PostgreSQL takes this for the name of a channel.
pub fn is_channel(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_CHANNEL && !name.contains('\0')
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword, or a name that was not quoted, in lower case.
    Word(String),
    /// A name in quotes.
    Name(String),
    Text(String),
    Symbol(char),
    /// Something that is not looked into: a string with escapes, or in dollars.
    Opaque,
}

use Token::{Name, Opaque, Symbol, Text, Word};

/// Returns the channel on which a function with this text notifies, when a trigger gives it these
/// arguments; `None` when the text does not tell, or tells several.
pub fn told_by(source: &str, arguments: &[String]) -> Option<String> {
    let tokens = tokens(source)?;
    let mut channel: Option<String> = None;
    for at in 0..tokens.len() {
        let found = match (&tokens[at], tokens.get(at + 1)) {
            (Word(word), Some(Symbol('('))) if word == "pg_notify" => {
                let first = first_argument(&tokens[at + 2..])?;
                value(first, &tokens, arguments, true)?
            }
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

/// Splits a text of SQL or PL/pgSQL (manual, Lexical Structure); `None` when a comment or a string
/// has no end.
fn tokens(source: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if rest.starts_with("/*") {
            rest = after_comment(rest)?;
        } else if first == '\'' || first == '"' {
            let (text, after) = quoted(rest, first)?;
            // E'…' and U&'…' have escapes.
            let has_escapes = matches!(tokens.last(), Some(Word(word)) if word == "e" || word == "u")
                || tokens.last() == Some(&Symbol('&'));
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

/// What stands behind a comment, which may have others within.
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

/// What stands in quotes, and behind them; a quote that is doubled stands for one.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut inner = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            inner.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            inner.push(quote);
        } else {
            return Some((inner, &text[at + quote.len_utf8()..]));
        }
    }
    None
}

/// The tokens up to the comma that ends the first argument of a call.
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

/// The text that an expression is: a literal, the trigger's first argument, one of these with
/// COALESCE, or a variable that is given one of these once (`follows_variables`).
fn value(
    expression: &[Token],
    all: &[Token],
    arguments: &[String],
    follows_variables: bool,
) -> Option<String> {
    let is_word = |token: &Token, wanted: &str| matches!(token, Word(word) if word == wanted);
    match expression {
        [Text(text)] => Some(text.clone()),
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
                // An argument that is not given is NULL; of anything else nothing is known.
                None if first.first().is_some_and(|word| is_word(word, "tg_argv"))
                    && arguments.is_empty() =>
                {
                    value(second, all, arguments, follows_variables)
                }
                None => None,
            }
        }
        [variable @ Word(_)] if follows_variables => {
            let mut given = (1..all.len())
                .filter(|&at| all[at] == Symbol('=') && assigned(&all[..at]) == Some(variable));
            let at = given.next().filter(|_| given.next().is_none())?;
            let end = all[at..].iter().position(|token| *token == Symbol(';'))?;
            value(&all[at + 1..at + end], all, arguments, false)
        }
        _ => None,
    }
}

/// The variable that stands before `:` of an assignment, with its type between in a declaration.
fn assigned(before: &[Token]) -> Option<&Token> {
    let before = before.strip_suffix(&[Symbol(':')])?;
    let is_start = |token: &Token| {
        *token == Symbol(';')
            || matches!(token, Word(word) if matches!(&**word, "declare" | "begin" | "then" | "else" | "loop"))
    };
    let start = before.iter().rposition(is_start).map_or(0, |at| at + 1);
    before.get(start)
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
            // Not certain.
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
