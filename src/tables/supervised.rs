//! [`open`]: tables that a command keeps following by their names, through whatever becomes of
//! them.

use crate::connect::Server;
use crate::failure;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::target::{Target, in_the_way, loading, prepare};
use crate::tables::{check_memory, explain_failure};
use anyhow::Context as _;
use postgres_index_cache_core::TableShape;
use postgres_index_cache_core::postgres::{
    Describe, Description, Loaded, Supervisor, SupervisorError, SupervisorEvent, Unfollowed,
    sqlstate::{self, Policy},
};
use std::sync::Arc;

/// Makes a target of a table that was found by its name.
pub trait MakeTarget: Send + Sync + 'static {
    /// Makes it; the client may be asked for values.
    ///
    /// # Errors
    /// Why the table cannot be followed.
    fn make(
        &self,
        catalog: &mut Catalog<'_>,
        table: CatalogTable,
    ) -> impl Future<Output = anyhow::Result<Target>> + Send;
}

/// Makes targets with every column that is announced.
#[derive(Debug, Clone, Copy)]
pub struct AnnouncedTargets;

impl MakeTarget for AnnouncedTargets {
    async fn make(&self, _: &mut Catalog<'_>, table: CatalogTable) -> anyhow::Result<Target> {
        Target::announced(table, &mut Vec::new())
    }
}

/// Describes the tables of these names afresh, as often as it is asked.
fn by_names(
    server: Server,
    names: Vec<String>,
    max_memory: usize,
    make: impl MakeTarget,
) -> Describe<Target> {
    let wanted = Arc::new((server, names, make));
    Arc::new(move || {
        let wanted = Arc::clone(&wanted);
        Box::pin(async move {
            let (server, names, make) = &*wanted;
            describe(server, names, max_memory, make).await
        })
    })
}

async fn describe(
    server: &Server,
    names: &[String],
    max_memory: usize,
    make: &impl MakeTarget,
) -> Description<Target> {
    let is_lost = |error: &anyhow::Error| {
        let policy = |cause| sqlstate::of(cause).map(|code| sqlstate::policy(Some(code)));
        error
            .chain()
            .any(|cause| matches!(policy(cause), Some(Policy::Lost | Policy::Starting)))
    };
    let mut client = server.client().await.map_err(|error| unfollowed(&error))?;
    let mut catalog = catalog::reading(&mut client)
        .await
        .map_err(|error| unfollowed(&error))?;
    let mut described: Vec<Result<Target, Unfollowed>> = Vec::new();
    for name in names {
        let target = match catalog::resolve_one(&catalog, name).await {
            Ok(table) => make.make(&mut catalog, table).await,
            Err(error) => Err(error),
        };
        described.push(match target {
            Ok(target)
                if described
                    .iter()
                    .flatten()
                    .any(|other| other.table.oid == target.table.oid) =>
            {
                Err(Unfollowed(format!(
                    "{name} is the same table as another that is followed"
                )))
            }
            Ok(target) => Ok(target),
            Err(error) if catalog.client().is_closed() || is_lost(&error) => {
                return Err(unfollowed(&error));
            }
            Err(error) => Err(unfollowed(&error)),
        });
    }
    let sizes: Vec<(&CatalogTable, &TableShape)> = described
        .iter()
        .flatten()
        .map(|target| (&target.table, &*target.shape))
        .collect();
    check_memory(&mut catalog, &sizes, max_memory)
        .await
        .map_err(|error| unfollowed(&error))?;
    Ok(described)
}

/// An error and its hint on one line.
fn unfollowed(error: &anyhow::Error) -> Unfollowed {
    let lines = failure::lines(error);
    let part = |line: &String| {
        line.split_once(": ")
            .map_or_else(|| line.clone(), |(_, rest)| rest.to_string())
    };
    Unfollowed(lines.iter().map(part).collect::<Vec<_>>().join("; "))
}

/// Loads `targets` and waits until they are live; from then on they are followed by their names,
/// made anew by `make`.
///
/// Their names are those that they have now, with their schemas: a table of the same name that is
/// made later in another schema of the search_path is another one.
///
/// `catalog` is the transaction that they were described in. Shows how far it is, unless
/// `is_quiet`; `say` is told what comes in the way.
///
/// # Errors
/// Whatever keeps them from being live for the first time.
pub async fn open(
    server: &Server,
    mut catalog: Catalog<'_>,
    targets: Vec<Target>,
    make: impl MakeTarget,
    max_memory: usize,
    is_quiet: bool,
    say: impl Fn(&str),
) -> anyhow::Result<Supervisor<Target>> {
    let names = targets
        .iter()
        .map(|target| target.table.written_name())
        .collect();
    let again = by_names(server.clone(), names, max_memory, make);
    let options = prepare(&mut catalog, &targets, max_memory).await?;
    // Loading takes long: no transaction stays open meanwhile.
    catalog.roll_back().await.context("end the transaction")?;
    let progress = loading(&targets, is_quiet);
    let mut loaded = vec![0; targets.len()];
    let opened = Supervisor::open(server.clone(), again, targets, options).await;
    let mut supervisor = opened.map_err(explain_failure)?;
    let fence = supervisor
        .driver_mut()
        .ask_for_fence()
        .map_err(explain_failure)?;
    while !supervisor.driver().is_loaded(fence) {
        let count = |read: Loaded| {
            loaded[read.table.0] = read.rows;
            progress.set(loaded.iter().sum());
        };
        let stepped = supervisor.step_with(count).await;
        let events: Vec<SupervisorEvent> = supervisor.take_events().collect();
        for event in &events {
            if let SupervisorEvent::Driver(event) = event
                && let Some(text) = in_the_way(event)
            {
                say(&text);
            }
        }
        stepped.map_err(explain)?;
    }
    Ok(supervisor)
}

/// What to do about a supervisor that could not go on.
pub fn explain(error: SupervisorError) -> anyhow::Error {
    match error {
        SupervisorError::Driver(error) => explain_failure(error),
        error => error.into(),
    }
}
