//! [`Task`]: what keeps a replica's caches in step, through tables that are altered.

use super::{Command, Described, ReplicaBuilder, ReplicaError, ReplicaEvent, Standing, Stats, Status, describe};
use crate::postgres::driver::{Driver, DriverEvent, Verified};
use crate::postgres::error::{DriverError, chain, passes};
use crate::postgres::sqlstate::Policy;
use crate::sync::{Backoff, FenceId, State, TableId};
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

/// Waits for something, and keeps what is asked for meanwhile; `None`: it is to end.
async fn await_parking<T>(
    awaited: impl Future<Output = T>,
    asked: &mut mpsc::Receiver<Command>,
    parked: &mut Vec<Command>,
) -> Option<T> {
    let mut awaited = std::pin::pin!(awaited);
    loop {
        tokio::select! {
            done = &mut awaited => return Some(done),
            command = asked.recv() => match command {
                None | Some(Command::ShutDown) => return None,
                Some(command) => parked.push(command),
            },
        }
    }
}

type Describing = Pin<Box<dyn Future<Output = Result<Described, ReplicaError>> + Send>>;

/// Whether what keeps the tables from being described passes: not what is wrong with one of them.
fn passes_by_itself(error: &ReplicaError) -> bool {
    match error {
        ReplicaError::Connect(source) => {
            let source: &(dyn std::error::Error + 'static) = source.as_ref();
            passes(source)
        }
        ReplicaError::Catalog(_) | ReplicaError::Driver(_) => passes(error),
        ReplicaError::NoTable(_)
        | ReplicaError::Twice(_)
        | ReplicaError::Follow(_)
        | ReplicaError::KeyNotUuid(_)
        | ReplicaError::ShutDown => false,
    }
}

/// How long it may take to describe the tables afresh.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the task has to see to.
enum Turn {
    GoOn,
    /// A table is not what it was.
    Altered,
    /// The driver has ended.
    Failed(ReplicaError),
    /// The tables are described afresh.
    Described(Result<Described, ReplicaError>),
    ShutDown,
}

/// Keeps the caches in step, and answers commands.
pub(super) struct Task {
    builder: ReplicaBuilder,
    described: Described,
    status: Arc<Mutex<Status>>,
    events: broadcast::Sender<ReplicaEvent>,
    asked: mpsc::Receiver<Command>,
    /// Who waits for a fence of the driver.
    fences: HashMap<u64, (FenceId, oneshot::Sender<()>)>,
    next_fence: u64,
    /// Who waits for a comparison of a table.
    comparing: Vec<(usize, oneshot::Sender<Verified>)>,
    /// The tables are being described afresh; whether one was altered since that began.
    describing: Option<Describing>,
    is_altered_since: bool,
    /// When they are described again that could not be.
    describe_at: Option<Instant>,
    backoff: Backoff,
    /// What the driver ended with, while it is looked at whether a table was altered.
    failure: Option<ReplicaError>,
}

impl Task {
    pub(super) fn new(
        builder: ReplicaBuilder,
        described: Described,
        status: Arc<Mutex<Status>>,
        events: broadcast::Sender<ReplicaEvent>,
        asked: mpsc::Receiver<Command>,
    ) -> Self {
        let (fences, comparing) = (HashMap::new(), Vec::new());
        let (describing, is_altered_since, failure) = (None, false, None);
        Self {
            builder,
            described,
            status,
            events,
            asked,
            fences,
            next_fence: 0,
            comparing,
            describing,
            is_altered_since,
            describe_at: None,
            backoff: Backoff::default(),
            failure,
        }
    }

    /// The driver is gone while one that has ended is looked into.
    pub(super) async fn run(mut self, driver: Driver) {
        let mut driver = Some(driver);
        loop {
            match self.turn(&mut driver).await {
                Turn::GoOn => {}
                Turn::ShutDown => return,
                Turn::Altered => self.describe_again(),
                // The table may be another one than was thought: then it is followed anew.
                Turn::Failed(error) => {
                    self.stand(Standing::Stale { why: chain(&error).into() });
                    self.failure = Some(error);
                    driver = None;
                    self.describe_again();
                }
                Turn::Described(Ok(described)) if !described.is_of_same_tables(&self.described) => {
                    self.described = described;
                    (self.failure, self.is_altered_since) = (None, false);
                    self.backoff.reset();
                    self.stand(Standing::Stale { why: "a table was altered".into() });
                    // Its connections must not be there and not be read; what it has done is to be told.
                    if let Some(mut old) = driver.take() {
                        self.take_events(&mut old);
                    }
                    driver = match self.open_again().await {
                        Ok(opened) => Some(opened),
                        Err(ReplicaError::ShutDown) => return,
                        Err(error) => return self.end(error),
                    };
                }
                Turn::Described(described) => {
                    if let Err(error) = described {
                        tracing::warn!(error = chain(&error), "the tables could not be described again");
                        if passes_by_itself(&error) {
                            // What was altered stays so: until it is described, nothing is known of it.
                            let random = RandomState::default().build_hasher().finish() as f64 / u64::MAX as f64;
                            self.describe_at = Some(Instant::now() + self.backoff.next(random));
                            continue;
                        }
                    }
                    self.backoff.reset();
                    if std::mem::take(&mut self.is_altered_since) {
                        self.describe_again();
                    } else if let Some(error) = self.failure.take() {
                        return self.end(error);
                    }
                }
            }
        }
    }

    /// Describes the tables afresh beside the driver; once more, when it is being done already.
    fn describe_again(&mut self) {
        self.describe_at = None;
        if self.describing.is_some() {
            self.is_altered_since = true;
            return;
        }
        let describing = describe(Arc::clone(&self.builder.open), self.builder.names());
        self.describing = Some(Box::pin(async move {
            let described = tokio::time::timeout(DESCRIBE_TIMEOUT, describing).await;
            described.unwrap_or_else(|_| Err(ReplicaError::Driver(Arc::new(DriverError::Silent(DESCRIBE_TIMEOUT)))))
        }));
    }

    /// Opens a driver for the tables as they are described now, as often as it takes.
    async fn open_again(&mut self) -> Result<Driver, ReplicaError> {
        let mut backoff = Backoff::default();
        loop {
            let mut parked = Vec::new();
            let Self { builder, described, asked, .. } = self;
            let opened = await_parking(builder.drive(described), asked, &mut parked).await;
            for command in parked {
                self.park(command);
            }
            let error = match opened.ok_or(ReplicaError::ShutDown)? {
                Ok(mut driver) => {
                    driver.tell_of_rows();
                    // Those who wait for fences wait for those of another driver now.
                    for (fence, _) in self.fences.values_mut() {
                        if let Ok(asked) = driver.ask_for_fence() {
                            *fence = asked;
                        }
                    }
                    for (table, _) in &self.comparing {
                        // A driver that has ended says so in the next step.
                        let _ = driver.ask_to_verify(TableId(*table));
                    }
                    return Ok(driver);
                }
                Err(error) => error,
            };
            if !matches!(&error, ReplicaError::Driver(error) if matches!(error.policy(), Policy::Lost | Policy::Starting | Policy::Passing))
            {
                return Err(error);
            }
            let random = RandomState::default().build_hasher().finish() as f64 / u64::MAX as f64;
            let mut parked = Vec::new();
            let waited = await_parking(tokio::time::sleep(backoff.next(random)), &mut self.asked, &mut parked).await;
            for command in parked {
                self.park(command);
            }
            waited.ok_or(ReplicaError::ShutDown)?;
        }
    }

    /// What was asked for while there was no driver waits for the next.
    fn park(&mut self, command: Command) {
        match command {
            Command::Fence(reached) => self.wait_for(FenceId(0), reached),
            Command::Verify(table, done) => self.comparing.push((table, done)),
            Command::ShutDown => {}
        }
    }

    fn wait_for(&mut self, fence: FenceId, reached: oneshot::Sender<()>) {
        self.next_fence += 1;
        self.fences.insert(self.next_fence, (fence, reached));
    }

    /// One step, or one command.
    async fn turn(&mut self, driver: &mut Option<Driver>) -> Turn {
        let Self { describing, describe_at, asked, .. } = self;
        let retried = async {
            match *describe_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let described = async {
            match describing {
                Some(describing) => describing.await,
                None => std::future::pending().await,
            }
        };
        let stepped = async {
            match driver.as_mut() {
                Some(driver) => driver.step().await,
                None => std::future::pending().await,
            }
        };
        let turn = tokio::select! {
            stepped = stepped => match stepped {
                Ok(()) => Turn::GoOn,
                Err(error) => Turn::Failed(ReplicaError::Driver(Arc::new(error))),
            },
            described = described => {
                self.describing = None;
                Turn::Described(described)
            }
            () = retried => Turn::Altered,
            command = asked.recv() => match (command, driver.as_mut()) {
                (None | Some(Command::ShutDown), _) => return Turn::ShutDown,
                (Some(command), None) => {
                    self.park(command);
                    Turn::GoOn
                }
                (Some(Command::Verify(table, done)), Some(driver)) => {
                    if driver.ask_to_verify(TableId(table)).is_ok() {
                        self.comparing.push((table, done));
                    }
                    Turn::GoOn
                }
                (Some(Command::Fence(reached)), Some(driver)) => {
                    if let Ok(fence) = driver.ask_for_fence() {
                        self.wait_for(fence, reached);
                    }
                    Turn::GoOn
                }
            },
        };
        let is_altered = driver.as_mut().is_some_and(|driver| self.take_events(driver));
        match turn {
            Turn::GoOn if is_altered => Turn::Altered,
            Turn::Described(described) => {
                self.is_altered_since |= is_altered;
                Turn::Described(described)
            }
            turn => turn,
        }
    }

    /// Says what the driver tells, and answers who waits for fences; whether a table was altered.
    pub(super) fn take_events(&mut self, driver: &mut Driver) -> bool {
        let told: Vec<DriverEvent> = driver.take_events().collect();
        let mut is_altered = false;
        for event in told {
            let name = |table: TableId| Arc::clone(&self.builder.tables[table.0].name);
            match event {
                DriverEvent::State(State::Live) => self.stand(Standing::Live),
                DriverEvent::State(State::Disconnected) | DriverEvent::Row { .. } => {}
                DriverEvent::OneLost { via, why, .. } => self.say(ReplicaEvent::OneLost { via, why: why.into() }),
                DriverEvent::State(State::Degraded) => {
                    let is_stale = matches!(self.status.lock().standing, Standing::Stale { .. });
                    if let Some((table, why)) = driver.engine().degraded().filter(|_| !is_stale) {
                        self.stand(Standing::Degraded { table: name(table), why: why.into() });
                    }
                }
                DriverEvent::State(_) => {
                    // What was lost is stale until it is live.
                    if matches!(self.status.lock().standing, Standing::Live | Standing::Degraded { .. }) {
                        self.stand(Standing::Loading);
                    }
                }
                DriverEvent::Disconnected { why, .. } => self.stand(Standing::Stale { why: why.into() }),
                DriverEvent::ReadAgain { table, why } => {
                    self.say(ReplicaEvent::ReadAgain { table: name(table), why: why.into() });
                }
                DriverEvent::Model { table, key, became } => {
                    self.say(ReplicaEvent::Row { table: name(table), key, became });
                }
                DriverEvent::CommitsBlocked => self.say(ReplicaEvent::CommitsBlocked),
                DriverEvent::Altered { .. } => is_altered = true,
            }
        }
        while let Some((table, verified)) = driver.take_verified() {
            if let Some(at) = self.comparing.iter().position(|(of, _)| *of == table.0) {
                // Who asked may have given up.
                let _ = self.comparing.remove(at).1.send(verified);
            }
        }
        let engine = driver.engine();
        self.status.lock().stats =
            Stats { lag: engine.lag(), last_xid: engine.last_xid(), counters: engine.counters() };
        self.fences.retain(|_, (_, reached)| !reached.is_closed());
        let done: Vec<u64> =
            self.fences.iter().filter(|(_, (fence, _))| driver.has_reached(*fence)).map(|(at, _)| *at).collect();
        for at in done {
            if let Some((_, reached)) = self.fences.remove(&at) {
                // Who waited may have given up.
                let _ = reached.send(());
            }
        }
        is_altered
    }

    fn stand(&self, standing: Standing) {
        self.status.lock().standing = standing.clone();
        self.say(match standing {
            Standing::Live => ReplicaEvent::Live,
            Standing::Loading => ReplicaEvent::Loading,
            Standing::Degraded { table, why } => ReplicaEvent::Degraded { table, why },
            Standing::Stale { why } => ReplicaEvent::Stale { why },
            Standing::Ended { error } => ReplicaEvent::Ended { error },
        });
    }

    fn say(&self, event: ReplicaEvent) {
        // Nobody need listen.
        let _ = self.events.send(event);
    }

    fn end(&self, error: ReplicaError) {
        self.stand(Standing::Ended { error: Arc::new(error) });
    }
}
