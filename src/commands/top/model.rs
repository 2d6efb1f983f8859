//! [`Model`]: the content of the screen, brought up to date by items and keys. Draws nothing.

use super::look::Looked;
use crate::feed::queue::Item;
use crate::render::change::{
    Arrival, Beside, ChangeStyle, Event, age_ms, claims_change, unsound, write_text,
};
use crate::render::look::Look;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The seconds over which rates are taken.
const WINDOW: usize = 10;
/// The most kinds that are told apart: a payload may have any name in it.
const MOST_KINDS: usize = 500;
/// The most changes that are kept to be scrolled through.
const RECENT: usize = 1_000;
/// The longest age that is told apart, in microseconds.
const LONGEST_AGE: u64 = 3_600_000_000;

/// The notifications of a table and an action.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) total: u64,
    pub(super) bytes: u64,
    /// The numbers of the last seconds, each with its second.
    seconds: [(u64, u64); WINDOW],
    /// The times between trigger and arrival, in microseconds.
    ages: Histogram<u64>,
}

impl Kind {
    fn new() -> Self {
        let ages = Histogram::new_with_bounds(1, LONGEST_AGE, 2);
        Self {
            total: 0,
            bytes: 0,
            seconds: [(0, 0); WINDOW],
            ages: ages.expect("the bounds are in order"),
        }
    }

    fn add(&mut self, second: u64, bytes: usize, age: Option<f64>) {
        self.total += 1;
        self.bytes += bytes as u64;
        let place = &mut self.seconds[second as usize % WINDOW];
        if place.0 != second {
            *place = (second, 0);
        }
        place.1 += 1;
        if let Some(age) = age {
            self.ages.saturating_record((age * 1000.0).max(1.0) as u64);
        }
    }

    /// Returns how many came in a second, over the last seconds that are whole. `now` is the second
    /// that has begun.
    pub(super) fn rate(&self, now: u64) -> f64 {
        let whole = now.min(WINDOW as u64 - 1);
        let counted = self
            .seconds
            .iter()
            .filter(|(second, _)| *second < now && now - *second <= whole);
        let number: u64 = counted.map(|(_, number)| number).sum();
        number as f64 / whole.max(1) as f64
    }

    /// Returns the age, in milliseconds, that this share does not exceed.
    pub(super) fn age(&self, share: f64) -> Option<f64> {
        let is_known = !self.ages.is_empty();
        is_known.then(|| self.ages.value_at_quantile(share) as f64 / 1000.0)
    }
}

/// The column by which the tables are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Rate,
    Total,
    Age,
    Name,
}

impl Sort {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Age => "age",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Total,
            Self::Total => Self::Age,
            Self::Age => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// A key that was pressed, as far as it means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Backspace,
    Escape,
    Up(usize),
    Down(usize),
}

/// A line of the table, as it was when the screen was held or now.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) action: String,
    pub(super) rate: f64,
    pub(super) total: u64,
    pub(super) bytes: u64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// The content of the screen.
pub(super) struct Model {
    look: Look,
    style: ChangeStyle,
    began: Instant,
    pub(super) place: String,
    /// Why nothing is received; `None` while it is.
    pub(super) lost: Option<String>,
    pub(super) gaps: u64,
    pub(super) dropped: u64,
    kinds: BTreeMap<(String, String), Kind>,
    recent: VecDeque<String>,
    /// The changes and rows that are shown while the screen is held.
    held: Option<(Vec<String>, Vec<Row>)>,
    pub(super) filter: String,
    pub(super) is_typing: bool,
    pub(super) sort: Sort,
    pub(super) scrolled: usize,
    pub(super) shows_help: bool,
    pub(super) is_over: bool,
    pub(super) looked: Looked,
}

impl Model {
    pub(super) fn new(look: &Look, with_channel: bool) -> Self {
        let look = look.plain();
        Self {
            style: ChangeStyle::new(look.clone(), with_channel),
            look,
            began: Instant::now(),
            place: String::new(),
            lost: None,
            gaps: 0,
            dropped: 0,
            kinds: BTreeMap::new(),
            recent: VecDeque::new(),
            held: None,
            filter: String::new(),
            is_typing: false,
            sort: Sort::Rate,
            scrolled: 0,
            shows_help: false,
            is_over: false,
            looked: Looked::default(),
        }
    }

    /// Returns how long it has counted.
    pub(super) fn time(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the time of day.
    pub(super) fn clock(&self) -> String {
        let clock = self.look.clock(Timestamp::now());
        clock.split('.').next().unwrap_or_default().to_string()
    }

    fn second(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// Tells whether the screen is held.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Takes an item of the feed.
    pub(super) fn take(&mut self, item: &Item) {
        match item {
            Item::Connected { place, .. } => {
                let place = place.as_ref().map(ToString::to_string);
                self.place = place.unwrap_or_default();
            }
            Item::Disconnected { at, why } => {
                self.lost = Some(why.clone());
                self.note(&Event::Disconnected { at: *at, why });
            }
            Item::Gap { from, to } => {
                self.gaps += 1;
                self.note(&Event::Gap {
                    from: *from,
                    to: *to,
                });
            }
            Item::Resumed { .. } => self.lost = None,
            Item::Dropped { at, count } => {
                self.dropped += count;
                self.note(&Event::Dropped {
                    at: *at,
                    count: *count,
                });
            }
            Item::Notification { at, message } => {
                let arrival = Arrival {
                    at: *at,
                    channel: message.channel(),
                    pid: message.process_id(),
                    payload: message.payload(),
                };
                for change in unpack(message.payload()) {
                    self.notification(Arrival {
                        payload: &change,
                        ..arrival
                    });
                }
            }
            Item::Covered { .. } | Item::Note { .. } | Item::End => {}
        }
    }

    fn notification(&mut self, arrival: Arrival<'_>) {
        let parsed = Payload::parse(arrival.payload).map_err(|error| error.to_string());
        let parsed = parsed.and_then(|payload| match unsound(&payload) {
            Some(reason) => Err(reason.to_string()),
            None => Ok(payload),
        });
        let (name, action) = match &parsed {
            Ok(payload) => {
                let schema = payload.schema.as_deref().map(|schema| format!("{schema}."));
                let name = format!("{}{}", schema.unwrap_or_default(), payload.table);
                (name, payload.action.to_string())
            }
            Err(_) if claims_change(arrival.payload) => (String::new(), "invalid".to_string()),
            Err(_) => (String::new(), "payload".to_string()),
        };
        let is_known = self.kinds.contains_key(&(name.clone(), action.clone()));
        let kind = if is_known || self.kinds.len() < MOST_KINDS {
            (name, action)
        } else {
            (String::new(), "other".to_string())
        };
        let age = parsed
            .as_ref()
            .ok()
            .and_then(|payload| age_ms(&arrival, payload));
        let second = self.second();
        let kind = self.kinds.entry(kind).or_insert_with(Kind::new);
        kind.add(second, arrival.payload.len(), age);
        match &parsed {
            Ok(payload) => self.note(&Event::Change {
                arrival,
                payload,
                beside: Beside::default(),
            }),
            Err(_) if !claims_change(arrival.payload) => self.note(&Event::Payload { arrival }),
            Err(error) => {
                let error = error.clone();
                self.note(&Event::Invalid { arrival, error });
            }
        }
    }

    /// Adds the line of an event to the changes.
    fn note(&mut self, event: &Event<'_>) {
        let mut line = String::new();
        write_text(event, &self.style, &mut line);
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line.trim_end().to_string());
    }

    /// Returns the rows of the table, sorted.
    pub(super) fn rows(&self) -> Vec<Row> {
        if let Some((_, rows)) = &self.held {
            let mut rows = rows.clone();
            self.arrange(&mut rows);
            return rows;
        }
        let now = self.second();
        let rows = self.kinds.iter().map(|((name, action), kind)| Row {
            name: crate::render::escape::escape(name).into_owned(),
            action: action.clone(),
            rate: kind.rate(now),
            total: kind.total,
            bytes: kind.bytes,
            p50: kind.age(0.5),
            p99: kind.age(0.99),
        });
        let mut rows = rows.collect();
        self.arrange(&mut rows);
        rows
    }

    fn arrange(&self, rows: &mut Vec<Row>) {
        if !self.filter.is_empty() {
            let lines = self.recent.iter();
            let lines: Vec<&String> = lines.filter(|line| self.passes(line)).collect();
            // A table is shown as well if a change of it passes by its key or values.
            rows.retain(|row| {
                let mut lines = lines.iter();
                self.passes(&row.name)
                    || lines.any(|line| line.contains(&row.name) && line.contains(&row.action))
            });
        }
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Rate => b.rate.total_cmp(&a.rate),
                Sort::Total => b.total.cmp(&a.total),
                Sort::Age => b.p99.unwrap_or(-1.0).total_cmp(&a.p99.unwrap_or(-1.0)),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            order.then_with(|| (&a.name, &a.action).cmp(&(&b.name, &b.action)))
        });
    }

    fn passes(&self, text: &str) -> bool {
        self.filter.is_empty() || text.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Returns the changes that pass the filter, the newest first.
    pub(super) fn changes(&self) -> Vec<&String> {
        let lines: Vec<&String> = match &self.held {
            Some((lines, _)) => lines.iter().rev().collect(),
            None => self.recent.iter().rev().collect(),
        };
        lines.into_iter().filter(|line| self.passes(line)).collect()
    }

    /// Carries out a key.
    pub(super) fn press(&mut self, key: Key) {
        if self.shows_help {
            self.shows_help = false;
            return;
        }
        if self.is_typing {
            match key {
                Key::Char(c) if !c.is_control() => self.filter.push(c),
                Key::Backspace => {
                    self.filter.pop();
                }
                Key::Enter => self.is_typing = false,
                Key::Escape => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                _ => {}
            }
            self.scrolled = 0;
            return;
        }
        match key {
            Key::Char('q' | 'Q') => self.is_over = true,
            Key::Char('p' | ' ') => self.hold(),
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('/') => self.is_typing = true,
            Key::Char('?' | 'h') => self.shows_help = true,
            Key::Char('c') => {
                self.kinds.clear();
                self.recent.clear();
                self.held = None;
                self.scrolled = 0;
                self.began = Instant::now();
            }
            Key::Escape => self.filter.clear(),
            Key::Up(lines) => self.scrolled = self.scrolled.saturating_sub(lines),
            Key::Down(lines) => {
                // Lines that are scrolled through must not move on.
                if self.held.is_none() {
                    self.hold();
                }
                let most = self.changes().len().saturating_sub(1);
                self.scrolled = (self.scrolled + lines).min(most);
            }
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
    }

    /// Holds the screen, or lets it go on.
    fn hold(&mut self) {
        self.held = match self.held {
            Some(_) => {
                self.scrolled = 0;
                None
            }
            None => Some((self.recent.iter().cloned().collect(), self.rows())),
        };
    }
}
