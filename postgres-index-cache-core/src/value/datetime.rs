//! Dates and timestamps: from the text that PostgreSQL's JSON has to the numbers that PostgreSQL
//! keeps, and back.
//!
//! The text is ISO 8601 with years past 9999, `BC`, and the infinities. The numbers are days and
//! microseconds since 2000-01-01 (manual, 8.5 Date/Time Types).

use std::fmt::Write as _;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;

/// Returns the days since 2000-01-01 of a date; `None` if `text` is not a date.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    match text {
        "infinity" => return Some(i32::MAX),
        "-infinity" => return Some(i32::MIN),
        _ => {}
    }
    i32::try_from(parse_days(Dated::new(text))?).ok()
}

/// Returns the microseconds since 2000-01-01 of a timestamp without a zone; `None` if `text` is not
/// such a timestamp.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    parse_instant(text, |zone| zone.is_empty().then_some(0))
}

/// Returns the microseconds since 2000-01-01 UTC of a timestamp with an offset; `None` if `text` is
/// not such a timestamp.
pub(super) fn parse_timestamptz(text: &str) -> Option<i64> {
    parse_instant(text, parse_offset)
}

/// Parses a timestamp. `offset` parses the text behind the time of day, and returns the seconds
/// east of UTC.
fn parse_instant(text: &str, offset: impl Fn(&str) -> Option<i64>) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    // The era stands at the very end, behind the offset: `0044-03-15T00:00:00+00:00 BC`.
    let Dated {
        text,
        before_christ,
    } = Dated::new(text);
    let (date, time) = text.split_once(['T', ' '])?;
    let days = parse_days(Dated {
        text: date,
        before_christ,
    })?;
    let clock_end = time.find(['+', '-', 'Z']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(clock_end);
    // Checked: the years that `parse_days` takes go beyond those of a timestamp.
    let east = offset(zone)?.checked_mul(MICROS_PER_SECOND)?;
    let micros = parse_clock(clock)?.checked_sub(east)?;
    days.checked_mul(MICROS_PER_DAY)?.checked_add(micros)
}

/// A text without its era.
#[derive(Clone, Copy)]
struct Dated<'a> {
    text: &'a str,
    before_christ: bool,
}

impl<'a> Dated<'a> {
    fn new(text: &'a str) -> Self {
        let without_era = text.strip_suffix(" BC");
        Self {
            text: without_era.unwrap_or(text),
            before_christ: without_era.is_some(),
        }
    }
}

/// Returns the number that `text` spells in digits alone.
fn number(text: &str) -> Option<i64> {
    // `parse` would take a sign as well.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Returns the days since 2000-01-01 of a date, `year-month-day`.
fn parse_days(date: Dated<'_>) -> Option<i64> {
    let Dated {
        text,
        before_christ,
    } = date;
    let mut parts = text.split('-');
    let year = number(parts.next()?)?;
    let month = number(parts.next()?)?;
    let day = number(parts.next()?)?;
    // The type with the widest range, date, ends in the year 5874897. A bound is needed for the
    // arithmetic below, which is not checked.
    if parts.next().is_some() || !(1..=5_874_898).contains(&year) {
        return None;
    }
    // There is no year zero: 1 BC is the year before 1, and so 0 for the calendar.
    let year = if before_christ { 1 - year } else { year };
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    Some(days_from_civil(year, month, day) - EPOCH_DAYS)
}

/// Returns the number of days of a month in the Gregorian calendar.
fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the microseconds since midnight of `hour:minute[:second[.fraction]]`.
fn parse_clock(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let hour = number(parts.next()?)?;
    let minute = number(parts.next()?)?;
    let second = parts.next().map_or(Some(0), number)?;
    // 24:00 and second 60 are valid input to PostgreSQL too.
    let in_range = hour <= 24 && minute <= 59 && second <= 60;
    if parts.next().is_some() || !in_range || fraction.len() > 6 {
        return None;
    }
    let micros = number(fraction)? * 10_i64.pow(6 - fraction.len() as u32);
    Some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros)
}

/// Returns the seconds east of UTC of an offset like `Z`, `+02`, `+05:30` or `-00:53:28`.
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
    // Offsets from before the time zones, local mean times, have seconds.
    let seconds = parts.next().map_or(Some(0), number)?;
    let in_range = parts.next().is_none() && hours < 24 && minutes < 60 && seconds < 60;
    in_range.then_some(sign * ((hours * 60 + minutes) * 60 + seconds))
}

/// Appends a date in ISO 8601, with ` BC` behind a date before Christ.
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

/// Appends a timestamp with `separator` between date and time. If `zoned`, the offset of UTC
/// follows: `+00:00` as in JSON behind the separator `T`, and `+00` as psql prints it behind
/// another.
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

/// Appends ` BC` if `before_christ`.
fn write_era(before_christ: bool, out: &mut String) {
    if before_christ {
        out.push_str(" BC");
    }
}

/// Appends a date without its era, and returns whether the date is before Christ. There is no year
/// zero: 1 BC comes before 1.
fn write_civil(days: i64, out: &mut String) -> bool {
    let CivilDate { year, month, day } = civil_from_days(days + EPOCH_DAYS);
    let shown = if year > 0 { year } else { 1 - year };
    // Writing into a String cannot fail.
    let _ = write!(out, "{shown:04}-{month:02}-{day:02}");
    year <= 0
}

/// Returns the days since 1970-01-01 of a date in the proleptic Gregorian calendar. The calendar
/// repeats every 400 years, an era.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here: the leap day is the last day of a year then, and moves no other.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    // From March on, five months have 153 days, and so again from August: 31, 30, 31, 30, 31.
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    // 146,097 days are an era; 719,468 lie between 0000-03-01 and 1970-01-01.
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A date in the proleptic Gregorian calendar. Year 0 is 1 BC.
struct CivilDate {
    year: i64,
    month: i64,
    day: i64,
}

/// Returns the date of a number of days since 1970-01-01: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> CivilDate {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    // Leap days out: one in 1,460 days, but not in a century's, and again in the era's last year.
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
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    CivilDate { year, month, day }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // The range of PostgreSQL's date: from 4714-11-24 BC to the end of the year 5874897.
        #[test]
        fn a_date_comes_back_as_it_was(days in -2_451_545_i32..2_145_031_948) {
            let mut text = String::new();
            write_date(days, &mut text);
            prop_assert_eq!(parse_date(&text), Some(days), "{}", text);
        }

        // The range of PostgreSQL's timestamp, 4714-11-24 BC to 294276-12-31.
        #[test]
        fn a_timestamp_comes_back_as_it_was(
            micros in -211_813_488_000_000_000_i64..9_223_371_331_200_000_000,
        ) {
            let mut text = String::new();
            write_timestamp(micros, 'T', true, &mut text);
            prop_assert_eq!(parse_timestamptz(&text), Some(micros), "{}", text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9TZ:.+ BC-]{0,40}") {
            let _ = parse_date(&text);
            let _ = parse_timestamp(&text);
            let _ = parse_timestamptz(&text);
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
