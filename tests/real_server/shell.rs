//! `shell`: live caches behind a prompt, or behind a pipe whose other end is a program.

use crate::support::{DEADLINE, Database, USERS, ended, lines_of, skip_connected};
use crate::terminal::Terminal;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::Receiver;

const TABLES: &str = "
    CREATE TABLE people (id int PRIMARY KEY, name text, hash bigint);
    CREATE TABLE \"Odd Name\" (\"Key\" text PRIMARY KEY, \"a b\" text);
    INSERT INTO people SELECT n, 'p' || n, n % 10 FROM generate_series(1, 50) n;
    INSERT INTO \"Odd Name\" VALUES ('k', 'two words'), ('l', 'null');";

/// Creates [`TABLES`] with triggers.
pub(super) async fn tables() -> Database {
    let database = Database::with(TABLES).await;
    database.pgic_ok(&["install-triggers", "people", "\"Odd Name\""]);
    database
}

/// A running shell whose input and output are pipes.
pub struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Shell {
    /// Starts `pgic shell` with these arguments.
    pub fn start(database: &Database, arguments: &[&str]) -> Self {
        let mut command = database.command(&[&["shell"], arguments].concat());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a shell");
        let lines = lines_of(child.stdout.take().expect("piped"));
        // Traces would fill the pipe, and the shell would wait for somebody to read it.
        let errors = lines_of(child.stderr.take().expect("piped"));
        if arguments.contains(&"json") {
            skip_connected(&lines);
        }
        Self {
            stdin: child.stdin.take(),
            lines,
            errors,
            child,
        }
    }

    /// Types a line.
    fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{line}").expect("the shell reads");
    }

    /// Types a line and returns the answer up to the `end` line, which is the last. Of the event of
    /// a row the row alone is returned. The shell must print JSON.
    pub fn ask(&mut self, line: &str) -> Vec<Value> {
        self.send(line);
        let mut answer = Vec::new();
        loop {
            let value = self.next();
            let is_end = value["event"] == "end";
            answer.push(if value["event"] == "row" {
                value["row"].clone()
            } else {
                value
            });
            if is_end {
                return answer;
            }
        }
    }

    /// Returns the next line of output, which is JSON.
    pub fn next(&self) -> Value {
        let line = self.lines.recv_timeout(DEADLINE).expect("another line");
        crate::support::schema::event(&line)
    }

    /// Types a line and returns the first line of the answer. The shell must print text.
    pub fn first_line(&mut self, line: &str) -> String {
        self.send(line);
        self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            let errors: Vec<String> = self.errors.try_iter().collect();
            panic!("{line} is answered: {errors:?}")
        })
    }

    /// Closes the input, waits for the end, and returns the exit code and stderr.
    pub fn close(mut self) -> (i32, String) {
        drop(self.stdin.take());
        let ran = ended(self.child);
        let stderr = self.errors.iter().map(|line| line + "\n").collect();
        (ran.code, stderr)
    }
}

/// Returns the answer to `count people`.
fn count_of_people(count: usize) -> Value {
    json!({"event": "count", "schema": "public", "table": "people", "count": count})
}

/// Returns the line that ends the answer to `command` while everything is live.
fn end_line(command: &str, rows: usize) -> Value {
    json!({"event": "end", "command": command, "rows": rows, "state": "live"})
}

/// A live cache is asked again and again. The first question about a text column makes an index, in
/// which the next ones find their rows while the table changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_indexed_when_it_first_stands_in_a_condition() {
    let database = tables().await;
    let client = database.client().await;
    let arguments = ["-v", "-o", "json", "people", "\"Odd Name\""];
    let mut shell = Shell::start(&database, &arguments);
    assert_eq!(shell.ask("count people name=p7")[0]["count"], 1);
    let sql = "UPDATE people SET name = 'p7' WHERE id IN (8, 9)";
    client.batch_execute(sql).await.unwrap();
    assert_eq!(shell.ask("count people name=p7")[0]["count"], 3);
    // Every row may be wanted, which no index helps to find.
    assert_eq!(shell.ask("count people name!=null")[0]["count"], 50);
    assert_eq!(shell.ask("\"Odd Name\" Key=l")[0]["a b"], "null");
    let (code, trace) = shell.close();
    assert_eq!(code, 0, "{trace}");
    let found: Vec<&str> = trace
        .lines()
        .filter_map(|line| Some(line.split_once(" found ")?.1.trim_end_matches("\"}")))
        .collect();
    let expected = [
        "access=Index(1) looked_at=1",
        "access=Index(1) looked_at=3",
        "access=Scan looked_at=50",
        "access=Key looked_at=1",
    ];
    assert_eq!(found, expected, "{trace}");
    assert_eq!(trace.matches("make an index").count(), 1, "{trace}");
}

/// A program that writes to the database and then asks a shell must find what was written. Each
/// line is answered behind a fence of its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_everything_that_was_committed_before_its_line() {
    let database = tables().await;
    let client = database.client().await;
    let mut shell = Shell::start(&database, &["-o", "json", "people", "\"Odd Name\""]);
    assert_eq!(
        shell.ask("count people"),
        [count_of_people(50), end_line("count people", 1)]
    );
    for round in 1..=20 {
        // Keys change. Each fifth row is too long to be sent, and is read by its key.
        let sql = format!(
            "BEGIN; UPDATE people SET name = 'r{round}', id = id + 100 WHERE id % 7 = {} % 7;
             INSERT INTO people VALUES (-{round}, repeat('x', {}), 77); COMMIT",
            round,
            if round % 5 == 0 { 9000 } else { 3 }
        );
        client.batch_execute(&sql).await.unwrap();
        let mut answer = shell.ask(&format!("people name=r{round}"));
        assert_eq!(answer.pop().unwrap()["state"], "live");
        let sql = format!(
            "SELECT row_to_json(p)::text FROM people p WHERE name = 'r{round}' ORDER BY id"
        );
        let rows = client.query(&sql, &[]).await.unwrap();
        let expected: Vec<Value> = rows
            .iter()
            .map(|row| serde_json::from_str(row.get(0)).unwrap())
            .collect();
        answer.sort_by_key(|row| row["id"].as_i64());
        assert_eq!(answer, expected, "round {round}");
        assert_eq!(shell.ask("count people hash=77")[0]["count"], round);
    }
    client.batch_execute("TRUNCATE people").await.unwrap();
    assert_eq!(shell.ask("people"), [end_line("people", 0)]);
    // Names and values with blanks are quoted as in SQL; a quoted null is a text.
    let odd = json!({"Key":"k","a b":"two words"});
    assert_eq!(shell.ask("\"Odd Name\" \"a b\"='two words'")[0], odd);
    assert_eq!(
        shell.ask("public.\"Odd Name\" Key:=lower('K') ").first(),
        Some(&odd)
    );
    assert_eq!(shell.ask("\"Odd Name\" \"a b\"='null'")[0]["Key"], "l");
    assert_eq!(
        shell.ask("\"Odd Name\" \"a b\"=null"),
        [end_line("\"Odd Name\" \"a b\"=null", 0)]
    );
    assert_eq!(shell.ask(".quit"), [end_line(".quit", 0)]);
    assert_eq!(shell.close(), (0, String::new()));
}

/// A table of millions of rows must not flood a terminal. An error belongs to the line that caused
/// it: a program at the other end of the pipe counts answers.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_bounded_and_what_is_wrong_is_said_where_it_stands() {
    let database = tables().await;
    let mut shell = Shell::start(&database, &["-o", "json", "people"]);
    shell.send("# a note\n");
    assert_eq!(shell.ask(".limit 3")[0]["limit"], 3);
    let answer = shell.ask("people");
    assert_eq!((answer.len(), &answer[3]["rows"]), (4, &json!(3)));
    for (line, error) in [
        ("people nme=1", "public.people has no column nme"),
        (
            "people id=x",
            "take id=x for the column id of type integer: ",
        ),
        ("nobody", "nobody is not followed here"),
        (".nothing", "there is no command .nothing"),
        ("people name='open", "a quote is not closed: 'open"),
    ] {
        let answer = shell.ask(line);
        assert_eq!(
            (answer.len(), &answer[0]["command"], &answer[0]["rows"]),
            (1, &json!(line), &json!(0))
        );
        let said = answer[0]["error"].as_str().unwrap();
        assert!(said.starts_with(error), "{line}: {said}");
    }
    // An error ends nothing: the next line is answered.
    let tables = shell.ask(".tables");
    assert_eq!(
        (&tables[0]["table"], &tables[0]["rows"]),
        (&json!("people"), &json!(50))
    );
    let stats = shell.ask(".stats");
    assert_eq!(
        (&stats[0]["state"], &stats[0]["rows"]),
        (&json!("live"), &json!(50))
    );
    let help = shell.ask(".help");
    assert!(help.iter().any(|line| line["command"] == ".nodes"));
    // Twelve commands, and the end.
    assert_eq!(help.len(), 13);
    let (code, stderr) = shell.close();
    assert_eq!(code, 2, "a line from a pipe was not answered: {stderr}");
    assert_eq!(
        crate::support::schema::check(&stderr)["text"],
        "47 more rows match; .limit 3 cut them off"
    );
}

/// All lines are sent at once, and the last one follows `.quit`: no answer may overtake another,
/// and none may come after the end.
#[tokio::test(flavor = "multi_thread")]
async fn text_answers_come_in_order() {
    let database = tables().await;
    let mut shell = Shell::start(&database, &["people"]);
    for line in [
        "people id=7",
        "count people hash=3",
        "people id=99",
        ".limit",
        "people hash=3 name=p13",
        ".quit",
        "never",
    ] {
        shell.send(line);
    }
    let answers: Vec<String> = shell.lines.iter().collect();
    insta::assert_snapshot!(answers.join("\n"), @r"
    id  name  hash
     7  p7       7
    (1 row)
    5
    (0 rows)
    1000
    id  name  hash
    13  p13      3
    (1 row)
    ");
    assert_eq!(shell.close(), (0, String::new()));
}

/// Checks that a shell with these arguments is refused, with this error and hint.
fn check_refused(database: &Database, arguments: &[&str], error: &str, hint: &str) {
    let ran = database.pgic(&[&["shell"], arguments].concat());
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.stderr.contains(error) && ran.stderr.contains(hint),
        "{ran:?}"
    );
}

/// Unlike `query`, a shell promises answers that are live. A table that will be stale in silence is
/// refused at the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_changes_are_not_announced_is_refused() {
    let database = tables().await;
    let client = database.client().await;
    client.batch_execute(USERS).await.unwrap();
    check_refused(
        &database,
        &["people", "users"],
        "no trigger announces changes of public.users",
        "pgic install-triggers public.users",
    );
    client
        .batch_execute("ALTER TABLE people DISABLE TRIGGER people_cache_notify")
        .await
        .unwrap();
    check_refused(
        &database,
        &["people"],
        "the trigger people_cache_notify of public.people is disabled",
        "pgic install-triggers public.people",
    );
    client
        .batch_execute("DROP TRIGGER people_cache_notify ON people")
        .await
        .unwrap();
    check_refused(
        &database,
        &["people"],
        "the row trigger of public.people is missing",
        "pgic install-triggers",
    );
    check_refused(
        &database,
        &["\"Odd Name\"", "--max-memory", "1"],
        "more than the 1 B allowed",
        "raise --max-memory",
    );
    check_refused(&database, &[], "required", "TABLE");
}

/// Supervisors end programs by signals, and pipelines by closing pipes. Neither is an error: the
/// exit code is 0 and stderr is empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_or_a_reader_that_leaves_ends_it_in_order() {
    let database = tables().await;
    for signal in ["INT", "TERM"] {
        let mut shell = Shell::start(&database, &["-o", "json", "people"]);
        shell.ask("count people");
        let pid = shell.child.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args([&format!("-{signal}"), &pid])
                .status()
                .unwrap()
                .success()
        );
        let ran = ended(shell.child);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{signal}");
    }
    let mut shell = Shell::start(&database, &["-o", "json", "people"]);
    shell.ask("count people");
    let Shell {
        child,
        mut stdin,
        lines,
        ..
    } = shell;
    drop(lines);
    // The thread that reads for us takes one line more, so the first answer may still be taken.
    for _ in 0..100 {
        if writeln!(stdin.as_mut().unwrap(), "people").is_err() {
            break;
        }
    }
    drop(stdin);
    assert_eq!(ended(child).code, 0);
}

/// Starts a shell of the table `people` on a terminal. Its history goes below `home`.
pub(super) fn typed(database: &Database, home: &std::path::Path) -> Terminal {
    let mut command = database.command(&["shell", "people", "--color", "never"]);
    command
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("TERM", "xterm")
        .env("PAGER", "");
    Terminal::start(command)
}

/// Somebody at a prompt must see that answers are stale, also while a line is half typed, and that
/// half must not be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_says_how_the_cache_stands_and_completes_what_is_typed() {
    let database = tables().await;
    let home = tempfile::tempdir().unwrap();
    let mut typed = typed(&database, home.path());
    typed.sees(&format!("database {} on /", database.name));
    typed.sees("); .help lists the commands\r\n");
    typed.sees("   live> ");
    typed.keys("peo\tna\tp7\r");
    typed.sees("(1 row)");
    typed.sees("   live> ");
    typed.keys("count people\r.limit\r");
    typed.sees("50\r\n");
    typed.sees("1000\r\n");
    typed.sees("   live> ");
    typed.keys("given up\x03");
    // Keys typed before the next prompt would be given up with the line: wait for it.
    typed.sees("given up");
    typed.sees("   live> ");
    typed.keys("half");
    typed.sees("half");
    let admin = crate::support::connect(&crate::support::cluster().url("postgres")).await;
    // Nobody can connect any more, so the shell stays stale until the test allows connections
    // again.
    let lock_out = format!(
        "ALTER DATABASE {0} ALLOW_CONNECTIONS false;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{0}'",
        database.name
    );
    for statement in lock_out.split(';') {
        admin.batch_execute(statement).await.unwrap();
    }
    typed.sees("stale: a connection was lost");
    typed.sees("  stale> half");
    // Ctrl-U clears the half line. The rows that the cache has can be asked for while it is stale.
    typed.keys("\x15people\r");
    typed.sees("(50 rows, stale)");
    typed.sees("  stale> ");
    // So can those that fulfil conditions, as far as their values can be read without PostgreSQL.
    typed.keys("people 3 name!=null\r");
    typed.sees("(1 row, stale)");
    typed.sees("  stale> ");
    typed.keys("count people id:=1+2\r");
    typed.sees("error: id:=1+2 cannot be read for the type integer while the server is away");
    typed.sees("  stale> ");
    admin
        .batch_execute(&format!(
            "ALTER DATABASE {} ALLOW_CONNECTIONS true",
            database.name
        ))
        .await
        .unwrap();
    typed.sees("live\r\n");
    typed.sees("   live> ");
    typed.keys("people id=3\r");
    typed.sees("(1 row)\r\n");
    typed.sees("   live> ");
    // Ctrl-D on an empty line ends the shell.
    typed.keys("\x04");
    assert_eq!(typed.end(), Some(0));
    let history = std::fs::read_to_string(home.path().join("state/pgic/shell_history")).unwrap();
    let lines: Vec<&str> = history
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(
        lines,
        [
            "people name=p7",
            "count people",
            ".limit",
            "people",
            "people 3 name!=null",
            "count people id:=1+2",
            "people id=3"
        ]
    );
}

/// `.watch` shows the changes of the rows that match, as they come; `.history` shows the changes of
/// one key since the shell began, whether they were watched or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_is_shown_and_the_history_of_a_key_is_known() {
    let database = tables().await;
    let client = database.client().await;
    let mut shell = Shell::start(&database, &["-o", "json", "people", "\"Odd Name\""]);
    shell.ask(".watch people hash=3");
    shell.ask(".watch \"Odd Name\" \"a b\"!='x  z'");
    let watches = shell.ask(".watch");
    assert_eq!(watches[0]["conditions"], json!(["hash=3"]));
    assert_eq!(
        (&watches[1]["table"], &watches[1]["conditions"]),
        (&json!("Odd Name"), &json!(["\"a b\"!='x  z'"]))
    );
    shell.ask(".watch off");
    assert_eq!(shell.ask(".watch")[0]["rows"], 0);
    shell.ask(".watch people hash=3");
    let sql = "UPDATE people SET name = 'first' WHERE id = 3; UPDATE people SET name = 'other' \
        WHERE id = 4;
        UPDATE people SET hash = 4 WHERE id = 13; DELETE FROM people WHERE id = 3; INSERT INTO \
        people VALUES (3, 'again', 3);
        UPDATE \"Odd Name\" SET \"a b\" = 'x y' WHERE \"Key\" = 'k'";
    for statement in sql.split(';') {
        client.batch_execute(statement).await.unwrap();
    }
    let mut lines: Vec<Value> = Vec::new();
    while lines.len() < 4 {
        lines.push(shell.next());
    }
    let watched: Vec<(&Value, &Value)> = lines
        .iter()
        .map(|line| (&line["event"], &line["row"]["id"]))
        .collect();
    // The row 13 leaves the answer by an update of the column in the condition. The row 4 was never
    // in it.
    let expected = [("changed", 3), ("left", 13), ("removed", 3), ("added", 3)]
        .map(|(event, id)| (json!(event), json!(id)));
    assert_eq!(
        watched,
        expected
            .iter()
            .map(|(event, id)| (event, id))
            .collect::<Vec<_>>()
    );
    assert_eq!(lines[0]["old"], json!({"name":"p3"}));
    // Whoever sees a row leave wants to know what it became.
    assert_eq!(lines[1]["now"], json!({"hash":4}));
    shell.ask(".watch off");
    client
        .batch_execute("UPDATE people SET name = 'last' WHERE id = 3")
        .await
        .unwrap();
    let mut history = shell.ask(".history people 3");
    assert_eq!(history.pop().unwrap()["rows"], 4);
    let events: Vec<&Value> = history.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["changed", "removed", "added", "changed"]);
    assert_eq!(
        (&history[3]["row"]["name"], &history[3]["old"]),
        (&json!("last"), &json!({"name":"again"}))
    );
    assert_eq!(
        shell.ask(".history \"Odd Name\" 'k'")[0]["row"]["a b"],
        "x y"
    );
    assert_eq!(
        shell.ask(".history people hash=4 id=13")[0]["event"],
        "changed"
    );
    assert_eq!(shell.ask(".history people 42").len(), 1);
    assert!(shell.ask(".history people")[0]["error"].is_string());
    let (code, stderr) = shell.close();
    let said = crate::support::schema::check_all(&stderr);
    let said: Vec<&str> = said
        .iter()
        .filter_map(|line| line["text"].as_str())
        .collect();
    assert_eq!(
        (code, said),
        (
            2,
            vec![
                "nothing is watched",
                "nothing has changed since the shell began"
            ]
        )
    );
}

/// DDL announces nothing. A question after an ALTER, a rename or a new table of the old name must
/// be answered from the table that has the name, in its types.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_is_followed_anew() {
    let database = tables().await;
    let client = database.client().await;
    let mut shell = Shell::start(&database, &["-o", "json", "people", "\"Odd Name\""]);
    assert_eq!(shell.ask("count people")[0]["count"], 50);
    client
        .batch_execute("UPDATE people SET name = 'first' WHERE id = 3")
        .await
        .unwrap();
    assert_eq!(shell.ask(".history people 3").len(), 2);
    client
        .batch_execute("ALTER TABLE people ALTER hash TYPE text USING hash::text || 'x'")
        .await
        .unwrap();
    let answer = shell.ask("people hash=3x id=3");
    assert_eq!(answer[0], json!({"id":3,"name":"first","hash":"3x"}));
    assert_eq!(answer[1]["state"], "live");
    assert_eq!(
        shell.ask(".history people 3").len(),
        1,
        "what is kept is of columns that are no more"
    );
    database.pgic_ok(&["install-triggers", "people"]);
    client
        .batch_execute("UPDATE people SET hash = 'new' WHERE id = 3")
        .await
        .unwrap();
    assert_eq!(shell.ask("people hash=new")[0]["id"], 3);
    assert_eq!(shell.ask(".verify people")[0]["verdict"], "equal");
    // Who names a table follows the name: an answer from the retired table must not say `live`.
    client
        .batch_execute("ALTER TABLE people RENAME TO retired")
        .await
        .unwrap();
    assert_eq!(shell.ask("count people").last().unwrap()["state"], "stale");
    assert_eq!(
        shell.ask("count \"Odd Name\"").last().unwrap()["state"],
        "live",
        "the others go on"
    );
    assert_eq!(shell.ask("count \"Odd Name\"")[0]["count"], 2);
    client
        .batch_execute(
            "CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people \
            VALUES (7, 'another')",
        )
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "retired"]);
    database.pgic_ok(&["install-triggers", "people"]);
    let answer = shell.ask("people id=7");
    assert_eq!(
        (&answer[0], &answer[1]["state"]),
        (&json!({"id":7,"name":"another"}), &json!("live"))
    );
    assert_eq!(shell.ask("count people")[0]["count"], 1);
}

/// A shell must not have to be started again when its trigger was disabled for a while. While it
/// is, each answer says `stale`, and the rows can still be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_ended_it_can_be_mended_and_followed_anew() {
    let database = tables().await;
    let client = database.client().await;
    let mut shell = Shell::start(&database, &["-o", "json", "people"]);
    assert_eq!(shell.ask("count people")[1]["state"], "live");
    client
        .batch_execute("ALTER TABLE people DISABLE TRIGGER people_cache_notify")
        .await
        .unwrap();
    assert_eq!(
        shell.ask("count people;")[1]["state"],
        "stale",
        "no answer says live when nothing announces changes"
    );
    // `.reconnect` opens everything anew, which does not help while the trigger is disabled.
    let refused = shell.ask(".reconnect");
    assert!(
        refused[0]["error"]
            .as_str()
            .unwrap()
            .contains("the trigger people_cache_notify of public.people is disabled"),
        "{refused:?}"
    );
    assert_eq!(
        shell.ask("count people")[0]["count"],
        50,
        "what a stale cache has can be asked for"
    );
    client
        .batch_execute(
            "ALTER TABLE people ENABLE TRIGGER people_cache_notify; DELETE FROM people \
            WHERE id = 1",
        )
        .await
        .unwrap();
    // The shell follows the table again by itself: each question asks for a look.
    assert_eq!(shell.ask("count people")[0]["count"], 49);
    assert_eq!(shell.ask(".reconnect").last().unwrap()["state"], "live");
}

/// A finding names the likely cause: whoever looks for lost changes wants to know who loses them.
#[tokio::test(flavor = "multi_thread")]
async fn verify_in_the_shell_says_equal_or_what_differs() {
    let database = tables().await;
    let mut shell = Shell::start(&database, &["people", "-o", "json"]);
    let answer = shell.ask(".verify people");
    assert!(
        answer[0]["event"] == "verdict"
            && answer[0]["verdict"] == "unproven"
            && answer[0]["rows"] == 50,
        "{answer:?}"
    );
    assert!(
        answer[1]["rows"] == 0 && answer[1]["state"] == "live",
        "{answer:?}"
    );
    let client = database.client().await;
    client
        .batch_execute("SET session_replication_role = replica; DELETE FROM people WHERE id = 7")
        .await
        .unwrap();
    // The write above fired no trigger.
    let answer = shell.ask(".verify people");
    assert!(
        answer[0]["event"] == "finding" && answer[0]["kind"] == "ghost" && answer[0]["key"] == 7,
        "{answer:?}"
    );
    assert!(
        answer[0]["cause"]
            .as_str()
            .unwrap()
            .contains("session_replication_role"),
        "{answer:?}"
    );
    assert!(
        answer[1]["verdict"] == "differs" && answer[2]["rows"] == 1,
        "{answer:?}"
    );
    assert!(shell.ask(".verify")[0]["error"].is_string());
}

/// 1. A look is on its way.
/// 2. Somebody disables the trigger and updates a row, and a question is asked.
/// 3. The fence of the question arrives, and so does the look, which began before step 2 and found
///    nothing.
///
/// So the question must wait for a look that began after it. Forty rounds hit that moment some
/// times.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_live_with_what_a_disabled_trigger_left_behind() {
    let database = tables().await;
    let client = database.client().await;
    let mut shell = Shell::start(&database, &["-o", "json", "people"]);
    assert_eq!(shell.ask("count people")[1]["state"], "live");
    for round in 1..=40 {
        // These questions keep looks on their way.
        for _ in 0..round % 4 {
            shell.send("count people");
        }
        client
            .batch_execute(&format!(
                "BEGIN; ALTER TABLE people DISABLE TRIGGER people_cache_notify; UPDATE people SET \
                hash = {} WHERE id = 3; COMMIT",
                round + 100
            ))
            .await
            .unwrap();
        for _ in 0..round % 4 {
            while shell.next()["event"] != "end" {}
        }
        let answer = shell.ask("people id=3");
        let end = answer.last().unwrap();
        assert_eq!(end["state"], "stale", "round {round}: {answer:?}");
        client
            .batch_execute("ALTER TABLE people ENABLE TRIGGER people_cache_notify")
            .await
            .unwrap();
        let answer = shell.ask("people id=3");
        assert_eq!(
            (&answer[0]["hash"], &answer[1]["state"]),
            (&json!(round + 100), &json!("live")),
            "round {round}"
        );
    }
}

/// Migrations fill a new table and swap the names. The retired table's trigger goes on announcing
/// under the live name, so a cache that stays with that table looks alive.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_swap_no_answer_is_from_the_retired_table_as_if_it_were_live() {
    let database = tables().await;
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE TABLE next (id int PRIMARY KEY, name text, hash bigint); INSERT INTO next \
            VALUES (1, 'n', 1)",
        )
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "next"]);
    let mut shell = Shell::start(&database, &["-o", "json", "people", "\"Odd Name\""]);
    assert_eq!(shell.ask("count people")[0]["count"], 50);
    let swap = "BEGIN; ALTER TABLE people RENAME TO old; ALTER TABLE next RENAME TO people; COMMIT";
    client.batch_execute(swap).await.unwrap();
    let answer = shell.ask("count people");
    assert_eq!(
        answer[1]["state"], "stale",
        "its trigger announces it under another name: {answer:?}"
    );
    assert_eq!(shell.ask("count \"Odd Name\"")[1]["state"], "live");
    // The cause, with the remedy, is in `.stats`.
    let why = shell.ask(".stats")[0]["why"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    assert!(why.contains("pgic install-triggers public.people"), "{why}");
    database.pgic_ok(&["install-triggers", "people", "old"]);
    client
        .batch_execute(
            "INSERT INTO people VALUES (2, 'two', 2); INSERT INTO old VALUES (99, 'x', 9)",
        )
        .await
        .unwrap();
    let answer = shell.ask("count people");
    assert_eq!(
        (&answer[0]["count"], &answer[1]["state"]),
        (&json!(2), &json!("live"))
    );
}

/// A look that waits for somebody's lock proves nothing yet. An answer that cannot wait must say
/// `stale`, though the cache was live a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_looked_at_in_time_is_not_said_to_be_live() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a VALUES (1, 1); CREATE \
        TABLE b (id int PRIMARY KEY);";
    let database = Database::with(tables).await;
    database.pgic_ok(&["install-triggers", "a", "b"]);
    let mut shell = Shell::start(&database, &["-o", "json", "a", "b"]);
    assert_eq!(shell.ask("a").last().unwrap()["state"], "live");
    let client = database.client().await;
    let other = database.client().await;
    // The table b is described again and again while its trigger is disabled, and the lock stops
    // each description in the middle.
    client
        .batch_execute("ALTER TABLE b DISABLE TRIGGER USER")
        .await
        .unwrap();
    assert_eq!(shell.ask("b").last().unwrap()["state"], "stale");
    client
        .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_subscription_rel IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    other
        .batch_execute("ALTER TABLE a DISABLE TRIGGER USER; UPDATE a SET n = 2")
        .await
        .unwrap();
    let answer = shell.ask("a");
    assert_eq!(
        (&answer[0]["n"], &answer[1]["state"]),
        (&Value::from(1), &Value::from("stale")),
        "{answer:?}"
    );
    other
        .batch_execute("ALTER TABLE a ENABLE TRIGGER USER; ALTER TABLE b ENABLE TRIGGER USER")
        .await
        .unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    let answer = shell.ask("a");
    assert_eq!(
        (&answer[0]["n"], &answer[1]["state"]),
        (&Value::from(2), &Value::from("live")),
        "{answer:?}"
    );
}

/// A terminal that cannot move its cursor has a plain prompt, and lines that are pasted together
/// are several.
#[tokio::test(flavor = "multi_thread")]
async fn a_dumb_terminal_has_a_plain_prompt() {
    let database = tables().await;
    let home = tempfile::tempdir().unwrap();
    let mut command = database.command(&["shell", "people"]);
    command
        .env("HOME", home.path())
        .env("XDG_STATE_HOME", home.path().join("state"))
        .env("TERM", "dumb");
    let mut typed = Terminal::start(command);
    typed.sees("   live> ");
    typed.keys("count people\ncount people name=p1\n");
    typed.sees("50\r\n");
    typed.sees("1\r\n");
    typed.keys(".quit\n");
    assert_eq!(typed.end(), Some(0), "{}", typed.rest());
    assert!(!typed.rest().contains('\u{1b}'), "{}", typed.rest());
}
