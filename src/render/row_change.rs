//! [`RowChangeLine`]: a row before and after a change, as a line of text or of JSON.

use super::escape::{escape, excerpt};
use super::json::EventLine;
use super::look::{Look, Tone};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::{KeyBuf, RowBuf, TableShape};

/// The largest number of characters of a value in a line of text.
const LONGEST_VALUE: usize = 60;

/// A row before and after a change.
#[derive(Debug, Clone, Copy)]
pub struct RowChangeLine<'a> {
    /// The table: its schema and its name.
    pub table: (&'a str, &'a str),
    /// The columns of the rows.
    pub shape: &'a TableShape,
    /// The columns to show, by their positions in `shape`.
    pub columns: &'a [usize],
    /// The row before; `None` if there was none.
    pub old: Option<&'a RowBuf>,
    /// The row after; `None` if there is none.
    pub new: Option<&'a RowBuf>,
    /// Whether there was a row before, and there is one after, though perhaps one that does not
    /// fulfil the conditions and is not among `old` and `new`.
    pub crosses: bool,
    /// Of a row that left: the row as it is now.
    pub now: Option<&'a RowBuf>,
    /// The number of earlier changes of the row that this line stands for as well.
    pub collapsed: u64,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChangeEvent {
    /// The row was not there before.
    Added,
    /// The row fulfils the conditions now, and did not before.
    Entered,
    /// A shown column has another value.
    Changed,
    /// The row does not fulfil the conditions any more.
    Left,
    /// The row is not there any more.
    Removed,
}

impl RowChangeEvent {
    /// Returns the colour of the word.
    fn tone(self) -> Tone {
        match self {
            Self::Added | Self::Entered => Tone::Good,
            Self::Changed => Tone::Changed,
            Self::Left | Self::Removed => Tone::Bad,
        }
    }

    /// Returns the word that lines begin with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Entered => "entered",
            Self::Changed => "changed",
            Self::Left => "left",
            Self::Removed => "removed",
        }
    }
}

impl RowChangeLine<'_> {
    /// Returns the kind of the change; `None` if nothing that is shown has changed.
    pub fn event(&self) -> Option<RowChangeEvent> {
        match (self.old, self.new) {
            (None, None) => None,
            (None, Some(_)) if self.crosses => Some(RowChangeEvent::Entered),
            (None, Some(_)) => Some(RowChangeEvent::Added),
            (Some(_), None) if self.crosses => Some(RowChangeEvent::Left),
            (Some(_), None) => Some(RowChangeEvent::Removed),
            (Some(old), Some(new)) => {
                (!self.differing(old, new).is_empty()).then_some(RowChangeEvent::Changed)
            }
        }
    }

    /// Returns the shown columns whose values differ.
    fn differing(&self, old: &RowBuf, new: &RowBuf) -> Vec<usize> {
        self.columns
            .iter()
            .copied()
            .filter(|&column| old.cell(column) != new.cell(column))
            .collect()
    }

    /// Returns a line of JSON, with the time of the change. Empty if nothing that is shown has
    /// changed.
    pub fn json(&self, at: Timestamp) -> String {
        let (Some(event), Some(row)) = (self.event(), self.new.or(self.old)) else {
            return String::new();
        };
        let mut line = EventLine::new(event.as_str(), at)
            .of(self.table)
            .key(&KeyBuf::of_row(self.shape, row).to_json(self.shape))
            .written("row", |text| row.write_json(self.shape, self.columns, text));
        if let (Some(old), Some(new)) = (self.old, self.new) {
            // The new row is whole, so the old one needs only the values that changed.
            let columns = self.differing(old, new);
            line = line.written("old", |text| old.write_json(self.shape, &columns, text));
        }
        if let (RowChangeEvent::Left, Some(now)) = (event, self.now) {
            let columns = self.differing(row, now);
            line = line.written("now", |text| now.write_json(self.shape, &columns, text));
        }
        // Most lines stand for one change, and have no such member.
        let collapsed = (self.collapsed > 0).then_some(self.collapsed);
        line.optional("collapsed", collapsed).end()
    }

    /// Returns a line of text, with the time of the change. A changed row is shown by its key and
    /// the old and new values of the columns that changed. Empty if nothing that is shown has
    /// changed.
    pub fn text(&self, look: &Look, at: Timestamp) -> String {
        let (Some(event), Some(row)) = (self.event(), self.new.or(self.old)) else {
            return String::new();
        };
        let parts: Vec<String> = match (self.old, self.new) {
            (Some(old), Some(new)) => {
                // The columns that changed do not tell which row it was, so the key comes first.
                let key = self.shape.key().iter();
                let key = key.map(|&column| self.named_value(new, column));
                let changed = self.differing(old, new).into_iter().map(|column| {
                    let (old, new) =
                        excerpts(&self.text_of(old, column), &self.text_of(new, column));
                    format!("{}: {old} -> {new}", self.name(column))
                });
                key.chain(changed).collect()
            }
            // Of a row that left it matters which value it has now.
            (Some(old), None) if event == RowChangeEvent::Left && self.now.is_some() => {
                let now = self.now.unwrap_or(old);
                let key = self.shape.key().iter();
                let key = key.map(|&column| self.named_value(old, column));
                let changed = self.differing(old, now).into_iter().map(|column| {
                    let (old, now) =
                        excerpts(&self.text_of(old, column), &self.text_of(now, column));
                    format!("{}: {old} -> {now}", self.name(column))
                });
                key.chain(changed).collect()
            }
            // A row that came or went has no old values beside the new ones: show all of it.
            _ => self
                .columns
                .iter()
                .map(|&column| self.named_value(row, column))
                .collect(),
        };
        let at = look.paint(Tone::Dim, &look.clock(at));
        let word = look.paint(event.tone(), &format!("{:<7}", event.as_str()));
        let collapsed = if self.collapsed > 0 {
            format!("  (and {} before)", self.collapsed)
        } else {
            String::new()
        };
        format!(
            "{at}  {word}  {}  {}{collapsed}\n",
            escape(&format!("{}.{}", self.table.0, self.table.1)),
            parts.join("  ")
        )
    }

    /// Returns the name of a column, escaped.
    fn name(&self, column: usize) -> String {
        escape(&self.shape.columns()[column].name).into_owned()
    }

    /// Returns the value of a column, escaped and cut to [`LONGEST_VALUE`].
    fn value(&self, row: &RowBuf, column: usize) -> String {
        excerpt(&self.text_of(row, column), LONGEST_VALUE).into_owned()
    }

    /// Returns the whole value of a column as text.
    fn text_of(&self, row: &RowBuf, column: usize) -> String {
        let mut text = String::new();
        match row.cell(column) {
            Some(cell) => self.shape.columns()[column]
                .kind
                .write_text(cell, &mut text),
            None => text.push_str("NULL"),
        }
        text
    }

    /// Returns `name=value` of a column.
    fn named_value(&self, row: &RowBuf, column: usize) -> String {
        format!("{}={}", self.name(column), self.value(row, column))
    }
}

/// Returns two values that differ, escaped and cut to [`LONGEST_VALUE`] so that the first
/// difference is shown.
fn excerpts(old: &str, new: &str) -> (String, String) {
    /// The characters to show before the difference.
    const BEFORE: usize = 20;
    let common = old
        .chars()
        .zip(new.chars())
        .take_while(|(old, new)| old == new)
        .count();
    // Without a cut at the beginning, values that differ late would look alike.
    let start = if common + BEFORE > LONGEST_VALUE {
        common - BEFORE
    } else {
        0
    };
    (excerpt_from(old, start), excerpt_from(new, start))
}

/// Returns a value from a character on.
fn excerpt_from(text: &str, start: usize) -> String {
    if start == 0 {
        return excerpt(text, LONGEST_VALUE).into_owned();
    }
    let rest: String = text.chars().skip(start).collect();
    format!("…{}", excerpt(&rest, LONGEST_VALUE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_index_cache_core::tooling::{CellType, Column, JsonNulls};

    /// Returns a shape whose second column has an escape character in its name.
    fn hostile_shape() -> TableShape {
        let columns = vec![
            Column {
                name: "id".to_string(),
                kind: CellType::Int4,
                nullable: false,
            },
            Column {
                name: "v\u{1b}".to_string(),
                kind: CellType::Text,
                nullable: true,
            },
        ];
        TableShape::new(columns, &["id".to_string()]).unwrap()
    }

    fn row(shape: &TableShape, json: &str) -> RowBuf {
        let mut row = RowBuf::default();
        row.read_json(shape, json, JsonNulls::Unknown).unwrap();
        row
    }

    #[test]
    fn values_that_differ_late_are_cut_around_the_difference() {
        let long = "x".repeat(100);
        let (old, new) = excerpts(&format!("{long}a"), &format!("{long}b"));
        assert_eq!(old, format!("…{}a", "x".repeat(20)));
        assert_eq!(new, format!("…{}b", "x".repeat(20)));
        assert_eq!(
            excerpts("same a", "same b"),
            ("same a".to_string(), "same b".to_string())
        );
        let (old, new) = excerpts(&long, &format!("{long}\u{1b}"));
        assert_eq!((old.chars().count(), new.ends_with("\\u{1b}")), (21, true));
    }

    fn change<'a>(
        shape: &'a TableShape,
        old: Option<&'a RowBuf>,
        new: Option<&'a RowBuf>,
    ) -> RowChangeLine<'a> {
        RowChangeLine {
            table: ("s", "t"),
            shape,
            columns: &[0, 1],
            old,
            new,
            crosses: false,
            now: None,
            collapsed: 0,
        }
    }

    #[test]
    fn a_change_shows_what_was_and_obeys_nothing() {
        let at: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let look = Look::new(false, jiff::tz::TimeZone::UTC, at);
        let shape = hostile_shape();
        let old = row(&shape, r#"{"id":1,"v\u001b":"a"}"#);
        let new = row(&shape, r#"{"id":1,"v\u001b":"\u009b"}"#);
        let changed = RowChangeLine {
            collapsed: 2,
            ..change(&shape, Some(&old), Some(&new))
        };
        assert_eq!(
            changed.text(&look, at),
            "10:00:00.000  changed  s.t  id=1  v\\u{1b}: a -> \\u{9b}  (and 2 before)\n"
        );
        assert_eq!(
            changed.json(at),
            concat!(
                r#"{"event":"changed","at":"2026-11-23T10:00:00Z","schema":"s","table":"t","#,
                r#""key":1,"row":{"id":1,"v\u001b":"\u009b"},"#,
                r#""old":{"v\u001b":"a"},"collapsed":2}"#,
                "\n"
            )
        );
        assert_eq!(
            change(&shape, None, Some(&old)).text(&look, at),
            "10:00:00.000  added    s.t  id=1  v\\u{1b}=a\n"
        );
        let removed = change(&shape, Some(&old), None);
        assert_eq!(removed.event(), Some(RowChangeEvent::Removed));
        // A row may be written without a change of its shown columns: no line.
        assert_eq!(change(&shape, Some(&old), Some(&old)).json(at), "");
    }
}
