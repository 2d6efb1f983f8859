//! Names of relations as people write them.

/// Splits a name as SQL writes it into its parts: `users`, `app.users`, `"Odd Name"`. A part
/// without quotes is folded to lower case, as PostgreSQL folds it (manual, 4.1.1 Identifiers and
/// CatalogKey Words). `None` when it is no name.
pub fn parse_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let part;
        (part, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_part(quoted)?
        } else {
            plain_part(rest)?
        };
        parts.push(part);
        match rest.trim_start() {
            "" => return Some(parts),
            more => rest = more.strip_prefix('.')?.trim_start(),
        }
    }
}

/// The part that is open at a quote, and what stands behind it. A quote that is doubled stands for
/// one.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let (before, behind) = rest.split_once('"')?;
        part.push_str(before);
        match behind.strip_prefix('"') {
            Some(more) => {
                part.push('"');
                rest = more;
            }
            None => return (!part.is_empty() && !part.contains('\0')).then_some((part, behind)),
        }
    }
}

fn plain_part(text: &str) -> Option<(String, &str)> {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let is_inner = |c: char| is_first(c) || c.is_ascii_digit() || c == '$';
    let end = text.find(|c| !is_inner(c)).unwrap_or(text.len());
    let part = &text[..end];
    part.starts_with(is_first)
        .then(|| (part.to_ascii_lowercase(), &text[end..]))
}

/// What to say of a text that is no name. Whoever knows psql gives a connection string first: that
/// is not repeated, since it may hold a password.
pub(super) fn refused(text: &str) -> String {
    if text.contains("://") || text.contains(['@', '=']) {
        "this is no table's name; it looks like a connection string, and is not repeated"
            .to_string()
    } else {
        format!("{text} is no table's name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_sql_reads_them() {
        for (text, parts) in [
            ("users", &["users"][..]),
            (" Users ", &["users"]),
            ("App.\"U.x\"\"y\"", &["app", "U.x\"y"]),
            ("a . b", &["a", "b"]),
            ("db.app.users", &["db", "app", "users"]),
            ("_a$1", &["_a$1"]),
            ("Größe", &["größe"]),
        ] {
            assert_eq!(
                parse_name(text).as_deref(),
                Some(&parts.iter().map(|p| (*p).to_string()).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
        for bad in [
            "",
            ".",
            "a.",
            "a..b",
            "\"a\"b",
            "\"\"",
            "\"a",
            "1a",
            "a b",
            "a;b",
            "postgres://h/d",
            "a-b",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }
}
