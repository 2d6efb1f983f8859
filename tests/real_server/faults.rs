//! Random load on a server of its own while connections are ended and the server is restarted: at every quiet point the
//! cache is the table. `PGIC_FAULT_ROUNDS` makes it longer than in an ordinary run; `PGIC_FAULT_SEED` repeats one.

use crate::driver::{TABLE, cached, open_with, stored, transaction};
use crate::support::{DEADLINE, Database};
use pgic::throwaway::{Cluster, Setup};
use postgres_index_cache_core::postgres::{Driver, DriverEvent, RowChange, Verified};
use postgres_index_cache_core::sync::{State, TableId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::RwLock;
use tokio_postgres::{Client, NoTls};

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Writes until it is told to stop, through whatever happens to the server.
async fn write(
    url: String,
    seed: u64,
    transaction: fn(&mut fastrand::Rng) -> String,
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    quiet: Arc<RwLock<()>>,
) {
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
            tokio::spawn(write(database.url.clone(), seed * 10 + n, transaction, stop, commits, quiet))
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

/// What else tables can be: a deferrable key whose rows swap, partitions that rows move between, triggers that write the
/// row that is being announced, a cascade.
const SEVERAL: &str = "
    CREATE TABLE swapped (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
    CREATE TABLE moved (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE moved_0 PARTITION OF moved FOR VALUES IN (0);
    CREATE TABLE moved_1 PARTITION OF moved FOR VALUES IN (1);
    CREATE TABLE nested (id int PRIMARY KEY, v text, n int);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES nested ON DELETE CASCADE ON UPDATE CASCADE, v text);
    CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE nested SET n = n + 1 WHERE id = NEW.id AND n < 3; RETURN NULL; END $$;
    CREATE TRIGGER a_bump AFTER INSERT OR UPDATE ON nested FOR EACH ROW EXECUTE FUNCTION bump();";
const SEVERAL_TABLES: [&str; 4] = ["swapped", "moved", "nested", "child"];

fn several(random: &mut fastrand::Rng) -> String {
    let statement = |random: &mut fastrand::Rng| {
        let (id, other, word) = (random.u32(1..15), random.u32(1..15), ["a", "b", "c"][random.usize(0..3)]);
        match random.u32(0..100) {
            0..12 => format!(
                "INSERT INTO swapped SELECT {id}, '{word}' WHERE NOT EXISTS (SELECT FROM swapped WHERE id = {id})"
            ),
            12..25 => format!(
                "UPDATE swapped SET id = {id} + {other} - id, v = '{word}' WHERE id IN ({id}, {other})
                AND 2 = (SELECT count(*) FROM swapped WHERE id IN ({id}, {other}))"
            ),
            25..30 => format!("DELETE FROM swapped WHERE id = {id}"),
            30..42 => format!(
                "INSERT INTO moved VALUES ({id}, {id} % 2, '{word}') ON CONFLICT (id, part) DO UPDATE SET v = excluded.v"
            ),
            42..50 => format!(
                "UPDATE moved SET part = 1 - part WHERE id = {id} AND 1 = (SELECT count(*) FROM moved WHERE id = {id})"
            ),
            50..53 => format!("DELETE FROM moved WHERE id = {id}"),
            53..55 => format!("TRUNCATE moved_{}", id % 2),
            55..70 => format!(
                "INSERT INTO nested VALUES ({id}, repeat('{word}', {}), 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = 0",
                if id == 7 { 9000 } else { 3 }
            ),
            70..75 => format!(
                "UPDATE nested SET id = {other} + 100 WHERE id = {id} AND NOT EXISTS (SELECT FROM nested WHERE id = {other} + 100)"
            ),
            75..80 => format!("DELETE FROM nested WHERE id IN ({id}, {other} + 100)"),
            80..92 => format!(
                "INSERT INTO child SELECT {id}, max(nested.id), '{word}' FROM nested HAVING max(nested.id) IS NOT NULL ON CONFLICT (id) DO UPDATE SET parent = excluded.parent"
            ),
            92..95 => format!("SAVEPOINT s; DELETE FROM nested; DELETE FROM swapped WHERE id > {id}; ROLLBACK TO s"),
            95..97 => "TRUNCATE nested, child".to_string(),
            97..98 => "ALTER TABLE swapped ALTER v TYPE text".to_string(),
            98..99 => {
                "ALTER TABLE child ALTER COLUMN v TYPE varchar(100) USING v; ALTER TABLE child ALTER COLUMN v TYPE text"
                    .to_string()
            }
            _ => "TRUNCATE moved".to_string(),
        }
    };
    let statements: Vec<String> = (0..random.usize(1..6)).map(|_| statement(random)).collect();
    let end = if random.u32(0..10) == 0 { "ROLLBACK" } else { "COMMIT" };
    format!("BEGIN; SET LOCAL lock_timeout = '2s'; {}; {end}", statements.join("; "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_tables_are_verified_under_load_and_after_each_fault() {
    let (rounds, seed) = (number("PGIC_FAULT_ROUNDS", 5), number("PGIC_FAULT_SEED", 1));
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = Arc::new(Cluster::start(&Setup::default()).expect("start a server"));
    let database = Database::on(&cluster, "several".to_string()).await;
    database.client().await.batch_execute(SEVERAL).await.unwrap();
    database.pgic_ok(&[&["install-triggers"], &SEVERAL_TABLES[..]].concat());
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::new(AtomicU64::new(0));
    let quiet = Arc::new(RwLock::new(()));
    let writers: Vec<_> = (0..3)
        .map(|n| {
            let (stop, commits, quiet) = (Arc::clone(&stop), Arc::clone(&commits), Arc::clone(&quiet));
            tokio::spawn(write(database.url.clone(), seed * 10 + n, several, stop, commits, quiet))
        })
        .collect();
    let (mut follows, mut tool) = (Vec::new(), None);
    for table in SEVERAL_TABLES {
        let (server, follow, mut options) = crate::verify::follow(&database, table).await;
        // What DDL rewrites is announced by nobody.
        options.looks = true;
        options.limits.heartbeat = std::time::Duration::from_millis(200);
        follows.push(follow);
        tool = Some((server, options));
    }
    let (server, options) = tool.unwrap();
    let mut driver = Driver::open(server, follows, options).await.unwrap();
    let (mut under_load, mut inconclusive, mut gaps) = (0_u64, 0_u64, 0_u64);
    for round in 0..rounds {
        let until = commits.load(Ordering::Relaxed) + 40;
        while commits.load(Ordering::Relaxed) < until {
            tokio::time::timeout(DEADLINE, driver.fence()).await.expect("a fence comes back").unwrap();
            let table = TableId(random.usize(0..SEVERAL_TABLES.len()));
            match tokio::time::timeout(DEADLINE, driver.verify(table)).await.expect("a round ends").unwrap() {
                Verified::Compared(comparison) => {
                    under_load += 1;
                    assert_eq!(comparison.findings, Vec::new(), "PGIC_FAULT_SEED={seed} round {round}, {table:?}");
                }
                Verified::Inconclusive(_) => inconclusive += 1,
            }
        }
        let fault = random.usize(0..6);
        let url = cluster.url("postgres");
        let inject = async {
            match fault {
                0..3 => end_sessions(&url, ["pgic test", "pgic test (fences)", "pgic test (reads)"][fault]).await,
                3 | 4 => {
                    let (cluster, mode) = (Arc::clone(&cluster), ["immediate", "fast"][fault - 3]);
                    tokio::task::spawn_blocking(move || cluster.restart(mode)).await.unwrap().unwrap();
                }
                _ => {}
            }
        };
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
        for (at, table) in SEVERAL_TABLES.iter().enumerate() {
            let compared = async {
                loop {
                    if let Verified::Compared(comparison) = driver.verify(TableId(at)).await.unwrap() {
                        break comparison;
                    }
                }
            };
            let comparison = tokio::time::timeout(DEADLINE, compared).await.expect("a round counts");
            assert_eq!(comparison.findings, Vec::new(), "PGIC_FAULT_SEED={seed} round {round}, fault {fault}, {table}");
        }
        gaps += driver.take_events().filter(|event| matches!(event, DriverEvent::State(State::Disconnected))).count()
            as u64;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let (counters, commits) = (driver.engine().counters(), commits.load(Ordering::Relaxed));
    println!(
        "{rounds} rounds, {gaps} gaps, {commits} commits, {under_load} comparisons under load, {inconclusive} did not count, {counters:?}"
    );
    assert!(under_load > 0 && counters.applied > 0, "{counters:?}");
}
