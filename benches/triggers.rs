//! The cost of announcing changes, for a writer: without a trigger, with the specification's
//! function, with PostgreSQL's own extension tcn, which sends keys alone, and with pgic's: with and
//! without its guard, packed by statement triggers, and with a condition that every row fulfils, or
//! none.
//!
//! `cargo bench --bench triggers` starts a throw-away server, takes turns between them, and prints
//! the median of each with its ratios to no trigger and to the specification's function. It is run
//! by hand: the figures of two machines cannot be compared, their ratios can.

use std::process::Command;
use std::time::{Duration, Instant};
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::{Client, NoTls};

#[path = "../tests/support/specification.rs"]
mod specification;

/// One table for each kind of trigger. The kind is the table's name.
const KINDS: [&str; 8] = [
    "none",
    "specification",
    "tcn",
    "pgic",
    "pgic_bulk",
    "pgic_no_guard",
    "pgic_hot",
    "pgic_cold",
];
/// The places of the kinds in [`KINDS`] that the ratios refer to.
const NONE: usize = 0;
const SPECIFICATION: usize = 1;
const ROUNDS: usize = 5;
/// The number of transactions in the case with one row in each.
const COMMITS: usize = 400;
/// The number of rows in the case that writes row by row.
const SINGLE_ROWS: usize = 20_000;
/// The number of rows in all other cases.
const ROWS: usize = 100_000;

/// One way to write rows into a table.
#[derive(Clone, Copy)]
enum Case {
    /// Each row is a transaction.
    OneRowAndCommit,
    /// A loop of PL/pgSQL inserts row by row in one transaction.
    RowByRow,
    InsertSelect,
    UpdateAll,
    DeleteAll,
}

impl Case {
    const ALL: [Self; 5] = [
        Self::OneRowAndCommit,
        Self::RowByRow,
        Self::InsertSelect,
        Self::UpdateAll,
        Self::DeleteAll,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::OneRowAndCommit => "one row and a commit",
            Self::RowByRow => "row by row in one transaction",
            Self::InsertSelect => "INSERT … SELECT",
            Self::UpdateAll => "UPDATE of every row",
            Self::DeleteAll => "DELETE of every row",
        }
    }

    /// Returns the number of rows that the case writes.
    fn rows(self) -> usize {
        match self {
            Self::OneRowAndCommit => COMMITS,
            Self::RowByRow => SINGLE_ROWS,
            Self::InsertSelect | Self::UpdateAll | Self::DeleteAll => ROWS,
        }
    }

    /// Returns whether the case changes rows that must be there already.
    fn needs_rows(self) -> bool {
        matches!(self, Self::UpdateAll | Self::DeleteAll)
    }

    /// Returns the statements that write into `table`, each a transaction of its own.
    fn statements(self, table: &str) -> Vec<String> {
        match self {
            Self::OneRowAndCommit => {
                let insert = format!("INSERT INTO {table} VALUES (gen_random_uuid(), 1, 1)");
                vec![insert; COMMITS]
            }
            Self::RowByRow => vec![format!(
                "DO $$ BEGIN FOR n IN 1..{SINGLE_ROWS} LOOP INSERT INTO {table} VALUES \
                (gen_random_uuid(), n, n); END LOOP; END $$"
            )],
            Self::InsertSelect => vec![fill(table)],
            Self::UpdateAll => vec![format!("UPDATE {table} SET email_hash = email_hash + 1")],
            Self::DeleteAll => vec![format!("DELETE FROM {table}")],
        }
    }
}

/// Returns a statement that inserts [`ROWS`] rows.
fn fill(table: &str) -> String {
    format!("INSERT INTO {table} SELECT gen_random_uuid(), n, n FROM generate_series(1, {ROWS}) n")
}

fn main() {
    let cluster = Cluster::start(&Setup::default()).expect("start a throw-away PostgreSQL");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(run(&cluster));
}

/// Makes the tables, measures each case, and prints a line for each.
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
    let tcn = "CREATE EXTENSION tcn; CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON tcn
        FOR EACH ROW EXECUTE FUNCTION triggered_change_notification('cache_invalidation')";
    client
        .batch_execute(tcn)
        .await
        .expect("create the trigger of tcn");
    install(&url, &["pgic"]);
    install(&url, &["pgic_bulk", "--bulk"]);
    install(&url, &["pgic_no_guard", "--no-guard"]);
    // A condition that every row fulfils, and one that none does.
    install(&url, &["pgic_hot", "--where", "username_hash > 0"]);
    install(&url, &["pgic_cold", "--where", "username_hash < 0"]);
    println!(
        "µs a row, median of {ROUNDS} rounds; in brackets the ratios to no trigger and to the \
        specification's function"
    );
    for case in Case::ALL {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); KINDS.len()];
        for round in 0..ROUNDS {
            for turn in 0..KINDS.len() {
                // The kinds take turns, and another one begins each round: a disturbance of the
                // machine, and what one kind leaves to the next, then fall on all of them.
                let at = (turn + round) % KINDS.len();
                let kind = KINDS[at];
                prepare(&client, case, kind).await;
                let statements = case.statements(kind);
                let started = Instant::now();
                for statement in statements {
                    client.batch_execute(&statement).await.expect("write");
                }
                times[at].push(started.elapsed());
            }
        }
        let medians: Vec<f64> = times
            .iter_mut()
            .map(|times| median(times, case.rows()))
            .collect();
        let (none, base) = (medians[NONE], medians[SPECIFICATION]);
        let cells: Vec<String> = KINDS
            .iter()
            .zip(&medians)
            .map(|(kind, time)| {
                format!("{kind} {time:.2} ({:.2}, {:.2})", time / none, time / base)
            })
            .collect();
        println!("{}: {}", case.name(), cells.join(", "));
    }
}

/// Empties a table, and fills it if the case changes rows that are there.
async fn prepare(client: &Client, case: Case, table: &str) {
    let mut statements = vec![format!("TRUNCATE {table}")];
    if case.needs_rows() {
        // As a replica, so that no trigger fires: the notifications of these rows would be paid for
        // by the statements that are measured.
        statements.push("SET session_replication_role = replica".to_string());
        statements.push(fill(table));
        statements.push("RESET session_replication_role".to_string());
        statements.push(format!("VACUUM {table}"));
    }
    // One by one: VACUUM cannot run in the transaction that several statements of one string share.
    for statement in &statements {
        client
            .batch_execute(statement)
            .await
            .expect("prepare the table");
    }
}

/// Returns the median of `times` in microseconds a row. Sorts `times`.
fn median(times: &mut [Duration], rows: usize) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6 / rows as f64
}

/// Opens a session whose connection is driven by a task of its own.
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// Runs `pgic install-triggers` with these arguments.
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
