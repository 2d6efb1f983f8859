//! [`Input`]: where lines come from and answers go to: a prompt on a terminal, else plain lines.

use super::line::COMMANDS;
use super::live::{PromptState, PromptStatus};
use super::notices::{Notices, Said};
use super::session::Reply;
use crate::line_editor::{Above, Guide, LineEditor, TerminalState, Typed, history_file};
use crate::render::{note, print};
use crate::suspend::Suspension;
use anyhow::Context as _;
use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The most bytes of a line from a pipe.
const LONGEST_LINE: u64 = 1 << 20;

/// A line, and where its answer is waited for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) line: String,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// Where lines come from.
pub(super) struct Input {
    editor: Option<LineEditor>,
    terminal: Arc<TerminalState>,
    notices: Notices,
}

impl Input {
    /// The prompt of a terminal, or plain lines.
    pub(super) fn new(
        is_terminal: bool,
        is_quiet: bool,
        guide: Arc<Completions>,
        suspension: Suspension,
    ) -> anyhow::Result<Self> {
        let terminal = Arc::new(TerminalState::remember());
        let editor = is_terminal.then(|| LineEditor::new(guide, history_file("shell"), suspension));
        let mut editor = editor.transpose()?;
        let above = editor.as_mut().map(LineEditor::above).transpose()?;
        Ok(Self {
            editor,
            terminal,
            notices: notices(above, is_quiet),
        })
    }

    /// The terminal as it was.
    pub(super) fn terminal(&self) -> Arc<TerminalState> {
        Arc::clone(&self.terminal)
    }

    /// Takes what is to be said beside the answers.
    pub(super) fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// Hands lines over and prints their answers, until either side has enough.
    pub(super) fn run(mut self, lines: &mpsc::Sender<Request>) -> anyhow::Result<()> {
        while let Some(line) = self.next()? {
            let (reply, answer) = oneshot::channel();
            if lines.blocking_send(Request { line, reply }).is_err() {
                break;
            }
            let Ok(reply) = answer.blocking_recv() else {
                break;
            };
            print(&reply.answer)?;
            if !reply.beside.is_empty() {
                note(&reply.beside);
            }
            if reply.is_last {
                break;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let Some(editor) = &mut self.editor else {
            return next_plain();
        };
        loop {
            match editor.read()? {
                Typed::Line(line) => return Ok(Some(line)),
                Typed::Cancelled => {}
                Typed::End => return Ok(None),
            }
        }
    }
}

fn next_plain() -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    let mut stdin = std::io::stdin().lock().take(LONGEST_LINE);
    stdin.read_until(b'\n', &mut line).context("read a line")?;
    anyhow::ensure!(
        (line.len() as u64) < LONGEST_LINE,
        "a line is longer than {LONGEST_LINE} bytes"
    );
    if line.is_empty() {
        return Ok(None);
    }
    let line = String::from_utf8(line).context("read a line: it is not UTF-8")?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_string()))
}

/// A thread that says things: above the prompt, else on stderr. To print above a prompt may take
/// until it is there.
fn notices(above: Option<Above>, is_quiet: bool) -> Notices {
    let (notices, receiver) = Notices::new();
    std::thread::spawn(move || {
        let mut above = above;
        for said in receiver {
            let done = match (said, &mut above) {
                (Said::Notice(_), _) if is_quiet => Ok(()),
                (Said::Notice(line) | Said::Change(line), Some(above)) => above(line),
                (Said::Notice(line), None) => {
                    note(&line);
                    Ok(())
                }
                (Said::Change(line), None) => print(&line),
            };
            if done.is_err() {
                break;
            }
        }
    });
    notices
}

/// What can be typed, and the prompt.
pub(super) struct Completions {
    pub(super) standing: Arc<PromptStatus>,
    /// Tables as they are typed, with their columns.
    pub(super) tables: Vec<(String, Vec<String>)>,
    pub(super) color: bool,
}

impl Guide for Completions {
    fn prompt(&self) -> String {
        let word = self.standing.get();
        let text = format!("{:>7}> ", word.as_str());
        let style = match word {
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
        let words: Vec<&str> = before.split_whitespace().collect();
        let is_new = before.is_empty() || before.ends_with(char::is_whitespace);
        let partial = if is_new {
            ""
        } else {
            words.last().copied().unwrap_or_default()
        };
        let complete = if is_new {
            &words[..]
        } else {
            &words[..words.len() - 1]
        };
        let tables = self.tables.iter().map(|(table, _)| format!("{table} "));
        let candidates: Vec<String> = match complete {
            [] => COMMANDS
                .iter()
                .skip(1)
                .map(|(name, _, _)| (*name).to_string())
                .chain(tables)
                .collect(),
            ["count" | ".watch" | ".history"] => tables.collect(),
            ["count" | ".watch" | ".history", table, ..] | [table, ..] => {
                let named = self.tables.iter().find(|(name, _)| name == table);
                named
                    .map(|(_, columns)| columns.iter().map(|column| format!("{column}=")).collect())
                    .unwrap_or_default()
            }
        };
        let fitting = candidates
            .into_iter()
            .filter(|word| word.starts_with(partial))
            .collect();
        (before.len() - partial.len(), fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_follow_is_offered() {
        let tables = vec![(
            "users".to_string(),
            vec!["id".to_string(), "\"Odd\"".to_string()],
        )];
        let words = Completions {
            standing: Arc::new(PromptStatus::default()),
            tables,
            color: false,
        };
        let offered = |before: &str| words.complete(before);
        assert_eq!(offered("u"), (0, vec!["users ".to_string()]));
        assert_eq!(offered("count "), (6, vec!["users ".to_string()]));
        assert_eq!(offered("count users i"), (12, vec!["id=".to_string()]));
        assert_eq!(
            offered("users id=1 "),
            (11, vec!["id=".to_string(), "\"Odd\"=".to_string()])
        );
        assert_eq!(offered(".t"), (0, vec![".tables".to_string()]));
        assert_eq!(offered("nothing x"), (8, vec![]));
        assert_eq!(words.prompt().len(), words.blank().len());
    }
}
