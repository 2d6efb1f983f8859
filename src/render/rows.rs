//! [`rows`]: rows of a cache, as an aligned table or as lines of JSON.

use super::Format;
use super::json::EventLine;
use super::layout::Layout;
use super::look::Look;
use super::table::Heading;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::{
    CellType, Column, KeyBuf, Row, TableShape, one_line_json,
};

/// Returns the rows with the named `columns`, which are positions in `shape`, in that order. An
/// empty text if there is no row.
pub fn rows<'a>(
    format: Format,
    layout: Layout,
    look: &Look,
    shape: &TableShape,
    columns: &[usize],
    rows: impl IntoIterator<Item = &'a Row<'a>>,
) -> String {
    let mut rows = rows.into_iter().peekable();
    match format {
        Format::Json => rows
            .map(|row| {
                let mut line = String::new();
                row.write_json(columns, &mut line);
                format!("{}\n", one_line_json(&line))
            })
            .collect(),
        Format::Text if rows.peek().is_none() => String::new(),
        Format::Text => {
            let headings: Vec<Heading> = columns
                .iter()
                .map(|&column| heading(&shape.columns()[column]))
                .collect();
            let cells = rows.map(|row| {
                columns
                    .iter()
                    .map(|&column| cell(shape, row, column))
                    .collect()
            });
            layout.rows(look, &headings, cells.collect())
        }
    }
}

/// Returns the rows as events of a stream.
///
/// The columns stand in a member of their own. Otherwise a column that is called `event` could pass
/// for the stream's own member.
pub fn row_events<'a>(
    at: Timestamp,
    table: (&str, &str),
    shape: &TableShape,
    columns: &[usize],
    found: impl IntoIterator<Item = &'a Row<'a>>,
) -> String {
    let mut text = String::new();
    for row in found {
        let key = KeyBuf::of_row(shape, &row.to_buf()).to_json(shape);
        text = EventLine::behind(text, "row", at)
            .of(table)
            .key(&key)
            .written("row", |json| row.write_json(columns, json))
            .end();
    }
    text
}

/// Returns the heading of a column, with numbers aligned to the right.
fn heading(column: &Column) -> Heading {
    match column.kind {
        CellType::Int2
        | CellType::Int4
        | CellType::Int8
        | CellType::Float4
        | CellType::Float8
        | CellType::Numeric => Heading::number(&column.name),
        _ => Heading::text(&column.name),
    }
}

/// Returns a cell as text, which the table escapes; `None` is SQL NULL.
fn cell(shape: &TableShape, row: &Row<'_>, column: usize) -> Option<String> {
    let mut text = String::new();
    let cell = row.cell(column)?;
    shape.columns()[column].kind.write_text(cell, &mut text);
    Some(text)
}
