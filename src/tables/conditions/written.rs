//! [`Written`]: a condition as a person writes it, such as `status=open`, read and displayed.
//! Nothing here knows tables or types.

use crate::failure::with_hint;
use anyhow::anyhow;
use postgres_index_cache_core::tooling::postgres::{quote_identifier, read_quoted};
use regex::Regex;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// One condition as a person wrote it. It is displayed so that it can be typed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub(super) column: String,
    pub(super) operator: Operator,
    pub(super) value: String,
    /// Whether the value stood in single quotes. `null` in quotes is a text like any other.
    is_quoted: bool,
    /// Whether the value is a part of a key, which was written without its column.
    pub(super) is_key: bool,
}

/// The sign between column and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equals,
    Differs,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `~`, followed by a regular expression.
    Matches,
    /// `:=`, followed by SQL that computes the value.
    Computed,
}

/// The operators as they are written. One that begins like another stands before that.
const OPERATORS: [(&str, Operator); 9] = [
    ("!=", Operator::Differs),
    ("<>", Operator::Differs),
    (":=", Operator::Computed),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equals),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("~", Operator::Matches),
];

impl Operator {
    /// Returns the operator that a text begins with, and how it is written there.
    pub fn at_start(text: &str) -> Option<(&'static str, Self)> {
        OPERATORS
            .into_iter()
            .find(|(sign, _)| text.starts_with(sign))
    }

    /// Returns the operator as it is written.
    pub(super) fn sign(self) -> &'static str {
        OPERATORS
            .iter()
            .find(|(_, operator)| *operator == self)
            .map_or("", |(sign, _)| *sign)
    }

    /// Tells whether the operator asks whether values are equal.
    pub(super) fn is_equality(self) -> bool {
        matches!(self, Self::Equals | Self::Differs | Self::Computed)
    }

    /// Tells whether values of this order fulfil the condition; `None` if the operator does not
    /// compare the order.
    pub(super) fn takes(self, order: Ordering) -> Option<bool> {
        match self {
            Self::Less => Some(order.is_lt()),
            Self::LessOrEqual => Some(order.is_le()),
            Self::Greater => Some(order.is_gt()),
            Self::GreaterOrEqual => Some(order.is_ge()),
            Self::Equals | Self::Differs | Self::Matches | Self::Computed => None,
        }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain_name = self.column.chars().all(|c| c.is_alphanumeric() || c == '_');
        let column = if is_plain_name {
            Cow::Borrowed(self.column.as_str())
        } else {
            quote_identifier(&self.column).into()
        };
        let needs_quotes = self.value.eq_ignore_ascii_case("null")
            // Behind the operator they would read as part of it, or as the quote of a value.
            || self.value.starts_with(['\'', '=', '<', '>', '~'])
            || self.value.contains(char::is_whitespace);
        let value = if self.is_quoted && needs_quotes {
            format!("'{}'", self.value.replace('\'', "''")).into()
        } else {
            Cow::Borrowed(self.value.as_str())
        };
        write!(f, "{column}{}{value}", self.operator.sign())
    }
}

impl Written {
    /// Returns the condition that a column of the key has this value, which is taken literally.
    pub fn key_part(column: &str, value: String) -> Self {
        Self {
            column: column.to_string(),
            operator: Operator::Equals,
            value,
            is_quoted: true,
            is_key: true,
        }
    }

    /// Returns the name of the column, as it was written.
    pub fn column(&self) -> &str {
        &self.column
    }

    /// Reads a condition: a column, an operator and a value. A column with an operator in the name
    /// is written in double quotes. A value in single quotes is the text between them.
    ///
    /// # Errors
    /// If the text is no condition.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut written = split(text).ok_or_else(|| {
            let hint = "write COLUMN=VALUE, with one of = != < <= > >= ~ (a regular expression), \
                COLUMN=null, or COLUMN:=SQL";
            // A text with an @ may be part of a connection string with a password: do not print it.
            let what = if text.contains('@') { "this" } else { text };
            with_hint(anyhow!("{what} is not a condition"), hint)
        })?;
        let inner = written
            .value
            .strip_prefix('\'')
            .and_then(|value| value.strip_suffix('\''));
        // In SQL the quotes belong to the expression.
        if let (true, Some(inner)) = (written.operator != Operator::Computed, inner) {
            written.value = inner.replace("''", "'");
            written.is_quoted = true;
        }
        Ok(written)
    }

    /// Tells whether a text fulfils the condition, where nothing but texts is known. `None` is NULL.
    pub fn is_text(&self, text: Option<&str>) -> bool {
        if self.is_null() {
            return match self.operator {
                Operator::Equals => text.is_none(),
                Operator::Differs => text.is_some(),
                _ => false,
            };
        }
        let Some(text) = text else {
            return false;
        };
        match self.operator {
            Operator::Equals => text == self.value,
            Operator::Differs => text != self.value,
            Operator::Matches => {
                Regex::new(&self.value).is_ok_and(|expression| expression.is_match(text))
            }
            // The order of texts, and SQL, are known to PostgreSQL alone.
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual
            | Operator::Computed => false,
        }
    }

    /// Tells whether the value is SQL NULL, and no SQL that computes it.
    pub(super) fn is_null(&self) -> bool {
        let is_literal = self.operator != Operator::Computed && !self.is_quoted;
        is_literal && self.value.eq_ignore_ascii_case("null")
    }
}

/// Splits a text into column, operator and value; `None` if it is no condition.
fn split(text: &str) -> Option<Written> {
    let (column, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let name = read_quoted(quoted, '"')?;
            (name.text, name.rest)
        }
        None => {
            let at = text
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| Operator::at_start(&text[*at..]).is_some())?;
            (text[..at].trim().to_string(), &text[at..])
        }
    };
    let (sign, operator) = Operator::at_start(rest)?;
    (!column.is_empty()).then(|| Written {
        column,
        operator,
        value: rest[sign.len()..].to_string(),
        is_quoted: false,
        is_key: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_displayed_so_that_it_can_be_typed_again() {
        const PIECES: [&str; 14] = [
            "a", "é", "\"", "\"\"", "'", "''", " ", "=", "!=", ":=", "<", "~", "null", "5",
        ];
        let mut random = fastrand::Rng::with_seed(11);
        let mut count = 0;
        for _ in 0..200_000 {
            let text: String = (0..random.usize(1..10))
                .map(|_| PIECES[random.usize(0..PIECES.len())])
                .collect();
            let Ok(read) = Written::parse(&text) else {
                continue;
            };
            count += 1;
            let displayed = read.to_string();
            let again = Written::parse(&displayed).unwrap();
            // A value that needs no quotes is shown without.
            let meanings = [&read, &again].map(|written| {
                let Written {
                    column,
                    operator,
                    value,
                    ..
                } = written;
                (column, operator, value, written.is_null())
            });
            assert_eq!(
                meanings[0], meanings[1],
                "{text} is displayed as {displayed}"
            );
        }
        assert!(count > 10_000, "{count}");
    }

    fn assert_read(text: &str, column: &str, operator: Operator, value: &str) {
        let expected = Written {
            column: column.to_string(),
            operator,
            value: value.to_string(),
            is_quoted: false,
            is_key: false,
        };
        assert_eq!(split(text), Some(expected), "{text}");
    }

    #[test]
    fn conditions_are_read_as_they_are_written() {
        assert_read("a=1", "a", Operator::Equals, "1");
        assert_read("a=", "a", Operator::Equals, "");
        // The first operator counts: a value may hold others.
        assert_read("a=b=c", "a", Operator::Equals, "b=c");
        assert_read("a=<b>", "a", Operator::Equals, "<b>");
        assert_read("a!=null", "a", Operator::Differs, "null");
        assert_read("a<>1", "a", Operator::Differs, "1");
        assert_read("a<=1", "a", Operator::LessOrEqual, "1");
        assert_read("a<1", "a", Operator::Less, "1");
        assert_read("a>=-1", "a", Operator::GreaterOrEqual, "-1");
        assert_read("a>1", "a", Operator::Greater, "1");
        assert_read("a~^b=.*", "a", Operator::Matches, "^b=.*");
        assert_read("a:b=1", "a:b", Operator::Equals, "1");
        assert_read(
            "a:=hashtextextended('x=y',0)",
            "a",
            Operator::Computed,
            "hashtextextended('x=y',0)",
        );
        assert_read("\"a=\"\"b\"=1", "a=\"b", Operator::Equals, "1");
        for bad in ["", "a", "=1", "\"a", "\"a\"1", "\"a\"", "42", "a!1"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    fn read(text: &str) -> (String, bool) {
        let written = Written::parse(text).unwrap();
        (written.value, written.is_quoted)
    }

    #[test]
    fn a_value_in_single_quotes_is_the_text_between_them() {
        assert_eq!(read("a='it''s null'"), ("it's null".to_string(), true));
        assert_eq!(read("a!='x'"), ("x".to_string(), true));
        // A quote inside a word is a letter of it.
        assert_eq!(read("a=O'Hara"), ("O'Hara".to_string(), false));
        // In SQL the quotes belong to the expression.
        assert_eq!(read("a:='x'"), ("'x'".to_string(), false));
    }

    #[test]
    fn null_is_sql_null_in_any_case_unless_it_is_quoted() {
        for text in ["a=null", "a=NULL", "a!=Null"] {
            assert!(Written::parse(text).unwrap().is_null(), "{text}");
        }
        for text in ["a='NULL'", "a=nulls", "a="] {
            assert!(!Written::parse(text).unwrap().is_null(), "{text}");
        }
    }
}
