//! [`Equality`]: when PostgreSQL's `=` holds for two values of a type that a cache keeps as text.
//!
//! ```text
//! column ─→ the types it is made of, of the catalogue ─→ Equality ─→ canonical form of each value
//! ```
//!
//! Two texts may be one value: as intervals, 30 days and a month; as ranges of numeric, `[1,2)` and
//! `[1.0,2)`. So each text is brought into a form that is the same exactly if `=` holds. The rules of
//! the built-in types are in the manual, "Data Types" and "Functions and Operators". Of other types,
//! `=` is a function that somebody wrote, and is not guessed at.

mod literal;

use crate::tables::catalog::CatalogTable;
use anyhow::Context as _;
use postgres_index_cache_core::tooling::CellType;
use postgres_index_cache_core::tooling::postgres::Traced;
use serde_json::value::RawValue;
use std::collections::HashMap;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

/// When `=` holds for two values of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Equality {
    /// If the canonical forms of their texts are the same.
    Canonical(Form),
    /// Never: the type has no `=` in SQL. The texts are compared, and this is said.
    NotInSql,
    /// That is not known here, for this reason.
    Unknown(String),
}

/// How the text of a value is brought into its canonical form.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    /// The text is the form: values that are equal have one text.
    Exact,
    /// Digits behind the point that are zero do not count.
    Numeric,
    /// Zero has no sign.
    Float,
    /// Blanks at the end do not count.
    Padded,
    /// Numbers in it are numerics.
    Jsonb,
    /// A month has 30 days, and a day 24 hours.
    Interval,
    /// A range of values of this form.
    Range(Box<Form>),
    /// Several ranges of values of this form.
    Multirange(Box<Form>),
    /// An array of elements of this form.
    Array(Box<Form>),
    /// A row of fields of these forms.
    Composite(Vec<Form>),
}

/// A type, as the catalogue has it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
struct CatalogType {
    name: String,
    /// The kind, `pg_type.typtype`.
    kind: i8,
    is_array: bool,
    is_built_in: bool,
    /// The extension that the type belongs to; empty if there is none.
    extension: String,
    /// The types of elements, bounds or fields, or the type under a domain.
    inner: Vec<u32>,
    /// Whether a collation that the type has calls different texts equal.
    is_nondeterministic: bool,
    /// Whether the bounds of the range type are compared by an operator class of somebody's own.
    has_own_order: bool,
}

/// The types of which a column's type is made. $1: the oid of the table. $2: the column's name.
const TYPES: &str = include_str!("equality/types.sql");

impl Equality {
    /// Asks the catalogue for a column's types.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub(super) async fn of(
        transaction: &Traced<Transaction<'_>>,
        table: &CatalogTable,
        column: &str,
    ) -> anyhow::Result<Self> {
        let rows = transaction
            .query_typed(TYPES, &[(&table.oid, Type::OID), (&column, Type::TEXT)])
            .await
            .context("read the catalogue of types")?;
        let mut types = HashMap::new();
        let mut root = None;
        for row in &rows {
            let oid: u32 = row.try_get("oid")?;
            let name: String = row.try_get("name")?;
            if row.try_get("is_root")? {
                root = Some(oid);
                let extension: String = row.try_get("extension")?;
                // An extension's own `=` is looked at below.
                if row.try_get("has_own_operator")? && extension.is_empty() {
                    return Ok(Self::of_function(&name));
                }
            }
            let found = CatalogType {
                name,
                kind: row.try_get("kind")?,
                is_array: row.try_get("is_array")?,
                is_built_in: row.try_get("is_built_in")?,
                extension: row.try_get("extension")?,
                inner: row.try_get("inner_types")?,
                is_nondeterministic: row.try_get("is_nondeterministic")?,
                has_own_order: row.try_get("has_own_order")?,
            };
            types.insert(oid, found);
        }
        Ok(match root.map(|root| of_type(root, &types)) {
            // The cache has an array as JSON.
            Some(Self::Canonical(Form::Array(element))) if *element == Form::Jsonb => {
                let why = "an array of jsonb is kept as JSON, which does not tell its nulls apart";
                Self::Unknown(why.to_string())
            }
            Some(equality) => equality,
            None => Self::Unknown("its type is not in the catalogue".to_string()),
        })
    }

    /// Returns the equality of a type whose `=` somebody has written.
    fn of_function(name: &str) -> Self {
        Self::Unknown(format!("what = means for {name} is a function of its own"))
    }

    /// Returns the equality of texts under a collation that calls different ones equal.
    pub(super) fn of_nondeterministic() -> Self {
        let why = "its collation calls different texts equal, which PostgreSQL alone knows";
        Self::Unknown(why.to_string())
    }

    /// Tells whether the cells are compared as they are.
    pub(super) fn is_by_cell(&self) -> bool {
        match self {
            Self::Canonical(form) => *form == Form::Exact,
            Self::NotInSql | Self::Unknown(_) => true,
        }
    }

    /// Returns the canonical form of a cell; `None` if the cell is not as PostgreSQL writes it. Then
    /// the value is equal to none but itself.
    pub(super) fn canonical(&self, kind: CellType, cell: &[u8]) -> Option<Vec<u8>> {
        let Self::Canonical(form) = self else {
            return None;
        };
        let text = std::str::from_utf8(cell).ok()?;
        let mut canonical = String::new();
        match (kind, form) {
            (CellType::Other | CellType::WrittenArray, Form::Array(_)) => {
                form.write_json(text, &mut canonical)?;
            }
            // The text of any other value is a JSON string.
            (CellType::Other, _) => {
                let text: String = serde_json::from_str(text).ok()?;
                form.write(&text, &mut canonical)?;
            }
            _ => form.write(text, &mut canonical)?,
        }
        Some(canonical.into_bytes())
    }
}

/// Returns when values of a type are equal. `types` has everything that the type is made of.
fn of_type(oid: u32, types: &HashMap<u32, CatalogType>) -> Equality {
    let Some(own) = types.get(&oid) else {
        return Equality::Unknown("a part of its type is not in the catalogue".to_string());
    };
    if own.is_nondeterministic {
        return Equality::of_nondeterministic();
    }
    let inner = || own.inner.first().map_or(0, |inner| *inner);
    match own.kind as u8 {
        b'd' => of_type(inner(), types),
        b'e' => Equality::Canonical(Form::Exact),
        b'r' if own.has_own_order => Equality::of_function(&own.name),
        b'r' => within(of_type(inner(), types), Form::Range),
        b'm' => match of_type(inner(), types) {
            Equality::Canonical(Form::Range(bounds)) => {
                Equality::Canonical(Form::Multirange(bounds))
            }
            other => other,
        },
        b'c' => {
            let mut fields = Vec::new();
            for field in &own.inner {
                match of_type(*field, types) {
                    Equality::Canonical(form) => fields.push(form),
                    other => return other,
                }
            }
            Equality::Canonical(Form::Composite(fields))
        }
        _ if own.is_array => within(of_type(inner(), types), Form::Array),
        _ if own.is_built_in => of_built_in(oid, &own.name),
        _ => of_extension(own),
    }
}

/// Returns the equality of a type that holds values of another one.
fn within(equality: Equality, outer: fn(Box<Form>) -> Form) -> Equality {
    match equality {
        Equality::Canonical(form) => Equality::Canonical(outer(Box::new(form))),
        other => other,
    }
}

/// Returns the equality of a built-in type that is not made of others.
fn of_built_in(oid: u32, name: &str) -> Equality {
    let form = match oid {
        700 | 701 => Form::Float,
        1042 => Form::Padded,
        1186 => Form::Interval,
        1700 => Form::Numeric,
        3802 => Form::Jsonb,
        // bool, bytea, "char", name, int8, int2, int2vector, int4; text, oid, tid, xid, cid, oidvector;
        // cidr; macaddr8, money, macaddr, inet; varchar; date, time; timestamp, timestamptz; timetz;
        // bit, varbit; regprocedure; regoperator to regtype; uuid, pg_lsn; tsvector, regconfig;
        // regdictionary; regnamespace; regrole; regcollation; xid8. Not regproc and regoper, which
        // have one text for several values, and not tsquery, whose `=` passes over weights.
        16..=23
        | 25..=30
        | 650
        | 774
        | 790
        | 829
        | 869
        | 1043
        | 1082
        | 1083
        | 1114
        | 1184
        | 1266
        | 1560
        | 1562
        | 2202
        | 2204..=2206
        | 2950
        | 3220
        | 3614
        | 3734
        | 3769
        | 4089
        | 4096
        | 4191
        | 5069 => Form::Exact,
        // json, xml, point, polygon, refcursor, txid_snapshot, jsonpath, pg_snapshot.
        114 | 142 | 600 | 604 | 1790 | 2970 | 4072 | 5038 => return Equality::NotInSql,
        _ => {
            return Equality::Unknown(format!("what = means for {name} is not known here"));
        }
    };
    Equality::Canonical(form)
}

/// Returns the equality of a type that is not built in.
fn of_extension(own: &CatalogType) -> Equality {
    match (own.extension.as_str(), own.name.as_str()) {
        // Their output has one text for each value, and their `=` compares values bit by bit.
        ("hstore", "hstore") | ("ltree", "ltree") | ("postgis", "geometry" | "geography") => {
            Equality::Canonical(Form::Exact)
        }
        (_, name) => Equality::of_function(name),
    }
}

impl Form {
    /// Writes the canonical form of a value, of which PostgreSQL's output function wrote `text`.
    /// Returns `None` if it did not.
    fn write(&self, text: &str, canonical: &mut String) -> Option<()> {
        match self {
            Self::Exact => canonical.push_str(text),
            Self::Numeric => {
                let cell = CellType::Numeric.comparable(text.as_bytes());
                canonical.push_str(std::str::from_utf8(&cell).ok()?);
            }
            Self::Float => canonical.push_str(if text == "-0" { "0" } else { text }),
            Self::Padded => canonical.push_str(text.trim_end_matches(' ')),
            Self::Jsonb => write_jsonb(text, canonical),
            Self::Interval => match literal::interval(text) {
                Some(span) => canonical.push_str(&span.to_string()),
                // Infinity, for example.
                None => canonical.push_str(text),
            },
            Self::Range(bounds) => write_range(bounds, text, canonical)?,
            Self::Multirange(bounds) => {
                for range in literal::ranges(text)? {
                    write_range(bounds, range, canonical)?;
                }
            }
            Self::Array(element) => {
                let (dimensions, elements) = literal::array(text)?;
                canonical.push_str(dimensions);
                write_elements(element, &elements, canonical)?;
            }
            Self::Composite(fields) => {
                let values = literal::composite(text, fields.len())?;
                if values.len() != fields.len() {
                    return None;
                }
                for (form, value) in fields.iter().zip(values) {
                    form.write_part(value.as_deref(), canonical)?;
                }
            }
        }
        Some(())
    }

    /// Writes a value that is part of another one; `None` is NULL, or no bound.
    fn write_part(&self, text: Option<&str>, canonical: &mut String) -> Option<()> {
        let Some(text) = text else {
            canonical.push_str("-;");
            return Some(());
        };
        let mut part = String::new();
        self.write(text, &mut part)?;
        // With the length in front, no two lists of parts have one text.
        canonical.push_str(&format!("{}:{part};", part.len()));
        Some(())
    }

    /// Writes the canonical form of a JSON array of values; `None` if the JSON is none.
    fn write_json(&self, json: &str, canonical: &mut String) -> Option<()> {
        let Self::Array(element) = self else {
            return None;
        };
        let parts: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        canonical.push('[');
        for part in parts {
            let part = part.get();
            match part.as_bytes().first()? {
                // An array in the array is another dimension.
                b'[' => self.write_json(part, canonical)?,
                b'"' => {
                    let text: String = serde_json::from_str(part).ok()?;
                    element.write_part(Some(&text), canonical)?;
                }
                b'n' => element.write_part(None, canonical)?,
                _ => element.write_part(Some(part), canonical)?,
            }
        }
        canonical.push(']');
        Some(())
    }
}

/// Writes the elements of an array, which may be arrays again.
fn write_elements(
    form: &Form,
    elements: &[literal::Element],
    canonical: &mut String,
) -> Option<()> {
    canonical.push('[');
    for element in elements {
        match element {
            literal::Element::Value(value) => form.write_part(value.as_deref(), canonical)?,
            literal::Element::Array(inner) => write_elements(form, inner, canonical)?,
        }
    }
    canonical.push(']');
    Some(())
}

/// Writes the canonical form of a range. Its brackets are as PostgreSQL has made them: a range of
/// whole numbers or dates has one form.
fn write_range(bounds: &Form, text: &str, canonical: &mut String) -> Option<()> {
    let literal::Range::Between {
        opens,
        lower,
        upper,
        closes,
    } = literal::range(text)?
    else {
        canonical.push_str("empty");
        return Some(());
    };
    canonical.push(opens);
    bounds.write_part(lower.as_deref(), canonical)?;
    bounds.write_part(upper.as_deref(), canonical)?;
    canonical.push(closes);
    Some(())
}

/// Writes a jsonb with its numbers as numerics. The rest is as PostgreSQL writes it: members are
/// sorted, each once, and blanks stand at fixed places.
fn write_jsonb(json: &str, canonical: &mut String) {
    let mut rest = json;
    while let Some(next) = rest.chars().next() {
        let length = match next {
            '"' => string_length(rest),
            '-' | '0'..='9' => {
                let is_part = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                let number = CellType::Numeric.comparable(&rest.as_bytes()[..end]);
                canonical.push_str(&String::from_utf8_lossy(&number));
                rest = &rest[end..];
                continue;
            }
            other => other.len_utf8(),
        };
        canonical.push_str(&rest[..length]);
        rest = &rest[length..];
    }
}

/// Returns the length of the JSON string at the beginning of a text.
fn string_length(json: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in json.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the canonical form of a value that PostgreSQL wrote.
    fn canonical(form: &Form, text: &str) -> String {
        let mut canonical = String::new();
        form.write(text, &mut canonical).unwrap();
        canonical
    }

    fn check(form: &Form, equal: &[&str], different: &[&str]) {
        let first = canonical(form, equal[0]);
        for text in equal {
            assert_eq!(canonical(form, text), first, "{text}");
        }
        for text in different {
            assert_ne!(canonical(form, text), first, "{text}");
        }
    }

    #[test]
    fn texts_of_one_value_have_one_form() {
        check(
            &Form::Interval,
            &["1 mon", "30 days", "720:00:00", "1 mon -24:00:00 +1 day"],
            &["31 days", "1 mon 00:00:00.000001", "-1 mons"],
        );
        check(&Form::Numeric, &["1", "1.0", "1.00"], &["10", "1.01"]);
        check(
            &Form::Jsonb,
            &[
                r#"{"a": 1.0, "b": ["1.0", 2]}"#,
                r#"{"a": 1, "b": ["1.0", 2.00]}"#,
            ],
            &[
                r#"{"a": 1, "b": ["1", 2]}"#,
                r#"{"a": 1, "b": ["1.0", 20]}"#,
            ],
        );
        let range = Form::Range(Box::new(Form::Numeric));
        check(
            &range,
            &["[1,2)", "[1.0,2.00)"],
            &["(1,2)", "[1,)", "empty"],
        );
        let ranges = Form::Multirange(Box::new(Form::Numeric));
        check(
            &ranges,
            &["{[1,2),[3,4)}", "{[1.0,2),[3,4.0)}"],
            &["{}", "{[1,2)}"],
        );
        let array = Form::Array(Box::new(Form::Interval));
        check(
            &array,
            &[r#"{"1 mon",NULL}"#, r#"{"30 days",NULL}"#],
            &[r#"{"1 mon","NULL"}"#, r#"[0:1]={"1 mon",NULL}"#, "{}"],
        );
        let row = Form::Composite(vec![Form::Exact, Form::Numeric, Form::Exact]);
        check(
            &row,
            &[r#"("a,""b",1.0,)"#, r#"("a,""b",1,)"#],
            &[r#"("a,""b",1,"")"#, "(a,1,b)"],
        );
    }

    #[test]
    fn lists_of_parts_are_told_apart() {
        let array = Form::Array(Box::new(Form::Exact));
        check(
            &array,
            &[r#"{"a;1:b","c"}"#],
            &[r#"{"a","1:b","c"}"#, r#"{{"a;1:b","c"}}"#],
        );
    }

    #[test]
    fn a_json_array_is_compared_by_its_elements() {
        let equality = Equality::Canonical(Form::Array(Box::new(Form::Numeric)));
        let form = |json: &str| {
            equality
                .canonical(CellType::Other, json.as_bytes())
                .unwrap()
        };
        assert_eq!(form("[1.0,[2,null]]"), form("[1,[2.00,null]]"));
        assert_ne!(form("[1,2]"), form("[[1,2]]"));
    }
}
