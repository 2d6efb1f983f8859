//! [`CellType::order`]: which of two values is the greater one, as PostgreSQL's `<` says.

use super::{CellType, fixed, int8, number, text};
use std::cmp::Ordering;

impl CellType {
    /// Returns how two values compare; `None` if that depends on what a cell does not know: texts
    /// are ordered by a collation, enums by the order in which their labels were made.
    pub fn order(self, one: &[u8], other: &[u8]) -> Option<Ordering> {
        match self {
            // The bytes are in the order of the values.
            Self::Bool | Self::Uuid | Self::Bytea => Some(one.cmp(other)),
            Self::Int2 => {
                Some(i16::from_le_bytes(fixed(one)).cmp(&i16::from_le_bytes(fixed(other))))
            }
            Self::Int4 | Self::Date => {
                Some(i32::from_le_bytes(fixed(one)).cmp(&i32::from_le_bytes(fixed(other))))
            }
            Self::Int8 | Self::Timestamp | Self::Timestamptz => Some(int8(one).cmp(&int8(other))),
            Self::Float4 => {
                let one = f32::from_le_bytes(fixed(one));
                let other = f32::from_le_bytes(fixed(other));
                Some(order_floats(one.into(), other.into()))
            }
            Self::Float8 => Some(order_floats(
                f64::from_le_bytes(fixed(one)),
                f64::from_le_bytes(fixed(other)),
            )),
            Self::Numeric => Some(number::order_numerics(text(one), text(other))),
            Self::Text
            | Self::Bpchar
            | Self::Json
            | Self::Jsonb
            | Self::Other
            | Self::Written
            | Self::WrittenArray => None,
        }
    }
}

/// Orders floats as PostgreSQL does: NaN is equal to NaN and above all others, -0 is equal to 0.
fn order_floats(one: f64, other: f64) -> Ordering {
    one.partial_cmp(&other)
        .unwrap_or_else(|| one.is_nan().cmp(&other.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(kind: CellType, one: &str, other: &str) -> Option<Ordering> {
        let mut cells = [Vec::new(), Vec::new()];
        kind.from_json(one, &mut cells[0]).unwrap();
        kind.from_json(other, &mut cells[1]).unwrap();
        kind.order(&cells[0], &cells[1])
    }

    #[test]
    fn values_are_ordered_as_sql_orders_them() {
        // Each list is in ascending order.
        for (kind, values) in [
            (CellType::Bool, vec!["false", "true"]),
            (CellType::Int2, vec!["-3", "-1", "0", "256"]),
            (
                CellType::Int8,
                vec!["-9223372036854775808", "-1", "0", "4294967296"],
            ),
            (
                CellType::Float8,
                vec![
                    "\"-Infinity\"",
                    "-1.5",
                    "0",
                    "1e300",
                    "\"Infinity\"",
                    "\"NaN\"",
                ],
            ),
            (
                CellType::Numeric,
                vec![
                    "\"-Infinity\"",
                    "-100",
                    "-9.51",
                    "-9.5",
                    "-0.001",
                    "0",
                    "0.0009",
                    "0.001",
                    "0.01",
                    "9",
                    "9.05",
                    "9.5",
                    "10",
                    "99999999999999999999.1",
                    "\"Infinity\"",
                    "\"NaN\"",
                ],
            ),
            (
                CellType::Date,
                vec!["\"-infinity\"", "\"1999-12-31\"", "\"2000-01-01\""],
            ),
            (
                CellType::Timestamptz,
                vec![
                    "\"2026-01-01T00:00:00+00:00\"",
                    "\"2026-01-01T00:00:00.000001+00:00\"",
                ],
            ),
            (
                CellType::Bytea,
                vec!["\"\\\\x\"", "\"\\\\x00\"", "\"\\\\x01\"", "\"\\\\xff\""],
            ),
        ] {
            for (at, one) in values.iter().enumerate() {
                for (other_at, other) in values.iter().enumerate() {
                    assert_eq!(
                        order(kind, one, other),
                        Some(at.cmp(&other_at)),
                        "{kind:?} {one} {other}"
                    );
                }
            }
        }
        assert_eq!(
            order(CellType::Numeric, "1.10", "1.1"),
            Some(Ordering::Equal)
        );
        assert_eq!(
            order(CellType::Numeric, "-0.50", "-0.5"),
            Some(Ordering::Equal)
        );
        assert_eq!(order(CellType::Float8, "-0", "0"), Some(Ordering::Equal));
        assert_eq!(order(CellType::Text, "\"a\"", "\"b\""), None);
    }
}
