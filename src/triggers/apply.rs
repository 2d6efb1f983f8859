//! Carries plans out: all tables in one transaction, whose locks nobody waits long for.

use super::OptionChanges;
use super::plan::{PlanKind, TablePlan, plan_all};
use crate::failure::with_hint;
use crate::tables::catalog::{self, Catalog, CatalogAccess};
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::postgres::sqlstate;
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// The first half of the advisory lock that installers of one generic function take; the second is
/// its schema's oid. "pgic" in ASCII.
const SHARED_FUNCTION_LOCK: i32 = 0x7067_6963;

/// How long a try may wait for its locks, all together: the first, and at most. Longer ones come
/// where short ones are in vain; none is as long as the server waits before it ends a writer as
/// part of a deadlock (`deadlock_timeout`, 1 s).
///
/// Whoever wants a table queues behind us while we wait for its lock, and waits for the locks that
/// we have already. Without a bound on the try as a whole: 1. Ten tables are locked one after the
/// other, each waited for as long as `--lock-timeout` says.
/// 2. The writers of the first wait for all of that. 3. One of them holds the last, and is ended by
///    the server as a deadlock, which is looked for after a second.
const TRIES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(800));

/// How long writers are left alone between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// How a try ended.
enum Tried {
    Done(Vec<TablePlan>),
    /// Somebody holds a lock: nothing was done.
    Busy(anyhow::Error),
}

/// Plans and, unless `dry_run`, carries out, all tables in one transaction: all of it happens or
/// nothing. Locks are waited for in short tries, between which none is held, for `patience` at
/// most.
///
/// # Errors
/// When a table is refused, the locks are not had in time, or the server refuses; nothing has been
/// changed then.
pub async fn run(
    client: &mut Client,
    kind: PlanKind,
    oids: &[u32],
    asked: &OptionChanges,
    patience: Duration,
    dry_run: bool,
) -> anyhow::Result<Vec<TablePlan>> {
    let give_up = Instant::now() + patience;
    let mut try_for = TRIES.0;
    loop {
        let ends = give_up.min(Instant::now() + try_for);
        let catalog = Catalog::begin(client, CatalogAccess::ReadWrite)
            .await
            .context("begin a transaction")?;
        let busy = match try_once(catalog, kind, oids, asked, ends, dry_run).await? {
            Tried::Done(plans) => return Ok(plans),
            Tried::Busy(error) => error,
        };
        if Instant::now() + PAUSE >= give_up {
            let hint = format!(
                "something holds a lock for longer than {patience:?}; nothing was changed: try \
                again, or give --lock-timeout more"
            );
            return Err(with_hint(busy, hint));
        }
        tokio::time::sleep(PAUSE).await;
        try_for = (2 * try_for).min(TRIES.1);
    }
}

/// One try. The transaction is undone when it was in vain, and with it its locks are gone.
async fn try_once(
    catalog: Catalog<'_>,
    kind: PlanKind,
    oids: &[u32],
    asked: &OptionChanges,
    ends: Instant,
    dry_run: bool,
) -> anyhow::Result<Tried> {
    let version = catalog::version_number(&catalog).await?;
    let plans = plan_all(&catalog, kind, oids, asked, version).await?;
    if dry_run || plans.iter().all(|plan| plan.steps.is_empty()) {
        return Ok(Tried::Done(plans));
    }
    let done = async {
        lock(&catalog, kind, &plans, ends).await?;
        // What was planned without a lock may have changed while it was waited for.
        let plans = plan_all(&catalog, kind, oids, asked, version).await?;
        take_steps(&catalog, &plans).await?;
        // Somebody may have planted a function between plan and statement: what stands there now
        // must be as it should be.
        let after = plan_all(&catalog, kind, oids, asked, version).await?;
        if let Some(step) = after.iter().find_map(|plan| plan.steps.first()) {
            return Err(with_hint(
                anyhow!(
                    "it is not as it should be afterwards: it still takes to {}",
                    step.what
                ),
                "nothing was changed; somebody else works on these tables: try again",
            ));
        }
        Ok(plans)
    };
    match done.await {
        Ok(plans) => {
            catalog.commit().await.context("commit")?;
            Ok(Tried::Done(plans))
        }
        Err(error) if is_busy(&error) => {
            catalog.roll_back().await.context("let the locks go")?;
            Ok(Tried::Busy(error))
        }
        Err(error) => Err(error),
    }
}

/// Whether somebody holds what is needed: a lock was not had in time, or two waited for each other.
fn is_busy(error: &anyhow::Error) -> bool {
    error.is::<SharedFunctionIsLocked>()
        || matches!(
            sqlstate::of(error.as_ref()),
            Some("55P03" | "57014" | "40P01")
        )
}

/// Another installer works on the same generic function.
#[derive(Debug, thiserror::Error)]
#[error("another installer works on the function of all tables in the schema {0}")]
struct SharedFunctionIsLocked(String);

/// Takes the locks of all tables that something is to be done to.
async fn lock(
    catalog: &Catalog<'_>,
    kind: PlanKind,
    plans: &[TablePlan],
    ends: Instant,
) -> anyhow::Result<()> {
    catalog
        .batch_execute("SET LOCAL client_min_messages = warning")
        .await
        .context("prepare the transaction")?;
    let mut locked: Vec<&TablePlan> = plans.iter().filter(|plan| !plan.steps.is_empty()).collect();
    // Everybody who locks several tables does it in the same order.
    locked.sort_by(|a, b| a.sql_name.cmp(&b.sql_name));
    let mut shared: Vec<&String> = locked
        .iter()
        .filter_map(|plan| plan.shares.as_ref())
        .collect();
    shared.dedup();
    for plan in locked {
        // With its partitions, where it has any: then one statement waits for many locks, each of
        // which has lock_timeout.
        let (only, timeout) = if plan.is_partitioned {
            ("", "statement_timeout")
        } else {
            ("ONLY ", "lock_timeout")
        };
        // To drop a trigger takes more than to make one. To ask for it later would be to wait while
        // a lock is held.
        let drops = plan
            .steps
            .iter()
            .any(|step| step.sql.starts_with("DROP TRIGGER"));
        let mode = if drops {
            PlanKind::Remove.lock()
        } else {
            kind.lock()
        };
        let left = ends
            .saturating_duration_since(Instant::now())
            .as_millis()
            .max(1);
        let sql = format!(
            "SET LOCAL {timeout} = {left};
             LOCK TABLE {only}{} IN {mode} MODE;
             SET LOCAL {timeout} TO DEFAULT; SET LOCAL lock_timeout = {left}",
            plan.sql_name
        );
        catalog
            .batch_execute(&sql)
            .await
            .with_context(|| format!("lock {}", plan.table))?;
    }
    // Tables share the generic function of their schema, and their locks do not keep two installers
    // from making it at once: one of them failed with "duplicate key value violates unique
    // constraint".
    for schema in shared {
        let lock = "SELECT pg_catalog.pg_try_advisory_xact_lock($1, n.oid::pg_catalog.int4)
            FROM pg_catalog.pg_namespace n WHERE n.nspname = $2";
        let parameters = [
            (&SHARED_FUNCTION_LOCK as &(dyn ToSql + Sync), Type::INT4),
            (schema, Type::NAME),
        ];
        let row = catalog.query_typed_opt(lock, &parameters).await;
        let row =
            row.with_context(|| format!("look for other installers in the schema {schema}"))?;
        if row.is_some_and(|row| !row.get::<_, bool>(0)) {
            return Err(SharedFunctionIsLocked(schema.clone()).into());
        }
    }
    Ok(())
}

async fn take_steps(catalog: &Catalog<'_>, plans: &[TablePlan]) -> anyhow::Result<()> {
    // A function goes when the triggers of all tables that called it are gone.
    for is_last in [false, true] {
        let steps = plans
            .iter()
            .flat_map(|plan| plan.steps.iter().map(move |step| (plan, step)));
        for (plan, step) in
            steps.filter(|(_, step)| step.sql.starts_with("DROP FUNCTION") == is_last)
        {
            catalog
                .batch_execute(&step.sql)
                .await
                .with_context(|| format!("{} for {}", step.what, plan.table))?;
        }
    }
    Ok(())
}
