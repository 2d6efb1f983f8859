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

/// A text that was read out of its quotes.
#[derive(Debug, PartialEq, Eq)]
pub struct Unquoted<'a> {
    /// The text, in which a doubled quote has become one.
    pub text: String,
    /// Everything behind the closing quote.
    pub rest: &'a str,
}

/// Reads a text in quotes, of which `text` begins behind the opening one. A doubled quote stands
/// for one (manual, 4.1 Lexical Structure). Returns `None` if the quotes are not closed.
pub fn read_quoted(text: &str, quote: char) -> Option<Unquoted<'_>> {
    let mut inner = String::new();
    let mut rest = text;
    loop {
        let (before, behind) = rest.split_once(quote)?;
        inner.push_str(before);
        match behind.strip_prefix(quote) {
            Some(more) => {
                inner.push(quote);
                rest = more;
            }
            None => {
                return Some(Unquoted {
                    text: inner,
                    rest: behind,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quoted_text_is_read_back(text in ".*", behind in "[^\"'].*") {
            let identifier = format!("{}{behind}", quote_identifier(&text));
            let read = read_quoted(&identifier[1..], '"').unwrap();
            prop_assert_eq!((read.text.as_str(), read.rest), (text.as_str(), behind.as_str()));
        }
    }

    #[test]
    fn quotes_that_are_not_closed_are_no_text() {
        for text in ["", "a", "a\"\"", "\"\"\"\"a\"\""] {
            assert_eq!(read_quoted(text, '"'), None, "{text}");
        }
    }
}
