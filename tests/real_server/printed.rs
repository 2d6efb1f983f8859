//! The output of every command when names and values in the database mean harm to a terminal, when
//! connection strings have passwords, and when there is no room to print.

use crate::support::{Database, Ran, ended, pgic, run};
use postgres_index_cache_core::tooling::is_obeyed;
use serde_json::Value;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// One of every kind of character that a terminal obeys or does not show.
const EVIL: &str = concat!(
    "\u{1b}[31m\u{9b}2J\u{7}\u{8}\u{202e}\u{2066}",
    "\u{200b}\u{200d}\u{feff}\u{ad}\u{2028}\u{e0041}\u{180e}",
    "\nerror: x"
);

/// Returns a name that is as hostile as 63 bytes, the longest name, allow.
fn name(base: &str) -> String {
    format!("{base}\u{1b}]\u{9b}\u{202e}\u{200b}\u{feff}x")
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// Creates a table whose names and values are all hostile, with triggers. Returns the table's
/// quoted name too.
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
    // The channel is hostile too: `tail` and `status` print channels.
    database.pgic_ok(&["install-triggers", &table, "--channel", &channel]);
    (database, table)
}

/// Checks that a terminal obeys nothing of an output, and that no line only looks like an error
/// message of pgic.
fn check(command: &str, ran: &Ran) {
    for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let bad: Vec<char> = text
            .chars()
            .filter(|c| is_obeyed(*c) && *c != '\n')
            .collect();
        assert!(bad.is_empty(), "{command}: {name} has {bad:?} in {text:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("error: x")),
            "{command}: a forged line on {name}: {text:?}"
        );
    }
}

/// Anyone who can create a table or write a row chooses text that a database administrator sees in
/// a terminal. Control sequences in it could clear the screen, hide text or forge a line.
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
            // A command that prints no name would pass the check without proving anything.
            let says = format!("{}{}", ran.stdout, ran.stderr);
            let is_escaped = says.contains("\\u{1b}") || says.contains("\\u001b");
            // In JSON an equal table is not named, and tail names nothing before a change comes.
            let says_no_name =
                arguments.contains(&"tail") || (format == "json" && arguments.contains(&"verify"));
            assert!(is_escaped || says_no_name, "{arguments:?}: {ran:?}");
        }
    }
    // A change that nobody announces, so that verify has a difference to print.
    let sql = format!(
        "SET session_replication_role = replica; UPDATE {table} SET {} = 'other{EVIL}'; RESET \
        session_replication_role",
        quoted(&column)
    );
    let admin = database.client().await;
    for format in ["text", "json"] {
        // `tail` shows the same changes as the shell, from their payloads.
        let tail = database.command(&["tail", "--count", "2", "-o", format, "--channel", &channel]);
        let tail = tail_started(tail, format);
        // Typed text ends at a line break, so none can be part of a line.
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

/// Starts `tail` and waits for its first line, which says that it listens: on stderr as text, on
/// stdout as JSON.
fn tail_started(mut command: Command, format: &str) -> std::process::Child {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start tail");
    if format == "json" {
        skip_line(child.stdout.as_mut().unwrap());
    } else {
        skip_line(child.stderr.as_mut().unwrap());
    }
    child
}

/// Reads up to the end of a line, byte by byte: a buffered reader would take more than the line.
fn skip_line(source: &mut dyn Read) {
    let mut byte = [0];
    while byte != [b'\n'] {
        source
            .read_exact(&mut byte)
            .expect("it says that it listens");
    }
}

/// A reader of `shell -o json` takes the line whose `event` is `end` for the end of an answer. The
/// columns of a row stand under `row`, so no column can pass for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_called_event_does_not_end_an_answer() {
    // Each column has the name of a field of the `end` line, and the value that it has there.
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
    assert_eq!(events, ["connected", "row", "end"], "{lines:?}");
    assert_eq!(lines[1]["row"]["event"], "end");
}

/// No part of a connection string is printed, wherever the string is given: as the URL, as the name
/// of a table, of a channel or of a command, or in a variable. Each string here is one that people
/// do write, or one that a parser takes apart at the wrong character.
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
            // `-vv` prints the most. Nobody listens on port 1, so every attempt fails at once.
            let mut command = pgic(&[arguments, &["-vv"]].concat());
            command
                .env("PGHOST", "127.0.0.1")
                .env("PGPORT", "1")
                .env("USER", "ann");
            let ran = run(command);
            assert!(matches!(ran.code, 2 | 3), "{arguments:?}: {ran:?}");
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
            "PGSERVICE",
            "PGSERVICEFILE",
            "PGPASSFILE",
            "PGSSLROOTCERT",
            "PGSSLCERT",
            "PGSSLKEY",
            "PGREQUIREAUTH",
            "PGREQUIREPEER",
            "PGCONNECT_TIMEOUT",
            "PGAPPNAME",
            "PGOPTIONS",
        ] {
            let mut command = pgic(&["status", "-vv"]);
            command
                .env("PGHOST", "127.0.0.1")
                .env("PGPORT", "1")
                .env("USER", "ann")
                .env(variable, text);
            let ran = run(command);
            assert!(matches!(ran.code, 2 | 3), "{variable}={text}: {ran:?}");
            assert!(
                !format!("{ran:?}").contains("geheim"),
                "{variable}={text}: {ran:?}"
            );
        }
    }
}

/// A full disk and a limit on open files are faults of the machine, not of pgic: the exit code must
/// say that the command failed, without a panic. A `status` whose output is lost must not exit with
/// 0.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_it_fails_and_does_not_panic() {
    let database =
        Database::with("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    database.pgic_ok(&["install-triggers", "t"]);
    for arguments in [
        &["status"][..],
        &["query", "t"],
        &["query", "nothing"],
        &["verify", "t", "--rounds", "1"],
        &["nothing"],
    ] {
        let arguments = [arguments, &["-v"]].concat();
        // Notices and errors that nobody can read change nothing about the answer.
        let mut command = database.command(&arguments);
        command.stdout(Stdio::piped()).stderr(full());
        let ran = ended(command.spawn().unwrap());
        assert!(
            (0..=2).contains(&ran.code),
            "stderr is full, {arguments:?}: {ran:?}"
        );
        let mut command = database.command(&arguments);
        command.stdout(full()).stderr(Stdio::piped());
        let ran = ended(command.spawn().unwrap());
        assert!(
            ran.code == 2 && !ran.stderr.contains("panicked"),
            "stdout is full, {arguments:?}: {ran:?}"
        );
    }
    // So few that some step fails in each: the connection, the resolver, the runtime, a pipe.
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

/// Opens a file on which every write fails for want of room.
fn full() -> Stdio {
    std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}
