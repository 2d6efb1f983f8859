//! What the tool adds to a connection: the question for a password, and the number of sessions.
//! What a connection string means is tested in `pg-connect`.

use crate::support::{DEADLINE, Database, run};
use crate::terminal::Terminal;
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;
use throwaway_postgres::{Cluster, Setup};
use tokio_postgres::Client;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

// A person must know what to raise the limit to.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_sessions_is_told_with_the_number_that_the_command_needs() {
    let database = Database::with(TABLE).await;
    database.pgic_ok(&["install-triggers", "t"]);
    let role = format!("few_{}", database.name);
    let admin = database.client().await;
    let sql = format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}");
    admin.batch_execute(&sql).await.unwrap();
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let commands = [
        (&["status"][..], 1, "status needs 1 session: "),
        (
            &["tail", "--duration", "100ms"],
            3,
            "tail needs 3 sessions at once: ",
        ),
        (
            &["query", "t", "--count"],
            4,
            "query needs 4 sessions at once: ",
        ),
        (
            &["verify", "t", "--rounds", "1"],
            4,
            "verify needs 4 sessions at once: ",
        ),
        (&["nodes"], 2, "nodes needs 2 sessions at once: "),
        (&["ping", "-n", "1"], 2, "ping needs 2 sessions at once: "),
        (
            &["doctor", "--fail-on", "never"],
            2,
            "doctor needs 2 sessions at once: ",
        ),
        (
            &["wait", "--for", "live", "--timeout", "500ms"],
            3,
            "wait needs 3 sessions at once: ",
        ),
    ];
    for (arguments, needed, said) in commands {
        // The session that describes the table may have ended when the last of the others begins.
        let too_few = if needed > 1 { needed - 2 } else { 0 };
        for (limit, is_enough) in [(needed, true), (too_few, false)] {
            let sql = format!("ALTER ROLE {role} CONNECTION LIMIT {limit}");
            admin.batch_execute(&sql).await.unwrap();
            no_session_of(&admin, &role).await;
            let mut command = database.command(arguments);
            command.env("DATABASE_URL", &url);
            let ran = run(command);
            assert_eq!(ran.code != 3, is_enough, "{arguments:?}, {limit}: {ran:?}");
            assert!(is_enough || ran.stderr.contains(said), "{limit}: {ran:?}");
        }
    }
}

/// Waits until no session of a role is left: those of a program that has ended are counted for a
/// moment more.
async fn no_session_of(admin: &Client, role: &str) {
    let give_up = Instant::now() + DEADLINE;
    let question = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
    while admin
        .query_one(question, &[&role])
        .await
        .unwrap()
        .get::<_, i64>(0)
        > 0
    {
        assert!(Instant::now() < give_up, "sessions of {role} stay");
    }
}

/// Starts a server that asks for the password of the role `u`, and returns its port.
fn start_with_password() -> (Cluster, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let cluster = Cluster::start(&Setup::default()).unwrap();
    let access = "local all all trust\nhost all u all scram-sha-256\nhost all all all trust\n";
    cluster.write_data("pg_hba.conf", access).unwrap();
    let settings = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
    ];
    cluster.configure(&settings).unwrap();
    (cluster, port)
}

fn status(port: u16, user: &str, more: &[&str]) -> Command {
    let url = format!("host=127.0.0.1 port={port} user={user} dbname=postgres");
    crate::support::pgic(&[&["status", "-d", &url], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_asked_for_on_a_terminal_and_not_shown() {
    let (cluster, port) = start_with_password();
    let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let admin = crate::support::connect(&url).await;
    let sql = "CREATE ROLE u LOGIN PASSWORD 'geheim'";
    admin.batch_execute(sql).await.unwrap();
    // There are no triggers, so the answer is a no.
    for (answer, code) in [("geheim", 1), ("wrong", 2)] {
        let mut terminal = Terminal::start_controlled(&status(port, "u", &[]));
        terminal.sees("Password for user u: ");
        terminal.keys(&format!("{answer}\r"));
        assert_eq!(terminal.end(), Some(code), "{answer}: {}", terminal.rest());
        assert!(!terminal.rest().contains(answer), "{}", terminal.rest());
    }
    // -W asks though the server does not.
    let mut terminal = Terminal::start_controlled(&status(port, "postgres", &["-W"]));
    terminal.sees("Password for user postgres: ");
    terminal.keys("x\r");
    assert_eq!(terminal.end(), Some(1), "{}", terminal.rest());
    // -w never asks, and without a terminal nobody can be asked.
    let mut terminal = Terminal::start_controlled(&status(port, "u", &["-w"]));
    assert_eq!(terminal.end(), Some(2));
    // Long lines are broken at the width of the terminal.
    let said: Vec<&str> = terminal.rest().split_whitespace().collect();
    assert!(
        said.join(" ")
            .contains("the server asks for a password, and none is given")
    );
    let ran = run(status(port, "u", &["--password-command", "echo geheim"]));
    assert_eq!(ran.code, 1, "{ran:?}");
    let mut command = status(port, "u", &[]);
    command.env("PGIC_PASSWORD_COMMAND", "exit 1");
    let ran = run(command);
    assert!(
        ran.stderr
            .contains("the password command ended with exit status: 1"),
        "{ran:?}"
    );
    drop(cluster);
}
