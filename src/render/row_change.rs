//! What became of a row: a line of text, or of JSON.

use super::escape::{escape, excerpt};
use postgres_index_cache_core::{RowBuf, TableShape, one_line_json};
use serde_json::json;

/// The longest value that a line of text shows.
const LONGEST_VALUE: usize = 60;

/// A row before and after; one that was not there, or is not, is `None`.
#[derive(Debug, Clone, Copy)]
pub struct RowChangeLine<'a> {
    /// `schema.table`.
    pub table: &'a str,
    /// Its columns.
    pub shape: &'a TableShape,
    /// Those to show, by position.
    pub columns: &'a [usize],
    /// What it was.
    pub old: Option<&'a RowBuf>,
    /// What it is.
    pub new: Option<&'a RowBuf>,
    /// How many changes more this one stands for.
    pub collapsed: u64,
}

impl RowChangeLine<'_> {
    /// `added`, `changed` or `removed`; `None` when nothing that is shown has changed.
    pub fn event(&self) -> Option<&'static str> {
        match (self.old, self.new) {
            (None, None) => None,
            (None, Some(_)) => Some("added"),
            (Some(_), None) => Some("removed"),
            (Some(_), Some(_)) => (!self.differing().is_empty()).then_some("changed"),
        }
    }

    /// The columns that are shown and not as they were.
    fn differing(&self) -> Vec<usize> {
        let (Some(old), Some(new)) = (self.old, self.new) else {
            return Vec::new();
        };
        self.columns
            .iter()
            .copied()
            .filter(|&column| old.cell(column) != new.cell(column))
            .collect()
    }

    /// One line; empty when nothing that is shown has changed. `at` is when, where that is told.
    pub fn json(&self, at: Option<&str>) -> String {
        let (Some(event), Some(row)) = (self.event(), self.new.or(self.old)) else {
            return String::new();
        };
        let mut line = format!("{{\"event\":\"{event}\"");
        if let Some(at) = at {
            line.push_str(&format!(",\"at\":{}", json!(at)));
        }
        line.push_str(&format!(",\"table\":{},\"row\":", json!(self.table)));
        row.write_json(self.shape, self.columns, &mut line);
        if let (Some(old), "changed") = (self.old, event) {
            // What the changed columns were, by name.
            line.push_str(",\"old\":");
            old.write_json(self.shape, &self.differing(), &mut line);
        }
        if self.collapsed > 0 {
            line.push_str(&format!(",\"collapsed\":{}", self.collapsed));
        }
        format!("{}}}\n", one_line_json(&line))
    }

    /// The same for people: a change with its key, and the columns that changed, old to new.
    pub fn text(&self, at: Option<&str>) -> String {
        let (Some(event), Some(row)) = (self.event(), self.new.or(self.old)) else {
            return String::new();
        };
        let value = |row: &RowBuf, column: usize| {
            let mut text = String::new();
            match row.cell(column) {
                Some(cell) => self.shape.columns()[column]
                    .kind
                    .write_text(cell, &mut text),
                None => text.push_str("NULL"),
            }
            excerpt(&text, LONGEST_VALUE).into_owned()
        };
        let name = |column: usize| escape(&self.shape.columns()[column].name).into_owned();
        let parts: Vec<String> = match (self.old, self.new) {
            (Some(old), Some(new)) => {
                let key = self
                    .shape
                    .key()
                    .iter()
                    .map(|&column| format!("{}={}", name(column), value(new, column)));
                let changed = self.differing().into_iter().map(|column| {
                    format!(
                        "{}: {} -> {}",
                        name(column),
                        value(old, column),
                        value(new, column)
                    )
                });
                key.chain(changed).collect()
            }
            _ => self
                .columns
                .iter()
                .map(|&column| format!("{}={}", name(column), value(row, column)))
                .collect(),
        };
        let at = at.map(|at| format!("{at}  ")).unwrap_or_default();
        let collapsed = if self.collapsed > 0 {
            format!("  (and {} before)", self.collapsed)
        } else {
            String::new()
        };
        format!(
            "{at}{event:<7}  {}  {}{collapsed}\n",
            escape(self.table),
            parts.join("  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_index_cache_core::{CellType, Column, JsonNulls};

    #[test]
    fn a_change_shows_what_was_and_obeys_nothing() {
        let column = |name: &str, kind| Column {
            name: name.to_string(),
            kind,
            nullable: true,
        };
        let columns = vec![
            Column {
                nullable: false,
                ..column("id", CellType::Int4)
            },
            column("v\u{1b}", CellType::Text),
        ];
        let shape = TableShape::new(columns, &["id".to_string()]).unwrap();
        let row = |json: &str| {
            let mut row = RowBuf::default();
            row.read_json(&shape, json, JsonNulls::Unknown).unwrap();
            row
        };
        let old = row(r#"{"id":1,"v\u001b":"a"}"#);
        let new = row(r#"{"id":1,"v\u001b":"\u009b"}"#);
        let change = |old, new| RowChangeLine {
            table: "s.t",
            shape: &shape,
            columns: &[0, 1],
            old,
            new,
            collapsed: 0,
        };
        let changed = RowChangeLine {
            collapsed: 2,
            ..change(Some(&old), Some(&new))
        };
        assert_eq!(
            changed.text(Some("12:00")),
            "12:00  changed  s.t  id=1  v\\u{1b}: a -> \\u{9b}  (and 2 before)\n"
        );
        assert_eq!(
            changed.json(None),
            "{\"event\":\"changed\",\"table\":\"s.t\",\"row\":{\"id\":1,\"v\\u001b\":\"\\u009b\"},\"old\":{\"v\\u001b\":\"a\"},\"collapsed\":2}\n"
        );
        assert_eq!(
            change(None, Some(&old)).text(None),
            "added    s.t  id=1  v\\u{1b}=a\n"
        );
        assert_eq!(change(Some(&old), None).event(), Some("removed"));
        assert_eq!(change(Some(&old), Some(&old)).json(None), "");
    }
}
