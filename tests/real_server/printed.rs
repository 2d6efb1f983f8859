//! What every command prints when everything in the database means harm to a terminal, and where
//! there is no room to print.

use crate::support::{Database, Ran, ended, pgic, run};
use postgres_index_cache_core::is_obeyed;
use serde_json::Value;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// One of every kind of character that a terminal obeys or does not show.
const EVIL: &str = "\u{1b}[31m\u{9b}2J\u{7}\u{8}\u{202e}\u{2066}\u{200b}\u{200d}\u{feff}\u{ad}\u{2028}\u{e0041}\u{180e}\nerror: x";

fn name(base: &str) -> String {
    // A name has 63 bytes.
    format!("{base}\u{1b}]\u{9b}\u{202e}\u{200b}\u{feff}x")
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

async fn hostile() -> (Database, String) {
    let schema = name("s");
    let table = name("t");
    let column = name("c");
    let channel = name("ch");
    let label = name("l");
    let sql = format!(
        "CREATE SCHEMA {0}; CREATE TYPE {0}.{4} AS ENUM ('{5}'); CREATE TABLE {0}.{1} (id text \
        PRIMARY KEY, {2} text, j jsonb, m {0}.{4});
         INSERT INTO {0}.{1} VALUES ('k{3}', '{3}', jsonb_build_object('a', '{3}'), '{5}')",
        quoted(&schema),
        quoted(&table),
        quoted(&column),
        EVIL,
        quoted("mood"),
        label,
    );
    let database = Database::with(&sql).await;
    let table = format!("{}.{}", quoted(&schema), quoted(&table));
    database.pgic_ok(&["install-triggers", &table, "--channel", &channel]);
    (database, table)
}

/// Nothing of it is obeyed, and no line is one of ours that is not.
fn check(what: &str, ran: &Ran) {
    for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let bad: Vec<char> = text
            .chars()
            .filter(|c| is_obeyed(*c) && *c != '\n')
            .collect();
        assert!(bad.is_empty(), "{what}: {name} has {bad:?} in {text:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("error: x")),
            "{what}: a forged line on {name}: {text:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_terminal_obeys_is_printed_by_any_command() {
    let (database, table) = hostile().await;
    let column = name("c");
    let channel = name("ch");
    let condition = format!("{}={EVIL}", quoted(&column));
    for format in ["text", "json"] {
        for arguments in [
            &["status"][..],
            &["status", &table],
            &["query", &table],
            &["query", &table, &condition, "--explain"],
            &["query", &table, "--columns", &column],
            &["query", &table, "m=no such label"],
            &["query", &table, EVIL],
            &["query", EVIL],
            &["query", &name("nothing")],
            &["query", &table, &format!("{}=1", name("nothing"))],
            &["install-triggers", &table],
            &["install-triggers", &table, "--defaults", "--dry-run"],
            &["install-triggers", EVIL],
            &["remove-triggers", "--all", "--dry-run"],
            &["verify", &table, "--rounds", "1"],
            &["tail", EVIL],
            &["tail", "--table", EVIL, "--duration", "1ms"],
            &[EVIL],
            &["--color", EVIL, "status"],
            &["query", &table, "--limit", EVIL],
        ] {
            let arguments = [&["-o", format, "-vv"], arguments].concat();
            let ran = database.pgic(&arguments);
            check(&format!("{arguments:?}"), &ran);
            // There was something to escape: what has nothing to say of a name proves nothing.
            let says = format!("{}{}", ran.stdout, ran.stderr);
            let is_escaped = says.contains("\\u{1b}") || says.contains("\\u001b");
            // An equal table has no name in JSON, and tail has none to say before something comes.
            let says_no_name =
                arguments.contains(&"tail") || (format == "json" && arguments.contains(&"verify"));
            assert!(is_escaped || says_no_name, "{arguments:?}: {ran:?}");
        }
    }
    // A row that nobody announced.
    let sql = format!(
        "SET session_replication_role = replica; UPDATE {table} SET {} = 'other{EVIL}'; RESET \
        session_replication_role",
        quoted(&column)
    );
    let admin = database.client().await;
    for format in ["text", "json"] {
        let tail = database.command(&["tail", "--count", "2", "-o", format, "--channel", &channel]);
        let tail = tail_started(tail, format);
        // A line has no end within.
        let condition = condition.replace('\n', " ");
        let typed = [
            "",
            &condition,
            ".watch",
            ".history k",
            ".tables",
            ".stats",
            ".verify",
            "",
            EVIL,
        ]
        .map(|line| {
            let line = line.replace('\n', " ");
            match line.split_once(' ') {
                _ if line == condition => format!("{table} {line}"),
                Some((command @ ".history", rest)) => format!("{command} {table} {rest}"),
                None if line == ".watch" || line == ".verify" => format!("{line} {table}"),
                None if line.is_empty() => table.clone(),
                _ => line,
            }
        });
        let watch = typed.join("\n") + "\n";
        let mut shell = database.command(&["shell", &table, "-o", format]);
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(b".tables\n").unwrap();
        admin.batch_execute(&sql).await.unwrap();
        let write = format!(
            "UPDATE {table} SET j = '{{}}'; NOTIFY {}, 'junk{}'",
            quoted(&channel),
            EVIL
        );
        admin.batch_execute(&write).await.unwrap();
        stdin.write_all(watch.as_bytes()).unwrap();
        drop(stdin);
        check(&format!("shell {format}"), &ended(shell));
        check(&format!("tail {format}"), &ended(tail));
    }
}

/// Starts it, and waits until it listens: as text that is said on stderr, in JSON on stdout.
fn tail_started(mut command: Command, format: &str) -> std::process::Child {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start tail");
    let first = |source: &mut dyn Read| {
        let mut byte = [0];
        while byte != [b'\n'] {
            source
                .read_exact(&mut byte)
                .expect("it says that it listens");
        }
    };
    if format == "json" {
        first(child.stdout.as_mut().unwrap());
    } else {
        first(child.stderr.as_mut().unwrap());
    }
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_called_event_does_not_end_an_answer() {
    let database = Database::with(
        "CREATE TABLE t (id int PRIMARY KEY, event text, command text, rows int);
         INSERT INTO t VALUES (1, 'end', 'count t', 0)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t"]);
    let mut shell = database.command(&["shell", "t", "-o", "json"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(b"t\n").unwrap();
    let lines = ended(shell).json();
    let events: Vec<&Value> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["row", "end"], "{lines:?}");
    assert_eq!(lines[0]["row"]["event"], "end");
}

/// No part of a connection string is printed, wherever it is given.
#[test]
fn no_password_is_printed() {
    let strings = [
        "postgresql://ann:geheim@127.0.0.1:1/d",
        "postgresql+asyncpg://ann:geheim@127.0.0.1:1/d",
        "postgresql+asyncpg://ann:geheim@127.0.0.1:1/d?ssl=true",
        "\"postgresql://ann:geheim@127.0.0.1:1/d\"",
        "'postgresql://ann:geheim@127.0.0.1:1/d?a=b'",
        "POSTGRESQL://ann:geheim@127.0.0.1:1/d",
        "jdbc:postgresql://127.0.0.1:1/d?user=ann&password=geheim",
        "postgresql://ann:x@geheim@127.0.0.1:1/d",
        "postgresql://ann:geheim@127.0.0.1:x/d",
        "postgresql://127.0.0.1:1/d?password=geheim&nothing=1",
        "host=127.0.0.1 port=1 password=geheim nothing=1",
        "host=127.0.0.1 port=1 password='geheim",
        "host=127.0.0.1 dbname=postgresql://ann:geheim@127.0.0.1/d",
        "ann:geheim@127.0.0.1",
        "ann:geheim@127.0.0.1/d?sslmode=require",
    ];
    for text in strings {
        for arguments in [
            &["-d", text, "status"][..],
            &["status", text],
            &["query", text],
            &["query", "users", text],
            &["tail", text],
            &["tail", "--table", text, "-d", "host=127.0.0.1 port=1"],
            &[
                "install-triggers",
                "--channel",
                text,
                "users",
                "-d",
                "host=127.0.0.1 port=1",
            ],
            &["--database", text, "status"],
            &[&format!("--url={text}"), "status"],
            &[text],
        ] {
            let mut command = pgic(&[arguments, &["-vv"]].concat());
            command
                .env("PGHOST", "127.0.0.1")
                .env("PGPORT", "1")
                .env("USER", "ann");
            let ran = run(command);
            assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
            assert!(
                !format!("{ran:?}").contains("geheim"),
                "{arguments:?}: {ran:?}"
            );
        }
        for variable in [
            "DATABASE_URL",
            "PGHOST",
            "PGPORT",
            "PGDATABASE",
            "PGUSER",
            "PGSSLMODE",
            "PGHOSTADDR",
            "PGTARGETSESSIONATTRS",
        ] {
            let mut command = pgic(&["status", "-vv"]);
            command
                .env("PGHOST", "127.0.0.1")
                .env("PGPORT", "1")
                .env("USER", "ann")
                .env(variable, text);
            let ran = run(command);
            assert_eq!(ran.code, 2, "{variable}={text}: {ran:?}");
            assert!(
                !format!("{ran:?}").contains("geheim"),
                "{variable}={text}: {ran:?}"
            );
        }
    }
}

/// No panic where nothing can be printed, or no file be opened.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_it_fails_and_does_not_panic() {
    let database =
        Database::with("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    database.pgic_ok(&["install-triggers", "t"]);
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for arguments in [
        &["status"][..],
        &["query", "t"],
        &["query", "nothing"],
        &["verify", "t", "--rounds", "1"],
        &["nothing"],
    ] {
        let run = |stdout: Option<()>, stderr: Option<()>| {
            let mut command = database.command(&[arguments, &["-v"]].concat());
            command.stdout(stdout.map_or_else(Stdio::piped, |()| full().into()));
            command.stderr(stderr.map_or_else(Stdio::piped, |()| full().into()));
            ended(command.spawn().unwrap())
        };
        let ran = run(None, Some(()));
        assert!(
            (0..=2).contains(&ran.code),
            "stderr is full, {arguments:?}: {ran:?}"
        );
        let ran = run(Some(()), None);
        assert!(
            ran.code == 2 && !ran.stderr.contains("panicked"),
            "stdout is full, {arguments:?}: {ran:?}"
        );
    }
    for files in [4_u32, 5, 6, 8, 12] {
        for arguments in [
            &["status"][..],
            &["query", "t"],
            &["tail", "--count", "1", "--duration", "1ms"],
            &["shell", "t"],
        ] {
            let binary = env!("CARGO_BIN_EXE_pgic");
            let mut command = Command::new("sh");
            let script = format!("ulimit -n {files}; exec {binary} {}", arguments.join(" "));
            command
                .args(["-c", &script])
                .env("DATABASE_URL", &database.url)
                .stdin(Stdio::null());
            let ran = ended(
                command
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .process_group(0)
                    .spawn()
                    .unwrap(),
            );
            assert!(
                (0..=2).contains(&ran.code),
                "{files} files, {arguments:?}: {ran:?}"
            );
            assert!(
                !ran.stderr.contains("panicked"),
                "{files} files, {arguments:?}: {ran:?}"
            );
        }
    }
}
