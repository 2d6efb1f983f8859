//! Times and sizes as people write them, for clap.

use jiff::civil::{DateTime, Time};
use jiff::fmt::friendly::SpanParser;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::borrow::Cow;
use std::time::Duration;

/// The longest time that is taken: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Parses the time between two questions, which is at least a tenth of a second: each question is a
/// commit, and so is each answer.
///
/// # Errors
/// A text for people, if `text` is not such a time.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    let time = parse_duration(text)?;
    if time < LEAST {
        return Err(format!("expected at least 100ms, not \"{text}\""));
    }
    Ok(time)
}

/// Parses a time like `500ms`, `5s`, `2m`, `1h` or `1h 30m`. A number without a unit is seconds.
///
/// # Errors
/// A text for people, if `text` is not such a time.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    // jiff refuses a number without a unit.
    let with_unit = if text.ends_with(|c: char| c.is_ascii_digit()) {
        Cow::Owned(format!("{text}s"))
    } else {
        Cow::Borrowed(text)
    };
    SpanParser::new()
        .parse_unsigned_duration(with_unit.as_ref())
        .ok()
        // The clock cannot add more than that to the time of day.
        .filter(|time| *time <= LONGEST)
        .ok_or_else(|| format!("expected a time like 500ms, 5s or 2m, not \"{text}\""))
}

/// Parses a size like `512MB`, `2GiB` or `1000000` into bytes. The units are powers of 1024:
/// `2G`, `2GB` and `2GiB` mean the same, as in PostgreSQL's settings.
///
/// # Errors
/// A text for people, if `text` is not such a size.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new().with_binary().parse_size(text);
    bytes
        .ok()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("expected a size like 512MB or 2GB, not \"{text}\""))
}

/// A time of the past as people write it: `03:00`, `2026-11-26 03:00:30`, `2026-11-26T03:00:30Z` or
/// `10m`, so long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A time with its zone.
    At(Timestamp),
    /// A date and time of the zone in which times are shown.
    Civil(DateTime),
    /// A time of day: the last one that has passed.
    Clock(Time),
    /// So long ago.
    Ago(Duration),
}

impl Moment {
    /// Returns the time that is meant, seen from `now`, in this zone.
    pub fn timestamp(self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        let of_zone = |civil: DateTime| {
            let zoned = civil.to_zoned(zone.clone());
            zoned.map(|zoned| zoned.timestamp())
        };
        match self {
            Self::At(at) => at,
            Self::Civil(civil) => of_zone(civil).unwrap_or(now),
            Self::Clock(clock) => {
                let today = now.to_zoned(zone.clone()).date();
                let days = [Ok(today), today.yesterday()];
                let times = days.into_iter().flatten();
                let mut times = times.filter_map(|day| of_zone(day.to_datetime(clock)).ok());
                times.find(|time| *time <= now).unwrap_or(now)
            }
            Self::Ago(ago) => {
                let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
                now.saturating_sub(ago).unwrap_or(Timestamp::MIN)
            }
        }
    }
}

/// Parses a time of the past, see [`Moment`].
///
/// # Errors
/// A text for people, if `text` is not such a time.
pub fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Moment::At(at));
    }
    // A date alone is its midnight.
    if let Ok(civil) = text.parse::<DateTime>() {
        return Ok(Moment::Civil(civil));
    }
    if text.contains(':')
        && let Ok(clock) = text.parse::<Time>()
    {
        return Ok(Moment::Clock(clock));
    }
    parse_duration(text).map(Moment::Ago).map_err(|_| {
        format!("expected a time like 03:00, \"2026-11-26 03:00\", 2026-11-26T03:00:00Z or 10m (ago), not \"{text}\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_of_the_past() {
        let now: Timestamp = "2026-11-26T02:00:00Z".parse().unwrap();
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        for (text, zone, expected) in [
            ("03:00", &TimeZone::UTC, "2026-11-25T03:00:00Z"),
            ("01:59:59.5", &TimeZone::UTC, "2026-11-26T01:59:59.5Z"),
            ("03:00", &berlin, "2026-11-26T02:00:00Z"),
            ("00:30", &berlin, "2026-11-25T23:30:00Z"),
            ("2026-11-20 03:00", &berlin, "2026-11-20T02:00:00Z"),
            ("2026-11-20", &TimeZone::UTC, "2026-11-20T00:00:00Z"),
            ("2026-11-20T03:00:00+02:00", &berlin, "2026-11-20T01:00:00Z"),
            ("90s", &berlin, "2026-11-26T01:58:30Z"),
        ] {
            let moment = parse_moment(text).unwrap();
            assert_eq!(moment.timestamp(now, zone).to_string(), expected, "{text}");
        }
        for bad in ["", "yesterday", "25:00", "3h ago", "2026-13-01"] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        for bad in [
            "",
            "x",
            "3d",
            "-1s",
            "-1",
            "1e300h",
            "soon",
            "99999999999999999999s",
            "18446744073709551615s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn units_of_a_size_are_powers_of_1024() {
        assert_eq!(parse_bytes("512MB"), Ok(512 << 20));
        assert_eq!(parse_bytes("512mb"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5k"), Ok(1536));
        for same in ["2G", "2GB", "2GiB", "2 GB"] {
            assert_eq!(parse_bytes(same), Ok(2 << 30), "{same}");
        }
        assert_eq!(parse_bytes("123"), Ok(123));
        assert_eq!(parse_bytes("123B"), Ok(123));
        for bad in ["", "GB", "1XB", "-1MB", "1e300"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
