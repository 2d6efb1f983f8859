//! Behind PgBouncer: no command leaves a trace on a session, which a moment later belongs to
//! somebody else.

use crate::support::nats::Nats;
use crate::support::pooler::Pooler;
use crate::support::{Database, USERS, cluster, connect};
use std::io::Write as _;
use std::process::Stdio;
use tokio_postgres::{Client, SimpleQueryMessage};

const SOME_KEY: &str = "550e8400-e29b-41d4-a716-446655440000";

/// Returns everything that a command could leave behind on the application's session, in lines:
/// settings, listened channels, locks, prepared statements, cursors.
async fn session(application: &Client) -> Vec<String> {
    let sql = "SELECT count(*) FROM users;
        SELECT name, setting FROM pg_settings WHERE source IN ('session', 'override') OR name IN \
        ('search_path', 'row_security', 'statement_timeout', 'lock_timeout',
            'idle_in_transaction_session_timeout', 'tcp_user_timeout', 'TimeZone',
            'default_transaction_isolation', 'default_transaction_read_only',
            'default_transaction_deferrable')
            ORDER BY 1;
        SELECT current_setting('pgic.search_path', true);
        SELECT * FROM pg_listening_channels();
        SELECT locktype, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
        SELECT name FROM pg_prepared_statements; SELECT name FROM pg_cursors";
    let answers = application
        .simple_query(sql)
        .await
        .expect("the application goes on");
    answers.iter().filter_map(line).collect()
}

fn line(message: &SimpleQueryMessage) -> Option<String> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    // The pooler itself sets this one to that of each client in turn.
    if row.get(0) == Some("application_name") {
        return None;
    }
    let cells: Vec<&str> = (0..row.len())
        .map(|at| row.get(at).unwrap_or("-"))
        .collect();
    Some(cells.join("="))
}

/// Returns the database as it is reached through a pooler.
fn through(pooler: &Pooler, database: &Database) -> Database {
    Database {
        name: database.name.clone(),
        url: pooler.url(&database.name),
    }
}

/// In transaction mode a setting, a LISTEN, a lock or a prepared statement stays on the session for
/// whoever gets the session next. Here that is the application, after each command.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_leaves_a_trace_on_a_pooled_session() {
    let database = Database::with(USERS).await;
    // One session for all: the application gets each trace that a command leaves.
    let pooler = Pooler::start(cluster(), "transaction", 1);
    let pooled = through(&pooler, &database);
    let application = connect(&pooled.url).await;
    let before = session(&application).await;
    // The query works: without this the comparison could be of two empty answers.
    assert!(
        before[0] == "0" && before.iter().any(|line| line.starts_with("search_path=")),
        "{before:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let nats = Nats::start();
    let relay_to = &format!("{}/shop", nats.url());
    let hears = "hint: this command LISTENs, which takes a session of its own";
    for (arguments, code, says) in [
        (&["install-triggers", "users", "--dry-run"][..], 0, ""),
        (&["install-triggers", "users", "--print-sql"], 0, ""),
        (&["install-triggers", "users"], 0, ""),
        (&["install-triggers", "nosuch"], 2, "does not exist"),
        (&["status"], 0, ""),
        (&["status", "users", "-o", "json"], 0, ""),
        (&["top"], 2, "takes a terminal"),
        (&["query", "users"], 2, hears),
        (&["query", "users", "username_hash=1", "--watch"], 2, hears),
        (
            &["query", "users", "username_hash=x"],
            2,
            "invalid input syntax",
        ),
        (&["verify", "users", "--rounds", "1"], 2, hears),
        (&["tail", "--count", "1"], 2, hears),
        (&["tail", "--diff", "users"], 2, hears),
        (&["nodes"], 2, hears),
        (&["verify", "users", "--nodes"], 2, hears),
        (&["why", "users", SOME_KEY], 2, hears),
        (&["announce", "users", SOME_KEY], 2, hears),
        (&["doctor"], 1, ""),
        (&["ping"], 2, hears),
        (&["ping", "--via-trigger"], 2, hears),
        (&["ping", "--via-trigger", "users"], 2, hears),
        (&["wait", "--for", "live", "--timeout", "1s"], 2, hears),
        (&["wait", "--for", "announced", "users"], 0, ""),
        (&["wait"], 0, ""),
        (&["record", "--dir", dir], 2, hears),
        (&["monitor", "users", "--listen", "127.0.0.1:0"], 2, hears),
        (&["replay", "/nonexistent", "-c", "x"], 2, "open the record"),
        (&["relay", "users", "--to", relay_to], 2, hears),
        (&["remove-triggers", "--all", "--dry-run"], 0, ""),
        (&["remove-triggers", "--all", "--yes"], 0, ""),
    ] {
        let ran = pooled.pgic(arguments);
        assert!(
            ran.code == code && ran.stderr.contains(says),
            "{arguments:?}: {ran:?}"
        );
        assert_eq!(session(&application).await, before, "{arguments:?}");
    }
    database.pgic_ok(&["install-triggers", "users"]);
    let mut shell = pooled.command(&["shell", "users"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The shell may have ended before it reads the line.
    let _ = shell.stdin.take().unwrap().write_all(b"users\n");
    let shell = crate::support::ended(shell);
    assert!(shell.code == 2 && shell.stderr.contains(hears), "{shell:?}");
    assert_eq!(session(&application).await, before, "shell");
}

/// A pool with one session serves two connections from the same process, which gives it away. With
/// several sessions each may run in a process of its own for a while, as in session mode.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_with_room_is_found_out_as_well() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let pooler = Pooler::start(cluster(), "transaction", 5);
    let pooled = through(&pooler, &database);
    for arguments in [&["query", "users"][..], &["tail", "--count", "1"]] {
        let ran = pooled.pgic(arguments);
        assert!(
            ran.code == 2
                && ran
                    .stderr
                    .contains("a pooler in transaction mode stands before the server"),
            "{ran:?}"
        );
    }
}

/// In session mode each client keeps a session of its own, so notifications arrive. The proof that
/// a session is ours must not refuse such a pool.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_in_session_mode_will_do() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let pooler = Pooler::start(cluster(), "session", 10);
    let pooled = through(&pooler, &database);
    pooled.pgic_ok(&["status"]);
    assert_eq!(pooled.pgic(&["query", "users", "--count"]).stdout, "0\n");
    let tail = pooled.tail(&["--count", "1"]);
    let write = "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440000', 1, 2)";
    database.client().await.batch_execute(write).await.unwrap();
    let (code, changes, stderr) = tail.finish();
    assert_eq!((code, changes.len()), (0, 1), "{stderr}");
    pooled.pgic_ok(&["verify", "users", "--rounds", "1"]);
}
