//! The texts that PostgreSQL writes for intervals, ranges, arrays and rows, taken apart.
//!
//! Sources: the manual, "Date/Time Types" (interval output, style `postgres`), "Arrays" (array input
//! and output syntax), "Range Types" and "Composite Types".

/// A range.
pub(super) enum Range {
    /// The range without a value.
    Empty,
    /// The values between two bounds, with their brackets. A bound is `None` if the range has no end
    /// there.
    Between {
        opens: char,
        lower: Option<String>,
        upper: Option<String>,
        closes: char,
    },
}

/// An element of an array: a value, `None` if NULL, or an array of the next dimension.
pub(super) enum Element {
    Value(Option<String>),
    Array(Vec<Element>),
}

/// Returns the length of an interval in microseconds, as PostgreSQL compares intervals: a month has
/// 30 days, and a day 24 hours. Returns `None` if the text is no finite interval in the style
/// `postgres`.
pub(super) fn interval(text: &str) -> Option<i128> {
    const SECOND: i128 = 1_000_000;
    const DAY: i128 = 86_400 * SECOND;
    let mut span = 0;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word.contains(':') {
            span += time(word)?;
            continue;
        }
        let number: i128 = word.parse().ok()?;
        let unit = match words.next()?.trim_end_matches('s') {
            "year" => 360 * DAY,
            "mon" => 30 * DAY,
            "day" => DAY,
            _ => return None,
        };
        span += number * unit;
    }
    Some(span)
}

/// Returns the microseconds of `[-]HH:MM:SS[.ffffff]`.
fn time(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut parts = digits.split(':');
    let hours: i128 = parts.next()?.parse().ok()?;
    let minutes: i128 = parts.next()?.parse().ok()?;
    let (seconds, fraction) = match parts.next()?.split_once('.') {
        None => (digits.rsplit(':').next()?, ""),
        Some(seconds_and_fraction) => seconds_and_fraction,
    };
    let seconds: i128 = seconds.parse().ok()?;
    let fraction: i128 = format!("{fraction:0<6}").parse().ok()?;
    let whole = (hours * 60 + minutes) * 60 + seconds;
    Some(sign * (whole * 1_000_000 + fraction))
}

/// A text that is taken apart from its beginning.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.0 = &self.0[next.len_utf8()..];
        Some(next)
    }

    /// Takes the next character if it is this one.
    fn takes(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.next();
        }
        is_next
    }

    /// Takes a value that ends before one of these characters, with its quotes and escapes undone.
    /// Returns whether a part of the value was in quotes. In quotes, a quote is written twice or
    /// behind a backslash.
    fn value(&mut self, ends: &str) -> Option<(String, bool)> {
        let mut value = String::new();
        let mut was_quoted = false;
        loop {
            match self.peek()? {
                c if ends.contains(c) => return Some((value, was_quoted)),
                '"' => {
                    was_quoted = true;
                    self.next();
                    self.quoted(&mut value)?;
                }
                '\\' => {
                    self.next();
                    value.push(self.next()?);
                }
                c => {
                    self.next();
                    value.push(c);
                }
            }
        }
    }

    /// Takes the rest of a quoted part, with the quote at its end.
    fn quoted(&mut self, value: &mut String) -> Option<()> {
        loop {
            match self.next()? {
                '"' if !self.takes('"') => return Some(()),
                '\\' => value.push(self.next()?),
                c => value.push(c),
            }
        }
    }
}

/// Takes a range apart; `None` if the text is none.
pub(super) fn range(text: &str) -> Option<Range> {
    if text == "empty" {
        return Some(Range::Empty);
    }
    let mut reader = Reader(text);
    let opens = reader.next().filter(|c| "[(".contains(*c))?;
    let lower = bound(reader.value(",")?);
    reader.next();
    let upper = bound(reader.value(")]")?);
    let closes = reader.next()?;
    reader.0.is_empty().then_some(Range::Between {
        opens,
        lower,
        upper,
        closes,
    })
}

/// Returns a bound of a range: one that is not written, not even as an empty text, is none.
fn bound((value, was_quoted): (String, bool)) -> Option<String> {
    (was_quoted || !value.is_empty()).then_some(value)
}

/// Returns the ranges of a multirange; `None` if the text is none.
pub(super) fn ranges(text: &str) -> Option<Vec<&str>> {
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut ranges = Vec::new();
    while !rest.is_empty() {
        let mut reader = Reader(rest);
        reader.next().filter(|c| "[(".contains(*c))?;
        reader.value(",")?;
        reader.next();
        reader.value(")]")?;
        reader.next();
        let length = rest.len() - reader.0.len();
        ranges.push(&rest[..length]);
        reader.takes(',');
        rest = reader.0;
    }
    Some(ranges)
}

/// Returns the dimensions of an array, empty if they are the usual ones, and its elements; `None` if
/// the text is no array.
pub(super) fn array(text: &str) -> Option<(&str, Vec<Element>)> {
    let (dimensions, content) = if text.starts_with('[') {
        text.split_once('=')?
    } else {
        ("", text)
    };
    let mut reader = Reader(content);
    let elements = elements(&mut reader)?;
    reader.0.is_empty().then_some((dimensions, elements))
}

/// Takes the elements between two braces.
fn elements(reader: &mut Reader<'_>) -> Option<Vec<Element>> {
    if !reader.takes('{') {
        return None;
    }
    let mut elements = Vec::new();
    if reader.takes('}') {
        return Some(elements);
    }
    loop {
        if reader.peek() == Some('{') {
            elements.push(Element::Array(self::elements(reader)?));
        } else {
            let (value, was_quoted) = reader.value(",}")?;
            let is_null = !was_quoted && value == "NULL";
            elements.push(Element::Value((!is_null).then_some(value)));
        }
        match reader.next()? {
            ',' => {}
            '}' => return Some(elements),
            _ => return None,
        }
    }
}

/// Returns the fields of a row of so many, `None` of one that is NULL; `None` if the text is no row.
pub(super) fn composite(text: &str, count: usize) -> Option<Vec<Option<String>>> {
    let mut reader = Reader(text);
    if !reader.takes('(') {
        return None;
    }
    let mut fields = Vec::new();
    // A row of one NULL is written like a row without fields.
    if text == "()" && count == 0 {
        return Some(fields);
    }
    loop {
        fields.push(bound(reader.value(",)")?));
        if reader.next()? == ')' {
            break;
        }
    }
    reader.0.is_empty().then_some(fields)
}
