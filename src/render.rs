//! What people and programs see. Renderers take values and write to `impl Write`; they read no
//! clock, no environment and no terminal.

pub mod change;
pub mod escape;
pub mod finding;
pub mod json;
pub mod progress;
pub mod row_change;
pub mod rows;
pub mod table;

use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, Write};

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The reader of our output has gone: a quiet end, as of `| head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the output was closed")]
pub struct OutputClosed;

/// Tells a closed pipe from other failures of writing.
///
/// # Errors
/// [`OutputClosed`] for a closed pipe, else what the system said.
pub fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("write the output")),
        Ok(()) => Ok(()),
    }
}

/// Writes to stdout all at once.
///
/// # Errors
/// As [`written`].
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes to stderr, in colour where that takes it. A stderr that takes nothing, on a full disk for
/// example, is no reason to end what is being done, and there is nowhere to say it.
pub fn note(text: &str) {
    let mut out = anstream::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What is traced, on stderr: nothing in it is obeyed by a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Trace;

impl Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        note(
            &text
                .split_inclusive('\n')
                .map(|line| {
                    let (line, end) = line
                        .strip_suffix('\n')
                        .map_or((line, ""), |line| (line, "\n"));
                    format!("{}{end}", escape::escape(line))
                })
                .collect::<String>(),
        );
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So many of them: `1 row`, `2 rows`.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Waits until nobody reads our output any more: `tail | head -1` on a silent channel has nothing
/// to write, and would not notice.
pub async fn reader_gone() {
    let (sender, gone) = tokio::sync::oneshot::channel();
    let watching = std::thread::Builder::new()
        .name("output".to_string())
        .spawn(move || {
            let stdout = io::stdout();
            let watched = PollFd::new(&stdout, PollFlags::empty());
            // Nothing is asked for: what is said all the same is that the other end is closed. A
            // file never says it.
            let said = poll(&mut [watched], None);
            sender.send(said.is_ok_and(|count| count > 0))
        });
    // Without the thread nobody says it; the next line that is written does.
    if let Err(error) = watching {
        tracing::warn!(%error, "the output is not watched");
    }
    if !gone.await.unwrap_or(false) {
        std::future::pending::<()>().await;
    }
}
