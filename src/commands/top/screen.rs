//! [`Screen`]: the terminal as long as it is ours, and the thread that draws and takes keys.

use super::draw::draw;
use super::look::Looked;
use super::model::{Key, Model};
use crate::feed::queue::Queue;
use anyhow::Context as _;
use parking_lot::Mutex;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The time from one picture to the next, if no key is pressed.
const FRAME: Duration = Duration::from_millis(250);
/// How long a process that is to be stopped goes on.
const STOPPING: Duration = Duration::from_millis(600);

/// The terminal in raw mode, with a screen of its own. Restored when it is dropped, and when the
/// process panics.
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If it cannot be put into raw mode.
    pub fn open() -> anyhow::Result<Self> {
        // This also restores the terminal before a panic prints its message.
        let terminal = ratatui::try_init();
        Ok(Self(terminal.context("take the terminal")?))
    }

    /// Gives the terminal back.
    pub fn restore() {
        // If the terminal takes nothing, there is nothing else to do either.
        let _ = ratatui::try_restore();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Self::restore();
    }
}

/// Shows the model until somebody quits, or `is_over`.
///
/// # Errors
/// If the terminal fails.
pub(super) fn show(
    mut model: Model,
    queue: &Queue,
    looked: &Mutex<Looked>,
    is_over: &AtomicBool,
) -> anyhow::Result<()> {
    let mut screen = Screen::open()?;
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) && !model.is_over {
        for item in queue.try_take().into_iter().flatten() {
            model.take(&item);
        }
        if Instant::now() >= next {
            model.looked = looked.lock().clone();
            screen
                .0
                .draw(|frame| draw(&model, frame))
                .context("draw the screen")?;
            next = Instant::now() + FRAME;
        }
        // Short, so that the end is noticed and the queue emptied.
        let wait = next
            .saturating_duration_since(Instant::now())
            .min(FRAME / 5);
        if !event::poll(wait).context("wait for a key")? {
            continue;
        }
        match event::read().context("read a key")? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if key.modifiers.contains(KeyModifiers::CONTROL) {
                    match key.code {
                        KeyCode::Char('c') => return Ok(()),
                        KeyCode::Char('z') => screen = suspend(screen)?,
                        _ => {}
                    }
                } else if let Some(key) = known(key) {
                    model.press(key);
                }
                next = Instant::now();
            }
            Event::Resize(..) => next = Instant::now(),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the meaning of a key; `None` if the key has none.
fn known(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Esc => Key::Escape,
        KeyCode::Up => Key::Up(1),
        KeyCode::Down => Key::Down(1),
        KeyCode::PageUp => Key::Up(10),
        KeyCode::PageDown => Key::Down(10),
        KeyCode::Home => Key::Up(usize::MAX),
        _ => return None,
    })
}

/// Stops the process as Ctrl-Z does elsewhere, with the terminal given back meanwhile.
fn suspend(screen: Screen) -> anyhow::Result<Screen> {
    drop(screen);
    let stopped =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TSTP);
    stopped.context("stop this process")?;
    // The handler of the signal closes the connections, and then stops all threads: this one goes
    // on behind that.
    std::thread::sleep(STOPPING);
    Screen::open()
}
