//! [`Digest`]: rows and keys as 128 bits, the same in every cache, version, language and machine.
//!
//! Nodes that are asked whether they have a row answer with digests, never with data.
//! `docs/fleet.md` in the repository says how to compute them, with examples that the tests here
//! check.
//!
//! ```text
//! cells of the key ─→ key digest ─┬─→ the range that the row counts in
//! cells of the row ─→ row digest ─┴─ salt ─→ salted digest ─→ sum of the range
//! ```
//!
//! The hash is SHA-256, cut to 16 bytes: nobody can make two rows of one digest, and every language
//! has it.

use crate::table_cache::{KeyBuf, TableShape};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The length of a digest, and of a salt, in bytes.
pub const DIGEST_BYTES: usize = 16;

/// The length of a block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// The first 128 bits of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest([u8; DIGEST_BYTES]);

impl Digest {
    /// Returns the digest of these bytes.
    fn of(bytes: &[u8]) -> Self {
        Self::of_hash(Sha256::new_with_prefix(bytes))
    }

    /// Returns the digest of what a hash has taken in.
    fn of_hash(hash: Sha256) -> Self {
        let mut digest = Self::default();
        digest.0.copy_from_slice(&hash.finalize()[..DIGEST_BYTES]);
        digest
    }

    /// Reads 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = Self::default();
        if text.len() != 2 * DIGEST_BYTES || !text.is_ascii() {
            return None;
        }
        for (at, byte) in digest.0.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(digest)
    }

    /// Returns the digest as a number, its first byte the highest.
    pub fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// Makes a digest of a number, such as a sum of digests.
    pub fn of_number(number: u128) -> Self {
        Self(number.to_be_bytes())
    }

    /// Makes a digest of its bytes.
    pub fn of_bytes(bytes: [u8; DIGEST_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Appends a cell with its length in front: one byte for up to 253 bytes, five for more. NULL is
/// the byte 0.
///
/// Without the lengths, the rows ("ab", "c") and ("a", "bc") would have one digest.
fn push_cell(cell: Option<&[u8]>, bytes: &mut Vec<u8>) {
    let Some(cell) = cell else {
        return bytes.push(0);
    };
    match u8::try_from(cell.len() + 1) {
        Ok(length) if length < u8::MAX => bytes.push(length),
        Ok(_) | Err(_) => {
            bytes.push(u8::MAX);
            bytes.extend((cell.len() as u32).to_le_bytes());
        }
    }
    bytes.extend(cell);
}

/// Returns the digest of a key.
pub fn key_digest(key: &KeyBuf) -> Digest {
    digest_of_key(key.cells())
}

/// Returns the digest of the key with these cells, in key order.
pub fn digest_of_key<'a>(cells: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut bytes = Vec::with_capacity(64);
    for cell in cells {
        push_cell(Some(cell), &mut bytes);
    }
    Digest::of(&bytes)
}

/// Returns the digest of a row under a salt. Whoever listens cannot tell from the digests of two
/// questions whether the row has changed in between.
pub fn salted(salt: Digest, key: Digest, row: Digest) -> Digest {
    let mut bytes = [0; 3 * DIGEST_BYTES];
    bytes[..DIGEST_BYTES].copy_from_slice(&salt.0);
    bytes[DIGEST_BYTES..2 * DIGEST_BYTES].copy_from_slice(&key.0);
    bytes[2 * DIGEST_BYTES..].copy_from_slice(&row.0);
    Digest::of(&bytes)
}

/// A column as it goes into the digest of a row.
#[derive(Debug, Clone, Copy)]
struct DigestedColumn {
    /// The position of the column in the shape.
    at: usize,
    /// Whether a cell can be a JSON null. It counts as SQL NULL: a payload in the plain form does
    /// not tell them apart.
    has_json_null: bool,
}

/// Makes the digests of the rows of one table.
#[derive(Debug, Clone)]
pub struct RowDigester {
    columns: Digest,
    /// The hash of the columns' digest, filled up to a block of SHA-256. It is computed once, and
    /// costs the rows nothing.
    begun: Sha256,
    /// The columns, in the order of their names.
    order: Vec<DigestedColumn>,
    /// The bytes of the row at work. One buffer serves all rows.
    bytes: Vec<u8>,
}

impl RowDigester {
    /// Makes a digester for rows of `shape`.
    pub fn new(shape: &TableShape) -> Self {
        let described = shape.columns();
        let mut order: Vec<usize> = (0..described.len()).collect();
        // The order in the table may differ between what two nodes know of it.
        order.sort_by(|left, right| described[*left].name.cmp(&described[*right].name));
        let mut names = Vec::new();
        for &column in &order {
            push_cell(Some(described[column].name.as_bytes()), &mut names);
        }
        let order = order.into_iter().map(|at| DigestedColumn {
            at,
            has_json_null: described[at].kind.has_json_null(),
        });
        let columns = Digest::of(&names);
        let mut block = [0; BLOCK];
        block[..DIGEST_BYTES].copy_from_slice(&columns.0);
        Self {
            columns,
            begun: Sha256::new_with_prefix(block),
            order: order.collect(),
            bytes: Vec::new(),
        }
    }

    /// Returns the digest of the columns' names. Rows of other columns cannot be compared.
    pub fn columns(&self) -> Digest {
        self.columns
    }

    /// Returns the digest of the row whose cells `cell` returns by their positions in the shape.
    pub fn row<'a>(&mut self, cell: impl Fn(usize) -> Option<&'a [u8]>) -> Digest {
        self.bytes.clear();
        for column in &self.order {
            let value = cell(column.at)
                .filter(|value| !(column.has_json_null && *value == b"null".as_slice()));
            push_cell(value, &mut self.bytes);
        }
        Digest::of_hash(self.begun.clone().chain_update(&self.bytes))
    }
}

/// The ranges of keys that a question is about: those whose digests begin with one of some
/// prefixes, each divided by the bits that come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// The number of bits of a prefix.
    pub bits: u32,
    /// The prefixes. With no bits there is one, 0.
    pub prefixes: Vec<u64>,
    /// The number of bits by which each prefix is divided.
    pub split: u32,
}

impl Ranges {
    /// The most ranges of a question, so that the answer fits into a notification.
    pub const MOST: usize = 64;
    /// The most bits of a prefix and its divisions.
    pub const MOST_BITS: u32 = 60;

    /// Returns whether a node may answer about these ranges.
    pub fn is_valid(&self) -> bool {
        // Each number is bounded before it is computed with: any role can make them up.
        let are_small = self.bits <= Self::MOST_BITS
            && self.split <= Self::MOST.ilog2()
            && self.prefixes.len() <= Self::MOST;
        are_small
            && !self.prefixes.is_empty()
            && (self.prefixes.len() << self.split) <= Self::MOST
            && self.bits + self.split <= Self::MOST_BITS
            && self.prefixes.iter().all(|prefix| prefix >> self.bits == 0)
    }

    /// Returns the number of ranges.
    pub fn count(&self) -> usize {
        self.prefixes.len() << self.split
    }

    /// Returns the prefix of a range, of [`bits`](Self::bits) plus [`split`](Self::split) bits.
    pub fn prefix_of(&self, range: usize) -> u64 {
        let prefix = self.prefixes[range >> self.split];
        (prefix << self.split) | (range as u64 & ((1 << self.split) - 1))
    }

    /// Returns the range that a key counts in; `None` if it is in none.
    pub fn place(&self, key: Digest) -> Option<usize> {
        let top = (key.number() >> 64) as u64;
        let prefix = shifted(top, 64 - self.bits);
        let at = self.prefixes.iter().position(|own| *own == prefix)?;
        let within = shifted(top, 64 - self.bits - self.split) & ((1 << self.split) - 1);
        Some((at << self.split) | within as usize)
    }
}

/// Shifts to the right; by all 64 bits nothing is left.
fn shifted(number: u64, by: u32) -> u64 {
    number.checked_shr(by).unwrap_or(0)
}

/// The rows of a range: how many, and the sum of their salted digests, which the order of the rows
/// does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangeSum {
    /// The number of rows.
    pub rows: u64,
    /// The sum of the rows' salted digests, modulo 2^128.
    pub sum: u128,
}

impl RangeSum {
    /// Adds a row.
    pub fn add(&mut self, salted: Digest) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(salted.number());
    }

    /// Takes away a row that was added.
    pub fn remove(&mut self, salted: Digest) {
        self.rows = self.rows.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(salted.number());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_cache::{Column, JsonNulls, RowBuf};
    use crate::value::CellType;

    fn shape(columns: &[(&str, CellType)]) -> TableShape {
        let columns = columns.iter().map(|(name, kind)| Column {
            name: (*name).to_string(),
            kind: *kind,
            nullable: true,
        });
        TableShape::new(columns.collect(), &["id".to_string()]).expect("a shape")
    }

    fn digest(shape: &TableShape, json: &str) -> Digest {
        let mut row = RowBuf::default();
        row.read_json(shape, json, JsonNulls::Listed(&[]))
            .expect("a row");
        RowDigester::new(shape).row(|at| row.cell(at))
    }

    // docs/fleet.md has these, for whoever writes a node in another language.
    #[test]
    fn the_documented_digests_are_right() {
        let shape = shape(&[("id", CellType::Int4), ("name", CellType::Text)]);
        let row = digest(&shape, r#"{"id":42,"name":"Ada"}"#);
        let mut key = KeyBuf::default();
        key.read_json(&shape, "42").expect("a key");
        let key = key_digest(&key);
        let salt = Digest::from_hex("000102030405060708090a0b0c0d0e0f").expect("a salt");
        let texts = [
            RowDigester::new(&shape).columns(),
            key,
            row,
            salted(salt, key, row),
        ]
        .map(|digest| digest.to_string());
        let page = include_str!("../../docs/fleet.md");
        for text in texts {
            assert!(page.contains(&text), "{text}");
        }
    }

    #[test]
    fn the_order_of_columns_does_not_matter_and_their_names_do() {
        let one = shape(&[("id", CellType::Int4), ("n", CellType::Int4)]);
        let other = shape(&[("n", CellType::Int4), ("id", CellType::Int4)]);
        let renamed = shape(&[("id", CellType::Int4), ("m", CellType::Int4)]);
        let row = digest(&one, r#"{"id":1,"n":2}"#);
        assert_eq!(row, digest(&other, r#"{"n":2,"id":1}"#));
        assert_ne!(row, digest(&renamed, r#"{"id":1,"m":2}"#));
        assert_ne!(row, digest(&one, r#"{"id":1,"n":null}"#));
    }

    #[test]
    fn cells_are_told_apart_by_their_lengths() {
        let shape = shape(&[
            ("id", CellType::Int4),
            ("a", CellType::Text),
            ("b", CellType::Text),
        ]);
        let texts = [
            r#"{"id":1,"a":"ab","b":"c"}"#.to_string(),
            r#"{"id":1,"a":"a","b":"bc"}"#.to_string(),
            r#"{"id":1,"a":"","b":null}"#.to_string(),
            r#"{"id":1,"a":null,"b":""}"#.to_string(),
            format!(r#"{{"id":1,"a":"{}","b":""}}"#, "x".repeat(253)),
            format!(r#"{{"id":1,"a":"{}","b":""}}"#, "x".repeat(254)),
            format!(r#"{{"id":1,"a":"{}","b":""}}"#, "x".repeat(70_000)),
        ];
        let mut digests: Vec<Digest> = texts.iter().map(|text| digest(&shape, text)).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), texts.len());
    }

    // A payload in the plain form does not say which null is a JSON null.
    #[test]
    fn a_json_null_counts_as_sql_null() {
        let shape = shape(&[("id", CellType::Int4), ("j", CellType::Jsonb)]);
        let mut sql = RowBuf::default();
        sql.read_json(&shape, r#"{"id":1,"j":null}"#, JsonNulls::Unknown)
            .expect("a row");
        let mut digester = RowDigester::new(&shape);
        let of_sql = digester.row(|at| sql.cell(at));
        assert_eq!(of_sql, digest(&shape, r#"{"id":1,"j":null}"#));
    }

    #[test]
    fn each_key_is_in_one_range_of_each_division() {
        let whole = Ranges {
            bits: 0,
            prefixes: vec![0],
            split: 6,
        };
        assert!(whole.is_valid() && whole.count() == 64);
        let key = Digest::of(b"a key");
        let range = whole.place(key).expect("every key has a range");
        let part = Ranges {
            bits: 6,
            prefixes: vec![
                5_u64.min(whole.prefix_of(range) ^ 1),
                whole.prefix_of(range),
            ],
            split: 5,
        };
        let within = part.place(key).expect("its prefix is among them");
        assert_eq!(within >> 5, 1);
        assert_eq!(part.prefix_of(within) >> 5, whole.prefix_of(range));
        let other = Ranges {
            prefixes: vec![whole.prefix_of(range) ^ 1],
            ..part
        };
        assert_eq!(other.place(key), None);
    }

    #[test]
    fn ranges_that_any_role_made_up_are_refused() {
        for (bits, prefixes, split) in [
            (0, vec![], 6),
            (0, vec![0], 7),
            (0, vec![1], 0),
            (2, vec![4], 0),
            (60, vec![0], 1),
            (0, vec![0], 63),
            (u32::MAX, vec![0], 1),
            (0, vec![0], u32::MAX),
            (60, vec![u64::MAX], 0),
            (0, vec![0; 1000], 6),
            (6, vec![0; 3], 5),
        ] {
            let ranges = Ranges {
                bits,
                prefixes,
                split,
            };
            assert!(!ranges.is_valid(), "{ranges:?}");
        }
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order_and_rows_can_be_taken_away() {
        let rows = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));
        let mut sum = RangeSum::default();
        let mut other = RangeSum::default();
        for (row, last) in std::iter::zip(rows, rows.into_iter().rev()) {
            sum.add(row);
            other.add(last);
        }
        assert_eq!(sum, other);
        other.remove(rows[1]);
        let mut two = RangeSum::default();
        two.add(rows[0]);
        two.add(rows[2]);
        assert_eq!(other, two);
    }
}
