//! [`run`]: applies plans, all tables in one transaction, whose locks delay other sessions for a
//! moment at most.

use super::AskedTable;
use super::plan::{FunctionFacts, PlanKind, StepKind, TablePlan, plan_all};
use crate::postgres::catalog::{self, Catalog, CatalogAccess, CatalogTable};
use crate::postgres::install::error::{Attempt as _, TriggerError};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// The first half of the advisory lock that installers of one generic function take: "pgic" in
/// ASCII. The second half is the oid of the function's schema.
const SHARED_FUNCTION_LOCK: i32 = 0x7067_6963;

/// How long the first try may wait for all of its locks together. Each further try may wait twice
/// as long as the one before, up to [`LONGEST_TRY`].
///
/// Whoever wants a table queues behind us while we wait for its lock, and waits for the locks that
/// we have already. If each lock alone had a time limit, and the try as a whole had none:
/// 1. Ten tables are locked one after the other, each waited for as long as `--lock-timeout` says.
/// 2. The writers of the first table wait for all of that.
/// 3. One of them holds the last table, so the server ends it as part of a deadlock.
const FIRST_TRY: Duration = Duration::from_millis(100);

/// The longest wait of a try, shorter than `deadlock_timeout` (1 s), after which the server
/// looks for deadlocks and may end a writer.
const LONGEST_TRY: Duration = Duration::from_millis(800);

/// The statements that are sent together. More would save nothing, and be held in memory.
const STEPS_TOGETHER: usize = 100;

/// The time between two tries, in which no lock is held and writers go on.
const PAUSE: Duration = Duration::from_millis(100);

/// The end of a try.
enum Tried {
    /// The plans were applied.
    Done(Vec<TablePlan>),
    /// Another session holds a lock that is needed, so nothing was done.
    Busy(Failed),
}

/// A try that failed.
struct Failed {
    error: TriggerError,
    /// The name of the table whose lock was not had, as SQL takes it.
    table: Option<String>,
}

impl<E: Into<TriggerError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            table: None,
        }
    }
}

/// Plans for all tables and, unless `dry_run`, applies the plans in one transaction. `asked` has
/// what is asked for each of `tables`, in their order.
///
/// Locks are waited for in short tries, for `patience` at most. No lock is held between two tries.
///
/// # Errors
/// If a table is refused, the locks are not had in time, or the server refuses. In each case
/// nothing was changed.
pub async fn run(
    client: &mut Client,
    kind: PlanKind,
    tables: &[CatalogTable],
    asked: &[AskedTable],
    patience: Duration,
    dry_run: bool,
) -> Result<Vec<TablePlan>, TriggerError> {
    let give_up = deadline(patience);
    let mut try_for = FIRST_TRY;
    // Locked first: while somebody holds one table for long, the others stay free.
    let mut first: Option<String> = None;
    loop {
        let ends = give_up.min(Instant::now() + try_for);
        let catalog = Catalog::begin(client, CatalogAccess::ReadWrite)
            .await
            .context("begin a transaction")?;
        let locking = Locking {
            kind,
            ends,
            first: first.as_deref(),
        };
        let busy = match try_once(catalog, locking, tables, asked, dry_run).await? {
            Tried::Done(plans) => return Ok(plans),
            Tried::Busy(failed) => {
                first = failed.table.or(first);
                failed.error
            }
        };
        if Instant::now() + PAUSE >= give_up {
            let oids: Vec<u32> = asked.iter().map(|asked| asked.oid).collect();
            let holder = holder(client, kind, &oids).await;
            let holder = holder.unwrap_or_else(|| "something holds a lock".to_string());
            let hint = format!(
                "{holder}, for longer than {patience:?}; nothing was changed: try again, or give \
                --lock-timeout more"
            );
            return Err(busy.with_hint(hint));
        }
        tokio::time::sleep(PAUSE).await;
        try_for = (2 * try_for).min(LONGEST_TRY);
    }
}

/// Returns when `patience` is over. Nobody waits for longer than a day.
pub(super) fn deadline(patience: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(86_400);
    Instant::now() + patience.min(LONGEST)
}

/// Returns who holds a lock that is in the way: process, user, application, since when, statement.
/// `None` if nobody does any more, or nothing may be seen.
async fn holder(client: &Client, kind: PlanKind, oids: &[u32]) -> Option<String> {
    // To remove, every lock is in the way; to install, that of a reader is not.
    const HOLDERS: &str = "
        SELECT l.pid, l.mode, l.relation::pg_catalog.regclass::text, coalesce(a.usename::text, '?'),
            coalesce(nullif(a.application_name, ''), '?'),
            coalesce(pg_catalog.to_char(a.xact_start, 'HH24:MI:SS'), '?'),
            pg_catalog.regexp_replace(pg_catalog.left(coalesce(a.query, ''), 60), '\\s+', ' ', 'g')
        FROM pg_catalog.pg_locks l
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
        WHERE l.granted AND l.locktype OPERATOR(pg_catalog.=) 'relation'
            AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
            AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
            AND (l.relation OPERATOR(pg_catalog.=) ANY ($1) OR l.relation OPERATOR(pg_catalog.=) ANY
                (SELECT i.inhrelid FROM pg_catalog.pg_inherits i
                    WHERE i.inhparent OPERATOR(pg_catalog.=) ANY ($1)))
            AND ($2 OR l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
        ORDER BY a.xact_start LIMIT 1";
    let is_removal = matches!(kind, PlanKind::Remove);
    let parameters = [
        (&oids as &(dyn ToSql + Sync), Type::OID_ARRAY),
        (&is_removal, Type::BOOL),
    ];
    // The hint is worth no second error.
    let rows = client.query_typed(HOLDERS, &parameters).await.ok()?;
    let row = rows.first()?;
    let pid: i32 = row.get(0);
    let mode: String = row.get(1);
    let table: String = row.get(2);
    let user: String = row.get(3);
    let application: String = row.get(4);
    let since: String = row.get(5);
    let statement: String = row.get(6);
    Some(format!(
        "process {pid} (user {user}, application {application}) holds a {mode} on {table}, in a \
        transaction since {since}: {statement}"
    ))
}

/// Plans and applies once, with locks that are waited for until `ends`. If a lock is not had, the
/// transaction is rolled back, which releases the others.
async fn try_once(
    catalog: Catalog<'_>,
    locking: Locking<'_>,
    tables: &[CatalogTable],
    asked: &[AskedTable],
    dry_run: bool,
) -> Result<Tried, TriggerError> {
    let kind = locking.kind;
    let version = catalog.version_number().await?;
    let facts = FunctionFacts::read(&catalog, tables).await?;
    let plans = plan_all(&facts, kind, tables, asked, version)?;
    if dry_run || plans.iter().all(|plan| plan.steps.is_empty()) {
        return Ok(Tried::Done(plans));
    }
    let done = async {
        lock_tables(&catalog, locking, &plans).await?;
        lock_shared_functions(&catalog, &plans).await?;
        // The first plan was made without locks. Somebody may have changed a table while we waited
        // for its lock, so plan again under the locks.
        let mut tables = current(&catalog, tables).await?;
        let facts = FunctionFacts::read(&catalog, &tables).await?;
        let plans = plan_all(&facts, kind, &tables, asked, version)?;
        apply_steps(&catalog, &plans).await?;
        // Our locks are on tables, so a role may still have planted a function between our plan
        // and our statement. Plan a third time: a step that is left means that what stands there
        // is not what was planned, and the transaction is rolled back.
        catalog::refresh_triggers(&catalog, &mut tables).await?;
        let facts = FunctionFacts::read(&catalog, &tables).await?;
        let after = plan_all(&facts, kind, &tables, asked, version)?;
        if let Some(step) = after.iter().find_map(|plan| plan.steps.first()) {
            let error = TriggerError::new(format!(
                "the triggers were changed while they were being installed (still missing: {})",
                step.what
            ));
            let hint = "nothing was changed; somebody else works on these tables: try again";
            return Err(Failed::from(error.with_hint(hint)));
        }
        Ok(plans)
    };
    match done.await {
        Ok(plans) => {
            catalog.commit().await.context("commit")?;
            Ok(Tried::Done(plans))
        }
        Err(failed) if failed.error.is_busy() => {
            catalog.roll_back().await.context("let the locks go")?;
            Ok(Tried::Busy(failed))
        }
        Err(failed) => Err(failed.error),
    }
}

/// Returns tables as they are now, while they are locked. They are described afresh only if one of
/// them is not as it was: that takes longer than to look.
async fn current(
    catalog: &Catalog<'_>,
    tables: &[CatalogTable],
) -> Result<Vec<CatalogTable>, TriggerError> {
    if !catalog::are_as_described(catalog, tables).await? {
        let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
        return Ok(catalog::describe(catalog, &oids).await?);
    }
    // A trigger that does not fire is no part of what was looked at.
    let mut tables = tables.to_vec();
    catalog::refresh_triggers(catalog, &mut tables).await?;
    Ok(tables)
}

/// Another installer works on the generic function of the named schema.
#[derive(Debug, thiserror::Error)]
#[error("another installer works on the function of all tables in the schema {0}")]
pub(super) struct SharedFunctionIsLocked(String);

/// Returns the plans that have steps to apply, ordered by the name of their table.
fn with_steps(plans: &[TablePlan]) -> Vec<&TablePlan> {
    let mut changed: Vec<&TablePlan> = plans.iter().filter(|plan| !plan.steps.is_empty()).collect();
    // Two installers that lock in different orders would wait for each other, so everybody locks
    // by name.
    changed.sort_by(|a, b| a.sql_name.cmp(&b.sql_name));
    changed
}

/// How the tables of a try are locked.
#[derive(Clone, Copy)]
struct Locking<'a> {
    kind: PlanKind,
    /// When the waiting ends, for all locks together.
    ends: Instant,
    /// The table that is locked before the others, by its name as SQL takes it: the last try has not
    /// got its lock.
    ///
    /// 1. A transaction that runs for minutes has written to `b`.
    /// 2. Each try locks `a`, and waits for `b`. Meanwhile the writers of `a` wait for the try.
    ///
    /// So the second try waits for `b`, and holds nothing.
    first: Option<&'a str>,
}

/// Locks all tables that have steps to apply.
async fn lock_tables(
    catalog: &Catalog<'_>,
    locking: Locking<'_>,
    plans: &[TablePlan],
) -> Result<(), Failed> {
    let Locking { kind, ends, first } = locking;
    catalog
        .batch_execute("SET LOCAL client_min_messages = warning")
        .await
        .context("prepare the transaction")?;
    // The server computes what is left of the time before each lock: the statements are sent one
    // behind the other, without waiting for each answer.
    let left = ends
        .saturating_duration_since(Instant::now())
        .as_millis()
        .max(1);
    let ends = format!(
        "SELECT pg_catalog.set_config('pgic.lock_ends', (pg_catalog.clock_timestamp()
            + pg_catalog.make_interval(secs => {left} / 1000.0))::pg_catalog.text, true)"
    );
    catalog
        .batch_execute(&ends)
        .await
        .context("prepare the transaction")?;
    let mut ordered = with_steps(plans);
    // Stable: the others stay in the order of their names.
    ordered.sort_by_key(|plan| Some(plan.sql_name.as_str()) != first);
    for together in ordered.chunks(STEPS_TOGETHER) {
        let locks = together.iter().map(|plan| async move {
            catalog
                .batch_execute(&lock_statement(plan, kind))
                .await
                .with_context(|| format!("lock {}", plan.table))
                .map_err(|error| Failed {
                    error,
                    table: Some(plan.sql_name.clone()),
                })
        });
        futures_util::future::try_join_all(locks).await?;
    }
    Ok(())
}

/// Returns the SQL that locks the table of a plan, until the time in `pgic.lock_ends` at most.
fn lock_statement(plan: &TablePlan, kind: PlanKind) -> String {
    // A timeout of 0 would mean none.
    let left = "GREATEST(1, pg_catalog.ceil(extract(epoch FROM
        pg_catalog.current_setting('pgic.lock_ends')::pg_catalog.timestamptz
        - pg_catalog.clock_timestamp()) * 1000)::pg_catalog.int4)::pg_catalog.text";
    // A partitioned table is locked together with its partitions: one statement that waits for many
    // locks. `lock_timeout` bounds each lock, `statement_timeout` all of them.
    let (only, timeout) = if plan.is_partitioned {
        ("", "statement_timeout")
    } else {
        ("ONLY ", "lock_timeout")
    };
    format!(
        "SELECT pg_catalog.set_config('{timeout}', {left}, true);
         LOCK TABLE {only}{} IN {} MODE;
         SET LOCAL {timeout} TO DEFAULT;
         SELECT pg_catalog.set_config('lock_timeout', {left}, true)",
        plan.sql_name,
        lock_of(plan, kind)
    )
}

/// Returns the mode in which the table of a plan is locked.
///
/// DROP TRIGGER needs a stronger lock than CREATE TRIGGER. Take the stronger one at once: a session
/// that asks for it later waits while it holds the weaker one, which is a deadlock if another does
/// the same.
fn lock_of(plan: &TablePlan, kind: PlanKind) -> &'static str {
    if plan.steps.iter().any(|step| step.kind.drops_trigger()) {
        PlanKind::Remove.lock()
    } else {
        kind.lock()
    }
}

/// Takes the advisory lock of each schema whose generic function the plans change.
///
/// The tables of a schema share that function, so locks on different tables do not keep two
/// installers from creating it at once. One of them would fail with "duplicate key value violates
/// unique constraint".
async fn lock_shared_functions(
    catalog: &Catalog<'_>,
    plans: &[TablePlan],
) -> Result<(), TriggerError> {
    const TRY_LOCK: &str = "SELECT pg_catalog.pg_try_advisory_xact_lock($1, n.oid::pg_catalog.int4)
            FROM pg_catalog.pg_namespace n WHERE n.nspname = $2";
    let mut schemas: Vec<&String> = with_steps(plans)
        .into_iter()
        .filter_map(|plan| plan.shares.as_ref())
        .collect();
    schemas.dedup();
    for schema in schemas {
        let parameters = [
            (&SHARED_FUNCTION_LOCK as &(dyn ToSql + Sync), Type::INT4),
            (schema, Type::NAME),
        ];
        let row = catalog
            .query_typed_opt(TRY_LOCK, &parameters)
            .await
            .with_context(|| format!("look for other installers in the schema {schema}"))?;
        // The table locks are held by now: try, and do not wait.
        if row.is_some_and(|row| !row.get::<_, bool>(0)) {
            return Err(TriggerError::of(SharedFunctionIsLocked(schema.clone())));
        }
    }
    Ok(())
}

/// Runs the statements of all plans.
async fn apply_steps(catalog: &Catalog<'_>, plans: &[TablePlan]) -> Result<(), TriggerError> {
    // PostgreSQL refuses to drop a function that a trigger still calls. Several tables may call one
    // function, so all functions are dropped after the triggers of all tables.
    let mut ordered = Vec::new();
    for drops_functions in [false, true] {
        for plan in plans {
            let steps = plan
                .steps
                .iter()
                .filter(|step| matches!(step.kind, StepKind::DropFunction(_)) == drops_functions);
            ordered.extend(steps.map(|step| (plan, step)));
        }
    }
    // Sent one behind the other, without waiting for each answer: the locks are held for the time
    // of the statements alone. The server carries them out in order, and none behind one that
    // fails.
    for together in ordered.chunks(STEPS_TOGETHER) {
        let sent = together.iter().map(|(plan, step)| async move {
            catalog
                .batch_execute(&step.sql)
                .await
                .with_context(|| format!("{} for {}", step.what, plan.table))
        });
        futures_util::future::try_join_all(sent).await?;
    }
    Ok(())
}
