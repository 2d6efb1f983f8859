//! `docs/operations.md`: the grants are enough for each command, and each alert has its part.

use crate::support::{Database, USERS, own_cluster};

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// Returns the document's SQL.
fn grants() -> String {
    let blocks = DOCUMENT.split("```sql\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 1, "one block has all grants");
    blocks[0].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_runs_as_the_role_that_is_named_for_it() {
    const KEY: &str = "00000000-0000-4000-8000-000000000001";
    let cluster = own_cluster(&[]);
    let database = Database::on(&cluster, "granted".to_string()).await;
    let admin = database.client().await;
    let tables = USERS.replace("users", "app.users");
    let set_up = format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE app_owner; CREATE SCHEMA app;
        {tables} INSERT INTO app.users VALUES ('{KEY}', 1, 1);
        ALTER TABLE app.users OWNER TO app_owner;"
    );
    admin.batch_execute(&set_up).await.unwrap();
    admin.batch_execute(&grants()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    // A command of a role, and the exit code that it must have.
    let runs: &[(&str, &[&str], i32)] = &[
        ("pgic_deployer", &["install-triggers", "app.users"], 0),
        ("pgic_oncall", &["status"], 0),
        ("pgic_oncall", &["doctor"], 0),
        ("pgic_oncall", &["tail", "--duration", "100ms"], 0),
        ("pgic_oncall", &["ping", "-n", "1"], 0),
        (
            "pgic_oncall",
            &["wait", "--for", "announced", "app.users"],
            0,
        ),
        (
            "pgic_oncall",
            &["record", "--dir", dir, "--duration", "100ms"],
            0,
        ),
        // No node is there.
        ("pgic_oncall", &["nodes"], 1),
        // What it may not.
        ("pgic_oncall", &["query", "app.users"], 2),
        (
            "pgic_oncall",
            &["install-triggers", "app.users", "--on-change"],
            2,
        ),
        ("pgic_reader", &["query", "app.users", KEY], 0),
        ("pgic_reader", &["shell", "app.users"], 0),
        ("pgic_reader", &["verify", "app.users", "--rounds", "1"], 0),
        ("pgic_reader", &["why", "app.users", KEY], 0),
        ("pgic_reader", &["doctor"], 0),
        ("pgic_reader", &["why", "app.users", KEY, "--touch"], 2),
        ("pgic_toucher", &["why", "app.users", KEY, "--touch"], 0),
        (
            "pgic_toucher",
            &["ping", "-n", "1", "--via-trigger", "app.users"],
            0,
        ),
        ("app_node", &["verify", "app.users", "--rounds", "1"], 0),
        ("pgic_deployer", &["remove-triggers", "app.users"], 0),
    ];
    for (role, arguments, code) in runs {
        let own = database.as_role(role);
        let ran = own.pgic(arguments);
        assert_eq!(ran.code, *code, "{role}: {arguments:?}: {ran:?}");
    }
}

/// Each alert says where to look, and there is such a part.
#[test]
fn each_alert_has_its_part() {
    let rules = include_str!("../../contrib/prometheus/alerts.yml");
    let anchors = rules.lines().filter_map(|line| {
        let (_, anchor) = line.split_once("runbook: docs/operations.md#")?;
        Some(anchor.trim())
    });
    let anchors: Vec<&str> = anchors.collect();
    assert!(anchors.len() > 8, "{anchors:?}");
    for anchor in anchors {
        let part = DOCUMENT.lines().find(|line| {
            let heading = line.strip_prefix("### ");
            heading.is_some_and(|heading| heading.to_lowercase() == anchor)
        });
        assert!(part.is_some(), "{anchor}");
    }
}
