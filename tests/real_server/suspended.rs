//! A pgic that is stopped, by Ctrl-Z or otherwise: the server does not wait for the process.
//!
//! A listener that does not read pins the server's queue of notifications. Once that is full, every
//! commit that notifies fails, in every database.

use crate::support::{DEADLINE, Database, connect};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Instant;
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::Client;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);";

/// Returns the number of sessions whose application name begins with `application`.
async fn sessions(admin: &Client, application: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1 || '%' AND \
        datname = current_database()";
    admin.query_one(sql, &[&application]).await.unwrap().get(0)
}

/// Waits until a process is stopped.
fn wait_until_stopped(process: u32) {
    let give_up = Instant::now() + DEADLINE;
    while !state_of(process).starts_with('T') {
        assert!(Instant::now() < give_up, "it is not stopped");
        std::thread::yield_now();
    }
}

/// Returns the state of a process as `ps` prints states: `T` is stopped.
fn state_of(process: u32) -> String {
    let ps = Command::new("ps")
        .args(["-o", "stat=", "-p", &process.to_string()])
        .output()
        .unwrap();
    String::from_utf8(ps.stdout).expect("ps prints ASCII")
}

/// Sends a signal to a process, and returns whether the process was there.
fn signal(process: u32, name: &str) -> bool {
    Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap()
        .success()
}

/// Returns the count that a query selects.
async fn count(admin: &Client, sql: &str) -> i64 {
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

/// SIGTSTP can be caught: pgic closes all connections, and then stops. Nobody listens until the
/// process goes on: that time is a gap, and is shown.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_z_lets_the_server_go_and_what_comes_meanwhile_is_a_gap() {
    let database = Database::with(TABLE).await;
    database.pgic_ok(&["install-triggers", "t"]);
    let tail = database.tail(&[]);
    let admin = database.client().await;
    admin
        .batch_execute("INSERT INTO t VALUES (1, 'a')")
        .await
        .unwrap();
    assert_eq!(tail.next()["key"], 1);
    assert!(sessions(&admin, "pgic tail").await > 0);
    tail.signal("TSTP");
    wait_until_stopped(tail.process());
    let give_up = Instant::now() + DEADLINE;
    while sessions(&admin, "pgic tail").await > 0 {
        assert!(
            Instant::now() < give_up,
            "a stopped pgic still has sessions"
        );
    }
    // Nobody is there to hear of this row.
    admin
        .batch_execute("INSERT INTO t VALUES (2, 'b')")
        .await
        .unwrap();
    tail.signal("CONT");
    assert_eq!(tail.next()["event"], "disconnected");
    let gap = tail.next();
    assert_eq!(gap["event"], "gap", "{gap}");
    assert_eq!(tail.next()["event"], "resumed");
    admin
        .batch_execute("INSERT INTO t VALUES (3, 'c')")
        .await
        .unwrap();
    assert_eq!(tail.next()["key"], 3, "it goes on");
    tail.signal("INT");
    let (code, _, stderr) = tail.finish();
    assert_eq!(code, 0, "{stderr}");
}

/// SIGSTOP cannot be caught: the kernel ends the server's connections when the client has taken
/// nothing for `tcp_user_timeout`. That is a setting of TCP, and the tests' usual server has a Unix
/// socket alone, so this test starts a server of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_pgic_that_is_frozen_is_let_go_by_the_server() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = [
        ("listen_addresses", "127.0.0.1".to_string()),
        ("port", port.to_string()),
    ];
    let settings = settings
        .map(|(name, value)| (name.to_string(), value))
        .into();
    let _cluster = Cluster::start(&Setup { settings }).unwrap();
    let database = Database {
        name: "postgres".into(),
        url: format!("postgresql://postgres@127.0.0.1:{port}/postgres"),
    };
    let admin = connect(&database.url).await;
    let rows = "CREATE TABLE big (id int PRIMARY KEY, v text); INSERT INTO big SELECT n, \
        repeat(md5(n::text), 100) FROM generate_series(1, 20000) n";
    admin.batch_execute(rows).await.unwrap();
    // Two processes: one that waits for notifications, and one that reads a table.
    let tail = database.tail(&[]);
    let mut command = database.command(&["query", "big"]);
    let mut query = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The query is frozen in the middle of a COPY, the tail while it listens.
    let give_up = Instant::now() + DEADLINE;
    let copies = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgic query \
        (reads)' AND query LIKE 'COPY%' AND state = 'active'";
    while count(&admin, copies).await == 0 {
        assert!(
            Instant::now() < give_up && query.try_wait().unwrap().is_none(),
            "the table is not read"
        );
    }
    assert!(signal(query.id(), "STOP"));
    tail.signal("STOP");
    wait_until_stopped(tail.process());
    let give_up = Instant::now() + 2 * DEADLINE;
    let payload = format!("NOTIFY cache_invalidation, '{}'", "x".repeat(7_900));
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('pgic tail', \
        'pgic query (reads)')";
    while count(&admin, stuck).await > 0 {
        let waiting = "SELECT application_name, wait_event, left(query, 60) FROM pg_stat_activity \
            WHERE application_name LIKE 'pgic%'";
        if Instant::now() >= give_up {
            let waiting = admin.simple_query(waiting).await;
            panic!("the server still waits for a process that is frozen: {waiting:?}");
        }
        // The timeout runs only while something waits to be taken: fill the listener's buffers.
        for _ in 0..20 {
            admin.batch_execute(&payload).await.unwrap();
        }
    }
    // The query's transaction is gone, and with the transaction the lock on the table.
    admin
        .batch_execute("SET lock_timeout = '5s'; ALTER TABLE big ADD COLUMN n int")
        .await
        .unwrap();
    for process in [query.id(), tail.process()] {
        signal(process, "CONT");
    }
    let ran = crate::support::ended(query);
    assert_ne!(ran.code, 0, "it lost its connection: {ran:?}");
}
