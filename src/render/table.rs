//! Aligned columns, the same on a terminal as on a pipe. The one home of comfy-table.

use super::escape::escape;
use comfy_table::presets;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// A column's heading and side.
#[derive(Debug, Clone)]
pub struct Heading {
    /// Its text.
    pub text: String,
    /// Whether its cells end at the same place, as numbers do.
    pub is_number: bool,
}

impl Heading {
    /// A column of text.
    pub fn text(text: &str) -> Self {
        Self { text: text.to_string(), is_number: false }
    }

    /// A column of numbers.
    pub fn number(text: &str) -> Self {
        Self { text: text.to_string(), is_number: true }
    }
}

/// Rows under headings, each line ending with a newline. Cells are escaped here; nothing is cut or wrapped.
pub fn render(headings: &[Heading], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| escape(&heading.text).into_owned()));
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell).into_owned()));
    }
    for (at, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            column.set_cell_alignment(if heading.is_number { CellAlignment::Right } else { CellAlignment::Left });
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hostile_text_is_escaped() {
        let rows = vec![vec!["a\nb".to_string(), "7".to_string()], vec!["日本".to_string(), "1234".to_string()]];
        let text = render(&[Heading::text("name"), Heading::number("n")], rows);
        assert_eq!(text, "name     n\na\\nb     7\n日本  1234\n");
    }
}
