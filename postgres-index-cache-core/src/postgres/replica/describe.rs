//! [`DescribedTable`]: a table of a replica as the catalogue has it.

use crate::DEFAULT_CACHE_CHANNEL;
#[cfg(feature = "nats")]
use crate::postgres::connection::open::open_with;
use crate::postgres::connection::open::{Open, open_patiently};
#[cfg(feature = "nats")]
use crate::postgres::connection::session::Connector;
use crate::postgres::connection::session::SessionPurpose;
use crate::postgres::error_chain::chain;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::model_needs::{ModelNeeds, OfferedTable};
#[cfg(feature = "nats")]
use crate::postgres::replica::supervisor::Describe;
use crate::postgres::replica::supervisor::{Description, SupervisedTable, Unfollowed};
use crate::postgres::schema::catalog::{self, Catalog, CatalogAccess, CatalogError, CatalogTable};
use crate::postgres::schema::eligibility::{self, TableConfig};
use crate::postgres::schema::triggers::announced;
#[cfg(feature = "nats")]
use parking_lot::Mutex;
use std::sync::Arc;

/// How many times tables are described again that are renamed meanwhile.
const ATTEMPTS: usize = 5;

/// A table that is asked for, and what its model needs of the table.
#[derive(Debug, Clone)]
pub(super) struct Requested {
    pub(super) name: Arc<str>,
    pub(super) needs: ModelNeeds,
}

/// A table of a replica as the catalogue has it.
#[derive(Debug, Clone)]
pub struct DescribedTable {
    config: TableConfig,
    channel: String,
    /// The table's name, with the schema.
    relation: Arc<str>,
    needs: ModelNeeds,
    /// See [`leaves_out_updates`](Self::leaves_out_updates).
    leaves_out_updates: bool,
}

impl DescribedTable {
    /// Returns whether the triggers leave out an UPDATE that changes columns of the row, and none
    /// that is sent.
    pub(super) fn leaves_out_updates(&self) -> bool {
        self.leaves_out_updates
    }

    /// Returns the request for this very table.
    pub(super) fn requested(&self) -> Requested {
        Requested {
            name: Arc::clone(&self.relation),
            needs: self.needs,
        }
    }
}

impl SupervisedTable for DescribedTable {
    fn config(&self) -> &TableConfig {
        &self.config
    }

    fn channel(&self) -> &str {
        &self.channel
    }

    fn is_same(&self, other: &Self) -> bool {
        self.channel == other.channel
            && self.leaves_out_updates == other.leaves_out_updates
            && self.config.is_same_table(&other.config)
    }
}

/// Describes the tables of these names, in their order. A table that cannot be followed has an
/// error of its own.
///
/// # Errors
/// If the server cannot be reached, or refuses.
pub(super) async fn describe(
    open: Open,
    requested: Vec<Requested>,
) -> Result<Vec<Result<DescribedTable, ReplicaError>>, ReplicaError> {
    let mut client = open_patiently(&open, SessionPurpose::Command)
        .await
        .map_err(ReplicaError::Connect)?
        .into_client();
    let catalog = Catalog::begin(&mut client, CatalogAccess::ReadOnly)
        .await
        .map_err(CatalogError::from)?;
    // A table may be renamed between the two steps, and another one get its name. So find the names
    // again afterwards, and begin anew unless they mean the same tables.
    for _ in 0..ATTEMPTS {
        let found = find(&catalog, &requested).await?;
        let oids: Vec<u32> = found.iter().flatten().copied().collect();
        let mut tables = match catalog::describe(&catalog, &oids).await {
            // The table was dropped a moment ago; another one may have the name by now.
            Err(CatalogError::Gone(_)) => continue,
            tables => tables?.into_iter(),
        };
        let found_again = find(&catalog, &requested).await?;
        if oids_of(&found_again) == oids_of(&found) {
            // The tables come in the order of their oids.
            return Ok(found
                .into_iter()
                .zip(&requested)
                .map(|(found, asked)| {
                    found.and_then(|oid| described(oid, tables.next(), asked.needs))
                })
                .collect());
        }
    }
    Err(CatalogError::Renamed.into())
}

fn oids_of(found: &[Result<u32, ReplicaError>]) -> Vec<Option<u32>> {
    found
        .iter()
        .map(|found| found.as_ref().ok().copied())
        .collect()
}

/// Returns the oids of the tables of these names. A name that means no table, or a table that was
/// named before, has an error of its own.
async fn find(
    catalog: &Catalog<'_>,
    requested: &[Requested],
) -> Result<Vec<Result<u32, ReplicaError>>, ReplicaError> {
    let mut found: Vec<Result<u32, ReplicaError>> = Vec::new();
    for Requested { name, .. } in requested {
        let is_known = |oid: u32, found: &[Result<u32, ReplicaError>]| {
            found.iter().flatten().any(|known| *known == oid)
        };
        found.push(match catalog.find(name).await {
            Ok(None) => Err(ReplicaError::NoTable(name.to_string())),
            Ok(Some(oid)) if is_known(oid, &found) => Err(ReplicaError::Twice(name.to_string())),
            Ok(Some(oid)) => Ok(oid),
            Err(error @ CatalogError::NoName(_)) => Err(error.into()),
            Err(error) => return Err(error.into()),
        });
    }
    Ok(found)
}

/// Checks that a table can be followed into an application's cache.
fn described(
    oid: u32,
    table: Option<CatalogTable>,
    needs: ModelNeeds,
) -> Result<DescribedTable, ReplicaError> {
    let table = table.ok_or(CatalogError::Gone(oid))?;
    eligibility::check_kind(&table)?;
    let announced = announced(&table);
    for notice in eligibility::check_announced(&table)? {
        tracing::warn!("{notice}");
    }
    let sent = eligibility::sent(&table, announced.as_ref());
    needs.check(&OfferedTable::of_catalog(&table, &sent))?;
    let shape = eligibility::shape(&table, |column| {
        sent.contains(&column) && needs.reads(&column.name)
    })?;
    let channel = announced
        .as_ref()
        .and_then(|announced| announced.channel.clone());
    Ok(DescribedTable {
        config: TableConfig::new(&table, announced.as_ref(), &shape),
        channel: channel.unwrap_or_else(|| DEFAULT_CACHE_CHANNEL.to_string()),
        // With --no-data all columns are compared.
        leaves_out_updates: announced
            .as_ref()
            .and_then(|announced| announced.options())
            .is_some_and(|options| options.on_change && !options.no_data)
            && sent.len() < table.columns.len(),
        relation: table.written_name().into(),
        needs,
    })
}

/// Describes tables that are followed already, as [`describe`] does. An error is said with its
/// remedy.
pub(super) async fn describe_again(
    open: Open,
    requested: Vec<Requested>,
) -> Description<DescribedTable> {
    let described = describe(open, requested)
        .await
        .map_err(|error| Unfollowed(chain(&error)))?;
    Ok(described
        .into_iter()
        .map(|table| table.map_err(|error| Unfollowed(chain(&error))))
        .collect())
}

/// Returns a function that describes the tables of these names, with all columns that their
/// triggers send. A name keeps the schema in which its table was found first.
#[cfg(feature = "nats")]
pub fn describe_named(
    connector: impl Connector + 'static,
    names: Vec<String>,
) -> Describe<DescribedTable> {
    let open = open_with(connector);
    let requested = names.into_iter().map(|name| Requested {
        name: name.into(),
        needs: ModelNeeds::nothing(),
    });
    let requested = Arc::new(Mutex::new(requested.collect::<Vec<_>>()));
    Arc::new(move || {
        let (open, requested) = (Arc::clone(&open), Arc::clone(&requested));
        Box::pin(async move {
            let asked = requested.lock().clone();
            let described = describe_again(open, asked).await?;
            let mut known = requested.lock();
            for (name, table) in known.iter_mut().zip(&described) {
                if let Ok(table) = table {
                    *name = table.requested();
                }
            }
            Ok(described)
        })
    })
}
