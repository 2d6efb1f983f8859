//! Completion on a shell's command line, asked as the script of bash asks.

use crate::support::{Database, pgic, run};
use std::process::Command;

const TABLES: &str = "CREATE TYPE state AS ENUM ('open', 'paid'); CREATE SCHEMA app; CREATE TABLE \
    orders (id int PRIMARY KEY, state state, total numeric); CREATE TABLE app.users (id int PRIMARY \
    KEY); CREATE TABLE \"$(reboot)\" (id int PRIMARY KEY); CREATE TABLE \"Odd Name\" (id int)";

/// Returns what is offered in place of the last of these words.
fn offered(mut command: Command, words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    command
        .env("PGIC_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", last.to_string())
        .arg("--")
        .args(words);
    let ran = run(command);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    ran.stdout.lines().map(str::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_columns_values_and_channels_are_offered() {
    let database = Database::with(TABLES).await;
    database.pgic_ok(&["install-triggers", "orders", "--channel", "mine"]);
    let url = database.url.clone();
    for (line, expected) in [
        ("pgic query o", vec!["orders"]),
        ("pgic query app.", vec!["app.users"]),
        ("pgic install-triggers app.u", vec!["app.users"]),
        // That is not announced.
        ("pgic status app.u", vec![]),
        ("pgic tail or", vec!["orders"]),
        ("pgic tail --channel m", vec!["mine"]),
        ("pgic install-triggers --all --schema a", vec!["app"]),
        ("pgic query orders st", vec!["state="]),
        ("pgic query orders state=p", vec!["state=paid"]),
        // bash makes three words of it.
        ("pgic query orders state = o", vec!["open"]),
        ("pgic query orders --columns t", vec!["total"]),
        ("pgic tail --action tr", vec!["truncate"]),
        ("pgic -o j", vec!["json"]),
        ("pgic verif", vec!["verify"]),
        // Nor a file, where none fits.
        ("pgic query orders C", vec![]),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(offered(database.command(&[]), &words), expected, "{line}");
    }
    // The options that are typed lead to the server. A name that a shell would run is not offered.
    let words = ["pgic", "query", "-d", &url, ""];
    let tables = offered(pgic(&[]), &words);
    assert!(tables.contains(&"orders".to_string()), "{tables:?}");
    assert!(
        !tables.iter().any(|name| name.contains(['$', ' '])),
        "{tables:?}"
    );
    // Without a server there is nothing to offer, and nothing is said.
    let words = ["pgic", "query", "-d", "postgresql://127.0.0.1:1/x", "o"];
    assert!(offered(pgic(&[]), &words).is_empty());
}
