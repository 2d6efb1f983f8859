//! What `pgic query --watch` and `pgic tail --diff` share: a table that is kept live, and what becomes of its rows.
//!
//! ```text
//! follower ─ rows that changed ─→ Pending, by key ─ when the printer has time ─→ printer (a thread) ─→ stdout
//! ```
//!
//! A reader that is slow sees the changes of a key as one: memory is bounded by keys, and the driver never waits.

use super::Context;
use crate::exit_code::ExitCode;
use crate::following::follower::{Follower, Stepped};
use crate::following::subject::Subject;
use crate::render::rows::rows;
use crate::render::{Format, OutputClosed, json, print, row_change};
use anyhow::Context as _;
use jiff::Zoned;
use postgres_index_cache_core::postgres::{Driver, DriverEvent, RowChange};
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
    pub(super) subject: Subject,
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
    /// The answer, again whenever it changes; as JSON the rows that it has at the start, and what becomes of them.
    Answer,
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
        mut follower: Follower,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<ExitCode> {
        let (to_printer, texts) = std::sync::mpsc::channel::<String>();
        let (is_ready, mut ready) = mpsc::channel::<()>(1);
        let printer = std::thread::Builder::new().name("printer".to_string()).spawn(move || -> anyhow::Result<()> {
            for text in texts {
                print(&text)?;
                // Whoever asked is gone when nobody waits for it.
                let _ = is_ready.blocking_send(());
            }
            Ok(())
        });
        let printer = printer.context("start the printer")?;
        let mut gone = std::pin::pin!(crate::render::reader_gone());
        let (mut pending, mut counts) = (Pending::default(), Counts::default());
        let Limit { count, duration } = self.limit;
        let deadline = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let mut deadline = std::pin::pin!(deadline);
        let mut is_idle = to_printer.send(self.first(follower.driver())).is_err();
        let (mut has_left, mut is_over) = (false, false);
        let ended = loop {
            tokio::select! {
                stepped = follower.step() => match stepped {
                    Ok(Stepped::On) => {}
                    Ok(Stepped::Anew) => self.begin_anew(&follower, &mut pending, &mut counts),
                    Err(error) => break Err(error),
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
            for event in follower.take_events() {
                self.take(event, &mut pending);
            }
            if is_idle && let Some(text) = self.text(&mut pending, follower.driver(), &mut counts) {
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
            anstream::eprintln!(
                "{} shown, {} collapsed",
                crate::render::count(counts.shown, "change"),
                counts.collapsed
            );
        }
        match printed {
            Err(error) if error.downcast_ref::<OutputClosed>().is_none() => Err(error),
            Ok(()) | Err(_) => ended.map(|()| if is_enough { ExitCode::Yes } else { ExitCode::No }),
        }
    }

    fn first(&self, driver: &Driver) -> String {
        if self.style == Style::Changes {
            return match self.format {
                Format::Text => String::new(),
                Format::Json => json::line([("event", json!("live"))]),
            };
        }
        let cache = driver.cache(TableId(0));
        let answer = cache.find(&self.subject.conditions);
        match self.format {
            Format::Text => self.answer(driver),
            Format::Json => {
                let rows = answer.rows.iter().map(|row| self.line(None, Some(&row.to_buf()), 1));
                rows.collect::<String>() + &json::line([("event", json!("live")), ("rows", json!(answer.rows.len()))])
            }
        }
    }

    /// The table was altered: what has become of its rows before is said as it was, then all is said as at the start.
    fn begin_anew(&mut self, follower: &Follower, pending: &mut Pending, counts: &mut Counts) {
        const WHY: &str = "the table was altered";
        let lines = self.lines(pending, counts).0;
        let before = std::mem::take(pending).stale + if self.prints_answer() { "" } else { &lines };
        self.subject.clone_from(&follower.subjects()[0]);
        let first = self.first(follower.driver());
        pending.stale = match self.format {
            Format::Text if self.prints_answer() => format!("{before}anew: {WHY}\n\n{first}"),
            Format::Text => format!("{before}anew: {WHY}\n"),
            Format::Json => before + &json::line([("event", json!("anew")), ("why", json!(WHY))]) + &first,
        };
    }

    /// Whether it is the whole answer that is printed when something changes.
    fn prints_answer(&self) -> bool {
        self.style == Style::Answer && self.format == Format::Text
    }

    /// The answer as text, with how many rows it has.
    fn answer(&self, driver: &Driver) -> String {
        let cache = driver.cache(TableId(0));
        let answer = cache.find(&self.subject.conditions);
        let count = answer.rows.len();
        let rows = rows(Format::Text, &self.subject.shape, &self.subject.shown, answer.rows.iter());
        format!("{rows}({count} {})\n", if count == 1 { "row" } else { "rows" })
    }

    fn take(&self, event: DriverEvent, pending: &mut Pending) {
        match event {
            DriverEvent::Row { change, .. } => {
                let (old, new) = match change {
                    RowChange::Added(new) => (None, Some(new)),
                    RowChange::Changed { old, new } => (Some(old), Some(new)),
                    RowChange::Removed(old) => (Some(old), None),
                };
                pending.add(self, old, new);
            }
            DriverEvent::Disconnected { why, .. } if pending.becomes_stale() => {
                pending.stale = match self.format {
                    Format::Text => format!("stale: {}\n", crate::render::escape::escape(&why)),
                    Format::Json => json::line([("event", json!("stale")), ("why", json!(why))]),
                };
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

    fn fulfils(&self, row: &RowBuf) -> bool {
        self.subject.conditions.iter().all(|condition| condition.is_fulfilled_by(&self.subject.shape, row))
    }

    /// What is to be printed now, if anything is.
    fn text(&self, pending: &mut Pending, driver: &Driver, counts: &mut Counts) -> Option<String> {
        let (stale, live) = (std::mem::take(&mut pending.stale), std::mem::take(&mut pending.live));
        let (lines, changed) = self.lines(pending, counts);
        let text = match self.format {
            Format::Text if self.prints_answer() && changed > 0 => format!("{stale}{live}\n{}", self.answer(driver)),
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

    /// A change as a line; empty when nothing that is shown has changed. Where the answer is printed as text, that it is
    /// not empty is all that counts.
    fn line(&self, old: Option<&RowBuf>, new: Option<&RowBuf>, count: u64) -> String {
        let Subject { shape, shown: columns, .. } = &self.subject;
        let table = &self.subject.name();
        let change = row_change::RowChange { table, shape, columns, old, new, collapsed: count - 1 };
        match (self.style, self.format) {
            (Style::Changes, Format::Text) => change.text(Some(&Zoned::now().strftime("%H:%M:%S%.3f").to_string())),
            (Style::Changes, Format::Json) => change.json(Some(&jiff::Timestamp::now().to_string())),
            (Style::Answer, _) => change.json(None),
        }
    }
}

impl Pending {
    /// Notes it; whether it is to be said. That it was live for a moment is no news to who has not been told.
    fn becomes_stale(&mut self) -> bool {
        let was_live = !std::mem::replace(&mut self.is_stale, true);
        was_live && std::mem::take(&mut self.live).is_empty()
    }

    fn add(&mut self, watch: &Watch, old: Option<RowBuf>, new: Option<RowBuf>) {
        let Some(key) = new.as_ref().or(old.as_ref()).map(|row| KeyBuf::of_row(&watch.subject.shape, row)) else {
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
