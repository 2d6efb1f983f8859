//! [`Look`]: colours and times of text for people.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use postgres_index_cache_core::Action;

/// The meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Matters less than the rest.
    Dim,
    /// As it should be, or new.
    Good,
    /// Changed, or a warning.
    Changed,
    /// Not as it should be, or gone.
    Bad,
    /// Must be seen.
    Alarm,
    /// Concerns a whole table.
    Whole,
}

impl Tone {
    /// Returns the tone of an action.
    pub fn of(action: Action) -> Self {
        match action {
            Action::Insert => Self::Good,
            Action::Update => Self::Changed,
            Action::Delete => Self::Bad,
            Action::Truncate | Action::Reload => Self::Whole,
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Dim => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Changed => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Alarm => AnsiColor::Red.on_default().bold(),
            Self::Whole => AnsiColor::Magenta.on_default().bold(),
        }
    }
}

/// How text for people looks.
#[derive(Debug, Clone)]
pub struct Look {
    /// Whether to use colour.
    pub color: bool,
    zone: TimeZone,
    /// The day on which the command began. Times of that day have no date.
    day: Date,
}

/// Without colour, with times in UTC that all have a date. For tests.
impl Default for Look {
    fn default() -> Self {
        Self::new(false, TimeZone::UTC, Timestamp::UNIX_EPOCH)
    }
}

impl Look {
    /// Returns the zone in which times are shown.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Returns a look with times in `zone`. `now` is the time at which the command begins.
    pub fn new(color: bool, zone: TimeZone, now: Timestamp) -> Self {
        let day = now.to_zoned(zone.clone()).date();
        Self { color, zone, day }
    }

    /// Returns the same look without colour.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self {
            color: false,
            ..self.clone()
        }
    }

    /// Returns text in a tone, or unchanged if colour is off. The text must be escaped already.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_string();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }

    /// Returns a time with milliseconds, and with the date if that is not the day on which the
    /// command began.
    pub fn clock(&self, at: Timestamp) -> String {
        let at = at.to_zoned(self.zone.clone());
        let form = if at.date() == self.day {
            "%H:%M:%S%.3f"
        } else {
            "%Y-%m-%d %H:%M:%S%.3f"
        };
        at.strftime(form).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now: Timestamp = "2026-11-26T23:59:00Z".parse().unwrap();
        let later: Timestamp = "2026-11-27T00:01:02.5Z".parse().unwrap();
        let look = Look::new(false, TimeZone::UTC, now);
        assert_eq!(look.clock(now), "23:59:00.000");
        assert_eq!(look.clock(later), "2026-11-27 00:01:02.500");
        // The same moments, on one day where the clock shows another hour.
        let east = TimeZone::fixed(jiff::tz::offset(3));
        let look = Look::new(false, east, now);
        assert_eq!(look.clock(now), "02:59:00.000");
        assert_eq!(look.clock(later), "03:01:02.500");
    }

    #[test]
    fn colour_is_added_only_if_it_is_wanted() {
        let look = Look::default();
        assert_eq!(look.paint(Tone::Bad, "x"), "x");
        let look = Look {
            color: true,
            ..look
        };
        assert_eq!(look.paint(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(look.paint(Tone::Bad, ""), "");
    }
}
