//! At every quiet point the cache is the table, and the events of its rows add up to it.

use super::{Injector, Load, limits, rounds, seed};
use crate::driver::{TABLE, cached, open_through, stored, transaction};
use crate::support::DEADLINE;
use postgres_index_cache_core::RowBuf;
use postgres_index_cache_core::postgres::{DriverEvent, RowChange};
use postgres_index_cache_core::sync::State;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_quiet_point_the_cache_is_the_table_whatever_was_lost() {
    let rounds = rounds(12);
    let mut injector = Injector::start(TABLE, &["kv"]).await;
    let load = Load::start(&injector.database, transaction);
    let mut driver = open_through(&injector.database, &injector.through.url, |options, _| {
        options.row_events = true;
        options.limits = limits();
    })
    .await
    .unwrap();
    // What the events say of the rows.
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
        // The driver goes on while it happens.
        let going_on = async {
            loop {
                driver.step().await.unwrap();
            }
        };
        let fault = injector.inject("pgic test", &load, going_on).await;
        let _nobody_writes = load.pause().await;
        tokio::time::timeout(DEADLINE, driver.fence())
            .await
            .expect("it reconnect")
            .unwrap();
        let reader = injector.database.client().await;
        let cache = cached(&driver);
        let table = stored(&reader).await;
        let seed = seed();
        assert_eq!(
            cache,
            table,
            "PGIC_FAULT_SEED={seed} round {round}, {fault:?}: {:?}",
            driver.engine().counters()
        );
        for event in driver.take_events() {
            let text = |row: &RowBuf| format!("{:?}", (row.cell(0), row.cell(1), row.cell(2)));
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
    assert!(gaps > 0 && changes > 100, "{gaps} gaps, {changes} changes");
}
