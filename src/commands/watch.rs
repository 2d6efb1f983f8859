//! The part that `pgic query --watch` and `pgic tail --diff` share: a table that is kept live, and
//! the changes of its rows as they are printed.
//!
//! ```text
//! Watched ── rows that changed ─→ Pending, by key ─→ printer (a thread) ─→ stdout
//!                                                └─ whenever the printer has time
//! ```
//!
//! A slow reader sees several changes of one key as one. So memory is bounded by the number of
//! keys, and the driver never waits for the reader.

mod of_log;
mod source;

pub(super) use self::of_log::LoggedRows;
pub(super) use self::source::{SupervisedRows, Watched, WatchedTable};

use self::source::WatchEvent;
use super::Context;
use crate::exit_code::ExitCode;
use crate::render::json::EventLine;
use crate::render::layout::Layout;
use crate::render::look::{Look, Tone};
use crate::render::rows::rows;
use crate::render::{Format, OutputClosed, print, row_change};
use anyhow::Context as _;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::RowChange;
use postgres_index_cache_core::tooling::{KeyBuf, RowBuf};
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the end of a watch waits for the reader to take the text that was printed last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A table that is watched, and the way its changes are printed.
pub(super) struct Watch {
    pub(super) table: WatchedTable,
    pub(super) format: Format,
    pub(super) layout: Layout,
    pub(super) look: Look,
    pub(super) style: Style,
    /// The number of changes that are shown, and the time.
    pub(super) limit: Limit,
}

/// The bounds at which a watch ends by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limit {
    /// The number of changes after which the watch ends. The batch that reaches that number is
    /// shown whole.
    pub(super) count: Option<u64>,
    /// The time after which the watch ends. If fewer than `count` changes were shown by then, the
    /// exit code says no.
    pub(super) duration: Option<Duration>,
}

/// The kind of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As text the whole answer, again whenever it changes. As JSON the rows that the answer has at
    /// the start, then each change of them.
    QueryResult,
    /// The changes of rows alone.
    Changes,
}

/// All changes of one key since it was last printed, taken together.
struct Change {
    /// The row before the first of them; `None` if there was none that fulfils the conditions.
    old: Option<RowBuf>,
    /// The row after the last of them; `None` likewise.
    new: Option<RowBuf>,
    /// The row after the last of them, whatever the conditions say.
    now: Option<RowBuf>,
    /// Whether there was a row before the first of them, whatever the conditions say.
    was_there: bool,
    /// Whether there is a row after the last of them.
    is_there: bool,
    /// The row as it was last, for a row that came and went.
    last: Option<RowBuf>,
    /// The number of changes.
    count: u64,
}

/// The output that waits for the printer.
#[derive(Default)]
struct Pending {
    /// The positions of keys in `changes`.
    by_key: HashMap<KeyBuf, usize>,
    /// The changes, in the order in which their keys changed first.
    changes: Vec<Change>,
    /// The text that says that the table became stale, to be printed before the changes.
    stale: String,
    /// The text that says that the table is live again, to be printed after the changes.
    live: String,
    is_stale: bool,
    /// The reason why the table is stale, or was stale last.
    why: String,
}

/// Changes as lines of output.
struct Lines {
    text: String,
    /// The number of keys that changed.
    changed: u64,
}

/// The numbers that the last line tells.
#[derive(Default)]
struct Counts {
    shown: u64,
    collapsed: u64,
}

impl Counts {
    /// Returns the last line, for stderr.
    fn text(&self, format: Format) -> String {
        let Self { shown, collapsed } = self;
        match format {
            Format::Text => {
                let shown = crate::render::count(*shown, "change");
                format!("{shown} shown, {collapsed} collapsed\n")
            }
            Format::Json => EventLine::new("done", Timestamp::now())
                .member("shown", shown)
                .member("collapsed", collapsed)
                .end(),
        }
    }
}

impl Watch {
    /// Prepares to print `watched` as the context says.
    pub(super) fn new(
        context: &Context,
        watched: &impl Watched,
        style: Style,
        limit: Limit,
    ) -> Self {
        Self {
            table: watched.table(),
            format: context.format,
            layout: context.layout,
            look: context.look.clone(),
            style,
            limit,
        }
    }

    /// Prints until a limit is reached, a signal comes, or nobody reads.
    ///
    /// # Errors
    /// If the supervisor cannot go on, or stdout fails other than by being closed.
    pub(super) async fn run(
        mut self,
        context: &Context,
        mut watched: impl Watched,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<ExitCode> {
        // The printer has one text at a time: it says that it is ready once that is written. Until
        // then changes gather in `pending`, where those of one key take no more room than one.
        let (to_printer, texts) = std::sync::mpsc::channel::<String>();
        let (is_ready, mut ready) = mpsc::channel::<()>(1);
        let printer = std::thread::Builder::new()
            .name("printer".to_string())
            .spawn(move || -> anyhow::Result<()> {
                for text in texts {
                    print(&text)?;
                    // It fails if the watch has ended: then `texts` ends too.
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
        let mut is_idle = to_printer.send(self.first(&watched)).is_err();
        let mut has_left = false;
        let mut is_over = false;
        let ended = loop {
            tokio::select! {
                stepped = watched.step() => if let Err(error) = stepped {
                    break Err(error);
                },
                printed = ready.recv() => match printed {
                    Some(()) => is_idle = true,
                    // The printer has ended: `join` below tells why.
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
            for event in watched.take_events() {
                match event {
                    WatchEvent::Row(RowChange::Added(new)) => pending.add(&self, None, Some(new)),
                    WatchEvent::Row(RowChange::Changed { old, new }) => {
                        pending.add(&self, Some(old), Some(new));
                    }
                    WatchEvent::Row(RowChange::Removed(old)) => pending.add(&self, Some(old), None),
                    WatchEvent::Stale(why) => self.become_stale(&why, &mut pending),
                    WatchEvent::Live => self.become_live(&mut pending),
                    WatchEvent::Replaced(why) => {
                        self.begin_again(&watched, why, &mut pending, &mut counts);
                    }
                }
            }
            if is_idle && let Some(text) = self.text(&mut pending, &watched, &mut counts) {
                is_idle = to_printer.send(text).is_err();
            }
            if count.is_some_and(|count| counts.shown >= count) {
                break Ok(());
            }
        };
        let is_enough = !is_over || count.is_none_or(|count| counts.shown >= count);
        drop(to_printer);
        let printer_ends = async { while ready.recv().await.is_some() {} };
        let printed = if tokio::time::timeout(LAST_WORDS, printer_ends)
            .await
            .is_err()
        {
            // Its reader has stopped reading, and the thread hangs in a write. It is left behind:
            // to join it would let a reader keep this process from ending.
            Ok(Ok(()))
        } else {
            printer.join()
        };
        let printed = printed.map_err(|_| anyhow::anyhow!("the printer failed"))?;
        if !context.quiet && !has_left {
            crate::render::note(&counts.text(context.format));
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

    /// Returns the text at the start: the answer, or its rows.
    fn first(&self, watched: &impl Watched) -> String {
        if self.style == Style::Changes {
            return match self.format {
                Format::Text => String::new(),
                Format::Json => self.event("live").end(),
            };
        }
        if self.format == Format::Text {
            return self.answer(watched);
        }
        // As JSON the changes follow one by one: no later question would use an index.
        let cache = watched.rows();
        let answer = cache.find(&self.table.conditions);
        let rows = answer
            .rows
            .iter()
            .map(|row| self.line(&Change::added(row.to_buf())));
        rows.collect::<String>() + &self.event("live").member("rows", answer.rows.len()).end()
    }

    /// Begins again with the table as it is now, since it was altered, or another table has its
    /// name. Changes that wait are printed with the former columns first, then all as at the start.
    fn begin_again(
        &mut self,
        watched: &impl Watched,
        why: &str,
        pending: &mut Pending,
        counts: &mut Counts,
    ) {
        let lines = self.lines(pending, counts).text;
        let mut before = std::mem::take(pending).stale;
        // Where the answer is printed as a whole, the lines only say that something has changed.
        if !self.prints_answer() {
            before.push_str(&lines);
        }
        self.table = watched.table();
        let first = self.first(watched);
        pending.stale = match self.format {
            Format::Text if self.prints_answer() => {
                let reloaded = self.stamped(Tone::Whole, &format!("reloaded: {why}"));
                format!("{before}{reloaded}\n{first}")
            }
            Format::Text => before + &self.stamped(Tone::Whole, &format!("reloaded: {why}")),
            Format::Json => before + &self.event("reloaded").member("why", why).end() + &first,
        };
    }

    /// Returns whether the whole answer is printed when something changes, rather than the changes.
    fn prints_answer(&self) -> bool {
        self.style == Style::QueryResult && self.format == Format::Text
    }

    /// Returns the answer as text, followed by the number of its rows.
    fn answer(&self, watched: &impl Watched) -> String {
        let cache = watched.indexed_rows(&self.table.conditions);
        let answer = cache.find(&self.table.conditions);
        let rows = rows(
            Format::Text,
            self.layout,
            &self.look,
            &self.table.shape,
            &self.table.shown,
            answer.rows.iter(),
        );
        let count = crate::render::count(answer.rows.len() as u64, "row");
        format!("{rows}({count})\n")
    }

    /// Notes for the printer that the table is live again, if it was not: the word stands behind the
    /// changes that made it so.
    fn become_live(&self, pending: &mut Pending) {
        if std::mem::take(&mut pending.is_stale) {
            pending.live = match self.format {
                Format::Text => self.stamped(Tone::Good, "live"),
                Format::Json => self.event("live").end(),
            };
        }
    }

    /// Notes for the printer that the table is stale, unless the printer has that already.
    fn become_stale(&self, why: &str, pending: &mut Pending) {
        if !pending.becomes_stale(why) {
            return;
        }
        pending.stale.push_str(&match self.format {
            Format::Text => {
                let text = format!("stale: {}", crate::render::escape::escape(why));
                self.stamped(Tone::Alarm, &text)
            }
            Format::Json => self.event("stale").member("why", why).end(),
        });
    }

    /// Returns a line about the state of the table, behind the time.
    fn stamped(&self, tone: Tone, text: &str) -> String {
        let clock = self.look.clock(Timestamp::now());
        format!("{clock}  {}\n", self.look.paint(tone, text))
    }

    /// Begins an event of JSON about the table.
    fn event(&self, event: &str) -> EventLine {
        EventLine::new(event, Timestamp::now()).of(self.table.names())
    }

    /// Takes the text to print now; `None` if there is none.
    fn text(
        &self,
        pending: &mut Pending,
        watched: &impl Watched,
        counts: &mut Counts,
    ) -> Option<String> {
        let stale = std::mem::take(&mut pending.stale);
        let live = std::mem::take(&mut pending.live);
        let lines = self.lines(pending, counts);
        let text = match self.format {
            Format::Text if self.prints_answer() && lines.changed > 0 => {
                format!("{stale}{live}\n{}", self.answer(watched))
            }
            Format::Text if self.prints_answer() => stale + &live,
            Format::Text | Format::Json => stale + &lines.text + &live,
        };
        (!text.is_empty()).then_some(text)
    }

    /// Takes the changes that wait, as lines.
    fn lines(&self, pending: &mut Pending, counts: &mut Counts) -> Lines {
        pending.by_key.clear();
        let mut text = String::new();
        let mut changed = 0;
        for change in pending.changes.drain(..) {
            let line = self.line(&change);
            // Several changes that leave a row as it was print nothing; they count as collapsed.
            changed += u64::from(!line.is_empty());
            counts.collapsed += change.count - 1;
            text.push_str(&line);
        }
        counts.shown += changed;
        Lines { text, changed }
    }

    /// Returns a change as a line; empty if nothing that is shown has changed. Where the whole
    /// answer is printed, nobody sees the line, and all that matters is whether there is one.
    fn line(&self, change: &Change) -> String {
        let came_and_went = change.old.is_none() && change.new.is_none();
        // Whoever follows changes must see a row that came and went between two lines.
        let old = match self.style {
            Style::Changes if came_and_went => change.last.as_ref(),
            Style::Changes | Style::QueryResult => change.old.as_ref(),
        };
        let WatchedTable {
            shape,
            shown: columns,
            ..
        } = &self.table;
        let change = row_change::RowChangeLine {
            table: self.table.names(),
            shape,
            columns,
            old,
            new: change.new.as_ref(),
            crosses: change.was_there && change.is_there,
            now: change.now.as_ref(),
            collapsed: change.count - 1,
        };
        match (self.style, self.format) {
            (Style::Changes, Format::Text) => change.text(&self.look, Timestamp::now()),
            (Style::Changes, Format::Json) | (Style::QueryResult, _) => {
                change.json(Timestamp::now())
            }
        }
    }
}

impl Change {
    /// Returns the change that a row was added.
    fn added(row: RowBuf) -> Self {
        Self {
            old: None,
            new: Some(row),
            now: None,
            was_there: false,
            is_there: true,
            last: None,
            count: 1,
        }
    }
}

impl Pending {
    /// Notes why the table is stale. Returns whether that is to be printed: the table was live
    /// before, or the reason is another one.
    fn becomes_stale(&mut self, why: &str) -> bool {
        let was_live = !std::mem::replace(&mut self.is_stale, true);
        // 1. The table is live again, which waits for the printer. 2. It is stale again, for the
        // same reason. 3. The printer has time: to its reader the table was stale all along, so
        // neither is news.
        let is_unprinted = was_live && !std::mem::take(&mut self.live).is_empty();
        let is_another = self.why != why;
        if is_another {
            self.why = why.to_string();
        }
        is_another || (was_live && !is_unprinted)
    }

    /// Adds the change of a row to that of its key.
    fn add(&mut self, watch: &Watch, old: Option<RowBuf>, new: Option<RowBuf>) {
        let Some(row) = new.as_ref().or(old.as_ref()) else {
            return;
        };
        let key = KeyBuf::of_row(&watch.table.shape, row);
        let was_there = old.is_some();
        let is_there = new.is_some();
        let is_left = new.as_ref().is_some_and(|row| !watch.table.fulfils(row));
        let now = new.clone().filter(|_| is_left);
        let last = old.clone().filter(|_| watch.style == Style::Changes);
        // A row that does not fulfil the conditions is none for the reader: an update that makes it
        // fulfil them is shown as a row that entered.
        let old = old.filter(|row| watch.table.fulfils(row));
        let new = new.filter(|row| watch.table.fulfils(row));
        match self.by_key.get(&key) {
            Some(&at) => {
                let change = &mut self.changes[at];
                change.new = new;
                change.now = now;
                change.is_there = is_there;
                change.last = last;
                change.count += 1;
            }
            // Not even a place is taken: most changes of a large table are of no interest here.
            None if old.is_none() && new.is_none() => {}
            None => {
                self.by_key.insert(key, self.changes.len());
                self.changes.push(Change {
                    old,
                    new,
                    now,
                    was_there,
                    is_there,
                    last,
                    count: 1,
                });
            }
        }
    }
}
