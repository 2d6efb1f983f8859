//! [`LiveCaches`]: the tables, which are kept live while the session waits for other things, and
//! the state of each of them.
//!
//! Nothing happens in a cache unless one of the futures here is polled. So the session awaits
//! everything else through [`LiveCaches::alongside`], and idles in [`LiveCaches::idle`].

use super::changes::{Changes, Shown};
use super::notices::Notices;
use super::prompt_state::{PromptState, PromptStatus};
use crate::render::escape::escape;
use crate::render::look::{Look, Tone};
use crate::render::{Format, notice};
use crate::tables::supervised::indexed_cache;
use crate::tables::target::Target;
use crate::tables::{COMMITS_BLOCKED, explain_failure, opened_again};
use jiff::Timestamp;
use postgres_index_cache_core::parking_lot::RwLockReadGuard;
use postgres_index_cache_core::tooling::postgres::{
    Driver, DriverEvent, Supervisor, SupervisorEvent, Verification,
};
use postgres_index_cache_core::tooling::sync::{FenceId, State, TableId};
use postgres_index_cache_core::tooling::{Condition, TableCache};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The time after which a reload is worth a notice. Most take less, and are of no interest.
const WORTH_SAYING: Duration = Duration::from_millis(500);

/// The time that a command waits for a stale table to be live again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time that a command waits for a table to be described afresh. After that the rows in the
/// cache are shown, as stale ones.
const DESCRIBE_PATIENCE: Duration = Duration::from_secs(10);

/// The time that `.reconnect` waits for every table to be live.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// The tables at work. Vectors have an entry for each table, by its place in the driver.
pub(super) struct LiveCaches {
    supervisor: Supervisor<Target>,
    format: Format,
    look: Look,
    /// The state of all tables together, for the prompt.
    status: Arc<PromptStatus>,
    /// The tables that are stale, until they are live again.
    stale: Vec<Option<StaleTable>>,
    /// The fence that a table did not reach while a command waited. Until the table has reached
    /// that fence, answers do not call it live.
    behind: Vec<Option<FenceId>>,
    /// When tables began to load; `None` while none does.
    loading_since: Option<Instant>,
    /// Whether a notice said that the caches are not live. Then another one says when they are.
    has_said: bool,
    notices: Option<Notices>,
    /// The changes of rows, for `.watch` and `.history`.
    pub(super) changes: Changes,
    /// The number of times that each table was altered, or replaced by another one of its name.
    times_redefined: Vec<u64>,
    /// Whether `.reconnect` is waited for.
    is_reconnecting: bool,
    /// When the tables were live for the first time.
    began: Instant,
}

/// A table that is stale.
#[derive(Debug, Clone)]
struct StaleTable {
    why: String,
    since: Instant,
}

/// Returns the form in which the rows of a table are shown.
fn shown(target: &Target) -> Shown {
    Shown {
        schema: target.table.schema.clone(),
        table: target.table.name.clone(),
        shape: Arc::clone(&target.shape),
        columns: target.shown.clone(),
    }
}

impl LiveCaches {
    /// Takes over tables that are live, and begins to record the changes of their rows.
    pub(super) fn new(mut supervisor: Supervisor<Target>, format: Format, look: &Look) -> Self {
        supervisor.driver_mut().record_row_events();
        let changes = Changes::new(
            supervisor.targets().map(shown).collect(),
            format,
            look.clone(),
        );
        let count = supervisor.targets().len();
        let mut live = Self {
            supervisor,
            format,
            look: look.clone(),
            status: Arc::default(),
            stale: vec![None; count],
            behind: vec![None; count],
            loading_since: None,
            has_said: false,
            notices: None,
            changes,
            times_redefined: vec![0; count],
            is_reconnecting: false,
            began: Instant::now(),
        };
        live.update();
        live
    }

    pub(super) fn driver(&self) -> &Driver {
        self.supervisor.driver()
    }

    /// Returns the rows of a table, which do not change while the guard is held.
    pub(super) fn cache(&self, at: usize) -> RwLockReadGuard<'_, TableCache> {
        self.supervisor.cache(TableId(at))
    }

    /// Returns the rows of a table, as [`cache`](Self::cache) does, once they are indexed by the
    /// columns of `conditions`, as far as memory allows.
    pub(super) fn indexed_cache(
        &self,
        at: usize,
        conditions: &[Condition],
    ) -> RwLockReadGuard<'_, TableCache> {
        indexed_cache(&self.supervisor, TableId(at), conditions)
    }

    /// Returns a table as defined when the rows in the cache were read.
    pub(super) fn target(&self, at: usize) -> &Target {
        self.supervisor.target(TableId(at))
    }

    /// Returns the tables, by their places in the driver.
    pub(super) fn targets(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.supervisor.targets()
    }

    /// Returns the number of changes of a table that were followed.
    pub(super) fn changes_of(&self, at: usize) -> u64 {
        self.driver().engine().changes(TableId(at))
    }

    /// Returns the time when the tables were live for the first time.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Returns the number of times that a table was altered, or replaced by another one of its
    /// name. If the number has not changed, conditions that were computed before still fit the
    /// columns.
    pub(super) fn times_redefined(&self, at: usize) -> u64 {
        self.times_redefined[at]
    }

    /// Returns the state of all tables together, which is kept up to date.
    pub(super) fn status(&self) -> Arc<PromptStatus> {
        Arc::clone(&self.status)
    }

    /// Returns the state of one table.
    pub(super) fn state(&self, at: usize) -> PromptState {
        match self.supervisor.state(TableId(at)) {
            _ if self.stale[at].is_some() || self.behind[at].is_some() => PromptState::Stale,
            State::Disconnected | State::Subscribing | State::Probing | State::Stale => {
                PromptState::Stale
            }
            State::Live => PromptState::Live,
            State::Snapshotting | State::Degraded | State::CatchingUp => PromptState::Loading,
        }
    }

    /// Sends notices and watched changes to `notices` from now on. Before that they are dropped.
    pub(super) fn say_through(&mut self, notices: Notices) {
        self.notices = Some(notices);
    }

    /// Takes notifications and keeps the caches live. Never ends.
    pub(super) async fn idle(&mut self) {
        // `.reconnect` may have been given up with Ctrl-C: its future was dropped before its end.
        self.is_reconnecting = false;
        loop {
            self.step().await;
        }
    }

    /// Awaits `work` while the caches are kept live.
    pub(super) async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            () = self.idle() => unreachable!("idle never ends"),
        }
    }

    /// Waits until the cache of a table, or with `None` every cache, has everything that was
    /// committed before this call, and a look that began later has found the table's definition
    /// unchanged.
    ///
    /// A table that is stale is waited for a moment only. After that the table is behind: the rows
    /// in the cache can be shown, and the answer says that they are stale.
    pub(super) async fn fence(&mut self, table: Option<usize>) {
        let tables: Vec<usize> =
            table.map_or_else(|| (0..self.stale.len()).collect(), |at| vec![at]);
        let asked_at = Instant::now();
        // The cause may have been mended since the tables were described last: without a new
        // description a person who has just mended it would get one more stale answer.
        let is_stale = tables
            .iter()
            .any(|&at| self.supervisor.state(TableId(at)) == State::Stale);
        let description = is_stale.then(|| self.supervisor.look_again());
        let Ok(fence) = self.supervisor.driver_mut().ask_for_fence() else {
            return;
        };
        loop {
            let missing: Vec<usize> = tables
                .iter()
                .copied()
                .filter(|&at| !self.supervisor.has_reached_for(TableId(at), fence))
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
            // These tables were described again and cannot be followed or read: to wait for them
            // gains nothing.
            if is_settled && states.iter().all(|state| *state == State::Stale) {
                return;
            }
            // Without a connection there is nothing to wait for but its return. A table that is
            // being loaded is waited for as long as that takes.
            let is_disconnected = states.iter().all(|state| *state < State::Stale);
            let give_up = if is_disconnected {
                Some(asked_at + PATIENCE)
            } else {
                (!is_settled).then_some(asked_at + DESCRIBE_PATIENCE)
            };
            tokio::select! {
                () = self.step() => {}
                () = sleep_until(give_up) => {
                    for at in missing {
                        self.behind[at] = Some(fence);
                    }
                    self.update();
                    return;
                }
            }
        }
    }

    /// Compares the cache of a table with the table. A table that is stale is waited for a moment
    /// only.
    ///
    /// # Errors
    /// If the table is still stale after that, or the driver refuses the question.
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
            let give_up = self.stale[at].as_ref().map(|stale| stale.since + PATIENCE);
            tokio::select! {
                () = self.step() => {}
                () = sleep_until(give_up) => {
                    anyhow::bail!("the cache is stale: {}", self.failure(at).unwrap_or_default());
                }
            }
        }
    }

    /// Describes and reloads every table, and waits until all of them are live.
    ///
    /// # Errors
    /// If a table cannot be followed, or the tables are not live after [`RECONNECT_PATIENCE`]. Then
    /// loading goes on beside the next lines.
    pub(super) async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.is_reconnecting = true;
        let done = self.reload_all().await;
        self.is_reconnecting = false;
        done
    }

    async fn reload_all(&mut self) -> anyhow::Result<()> {
        let description = self.supervisor.reload_all();
        let give_up = Instant::now() + RECONNECT_PATIENCE;
        let count = self.stale.len();
        loop {
            // States from before the new description say nothing of what it finds.
            if self.supervisor.has_described(description) {
                // A table that cannot be followed would be waited for in vain.
                let refused =
                    (0..count).find(|&at| self.supervisor.state(TableId(at)) == State::Stale);
                if let Some(at) = refused {
                    let why = self.failure(at).unwrap_or("see pgic status");
                    let name = self.target(at).name();
                    anyhow::bail!("{name} cannot be followed: {why}");
                }
                if (0..count).all(|at| self.supervisor.state(TableId(at)) == State::Live) {
                    return Ok(());
                }
            }
            tokio::select! {
                () = self.step() => {}
                () = sleep_until(Some(give_up)) => {
                    let seconds = RECONNECT_PATIENCE.as_secs();
                    anyhow::bail!("the tables are not live after {seconds} s; loading goes on");
                }
            }
        }
    }

    /// Waits until the supervisor has done something, and takes note of that.
    async fn step(&mut self) {
        let say_at = self
            .loading_since
            .filter(|_| !self.has_said)
            .map(|since| since + WORTH_SAYING);
        tokio::select! {
            stepped = self.supervisor.step() => {
                if let Err(error) = stepped {
                    // It cannot come here: a supervisor that was live once retries for ever. If it
                    // did, the loops that call this would spin.
                    tracing::error!(%error, "the supervisor ended");
                    std::future::pending::<()>().await;
                }
                self.update();
            }
            () = sleep_until(say_at) => {
                self.has_said = true;
                self.say(Tone::Changed, "loading: a table is being reloaded");
            }
        }
    }

    /// Begins again with a table that was altered, or has been replaced by another one of its name.
    /// The changes that are kept of the table are dropped, since their columns are no more.
    fn begin_again(&mut self, table: TableId) {
        self.times_redefined[table.0] += 1;
        let target = self.supervisor.target(table);
        let name = target.name();
        let ended = self.changes.renew(table.0, &target.table, shown(target));
        // Whoever asked for it with `.reconnect` gets an answer instead.
        if !self.is_reconnecting {
            let text = format!(
                "{name} was altered, or another table has its name: it was reloaded, and its \
                history begins again"
            );
            self.say(Tone::Changed, &text);
        }
        if ended > 0 {
            let text = format!(
                "{ended} of the watches ended: their conditions do not fit {name} any more"
            );
            self.say(Tone::Changed, &text);
        }
    }

    /// Notes that a table is stale, and why. The time remains that of the first such note.
    fn mark_stale(&mut self, at: usize, why: &str) {
        let since = self.stale[at]
            .take()
            .map_or_else(Instant::now, |stale| stale.since);
        self.stale[at] = Some(StaleTable {
            why: why.to_string(),
            since,
        });
        // At once, not at the end of `update`: the notice that follows makes the prompt be drawn
        // again, and that prompt must not say live.
        self.set_status();
        self.has_said = true;
    }

    /// Takes the supervisor's events, and brings states, prompt and notices up to date.
    fn update(&mut self) {
        let events: Vec<SupervisorEvent> = self.supervisor.take_events().collect();
        for event in events {
            match event {
                SupervisorEvent::Driver(event) => self.take(event),
                SupervisorEvent::Unfollowed { table, why } => {
                    self.mark_stale(table.0, &why);
                    let name = self.target(table.0).name();
                    self.say(Tone::Bad, &format!("stale: {name}: {why}"));
                }
                SupervisorEvent::Replaced { table } => self.begin_again(table),
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
        self.set_status();
        let state = self.status.get();
        self.loading_since = match state {
            PromptState::Loading => self.loading_since.or_else(|| Some(Instant::now())),
            PromptState::Live | PromptState::Stale => None,
        };
        // Said only after a notice of the contrary: a reload that took no time had none.
        if state == PromptState::Live && std::mem::take(&mut self.has_said) {
            self.say(Tone::Good, "live");
        }
    }

    /// Sets the state that the prompt shows. It speaks for every table, and says the worst of their
    /// states.
    fn set_status(&self) {
        let states: Vec<PromptState> = (0..self.stale.len()).map(|at| self.state(at)).collect();
        self.status.set(&states);
    }

    /// Takes an event of the driver.
    fn take(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Disconnected { why, .. } => {
                // Attempts to connect that fail are events of the same kind: only the first is
                // told.
                let is_news = self.stale.iter().any(Option::is_none);
                for at in 0..self.stale.len() {
                    if self.stale[at].is_none() {
                        self.mark_stale(at, &why);
                    }
                }
                if is_news {
                    self.say(Tone::Bad, &format!("stale: {why}"));
                }
            }
            DriverEvent::TableState {
                table,
                state: State::Stale,
            } => {
                let why = self.cause(table);
                self.mark_stale(table.0, &why);
            }
            DriverEvent::TableState {
                table,
                state: State::Degraded,
            } => {
                let why = self.cause(table);
                self.has_said = true;
                let name = self.target(table.0).name();
                self.say(
                    Tone::Changed,
                    &format!("degraded: {name} waits to be reloaded: {why}"),
                );
            }
            DriverEvent::AuxConnectionLost { via, why, .. } => {
                self.say(Tone::Changed, &opened_again(via, &why));
            }
            DriverEvent::CommitsBlocked => {
                self.say(Tone::Bad, COMMITS_BLOCKED);
            }
            DriverEvent::Row { table, change, by } => {
                let line = self.changes.take(table.0, change, by);
                if let (Some(line), Some(notices)) = (line, &mut self.notices) {
                    notices.show(line, |missed| self.changes.dropped(missed));
                }
            }
            _ => {}
        }
    }

    /// Returns the engine's reason why a table is not live.
    fn cause(&self, table: TableId) -> String {
        self.driver()
            .engine()
            .cause(table)
            .unwrap_or("it is looked into")
            .to_string()
    }

    /// Shows a notice on the state of the caches.
    fn say(&self, tone: Tone, line: &str) {
        if let Some(notices) = &self.notices {
            let at = Timestamp::now();
            notices.say(match self.format {
                Format::Text => {
                    let clock = self.look.clock(at);
                    format!("{clock}  {}\n", self.look.paint(tone, &escape(line)))
                }
                Format::Json => notice(Format::Json, at, line),
            });
        }
    }

    /// Returns why a table is stale; `None` if not stale.
    pub(super) fn failure(&self, at: usize) -> Option<&str> {
        let why = self.stale[at].as_ref().map(|stale| stale.why.as_str());
        why.or(self.behind[at].map(|_| {
            "it is not known what was committed since it was live: a fence, or a look at the \
            definitions, has not come back"
        }))
    }

    /// Returns why any table is stale; `None` if none is. The text has the name of the first stale
    /// table, unless all are stale for the same reason.
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

/// Sleeps until then; with `None` for ever, so that a `select!` may have no deadline.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
