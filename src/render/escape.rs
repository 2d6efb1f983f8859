//! [`escape`]: text from outside, made safe to print on a terminal.
//!
//! A name or a value in the database may hold control characters that move the cursor, rename the
//! window or reorder text.

use postgres_index_cache_core::tooling::is_obeyed;
use std::borrow::Cow;

/// Returns the text with each character that a terminal obeys or does not show ([`is_obeyed`])
/// written as an escape: `\n`, `\t`, `\u{1b}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    // Nearly all texts have nothing to escape, and are not copied.
    if is_printable(text) || !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether a text is printable ASCII, which is seen many bytes at a time.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// Returns the escaped text, cut after `longest` characters with an ellipsis. The characters are
/// counted before they are escaped.
pub fn excerpt(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return escape(text);
    }
    match text.char_indices().nth(longest) {
        Some((end, _)) => Cow::Owned(format!("{}…", escape(&text[..end]))),
        None => escape(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A colour (ESC and C1), a reversal of the text, line breaks, a tab, and invisible characters.
    #[test]
    fn nothing_that_a_terminal_obeys_remains() {
        let hostile = "a\u{1b}[31mb\u{9b}c\u{202e}d\re\nf\tg\u{0}h\u{7f}i\u{2066}j";
        assert_eq!(
            escape(hostile),
            "a\\u{1b}[31mb\\u{9b}c\\u{202e}d\\re\\nf\\tg\\u{0}h\\u{7f}i\\u{2066}j"
        );
        assert_eq!(escape("é ✓ 日本"), "é ✓ 日本");
        assert_eq!(excerpt("日本語", 2), "日本…");
    }
}
