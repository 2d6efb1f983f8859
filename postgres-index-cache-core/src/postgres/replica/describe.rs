//! [`Described`]: the tables of a replica as the catalogue has them.

use super::ReplicaError;
use crate::DEFAULT_CACHE_CHANNEL;
use crate::postgres::announced::announced;
use crate::postgres::catalog::{self, CatalogError};
use crate::postgres::follow::{self, FollowTable};
use crate::postgres::links::Open;
use crate::postgres::session::Role;
use crate::value::Kind;
use std::sync::Arc;

/// The tables as the catalogue has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) tables: Vec<FollowTable>,
    pub(super) channels: Vec<String>,
}

/// Looks at the tables of these names.
pub(super) async fn describe(open: Open, wanted: Vec<Arc<str>>) -> Result<Described, ReplicaError> {
    let client = open(Role::Command).await.map_err(ReplicaError::Connect)?.into_client();
    let mut oids = Vec::new();
    for name in &wanted {
        let row = client.query_one("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[&&**name]).await;
        let oid: Option<u32> = row.map_err(CatalogError::from)?.get(0);
        let oid = oid.ok_or_else(|| ReplicaError::NoTable(name.to_string()))?;
        if oids.contains(&oid) {
            return Err(ReplicaError::Twice(name.to_string()));
        }
        oids.push(oid);
    }
    // What a schema of the session's own path holds must not be meant by what is asked now.
    let safe_path = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)";
    client.batch_execute(safe_path).await.map_err(CatalogError::from)?;
    let (mut tables, mut channels) = (Vec::new(), Vec::new());
    for table in catalog::describe(&client, &oids).await? {
        follow::check_kind(&table)?;
        let announced = announced(&table);
        for notice in follow::check_announced(&table, announced.as_ref())? {
            tracing::warn!("{notice}");
        }
        let sent = follow::sent(&table, announced.as_ref());
        let shape = follow::shape(&table, |column| sent.contains(&column))?;
        if !matches!(shape.key(), [key] if shape.columns()[*key].kind == Kind::Uuid) {
            return Err(ReplicaError::KeyNotUuid(table.display_name()));
        }
        let channel = announced.as_ref().and_then(|announced| announced.channel.clone());
        channels.push(channel.unwrap_or_else(|| DEFAULT_CACHE_CHANNEL.to_string()));
        tables.push(FollowTable::new(&table, announced.as_ref(), &shape));
    }
    channels.sort();
    channels.dedup();
    Ok(Described { tables, channels })
}

impl Described {
    pub(super) fn is_of_same_tables(&self, other: &Self) -> bool {
        let same = |(a, b): (&FollowTable, &FollowTable)| a.is_same_table(b);
        self.channels == other.channels && self.tables.iter().zip(&other.tables).all(same)
    }
}
