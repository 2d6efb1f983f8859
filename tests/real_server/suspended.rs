//! A pgic that is stopped, by Ctrl-Z or otherwise: the server does not wait for it.

use crate::support::{DEADLINE, Database, connect};
use std::net::TcpListener;
use std::time::Instant;
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::Client;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);";

/// How many sessions of this application there are.
async fn sessions(admin: &Client, application: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1 || '%' AND \
        datname = current_database()";
    admin.query_one(sql, &[&application]).await.unwrap().get(0)
}

/// Waits until a process is stopped.
fn is_stopped(process: u32) {
    let give_up = Instant::now() + DEADLINE;
    let state = || {
        std::process::Command::new("ps")
            .args(["-o", "stat=", "-p", &process.to_string()])
            .output()
            .unwrap()
            .stdout
    };
    while !state().starts_with(b"T") {
        assert!(Instant::now() < give_up, "it is not stopped");
        std::thread::yield_now();
    }
}

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
    assert_eq!(tail.next()["id"], 1);
    assert!(sessions(&admin, "pgic tail").await > 0);
    tail.signal("TSTP");
    is_stopped(tail.process());
    let give_up = Instant::now() + DEADLINE;
    while sessions(&admin, "pgic tail").await > 0 {
        assert!(
            Instant::now() < give_up,
            "a stopped pgic still has sessions"
        );
    }
    admin
        .batch_execute("INSERT INTO t VALUES (2, 'b')")
        .await
        .unwrap();
    tail.signal("CONT");
    let gap = tail.next();
    assert_eq!(gap["event"], "gap", "{gap}");
    assert_eq!(tail.next()["event"], "resumed");
    admin
        .batch_execute("INSERT INTO t VALUES (3, 'c')")
        .await
        .unwrap();
    assert_eq!(tail.next()["id"], 3, "it goes on");
    tail.signal("INT");
    let (code, _, stderr) = tail.finish();
    assert_eq!(code, 0, "{stderr}");
}

/// SIGSTOP cannot be caught: the server lets go by `tcp_user_timeout`.
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
    let tail = database.tail(&[]);
    let mut command = database.command(&["query", "big"]);
    let mut query = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It reads; then neither takes anything any more.
    let give_up = Instant::now() + DEADLINE;
    let copies = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgic query \
        (reads)' AND query LIKE 'COPY%' AND state = 'active'";
    while admin.query_one(copies, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(
            Instant::now() < give_up && query.try_wait().unwrap().is_none(),
            "the table is not read"
        );
    }
    let stopped = std::process::Command::new("kill")
        .args(["-STOP", &query.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    tail.signal("STOP");
    is_stopped(tail.process());
    let give_up = Instant::now() + 2 * DEADLINE;
    let payload = format!("NOTIFY cache_invalidation, '{}'", "x".repeat(7_900));
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('pgic tail', \
        'pgic query (reads)')";
    while admin.query_one(stuck, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        let waiting = "SELECT application_name, wait_event, left(query, 60) FROM pg_stat_activity \
            WHERE application_name LIKE 'pgic%'";
        if Instant::now() >= give_up {
            let waiting = admin.simple_query(waiting).await;
            panic!("the server still waits for a process that is frozen: {waiting:?}");
        }
        for _ in 0..20 {
            admin.batch_execute(&payload).await.unwrap();
        }
    }
    // What it read is not locked any more.
    admin
        .batch_execute("SET lock_timeout = '5s'; ALTER TABLE big ADD COLUMN n int")
        .await
        .unwrap();
    for process in [query.id(), tail.process()] {
        let _ = std::process::Command::new("kill")
            .args(["-CONT", &process.to_string()])
            .status();
    }
    let ran = crate::support::ended(query);
    assert_ne!(ran.code, 0, "it lost its connection: {ran:?}");
}
