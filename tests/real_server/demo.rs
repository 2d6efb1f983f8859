//! `pgic demo` and the throw-away server under it. The demo is the first thing that a newcomer
//! runs, so it must work on a bare machine and leave nothing behind, however it ends.

use crate::support::{DEADLINE, connect, lines_of, pgic, run};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

#[test]
fn the_demo_shows_every_part_and_ends_by_itself() {
    let ran = run(pgic(&["demo"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    // One text of each part of the demo.
    for shown in [
        "public.users     created  cache_invalidation  public.notify_cache_change_users",
        "listening on cache_invalidation",
        "(the row is too long to be sent)",
        "truncate public.products",
        "550e8400-e29b-41d4-a716-446655440001  bob                 123           9",
        "\"username_hash\":10000",
        " as postgres (PostgreSQL ",
        "email_hash is ",
        "announce those too: pgic install-triggers public.users --always",
        "none -> always",
    ] {
        assert!(
            ran.stdout.contains(shown),
            "{shown} is not in\n{}",
            ran.stdout
        );
    }
    assert!(
        !Path::new(&folder_of(&ran.stdout)).exists(),
        "the folder is gone"
    );
}

#[test]
fn the_demo_is_independent_of_what_is_set_for_another_server() {
    // A newcomer's shell may name another server, or hold values that do not even parse
    // (`PGCONNECT_TIMEOUT`). The demo knows its server and must read none of them.
    let mut command = pgic(&["demo"]);
    for (name, value) in [
        ("PGSERVICE", "nothing"),
        ("PGSSLMODE", "verify-full"),
        (
            "PGOPTIONS",
            "-c search_path=nothing -c default_transaction_read_only=on",
        ),
        ("PGHOST", "nothing.invalid"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGDATABASE", "nothing"),
        ("PGPASSWORD", "nothing"),
        ("PGAPPNAME", "nothing"),
        ("PGCONNECT_TIMEOUT", "x"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGDATA", "/nothing"),
        ("PGTZ", "Mars/Phobos"),
        ("DATABASE_URL", "postgresql://nothing.invalid/x"),
    ] {
        command.env(name, value);
    }
    let ran = run(command);
    assert!(ran.code == 0 && ran.stdout.contains("equal"), "{ran:?}");
}

/// Returns the folder that the demo names in `PostgreSQL 15 in /tmp/pgic-abcdef`.
fn folder_of(stdout: &str) -> String {
    stdout
        .lines()
        .find_map(|line| line.split_once(" in /"))
        .map(|(_, folder)| format!("/{folder}"))
        .expect("a folder")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_kept_can_be_asked_and_stopped() {
    // Both lines are copied from the demo's output as a reader would copy them: the one that sets
    // DATABASE_URL, and the last one, which stops the server.
    let ran = run(pgic(&["demo", "--keep"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    let url = ran
        .stdout
        .lines()
        .find_map(|line| {
            line.strip_prefix("export DATABASE_URL='")?
                .strip_suffix('\'')
        })
        .expect("a URL");
    // Somebody writes, so that there is something to see.
    let mut tail = pgic(&["tail", "-n", "1", "-o", "json", "-d", url]);
    tail.env("PGPORT", "1")
        .env("PGTARGETSESSIONATTRS", "standby");
    let tail = run(tail);
    assert!(tail.stdout.contains("\"action\":\"update\""), "{tail:?}");
    let count: i64 = connect(url)
        .await
        .query_one("SELECT count(*) FROM users", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 10_002);
    let query = run(pgic(&[
        "query",
        "users",
        "username_hash=123",
        "--count",
        "-d",
        url,
    ]));
    assert_eq!(query.stdout, "2\n");
    let writer = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgic demo'";
    let writers = connect(url).await.query(writer, &[]).await.unwrap();
    assert_eq!(writers.len(), 1);
    let stop = ran.stdout.lines().last().expect("how to stop it");
    let stopped = Command::new("sh").args(["-c", stop]).output().unwrap();
    assert!(stopped.status.success(), "{stop}: {stopped:?}");
    assert!(!Path::new(&folder_of(&ran.stdout)).exists());
    // The writer ends with the server.
    let deadline = Instant::now() + DEADLINE;
    while is_running("demo --write") {
        assert!(Instant::now() < deadline, "the writer has ended");
        std::thread::yield_now();
    }
}

/// Tells whether a process of this program with these arguments runs.
fn is_running(arguments: &str) -> bool {
    let wanted = format!("{} .*{arguments}", crate::support::binary().display());
    let found = Command::new("pgrep").args(["-f", "--", &wanted]).output();
    found.expect("run pgrep").status.success()
}

#[test]
fn a_demo_that_is_killed_or_interrupted_leaves_nothing() {
    // KILL cannot be handled: it is the watchdog, a process of its own, that removes the server. A
    // Ctrl-C is no failure, so the other two end with 0.
    for signal in ["-KILL", "-INT", "-TERM"] {
        let mut demo = pgic(&["demo"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = lines_of(demo.stdout.take().unwrap());
        let folder = loop {
            let line = lines.recv_timeout(DEADLINE).expect("the demo goes on");
            if line.contains(" in /") {
                break folder_of(&line);
            }
        };
        assert!(Path::new(&folder).exists());
        assert!(
            Command::new("kill")
                .args([signal, &demo.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        let code = demo.wait().unwrap().code();
        assert!(signal == "-KILL" || code == Some(0), "{signal}: {code:?}");
        // After a KILL the folder goes a moment later than the process.
        let deadline = Instant::now() + DEADLINE;
        while Path::new(&folder).exists() {
            assert!(
                Instant::now() < deadline,
                "{signal}: {folder} is still there"
            );
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_missing_server_is_an_error_with_how_to_install_it() {
    // Names the package on each common system: "initdb not found" tells a newcomer nothing.
    let mut command = pgic(&["demo"]);
    command.env("PGIC_PG_BIN", "/nonexistent");
    let ran = run(command);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr
            .contains("error: find PostgreSQL's server programs"),
        "{}",
        ran.stderr
    );
    for system in [
        "apt-get install postgresql",
        "dnf install postgresql-server",
        "apk add postgresql",
        "brew install postgresql",
    ] {
        assert!(ran.stderr.contains(system), "{}", ran.stderr);
    }
}

#[test]
fn the_demo_of_a_relay_shows_every_part_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = pgic(&["demo", "--relay"]);
    command.env("TMPDIR", folder.path());
    // As it is elsewhere: the server's own user must make and remove its files.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let ran = run(command);
    assert_eq!(ran.code, 0, "{ran:?}");
    for shown in [
        "shop: leading, term 1: the log begins anew",
        "2 nodes live",
        "email_hash: 1 -> 8",
        "shop: standing by: another relay writes",
        "shop: leading, term 2: the log goes on",
        "has another row of this key",
        "as the relay has compared them and this node has them",
    ] {
        assert!(
            ran.stdout.contains(shown),
            "{shown} is not in\n{}",
            ran.stdout
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
