//! What `pgic query --watch` and `pgic tail --diff` share: a table that is kept live, and what
//! becomes of its rows.
//!
//! ```text
//! supervisor ─ rows that changed ─→ Pending, by key ─ when the printer has time ─→ printer (a thread) ─→ stdout
//! ```
//!
//! A reader that is slow sees the changes of a key as one: memory is bounded by keys, and the
//! driver never waits.

use super::Context;
use crate::exit_code::ExitCode;
use crate::render::rows::rows;
use crate::render::{Format, OutputClosed, json, print, row_change};
use crate::tables::supervised::explain;
use crate::tables::target::Target;
use anyhow::Context as _;
use jiff::Zoned;
use postgres_index_cache_core::postgres::{DriverEvent, RowChange, Supervisor, SupervisorEvent};
use postgres_index_cache_core::sync::{State, TableId};
use postgres_index_cache_core::{KeyBuf, RowBuf};
use serde_json::json;
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the end waits for a reader to take what was printed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is watched, and how it is printed.
pub(super) struct Watch {
    pub(super) target: Target,
    pub(super) format: Format,
    pub(super) style: Style,
    /// How many changes are shown, and for how long.
    pub(super) limit: Limit,
}

/// When a watch ends by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limit {
    /// After so many changes; a batch of them is shown whole.
    pub(super) count: Option<u64>,
    /// After this time: a no when there were fewer.
    pub(super) duration: Option<Duration>,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// The answer, again whenever it changes; as JSON the rows that it has at the start, and what
    /// becomes of them.
    QueryResult,
    /// What becomes of rows alone.
    Changes,
}

/// What became of a key since it was last printed.
struct Change {
    old: Option<RowBuf>,
    new: Option<RowBuf>,
    /// How many changes that were.
    count: u64,
}

/// What is to be printed next.
#[derive(Default)]
struct Pending {
    by_key: HashMap<KeyBuf, usize>,
    changes: Vec<Change>,
    /// That it is stale, before the changes; that it is live again, behind them.
    stale: String,
    live: String,
    is_stale: bool,
    /// Why it is stale, or was.
    why: String,
}

/// What was printed.
#[derive(Default)]
struct Counts {
    shown: u64,
    collapsed: u64,
}

impl Watch {
    /// Prints until it is interrupted, or nobody reads.
    pub(super) async fn run(
        mut self,
        context: &Context,
        mut supervisor: Supervisor<Target>,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<ExitCode> {
        let (to_printer, texts) = std::sync::mpsc::channel::<String>();
        let (is_ready, mut ready) = mpsc::channel::<()>(1);
        let printer = std::thread::Builder::new()
            .name("printer".to_string())
            .spawn(move || -> anyhow::Result<()> {
                for text in texts {
                    print(&text)?;
                    // Whoever asked is gone when nobody waits for it.
                    let _ = is_ready.blocking_send(());
                }
                Ok(())
            });
        let printer = printer.context("start the printer")?;
        let mut gone = std::pin::pin!(crate::render::reader_gone());
        let mut pending = Pending::default();
        let mut counts = Counts::default();
        let Limit { count, duration } = self.limit;
        let deadline = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let mut deadline = std::pin::pin!(deadline);
        let mut is_idle = to_printer.send(self.first(&supervisor)).is_err();
        let mut has_left = false;
        let mut is_over = false;
        let ended = loop {
            tokio::select! {
                stepped = supervisor.step() => if let Err(error) = stepped {
                    break Err(explain(error));
                },
                word = ready.recv() => match word {
                    Some(()) => is_idle = true,
                    None => break Ok(()),
                },
                () = &mut interrupted => break Ok(()),
                () = &mut gone => {
                    has_left = true;
                    break Ok(());
                }
                () = &mut deadline => {
                    is_over = true;
                    break Ok(());
                }
            }
            let events: Vec<SupervisorEvent> = supervisor.take_events().collect();
            for event in events {
                match event {
                    SupervisorEvent::Driver(event) => self.take(event, &supervisor, &mut pending),
                    SupervisorEvent::Unfollowed { why, .. } => {
                        self.become_stale(&why, &mut pending);
                    }
                    SupervisorEvent::Anew { .. } => {
                        self.begin_anew(&supervisor, &mut pending, &mut counts);
                    }
                    _ => {}
                }
            }
            if is_idle && let Some(text) = self.text(&mut pending, &supervisor, &mut counts) {
                is_idle = to_printer.send(text).is_err();
            }
            if count.is_some_and(|count| counts.shown >= count) {
                break Ok(());
            }
        };
        let is_enough = !is_over || count.is_none_or(|count| counts.shown >= count);
        drop(to_printer);
        let at_its_end = async { while ready.recv().await.is_some() {} };
        let printed = if tokio::time::timeout(LAST_WORDS, at_its_end).await.is_err() {
            // Its reader has stopped reading: nobody waits for that.
            Ok(Ok(()))
        } else {
            printer.join()
        };
        let printed = printed.map_err(|_| anyhow::anyhow!("the printer failed"))?;
        if !context.quiet && !has_left {
            let shown = crate::render::count(counts.shown, "change");
            crate::render::note(&format!("{shown} shown, {} collapsed\n", counts.collapsed));
        }
        match printed {
            Err(error) if error.downcast_ref::<OutputClosed>().is_none() => Err(error),
            Ok(()) | Err(_) => ended.map(|()| {
                if is_enough {
                    ExitCode::Yes
                } else {
                    ExitCode::No
                }
            }),
        }
    }

    fn first(&self, supervisor: &Supervisor<Target>) -> String {
        if self.style == Style::Changes {
            return match self.format {
                Format::Text => String::new(),
                Format::Json => json::line([("event", json!("live"))]),
            };
        }
        let cache = supervisor.cache(TableId(0));
        let answer = cache.find(&self.target.conditions);
        match self.format {
            Format::Text => self.answer(supervisor),
            Format::Json => {
                let rows = answer
                    .rows
                    .iter()
                    .map(|row| self.line(None, Some(&row.to_buf()), 1));
                rows.collect::<String>()
                    + &json::line([("event", json!("live")), ("rows", json!(answer.rows.len()))])
            }
        }
    }

    /// The table is followed as another: what has become of its rows before is said as it was, then
    /// all is said as at the start.
    fn begin_anew(
        &mut self,
        supervisor: &Supervisor<Target>,
        pending: &mut Pending,
        counts: &mut Counts,
    ) {
        let lines = self.lines(pending, counts).0;
        let before = std::mem::take(pending).stale + if self.prints_answer() { "" } else { &lines };
        let now = supervisor.target(TableId(0));
        let why = if now.table.oid == self.target.table.oid {
            "the table was altered"
        } else {
            "another table has its name"
        };
        self.target.clone_from(now);
        let first = self.first(supervisor);
        pending.stale = match self.format {
            Format::Text if self.prints_answer() => format!("{before}anew: {why}\n\n{first}"),
            Format::Text => format!("{before}anew: {why}\n"),
            Format::Json => {
                before + &json::line([("event", json!("reloaded")), ("why", json!(why))]) + &first
            }
        };
    }

    /// Whether it is the whole answer that is printed when something changes.
    fn prints_answer(&self) -> bool {
        self.style == Style::QueryResult && self.format == Format::Text
    }

    /// The answer as text, with how many rows it has.
    fn answer(&self, supervisor: &Supervisor<Target>) -> String {
        let cache = supervisor.cache(TableId(0));
        let answer = cache.find(&self.target.conditions);
        let count = answer.rows.len();
        let rows = rows(
            Format::Text,
            &self.target.shape,
            &self.target.shown,
            answer.rows.iter(),
        );
        format!(
            "{rows}({count} {})\n",
            if count == 1 { "row" } else { "rows" }
        )
    }

    fn take(&self, event: DriverEvent, supervisor: &Supervisor<Target>, pending: &mut Pending) {
        match event {
            DriverEvent::Row { change, .. } => {
                let (old, new) = match change {
                    RowChange::Added(new) => (None, Some(new)),
                    RowChange::Changed { old, new } => (Some(old), Some(new)),
                    RowChange::Removed(old) => (Some(old), None),
                };
                pending.add(self, old, new);
            }
            DriverEvent::Disconnected { why, .. } => self.become_stale(&why, pending),
            DriverEvent::TableState {
                table,
                state: State::Stale,
            } => {
                let cause = supervisor
                    .driver()
                    .engine()
                    .cause(table)
                    .unwrap_or("it is looked into")
                    .to_string();
                self.become_stale(&cause, pending);
            }
            DriverEvent::State(State::Live) if std::mem::take(&mut pending.is_stale) => {
                pending.live = match self.format {
                    Format::Text => "live\n".to_string(),
                    Format::Json => json::line([("event", json!("live"))]),
                };
            }
            _ => {}
        }
    }

    /// Says that it is stale, unless that was said before.
    fn become_stale(&self, why: &str, pending: &mut Pending) {
        if !pending.becomes_stale(why) {
            return;
        }
        pending.stale.push_str(&match self.format {
            Format::Text => format!("stale: {}\n", crate::render::escape::escape(why)),
            Format::Json => json::line([("event", json!("stale")), ("why", json!(why))]),
        });
    }

    fn fulfils(&self, row: &RowBuf) -> bool {
        self.target
            .conditions
            .iter()
            .all(|condition| condition.is_fulfilled_by(&self.target.shape, row))
    }

    /// What is to be printed now, if anything is.
    fn text(
        &self,
        pending: &mut Pending,
        supervisor: &Supervisor<Target>,
        counts: &mut Counts,
    ) -> Option<String> {
        let stale = std::mem::take(&mut pending.stale);
        let live = std::mem::take(&mut pending.live);
        let (lines, changed) = self.lines(pending, counts);
        let text = match self.format {
            Format::Text if self.prints_answer() && changed > 0 => {
                format!("{stale}{live}\n{}", self.answer(supervisor))
            }
            Format::Text if self.prints_answer() => stale + &live,
            Format::Text | Format::Json => stale + &lines + &live,
        };
        (!text.is_empty()).then_some(text)
    }

    /// What has become of rows, as lines, and how many those are.
    fn lines(&self, pending: &mut Pending, counts: &mut Counts) -> (String, u64) {
        pending.by_key.clear();
        let mut lines = String::new();
        let mut changed = 0;
        for change in pending.changes.drain(..) {
            let line = self.line(change.old.as_ref(), change.new.as_ref(), change.count);
            // Several that come to nothing are collapsed too.
            changed += u64::from(!line.is_empty());
            counts.collapsed += change.count - 1;
            lines.push_str(&line);
        }
        counts.shown += changed;
        (lines, changed)
    }

    /// A change as a line; empty when nothing that is shown has changed. Where the answer is
    /// printed as text, that it is not empty is all that counts.
    fn line(&self, old: Option<&RowBuf>, new: Option<&RowBuf>, count: u64) -> String {
        let Target {
            shape,
            shown: columns,
            ..
        } = &self.target;
        let table = &self.target.name();
        let change = row_change::RowChangeLine {
            table,
            shape,
            columns,
            old,
            new,
            collapsed: count - 1,
        };
        match (self.style, self.format) {
            (Style::Changes, Format::Text) => {
                change.text(Some(&Zoned::now().strftime("%H:%M:%S%.3f").to_string()))
            }
            (Style::Changes, Format::Json) => {
                change.json(Some(&jiff::Timestamp::now().to_string()))
            }
            (Style::QueryResult, _) => change.json(None),
        }
    }
}

impl Pending {
    /// Notes why it is stale; whether that is to be said: it was live, or the reason is another.
    /// That it was live for a moment is no news to who has not been told.
    fn becomes_stale(&mut self, why: &str) -> bool {
        let was_live = !std::mem::replace(&mut self.is_stale, true);
        let was_told = was_live && !std::mem::take(&mut self.live).is_empty();
        let is_another = self.why != why;
        if is_another {
            self.why = why.to_string();
        }
        is_another || (was_live && !was_told)
    }

    fn add(&mut self, watch: &Watch, old: Option<RowBuf>, new: Option<RowBuf>) {
        let Some(key) = new
            .as_ref()
            .or(old.as_ref())
            .map(|row| KeyBuf::of_row(&watch.target.shape, row))
        else {
            return;
        };
        let old = old.filter(|row| watch.fulfils(row));
        let new = new.filter(|row| watch.fulfils(row));
        match self.by_key.get(&key) {
            Some(&at) => {
                self.changes[at].new = new;
                self.changes[at].count += 1;
            }
            None if old.is_none() && new.is_none() => {}
            None => {
                self.by_key.insert(key, self.changes.len());
                self.changes.push(Change { old, new, count: 1 });
            }
        }
    }
}
