//! [`secret_columns`]: columns that are sent and, by their names, hold secrets. Any role of the
//! database can LISTEN, also one that may not SELECT.

use super::TriggerOptions;
use crate::tables::catalog::CatalogTable;

/// Returns the names of the columns that these triggers send and that look like secrets.
pub fn secret_columns<'a>(table: &'a CatalogTable, options: &TriggerOptions) -> Vec<&'a str> {
    let names = table.columns.iter().map(|column| column.name.as_str());
    names
        .filter(|name| options.sends(name) && looks_like_secret(name))
        .collect()
}

/// Returns whether the name of a column is that of a secret.
fn looks_like_secret(name: &str) -> bool {
    // These must stand alone between other characters than letters and digits: `pwd` stands in the
    // middle of other words, and so does `otp` (`hotpink`).
    const WORDS: [&str; 10] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "apikey",
        "credential",
        "credentials",
        "otp",
    ];
    // These are secrets wherever they stand.
    const PARTS: [&str; 5] = ["password", "secret", "api_key", "private_key", "access_key"];
    let name = name.to_lowercase();
    let has_word = name
        .split(|c: char| !c.is_alphanumeric())
        .any(|own| WORDS.contains(&own) || WORDS.contains(&own.strip_suffix('s').unwrap_or(own)));
    has_word || PARTS.iter().any(|part| name.contains(part))
}
