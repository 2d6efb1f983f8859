//! `pgic.toml`: what must be announced, connections by name, and defaults of options.

use crate::support::{Database, Ran, json_lines, run};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tempfile::TempDir;

const TABLES: &str = "CREATE SCHEMA app; CREATE TABLE users (id int PRIMARY KEY, name text, hash \
    text); CREATE TABLE app.orders (id int PRIMARY KEY, total numeric); CREATE TABLE other (id int \
    PRIMARY KEY)";

const FILE: &str = "[tables.users]\nexclude-columns = ['hash']\n\n[tables.'app.orders']\nchannel = \
    'orders'\non-change = true\n";

/// Returns a folder with a `pgic.toml`, and a folder in it from which pgic is run.
fn folder(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pgic.toml"), text).unwrap();
    std::fs::create_dir(folder.path().join("below")).unwrap();
    folder
}

/// Runs `pgic` below a folder.
fn pgic(database: &Database, folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = database.command(arguments);
    command.current_dir(folder.join("below"));
    run(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_announced_as_the_file_wants_them_and_status_says_what_differs() {
    let database = Database::with(TABLES).await;
    let folder = folder(FILE);
    let at = folder.path();
    let check = ["install-triggers", "--from-config", "--check"];
    // Before anything is installed.
    assert_eq!(pgic(&database, at, &check).code, 1);
    let status = pgic(&database, at, &["status", "-o", "json"]);
    let codes: Vec<_> = json_lines(&status.stdout)
        .iter()
        .map(|line| line["problems"][0]["code"].clone())
        .collect();
    assert_eq!(
        (status.code, &codes[..2]),
        (1, &[json!("not-announced"), json!("not-announced")][..])
    );
    let install = ["install-triggers", "--from-config", "-o", "json"];
    let installed = pgic(&database, at, &install);
    assert_eq!(installed.code, 0, "{installed:?}");
    let plans = installed.json();
    assert_eq!(
        (&plans[1]["table"], &plans[1]["options"]),
        (
            &json!("orders"),
            &json!({"channel": "orders", "on_change": true})
        )
    );
    assert_eq!(plans[2]["options"]["columns"], json!(["id", "name"]));
    assert_eq!(pgic(&database, at, &check).code, 0);
    assert_eq!(pgic(&database, at, &["status"]).code, 0);
    // Somebody changes a table by hand, and announces another one.
    database.pgic_ok(&["install-triggers", "app.orders", "--defaults"]);
    database.pgic_ok(&["install-triggers", "other"]);
    let status = pgic(&database, at, &["status"]);
    assert_eq!(status.code, 1);
    for expected in [
        "warning [not-as-configured] app.orders: pgic.toml wants channel orders, installed is \
        cache_invalidation, on-change; make it so: pgic install-triggers --from-config\n",
        "notice [not-in-config] public.other is not in pgic.toml\n",
    ] {
        assert!(status.stdout.contains(expected), "{status:?}");
    }
    assert_eq!(pgic(&database, at, &check).code, 1);
    // A column that the file does not exclude is sent, also one that is new.
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE users ADD COLUMN mail text; DROP TABLE app.orders")
        .await
        .unwrap();
    let status = pgic(&database, at, &["status"]);
    for expected in [
        "pgic.toml wants columns id,name,mail, installed are columns id,name",
        "critical [table-missing] pgic.toml wants app.orders to be announced, which does not exist",
    ] {
        assert!(status.stdout.contains(expected), "{status:?}");
    }
    // Nothing is installed unless all of it can be.
    let refused = pgic(&database, at, &["install-triggers", "--from-config"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("app.orders does not exist"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_triggers_are_announced_as_the_file_wants_them() {
    let database = Database::with(TABLES).await;
    let wanted = folder("[tables.users]\nbulk = true\nrows = 500\n");
    let install = ["install-triggers", "--from-config"];
    assert_eq!(pgic(&database, wanted.path(), &install).code, 0);
    let status = pgic(&database, wanted.path(), &["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    assert!(status.stdout.contains("all columns, packed"), "{status:?}");
    let rowwise = folder("[tables.users]\n");
    let status = pgic(&database, rowwise.path(), &["status"]);
    let expected = "wants a trigger for each row, installed is bulk of 500 rows";
    assert!(status.stdout.contains(expected), "{status:?}");
    assert_eq!(pgic(&database, rowwise.path(), &install).code, 0);
    assert_eq!(pgic(&database, rowwise.path(), &["status"]).code, 0);
    for (file, because) in [
        ("[tables.users]\nrows = 5\n", "add bulk = true"),
        ("[tables.users]\nbulk = true\nrows = 0\n", "is 0"),
        (
            "[tables.users]\nbulk = true\non-change = true\n",
            "exclude each other",
        ),
    ] {
        let refused = pgic(&database, folder(file).path(), &install);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains(because), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_name_and_options_have_defaults() {
    let database = Database::with(TABLES).await;
    database.pgic_ok(&["install-triggers", "users", "--channel", "mine"]);
    let url = &database.url;
    let folder = folder(&format!(
        "output = 'json'\nchannel = 'mine'\n[connections.here]\nurl = '{url}'"
    ));
    let at = folder.path();
    let mut command = crate::support::pgic(&["status", "--connection", "here"]);
    command.current_dir(at.join("below"));
    let status = run(command);
    assert_eq!(
        (status.code, &status.json()[0]["channel"]),
        (0, &json!("mine")),
        "{status:?}"
    );
    // A table that is new gets the channel of the settings.
    let installed = pgic(&database, at, &["install-triggers", "other"]);
    assert_eq!(installed.json()[1]["channel"], "mine", "{installed:?}");
    let tail = pgic(&database, at, &["tail", "--duration", "1ms"]);
    assert_eq!(tail.json()[0]["channels"], json!(["mine"]), "{tail:?}");
    let refused = pgic(&database, at, &["status", "--connection", "elsewhere"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("no connection elsewhere"),
        "{refused:?}"
    );
}

/// A file in a folder that everybody may write would lead a person to a server of somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_others_may_have_written_is_read_only_if_it_is_named() {
    let database = Database::with(TABLES).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let folder = folder("output = 'json'");
    let path = folder.path().join("pgic.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ran = pgic(&database, folder.path(), &["status"]);
    assert!(
        ran.stderr.contains("another user may have written it") && !ran.stdout.starts_with('{'),
        "{ran:?}"
    );
    let named = path.to_str().unwrap();
    let ran = pgic(&database, folder.path(), &["status", "--config", named]);
    assert!(ran.stdout.starts_with('{'), "{ran:?}");
    let ran = pgic(&database, folder.path(), &["status", "--config", "nosuch"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("read nosuch: "), "{ran:?}");
}

/// 1. `PGIC_CONNECTION=prod` is exported. 2. Somebody works in a clone whose `pgic.toml` has a `prod`.
/// 3. pgic would send a password of `PGPASSWORD` there.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_leads_nowhere_through_a_file_that_was_found() {
    let database = Database::with(TABLES).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let folder = folder("[connections.prod]\nurl = 'postgresql://127.0.0.1:1/theirs'");
    let mut command = database.command(&["status"]);
    command
        .current_dir(folder.path())
        .env("PGIC_CONNECTION", "prod");
    let ran = run(command);
    assert!(
        ran.code == 0
            && ran
                .stderr
                .contains("PGIC_CONNECTION counts only with PGIC_CONFIG"),
        "{ran:?}"
    );
    let mut command = database.command(&["status"]);
    command
        .env("PGIC_CONFIG", folder.path().join("pgic.toml"))
        .env("PGIC_CONNECTION", "prod");
    assert_eq!(run(command).code, 3, "the file is named, so it counts");
}
