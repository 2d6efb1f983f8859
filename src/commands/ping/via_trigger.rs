//! [`ViaTrigger`]: the way from the UPDATE of a row over its trigger and the channel into a cache.

use crate::commands::Context;
use crate::connect::Server;
use crate::failure::{Report, with_hint};
use crate::fleet::own_session;
use crate::tables::bounds::Bounds;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::conditions::Conditions;
use crate::tables::row::key_json;
use crate::tables::target::{Opened, Target, open};
use crate::tables::touch::{TOUCH_BOUNDS, update_of};
use crate::tables::{check_announced, check_kind, explain_failure};
use crate::triggers::observe::observe;
use crate::triggers::plan::PlanKind;
use crate::triggers::{AskedTable, OptionChanges, apply};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::postgres::{Driver, SessionPurpose, quote_identifier};
use postgres_index_cache_core::tooling::sync::TableId;
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How long the locks are waited for that making and dropping a table take. Nobody else knows the
/// table.
const PATIENCE: Duration = Duration::from_secs(5);

/// A row, a session that writes it, and a cache that follows its table.
pub(super) struct ViaTrigger {
    writer: Client,
    /// The UPDATE with its transaction, as one message.
    update: String,
    /// The name of the table, for messages.
    name: String,
    driver: Driver,
    /// The transaction of the writer's last notification that was received; the highest number if
    /// its payload does not tell, as the plain form does not.
    arrived: Arc<AtomicU64>,
    /// The table that was made for this; `None` if it is somebody else's.
    own: Option<OwnTable>,
}

impl ViaTrigger {
    /// Makes a table for this, and loads it.
    ///
    /// # Errors
    /// If the table cannot be made or followed.
    pub(super) async fn by_own_table(context: &Context, server: &Server) -> anyhow::Result<Self> {
        let own = OwnTable::create(context, server).await?;
        match Box::pin(Self::by_table(context, server, &own.sql_name())).await {
            Ok(way) => Ok(Self {
                own: Some(own),
                ..way
            }),
            Err(error) => {
                // The first error tells more.
                let _ = own.drop().await;
                Err(error)
            }
        }
    }

    /// Loads a table, and opens the session that writes one of its rows.
    ///
    /// # Errors
    /// If the table cannot be followed, has no row, or its trigger does not announce an UPDATE that
    /// changes nothing.
    pub(super) async fn by_table(
        context: &Context,
        server: &Server,
        table: &str,
    ) -> anyhow::Result<Self> {
        let Opened {
            targets,
            mut driver,
            ..
        } = open(
            server,
            Bounds::default(),
            context.quiet,
            |_| {},
            |text| context.notice(text),
            async |catalog: &mut Catalog<'_>| {
                let table = catalog::resolve_one(catalog, table).await?;
                Ok(vec![target(table)?])
            },
        )
        .await?;
        let [target] = &targets[..] else {
            unreachable!("one table was asked for");
        };
        let key = driver.cache(TableId(0)).rows().next().and_then(|row| {
            let cell = |column| row.cell(column);
            key_json(&target.shape, cell)
        });
        let key = key.ok_or_else(|| {
            let error = anyhow!("{} has no row to write", target.name());
            with_hint(error, "pgic ping --via-trigger makes a table of its own")
        })?;
        let session = own_session(server, SessionPurpose::Command).await?;
        let writer = session.into_client();
        let update = update_of(&writer, target, &key).await?;
        let pid = writer
            .query_one("SELECT pg_catalog.pg_backend_pid()", &[])
            .await
            .context("ask for the process of the session")?;
        let pid: i32 = pid.get(0);
        let arrived = Arc::new(AtomicU64::new(0));
        let (arrives, channel) = (Arc::clone(&arrived), target.channel.clone());
        driver.watch_notifications(Box::new(move |notification| {
            if notification.process_id() == pid && notification.channel() == channel {
                // All changes of a payload are of one transaction.
                let first = unpack(notification.payload()).next().unwrap_or_default();
                let payload = Payload::parse(&first);
                let xid = payload.ok().and_then(|payload| payload.xid);
                arrives.store(xid.unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }));
        Ok(Self {
            writer,
            update: format!(
                "BEGIN; {TOUCH_BOUNDS}; {update}; SELECT pg_catalog.pg_current_xact_id(); COMMIT"
            ),
            name: target.name(),
            driver,
            arrived,
            own: None,
        })
    }

    /// Writes the row, and waits until the change is in the cache. Returns how long that took;
    /// `None` if it took longer than `timeout`.
    ///
    /// # Errors
    /// If the row cannot be written, or the cache not be followed.
    pub(super) async fn round_trip(
        &mut self,
        timeout: Duration,
    ) -> anyhow::Result<Option<Duration>> {
        self.arrived.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let writing = self.writer.simple_query(&self.update);
        let mut writing = std::pin::pin!(writing);
        // The transaction that has written the row, once it has.
        let mut written_by: Option<u64> = None;
        let deadline = tokio::time::sleep(timeout);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            // The change may be in the cache before the server has answered the writer.
            tokio::select! {
                written = &mut writing, if written_by.is_none() => {
                    let name = &self.name;
                    let written = written.with_context(|| format!("write a row of {name} anew"))?;
                    written_by = Some(written_xid(&written).with_context(|| {
                        format!("the row of {name} that is written is gone")
                    })?);
                }
                stepped = self.driver.step() => {
                    stepped.map_err(explain_failure)?;
                    self.driver.take_events().for_each(drop);
                }
                () = &mut deadline => return Ok(None),
            }
            // One that comes after its time is an earlier transaction's.
            let arrived = self.arrived.load(Ordering::Relaxed);
            if written_by.is_some_and(|xid| arrived >= xid) {
                let engine = self.driver.engine();
                let changes = engine.changes(TableId(0));
                if engine.is_settled(TableId(0), changes) {
                    return Ok(Some(began.elapsed()));
                }
            }
        }
    }

    /// Waits, and lets the cache follow its table meanwhile.
    ///
    /// # Errors
    /// If the cache cannot be followed.
    pub(super) async fn wait(&mut self, until: Instant) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                stepped = self.driver.step() => {
                    stepped.map_err(explain_failure)?;
                    self.driver.take_events().for_each(drop);
                }
            }
        }
    }

    /// Drops the table, if it was made for this.
    ///
    /// # Errors
    /// If the table cannot be dropped.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        let Self { driver, own, .. } = self;
        // The driver would reload a table that is gone.
        drop(driver);
        match own {
            Some(own) => own.drop().await,
            None => Ok(()),
        }
    }
}

/// Returns the transaction that has written a row, by the answer to the UPDATE and to the question
/// for the transaction; `None` if no row was written.
fn written_xid(answer: &[SimpleQueryMessage]) -> Option<u64> {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    // BEGIN and SET count none, the SELECT one.
    let has_written = rows.sum::<u64>() > 1;
    let xid = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    has_written.then_some(xid?.parse().ok()?)
}

/// Returns the target for a table: a cache of the keys alone is enough.
fn target(table: CatalogTable) -> anyhow::Result<Target> {
    check_kind(&table)?;
    check_announced(&table)?;
    let ignores_touches = observe(&table)
        .as_ref()
        .and_then(|seen| seen.options())
        .is_some_and(|options| options.on_change);
    if ignores_touches {
        let error = anyhow!(
            "the trigger of {} announces no UPDATE that changes nothing (--on-change)",
            table.display_name()
        );
        let hint = "pgic ping --via-trigger makes a table of its own";
        return Err(with_hint(error, hint));
    }
    let (columns, conditions) = (Vec::new(), Conditions::default());
    Target::new(table, &columns, |_| false, conditions, &mut Vec::new())
}

/// A table with one row, which this process has made.
struct OwnTable {
    client: Client,
    schema: String,
    name: String,
}

impl OwnTable {
    /// Makes the table in the first schema of the path, and installs triggers that notify on a
    /// channel of the table's name, which nobody else listens on.
    ///
    /// # Errors
    /// If the role may not make a table there, or the server refuses.
    async fn create(context: &Context, server: &Server) -> anyhow::Result<Self> {
        const HINT: &str = "name a table that is announced: pgic ping --via-trigger TABLE";
        let client = server.client().await?;
        let schema = client
            .query_one("SELECT current_schema()::pg_catalog.text", &[])
            .await
            .context("ask for the schema")?;
        let schema: Option<String> = schema.get(0);
        let Some(schema) = schema else {
            let error = anyhow!("no schema of the search_path exists, to make a table in");
            return Err(with_hint(error, HINT));
        };
        let name = format!("pgic_ping_{:016x}", fastrand::u64(..));
        let mut own = Self {
            client,
            schema,
            name,
        };
        let table = own.sql_name();
        let create = format!(
            "BEGIN; CREATE TABLE {table} (id int PRIMARY KEY, n int);
            INSERT INTO {table} VALUES (1, 1); COMMIT"
        );
        let created = own.client.batch_execute(&create).await;
        let created = created.with_context(|| format!("make the table {table}"));
        created.map_err(|error| with_hint(error, HINT))?;
        context.notice(&format!(
            "made the table {}.{}, which is dropped at the end",
            own.schema, own.name
        ));
        match own.install().await {
            Ok(()) => Ok(own),
            Err(error) => {
                // The first error tells more.
                let _ = own.drop().await;
                Err(error)
            }
        }
    }

    /// Installs the triggers.
    async fn install(&mut self) -> anyhow::Result<()> {
        let name = self.sql_name();
        let catalog = catalog::reading(&mut self.client).await?;
        let table = catalog::resolve_one(&catalog, &name).await?;
        catalog.roll_back().await.context("end the transaction")?;
        let changes = OptionChanges {
            channel: Some(self.name.clone()),
            ..OptionChanges::default()
        };
        let asked = AskedTable::all([table.oid], &changes);
        let install = PlanKind::Install;
        let tables = [table];
        let ran = apply::run(&mut self.client, install, &tables, &asked, PATIENCE, false);
        ran.await?;
        Ok(())
    }

    /// Returns the name of the table as SQL takes it.
    fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }

    /// Drops the table and the function of its triggers.
    ///
    /// # Errors
    /// If the server refuses, with the statements that do it.
    async fn drop(self) -> anyhow::Result<()> {
        let function = format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&format!("notify_cache_change_{}", self.name))
        );
        let table = self.sql_name();
        let drops = format!("DROP TABLE {table}; DROP FUNCTION IF EXISTS {function}()");
        let patience = PATIENCE.as_millis();
        let sql = format!("BEGIN; SET LOCAL lock_timeout = {patience}; {drops}; COMMIT");
        let dropped = self.client.batch_execute(&sql).await;
        dropped.map_err(|error| {
            let error = anyhow::Error::new(error).context(format!("drop the table {table}"));
            let reason = Report::new(&error).one_line();
            with_hint(anyhow!(reason), format!("it is left there: {drops}"))
        })
    }
}
