//! Dates and timestamps as PostgreSQL's JSON has them (ISO 8601, years past 9999, BC, infinities)
//! and as it counts them: days and microseconds since 2000-01-01 (manual, 8.5 Date/Time Types).

use std::fmt::Write as _;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;

pub(super) fn parse_date(text: &str) -> Option<i32> {
    match text {
        "infinity" => return Some(i32::MAX),
        "-infinity" => return Some(i32::MIN),
        _ => {}
    }
    let (text, before_christ) = split_era(text);
    i32::try_from(parse_days(text, before_christ)?).ok()
}

pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    parse_instant(text, |time| time.is_empty().then_some(0))
}

pub(super) fn parse_timestamptz(text: &str) -> Option<i64> {
    parse_instant(text, parse_offset)
}

/// `offset` reads what follows the time of day and gives the seconds east of UTC.
fn parse_instant(text: &str, offset: impl Fn(&str) -> Option<i64>) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, before_christ) = split_era(text);
    let (date, time) = text.split_once(['T', ' '])?;
    let days = parse_days(date, before_christ)?;
    let clock_end = time.find(['+', '-', 'Z']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(clock_end);
    let micros = parse_clock(clock)?.checked_sub(offset(zone)?.checked_mul(MICROS_PER_SECOND)?)?;
    days.checked_mul(MICROS_PER_DAY)?.checked_add(micros)
}

fn split_era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC")
        .map_or((text, false), |text| (text, true))
}

fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn parse_days(text: &str, before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let year = number(parts.next()?)?;
    let month = number(parts.next()?)?;
    let day = number(parts.next()?)?;
    // The widest type, date, ends in the year 5874897.
    if parts.next().is_some() || !(1..=5_874_898).contains(&year) {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    Some(days_from_civil(year, month, day) - EPOCH_DAYS)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn parse_clock(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let hour = number(parts.next()?)?;
    let minute = number(parts.next()?)?;
    let second = parts.next().map_or(Some(0), number)?;
    if parts.next().is_some() || hour > 24 || minute > 59 || second > 60 || fraction.len() > 6 {
        return None;
    }
    let micros = number(fraction)? * 10_i64.pow(6 - fraction.len() as u32);
    Some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros)
}

/// Seconds east of UTC of `Z`, `+02`, `+05:30` or `-00:53:28`.
fn parse_offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let mut parts = digits.split(':');
    let hours = number(parts.next()?)?;
    let minutes = parts.next().map_or(Some(0), number)?;
    let seconds = parts.next().map_or(Some(0), number)?;
    let in_range = parts.next().is_none() && hours < 24 && minutes < 60 && seconds < 60;
    in_range.then_some(sign * ((hours * 60 + minutes) * 60 + seconds))
}

/// Appends a date in ISO 8601, with `BC` where it is.
pub(super) fn write_date(days: i32, out: &mut String) {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        _ => {
            let before_christ = write_civil(i64::from(days), out);
            write_era(before_christ, out);
        }
    }
}

/// Appends a timestamp with `separator` between date and time, and its offset, UTC, when `zoned`.
pub(super) fn write_timestamp(micros: i64, separator: char, zoned: bool, out: &mut String) {
    match micros {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        _ => {
            let before_christ = write_civil(micros.div_euclid(MICROS_PER_DAY), out);
            let of_day = micros.rem_euclid(MICROS_PER_DAY);
            let seconds = of_day / MICROS_PER_SECOND;
            let fraction = of_day % MICROS_PER_SECOND;
            // Writing into a String cannot fail.
            let _ = write!(
                out,
                "{separator}{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            );
            if fraction != 0 {
                let digits = format!("{fraction:06}");
                let _ = write!(out, ".{}", digits.trim_end_matches('0'));
            }
            if zoned {
                out.push_str(if separator == 'T' { "+00:00" } else { "+00" });
            }
            write_era(before_christ, out);
        }
    }
}

fn write_era(before_christ: bool, out: &mut String) {
    if before_christ {
        out.push_str(" BC");
    }
}

/// Appends the date and says whether it is before Christ: there is no year zero, 1 BC comes before
/// 1.
fn write_civil(days: i64, out: &mut String) -> bool {
    let (year, month, day) = civil_from_days(days + EPOCH_DAYS);
    let shown = if year > 0 { year } else { 1 - year };
    // Writing into a String cannot fail.
    let _ = write!(out, "{shown:04}-{month:02}-{day:02}");
    year <= 0
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar, by eras of 400 years that
/// begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_date_comes_back_as_it_was(days in -2_451_545_i32..2_145_031_948) {
            let mut text = String::new();
            write_date(days, &mut text);
            prop_assert_eq!(parse_date(&text), Some(days), "{}", text);
        }

        #[test]
        fn a_timestamp_comes_back_as_it_was(micros in -211_813_488_000_000_000_i64..9_223_371_331_200_000_000) {
            let mut text = String::new();
            write_timestamp(micros, 'T', true, &mut text);
            prop_assert_eq!(parse_timestamptz(&text), Some(micros), "{}", text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9TZ:.+ BC-]{0,40}") {
            let _ = (parse_date(&text), parse_timestamp(&text), parse_timestamptz(&text));
        }
    }

    #[test]
    fn the_epoch_is_the_first_of_january_2000() {
        assert_eq!(parse_date("2000-01-01"), Some(0));
        assert_eq!(parse_timestamp("2000-01-01T00:00:00.5"), Some(500_000));
        assert_eq!(
            parse_date("0001-12-31 BC"),
            parse_date("0001-01-01").map(|day| day - 1)
        );
    }
}
