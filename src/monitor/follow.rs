//! The caches: each table is followed as an application follows it, and compared with its table now
//! and then.

use super::status::{TableStatus, Verified};
use super::{Attempts, Plan, Shared};
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::Report;
use crate::fleet::compare::pause_after;
use crate::metrics::{Labels, labels};
use crate::render::{count, finding};
use crate::tables::catalog;
use crate::tables::key;
use crate::tables::supervised::{self, AnnouncedTargets, explain};
use crate::tables::target::Target;
use jiff::Timestamp;
use postgres_index_cache_core::Action;
use postgres_index_cache_core::tooling::postgres::{
    DriverEvent, QuestionId, Supervisor, SupervisorEvent, Verification,
};
use postgres_index_cache_core::tooling::sync::{Counters, State, TableId};
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Notification;

/// The time from one look at the states and counters to the next.
const TICK: Duration = Duration::from_millis(500);

/// The most rows that differ which are named.
const NAMED: usize = 5;

/// How long a cache may take to catch up after a comparison.
const CATCHING_UP: Duration = Duration::from_secs(10);

/// Follows the tables, and never ends.
///
/// # Errors
/// If that is not possible at the start, for a reason that waiting does not mend: no such table,
/// for example.
pub(super) async fn run(server: &Server, plan: &Plan, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut attempts = Attempts::new("follow");
    let mut was_live = false;
    loop {
        let followed = follow(server, plan, shared, &mut attempts, &mut was_live).await;
        let Err(error) = followed;
        if !was_live && ExitCode::of(&error) != ExitCode::Unreachable {
            return Err(error);
        }
        disconnected(shared, &Report::new(&error).one_line());
        attempts.failed(&error, shared).await;
    }
}

/// Notes that no table is followed, for this reason.
fn disconnected(shared: &Shared, why: &str) {
    let mut status = shared.status.lock();
    for table in &mut status.tables {
        set_state(table, Some(State::Disconnected), Some(why.to_string()));
        if let Some((schema, table)) = &table.names {
            let own = labels([("schema", schema), ("table", table)]);
            shared.metrics.table_live.get_or_create(&own).set(0);
        }
    }
    status.looked_at = Some(Instant::now());
}

/// Loads the tables and follows them.
async fn follow(
    server: &Server,
    plan: &Plan,
    shared: &Arc<Shared>,
    attempts: &mut Attempts,
    was_live: &mut bool,
) -> Result<std::convert::Infallible, anyhow::Error> {
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let mut targets = Vec::new();
    for table in catalog::resolve(&catalog, &plan.tables).await? {
        targets.push(Target::announced(table, &mut Vec::new())?);
    }
    let supervisor = supervised::open(
        server,
        catalog,
        targets,
        AnnouncedTargets,
        plan.bounds,
        true,
        |text| shared.say(text),
    )
    .await?;
    drop(client);
    *was_live = true;
    attempts.succeeded();
    let mut following = Following::new(plan, supervisor, shared, server);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            stepped = following.supervisor.step() => stepped.map_err(explain)?,
            _ = tick.tick() => following.count(),
        }
        following.take_events();
        following.look_at_states();
        following.verify(plan)?;
    }
}

/// The tables that are followed.
struct Following<'a> {
    supervisor: Supervisor<Target>,
    shared: &'a Arc<Shared>,
    /// The counters of the engine as they were exported last.
    counted: Counters,
    /// Why a table is not live, by its place.
    why: Vec<Option<String>>,
    /// The comparison that is made: the table, and the question.
    comparing: Option<(usize, QuestionId)>,
    /// When the next table is to be compared, and which.
    compare_at: Instant,
    compare_next: usize,
}

impl<'a> Following<'a> {
    fn new(
        plan: &Plan,
        mut supervisor: Supervisor<Target>,
        shared: &'a Arc<Shared>,
        server: &Server,
    ) -> Self {
        let names: Vec<(String, String)> = supervisor
            .targets()
            .map(|target| (target.table.schema.clone(), target.table.name.clone()))
            .collect();
        {
            let mut status = shared.status.lock();
            status.place = server.place();
            // Two names of one table are one.
            status.tables.truncate(names.len());
            for (table, names) in status.tables.iter_mut().zip(&names) {
                table.names = Some(names.clone());
            }
        }
        // A counter that begins with its first event has no increase for Prometheus.
        for (schema, table) in &names {
            for action in Action::ALL {
                let action = action.as_str();
                let own = labels([("schema", schema), ("table", table), ("action", action)]);
                drop(shared.metrics.changes.get_or_create(&own));
            }
        }
        let for_watch = Arc::clone(shared);
        supervisor
            .driver_mut()
            .watch_notifications(Box::new(move |notification| {
                count_notification(&for_watch, &names, notification);
            }));
        let tables = supervisor.targets().len();
        Self {
            supervisor,
            shared,
            counted: Counters::default(),
            why: vec![None; tables],
            comparing: None,
            compare_at: Instant::now() + plan.verify_every,
            compare_next: 0,
        }
    }

    fn labels(&self, at: usize) -> Labels {
        let (schema, table) = self.supervisor.target(TableId(at)).names();
        labels([("schema", schema), ("table", table)])
    }

    /// Takes the events, which say why a table is not live.
    fn take_events(&mut self) {
        let events: Vec<SupervisorEvent> = self.supervisor.take_events().collect();
        for event in events {
            match event {
                SupervisorEvent::Unfollowed { table, why } => self.why[table.0] = Some(why),
                SupervisorEvent::Driver(DriverEvent::Disconnected { why, .. }) => {
                    self.why.fill(Some(why));
                }
                SupervisorEvent::Driver(DriverEvent::ReloadScheduled { table, why }) => {
                    self.why[table.0] = Some(why);
                }
                _ => {}
            }
        }
    }

    /// Brings the states of the tables up to date.
    fn look_at_states(&mut self) {
        let mut said = Vec::new();
        let mut status = self.shared.status.lock();
        for at in 0..self.why.len() {
            let state = self.supervisor.state(TableId(at));
            if state == State::Live {
                self.why[at] = None;
            }
            let cause = self.supervisor.driver().engine().cause(TableId(at));
            let why = self.why[at].clone().or_else(|| cause.map(str::to_string));
            let table = &mut status.tables[at];
            if self.comparing.is_some_and(|(own, _)| own == at) {
                table.held_until = Some(Instant::now() + CATCHING_UP);
            }
            if set_state(table, Some(state), why.clone()) {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                said.push(format!("{} is {}{why}", table.name(), state.word()));
            }
        }
        status.looked_at = Some(Instant::now());
        for (at, table) in status.tables.iter().enumerate() {
            let live = &self.shared.metrics.table_live;
            live.get_or_create(&self.labels(at))
                .set(i64::from(table.is_live()));
        }
        drop(status);
        for text in said {
            self.shared.say(&text);
        }
    }

    /// Exports the counters of the engine, and the sizes of the caches.
    fn count(&mut self) {
        let metrics = &self.shared.metrics;
        let engine = self.supervisor.driver().engine();
        let now = engine.counters();
        let before = std::mem::replace(&mut self.counted, now);
        metrics.gaps.inc_by(now.gaps - before.gaps);
        metrics.reloads.inc_by(now.reloads - before.reloads);
        metrics.refetched.inc_by(now.refetched - before.refetched);
        metrics.invalid.inc_by(now.invalid - before.invalid);
        if let Some(lag) = engine.lag() {
            metrics.lag.set(lag.as_secs_f64());
        }
        let mut status = self.shared.status.lock();
        for at in 0..self.why.len() {
            let cache = self.supervisor.cache(TableId(at));
            let (rows, bytes) = (cache.len(), cache.memory_bytes());
            drop(cache);
            status.tables[at].rows = rows;
            let own = self.labels(at);
            metrics.table_rows.get_or_create(&own).set(rows as i64);
            metrics.table_memory.get_or_create(&own).set(bytes as i64);
        }
    }

    /// Asks for the next comparison when it is time, and takes the answer of the last.
    fn verify(&mut self, plan: &Plan) -> anyhow::Result<()> {
        if let Some((at, question)) = self.comparing {
            let Some(verified) = self.supervisor.driver_mut().take_verification(question) else {
                return Ok(());
            };
            self.comparing = None;
            self.take_verdict(at, &verified);
            let rows = self.supervisor.cache(TableId(at)).len() as u64;
            let pause = pause_after(rows, plan.max_rows_per_second);
            // All tables are compared once in the time that is asked for.
            let every = plan.verify_every / self.why.len().max(1) as u32;
            self.compare_at = Instant::now() + every.max(pause);
            return Ok(());
        }
        if plan.verify_every.is_zero() || Instant::now() < self.compare_at {
            return Ok(());
        }
        let at = self.compare_next % self.why.len().max(1);
        self.compare_next += 1;
        if self.supervisor.state(TableId(at)) != State::Live {
            return Ok(());
        }
        let question = self.supervisor.driver_mut().ask_to_verify(TableId(at));
        let question = question.map_err(crate::tables::explain_failure)?;
        self.comparing = Some((at, question));
        Ok(())
    }

    fn take_verdict(&mut self, at: usize, verified: &Verification) {
        let (schema, table) = self.supervisor.target(TableId(at)).names();
        let verdict = match verified {
            Verification::Compared(report) if report.differing() == 0 => "equal",
            Verification::Compared(_) => "differs",
            Verification::Inconclusive(_) => "inconclusive",
        };
        let rounds = labels([("schema", schema), ("table", table), ("verdict", verdict)]);
        let metrics = &self.shared.metrics;
        metrics.verify_rounds.get_or_create(&rounds).inc();
        let Verification::Compared(report) = verified else {
            return;
        };
        let now = Timestamp::now();
        let own = self.labels(at);
        let differing = report.differing();
        metrics
            .verify_differing
            .get_or_create(&own)
            .set(differing as i64);
        let seconds = now.as_millisecond() as f64 / 1000.0;
        metrics.verify_time.get_or_create(&own).set(seconds);
        let named = report.findings.iter().take(NAMED).map(|found| {
            let kind = finding::word(found.kind);
            format!("{kind} {}", key::typed(&found.key))
        });
        let named: Vec<String> = named.collect();
        let more = if differing > named.len() { ", …" } else { "" };
        let rows = format!("{}{more}", named.join(", "));
        let mut status = self.shared.status.lock();
        let table = &mut status.tables[at];
        let before = table.verified.replace(Verified {
            at: now,
            differing,
            rows: rows.clone(),
        });
        let name = table.name();
        drop(status);
        // A new cache would be equal: the rows are known here alone.
        if differing > 0 {
            self.shared.say(&format!(
                "the cache of {name} differs from the table in {} at one exact cut: {rows}",
                count(differing as u64, "row")
            ));
        } else if before.is_some_and(|before| before.differing > 0) {
            self.shared.say(&format!("{name} is equal again"));
        }
    }
}

/// Sets the state of a table. Returns whether it is another one, which is worth a word.
fn set_state(table: &mut TableStatus, state: Option<State>, why: Option<String>) -> bool {
    let was_live = table.is_live();
    if table.state != state {
        table.state = state;
        table.since = Timestamp::now();
    }
    table.why = why.filter(|_| !table.is_live());
    was_live != table.is_live()
}

/// Counts the changes that a notification announces.
fn count_notification(shared: &Shared, names: &[(String, String)], notification: &Notification) {
    for change in unpack(notification.payload()) {
        count_change(shared, names, &change);
    }
}

/// Counts a change by its table and action.
fn count_change(shared: &Shared, names: &[(String, String)], payload: &str) {
    let metrics = &shared.metrics;
    let payload = Payload::parse(payload);
    let of_table = payload.as_ref().ok().and_then(|payload| {
        names.iter().find(|(schema, name)| {
            let own = payload.schema.as_ref();
            payload.table == *name && own.is_none_or(|own| own == schema)
        })
    });
    // Anybody can send any name: only the tables that are followed have a series.
    let (Ok(payload), Some((schema, table))) = (payload, of_table) else {
        metrics.other_notifications.inc();
        return;
    };
    let action = payload.action.as_str();
    let own = labels([("schema", schema), ("table", table), ("action", action)]);
    metrics.changes.get_or_create(&own).inc();
    let sent = payload.at.and_then(|at| at.parse::<Timestamp>().ok());
    if let Some(sent) = sent {
        let age = Timestamp::now().duration_since(sent).as_secs_f64();
        metrics.age.observe(age.max(0.0));
    }
}
