//! [`Filter`]: the changes that `tail` shows, by table, action, key and values.
//!
//! ```text
//! names, keys, conditions as written ─→ Filter::prepare, by the catalogue ─→ Filter ─→ accepts
//! ```
//!
//! PostgreSQL reads the keys and the values, as it does for `query`, so `price=2.5` finds 2.50. A
//! payload may also be that of somebody else's program, about a table that the database does not
//! have: there the texts are compared.

mod announcers;

use super::Args;
use crate::render::change::{members, plain};
use crate::tables;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::conditions::{self, Conditions, Written};
use crate::tables::key;
use crate::triggers::observe::observe;
use announcers::Announcers;
use anyhow::Context as _;
use postgres_index_cache_core::tooling::Payload;
use postgres_index_cache_core::tooling::postgres::catalog::{CatalogError, parse_name};
use postgres_index_cache_core::{Action, Key};
use serde_json::value::RawValue;

/// The properties that a change must have. An empty list asks for nothing. Of several tables,
/// actions or keys one must fit; all conditions must hold.
#[derive(Debug, Default)]
pub(super) struct Filter {
    actions: Vec<Action>,
    /// Whether only the tables in `tables` are shown, since they were named.
    has_named_tables: bool,
    /// The tables that are named, or if none is, those whose keys and values are looked at.
    tables: Vec<WantedTable>,
    /// The tables that were named where no server is asked: the schema if it was given, and the
    /// name.
    named: Vec<(Option<String>, String)>,
    /// The keys as they were written, for payloads about tables that are not in `tables`.
    ids: Vec<String>,
    /// The conditions as they were written, for the same.
    conditions: Vec<Written>,
}

/// A table of the database, with the keys and the conditions for its rows.
#[derive(Debug)]
struct WantedTable {
    schema: String,
    name: String,
    key: Vec<String>,
    /// Conditions on the key's columns, one set for each key.
    ids: Vec<Conditions>,
    conditions: Conditions,
}

/// A filter, and what the user should know of it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) filter: Filter,
    /// The channels to listen on.
    pub(super) channels: Vec<String>,
    pub(super) notices: Vec<String>,
    /// The tables that are announced.
    pub(super) announced: Vec<CatalogTable>,
    /// The tables that were named.
    pub(super) named: Vec<CatalogTable>,
}

impl Filter {
    /// Makes a filter of the arguments. Unless `has_channels` says that channels were named, those of
    /// the tables' own are listened to as well.
    ///
    /// # Errors
    /// If a table or a column does not exist, or a key or a value is none of the column's type.
    pub(super) async fn prepare(
        catalog: &mut Catalog<'_>,
        args: &Args,
        has_channels: bool,
    ) -> anyhow::Result<Prepared> {
        let conditions: Vec<Written> = args
            .conditions
            .iter()
            .map(|text| Written::parse(text))
            .collect::<Result<_, _>>()?;
        let names: Vec<String> = args
            .tables
            .iter()
            .chain(&args.more_tables)
            .cloned()
            .collect();
        let named = catalog::resolve(catalog, &names).await?;
        let oids = catalog::tables_with_triggers(catalog).await?;
        let announced = catalog::describe(catalog, &oids).await?;
        let announcers = Announcers::of(&announced);
        let channels = if has_channels {
            args.channels.clone()
        } else {
            announcers.with_own(&args.channels, &named)
        };
        let mut notices = announcers.notices(&channels, &named);
        let has_named_tables = !names.is_empty();
        let asks_for_rows = !args.ids.is_empty() || !conditions.is_empty();
        let described = match (has_named_tables, asks_for_rows) {
            (true, _) => named.clone(),
            (false, true) => announced.clone(),
            (false, false) => Vec::new(),
        };
        let mut filter = Self {
            actions: args.actions.clone(),
            has_named_tables,
            tables: Vec::new(),
            named: Vec::new(),
            ids: args.ids.clone(),
            conditions,
        };
        let mut refused = None;
        for table in &described {
            match filter.table(catalog, table).await {
                Ok(wanted) => {
                    notices.extend(filter.unsent_notice(table));
                    filter.tables.push(wanted);
                }
                // Of several tables, one must have the column; the others are not shown.
                Err(error) => {
                    if has_named_tables {
                        notices.push(format!(
                            "no change of {} is shown: {}",
                            table.display_name(),
                            error.root_cause()
                        ));
                    }
                    refused = refused.or(Some(error));
                }
            }
        }
        notices.extend(filter.delete_notice());
        match refused {
            Some(error) if filter.tables.is_empty() => Err(error),
            _ => Ok(Prepared {
                filter,
                channels,
                notices,
                announced,
                named,
            }),
        }
    }

    /// Makes a filter of the arguments without a server: names, keys and values are compared as
    /// texts.
    ///
    /// # Errors
    /// If a name or a condition is none.
    pub(super) fn of_texts(args: &Args) -> anyhow::Result<Self> {
        let conditions = args.conditions.iter().map(|text| Written::parse(text));
        let mut named = Vec::new();
        for name in args.tables.iter().chain(&args.more_tables) {
            let parts = parse_name(name).ok_or_else(|| CatalogError::NoName(name.clone()))?;
            named.push(match parts.as_slice() {
                [table] => (None, table.clone()),
                [schema, table] => (Some(schema.clone()), table.clone()),
                _ => return Err(CatalogError::NoName(name.clone()).into()),
            });
        }
        Ok(Self {
            actions: args.actions.clone(),
            has_named_tables: !named.is_empty(),
            tables: Vec::new(),
            named,
            ids: args.ids.clone(),
            conditions: conditions.collect::<Result<_, _>>()?,
        })
    }

    /// Makes the keys and the conditions for a table.
    async fn table(
        &self,
        catalog: &mut Catalog<'_>,
        table: &CatalogTable,
    ) -> anyhow::Result<WantedTable> {
        let key = match &table.key {
            Some(key) => key.columns.clone(),
            None => Vec::new(),
        };
        let mut ids = Vec::new();
        for id in &self.ids {
            let written = key::conditions(&key, id)
                .with_context(|| format!("find a row of {}", table.display_name()))?;
            ids.push(conditions::evaluate(catalog, table, &written).await?);
        }
        Ok(WantedTable {
            schema: table.schema.clone(),
            name: table.name.clone(),
            key,
            ids,
            conditions: conditions::evaluate(catalog, table, &self.conditions).await?,
        })
    }

    /// Returns a notice if a condition can never hold, since the trigger does not send its column.
    fn unsent_notice(&self, table: &CatalogTable) -> Option<String> {
        let seen = observe(table)?;
        let options = seen.options();
        if options.is_some_and(|options| options.no_data) && !self.conditions.is_empty() {
            return Some(format!(
                "the trigger of {} sends keys alone, so no condition on its values ever holds",
                table.display_name()
            ));
        }
        self.conditions.iter().find_map(|condition| {
            let column = table.column(condition.column())?;
            let error = tables::check_sent(table, Some(&seen), &column.name).err()?;
            Some(format!(
                "{}, so {condition} never holds",
                error.root_cause()
            ))
        })
    }

    /// Returns a notice if a condition is on other columns than the key: a delete has none of them.
    fn delete_notice(&self) -> Option<String> {
        let shows_deletes = self.actions.is_empty() || self.actions.contains(&Action::Delete);
        let of_key = |condition: &Written| {
            let mut tables = self.tables.iter();
            tables.all(|table| table.key.iter().any(|name| name == condition.column()))
        };
        let condition = self.conditions.iter().find(|condition| !of_key(condition));
        condition.filter(|_| shows_deletes).map(|condition| {
            format!(
                "deletes carry the key alone and are not shown, since {condition} cannot be told of \
                them: pgic query --watch shows rows that leave"
            )
        })
    }

    /// Returns whether every change passes.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_named_tables
            && self.actions.is_empty()
            && self.ids.is_empty()
            && self.conditions.is_empty()
    }

    /// Returns whether the change that `payload` tells of is to be shown.
    pub(super) fn accepts(&self, payload: &Payload<'_>) -> bool {
        if !self.actions.is_empty() && !self.actions.contains(&payload.action) {
            return false;
        }
        match self.tables.iter().find(|table| table.is_of(payload)) {
            Some(table) => table.accepts(payload),
            None => (!self.has_named_tables || self.names(payload)) && self.accepts_text(payload),
        }
    }

    /// Returns whether a payload is about a table that was named as a text.
    fn names(&self, payload: &Payload<'_>) -> bool {
        self.named.iter().any(|(schema, name)| {
            let is_schema = match (schema, &payload.schema) {
                (Some(schema), Some(own)) => own == schema,
                // The plain form has no schema, and a bare name means any.
                _ => true,
            };
            payload.table == *name && is_schema
        })
    }

    /// Returns whether a payload about a table that is not known here is to be shown, by the texts
    /// of its key and its values.
    fn accepts_text(&self, payload: &Payload<'_>) -> bool {
        let has_key = self.ids.is_empty()
            || keys(payload).any(|id| self.ids.contains(&Key::of_json(id).to_string()));
        has_key && (self.conditions.is_empty() || self.has_values(payload))
    }

    fn has_values(&self, payload: &Payload<'_>) -> bool {
        // Without data (a delete, a row that is too long) the values are not known.
        let Some(data) = payload.data else {
            return false;
        };
        let members = members(data);
        self.conditions.iter().all(|wanted| {
            members.iter().any(|(name, value)| {
                let value = (*value != "null").then(|| plain(value));
                name == wanted.column() && wanted.is_text(value.as_deref())
            })
        })
    }
}

impl WantedTable {
    /// Returns whether a payload is about this table. One in the specification's form has no
    /// schema.
    fn is_of(&self, payload: &Payload<'_>) -> bool {
        let is_schema = match &payload.schema {
            Some(schema) => *schema == self.schema,
            None => true,
        };
        payload.table == self.name && is_schema
    }

    /// Returns whether a change of this table has one of the keys, and fulfils the conditions.
    fn accepts(&self, payload: &Payload<'_>) -> bool {
        (self.ids.is_empty() || keys(payload).any(|id| self.has_key(id)))
            && (self.conditions.is_empty() || self.has_values(payload))
    }

    fn has_key(&self, id: &str) -> bool {
        let parts = match self.key.as_slice() {
            [_] => vec![id],
            _ => {
                let parts = serde_json::from_str::<Vec<&RawValue>>(id).unwrap_or_default();
                parts.into_iter().map(RawValue::get).collect()
            }
        };
        self.ids.iter().any(|wanted| {
            wanted.are_fulfilled_by(|column| {
                let at = self.key.iter().position(|name| name == column)?;
                parts.get(at).copied()
            })
        })
    }

    fn has_values(&self, payload: &Payload<'_>) -> bool {
        let Some(data) = payload.data else {
            return false;
        };
        let members = members(data);
        self.conditions.are_fulfilled_by(|column| {
            let member = members.iter().find(|(name, _)| name == column);
            member.map(|(_, value)| *value)
        })
    }
}

/// Returns the keys of a change. One of the key itself concerns whoever watches the old key or the
/// new one.
fn keys<'a>(payload: &Payload<'a>) -> impl Iterator<Item = &'a str> {
    [payload.id, payload.old_id, payload.new_id]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a filter without tables of the database.
    fn filter(ids: &[&str], conditions: &[&str]) -> Filter {
        Filter {
            actions: vec![Action::Update],
            ids: ids.iter().map(ToString::to_string).collect(),
            conditions: conditions
                .iter()
                .map(|condition| Written::parse(condition).unwrap())
                .collect(),
            ..Filter::default()
        }
    }

    // A program of somebody else's may notify about what is no table.
    #[test]
    fn where_the_table_is_not_known_texts_are_compared() {
        let text = concat!(
            r#"{"table":"jobs","schema":"app","action":"update","id":["a",7],"old_id":["a",6],"#,
            r#""data":{"n":7,"s":"x","z":null}}"#
        );
        let payload = Payload::parse(text).unwrap();
        let accepted: [(&[&str], &[&str]); 3] = [
            (&["a,7"], &["n=7", "s=x", "z=null", "s!=y", "s~^x$"]),
            // The old key of a row that changed its key.
            (&["a,6"], &[]),
            (&[], &["s!=null"]),
        ];
        for (ids, conditions) in accepted {
            let filter = filter(ids, conditions);
            assert!(filter.accepts(&payload), "{filter:?}");
        }
        let refused: [(&[&str], &[&str]); 5] = [
            // A part of a composite key is no key.
            (&["7"], &[]),
            (&[], &["n=7", "s=y"]),
            (&[], &["absent=1"]),
            (&[], &["z!=1"]),
            (&[], &["s=null"]),
        ];
        for (ids, conditions) in refused {
            let filter = filter(ids, conditions);
            assert!(!filter.accepts(&payload), "{filter:?}");
        }
    }
}
