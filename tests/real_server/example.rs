//! The core's example, run as its documentation says, against the specification's own trigger.

use crate::support::{DEADLINE, Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, lines_of};
use std::process::{Command, Stdio};

#[tokio::test(flavor = "multi_thread")]
async fn the_notification_loop_follows_a_table() {
    let database = Database::with(&format!("{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}")).await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2)")
        .await
        .unwrap();
    // `cargo test` builds the examples of the workspace beside its programs.
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_pgic"))
        .parent()
        .unwrap()
        .join("examples");
    let mut child = Command::new(folder.join("notification_loop"))
        .arg(&database.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(
            "start the example: build it with cargo test --workspace, or cargo build --examples",
        );
    let lines = lines_of(child.stdout.take().unwrap());
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "listening, 1 users");
    client
        .batch_execute("UPDATE users SET username_hash = 3")
        .await
        .unwrap();
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "cache_invalidation: Applied"
    );
    client
        .batch_execute("NOTIFY cache_invalidation, 'junk'")
        .await
        .unwrap();
    assert!(
        lines
            .recv_timeout(DEADLINE)
            .unwrap()
            .starts_with("cache_invalidation: Invalid(")
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_node_reads_what_was_written() {
    use std::io::Write as _;
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2)")
        .await
        .unwrap();
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_pgic"))
        .parent()
        .unwrap()
        .join("examples");
    let mut child = Command::new(folder.join("app_node"))
        .arg(&database.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(
            "start the example: build it with cargo test --workspace, or cargo build --examples",
        );
    let lines = lines_of(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "live, 1 users");
    client
        .batch_execute("UPDATE users SET username_hash = 3")
        .await
        .unwrap();
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "users 00000000-0000-0000-0000-000000000001: Changed"
    );
    writeln!(stdin, "3").unwrap();
    let found = "found [User { id: 00000000-0000-0000-0000-000000000001, username_hash: 3, \
        email_hash: 2 }], live: true";
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), found);
    drop(stdin);
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "1 changes applied");
    assert!(child.wait().unwrap().success());
}
