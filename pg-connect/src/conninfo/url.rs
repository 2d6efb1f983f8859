//! [`parse`]: reads a connection URL (manual, 34.1.1.2 Connection URIs).
//!
//! ```text
//! postgresql://user:password@host:port,host:port/dbname?keyword=value&keyword=value
//! ```
//!
//! The text is split first, and each part is decoded then: a `%40` in a password is no end of the
//! password. Parts that are empty are not given, but for the values behind the `?`.

use super::{ConninfoError, Parameter, push};
use percent_encoding::percent_decode_str;

/// A part of a URL, and the text behind it. The text begins with the character that ends the part.
type Split<'a> = (&'a str, &'a str);

/// The hosts of a URL and their ports, in the order in which they stand there, each with commas.
struct Hosts<'a> {
    names: String,
    ports: String,
    /// The text behind the hosts.
    rest: &'a str,
}

/// Reads a URL without its scheme.
pub(super) fn parse(text: &str) -> Result<Vec<Parameter>, ConninfoError> {
    let mut parameters = Vec::new();
    let mut rest = text;
    // The credentials end at the first `@`, if that stands before any `/`.
    let (before, behind) = split_before(text, &['@', '/']);
    if let Some(behind) = behind.strip_prefix('@') {
        let (user, password) = before.split_once(':').unwrap_or((before, ""));
        push_given(&mut parameters, "user", user)?;
        push_given(&mut parameters, "password", password)?;
        // libpq would take the rest of a password with an @ in it for a host or a database.
        if split_before(behind, &['?']).0.contains('@') {
            return Err(ConninfoError::SecondAt);
        }
        rest = behind;
    }
    let Hosts { names, ports, rest } = hosts(rest)?;
    push_given(&mut parameters, "host", &names)?;
    push_given(&mut parameters, "port", &ports)?;
    let mut query = rest;
    if let Some(path) = rest.strip_prefix('/') {
        let (database, behind) = split_before(path, &['?']);
        push_given(&mut parameters, "dbname", database)?;
        query = behind;
    }
    if let Some(query) = query.strip_prefix('?') {
        push_query(&mut parameters, query)?;
    }
    Ok(parameters)
}

/// Reads the hosts and their ports.
fn hosts(text: &str) -> Result<Hosts<'_>, ConninfoError> {
    let mut names = String::new();
    let mut ports = String::new();
    let mut rest = text;
    loop {
        let (host, behind) = match rest.strip_prefix('[') {
            Some(address) => bracketed(address)?,
            None => split_before(rest, &[':', '/', '?', ',']),
        };
        names.push_str(host);
        rest = behind;
        if let Some(behind) = rest.strip_prefix(':') {
            let (port, behind) = split_before(behind, &['/', '?', ',']);
            ports.push_str(port);
            rest = behind;
        }
        let Some(next) = rest.strip_prefix(',') else {
            return Ok(Hosts { names, ports, rest });
        };
        names.push(',');
        ports.push(',');
        rest = next;
    }
}

/// Reads an IPv6 address behind its opening bracket.
fn bracketed(text: &str) -> Result<Split<'_>, ConninfoError> {
    let Some((address, behind)) = text.split_once(']') else {
        return Err(ConninfoError::OpenBracket);
    };
    if address.is_empty() {
        return Err(ConninfoError::EmptyAddress);
    }
    if behind.starts_with([':', '/', '?', ',']) || behind.is_empty() {
        Ok((address, behind))
    } else {
        Err(ConninfoError::BehindBracket)
    }
}

/// Adds the parameters behind the `?`. One `&` may stand behind the last of them.
fn push_query(parameters: &mut Vec<Parameter>, query: &str) -> Result<(), ConninfoError> {
    let mut rest = query;
    while !rest.is_empty() {
        let (parameter, behind) = rest.split_once('&').unwrap_or((rest, ""));
        rest = behind;
        let Some((name, value)) = parameter.split_once('=') else {
            return Err(ConninfoError::NoValue);
        };
        if value.contains('=') {
            return Err(ConninfoError::TwoEquals);
        }
        let name = decode(name)?;
        let value = decode(value)?;
        // The spelling of JDBC.
        if name == "ssl" && value == "true" {
            push(parameters, "sslmode", "require".to_string())?;
        } else {
            push(parameters, &name, value)?;
        }
    }
    Ok(())
}

/// Adds a parameter, unless its text is empty.
fn push_given(
    parameters: &mut Vec<Parameter>,
    name: &str,
    text: &str,
) -> Result<(), ConninfoError> {
    if text.is_empty() {
        return Ok(());
    }
    push(parameters, name, decode(text)?)
}

/// Splits a text before the first of these characters, or at its end.
fn split_before<'a>(text: &'a str, ends: &[char]) -> Split<'a> {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Decodes `%xx`. A `+` stays what it is. Blanks around the text are left out.
fn decode(text: &str) -> Result<String, ConninfoError> {
    let text = text.trim_matches(' ');
    if text.contains(' ') {
        return Err(ConninfoError::Blank);
    }
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('%') {
        match behind.as_bytes() {
            [b'0', b'0', ..] => return Err(ConninfoError::Null),
            [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {}
            _ => return Err(ConninfoError::Percent),
        }
        rest = behind;
    }
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| ConninfoError::NotUtf8)?.into_owned())
}
