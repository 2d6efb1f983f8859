//! What a generated function was made for: the columns whose values its payloads can be trusted
//! with.

use crate::CellType;
use crate::postgres::schema::catalog::{CatalogColumn, CatalogTable, Function, Trigger};
use crate::postgres::schema::triggers::{PINNED, read_comment};
use sha2::{Digest as _, Sha256};

/// What stands in the text of a function that sends the output functions' text of types that are
/// not built in.
const MAKES_TEXT: &str = "pg_catalog.num_nonnulls(";
/// What stands before the columns in the text of a generated function (`sql/table_trigger.sql`).
const COLUMNS: &str = "-- Made for the columns ";

/// Returns a digest of a text, in hex: the comment of a function has that of the text as it was
/// made.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether the text of a function of ours was changed after it was made.
pub fn is_edited(function: &Function) -> bool {
    read_comment(function.comment.as_deref())
        .is_some_and(|comment| comment.digest != digest(&function.source))
}

/// Returns the settings that a function must pin for these columns, as names and values. Each costs
/// about 2 µs a row, so only those that the types need.
pub fn settings(columns: &[CatalogColumn]) -> Vec<(&'static str, &'static str)> {
    let pinned = |name: &str| PINNED.iter().find(|(pinned, _)| *pinned == name).copied();
    let needs = |test: &dyn Fn(&CatalogColumn, u32) -> bool| {
        columns
            .iter()
            .any(|column| column.made_of.iter().any(|&part| test(column, part)))
    };
    if columns.iter().any(|column| column.follows_anything) {
        // Nobody knows what an extension's type looks at.
        return PINNED.to_vec();
    }
    let mut settings = Vec::new();
    let mut pin_if =
        |name: &str, is_needed: bool| settings.extend(is_needed.then(|| pinned(name)).flatten());
    // timestamptz, wherever it stands.
    pin_if("TimeZone", needs(&|_, part| part == 1184));
    // Dates on their own are ISO in JSON; inside ranges and composites they are text.
    pin_if(
        "DateStyle",
        needs(&|column, part| matches!(part, 1082 | 1114 | 1184) && column.made_of.len() > 1),
    );
    pin_if("IntervalStyle", needs(&|_, part| part == 1186));
    pin_if("bytea_output", needs(&|_, part| part == 17));
    // Floats, and the geometric types that are made of them.
    pin_if(
        "extra_float_digits",
        needs(&|_, part| matches!(part, 700 | 701 | 600..=604 | 628 | 718)),
    );
    pin_if("lc_monetary", needs(&|_, part| part == 790));
    // regclass and its kin write a schema only for what the path does not find.
    let names_objects = columns.iter().any(CatalogColumn::names_objects);
    pin_if("quote_all_identifiers", names_objects);
    // The text of an array is read as one of texts.
    pin_if(
        "array_nulls",
        columns
            .iter()
            .any(|column| column.kind == CellType::WrittenArray),
    );
    pin_if("search_path", names_objects);
    settings
}

/// Returns the columns whose values in a payload of this trigger are not to be trusted, since its
/// function was made for other ones: they are new, or of another type, or the function lacks a
/// setting that they need. Their rows are read again by their keys instead.
///
/// Without this, after `ADD COLUMN since interval`, a writer's own `IntervalStyle` would decide
/// which text a cache has. Only functions of ours are looked at: of others nothing is known.
pub fn untrusted_columns<'a>(table: &'a CatalogTable, row: Option<&Trigger>) -> Vec<&'a str> {
    // Functions of others, and of ours those of before, make JSON by whatever cast a type's owner
    // has made, and objects of composite types. Of an enum they make its label.
    let makes_text = |function: &Function| {
        crate::postgres::schema::triggers::is_ours(function) && function.source.contains(MAKES_TEXT)
    };
    let is_by_cast = !row.is_some_and(|trigger| makes_text(&trigger.function));
    let is_untrusted = |column: &&CatalogColumn| {
        let is_foreign =
            matches!(column.kind, CellType::Written | CellType::WrittenArray) && !column.is_enum;
        column.is_virtual || (is_foreign && is_by_cast)
    };
    let mut untrusted: Vec<&str> = table
        .columns
        .iter()
        .filter(is_untrusted)
        .map(|column| column.name.as_str())
        .collect();
    let ours = row
        .map(|trigger| &trigger.function)
        .filter(|function| crate::postgres::schema::triggers::is_ours(function));
    let Some((function, comment)) =
        ours.and_then(|function| Some((function, read_comment(function.comment.as_deref())?)))
    else {
        return untrusted;
    };
    if comment.options.generic {
        return untrusted;
    }
    let made_for = made_for(&function.source);
    let is_pinned =
        |(name, value): &(&str, &str)| function.settings.contains(&format!("{name}={value}"));
    for column in table.columns.iter().filter(|column| !column.is_virtual) {
        let is_known = made_for
            .iter()
            .any(|(name, ty)| *name == column.name && *ty == column.type_name);
        let lacks = !settings(std::slice::from_ref(column)).iter().all(is_pinned);
        if (!is_known || lacks) && !untrusted.contains(&column.name.as_str()) {
            untrusted.push(&column.name);
        }
    }
    untrusted
}

/// The columns, each with its type, that stand in the text of a generated function.
fn made_for(source: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = source.split_once(COLUMNS) else {
        return Vec::new();
    };
    // More text follows behind the array.
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    values.next().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_settings_that_the_types_need_are_pinned() {
        let column = |made_of: &[u32]| CatalogColumn {
            name: "c".into(),
            type_name: String::new(),
            kind: CellType::Other,
            not_null: false,
            is_virtual: false,
            is_generated: false,
            is_varlena: true,
            follows_anything: false,
            plain_type_name: String::new(),
            has_inner_domain: false,
            is_enum: false,
            is_array: false,
            is_nondeterministic: false,
            made_of: made_of.to_vec(),
        };
        let names = |made_of: &[u32]| {
            settings(&[column(made_of)])
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[20]), Vec::<&str>::new());
        assert_eq!(names(&[1184]), ["TimeZone"]);
        assert_eq!(names(&[1082]), Vec::<&str>::new());
        assert_eq!(names(&[1184, 3910]), ["TimeZone", "DateStyle"]);
        assert_eq!(names(&[701, 1022]), ["extra_float_digits"]);
    }

    #[test]
    fn the_columns_of_a_function_are_read_from_its_text() {
        let text = "\n-- Made for the columns [[\"id\",\"integer\"],[\"a b\",\"text\"]]: other \
            types are another text\nDECLARE";
        let columns = made_for(text);
        assert_eq!(
            columns,
            [
                ("id".to_string(), "integer".to_string()),
                ("a b".to_string(), "text".to_string())
            ]
        );
        assert!(made_for("BEGIN").is_empty());
    }
}
