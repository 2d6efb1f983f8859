//! The comment on a generated function: by it a function is known as ours, with the options it was made with.

use serde::{Deserialize, Serialize};

const PREFIX: &str = "made by pgic, do not edit: ";

/// What the comment says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comment {
    /// The schema of the table it was made for.
    pub schema: String,
    /// The table it was made for.
    pub table: String,
    /// The channel it notifies on.
    pub channel: String,
    /// A digest of the function's text as it was made: another text was edited by hand.
    pub digest: String,
}

/// The comment as it is stored.
pub fn write(comment: &Comment) -> String {
    // Four strings: serde cannot fail on them.
    format!("{PREFIX}{}", serde_json::to_string(comment).unwrap_or_default())
}

/// The comment of a function, when it is one of ours. Anyone may write such a comment: it makes nobody an owner.
pub fn read(comment: Option<&str>) -> Option<Comment> {
    serde_json::from_str(comment?.strip_prefix(PREFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_comes_back_as_it_was() {
        let comment =
            Comment { schema: "S \"q\"".into(), table: "t'x\\".into(), channel: "é".into(), digest: "0f".into() };
        assert_eq!(read(Some(&write(&comment))), Some(comment));
        assert_eq!(read(Some("somebody's own")), None);
        assert_eq!(read(None), None);
    }
}
