//! Typed cells: one representation for the values from COPY and those from payloads.
//!
//! A cell is bytes whose meaning is its column's [`CellType`]. Cells of fixed-width types are
//! little-endian and stand in a row's fixed part; other cells are as long as their value. Both
//! sources give the same bytes for the same value. Without that, no cache could be compared with
//! its table.
//!
//! ```text
//! COPY … (FORMAT binary) ─→ from_binary ─┐        ┌─→ write_json, write_text
//!                                        ├─→ cell ┤
//! payload "data" ─────────→ from_json ───┘        └─→ comparable (the bytes that `=` compares)
//! ```
//!
//! A built-in type without a codec here is [`CellType::Other`]: the text of PostgreSQL's own
//! `to_json`, which is in a payload, and which COPY is asked for. For other types `to_json` is not
//! safe: if the type's owner has made a cast to json, `to_json` calls the cast, with the rights of
//! the reader. A type that is not built in is therefore kept as the text that its output function
//! writes ([`CellType::Written`]).

mod datetime;
mod json_text;
mod number;
mod order;

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use uuid::Uuid;

pub(crate) use json_text::write_json_string;
pub use json_text::{is_obeyed, one_line_json};

/// The form in which the values of a column are kept, by the column's base type. The
/// values of a domain are kept like those of the type under the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellType {
    /// `boolean`: one byte, 0 or 1.
    Bool,
    /// `smallint`: two bytes.
    Int2,
    /// `integer`: four bytes.
    Int4,
    /// `bigint`: eight bytes.
    Int8,
    /// `real`: the bits, with one NaN for all.
    Float4,
    /// `double precision`: the bits, with one NaN for all.
    Float8,
    /// `uuid`: the 16 bytes.
    Uuid,
    /// `date`: days since 2000-01-01 in four bytes. The extremes are the infinities.
    Date,
    /// `timestamp`: microseconds since 2000-01-01 in eight bytes. The extremes are the infinities.
    Timestamp,
    /// `timestamp with time zone`: microseconds since 2000-01-01 UTC in eight bytes. The extremes
    /// are the infinities.
    Timestamptz,
    /// `numeric`: the text with every digit, as PostgreSQL writes it.
    Numeric,
    /// `text`, `varchar`, `name`: UTF-8.
    Text,
    /// `char(n)`: UTF-8, padded with blanks, which `=` ignores.
    Bpchar,
    /// `bytea`: the bytes.
    Bytea,
    /// `json`: the text, without white space around the value.
    Json,
    /// `jsonb`: the text that PostgreSQL writes for the value.
    Jsonb,
    /// Every other built-in type: the text of `to_json`.
    Other,
    /// A type that is not built in (an enum, a composite type, a type of an extension): the text
    /// that the type's output function writes.
    Written,
    /// An array of [`Written`](Self::Written) elements, of any dimension: the text of the JSON
    /// array of the elements' texts.
    WrittenArray,
}

/// A value that is not one of its column's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not a value of {}", kind.described())]
pub struct CellError {
    /// The value, shortened.
    pub what: String,
    /// The type that was expected.
    pub kind: CellType,
}

impl CellType {
    /// Returns the type for the oid of a base type (`pg_type.oid`, never that of a domain). The
    /// caller must have seen that the type is built in.
    pub fn of_base_type(oid: u32) -> Self {
        match oid {
            16 => Self::Bool,
            21 => Self::Int2,
            23 => Self::Int4,
            20 => Self::Int8,
            700 => Self::Float4,
            701 => Self::Float8,
            2950 => Self::Uuid,
            1082 => Self::Date,
            1114 => Self::Timestamp,
            1184 => Self::Timestamptz,
            1700 => Self::Numeric,
            19 | 25 | 1043 => Self::Text,
            1042 => Self::Bpchar,
            17 => Self::Bytea,
            114 => Self::Json,
            3802 => Self::Jsonb,
            _ => Self::Other,
        }
    }

    /// Returns the type for an error message: what comes after "not a value of".
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Bool => "type boolean",
            Self::Int2 => "type smallint",
            Self::Int4 => "type integer",
            Self::Int8 => "type bigint",
            Self::Float4 => "type real",
            Self::Float8 => "type double precision",
            Self::Uuid => "type uuid",
            Self::Date => "type date",
            Self::Timestamp => "type timestamp",
            Self::Timestamptz => "type timestamp with time zone",
            Self::Numeric => "type numeric",
            Self::Text => "type text",
            Self::Bpchar => "type char(n)",
            Self::Bytea => "type bytea",
            Self::Json => "type json",
            Self::Jsonb => "type jsonb",
            // These stand for many types, whose names are not known here.
            Self::Other | Self::Written => "the column's type",
            Self::WrittenArray => "the column's array type",
        }
    }

    /// Returns the length in bytes of a cell; `None` if not all cells of this type are equally
    /// long.
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Bool => Some(1),
            Self::Int2 => Some(2),
            Self::Int4 | Self::Float4 | Self::Date => Some(4),
            Self::Int8 | Self::Float8 | Self::Timestamp | Self::Timestamptz => Some(8),
            Self::Uuid => Some(16),
            Self::Numeric
            | Self::Text
            | Self::Bpchar
            | Self::Bytea
            | Self::Json
            | Self::Jsonb
            | Self::Other
            | Self::Written
            | Self::WrittenArray => None,
        }
    }

    /// Returns whether columns of this type have an index from the start. Other columns have none
    /// until [`TableCache::ensure_index`](crate::tooling::TableCache::ensure_index) is called for
    /// them.
    pub fn is_indexed_at_load(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8 | Self::Uuid)
    }

    /// Returns whether a column of this type can hold a JSON null that is not SQL NULL.
    pub fn has_json_null(self) -> bool {
        matches!(self, Self::Json | Self::Jsonb)
    }

    /// Returns the SQL expression that COPY must select so that
    /// [`from_binary`](Self::from_binary) can read the value. `value` is the SQL expression of the
    /// value.
    pub fn select_expression(self, value: &str) -> String {
        match self {
            Self::Other | Self::WrittenArray => {
                format!(
                    "pg_catalog.to_json({})::pg_catalog.text",
                    self.json_argument(value)
                )
            }
            _ => self.json_argument(value),
        }
    }

    /// Returns the SQL expression to pass to `to_json` and similar functions in place of `value`,
    /// so that they call no cast which somebody has made for the value's type.
    pub fn json_argument(self, value: &str) -> String {
        match self {
            Self::Written => output_text(value),
            // The text of an array of any type can be read as that of an array of texts.
            Self::WrittenArray => format!("{}::pg_catalog.text[]", output_text(value)),
            _ => value.to_string(),
        }
    }

    /// Appends the cell for a value in PostgreSQL's binary format.
    ///
    /// # Errors
    /// If the bytes are not a value of this type. `cell` is unchanged then.
    pub fn from_binary(self, bytes: &[u8], cell: &mut Vec<u8>) -> Result<(), CellError> {
        self.append_binary(bytes, cell).ok_or_else(|| CellError {
            what: format!("a binary value of {} bytes", bytes.len()),
            kind: self,
        })
    }

    /// Does the work of [`from_binary`](Self::from_binary). Returns `None` if the bytes are not a
    /// value of this type.
    fn append_binary(self, bytes: &[u8], cell: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool
            | Self::Int2
            | Self::Int4
            | Self::Int8
            | Self::Float4
            | Self::Float8
            | Self::Date
            | Self::Timestamp
            | Self::Timestamptz => {
                if self.width() != Some(bytes.len()) {
                    return None;
                }
                let start = cell.len();
                cell.extend(bytes.iter().rev());
                // A float has many NaNs, and COPY sends the very bits. A payload says "NaN" for all
                // of them: one cell for all lets a cache be compared with its table.
                if self == Self::Float4 && f32::from_le_bytes(fixed(&cell[start..])).is_nan() {
                    cell[start..].copy_from_slice(&f32::NAN.to_le_bytes());
                } else if self == Self::Float8 && f64::from_le_bytes(fixed(&cell[start..])).is_nan()
                {
                    cell[start..].copy_from_slice(&f64::NAN.to_le_bytes());
                }
            }
            Self::Uuid => cell.extend(<&[u8; 16]>::try_from(bytes).ok()?),
            Self::Numeric => number::write_binary_numeric(bytes, cell)?,
            Self::Text | Self::Bpchar | Self::Other | Self::Written | Self::WrittenArray => {
                cell.extend(std::str::from_utf8(bytes).ok()?.as_bytes());
            }
            // A payload's parser takes off the white space around a value, so COPY's must go too.
            Self::Json => {
                let text = std::str::from_utf8(bytes).ok()?;
                cell.extend(json_text::trim(text).as_bytes());
            }
            // `jsonb_send` puts the number of the format, 1, before the text.
            Self::Jsonb => {
                let [1, text @ ..] = bytes else { return None };
                cell.extend(std::str::from_utf8(text).ok()?.as_bytes());
            }
            Self::Bytea => cell.extend(bytes),
        }
        Some(())
    }

    /// Appends the cell for a value in JSON as `row_to_json` writes it. The value is not SQL NULL.
    /// `raw` is one JSON value, already seen to be valid by a parser, with no white space around.
    ///
    /// # Errors
    /// If the JSON is not a value of this type. `cell` is unchanged then.
    pub fn from_json(self, raw: &str, cell: &mut Vec<u8>) -> Result<(), CellError> {
        self.append_json(raw, cell).ok_or_else(|| CellError {
            what: json_text::excerpt(raw),
            kind: self,
        })
    }

    /// Does the work of [`from_json`](Self::from_json). Returns `None` if the JSON is not a value
    /// of this type.
    fn append_json(self, raw: &str, cell: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool => cell.push(match raw {
                "true" => 1,
                "false" => 0,
                _ => return None,
            }),
            Self::Int2 => cell.extend(raw.parse::<i16>().ok()?.to_le_bytes()),
            Self::Int4 => cell.extend(raw.parse::<i32>().ok()?.to_le_bytes()),
            // The trigger option `long_numbers_as_text` puts long ones in quotes.
            Self::Int8 => {
                let digits = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
                cell.extend(digits.unwrap_or(raw).parse::<i64>().ok()?.to_le_bytes());
            }
            // JSON has no number for NaN and the infinities: PostgreSQL writes them as strings.
            Self::Float4 => {
                let text = json_text::unquote(raw).unwrap_or(Cow::Borrowed(raw));
                cell.extend(number::parse_float::<f32>(&text)?.to_le_bytes());
            }
            Self::Float8 => {
                let text = json_text::unquote(raw).unwrap_or(Cow::Borrowed(raw));
                cell.extend(number::parse_float::<f64>(&text)?.to_le_bytes());
            }
            Self::Numeric => {
                let text = json_text::unquote(raw).unwrap_or(Cow::Borrowed(raw));
                cell.extend(number::canonical_numeric(&text)?.as_bytes());
            }
            Self::Uuid => {
                let text = json_text::unquote(raw)?;
                cell.extend(Uuid::try_parse(&text).ok()?.as_bytes());
            }
            Self::Date => {
                let text = json_text::unquote(raw)?;
                cell.extend(datetime::parse_date(&text)?.to_le_bytes());
            }
            Self::Timestamp => {
                let text = json_text::unquote(raw)?;
                cell.extend(datetime::parse_timestamp(&text)?.to_le_bytes());
            }
            Self::Timestamptz => {
                let text = json_text::unquote(raw)?;
                cell.extend(datetime::parse_timestamptz(&text)?.to_le_bytes());
            }
            Self::Text | Self::Bpchar | Self::Written => {
                cell.extend(json_text::unquote(raw)?.as_bytes());
            }
            Self::Bytea => {
                let text = json_text::unquote(raw)?;
                cell.extend(json_text::parse_bytea(&text)?);
            }
            Self::Json | Self::Jsonb | Self::Other | Self::WrittenArray => {
                cell.extend(json_text::trim(raw).as_bytes());
            }
        }
        Some(())
    }

    /// Appends the value in the JSON that PostgreSQL writes (`row_to_json` under `TimeZone=UTC`,
    /// `extra_float_digits=1`, `bytea_output=hex`). Integers and numerics keep every digit.
    pub fn write_json(self, cell: &[u8], json: &mut String) {
        match self {
            Self::Numeric => match text(cell) {
                // JSON has no number for these.
                number @ ("NaN" | "Infinity" | "-Infinity") => write_json_string(number, json),
                number => json.push_str(number),
            },
            Self::Float4 | Self::Float8 => {
                let start = json.len();
                self.write_text(cell, json);
                // NaN and the infinities are the only floats that end with a letter.
                if !json.ends_with(|last: char| last.is_ascii_digit()) {
                    json.insert(start, '"');
                    json.push('"');
                }
            }
            Self::Bool | Self::Int2 | Self::Int4 | Self::Int8 => self.write_text(cell, json),
            Self::Uuid | Self::Date | Self::Bytea => {
                let start = json.len();
                json.push('"');
                self.write_text(cell, json);
                // `\x00ff` needs an escape in JSON; dates and uuids need none.
                if self == Self::Bytea {
                    json.insert(start + 1, '\\');
                }
                json.push('"');
            }
            Self::Timestamp | Self::Timestamptz => {
                json.push('"');
                datetime::write_timestamp(int8(cell), 'T', self == Self::Timestamptz, json);
                json.push('"');
            }
            Self::Text | Self::Bpchar | Self::Written => write_json_string(text(cell), json),
            Self::Json | Self::Jsonb | Self::Other | Self::WrittenArray => {
                json.push_str(text(cell));
            }
        }
    }

    /// Appends the value as psql prints it. A value of a type without a codec here is appended as
    /// JSON instead, without the quotes if it is a JSON string.
    pub fn write_text(self, cell: &[u8], out: &mut String) {
        use std::fmt::Write as _;
        // Writing into a String cannot fail.
        let _ = match self {
            Self::Bool => write!(out, "{}", cell.first() == Some(&1)),
            Self::Int2 => write!(out, "{}", i16::from_le_bytes(fixed(cell))),
            Self::Int4 => write!(out, "{}", i32::from_le_bytes(fixed(cell))),
            Self::Int8 => write!(out, "{}", int8(cell)),
            Self::Float4 => {
                number::write_float4(f32::from_le_bytes(fixed(cell)), out);
                Ok(())
            }
            Self::Float8 => {
                number::write_float8(f64::from_le_bytes(fixed(cell)), out);
                Ok(())
            }
            Self::Uuid => write!(out, "{}", Uuid::from_bytes(fixed(cell))),
            Self::Date => {
                datetime::write_date(i32::from_le_bytes(fixed(cell)), out);
                Ok(())
            }
            Self::Timestamp | Self::Timestamptz => {
                datetime::write_timestamp(int8(cell), ' ', self == Self::Timestamptz, out);
                Ok(())
            }
            Self::Numeric
            | Self::Text
            | Self::Bpchar
            | Self::Json
            | Self::Jsonb
            | Self::Written => out.write_str(text(cell)),
            Self::Bytea => {
                out.push_str("\\x");
                cell.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
            }
            Self::Other | Self::WrittenArray => {
                let json = text(cell);
                out.write_str(&json_text::unquote(json).unwrap_or(Cow::Borrowed(json)))
            }
        };
    }

    /// Returns bytes that are equal exactly if PostgreSQL's `=` holds for the values.
    ///
    /// Numerics compare by value: 1.10 is equal to 1.1. NaN is equal to NaN, and -0 to 0. `char(n)`
    /// compares without its padding. Text compares by its bytes, as PostgreSQL does under every
    /// deterministic collation. A type without a codec here compares by its text.
    pub fn comparable(self, cell: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Numeric => Cow::Borrowed(number::without_trailing_zeros(text(cell)).as_bytes()),
            // Neither form is as long as a float's own bytes, so it cannot be another value's.
            Self::Float4 => match f32::from_le_bytes(fixed(cell)) {
                value if value.is_nan() => Cow::Borrowed(b"NaN"),
                0.0 => Cow::Borrowed(b"0"),
                _ => Cow::Borrowed(cell),
            },
            Self::Float8 => match f64::from_le_bytes(fixed(cell)) {
                value if value.is_nan() => Cow::Borrowed(b"NaN"),
                0.0 => Cow::Borrowed(b"0"),
                _ => Cow::Borrowed(cell),
            },
            Self::Bpchar => Cow::Borrowed(text(cell).trim_end_matches(' ').as_bytes()),
            _ => Cow::Borrowed(cell),
        }
    }

    /// Returns whether PostgreSQL's `=` holds for two values exactly if their cells are equal. For
    /// such a type [`comparable`](Self::comparable) returns every cell as it is.
    pub(crate) fn compares_by_cell(self) -> bool {
        match self {
            Self::Numeric | Self::Float4 | Self::Float8 | Self::Bpchar => false,
            Self::Bool
            | Self::Int2
            | Self::Int4
            | Self::Int8
            | Self::Uuid
            | Self::Date
            | Self::Timestamp
            | Self::Timestamptz
            | Self::Text
            | Self::Bytea
            | Self::Json
            | Self::Jsonb
            | Self::Other
            | Self::Written
            | Self::WrittenArray => true,
        }
    }
}

/// Returns the SQL expression of the text that the output function of a value's type writes; NULL
/// for NULL. `value` is the SQL expression of the value.
pub fn output_text(value: &str) -> String {
    // Not `::text`: the owner of a type may have made a cast to text. `concat` always calls the
    // output function, but writes NULL as the empty text: hence the CASE. Not `IS NULL`, which is
    // true of a composite value all of whose fields are NULL.
    format!(
        "CASE WHEN pg_catalog.num_nonnulls({value}) OPERATOR(pg_catalog.=) 1 THEN \
        pg_catalog.concat({value}) END"
    )
}

/// Returns the bytes of a fixed-width cell. A cell of another width would read as zero, but cannot
/// be made: `from_binary` checks the width, and `from_json` writes it.
fn fixed<const N: usize>(cell: &[u8]) -> [u8; N] {
    cell.try_into().unwrap_or([0; N])
}

fn int8(cell: &[u8]) -> i64 {
    i64::from_le_bytes(fixed(cell))
}

/// Returns the text of a cell, which was checked to be UTF-8 when the cell was made.
fn text(cell: &[u8]) -> &str {
    std::str::from_utf8(cell).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_json(kind: CellType, raw: &str) -> Result<Vec<u8>, CellError> {
        let mut cell = Vec::new();
        kind.from_json(raw, &mut cell).map(|()| cell)
    }

    fn round_trip(kind: CellType, raw: &str) -> String {
        let mut json = String::new();
        kind.write_json(&from_json(kind, raw).unwrap(), &mut json);
        json
    }

    #[test]
    fn what_postgresql_writes_comes_back_as_it_was() {
        let cases = [
            (CellType::Bool, "true"),
            (CellType::Int2, "-32768"),
            (CellType::Int4, "2147483647"),
            (CellType::Int8, "9223372036854775807"),
            (CellType::Float8, "0.1"),
            (CellType::Float8, "1e+20"),
            (CellType::Float8, "-1.5e-07"),
            (CellType::Float8, "\"NaN\""),
            (CellType::Float8, "\"-Infinity\""),
            (CellType::Float8, "-0"),
            (CellType::Float4, "1e+06"),
            (CellType::Float4, "999999"),
            (CellType::Uuid, "\"550e8400-e29b-41d4-a716-446655440000\""),
            (CellType::Numeric, "1.10"),
            (CellType::Numeric, "123456789012345678901234567890.000"),
            (CellType::Numeric, "\"NaN\""),
            (CellType::Numeric, "\"-Infinity\""),
            (
                CellType::Text,
                r#""a \"quoted\" \\ line\nwith \u0001 and é""#,
            ),
            (CellType::Bytea, r#""\\x00ff""#),
            (CellType::Date, "\"2024-02-29\""),
            (CellType::Date, "\"0044-03-15 BC\""),
            (CellType::Date, "\"10000-01-01\""),
            (CellType::Date, "\"infinity\""),
            (CellType::Timestamp, "\"2024-02-29T23:59:59.000001\""),
            (CellType::Timestamp, "\"-infinity\""),
            (CellType::Timestamptz, "\"2024-02-29T23:59:59.12+00:00\""),
            (CellType::Timestamptz, "\"0001-01-01T00:00:00+00:00 BC\""),
            (CellType::Json, r#"{"a":1,  "a":2}"#),
            (CellType::Jsonb, r#"{"a": 1}"#),
            (CellType::Json, "null"),
            (CellType::Other, "\"1 day 02:00:00\""),
            (CellType::Other, "[1,2,null]"),
        ];
        for (kind, raw) in cases {
            assert_eq!(round_trip(kind, raw), raw, "{kind:?}");
        }
    }

    #[test]
    fn a_timestamptz_is_one_instant_whatever_offset_it_was_written_with() {
        // A payload has the offset of the writer's TimeZone, if its trigger does not pin one.
        for raw in [
            "\"2024-01-01T12:00:00+02:00\"",
            "\"2024-01-01T15:30:00+05:30\"",
            "\"2024-01-01T10:53:28+00:53:28\"",
        ] {
            assert_eq!(
                round_trip(CellType::Timestamptz, raw),
                "\"2024-01-01T10:00:00+00:00\""
            );
        }
    }

    #[test]
    fn bytea_is_read_in_both_of_its_formats() {
        // `bytea_output` of the writer decides.
        assert_eq!(
            from_json(CellType::Bytea, r#""\\x0041ff""#).unwrap(),
            from_json(CellType::Bytea, r#""\\000A\\377""#).unwrap()
        );
        assert_eq!(from_json(CellType::Bytea, r#""a\\\\b""#).unwrap(), b"a\\b");
    }

    #[test]
    fn a_value_of_another_kind_is_an_error_and_never_a_panic() {
        let kinds = [
            CellType::Bool,
            CellType::Int2,
            CellType::Int4,
            CellType::Int8,
            CellType::Float4,
            CellType::Float8,
            CellType::Uuid,
            CellType::Date,
            CellType::Timestamp,
            CellType::Timestamptz,
            CellType::Numeric,
            CellType::Text,
            CellType::Bpchar,
            CellType::Bytea,
        ];
        for kind in kinds {
            for raw in [
                "{}",
                "[1]",
                "null",
                "\"\\ud83d\\ude00 x\"",
                "1e999999",
                "\"9999999999-99-99\"",
                "\"2024-13-01\"",
                "\"-\"",
            ] {
                // Text takes every string, and so does bytea's escape format for these.
                let takes_strings =
                    matches!(kind, CellType::Text | CellType::Bpchar | CellType::Bytea);
                let is_ok = takes_strings && raw.starts_with('"');
                assert_eq!(from_json(kind, raw).is_ok(), is_ok, "{kind:?} from {raw}");
            }
            let mut cell = Vec::new();
            if kind.width().is_some() || kind == CellType::Numeric {
                assert!(kind.from_binary(&[1, 2, 3], &mut cell).is_err(), "{kind:?}");
                assert!(cell.is_empty());
            }
        }
        let mut cell = Vec::new();
        let not_utf8 = CellType::Text.from_binary(&[0xff], &mut cell);
        assert!(not_utf8.is_err());
        let jsonb_version_2 = CellType::Jsonb.from_binary(&[2, b'1'], &mut cell);
        assert!(jsonb_version_2.is_err());
    }

    #[test]
    fn every_nan_is_the_same_cell() {
        // A negative NaN, and one with a payload. Both are "NaN" in a notification: as other cells
        // than that, a comparison would find a difference.
        for (kind, binary) in [
            (CellType::Float8, &[0xff, 0xf8, 0, 0, 0, 0, 0, 0][..]),
            (CellType::Float4, &[0xff, 0xc0, 0, 1]),
        ] {
            let mut cell = Vec::new();
            kind.from_binary(binary, &mut cell).unwrap();
            assert_eq!(Ok(cell), from_json(kind, "\"NaN\""));
        }
    }

    #[test]
    fn values_that_are_equal_in_sql_compare_equal() {
        fn same(kind: CellType, a: &str, b: &str) -> bool {
            let a = from_json(kind, a).unwrap();
            let b = from_json(kind, b).unwrap();
            kind.comparable(&a) == kind.comparable(&b)
        }
        assert!(same(CellType::Numeric, "1.10", "1.1"));
        assert!(same(CellType::Numeric, "100", "100.000"));
        assert!(same(CellType::Numeric, "0.00", "0"));
        assert!(!same(CellType::Numeric, "100", "1"));
        assert!(same(CellType::Float8, "-0", "0"));
        assert!(same(CellType::Float8, "\"NaN\"", "\"NaN\""));
        assert!(same(CellType::Bpchar, "\"ab  \"", "\"ab\""));
        assert!(!same(CellType::Text, "\"ab  \"", "\"ab\""));
    }
}
