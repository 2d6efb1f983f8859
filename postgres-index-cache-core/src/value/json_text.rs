//! JSON text as PostgreSQL writes it: strings, escapes, white space.

use std::borrow::Cow;

/// Without JSON's white space around it.
pub(super) fn trim(json: &str) -> &str {
    json.trim_matches([' ', '\t', '\n', '\r'])
}

/// The content of a JSON string; `None` when `raw` is something else.
pub(super) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    let content = raw.strip_prefix('"')?.strip_suffix('"')?;
    if content.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(content))
    }
}

/// The start of a value, for an error message.
pub(super) fn excerpt(raw: &str) -> String {
    const LONGEST: usize = 60;
    if raw.len() <= LONGEST {
        raw.to_string()
    } else {
        format!("{}…", raw.chars().take(LONGEST).collect::<String>())
    }
}

/// Appends a JSON string with the escapes that PostgreSQL's `escape_json` writes.
pub(crate) fn write_json_string(text: &str, json: &mut String) {
    use std::fmt::Write as _;
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            c if c < ' ' => {
                // Writing into a String cannot fail.
                let _ = write!(json, "\\u{:04x}", c as u32);
            }
            c => json.push(c),
        }
    }
    json.push('"');
}

/// `bytea` in its hex or its escape format (manual, 8.4 Binary Data Types).
pub(super) fn parse_bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let pairs = hex.as_bytes().chunks(2);
        return pairs
            .map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?))
            .collect();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                tail
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                tail
            }
            (b'\\', _) => return None,
            (plain, tail) => {
                bytes.push(plain);
                tail
            }
        };
    }
    Some(bytes)
}

/// The same JSON on one line and without a character that a terminal obeys: newlines between tokens
/// become spaces, and control, C1, bidi and invisible characters inside strings become `\u`
/// escapes. Every value stays what it was.
pub fn one_line_json(json: &str) -> Cow<'_, str> {
    use std::fmt::Write as _;
    if json.chars().all(|c| !is_obeyed(c)) {
        return Cow::Borrowed(json);
    }
    let mut line = String::with_capacity(json.len() + 16);
    let mut in_string = false;
    let mut escaped = false;
    for c in json.chars() {
        let was_escaped = std::mem::take(&mut escaped);
        if in_string && is_obeyed(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing into a String cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
            continue;
        }
        match c {
            '"' if !was_escaped => in_string = !in_string,
            '\\' if in_string && !was_escaped => escaped = true,
            _ => {}
        }
        line.push(if is_obeyed(c) { ' ' } else { c });
    }
    Cow::Owned(line)
}

/// Whether a terminal obeys a character or does not show it: control characters (C0, DEL, C1), the
/// line and paragraph separators, what reorders text, and what has no width. Text of strangers is
/// never printed with one of these.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_one_line_and_keeps_its_values() {
        let hostile = "{\"a\\\"b\":\n\t\"x\u{1b}[31m\u{9b}\u{202e}\\\\\",\r\n \"c\": [1,\n2]}";
        // Raw control characters inside a string are not JSON that serde takes; PostgreSQL's json
        // type does not either, but DEL, C1 and bidi characters are.
        let line = one_line_json(hostile);
        assert!(!line.chars().any(is_obeyed), "{line}");
        let valid = "{\"a\\\"b\":\n\"x\u{7f}\u{9b}\u{202e}\\\\\",\n \"c\": [1,\n2]}";
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&one_line_json(valid)), parse(valid));
        assert!(matches!(one_line_json("{\"a\": 1}"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_broken_bytea_is_refused() {
        for text in ["\\x0", "\\xzz", "\\", "\\9", "\\400"] {
            assert_eq!(parse_bytea(text), None, "{text}");
        }
    }
}
