//! [`RowCondition`]: the condition that a row fulfils to be announced, and to be in a cache.

use crate::postgres::quote::{Unquoted, quote_identifier, quote_literal, read_quoted};
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
    /// Whether PostgreSQL looks for parts of `of_row` on the `search_path` of whoever writes, so
    /// that the function must pin one.
    #[serde(default = "yes")]
    pub follows_path: bool,
    /// The columns that the condition looks at, in table order.
    pub columns: Vec<String>,
}

/// Returns the default of [`RowCondition::follows_path`].
fn yes() -> bool {
    true
}

impl RowCondition {
    /// Returns the first column that the condition looks at and the table does not have.
    pub fn missing_column(&self, table: &CatalogTable) -> Option<&str> {
        let has = |name: &String| table.columns.iter().any(|column| column.name == *name);
        let mut missing = self.columns.iter().filter(|name| !has(name));
        missing.next().map(String::as_str)
    }

    /// Returns the condition as a statement may hold it, in parentheses; `None` if it may run code
    /// that must not run.
    ///
    /// Whoever owns the table owns this text. Without the check:
    ///
    /// 1. An owner writes `(evil(n))`, or `true)) TO PROGRAM 'harm' --`, into the comment on the
    ///    triggers' function.
    /// 2. Somebody with more rights reads the table with pgic.
    /// 3. The text runs with those rights.
    ///
    /// So a text that could leave its parentheses is never taken. Where the owner is distrusted,
    /// the statement does not hold the owner's text at all, but one that is made of its parts: see
    /// [`rebuilt`].
    pub fn in_statement(&self, table: &CatalogTable) -> Option<String> {
        if table.is_distrusted {
            rebuilt(&self.sql, Form::InStatement, |name| {
                is_of_built_in_type(table, name)
            })
        } else {
            is_contained(&self.sql).then(|| self.sql.clone())
        }
    }
}

/// Returns a condition, as PostgreSQL has written it, with its columns as fields of [`ROW_NAME`]
/// and with all else qualified, so that no `search_path` changes what it means. Returns `None` if
/// there is a part that cannot be qualified here.
pub fn qualified(sql: &str, table: &CatalogTable) -> Option<String> {
    rebuilt(sql, Form::InFunction, |name| {
        is_of_built_in_type(table, name)
    })
}

fn is_of_built_in_type(table: &CatalogTable, name: &str) -> bool {
    let column = table.columns.iter().find(|column| column.name == name);
    column.is_some_and(|column| column.made_of.iter().all(|part| *part < FIRST_USER_OID))
}

/// The place that a condition is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A statement of a session of ours, whose `search_path` is safe.
    InStatement,
    /// The function of the triggers, which runs under any `search_path`.
    InFunction,
}

impl Form {
    fn column(self, name: &str) -> String {
        let name = quote_identifier(name);
        match self {
            Self::InStatement => name,
            Self::InFunction => format!("{ROW_NAME}.{name}"),
        }
    }

    fn operator(self, operator: &str) -> String {
        match self {
            Self::InStatement => operator.to_string(),
            Self::InFunction => format!("OPERATOR(pg_catalog.{operator})"),
        }
    }

    fn cast(self, name: &str) -> String {
        // The grammar knows the others, whatever the path.
        let is_looked_up = LOOKED_UP.contains(&name);
        match self {
            Self::InFunction if is_looked_up => format!("::pg_catalog.{name}"),
            Self::InStatement | Self::InFunction => format!("::{name}"),
        }
    }

    /// Returns whether PostgreSQL looks for nothing on the path because of a keyword. Some compare
    /// with the `=` that the path finds.
    fn takes(self, keyword: &str) -> bool {
        self == Self::InStatement || !matches!(keyword, "DISTINCT" | "NULLIF" | "ROW")
    }
}

/// Returns whether a text cannot leave the parentheses that it is put into, whatever the settings
/// of the session: quotes and parentheses are closed, and there is neither a comment nor the end of
/// a statement. What PostgreSQL writes passes.
pub fn is_contained(sql: &str) -> bool {
    let mut depth = 0_usize;
    let mut rest = sql;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let behind = &rest[first.len_utf8()..];
        rest = match first {
            '\'' | '"' => {
                let Some(Unquoted { text, rest }) = read_quoted(behind, first) else {
                    return false;
                };
                // In `E'…'` a backslash escapes, and PostgreSQL writes two for one. In a plain text
                // it escapes under `standard_conforming_strings = off`.
                let is_escaped = matches!(before, 'E') && first == '\'';
                let is_prefixed = before.is_alphanumeric() || matches!(before, '_' | '&' | '$');
                let has_backslash = if is_escaped {
                    text.replace("\\\\", "").contains('\\')
                } else {
                    first == '\'' && text.contains('\\')
                };
                if has_backslash || (is_prefixed && !is_escaped) {
                    return false;
                }
                rest
            }
            '(' => {
                depth += 1;
                behind
            }
            ')' => match depth.checked_sub(1) {
                Some(less) => {
                    depth = less;
                    behind
                }
                None => return false,
            },
            '-' if behind.starts_with('-') => return false,
            '/' if behind.starts_with('*') => return false,
            ';' | '$' | '\\' => return false,
            ' ' | '\n' | '!'..='~' => behind,
            _ => return false,
        };
        before = first;
    }
    depth == 0
}

/// Returns a condition that means the same and is made here, of parts that are known to be
/// PostgreSQL's own: columns of built-in types, literals, operators, and casts to built-in types.
/// Returns `None` if there is anything else, such as a call of a function. `is_column` says whether
/// a name is that of a column of a built-in type.
///
/// Nothing is copied from the text that could mean something else to PostgreSQL than here: names
/// are quoted, literals are written anew, and all else is one of a list.
fn rebuilt(sql: &str, form: Form, is_column: impl Fn(&str) -> bool) -> Option<String> {
    let mut made: Vec<String> = Vec::new();
    let mut depth = 0_usize;
    let mut rest = sql;
    // Whether a parenthesis would be the start of a call.
    let mut is_name = false;
    while let Some(first) = rest.chars().next() {
        let was_name = std::mem::take(&mut is_name);
        match first {
            ' ' | '\n' => {
                rest = &rest[1..];
                is_name = was_name;
            }
            '\'' => {
                let read = read_quoted(&rest[1..], '\'')?;
                made.push(quote_literal(&read.text));
                rest = read.rest;
            }
            '"' => {
                let read = read_quoted(&rest[1..], '"')?;
                if !is_column(&read.text) {
                    return None;
                }
                made.push(form.column(&read.text));
                rest = read.rest;
                is_name = true;
            }
            '0'..='9' => {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'));
                let (number, behind) = rest.split_at(end.unwrap_or(rest.len()));
                // An exponent, or a name that begins with digits.
                if behind.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                    return None;
                }
                made.push(number.to_string());
                rest = behind;
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
                // PostgreSQL writes keywords in capitals, and no name without quotes.
                if KEYWORDS.contains(&word) && form.takes(word) {
                    made.push(word.to_string());
                } else if is_column(word) {
                    made.push(form.column(word));
                    is_name = true;
                } else {
                    return None;
                }
                // A prefix of a literal, such as that of `E'…'`.
                if behind.starts_with(['\'', '"', '&', '$']) {
                    return None;
                }
                rest = behind;
            }
            ':' => {
                let cast = rest.strip_prefix("::")?;
                let name = TYPES.iter().find(|name| {
                    let behind = cast.strip_prefix(**name);
                    behind.is_some_and(|behind| {
                        !behind.starts_with(|c: char| c.is_alphanumeric() || "_$.\"".contains(c))
                    })
                })?;
                made.push(form.cast(name));
                rest = &cast[name.len()..];
            }
            '(' if was_name => return None,
            '(' => {
                depth += 1;
                made.push("(".to_string());
                rest = &rest[1..];
            }
            ')' => {
                depth = depth.checked_sub(1)?;
                made.push(")".to_string());
                rest = &rest[1..];
            }
            '[' | ']' | ',' => {
                made.push(first.to_string());
                rest = &rest[1..];
            }
            _ => {
                let end = rest.find(|c: char| !"+-*/<>=~!@%^|&?#".contains(c));
                let (operator, behind) = rest.split_at(end.unwrap_or(rest.len()));
                if !OPERATORS.contains(&operator) {
                    return None;
                }
                made.push(form.operator(operator));
                rest = behind;
            }
        }
    }
    (depth == 0).then(|| made.join(" "))
}

/// The lowest oid of an object that does not come with PostgreSQL (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// The keywords of conditions, as PostgreSQL writes them.
const KEYWORDS: [&str; 18] = [
    "AND", "OR", "NOT", "IS", "NULL", "TRUE", "FALSE", "UNKNOWN", "true", "false", "DISTINCT",
    "FROM", "ANY", "ALL", "ARRAY", "COALESCE", "NULLIF", "ROW",
];

/// The operators of conditions.
const OPERATORS: [&str; 26] = [
    "=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "~~", "!~~", "~~*", "!~~*", "~",
    "!~", "~*", "!~*", "||", "->", "->>", "@>", "<@", "?", "&&",
];

/// The types to which a condition may cast, as PostgreSQL writes them. A name stands before one
/// that it begins with.
const TYPES: [&str; 29] = [
    "timestamp with time zone",
    "timestamp without time zone",
    "time with time zone",
    "time without time zone",
    "character varying",
    "double precision",
    "bit varying",
    "text",
    "integer",
    "bigint",
    "smallint",
    "numeric",
    "real",
    "boolean",
    "uuid",
    "date",
    "interval",
    "character",
    "bpchar",
    "bytea",
    "inet",
    "cidr",
    "macaddr",
    "jsonb",
    "json",
    "bit",
    "money",
    "name",
    "\"char\"",
];

/// Those of [`TYPES`] that PostgreSQL looks for on the path.
const LOOKED_UP: [&str; 13] = [
    "text", "uuid", "date", "bpchar", "bytea", "inet", "cidr", "macaddr", "jsonb", "json", "money",
    "name", "\"char\"",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn rebuilt(sql: &str, is_column: impl Fn(&str) -> bool) -> Option<String> {
        super::rebuilt(sql, Form::InStatement, is_column)
    }

    #[test]
    fn in_a_function_all_is_qualified() {
        let sql = "((n > 0) AND ((state)::text = ANY (ARRAY['a'::text, 'b'::text])))";
        let made = concat!(
            r#"( ( changed."n" OPERATOR(pg_catalog.>) 0 ) AND ( ( changed."state" ) "#,
            r#"::pg_catalog.text OPERATOR(pg_catalog.=) ANY ( ARRAY [ 'a' ::pg_catalog.text , "#,
            r#"'b' ::pg_catalog.text ] ) ) )"#
        );
        let in_function = |sql| super::rebuilt(sql, Form::InFunction, is_column);
        assert_eq!(in_function(sql).as_deref(), Some(made));
        for other in ["(n IS DISTINCT FROM 1)", "(NULLIF(n, 0) IS NULL)", "(f(n))"] {
            assert_eq!(in_function(other), None, "{other}");
        }
    }

    fn is_column(name: &str) -> bool {
        ["n", "state", "at", "Odd (Name", "text", "to", "program"].contains(&name)
    }

    #[test]
    fn a_condition_of_known_parts_is_made_anew() {
        for (plain, made) in [
            ("(n > 0)", r#"( "n" > 0 )"#),
            (
                "((at IS NULL) AND (n = ANY (ARRAY[1, 2])))",
                r#"( ( "at" IS NULL ) AND ( "n" = ANY ( ARRAY [ 1 , 2 ] ) ) )"#,
            ),
            (
                "((state)::text = 'it''s (x'::text)",
                r#"( ( "state" ) ::text = 'it''s (x' ::text )"#,
            ),
            (
                "(at > '2020-01-01 00:00:00+00'::timestamp with time zone)",
                r#"( "at" > '2020-01-01 00:00:00+00' ::timestamp with time zone )"#,
            ),
            (
                "((state)::character varying(9) <> 'a'::character varying)",
                r#"( ( "state" ) ::character varying ( 9 ) <> 'a' ::character varying )"#,
            ),
            (
                r#"("Odd (Name" IS DISTINCT FROM 1.5)"#,
                r#"( "Odd (Name" IS DISTINCT FROM 1.5 )"#,
            ),
            // A column that is called like a keyword stays a column.
            ("(to > program)", r#"( "to" > "program" )"#),
        ] {
            assert_eq!(rebuilt(plain, is_column).as_deref(), Some(made), "{plain}");
        }
    }

    #[test]
    fn whatever_may_run_the_owners_code_is_refused() {
        for other in [
            "evil(n)",
            "app.evil(n)",
            "(n OPERATOR(app.>) 0)",
            "(n = 'x'::app.state)",
            "(n = 'x'::evil)",
            "(n = 'x'::text.evil)",
            "(n = (evil 'x'))",
            "\"evil\"(n)",
            "n(0)",
            "n (0)",
            "\"n\" (0)",
            "(SELECT true)",
            "(state = E'\\'(')",
            "(state = $$x$$)",
            "(m > 0)",
            "((n).x > 0)",
            "(n > /* without an end",
            "pg_read_file('x') IS NULL",
            "true --\r and evil(n)",
            "true -- ",
            "€1.€(n)",
            "1.€(n)",
            "1e5 > n",
            "true)) TO PROGRAM 'x' --",
            "(true",
            "true)",
            "n @@ n",
            "n = U&'x'",
            "current_user = 'x'",
        ] {
            assert_eq!(rebuilt(other, is_column), None, "{other}");
        }
        // Under either `standard_conforming_strings` a backslash is a backslash.
        let literal = r"'\'' AND evil(n) --'";
        let made = rebuilt(&format!("(state = {literal})"), is_column).expect("a literal");
        assert_eq!(made, r#"( "state" = E'\\'' AND evil(n) --' )"#);
    }

    #[test]
    fn a_text_that_could_leave_its_parentheses_is_not_taken() {
        for contained in [
            "(n > 0)",
            "app.is_hot(n)",
            "(state = 'a ) -- ; \"'::app.state)",
            "(\"Odd \"\" ) ;\" IS NULL)",
            r"(state = E'a\\b''c'::text)",
            "(n OPERATOR(public.=) 1)",
            "CASE\n    WHEN (n > 1) THEN true\n    ELSE false\nEND",
        ] {
            assert!(is_contained(contained), "{contained}");
        }
        for other in [
            "true)) TO PROGRAM 'x' --",
            "true) OR (true",
            "(true",
            "true -- ",
            "true /* ",
            "true; DROP TABLE x",
            r"state = 'a\'",
            r"state = E'a\''",
            "state = U&'x'",
            "state = 'x",
            "state = $$x$$",
            "true \r",
            "€(n)",
        ] {
            assert!(!is_contained(other), "{other}");
        }
    }
}
