//! [`Target`]: a table that a command follows, and [`open`]: what all of them do with it first.

use crate::connect::Server;
use crate::render::progress::Progress;
use crate::tables::catalog::{self, Catalog, CatalogColumn, CatalogTable};
use crate::tables::conditions::Conditions;
use crate::tables::{
    channel, check_announced, check_kind, check_memory, explain_failure, follow, options, shape,
    shown,
};
use crate::triggers::observe::observe;
use postgres_index_cache_core::postgres::{
    Driver, DriverError, DriverEvent, DriverOptions, Loaded, ReadError, SupervisedTable,
    TableConfig,
};
use postgres_index_cache_core::{Condition, TableShape};
use std::sync::Arc;

/// A table that a command follows.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the catalogue has it.
    pub table: CatalogTable,
    /// What its cache keeps.
    pub shape: Arc<TableShape>,
    /// The columns to show, by position in the shape.
    pub shown: Vec<usize>,
    /// What rows must have to be shown.
    pub conditions: Vec<Condition>,
    /// The channel that is listened to.
    pub channel: String,
    /// What the driver is told.
    pub follow: TableConfig,
}

impl Target {
    /// A table of whose columns these are shown, and those kept that `is_kept` names. What should
    /// be said about it is added to `notices`.
    ///
    /// # Errors
    /// When there is no key, or too many columns.
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
        let follow = follow(&table, seen.as_ref(), &shape);
        let channel = channel(&table, seen.as_ref(), notices);
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

    /// A table with every column that is announced.
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

    /// The same of a table whose cache is to be live.
    ///
    /// # Errors
    /// When it cannot be: it is a view, its changes are not announced, ….
    pub fn announced(table: CatalogTable, notices: &mut Vec<String>) -> anyhow::Result<Self> {
        check_kind(&table)?;
        notices.extend(check_announced(&table)?);
        Self::whole(table, notices)
    }

    /// Whether `other` is the same table, kept and shown in the same way.
    fn is_same_subject(&self, other: &Self) -> bool {
        self.channel == other.channel
            && self.shown == other.shown
            && self.follow.is_same_table(&other.follow)
    }

    /// The table's name, with its schema.
    pub fn name(&self) -> String {
        self.table.display_name()
    }
}

impl SupervisedTable for Target {
    fn follow(&self) -> &TableConfig {
        &self.follow
    }

    fn channel(&self) -> &str {
        &self.channel
    }

    fn is_same(&self, other: &Self) -> bool {
        self.is_same_subject(other)
    }
}

/// How the driver works for these tables; refuses those whose caches would take more than
/// `max_memory` bytes.
///
/// # Errors
/// When they would, or the server refuses to say.
pub async fn prepare(
    catalog: &mut Catalog<'_>,
    targets: &[Target],
    max_memory: usize,
) -> anyhow::Result<DriverOptions> {
    let sizes: Vec<(&CatalogTable, &TableShape)> = targets
        .iter()
        .map(|target| (&target.table, &*target.shape))
        .collect();
    check_memory(catalog, &sizes, max_memory).await?;
    let mut channels: Vec<String> = targets
        .iter()
        .map(|target| target.channel.clone())
        .collect();
    channels.sort();
    channels.dedup();
    Ok(options(channels, max_memory))
}

/// How often tables are described again that are altered while they are loaded.
const TRIES: u32 = 5;

/// Describes tables, loads them and waits until they are live; again when one of them was altered
/// in between. Shows how far it is, unless `is_quiet`; `adjust` has the last word on how the driver
/// works, and `say` is told what comes in the way.
///
/// # Errors
/// Whatever keeps it from there.
pub async fn open(
    server: &Server,
    max_memory: usize,
    is_quiet: bool,
    adjust: impl Fn(&mut DriverOptions),
    say: impl Fn(&str),
    mut describe: impl AsyncFnMut(&mut Catalog<'_>) -> anyhow::Result<Vec<Target>>,
) -> anyhow::Result<(Vec<Target>, Driver)> {
    let mut tries = 0;
    loop {
        let mut client = server.client().await?;
        let mut catalog = catalog::reading(&mut client).await?;
        let targets = describe(&mut catalog).await?;
        let mut options = prepare(&mut catalog, &targets, max_memory).await?;
        drop(catalog);
        adjust(&mut options);
        drop(client);
        tries += 1;
        match load(server, &targets, options, is_quiet, &say).await {
            Err(DriverError::Snapshot {
                source: ReadError::Altered(_),
                ..
            }) if tries < TRIES => {}
            loaded => return Ok((targets, loaded.map_err(explain_failure)?)),
        }
    }
}

async fn load(
    server: &Server,
    targets: &[Target],
    options: DriverOptions,
    is_quiet: bool,
    say: impl Fn(&str),
) -> Result<Driver, DriverError> {
    let progress = loading(targets, is_quiet);
    let follows = targets.iter().map(|target| target.follow.clone()).collect();
    let mut driver = Driver::open(server.clone(), follows, options).await?;
    let mut loaded = vec![0; targets.len()];
    let fence = driver.ask_for_fence()?;
    while !driver.is_loaded(fence) {
        let stepped = driver
            .step_with(|read: Loaded| {
                loaded[read.table.0] = read.rows;
                progress.set(loaded.iter().sum());
            })
            .await;
        driver
            .take_events()
            .filter_map(|event| in_the_way(&event))
            .for_each(|text| say(&text));
        stepped?;
    }
    Ok(driver)
}

/// A bar that shows how far the tables are loaded, unless `is_quiet`.
pub(super) fn loading(targets: &[Target], is_quiet: bool) -> Progress {
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

/// What an event says that came in the way while tables were loaded. Without this a server that
/// ends each COPY makes a command begin over and over, without a word.
pub(super) fn in_the_way(event: &DriverEvent) -> Option<String> {
    match event {
        DriverEvent::Disconnected {
            why,
            retry_in: Some(_),
            ..
        } => Some(format!(
            "the connection was lost while the tables were loaded ({why}); connecting again"
        )),
        DriverEvent::AuxConnectionLost { via, why, .. } => Some(format!(
            "the connection {} is opened again: {why}",
            via.purpose()
        )),
        DriverEvent::CommitsBlocked => Some(
            "commits are blocked: nothing is announced until whoever blocks them is done"
                .to_string(),
        ),
        _ => None,
    }
}
