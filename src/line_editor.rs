//! [`LineEditor`]: a prompt on a terminal, with history and completion, and notices above it. No
//! other module uses rustyline.

use crate::suspend::Suspension;
use anyhow::Context as _;
use postgres_index_cache_core::tooling::is_obeyed;
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

/// The most lines that the history keeps.
const HISTORY: usize = 10_000;

/// The source of prompt and completions, which is asked at every key while a line is edited.
pub trait Guide: Send + Sync + 'static {
    /// Returns the prompt to be drawn now, which must be as wide as [`blank`](Self::blank).
    fn prompt(&self) -> String;
    /// Returns as many spaces as the prompt is wide.
    fn blank(&self) -> String;
    /// Returns the words that may stand at the end of `before`, with the position in `before` at
    /// which they begin.
    fn complete(&self, before: &str) -> (usize, Vec<String>);
}

/// The outcome of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line was typed.
    Line(String),
    /// Ctrl-C was typed: the line is given up.
    Cancelled,
    /// Ctrl-D was typed: there will be no more lines.
    End,
}

/// A function that prints a line above the prompt.
pub type Above = Box<dyn FnMut(String) -> anyhow::Result<()> + Send>;

/// The guide, in the form that rustyline asks for.
struct Help(Arc<dyn Guide>);

impl Helper for Help {}
impl Hinter for Help {
    type Hint = String;
}
impl Validator for Help {}

impl Highlighter for Help {
    // rustyline takes the prompt once, when it begins to read a line, and the state that it shows
    // may change after that. So it gets blanks, and is told to draw the prompt of the moment in
    // their place.
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
        // rustyline draws completions without escaping them. A table's name with control characters
        // would be obeyed by the terminal, so such a name is not offered.
        let words = words
            .into_iter()
            .filter(|word| !word.chars().any(is_obeyed));
        let pairs = words.map(|word| Pair {
            display: word.clone(),
            replacement: word,
        });
        Ok((start, pairs.collect()))
    }
}

/// The handler of Ctrl-Z. In raw mode that is a key, not a signal.
struct Stop(Suspension);

impl ConditionalEventHandler for Stop {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        // Before the process stops: afterwards nobody reads from the connections.
        self.0.let_go();
        Some(Cmd::Suspend)
    }
}

/// A prompt on a terminal.
pub struct LineEditor {
    editor: Editor<Help, FileHistory>,
    guide: Arc<dyn Guide>,
    /// The file of the history; `None` if there is none, or writing failed.
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
    /// Makes an editor whose history is kept in the file `history`, if one is given.
    ///
    /// On Ctrl-Z `suspension` closes the connections. The editor stops the process itself, since
    /// the terminal must be put in order before that.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn new(
        guide: Arc<dyn Guide>,
        history: Option<PathBuf>,
        suspension: Suspension,
    ) -> anyhow::Result<Self> {
        // Colour is forced here and decided by `Guide::prompt`: only then is the prompt of the
        // moment drawn at all. History is written by `remember`, and a line that begins with a
        // space is not kept, as in a shell.
        let config = Config::builder()
            .color_mode(ColorMode::Forced)
            .auto_add_history(false)
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
            // It fails the first time, when there is no file, and that is fine.
            let _ = editor.load_history(file);
        }
        Ok(Self {
            editor,
            guide,
            history,
        })
    }

    /// Returns a function that prints above the prompt. Printing may wait until the editor reads a
    /// line, so call the function from a thread of its own.
    ///
    /// # Errors
    /// If the terminal cannot do that.
    pub fn above(&mut self) -> anyhow::Result<Above> {
        let mut printer = self
            .editor
            .create_external_printer()
            .context("prepare the terminal")?;
        Ok(Box::new(move |line| {
            printer.print(line).context("write to the terminal")
        }))
    }

    /// Shows the prompt and waits for a line.
    ///
    /// # Errors
    /// If the terminal fails.
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

    /// Adds a line to the history, and appends it to the file at once: a shell that is killed has
    /// lost nothing.
    fn remember(&mut self, line: &str) {
        let is_new =
            !line.trim().is_empty() && self.editor.add_history_entry(line).unwrap_or(false);
        let Some(file) = self.history.clone().filter(|_| is_new) else {
            return;
        };
        let has_folder = match file.parent() {
            Some(folder) => std::fs::create_dir_all(folder).is_ok(),
            None => true,
        };
        if !has_folder || self.editor.append_history(&file).is_err() {
            // A home that cannot be written is no reason to fail, nor to say so at every line.
            self.history = None;
        }
    }
}

/// The settings of the terminal from before the prompt. Whoever ends the process while a line is
/// edited restores them, or the person's shell would stay in raw mode. `None` if stdin is no
/// terminal.
#[derive(Debug)]
pub struct TerminalState(Option<rustix::termios::Termios>);

impl TerminalState {
    /// Reads the settings as they are now.
    pub fn remember() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }

    /// Takes Ctrl-Z from the terminal while another program has it. There it would be a signal that
    /// stops this process at once, with connections that nobody reads from. Must be restored before
    /// a line is edited: the editor binds the key that the terminal names.
    pub fn without_stop(&self) {
        // `_POSIX_VDISABLE`.
        const NO_KEY: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };
        let Some(mut state) = self.0.clone() else {
            return;
        };
        state.special_codes[rustix::termios::SpecialCodeIndex::VSUSP] = NO_KEY;
        Self::set(&state);
    }

    /// Restores the settings.
    pub fn restore(&self) {
        if let Some(state) = &self.0 {
            Self::set(state);
        }
    }

    fn set(state: &rustix::termios::Termios) {
        // If it fails, the terminal is gone, and so is the person.
        let _ = rustix::termios::tcsetattr(
            std::io::stdin(),
            rustix::termios::OptionalActions::Drain,
            state,
        );
    }

    /// Restores the settings while a line is edited, and ends the line that the cursor is in.
    pub fn restore_from_prompt(&self) {
        if self.0.is_some() {
            self.restore();
            // rustyline switches bracketed paste on, which is no setting of the terminal's driver:
            // this sequence switches it off.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), b"\x1b[?2004l\r\n");
        }
    }
}

/// Returns the file in which the history of a command is kept, in the platform's folder for state;
/// `None` if there is no home.
pub fn history_file(command: &str) -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    let folders = etcetera::base_strategy::choose_native_strategy().ok()?;
    let folder = folders.state_dir().unwrap_or_else(|| folders.data_dir());
    Some(folder.join("pgic").join(format!("{command}_history")))
}
