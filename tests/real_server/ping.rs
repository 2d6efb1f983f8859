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
