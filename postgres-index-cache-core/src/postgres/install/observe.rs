//! [`observe`]: the announcing triggers that a table has, and whether their function is the one
//! that [`Expected`] would generate today.

use super::sql::Expected;
use crate::postgres::catalog::CatalogTable;
use crate::postgres::triggers::{Announced, announced};
use std::ops::Deref;

/// The origin of an installed trigger function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// A function that pgic made and would make today, word for word.
    Current,
    /// A function that pgic made and would not make today: by another version, for other columns,
    /// or edited by somebody.
    Outdated,
    /// A function that pgic did not make: the specification's generic one, or another whose name
    /// begins like that.
    Foreign,
}

impl Version {
    /// Returns the word that `status` shows.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Outdated => "outdated",
            Self::Foreign => "foreign",
        }
    }
}

/// A table's announcing triggers, and the origin of the function that they call.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The triggers, with their channel and options.
    pub announced: Announced<'a>,
    /// The origin of the function.
    pub version: Version,
}

impl<'a> Deref for Observed<'a> {
    type Target = Announced<'a>;

    fn deref(&self) -> &Announced<'a> {
        &self.announced
    }
}

/// Returns the triggers that announce a table's changes; `None` if no trigger does.
pub fn observe(table: &CatalogTable) -> Option<Observed<'_>> {
    let announced = announced(table)?;
    let version = match (&announced.comment, &table.key) {
        (None, _) => Version::Foreign,
        // The key was dropped after the function was made: no function could be made today.
        (Some(_), None) => Version::Outdated,
        (Some(comment), Some(key)) => {
            let function = announced
                .row
                .or(announced.truncate)
                .map(|trigger| &trigger.function);
            // Compare with the options that are installed, not with the defaults: a chosen option
            // makes no function outdated.
            let expected = Expected::new(table, key, &comment.options);
            if function.is_some_and(|function| expected.is(function)) {
                Version::Current
            } else {
                Version::Outdated
            }
        }
    };
    Some(Observed { announced, version })
}
