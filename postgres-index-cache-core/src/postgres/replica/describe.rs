//! [`ReplicaTableSource`]: a table of a replica as the catalogue has it.

use crate::DEFAULT_CACHE_CHANNEL;
use crate::postgres::connection::open::{Open, open_patiently};
use crate::postgres::connection::session::SessionPurpose;
use crate::postgres::error_chain::chain;
use crate::postgres::replica::ReplicaError;
use crate::postgres::replica::supervisor::{Description, SupervisedTable, Unfollowed};
use crate::postgres::schema::catalog::{self, Catalog, CatalogAccess, CatalogError, CatalogTable};
use crate::postgres::schema::eligibility::{self, TableConfig};
use crate::postgres::schema::triggers::announced;
use crate::value::CellType;
use std::sync::Arc;

/// A table of a replica as the catalogue has it.
#[derive(Debug, Clone)]
pub(super) struct ReplicaTableSource {
    follow: TableConfig,
    channel: String,
    /// Its name, with the schema.
    pub(super) relation: Arc<str>,
}

impl SupervisedTable for ReplicaTableSource {
    fn follow(&self) -> &TableConfig {
        &self.follow
    }

    fn channel(&self) -> &str {
        &self.channel
    }

    fn is_same(&self, other: &Self) -> bool {
        self.channel == other.channel && self.follow.is_same_table(&other.follow)
    }
}

/// Looks at the tables of these names, as `open` does for the first time: each, or why it cannot be
/// followed.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub(super) async fn describe(
    open: Open,
    wanted: Vec<Arc<str>>,
) -> Result<Vec<Result<ReplicaTableSource, ReplicaError>>, ReplicaError> {
    let mut client = open_patiently(&open, SessionPurpose::Command)
        .await
        .map_err(ReplicaError::Connect)?
        .into_client();
    let catalog = Catalog::begin(&mut client, CatalogAccess::ReadOnly)
        .await
        .map_err(CatalogError::from)?;
    // What has a name may be renamed before it is described: then it is another table that has been
    // described.
    for _ in 0..ATTEMPTS {
        let found = find(&catalog, &wanted).await?;
        let oids: Vec<u32> = found.iter().flatten().copied().collect();
        let mut tables = match catalog::describe(&catalog, &oids).await {
            // Dropped a moment ago; another may have the name by now.
            Err(CatalogError::Gone(_)) => continue,
            tables => tables?.into_iter(),
        };
        let again = find(&catalog, &wanted).await?;
        let oid = |found: &Result<u32, ReplicaError>| found.as_ref().ok().copied();
        if again.iter().map(oid).eq(found.iter().map(oid)) {
            // The tables come in the order of their oids.
            return Ok(found
                .into_iter()
                .map(|found| found.and_then(|oid| target(oid, tables.next())))
                .collect());
        }
    }
    Err(CatalogError::Renamed.into())
}

/// How often tables that are renamed meanwhile are described again.
const ATTEMPTS: usize = 5;

/// The oids of the tables of these names, or why one is not had: each table's trouble is its own.
async fn find(
    catalog: &Catalog<'_>,
    wanted: &[Arc<str>],
) -> Result<Vec<Result<u32, ReplicaError>>, ReplicaError> {
    let mut found: Vec<Result<u32, ReplicaError>> = Vec::new();
    for name in wanted {
        found.push(match catalog.find(name).await {
            Ok(None) => Err(ReplicaError::NoTable(name.to_string())),
            Ok(Some(oid)) if found.iter().flatten().any(|known| *known == oid) => {
                Err(ReplicaError::Twice(name.to_string()))
            }
            Ok(Some(oid)) => Ok(oid),
            Err(error @ CatalogError::NoName(_)) => Err(error.into()),
            Err(error) => return Err(error.into()),
        });
    }
    Ok(found)
}

fn target(oid: u32, table: Option<CatalogTable>) -> Result<ReplicaTableSource, ReplicaError> {
    let table = table.ok_or(CatalogError::Gone(oid))?;
    eligibility::check_kind(&table)?;
    let announced = announced(&table);
    for notice in eligibility::check_announced(&table)? {
        tracing::warn!("{notice}");
    }
    let sent = eligibility::sent(&table, announced.as_ref());
    let shape = eligibility::shape(&table, |column| sent.contains(&column))?;
    if !matches!(shape.key(), [key] if shape.columns()[*key].kind == CellType::Uuid) {
        return Err(ReplicaError::KeyNotUuid(table.display_name()));
    }
    let channel = announced
        .as_ref()
        .and_then(|announced| announced.channel.clone());
    Ok(ReplicaTableSource {
        follow: TableConfig::new(&table, announced.as_ref(), &shape),
        channel: channel.unwrap_or_else(|| DEFAULT_CACHE_CHANNEL.to_string()),
        relation: table.written_name().into(),
    })
}

/// The same for tables that are followed already: what is wrong is said with its remedy.
pub(super) async fn describe_again(
    open: Open,
    wanted: Vec<Arc<str>>,
) -> Description<ReplicaTableSource> {
    let described = describe(open, wanted)
        .await
        .map_err(|error| unfollowed(&error))?;
    Ok(described
        .into_iter()
        .map(|target| target.map_err(|error| unfollowed(&error)))
        .collect())
}

fn unfollowed(error: &ReplicaError) -> Unfollowed {
    let why = chain(error);
    Unfollowed(match error {
        ReplicaError::Follow(follow) => follow
            .hint()
            .map_or(why.clone(), |hint| format!("{why}; {hint}")),
        _ => why,
    })
}
