//! Recognises connection strings where none belongs: in place of a name, or of another argument.
//!
//! Such a text may hold a password, so nothing of it should be printed, nor sent to a server as a
//! name.

/// Returns whether a text is a connection URL: one of PostgreSQL, or one of any scheme that may
/// hold a password. A quote before it does not matter.
pub fn is_url(text: &str) -> bool {
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
    let has_url = text
        .split_whitespace()
        .any(|pair| pair.strip_prefix("dbname=").is_some_and(is_url));
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
            assert!(is_url(text), "{text}");
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
            assert!(!is_url(text), "{text}");
        }
    }
}
