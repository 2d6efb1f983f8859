//! [`RowCondition`]: the condition that a row fulfils to be announced, and to be in a cache.

use super::channel::{Token, tokens};
use crate::postgres::schema::catalog::CatalogTable;
use serde::{Deserialize, Serialize};

/// The name by which [`RowCondition::of_row`] calls the row.
pub const ROW_NAME: &str = "changed";

/// A condition on the columns of one row, as PostgreSQL writes it: each name that is not one of
/// `pg_catalog` has its schema, so that no `search_path` changes what the text means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCondition {
    /// The condition as a person wrote it.
    pub given: String,
    /// The condition with the columns by their names alone: `(deleted_at IS NULL)`.
    pub sql: String,
    /// The same with the columns as fields of the row [`ROW_NAME`]: `(changed.deleted_at IS NULL)`.
    pub of_row: String,
    /// The columns that the condition looks at, in table order.
    pub columns: Vec<String>,
}

impl RowCondition {
    /// Returns the first column that the condition looks at and the table does not have.
    pub fn missing_column(&self, table: &CatalogTable) -> Option<&str> {
        let has = |name: &String| table.columns.iter().any(|column| column.name == *name);
        let mut missing = self.columns.iter().filter(|name| !has(name));
        missing.next().map(String::as_str)
    }

    /// Returns whether the condition runs no code but that of PostgreSQL itself, as far as its text
    /// tells for certain: columns of built-in types, literals, operators of `pg_catalog`, and casts
    /// to built-in types. A call of a function is not certain.
    ///
    /// Whoever owns the table owns this text. Without the check:
    ///
    /// 1. An owner writes `(evil(n))` into the comment on the triggers' function.
    /// 2. A superuser reads the table with pgic.
    /// 3. The function runs with the rights of a superuser.
    pub(in crate::postgres) fn is_built_in(&self, table: &CatalogTable) -> bool {
        is_built_in(&self.sql, |name| {
            let column = table.columns.iter().find(|column| column.name == name);
            column.is_some_and(|column| column.made_of.iter().all(|part| *part < FIRST_USER_OID))
        })
    }
}

/// Returns whether a condition has nothing but columns, literals, operators of `pg_catalog` and
/// casts to built-in types. `is_column` says whether a name is that of a column of a built-in type.
fn is_built_in(sql: &str, is_column: impl Fn(&str) -> bool) -> bool {
    let Some(tokens) = tokens(sql) else {
        return false;
    };
    (0..tokens.len()).all(|at| {
        let is_cast = at >= 2 && tokens[at - 2..at] == [Token::Symbol(':'), Token::Symbol(':')];
        let is_called = tokens.get(at + 1) == Some(&Token::Symbol('('));
        match &tokens[at] {
            Token::Name(name) => !is_cast && !is_called && is_column(name),
            Token::Word(word) if is_cast => TYPES.contains(&word.as_str()),
            Token::Word(word) if KEYWORDS.contains(&word.as_str()) => true,
            // The other words of a type's name, such as those of `timestamp with time zone`.
            Token::Word(word) if TYPE_WORDS.contains(&word.as_str()) => {
                !is_called || word == "varying"
            }
            Token::Word(word) => !is_called && is_column(word),
            // Behind a digit it is the point of a number, else a schema stands before it, or a
            // composite value.
            Token::Symbol('.') => {
                at > 0 && matches!(tokens[at - 1], Token::Symbol(c) if c.is_ascii_digit())
            }
            Token::Text(_) | Token::Symbol(_) => true,
            Token::Opaque => false,
        }
    })
}

/// The lowest oid of an object that does not come with PostgreSQL (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// The keywords of conditions, in lower case.
const KEYWORDS: [&str; 18] = [
    "and", "or", "not", "is", "null", "true", "false", "unknown", "distinct", "from", "any", "all",
    "array", "case", "when", "then", "else", "end",
];

/// The first words of the names of built-in types to which a condition may cast.
const TYPES: [&str; 24] = [
    "text",
    "integer",
    "bigint",
    "smallint",
    "numeric",
    "real",
    "double",
    "boolean",
    "uuid",
    "date",
    "timestamp",
    "time",
    "interval",
    "character",
    "bpchar",
    "varchar",
    "bytea",
    "inet",
    "cidr",
    "macaddr",
    "jsonb",
    "bit",
    "money",
    "name",
];

/// The further words of such names.
const TYPE_WORDS: [&str; 6] = ["precision", "varying", "with", "without", "time", "zone"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_of_built_in_code_is_told_from_one_that_may_run_others() {
        let is_column = |name: &str| ["n", "state", "at", "Odd (Name", "text"].contains(&name);
        for plain in [
            "(n > 0)",
            "((at IS NULL) AND (n = ANY (ARRAY[1, 2])) AND ((state)::text = 'it''s (x'::text))",
            "(at > '2020-01-01 00:00:00+00'::timestamp with time zone)",
            "((state)::character varying(9) <> 'a'::character varying)",
            "(\"Odd (Name\" IS DISTINCT FROM 1.5)",
            "(n)::double precision > '0.5'::double precision",
            "CASE WHEN (n > 1) THEN true ELSE (text IS NULL) END",
        ] {
            assert!(is_built_in(plain, is_column), "{plain}");
        }
        for other in [
            "evil(n)",
            "app.evil(n)",
            "(n OPERATOR(app.>) 0)",
            "(n = 'x'::app.state)",
            "(n = 'x'::evil)",
            "(n = (evil 'x'))",
            "\"evil\"(n)",
            "n(0)",
            "(SELECT true)",
            "(state = E'\\'(')",
            "(state = $$x$$)",
            "(m > 0)",
            "((n).x > 0)",
            "(n > /* without an end",
            "pg_read_file('x') IS NULL",
        ] {
            assert!(!is_built_in(other, is_column), "{other}");
        }
    }
}
