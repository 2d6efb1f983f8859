//! All output of pgic, for people and for programs.
//!
//! The renderers in the submodules take values and return text, or append to a `String`. They read
//! no clock, no environment and no terminal. [`progress`] is the exception: the bar draws itself,
//! if stderr is a terminal. The functions here write the text: answers to stdout ([`print`]), all
//! else to stderr ([`note`], [`Trace`]).

pub mod change;
pub mod escape;
pub mod finding;
pub mod json;
pub mod layout;
pub mod look;
pub mod progress;
pub mod row_change;
pub mod rows;
pub mod table;

use jiff::Timestamp;
use json::EventLine;
use rustix::event::{PollFd, PollFlags, poll};
use std::borrow::Cow;
use std::io::{self, Write};

/// The form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs, one object on each line.
    Json,
}

/// The reader of our output has gone, as with `| head`. The command then ends in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the output was closed")]
pub struct OutputClosed;

/// Turns the result of writing into an error that tells a closed pipe from other failures.
///
/// # Errors
/// [`OutputClosed`] for a closed pipe, else the system's error.
pub fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("write the output")),
        Ok(()) => Ok(()),
    }
}

/// Writes a text to stdout and flushes.
///
/// # Errors
/// As [`written`].
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Returns the width of the terminal that stdout is, in columns; `None` if it is none.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// Returns the height of the terminal that stdout is, in lines; `None` if it is none.
pub fn terminal_height() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_row)).filter(|height| *height > 0)
}

/// Writes a text to stderr, in colour if stderr takes colour. On a terminal, long lines are broken
/// between words.
pub fn note(text: &str) {
    let text = match stderr_width() {
        Some(width) => wrapped(text, width),
        None => Cow::Borrowed(text),
    };
    note_as_it_is(&text);
}

/// Writes a text to stderr, in colour if stderr takes colour.
fn note_as_it_is(text: &str) {
    let mut out = anstream::stderr().lock();
    // If stderr takes nothing, on a full disk for example, that is no reason to end the command,
    // and there is nowhere to say so.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Returns the width of the terminal that stderr is, in columns; `None` if it is none.
fn stderr_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    // A narrower one would hold hardly a word.
    Some(usize::from(size.ws_col)).filter(|width| *width >= 40)
}

/// Returns a text with its long lines broken between words, the rest of a line set in. JSON stays
/// as it is.
pub fn wrapped(text: &str, width: usize) -> Cow<'_, str> {
    let is_long =
        |line: &str| textwrap::core::display_width(line) > width && !line.starts_with('{');
    if !text.lines().any(is_long) {
        return Cow::Borrowed(text);
    }
    let mut broken = String::new();
    for line in text.lines() {
        if is_long(line) {
            let indent = line.len() - line.trim_start().len() + 2;
            let indent = " ".repeat(indent);
            let options = textwrap::Options::new(width)
                .break_words(false)
                .word_splitter(textwrap::WordSplitter::NoHyphenation)
                .word_separator(textwrap::WordSeparator::AsciiSpace)
                .subsequent_indent(&indent);
            broken.push_str(&textwrap::fill(line, options));
            // A question ends with a blank, behind which it is answered.
            broken.push_str(&line[line.trim_end().len()..]);
        } else {
            broken.push_str(line);
        }
        broken.push('\n');
    }
    // A question that is answered behind it has no line break at its end.
    if !text.ends_with('\n') {
        broken.pop();
    }
    Cow::Owned(broken)
}

/// The writer of traces, on stderr: takes one trace at a time, and writes it as one line.
/// Characters that a terminal obeys are escaped.
#[derive(Debug, Clone, Copy)]
pub struct Trace(pub Format);

impl Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        // The newline at the end is the line's own. Any other came from a field, where it could
        // make somebody else's text pass for a trace of ours.
        let line = text.strip_suffix('\n').unwrap_or(&text);
        note_as_it_is(&match self.0 {
            Format::Text => format!("{}\n", escape::escape(line)),
            Format::Json => {
                let event = EventLine::new("trace", Timestamp::now());
                event.member("text", line).end()
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a notice as a line for stderr: text that begins with `notice:`, or an object of JSON.
pub fn notice(format: Format, at: Timestamp, text: &str) -> String {
    match format {
        Format::Text => {
            // `note` takes the codes off where stderr takes none.
            let style = anstyle::AnsiColor::Yellow.on_default();
            format!("{style}notice:{style:#} {}\n", escape::escape(text))
        }
        Format::Json => EventLine::new("notice", at).member("text", text).end(),
    }
}

/// Returns a number with its noun: `1 row`, `2 rows`.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Waits until nobody reads our output any more.
///
/// A command that has nothing to write would not notice: `tail | head -1` on a silent channel, for
/// example.
pub async fn reader_gone() {
    let (sender, gone) = tokio::sync::oneshot::channel();
    let watching = std::thread::Builder::new()
        .name("output".to_string())
        .spawn(move || {
            let stdout = io::stdout();
            let watched = PollFd::new(&stdout, PollFlags::empty());
            // Ask for no event: the only one that comes all the same is that the other end is
            // closed. It never comes for a file.
            let said = poll(&mut [watched], None);
            sender.send(said.is_ok_and(|count| count > 0))
        });
    // Without the thread, a closed output is noticed by the next line that is written.
    if let Err(error) = watching {
        tracing::warn!(%error, "the output is not watched");
    }
    // If the thread could not be started, or poll failed, nobody knows: never return.
    if !gone.await.unwrap_or(false) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = "notice: one two three four\nshort\n  indented line that is long\n{\"json\": \"stays as it is\"}\n";
        assert_eq!(
            wrapped(text, 20),
            "notice: one two\n  three four\nshort\n  indented line that\n    is long\n{\"json\": \"stays as it is\"}\n"
        );
        assert_eq!(wrapped("really? [y/N] ", 80), "really? [y/N] ");
        assert_eq!(wrapped("really so? [y/N] ", 12), "really so?\n  [y/N] ");
        // Colours have no width.
        assert_eq!(
            wrapped("\u{1b}[31merror:\u{1b}[0m x", 8),
            "\u{1b}[31merror:\u{1b}[0m x"
        );
    }
}
