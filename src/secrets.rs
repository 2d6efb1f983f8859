//! Finds connection strings where none belongs. People who know psql give one as the first
//! argument: `pgic status postgresql://alice:secret@db/shop`. Such a string may hold a password, so
//! nothing of it is printed, nor sent to a server as a name.

use std::ffi::OsString;

/// The options whose value is a connection string.
const OPTIONS: [&str; 2] = ["-d", "--database-url"];

/// Returns whether a text is a connection URL: one of PostgreSQL, or one of any scheme that may
/// hold a password. A quote before it does not matter.
pub fn is_connection_string(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"'));
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    // A condition such as `url=https://a.b` has a character before its `://` that no scheme has.
    // The colon is for `jdbc:postgresql://…`.
    let is_scheme = scheme
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | ':' | '_'));
    if scheme.is_empty() || !is_scheme {
        return false;
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    scheme.to_ascii_lowercase().contains("postgres") || authority.contains('@')
}

/// Returns whether a text is a connection string without a scheme: `alice:secret@db/shop`, or pairs
/// with a password among them.
pub fn is_bare(text: &str) -> bool {
    let has_url = text.split_whitespace().any(|pair| {
        pair.strip_prefix("dbname=")
            .is_some_and(is_connection_string)
    });
    // A password alone could be a condition on a column of that name.
    let has_password = has_key(text, "password") || has_key(text, "sslpassword");
    let has_other = ["host", "port", "user", "dbname"]
        .into_iter()
        .any(|key| has_key(text, key));
    let is_pairs = has_url || has_password && has_other;
    let (name, rest) = text.split_once(':').unwrap_or_default();
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    is_pairs || (is_name && rest.contains('@'))
}

/// Returns whether one of the words of a text begins with `key`. A quote before the key does not
/// matter.
fn has_key(text: &str, key: &str) -> bool {
    text.split_whitespace()
        .any(|pair| pair.trim_start_matches(['\'', '"']).starts_with(key))
}

/// Returns whether a connection string is among the arguments, other than as the value of its
/// option. `arguments` does not have the name of the program.
///
/// This runs before clap has parsed anything, so no options are known but those of `OPTIONS`.
pub fn is_misplaced(arguments: &[OsString]) -> bool {
    // Whether the next argument is the value of an option of `OPTIONS`, and of any option.
    let mut is_value = false;
    let mut is_any_value = false;
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let was_value = std::mem::replace(&mut is_value, OPTIONS.contains(&&*argument));
        // Behind any option the text may be its value, and `--id alice:1@x` looks like a name with
        // a password. So only URLs are found there.
        let was_any_value = std::mem::replace(&mut is_any_value, argument.starts_with('-'));
        if was_value
            || argument.starts_with("-d") && !argument.starts_with("--")
            || argument.starts_with("--database-url=")
        {
            return false;
        }
        // `--id=postgres://…`: not an argument of its own.
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

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn they_belong_to_their_option_alone() {
        for line in [
            "status -d postgres://a:b@c users",
            "--database-url=postgres://c status",
            "-dpostgres://c status",
            "tail --id a:b@c",
            "query t a=b:c@d",
        ] {
            assert!(!is_misplaced(&arguments(line)), "{line}");
        }
        for line in [
            "status a:b@c",
            "status postgres://a:b@c",
            "status --url=postgres://a:b@c",
            "tail -d x postgres://c",
            "query t 'postgres://c",
        ] {
            assert!(is_misplaced(&arguments(line)), "{line}");
        }
    }
}
