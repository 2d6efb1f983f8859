//! The core's two examples, run as their documentation says: `notification_loop` on the
//! specification's trigger, `app_node` on the one that `install-triggers` makes.

use crate::support::{DEADLINE, Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, lines_of};
use std::path::Path;
use std::process::{Command, Stdio};

const NOT_BUILT: &str =
    "start the example: build it with cargo test --workspace, or cargo build --examples";

/// Returns the command that runs an example of the core with the database's URL.
fn example(name: &str, database: &Database) -> Command {
    // `cargo test` builds the examples of the workspace into a folder beside its programs.
    let folder = Path::new(env!("CARGO_BIN_EXE_pgic")).parent().unwrap();
    let mut command = Command::new(folder.join("examples").join(name));
    command.arg(&database.url);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notification_loop_follows_a_table() {
    let database = Database::with(&format!("{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}")).await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2)")
        .await
        .unwrap();
    let mut child = example("notification_loop", &database)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
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
    // Any role can send junk. The loop must report it and go on.
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
    let mut child = example("app_node", &database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
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
    // The node reads a hash, waits for a fence, and answers from its cache.
    writeln!(stdin, "3").unwrap();
    let found = "found [User { id: 00000000-0000-0000-0000-000000000001, username_hash: 3, \
        email_hash: 2 }], live: true";
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), found);
    // The end of stdin shuts the node down in order.
    drop(stdin);
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "1 changes applied");
    assert!(child.wait().unwrap().success());
}
