//! The columns for which a generated function was made, the settings that they need, and so the
//! columns whose values in the function's payloads can be trusted.

use crate::postgres::quote::quote_identifier;
use crate::postgres::schema::catalog::{CatalogColumn, CatalogTable, Function, Trigger};
use crate::postgres::schema::triggers::{PINNED, ROW_NAME, is_ours, read_comment};
use crate::value::{CellType, output_text};
use sha2::{Digest as _, Sha256};

/// A mark in the text of functions that send values of types that are not built in as their output
/// functions write them. Functions of early versions lack it.
const MAKES_TEXT: &str = "pg_catalog.num_nonnulls(";
/// The text before the list of columns in a generated function (`sql/table_trigger.sql`).
const COLUMNS: &str = "-- Made for the columns ";

/// Returns whether the text of a function is one that pgic makes for a table, as far as its first
/// line tells. Anybody can write that line, so nothing is trusted for it.
pub(super) fn is_made_by_pgic(source: &str) -> bool {
    source.trim_start().starts_with(COLUMNS)
}

/// Returns a digest of a text, in hex. The comment on a function has the digest of the function's
/// text as it was made.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Returns whether the text of a function of ours was changed after it was made.
pub fn is_edited(function: &Function) -> bool {
    read_comment(function.comment.as_deref())
        .is_some_and(|comment| comment.digest != digest(&function.source))
}

/// Returns the settings that a function must pin for these columns, as names and values. Each
/// setting costs about 2 µs a row, so only those are pinned that a column's type needs.
pub fn settings(columns: &[CatalogColumn]) -> Vec<(&'static str, &'static str)> {
    PINNED
        .into_iter()
        .filter(|(setting, _)| columns.iter().any(|column| depends_on(column, setting)))
        .collect()
}

/// Returns whether the JSON of a column's values depends on a setting, one of those in [`PINNED`].
fn depends_on(column: &CatalogColumn, setting: &str) -> bool {
    // Nobody knows which settings the output function of an extension's type looks at.
    if column.follows_anything {
        return true;
    }
    match setting {
        // timestamptz
        "TimeZone" => has_part(column, |part| part == 1184),
        // date, timestamp, timestamptz. On their own they are ISO in JSON; inside ranges and
        // composites they are text in the session's style.
        "DateStyle" => {
            column.made_of.len() > 1 && has_part(column, |part| matches!(part, 1082 | 1114 | 1184))
        }
        // interval
        "IntervalStyle" => has_part(column, |part| part == 1186),
        // bytea
        "bytea_output" => has_part(column, |part| part == 17),
        // float4 and float8, and the geometric types that are made of them.
        "extra_float_digits" => has_part(column, |part| {
            matches!(part, 700 | 701 | 600..=604 | 628 | 718)
        }),
        // money
        "lc_monetary" => has_part(column, |part| part == 790),
        // regclass and its kin write the schema of an object only if the path does not find it.
        "quote_all_identifiers" | "search_path" => column.names_objects(),
        // The text of such an array is read as an array of texts.
        "array_nulls" => column.kind == CellType::WrittenArray,
        _ => false,
    }
}

/// Returns whether the oid of the column's type, or of a part of the type, passes a test.
fn has_part(column: &CatalogColumn, test: impl Fn(u32) -> bool) -> bool {
    column.made_of.iter().any(|&part| test(part))
}

/// Returns the names of the columns whose values in payloads of the trigger `row` cannot be
/// trusted. Rows of the table are refetched by their keys because of them.
///
/// A column is untrusted in three cases:
///
/// - It is computed when it is read, so the trigger sees NULL.
/// - Its type is not built in, and the function does not send such values as their output functions
///   write them.
/// - The function is ours, and was not made for the column: the column is new or of another type,
///   or the function lacks a setting that the column needs. Without this rule, after `ADD COLUMN
///   since interval`, a writer's own `IntervalStyle` would decide which text a cache has. The rule
///   says nothing of functions that are not ours, of which nothing is known, nor of the generic
///   function, which pins all settings.
pub fn untrusted_columns<'a>(table: &'a CatalogTable, row: Option<&Trigger>) -> Vec<&'a str> {
    let function = row
        .map(|trigger| &trigger.function)
        .filter(|function| is_ours(function));
    // Functions of others, and early ones of ours, make JSON by any cast that the type's owner has
    // made, and objects of composite types. Of an enum they make its label, as the output function
    // does.
    let sends_text = function.is_some_and(|function| function.source.contains(MAKES_TEXT));
    let mut untrusted: Vec<&str> = table
        .columns
        .iter()
        .filter(|column| column.is_virtual || (!sends_text && is_cast_to_json(column)))
        .map(|column| column.name.as_str())
        .collect();
    let Some(function) = function else {
        return untrusted;
    };
    let is_generated =
        read_comment(function.comment.as_deref()).is_some_and(|comment| !comment.options.generic);
    if !is_generated {
        return untrusted;
    }
    let made_for = made_for(&function.source);
    for column in table.columns.iter().filter(|column| !column.is_virtual) {
        let is_known = made_for
            .iter()
            .any(|(name, ty)| *name == column.name && *ty == column.type_name);
        let needed = settings(std::slice::from_ref(column));
        let is_pinned = needed
            .iter()
            .all(|(name, value)| function.settings.contains(&format!("{name}={value}")));
        let is_trusted = is_known && is_pinned;
        if !is_trusted && !untrusted.contains(&column.name.as_str()) {
            untrusted.push(&column.name);
        }
    }
    untrusted
}

/// Says how the columns of a table differ from those that a generated function was made for; `None`
/// if they do not, or the function does not list them.
pub(super) fn drift(table: &CatalogTable, function: &Function) -> Option<String> {
    let made_for = made_for(&function.source);
    if made_for.is_empty() {
        return None;
    }
    let mut differences = Vec::new();
    for column in &table.columns {
        let former = made_for.iter().find(|(name, _)| *name == column.name);
        match former {
            None => differences.push(format!("{} is new", column.name)),
            Some((_, ty)) if *ty != column.type_name => differences.push(format!(
                "{} is of type {}, formerly {ty}",
                column.name, column.type_name
            )),
            Some(_) => {}
        }
    }
    for (name, _) in &made_for {
        if table.columns.iter().all(|column| column.name != *name) {
            differences.push(format!("{name} is gone"));
        }
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Returns whether a generated function sends an array as the text that its output function writes.
/// Formerly some were sent as arrays of texts, made of the same text.
pub(super) fn sends_text_of(source: &str, column: &str) -> bool {
    let column = quote_identifier(column);
    ["NEW", ROW_NAME].iter().any(|row| {
        let text = output_text(&format!("{row}.{column}"));
        source.contains(&text) && !source.contains(&format!("{text}::pg_catalog.text[]"))
    })
}

/// Returns whether `to_json` may use a cast of the type's owner for the column's values.
fn is_cast_to_json(column: &CatalogColumn) -> bool {
    matches!(column.kind, CellType::Written | CellType::WrittenArray) && !column.is_enum
}

/// Returns the columns, as names and types, that are listed in the text of a generated function.
/// The list is empty if the text has none.
fn made_for(source: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = source.split_once(COLUMNS) else {
        return Vec::new();
    };
    // A stream of values, of which the first is taken: more text follows behind the array.
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    values.next().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_settings_that_the_types_need_are_pinned() {
        // bigint; timestamptz; date; tstzrange with timestamptz; float8[] with float8.
        assert_eq!(pinned_for(&[20]), Vec::<&str>::new());
        assert_eq!(pinned_for(&[1184]), ["TimeZone"]);
        assert_eq!(pinned_for(&[1082]), Vec::<&str>::new());
        assert_eq!(pinned_for(&[1184, 3910]), ["TimeZone", "DateStyle"]);
        assert_eq!(pinned_for(&[701, 1022]), ["extra_float_digits"]);
    }

    /// Returns the names of the settings that a column whose type is made of these types needs.
    fn pinned_for(made_of: &[u32]) -> Vec<&'static str> {
        let column = CatalogColumn {
            made_of: made_of.to_vec(),
            ..CatalogColumn::of_test("c", CellType::Other)
        };
        settings(&[column])
            .into_iter()
            .map(|(name, _)| name)
            .collect()
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
