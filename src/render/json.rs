//! [`line`]: JSON objects on one line, with members in the order that they are given in.

use postgres_index_cache_core::tooling::one_line_json;
use serde_json::Value;

/// Returns an object on one line, with a newline at the end. Characters that a terminal obeys are
/// escaped.
pub fn line<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> String {
    // Written by hand: serde_json's map would sort the members by name.
    let members: Vec<String> = members
        .into_iter()
        .map(|(name, value)| format!("{}:{value}", Value::from(name)))
        .collect();
    let object = format!("{{{}}}", members.join(","));
    format!("{}\n", one_line_json(&object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_nothing_is_obeyed() {
        let text = line([("b", Value::from("\u{1b}\u{9b}\n")), ("a", Value::from(1))]);
        assert_eq!(text, "{\"b\":\"\\u001b\\u009b\\n\",\"a\":1}\n");
    }
}
