//! [`Target`]: a table that a command follows, with the columns and rows to show. [`open`] loads
//! targets once, and tries again if a table is altered meanwhile.

use crate::connect::{EarlySessions, Server};
use crate::render::progress::Progress;
use crate::tables::bounds::Bounds;
use crate::tables::catalog::{self, Catalog, CatalogColumn, CatalogTable};
use crate::tables::conditions::Conditions;
use crate::tables::{
    COMMITS_BLOCKED, PlannedCache, channel, check_announced, check_kind, check_memory,
    explain_failure, follow, opened_again, options, shape, shown,
};
use crate::triggers::observe::observe;
use postgres_index_cache_core::tooling::postgres::{
    Driver, DriverError, DriverEvent, DriverOptions, Loaded, ReadError, SupervisedTable,
    TableConfig,
};
use postgres_index_cache_core::tooling::{Condition, IndexedColumns, TableShape};
use std::sync::Arc;
use std::time::Instant;

/// A table that a command follows.
#[derive(Debug, Clone)]
pub struct Target {
    /// The table's description in the catalogue.
    pub table: CatalogTable,
    /// The columns that the cache keeps, and the key.
    pub shape: Arc<TableShape>,
    /// The columns to show, by their positions in `shape`.
    pub shown: Vec<usize>,
    /// The conditions that a row must fulfil to be shown.
    pub conditions: Vec<Condition>,
    /// The channel on which the table's changes are announced.
    pub channel: String,
    /// The table's configuration for the driver.
    pub follow: TableConfig,
}

impl Target {
    /// Returns a target that shows `columns` and keeps those for which `is_kept` is true. A notice
    /// is added if the channel is not known for certain.
    ///
    /// # Errors
    /// If the table has no key, too many columns are kept, or a condition's column is not kept.
    pub fn new(
        table: CatalogTable,
        columns: &[String],
        is_kept: impl Fn(&CatalogColumn) -> bool,
        asked: Conditions,
        notices: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        let seen = observe(&table);
        let shape = shape(&table, is_kept)?;
        let shown = columns
            .iter()
            .filter_map(|name| shape.position(name))
            .collect();
        let conditions = asked.conditions(&shape)?;
        let mut follow = follow(&table, seen.as_ref(), &shape);
        follow.indexed = indexed_for(&conditions, &shape);
        if let Some(condition) = &follow.condition {
            notices.push(format!(
                "{}: only rows where {condition} are announced, and there are no others here",
                table.display_name()
            ));
        }
        let channel = channel(&table, seen.as_ref(), notices);
        // `seen` borrows the table, which moves into the target.
        drop(seen);
        Ok(Self {
            table,
            shape,
            shown,
            conditions,
            channel,
            follow,
        })
    }

    /// Returns a target that keeps and shows every column that is announced.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn whole(table: CatalogTable, notices: &mut Vec<String>) -> anyhow::Result<Self> {
        let columns = shown(&table, observe(&table).as_ref());
        Self::new(
            table,
            &columns,
            |column| columns.contains(&column.name),
            Conditions::default(),
            notices,
        )
    }

    /// Returns a target like [`whole`](Self::whole), of a table that a cache can be kept in step
    /// with.
    ///
    /// # Errors
    /// If the table cannot be followed: a view, for example, or its changes are not announced.
    pub fn announced(table: CatalogTable, notices: &mut Vec<String>) -> anyhow::Result<Self> {
        check_kind(&table)?;
        notices.extend(check_announced(&table)?);
        Self::whole(table, notices)
    }

    /// Tells whether `other` is the same table, kept and shown in the same way.
    fn is_same_target(&self, other: &Self) -> bool {
        self.channel == other.channel
            && self.shown == other.shown
            && self.follow.is_same_table(&other.follow)
    }

    /// Returns the cache that loading this target makes.
    pub(super) fn planned_cache(&self) -> PlannedCache<'_> {
        PlannedCache {
            table: &self.table,
            shape: &self.shape,
            indexed: &self.follow.indexed,
        }
    }

    /// Returns the schema and the name of the table.
    pub fn names(&self) -> (&str, &str) {
        (&self.table.schema, &self.table.name)
    }

    /// Returns the table's name with its schema, for people.
    pub fn name(&self) -> String {
        self.table.display_name()
    }
}

impl SupervisedTable for Target {
    fn config(&self) -> &TableConfig {
        &self.follow
    }

    fn channel(&self) -> &str {
        &self.channel
    }

    fn is_same(&self, other: &Self) -> bool {
        self.is_same_target(other)
    }
}

/// Returns the columns that a cache has indexes on from the start if rows are asked for by these
/// conditions. Whoever asks for other columns later makes their indexes then: see
/// [`indexed_cache`](super::supervised::indexed_cache).
fn indexed_for(conditions: &[Condition], shape: &TableShape) -> IndexedColumns {
    let asked = conditions.iter().map(|condition| condition.column);
    IndexedColumns::Only(
        asked
            .filter(|&column| shape.columns()[column].kind.is_indexed_at_load())
            .collect(),
    )
}

/// Returns the options of a driver for these tables.
///
/// # Errors
/// If the caches would take more memory than `bounds` has, or the server refuses a query.
pub async fn prepare(
    catalog: &mut Catalog<'_>,
    targets: &[Target],
    bounds: Bounds,
) -> anyhow::Result<DriverOptions> {
    let planned: Vec<PlannedCache<'_>> = targets.iter().map(Target::planned_cache).collect();
    check_memory(catalog, &planned, bounds.max_memory).await?;
    let mut channels: Vec<String> = targets
        .iter()
        .map(|target| target.channel.clone())
        .collect();
    channels.sort();
    channels.dedup();
    Ok(options(channels, bounds))
}

/// How often tables are described and loaded, if one is altered in between each time.
const TRIES: u32 = 5;

/// Tables that were loaded, and are live.
pub struct Opened {
    /// The tables.
    pub targets: Vec<Target>,
    /// The driver that follows them.
    pub driver: Driver,
    /// When the last row of the snapshots had come.
    pub read_at: Instant,
}

/// Describes tables, loads them and waits until they are live. Begins again if a table was altered
/// between description and snapshot.
///
/// `describe` is called for each try. `adjust` may change the driver's options. `say` gets a text
/// for each event that delays the loading. A progress bar is shown unless `is_quiet`.
///
/// # Errors
/// If a table cannot be followed, would take more memory than `bounds` has, or the driver gives up.
pub async fn open(
    server: &Server,
    bounds: Bounds,
    is_quiet: bool,
    adjust: impl Fn(&mut DriverOptions),
    say: impl Fn(&str),
    mut describe: impl AsyncFnMut(&mut Catalog<'_>) -> anyhow::Result<Vec<Target>>,
) -> anyhow::Result<Opened> {
    let mut tries = 0;
    loop {
        let mut client = server.client().await?;
        let sessions = EarlySessions::begin(server);
        let mut catalog = catalog::reading(&mut client).await?;
        let targets = describe(&mut catalog).await?;
        let mut options = prepare(&mut catalog, &targets, bounds).await?;
        // Loading takes long: no transaction stays open meanwhile, and no session is kept.
        drop(catalog);
        drop(client);
        adjust(&mut options);
        tries += 1;
        match load(sessions, &targets, options, is_quiet, &say).await {
            Err(DriverError::Snapshot {
                source: ReadError::Altered(_),
                ..
            }) if tries < TRIES => {}
            loaded => {
                let (driver, read_at) = loaded.map_err(explain_failure)?;
                return Ok(Opened {
                    targets,
                    driver,
                    read_at,
                });
            }
        }
    }
}

/// Opens a driver for the targets and runs it until a fence that was asked for at the start is
/// reached: then every table is loaded and live. Also returns when the last row had come.
async fn load(
    sessions: EarlySessions,
    targets: &[Target],
    options: DriverOptions,
    is_quiet: bool,
    say: impl Fn(&str),
) -> Result<(Driver, Instant), DriverError> {
    let progress = loading(targets, is_quiet);
    let follows = targets.iter().map(|target| target.follow.clone()).collect();
    let mut driver = Driver::open(sessions, follows, options).await?;
    // Tables report their own counts, and the bar shows the sum.
    let mut loaded = vec![0; targets.len()];
    let mut read_at = Instant::now();
    let fence = driver.ask_for_fence()?;
    while !driver.is_loaded(fence) {
        let stepped = driver
            .step_with(|read: Loaded| {
                loaded[read.table.0] = read.rows;
                progress.set(loaded.iter().sum());
                read_at = Instant::now();
            })
            .await;
        // Tell the events before the error: they say what led to it.
        for event in driver.take_events() {
            if let Some(text) = in_the_way(&event) {
                say(&text);
            }
        }
        stepped?;
    }
    Ok((driver, read_at))
}

/// Returns a progress bar for the rows of all targets, which is hidden if `is_quiet`.
pub(super) fn loading(targets: &[Target], is_quiet: bool) -> Progress {
    // No total if one estimate is missing.
    let expected: Option<u64> = targets
        .iter()
        .map(|target| target.table.estimated_rows)
        .sum();
    let names: Vec<String> = targets.iter().map(Target::name).collect();
    Progress::new(
        &format!("loading {}", names.join(", ")),
        expected,
        !is_quiet,
    )
}

/// Returns the text for an event that delays the loading; `None` for other events.
///
/// Without these texts, a command would begin over and over in silence if the server ends each
/// COPY.
pub(super) fn in_the_way(event: &DriverEvent) -> Option<String> {
    match event {
        DriverEvent::Disconnected {
            why,
            retry_in: Some(_),
            ..
        } => Some(format!(
            "the connection was lost while the tables were loaded ({why}); connecting again"
        )),
        DriverEvent::AuxConnectionLost { via, why, .. } => Some(opened_again(*via, why)),
        DriverEvent::CommitsBlocked => Some(COMMITS_BLOCKED.to_string()),
        _ => None,
    }
}
