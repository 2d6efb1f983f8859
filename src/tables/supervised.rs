//! [`open`]: tables that a command keeps following by their names while they are altered, renamed
//! or swapped.
//!
//! The core's supervisor asks for fresh descriptions with the [`Describe`] function made here.

use crate::connect::Server;
use crate::failure::{Report, lost_session};
use crate::tables::bounds::Bounds;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::target::{Target, in_the_way, loading, prepare};
use crate::tables::{PlannedCache, check_memory, explain_failure};
use anyhow::Context as _;
use postgres_index_cache_core::parking_lot::{RwLockReadGuard, RwLockWriteGuard};
use postgres_index_cache_core::tooling::postgres::{
    Describe, Description, Loaded, Supervisor, SupervisorError, SupervisorEvent, Unfollowed,
};
use postgres_index_cache_core::tooling::sync::TableId;
use postgres_index_cache_core::tooling::{Condition, TableCache};
use std::sync::Arc;

/// A command's way to make a target of a table. Used again whenever the table is described afresh.
pub trait MakeTarget: Send + Sync + 'static {
    /// Makes the target. The catalogue may be queried, for the values of conditions for example.
    ///
    /// # Errors
    /// If the table cannot be followed.
    fn make(
        &self,
        catalog: &mut Catalog<'_>,
        table: CatalogTable,
    ) -> impl Future<Output = anyhow::Result<Target>> + Send;
}

/// Targets that keep and show every column that is announced.
#[derive(Debug, Clone, Copy)]
pub struct AnnouncedTargets;

impl MakeTarget for AnnouncedTargets {
    async fn make(&self, _: &mut Catalog<'_>, table: CatalogTable) -> anyhow::Result<Target> {
        Target::announced(table, &mut Vec::new())
    }
}

/// The tables to describe, and the way to make targets of them.
struct Wanted<M> {
    server: Server,
    names: Vec<String>,
    bounds: Bounds,
    make: M,
}

impl<M: MakeTarget> Wanted<M> {
    /// Returns the function that the supervisor calls for fresh descriptions.
    fn into_describe(self) -> Describe<Target> {
        let wanted = Arc::new(self);
        Arc::new(move || {
            let wanted = Arc::clone(&wanted);
            Box::pin(async move { wanted.describe().await })
        })
    }

    /// Describes the tables that have the names now.
    async fn describe(&self) -> Description<Target> {
        let mut client = self
            .server
            .client()
            .await
            .map_err(|error| unfollowed(&error))?;
        let mut catalog = catalog::reading(&mut client)
            .await
            .map_err(|error| unfollowed(&error))?;
        let mut described: Vec<Result<Target, Unfollowed>> = Vec::new();
        for name in &self.names {
            let target = match catalog::resolve_one(&catalog, name).await {
                Ok(table) => self.make.make(&mut catalog, table).await,
                Err(error) => Err(error),
            };
            described.push(match target {
                // A rename can make two names mean one table, which is followed once.
                Ok(target) if has_table(&described, target.table.oid) => Err(Unfollowed(format!(
                    "{name} is the same table as another that is followed"
                ))),
                Ok(target) => Ok(target),
                // A lost session is no table's fault: nothing could be described.
                Err(error) if catalog.client().is_closed() || lost_session(&error) => {
                    return Err(unfollowed(&error));
                }
                // A table that cannot be followed keeps no other table from being followed.
                Err(error) => Err(unfollowed(&error)),
            });
        }
        let planned: Vec<PlannedCache<'_>> = described
            .iter()
            .flatten()
            .map(Target::planned_cache)
            .collect();
        check_memory(&mut catalog, &planned, self.bounds.max_memory)
            .await
            .map_err(|error| unfollowed(&error))?;
        Ok(described)
    }
}

/// Tells whether a table is among the described ones.
fn has_table(described: &[Result<Target, Unfollowed>], oid: u32) -> bool {
    described
        .iter()
        .flatten()
        .any(|target| target.table.oid == oid)
}

/// Returns an error and its hint on one line.
fn unfollowed(error: &anyhow::Error) -> Unfollowed {
    Unfollowed(Report::new(error).one_line())
}

/// Loads `targets` and waits until they are live. From then on they are followed by their names,
/// and `make` makes targets of the tables that have these names.
///
/// `catalog` is the transaction that the targets were described in. `say` gets a text for each
/// event that delays the loading. A progress bar is shown unless `is_quiet`.
///
/// # Errors
/// If the caches would take more memory than `bounds` has, or the supervisor gives up before all
/// tables were live for the first time.
pub async fn open(
    server: &Server,
    mut catalog: Catalog<'_>,
    targets: Vec<Target>,
    make: impl MakeTarget,
    bounds: Bounds,
    is_quiet: bool,
    say: impl Fn(&str),
) -> anyhow::Result<Supervisor<Target>> {
    // Each name has the schema in which its table was found first. Otherwise a table of that name
    // that is created later, in an earlier schema of the search_path, would be taken for it.
    let names = targets
        .iter()
        .map(|target| target.table.written_name())
        .collect();
    let describe = Wanted {
        server: server.clone(),
        names,
        bounds,
        make,
    }
    .into_describe();
    let options = prepare(&mut catalog, &targets, bounds).await?;
    // Loading takes long: no transaction stays open meanwhile.
    catalog.roll_back().await.context("end the transaction")?;
    let progress = loading(&targets, is_quiet);
    let mut loaded = vec![0; targets.len()];
    let mut supervisor = Supervisor::open(server.clone(), describe, targets, options)
        .await
        .map_err(explain_failure)?;
    let fence = supervisor
        .driver_mut()
        .ask_for_fence()
        .map_err(explain_failure)?;
    while !supervisor.driver().is_loaded(fence) {
        let stepped = supervisor
            .step_with(|read: Loaded| {
                loaded[read.table.0] = read.rows;
                progress.set(loaded.iter().sum());
            })
            .await;
        // The events come before the error, since they say what led to the error.
        for event in supervisor.take_events() {
            if let SupervisorEvent::Driver(event) = event
                && let Some(text) = in_the_way(&event)
            {
                say(&text);
            }
        }
        stepped.map_err(explain)?;
    }
    Ok(supervisor)
}

/// Locks the cache of a table for reading, once the cache has the indexes that help to find the
/// rows that fulfil `conditions`. To make an index takes longer than one scan. It pays off as soon
/// as the same column of a live cache is asked for again.
pub fn indexed_cache<'a>(
    supervisor: &'a Supervisor<Target>,
    table: TableId,
    conditions: &[Condition],
) -> RwLockReadGuard<'a, TableCache> {
    let cache = supervisor.cache(table);
    let missing = cache.missing_indexes(conditions);
    if missing.is_empty() {
        return cache;
    }
    // A cache that outgrows the bound on memory is given up. A question must not cause that for a
    // live table. If there is no room for an index, the answer takes a scan.
    let lock = RwLockReadGuard::rwlock(&cache);
    let more = missing.len() * cache.index_bytes();
    // Before the other caches are locked, and this one for writing: a thread that waits for a lock
    // which it holds itself waits for ever.
    drop(cache);
    let used: usize = (0..supervisor.targets().len())
        .map(|at| supervisor.cache(TableId(at)).memory_bytes())
        .sum();
    if used + more > supervisor.driver().max_memory() {
        return lock.read();
    }
    let mut cache = lock.write();
    for column in missing {
        tracing::debug!(
            table = supervisor.target(table).name(),
            column = cache.shape().columns()[column].name,
            "make an index"
        );
        cache.ensure_index(column);
    }
    RwLockWriteGuard::downgrade(cache)
}

/// Returns the error of a supervisor that could not go on, with a hint if one is known.
pub fn explain(error: SupervisorError) -> anyhow::Error {
    match error {
        SupervisorError::Driver(error) => explain_failure(error),
        error => error.into(),
    }
}
