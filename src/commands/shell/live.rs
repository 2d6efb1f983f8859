//! [`Live`]: the driver that keeps running while something else is waited for, and how it stands.

use super::changes::{Changes, Shown};
use super::notices::Notices;
use crate::failure;
use crate::following::explain_failure;
use crate::following::follower::{Follower, Stepped};
use crate::following::subject::Subject;
use crate::render::Format;
use postgres_index_cache_core::postgres::{Driver, DriverEvent, Verified};
use postgres_index_cache_core::sync::{FenceId, State, TableId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A table that is read again is live again soon, mostly: only what lasts longer than this is said.
const WORTH_SAYING: Duration = Duration::from_millis(500);

/// How long a command waits for a gap to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits for an altered table to be described and loaded. What is there can be shown then, and is not live.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// How long `.reconnect` waits.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);

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
    follower: Follower,
    format: Format,
    standing: Arc<Standing>,
    /// Why it is stale, and since when.
    failure: Option<(String, Instant)>,
    /// Whether it will not come back.
    has_ended: bool,
    /// When it began to load, if that has not been said.
    loading_since: Option<Instant>,
    has_said: bool,
    notices: Option<Notices>,
    /// What became of rows.
    pub(super) changes: Changes,
    times_anew: u64,
    /// Whether somebody waits for the tables to be followed anew.
    is_reconnecting: bool,
}

/// How the rows of a table are shown.
fn shown(subject: &Subject) -> Shown {
    Shown { table: subject.name(), shape: Arc::clone(&subject.shape), columns: subject.shown.clone() }
}

impl Live {
    pub(super) fn new(follower: Follower, format: Format) -> Self {
        let changes = Changes::new(follower.subjects().iter().map(shown).collect(), format);
        let mut live = Self {
            follower,
            format,
            standing: Arc::default(),
            failure: None,
            has_ended: false,
            loading_since: None,
            has_said: false,
            notices: None,
            changes,
            times_anew: 0,
            is_reconnecting: false,
        };
        live.look();
        live
    }

    pub(super) fn driver(&self) -> &Driver {
        self.follower.driver()
    }

    /// The tables, by their places in the driver.
    pub(super) fn subjects(&self) -> &[Subject] {
        self.follower.subjects()
    }

    /// How often the tables were others than before.
    pub(super) fn times_anew(&self) -> u64 {
        self.times_anew
    }

    pub(super) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }

    pub(super) fn say_through(&mut self, notices: Notices) {
        self.notices = Some(notices);
    }

    /// Takes what the server sends, and never ends.
    pub(super) async fn idle(&mut self) {
        // Who waited for that may have given up.
        self.is_reconnecting = false;
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

    /// Waits until the caches have everything that was committed before. A gap is waited out for a moment only: what is
    /// there can be shown, and said to be stale.
    pub(super) async fn fence(&mut self) {
        let mut of = self.times_anew;
        // What DDL has changed is known by looking alone.
        self.follower.driver_mut().ask_to_look();
        let mut fence = self.follower.driver_mut().ask_for_fence().ok();
        let asked_at = Instant::now();
        let is_there = |live: &Self, fence: Option<FenceId>| {
            let is_looking = live.driver().is_looking() || live.follower.is_looking();
            !is_looking && fence.is_some_and(|fence| live.driver().has_reached(fence))
        };
        while !self.has_ended && !is_there(self, fence) {
            let looking = self.follower.is_looking().then_some(asked_at + LOOK_PATIENCE);
            let give_up = self.failure.as_ref().map(|(_, since)| *since + PATIENCE).or(looking);
            tokio::select! {
                () = self.step() => {}
                () = until(give_up) => return,
            }
            if std::mem::replace(&mut of, self.times_anew) != self.times_anew {
                fence = self.follower.driver_mut().ask_for_fence().ok();
            }
        }
    }

    /// Compares the cache of a table with the table. A gap is waited out for a moment only.
    pub(super) async fn verify(&mut self, table: TableId) -> anyhow::Result<Verified> {
        let mut asked = None;
        loop {
            if asked.replace(self.times_anew) != Some(self.times_anew) {
                self.follower.driver_mut().ask_to_verify(table).map_err(explain_failure)?;
            }
            while let Some((of, verified)) = self.follower.driver_mut().take_verified() {
                if of == table {
                    return Ok(verified);
                }
            }
            if self.has_ended {
                anyhow::bail!("the cache is stale and will not come back: {}", self.failure().unwrap_or_default());
            }
            let give_up = self.failure.as_ref().map(|(_, since)| *since + PATIENCE);
            tokio::select! {
                () = self.step() => {}
                () = until(give_up) => anyhow::bail!("the cache is stale: {}", self.failure().unwrap_or_default()),
            }
        }
    }

    /// Follows the tables anew, and waits until that is done; it goes on beside what is asked when it takes long.
    pub(super) async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.is_reconnecting = true;
        let done = self.follow_anew().await;
        self.is_reconnecting = false;
        done
    }

    async fn follow_anew(&mut self) -> anyhow::Result<()> {
        let before = self.times_anew;
        self.has_ended = false;
        self.follower.reconnect();
        let give_up = Instant::now() + RECONNECT_PATIENCE;
        while self.times_anew == before && self.follower.is_looking() {
            tokio::select! {
                () = self.step() => {}
                () = until(Some(give_up)) => {
                    anyhow::bail!("the tables are not loaded after {} s; it goes on", RECONNECT_PATIENCE.as_secs());
                }
            }
        }
        if self.times_anew == before {
            let why = self.follower.refusal().or(self.failure()).unwrap_or("see pgic status").to_string();
            // A driver that has ended stays so.
            self.has_ended = self.follower.driver().engine().has_ended();
            anyhow::bail!("the tables could not be followed anew: {why}");
        }
        Ok(())
    }

    async fn step(&mut self) {
        if self.has_ended {
            return std::future::pending().await;
        }
        let say_at = self.loading_since.filter(|_| !self.has_said).map(|since| since + WORTH_SAYING);
        tokio::select! {
            stepped = self.follower.step() => {
                match stepped {
                    Ok(Stepped::On) => {}
                    Ok(Stepped::Anew) => self.begin_anew(),
                    Err(error) => self.end(&error),
                }
                self.look();
            }
            () = until(say_at) => {
                self.has_said = true;
                self.say("loading: a table is being read again");
            }
        }
    }

    /// A table was altered: what is kept of its rows is of columns that are no more.
    fn begin_anew(&mut self) {
        self.times_anew += 1;
        self.changes = Changes::new(self.subjects().iter().map(shown).collect(), self.format);
        self.failure = None;
        let what = if self.is_reconnecting { "the tables are" } else { "a table was altered and is" };
        self.say(&format!("{what} loaded anew: the history begins again, and nothing is watched"));
    }

    fn end(&mut self, error: &anyhow::Error) {
        let lines = failure::lines(error);
        let lines: Vec<&str> = lines.iter().map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
        let (what, hints) = lines.split_first().map_or(("", &lines[..]), |(what, hints)| (*what, hints));
        let hints: String = hints.iter().map(|hint| format!("{hint}; ")).collect();
        self.has_ended = true;
        let was_said = self.failure.as_ref().is_some_and(|(said, _)| said == what);
        self.lose(what);
        // Whoever asked for it has the answer of that.
        if !self.is_reconnecting {
            let what = if was_said { String::new() } else { format!("stale: {what}; ") };
            self.say(&format!("{what}{hints}.reconnect follows the tables anew"));
        }
    }

    fn lose(&mut self, why: &str) {
        let is_news = self.failure.is_none() && !self.has_ended;
        let since = self.failure.take().map_or_else(Instant::now, |(_, since)| since);
        self.failure = Some((why.to_string(), since));
        // The prompt must say so before it is drawn again.
        self.standing.set(Word::Stale);
        self.has_said = true;
        if is_news {
            self.say(&format!("stale: {why}"));
        }
    }

    fn look(&mut self) {
        for event in self.follower.take_events() {
            match event {
                DriverEvent::Disconnected { why, .. } => self.lose(&why),
                DriverEvent::State(State::Degraded) => {
                    let degraded = self.driver().engine().degraded();
                    if let Some(said) = degraded.map(|(table, why)| {
                        format!(
                            "degraded: {} must be read again, and waits for it: {why}",
                            self.subjects()[table.0].name()
                        )
                    }) {
                        self.has_said = true;
                        self.say(&said);
                    }
                }
                DriverEvent::OneLost { via, why, .. } => {
                    self.say(&format!("the connection {} is opened again: {why}", via.purpose()));
                }
                DriverEvent::CommitsBlocked => {
                    self.say("commits are blocked: nothing is announced until whoever holds the notify lock is done");
                }
                DriverEvent::Row { table, change } => {
                    if let (Some(line), Some(notices)) = (self.changes.take(table.0, change), &mut self.notices) {
                        notices.show(line, |missed| self.changes.dropped(missed));
                    }
                }
                // The error says it; the engine's state says the rest.
                _ => {}
            }
        }
        let state = self.driver().state();
        if state == State::Live {
            self.failure = None;
        }
        let word = match state {
            _ if self.failure.is_some() => Word::Stale,
            State::Disconnected => Word::Stale,
            State::Live if self.follower.is_looking() => Word::Loading,
            State::Live => Word::Live,
            State::Subscribing | State::Probing | State::Snapshotting | State::Degraded | State::CatchingUp => {
                Word::Loading
            }
        };
        self.loading_since = match word {
            Word::Loading => self.loading_since.or_else(|| Some(Instant::now())),
            Word::Live | Word::Stale => None,
        };
        self.standing.set(word);
        if word == Word::Live && std::mem::take(&mut self.has_said) {
            self.say("live");
        }
    }

    fn say(&self, line: &str) {
        if let Some(notices) = &self.notices {
            notices.say(format!("{}\n", crate::render::escape::escape(line)));
        }
    }

    /// Why it is stale, if it is.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|(why, _)| why.as_str())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
