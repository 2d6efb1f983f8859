//! `install-triggers --where`: only the rows that fulfil a condition are announced, and only they
//! are in a cache. A row that ceases to fulfil it must go, and one that begins to must come, by
//! whatever way a writer brings that about.

use crate::support::{DEADLINE, Database, Ran};
use postgres_index_cache_core::tooling::postgres::Replica;
use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use uuid::Uuid;

const ITEMS: &str =
    "CREATE SCHEMA app; CREATE TABLE app.items (id int PRIMARY KEY, n int, v text);";

/// A database with `app.items`, whose rows are announced if `n` is positive.
async fn with_positive(sql: &str) -> Database {
    let database = Database::with(&format!("{ITEMS} {sql}")).await;
    database.pgic_ok(&["install-triggers", "app.items", "--where", "n > 0"]);
    database
}

/// Asserts that a command was refused for the reason `because`.
fn refused(ran: &Ran, because: &str) {
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains(because), "{}", ran.stderr);
}

/// Returns the condition that `status` shows for `app.items`; `null` if there is none.
fn condition(database: &Database) -> serde_json::Value {
    let shown = database.pgic(&["status", "app.items", "-o", "json"]).json();
    let table = shown
        .iter()
        .find(|event| event["event"] == "table")
        .expect("the table");
    table["options"]["where"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_announced_when_it_enters_changes_and_leaves() {
    let database = with_positive("").await;
    for (sql, announced) in [
        (
            "INSERT INTO app.items VALUES (1, 1), (2, 0), (3, NULL)",
            &["insert 1"][..],
        ),
        ("UPDATE app.items SET v = 'x'", &["update 1"]),
        // In, out, and from NULL, which is not true.
        (
            "UPDATE app.items SET n = 5 WHERE id IN (2, 3)",
            &["insert 2", "insert 3"],
        ),
        ("UPDATE app.items SET n = NULL WHERE id = 3", &["delete 3"]),
        ("UPDATE app.items SET n = -1 WHERE id = 2", &["delete 2"]),
        // A changed key: of a row that stays in, leaves, enters, and stays out.
        (
            "UPDATE app.items SET id = 11 WHERE id = 1",
            &["delete 1", "update 1>11"],
        ),
        (
            "UPDATE app.items SET id = 12, n = 0 WHERE id = 11",
            &["delete 11"],
        ),
        (
            "UPDATE app.items SET id = 13, n = 1 WHERE id = 12",
            &["insert 13"],
        ),
        ("UPDATE app.items SET id = 14 WHERE id = 2", &[]),
        ("DELETE FROM app.items WHERE id IN (3, 14)", &[]),
        ("DELETE FROM app.items", &["delete 13"]),
        // Both within one statement.
        (
            "INSERT INTO app.items VALUES (1, 1); INSERT INTO app.items VALUES (1, 0) \
            ON CONFLICT (id) DO UPDATE SET n = excluded.n",
            &["insert 1", "delete 1"],
        ),
        ("TRUNCATE app.items", &["truncate null"]),
    ] {
        let mut listening = database.listen().await;
        database.client().await.batch_execute(sql).await.unwrap();
        assert_eq!(listening.short().await, announced, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_together_with_columns_and_on_change() {
    let database = Database::with(ITEMS).await;
    database.pgic_ok(&[
        "install-triggers",
        "app.items",
        "--where",
        "n > 0",
        "--columns",
        "v",
        "--on-change",
    ]);
    let mut listening = database.listen().await;
    let sql = "INSERT INTO app.items VALUES (1, 1, 'a'), (2, 0, 'b');
        UPDATE app.items SET n = n + 1;
        UPDATE app.items SET n = n + 1;
        UPDATE app.items SET v = 'c' WHERE id = 1;
        UPDATE app.items SET n = 0 WHERE id = 1";
    for statement in sql.split(';') {
        database
            .client()
            .await
            .batch_execute(statement)
            .await
            .unwrap();
    }
    let changes = listening.changes().await;
    // The column of the condition is not sent, and an UPDATE of it alone is no change of a row that
    // stays in.
    let short: Vec<String> = changes.iter().map(crate::support::short).collect();
    assert_eq!(short, ["insert 1", "insert 2", "update 1", "delete 1"]);
    assert_eq!(changes[1]["data"], json!({"id": 2, "v": "b"}));
    assert_eq!(
        database
            .pgic(&["verify", "app.items", "--rounds", "1"])
            .code,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_no_condition_is_refused_and_nothing_is_changed() {
    let database = Database::with(&format!(
        "{ITEMS} CREATE FUNCTION app.now_and_then() RETURNS bool LANGUAGE plpgsql VOLATILE
            AS 'BEGIN RETURN true; END';
        CREATE FUNCTION app.is_hot(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';"
    ))
    .await;
    for (text, because) in [
        ("m > 0", "column \"m\" does not exist"),
        ("n", "boolean"),
        ("now() > '2020-01-01'", "IMMUTABLE"),
        ("app.now_and_then()", "IMMUTABLE"),
        ("n > (SELECT 1)", "subquery"),
        ("count(*) > 1", "aggregate"),
        ("is_hot(n)", "does not exist"),
        ("items IS NOT NULL", "items"),
        ("ctid IS NOT NULL", "system column"),
        ("true); DROP TABLE app.items; --", "syntax error"),
        ("", "syntax error"),
    ] {
        let ran = database.pgic(&["install-triggers", "app.items", "--where", text]);
        refused(&ran, because);
        assert!(ran.stderr.contains("hint: "), "{text}: {}", ran.stderr);
    }
    let sql = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal";
    let client = database.client().await;
    assert_eq!(
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0),
        0
    );
    // Names of other schemas are written with their schema. A comment at the end hides nothing.
    database.pgic_ok(&[
        "install-triggers",
        "app.items",
        "--where",
        "app.is_hot(n) -- hot",
    ]);
    assert_eq!(condition(&database), json!("app.is_hot(n)"));
    let generic = [
        "install-triggers",
        "app.items",
        "--generic",
        "--defaults",
        "--where",
        "n > 0",
    ];
    refused(
        &database.pgic(&generic),
        "need a function of the table's own",
    );
}

/// The columns and tables that the check itself uses are nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_no_obstacle() {
    let database = Database::with(
        r#"CREATE TABLE "pgic_of_row" (id int PRIMARY KEY, one int, other int, pgic_other int,
            changed int, "new" int, "Odd ""Name" text, operation int, is_in bool);
        CREATE TABLE changed (id int PRIMARY KEY, changed int);
        CREATE TABLE pgic_condition (id int PRIMARY KEY, n int);"#,
    )
    .await;
    let condition = r#"one + other + pgic_other + changed + "new" + operation > 0
        AND "Odd ""Name" <> $$it's$$ AND is_in"#;
    database.pgic_ok(&["install-triggers", "pgic_of_row", "--where", condition]);
    database.pgic_ok(&[
        "install-triggers",
        "changed",
        "--where",
        "changed.changed > 0",
    ]);
    database.pgic_ok(&["install-triggers", "pgic_condition", "--where", "n > 0"]);
    let mut listening = database.listen().await;
    let sql = "INSERT INTO pgic_of_row VALUES (1, 1, 1, 1, 1, 1, 'x', 1, true),
            (2, 1, 1, 1, 1, 1, 'it''s', 1, true);
        INSERT INTO changed VALUES (3, 1), (4, 0); INSERT INTO pgic_condition VALUES (5, 1), (6, 0)";
    database.client().await.batch_execute(sql).await.unwrap();
    assert_eq!(
        listening.short().await,
        ["insert 1", "insert 3", "insert 5"]
    );
    for table in ["pgic_of_row", "changed", "pgic_condition"] {
        assert_eq!(database.pgic_ok(&["query", table, "--count"]).trim(), "1");
    }
}

/// A writer whose path finds operators of its own first changes nothing of what is announced.
#[tokio::test(flavor = "multi_thread")]
async fn a_writers_path_does_not_change_what_the_condition_means() {
    let database = Database::with(&format!(
        "{ITEMS} CREATE SCHEMA evil;
        CREATE FUNCTION evil.never(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
        CREATE OPERATOR evil.> (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.never);
        CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.never);
        CREATE DOMAIN evil.text AS int;"
    ))
    .await;
    for (condition, pins) in [
        ("n > 0 AND n IS DISTINCT FROM 7", true),
        (
            "n > 0 AND n IN (1, 3) AND v::text LIKE 'a%' AND -n < 0",
            false,
        ),
    ] {
        database.pgic_ok(&["install-triggers", "app.items", "--where", condition]);
        let client = database.client().await;
        // A path costs each row of a writer, and is pinned only where it must be.
        let sql = "SELECT proconfig IS NOT NULL FROM pg_proc
            WHERE oid = 'app.notify_cache_change_items()'::regprocedure";
        let has_settings: bool = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(has_settings, pins, "{condition}");
        let mut listening = database.listen().await;
        let sql = "SET search_path = evil, pg_catalog;
            INSERT INTO app.items VALUES (1, 1, 'a'), (7, 7, 'a'); DELETE FROM app.items";
        client.batch_execute(sql).await.unwrap();
        assert_eq!(
            listening.short().await,
            ["insert 1", "delete 1"],
            "{condition}"
        );
    }
}

/// A row that is there and is not announced must not pass for one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn commands_say_that_they_know_some_rows_alone() {
    let database = with_positive("INSERT INTO app.items VALUES (1, 0)").await;
    let ran = database.pgic(&["query", "app.items", "1"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("only rows where (n > 0) are announced"),
        "{ran:?}"
    );
    let why = database.pgic_ok(&["why", "app.items", "1"]);
    assert!(
        why.contains("fulfils the condition of the triggers, (n > 0)"),
        "{why}"
    );
    assert!(why.contains("no row of this key is announced"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_until_another_is_given() {
    let database = with_positive("").await;
    assert_eq!(condition(&database), json!("(n > 0)"));
    assert!(
        database
            .pgic_ok(&["status", "app.items"])
            .contains("where (n > 0)")
    );
    for same in [&["--where", "n>0"][..], &["--where", "(n > 0)"], &[]] {
        let arguments = [&["install-triggers", "app.items"], same].concat();
        assert!(
            database.pgic_ok(&arguments).contains("unchanged"),
            "{same:?}"
        );
    }
    let other = database.pgic_ok(&["install-triggers", "app.items", "--where", "n > 1"]);
    assert!(other.contains("refreshed"), "{other}");
    assert_eq!(condition(&database), json!("(n > 1)"));
    database.pgic_ok(&["install-triggers", "app.items", "--where", "true"]);
    assert_eq!(condition(&database), json!(null));
    database.pgic_ok(&["install-triggers", "app.items", "--where", "n > 1"]);
    database.pgic_ok(&["install-triggers", "app.items", "--defaults"]);
    assert_eq!(condition(&database), json!(null));
    // The file of a migration leads to the same triggers.
    let printed = database.pgic_ok(&[
        "install-triggers",
        "app.items",
        "--where",
        "n > 3",
        "--print-sql",
    ]);
    database
        .client()
        .await
        .batch_execute(&printed)
        .await
        .unwrap();
    assert!(
        database
            .pgic_ok(&["install-triggers", "app.items", "--where", "n > 3"])
            .contains("unchanged")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_gone_is_named() {
    let database = with_positive("").await;
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE app.items RENAME n TO m")
        .await
        .unwrap();
    // No writer is hurt.
    client
        .batch_execute("INSERT INTO app.items VALUES (1, 1)")
        .await
        .unwrap();
    let status = database.pgic(&["status", "app.items"]);
    assert_eq!(status.code, 1);
    assert!(
        status
            .stdout
            .contains("looks at the column n, which is gone"),
        "{status:?}"
    );
    refused(
        &database.pgic(&["query", "app.items", "--count"]),
        "which is gone",
    );
    database.pgic_ok(&["install-triggers", "app.items", "--where", "m > 0"]);
    assert_eq!(
        database.pgic_ok(&["query", "app.items", "--count"]).trim(),
        "1"
    );
}

/// The columns are there, and the condition means nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_cannot_be_computed_any_more_is_no_more_called_right() {
    let database = Database::with(
        "CREATE SCHEMA lib; CREATE FUNCTION lib.hot(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE
            AS 'BEGIN RETURN $1 > 0; END';
        CREATE TYPE state AS ENUM ('a', 'b');
        CREATE TABLE a (id int PRIMARY KEY, n int);
        CREATE TABLE b (id int PRIMARY KEY, s state);
        CREATE TABLE c (id int PRIMARY KEY, n int);",
    )
    .await;
    for (table, condition) in [("a", "n > 0"), ("b", "s = 'a'"), ("c", "lib.hot(n)")] {
        database.pgic_ok(&["install-triggers", table, "--where", condition]);
        let status = database.pgic_ok(&["status", table, "-o", "json"]);
        assert!(status.contains("\"problems\":[]"), "{status}");
    }
    let client = database.client().await;
    let sql = "ALTER TABLE a ALTER n TYPE text; ALTER TYPE state RENAME VALUE 'a' TO 'aa';
        ALTER SCHEMA lib RENAME TO lib2;
        INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1, 'aa'); INSERT INTO c VALUES (1, 1)";
    client.batch_execute(sql).await.unwrap();
    for (table, condition) in [("a", "n > '0'"), ("b", "s = 'aa'"), ("c", "lib2.hot(n)")] {
        let status = database.pgic(&["status", table]);
        assert_eq!(status.code, 1, "{status:?}");
        assert!(status.stdout.contains("cannot be computed"), "{status:?}");
        let doctor = database.pgic(&["doctor", table]).stdout;
        assert!(doctor.contains("cannot be computed"), "{doctor}");
        // To install again what is installed would take the warning away and mend nothing.
        let again = database.pgic(&["install-triggers", table]);
        refused(&again, "give another with --where");
        database.pgic_ok(&["install-triggers", table, "--where", condition]);
        assert_eq!(database.pgic(&["status", table]).code, 0);
        assert_eq!(database.pgic_ok(&["query", table, "--count"]).trim(), "1");
    }
}

/// Literals are kept in a form that means the same to every session, also to one whose settings
/// write and read them otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn settings_do_not_change_what_a_literal_means() {
    let database = Database::with(
        "CREATE TABLE dated (id int PRIMARY KEY, d date, f float8, i interval);
        INSERT INTO dated VALUES (1, '2020-01-10', 1.2345679, '-1 day -2 hours'),
            (2, '2020-02-10', 1.2345677, '-1 day +2 hours');",
    )
    .await;
    let client = database.client().await;
    let set = |value: &str| format!("ALTER DATABASE {} {value}", database.name);
    for sql in [
        set("SET datestyle = 'SQL, DMY'"),
        set("SET extra_float_digits = -9"),
        set("SET intervalstyle = 'sql_standard'"),
    ] {
        client.batch_execute(&sql).await.unwrap();
    }
    for (condition, row) in [
        ("d > '2020-02-01'", 2),
        ("f > 1.2345678::float8", 1),
        ("i = interval '-1 day +2 hours'", 2),
        // As the session reads it, which is the person's.
        ("d < '01/02/2020'", 1),
    ] {
        database.pgic_ok(&["install-triggers", "dated", "--where", condition]);
        let again = database.pgic_ok(&["install-triggers", "dated"]);
        assert!(again.contains("unchanged"), "{condition}: {again}");
        for style in ["'ISO, MDY'", "'SQL, DMY'"] {
            let sql = set(&format!("SET datestyle = {style}"));
            client.batch_execute(&sql).await.unwrap();
            let shown = database.pgic_ok(&["query", "dated", "--columns", "id", "-o", "json"]);
            assert_eq!(
                shown.trim(),
                format!(r#"{{"id":{row}}}"#),
                "{condition} {style}"
            );
            let mut listening = database.listen().await;
            let writer = database.client().await;
            writer
                .batch_execute("UPDATE dated SET d = d")
                .await
                .unwrap();
            assert_eq!(
                listening.short().await,
                [format!("update {row}")],
                "{condition}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_may_be_called_like_a_keyword_and_a_condition_may_be_a_case() {
    let database = Database::with(
        "CREATE TABLE k (id int PRIMARY KEY, begin int, if int, loop int, execute int);",
    )
    .await;
    let case = "CASE WHEN begin > 1 THEN if > 0 ELSE loop IS NULL AND execute IS NULL END";
    for (condition, announced) in [
        ("-begin < 0", &["insert 1", "insert 2"][..]),
        (case, &["insert 2"]),
    ] {
        let install = ["install-triggers", "k", "--no-guard", "--where", condition];
        database.pgic_ok(&install);
        let mut listening = database.listen().await;
        let sql = "INSERT INTO k VALUES (1, 1, 1, 1, 1), (2, 2, 2, 2, 2), (3, 0, 1, 1, 1)";
        let client = database.client().await;
        client.batch_execute(sql).await.unwrap();
        assert_eq!(listening.short().await, announced, "{condition}");
        client.batch_execute("DELETE FROM k").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_says_the_same_in_other_words_is_obeyed_once() {
    let database = Database::with(ITEMS).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgic.toml");
    let pgic = |condition: &str, arguments: &[&str]| {
        let text = format!("[tables.\"app.items\"]\nwhere = \"{condition}\"\n");
        std::fs::write(&file, text).unwrap();
        let config = ["--config", file.to_str().unwrap()];
        database.pgic(&[arguments, &config].concat())
    };
    for condition in ["n  >  0", "n>0", "true", " TRUE"] {
        let installed = pgic(condition, &["install-triggers", "--from-config"]);
        assert_eq!(installed.code, 0, "{installed:?}");
        let status = pgic(condition, &["status", "app.items"]);
        assert_eq!(status.code, 0, "{condition}: {status:?}");
        let check = pgic(condition, &["install-triggers", "--from-config", "--check"]);
        assert_eq!(check.code, 0, "{condition}: {check:?}");
    }
    assert_eq!(condition(&database), json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_has_the_rows_that_fulfil_it() {
    let database = with_positive(
        "INSERT INTO app.items SELECT i, i % 3 - 1, 'v' || i FROM generate_series(1, 300) i",
    )
    .await;
    assert_eq!(
        database.pgic_ok(&["query", "app.items", "--count"]).trim(),
        "100"
    );
    let absent = database.pgic(&["query", "app.items", "1"]);
    assert_eq!(absent.code, 1, "{absent:?}");
    database.pgic_ok(&["query", "app.items", "2"]);
    assert_eq!(
        database
            .pgic(&["verify", "app.items", "--rounds", "1"])
            .code,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_triggers_that_write_again_change_nothing_of_that() {
    // 1. An UPDATE keeps the row in. 2. A trigger of the writer's, which fires before ours, takes it
    // out: that is announced first. 3. What the UPDATE itself wrote is announced behind it.
    let database = Database::with(
        "CREATE SCHEMA app;
        CREATE TABLE app.items (id int PRIMARY KEY, n int, v text) PARTITION BY RANGE (id);
        CREATE TABLE app.low PARTITION OF app.items FOR VALUES FROM (0) TO (100);
        CREATE TABLE app.high PARTITION OF app.items FOR VALUES FROM (100) TO (200);
        CREATE FUNCTION app.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.v = 'out' THEN UPDATE app.items SET n = 0, v = 'was' WHERE id = NEW.id;
            ELSIF NEW.v = 'in' THEN UPDATE app.items SET n = 1, v = 'is' WHERE id = NEW.id; END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER a_first AFTER INSERT OR UPDATE ON app.items FOR EACH ROW
            EXECUTE FUNCTION app.again();
        INSERT INTO app.items SELECT i, i % 2 FROM generate_series(1, 150) i;",
    )
    .await;
    database.pgic_ok(&["install-triggers", "app.items", "--where", "n > 0"]);
    let statements = [
        "UPDATE app.items SET v = 'out', n = 1 WHERE id BETWEEN 1 AND 40",
        "UPDATE app.items SET v = 'in', n = 0 WHERE id BETWEEN 20 AND 60",
        "UPDATE app.items SET v = 'in' WHERE id BETWEEN 110 AND 120",
        "UPDATE app.items SET id = id + 99 WHERE id BETWEEN 70 AND 75",
        "UPDATE app.items SET id = id - 99 WHERE id BETWEEN 169 AND 174",
        "DELETE FROM app.items WHERE id = 5",
        "INSERT INTO app.items VALUES (5, 1, 'out')",
    ];
    let verified = database
        .verify_while_running("app.items", &statements)
        .await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[derive(Deserialize)]
struct Item {
    id: Uuid,
}

impl HasPrimaryKey for Item {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Item {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::new()
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Other rows belong into a cache as soon as the triggers are those of another condition, whose
/// commit sends a request to read the table again.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_cache_follows_another_condition() {
    let database = Database::with(
        "CREATE TABLE items (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int);
        INSERT INTO items (n) SELECT i FROM generate_series(1, 10) i;",
    )
    .await;
    database.pgic_ok(&["install-triggers", "items", "--where", "n > 8"]);
    let mut builder = Replica::builder(database.url.parse::<tokio_postgres::Config>().unwrap());
    let items = builder.table::<Item>("items");
    let replica = builder.open().await.unwrap();
    assert_eq!(replica.read(&items).len(), 2);
    for (condition, rows) in [("n > 3", 7), ("n > 9", 1), ("true", 10), ("n IS NULL", 0)] {
        database.pgic_ok(&["install-triggers", "items", "--where", condition]);
        let fence = tokio::time::timeout(DEADLINE, replica.fence());
        fence.await.expect("the fence returns").unwrap();
        let read = replica.read(&items);
        assert_eq!(read.len(), rows, "{condition}: {:?}", read.status());
        assert!(read.is_live(), "{condition}: {:?}", read.status());
    }
    replica.shutdown().await;
}

/// The condition is the owner's code, and a superuser's read would run it with all rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_runs_no_function_of_an_owners_condition() {
    let database = Database::with("").await;
    let role = format!("owner_of_{}", database.name);
    let client = database.client().await;
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA app AUTHORIZATION {role};
            SET ROLE {role};
            CREATE TABLE app.log (what text);
            CREATE TABLE app.items (id int PRIMARY KEY, n int, state varchar(9), at timestamptz);
            INSERT INTO app.items VALUES (1, 1, 'new', now()), (2, 0, 'old', now());
            CREATE FUNCTION app.evil(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
                IF current_user <> '{role}' THEN RAISE 'ran as %', current_user; END IF;
                RETURN $1 > 0; END $$;
            RESET ROLE;"
        ))
        .await
        .unwrap();
    let owner = database.as_role(&role);
    let install = |condition: &str| {
        owner.pgic_ok(&["install-triggers", "app.items", "--where", condition]);
    };
    let count = ["query", "app.items", "--count"];
    install("app.evil(n)");
    assert_eq!(owner.pgic_ok(&count).trim(), "1");
    refused(&database.pgic(&count), "with the rights of this role");
    // Whatever the comment says, not only what pgic would have put there.
    for planted in [
        "evil(n)",
        "(SELECT app.evil(n))",
        "pg_read_file('x') IS NULL",
        "n = 1 OR E'\\\\'' = ''",
        "true)) TO PROGRAM 'false' --",
        "true --\\r AND app.evil(n)",
        "€1.€(n)",
        "'\\\\'' IS NOT NULL AND app.evil(n)) --'",
    ] {
        install("n > 0");
        let sql = "SELECT obj_description('app.notify_cache_change_items()'::regprocedure)";
        let comment: String = client.query_one(sql, &[]).await.unwrap().get(0);
        let planted = comment.replace(r#""sql":"(n > 0)""#, &format!(r#""sql":"{planted}""#));
        assert_ne!(planted, comment);
        let plant = format!(
            "COMMENT ON FUNCTION app.notify_cache_change_items() IS '{}'",
            planted.replace('\'', "''")
        );
        client.batch_execute(&plant).await.unwrap();
        for arguments in [&count[..], &["why", "app.items", "1"]] {
            let ran = database.pgic(arguments);
            assert_eq!(ran.code, 2, "{planted}: {ran:?}");
            assert!(!ran.stderr.contains("ran as"), "{planted}: {ran:?}");
        }
        owner.pgic_ok(&["install-triggers", "app.items", "--defaults"]);
    }
    // What is PostgreSQL's own alone.
    for plain in [
        "n > 0",
        "state = 'new'",
        "at > '2020-01-01' AND n IN (1, 3)",
        "n BETWEEN 1 AND 1.5",
    ] {
        install(plain);
        assert_eq!(database.pgic_ok(&count).trim(), "1", "{plain}");
    }
    // To plan a query of the table would compute the constant of this index.
    let sql = format!(
        "SET ROLE {role};
        CREATE FUNCTION app.one() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF current_user <> '{role}' THEN
                RAISE 'ran as %', current_user USING ERRCODE = '22012'; END IF;
            RETURN 1; END $$;
        CREATE INDEX ON app.items ((n + app.one()));
        RESET ROLE"
    );
    client.batch_execute(&sql).await.unwrap();
    for command in ["status", "doctor"] {
        let ran = database.pgic(&[command, "app.items"]);
        assert!(!ran.stdout.contains("ran as"), "{ran:?}");
    }
}
