//! The prompt of `pgic shell`: pasted lines, long answers, names with quotes, one table of several
//! that is stale.

use crate::shell::{Shell, tables, typed};
use crate::support::Database;
use crate::terminal::Terminal;
use serde_json::json;

const SHOP: &str = "CREATE TYPE state AS ENUM ('open', 'paid'); CREATE TABLE \"Odd Name\" (id int \
    PRIMARY KEY, \"a b\" text, state state); CREATE TABLE kept (id int PRIMARY KEY, n int, note text);
    INSERT INTO \"Odd Name\" VALUES (1, 'x y', 'paid'), (2, 'z', 'open'); INSERT INTO kept SELECT i, \
    i FROM generate_series(1, 40) i";

async fn shop() -> Database {
    let database = Database::with(SHOP).await;
    database.pgic_ok(&["install-triggers", "kept", "\"Odd Name\""]);
    database
}

/// Starts a shell on a terminal, with this pager.
fn start(database: &Database, home: &std::path::Path, pager: &str) -> Terminal {
    let arguments = ["shell", "kept", "\"Odd Name\"", "--color", "never"];
    let mut command = database.command(&arguments);
    command
        .env("HOME", home)
        .env("TERM", "xterm")
        .env("PAGER", pager);
    Terminal::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn pasted_lines_are_several_and_each_is_answered() {
    let database = tables().await;
    let home = tempfile::tempdir().unwrap();
    let mut typed = typed(&database, home.path());
    typed.sees("   live> ");
    // A terminal puts a paste between these two sequences.
    typed.keys("\x1b[200~count people\ncount people name=p7\n.limit 3\x1b[201~\r");
    typed.sees("50\r\n");
    typed.sees("count people name=p7\r\n");
    typed.sees("1\r\n");
    typed.sees(".limit 3\r\n");
    typed.sees("3\r\n");
    typed.sees("   live> ");
    typed.keys("\x04");
    assert_eq!(typed.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_longer_than_the_screen_goes_through_the_pager() {
    let database = shop().await;
    let home = tempfile::tempdir().unwrap();
    let mut typed = start(&database, home.path(), "sed 's/^/paged: /'");
    typed.sees("   live> ");
    typed.keys("kept\r");
    typed.sees("paged: (40 rows)");
    typed.sees("   live> ");
    typed.keys("kept id=1\r");
    typed.sees("-[ row 1 ]");
    typed.sees("(1 row)");
    typed.sees("   live> ");
    assert!(!typed.rest().contains("paged"), "{}", typed.rest());
    typed.keys("\x04");
    assert_eq!(typed.end(), Some(0));
    // A pager that is not there is no reason to show nothing, and one that leaves early is fine.
    for pager in ["/nowhere/pager", "true"] {
        let mut typed = start(&database, home.path(), pager);
        typed.sees("   live> ");
        typed.keys("kept\r");
        if pager != "true" {
            typed.sees("(40 rows)");
        }
        typed.sees("   live> ");
        typed.keys("\x04");
        assert_eq!(typed.end(), Some(0));
    }
}

/// 1. A watched row changes while a pager has the screen. 2. Its line waits for the prompt. 3. The next
/// pager must not wait for that line: it once did, for good.
#[tokio::test(flavor = "multi_thread")]
async fn watched_changes_and_a_pager_do_not_wait_for_each_other() {
    let database = shop().await;
    let home = tempfile::tempdir().unwrap();
    let mut typed = start(&database, home.path(), "cat");
    typed.sees("   live> ");
    typed.keys(".watch kept\r");
    typed.sees("   live> ");
    let client = database.client().await;
    for round in 0..8 {
        let update = format!("UPDATE kept SET n = n + 1, note = 'round {round}'");
        client.batch_execute(&update).await.unwrap();
        typed.keys("kept\r");
        typed.sees("(40 rows)");
        typed.sees("   live> ");
    }
    typed.keys("\x04");
    assert_eq!(typed.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn quoted_names_and_labels_are_completed() {
    let database = shop().await;
    let home = tempfile::tempdir().unwrap();
    let mut typed = start(&database, home.path(), "");
    typed.sees("   live> ");
    // The name has a blank in its quotes; the columns of that table follow, and the labels of an
    // enum.
    typed.keys("odd\tst\tp\t\r");
    typed.sees("(1 row)");
    typed.sees("   live> ");
    typed.keys("count \"Odd N\t\"a\t'x y'\r");
    typed.sees("1\r\n");
    typed.keys(".verify od\t\r");
    typed.sees("public.Odd Name  2 rows at one exact cut");
    typed.sees("> ");
    typed.keys("\x04");
    assert_eq!(typed.end(), Some(0));
}

/// 1. A table is dropped. 2. The others are asked. They are live, and nobody may read that they are
/// stale.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_dropped_makes_no_other_stale() {
    let database = shop().await;
    let home = tempfile::tempdir().unwrap();
    let mut typed = start(&database, home.path(), "");
    typed.sees("   live> ");
    let client = database.client().await;
    client
        .batch_execute("DROP TABLE \"Odd Name\"")
        .await
        .unwrap();
    typed.keys("count \"Odd Name\"\r");
    typed.sees("stale: public.Odd Name: ");
    typed.sees("1 stale> ");
    typed.keys("kept id=7\r");
    typed.sees("(1 row)\r\n");
    typed.sees("1 stale> ");
    client
        .batch_execute("UPDATE kept SET n = 70 WHERE id = 7")
        .await
        .unwrap();
    typed.keys("kept n=70\r");
    typed.sees("(1 row)\r\n");
    typed.sees("> ");
    typed.keys("\x04");
    assert_eq!(typed.end(), Some(0));
}

/// The state of a cache has a time: whoever comes back to a shell must know how old it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_silenced_trigger_is_told_with_the_time_and_the_others_stay_live() {
    let database = shop().await;
    let mut shell = Shell::start(&database, &["kept", "\"Odd Name\""]);
    // It is live once it answers.
    assert_eq!(shell.first_line("count kept"), "40");
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE \"Odd Name\" DISABLE TRIGGER USER")
        .await
        .unwrap();
    assert_eq!(shell.first_line("count \"Odd Name\""), "2");
    assert_eq!(shell.first_line("count kept"), "40");
    let (_, stderr) = shell.close();
    let line = stderr
        .lines()
        .find(|line| line.contains("  stale: "))
        .unwrap_or_else(|| panic!("{stderr}"));
    let (time, rest) = line.split_once("  ").unwrap();
    assert!(time.len() == 12 && time.matches(':').count() == 2, "{line}");
    assert!(rest.starts_with("stale: public.Odd Name: "), "{line}");
    assert!(!stderr.contains("stale: public.kept"), "{stderr}");
}

/// A watch whose column is still there is kept when its table is altered; one whose column is of
/// another type has lost its meaning.
#[tokio::test(flavor = "multi_thread")]
async fn watches_that_still_fit_are_kept() {
    let database = shop().await;
    let mut shell = Shell::start(&database, &["kept", "-o", "json"]);
    shell.ask(".watch kept id=1");
    shell.ask(".watch kept n=2");
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE kept ALTER n TYPE bigint, ADD COLUMN more text")
        .await
        .unwrap();
    assert_eq!(shell.ask(".reconnect").last().unwrap()["state"], "live");
    let watches = shell.ask(".watch");
    assert_eq!(watches.len(), 2, "{watches:?}");
    assert_eq!(watches[0]["conditions"], json!(["id=1"]));
    database.pgic_ok(&["install-triggers", "kept"]);
    shell.ask(".reconnect");
    client
        .batch_execute("UPDATE kept SET more = 'now' WHERE id = 1")
        .await
        .unwrap();
    let changed = loop {
        let line = shell.next();
        if line["event"] == "changed" {
            break line;
        }
    };
    assert_eq!(
        (&changed["key"], &changed["row"]["more"]),
        (&json!(1), &json!("now"))
    );
}

/// 1. The server is away. 2. Somebody asks for a label that the enum does not have. 3. An answer of no
/// rows would be taken for the truth.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_only_what_can_be_read_is_answered() {
    let database = shop().await;
    let mut shell = Shell::start(&database, &["\"Odd Name\"", "kept", "-o", "json"]);
    let admin = crate::support::connect(&crate::support::cluster().url("postgres")).await;
    for statement in [
        format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.name),
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            database.name
        ),
    ] {
        admin.batch_execute(&statement).await.unwrap();
    }
    for (line, expected) in [
        ("count \"Odd Name\" state=paid", Some(1)),
        ("count \"Odd Name\" state!=paid", Some(1)),
        ("count \"Odd Name\" state=payd", None),
        ("count \"Odd Name\" state:='paid'", None),
        ("count \"Odd Name\" 2", Some(1)),
        ("count kept n<=10", Some(10)),
        ("count kept note=null", Some(40)),
        ("count kept n=1e1", None),
        ("count kept n=' 1'", None),
    ] {
        let answer = shell.ask(line);
        let end = answer.last().unwrap();
        assert_eq!(end["state"], "stale", "{line}: {answer:?}");
        match expected {
            Some(count) => assert_eq!(answer[0]["count"], count, "{line}: {answer:?}"),
            None => assert!(end["error"].is_string(), "{line}: {answer:?}"),
        }
    }
}
