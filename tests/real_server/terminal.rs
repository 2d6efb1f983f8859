//! [`Terminal`]: a program on a terminal of the test's own.

use crate::support::DEADLINE;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

/// A program on a terminal of the test's own.
pub struct Terminal {
    child: Child,
    /// The end of the terminal that the test types at.
    typed: File,
    /// The output of the program, in the pieces in which it was read.
    seen: Receiver<String>,
    /// The output that no `sees` has waited for yet.
    text: String,
    /// The screen as a person sees it: 80 columns and 24 lines are the default.
    screen: vt100::Parser,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The program has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Terminal {
    /// Starts a program, whose input and output are a terminal of 80 columns and 24 lines.
    pub fn start(mut command: Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("open a terminal");
        grantpt(&terminal)
            .and_then(|()| unlockpt(&terminal))
            .expect("grant it");
        let name = ptsname(&terminal, Vec::new())
            .expect("it has a name")
            .into_string()
            .expect("UTF-8");
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).expect("set the size");
        let child = command
            .stdin(open_terminal(&name))
            .stdout(open_terminal(&name))
            .stderr(open_terminal(&name))
            .spawn()
            .expect("start the program");
        // The command holds the program's end of the terminal: kept, the terminal would never end.
        drop(command);
        let typed = File::from(terminal);
        let mut reader = typed.try_clone().expect("clone the terminal");
        let (sender, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender
                    .send(String::from_utf8_lossy(&buffer[..count]).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        Self {
            child,
            typed,
            seen,
            text: String::new(),
            screen: vt100::Parser::default(),
        }
    }

    /// Starts a program whose terminal is also its controlling terminal, `/dev/tty`.
    pub fn start_controlled(command: &Command) -> Self {
        let mut controlled = Command::new("setsid");
        controlled
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                controlled.env(name, value);
            }
        }
        Self::start(controlled)
    }

    /// Types these keys.
    pub fn keys(&mut self, keys: &str) {
        self.typed.write_all(keys.as_bytes()).expect("type");
    }

    /// Sends the program the signal of a Ctrl-C. Without a controlling terminal the key sends none.
    pub fn interrupt(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.expect("run kill").success());
    }

    /// Sends the program a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.expect("run kill").success());
    }

    fn take(&mut self, more: &str) {
        self.text.push_str(more);
        self.screen.process(more.as_bytes());
    }

    /// Waits until the screen, as a person sees it, is like this. Returns it.
    pub fn shows(&mut self, holds: impl Fn(&str) -> bool) -> String {
        // A screen that is drawn again and again says something all the time.
        let began = Instant::now();
        loop {
            let now = self.screen.screen().contents();
            if holds(&now) {
                return now;
            }
            assert!(began.elapsed() < DEADLINE, "the screen is {now}");
            let more = self.seen.recv_timeout(DEADLINE);
            let more = more.unwrap_or_else(|_| panic!("the screen is {now}"));
            self.take(&more);
        }
    }

    /// Tells whether the terminal is as a shell left it: lines are edited and shown, and no screen
    /// of the program's own is on top.
    pub fn is_restored(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.typed).expect("read the modes");
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        let screen = self.screen.screen();
        modes.local_modes.contains(cooked) && !screen.alternate_screen() && !screen.hide_cursor()
    }

    /// Waits until the program has left the terminal, and returns its exit code.
    pub fn end(&mut self) -> Option<i32> {
        loop {
            match self.seen.recv_timeout(DEADLINE) {
                Ok(more) => self.take(&more),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the program ends after {:?}", self.text),
            }
        }
        self.child.wait().expect("wait for the program").code()
    }

    /// Returns the output that no `sees` has waited for.
    pub fn rest(&self) -> &str {
        &self.text
    }

    /// Waits until `wanted` is shown, and forgets everything up to and including it.
    pub fn sees(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let more = self.seen.recv_timeout(DEADLINE);
            let more = more.unwrap_or_else(|_| panic!("{wanted} is shown after {:?}", self.text));
            self.take(&more);
        }
        self.text = self
            .text
            .split_once(wanted)
            .map(|(_, rest)| rest.to_string())
            .unwrap_or_default();
    }
}

/// Opens the end of a terminal that a program reads from and writes to.
fn open_terminal(name: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .expect("open the terminal's other end")
}
