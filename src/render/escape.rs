//! Text of strangers on a terminal: nothing in it is obeyed.

use postgres_index_cache_core::is_obeyed;
use std::borrow::Cow;

/// The text with what a terminal obeys or does not show ([`is_obeyed`]) written as escapes: `\n`,
/// `\u{1b}`. A tab becomes `\t`. Everything else stays.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
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

/// As [`escape`], and cut after `longest` characters with an ellipsis.
pub fn excerpt(text: &str, longest: usize) -> Cow<'_, str> {
    match text.char_indices().nth(longest) {
        Some((end, _)) => Cow::Owned(format!("{}…", escape(&text[..end]))),
        None => escape(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
