//! `ping`: notifications that come back, and one that does not.

use crate::support::{Database, Tail, USERS};
use serde_json::{Value, json};
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn each_notification_comes_back_and_nobody_else_hears_it() {
    let database = Database::with(USERS).await;
    let mut listening = database.listen().await;
    let ran = database.pgic(&["ping", "-n", "20", "-i", "0", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines = ran.json();
    assert_eq!(lines[0]["event"], "connected");
    let times: Vec<u64> = lines[1..21]
        .iter()
        .map(|line| line["took_us"].as_u64().expect("it came back"))
        .collect();
    let summary = &lines[21];
    assert_eq!(
        (&summary["sent"], &summary["arrived"], &summary["lost"]),
        (&json!(20), &json!(20), &json!(0))
    );
    assert_eq!(summary["min_us"].as_u64(), times.iter().min().copied());
    assert_eq!(summary["max_us"].as_u64(), times.iter().max().copied());
    let p50 = summary["p50_us"].as_u64().unwrap();
    assert!(times.iter().min().unwrap() <= &p50 && times.iter().max().unwrap() >= &p50);
    assert!(listening.payloads().await.is_empty());

    // As text: a line for each, and the summary; the summary alone with -q.
    let text = database.pgic_ok(&["ping", "-n", "2", "-i", "0"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    let text = database.pgic_ok(&["ping", "-n", "2", "-i", "0", "-q"]);
    assert!(
        text.starts_with("2 sent, 2 came back, 0 lost; min ") && text.lines().count() == 1,
        "{text}"
    );
}

/// Returns the first event for which this holds.
fn until(ping: &Tail, holds: impl Fn(&Value) -> bool) -> Value {
    loop {
        let line = ping.next();
        if holds(&line) {
            return line;
        }
    }
}

/// The session that listens is stopped for a while: what was sent meanwhile is lost, and a late one
/// is not taken for another.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_come_back_in_time_is_lost() {
    const LISTENER: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'pgic ping' AND query LIKE '%LISTEN%'";
    let database = Database::with(USERS).await;
    let client = database.client().await;
    let arguments = "ping -n 1000000 -i 0 --timeout 300ms -o json";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let ping = Tail::start(database.command(&arguments));
    until(&ping, |line| line["lost"] == false);
    let pid: i32 = client.query_one(LISTENER, &[]).await.unwrap().get(0);
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid.to_string()]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    let lost = until(&ping, |line| line["lost"] == true);
    signal("-CONT");
    assert!(lost["took_us"].is_null(), "{lost}");
    until(&ping, |line| line["lost"] == false);
    ping.signal("INT");
    let (code, lines, stderr) = ping.finish();
    assert_eq!(code, 1, "{stderr}");
    let summary = lines.last().unwrap();
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert!(
        summary["event"] == "ping" && number("lost") >= 1,
        "{summary}"
    );
    assert_eq!(number("sent"), number("arrived") + number("lost"));
}

/// The tables and functions of the database.
async fn objects(database: &Database) -> i64 {
    let client = database.client().await;
    let counted = client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace) +
                (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)",
            &[],
        )
        .await;
    counted.unwrap().get(0)
}

/// Returns how long each round trip took, and the summary.
fn round_trips(lines: &[Value]) -> (Vec<u64>, &Value) {
    let times = lines.iter().filter(|line| line["event"] == "round-trip");
    let times = times.map(|line| line["took_us"].as_u64().expect("it came back"));
    (times.collect(), lines.last().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn via_trigger_a_table_is_made_and_dropped() {
    let database = Database::with(USERS).await;
    let before = objects(&database).await;
    let mut listening = database.listen().await;
    let ran = database.pgic(&["ping", "--via-trigger", "-n", "10", "-i", "0", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines = ran.json();
    let (times, summary) = round_trips(&lines);
    assert_eq!((times.len(), &summary["lost"]), (10, &json!(0)));
    assert_eq!(objects(&database).await, before);
    // The caches of others hear nothing.
    assert!(listening.payloads().await.is_empty());

    // A signal ends it, with the summary, and the table is dropped as well.
    let arguments = "ping --via-trigger -n 1000000 -i 0 -o json";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let ping = Tail::start(database.command(&arguments));
    until(&ping, |line| line["event"] == "round-trip");
    ping.signal("TERM");
    let (code, lines, stderr) = ping.finish();
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(lines.last().unwrap()["event"], "ping");
    assert_eq!(objects(&database).await, before);
}

/// A cache of the table hears of each write, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn via_trigger_a_row_of_a_table_is_written_and_not_changed() {
    let database = Database::with(
        "CREATE TABLE \"Odd one\" (a int, \"b'\" text, n int, PRIMARY KEY (a, \"b'\"));
        INSERT INTO \"Odd one\" VALUES (1, 'it''s', 7)",
    )
    .await;
    let ping = ["ping", "-n", "3", "-i", "0", "--via-trigger", "\"Odd one\""];
    // Without a trigger nothing could be measured.
    let ran = database.pgic(&ping);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("no trigger announces"), "{ran:?}");
    database.pgic_ok(&["install-triggers", "\"Odd one\""]);
    let mut listening = database.listen().await;
    let ran = database.pgic(&ping);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.contains("3 sent, 3 came back, 0 lost; min "),
        "{ran:?}"
    );
    assert_eq!(listening.payloads().await.len(), 3);
    let client = database.client().await;
    let row = client
        .query_one("SELECT * FROM \"Odd one\"", &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (1, "it's", 7));

    // A trigger that leaves out such writes is told, not taken for a loss.
    database.pgic_ok(&["install-triggers", "\"Odd one\"", "--on-change"]);
    let ran = database.pgic(&ping);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("--on-change"), "{ran:?}");
}

/// The trigger is taken away while rows are written: each write is lost, and said to be.
#[tokio::test(flavor = "multi_thread")]
async fn via_trigger_a_write_that_is_not_announced_is_lost() {
    let database = Database::with(USERS).await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES (gen_random_uuid(), 1, 1)")
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "users"]);
    let arguments = "ping --via-trigger users -n 1000000 -i 0 --timeout 500ms -o json";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let ping = Tail::start(database.command(&arguments));
    until(&ping, |line| line["lost"] == false);
    client
        .batch_execute(
            "CREATE OR REPLACE FUNCTION notify_cache_change_users() RETURNS trigger
            LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        )
        .await
        .unwrap();
    until(&ping, |line| line["lost"] == true);
    ping.signal("INT");
    let (code, _, stderr) = ping.finish();
    assert_eq!(code, 1, "{stderr}");
}

/// The role that may make no table gets the way out.
#[tokio::test(flavor = "multi_thread")]
async fn via_trigger_without_the_right_to_make_a_table() {
    let database = Database::with(USERS).await;
    let role = format!("plain_{}", database.name);
    let client = database.client().await;
    client
        .batch_execute(&format!("CREATE ROLE {role} LOGIN"))
        .await
        .unwrap();
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let ran = database.pgic(&["ping", "--via-trigger", "-d", &url]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.stderr.contains("make the table") && ran.stderr.contains("--via-trigger TABLE"),
        "{ran:?}"
    );
}
