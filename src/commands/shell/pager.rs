//! [`Pager`]: the program that shows an answer which does not fit the screen.

use crate::failure::HintExt as _;
use crate::line_editor::TerminalState;
use crate::render::{OutputClosed, print, written};
use anyhow::Context as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Whether a pager has the screen. Then nothing else is printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Screen(Arc<(Mutex<bool>, Condvar)>);

impl Screen {
    /// Waits until no pager has the screen. Nothing is held afterwards: whoever prints next may
    /// wait for the prompt, and a pager must not wait for that.
    pub(super) fn wait_until_free(&self) {
        let (is_taken, is_free) = &*self.0;
        let taken = is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails only if a thread panicked, and that left nothing half done.
        drop(is_free.wait_while(taken, |is_taken| *is_taken));
    }

    fn set(&self, taken: bool) {
        let (is_taken, is_free) = &*self.0;
        *is_taken.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        is_free.notify_all();
    }
}

/// A program that shows long answers.
#[derive(Debug)]
pub(super) struct Pager {
    /// The command line, for the shell.
    command: String,
    screen: Screen,
    terminal: Arc<TerminalState>,
}

impl Pager {
    /// Returns the pager that `PAGER` names, `less` without one; `None` if the variable is empty.
    pub(super) fn of_environment(screen: Screen, terminal: Arc<TerminalState>) -> Option<Self> {
        let command = match std::env::var("PAGER") {
            Ok(command) if command.trim().is_empty() => return None,
            Ok(command) => command,
            Err(_) => "less".to_string(),
        };
        Some(Self {
            command,
            screen,
            terminal,
        })
    }

    /// Prints a text, through the pager if it has more lines than the screen.
    ///
    /// # Errors
    /// If the text cannot be written, or the pager cannot be started.
    pub(super) fn print(&self, text: &str) -> anyhow::Result<()> {
        let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row);
        let lines = text.bytes().filter(|byte| *byte == b'\n').count();
        if rows == 0 || lines < usize::from(rows) {
            return print(text);
        }
        self.screen.set(true);
        self.terminal.without_stop();
        let shown = self.show(text);
        self.terminal.restore();
        self.screen.set(false);
        shown
    }

    /// Runs the pager on a text.
    fn show(&self, text: &str) -> anyhow::Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            // As git has it: colours are shown, and the text stays on the screen afterwards.
            command.env("LESS", "FRX");
        }
        let starting = || format!("start the pager {}", self.command);
        let mut child = command
            .spawn()
            .with_context(starting)
            .hint("PAGER names the pager; PAGER='' is none")?;
        let mut failed = Ok(());
        if let Some(mut input) = child.stdin.take() {
            failed = written(input.write_all(text.as_bytes()));
        }
        let status = child.wait().with_context(starting)?;
        match failed {
            // It could not be run, or failed: the answer must not be lost.
            _ if !status.success() => print(text),
            // A pager that is left early reads no more.
            Err(error) if error.is::<OutputClosed>() => Ok(()),
            failed => failed,
        }
    }
}
