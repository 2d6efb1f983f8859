//! [`parse`]: reads a connection string, which is a URL, pairs of `key=value` (manual, 34.1.1
//! Connection Strings), or the name of a database alone.
//!
//! The rules are those of libpq 18, odd ones included: a connection string that works in psql works
//! here, and means the same. No error repeats a part of the text, since in a text that is not
//! understood a password may stand anywhere.

mod pairs;
mod url;

use crate::keyword::Keyword;

/// A parameter of a connection string, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) keyword: Keyword,
    pub(crate) value: String,
}

/// The reason why a connection string is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConninfoError {
    /// The text is neither a URL nor pairs.
    #[error("it is neither a postgresql:// URL nor key=value pairs")]
    NotUnderstood,
    /// A URL has the scheme of another program.
    #[error("a URL of the scheme {0}:// is not understood")]
    Scheme(String),
    /// A word has no `=` behind it.
    #[error("it has a word without a value, where key=value is expected")]
    NoValue,
    /// A value begins with `'` and does not end with one.
    #[error("a value that begins with a quote has no closing quote")]
    OpenQuote,
    /// The keyword is none of libpq's. The error does not repeat the word.
    #[error("it has a parameter that is not known")]
    UnknownKeyword,
    /// The keyword is close to one of libpq's.
    #[error("it has a parameter that is not known, perhaps {0} was meant")]
    NearKeyword(&'static str),
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("the URL has a % without two hexadecimal digits behind it")]
    Percent,
    /// A URL with credentials has an `@` behind them.
    #[error("the URL has an @ behind the one that ends the credentials")]
    SecondAt,
    /// The URL has `%00`.
    #[error("the URL has %00, which no value may have")]
    Null,
    /// A decoded value is not UTF-8.
    #[error("the URL has a value that is not UTF-8")]
    NotUtf8,
    /// A value of the URL has blanks in it.
    #[error("the URL has a blank within a value; write it as %20")]
    Blank,
    /// A parameter behind the `?` of a URL has two equals signs.
    #[error("a parameter of the URL has two =; write the second one as %3D")]
    TwoEquals,
    /// An IPv6 address of a URL does not end.
    #[error("an IPv6 address in the URL has no closing ]")]
    OpenBracket,
    /// An IPv6 address of a URL is empty.
    #[error("an IPv6 address in the URL is empty")]
    EmptyAddress,
    /// An IPv6 address of a URL is followed by something other than a port or a path.
    #[error("an IPv6 address in the URL is followed by other characters than : / ? or ,")]
    BehindBracket,
}

impl ConninfoError {
    /// Returns advice on what to write.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Scheme(_) | Self::NotUnderstood => {
                "write postgresql://user@host:port/database, without quotes inside the variable"
            }
            Self::NoValue | Self::OpenQuote => {
                "put a value with blanks between quotes: password='a b'; write \\' for a quote"
            }
            Self::UnknownKeyword | Self::NearKeyword(_) => {
                "the parameters are those of libpq: host, port, user, dbname, sslmode, …"
            }
            _ => {
                "in a URL write % of the user or the password as %25, @ as %40, : as %3A and / as \
                %2F"
            }
        }
    }
}

/// Reads a connection string. If a keyword stands there twice, both are returned, and the last one
/// counts.
///
/// # Errors
/// If the text is not understood.
pub(crate) fn parse(text: &str) -> Result<Vec<Parameter>, ConninfoError> {
    if let Some(rest) = without_scheme(text) {
        return url::parse(rest);
    }
    if is_database_name(text) {
        return Ok(vec![Parameter {
            keyword: Keyword::Dbname,
            value: text.to_string(),
        }]);
    }
    refuse_other_schemes(text)?;
    pairs::parse(text)
}

/// Returns whether a text can only be the name of a database: psql's `-d shop`. Other characters
/// are not taken for a part of a name, since the text may be a password, or hold one.
fn is_database_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

/// Returns a URL without its scheme; `None` if the text is no URL of PostgreSQL.
fn without_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
}

/// Refuses the URL of another program, such as `jdbc:postgresql://…` or `mysql://…`.
fn refuse_other_schemes(text: &str) -> Result<(), ConninfoError> {
    let Some((scheme, _)) = text.split_once("://") else {
        return Ok(());
    };
    if scheme.contains('=') {
        return Ok(());
    }
    // A scheme of other characters may be part of a password with `://` in it.
    let own = scheme.strip_prefix("jdbc:").unwrap_or(scheme);
    let is_plain = own
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    Err(if is_plain && !own.is_empty() {
        ConninfoError::Scheme(scheme.to_string())
    } else {
        ConninfoError::NotUnderstood
    })
}

/// Adds a parameter whose keyword is written as `name`.
///
/// # Errors
/// If libpq has no such keyword.
fn push(parameters: &mut Vec<Parameter>, name: &str, value: String) -> Result<(), ConninfoError> {
    // The name that sslmode had before PostgreSQL 8.0.
    if name == "requiressl" {
        let mode = if value.starts_with('1') {
            "require"
        } else {
            "prefer"
        };
        parameters.push(Parameter {
            keyword: Keyword::SslMode,
            value: mode.to_string(),
        });
        return Ok(());
    }
    let Some(keyword) = Keyword::of(name) else {
        let lower = name.to_ascii_lowercase();
        return Err(match Keyword::of(&lower) {
            Some(near) => ConninfoError::NearKeyword(near.name()),
            None => ConninfoError::UnknownKeyword,
        });
    };
    parameters.push(Parameter { keyword, value });
    Ok(())
}

#[cfg(test)]
mod tests;
