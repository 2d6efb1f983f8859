//! `install-triggers` and `remove-triggers` change a database that others work in. They may be
//! repeated, do all or nothing, and refuse before they change anything; nothing that pgic did not
//! make is touched.

use crate::support::{
    DEADLINE, Database, Ran, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, ended, pgic, run,
};
use crate::terminal::Terminal;
use postgres_index_cache_core::tooling::postgres::Replica;
use serde_json::json;
use std::process::{Child, Stdio};
use std::time::Instant;
use tokio_postgres::Client;

const TWO: &str =
    "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, t timestamptz);";

/// Returns all triggers, and all functions that pgic may have made, with their text and comment. A
/// refusal must leave this list as it was.
async fn installed(database: &Database) -> Vec<String> {
    let sql =
        "SELECT t.tgrelid::regclass || ' ' || t.tgname || ' ' || t.tgenabled::text || ' ' || \
        t.tgfoid::regproc FROM pg_trigger t WHERE NOT tgisinternal
        UNION ALL SELECT p.oid::regprocedure || ' ' || md5(p.prosrc) || \
        coalesce(obj_description(p.oid, 'pg_proc'), '') FROM pg_proc p
        WHERE p.proname LIKE 'notify%change%' ORDER BY 1";
    database
        .client()
        .await
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Asserts that a command was refused for the reason `because`, and printed no answer.
fn refused(ran: &Ran, because: &str) {
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.stderr.contains(because),
        "{} does not say {because}",
        ran.stderr
    );
    assert!(ran.stdout.is_empty(), "{ran:?}");
}

/// Starts `pgic`, for [`ended`] to wait for.
fn start(database: &Database, arguments: &[&str]) -> Child {
    database
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the number that `sql` counts.
async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn installing_twice_changes_nothing_the_second_time() {
    // A deployment runs the command each time. With nothing to do, it must say so and leave all as
    // it is.
    let database = Database::with(TWO).await;
    let first = database.pgic_ok(&["install-triggers", "a", "b"]);
    insta::assert_snapshot!(first, @r"
    table     result   channel             function
    public.a  created  cache_invalidation  public.notify_cache_change_a
    public.b  created  cache_invalidation  public.notify_cache_change_b
    ");
    // For each table a function, a row trigger and a TRUNCATE trigger.
    let before = installed(&database).await;
    assert_eq!(before.len(), 6);
    let again = database.pgic(&["install-triggers", "a", "b"]);
    assert_eq!(again.code, 0);
    assert_eq!(again.stdout.matches("unchanged").count(), 2);
    assert!(again.stderr.contains("nothing to change"), "{again:?}");
    assert_eq!(installed(&database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_not_given_is_kept() {
    // An option that is not given keeps what is installed. Otherwise a repeated `install-triggers`
    // would send the changes to the default channel, away from those who listen.
    let database = Database::with(TWO).await;
    database.pgic_ok(&["install-triggers", "a", "--channel", "Mixed Case"]);
    let shown = database.pgic_ok(&["install-triggers", "a", "-o", "json"]);
    let plan = &crate::support::json_lines(&shown)[1];
    assert_eq!(plan["result"], json!("unchanged"));
    assert_eq!(plan["channel"], json!("Mixed Case"));
    assert_eq!(plan["steps"], json!([]));
    let changed = database.pgic_ok(&["install-triggers", "a", "--channel", "other"]);
    assert!(
        changed.contains("refreshed  Mixed Case -> other"),
        "{changed}"
    );
    let mut listening = database.listen_on("other").await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO a VALUES (1)")
        .await
        .unwrap();
    assert_eq!(listening.short().await, ["insert 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_table_can_have_a_channel_of_its_own() {
    let database = Database::with(
        "CREATE SCHEMA app; CREATE TABLE app.a (id int PRIMARY KEY);
        CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY);",
    )
    .await;
    let long = "x".repeat(63);
    database
        .client()
        .await
        .batch_execute(&format!("CREATE TABLE {long} (id int PRIMARY KEY)"))
        .await
        .unwrap();
    let install = [
        "install-triggers",
        "app.a",
        "b",
        &long,
        "--channel-per-table",
    ];
    let shown = database.pgic_ok(&install);
    assert!(
        shown.contains("created  cache_invalidation.app.a "),
        "{shown}"
    );
    assert!(shown.contains("created  cache_invalidation.b "), "{shown}");
    assert_eq!(database.pgic_ok(&install).matches("unchanged").count(), 3);
    database.pgic_ok(&["install-triggers", "c"]);
    // Whoever names no channel hears all of them, and with a table that table's.
    let all = database.tail(&["--count", "4"]);
    let one = database.tail(&["app.a", "--count", "1"]);
    let other = database.tail(&["--channel", "cache_invalidation", "--count", "1"]);
    let sql = format!(
        "INSERT INTO app.a VALUES (1); INSERT INTO b VALUES (2); INSERT INTO c VALUES (3);
        INSERT INTO {long} VALUES (4)"
    );
    database.client().await.batch_execute(&sql).await.unwrap();
    for (tail, keys) in [(all, &[1, 2, 3, 4][..]), (one, &[1]), (other, &[3])] {
        for key in keys {
            assert_eq!(tail.next()["key"], json!(key));
        }
        assert_eq!(tail.finish().0, 0);
    }
    // A cache listens on the channels of its tables.
    let verified = database.command(&["verify", "app.a", "b", "--for", "1s", "--min-changes", "2"]);
    let verifying = std::thread::spawn(move || run(verified));
    let client = database.client().await;
    let mut id = 10;
    while !verifying.is_finished() {
        let sql = format!("INSERT INTO app.a VALUES ({id}); INSERT INTO b VALUES ({id})");
        client.batch_execute(&sql).await.unwrap();
        id += 1;
    }
    let verified = verifying.join().unwrap();
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_plan_and_does_nothing() {
    let database = Database::with(TWO).await;
    let plan = database.pgic_ok(&["install-triggers", "a", "--dry-run"]);
    insta::assert_snapshot!(plan, @r#"
    table     result            channel             function
    public.a  would be created  cache_invalidation  public.notify_cache_change_a
      public.a: create function "public"."notify_cache_change_a"()
      public.a: comment on function "public"."notify_cache_change_a"()
      public.a: create trigger "a_cache_notify"
      public.a: create trigger "a_cache_notify_truncate"
      locks: SHARE ROW EXCLUSIVE on each table (writers wait, readers do not)
      held for these steps alone; waited for 5s at most, in tries of 0.8 s or less
    "#);
    assert!(installed(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_refused_before_anything_is_changed() {
    // The good table `a` stands before each bad one on the command line: either all tables are
    // installed or none.
    let sql = "CREATE TABLE a (id int PRIMARY KEY);
        CREATE VIEW v AS SELECT 1 AS id; CREATE MATERIALIZED VIEW m AS SELECT 1 AS id;
        CREATE TABLE nokey (n int); CREATE TABLE nullable (n int UNIQUE);
        CREATE TABLE late (n int NOT NULL UNIQUE DEFERRABLE);
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE foreigner (id int NOT NULL) SERVER elsewhere;
        CREATE SEQUENCE s; CREATE SCHEMA app; CREATE TABLE app.elsewhere (id int PRIMARY KEY);";
    let database = Database::with(sql).await;
    let cases = [
        ("missing", "the table missing does not exist"),
        ("elsewhere", "hint: there is app.elsewhere"),
        ("v", "public.v is a view"),
        ("m", "public.m is a materialised view"),
        ("foreigner", "public.foreigner is a foreign table"),
        ("nokey", "has neither a primary key nor a unique key"),
        ("nullable", "has neither a primary key nor a unique key"),
        ("late", "has neither a primary key nor a unique key"),
        ("part", "is a partition"),
        ("s", "is not a table"),
        ("pg_catalog.pg_class", "is a system table"),
        ("\"unclosed", "\"unclosed is no table's name"),
        // What looks like a connection string may hold a password.
        (
            "postgresql://ann:geheim@db/shop",
            "a connection string stands where none belongs",
        ),
    ];
    for (table, because) in cases {
        refused(&database.pgic(&["install-triggers", "a", table]), because);
        assert!(
            installed(&database).await.is_empty(),
            "{table}: nothing was changed"
        );
    }
    // Options are refused in the same way: an unknown one, and channels that PostgreSQL does not
    // take (1 to 63 bytes).
    refused(
        &database.pgic(&["install-triggers", "a", "--no-such-option"]),
        "--no-such-option",
    );
    refused(
        &database.pgic(&["install-triggers", "a", "--channel", ""]),
        "needs a name",
    );
    refused(
        &database.pgic(&["install-triggers", "a", "--channel", &"x".repeat(64)]),
        "64 bytes",
    );
    refused(&database.pgic(&["install-triggers"]), "no table is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_of_not_null_columns_will_do() {
    // The key is in the order of the unique constraint, not in that of the table.
    let database =
        Database::with("CREATE TABLE t (a int NOT NULL, b text NOT NULL, c int, UNIQUE (b, a))")
            .await;
    database.pgic_ok(&["install-triggers", "t"]);
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO t VALUES (1, 'x', 2)")
        .await
        .unwrap();
    assert_eq!(listening.short().await, ["insert [\"x\",1]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pgic_did_not_make_is_refused_and_survives() {
    // The specification tells people to create a trigger of exactly the name that pgic uses.
    let database = Database::with(&format!(
        "{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}{TWO}"
    ))
    .await;
    // The second function even has a comment that begins like pgic's.
    let own = "CREATE FUNCTION notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
        RETURN NULL; END';
        COMMENT ON FUNCTION notify_cache_change_a() IS 'made by pgic, do not edit: {}';";
    database.client().await.batch_execute(own).await.unwrap();
    let before = installed(&database).await;
    let trigger = database.pgic(&["install-triggers", "b", "users"]);
    refused(
        &trigger,
        "a trigger called users_cache_notify exists and calls public.notify_cache_change()",
    );
    assert!(
        trigger
            .stderr
            .contains("hint: pgic install-triggers public.users --replace-trigger takes its place"),
        "{trigger:?}"
    );
    refused(
        &database.pgic(&["install-triggers", "a"]),
        "is not one that pgic made for this table",
    );
    let removed = database.pgic(&["remove-triggers", "users"]);
    assert_eq!(removed.code, 0);
    assert!(
        removed
            .stdout
            .contains("the trigger users_cache_notify is left"),
        "{removed:?}"
    );
    assert_eq!(installed(&database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_somebody_else_planted_is_not_ours() {
    // With CREATE on the schema anybody can plant a function with pgic's name and comment. CREATE
    // OR REPLACE would keep the planter as its owner, who could then change what every writer runs.
    let database = Database::with(TWO).await;
    let planter = format!("planter_{}", database.name);
    database.pgic_ok(&["install-triggers", "a"]);
    let client = database.client().await;
    // The planted function has the real comment, copied from a real installation.
    let comment: String = client
        .query_one(
            "SELECT obj_description('notify_cache_change_a()'::regprocedure, 'pg_proc')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    database.pgic_ok(&["remove-triggers", "a"]);
    let plant = format!(
        "CREATE ROLE {planter} LOGIN; GRANT CREATE ON SCHEMA public TO {planter}; SET ROLE \
        {planter};
         CREATE FUNCTION notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN \
         NULL; END';
         COMMENT ON FUNCTION notify_cache_change_a() IS '{}'; RESET ROLE",
        comment.replace('\'', "''")
    );
    client.batch_execute(&plant).await.unwrap();
    refused(
        &database.pgic(&["install-triggers", "a"]),
        &format!("belongs to {planter}, who is neither the owner"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_takes_away_what_was_made_and_nothing_else() {
    let database = Database::with(TWO).await;
    database
        .client()
        .await
        .batch_execute(SPECIFICATION)
        .await
        .unwrap();
    let before = installed(&database).await;
    database.pgic_ok(&["install-triggers", "a", "b"]);
    // A trigger of somebody else's calls our function: DROP … CASCADE would take it along.
    let shared = "CREATE TABLE c (id int PRIMARY KEY);
        CREATE TRIGGER mine AFTER INSERT ON c FOR EACH ROW EXECUTE FUNCTION \
        notify_cache_change_a();";
    database.client().await.batch_execute(shared).await.unwrap();
    let removed = database.pgic_ok(&["remove-triggers", "a"]);
    assert!(
        removed.contains("is left: other triggers call it"),
        "{removed}"
    );
    database
        .client()
        .await
        .batch_execute("DROP TABLE c")
        .await
        .unwrap();
    let dry = database.pgic_ok(&["remove-triggers", "--all", "--dry-run"]);
    assert!(
        dry.contains("public.b: drop trigger \"b_cache_notify\""),
        "{dry}"
    );
    database.pgic_ok(&["install-triggers", "a"]);
    database.pgic_ok(&["remove-triggers", "--all", "--yes"]);
    assert_eq!(installed(&database).await, before);
    let nothing = database.pgic(&["remove-triggers", "a"]);
    assert!(
        nothing.code == 0 && nothing.stderr.contains("nothing to remove"),
        "{nothing:?}"
    );
    refused(&database.pgic(&["remove-triggers"]), "required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_had_in_time_changes_nothing() {
    // `a` is free and `b` is not: the lock on `a` must not lead to half an installation.
    let database = Database::with(TWO).await;
    let mut holder = database.client().await;
    let transaction = holder.transaction().await.unwrap();
    transaction
        .batch_execute("INSERT INTO b VALUES (1)")
        .await
        .unwrap();
    let ran = database.pgic(&["install-triggers", "a", "b", "--lock-timeout", "100ms"]);
    refused(&ran, "lock public.b");
    assert!(
        ran.stderr.contains("hint: process ")
            && ran
                .stderr
                .contains("(user postgres, application ?) holds a "),
        "{ran:?}"
    );
    assert!(installed(&database).await.is_empty());
    transaction.commit().await.unwrap();
    database.pgic_ok(&["install-triggers", "a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dba_set_is_kept_and_what_is_off_is_turned_on() {
    // ENABLE ALWAYS is more than was asked for, and stays. A disabled or missing trigger is less.
    let database = Database::with(TWO).await;
    database.pgic_ok(&["install-triggers", "a"]);
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE a ENABLE ALWAYS TRIGGER a_cache_notify")
        .await
        .unwrap();
    assert!(
        database
            .pgic_ok(&["install-triggers", "a"])
            .contains("unchanged")
    );
    client
        .batch_execute("ALTER TABLE a DISABLE TRIGGER a_cache_notify")
        .await
        .unwrap();
    assert!(
        database
            .pgic_ok(&["install-triggers", "a"])
            .contains("refreshed")
    );
    client
        .batch_execute("DROP TRIGGER a_cache_notify_truncate ON a")
        .await
        .unwrap();
    assert!(
        database
            .pgic_ok(&["install-triggers", "a"])
            .contains("refreshed")
    );
    let states = installed(&database)
        .await
        .iter()
        .filter(|line| line.starts_with("a a_cache") && line.contains(" O "))
        .count();
    assert_eq!(states, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installers_at_once_end_with_one_installation() {
    // CREATE OR REPLACE FUNCTION in two sessions at once fails with "tuple concurrently updated"
    // unless the installers wait for each other.
    let database = Database::with(TWO).await;
    let runs: Vec<Child> = (0..4)
        .map(|_| start(&database, &["install-triggers", "a", "b"]))
        .collect();
    for run in runs {
        let ran = ended(run);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(installed(&database).await.len(), 6);
    let mut listening = database.listen().await;
    tokio::time::timeout(
        DEADLINE,
        database
            .client()
            .await
            .batch_execute("INSERT INTO a VALUES (1)"),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(listening.short().await, ["insert 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_or_moved_is_seen_and_refreshed() {
    for (sql, now) in [
        ("ALTER TABLE a RENAME TO z", "z"),
        ("CREATE SCHEMA s; ALTER TABLE a SET SCHEMA s", "s.a"),
    ] {
        let database = Database::with(TWO).await;
        database.pgic_ok(&["install-triggers", "a", "--channel", "kept"]);
        database.client().await.batch_execute(sql).await.unwrap();
        let status = database.pgic(&["status", now]);
        assert!(
            status.code == 1 && status.stdout.contains("announced as those of public.a"),
            "{status:?}"
        );
        let refreshed = database.pgic_ok(&["install-triggers", now]);
        assert!(refreshed.contains("refreshed  kept"), "{refreshed}");
        let mut listening = database.listen_on("kept").await;
        database
            .client()
            .await
            .batch_execute(&format!("INSERT INTO {now} VALUES (1)"))
            .await
            .unwrap();
        let changes = listening.changes().await;
        assert_eq!(
            (changes.len(), changes[0]["table"].as_str()),
            (1, now.rsplit('.').next()),
            "{changes:?}"
        );
        assert_eq!(database.pgic(&["status", now]).code, 0);
        database.pgic_ok(&["remove-triggers", now]);
        assert!(
            installed(&database).await.is_empty(),
            "{sql}: nothing is left behind"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_that_swapped_their_names_are_refreshed() {
    // Each table's function announces under the other table's name, and is called after it as well.
    let database = Database::with(TWO).await;
    database.pgic_ok(&["install-triggers", "a", "b"]);
    let swap = "ALTER TABLE a RENAME TO x; ALTER TABLE b RENAME TO a; ALTER TABLE x RENAME TO b;";
    database.client().await.batch_execute(swap).await.unwrap();
    database.pgic_ok(&["install-triggers", "a", "b"]);
    assert_eq!(database.pgic(&["status", "a", "b"]).code, 0);
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)")
        .await
        .unwrap();
    let changes = listening.changes().await;
    let tables: Vec<_> = changes
        .iter()
        .map(|change| (change["table"].clone(), change["id"].clone()))
        .collect();
    assert_eq!(tables, [(json!("a"), json!(1)), (json!("b"), json!(2))]);
    database.pgic_ok(&["remove-triggers", "a", "b"]);
    assert!(installed(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_trigger_is_not_left_to_announce_twice() {
    // A renamed trigger still fires. To make the missing one beside it would announce each change
    // twice.
    let database = Database::with(TWO).await;
    database.pgic_ok(&["install-triggers", "a"]);
    database
        .client()
        .await
        .batch_execute("ALTER TRIGGER a_cache_notify ON a RENAME TO zz")
        .await
        .unwrap();
    assert_eq!(database.pgic(&["status", "a"]).code, 1);
    database.pgic_ok(&["install-triggers", "a"]);
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO a VALUES (1)")
        .await
        .unwrap();
    assert_eq!(listening.short().await, ["insert 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_belongs_to_the_table_s_owner_whoever_installs_it() {
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY)").await;
    let owner = format!("owner_{}", database.name);
    let give = format!(
        "CREATE ROLE {owner} LOGIN; GRANT CREATE ON SCHEMA public TO {owner}; ALTER TABLE a OWNER \
        TO {owner}"
    );
    database.client().await.batch_execute(&give).await.unwrap();
    database.pgic_ok(&["install-triggers", "a", "--channel", "custom"]);
    let url = database.url.replace("postgres@", &format!("{owner}@"));
    for arguments in [
        &["status", "a"][..],
        &["query", "a", "--count"],
        &["install-triggers", "a"],
        &["remove-triggers", "a"],
    ] {
        let ran = database.pgic(&[arguments, &["-d", &url]].concat());
        assert!(
            ran.code <= 1 && !ran.stderr.contains("not known") && !ran.stdout.contains("foreign"),
            "{arguments:?}: {ran:?}"
        );
    }
    assert!(
        installed(&database).await.is_empty(),
        "the owner removed what the superuser installed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channel_is_kept_where_only_the_function_is_left() {
    // The channel stands in the comment of the function, so it survives the triggers.
    let database = Database::with(TWO).await;
    database.pgic_ok(&["install-triggers", "a", "--channel", "mine"]);
    let drop = "DROP TRIGGER a_cache_notify ON a; DROP TRIGGER a_cache_notify_truncate ON a";
    database.client().await.batch_execute(drop).await.unwrap();
    assert!(
        database
            .pgic_ok(&["install-triggers", "a"])
            .contains("refreshed  mine")
    );
}

/// Returns a statement that creates a function with the name of the one that announces `table`.
fn plant(table: &str) -> String {
    format!(
        "CREATE FUNCTION notify_cache_change_{table}() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN RETURN NULL; END'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_planted_while_it_installs_ends_the_installation() {
    let database = Database::with(TWO).await;
    // 1. The installation has looked: no function of the name is there.
    // 2. A stranger creates one, with CREATE on the schema.
    // 3. CREATE OR REPLACE keeps the stranger as the owner of what pgic installs.
    // So the installation looks again in its transaction, and rolls back what is not as planned.
    let mal = format!("mal_{}", database.name);
    let role = format!("CREATE ROLE {mal} LOGIN; GRANT CREATE ON SCHEMA public TO {mal}");
    let admin = database.client().await;
    admin.batch_execute(&role).await.unwrap();
    // The open transaction makes the installation wait for the name `a`, so that `b` can be planted
    // after its first look.
    let blocker = database.client_as(&mal).await;
    blocker
        .batch_execute(&format!("BEGIN; {}", plant("a")))
        .await
        .unwrap();
    let child = start(
        &database,
        &["install-triggers", "a", "b", "--lock-timeout", "30s"],
    );
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname \
        = current_database()";
    let wait = async {
        while count(&admin, waits).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("the installation waits for the planted name");
    database
        .client_as(&mal)
        .await
        .batch_execute(&plant("b"))
        .await
        .unwrap();
    blocker.batch_execute("ROLLBACK").await.unwrap();
    refused(&ended(child), "notify_cache_change_b");
    // Only the planted function is left: everything else was rolled back.
    let left = installed(&database).await;
    assert!(
        left.len() == 1 && !left[0].contains("cache_notify "),
        "{left:?}"
    );
}

/// A table with columns of types that differ in how they are compared and sent.
const WIDE: &str = "CREATE TABLE w (id int PRIMARY KEY, a text, b numeric, j jsonb, big text);";

#[tokio::test(flavor = "multi_thread")]
async fn chosen_columns_are_sent_alone_and_kept_by_the_next_installation() {
    // A column that is not sent is no part of the cache. A question that needs it is refused with
    // the command that would send it, not answered with "no row".
    let database = Database::with(WIDE).await;
    let shown = database.pgic_ok(&["install-triggers", "w", "--columns", "B,j"]);
    assert!(shown.contains("columns id,b,j"), "{shown}");
    let mut listening = database.listen().await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO w VALUES (1, 'a', 1.10, NULL, repeat('x', 9000))")
        .await
        .unwrap();
    // `big` is too long for a payload, but is not sent. JSON writes a NULL in a json column as it
    // writes a JSON null, so `nulls` names the column.
    let change = listening.changes().await.remove(0);
    assert_eq!(change["data"]["id"], json!(1));
    assert_eq!(change["data"]["j"], json!(null));
    assert_eq!(change["nulls"], json!(["j"]));
    assert_eq!(change["data"].as_object().unwrap().len(), 3);
    assert!(
        database
            .pgic_ok(&["install-triggers", "w"])
            .contains("unchanged")
    );
    assert_eq!(database.pgic(&["status", "w"]).code, 0);
    let status = database
        .pgic(&["status", "w", "-o", "json"])
        .json()
        .remove(0);
    assert_eq!(status["columns"], json!(["id", "b", "j"]));
    assert_eq!(status["options"]["columns"], json!(["id", "b", "j"]));
    let refused_query = database.pgic(&["query", "w", "a=a"]);
    refused(
        &refused_query,
        "the trigger of public.w does not send the column a",
    );
    assert!(
        refused_query
            .stderr
            .contains("hint: send it with: pgic install-triggers public.w --columns id,b,j,a")
    );
    assert_eq!(
        database.pgic_ok(&["query", "w", "b=1.1", "-o", "json"]),
        "{\"id\":1,\"b\":1.10,\"j\":null}\n"
    );
    refused(
        &database.pgic(&["install-triggers", "w", "--columns", "nope"]),
        "has no column nope",
    );
    let defaults = database.pgic_ok(&["install-triggers", "w", "--defaults"]);
    assert!(defaults.contains("columns id,b,j -> none"), "{defaults}");
    // A chosen column is dropped: `status` notices, and another installation leaves the column out
    // and says so.
    database.pgic_ok(&["install-triggers", "w", "--columns", "a"]);
    client
        .batch_execute("ALTER TABLE w DROP COLUMN a")
        .await
        .unwrap();
    assert_eq!(database.pgic(&["status", "w"]).code, 1);
    let refreshed = database.pgic_ok(&["install-triggers", "w"]);
    assert!(
        refreshed.contains("columns id,a -> columns id")
            && refreshed.contains("the column a is gone"),
        "{refreshed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_alone_make_a_cache_read_again() {
    // `--no-data` keeps rows out of payloads, which any role can read. A cache then refetches each
    // row.
    let database = Database::with(WIDE).await;
    database.pgic_ok(&["install-triggers", "w", "--no-data"]);
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute("INSERT INTO w VALUES (1, 'a'); UPDATE w SET id = 2")
        .await
        .unwrap();
    let changes = listening.changes().await;
    assert!(
        changes.iter().all(|change| change.get("data").is_none()),
        "{changes:?}"
    );
    assert_eq!(changes.len(), 3);
    assert_eq!(database.pgic_ok(&["query", "w", "a=a", "--count"]), "1\n");
    assert!(database.pgic_ok(&["status"]).contains("keys alone"));
    refused(
        &database.pgic(&["install-triggers", "w", "--no-data", "--columns", "a"]),
        "cannot be used with",
    );
    database.pgic_ok(&["install-triggers", "w", "--columns", "a"]);
    database
        .client()
        .await
        .batch_execute("UPDATE w SET a = 'b'")
        .await
        .unwrap();
    assert_eq!(
        listening.changes().await[0]["data"],
        json!({"id": 2, "a": "b"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_is_left_out_when_asked() {
    // The comparison is of images, byte by byte: IS DISTINCT FROM calls 1.10 and 1.1 equal, and the
    // cache would keep the digits that the table no longer has.
    let database = Database::with(WIDE).await;
    database.pgic_ok(&["install-triggers", "w", "--on-change", "--columns", "b,j"]);
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO w VALUES (1, 'a', 1.10, '{}')")
        .await
        .unwrap();
    for (update, is_sent) in [
        ("a = 'other'", false),
        ("b = b", false),
        ("b = 1.1", true),
        ("j = '{}'", false),
        ("j = NULL", true),
        ("j = NULL, b = NULL", true),
        ("id = id", false),
        ("id = 2", true),
    ] {
        let mut listening = database.listen().await;
        client
            .batch_execute(&format!("UPDATE w SET {update}"))
            .await
            .unwrap();
        assert_eq!(!listening.short().await.is_empty(), is_sent, "{update}");
    }
    // With keys alone there are no sent columns to compare, so every column counts.
    database.pgic_ok(&["install-triggers", "w", "--on-change", "--no-data"]);
    for (update, is_sent) in [("a = a", false), ("a = 'third'", true)] {
        let mut listening = database.listen().await;
        client
            .batch_execute(&format!("UPDATE w SET {update}"))
            .await
            .unwrap();
        assert_eq!(!listening.short().await.is_empty(), is_sent, "{update}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn always_fires_for_a_replica_too_and_survives_a_replacement() {
    // PostgreSQL makes an ALWAYS trigger an ordinary one when it is replaced, so pgic sets ALWAYS
    // again.
    let database = Database::with(WIDE).await;
    let client = database.client().await;
    client
        .batch_execute("SET session_replication_role = replica")
        .await
        .unwrap();
    for (arguments, sent) in [
        (&["--always"][..], 1),
        (&[], 1),
        (&["--channel", "cache_invalidation"], 1),
        (&["--defaults"], 0),
    ] {
        database.pgic_ok(&[&["install-triggers", "w"], arguments].concat());
        let mut listening = database.listen().await;
        client
            .batch_execute("INSERT INTO w SELECT coalesce(max(id), 0) + 1 FROM w")
            .await
            .unwrap();
        assert_eq!(listening.short().await.len(), sent, "{arguments:?}");
        // Somebody replaces the trigger by hand, which loses its ALWAYS. `status` calls that drift,
        // and the next installation sets it again.
        database
            .client()
            .await
            .batch_execute(
                "DROP TRIGGER w_cache_notify ON w;
                 CREATE TRIGGER w_cache_notify AFTER INSERT ON w FOR EACH ROW EXECUTE FUNCTION \
                 notify_cache_change_w()",
            )
            .await
            .unwrap();
        assert_eq!(database.pgic(&["status", "w"]).code, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_and_the_guard_can_be_left_out() {
    // The guard is an EXCEPTION block, which costs about 10 µs a row in bulk. Without it a trigger
    // that fails also fails the write.
    let database = Database::with(WIDE).await;
    database.pgic_ok(&["install-triggers", "w"]);
    database.pgic_ok(&["install-triggers", "w", "--no-truncate", "--no-guard"]);
    assert_eq!(
        installed(&database)
            .await
            .iter()
            .filter(|line| line.contains("_truncate "))
            .count(),
        0
    );
    assert_eq!(database.pgic(&["status", "w"]).code, 0);
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE w RENAME a TO c")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO w VALUES (1)")
        .await
        .expect_err("without a guard a failure fails the write");
    database.pgic_ok(&["install-triggers", "w", "--defaults"]);
    let mut listening = database.listen().await;
    client
        .batch_execute("INSERT INTO w VALUES (1); TRUNCATE w")
        .await
        .unwrap();
    assert_eq!(listening.short().await, ["insert 1", "truncate null"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_s_function_is_replaced_when_asked_and_its_owner_with_it() {
    // The function of a stranger cannot be replaced in place: the stranger would stay its owner.
    // Triggers that call it must go on working nevertheless.
    let database = Database::with(TWO).await;
    let mal = format!("stranger_{}", database.name);
    let plant = format!(
        "CREATE ROLE {mal}; GRANT CREATE ON SCHEMA public TO {mal}; SET ROLE {mal};
         CREATE FUNCTION notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN \
         NEW; END'; RESET ROLE;
         CREATE TRIGGER mine BEFORE INSERT ON b FOR EACH ROW EXECUTE FUNCTION \
         notify_cache_change_a();"
    );
    let client = database.client().await;
    client.batch_execute(&plant).await.unwrap();
    refused(
        &database.pgic(&["install-triggers", "a"]),
        "is not one that pgic made",
    );
    database.pgic_ok(&["install-triggers", "a", "--replace-function"]);
    let owner: String = client
        .query_one(
            "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'notify_cache_change_a'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(owner, "postgres");
    assert!(
        installed(&database)
            .await
            .iter()
            .any(|line| line.starts_with("b mine")),
        "its triggers survive"
    );
    assert_eq!(database.pgic(&["status", "a"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_is_a_migration_file_with_an_inverse() {
    // A migration tool runs the file, on another database than it was printed from. So the text
    // does not depend on what is installed, and may be run again.
    let database = Database::with(&format!("{WIDE}{TWO}")).await;
    let arguments = ["a", "w", "--print-sql"];
    let up = database.pgic_ok(
        &[
            &[
                "install-triggers",
                "--always",
                "--columns",
                "id",
                "--channel",
                "it's \\ odd",
            ],
            &arguments[..],
        ]
        .concat(),
    );
    let down = database.pgic_ok(&[&["remove-triggers"], &arguments[..]].concat());
    assert!(
        installed(&database).await.is_empty(),
        "printing does nothing"
    );
    let other = Database::with(&format!("{WIDE}{TWO}")).await;
    let client = other.client().await;
    for _ in 0..2 {
        client
            .batch_execute(&up)
            .await
            .expect("the file may be run again");
        assert_eq!(other.pgic(&["status", "a", "w"]).code, 0);
    }
    let again = other.pgic_ok(&["install-triggers", "a", "w"]);
    assert!(
        again.matches("unchanged").count() == 2
            && again.contains("it's \\ odd")
            && again.contains("always"),
        "{again}"
    );
    assert_eq!(
        other.pgic_ok(&["install-triggers", "a", "w", "--print-sql"]),
        up,
        "it is the same whatever is installed"
    );
    for _ in 0..2 {
        client
            .batch_execute(&down)
            .await
            .expect("the inverse may be run again");
        assert!(installed(&other).await.is_empty());
    }
    refused(
        &database.pgic(&["install-triggers", "a", "missing", "--print-sql"]),
        "does not exist",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inverse_takes_away_what_is_there_after_a_key_or_name_is_gone() {
    // A key is not needed to remove triggers. The triggers of a table that was renamed have the
    // names that were made for its old name.
    let sql = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY);
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "a", "b", "parts"]);
    database.pgic_ok(&["install-triggers", "--generic", "c", "other"]);
    let client = database.client().await;
    client
        .batch_execute(
            "ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE parts DROP CONSTRAINT parts_pkey;
            ALTER TABLE b RENAME TO renamed; ALTER TABLE c DROP CONSTRAINT c_pkey;
            ALTER TABLE part RENAME TO old_part",
        )
        .await
        .unwrap();
    let tables = ["a", "renamed", "c", "parts"];
    let down = database.pgic_ok(&[&["remove-triggers", "--print-sql"], &tables[..]].concat());
    for _ in 0..2 {
        client
            .batch_execute(&down)
            .await
            .expect("the inverse may be run again");
        let left = installed(&database).await;
        let strangers = left.iter().filter(|line| {
            !line.starts_with("other ") && !line.starts_with("notify_cache_change()")
        });
        assert_eq!(strangers.count(), 0, "{left:?}");
        assert_eq!(
            left.len(),
            3,
            "the other table keeps what it needs: {left:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inverse_leaves_what_is_not_the_table_s() {
    // `a` has a trigger and a function of our names that somebody else made. `b` has the name that
    // `c`, whose triggers call the function of that name, had before.
    let sql = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
        CREATE FUNCTION notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN RETURN NULL; END';
        CREATE TRIGGER a_cache_notify AFTER UPDATE ON a FOR EACH ROW \
        EXECUTE FUNCTION notify_cache_change_a();";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "b"]);
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE b RENAME TO c; CREATE TABLE b (id int PRIMARY KEY)")
        .await
        .unwrap();
    let before = installed(&database).await;
    assert_eq!(before.len(), 5, "{before:?}");
    for table in ["a", "b"] {
        let down = database.pgic_ok(&["remove-triggers", table, "--print-sql"]);
        client
            .batch_execute(&down)
            .await
            .expect("nothing is in the way");
        assert_eq!(installed(&database).await, before, "{table}: {down}");
    }
    let down = database.pgic_ok(&["remove-triggers", "c", "--print-sql"]);
    client.batch_execute(&down).await.unwrap();
    assert_eq!(installed(&database).await.len(), 2, "{down}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_a_schema_is_done_at_once() {
    // A table that cannot be announced is named and left out: one log table without a key must not
    // keep the others from being installed.
    let sql = "CREATE SCHEMA app; CREATE TABLE app.x (id int PRIMARY KEY); CREATE TABLE app.y (id \
        int PRIMARY KEY);
        CREATE TABLE app.keyless (n int); CREATE VIEW app.v AS SELECT 1; CREATE TABLE public.x (id \
        int PRIMARY KEY);";
    let database = Database::with(sql).await;
    let ran = database.pgic(&["install-triggers", "--all", "--schema", "app"]);
    assert!(
        ran.code == 0
            && ran
                .stderr
                .contains("app.keyless is left out: it has no key"),
        "{ran:?}"
    );
    assert_eq!(ran.stdout.matches("created").count(), 2);
    database.pgic_ok(&["install-triggers", "x"]);
    let removed = database.pgic_ok(&["remove-triggers", "--all", "--schema", "app"]);
    assert_eq!(removed.matches("removed").count(), 2);
    assert_eq!(
        installed(&database).await.len(),
        3,
        "those of other schemas stay"
    );
    refused(&database.pgic(&["install-triggers", "--all"]), "--schema");
    refused(
        &database.pgic(&["install-triggers", "--all", "--schema", "nope"]),
        "the schema nope does not exist",
    );
    refused(
        &database.pgic(&["install-triggers", "x", "--schema", "app"]),
        "cannot be used with",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generic_function_serves_many_tables() {
    // One function for all tables, with the channel as the trigger's argument. What needs code of
    // its own for a table (`--columns`, `--on-change`) is refused.
    let sql = format!("{TWO} CREATE TABLE other (key int PRIMARY KEY);");
    let database = Database::with(&sql).await;
    database.pgic_ok(&["install-triggers", "a", "b", "--generic"]);
    let made = installed(&database).await;
    assert_eq!(
        made.iter()
            .filter(|line| line.starts_with("notify_cache_change()"))
            .count(),
        1,
        "{made:?}"
    );
    assert_eq!(database.pgic(&["status"]).code, 0);
    let mut listening = database.listen().await;
    let client = database.client().await;
    client
        .batch_execute(
            "INSERT INTO a VALUES (1); UPDATE a SET id = 2; INSERT INTO b VALUES (3); \
            TRUNCATE a, b",
        )
        .await
        .unwrap();
    assert_eq!(
        listening.short().await,
        [
            "insert 1",
            "delete 1",
            "update 1>2",
            "insert 3",
            "truncate null",
            "truncate null"
        ]
    );
    client
        .batch_execute("INSERT INTO a VALUES (1)")
        .await
        .unwrap();
    assert_eq!(database.pgic_ok(&["query", "a", "id=1", "--count"]), "1\n");
    // Options of one table do not change another one's, and are kept.
    database.pgic_ok(&[
        "install-triggers",
        "a",
        "--channel",
        "mine",
        "--always",
        "--no-truncate",
    ]);
    for table in ["a", "b"] {
        let again = database.pgic_ok(&["install-triggers", table]);
        assert!(
            again.contains("unchanged") && again.contains("generic"),
            "{again}"
        );
    }
    let status = database
        .pgic(&["status", "a", "-o", "json"])
        .json()
        .remove(0);
    assert_eq!(status["channel"], json!("mine"));
    assert_eq!(status["state"], json!("always"));
    assert_eq!(status["problems"], json!([]));
    for (arguments, because) in [
        (
            &["other", "--generic"][..],
            "needs a key of one column called id",
        ),
        (
            &["a", "--columns", "id"],
            "need a function of the table's own",
        ),
        (
            &["b", "--generic", "--on-change"],
            "need a function of the table's own",
        ),
    ] {
        refused(
            &database.pgic(&[&["install-triggers"], arguments].concat()),
            because,
        );
    }
    let both = database.pgic_ok(&["remove-triggers", "a", "b"]);
    assert!(
        both.matches("removed").count() == 2 && installed(&database).await.is_empty(),
        "{both}"
    );
    database.pgic_ok(&["install-triggers", "a", "b", "--generic"]);
    // `a` goes back to a function of its own. The generic one is dropped with its last trigger.
    database.pgic_ok(&["install-triggers", "a", "--defaults"]);
    database.pgic_ok(&["remove-triggers", "b"]);
    assert!(
        !installed(&database)
            .await
            .iter()
            .any(|line| line.starts_with("notify_cache_change()"))
    );
    database.pgic_ok(&["remove-triggers", "--all", "--yes"]);
    assert!(installed(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_s_own_generic_function_is_left_alone_unless_asked() {
    // The generic function has the name of the specification's, so it is likely that one is there
    // already and that other triggers call it.
    let database = Database::with(&format!(
        "{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}{TWO}"
    ))
    .await;
    let before = installed(&database).await;
    refused(
        &database.pgic(&["install-triggers", "a", "--generic"]),
        "is not one that pgic made",
    );
    assert_eq!(installed(&database).await, before);
    database.pgic_ok(&["install-triggers", "a", "--generic", "--replace-function"]);
    let mut listening = database.listen().await;
    let sql = "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2); INSERT \
        INTO a VALUES (1)";
    database.client().await.batch_execute(sql).await.unwrap();
    let changes = listening.changes().await;
    assert!(
        changes.len() == 2 && changes.iter().all(|change| change["xid"].is_string()),
        "its triggers survive: {changes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_installers_of_one_generic_function_wait_for_each_other() {
    // Tables differ here, but all installers replace one function. PostgreSQL fails the later one
    // of two at once: "tuple concurrently updated".
    let tables: String = (0..6)
        .map(|n| format!("CREATE TABLE t{n} (id int PRIMARY KEY);"))
        .collect();
    for _ in 0..4 {
        let database = Database::with(&tables).await;
        let installers: Vec<_> = (0..6)
            .map(|n| {
                let database = database.clone();
                tokio::task::spawn_blocking(move || {
                    database.pgic(&["install-triggers", &format!("t{n}"), "--generic"])
                })
            })
            .collect();
        for installer in installers {
            let ran = installer.await.unwrap();
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        assert_eq!(database.pgic(&["status"]).code, 0);
    }
}

/// Returns the statement that stands behind `start` in a command's stderr.
fn hint<'a>(ran: &'a Ran, start: &str) -> &'a str {
    let Some((_, found)) = ran.stderr.split_once(start) else {
        panic!("{start} is not advised: {ran:?}");
    };
    found.lines().next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_promises_nothing_that_the_server_would_refuse() {
    // A dry run that passes where the real run is refused is worth nothing: both check owner and
    // privileges first. The advice of each hint is run here, and must really remove the obstacle.
    let database = Database::with(TWO).await;
    let role = format!("{}_guest", database.name);
    let client = database.client().await;
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON a, b TO {role}; CREATE SCHEMA own \
            AUTHORIZATION {role};
             CREATE SCHEMA closed; CREATE TABLE closed.c (id int PRIMARY KEY); GRANT USAGE ON \
             SCHEMA closed TO {role};
             ALTER TABLE closed.c OWNER TO {role}"
        ))
        .await
        .unwrap();
    let guest = Database {
        url: database.url.replace("postgres@", &format!("{role}@")),
        ..database.clone()
    };
    for command in ["install-triggers", "remove-triggers"] {
        for dry_run in [&["--dry-run"][..], &[]] {
            let ran = guest.pgic(&[&[command, "a", "b"], dry_run].concat());
            assert!(
                ran.code == 2 && ran.stderr.contains("public.a belongs to postgres"),
                "{ran:?}"
            );
            assert!(ran.stderr.contains("hint: run it as postgres"), "{ran:?}");
        }
    }
    for dry_run in [&["--dry-run"][..], &[]] {
        let ran = guest.pgic(&[&["install-triggers", "closed.c"], dry_run].concat());
        assert!(
            ran.code == 2
                && ran
                    .stderr
                    .contains("may not create a function in the schema closed"),
            "{ran:?}"
        );
    }
    // The superuser runs what each hint advises, and the command then succeeds.
    let refused = guest.pgic(&["install-triggers", "closed.c"]);
    client
        .batch_execute(hint(&refused, "hint: allow it: "))
        .await
        .unwrap();
    guest.pgic_ok(&["install-triggers", "closed.c"]);
    client
        .batch_execute(&format!(
            "ALTER FUNCTION closed.notify_cache_change_c() OWNER TO postgres; ALTER FUNCTION \
            closed.notify_cache_change_c() COST 7;
             ALTER TABLE closed.c ADD COLUMN more interval; GRANT USAGE ON SCHEMA closed TO {role}"
        ))
        .await
        .unwrap();
    let refused = guest.pgic(&["install-triggers", "closed.c"]);
    client
        .batch_execute(hint(&refused, "hint: give it to the table's owner: "))
        .await
        .unwrap();
    guest.pgic_ok(&["install-triggers", "closed.c"]);
    client
        .batch_execute(
            "DROP TRIGGER c_cache_notify ON closed.c;
             CREATE FUNCTION closed.mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; \
             END';
             CREATE TRIGGER c_cache_notify AFTER INSERT ON closed.c FOR EACH ROW EXECUTE FUNCTION \
             closed.mine()",
        )
        .await
        .unwrap();
    let taken = guest.pgic(&["install-triggers", "closed.c"]);
    let advice = "hint: pgic install-triggers closed.c --replace-trigger takes its place";
    assert!(taken.stderr.contains(advice), "{taken:?}");
    guest.pgic_ok(&["install-triggers", "closed.c", "--replace-trigger"]);
    guest.pgic_ok(&["install-triggers", "closed.c"]);
    let all = guest.pgic(&[
        "install-triggers",
        "--schema",
        "public",
        "--all",
        "--dry-run",
    ]);
    assert!(all.code == 2 && all.stdout.is_empty(), "{all:?}");
    assert_eq!(
        guest.pgic(&["install-triggers", "a", "--print-sql"]).code,
        0,
        "somebody else runs it"
    );
    client
        .batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn install_triggers_warns_of_columns_that_look_like_secrets() {
    // LISTEN needs no privilege: a payload shows a password hash to every role of the database.
    let sql = "CREATE TABLE users (id int PRIMARY KEY, name text, password_hash text, \"apiKey\" \
        text, token text, tokens_used int);
        CREATE TABLE plain (id int PRIMARY KEY, username_hash bigint);";
    let database = Database::with(sql).await;
    for arguments in [
        &["install-triggers", "users", "plain", "--dry-run"][..],
        &["install-triggers", "users", "plain"],
    ] {
        let ran = database.pgic(arguments);
        let warning = "notice: public.users sends password_hash, apiKey, token, tokens_used, which \
            by the name is a secret: any role \
            of the database can LISTEN and read it; to leave it out: --exclude-columns \
            password_hash,apiKey,token,tokens_used\n";
        assert!(
            ran.stderr.contains(warning) && !ran.stderr.contains("plain"),
            "{ran:?}"
        );
    }
    // Columns that are named on purpose are no oversight.
    let ran = database.pgic(&["install-triggers", "users", "--columns", "id,token"]);
    assert!(!ran.stderr.contains("notice"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_accepts_and_says_nothing_is_not_waited_for_without_end() {
    // A firewall or a hung server accepts and stays silent. tokio-postgres bounds the TCP
    // connection alone, not the answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "postgresql://ann@127.0.0.1:{}/d?connect_timeout=1",
        silent.local_addr().unwrap().port()
    );
    for arguments in [
        &["status"][..],
        &["tail"],
        &["query", "t"],
        &["verify", "t"],
        &["shell", "t"],
        &["install-triggers", "t"],
    ] {
        let ran = run(pgic(&[&["-d", &url], arguments].concat()));
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(
            ran.stderr.contains("it did not answer within 1 s"),
            "{ran:?}"
        );
    }
    let config: tokio_postgres::Config = url.parse().unwrap();
    // An application that uses the library is not kept waiting either.
    let opened = Replica::builder(config).open().await;
    assert!(opened.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_go_on_while_locks_are_waited_for() {
    // 1. A writer holds `b`. 2. The installation has locked `a` and waits for `b`.
    // 3. The writer wants `a`: a deadlock, and until then every other writer of `a` waits as well.
    // So locks are taken in short tries, and none is held between two tries.
    let database = Database::with(TWO).await;
    let holder = database.client().await;
    holder
        .batch_execute("BEGIN; INSERT INTO b VALUES (1)")
        .await
        .unwrap();
    let install = start(
        &database,
        &["install-triggers", "a", "b", "--lock-timeout", "30s"],
    );
    let admin = database.client().await;
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'b'::regclass AND NOT granted";
    let writer = database.client().await;
    writer
        .batch_execute("SET lock_timeout = '5s'")
        .await
        .unwrap();
    for n in 0..10 {
        let give_up = Instant::now() + DEADLINE;
        while count(&admin, waits).await == 0 {
            assert!(Instant::now() < give_up, "the installation tries again");
        }
        // At this moment the installation has `a`, and waits for `b`.
        writer
            .execute("INSERT INTO a VALUES ($1)", &[&n])
            .await
            .expect("a writer is not kept waiting");
    }
    holder
        .batch_execute("INSERT INTO a VALUES (100)")
        .await
        .expect("no deadlock");
    holder.batch_execute("COMMIT").await.unwrap();
    let ran = ended(install);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Somebody holds one table for long: after the first try that one is waited for, and nothing held.
#[tokio::test(flavor = "multi_thread")]
async fn one_busy_table_does_not_keep_the_others_locked() {
    let database = Database::with(TWO).await;
    let holder = database.client().await;
    let hold = "BEGIN; INSERT INTO b VALUES (1)";
    holder.batch_execute(hold).await.unwrap();
    let install = start(
        &database,
        &["install-triggers", "a", "b", "--lock-timeout", "30s"],
    );
    let admin = database.client().await;
    // `a` comes first by its name.
    let waits_with_nothing = "SELECT count(*) FROM pg_locks waits
        WHERE waits.relation = 'b'::regclass AND NOT waits.granted AND NOT EXISTS (
            SELECT FROM pg_locks has WHERE has.pid = waits.pid AND has.granted
                AND has.relation = 'a'::regclass AND has.mode = 'ShareRowExclusiveLock')";
    let give_up = Instant::now() + DEADLINE;
    for _ in 0..3 {
        while count(&admin, waits_with_nothing).await == 0 {
            assert!(
                Instant::now() < give_up,
                "the busy table is waited for alone"
            );
        }
    }
    // Another one is busy then.
    let other = database.client().await;
    let hold = "BEGIN; INSERT INTO a VALUES (1)";
    other.batch_execute(hold).await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'a'::regclass AND NOT granted";
    while count(&admin, waits).await == 0 {
        assert!(Instant::now() < give_up, "the other table is waited for");
    }
    other.batch_execute("COMMIT").await.unwrap();
    let ran = ended(install);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// A schema as `--all` takes it: all but some tables, of several schemas, and whether there is
/// anything to do at all.
#[tokio::test(flavor = "multi_thread")]
async fn all_tables_of_several_schemas_but_some_are_checked_and_installed() {
    let database = Database::with(
        "CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.a (id int PRIMARY KEY);
         CREATE TABLE one.logs (id int PRIMARY KEY); CREATE TABLE two.b (id int PRIMARY KEY);",
    )
    .await;
    let chosen = ["--all", "--schema", "one,two", "--exclude", "one.logs"];
    let install = [&["install-triggers"], &chosen[..]].concat();
    let check = [&install[..], &["--check"]].concat();
    let ran = database.pgic(&check);
    assert!(
        ran.code == 1 && ran.stdout.contains("would be created") && !ran.stdout.contains("logs"),
        "{ran:?}"
    );
    assert!(installed(&database).await.is_empty());
    database.pgic_ok(&install);
    assert_eq!(database.pgic(&check).code, 0);
    let unknown = database.pgic(&["install-triggers", "--all", "--schema", "on"]);
    refused(
        &unknown,
        "the schema on does not exist\nhint: one may be meant",
    );

    // Without a terminal nobody can be asked, and a script may mean another database.
    let ran = database.pgic(&["remove-triggers", "--all"]);
    let place = format!(
        "--all would remove the triggers of 2 tables of database {}",
        database.name
    );
    refused(&ran, &place);
    assert!(ran.stderr.contains("hint: give --yes"), "{ran:?}");
    let remove = ["remove-triggers", "--all", "--exclude", "two.b"];
    let mut terminal = Terminal::start(database.command(&remove));
    terminal.sees("remove the triggers of 1 table of database ");
    terminal.sees("? [y/N] ");
    terminal.keys("n\r");
    assert_eq!(terminal.end(), Some(1), "{}", terminal.rest());
    let before = installed(&database).await;
    assert!(before.iter().any(|name| name.contains('a')), "{before:?}");
    let mut terminal = Terminal::start(database.command(&remove));
    terminal.sees("? [y/N] ");
    terminal.keys("y\r");
    assert_eq!(terminal.end(), Some(0), "{}", terminal.rest());
    database.pgic_ok(&["remove-triggers", "--all", "--schema", "two"]);
    assert!(installed(&database).await.is_empty());
}

/// What cannot have triggers is named, and stops the others unless that is asked for. Where nothing
/// is left, nothing is as it should be.
#[tokio::test(flavor = "multi_thread")]
async fn all_leaves_out_what_cannot_have_triggers_and_is_not_content_with_nothing() {
    let database = Database::with(
        "CREATE SCHEMA app; CREATE SCHEMA empty; CREATE TABLE app.a (id int PRIMARY KEY);
         CREATE TABLE app.b (id int PRIMARY KEY); CREATE TABLE app.ours (id int PRIMARY KEY);
         CREATE TABLE app.no_key (id int); CREATE TABLE app.of_extension (id int PRIMARY KEY);
         ALTER EXTENSION plpgsql ADD TABLE app.of_extension;
         CREATE FUNCTION app.notify_cache_change_b() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN RETURN NULL; END'",
    )
    .await;
    let owner = format!("owner_{}", database.name);
    let give = format!(
        "CREATE ROLE {owner} LOGIN; GRANT USAGE, CREATE ON SCHEMA app TO {owner}; ALTER TABLE app.a \
        OWNER TO {owner}; ALTER TABLE app.b OWNER TO {owner}"
    );
    database.client().await.batch_execute(&give).await.unwrap();
    let url = database.url.replace("postgres@", &format!("{owner}@"));
    let before = installed(&database).await;
    let all = ["install-triggers", "--all", "--schema", "app", "-d", &url];
    let ran = database.pgic(&all);
    refused(&ran, "app.b");
    assert_eq!(installed(&database).await, before);
    let ran = database.pgic(&[&all[..], &["--skip-refused"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    for (table, why) in [
        ("app.no_key", "it has no key"),
        ("app.of_extension", "it is a part of the extension plpgsql"),
        ("app.b", "is not one that pgic made"),
        ("app.ours", "belongs to postgres"),
    ] {
        let mut notices = ran.stderr.lines();
        let is_said = notices
            .any(|line| line.contains(&format!("{table} is left out: ")) && line.contains(why));
        assert!(is_said, "{table}: {}", ran.stderr);
    }
    let mut triggers = installed(&database).await;
    triggers.retain(|line| line.contains("_cache_notify"));
    assert_eq!(triggers.len(), 2, "{triggers:?}");
    assert!(
        triggers.iter().all(|line| line.starts_with("app.a ")),
        "{triggers:?}"
    );
    // The same again changes nothing. What is named is never left out.
    let ran = database.pgic(&[&all[..], &["--skip-refused", "--check"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    refused(&database.pgic(&["install-triggers", "app.b"]), "app.b");
    for nothing in [
        &["--schema", "empty"][..],
        &["--schema", "empty", "--check"],
        &["--schema", "app", "--exclude", "app.a,app.b,app.ours"],
    ] {
        let ran = database.pgic(&[&["install-triggers", "--all"], nothing].concat());
        refused(
            &ran,
            "there is no table to install triggers on in the schema",
        );
        assert!(!ran.stderr.contains("as they should be"), "{ran:?}");
    }
}

/// Whoever runs the specification's own trigger takes pgic's in its place in one transaction: no
/// change is lost in between, and none is announced twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_specification_s_trigger_is_taken_over_without_a_gap() {
    let database = Database::with(&format!(
        "{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}
         CREATE TABLE other (id int PRIMARY KEY); CREATE TRIGGER other_cache_notify AFTER INSERT ON
         other FOR EACH ROW EXECUTE FUNCTION notify_cache_change();"
    ))
    .await;
    let mut listening = database.listen().await;
    let writer = database.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let client = writer.client().await;
        let mut count = 0_usize;
        while stopped.try_recv().is_err() {
            let sql = "INSERT INTO users VALUES (gen_random_uuid(), 1, 2)";
            client.batch_execute(sql).await.unwrap();
            count += 1;
        }
        count
    });
    let replace = ["install-triggers", "users", "--replace-trigger"];
    let dry = database.pgic_ok(&[&replace[..], &["--dry-run"]].concat());
    assert!(
        dry.contains("replace trigger \"users_cache_notify\""),
        "{dry}"
    );
    database.pgic_ok(&replace);
    stop.send(()).unwrap();
    let count = writing.await.unwrap();
    assert_eq!(listening.payloads().await.len(), count);
    let status = database.pgic(&["status", "users"]);
    assert!(
        status.code == 0 && status.stdout.contains("enabled\n"),
        "{status:?}"
    );
    // The function is the specification's, and another table calls it.
    let other = "INSERT INTO other VALUES (1)";
    assert_eq!(database.arrives(other).await.len(), 1);
}

/// A DBA who is asked for triggers asks what they cost. The UPDATE must leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_the_triggers_is_measured_and_nothing_is_written() {
    let database = Database::with(
        "CREATE TABLE a (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v text, w text GENERATED \
        ALWAYS AS (v) STORED); CREATE TABLE none (id int PRIMARY KEY); CREATE TABLE p (id int PRIMARY \
        KEY, n int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO \
        (9); INSERT INTO a (v) VALUES ('x'); INSERT INTO p VALUES (1, 1)",
    )
    .await;
    let mut listening = database.listen().await;
    let ran = database.pgic(&[
        "install-triggers",
        "a",
        "none",
        "p",
        "--measure",
        "-o",
        "json",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let measured: Vec<_> = ran
        .json()
        .into_iter()
        .filter(|line| line["event"] == "measure")
        .collect();
    for (table, line) in ["a", "none", "p"].into_iter().zip(&measured) {
        assert_eq!(line["table"], table);
        assert_eq!(
            line["after_triggers_ms"].as_f64() > Some(0.0),
            table != "none"
        );
    }
    assert_eq!(measured[0]["before_triggers_ms"], json!(0.0));
    assert!(listening.payloads().await.is_empty());
    let text = database.pgic_ok(&["install-triggers", "a", "--measure"]);
    assert!(
        text.contains("public.a: an UPDATE of one row takes "),
        "{text}"
    );
}

/// Whoever has the privilege TRIGGER on a table may put a function of theirs there. To measure
/// would run it with the rights of this session.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_measured_where_a_function_of_somebody_else_would_run() {
    let database =
        Database::with("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let mallory = format!("mallory_{}", database.name);
    let sql = format!(
        "CREATE ROLE {mallory}; GRANT CREATE ON SCHEMA public TO {mallory}; GRANT TRIGGER ON a TO \
        {mallory}; SET ROLE {mallory}; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
        RETURN NEW; END'; CREATE TRIGGER t BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION f()"
    );
    database.client().await.batch_execute(&sql).await.unwrap();
    let before = installed(&database).await;
    let ran = database.pgic(&["install-triggers", "a", "--measure"]);
    assert!(
        ran.code == 2
            && ran
                .stderr
                .contains(&format!("runs a function of {mallory}")),
        "{ran:?}"
    );
    // Nothing was installed then, and without the option it is.
    assert_eq!(installed(&database).await, before);
    database.pgic_ok(&["install-triggers", "a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_which_locks_and_how_the_function_changes() {
    let database = Database::with(TWO).await;
    database.pgic_ok(&["install-triggers", "a"]);
    let arguments = ["install-triggers", "a", "--channel", "other", "--dry-run"];
    let text = database.pgic_ok(&arguments);
    for expected in [
        "\n  -     PERFORM pg_catalog.pg_notify('cache_invalidation'",
        "\n  +     PERFORM pg_catalog.pg_notify('other'",
        "locks: SHARE ROW EXCLUSIVE on each table",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let plan = database.pgic(&[&arguments[..], &["-o", "json"]].concat());
    let plan = &plan.json()[1];
    assert_eq!(plan["lock"], "SHARE ROW EXCLUSIVE");
    assert_ne!(plan["old_source"], plan["new_source"]);
    let removal = database.pgic_ok(&["remove-triggers", "a", "--dry-run"]);
    assert!(removal.contains("locks: ACCESS EXCLUSIVE"), "{removal}");
}
