//! Triggers planned, installed, checked and removed from code, on a real server.

use crate::replica::{User, builder, fence};
use crate::support::{DEADLINE, Database};
use postgres_index_cache_core::tokio_postgres::Client;
use postgres_index_cache_core::triggers::{
    self, InstallOptions, PlanResult, PlannedTable, TriggerError,
};
use std::error::Error as _;
use std::time::Duration;

const TABLES: &str = "
    CREATE TABLE users (id uuid PRIMARY KEY, username_hash bigint NOT NULL, email_hash bigint NOT NULL);
    CREATE SCHEMA app;
    CREATE TABLE app.\"Odd Name\" (a int, b text, note text, PRIMARY KEY (a, b));";

/// Returns a database with the tables, and a session on it.
async fn with_tables() -> (Database, Client) {
    let database = Database::with(TABLES).await;
    let client = database.client().await;
    (database, client)
}

/// Returns the outcome for each table.
fn results(tables: &[PlannedTable]) -> Vec<(&str, PlanResult)> {
    let results = tables
        .iter()
        .map(|table| (table.name.as_str(), table.result));
    results.collect()
}

/// Returns an error with its causes.
fn text(error: &TriggerError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_installed_from_code_as_by_the_command() {
    let (database, mut client) = with_tables().await;
    let tables = ["users", "app.\"Odd Name\""];
    let mut options = InstallOptions::default();
    options.exclude_columns(["note"]);
    // A column that one of the tables has not is refused, and nothing is done to the other one.
    let refused = triggers::install(&mut client, &tables, &options).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        text(&refused),
        "install triggers on public.users: public.users has no column note"
    );
    assert!(refused.hint().unwrap().contains("its columns are id"));

    let options = InstallOptions::default();
    let planned = triggers::plan(&mut client, &tables, &options)
        .await
        .unwrap();
    let created = [
        ("app.Odd Name", PlanResult::Created),
        ("public.users", PlanResult::Created),
    ];
    let sorted = |tables: &[PlannedTable]| {
        let mut tables = tables.to_vec();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    };
    assert_eq!(results(&sorted(&planned)), created);
    let checked = triggers::check(&mut client, &tables).await.unwrap();
    assert!(checked.iter().all(|table| !table.is_announced()));
    assert_eq!(checked[0].problems[0].code, "not-announced");

    let installed = triggers::install(&mut client, &tables, &options)
        .await
        .unwrap();
    assert_eq!(results(&sorted(&installed)), created);
    assert_eq!(installed[0].sql, planned[0].sql);
    assert_eq!(installed[0].channel, "cache_invalidation");
    let checked = triggers::check(&mut client, &tables).await.unwrap();
    assert!(
        checked.iter().all(|table| table.problems.is_empty()),
        "{checked:?}"
    );
    // The command finds what it would have made itself.
    let output = database.pgic(&["install-triggers", "users", "app.\"Odd Name\"", "--check"]);
    assert_eq!(output.code, 0, "{output:?}");

    let again = triggers::install(&mut client, &tables, &options)
        .await
        .unwrap();
    assert!(again.iter().all(|table| table.steps.is_empty()));
    assert!(
        again
            .iter()
            .all(|table| table.result == PlanResult::Unchanged)
    );

    let removed = triggers::remove(&mut client, &tables, DEADLINE)
        .await
        .unwrap();
    assert!(
        removed
            .iter()
            .all(|table| table.result == PlanResult::Removed)
    );
    let output = database.pgic(&["status", "users"]);
    assert_eq!(output.code, 1, "{output:?}");
}

/// Many nodes of a service start at once, each installs the triggers, and opens its replica.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_at_once_install_the_same_triggers() {
    let (database, client) = with_tables().await;
    let nodes = (0..6).map(|_| async {
        let mut client = database.client().await;
        let mut options = InstallOptions::default();
        options.on_change().lock_timeout(DEADLINE);
        triggers::install(&mut client, &["users"], &options)
            .await
            .map(|tables| tables[0].result)
    });
    let results = futures_util::future::join_all(nodes).await;
    let mut results: Vec<PlanResult> = results.into_iter().map(Result::unwrap).collect();
    results.retain(|result| *result != PlanResult::Unchanged);
    // One of them made the triggers. Another may have planned before and found them made.
    assert!(results.contains(&PlanResult::Created), "{results:?}");

    let mut builder = builder(&database);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let insert = "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 7, 0)";
    client.batch_execute(insert).await.unwrap();
    fence(&replica).await;
    assert_eq!(replica.read(&users).len(), 1);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_stay_as_installed_unless_defaults_are_asked_for() {
    let (database, mut client) = with_tables().await;
    let mut options = InstallOptions::default();
    options
        .channel("orders.changes")
        .columns(["username_hash"])
        .condition("username_hash > 10");
    let tables = triggers::install(&mut client, &["users"], &options)
        .await
        .unwrap();
    assert_eq!(tables[0].channel, "orders.changes");
    let unnamed = InstallOptions::default();
    let tables = triggers::plan(&mut client, &["users"], &unnamed)
        .await
        .unwrap();
    assert_eq!(tables[0].result, PlanResult::Unchanged);
    let output = database.pgic(&["status", "users", "-o", "json"]);
    let status = output.stdout;
    assert!(status.contains("username_hash > 10"), "{status}");
    let mut defaults = InstallOptions::default();
    defaults.from_defaults();
    let tables = triggers::install(&mut client, &["users"], &defaults)
        .await
        .unwrap();
    assert_eq!(tables[0].result, PlanResult::Refreshed);
    assert_eq!(tables[0].channel, "cache_invalidation");

    let mut per_table = InstallOptions::default();
    per_table
        .channel("shop")
        .channel_per_table()
        .lock_timeout(Duration::MAX);
    let tables = triggers::install(&mut client, &["users"], &per_table)
        .await
        .unwrap();
    assert!(
        tables[0].channel.starts_with("shop."),
        "{}",
        tables[0].channel
    );

    // A condition that the table does not allow any more.
    let mut by_hash = InstallOptions::default();
    by_hash.condition("username_hash > 10");
    triggers::install(&mut client, &["users"], &by_hash)
        .await
        .unwrap();
    let alter = "ALTER TABLE users ALTER username_hash TYPE text";
    client.batch_execute(alter).await.unwrap();
    let refused = triggers::install(&mut client, &["users"], &unnamed).await;
    let refused = refused.unwrap_err();
    let said = text(&refused);
    assert!(
        said.starts_with("check the condition \"username_hash > 10\" for public.users: "),
        "{said}"
    );
    assert!(
        refused
            .hint()
            .unwrap()
            .contains("the table is another one since")
    );
    let output = database.pgic(&["install-triggers", "users"]);
    let said = "error: check the condition \"username_hash > 10\" for public.users: ";
    assert!(output.stderr.starts_with(said), "{output:?}");
    assert!(
        output.stderr.contains("the table is another one since"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_was_tried_what_the_server_said_and_what_to_do() {
    let (database, mut client) = with_tables().await;
    let options = InstallOptions::default();
    let missing = triggers::install(&mut client, &["user"], &options).await;
    assert_eq!(text(&missing.unwrap_err()), "the table user does not exist");

    let mut wrong = InstallOptions::default();
    wrong.condition("usernam_hash > 1");
    let refused = triggers::install(&mut client, &["users"], &wrong).await;
    let refused = refused.unwrap_err();
    let said = text(&refused);
    assert!(
        said.starts_with("check the condition \"usernam_hash > 1\""),
        "{said}"
    );
    assert!(
        said.contains("column \"usernam_hash\" does not exist"),
        "{said}"
    );
    assert!(refused.hint().is_some());

    let mut wrong = InstallOptions::default();
    wrong.channel("");
    let refused = triggers::install(&mut client, &["users"], &wrong).await;
    assert_eq!(text(&refused.unwrap_err()), "a channel needs a name");

    let mut wrong = InstallOptions::default();
    wrong.bulk(Some(0));
    let refused = triggers::install(&mut client, &["users"], &wrong).await;
    assert!(refused.unwrap_err().hint().is_some());

    let holder = database.client().await;
    let hold = "BEGIN; LOCK TABLE users IN ROW EXCLUSIVE MODE";
    holder.batch_execute(hold).await.unwrap();
    let mut short = InstallOptions::default();
    short.lock_timeout(Duration::from_millis(150));
    let busy = triggers::install(&mut client, &["users"], &short).await;
    let busy = busy.unwrap_err();
    assert!(
        text(&busy).starts_with("lock public.users: "),
        "{}",
        text(&busy)
    );
    assert!(
        busy.hint().unwrap().contains("RowExclusiveLock on users"),
        "{busy:?}"
    );
    assert!(busy.is_busy());
    // A condition is checked on a copy of the table, which a migration may hold.
    let hold = "ROLLBACK; BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(hold).await.unwrap();
    short.condition("username_hash > 1");
    let busy = triggers::install(&mut client, &["users"], &short).await;
    let busy = busy.unwrap_err();
    assert!(busy.is_busy() && busy.hint().is_some(), "{busy:?}");
    // The session goes on: nothing of the attempt is left on it.
    holder.batch_execute("ROLLBACK").await.unwrap();
    let timeout = client.query_one("SHOW lock_timeout", &[]).await.unwrap();
    assert_eq!(timeout.get::<_, &str>(0), "0");
    let tables = triggers::install(&mut client, &["users"], &options)
        .await
        .unwrap();
    assert_eq!(tables[0].result, PlanResult::Created);
}
