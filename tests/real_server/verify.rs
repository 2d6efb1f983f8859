//! `verify`: compares a cache with its table at one exact cut, raises no false alarm under load,
//! and names each way to lose a change.

use crate::support::load::{TABLE, transaction};
use crate::support::{DEADLINE, Database, Ran, ended};
use pgic::causes::LastHeard;
use pgic::connect::{ConnectionOptions, Environment, Server};
use pgic::tables::bounds::Bounds;
use pgic::tables::catalog;
use pgic::triggers::observe::observe;
use pgic::{causes, tables};
use postgres_index_cache_core::tooling::postgres::{
    ComparisonReport, Driver, DriverEvent, DriverOptions, TableConfig, Verification,
};
use postgres_index_cache_core::tooling::sync::TableId;
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_postgres::Client;

/// Returns a table's configuration as `pgic verify` makes it, but without the triggers that must be
/// there. No look mends a fault then: the rows that are lost must be found.
pub async fn follow(database: &Database, name: &str) -> (Server, TableConfig, DriverOptions) {
    let options = ConnectionOptions {
        database_url: Some(database.url.clone()),
        ..ConnectionOptions::default()
    };
    let server = Server::new(&options, &Environment::default(), "test").unwrap();
    let mut client = database.client().await;
    let table = catalog::resolve(
        &catalog::reading(&mut client).await.unwrap(),
        &[name.to_string()],
    )
    .await
    .unwrap()
    .remove(0);
    let seen = observe(&table);
    let shown = tables::shown(&table, seen.as_ref());
    let shape = tables::shape(&table, |column| shown.contains(&column.name)).unwrap();
    let follow = TableConfig {
        announced_by: Vec::new(),
        ..tables::follow(&table, seen.as_ref(), &shape)
    };
    let mut options = tables::options(
        vec!["cache_invalidation".to_string()],
        Bounds::of_memory(1 << 30),
    );
    options.limits.watch_ddl = false;
    (server, follow, options)
}

/// Compares the cache of the only table, again if a comparison is inconclusive.
async fn compare(driver: &mut Driver) -> ComparisonReport {
    let verified = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Verification::Compared(comparison) = driver.verify(TableId(0)).await.unwrap() {
                return comparison;
            }
        }
    });
    verified
        .await
        .expect("a comparison is conclusive in the end")
}

/// Loads the table `kv` of a database made by `set_up`, runs the SQL `lose`, and returns the
/// findings with their likely causes: `Stale 1 v: …` for the key 1, whose column v differs.
async fn lost(set_up: &str, install: &[&str], lose: &str) -> Vec<String> {
    let losing = lost_by(set_up, install, async |database| {
        database.client().await.batch_execute(lose).await.unwrap();
    });
    Box::pin(losing).await
}

/// Does as [`lost`] does, with a function in place of SQL.
async fn lost_by(set_up: &str, install: &[&str], lose: impl AsyncFnOnce(&Database)) -> Vec<String> {
    let database = Database::with(set_up).await;
    if !install.is_empty() {
        database.pgic_ok(install);
    }
    let mut client = database.client().await;
    let (server, follow, options) = follow(&database, "kv").await;
    let oid = follow.followed.oid;
    let mut driver = Driver::open(server, vec![follow], options).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    assert_eq!(
        compare(&mut driver).await.differing(),
        0,
        "nothing is lost yet"
    );
    // The causes ask whether a change of the row was received at all.
    driver.record_row_events();
    lose(&database).await;
    driver.fence().await.unwrap();
    let comparison = compare(&mut driver).await;
    let heard = driver
        .take_events()
        .filter_map(|event| match event {
            DriverEvent::Row { by, .. } => by,
            _ => None,
        })
        .last();
    let table = catalog::describe(&catalog::reading(&mut client).await.unwrap(), &[oid])
        .await
        .unwrap()
        .remove(0);
    let seen = observe(&table);
    let sql = "SELECT id::text, xmin::text FROM kv";
    let rows = client.query(sql, &[]).await.unwrap();
    let written_by: HashMap<String, u32> = rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, &str>(1).parse().unwrap()))
        .collect();
    comparison
        .findings
        .iter()
        .map(|found| {
            let heard = heard.map(|heard| LastHeard {
                sender: "process 1".to_string(),
                xid: heard.xid,
                written_by: written_by.get(&found.key).copied(),
            });
            let cause = causes::likely(
                &table,
                seen.as_ref(),
                "cache_invalidation",
                found.kind,
                &found.columns,
                heard.as_ref(),
            );
            let columns: Vec<&str> = found
                .columns
                .iter()
                .map(|column| column.column.as_str())
                .collect();
            format!(
                "{:?} {} {}: {cause}",
                found.kind,
                found.key,
                columns.join(",")
            )
        })
        .collect()
}

/// Checks that there is one finding, which starts with `start` and names `cause`, and returns it.
fn only<'a>(findings: &'a [String], start: &str, cause: &str) -> &'a str {
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with(start) && findings[0].contains(cause),
        "{findings:?}"
    );
    &findings[0]
}

const ROWS: &str = "CREATE TABLE kv (id int PRIMARY KEY, v text, n bigint); INSERT INTO kv VALUES \
    (1, 'a', 1), (2, 'b', 2);";
const INSTALL: [&str; 2] = ["install-triggers", "kv"];

/// Lets the trigger notify on a channel that nobody listens on, and deletes a row.
async fn notify_elsewhere(database: &Database) {
    database.pgic_ok(&["install-triggers", "kv", "--channel", "elsewhere"]);
    database
        .client()
        .await
        .batch_execute("DELETE FROM kv WHERE id = 2")
        .await
        .unwrap();
}

/// Whoever finds a stale row must know which of many causes to mend. Each of these loses a change
/// that a writer did commit, or changes a row that nobody did.
#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_lose_a_change_is_found_and_named() {
    let found = lost(ROWS, &[], "UPDATE kv SET v = 'x' WHERE id = 1").await;
    only(
        &found,
        "Stale 1 v:",
        "no trigger announces changes of public.kv",
    );

    let found = lost(
        ROWS,
        &INSTALL,
        "ALTER TABLE kv DISABLE TRIGGER kv_cache_notify; INSERT INTO kv VALUES (3, 'c', 3)",
    )
    .await;
    only(
        &found,
        "Missing 3 :",
        "the trigger kv_cache_notify of public.kv is disabled",
    );

    // A restore or a replication tool writes like this, and no trigger fires.
    let replica = "SET session_replication_role = replica; DELETE FROM kv WHERE id = 2";
    let found = lost(ROWS, &INSTALL, replica).await;
    only(&found, "Ghost 2 :", "session_replication_role = replica");
    assert!(found[0].contains("--always"), "{found:?}");

    let found = lost(
        ROWS,
        &["install-triggers", "kv", "--no-truncate"],
        "TRUNCATE kv",
    )
    .await;
    assert!(
        found.len() == 2
            && found
                .iter()
                .all(|found| found.contains("no trigger announces TRUNCATE")),
        "{found:?}"
    );

    // The function's name and comment stay as they were.
    let moved = lost(
        ROWS,
        &INSTALL,
        "CREATE OR REPLACE FUNCTION notify_cache_change_kv() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RETURN NULL; END $$;
         UPDATE kv SET n = 9 WHERE id = 1",
    )
    .await;
    only(&moved, "Stale 1 n:", "edited by hand");

    // The row was announced once, and then changed in silence: nobody has forged anything.
    let announced = "BEGIN; UPDATE kv SET v = 'x' WHERE id = 1; COMMIT;
        SET session_replication_role = replica;";
    let found = lost(
        ROWS,
        &INSTALL,
        &format!("{announced} UPDATE kv SET v = 'y' WHERE id = 1"),
    )
    .await;
    only(
        &found,
        "Stale 1 v: written again after the last notification about it, and nothing told of that: \
        under session_replication_role = replica",
        "--always; or that notification, sent by process 1, was forged",
    );
    let found = lost(
        ROWS,
        &INSTALL,
        &format!("{announced} DELETE FROM kv WHERE id = 1"),
    )
    .await;
    only(
        &found,
        "Ghost 1 : deleted after the last notification about it, and nothing told of that",
        "or that notification, sent by process 1, was forged",
    );

    let forged = concat!(
        r#"NOTIFY cache_invalidation, '{"table":"kv","action":"update","id":1,"schema":"public","#,
        r#""xid":"9999999","data":{"id":1,"v":"forged","n":1}}'"#
    );
    let found = lost(ROWS, &INSTALL, forged).await;
    only(
        &found,
        "Stale 1 v: a notification about the row says otherwise: a forged one",
        "sent by process 1",
    );

    // A trigger of the right name that misses some of the updates.
    let narrowed =
        "DROP TRIGGER kv_cache_notify ON kv; CREATE TRIGGER kv_cache_notify AFTER INSERT OR UPDATE \
        OF v OR DELETE ON kv
        FOR EACH ROW EXECUTE FUNCTION notify_cache_change_kv(); UPDATE kv SET n = 9 WHERE id = 1";
    let found = lost(ROWS, &INSTALL, narrowed).await;
    only(&found, "Stale 1 n:", "a condition or a list of columns");

    let conditional = "DROP TRIGGER kv_cache_notify ON kv; CREATE TRIGGER kv_cache_notify AFTER \
        INSERT OR UPDATE OR DELETE ON kv
        FOR EACH ROW WHEN (pg_trigger_depth() > 7) EXECUTE FUNCTION notify_cache_change_kv(); \
        INSERT INTO kv VALUES (3, 'c', 3)";
    let found = lost(ROWS, &INSTALL, conditional).await;
    only(&found, "Missing 3 :", "a condition or a list of columns");

    let found = Box::pin(lost_by(ROWS, &INSTALL, notify_elsewhere)).await;
    only(
        &found,
        "Ghost 2 :",
        "notifies on elsewhere now, and cache_invalidation was listened to",
    );
}

/// Findings are kept up to a number, so that a wholly wrong cache costs no memory. The counts must
/// go on, or 12,001 wrong rows would look like a few.
#[tokio::test(flavor = "multi_thread")]
async fn every_row_that_differs_is_counted_by_its_kind_also_past_those_that_are_kept() {
    let database = Database::with(
        "CREATE TABLE kv (id int PRIMARY KEY, v text, n bigint); INSERT INTO kv SELECT n, 'a', n \
        FROM generate_series(1, 24000) n",
    )
    .await;
    database.pgic_ok(&INSTALL);
    let (server, follow, options) = follow(&database, "kv").await;
    let mut driver = Driver::open(server, vec![follow], options).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    // More of each kind than are kept.
    let unannounced = "SET session_replication_role = replica; DELETE FROM kv WHERE id <= 6000; \
        UPDATE kv SET v = 'b' WHERE id > 18000;
        INSERT INTO kv VALUES (30000, 'c', 1)";
    database
        .client()
        .await
        .batch_execute(unannounced)
        .await
        .unwrap();
    let comparison = compare(&mut driver).await;
    assert_eq!(
        (comparison.missing, comparison.stale, comparison.ghosts),
        (1, 6000, 6000)
    );
    assert_eq!(
        (comparison.differing(), comparison.findings.len()),
        (12001, ComparisonReport::FINDINGS)
    );
}

/// The specification's payloads cannot say everything, and a partition can be silent while the
/// table looks right. Both must be named, and not the trigger that is in order.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_plain_form_and_a_silent_partition_lose_is_named() {
    // x, y, x in one transaction: PostgreSQL folds the last payload into the first, so y comes
    // last.
    let plain = format!(
        "{ROWS}{} CREATE TRIGGER kv_cache_notify AFTER INSERT OR UPDATE OR DELETE ON kv FOR EACH \
        ROW EXECUTE FUNCTION notify_cache_change();
         CREATE TRIGGER t AFTER TRUNCATE ON kv EXECUTE FUNCTION notify_cache_change();",
        crate::support::SPECIFICATION
    );
    let folded = "BEGIN; UPDATE kv SET v = 'x' WHERE id = 1; UPDATE kv SET v = 'y' WHERE id = 1; \
        UPDATE kv SET v = 'x' WHERE id = 1; COMMIT";
    let found = lost(&plain, &[], folded).await;
    only(&found, "Stale 1 v:", "plain form");
    let found = lost(&plain, &[], "UPDATE kv SET id = 7 WHERE id = 1").await;
    only(&found, "Ghost 1 :", "plain form");

    let partitioned = "CREATE TABLE kv (id int PRIMARY KEY, v text, n bigint) PARTITION BY RANGE \
        (id);
        CREATE TABLE kv_1 PARTITION OF kv FOR VALUES FROM (0) TO (10); INSERT INTO kv VALUES (1, \
        'a', 1);";
    let silent = "DROP TRIGGER IF EXISTS kv_cache_notify_truncate ON kv_1;
        DO $$ DECLARE name text; BEGIN FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = \
        'kv_1'::regclass AND tgtype & 32 <> 0
            LOOP EXECUTE format('DROP TRIGGER %I ON kv_1', name); END LOOP; END $$; TRUNCATE kv_1";
    let found = lost(partitioned, &INSTALL, silent).await;
    only(
        &found,
        "Ghost 1 :",
        "TRUNCATE of public.kv's partitions public.kv_1 is not announced",
    );
    let found = lost(
        partitioned,
        &INSTALL,
        "ALTER TABLE kv_1 DISABLE TRIGGER ALL; INSERT INTO kv VALUES (2, 'b', 2)",
    )
    .await;
    only(
        &found,
        "Missing 2 :",
        "the trigger kv_cache_notify of public.kv is disabled on a partition",
    );
}

/// A comparison runs while writers go on. The cache is compared with exactly the transactions that
/// its snapshot sees, or every busy table would look wrong. `PGIC_VERIFY_ROUNDS` sets how many
/// comparisons are made; 40 if it is not set.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_round_raises_a_false_alarm() {
    Box::pin(no_false_alarm(&["install-triggers", "kv"])).await;
}

/// Rows enter and leave all the time.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_round_raises_a_false_alarm_with_a_condition() {
    let install = ["install-triggers", "kv", "--where", "n % 2 = 0 OR v = 'a'"];
    Box::pin(no_false_alarm(&install)).await;
}

/// Statements are announced packed.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_round_raises_a_false_alarm_with_statement_triggers() {
    Box::pin(no_false_alarm(&["install-triggers", "kv", "--bulk"])).await;
}

/// Installs triggers on `kv`, and compares it with its cache while writers go on.
async fn no_false_alarm(install: &[&str]) {
    let rounds =
        std::env::var("PGIC_VERIFY_ROUNDS").map_or(40, |text| text.parse().expect("a number"));
    let database = Database::with(TABLE).await;
    database.pgic_ok(install);
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for seed in 0..3 {
        let client = database.client().await;
        let stop = Arc::clone(&stop);
        let commits = Arc::clone(&commits);
        writers.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            while !stop.load(Ordering::Relaxed) {
                // Writers may deadlock with each other, and the server ends one of them.
                if client
                    .batch_execute(&transaction(&mut random))
                    .await
                    .is_err()
                {
                    client.batch_execute("ROLLBACK").await.expect("roll back");
                }
                commits.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let (server, follow, options) = follow(&database, "kv").await;
    let mut driver = Driver::open(server, vec![follow], options).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let mut counted = 0;
    let mut inconclusive = 0;
    // Changes must have come: comparisons of a table at rest prove little.
    while counted < rounds || driver.engine().counters().applied < 50 {
        match tokio::time::timeout(DEADLINE, driver.verify(TableId(0)))
            .await
            .expect("a comparison ends")
            .unwrap()
        {
            Verification::Compared(comparison) => {
                assert_eq!(comparison.findings, Vec::new(), "round {counted}");
                counted += 1;
            }
            Verification::Inconclusive(_) => inconclusive += 1,
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let counters = driver.engine().counters();
    println!(
        "{counted} comparisons, {inconclusive} inconclusive, {} commits, {counters:?}",
        commits.load(Ordering::Relaxed)
    );
    // The changes that the last comparison held back are in the cache as well.
    driver.fence().await.unwrap();
    assert_eq!(compare(&mut driver).await.differing(), 0);
}

/// An equal cache proves something only if changes came. The exit code is for scripts, so an equal
/// table on which nothing happened must be told from one that was followed through changes.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_equal_and_how_many_changes_that_rests_on() {
    let database = Database::with(ROWS).await;
    database.pgic_ok(&INSTALL);
    let ran = database.pgic(&["verify", "kv", "--rounds", "2"]);
    let round =
        "equal    public.kv  2 rows at one exact cut, but no change came: nothing was proven\n";
    assert_eq!(
        (ran.code, ran.stdout),
        (0, round.repeat(2)),
        "{}",
        ran.stderr
    );
    let ran = database.pgic(&["verify", "kv", "--rounds", "1", "--min-changes", "1"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("--min-changes"),
        "{ran:?}"
    );
    let client = database.client().await;
    let ran = verify_while(&database, &client, &[]).await;
    assert!(
        ran.code == 0 && ran.stdout.contains(" changes in "),
        "{ran:?}"
    );
    let json = database
        .pgic(&["verify", "kv", "--rounds", "1", "-o", "json"])
        .json();
    assert_eq!(json.len(), 3);
    assert!(
        json[1]["verdict"] == "unproven" && json[2]["equal"] == true && json[2]["rows"] == 2,
        "{json:?}"
    );
    assert_eq!(database.pgic(&["verify", "nowhere"]).code, 2);
    assert_eq!(
        database
            .pgic(&["verify", "kv", "--for", "1s", "--rounds", "1"])
            .code,
        2
    );
}

/// Runs `verify kv` for a second while `writer` changes a row again and again.
async fn verify_while(database: &Database, writer: &Client, more: &[&str]) -> Ran {
    let arguments = [&["verify", "kv", "--for", "1s"], more].concat();
    let mut child = database
        .command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        writer
            .batch_execute("UPDATE kv SET n = n + 1 WHERE id = 2")
            .await
            .unwrap();
    }
    ended(child)
}

/// A table whose trigger is silent can be equal all the same, as long as nobody writes. `verify`
/// does not call such a table equal: the next write would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_unannounced_of_a_table_whose_trigger_is_silent() {
    let database = Database::with(ROWS).await;
    database.pgic_ok(&INSTALL);
    let client = database.client().await;
    client
        .batch_execute("ALTER TABLE kv DISABLE TRIGGER kv_cache_notify")
        .await
        .unwrap();
    let ran = database.pgic(&["verify", "kv", "--rounds", "1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let said = "unannounced  public.kv  the trigger kv_cache_notify of public.kv is disabled; \
        enable it: pgic install-triggers public.kv\n";
    assert_eq!(ran.stdout, said, "{ran:?}");
    let json = database
        .pgic(&["verify", "kv", "--rounds", "1", "-o", "json"])
        .json();
    assert!(
        json[1]["verdict"] == "unannounced" && json[1]["problem"]["code"] == "trigger-disabled",
        "{json:?}"
    );
    assert!(
        json[2]["equal"] == false && json[2]["unannounced"] == 1,
        "{json:?}"
    );
    client
        .batch_execute(
            "DROP TRIGGER kv_cache_notify ON kv; DROP TRIGGER kv_cache_notify_truncate ON kv",
        )
        .await
        .unwrap();
    let ran = database.pgic(&["verify", "kv", "--rounds", "1"]);
    assert!(
        ran.code == 1
            && ran
                .stdout
                .starts_with("unannounced  public.kv  no trigger announces"),
        "{ran:?}"
    );
    // Installed again, the table is in order again.
    database.pgic_ok(&INSTALL);
    assert_eq!(database.pgic(&["verify", "kv", "--rounds", "1"]).code, 0);
}

/// A finding names the row, the column and the likely cause, in JSON as in text.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_which_row_differs_and_why() {
    let database = Database::with(ROWS).await;
    database.pgic_ok(&INSTALL);
    // Somebody writes past the trigger, again and again, until the comparison is done.
    let client = database.client().await;
    client
        .batch_execute("SET session_replication_role = replica")
        .await
        .unwrap();
    let ran = verify_while(&database, &client, &["-o", "json"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let lines = ran.json();
    assert!(
        lines[1]["event"] == "finding" && lines[1]["kind"] == "stale" && lines[1]["key"] == 2,
        "{lines:?}"
    );
    assert!(
        lines[1]["columns"][0]["column"] == "n"
            && lines[1]["cause"].as_str().unwrap().contains("replica"),
        "{lines:?}"
    );
    assert!(
        lines[2]["verdict"] == "differs" && lines[3]["stale"] == 1 && lines[3]["equal"] == false,
        "{lines:?}"
    );
}

/// The payloads that [`forged`] starts from: sound ones, hostile ones, and no JSON at all.
const SEEDS: [&str; 10] = [
    concat!(
        r#"{"table":"kv","action":"update","id":1,"schema":"public","xid":"7","#,
        r#""data":{"id":1,"v":"z","n":3}}"#
    ),
    concat!(
        r#"{"table":"kv","action":"delete","id":[1,2],"old_id":3,"new_id":4,"#,
        r#""xid":"18446744073709551615"}"#
    ),
    r#"{"table":"kv","action":"truncate","id":null,"schema":"public","xid":"99999999999999"}"#,
    concat!(
        r#"{"table":"kv","action":"insert","id":{"a":[]},"schema":"public","xid":"3","#,
        r#""truncated":true,"recheck":true}"#
    ),
    concat!(
        r#"{"table":"kv","action":"update","id":5,"old_id":6,"schema":"public","xid":"9","#,
        r#""data":{"id":5,"v":null,"n":1e999}}"#
    ),
    r#"{"table":"kv","action":"reload","id":null,"schema":"public","why":"x"}"#,
    concat!(
        r#"{"rows":[{"id":1,"data":{"id":1,"v":"x","n":1}},{"id":2}],"table":"kv","#,
        r#""action":"update","schema":"public","xid":"9"}"#
    ),
    concat!(
        r#"{"table":"kv","action":"update","id":"'; DROP TABLE kv; --","schema":"public","#,
        r#""xid":"5","truncated":true}"#
    ),
    "[[[[[[[[[[[[",
    "",
];

/// Returns a payload as somebody might forge one: one of [`SEEDS`] with parts cut out, doubled, put
/// in or made huge.
fn forged(random: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 7] = ["\u{1b}[2J", "9", "-", "\"", "null", "{", "é\u{202e}"];
    let mut text = SEEDS[random.usize(0..SEEDS.len())].to_string();
    for _ in 0..random.usize(0..4) {
        let a = place(random, &text);
        let b = place(random, &text);
        let range = a.min(b)..a.max(b);
        let piece = text[range.clone()].to_string();
        match random.u8(0..4) {
            0 => text.replace_range(range, ""),
            1 => text.insert_str(a, &piece),
            2 => text.insert_str(a, PIECES[random.usize(0..PIECES.len())]),
            _ => text.insert_str(a, &"[".repeat(random.usize(0..500))),
        }
    }
    text
}

/// Returns a random place between two characters of a text.
fn place(random: &mut fastrand::Rng, text: &str) -> usize {
    let mut at = random.usize(0..=text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Any role can notify anything, without a privilege. That may mislead a cache until the table is
/// read again, but must not stop or fill the process. `PGIC_FAULT_SEED` chooses the payloads.
#[tokio::test(flavor = "multi_thread")]
async fn forged_notifications_of_every_shape_neither_crash_nor_block_nor_grow_a_replica() {
    let database = Database::with(ROWS).await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let (server, follow, options) = follow(&database, "kv").await;
    let mut driver = Driver::open(server, vec![follow], options).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = database.client().await;
    let seed = std::env::var("PGIC_FAULT_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..30 {
        for _ in 0..100 {
            client
                .execute(
                    "SELECT pg_notify('cache_invalidation', $1)",
                    &[&forged(&mut random)],
                )
                .await
                .unwrap();
        }
        tokio::time::timeout(DEADLINE, driver.fence())
            .await
            .expect("nothing blocks it")
            .unwrap();
        driver.cache(TableId(0)).validate().unwrap();
        assert!(driver.cache(TableId(0)).memory_bytes() < 1 << 20);
    }
    // The rows that were misled are right once the table is read again.
    client
        .batch_execute(concat!(
            r#"NOTIFY cache_invalidation, '{"table":"kv","action":"reload","#,
            r#""id":null,"schema":"public","xid":"1"}'"#
        ))
        .await
        .unwrap();
    driver.fence().await.unwrap();
    assert_eq!(compare(&mut driver).await.findings, Vec::new());
}

/// 1. Somebody forges a change of a transaction far in the future, which the comparison's snapshot
///    does not see.
/// 2. True changes come behind it.
///
/// If the comparison stopped at the first change that its snapshot does not see, it would hold back
/// all of them, and accuse rows that are right. Each change is placed by its own transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_transaction_of_the_future_makes_verify_accuse_no_row() {
    let database = Database::with(ROWS).await;
    database.pgic_ok(&INSTALL);
    let (server, follow, options) = follow(&database, "kv").await;
    let mut driver = Driver::open(server, vec![follow], options).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let client = database.client().await;
    let forged =
        r#"{"table":"kv","action":"delete","id":999,"schema":"public","xid":"99999999999"}"#;
    let write =
        format!("NOTIFY cache_invalidation, '{forged}'; UPDATE kv SET n = n + 1 WHERE id = 1");
    // Comparisons need changes around their cut, or nothing is held back.
    let writing = async {
        loop {
            client.batch_execute(&write).await.unwrap();
        }
    };
    let comparing = async {
        let mut compared = 0;
        while compared < 30 || driver.engine().changes(TableId(0)) <= 30 {
            let comparison = compare(&mut driver).await;
            assert_eq!(comparison.findings, Vec::new());
            compared += 1;
        }
    };
    tokio::select! {
        compared = tokio::time::timeout(DEADLINE, comparing) => compared.expect("changes come"),
        () = writing => unreachable!("it writes without end"),
    }
}
