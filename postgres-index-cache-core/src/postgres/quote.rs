//! Quoting: names and strings as SQL must have them.

/// Returns a name as an identifier in SQL. The quotes keep the name's case.
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
