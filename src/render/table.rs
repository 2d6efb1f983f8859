//! [`render`]: aligned columns, the same on a terminal as on a pipe. The only module that uses
//! comfy-table.

use super::escape::escape;
use super::look::{Look, Tone};
use comfy_table::presets;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use std::collections::VecDeque;

/// The heading of a column, and the side to which the cells are aligned.
#[derive(Debug, Clone)]
pub struct Heading {
    /// The text of the heading.
    pub text: String,
    /// Whether the column is aligned to the right, as numbers are.
    pub is_number: bool,
}

impl Heading {
    /// Returns the heading of a column of text.
    pub fn text(text: &str) -> Self {
        Self {
            text: text.to_string(),
            is_number: false,
        }
    }

    /// Returns the heading of a column of numbers.
    pub fn number(text: &str) -> Self {
        Self {
            text: text.to_string(),
            is_number: true,
        }
    }
}

/// The longest cell, in characters, that makes a column wider. One longer value must not pad every
/// other row.
const LONGEST_ALIGNED: usize = 100;

/// The placeholder of a longer cell while the rest is aligned. No other cell has this character,
/// since cells are escaped.
const LONG: char = '\u{1}';

/// The placeholder of a SQL NULL while the rest is aligned: as wide as the word, and not the text
/// `NULL`, which looks different.
const NULL: &str = "\u{2}ULL";

/// Returns rows under headings, each line with a newline at the end; see [`render_cells`].
pub fn render(headings: &[Heading], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows = rows
        .into_iter()
        .map(|row| row.into_iter().map(Some).collect());
    render_cells(headings, rows, &Look::default())
}

/// Returns rows under headings, each line with a newline at the end. A cell that is `None` is SQL
/// NULL.
///
/// Cells are escaped here. Nothing is cut or wrapped: behind a long cell, the rest of the row moves
/// to the right.
pub fn render_cells(
    headings: &[Heading],
    rows: impl IntoIterator<Item = Vec<Option<String>>>,
    look: &Look,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(
        headings
            .iter()
            .map(|heading| escape(&heading.text).into_owned()),
    );
    let mut long: VecDeque<String> = VecDeque::new();
    for row in rows {
        table.add_row(row.iter().map(|cell| {
            let Some(cell) = cell else {
                return NULL.to_string();
            };
            let cell = escape(cell).into_owned();
            if cell.chars().nth(LONGEST_ALIGNED).is_none() {
                return cell;
            }
            long.push_back(cell);
            LONG.to_string()
        }));
    }
    for (at, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            column.set_cell_alignment(if heading.is_number {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            });
        }
    }
    // Put the long cells back for their placeholders, which come in the order of the rows.
    let mut text = String::new();
    for line in table.lines() {
        // A last column of text would pad its short cells with spaces nobody sees.
        let mut rest = line.trim_end();
        while let Some((before, behind)) = rest.split_once(LONG) {
            text.push_str(before);
            text.push_str(&long.pop_front().unwrap_or_default());
            rest = behind;
        }
        text.push_str(rest);
        text.push('\n');
    }
    text.replace(NULL, &look.paint(Tone::Dim, "NULL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hostile_text_is_escaped() {
        let rows = vec![
            vec!["a\nb".to_string(), "7".to_string()],
            vec!["日本".to_string(), "1234".to_string()],
        ];
        let text = render(&[Heading::text("name"), Heading::number("n")], rows);
        assert_eq!(text, "name     n\na\\nb     7\n日本  1234\n");
    }

    #[test]
    fn null_is_no_text_and_takes_its_width() {
        let rows = || {
            [
                vec![None, Some("1".to_string())],
                vec![Some("NULL".to_string()), None],
            ]
        };
        let headings = [Heading::text("name"), Heading::number("n")];
        let plain = "name     n\nNULL     1\nNULL  NULL\n";
        assert_eq!(render_cells(&headings, rows(), &Look::default()), plain);
        let look = Look::new(true, jiff::tz::TimeZone::UTC, jiff::Timestamp::UNIX_EPOCH);
        let dim = "\u{1b}[2mNULL\u{1b}[0m";
        assert_eq!(
            render_cells(&headings, rows(), &look),
            format!("name     n\n{dim}     1\nNULL  {dim}\n")
        );
    }

    #[test]
    fn a_long_cell_moves_its_own_row_alone() {
        let long = "x".repeat(LONGEST_ALIGNED + 1);
        let long = long.as_str();
        let rows = [["a", "1"], [long, "2"], ["b", long], ["c", ""]]
            .into_iter()
            .map(|row| row.map(str::to_string).to_vec());
        let text = render(&[Heading::text("name"), Heading::text("other")], rows);
        assert_eq!(
            text,
            format!("name  other\na     1\n{long}     2\nb     {long}\nc\n")
        );
    }
}
