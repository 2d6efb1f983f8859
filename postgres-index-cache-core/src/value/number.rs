//! Numbers as PostgreSQL writes them: `numeric` with every digit, from its binary form or its text;
//! floats in the shortest form that reads back as the same value.

use std::cmp::Ordering;
use std::fmt::Write as _;

/// Appends the text of a `numeric` in binary format; `None` if `bytes` are not a `numeric`, with
/// nothing appended. The format is that of `numeric_send` in the server's `numeric.c`:
///
/// ```text
/// digit count · weight · sign · scale · digits to the base 10000     16 bits each
/// ```
///
/// The weight is the power of 10000 of the first digit. The scale is the number of decimals after
/// the point. Zeros at either end are not sent as digits.
pub(super) fn write_binary_numeric(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    fn field(head: [u8; 8], at: usize) -> u16 {
        u16::from_be_bytes([head[at], head[at + 1]])
    }
    let (&head, digits) = bytes.split_first_chunk::<8>()?;
    let count = field(head, 0) as usize;
    let weight = field(head, 2) as i16;
    let sign = field(head, 4);
    let scale = field(head, 6) as usize;
    if digits.len() != count * 2 {
        return None;
    }
    let special = match sign {
        0x0000 | 0x4000 => "",
        0xC000 => "NaN",
        0xD000 => "Infinity",
        0xF000 => "-Infinity",
        _ => return None,
    };
    if !special.is_empty() {
        out.extend(special.as_bytes());
        return Some(());
    }
    let negative = sign == 0x4000;
    let mut text = String::with_capacity(count * 4 + 8);
    if negative {
        text.push('-');
    }
    let weight = i32::from(weight);
    if weight < 0 {
        text.push('0');
    }
    for at in 0..=weight {
        let digit = base_10000_digit(digits, at)?;
        // Writing into a String cannot fail.
        let _ = if at == 0 {
            write!(text, "{digit}")
        } else {
            write!(text, "{digit:04}")
        };
    }
    if scale > 0 {
        text.push('.');
        let start = text.len();
        // With a weight below -1, this begins with digits before the first one: zeros.
        let mut at = weight + 1;
        while text.len() - start < scale {
            let _ = write!(text, "{:04}", base_10000_digit(digits, at)?);
            at += 1;
        }
        // The last digit has four decimals, of which the scale may have fewer.
        text.truncate(start + scale);
    }
    out.extend(text.as_bytes());
    Some(())
}

/// Returns digit `at` of a binary `numeric`; zero before the first and behind the last digit that
/// was sent. Returns `None` if the digit is not one to the base 10000.
fn base_10000_digit(digits: &[u8], at: i32) -> Option<u16> {
    let Ok(at) = usize::try_from(at) else {
        return Some(0);
    };
    match digits.get(at * 2..at * 2 + 2) {
        Some(pair) => Some(u16::from_be_bytes([pair[0], pair[1]])).filter(|&digit| digit < 10_000),
        None => Some(0),
    }
}

/// Returns `text` if it is a `numeric` as PostgreSQL writes one. An exponent is refused, since
/// `numeric_out` never writes one.
pub(super) fn canonical_numeric(text: &str) -> Option<&str> {
    fn is_number(part: &str) -> bool {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
    }
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Some(text);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    (is_number(whole) && is_number(fraction)).then_some(text)
}

/// Returns a number without the zeros at the end of its fraction. Equal values have equal text
/// then.
pub(super) fn without_trailing_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

/// Orders two numbers of type `numeric`, as PostgreSQL writes them. NaN is above all others.
pub(super) fn order_numerics(one: &str, other: &str) -> Ordering {
    let signs = sign(one).cmp(&sign(other));
    if signs != Ordering::Equal {
        return signs;
    }
    let sizes = order_sizes(one.trim_start_matches('-'), other.trim_start_matches('-'));
    if one.starts_with('-') {
        sizes.reverse()
    } else {
        sizes
    }
}

/// Returns the place of a number among -Infinity, negative numbers, the others, Infinity and NaN.
fn sign(text: &str) -> u8 {
    match text {
        "-Infinity" => 0,
        "Infinity" => 3,
        "NaN" => 4,
        text => 1 + u8::from(!text.starts_with('-')),
    }
}

/// Orders two numbers without a sign. Their integer parts have no zeros at the beginning.
fn order_sizes(one: &str, other: &str) -> Ordering {
    let (whole, fraction) = one.split_once('.').unwrap_or((one, ""));
    let (other_whole, other_fraction) = other.split_once('.').unwrap_or((other, ""));
    let wholes = whole
        .len()
        .cmp(&other_whole.len())
        .then_with(|| whole.cmp(other_whole));
    // A fraction that ends earlier is the smaller one: but for zeros, something comes behind.
    wholes.then_with(|| {
        let fraction = fraction.trim_end_matches('0');
        fraction.cmp(other_fraction.trim_end_matches('0'))
    })
}

/// The two float types, as far as [`parse_float`] needs them.
pub(super) trait Float: std::str::FromStr {
    /// The infinities with the names that PostgreSQL has for them.
    const INFINITE: [(&'static str, Self); 2];
    /// The one NaN that stands for all in a cell.
    const NAN: Self;
    /// Returns whether the value is neither infinite nor NaN.
    fn is_finite(&self) -> bool;
}

impl Float for f32 {
    const INFINITE: [(&'static str, Self); 2] = [
        ("Infinity", Self::INFINITY),
        ("-Infinity", Self::NEG_INFINITY),
    ];
    const NAN: Self = Self::NAN;
    fn is_finite(&self) -> bool {
        Self::is_finite(*self)
    }
}

impl Float for f64 {
    const INFINITE: [(&'static str, Self); 2] = [
        ("Infinity", Self::INFINITY),
        ("-Infinity", Self::NEG_INFINITY),
    ];
    const NAN: Self = Self::NAN;
    fn is_finite(&self) -> bool {
        Self::is_finite(*self)
    }
}

/// Returns the float that `text` spells as PostgreSQL does; `None` if there is none, or the number
/// is past the range of `F`.
pub(super) fn parse_float<F: Float>(text: &str) -> Option<F> {
    if text == "NaN" {
        return Some(F::NAN);
    }
    if let Some((_, value)) = F::INFINITE.into_iter().find(|(name, _)| *name == text) {
        return Some(value);
    }
    // Rust's parser takes "inf", "nan" and the like too, and rounds numbers past the range to
    // infinity: neither is a value that PostgreSQL writes.
    let is_number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    is_number
        .then(|| text.parse::<F>().ok())
        .flatten()
        .filter(F::is_finite)
}

/// Appends a `real` in PostgreSQL's shortest form, with an exponent for values below 1e-4 and from
/// 1e6 on.
pub(super) fn write_float4(value: f32, out: &mut String) {
    write_float(&format!("{value:e}"), 6, out);
}

/// Appends a `double precision` in PostgreSQL's shortest form, with an exponent for values below
/// 1e-4 and from 1e15 on.
pub(super) fn write_float8(value: f64, out: &mut String) {
    write_float(&format!("{value:e}"), 15, out);
}

/// Appends a float in PostgreSQL's form, with an exponent for values below 1e-4 and from
/// `10^exponent_from` on. `scientific` is Rust's shortest form that reads back as the same value:
/// `-1.25e-7`, `NaN`, `inf`.
fn write_float(scientific: &str, exponent_from: i32, out: &mut String) {
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        out.push_str(match scientific {
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            other => other,
        });
        return;
    };
    // Rust wrote the exponent, so it parses.
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |rest| ("-", rest));
    out.push_str(sign);
    if !(-4..exponent_from).contains(&exponent) {
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        // Writing into a String cannot fail.
        let _ = write!(out, "{mantissa}e{exponent_sign}{:02}", exponent.abs());
        return;
    }
    // Without an exponent: the point moves into the digits, or zeros fill the gap to it.
    let digits: String = mantissa.chars().filter(|&c| c != '.').collect();
    match usize::try_from(exponent + 1) {
        Ok(whole) if whole > 0 => {
            let point = whole.min(digits.len());
            out.push_str(&digits[..point]);
            out.extend(std::iter::repeat_n('0', whole - point));
            if digits.len() > point {
                out.push('.');
                out.push_str(&digits[point..]);
            }
        }
        _ => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', (-exponent - 1).max(0) as usize));
            out.push_str(&digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> String {
        let mut bytes = Vec::new();
        let head = [digits.len() as u16, weight as u16, sign, scale];
        for field in head.iter().chain(digits) {
            bytes.extend(field.to_be_bytes());
        }
        let mut out = Vec::new();
        write_binary_numeric(&bytes, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_binary_numeric_keeps_its_scale() {
        assert_eq!(numeric(0, 0, 2, &[1, 1000]), "1.10");
        assert_eq!(numeric(1, 0x4000, 0, &[12, 3400]), "-123400");
        assert_eq!(numeric(-1, 0, 6, &[1]), "0.000100");
        assert_eq!(numeric(-2, 0, 8, &[12]), "0.00000012");
        assert_eq!(numeric(2, 0, 0, &[1]), "100000000");
        assert_eq!(numeric(0, 0, 3, &[]), "0.000");
        assert_eq!(numeric(0, 0xC000, 0, &[]), "NaN");
    }

    #[test]
    fn a_forged_numeric_is_refused() {
        let too_few_digits = &[0, 9, 0, 0, 0, 0, 0, 0];
        let digit_of_10_000 = &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10];
        for bytes in [&[][..], too_few_digits, digit_of_10_000] {
            assert_eq!(write_binary_numeric(bytes, &mut Vec::new()), None);
        }
        for text in ["", "-", ".", "1.", ".1", "1e3", "0x1", "--1", "inf"] {
            assert_eq!(canonical_numeric(text), None, "{text}");
        }
    }

    #[test]
    fn floats_are_written_as_postgresql_writes_them() {
        fn float8(value: f64) -> String {
            let mut out = String::new();
            write_float8(value, &mut out);
            out
        }
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123_456.789, "123456.789"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
        ];
        for (value, text) in cases {
            assert_eq!(float8(value), text);
        }
    }
}
