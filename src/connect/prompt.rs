//! [`ask`]: asks for a password on the terminal.

use pg_connect::Password;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::OpenOptions;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The state of the terminal before a question that is open; `None` if none is.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Asks for a password on the terminal of this process, and does not show what is typed. `None` if
/// there is no terminal: in a job of cron or in a container, nobody could answer.
pub(super) fn ask(question: &str) -> io::Result<Option<Password>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let Ok(terminal) = terminal else {
        return Ok(None);
    };
    // Hidden before the question is printed: a program that answers may be faster than we are.
    let before = tcgetattr(&terminal)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    let answer = rpassword::prompt_password(question);
    restore_terminal();
    Ok(Some(Password::new(answer?)))
}

/// Shows again what is typed, if a question is still open. Call it before this process ends.
///
/// A command that handles Ctrl-C ends while the thread that asks still waits for the answer.
/// Without this, the shell's prompt would show nothing of what is typed.
pub fn restore_terminal() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    if let (Some(before), Ok(terminal)) = (before, terminal) {
        // The process ends: there is nobody to tell of an error.
        let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
    }
}
