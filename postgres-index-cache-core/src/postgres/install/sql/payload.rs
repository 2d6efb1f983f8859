//! The parts of a payload, as the SQL expressions of a trigger function: the members before the
//! row, the key, the row itself.

use crate::postgres::catalog::{CatalogColumn, CatalogKey, CatalogTable};
use crate::postgres::triggers::TriggerOptions;
use crate::postgres::{quote_identifier, quote_literal};
use crate::value::CellType;

/// The longest row that is made into JSON, in bytes of the columns of no fixed length. The JSON of
/// a longer row would not fit into a payload.
const WIDEST: u32 = 7_900;
/// The most arguments that a function takes: `FUNC_MAX_ARGS` of PostgreSQL.
const MOST_ARGUMENTS: usize = 100;

/// Returns `text` as a JSON string, with its quotes.
pub(super) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the SQL expression of the key's JSON in the record `row` (`NEW` or `OLD`): a scalar, or
/// an array in key order if the key has several columns.
pub(super) fn key_expression(
    row: &str,
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> String {
    let columns = key.columns.iter().map(|name| {
        let value = format!("{row}.{}", quote_identifier(name));
        let Some(column) = table.column(name) else {
            return value;
        };
        long_as_text(column.kind, &value, options)
            .unwrap_or_else(|| column.kind.json_argument(&value))
    });
    let columns: Vec<String> = columns.collect();
    match columns.as_slice() {
        [only] => format!("pg_catalog.to_json({only})"),
        several => format!("pg_catalog.json_build_array({})", several.join(", ")),
    }
}

/// Returns the arguments of `concat` that make a payload up to the oid of its relation. The key is
/// that of the record `row` (`NEW` or `OLD`).
pub(super) fn head(
    action: &str,
    row: &str,
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> String {
    let json = quick_key(row, table, key, options).unwrap_or_else(|| QuickJson {
        text: key_expression(row, table, key, options),
        quote: "",
    });
    let (before, behind) = around_key(table, action);
    format!(
        "{}, {}, {}, TG_RELID",
        quote_literal(&format!("{before}{}", json.quote)),
        json.text,
        quote_literal(&format!("{}{behind}", json.quote))
    )
}

/// Returns the arguments of `concat` that make a payload without a key up to the oid of its
/// relation.
pub(super) fn head_without_key(action: &str, table: &CatalogTable) -> String {
    let (before, behind) = around_key(table, action);
    format!(
        "{}, TG_RELID",
        quote_literal(&format!("{before}null{behind}"))
    )
}

/// Returns the text of a payload before its key, and that from there up to the oid of its relation.
pub(super) fn around_key(table: &CatalogTable, action: &str) -> (String, String) {
    let (name, schema) = (json_string(&table.name), json_string(&table.schema));
    (
        format!(r#"{{"table":{name},"action":"{action}","id":"#),
        format!(r#","schema":{schema},"rel":"#),
    )
}

/// The JSON of a value that `concat` can make without a call of `to_json`, which costs three times
/// as much.
pub(super) struct QuickJson {
    /// The SQL expression whose text the JSON holds.
    pub(super) text: String,
    /// What stands before and behind that text: a quotation mark, or nothing.
    pub(super) quote: &'static str,
}

impl QuickJson {
    /// Returns one SQL expression of the JSON, NULL if the value is.
    pub(super) fn into_text(self) -> String {
        let Self { text, quote } = self;
        match quote {
            "" => format!("({text})::pg_catalog.text"),
            _ => format!(
                "'{quote}' OPERATOR(pg_catalog.||) ({text})::pg_catalog.text \
                OPERATOR(pg_catalog.||) '{quote}'"
            ),
        }
    }
}

/// Returns the quick JSON of a value, if its type's text is its JSON.
///
/// A column whose type is changed must not make wrong JSON of the function that was made before.
/// Of a value of another type, these expressions fail, which asks for a reload: `|` is an operator
/// of integers, and no text of another kind is a uuid.
pub(super) fn quick_json(kind: CellType, value: &str) -> Option<QuickJson> {
    match kind {
        CellType::Int2 | CellType::Int4 | CellType::Int8 => Some(QuickJson {
            text: format!("{value} OPERATOR(pg_catalog.|) 0"),
            quote: "",
        }),
        CellType::Uuid => Some(QuickJson {
            text: format!("{value}::pg_catalog.uuid"),
            quote: "\"",
        }),
        _ => None,
    }
}

/// Returns the json of a value whose number a double may not hold, and which is sent as a text then
/// (`--long-numbers-as-text`); `None` of any other value.
///
/// A double holds every integer below 2^53, and every decimal number of 15 digits. Of a column that
/// became one of another kind, these expressions fail, as those of [`quick_json`] do.
fn long_as_text(kind: CellType, value: &str, options: &TriggerOptions) -> Option<String> {
    if !options.long_numbers_as_text {
        return None;
    }
    let is_short = match kind {
        CellType::Int8 => format!(
            "{value} OPERATOR(pg_catalog.>=) '-9007199254740991'::pg_catalog.int8 AND {value} \
            OPERATOR(pg_catalog.<=) '9007199254740991'::pg_catalog.int8"
        ),
        CellType::Numeric => format!(
            "pg_catalog.octet_length(pg_catalog.numeric_out({value})::pg_catalog.text) \
            OPERATOR(pg_catalog.<=) 15"
        ),
        _ => return None,
    };
    Some(format!(
        "CASE WHEN {is_short} THEN pg_catalog.to_json({value}) ELSE \
        pg_catalog.to_json({value}::pg_catalog.text) END"
    ))
}

/// Returns the quick JSON of the key in the record `row`, if there is one.
pub(super) fn quick_key(
    row: &str,
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> Option<QuickJson> {
    let [only] = key.columns.as_slice() else {
        return None;
    };
    let column = table.column(only)?;
    let value = format!("{row}.{}", quote_identifier(only));
    if long_as_text(column.kind, &value, options).is_some() {
        return None;
    }
    quick_json(column.kind, &value)
}

/// Returns the arguments of `concat` that make the payload of an insert or an update up to its row.
pub(super) fn head_of(
    action: &str,
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> String {
    // The template's variable `was` names the old key if the update changed the key.
    let was = if action == "update" { ", was" } else { "" };
    format!(
        "{}, ',\"xid\":\"', pg_catalog.pg_current_xact_id(),
        '\",\"v\":\"', NEW.ctid, '\",\"at\":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
        CASE WHEN NEW.xmax OPERATOR(pg_catalog.<>) '0' THEN ',\"recheck\":true' \
        END{was}",
        head(action, "NEW", table, key, options)
    )
}

/// Returns the key's columns in the record `row` (`NEW` or `OLD`).
pub(super) fn key_columns(row: &str, key: &CatalogKey) -> impl Iterator<Item = String> {
    key.columns
        .iter()
        .map(move |name| format!("{row}.{}", quote_identifier(name)))
}

/// Returns the condition that an UPDATE has changed bits of the key, which costs less to tell than
/// that its text is another.
pub(super) fn key_has_changed(
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> String {
    let rows = || [key_row("OLD", key), key_row("NEW", key)].join(", ");
    match (
        key.columns.as_slice(),
        quick_key("NEW", table, key, options),
    ) {
        // Integers and uuids that differ in bits are not equal. Of NULL no payload is made.
        ([only], Some(_)) => {
            let column = quote_identifier(only);
            format!("OLD.{column} OPERATOR(pg_catalog.<>) NEW.{column}")
        }
        _ => format!("pg_catalog.record_image_ne({})", rows()),
    }
}

/// Returns the condition that a column of the key is NULL.
pub(super) fn is_null(row: &str, key: &CatalogKey) -> String {
    key_columns(row, key)
        .map(|column| format!("{column} IS NULL"))
        .collect::<Vec<_>>()
        .join(" OR ")
}

/// Returns the condition that no column of the key is NULL.
pub(super) fn is_set(row: &str, key: &CatalogKey) -> String {
    key_columns(row, key)
        .map(|column| format!("{column} IS NOT NULL"))
        .collect::<Vec<_>>()
        .join(" AND ")
}

/// Returns the row constructor of the key's columns.
pub(super) fn key_row(row: &str, key: &CatalogKey) -> String {
    format!(
        "ROW({})",
        key_columns(row, key).collect::<Vec<_>>().join(", ")
    )
}

/// Returns the arguments of `concat` that make the row of a payload of the record `record`.
///
/// A row that would not fit is not made into text at all: the text of 20 MB takes 200 ms.
pub(super) fn row(sent: &[&CatalogColumn], options: &TriggerOptions, record: &str) -> String {
    if options.no_data {
        return "''".to_string();
    }
    // The size of a stored value is known without reading the value. A virtual column has none: it
    // is computed when it is read, and a trigger sees NULL. Numbers are hardly ever that long.
    let sizes: Vec<String> = sent
        .iter()
        .filter(|column| {
            column.is_varlena && !column.is_virtual && column.kind != CellType::Numeric
        })
        .map(|column| {
            format!(
                "coalesce(pg_catalog.pg_column_size({record}.{}), 0)",
                quote_identifier(&column.name)
            )
        })
        .collect();
    let data = data(sent, options, record);
    let whole = match nulls(sent, record) {
        Some(nulls) => format!("',\"nulls\":[', {nulls}, '],\"data\":', {data}"),
        None => format!("',\"data\":', {data}"),
    };
    if sizes.is_empty() {
        return whole;
    }
    format!(
        "CASE WHEN {} OPERATOR(pg_catalog.>) {WIDEST} THEN ',\"truncated\":true'
          ELSE pg_catalog.concat({whole}) END",
        sizes.join(" OPERATOR(pg_catalog.+) ")
    )
}

/// Returns the text with which the members of the row begin in a payload. In front of them it can
/// only stand in a key that is an object written without blanks. jsonb is written with blanks,
/// and composite types as texts; but the type of a column may be changed under the function.
pub(super) fn row_begins(sent: &[&CatalogColumn]) -> &'static str {
    match nulls(sent, "NEW") {
        Some(_) => r#","nulls":["#,
        None => r#","data":"#,
    }
}

/// Returns the expressions of the JSON of `record`: of the whole row, or of the columns that are
/// sent. A virtual column is left out: a trigger sees NULL in it, which a client would take for its
/// value.
pub(super) fn data(sent: &[&CatalogColumn], options: &TriggerOptions, record: &str) -> String {
    // row_to_json calls the casts to json that the owners of types have made, with the rights of
    // whoever writes. It is used only if every type is built in. In a query it is the slower way.
    let is_as_row_to_json = |column: &&CatalogColumn| {
        !matches!(column.kind, CellType::Written | CellType::WrittenArray)
            && !column.is_virtual
            && long_as_text(column.kind, "", options).is_none()
    };
    if options.columns.is_none() && sent.iter().all(is_as_row_to_json) && record == "NEW" {
        return "pg_catalog.row_to_json(NEW)".to_string();
    }
    let members: Vec<String> = sent
        .iter()
        .filter(|column| !column.is_virtual)
        .enumerate()
        .map(|(at, column)| member(column, at == 0, record, options))
        .collect();
    // Each member is two arguments.
    let chunks: Vec<String> = members
        .chunks(MOST_ARGUMENTS / 2)
        .map(|chunk| format!("pg_catalog.concat({})", chunk.join(", ")))
        .collect();
    format!("'{{', {}, '}}'", chunks.join(", "))
}

/// Returns the two arguments of `concat` that make one member of the JSON of `record`: name and
/// value.
pub(super) fn member(
    column: &CatalogColumn,
    is_first: bool,
    record: &str,
    options: &TriggerOptions,
) -> String {
    let name = quote_literal(&format!(
        "{}{}:",
        if is_first { "" } else { "," },
        json_string(&column.name)
    ));
    let value = format!("{record}.{}", quote_identifier(&column.name));
    // concat leaves NULL out, which would be no JSON.
    let long =
        long_as_text(column.kind, &value, options).map(|json| format!("({json})::pg_catalog.text"));
    let quick = quick_json(column.kind, &value).filter(|_| record != "NEW");
    let quick = long.or_else(|| quick.map(QuickJson::into_text));
    let json = quick.unwrap_or_else(|| {
        let value = column.kind.json_argument(&value);
        format!("pg_catalog.to_json({value})::pg_catalog.text")
    });
    format!("{name}, coalesce({json}, 'null')")
}

/// Returns the expression of the names of the json columns of `record` that are SQL NULL, with
/// commas; `None` if no column is json.
///
/// A listener needs the names because `row_to_json` writes SQL NULL and a JSON null alike.
pub(super) fn nulls(columns: &[&CatalogColumn], record: &str) -> Option<String> {
    let names: Vec<String> = columns
        .iter()
        .filter(|column| column.kind.has_json_null() && !column.is_virtual)
        .map(|column| {
            format!(
                "CASE WHEN {record}.{} IS NULL THEN {} END",
                quote_identifier(&column.name),
                quote_literal(&json_string(&column.name))
            )
        })
        .collect();
    // Both leave NULLs out. NULLIF would look for its operator on the writer's search_path.
    let joined = names.join(", ");
    match names.len() {
        0 => None,
        few if few < MOST_ARGUMENTS => Some(format!("pg_catalog.concat_ws(',', {joined})")),
        _ => Some(format!(
            "pg_catalog.array_to_string(ARRAY[{joined}]::pg_catalog.text[], ',')"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: CellType, is_virtual: bool) -> CatalogColumn {
        CatalogColumn {
            is_virtual,
            is_generated: is_virtual,
            ..CatalogColumn::of_test(name, kind)
        }
    }

    // The trigger sees NULL in it. A client must not take that for its value.
    #[test]
    fn a_virtual_column_is_not_in_the_row() {
        let [id, doc, computed] = [
            column("id", CellType::Int4, false),
            column("doc", CellType::Json, false),
            column("computed", CellType::Json, true),
        ];
        let options = TriggerOptions::default();
        let with = row(&[&id, &doc, &computed], &options, "NEW");
        assert!(!with.contains("computed"), "{with}");
        assert!(
            with.contains("NEW.\"id\"") && with.contains("NEW.\"doc\""),
            "{with}"
        );
        assert!(
            !with.contains("row_to_json"),
            "it would send a null: {with}"
        );
        // Of the first that is sent, none is in front.
        let first = data(&[&computed, &id], &options, "NEW");
        assert!(first.contains("'\"id\":'"), "{first}");
        let without = row(&[&id, &doc], &options, "NEW");
        assert!(without.contains("row_to_json(NEW)"), "{without}");
    }
}
