//! [`parse`]: reads pairs of `key=value`.

use super::{ConninfoError, Parameter, push};
use std::iter::Peekable;
use std::str::Chars;

/// Reads pairs of `key=value`, with blanks between them and perhaps around each `=`.
pub(super) fn parse(text: &str) -> Result<Vec<Parameter>, ConninfoError> {
    let mut parameters = Vec::new();
    let mut rest = text.chars().peekable();
    skip_blanks(&mut rest);
    while rest.peek().is_some() {
        let name = name(&mut rest)?;
        skip_blanks(&mut rest);
        let value = if rest.next_if_eq(&'\'').is_some() {
            quoted(&mut rest)?
        } else {
            bare(&mut rest)
        };
        push(&mut parameters, &name, value)?;
        skip_blanks(&mut rest);
    }
    Ok(parameters)
}

/// Reads a keyword and the `=` behind it.
fn name(rest: &mut Peekable<Chars<'_>>) -> Result<String, ConninfoError> {
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| *c != '=' && !is_blank(*c)) {
        name.push(c);
    }
    skip_blanks(rest);
    match rest.next() {
        Some('=') => Ok(name),
        _ => Err(ConninfoError::NoValue),
    }
}

/// Reads a value without quotes, which ends at a blank. A backslash takes the next character as it
/// is; a quote within the value is a character like others.
fn bare(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = rest.next_if(|c| !is_blank(*c)) {
        match c {
            '\\' => value.extend(rest.next()),
            c => value.push(c),
        }
    }
    value
}

/// Reads a value behind its opening quote, up to the closing one.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> Result<String, ConninfoError> {
    let mut value = String::new();
    while let Some(c) = rest.next() {
        match c {
            '\\' => value.extend(rest.next()),
            '\'' => return Ok(value),
            c => value.push(c),
        }
    }
    Err(ConninfoError::OpenQuote)
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_blank(*c)).is_some() {}
}

/// Returns whether a character is a blank for C's `isspace` in the locale `C`.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}
