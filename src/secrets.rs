//! Connection strings where none belongs. They hold passwords, and whoever knows psql gives one
//! first: `pgic status postgresql://alice:secret@db/shop`. Nothing of one is printed, nor sent to a
//! server as a name.

use std::ffi::OsString;

/// The options whose value is a connection string.
const OPTIONS: [&str; 2] = ["-d", "--database-url"];

/// Whether a text is a connection URL, of any scheme that may hold a password: quotes around it
/// count for nothing.
pub fn is_connection_string(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"'));
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | ':' | '_');
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return false;
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    scheme.to_ascii_lowercase().contains("postgres") || authority.contains('@')
}

/// Whether a text is a connection string without a scheme: `alice:secret@db/shop`, or pairs with a
/// password among them.
pub fn is_bare(text: &str) -> bool {
    let has_key = |key: &str| {
        text.split_whitespace()
            .any(|pair| pair.trim_start_matches(['\'', '"']).starts_with(key))
    };
    let has_url = text.split_whitespace().any(|pair| {
        pair.strip_prefix("dbname=")
            .is_some_and(is_connection_string)
    });
    let is_pairs = has_url
        || (has_key("password") || has_key("sslpassword"))
            && ["host", "port", "user", "dbname"].into_iter().any(has_key);
    let (name, rest) = text.split_once(':').unwrap_or_default();
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    is_pairs || (is_name && rest.contains('@'))
}

/// Whether a connection string is among the arguments where none belongs.
pub fn is_misplaced(arguments: &[OsString]) -> bool {
    let mut is_value = false;
    let mut is_any_value = false;
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let was_value = std::mem::replace(&mut is_value, OPTIONS.contains(&&*argument));
        // A key that is filtered for may look like a name with a password.
        let was_any_value = std::mem::replace(&mut is_any_value, argument.starts_with('-'));
        if was_value
            || argument.starts_with("-d") && !argument.starts_with("--")
            || argument.starts_with("--database-url=")
        {
            return false;
        }
        let value = argument
            .strip_prefix('-')
            .and_then(|option| option.split_once('='));
        is_connection_string(&argument)
            || (!was_any_value && is_bare(&argument))
            || value.is_some_and(|(_, value)| is_connection_string(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_known_and_conditions_are_not() {
        for text in [
            "postgresql://a:b@c/d",
            "postgres://",
            "POSTGRES://c",
            " 'postgresql+asyncpg://a:b@c",
            "jdbc:postgresql://c/d?password=b",
            "mysql://a:b@c/d",
        ] {
            assert!(is_connection_string(text), "{text}");
        }
        for text in [
            "users",
            "url=https://a.b/c@d",
            "https://a.b/c@d",
            "app.users",
            "a@b",
            "://",
            "x y://a@b",
        ] {
            assert!(!is_connection_string(text), "{text}");
        }
    }

    #[test]
    fn they_belong_to_their_option_alone() {
        let is_misplaced =
            |line: &str| is_misplaced(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in [
            "status -d postgres://a:b@c users",
            "--database-url=postgres://c status",
            "-dpostgres://c status",
            "tail --id a:b@c",
            "query t a=b:c@d",
        ] {
            assert!(!is_misplaced(line), "{line}");
        }
        for line in [
            "status a:b@c",
            "status postgres://a:b@c",
            "status --url=postgres://a:b@c",
            "tail -d x postgres://c",
            "query t 'postgres://c",
        ] {
            assert!(is_misplaced(line), "{line}");
        }
    }
}
