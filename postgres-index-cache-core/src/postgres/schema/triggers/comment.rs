//! The comment on a generated function: by it a function is known as ours, with the options it was
//! made with.

use crate::postgres::schema::triggers::TriggerOptions;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "made by pgic, do not edit: ";

/// What the comment says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comment {
    /// The schema of the table it was made for.
    pub schema: String,
    /// The table it was made for.
    pub table: String,
    /// The columns of the key that it sends, in key order; `None` in a comment of before keys were
    /// written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// The options it was made with.
    #[serde(flatten)]
    pub options: TriggerOptions,
    /// A digest of the function's text as it was made: another text was edited by hand.
    pub digest: String,
}

/// The comment as it is stored.
pub fn write(comment: &Comment) -> String {
    // Strings and booleans: serde cannot fail on them.
    format!(
        "{PREFIX}{}",
        serde_json::to_string(comment).unwrap_or_default()
    )
}

/// The comment of a function, when it is one of ours. Anyone may write such a comment: it makes
/// nobody an owner.
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
