//! What announcing costs a writer: no trigger, the specification's function, and the generated one,
//! in one run.
//!
//! `cargo bench --bench triggers` starts a throw-away server, takes turns between the three, and
//! prints the median of each with its ratio to the specification's. Run by hand: the figures of two
//! machines do not compare, their ratios do.

use std::process::Command;
use std::time::{Duration, Instant};
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::{Client, NoTls};

#[path = "../tests/support/specification.rs"]
mod specification;

const KINDS: [&str; 4] = ["none", "specification", "pgic", "pgic_no_guard"];
const ROUNDS: usize = 15;
const COMMITS: usize = 400;
const ROWS: usize = 20_000;

/// What is run on a table.
type Statements = Box<dyn Fn(&str) -> Vec<String>>;

fn main() {
    let cluster = Cluster::start(&Setup::default()).expect("start a throw-away PostgreSQL");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(run(&cluster));
}

async fn run(cluster: &Cluster) {
    let url = cluster.url("postgres");
    let client = connect(&url).await;
    client
        .batch_execute(specification::FUNCTION)
        .await
        .expect("create the specification's function");
    for kind in KINDS {
        let table = format!(
            "CREATE TABLE {kind} (id uuid PRIMARY KEY, username_hash bigint, email_hash bigint)"
        );
        client.batch_execute(&table).await.expect("create a table");
    }
    let trigger = "CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON specification FOR EACH ROW
        EXECUTE FUNCTION notify_cache_change()";
    client
        .batch_execute(trigger)
        .await
        .expect("create the specification's trigger");
    install(&url, &["pgic"]);
    install(&url, &["pgic_no_guard", "--no-guard"]);
    let insert = |kind: &str| {
        format!(
            "INSERT INTO {kind} SELECT gen_random_uuid(), n, n FROM generate_series(1, {ROWS}) n"
        )
    };
    let loops = |kind: &str| {
        format!(
            "DO $$ BEGIN FOR n IN 1..{ROWS} LOOP INSERT INTO {kind} VALUES (gen_random_uuid(), n, \
            n); END LOOP; END $$"
        )
    };
    let cases: [(&str, usize, Statements); 5] = [
        (
            "one row and a commit",
            COMMITS,
            Box::new(|kind| {
                vec![format!("INSERT INTO {kind} VALUES (gen_random_uuid(), 1, 1)"); COMMITS]
            }),
        ),
        (
            "row by row in one transaction",
            ROWS,
            Box::new(move |kind| vec![loops(kind)]),
        ),
        (
            "INSERT … SELECT",
            ROWS,
            Box::new(move |kind| vec![insert(kind)]),
        ),
        (
            "UPDATE of every row",
            ROWS,
            Box::new(|kind| vec![format!("UPDATE {kind} SET email_hash = email_hash + 1")]),
        ),
        (
            "DELETE of every row",
            ROWS,
            Box::new(|kind| vec![format!("DELETE FROM {kind}")]),
        ),
    ];
    println!(
        "µs a row, median of {ROUNDS} rounds; in brackets the ratio to the specification's function"
    );
    for (name, rows, statements) in &cases {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); KINDS.len()];
        for round in 0..ROUNDS {
            for turn in 0..KINDS.len() {
                let at = (turn + round) % KINDS.len();
                let kind = KINDS[at];
                prepare(&client, name, kind).await;
                let started = Instant::now();
                for statement in statements(kind) {
                    client.batch_execute(&statement).await.expect("write");
                }
                times[at].push(started.elapsed());
            }
        }
        let medians: Vec<f64> = times.iter_mut().map(|times| median(times, *rows)).collect();
        let cells: Vec<String> = KINDS
            .iter()
            .zip(&medians)
            .map(|(kind, time)| format!("{kind} {time:.2} ({:.2})", time / medians[1]))
            .collect();
        println!("{name}: {}", cells.join(", "));
    }
}

/// An empty table, or one with rows to change, without what announcing those costs.
async fn prepare(client: &Client, case: &str, kind: &str) {
    let mut sql = format!("TRUNCATE {kind};");
    if case.contains("every row") {
        sql.push_str(&format!(
            "SET session_replication_role = replica;
             INSERT INTO {kind} SELECT gen_random_uuid(), n, n FROM generate_series(1, {ROWS}) n;
             RESET session_replication_role; VACUUM {kind}"
        ));
    }
    for statement in sql.split(';') {
        client
            .batch_execute(statement)
            .await
            .expect("prepare the table");
    }
}

fn median(times: &mut [Duration], rows: usize) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6 / rows as f64
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

fn install(url: &str, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgic"));
    let status = command
        .arg("install-triggers")
        .args(arguments)
        .env("DATABASE_URL", url)
        .status()
        .expect("run pgic");
    assert!(status.success());
}
