//! [`ReplicaTarget`]: a table of a replica as the catalogue has it.

use super::ReplicaError;
use crate::DEFAULT_CACHE_CHANNEL;
use crate::postgres::announced::announced;
use crate::postgres::catalog::{self, CatalogError, Table};
use crate::postgres::error::chain;
use crate::postgres::follow::{self, FollowTable};
use crate::postgres::links::{Open, open_patiently};
use crate::postgres::session::Role;
use crate::postgres::supervisor::{Description, Target, Unfollowed};
use crate::value::Kind;
use std::sync::Arc;
use tokio_postgres::Client;

/// A table of a replica as the catalogue has it.
#[derive(Debug, Clone)]
pub(super) struct ReplicaTarget {
    follow: FollowTable,
    channel: String,
}

impl Target for ReplicaTarget {
    fn follow(&self) -> &FollowTable {
        &self.follow
    }

    fn channel(&self) -> &str {
        &self.channel
    }

    fn is_same(&self, other: &Self) -> bool {
        self.channel == other.channel && self.follow.is_same_table(&other.follow)
    }
}

/// Looks at the tables of these names, as `open` does for the first time: each, or why it cannot be followed.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub(super) async fn describe(
    open: Open,
    wanted: Vec<Arc<str>>,
) -> Result<Vec<Result<ReplicaTarget, ReplicaError>>, ReplicaError> {
    let client = open_patiently(&open, Role::Command).await.map_err(ReplicaError::Connect)?.into_client();
    let mut found: Vec<Result<u32, ReplicaError>> = Vec::new();
    for name in &wanted {
        found.push(match find(&client, name).await? {
            None => Err(ReplicaError::NoTable(name.to_string())),
            Some(oid) if found.iter().flatten().any(|known| *known == oid) => {
                Err(ReplicaError::Twice(name.to_string()))
            }
            Some(oid) => Ok(oid),
        });
    }
    // What a schema of the session's own path holds must not be meant by what is asked now.
    let safe_path = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)";
    client.batch_execute(safe_path).await.map_err(CatalogError::from)?;
    let oids: Vec<u32> = found.iter().flatten().copied().collect();
    let mut tables = catalog::describe(&client, &oids).await?.into_iter();
    // The tables come in the order of their oids.
    Ok(found.into_iter().map(|found| found.and_then(|oid| target(oid, tables.next()))).collect())
}

async fn find(client: &Client, name: &str) -> Result<Option<u32>, ReplicaError> {
    let row = client.query_one("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[&name]).await;
    Ok(row.map_err(CatalogError::from)?.get(0))
}

fn target(oid: u32, table: Option<Table>) -> Result<ReplicaTarget, ReplicaError> {
    let table = table.ok_or(CatalogError::Gone(oid))?;
    follow::check_kind(&table)?;
    let announced = announced(&table);
    for notice in follow::check_announced(&table)? {
        tracing::warn!("{notice}");
    }
    let sent = follow::sent(&table, announced.as_ref());
    let shape = follow::shape(&table, |column| sent.contains(&column))?;
    if !matches!(shape.key(), [key] if shape.columns()[*key].kind == Kind::Uuid) {
        return Err(ReplicaError::KeyNotUuid(table.display_name()));
    }
    let channel = announced.as_ref().and_then(|announced| announced.channel.clone());
    Ok(ReplicaTarget {
        follow: FollowTable::new(&table, announced.as_ref(), &shape),
        channel: channel.unwrap_or_else(|| DEFAULT_CACHE_CHANNEL.to_string()),
    })
}

/// The same for tables that are followed already: what is wrong is said with its remedy.
pub(super) async fn describe_again(open: Open, wanted: Vec<Arc<str>>) -> Description<ReplicaTarget> {
    let described = describe(open, wanted).await.map_err(|error| unfollowed(&error))?;
    Ok(described.into_iter().map(|target| target.map_err(|error| unfollowed(&error))).collect())
}

fn unfollowed(error: &ReplicaError) -> Unfollowed {
    let why = chain(error);
    Unfollowed(match error {
        ReplicaError::Follow(follow) => follow.hint().map_or(why.clone(), |hint| format!("{why}; {hint}")),
        _ => why,
    })
}
