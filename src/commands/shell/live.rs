//! [`LiveCaches`]: the tables that are kept live while something else is waited for, and how each stands.

use super::changes::{Changes, Shown};
use super::notices::Notices;
use crate::render::Format;
use crate::tables::explain_failure;
use crate::tables::target::Target;
use postgres_index_cache_core::TableCache;
use postgres_index_cache_core::parking_lot::RwLockReadGuard;
use postgres_index_cache_core::postgres::{
    Driver, DriverEvent, Supervisor, SupervisorEvent, Verification,
};
use postgres_index_cache_core::sync::{FenceId, State, TableId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A table that is read again is live again soon, mostly: only what lasts longer than this is said.
const WORTH_SAYING: Duration = Duration::from_millis(500);

/// How long a command waits for a gap to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits for a table to be described afresh. What is there can be shown then, and is
/// not live.
const DESCRIBE_PATIENCE: Duration = Duration::from_secs(10);

/// How long `.reconnect` waits.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// How the caches stand, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptState {
    /// A table is being read.
    Loading,
    /// Every cache is its table.
    Live,
    /// A cache may lack what happened since the connection was lost.
    Stale,
}

impl PromptState {
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
pub(super) struct PromptStatus(AtomicU8);

impl PromptStatus {
    pub(super) fn get(&self) -> PromptState {
        match self.0.load(Ordering::Relaxed) {
            0 => PromptState::Loading,
            1 => PromptState::Live,
            _ => PromptState::Stale,
        }
    }

    fn set(&self, word: PromptState) {
        self.0.store(word as u8, Ordering::Relaxed);
    }
}

/// The tables at work.
pub(super) struct LiveCaches {
    supervisor: Supervisor<Target>,
    /// What all tables together are, for the prompt.
    standing: Arc<PromptStatus>,
    /// Why each table is stale, and since when; until it is live.
    stale: Vec<Option<(String, Instant)>>,
    /// The fence that a table did not reach while it was waited for; until it does, the table is
    /// not said to be live.
    behind: Vec<Option<FenceId>>,
    /// When tables began to load, if that has not been said.
    loading_since: Option<Instant>,
    has_said: bool,
    notices: Option<Notices>,
    /// What became of rows.
    pub(super) changes: Changes,
    /// How often each table was followed as another.
    times_anew: Vec<u64>,
    /// Whether somebody waits for the tables to be followed anew.
    is_reconnecting: bool,
    began: Instant,
}

/// How the rows of a table are shown.
fn shown(target: &Target) -> Shown {
    Shown {
        table: target.name(),
        shape: Arc::clone(&target.shape),
        columns: target.shown.clone(),
    }
}

impl LiveCaches {
    pub(super) fn new(mut supervisor: Supervisor<Target>, format: Format) -> Self {
        supervisor.driver_mut().record_row_events();
        let changes = Changes::new(supervisor.targets().map(shown).collect(), format);
        let count = supervisor.targets().len();
        let mut live = Self {
            supervisor,
            standing: Arc::default(),
            stale: vec![None; count],
            behind: vec![None; count],
            loading_since: None,
            has_said: false,
            notices: None,
            changes,
            times_anew: vec![0; count],
            is_reconnecting: false,
            began: Instant::now(),
        };
        live.look();
        live
    }

    pub(super) fn driver(&self) -> &Driver {
        self.supervisor.driver()
    }

    /// The rows of a table.
    pub(super) fn cache(&self, at: usize) -> RwLockReadGuard<'_, TableCache> {
        self.supervisor.cache(TableId(at))
    }

    /// A table as its rows can be read.
    pub(super) fn target(&self, at: usize) -> &Target {
        self.supervisor.target(TableId(at))
    }

    /// The tables, by their places in the driver.
    pub(super) fn targets(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.supervisor.targets()
    }

    /// How many changes of a table were followed, and since when.
    pub(super) fn changes_of(&self, at: usize) -> u64 {
        self.driver().engine().changes(TableId(at))
    }

    /// When the tables were live first.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How often a table was another than before.
    pub(super) fn times_anew(&self, at: usize) -> u64 {
        self.times_anew[at]
    }

    pub(super) fn standing(&self) -> Arc<PromptStatus> {
        Arc::clone(&self.standing)
    }

    /// How one table stands, in a word.
    pub(super) fn word(&self, at: usize) -> PromptState {
        match self.supervisor.state(TableId(at)) {
            _ if self.stale[at].is_some() || self.behind[at].is_some() => PromptState::Stale,
            State::Disconnected | State::Subscribing | State::Probing | State::Stale => {
                PromptState::Stale
            }
            State::Live => PromptState::Live,
            State::Snapshotting | State::Degraded | State::CatchingUp => PromptState::Loading,
        }
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

    /// Waits until the cache of a table, or with `None` all of them, has everything that was
    /// committed before, and nothing that no notification tells was found since. What is stale is
    /// waited for a moment only: what is there can be shown, and said to be stale.
    pub(super) async fn fence(&mut self, table: Option<usize>) {
        let tables: Vec<usize> =
            table.map_or_else(|| (0..self.stale.len()).collect(), |at| vec![at]);
        let asked_at = Instant::now();
        // What was wrong may have been mended since it was looked at last.
        let is_stale = tables
            .iter()
            .any(|&at| self.supervisor.state(TableId(at)) == State::Stale);
        let description = is_stale.then(|| self.supervisor.look_again());
        let Ok(fence) = self.supervisor.driver_mut().ask_for_fence() else {
            return;
        };
        let is_there = |live: &Self, at: usize| live.supervisor.has_reached_for(TableId(at), fence);
        loop {
            let missing: Vec<usize> = tables
                .iter()
                .copied()
                .filter(|&at| !is_there(self, at))
                .collect();
            if missing.is_empty() {
                return;
            }
            let is_described =
                description.is_none_or(|number| self.supervisor.has_described(number));
            let is_settled = is_described && !self.supervisor.is_describing();
            let states: Vec<State> = missing
                .iter()
                .map(|&at| self.supervisor.state(TableId(at)))
                .collect();
            // It cannot be followed or read, and that was looked into: nothing is gained by
            // waiting.
            if is_settled && states.iter().all(|state| *state == State::Stale) {
                return;
            }
            // What is being loaded is waited for as long as that takes.
            let give_up = if states.iter().all(|state| *state < State::Stale) {
                Some(asked_at + PATIENCE)
            } else {
                (!is_settled).then_some(asked_at + DESCRIBE_PATIENCE)
            };
            tokio::select! {
                () = self.step() => {}
                () = until(give_up) => {
                    for at in missing {
                        self.behind[at] = Some(fence);
                    }
                    self.look();
                    return;
                }
            }
        }
    }

    /// Compares the cache of a table with the table. A table that is stale is waited for a moment
    /// only.
    pub(super) async fn verify(&mut self, at: usize) -> anyhow::Result<Verification> {
        let table = TableId(at);
        let question = self
            .supervisor
            .driver_mut()
            .ask_to_verify(table)
            .map_err(explain_failure)?;
        loop {
            if let Some(verified) = self.supervisor.driver_mut().take_verification(question) {
                return Ok(verified);
            }
            let give_up = self.stale[at].as_ref().map(|(_, since)| *since + PATIENCE);
            tokio::select! {
                () = self.step() => {}
                () = until(give_up) => {
                    anyhow::bail!("the cache is stale: {}", self.failure(at).unwrap_or_default());
                }
            }
        }
    }

    /// Follows the tables anew, and waits until that is done; it goes on beside what is asked when
    /// it takes long.
    pub(super) async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.is_reconnecting = true;
        let done = self.follow_anew().await;
        self.is_reconnecting = false;
        done
    }

    async fn follow_anew(&mut self) -> anyhow::Result<()> {
        let description = self.supervisor.read_anew();
        let give_up = Instant::now() + RECONNECT_PATIENCE;
        let count = self.stale.len();
        loop {
            if self.supervisor.has_described(description) {
                // What cannot be followed is not waited for.
                let refused =
                    (0..count).find(|&at| self.supervisor.state(TableId(at)) == State::Stale);
                if let Some(at) = refused {
                    let why = self.failure(at).unwrap_or("see pgic status");
                    anyhow::bail!(
                        "{} could not be followed anew: {why}",
                        self.target(at).name()
                    );
                }
                if (0..count).all(|at| self.supervisor.state(TableId(at)) == State::Live) {
                    return Ok(());
                }
            }
            tokio::select! {
                () = self.step() => {}
                () = until(Some(give_up)) => {
                    anyhow::bail!("the tables are not loaded after {} s; it goes \
                        on", RECONNECT_PATIENCE.as_secs());
                }
            }
        }
    }

    async fn step(&mut self) {
        let say_at = self
            .loading_since
            .filter(|_| !self.has_said)
            .map(|since| since + WORTH_SAYING);
        tokio::select! {
            stepped = self.supervisor.step() => {
                if let Err(error) = stepped {
                    // Only what was never live ends.
                    tracing::error!(%error, "the supervisor ended");
                    std::future::pending::<()>().await;
                }
                self.look();
            }
            () = until(say_at) => {
                self.has_said = true;
                self.say("loading: a table is being read again");
            }
        }
    }

    /// A table is followed as another: what is kept of its rows is of columns that are no more.
    fn begin_anew(&mut self, table: TableId) {
        self.times_anew[table.0] += 1;
        let shown = shown(self.target(table.0));
        let name = shown.table.clone();
        self.changes.renew(table.0, shown);
        if !self.is_reconnecting {
            self.say(&format!(
                "{name} is another table, or was altered, and is loaded anew: its history begins \
                again, and its rows are not watched"
            ));
        }
    }

    /// A table is stale, for this reason.
    fn lose(&mut self, at: usize, why: &str) {
        let since = self.stale[at]
            .take()
            .map_or_else(Instant::now, |(_, since)| since);
        self.stale[at] = Some((why.to_string(), since));
        // The prompt must say so before it is drawn again.
        self.standing.set(PromptState::Stale);
        self.has_said = true;
    }

    fn look(&mut self) {
        let events: Vec<SupervisorEvent> = self.supervisor.take_events().collect();
        for event in events {
            match event {
                SupervisorEvent::Driver(event) => self.take(event),
                SupervisorEvent::Unfollowed { table, why } => {
                    self.lose(table.0, &why);
                    let name = self.target(table.0).name();
                    self.say(&format!("stale: {name}: {why}"));
                }
                SupervisorEvent::Anew { table } => self.begin_anew(table),
                _ => {}
            }
        }
        for at in 0..self.stale.len() {
            let table = TableId(at);
            if self.supervisor.state(table) == State::Live {
                self.stale[at] = None;
            }
            self.behind[at] =
                self.behind[at].filter(|fence| !self.driver().has_reached_for(table, *fence));
        }
        let words: Vec<PromptState> = (0..self.stale.len()).map(|at| self.word(at)).collect();
        let word = if words.contains(&PromptState::Stale) {
            PromptState::Stale
        } else if words.contains(&PromptState::Loading) {
            PromptState::Loading
        } else {
            PromptState::Live
        };
        self.loading_since = match word {
            PromptState::Loading => self.loading_since.or_else(|| Some(Instant::now())),
            PromptState::Live | PromptState::Stale => None,
        };
        self.standing.set(word);
        if word == PromptState::Live && std::mem::take(&mut self.has_said) {
            self.say("live");
        }
    }

    fn take(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Disconnected { why, .. } => {
                let is_news = self.stale.iter().any(Option::is_none);
                for at in 0..self.stale.len() {
                    if self.stale[at].is_none() {
                        self.lose(at, &why);
                    }
                }
                if is_news {
                    self.say(&format!("stale: {why}"));
                }
            }
            DriverEvent::TableState {
                table,
                state: State::Stale,
            } => {
                let why = self.cause(table);
                self.lose(table.0, &why);
            }
            DriverEvent::TableState {
                table,
                state: State::Degraded,
            } => {
                let why = self.cause(table);
                self.has_said = true;
                let name = self.target(table.0).name();
                self.say(&format!(
                    "degraded: {name} must be read again, and waits for it: {why}"
                ));
            }
            DriverEvent::AuxConnectionLost { via, why, .. } => {
                self.say(&format!(
                    "the connection {} is opened again: {why}",
                    via.purpose()
                ));
            }
            DriverEvent::CommitsBlocked => {
                self.say(
                    "commits are blocked: nothing is announced until whoever holds the notify \
                    lock is done",
                );
            }
            DriverEvent::Row {
                table,
                change,
                sender,
            } => {
                if let (Some(line), Some(notices)) = (
                    self.changes.take(table.0, change, sender),
                    &mut self.notices,
                ) {
                    notices.show(line, |missed| self.changes.dropped(missed));
                }
            }
            _ => {}
        }
    }

    fn cause(&self, table: TableId) -> String {
        self.driver()
            .engine()
            .cause(table)
            .unwrap_or("it is looked into")
            .to_string()
    }

    fn say(&self, line: &str) {
        if let Some(notices) = &self.notices {
            notices.say(format!("{}\n", crate::render::escape::escape(line)));
        }
    }

    /// Why a table is stale, if it is.
    pub(super) fn failure(&self, at: usize) -> Option<&str> {
        let is_behind = "it is not known what was committed since it was live: a fence, or a look \
            at the definitions, has not \
            come back";
        let why = self.stale[at].as_ref().map(|(why, _)| why.as_str());
        why.or(self.behind[at].map(|_| is_behind))
    }

    /// Why any table is stale, if one is: with its name, unless all are for the same reason.
    pub(super) fn any_failure(&self) -> Option<String> {
        let first = (0..self.stale.len()).find(|&at| self.failure(at).is_some())?;
        let why = self.failure(first)?;
        let is_of_all = (0..self.stale.len()).all(|at| self.failure(at) == Some(why));
        Some(if is_of_all {
            why.to_string()
        } else {
            format!("{}: {why}", self.target(first).name())
        })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
