//! [`Scanner`]: walks the usual JSON of a payload in one pass, without a tree and without a copy.
//!
//! A scanner takes less than JSON has: no escapes in names, and no deep nesting. Where it returns
//! `None`, the text may be JSON all the same, and its reader starts over with serde. What it does
//! return is what serde would, which a property test and the fuzz target `payload` compare.

/// Returns the members of an object, name and JSON, in the object's order. Returns `None` if the
/// text is no object, and for some objects of which serde has to be asked.
pub fn members(json: &str) -> Option<Vec<(&str, &str)>> {
    let mut scanner = Scanner::new(json);
    scanner.enter_object()?;
    let mut members = Vec::new();
    while let Member::Named(name) = scanner.next_member(members.len())? {
        members.push((name, scanner.value()?));
    }
    scanner.end()?;
    Some(members)
}

/// A position in a JSON text.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// What comes next in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member<'a> {
    /// A member with this name, whose value is next.
    Named(&'a str),
    /// The end of the object, which is left.
    End,
}

/// How deep arrays and objects may be nested. PostgreSQL's rows seldom nest at all.
const DEEPEST: u8 = 32;

impl<'a> Scanner<'a> {
    /// Begins at the start of a text.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Enters an object.
    pub(crate) fn enter_object(&mut self) -> Option<()> {
        self.skip_space();
        self.take(b'{')
    }

    /// Goes to the next member of the object that was entered, behind `count` others.
    pub(crate) fn next_member(&mut self, count: usize) -> Option<Member<'a>> {
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(Member::End);
        }
        if count > 0 {
            self.take(b',')?;
            self.skip_space();
        }
        let name = self.string()?;
        self.skip_space();
        self.take(b':')?;
        // A name with escapes would have to be compared without them.
        let name = &name[1..name.len() - 1];
        (!name.contains('\\')).then_some(Member::Named(name))
    }

    /// Passes over a value and returns its text.
    pub(crate) fn value(&mut self) -> Option<&'a str> {
        self.skip_space();
        let start = self.at;
        self.skip_value(DEEPEST)?;
        Some(&self.text[start..self.at])
    }

    /// Checks that nothing follows.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.skip_space();
        (self.at == self.text.len()).then_some(())
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there.then_some(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn skip_value(&mut self, depth: u8) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.at += 1;
                let mut count = 0;
                while let Member::Named(_) = self.next_member(count)? {
                    self.skip_space();
                    self.skip_value(depth)?;
                    count += 1;
                }
                Some(())
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                self.at += 1;
                self.skip_space();
                if self.take(b']').is_some() {
                    return Some(());
                }
                loop {
                    self.skip_space();
                    self.skip_value(depth)?;
                    self.skip_space();
                    if self.take(b',').is_none() {
                        return self.take(b']');
                    }
                }
            }
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_there = self.bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len() * usize::from(is_there);
        is_there.then_some(())
    }

    /// Passes over a string, and returns it with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.take(b'"')?;
        loop {
            self.at += plain_length(&self.bytes()[self.at..]);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(&self.text[start..self.at]);
                }
                b'\\' => self.escape()?,
                // A control character, which JSON does not allow in a string.
                _ => return None,
            }
        }
    }

    /// Passes over an escape in a string.
    fn escape(&mut self) -> Option<()> {
        let escaped = *self.bytes().get(self.at + 1)?;
        let length = match escaped {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' => {
                let digits = self.bytes().get(self.at + 2..self.at + 6)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                6
            }
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        // No digit follows a zero at the front.
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// Passes over digits, at least one.
    fn digits(&mut self) -> Option<()> {
        let count = self.bytes()[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        (count > 0).then_some(())
    }
}

/// Returns how many bytes at the front of a string's content are neither a quote, a backslash nor a
/// control character.
fn plain_length(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at once: the high bit of a byte is set in the sum below if the byte is one of
    // those. A byte behind such a one may be marked wrongly, so the first mark counts alone.
    let below = |word: u64, limit: u64| word.wrapping_sub(LOW * limit) & !word & HIGH;
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (LOW * u64::from(b'"')), 1);
        let backslash = below(word ^ (LOW * u64::from(b'\\')), 1);
        let special = quote | backslash | below(word, 0x20);
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = &bytes[at..];
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    at + rest.iter().position(is_special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;
    use std::collections::BTreeMap;

    /// Makes texts of the characters that JSON is made of.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"b\\n\"",
            "\"",
            "\\u00e9",
            "\\",
            "é",
            "1",
            "0",
            "-",
            ".5",
            "e+7",
            "true",
            "false",
            "null",
            " ",
            "\n",
            "\u{1}",
            "\"a\":",
            "{\"a\":1}",
            "[1,[2]]",
        ]);
        prop::collection::vec(piece, 0..14).prop_map(|pieces| format!("{{{}}}", pieces.concat()))
    }

    /// Makes objects.
    fn json() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            "-?(0|[1-9][0-9]{0,4})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
            "\"[a-zé\\u{80}-\\u{10ffff} ]{0,20}\"",
            Just("\"\\\\ \\\"q\\\" \\u12aB\"".to_string()),
            prop::sample::select(vec![
                "true",
                "false",
                "null",
                "[]",
                "{}",
                "[1, {\"x\" : [2]}]"
            ])
            .prop_map(str::to_string),
        ];
        prop::collection::vec(("[a-d]{1,2}", value), 0..6).prop_map(|members| {
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("\"{name}\" : {value}"))
                .collect();
            format!(" {{ {} }} ", members.join(", "))
        })
    }

    proptest! {
        #[test]
        fn what_is_scanned_is_what_serde_reads(text in prop_oneof![json(), nearly_json(), ".{0,30}"]) {
            let by_serde = serde_json::from_str::<BTreeMap<String, &RawValue>>(&text);
            if let Some(found) = members(&text) {
                let by_serde = by_serde.expect("serde reads what is scanned");
                // The last member of a name counts to serde's map.
                for (name, value) in by_serde {
                    let scanned = found.iter().rev().find(|member| member.0 == name);
                    prop_assert_eq!(scanned.map(|member| member.1), Some(value.get()));
                }
            }
        }

        #[test]
        fn the_usual_json_is_scanned(text in json()) {
            prop_assert!(members(&text).is_some(), "{}", text);
        }

        #[test]
        fn a_string_ends_where_its_first_special_byte_stands(
            plain in "[a-zé!#\\u{20}]{0,40}",
            special in prop::sample::select(vec!["\"", "\\", "\u{1f}", "\0", ""]),
            behind in "[\"\\\\a-z]{0,12}",
        ) {
            let behind = if special.is_empty() { "" } else { &behind };
            let text = format!("{plain}{special}{behind}");
            prop_assert_eq!(plain_length(text.as_bytes()), plain.len());
        }
    }

    #[test]
    fn what_is_not_usual_is_left_to_serde() {
        for text in [
            "",
            "[]",
            "{\"a\\u0062\":1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":+1}",
            "{\"a\":\"\t\"}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":1}x",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":tru}",
        ] {
            assert_eq!(members(text), None, "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(members(&deep), None);
    }
}
