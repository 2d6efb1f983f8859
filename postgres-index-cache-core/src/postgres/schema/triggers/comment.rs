//! The comment on a generated function. The comment marks the function as ours, and holds the table
//! and the options that the function was made for.

use crate::postgres::schema::triggers::TriggerOptions;
use serde::{Deserialize, Serialize};

/// The text before the JSON of a comment.
const PREFIX: &str = "made by pgic, do not edit: ";

/// The contents of a comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comment {
    /// The schema of the table that the function was made for.
    pub schema: String,
    /// The name of the table that the function was made for.
    pub table: String,
    /// The names of the key columns that the function sends, in key order; `None` in comments of
    /// early versions, which did not name the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// The options that the function was made with.
    #[serde(flatten)]
    pub options: TriggerOptions,
    /// The digest of the function's text as made. A text with another digest was edited by hand.
    pub digest: String,
}

/// Returns the text of a comment, as the database stores it.
pub fn write(comment: &Comment) -> String {
    // A comment has only strings and booleans, on which serde_json cannot fail.
    format!(
        "{PREFIX}{}",
        serde_json::to_string(comment).unwrap_or_default()
    )
}

/// Reads the comment on a function; `None` if the comment is not one of ours. Anyone can write such
/// a comment, which proves nothing about the owner: see [`is_ours`](super::is_ours).
pub fn read(comment: Option<&str>) -> Option<Comment> {
    serde_json::from_str(comment?.strip_prefix(PREFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_comes_back_as_it_was() {
        let comment = Comment {
            schema: "S \"q\"".into(),
            table: "t'x\\".into(),
            key: Some(vec!["a b".into()]),
            options: TriggerOptions {
                channel: "é".into(),
                columns: Some(vec!["a b".into()]),
                on_change: true,
                ..TriggerOptions::default()
            },
            digest: "0f".into(),
        };
        assert_eq!(read(Some(&write(&comment))), Some(comment));
        // A comment of the first version, with neither a key nor options, is still read.
        let first =
            r#"made by pgic, do not edit: {"schema":"s","table":"t","channel":"c","digest":"0f"}"#;
        let options = read(Some(first)).map(|comment| comment.options);
        assert_eq!(
            options,
            Some(TriggerOptions {
                channel: "c".into(),
                ..TriggerOptions::default()
            })
        );
        assert_eq!(read(Some("somebody's own")), None);
        assert_eq!(read(None), None);
    }
}
