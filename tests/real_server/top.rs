//! `top`, as a person sees it on a terminal of 80 columns and 24 lines, and what it leaves behind.

use super::fleet::fleet;
use crate::support::{Database, USERS, cluster, connect};
use crate::terminal::Terminal;
use pgic::commands::top::Screen;
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_screen_shows_what_happens() {
    let (database, client, _nodes) = fleet(1).await;
    let mut terminal = Terminal::start(database.command(&["top", "--utc"]));
    let screen = terminal.shows(|screen| screen.contains("nodes 1/1 live"));
    assert!(screen.starts_with("pgic top  live  "), "{screen}");
    assert!(screen.contains("nothing has come yet"), "{screen}");
    client
        .batch_execute(
            "UPDATE items SET note = E'a\\x1b[2Jb' WHERE n <= 25; DELETE FROM items WHERE n = 300",
        )
        .await
        .unwrap();
    let screen = terminal.shows(|screen| {
        screen.contains("public.items") && screen.contains("delete") && screen.contains(" 25 ")
    });
    for text in [
        "node  live",
        "web-0",
        "table (by rate)",
        "last changes",
        "queue 0.0 %",
        "q quit",
    ] {
        assert!(screen.contains(text), "{text}: {screen}");
    }
    // Held: what comes is counted behind the screen.
    terminal.keys("p");
    terminal.shows(|screen| screen.contains("HELD"));
    client
        .batch_execute("UPDATE items SET note = 'later' WHERE n = 7")
        .await
        .unwrap();
    terminal.keys("/later\r");
    terminal.shows(|screen| screen.contains("last changes with \"later\""));
    terminal.keys("p");
    terminal.shows(|screen| screen.contains("top  live") && screen.contains("-000000000007"));
    terminal.keys("\x1b");
    terminal.shows(|screen| !screen.contains("with \"later\""));
    terminal.keys("ss");
    terminal.shows(|screen| screen.contains("table (by age)"));
    terminal.keys("?");
    terminal.shows(|screen| screen.contains("hold the screen; counting goes on"));
    terminal.keys("xq");
    assert_eq!(terminal.end(), Some(0));
    assert!(terminal.is_restored());
}

/// The connection is lost: the screen does not say live, and goes on when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_told_and_mended() {
    let database = Database::with(USERS).await;
    let mut terminal = Terminal::start(database.command(&["top"]));
    terminal.shows(|screen| screen.contains("pgic top  live"));
    let admin = connect(&cluster().url("postgres")).await;
    let sql = format!(
        "ALTER DATABASE {} WITH ALLOW_CONNECTIONS false",
        database.name
    );
    admin.batch_execute(&sql).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    admin.execute(end, &[&database.name]).await.unwrap();
    terminal.shows(|screen| screen.contains("CONNECTION LOST"));
    let sql = format!(
        "ALTER DATABASE {} WITH ALLOW_CONNECTIONS true",
        database.name
    );
    admin.batch_execute(&sql).await.unwrap();
    terminal.shows(|screen| screen.contains("pgic top  live") && screen.contains("gaps 1"));
    terminal.keys("q");
    assert_eq!(terminal.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_restored_however_it_ends() {
    let database = Database::with(USERS).await;
    for signal in ["INT", "TERM"] {
        let mut terminal = Terminal::start(database.command(&["top"]));
        terminal.shows(|screen| screen.contains("pgic top  live"));
        assert!(!terminal.is_restored());
        terminal.signal(signal);
        assert_eq!(terminal.end(), Some(0), "{signal}");
        assert!(terminal.is_restored(), "{signal}");
    }
    // In raw mode Ctrl-C is a key.
    let mut terminal = Terminal::start(database.command(&["top"]));
    terminal.shows(|screen| screen.contains("pgic top  live"));
    terminal.keys("\x03");
    assert_eq!(terminal.end(), Some(0));
    assert!(terminal.is_restored());
    // A panic: this test program, as a program that takes the screen.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "top::a_program_that_panics",
        "--ignored",
        "--nocapture",
    ]);
    let mut terminal = Terminal::start(command);
    assert_ne!(terminal.end(), Some(0));
    assert!(
        terminal.rest().contains("out of order"),
        "{}",
        terminal.rest()
    );
    assert!(terminal.is_restored());
}

/// Run by [`the_terminal_is_restored_however_it_ends`], on a terminal of its own.
#[test]
#[ignore = "a program that a test starts"]
fn a_program_that_panics() {
    let _screen = Screen::open().unwrap();
    panic!("out of order");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_there_is_another_command() {
    let database = Database::with(USERS).await;
    let ran = database.pgic(&["top"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("pgic tail --stats"),
        "{ran:?}"
    );
}
