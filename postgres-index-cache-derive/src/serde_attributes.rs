//! The attributes by which serde names and skips fields, as far as columns depend on them.

use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Expr, Ident, LitStr, Token};

/// What serde's attributes say of a struct.
#[derive(Debug, Default)]
pub(crate) struct SerdeStruct {
    rename_all: Option<String>,
    /// Whether a missing member of any field has a default value.
    pub(crate) has_defaults: bool,
    /// Whether the struct is read otherwise than field by field, so that its columns are not known.
    pub(crate) is_opaque: bool,
}

/// What serde's attributes say of a field.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an attribute that stands there or not"
)]
pub(crate) struct SerdeField {
    rename: Option<String>,
    /// Whether the field is not read.
    pub(crate) is_skipped: bool,
    /// Whether a missing member has a default value.
    pub(crate) has_default: bool,
    /// Whether the field is read by a function of its own, whatever its type is.
    pub(crate) has_reader: bool,
    /// Whether the field may be read from several members, so that the columns are not known.
    pub(crate) is_opaque: bool,
}

impl SerdeStruct {
    pub(crate) fn of(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut found = Self::default();
        each_meta(attributes, |meta| {
            match name_of(meta).as_str() {
                "rename_all" => found.rename_all = reading_name(meta)?.or(found.rename_all.take()),
                "default" => {
                    found.has_defaults = true;
                    pass_over(meta)?;
                }
                "from" | "try_from" | "remote" | "transparent" | "deny_unknown_fields" => {
                    found.is_opaque = true;
                    pass_over(meta)?;
                }
                _ => pass_over(meta)?,
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl SerdeField {
    pub(crate) fn of(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut found = Self::default();
        each_meta(attributes, |meta| {
            match name_of(meta).as_str() {
                "rename" => found.rename = reading_name(meta)?.or(found.rename.take()),
                "skip" | "skip_deserializing" => found.is_skipped = true,
                "default" => {
                    found.has_default = true;
                    pass_over(meta)?;
                }
                "with" | "deserialize_with" => {
                    found.has_reader = true;
                    pass_over(meta)?;
                }
                "flatten" | "alias" => {
                    found.is_opaque = true;
                    pass_over(meta)?;
                }
                _ => pass_over(meta)?,
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns the name of the member, and so of the column, that the field is read from.
    pub(crate) fn column(&self, of: &SerdeStruct, field: &Ident) -> String {
        let field = field.unraw().to_string();
        match (&self.rename, &of.rename_all) {
            (Some(name), _) => name.clone(),
            (None, Some(rule)) => renamed(&field, rule),
            (None, None) => field,
        }
    }
}

/// Calls `visit` with each entry of the attributes `#[serde(…)]`.
fn each_meta(
    attributes: &[Attribute],
    mut visit: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>,
) -> syn::Result<()> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("serde"))
        .try_for_each(|attribute| attribute.parse_nested_meta(|meta| visit(&meta)))
}

/// Returns the name of an entry; empty if it is a path of several parts.
fn name_of(meta: &ParseNestedMeta<'_>) -> String {
    meta.path
        .get_ident()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Passes over what stands behind an entry's name: that is between serde and the struct.
fn pass_over(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        meta.parse_nested_meta(|inner| pass_over(&inner))?;
    }
    Ok(())
}

/// Returns the name by which serde reads: `rename = "x"`, or `rename(deserialize = "x")`.
fn reading_name(meta: &ParseNestedMeta<'_>) -> syn::Result<Option<String>> {
    if meta.input.peek(Token![=]) {
        return Ok(Some(meta.value()?.parse::<LitStr>()?.value()));
    }
    let mut name = None;
    meta.parse_nested_meta(|inner| {
        let text = inner.value()?.parse::<LitStr>()?.value();
        if inner.path.is_ident("deserialize") {
            name = Some(text);
        }
        Ok(())
    })?;
    Ok(name)
}

/// Returns a field's name under one of serde's rules.
fn renamed(field: &str, rule: &str) -> String {
    let pascal = || {
        let words = field.split('_');
        words.map(capitalized).collect::<String>()
    };
    match rule {
        "UPPERCASE" | "SCREAMING_SNAKE_CASE" => field.to_ascii_uppercase(),
        "PascalCase" => pascal(),
        "camelCase" => {
            let pascal = pascal();
            let mut letters = pascal.chars();
            letters
                .next()
                .map(|first| first.to_ascii_lowercase().to_string() + letters.as_str())
                .unwrap_or_default()
        }
        "kebab-case" => field.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => field.to_ascii_uppercase().replace('_', "-"),
        // `lowercase` and `snake_case` leave a field's name as it is; serde refuses other rules.
        _ => field.to_string(),
    }
}

/// Returns a word with a capital at its beginning.
fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_serde() {
        for (rule, name) in [
            ("lowercase", "user_id"),
            ("snake_case", "user_id"),
            ("UPPERCASE", "USER_ID"),
            ("SCREAMING_SNAKE_CASE", "USER_ID"),
            ("PascalCase", "UserId"),
            ("camelCase", "userId"),
            ("kebab-case", "user-id"),
            ("SCREAMING-KEBAB-CASE", "USER-ID"),
        ] {
            assert_eq!(renamed("user_id", rule), name);
        }
    }
}
