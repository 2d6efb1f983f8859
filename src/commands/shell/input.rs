//! [`Input`]: the thread that reads lines and prints their answers, at a prompt on a terminal, else
//! as plain lines. A terminal that cannot move its cursor (`TERM=dumb`, as Emacs has) gets plain
//! lines behind a printed prompt.

use super::answer::Reply;
use super::guide::Completions;
use super::line::split_pasted;
use super::notices::{Notices, Said};
use super::pager::{Pager, Screen};
use crate::line_editor::{Above, Guide as _, LineEditor, TerminalState, Typed, history_file};
use crate::render::escape::escape;
use crate::render::{note, print};
use crate::suspend::Suspension;
use anyhow::Context as _;
use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The bytes that a line from a pipe may have. Without a bound `pgic shell t < /dev/zero` would
/// take all memory.
const LONGEST_LINE: u64 = 1 << 20;

/// A line, with the channel on which the answer is awaited.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) line: String,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The reader of lines and printer of answers.
pub(super) struct Input {
    lines: Lines,
    /// The lines of a paste that are not handed over yet.
    pasted: VecDeque<String>,
    pager: Option<Pager>,
    terminal: Arc<TerminalState>,
    notices: Notices,
}

/// How lines are read.
enum Lines {
    /// With a line editor, at its prompt.
    Edited(Box<LineEditor>),
    /// Plain, behind the prompt of the guide: the terminal cannot move its cursor.
    Prompted(Arc<Completions>),
    /// Plain.
    Plain,
}

impl Input {
    /// Makes a prompt if `is_terminal`, else a reader of plain lines. `is_quiet` leaves out
    /// notices.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub(super) fn new(
        is_terminal: bool,
        is_quiet: bool,
        guide: Arc<Completions>,
        suspension: Suspension,
    ) -> anyhow::Result<Self> {
        // Before the editor changes the terminal.
        let terminal = Arc::new(TerminalState::remember());
        let screen = Screen::default();
        let (lines, above) = if !is_terminal {
            (Lines::Plain, None)
        } else if is_dumb() {
            (Lines::Prompted(guide), None)
        } else {
            let mut editor = LineEditor::new(guide, history_file("shell"), suspension)?;
            let above = editor.above()?;
            (Lines::Edited(Box::new(editor)), Some(above))
        };
        Ok(Self {
            pager: matches!(lines, Lines::Edited(_))
                .then(|| Pager::of_environment(screen.clone(), Arc::clone(&terminal)))
                .flatten(),
            lines,
            pasted: VecDeque::new(),
            terminal,
            notices: notices(above, is_quiet, screen),
        })
    }

    /// Returns the state of the terminal from before the prompt, to be restored by whoever ends the
    /// process while a line is read.
    pub(super) fn terminal(&self) -> Arc<TerminalState> {
        Arc::clone(&self.terminal)
    }

    /// Returns the end of a queue that takes texts to be shown beside the answers.
    pub(super) fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// Hands lines over and prints their answers, until there are no more lines, or the other side
    /// takes none.
    ///
    /// # Errors
    /// If a line cannot be read, or an answer cannot be written.
    pub(super) fn run(mut self, lines: &mpsc::Sender<Request>) -> anyhow::Result<()> {
        while let Some(line) = self.next()? {
            let (reply, answer) = oneshot::channel();
            if lines.blocking_send(Request { line, reply }).is_err() {
                break;
            }
            let Ok(reply) = answer.blocking_recv() else {
                break;
            };
            // The answer stands before the notices about it, also where both streams are one file.
            match &self.pager {
                Some(pager) => pager.print(&reply.answer)?,
                None => print(&reply.answer)?,
            }
            if !reply.beside.is_empty() {
                note(&reply.beside);
            }
            if reply.is_last {
                break;
            }
        }
        Ok(())
    }

    /// Reads a line; `None` if there are no more.
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        if let Some(line) = self.pasted.pop_front() {
            // It tells the answers apart.
            print(&format!("{}\n", escape(&line)))?;
            return Ok(Some(line));
        }
        let editor = match &mut self.lines {
            Lines::Edited(editor) => editor,
            Lines::Prompted(guide) => {
                print(&guide.prompt())?;
                return next_plain();
            }
            Lines::Plain => return next_plain(),
        };
        loop {
            match editor.read()? {
                Typed::Line(text) => {
                    let mut lines = split_pasted(&text);
                    let first = lines.pop_front();
                    self.pasted = lines;
                    if let Some(line) = first {
                        return Ok(Some(line));
                    }
                }
                Typed::Cancelled => {}
                Typed::End => return Ok(None),
            }
        }
    }
}

/// Returns whether the terminal says of itself that it cannot move its cursor.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|name| name == "dumb")
}

/// Reads a line from stdin, without its end; `None` if there are no more.
fn next_plain() -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    let mut stdin = std::io::stdin().lock().take(LONGEST_LINE);
    stdin.read_until(b'\n', &mut line).context("read a line")?;
    // A line of just that length was cut, or may have been: its rest would pass for another line.
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

/// Starts the thread that shows texts beside the answers: above the prompt, else changes on stdout
/// and notices on stderr. Printing above a prompt may wait until there is one, which must hold
/// nobody up.
fn notices(above: Option<Above>, is_quiet: bool, screen: Screen) -> Notices {
    let (notices, receiver) = Notices::new();
    std::thread::spawn(move || {
        let mut above = above;
        for said in receiver {
            // While a pager has the screen, a line would be printed into it.
            screen.wait_until_free();
            let done = match (said, &mut above) {
                (Said::Notice(_), _) if is_quiet => Ok(()),
                (Said::Notice(line) | Said::Change(line), Some(above)) => above(line),
                (Said::Notice(line), None) => {
                    note(&line);
                    Ok(())
                }
                (Said::Change(line), None) => print(&line),
            };
            // Nobody reads any more. The next answer fails as well, and that ends the shell.
            if done.is_err() {
                break;
            }
        }
    });
    notices
}
