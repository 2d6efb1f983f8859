//! [`unpack`]: the changes of a packed payload, in which a statement trigger sends many rows.
//!
//! ```json
//! {"rows":[{"id":7,"data":{…}},{"id":8,"truncated":true}],
//!  "table":"users","action":"update","schema":"app","rel":16385,"xid":"742","at":"…",
//!  "recheck":true}
//! ```
//!
//! A packed payload begins with `{"rows":[`. Each element of `rows` has the members that belong to
//! one row, and the members behind the array belong to all of them. So an element without its last
//! brace, followed by the text behind the array, is the payload of one row: what a row trigger
//! would have sent. Nothing but this module knows of packed payloads.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The start of a packed payload.
const START: &str = r#"{"rows":["#;

/// The longest text behind the rows, in bytes. The names of a table and a schema take 63 bytes
/// each, and a control character in them six. Without a bound, a forged payload of 8 kB would be
/// unpacked to 8 MB: half of it an array of 2,000 numbers, the other half behind each of them.
const LONGEST_TAIL: usize = 1_200;

/// The rows of a packed payload, in order, each as its JSON.
#[derive(Debug, Deserialize)]
struct Packed<'a> {
    #[serde(borrow)]
    rows: Vec<&'a RawValue>,
}

/// The payloads of single changes; see [`unpack`].
#[derive(Debug)]
pub struct Unpacked<'a> {
    /// A payload that is not packed, unless it was returned.
    single: Option<&'a str>,
    rows: std::vec::IntoIter<&'a RawValue>,
    /// The text behind the rows, which begins with a comma.
    tail: &'a str,
}

impl<'a> Iterator for Unpacked<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(single) = self.single.take() {
            return Some(Cow::Borrowed(single));
        }
        let row = self.rows.next()?.get();
        let mut payload = String::with_capacity(row.len() + self.tail.len());
        payload.push_str(row.strip_suffix('}').unwrap_or(row));
        payload.push_str(self.tail);
        Some(Cow::Owned(payload))
    }
}

/// Returns the payloads of the single changes that a payload announces, in order: the payload
/// itself, unless it is packed. They are to be parsed one by one, and any of them may turn out not
/// to be a notification.
pub fn unpack(payload: &str) -> Unpacked<'_> {
    let (rows, tail) = rows_and_tail(payload).unwrap_or_default();
    Unpacked {
        single: rows.is_empty().then_some(payload),
        rows: rows.into_iter(),
        tail,
    }
}

/// Returns the rows of a packed payload and the text behind them; `None` if the payload is not a
/// packed one.
fn rows_and_tail(payload: &str) -> Option<(Vec<&RawValue>, &str)> {
    if !payload.starts_with(START) {
        return None;
    }
    let rows = serde_json::from_str::<Packed<'_>>(payload).ok()?.rows;
    let last = rows.last()?.get();
    let end = last.as_ptr() as usize + last.len() - payload.as_ptr() as usize;
    let tail = payload[end..].trim_start().strip_prefix(']')?.trim_start();
    (tail.len() <= LONGEST_TAIL).then_some((rows, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::{Action, Payload};
    use proptest::prelude::*;

    const TAIL: &str = concat!(
        r#","table":"users","action":"update","schema":"app","rel":7,"xid":"742","#,
        r#""at":"2026-01-01T00:00:00Z","recheck":true}"#
    );

    #[test]
    fn each_row_becomes_the_payload_that_a_row_trigger_sends() {
        let text = format!(
            r#"{{"rows":[{{"id":7,"data":{}}}, {{"id":[8,"x"],"truncated":true}}]{TAIL}"#,
            r#"{"id":7,"name":"a}]"}"#
        );
        let payloads: Vec<_> = unpack(&text).collect();
        assert_eq!(payloads.len(), 2);
        let [first, second] = [&payloads[0], &payloads[1]].map(|text| Payload::parse(text));
        let (first, second) = (first.expect("a payload"), second.expect("a payload"));
        assert_eq!(
            (first.id, first.data),
            (Some("7"), Some(r#"{"id":7,"name":"a}]"}"#))
        );
        assert_eq!((second.id, second.data), (Some(r#"[8,"x"]"#), None));
        assert!(second.truncated && !first.truncated);
        for payload in [first, second] {
            assert_eq!(payload.action, Action::Update);
            assert_eq!((payload.xid, payload.rel), (Some(742), Some(7)));
            assert!(payload.recheck);
        }
    }

    #[test]
    fn what_is_not_packed_stays_as_it_is() {
        for text in [
            "",
            "refresh",
            r#"{"table":"users","action":"delete","id":7}"#,
            r#"{"rows":[],"table":"users","action":"delete"}"#,
            r#"{"rows":[{"id":7}"#,
            r#"{"rows":[{"id":7}]"#,
        ] {
            assert_eq!(unpack(text).collect::<Vec<_>>(), [text]);
        }
    }

    // Any role can send a payload: a row of another shape, or one that names what belongs to all.
    #[test]
    fn a_forged_row_is_no_notification() {
        for row in ["7", "[]", "{}", r#"{"id":7,"table":"accounts"}"#] {
            let text = format!(r#"{{"rows":[{row}]{TAIL}"#);
            for payload in unpack(&text) {
                assert!(Payload::parse(&payload).is_err(), "{payload}");
            }
        }
    }

    #[test]
    fn a_forged_payload_does_not_grow_a_thousandfold() {
        let rows = vec!["1"; 2_000].join(",");
        let text = format!(r#"{{"rows":[{rows}],"why":"{}"{TAIL}"#, "x".repeat(3_500));
        assert_eq!(unpack(&text).count(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(rest in ".*", rows in prop::collection::vec(".*", 0..4)) {
            for text in [format!("{START}{rest}"), format!("{START}{}]{rest}", rows.join(","))] {
                for payload in unpack(&text) {
                    let _ = Payload::parse(&payload);
                }
            }
        }
    }
}
