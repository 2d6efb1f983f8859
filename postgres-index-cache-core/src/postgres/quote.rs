//! Names and strings as they stand in SQL.

/// Returns a name as an identifier in SQL: in quotes, so that its case is kept.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a string as a literal in SQL, valid under either `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', "''"));
    // With the setting off, a backslash escapes in a plain literal as well. `E'…'` reads the same
    // under both.
    if text.contains('\\') {
        format!("E{}", quoted.replace('\\', "\\\\"))
    } else {
        quoted
    }
}
