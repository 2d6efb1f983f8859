//! What stands on a table beside what should: [`Announced`], and whether it is what would be made
//! today.

use super::sql::Expected;
use crate::tables::catalog::CatalogTable;
use postgres_index_cache_core::postgres::triggers::{Announced, announced};
pub use postgres_index_cache_core::postgres::triggers::{
    ROW_EVENTS, TRUNCATE_EVENT, announces, is_for, is_ours,
};
use std::ops::Deref;

/// Whose a trigger's function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Generated for this table, word for word what would be generated today.
    Current,
    /// Generated for this table by another version or for other columns, or edited.
    Outdated,
    /// Somebody else's: the specification's generic function, or one of the same kind of name.
    Foreign,
}

impl Version {
    /// The word that `status` shows.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Outdated => "outdated",
            Self::Foreign => "foreign",
        }
    }
}

/// A table's announcing triggers, and whose function they call.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// What announces.
    pub announced: Announced<'a>,
    /// Whose function it is.
    pub version: Version,
}

impl<'a> Deref for Observed<'a> {
    type Target = Announced<'a>;

    fn deref(&self) -> &Announced<'a> {
        &self.announced
    }
}

/// What stands on a table; `None` when nothing announces its rows.
pub fn observe(table: &CatalogTable) -> Option<Observed<'_>> {
    let announced = announced(table)?;
    let version = match (&announced.comment, &table.key) {
        (None, _) => Version::Foreign,
        (Some(_), None) => Version::Outdated,
        (Some(comment), Some(key)) => {
            let function = announced
                .row
                .or(announced.truncate)
                .map(|trigger| &trigger.function);
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
