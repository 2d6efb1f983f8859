//! Typed cells: one representation for a value, whether it came from COPY or from a payload.
//!
//! A cell is bytes whose meaning is its column's [`CellType`]. Fixed-width kinds are little-endian, so
//! that a row keeps them in place; the others are as long as they are. Both sources give the same
//! bytes for the same value: that is what lets a cache be compared with its table.
//!
//! ```text
//! COPY … (FORMAT binary) ──→ CellType::from_binary ─┐
//!                                               ├─→ cell ──→ CellType::write_json, CellType::write_text
//! payload "data" ──────────→ CellType::from_json ───┘        └─→ CellType::comparable (what `=` compares)
//! ```
//!
//! What has no native codec is [`CellType::Other`]: the text of PostgreSQL's own `to_json`, which COPY
//! is asked for and which a payload holds. `to_json` calls a cast to json where the type's owner
//! has made one, with the rights of whoever reads: so of a type that is not built in the text is
//! taken that its output function writes ([`CellType::Written`]).

mod datetime;
mod json_text;
mod number;

use std::borrow::Cow;
use uuid::Uuid;

pub(crate) use json_text::write_json_string;
pub use json_text::{is_obeyed, one_line_json};

/// How the values of a column are kept. By the column's base type: a domain is kept as what it is a
/// domain over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellType {
    /// `boolean`: one byte, 0 or 1.
    Bool,
    /// `smallint`.
    Int2,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `real`: the bits.
    Float4,
    /// `double precision`: the bits.
    Float8,
    /// `uuid`: its 16 bytes.
    Uuid,
    /// `date`: days since 2000-01-01; the extremes are the infinities.
    Date,
    /// `timestamp`: microseconds since 2000-01-01; the extremes are the infinities.
    Timestamp,
    /// `timestamp with time zone`: microseconds since 2000-01-01 UTC; the extremes are the
    /// infinities.
    Timestamptz,
    /// `numeric`: its text with every digit, as PostgreSQL writes it.
    Numeric,
    /// `text`, `varchar`, `name`: UTF-8.
    Text,
    /// `char(n)`: UTF-8, padded with blanks, which `=` ignores.
    Bpchar,
    /// `bytea`: the bytes.
    Bytea,
    /// `json`: its text, without white space around it.
    Json,
    /// `jsonb`: the text that PostgreSQL writes for it.
    Jsonb,
    /// Every other type that is built in: the text of `to_json`.
    Other,
    /// A type that is not built in (an enum, a composite type, a type of an extension): the text
    /// that its output function writes.
    Written,
    /// An array of such a type, of any dimension: the text of the JSON array of its elements'
    /// texts.
    WrittenArray,
}

/// Why a value could not become a cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not a value of kind {kind:?}")]
pub struct CellError {
    /// The value, shortened.
    pub what: String,
    /// What it should have been.
    pub kind: CellType,
}

impl CellType {
    /// The kind for the oid of a base type (`pg_type.oid`, never that of a domain).
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

    /// The bytes that a cell of this kind takes, when all take the same.
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

    /// Whether columns of this kind are indexed when the table is loaded; others are on first use.
    pub fn is_indexed_at_load(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8 | Self::Uuid)
    }

    /// Whether a column of this kind can hold a JSON null that is not SQL NULL.
    pub fn has_json_null(self) -> bool {
        matches!(self, Self::Json | Self::Jsonb)
    }

    /// The SQL expression that gives a value of this kind in the form
    /// [`from_binary`](Self::from_binary) reads.
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

    /// The SQL expression of a value that `to_json` and its like can be given without calling a
    /// cast that somebody has made.
    pub fn json_argument(self, value: &str) -> String {
        match self {
            Self::Written => output_text(value),
            // The text of an array is read as one of texts, whatever its elements are.
            Self::WrittenArray => format!("{}::pg_catalog.text[]", output_text(value)),
            _ => value.to_string(),
        }
    }

    /// Appends the cell for a value in PostgreSQL's binary format.
    ///
    /// # Errors
    /// When the bytes are not a value of this kind; `cell` is left as it was.
    pub fn from_binary(self, bytes: &[u8], cell: &mut Vec<u8>) -> Result<(), CellError> {
        let bad = || CellError {
            what: format!("a binary value of {} bytes", bytes.len()),
            kind: self,
        };
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
                    return Err(bad());
                }
                let start = cell.len();
                cell.extend(bytes.iter().rev());
                // Of the many NaNs that a float can be, a payload's text gives one: so does COPY.
                if self == Self::Float4 && f32::from_le_bytes(fixed(&cell[start..])).is_nan() {
                    cell[start..].copy_from_slice(&f32::NAN.to_le_bytes());
                } else if self == Self::Float8 && f64::from_le_bytes(fixed(&cell[start..])).is_nan()
                {
                    cell[start..].copy_from_slice(&f64::NAN.to_le_bytes());
                }
            }
            Self::Uuid => cell.extend(<&[u8; 16]>::try_from(bytes).map_err(|_| bad())?),
            Self::Numeric => number::write_binary_numeric(bytes, cell).ok_or_else(bad)?,
            Self::Text | Self::Bpchar | Self::Other | Self::Written | Self::WrittenArray => {
                cell.extend(std::str::from_utf8(bytes).map_err(|_| bad())?.as_bytes());
            }
            Self::Json => cell
                .extend(json_text::trim(std::str::from_utf8(bytes).map_err(|_| bad())?).as_bytes()),
            Self::Jsonb => match bytes {
                [1, text @ ..] => {
                    cell.extend(std::str::from_utf8(text).map_err(|_| bad())?.as_bytes());
                }
                _ => return Err(bad()),
            },
            Self::Bytea => cell.extend(bytes),
        }
        Ok(())
    }

    /// Appends the cell for a value in JSON as `row_to_json` writes it; the value is not SQL NULL.
    /// `raw` is one JSON value without white space around it, which a parser has seen to be valid.
    ///
    /// # Errors
    /// When the JSON is not a value of this kind; `cell` is left as it was.
    pub fn from_json(self, raw: &str, cell: &mut Vec<u8>) -> Result<(), CellError> {
        let bad = || CellError {
            what: json_text::excerpt(raw),
            kind: self,
        };
        match self {
            Self::Bool => cell.push(match raw {
                "true" => 1,
                "false" => 0,
                _ => return Err(bad()),
            }),
            Self::Int2 => cell.extend(raw.parse::<i16>().map_err(|_| bad())?.to_le_bytes()),
            Self::Int4 => cell.extend(raw.parse::<i32>().map_err(|_| bad())?.to_le_bytes()),
            Self::Int8 => cell.extend(raw.parse::<i64>().map_err(|_| bad())?.to_le_bytes()),
            // NaN and the infinities are strings in JSON.
            Self::Float4 => {
                let text = json_text::unquote(raw).unwrap_or(Cow::Borrowed(raw));
                cell.extend(
                    number::parse_float::<f32>(&text)
                        .ok_or_else(bad)?
                        .to_le_bytes(),
                );
            }
            Self::Float8 => {
                let text = json_text::unquote(raw).unwrap_or(Cow::Borrowed(raw));
                cell.extend(
                    number::parse_float::<f64>(&text)
                        .ok_or_else(bad)?
                        .to_le_bytes(),
                );
            }
            Self::Numeric => {
                let text = json_text::unquote(raw).unwrap_or(Cow::Borrowed(raw));
                cell.extend(number::canonical_numeric(&text).ok_or_else(bad)?.as_bytes());
            }
            Self::Uuid => {
                let text = json_text::unquote(raw).ok_or_else(bad)?;
                cell.extend(Uuid::try_parse(&text).map_err(|_| bad())?.as_bytes());
            }
            Self::Date => {
                let text = json_text::unquote(raw).ok_or_else(bad)?;
                cell.extend(datetime::parse_date(&text).ok_or_else(bad)?.to_le_bytes());
            }
            Self::Timestamp => {
                let text = json_text::unquote(raw).ok_or_else(bad)?;
                cell.extend(
                    datetime::parse_timestamp(&text)
                        .ok_or_else(bad)?
                        .to_le_bytes(),
                );
            }
            Self::Timestamptz => {
                let text = json_text::unquote(raw).ok_or_else(bad)?;
                cell.extend(
                    datetime::parse_timestamptz(&text)
                        .ok_or_else(bad)?
                        .to_le_bytes(),
                );
            }
            Self::Text | Self::Bpchar | Self::Written => {
                cell.extend(json_text::unquote(raw).ok_or_else(bad)?.as_bytes());
            }
            Self::Bytea => {
                let text = json_text::unquote(raw).ok_or_else(bad)?;
                cell.extend(json_text::parse_bytea(&text).ok_or_else(bad)?);
            }
            Self::Json | Self::Jsonb | Self::Other | Self::WrittenArray => {
                cell.extend(json_text::trim(raw).as_bytes());
            }
        }
        Ok(())
    }

    /// Appends the value as PostgreSQL's own JSON has it (`row_to_json` under `TimeZone=UTC`,
    /// `extra_float_digits=1`, `bytea_output=hex`): integers and numerics keep every digit.
    pub fn write_json(self, cell: &[u8], json: &mut String) {
        match self {
            Self::Numeric => match text(cell) {
                number @ ("NaN" | "Infinity" | "-Infinity") => write_json_string(number, json),
                number => json.push_str(number),
            },
            Self::Float4 | Self::Float8 => {
                let start = json.len();
                self.write_text(cell, json);
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

    /// Appends the value as a person reads it: as psql prints it, except that what has no native
    /// codec is its JSON, without quotes where that is a string.
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
                out.write_str(&json_text::unquote(text(cell)).unwrap_or(Cow::Borrowed(text(cell))))
            }
        };
    }

    /// What PostgreSQL's `=` compares of a cell, as bytes: equal values give equal bytes.
    ///
    /// Numerics compare by value (1.10 is 1.1), NaN is equal to NaN, -0 to 0, and `char(n)` without
    /// its padding. Text compares by its bytes, as it does under every deterministic collation.
    pub fn comparable(self, cell: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Numeric => Cow::Borrowed(number::without_trailing_zeros(text(cell)).as_bytes()),
            Self::Float4 => {
                let value = f32::from_le_bytes(fixed(cell));
                if value.is_nan() || value == 0.0 {
                    Cow::Borrowed(if value.is_nan() { b"NaN" } else { b"0" })
                } else {
                    Cow::Borrowed(cell)
                }
            }
            Self::Float8 => {
                let value = f64::from_le_bytes(fixed(cell));
                if value.is_nan() || value == 0.0 {
                    Cow::Borrowed(if value.is_nan() { b"NaN" } else { b"0" })
                } else {
                    Cow::Borrowed(cell)
                }
            }
            Self::Bpchar => Cow::Borrowed(text(cell).trim_end_matches(' ').as_bytes()),
            _ => Cow::Borrowed(cell),
        }
    }
}

/// The SQL expression of the text that a value's output function writes, NULL for NULL. A cast to
/// text is not that: the owner of a type may have made one.
pub fn output_text(value: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.num_nonnulls({value}) OPERATOR(pg_catalog.=) 1 THEN \
        pg_catalog.concat({value}) END"
    )
}

/// The bytes of a fixed-width cell. A cell of another width cannot be made (`from_binary`,
/// `from_json` check or write the width); it would read as zero.
fn fixed<const N: usize>(cell: &[u8]) -> [u8; N] {
    cell.try_into().unwrap_or([0; N])
}

fn int8(cell: &[u8]) -> i64 {
    i64::from_le_bytes(fixed(cell))
}

/// The text of a cell that was checked to be UTF-8 when it was made.
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
                let is_text = matches!(kind, CellType::Text | CellType::Bpchar | CellType::Bytea)
                    && raw.starts_with('"');
                assert_eq!(from_json(kind, raw).is_ok(), is_text, "{kind:?} from {raw}");
            }
            let mut cell = Vec::new();
            if kind.width().is_some() || kind == CellType::Numeric {
                assert!(kind.from_binary(&[1, 2, 3], &mut cell).is_err(), "{kind:?}");
                assert!(cell.is_empty());
            }
        }
        assert!(
            CellType::Text
                .from_binary(&[0xff], &mut Vec::new())
                .is_err()
        );
        assert!(
            CellType::Jsonb
                .from_binary(&[2, b'1'], &mut Vec::new())
                .is_err()
        );
    }

    #[test]
    fn every_nan_is_the_same_cell() {
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
        let same = |kind: CellType, a: &str, b: &str| {
            let a = from_json(kind, a).unwrap();
            let b = from_json(kind, b).unwrap();
            kind.comparable(&a) == kind.comparable(&b)
        };
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
