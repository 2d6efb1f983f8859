//! One table under faults: at every quiet point the cache is the table, and so is the sum of the
//! row events. Events matter as much as rows: an application that keeps its own state by them must
//! not miss what changed in a gap, and must not be told twice.

use super::{Injector, Load, limits, rounds, seed};
use crate::driver::{cached, open_through, stored_where};
use crate::support::DEADLINE;
use crate::support::load::{TABLE, transaction};
use postgres_index_cache_core::tooling::RowBuf;
use postgres_index_cache_core::tooling::postgres::{
    DriverEvent, DriverOptions, RowChange, TableConfig,
};
use postgres_index_cache_core::tooling::sync::State;
use std::collections::BTreeSet;

/// Returns a row of `kv` as text, to compare it with others.
fn text(row: &RowBuf) -> String {
    format!("{:?}", (row.cell(0), row.cell(1), row.cell(2)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_quiet_point_the_cache_is_the_table_whatever_was_lost() {
    Box::pin(quiet_points(rounds(12), TABLE, &["kv"], None)).await;
}

/// Statement triggers announce the rows packed, and statements write within each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_quiet_point_the_cache_is_the_table_that_statement_triggers_announce() {
    let nested = format!(
        "{TABLE} CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
            IF NEW.n % 3 = 0 THEN UPDATE kv SET v = 'n' WHERE id IN (NEW.id, NEW.id - 1);
            ELSIF NEW.n % 7 = 0 THEN DELETE FROM kv WHERE id = NEW.id; END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER a_first AFTER INSERT OR UPDATE ON kv FOR EACH ROW EXECUTE FUNCTION again();"
    );
    Box::pin(quiet_points(rounds(8), &nested, &["kv", "--bulk"], None)).await;
}

/// Rows begin and cease to fulfil the condition by most of the writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_quiet_point_the_cache_is_the_rows_that_fulfil_the_condition() {
    let condition = "n % 2 = 0 OR v = 'a'";
    let install = ["kv", "--where", condition];
    Box::pin(quiet_points(rounds(6), TABLE, &install, Some(condition))).await;
}

/// Compares cache, events and table after each of some faults. The table is made by `sql`, and its
/// triggers are installed with the arguments `install`. With a condition, the rows that fulfil it
/// are the table.
async fn quiet_points(rounds: u64, sql: &str, install: &[&str], condition: Option<&str>) {
    let mut injector = Injector::start(sql, install).await;
    let load = Load::start(&injector.database, transaction);
    let change = |options: &mut DriverOptions, follow: &mut TableConfig| {
        options.row_events = true;
        options.limits = limits();
        follow.condition = condition.map(str::to_string);
    };
    let mut driver = open_through(&injector.database, &injector.through.url, change)
        .await
        .unwrap();
    // The rows as an application would know them that only reads events.
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut changes = 0_u64;
    let mut gaps = 0_u64;
    for round in 0..rounds {
        let until = load.commits() + 40;
        while load.commits() < until {
            tokio::time::timeout(DEADLINE, driver.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
        }
        // Step the driver during the fault: an idle driver would notice nothing, and some faults
        // wait until the driver connects again.
        let going_on = async {
            loop {
                driver.step().await.unwrap();
            }
        };
        let fault = injector.inject("pgic test", &load, going_on).await;
        let _nobody_writes = load.pause().await;
        tokio::time::timeout(DEADLINE, driver.fence())
            .await
            .expect("the driver is live again")
            .unwrap();
        let reader = injector.database.client().await;
        let cache = cached(&driver);
        let table = stored_where(&reader, condition.unwrap_or("true")).await;
        let seed = seed();
        assert_eq!(
            cache,
            table,
            "PGIC_FAULT_SEED={seed} round {round}, {fault:?}: {:?}",
            driver.engine().counters()
        );
        for event in driver.take_events() {
            // `insert` and `remove` fail the test if an event adds a row that is there, or removes
            // one that is not.
            match event {
                DriverEvent::Row {
                    change: RowChange::Added(row),
                    ..
                } => assert!(told.insert(text(&row))),
                DriverEvent::Row {
                    change: RowChange::Changed { old, new },
                    ..
                } => {
                    assert!(told.remove(&text(&old)) && told.insert(text(&new)));
                }
                DriverEvent::Row {
                    change: RowChange::Removed(row),
                    ..
                } => assert!(told.remove(&text(&row))),
                DriverEvent::State(State::Disconnected) => gaps += 1,
                _ => continue,
            }
            changes += 1;
        }
        assert_eq!(told.len(), table.len(), "the events add up to the table");
    }
    let commits = load.end().await;
    let counters = driver.engine().counters();
    let injected = &injector.injected;
    println!(
        "{rounds} rounds, {commits} commits, {gaps} gaps, {changes} changes told, {injected:?}, \
        {counters:?}"
    );
    // A run in which nothing was lost or written would prove nothing.
    assert!(gaps > 0 && changes > 100, "{gaps} gaps, {changes} changes");
}
