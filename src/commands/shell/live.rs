//! [`Live`]: the driver that keeps running while something else is waited for, and how it stands.

use crate::failure;
use crate::following::explain_failure;
use postgres_index_cache_core::postgres::{Driver, DriverError};
use postgres_index_cache_core::sync::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::time::Instant;

/// A table that is read again is live again soon, mostly: only what lasts longer than this is said.
const WORTH_SAYING: Duration = Duration::from_millis(500);

/// How the caches stand, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A table is being read.
    Loading,
    /// Every cache is its table.
    Live,
    /// A cache may lack what happened since the connection was lost.
    Stale,
}

impl Word {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Live => "live",
            Self::Stale => "stale",
        }
    }
}

/// The word, for whoever draws a prompt.
#[derive(Debug, Default)]
pub(super) struct Standing(AtomicU8);

impl Standing {
    pub(super) fn get(&self) -> Word {
        match self.0.load(Ordering::Relaxed) {
            0 => Word::Loading,
            1 => Word::Live,
            _ => Word::Stale,
        }
    }

    fn set(&self, word: Word) {
        self.0.store(word as u8, Ordering::Relaxed);
    }
}

/// A driver at work.
pub(super) struct Live {
    pub(super) driver: Driver,
    standing: Arc<Standing>,
    /// Why it is at an end.
    failure: Option<String>,
    /// When it began to load, if that has not been said.
    loading_since: Option<Instant>,
    has_said_loading: bool,
    notices: Option<Sender<String>>,
}

impl Live {
    pub(super) fn new(driver: Driver) -> Self {
        let mut live = Self {
            driver,
            standing: Arc::default(),
            failure: None,
            loading_since: None,
            has_said_loading: false,
            notices: None,
        };
        live.look();
        live
    }

    pub(super) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }

    pub(super) fn say_through(&mut self, notices: Sender<String>) {
        self.notices = Some(notices);
    }

    /// Takes what the server sends, and never ends.
    pub(super) async fn idle(&mut self) {
        loop {
            self.step().await;
        }
    }

    /// Takes what the server sends until `work` is done.
    pub(super) async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            () = self.idle() => unreachable!("it never ends"),
        }
    }

    /// Waits until the caches have everything that was committed before, if they can.
    pub(super) async fn fence(&mut self) {
        if self.failure.is_none() {
            let reached = self.driver.fence().await;
            self.take(reached);
        }
    }

    async fn step(&mut self) {
        if self.failure.is_some() {
            return std::future::pending().await;
        }
        let say_at = self.loading_since.filter(|_| !self.has_said_loading).map(|since| since + WORTH_SAYING);
        let done = tokio::select! {
            done = self.driver.step() => done,
            () = async {
                match say_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => {
                self.has_said_loading = true;
                self.say("loading: a table is being read again");
                Ok(())
            }
        };
        self.take(done);
    }

    fn take(&mut self, done: Result<(), DriverError>) {
        if let Err(error) = done {
            let lines = failure::lines(&explain_failure(error));
            let lines: Vec<&str> = lines.iter().map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
            let why = lines.join("; ");
            self.failure = Some(why.clone());
            // The prompt must say so before it is drawn again.
            self.look();
            self.say(&format!("stale: {why}"));
        }
        self.look();
    }

    fn look(&mut self) {
        let word = match (&self.failure, self.driver.replica().state()) {
            (Some(_), _) | (None, State::Disconnected) => Word::Stale,
            (None, State::Live) => Word::Live,
            (None, State::Subscribing | State::Probing | State::Snapshotting | State::CatchingUp) => Word::Loading,
        };
        match word {
            Word::Loading => self.loading_since = self.loading_since.or_else(|| Some(Instant::now())),
            Word::Live | Word::Stale => self.loading_since = None,
        }
        self.standing.set(word);
        if word == Word::Live && std::mem::take(&mut self.has_said_loading) {
            self.say("live");
        }
    }

    fn say(&self, line: &str) {
        if let Some(notices) = &self.notices {
            // Nobody is there to hear it when the input has ended.
            let _ = notices.send(crate::render::escape::escape(line).into_owned());
        }
    }

    /// Why it is stale, if it is.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}
