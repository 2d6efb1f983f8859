//! [`Layout`]: whether rows stand in a table, or each row's columns below each other.

use super::escape::escape;
use super::look::{Look, Tone};
use super::table::{Heading, render_cells};
use std::fmt::Write as _;
use unicode_width::UnicodeWidthStr as _;

/// When the columns of a row stand below each other, as psql's `\x` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Expanded {
    /// On a terminal, for one row, or if the table is wider than the terminal.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The layout of rows of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// When the columns stand below each other.
    pub expanded: Expanded,
    /// The width of the terminal, in columns; `None` if the output is none. A pipe has no width, so
    /// what is written there does not depend on one.
    pub width: Option<usize>,
}

impl Layout {
    /// Returns rows under headings, or with the columns of each row below each other. Cells are
    /// escaped; one that is `None` is SQL NULL.
    pub fn rows(
        &self,
        look: &Look,
        headings: &[Heading],
        rows: Vec<Vec<Option<String>>>,
    ) -> String {
        match (self.expanded, self.width) {
            (Expanded::On, _) => below_each_other(look, headings, &rows),
            (Expanded::Off, _) | (Expanded::Auto, None) => render_cells(headings, rows, look),
            (Expanded::Auto, Some(_)) if rows.len() == 1 => below_each_other(look, headings, &rows),
            (Expanded::Auto, Some(width)) => {
                // Colours have no width, but their codes would count.
                let plain = render_cells(headings, rows.iter().cloned(), &look.plain());
                if plain.lines().any(|line| line.width() > width) {
                    below_each_other(look, headings, &rows)
                } else {
                    render_cells(headings, rows, look)
                }
            }
        }
    }
}

/// Returns rows with a line for each column: the name, then the value.
fn below_each_other(look: &Look, headings: &[Heading], rows: &[Vec<Option<String>>]) -> String {
    let names: Vec<_> = headings
        .iter()
        .map(|heading| escape(&heading.text))
        .collect();
    let longest = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        // Writing into a String cannot fail.
        let line = format!("-[ row {} ]{}", at + 1, "-".repeat(longest));
        let _ = writeln!(text, "{}", look.paint(Tone::Dim, &line));
        for (name, cell) in names.iter().zip(row) {
            let pad = " ".repeat(longest - name.width());
            let cell = match cell {
                Some(cell) => escape(cell).into_owned(),
                None => look.paint(Tone::Dim, "NULL"),
            };
            let line = format!("{name}{pad} | {cell}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(expanded: Expanded, width: Option<usize>, rows: &[[&str; 2]]) -> String {
        let headings = [Heading::number("id"), Heading::text("a\u{1b}b")];
        let rows = rows
            .iter()
            .map(|row| row.map(|cell| Some(cell.to_string())).to_vec());
        Layout { expanded, width }.rows(&Look::default(), &headings, rows.collect())
    }

    #[test]
    fn the_columns_stand_below_each_other_where_a_table_would_not_be_read() {
        let table = "id  a\\u{1b}b\n 1  x\n 2  y\\n\n";
        let below = "-[ row 1 ]--------\nid       | 1\na\\u{1b}b | x\n\
            -[ row 2 ]--------\nid       | 2\na\\u{1b}b | y\\n\n";
        let rows = [["1", "x"], ["2", "y\n"]];
        assert_eq!(shown(Expanded::Auto, Some(80), &rows), table);
        assert_eq!(shown(Expanded::Auto, Some(11), &rows), below);
        // A pipe gets the same whatever the terminal is.
        assert_eq!(shown(Expanded::Auto, None, &rows), table);
        assert_eq!(
            shown(Expanded::Auto, None, &rows[..1]),
            "id  a\\u{1b}b\n 1  x\n"
        );
        assert_eq!(shown(Expanded::On, None, &rows), below);
        assert_eq!(shown(Expanded::Off, Some(1), &rows), table);
        assert_eq!(
            shown(Expanded::Auto, Some(80), &[["1", ""]]),
            "-[ row 1 ]--------\nid       | 1\na\\u{1b}b |\n"
        );
    }
}
