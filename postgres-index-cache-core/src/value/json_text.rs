//! JSON as text: taking off quotes and white space, writing strings with PostgreSQL's escapes, and
//! making text of strangers safe for a terminal.

use std::borrow::Cow;

/// Returns `json` without white space, as JSON defines it, at both ends.
pub(super) fn trim(json: &str) -> &str {
    json.trim_matches([' ', '\t', '\n', '\r'])
}

/// Returns the content of a JSON string; `None` if `raw` is another JSON value.
pub(super) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    let content = raw.strip_prefix('"')?.strip_suffix('"')?;
    // Most strings have no escape, and are borrowed as they stand.
    if content.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(content))
    }
}

/// Returns the first 60 characters of a value, for an error message.
pub(super) fn excerpt(raw: &str) -> String {
    const LONGEST: usize = 60;
    if raw.len() <= LONGEST {
        return raw.to_string();
    }
    let start: String = raw.chars().take(LONGEST).collect();
    format!("{start}…")
}

/// Appends `text` as a JSON string, with exactly the escapes that PostgreSQL's `escape_json`
/// writes.
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

/// Returns the bytes of a `bytea` in its hex or its escape format (manual, 8.4 Binary Data Types).
/// Returns `None` if `text` is in neither.
pub(super) fn parse_bytea(text: &str) -> Option<Vec<u8>> {
    fn hex_digit(byte: u8) -> Option<u8> {
        (byte as char).to_digit(16).map(|digit| digit as u8)
    }
    if let Some(hex) = text.strip_prefix("\\x") {
        let pairs = hex.as_bytes().chunks(2);
        return pairs
            .map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(*pair.get(1)?)?))
            .collect();
    }
    // The escape format: a backslash is doubled, a byte that cannot be printed is \000 to \377.
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                tail
            }
            (
                b'\\',
                [
                    high @ b'0'..=b'3',
                    middle @ b'0'..=b'7',
                    low @ b'0'..=b'7',
                    tail @ ..,
                ],
            ) => {
                bytes.push(((high - b'0') << 6) | ((middle - b'0') << 3) | (low - b'0'));
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

/// Returns the same JSON on one line, without any character that a terminal obeys. Between tokens,
/// such a character becomes a space. Inside strings, control, C1, bidi and invisible characters
/// become `\u` escapes. No value changes.
pub fn one_line_json(json: &str) -> Cow<'_, str> {
    use std::fmt::Write as _;
    // Nearly all JSON is printable ASCII, which is seen many bytes at a time.
    let is_printable = json.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if is_printable || json.chars().all(|c| !is_obeyed(c)) {
        return Cow::Borrowed(json);
    }
    let mut line = String::with_capacity(json.len() + 16);
    let mut in_string = false;
    let mut escaped = false;
    for c in json.chars() {
        // An escape and its character cannot be torn apart here: behind a backslash, JSON allows no
        // character that a terminal obeys.
        let was_escaped = std::mem::take(&mut escaped);
        if in_string && is_obeyed(c) {
            // A JSON escape is a UTF-16 unit: a character past U+FFFF takes two.
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

/// Returns whether a terminal obeys a character or does not show it. These are control characters
/// (C0, DEL, C1), the line and paragraph separators, and characters that reorder text or have no
/// width. Text of strangers is never printed with one of them.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
                // Spaces without width, joiners, direction marks.
                | '\u{200b}'..='\u{200f}'
                // Line and paragraph separators, direction embeddings and overrides.
                | '\u{2028}'..='\u{202e}'
                // Word joiner, invisible operators, direction isolates.
                | '\u{2060}'..='\u{206f}'
                // Byte order mark, interlinear annotations, tags.
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_one_line_and_keeps_its_values() {
        fn parse(text: &str) -> serde_json::Value {
            serde_json::from_str(text).unwrap()
        }
        let hostile = "{\"a\\\"b\":\n\t\"x\u{1b}[31m\u{9b}\u{202e}\\\\\",\r\n \"c\": [1,\n2]}";
        let line = one_line_json(hostile);
        assert!(!line.chars().any(is_obeyed), "{line}");
        // `hostile` has a raw C0 character inside a string, which neither serde nor PostgreSQL's
        // json type takes. DEL, C1 and bidi characters are allowed there.
        let valid = "{\"a\\\"b\":\n\"x\u{7f}\u{9b}\u{202e}\\\\\",\n \"c\": [1,\n2]}";

        assert_eq!(parse(&one_line_json(valid)), parse(valid));
        assert!(matches!(one_line_json("{\"a\": 1}"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_broken_bytea_is_refused() {
        // Half a byte, no digits, a lone backslash, no octal digit, an octal number past 255.
        for text in ["\\x0", "\\xzz", "\\", "\\9", "\\400"] {
            assert_eq!(parse_bytea(text), None, "{text}");
        }
    }
}
