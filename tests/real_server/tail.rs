//! `tail`: every notification is shown, well formed or not, through lost connections, and whoever
//! reads the output.

use crate::support::{
    DEADLINE, Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, ended, lines_of, run,
};
use crate::terminal::Terminal;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Starts a command whose stdout and stderr are pipes.
fn start(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start pgic")
}

/// Sends a signal to a process of the test's.
fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status()
        .expect("run kill");
    assert!(status.success());
}

/// Returns the next line of an output, which is JSON.
fn next(lines: &Receiver<String>) -> Value {
    let line = lines.recv_timeout(DEADLINE).expect("another line");
    crate::support::schema::event(&line)
}

/// Notifies each payload in a transaction of its own.
async fn notify(database: &Database, payloads: &[&str]) {
    let client = database.client().await;
    for payload in payloads {
        client
            .execute("SELECT pg_notify('cache_invalidation', $1)", &[payload])
            .await
            .unwrap();
    }
}

/// A payload in the specification's form, with numbers that a double cannot hold.
const INSERT: &str =
    r#"{"table":"users","action":"insert","id":1,"data":{"id":1,"n":9007199254740993,"d":1.10}}"#;

/// JSON parsers turn numbers into doubles: 9007199254740993 becomes …992 and 1.10 becomes 1.1.
/// `tail` shows the digits that were sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_a_json_line_with_every_digit() {
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY, n bigint, d numeric)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    let tail = database.tail(&["--count", "1"]);
    database
        .client()
        .await
        .batch_execute("INSERT INTO a VALUES (1, 9007199254740993, 1.10)")
        .await
        .unwrap();
    let change = tail.next();
    for field in ["pid", "at", "bytes", "xid", "sent_at", "age_ms"] {
        assert!(!change[field].is_null(), "{field} in {change}");
    }
    assert_eq!(
        (&change["event"], &change["channel"]),
        (&json!("change"), &json!("cache_invalidation"))
    );
    assert_eq!(
        (&change["schema"], &change["action"], &change["key"]),
        (&json!("public"), &json!("insert"), &json!(1))
    );
    let (code, rest, stderr) = tail.finish();
    assert_eq!((code, rest.len()), (0, 0));
    let done = json!({"event": "done", "shown": 1, "invalid": 0, "dropped": 0});
    assert_eq!(crate::support::schema::event(&stderr), done);
    // Read as text: this test's own parser would lose the digits as well.
    let raw = database
        .command(&["tail", "-o", "json", "--count", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut raw = raw.unwrap();
    let lines = lines_of(raw.stdout.take().unwrap());
    assert!(lines.recv_timeout(DEADLINE).unwrap().contains("connected"));
    notify(&database, &[INSERT]).await;
    let line = lines.recv_timeout(DEADLINE).unwrap();
    assert!(line.contains("\"n\":9007199254740993,\"d\":1.10"), "{line}");
    raw.wait().unwrap();
}

/// Payloads in the specification's form name no transaction and no schema. `tail` must show what is
/// there, with null for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_specification_s_own_function_is_a_full_citizen() {
    let database = Database::with(&format!("{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}")).await;
    let tail = database.tail(&["--channel", "cache_invalidation", "--count", "2"]);
    let id = "550e8400-e29b-41d4-a716-446655440000";
    let sql = format!("INSERT INTO users VALUES ('{id}', 123, 7); DELETE FROM users");
    database.client().await.batch_execute(&sql).await.unwrap();
    let insert = tail.next();
    let delete = tail.next();
    assert_eq!(
        (
            &insert["key"],
            &insert["row"]["username_hash"],
            &insert["xid"]
        ),
        (&json!(id), &json!(123), &json!(null))
    );
    assert_eq!(&delete["action"], "delete");
    assert_eq!(tail.finish().0, 0);
}

/// Any role can notify anything. Whoever debugs a broken trigger wants to see exactly the payloads
/// that no consumer understands.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_parse_is_shown_and_stops_nothing() {
    let database = Database::with("").await;
    // Empty, a control sequence that sets a terminal's title, an unknown action, and a sound one.
    let tail = database.tail(&["--count", "4"]);
    notify(
        &database,
        &[
            "",
            "\u{1b}]0;owned\u{7}",
            r#"{"table":"users","action":"dance","id":1}"#,
            INSERT,
        ],
    )
    .await;
    let events: Vec<_> = (0..4).map(|_| tail.next()).collect();
    assert_eq!(
        events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["payload", "payload", "invalid", "change"]
    );
    assert_eq!(events[1]["payload"], "\u{1b}]0;owned\u{7}");
    assert!(events[2]["error"].as_str().unwrap().contains("dance"));
    let said = crate::support::schema::check_all(&tail.finish().2);
    let done = said.last().unwrap();
    assert_eq!((&done["shown"], &done["invalid"]), (&json!(4), &json!(1)));
}

/// `--raw` is for programs: the payload as it came, and nothing else. Text on a pipe must have no
/// colour codes.
#[tokio::test(flavor = "multi_thread")]
async fn text_and_raw_output_are_the_same_on_a_pipe_without_colour() {
    let database = Database::with("").await;
    for (arguments, expected) in [
        (&["tail", "--count", "1", "--raw"][..], INSERT.to_string()),
        (
            &["tail", "--count", "1", "--color", "never"],
            "  insert   users  1  id=1 n=9007199254740993 d=1.10  (caches ignore it: no trigger \
            announces such a table)"
                .to_string(),
        ),
    ] {
        let mut child = start(database.command(arguments));
        let lines = lines_of(child.stdout.take().unwrap());
        wait_for_listener(&database).await;
        notify(&database, &[INSERT]).await;
        let last = lines.iter().last().expect("a line");
        assert!(
            last.ends_with(&expected) && !last.contains('\u{1b}'),
            "{last}"
        );
        assert!(child.wait().unwrap().success());
    }
}

/// Waits until a listener of pgic's holds the advisory lock that marks one. Text output has no line
/// that says when `tail` listens.
async fn wait_for_listener(database: &Database) {
    let client = database.client().await;
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE d.datname = current_database() AND locktype = 'advisory' AND mode = 'ShareLock'";
    let wait = async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("a listener");
}

/// Tables whose keys and values are written in several ways.
const SHOP: &str = "
    CREATE TYPE state AS ENUM ('open', 'paid');
    CREATE TABLE orders (id int PRIMARY KEY, state state, price numeric, note text);
    CREATE TABLE items (a int, b int, price numeric, PRIMARY KEY (a, b));
    CREATE SCHEMA app; CREATE TABLE app.orders (id int PRIMARY KEY, price numeric);";

/// A filter that shows too much hides the change that somebody waits for, and one that shows too
/// little makes it seem lost. Keys and values are compared by their types; `--count` counts what
/// passes.
#[tokio::test(flavor = "multi_thread")]
async fn filters_show_what_they_name() {
    let database = Database::with(SHOP).await;
    let installed = ["install-triggers", "orders", "items", "app.orders"];
    database.pgic_ok(&installed);
    let writer = database.client().await;
    for (arguments, expected) in [
        (&["orders"][..], vec![json!(1), json!(2)]),
        (&["-t", "app.orders,items"], vec![json!([42, 2]), json!(3)]),
        (
            &["--action", "delete", "--action", "truncate"],
            vec![json!(2)],
        ),
        (&["--id", "42,2"], vec![json!([42, 2])]),
        (&["--id", "[42, 2]", "items"], vec![json!([42, 2])]),
        (&["orders", "--id", "02"], vec![json!(2)]),
        (
            &["--where", "price=2.5"],
            vec![json!(1), json!([42, 2]), json!(3)],
        ),
        (&["orders", "--where", "state=paid"], vec![json!(1)]),
        (
            &["--where", "price>2", "--where", "note=NULL"],
            vec![json!(1)],
        ),
        (&["orders", "--where", "note~^x"], vec![json!(2)]),
    ] {
        let count = expected.len().to_string();
        let tail = database.tail(&[arguments, &["-n", &count]].concat());
        let sql = "INSERT INTO orders VALUES (1, 'paid', 2.50);
            INSERT INTO items VALUES (42, 2, 2.5); INSERT INTO app.orders VALUES (3, 2.500);
            INSERT INTO orders VALUES (2, 'open', 1, 'x y');
            DELETE FROM orders WHERE id = 2";
        writer.batch_execute(sql).await.unwrap();
        let ids: Vec<_> = (0..expected.len())
            .map(|_| tail.next()["key"].clone())
            .collect();
        assert_eq!(ids, expected, "{arguments:?}");
        let (code, _, stderr) = tail.finish();
        assert_eq!(code, 0);
        // That deletes are not shown is no fault of the filter.
        let other = stderr
            .lines()
            .find(|line| line.contains("notice") && !line.contains("deletes carry the key alone"));
        assert_eq!(other, None, "{arguments:?}");
        let sql = "TRUNCATE orders, items, app.orders";
        writer.batch_execute(sql).await.unwrap();
    }
}

/// What came and did not pass is counted, so that a filter is told from a pipeline that is dead.
#[tokio::test(flavor = "multi_thread")]
async fn notifications_that_do_not_pass_are_counted_in_the_silence() {
    let database = Database::with(SHOP).await;
    database.pgic_ok(&["install-triggers", "orders"]);
    let mut tail = start(database.command(&["tail", "orders", "--id", "7"]));
    let said = lines_of(tail.stderr.take().unwrap());
    assert!(
        said.recv_timeout(DEADLINE)
            .unwrap()
            .contains("listening on")
    );
    notify(&database, &["junk", INSERT]).await;
    assert_eq!(
        said.recv_timeout(DEADLINE).unwrap(),
        "notice: 2 notifications came in 10 s, and none passed the filter"
    );
    signal(&tail, "INT");
    tail.wait().unwrap();
}

/// A program of somebody else's notifies about what is no table: the texts are compared.
#[tokio::test(flavor = "multi_thread")]
async fn payloads_about_no_table_are_filtered_by_their_texts() {
    let database = Database::with("").await;
    let payloads = [
        r#"{"table":"jobs","action":"insert","id":1,"data":{"id":1,"n":5}}"#,
        r#"{"table":"jobs","schema":"app","action":"update","id":2,"data":{"id":2,"n":6}}"#,
        r#"{"table":"runs","action":"delete","id":["a",2]}"#,
        "junk",
    ];
    for (arguments, expected) in [
        (&["--id", "a,2"][..], vec![json!(["a", 2])]),
        (&["--where", "n=6"], vec![json!(2)]),
    ] {
        let count = expected.len().to_string();
        let tail = database.tail(&[arguments, &["--count", &count]].concat());
        notify(&database, &payloads).await;
        let ids: Vec<_> = (0..expected.len())
            .map(|_| tail.next()["key"].clone())
            .collect();
        assert_eq!(ids, expected, "{arguments:?}");
        assert_eq!(tail.finish().0, 0);
    }
}

/// A filter that can never match looks like a pipeline that is dead. It is an error if a name does
/// not exist, and a notice if nothing announces what is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_can_never_match_is_said_at_once() {
    let database = Database::with(SHOP).await;
    database.pgic_ok(&["install-triggers", "orders", "--columns", "id,state"]);
    database.pgic_ok(&["install-triggers", "app.orders", "--channel", "app_changes"]);
    for (arguments, said) in [
        (&["--action", "dance"][..], "invalid value 'dance'"),
        (&["--where", "n"], "n is not a condition"),
        (
            &["order"],
            "the table order does not exist\nhint: there is app.orders",
        ),
        (&["-t", "orders,nosuch"], "the table nosuch does not exist"),
        (
            &["orders", "--where", "stat=paid"],
            "hint: state may be meant",
        ),
        (
            &["orders", "--where", "state=PAID"],
            "hint: paid may be meant",
        ),
        (&["orders", "--where", "price=many"], "invalid input syntax"),
        (&["orders", "--id", "x"], "invalid input syntax"),
        (
            &["items", "--id", "42"],
            "the key (a,b) has 2 columns, and 42 has 1",
        ),
        (&["--where", "nosuch=1"], "has no column nosuch"),
    ] {
        let ran = database.pgic(&[&["tail"], arguments].concat());
        assert!(
            ran.code == 2 && ran.stderr.contains(said),
            "{arguments:?}: {ran:?}"
        );
    }
    for (arguments, said) in [
        (
            &["items"][..],
            "notice: no trigger announces public.items: pgic install-triggers public.items",
        ),
        (
            &["app.orders"],
            "notice: app.orders is announced on another channel: --channel app_changes",
        ),
        (
            &["-c", "App_Changes"],
            "notice: no table of this database is announced on App_Changes; app_changes may be \
            meant; tables are announced on app_changes (1 table), cache_invalidation (1 table)",
        ),
        (
            &["orders", "--where", "price=1"],
            "notice: the trigger of public.orders does not send the column price, so price=1 never \
            holds",
        ),
    ] {
        let ran = database.pgic(&[&["tail", "--duration", "10ms"], arguments].concat());
        assert!(
            ran.code == 0 && ran.stderr.contains(said),
            "{arguments:?}: {ran:?}"
        );
    }
    let ran = database.pgic(&["tail", "--duration", "10ms", "orders"]);
    assert!(!ran.stderr.contains("notice"), "{ran:?}");
}

/// Silence has a reason: nothing came, or what came did not pass.
#[tokio::test(flavor = "multi_thread")]
async fn after_seconds_of_silence_the_reason_is_said() {
    let database = Database::with(SHOP).await;
    database.pgic_ok(&["install-triggers", "orders"]);
    let mut silent = start(database.command(&["tail", "-c", "quiet", "-c", "cache_invalidation"]));
    let mut filtered = start(database.command(&["tail", "orders", "--id", "7"]));
    let said = lines_of(silent.stderr.take().unwrap());
    let said_filtered = lines_of(filtered.stderr.take().unwrap());
    let quiet = said.recv_timeout(DEADLINE).unwrap();
    assert!(quiet.contains("no table of this database is announced on quiet"));
    for lines in [&said, &said_filtered] {
        let line = lines.recv_timeout(DEADLINE).unwrap();
        assert!(line.contains("listening on"), "{line}");
    }
    let line = said.recv_timeout(DEADLINE).unwrap();
    assert_eq!(
        line,
        "notice: nothing has come on quiet, cache_invalidation in 10 s"
    );
    let line = said_filtered.recv_timeout(DEADLINE).unwrap();
    assert_eq!(
        line,
        "notice: nothing has come on cache_invalidation in 10 s"
    );
    for child in [&silent, &filtered] {
        signal(child, "INT");
    }
    silent.wait().unwrap();
    filtered.wait().unwrap();
}

/// A script asks: does a change arrive within this time? The exit code is the answer.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_in_time_is_a_no() {
    let database = Database::with("").await;
    assert_eq!(
        database
            .pgic(&["tail", "--count", "1", "--duration", "50ms"])
            .code,
        1
    );
    assert_eq!(database.pgic(&["tail", "--duration", "50ms"]).code, 0);
}

/// What is notified while the connection is lost never arrives, and nothing else would tell: the
/// output says from when to when.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_a_gap_and_taken_up_again() {
    let database = Database::with("").await;
    let tail = database.tail(&[]);
    notify(&database, &["mine"]).await;
    assert_eq!(tail.next()["event"], "payload");
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE \
        application_name = 'pgic tail' AND datname = current_database()";
    // The session is found by its name, and there must be one alone.
    let killed: i64 = database
        .client()
        .await
        .query_one(sql, &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(killed, 1);
    let lost = tail.next();
    assert!(
        lost["event"] == "disconnected" && lost["why"].is_string() && lost["at"].is_string(),
        "{lost}"
    );
    let gap = tail.next();
    assert!(
        gap["event"] == "gap" && gap["from"].as_str() < gap["to"].as_str(),
        "{gap}"
    );
    assert_eq!(tail.next()["event"], "resumed");
    notify(&database, &[INSERT]).await;
    assert_eq!(tail.next()["event"], "change");
    tail.signal("INT");
    let (code, _, stderr) = tail.finish();
    assert!(
        code == 0 && stderr.contains("connection was lost") && stderr.contains("\"shown\":2"),
        "{code} {stderr}"
    );
}

/// `tail | head` must end although no further line is printed that would find the pipe closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_a_quiet_end() {
    let database = Database::with("").await;
    let mut child = start(database.command(&["tail", "--raw"]));
    let stdout = child.stdout.take().unwrap();
    wait_for_listener(&database).await;
    // Nothing is notified from here on: the end must not wait for a line to print.
    drop(stdout);
    let ran = ended(child);
    assert!(ran.code == 0 && !ran.stderr.contains("error"), "{ran:?}");
}

/// The socket must be read although nobody takes the output: the server's queue of notifications
/// fills behind a listener that does not read. The oldest are dropped instead, and counted, for
/// `--count` too: the last one would be waited for without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_sleeps_does_not_hold_the_queue() {
    let database = Database::with("").await;
    let mut child = start(database.command(&["tail", "--raw", "--count", "40000"]));
    wait_for_listener(&database).await;
    let client = database.client().await;
    // More than the pipe and the bounded queue hold together.
    let burst = "SELECT count(pg_notify('cache_invalidation', n || repeat('x', 7000))) FROM \
        generate_series(1, 40000) n";
    client.batch_execute(burst).await.unwrap();
    // What was read is given up only when somebody notifies again, a few pages later, so a little
    // may stay.
    let usage = "SELECT pg_notify('filler', repeat('x', 7000)), pg_notification_queue_usage()";
    let drained = async {
        while client.query_one(usage, &[]).await.unwrap().get::<_, f64>(1) > 0.001 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, drained)
        .await
        .expect("the server's queue empties though nobody reads");
    let lines = lines_of(child.stdout.take().unwrap());
    let shown: Vec<String> = lines.iter().collect();
    let ran = ended(child);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(shown.last().is_some_and(|line| line.starts_with("40000")));
    // The last line ends with "…, 1234 dropped".
    let summary = ran.stderr.lines().last().unwrap();
    let (_, dropped) = summary.rsplit_once(", ").unwrap();
    let (dropped, _) = dropped.split_once(' ').unwrap();
    let dropped: usize = dropped.parse().unwrap();
    assert!(
        shown.len() > 1_000 && dropped > 0 && shown.len() + dropped == 40_000,
        "{} shown, {}",
        shown.len(),
        ran.stderr
    );
    assert!(
        ran.stderr.contains("the output is too slow"),
        "{}",
        ran.stderr
    );
}

/// Before the first connection nothing is tried again: a wrong address must not look like a quiet
/// channel. The password in the URL is never repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_an_error_with_a_hint() {
    let database = Database::with("").await;
    let mut command = database.command(&["tail"]);
    command.env(
        "DATABASE_URL",
        "postgresql://u:s3cret@/nowhere?host=/nonexistent",
    );
    let ran = run(command);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr
            .contains("connect to database \"nowhere\" on /nonexistent")
            && ran.stderr.contains("\nhint: "),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("s3cret"));
    let mut command = database.command(&["tail"]);
    command.env("DATABASE_URL", database.url.replace("/test_", "/missing_"));
    let ran = run(command);
    assert!(
        ran.code == 2 && ran.stderr.contains("does not exist (SQLSTATE 3D000)"),
        "{ran:?}"
    );
}

/// A payload has the new row alone. `--diff` keeps a cache of the table, which has the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_diff_shows_what_each_change_did_old_to_new() {
    let database = Database::with(
        "CREATE TABLE t (id int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'a', 1)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t"]);
    let client = database.client().await;
    let mut child = start_diff(&database, &["-o", "json"]);
    let lines = lines_of(child.stdout.take().unwrap());
    assert_live(&lines);
    client
        .batch_execute("UPDATE t SET v = 'b', n = 2")
        .await
        .unwrap();
    let change = next(&lines);
    assert_eq!(
        (&change["event"], &change["old"]),
        (&json!("changed"), &json!({"v":"a","n":1}))
    );
    assert_eq!(change["row"], json!({"id":1,"v":"b","n":2}));
    client.batch_execute("UPDATE t SET id = 2").await.unwrap();
    // A key change is the end of one row and the beginning of another.
    assert_eq!(next(&lines)["event"], "removed");
    assert_eq!(next(&lines)["row"]["id"], 2);
    let _ = child.kill();
    let _ = child.wait();
    let mut child = start_diff(&database, &["-q"]);
    let lines = lines_of(child.stdout.take().unwrap());
    // As text nothing says that the cache is live: change the row until a change is printed.
    let text = loop {
        client
            .batch_execute("UPDATE t SET n = n + 1")
            .await
            .unwrap();
        if let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) {
            break line;
        }
    };
    assert!(text.contains("  changed  public.t  id=2  n: "), "{text}");
    signal(&child, "TERM");
    assert_eq!(ended(child).code, 0);
    // `--diff` names the table already.
    assert_eq!(
        database.pgic(&["tail", "--diff", "t", "--table", "t"]).code,
        2
    );
}

/// Takes the first events of `tail --diff t`: where it is connected, and that the cache is live.
fn assert_live(lines: &Receiver<String>) {
    crate::support::skip_connected(lines);
    let live = json!({"event": "live", "schema": "public", "table": "t"});
    assert_eq!(next(lines), live);
}

/// Starts `tail --diff t` with these arguments.
fn start_diff(database: &Database, arguments: &[&str]) -> Child {
    start(database.command(&[&["tail", "--diff", "t"], arguments].concat()))
}

/// With `--count` the exit code says whether so many changes came. Somebody who ends the command by
/// hand has seen enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_counted_diff_ends_when_it_has_its_changes_or_is_interrupted() {
    let database = Database::with(
        "CREATE TABLE t (id int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'a', 1)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t"]);
    let client = database.client().await;
    let too_few = database.pgic(&["tail", "--diff", "t", "--count", "1", "--duration", "50ms"]);
    assert_eq!(
        (too_few.code, too_few.stdout.as_str()),
        (1, ""),
        "{too_few:?}"
    );
    let mut child = start_diff(
        &database,
        &["--count", "1", "--duration", "1h", "-o", "json"],
    );
    let lines = lines_of(child.stdout.take().unwrap());
    assert_live(&lines);
    signal(&child, "INT");
    assert_eq!(ended(child).code, 0);
    let mut child = start_diff(&database, &["--count", "2", "-o", "json"]);
    let lines = lines_of(child.stdout.take().unwrap());
    assert_live(&lines);
    client
        .batch_execute("INSERT INTO t VALUES (70, 'x', 1), (71, 'y', 2)")
        .await
        .unwrap();
    assert_eq!(ended(child).code, 0);
    assert_eq!(lines.iter().count(), 2);
}

/// A row that comes and goes within one transaction is one line: somebody who looks for it must see
/// that it was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_diff_shows_a_row_that_came_and_went() {
    let database = Database::with("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    database.pgic_ok(&["install-triggers", "t"]);
    let mut child = start(database.command(&["tail", "--diff", "t", "-o", "json", "-n", "1"]));
    let lines = lines_of(child.stdout.take().unwrap());
    let sql = "BEGIN; INSERT INTO t VALUES (1, 'brief'); DELETE FROM t; COMMIT";
    assert_live(&lines);
    database.client().await.batch_execute(sql).await.unwrap();
    let line = next(&lines);
    // The driver may tell of both in one step, or of each in a step of its own.
    let (event, collapsed) = (&line["event"], &line["collapsed"]);
    assert!(
        event == "added" || (event == "removed" && collapsed == 1),
        "{line}"
    );
    assert_eq!(line["row"], json!({"id": 1, "note": "brief"}));
    child.wait().unwrap();
}

/// Somebody who sees a change that nobody should have made asks who made it.
#[tokio::test(flavor = "multi_thread")]
async fn the_sender_is_named_and_a_payload_that_no_cache_takes_is_marked() {
    let database = Database::with("CREATE TABLE t (id int PRIMARY KEY)").await;
    database.pgic_ok(&["install-triggers", "t"]);
    let tail = database.tail(&["--sender"]);
    let client = database.client().await;
    client
        .batch_execute("SET application_name = 'payments'; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let change = tail.next();
    assert_eq!(
        change["sender"],
        json!({"user": "postgres", "application": "payments", "address": "local"})
    );
    assert_eq!(change.get("distrust"), None);
    let forged = [
        r#"{"table":"t","action":"delete","id":1}"#,
        r#"{"table":"t","action":"delete","id":1,"schema":"public","rel":1,"xid":"9"}"#,
        r#"{"table":"other","action":"delete","id":1}"#,
    ];
    notify(&database, &forged).await;
    let distrust: Vec<Value> = (0..3).map(|_| tail.next()["distrust"].clone()).collect();
    assert_eq!(
        distrust,
        ["not_the_trigger", "other_relation", "not_announced"]
    );
    // A table that is announced while tail runs is known soon.
    client
        .batch_execute("CREATE TABLE other (id int PRIMARY KEY)")
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "other"]);
    for id in 1.. {
        let sql = format!("INSERT INTO other VALUES ({id})");
        client.batch_execute(&sql).await.unwrap();
        if tail.next().get("distrust").is_none() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_lines_of_ones_own_are_printed() {
    let database = Database::with("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    database.pgic_ok(&["install-triggers", "t"]);
    let sql = "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 7) i; DELETE FROM t WHERE \
        id = 3";
    let tail = database.tail(&["--stats", "-n", "8"]);
    database.client().await.batch_execute(sql).await.unwrap();
    let (code, tally, _) = tail.finish();
    assert_eq!(code, 0);
    let counts: Vec<(&Value, &Value, &Value)> = tally
        .iter()
        .map(|line| (&line["table"], &line["action"], &line["count"]))
        .collect();
    assert_eq!(
        counts,
        [
            (&json!("t"), &json!("delete"), &json!(1)),
            (&json!("t"), &json!("insert"), &json!(7))
        ]
    );
    assert!(tally[1]["bytes_p50"].as_u64() > Some(50), "{tally:?}");
    let template = "{table} {action} {key} {row.v}";
    let mut child = start(database.command(&["tail", "--template", template, "-n", "1"]));
    let lines = lines_of(child.stdout.take().unwrap());
    // Such output has no banner: write until it has begun.
    let client = database.client().await;
    let line = loop {
        client
            .batch_execute("UPDATE t SET v = 'a b' WHERE id = 1")
            .await
            .unwrap();
        if let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) {
            break line;
        }
    };
    assert_eq!(line, "t update 1 a b");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(database.pgic(&["tail", "--template", "{nosuch}"]).code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_one_line_on_a_terminal() {
    let database = Database::with("CREATE TABLE t (id int PRIMARY KEY)").await;
    database.pgic_ok(&["install-triggers", "t"]);
    for (more, expected) in [
        (
            &[][..],
            "insert   public.t  6000 rows in one transaction, keys 1 … 6000",
        ),
        (&["--all"][..], "insert   public.t  6000  id=6000"),
    ] {
        let arguments = [&["tail", "--color", "never"], more].concat();
        let mut terminal = Terminal::start(database.command(&arguments));
        terminal.sees("listening on cache_invalidation");
        let sql = "INSERT INTO t SELECT i FROM generate_series(1, 6000) i";
        let client = database.client().await;
        client.batch_execute(sql).await.unwrap();
        terminal.sees(expected);
        client.batch_execute("TRUNCATE t").await.unwrap();
        terminal.sees("truncate public.t");
        terminal.interrupt();
        assert_eq!(terminal.end(), Some(0));
    }
}
