//! `-v` and `-vv`: the traces on stderr, from which a field report can be read.

use crate::shell::Shell;
use crate::support::{DEADLINE, Database, lines_of};
use std::io::{Read as _, Seek as _, Write as _};
use std::process::Stdio;

const PEOPLE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, name text);
    INSERT INTO people VALUES (1, 'ann'), (2, 'bob');";

/// Returns the lines of a trace that are of a level: `INFO`, `DEBUG` or `TRACE`.
fn of_level<'a>(trace: &'a str, level: &str) -> Vec<&'a str> {
    trace
        .lines()
        .filter(|line| line.split_whitespace().nth(1) == Some(level))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_traced_once_and_the_engine_twice_verbose() {
    let database = Database::with(PEOPLE).await;
    database.pgic_ok(&["install-triggers", "people"]);
    // The server asks for no password, and takes any.
    let url = database.url.replace("postgres@", "postgres:hunter2@");
    assert_ne!(url, database.url);
    let query = ["query", "people", "id=2", "-d", &url];
    let answer = database.pgic_ok(&query);

    let once = database.pgic(&[&query[..], &["-v"]].concat());
    assert_eq!(once.stdout, answer, "stdout stays the answer alone");
    let info = of_level(&once.stderr, "INFO").join("\n");
    for text in [
        "connecting server=database",
        "session opened connection=\"listening\"",
        "table state table=\"public.people\" state=Live",
    ] {
        assert!(info.contains(text), "{text}: {info}");
    }
    let debug = of_level(&once.stderr, "DEBUG").join("\n");
    for text in [
        // The proof that the session is ours, and a query of the catalogue.
        "connection=\"fences\" sql=\"BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE; SELECT \
            pg_catalog.pg_backend_pid(); COMMIT\"",
        "connection=\"commands\" sql=\"WITH shared (function) AS ",
        "connection=\"listening\" sql=\"SELECT pg_catalog.set_config",
        "LISTEN \\\"cache_invalidation\\\"",
        "connection=\"reading\" sql=\"COPY ",
        "connection=\"fences\" sql=\"SELECT pg_catalog.pg_current_snapshot(); NOTIFY ",
        "read table=\"public.people\" kind=All",
    ] {
        assert!(debug.contains(text), "{text}: {debug}");
    }
    assert!(!once.stderr.contains("engine "), "{}", once.stderr);

    let twice = database.pgic(&[&query[..], &["-vv"]].concat());
    assert_eq!(twice.stdout, answer);
    let trace = of_level(&twice.stderr, "TRACE").join("\n");
    for text in [
        "engine input input=SnapshotTaken {",
        "engine output output=ReadTable {",
    ] {
        assert!(trace.contains(text), "{text}: {trace}");
    }
    assert!(twice.stderr.contains("sql=\"COPY "));
    for ran in [once, twice] {
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
}

/// A report that is sent on must not have the rows, unless somebody asked for payloads.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_rows_are_traced_twice_verbose_alone() {
    let database = Database::with(PEOPLE).await;
    database.pgic_ok(&["install-triggers", "people"]);
    let client = database.client().await;
    for (id, verbose, is_shown) in [(7, "-v", false), (8, "-vv", true)] {
        let mut shell = Shell::start(&database, &[verbose, "-o", "json", "people"]);
        // Somebody who watches has the engine tell every row.
        shell.ask(".watch people id=1");
        let sql = format!("INSERT INTO people VALUES ({id}, 'private {id}')");
        client.batch_execute(&sql).await.unwrap();
        shell.ask("count people");
        let (code, trace) = shell.close();
        assert_eq!(code, 0, "{trace}");
        assert!(trace.contains("table state"), "{trace}");
        let value = format!("private {id}");
        assert_eq!(trace.contains(&value), is_shown, "{verbose}: {trace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statements_of_an_installation_are_traced() {
    let database = Database::with(PEOPLE).await;
    let ran = database.pgic(&["install-triggers", "people", "-v"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for text in [
        "LOCK TABLE ONLY \\\"public\\\".\\\"people\\\" IN SHARE ROW EXCLUSIVE MODE",
        "sql=\"CREATE FUNCTION ",
        "sql=\"CREATE TRIGGER ",
        "sql=\"COMMIT\"",
    ] {
        assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
    }
}

/// Whoever can connect chooses the name of the application and what is notified. A trace repeats
/// both, and a terminal must not obey them. A line break must not begin what looks like a trace.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_in_a_trace_is_escaped_and_stays_on_its_line() {
    const FORGED: &str = "2026-01-01T00:00:00.000000Z ERROR forged";
    let database = Database::with(PEOPLE).await;
    database.pgic_ok(&["install-triggers", "people"]);
    // A file: nobody reads the pipe of stderr while the test waits for answers.
    let mut stderr = tempfile::tempfile().unwrap();
    let mut shell = database
        .command(&["shell", "people", "-o", "json", "-vv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let lines = lines_of(shell.stdout.take().unwrap());
    let mut ask = |line: &str| {
        writeln!(stdin, "{line}").unwrap();
        while !lines.recv_timeout(DEADLINE).unwrap().contains("\"end\"") {}
    };
    ask("count people");
    let hostile = database.client().await;
    let name = format!("it is\u{1b}[31m \u{202e}\n{FORGED}");
    let reason = serde_json::to_string(&name).unwrap();
    for payload in [
        // A request to read the table again has a reason, which is told with who sent it.
        format!(
            "{{\"table\":\"people\",\"schema\":\"public\",\"action\":\"reload\",\"why\":{reason}}}"
        ),
        // No payload at all, with the characters as they are.
        format!("{{\"table\":\"people\" {name}"),
    ] {
        hostile
            .execute("SELECT set_config('application_name', $1, false)", &[&name])
            .await
            .unwrap();
        hostile
            .execute("SELECT pg_notify('cache_invalidation', $1)", &[&payload])
            .await
            .unwrap();
    }
    // Answered behind a fence, so both notifications have arrived.
    ask("count people");
    drop(stdin);
    assert!(shell.wait().unwrap().success());

    let mut trace = String::new();
    stderr.rewind().unwrap();
    stderr.read_to_string(&mut trace).unwrap();
    let inputs: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains("engine input input=Notification") && line.contains("forged"))
        .collect();
    assert_eq!(inputs.len(), 2, "{trace}");
    assert!(trace.contains("payload not understood"), "{trace}");
    assert!(trace.contains("the table is to be reloaded"), "{trace}");
    for obeyed in ['\u{1b}', '\u{202e}'] {
        assert!(!trace.contains(obeyed), "{obeyed:?} in {trace}");
    }
    assert!(
        !trace.lines().any(|line| line.starts_with("2026-01-01")),
        "{trace}"
    );
}
