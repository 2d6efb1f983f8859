//! [`Completions`]: the prompt, and the words that can follow what is typed.

use super::line::{COMMANDS, split_last};
use super::prompt_state::{PromptState, PromptStatus};
use crate::line_editor::Guide;
use crate::tables::catalog::CatalogTable;
use crate::tables::conditions::Operator;
use std::sync::Arc;

/// A name as people type it, and as it is without quotes.
#[derive(Debug, Clone)]
struct Word {
    typed: String,
    bare: String,
}

impl Word {
    fn new(name: &str) -> Self {
        let is_plain = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let typed = if is_plain {
            name.to_string()
        } else {
            format!("\"{}\"", name.replace('"', "\"\""))
        };
        Self {
            typed,
            bare: name.to_lowercase(),
        }
    }

    /// Tells whether the name may be what a person has begun to type: with a quote or without, in
    /// any case.
    fn fits(&self, partial: &str) -> bool {
        let bare = partial.trim_start_matches('"').to_lowercase();
        self.typed.starts_with(partial) || self.bare.starts_with(&bare)
    }
}

/// The words about a table.
#[derive(Debug, Clone)]
pub(super) struct TableWords {
    schema: Word,
    name: Word,
    /// Whether another table has the same name, so that the schema must be typed.
    needs_schema: bool,
    /// The columns, each with its values if those are few and known.
    columns: Vec<(Word, Vec<String>)>,
}

impl TableWords {
    /// Makes the words of a table. `columns` are those that can stand in conditions, with their
    /// known values; `needs_schema` tells whether another table has the name.
    pub(super) fn new(
        table: &CatalogTable,
        columns: &[(String, Vec<String>)],
        needs_schema: bool,
    ) -> Self {
        let columns = columns
            .iter()
            .map(|(name, values)| (Word::new(name), values.clone()));
        Self {
            schema: Word::new(&table.schema),
            name: Word::new(&table.name),
            needs_schema,
            columns: columns.collect(),
        }
    }

    /// Returns the name with the schema.
    fn qualified(&self) -> String {
        format!("{}.{}", self.schema.typed, self.name.typed)
    }

    /// Returns the name to complete `partial` with; `None` if it does not fit.
    fn complete(&self, partial: &str) -> Option<String> {
        let qualified = self.qualified();
        if !self.needs_schema && self.name.fits(partial) {
            Some(self.name.typed.clone())
        } else if qualified.starts_with(partial) || (self.needs_schema && self.name.fits(partial)) {
            Some(qualified)
        } else {
            None
        }
    }

    /// Tells whether a word names the table.
    fn is_named(&self, word: &str) -> bool {
        word == self.name.typed || word == self.qualified()
    }

    /// Returns the conditions to complete `partial` with: a column, or a value behind it.
    fn conditions(&self, partial: &str) -> Vec<String> {
        let behind = self.columns.iter().find_map(|(column, values)| {
            let rest = partial.strip_prefix(&column.typed)?;
            let (sign, _) = Operator::at_start(rest)?;
            Some((column, sign, &rest[sign.len()..], values))
        });
        if let Some((column, sign, begun, values)) = behind {
            return values
                .iter()
                .filter(|value| value.starts_with(begun.trim_start_matches('\'')))
                .map(|value| format!("{}{sign}{}", column.typed, quoted(value)))
                .collect();
        }
        self.columns
            .iter()
            .filter(|(column, _)| column.fits(partial))
            .map(|(column, _)| format!("{}=", column.typed))
            .collect()
    }
}

/// Returns a value as it is typed: in single quotes if it has blanks or quotes.
fn quoted(value: &str) -> String {
    let is_null = value.eq_ignore_ascii_case("null");
    if is_null || value.contains(|c: char| c.is_whitespace() || c == '\'') {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        value.to_string()
    }
}

/// The words that can be typed, and the prompt.
pub(super) struct Completions {
    /// The state that the prompt shows.
    pub(super) status: Arc<PromptStatus>,
    pub(super) tables: Vec<TableWords>,
    pub(super) color: bool,
}

impl Completions {
    /// Returns the names of tables that fit, with a blank behind.
    fn tables(&self, partial: &str) -> Vec<String> {
        self.tables
            .iter()
            .filter_map(|table| table.complete(partial))
            .map(|name| format!("{name} "))
            .collect()
    }
}

impl Guide for Completions {
    fn prompt(&self) -> String {
        let state = self.status.get();
        // As wide for every state: the editor counts on `blank` having the prompt's width.
        let text = format!("{:>7}> ", self.status.words());
        let style = match state {
            PromptState::Live => anstyle::AnsiColor::Green,
            PromptState::Loading => anstyle::AnsiColor::Yellow,
            PromptState::Stale => anstyle::AnsiColor::Red,
        };
        let style = style.on_default();
        if self.color {
            format!("{}{text}{}", style.render(), style.render_reset())
        } else {
            text
        }
    }

    fn blank(&self) -> String {
        " ".repeat(9)
    }

    fn complete(&self, before: &str) -> (usize, Vec<String>) {
        let (complete, partial) = split_last(before);
        let fitting = match complete.as_slice() {
            // The first entry stands for any table's name.
            [] => {
                let commands = COMMANDS.iter().skip(1).map(|command| command.name);
                commands
                    .filter(|name| name.starts_with(partial))
                    .map(str::to_string)
                    .chain(self.tables(partial))
                    .collect()
            }
            ["count" | ".watch" | ".history" | ".verify"] => self.tables(partial),
            [
                ".verify" | ".limit" | ".tables" | ".stats" | ".nodes" | ".reconnect" | ".help"
                | ".quit",
                ..,
            ] => Vec::new(),
            // Conditions follow, also behind other conditions.
            ["count" | ".watch" | ".history", table, ..] | [table, ..] => {
                let named = self.tables.iter().find(|words| words.is_named(table));
                named.map_or_else(Vec::new, |words| words.conditions(partial))
            }
        };
        (before.len() - partial.len(), fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Completions {
        let table = |schema: &str, name: &str, needs_schema: bool| TableWords {
            schema: Word::new(schema),
            name: Word::new(name),
            needs_schema,
            columns: vec![
                (Word::new("id"), Vec::new()),
                (Word::new("Odd Key"), Vec::new()),
                (
                    Word::new("status"),
                    ["paid", "not paid"].map(str::to_string).to_vec(),
                ),
            ],
        };
        Completions {
            status: Arc::new(PromptStatus::default()),
            tables: vec![
                table("public", "users", false),
                table("app", "Odd Name", false),
                table("a", "logs", true),
                table("b", "logs", true),
            ],
            color: false,
        }
    }

    #[test]
    fn what_can_follow_is_offered() {
        let words = words();
        for (before, start, offered) in [
            ("u", 0, vec!["users "]),
            ("public.u", 0, vec!["public.users "]),
            (
                "count ",
                6,
                vec!["users ", "\"Odd Name\" ", "a.logs ", "b.logs "],
            ),
            (".verify od", 8, vec!["\"Odd Name\" "]),
            ("\"Odd N", 0, vec!["\"Odd Name\" "]),
            ("lo", 0, vec!["a.logs ", "b.logs "]),
            ("count users i", 12, vec!["id="]),
            ("users id=1 ", 11, vec!["id=", "\"Odd Key\"=", "status="]),
            ("users \"Odd K", 6, vec!["\"Odd Key\"="]),
            ("\"Odd Name\" odd", 11, vec!["\"Odd Key\"="]),
            ("users status=", 6, vec!["status=paid", "status='not paid'"]),
            ("users status!='no", 6, vec!["status!='not paid'"]),
            ("users id=", 6, vec![]),
            (".t", 0, vec![".tables"]),
            (".limit u", 7, vec![]),
            ("nothing x", 8, vec![]),
        ] {
            let offered: Vec<String> = offered.into_iter().map(str::to_string).collect();
            assert_eq!(words.complete(before), (start, offered), "{before}");
        }
        assert_eq!(words.prompt().len(), words.blank().len());
    }
}
