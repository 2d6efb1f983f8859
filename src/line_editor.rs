//! Lines that a person types at a prompt, with history and completion, and notices above it. The
//! one home of rustyline.

use crate::suspend::Suspension;
use anyhow::Context as _;
use postgres_index_cache_core::is_obeyed;
use rustyline::completion::{Completer, Pair};
use rustyline::config::Configurer as _;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler,
    ExternalPrinter as _, Helper, KeyEvent, RepeatCount,
};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// The most lines that history keeps.
const HISTORY: usize = 10_000;

/// What the prompt and completion ask for while a line is edited.
pub trait Guide: Send + Sync + 'static {
    /// The prompt, now. It must keep the width of [`blank`](Self::blank).
    fn prompt(&self) -> String;
    /// As many spaces as the prompt is wide.
    fn blank(&self) -> String;
    /// What may stand at the end of `before`, and where it begins there.
    fn complete(&self, before: &str) -> (usize, Vec<String>);
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-C: the line is given up.
    Cancelled,
    /// Ctrl-D: there will be no more.
    End,
}

/// Prints a line above the prompt.
pub type Above = Box<dyn FnMut(String) -> anyhow::Result<()> + Send>;

struct Help(Arc<dyn Guide>);

impl Helper for Help {}
impl Hinter for Help {
    type Hint = String;
}
impl Validator for Help {}

impl Highlighter for Help {
    // The prompt changes while a line is edited: only what is drawn in its place can.
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        default: bool,
    ) -> Cow<'b, str> {
        if default {
            Cow::Owned(self.0.prompt())
        } else {
            Cow::Borrowed(prompt)
        }
    }
}

impl Completer for Help {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = self.0.complete(&line[..at]);
        // What is completed is drawn as it is: a name that a terminal would obey is left to be
        // typed.
        let words = words
            .into_iter()
            .filter(|word| !word.chars().any(is_obeyed));
        Ok((
            start,
            words
                .map(|word| Pair {
                    display: word.clone(),
                    replacement: word,
                })
                .collect(),
        ))
    }
}

/// Ctrl-Z.
struct Stop(Suspension);

impl ConditionalEventHandler for Stop {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        self.0.let_go();
        Some(Cmd::Suspend)
    }
}

/// An editor of lines on a terminal.
pub struct LineEditor {
    editor: Editor<Help, FileHistory>,
    guide: Arc<dyn Guide>,
    history: Option<PathBuf>,
}

impl std::fmt::Debug for LineEditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineEditor")
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

impl LineEditor {
    /// An editor whose history is kept in `history`, where there is such a place. `suspension` lets
    /// the connections go before Ctrl-Z stops the process; the editor stops it itself, since it
    /// leaves the terminal in order before that.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub fn new(
        guide: Arc<dyn Guide>,
        history: Option<PathBuf>,
        suspension: Suspension,
    ) -> anyhow::Result<Self> {
        let config = Config::builder()
            .color_mode(ColorMode::Forced)
            .auto_add_history(false);
        let config = config
            .completion_type(rustyline::CompletionType::List)
            .history_ignore_space(true);
        let mut editor: Editor<Help, FileHistory> =
            Editor::with_config(config.build()).context("prepare the terminal")?;
        editor
            .set_max_history_size(HISTORY)
            .context("prepare the history")?;
        let stop = EventHandler::Conditional(Box::new(Stop(suspension)));
        editor.bind_sequence(KeyEvent::ctrl('Z'), stop);
        editor.set_helper(Some(Help(Arc::clone(&guide))));
        if let Some(file) = &history {
            // The first time there is none.
            let _ = editor.load_history(file);
        }
        Ok(Self {
            editor,
            guide,
            history,
        })
    }

    /// What prints above the prompt. It may wait for the editor to read a line: call it from a
    /// thread of its own.
    ///
    /// # Errors
    /// When the terminal cannot do that.
    pub fn above(&mut self) -> anyhow::Result<Above> {
        let mut printer = self
            .editor
            .create_external_printer()
            .context("prepare the terminal")?;
        Ok(Box::new(move |line| {
            printer.print(line).context("write to the terminal")
        }))
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn read(&mut self) -> anyhow::Result<Typed> {
        match self.editor.readline(&self.guide.blank()) {
            Ok(line) => {
                self.remember(&line);
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Cancelled),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(anyhow::Error::new(error).context("read a line from the terminal")),
        }
    }

    /// Appends to the history at once: a shell that is killed has lost nothing.
    fn remember(&mut self, line: &str) {
        let is_new =
            !line.trim().is_empty() && self.editor.add_history_entry(line).unwrap_or(false);
        if let Some(file) = self.history.clone().filter(|_| is_new) {
            let folder = file.parent().map(std::fs::create_dir_all);
            if folder.is_some_and(|made| made.is_err())
                || self.editor.append_history(&file).is_err()
            {
                // A home that cannot be written is no reason to fail, nor to say so at every line.
                self.history = None;
            }
        }
    }
}

/// The terminal as it was: what leaves in the middle of a line puts it back.
#[derive(Debug)]
pub struct TerminalState(Option<rustix::termios::Termios>);

impl TerminalState {
    /// Remembers it.
    pub fn remember() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }

    /// Puts it back.
    pub fn restore(&self) {
        if let Some(state) = &self.0 {
            let _ = rustix::termios::tcsetattr(
                std::io::stdin(),
                rustix::termios::OptionalActions::Drain,
                state,
            );
            // rustyline asks for bracketed paste; this ends it, and the line.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), b"\x1b[?2004l\r\n");
        }
    }
}

/// Where the history of a command is kept: the platform's folder for state.
pub fn history_file(command: &str) -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    let folders = etcetera::base_strategy::choose_native_strategy().ok()?;
    let folder = folders.state_dir().unwrap_or_else(|| folders.data_dir());
    Some(folder.join("pgic").join(format!("{command}_history")))
}
