//! [`conditions`]: a key as people write it, made into conditions on the columns of the key.
//!
//! `42` is the value of a key of one column, `42,2` that of a key of two, in the key's order. A
//! part that has a comma stands in single quotes. The form of payloads and of JSON output is a key,
//! too: `[42,2]`.

use super::conditions::Written;
use crate::failure::with_hint;
use crate::render::count;
use anyhow::anyhow;
use postgres_index_cache_core::Key;
use serde_json::Value;
use serde_json::value::RawValue;

/// Returns the conditions that the columns of a key have the values of a written key.
///
/// # Errors
/// If the key has more or fewer columns than parts were written.
pub fn conditions(columns: &[String], text: &str) -> anyhow::Result<Vec<Written>> {
    let pairs = columns.iter().zip(values(columns, text)?);
    Ok(pairs
        .map(|(column, part)| Written::key_part(column, part))
        .collect())
}

/// Returns the values of the columns of a written key.
///
/// # Errors
/// As [`conditions`].
pub fn values(columns: &[String], text: &str) -> anyhow::Result<Vec<String>> {
    let parts = parts(columns.len(), text);
    if parts.len() != columns.len() {
        let names = columns.join(",");
        return Err(with_hint(
            anyhow!(
                "the key ({names}) has {}, and {text} has {}",
                count(columns.len() as u64, "column"),
                parts.len()
            ),
            format!(
                "write the values in the order {names}, with commas; a value with a comma in it in \
                single quotes"
            ),
        ));
    }
    Ok(parts)
}

/// Splits a written key into the values of its columns.
fn parts(columns: usize, text: &str) -> Vec<String> {
    if let Ok(Value::Array(values)) = serde_json::from_str(text)
        && values.len() == columns
    {
        return values.iter().map(plain).collect();
    }
    // A key of one column is taken as it is, but for quotes around it: it may have commas.
    if columns == 1 {
        return vec![unquoted(text)];
    }
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            ',' if !is_quoted => parts.push(String::new()),
            c => {
                is_quoted ^= c == '\'';
                // There is always a last part.
                if let Some(part) = parts.last_mut() {
                    part.push(c);
                }
            }
        }
    }
    parts.iter().map(|part| unquoted(part)).collect()
}

/// Returns the text of a JSON string, and the JSON of any other value.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns a key, which is JSON, as it can be typed.
pub fn typed(json: &str) -> String {
    RawValue::from_string(json.to_string())
        .map_or_else(|_| json.to_string(), |raw| Key::from_json(&raw).to_string())
}

/// Returns the text between single quotes, or the whole text if there are none around it.
pub fn unquoted(text: &str) -> String {
    let inner = text
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    inner.map_or_else(|| text.to_string(), |inner| inner.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(columns: &[&str], text: &str) -> Result<String, String> {
        let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
        match conditions(&columns, text) {
            Ok(written) => {
                let texts: Vec<String> = written.iter().map(ToString::to_string).collect();
                Ok(texts.join(" "))
            }
            Err(error) => Err(error.root_cause().to_string()),
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_printed() {
        for (columns, text, expected) in [
            (&["id"][..], "42", "id=42"),
            (&["id"], "a,b", "id=a,b"),
            (&["id"], "'it''s'", "id=it's"),
            (&["id"], "[42]", "id=42"),
            (&["a", "b"], "42,2", "a=42 b=2"),
            (&["a", "b"], "[42,\"x,y\"]", "a=42 b=x,y"),
            (&["a", "b"], "'x,y',2", "a=x,y b=2"),
            (&["a", "b"], ",", "a= b="),
        ] {
            assert_eq!(read(columns, text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["42", "1,2,3", "[1]"] {
            assert!(read(&["a", "b"], text).is_err(), "{text}");
        }
    }
}
