//! Random load on a server of its own while connections are ended and the server is restarted: at every quiet point the
//! cache is the table. `PGIC_FAULT_ROUNDS` makes it longer than in an ordinary run; `PGIC_FAULT_SEED` repeats one.

use crate::driver::{TABLE, cached, open_with, stored, transaction};
use crate::support::{DEADLINE, Database};
use pgic::throwaway::{Cluster, Setup};
use postgres_index_cache_core::postgres::{DriverEvent, RowChange};
use postgres_index_cache_core::sync::State;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::RwLock;
use tokio_postgres::{Client, NoTls};

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Writes until it is told to stop, through whatever happens to the server.
async fn write(url: String, seed: u64, stop: Arc<AtomicBool>, commits: Arc<AtomicU64>, quiet: Arc<RwLock<()>>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let _writing = quiet.read().await;
        let Some(connected) = &client else {
            if let Ok((connected, connection)) = tokio_postgres::connect(&url, NoTls).await {
                tokio::spawn(connection);
                client = Some(connected);
            }
            continue;
        };
        // Writers may deadlock with each other, and lose.
        if connected.batch_execute(&transaction(&mut random)).await.is_err()
            && connected.batch_execute("ROLLBACK").await.is_err()
        {
            client = None;
            continue;
        }
        commits.fetch_add(1, Ordering::Relaxed);
    }
}

async fn end_sessions(url: &str, named: &str) {
    if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
        tokio::spawn(connection);
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1 AND pid <> pg_backend_pid()";
        let _ = client.query(sql, &[&named]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_quiet_point_the_cache_is_the_table_whatever_was_lost() {
    let (rounds, seed) = (number("PGIC_FAULT_ROUNDS", 12), number("PGIC_FAULT_SEED", 1));
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = Arc::new(Cluster::start(&Setup::default()).expect("start a server"));
    let database = Database::on(&cluster, "faults".to_string()).await;
    database.client().await.batch_execute(TABLE).await.unwrap();
    database.pgic_ok(&["install-triggers", "kv"]);
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::new(AtomicU64::new(0));
    // Writers hold it shared while they write; whoever holds it alone has a quiet point.
    let quiet = Arc::new(RwLock::new(()));
    let writers: Vec<_> = (0..3)
        .map(|n| {
            let (stop, commits, quiet) = (Arc::clone(&stop), Arc::clone(&commits), Arc::clone(&quiet));
            tokio::spawn(write(database.url.clone(), seed * 10 + n, stop, commits, quiet))
        })
        .collect();
    let mut driver = open_with(&database, "fence", |options, _| options.tells_rows = true).await.unwrap();
    // What the events say of the rows.
    let mut told: BTreeSet<String> = BTreeSet::new();
    let (mut changes, mut stale) = (0_u64, 0_u64);
    for round in 0..rounds {
        let until = commits.load(Ordering::Relaxed) + 40;
        while commits.load(Ordering::Relaxed) < until {
            tokio::time::timeout(DEADLINE, driver.fence()).await.expect("a fence comes back").unwrap();
        }
        let fault = random.usize(0..8);
        let url = cluster.url("postgres");
        let inject = async {
            match fault {
                0 => end_sessions(&url, "pgic test").await,
                1 => end_sessions(&url, "pgic test (fences)").await,
                2 => end_sessions(&url, "pgic test (reads)").await,
                3 => end_sessions(&url, "pgic test%").await,
                4 | 5 => {
                    let (cluster, mode) = (Arc::clone(&cluster), ["immediate", "fast"][fault - 4]);
                    tokio::task::spawn_blocking(move || cluster.restart(mode)).await.unwrap().unwrap();
                }
                _ => {}
            }
        };
        // The driver goes on while it happens.
        let going_on = async {
            loop {
                driver.step().await.unwrap();
            }
        };
        tokio::select! {
            () = inject => {}
            () = going_on => {}
        }
        let _nobody_writes = quiet.write().await;
        tokio::time::timeout(DEADLINE, driver.fence()).await.expect("it heals").unwrap();
        let reader = database.client().await;
        let (cache, table) = (cached(&driver), stored(&reader).await);
        assert_eq!(
            cache,
            table,
            "PGIC_FAULT_SEED={seed} round {round}, fault {fault}: {:?}",
            driver.engine().counters()
        );
        for event in driver.take_events() {
            let text =
                |row: &postgres_index_cache_core::RowBuf| format!("{:?}", (row.cell(0), row.cell(1), row.cell(2)));
            match event {
                DriverEvent::Row { change: RowChange::Added(row), .. } => assert!(told.insert(text(&row))),
                DriverEvent::Row { change: RowChange::Changed { old, new }, .. } => {
                    assert!(told.remove(&text(&old)) && told.insert(text(&new)));
                }
                DriverEvent::Row { change: RowChange::Removed(row), .. } => assert!(told.remove(&text(&row))),
                DriverEvent::State(State::Disconnected) => stale += 1,
                _ => continue,
            }
            changes += 1;
        }
        assert_eq!(told.len(), table.len(), "the events add up to the table");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("{rounds} rounds, {stale} gaps, {changes} changes told, {:?}", driver.engine().counters());
    assert!(stale > 0 && changes > 100, "{stale} gaps, {changes} changes");
}
