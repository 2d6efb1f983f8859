//! [`Printer`]: the consumer of the queue, which turns notifications into lines.

use super::burst::Burst;
use super::filter::{Filter, Prepared};
use super::lookups::Lookups;
use super::tally::Tally;
use super::template::Template;
use super::{Args, Passed, Printed};
use crate::commands::Context;
use crate::feed::queue::{Item, Queue};
use crate::record::entry;
use crate::render::change::{
    Arrival, Beside, ChangeStyle, Event, claims_change, unsound, write_json, write_text,
};
use crate::render::escape::escape;
use crate::render::{Format, note, written};
use crate::tables::catalog::CatalogTable;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::borrow::Cow;
use std::io::{BufWriter, IsTerminal as _, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the end of a transaction with many changes is waited for.
const BURST_PAUSE: Duration = Duration::from_millis(50);

/// What is printed of a notification.
enum Shown {
    /// Its event, as text or JSON.
    Event,
    /// Its payload alone.
    Payload,
    /// A line that a person has laid out.
    Line(Template),
    /// Nothing; the counts at the end.
    Counts(Box<Tally>, Instant),
}

/// The printer, and its output.
pub(super) struct Printer {
    format: Format,
    shown: Shown,
    is_terminal: bool,
    is_quiet: bool,
    /// Whether the sender of each notification is looked up.
    with_senders: bool,
    style: ChangeStyle,
    filter: Filter,
    lookups: Lookups,
    passed: Arc<Passed>,
    /// The changes that are held back, on a terminal.
    burst: Option<Burst>,
    /// The first and the last time of a record that is printed; `None` if it is not one.
    recorded: Option<(Timestamp, Timestamp)>,
    /// The number of notifications after which the printer ends.
    limit: u64,
    out: BufWriter<Stdout>,
    printed: Printed,
}

impl Printer {
    /// Makes a printer.
    ///
    /// # Errors
    /// If the template is not understood.
    pub(super) fn new(
        context: &Context,
        args: &Args,
        prepared: Prepared,
        lookups: Lookups,
        passed: Arc<Passed>,
    ) -> anyhow::Result<Self> {
        let Prepared { filter, named, .. } = prepared;
        let shown = match &args.template {
            Some(template) => {
                let template = Template::parse(template)?;
                if let Some(column) = template.unknown_column(&named) {
                    let names: Vec<String> = named.iter().map(CatalogTable::display_name).collect();
                    anyhow::bail!("{} has no column {column}", names.join(" and "));
                }
                Shown::Line(template)
            }
            None if args.raw => Shown::Payload,
            None if args.stats => Shown::Counts(Box::default(), Instant::now()),
            None => Shown::Event,
        };
        let is_terminal = std::io::stdout().is_terminal();
        // A count is of single notifications.
        let collapses = is_terminal
            && !args.all
            && args.count.is_none()
            && context.format == Format::Text
            && matches!(shown, Shown::Event);
        Ok(Self {
            format: context.format,
            shown,
            is_terminal,
            is_quiet: context.quiet,
            with_senders: args.sender,
            style: ChangeStyle::new(context.look.clone(), args.channels.len() > 1),
            filter,
            lookups,
            passed,
            burst: collapses.then(Burst::default),
            recorded: args
                .from
                .is_some()
                .then_some((Timestamp::MAX, Timestamp::MIN)),
            limit: args.count.unwrap_or(u64::MAX),
            out: BufWriter::with_capacity(1 << 16, std::io::stdout()),
            printed: Printed::default(),
        })
    }

    /// Prints items until [`Item::End`] comes or the limit is reached.
    ///
    /// # Errors
    /// If stdout takes nothing more.
    pub(super) fn run(mut self, queue: &Queue) -> anyhow::Result<Printed> {
        let mut line = String::new();
        loop {
            let items = match queue.try_take() {
                Some(items) => items,
                None => self.wait(queue)?,
            };
            if self.with_senders {
                self.lookups.look_up(items.iter().filter_map(Item::sender));
            }
            for item in items {
                if matches!(item, Item::End) || !self.take(&item, &mut line)? {
                    return self.end();
                }
            }
        }
    }

    /// Prints an item. Returns whether more is wanted. `line` is a buffer.
    ///
    /// # Errors
    /// If stdout takes nothing more.
    pub(super) fn take(&mut self, item: &Item, line: &mut String) -> anyhow::Result<bool> {
        line.clear();
        if let (Some((first, last)), Some(at)) = (&mut self.recorded, entry::time(item)) {
            *first = at.min(*first);
            *last = at.max(*last);
        }
        self.write(item, line)?;
        // What was dropped was counted on as well: without it, the last one would be waited for
        // without end.
        Ok(self.printed.shown + self.printed.dropped < self.limit)
    }

    /// Waits for items, with everything printed that came before.
    fn wait(&mut self, queue: &Queue) -> anyhow::Result<std::collections::VecDeque<Item>> {
        // The rest of a large transaction is on its way.
        if self.burst.as_ref().is_some_and(Burst::is_long)
            && let Some(items) = queue.take_within(BURST_PAUSE)
        {
            return Ok(items);
        }
        // In a burst lines are written in blocks. As soon as nothing waits, the rest is flushed, so
        // that a person sees the last line at once.
        self.print_held()?;
        written(self.out.flush())?;
        Ok(queue.take())
    }

    /// Prints what was held back, and the counts.
    ///
    /// # Errors
    /// If stdout takes nothing more.
    pub(super) fn end(mut self) -> anyhow::Result<Printed> {
        self.print_held()?;
        if let Shown::Counts(tally, began) = &self.shown {
            let time = match self.recorded {
                Some((first, last)) => Duration::try_from(last.duration_since(first)),
                None => Ok(began.elapsed()),
            };
            let text = tally.text(self.format, time.unwrap_or_default());
            written(self.out.write_all(text.as_bytes()))?;
        }
        written(self.out.flush())?;
        Ok(self.printed)
    }

    /// Prints the changes that were held back.
    fn print_held(&mut self) -> anyhow::Result<()> {
        let Some(burst) = &mut self.burst else {
            return Ok(());
        };
        let text = burst.take(&self.style.look);
        written(self.out.write_all(text.as_bytes()))
    }

    /// Prints an event other than a change behind everything that was held back.
    fn print_event(&mut self, event: &Event<'_>, line: &mut String) -> anyhow::Result<()> {
        self.print_held()?;
        self.render(event, line);
        written(self.out.write_all(line.as_bytes()))
    }

    /// Prints an item, and counts it. `line` is an empty buffer.
    fn write(&mut self, item: &Item, line: &mut String) -> anyhow::Result<()> {
        let event = match item {
            Item::Notification { at, message } => {
                let payload = message.payload();
                let arrival = Arrival {
                    at: *at,
                    channel: message.channel(),
                    pid: message.process_id(),
                    payload,
                };
                return self.write_notification(arrival, line);
            }
            Item::Connected {
                at,
                channels,
                place,
            } => Event::Connected {
                at: *at,
                channels,
                place: place.as_ref(),
            },
            Item::Disconnected { at, why } => Event::Disconnected { at: *at, why },
            Item::Gap { from, to } => Event::Gap {
                from: *from,
                to: *to,
            },
            Item::Resumed { at } => Event::Resumed { at: *at },
            Item::Dropped { at, count } => {
                self.printed.dropped += count;
                Event::Dropped {
                    at: *at,
                    count: *count,
                }
            }
            Item::Covered { .. } | Item::Note { .. } | Item::End => return Ok(()),
        };
        self.print_event(&event, line)
    }

    fn write_notification(
        &mut self,
        arrival: Arrival<'_>,
        line: &mut String,
    ) -> anyhow::Result<()> {
        for change in unpack(arrival.payload) {
            line.clear();
            if matches!(self.shown, Shown::Payload) {
                // The payload as it came, once, if the filter accepts a change in it.
                let before = self.printed.shown;
                self.write_change(arrival, &change, line)?;
                if self.printed.shown > before {
                    break;
                }
            } else {
                let payload = &change;
                self.write_change(Arrival { payload, ..arrival }, &change, line)?;
            }
            if self.printed.shown + self.printed.dropped >= self.limit {
                break;
            }
        }
        Ok(())
    }

    /// Prints a change that a notification announces. `text` is the payload of that change alone.
    fn write_change(
        &mut self,
        arrival: Arrival<'_>,
        text: &str,
        line: &mut String,
    ) -> anyhow::Result<()> {
        self.passed.received.fetch_add(1, Ordering::Relaxed);
        let parsed = Payload::parse(text).map_err(|error| error.to_string());
        let parsed = parsed.and_then(|payload| match unsound(&payload) {
            Some(reason) => Err(reason.to_string()),
            None => Ok(payload),
        });
        let is_invalid = parsed.is_err() && claims_change(arrival.payload);
        self.printed.invalid += u64::from(is_invalid);
        match &parsed {
            Ok(payload) if !self.filter.accepts(payload) => return Ok(()),
            // A filter asks for properties that a payload which does not parse cannot have.
            Err(_) if !self.filter.is_empty() => return Ok(()),
            Ok(_) | Err(_) => {}
        }
        self.printed.shown += 1;
        self.passed.shown.fetch_add(1, Ordering::Relaxed);
        if let Shown::Counts(tally, _) = &mut self.shown {
            tally.add(&arrival, parsed.as_ref().ok(), is_invalid);
            return Ok(());
        }
        let payload = match &parsed {
            Ok(payload) => payload,
            Err(_) if !is_invalid => {
                return self.print_event(&Event::Payload { arrival }, line);
            }
            Err(error) => {
                let error = error.clone();
                return self.print_event(&Event::Invalid { arrival, error }, line);
            }
        };
        // Other forms show nothing of it.
        let distrust = match &self.shown {
            Shown::Event => self.lookups.distrust(payload),
            Shown::Payload | Shown::Line(_) | Shown::Counts(..) => None,
        };
        let sender = self.lookups.sender(arrival.pid).cloned();
        let beside = Beside {
            sender: sender.as_ref(),
            distrust: distrust.map(|distrust| (distrust.code(), distrust.words())),
        };
        let event = Event::Change {
            arrival,
            payload,
            beside,
        };
        self.render(&event, line);
        let text: Cow<'_, str> = match &mut self.burst {
            Some(burst) => burst
                .add(&self.style.look, &arrival, payload, distrust, line)
                .into(),
            None => line.as_str().into(),
        };
        written(self.out.write_all(text.as_bytes()))
    }

    /// Renders an event: into `line`, which goes to stdout, or to stderr if the event is no data in
    /// the form that was asked for.
    fn render(&self, event: &Event<'_>, line: &mut String) {
        match (&self.shown, event) {
            (
                Shown::Line(template),
                Event::Change {
                    arrival, payload, ..
                },
            ) => {
                line.push_str(&template.line(arrival, payload));
                line.push('\n');
            }
            (
                Shown::Payload,
                Event::Change { arrival, .. }
                | Event::Payload { arrival }
                | Event::Invalid { arrival, .. },
            ) => self.push_line(arrival.payload, line),
            (Shown::Event | Shown::Counts(..), _) if self.format == Format::Json => {
                write_json(event, line);
            }
            // Of a lost connection, a notice on stderr has told already.
            (_, Event::Disconnected { .. })
            | (
                Shown::Payload | Shown::Line(_) | Shown::Counts(..),
                Event::Connected { .. } | Event::Resumed { .. },
            ) => {}
            (Shown::Event, Event::Connected { .. } | Event::Resumed { .. }) => {
                if !self.is_quiet {
                    note(&self.plain_text(event));
                }
            }
            (Shown::Event, _) => write_text(event, &self.style, line),
            // Such output has data alone: scripts read it. A gap, dropped notifications and
            // payloads that have no members concern its reader, so they are told on stderr even
            // with `--quiet`.
            (Shown::Payload | Shown::Line(_) | Shown::Counts(..), _) => {
                note(&self.plain_text(event));
            }
        }
    }

    /// Appends a line that is nobody's form of ours. On a terminal, characters that it would obey
    /// are escaped.
    fn push_line(&self, text: &str, line: &mut String) {
        if self.is_terminal {
            line.push_str(&escape(text));
        } else {
            line.push_str(text);
        }
        line.push('\n');
    }

    /// Returns an event as text for stderr. `--color` may be right for stdout alone, so it has
    /// none.
    fn plain_text(&self, event: &Event<'_>) -> String {
        let style = ChangeStyle::new(self.style.look.plain(), self.style.with_channel);
        let mut text = String::new();
        write_text(event, &style, &mut text);
        text
    }
}
