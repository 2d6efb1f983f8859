//! `monitor`: what it exports is true, and is there while the server is not.

use super::doctor::promtool;
use super::fleet::fleet;
use super::relay;
use crate::support::nats::Nats;
use crate::support::proxy::{Mood, Proxy};
use crate::support::{DEADLINE, Database, USERS, cluster, execute, lines_of, own_cluster};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Instant;

/// Short times, so that a test need not wait.
const QUICK: [&str; 6] = [
    "--canary-every",
    "200ms",
    "--look-every",
    "200ms",
    "--doctor-every",
    "1s",
];

/// A running monitor.
struct Monitor {
    child: Child,
    address: String,
}

impl Monitor {
    fn start(database: &Database, options: &[&str]) -> Self {
        let arguments = [
            &["monitor", "--listen", "127.0.0.1:0", "-o", "json"],
            options,
        ]
        .concat();
        let mut child = database
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let first = crate::support::schema::check(&lines.recv_timeout(DEADLINE).unwrap());
        assert_eq!(first["event"], "serving");
        let url = first["url"].as_str().unwrap();
        Self {
            address: url.strip_prefix("http://").unwrap().to_string(),
            child,
        }
    }

    /// Asks for a path. Returns the status and the body.
    fn get_as(&self, path: &str, accept: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_string())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.get_as(path, "*/*")
    }

    /// Waits until readiness is this, and the reasons fulfil a condition.
    fn becomes(&self, status: u16, holds: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let (now, body) = self.get("/readyz");
            if now == status && holds(&body) {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "{now}: {body}");
            std::thread::yield_now();
        }
    }

    /// Waits until a metric has a value that fulfils a condition. `series` is a name with labels.
    fn counts(&self, series: &str, holds: impl Fn(i64) -> bool) {
        let began = Instant::now();
        loop {
            let text = self.get("/metrics").1;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            if line.is_some_and(|value| holds(value.parse::<f64>().unwrap() as i64)) {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "{series}: {text}");
            std::thread::yield_now();
        }
    }

    fn ends(mut self, signal: &str) -> i32 {
        let pid = self.child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(sent.unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("pgic_"))
        .map(str::to_string)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_what_happens_and_are_as_prometheus_wants_them() {
    let database = Database::with(&format!(
        "{USERS} CREATE TABLE \"Odd {{\"\"}}\" (id int PRIMARY KEY, n int)"
    ))
    .await;
    let odd = "\"Odd {\"\"}\"";
    database.pgic_ok(&["install-triggers", "users", odd]);
    let verify = [
        "--verify-every",
        "500ms",
        "--max-rows-per-second",
        "1000000",
    ];
    let monitor = Monitor::start(&database, &[&["users", odd][..], &QUICK, &verify].concat());
    monitor.becomes(200, |body| body == "ready\n");
    let client = database.client().await;
    execute(
        &client,
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 30) n",
    )
    .await;
    execute(&client, "UPDATE users SET email_hash = 7 WHERE username_hash <= 10; DELETE FROM users WHERE username_hash = 30").await;
    execute(&client, "NOTIFY cache_invalidation, '{\"table\":\"x\",\"action\":\"delete\",\"id\":1}'; NOTIFY cache_invalidation, 'nonsense'").await;
    let of_users = |action: &str| {
        format!("pgic_changes_total{{schema=\"public\",table=\"users\",action=\"{action}\"}}")
    };
    monitor.counts(&of_users("insert"), |value| value == 30);
    monitor.counts(&of_users("update"), |value| value == 10);
    monitor.counts(&of_users("delete"), |value| value == 1);
    monitor.counts("pgic_other_notifications_total", |value| value == 2);
    monitor.counts(
        "pgic_table_rows{schema=\"public\",table=\"users\"}",
        |value| value == 29,
    );
    monitor.counts(
        "pgic_table_live{schema=\"public\",table=\"Odd {\\\"}\"}",
        |value| value == 1,
    );
    monitor.counts("pgic_notification_age_seconds_count", |value| value == 41);
    monitor.counts("pgic_canary_round_trip_seconds_count", |value| value > 1);
    monitor.counts(
        "pgic_check_verdict{code=\"PGIC001\",check=\"announced\"}",
        |value| value == 0,
    );
    let equal = "pgic_verify_rounds_total{schema=\"public\",table=\"users\",verdict=\"equal\"}";
    monitor.counts(equal, |value| value > 0);

    let (_, classic) = monitor.get("/metrics");
    promtool(&["check", "metrics"], &classic);
    let (_, open) = monitor.get_as("/metrics", "application/openmetrics-text; version=1.0.0");
    assert!(
        open.ends_with("# EOF\n") && open.contains("# TYPE pgic_changes counter\n"),
        "{open}"
    );
    assert_eq!(monitor.get("/healthz"), (200, "ok\n".to_string()));
    assert_eq!(monitor.get("/nothing").0, 404);
    let status: Value = serde_json::from_str(&monitor.get("/status").1).unwrap();
    assert_eq!(
        (&status["ready"], &status["tables"][0]["state"]),
        (&true.into(), &"live".into())
    );
    assert_eq!(status["checks"].as_array().unwrap().len(), 31);
    assert_eq!(monitor.ends("TERM"), 0);
}

/// Every metric that the dashboard and the alert rules name is exported.
#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_name_metrics_that_exist() {
    let (database, _client, _nodes) = fleet(1).await;
    let nats = Nats::start();
    let _relay = relay::relay_of(&database, &["items"], &nats.url(), "live");
    let from = format!("{}/shop", nats.url());
    let more = ["--verify-every", "500ms", "--from", &from];
    let monitor = Monitor::start(&database, &[&["items"][..], &QUICK, &more].concat());
    monitor.becomes(200, |_| true);
    // Series that come with the first comparison, and the first look at the log's nodes.
    monitor.counts("pgic_log_nodes{state=\"live\"}", |live| live == 0);
    monitor.counts("pgic_doctor_timestamp_seconds", |value| value > 0);
    let own = "{schema=\"public\",table=\"items\"";
    monitor.counts(&format!("pgic_verify_differing_rows{own}}}"), |value| {
        value == 0
    });
    monitor.counts(
        &format!("pgic_node_verdicts{own},verdict=\"equal\"}}"),
        |value| value == 1,
    );
    let exported = names(&monitor.get("/metrics").1);
    let contrib = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib");
    for file in ["grafana/pgic.json", "prometheus/alerts.yml"] {
        let text = std::fs::read_to_string(format!("{contrib}/{file}")).unwrap();
        let wanted = names(&text);
        assert!(wanted.len() > 5, "{file}: {wanted:?}");
        let missing: Vec<&String> = wanted.difference(&exported).collect();
        assert!(
            missing.is_empty(),
            "{file} names {missing:?}, and there are {exported:?}"
        );
    }
    // The queries are understood, and the rules do what their tests say.
    let dashboard = std::fs::read_to_string(format!("{contrib}/grafana/pgic.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut rules = "groups:\n- name: queries\n  rules:\n".to_string();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"]
                .as_str()
                .unwrap()
                .replace("$__rate_interval", "5m");
            let number = rules.lines().count();
            rules += &format!(
                "  - {{record: 'q{number}', expr: {}}}\n",
                Value::from(query)
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let queries = folder.path().join("queries.yml");
    std::fs::write(&queries, rules).unwrap();
    promtool(&["check", "rules", queries.to_str().unwrap()], "");
    promtool(
        &[
            "check",
            "rules",
            &format!("{contrib}/prometheus/alerts.yml"),
        ],
        "",
    );
    promtool(
        &[
            "test",
            "rules",
            &format!("{contrib}/prometheus/alerts_test.yml"),
        ],
        "",
    );
}

/// The pipeline breaks in ways that a cache notices, and in one that a comparison alone finds.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_that_of_the_pipeline() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    // Two names of one table are one.
    let names = ["users", "public.users"];
    let monitor = Monitor::start(
        &database,
        &[&names[..], &QUICK, &["--verify-every", "500ms"]].concat(),
    );
    monitor.becomes(200, |_| true);
    let client = database.client().await;
    execute(
        &client,
        "ALTER TABLE users DISABLE TRIGGER users_cache_notify",
    )
    .await;
    monitor.becomes(503, |body| {
        body.contains("public.users") && body.contains("disabled")
    });
    monitor.counts(
        "pgic_table_live{schema=\"public\",table=\"users\"}",
        |value| value == 0,
    );
    execute(
        &client,
        "ALTER TABLE users ENABLE TRIGGER users_cache_notify",
    )
    .await;
    monitor.becomes(200, |_| true);
    execute(
        &client,
        "SET session_replication_role = replica; INSERT INTO users VALUES (gen_random_uuid(), 1, 1)",
    )
    .await;
    monitor.becomes(503, |body| {
        body.starts_with("public.users differs from the table in 1 row: missing ")
    });
    monitor.counts(
        "pgic_verify_differing_rows{schema=\"public\",table=\"users\"}",
        |value| value == 1,
    );
    // What mends the cache of an application mends this one.
    database.pgic(&["announce", "users", "--all", "--yes"]);
    monitor.becomes(200, |_| true);
    assert_eq!(monitor.ends("INT"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_the_server_are_outlived_and_counted() {
    let cluster = own_cluster(&[]);
    let database = Database::on(&cluster, "watched".to_string()).await;
    execute(&database.client().await, USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let monitor = Monitor::start(&database, &[&["users"][..], &QUICK].concat());
    monitor.becomes(200, |_| true);
    monitor.counts("pgic_server_up", |value| value == 1);
    for (number, mode) in ["fast", "immediate"].into_iter().enumerate() {
        cluster.stop(mode).unwrap();
        monitor.becomes(503, |body| body.contains("public.users"));
        monitor.counts("pgic_server_up", |value| value == 0);
        assert_eq!(monitor.get("/healthz").0, 200);
        cluster.restart("fast").unwrap();
        monitor.becomes(200, |_| true);
        monitor.counts("pgic_server_restarts_total", |value| {
            value == (number + 1) as i64
        });
        monitor.counts("pgic_gaps_total", |value| value > number as i64);
    }
}

/// A scrape asks the server nothing: it is answered while nothing passes.
#[tokio::test(flavor = "multi_thread")]
async fn scrapes_are_answered_from_memory_and_say_that_nothing_is_known() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let proxy = Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await;
    proxy.set(Mood::Starts);
    let behind = database.behind(proxy.port);
    let monitor = Monitor::start(&behind, &[&["users"][..], &QUICK].concat());
    // The server is starting: the monitor is there, and says that it knows nothing.
    monitor.becomes(503, |body| body.contains("users is unknown"));
    proxy.set(Mood::Passes);
    monitor.becomes(200, |_| true);
    proxy.set(Mood::Stalls);
    for _ in 0..100 {
        let (status, text) = monitor.get("/metrics");
        assert!(status == 200 && text.contains("pgic_table_live"), "{text}");
    }
    // In time it notices that nothing comes.
    monitor.becomes(503, |_| true);
    proxy.set(Mood::Passes);
    monitor.becomes(200, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_counted_and_compared() {
    let (database, _client, nodes) = fleet(2).await;
    let monitor = Monitor::start(
        &database,
        &[&["items"][..], &QUICK, &["--verify-every", "500ms"]].concat(),
    );
    monitor.counts("pgic_nodes{state=\"live\"}", |value| value == 2);
    let equal = "pgic_node_verdicts{schema=\"public\",table=\"items\",verdict=\"equal\"}";
    monitor.counts(equal, |value| value == 2);
    drop(nodes);
    monitor.counts("pgic_nodes{state=\"live\"}", |value| value == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_an_error_at_the_start() {
    let database = Database::with(USERS).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, says) in [
        (
            ["monitor", "nosuch", "--listen", "127.0.0.1:0"],
            "nosuch does not exist",
        ),
        (
            ["monitor", "users", "--listen", "127.0.0.1:0"],
            "no trigger announces",
        ),
        (
            ["monitor", "users", "--listen", &address],
            "listen on 127.0.0.1",
        ),
    ] {
        let ran = database.pgic(&arguments);
        assert!(
            ran.code == 2 && ran.stderr.contains(says),
            "{arguments:?}: {ran:?}"
        );
    }
}

/// Clients that are many, and say half of what they want, do not keep others out for long, nor the
/// monitor from the server.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_blind_it() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let monitor = Monitor::start(&database, &[&["users"][..], &QUICK].concat());
    monitor.becomes(200, |_| true);
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&monitor.address).unwrap();
            stream.write_all(b"GET /metrics HTT").unwrap();
            stream
        })
        .collect();
    // Each of them is cut off after a while.
    assert_eq!(monitor.get("/healthz").0, 200);
    monitor.becomes(200, |_| true);
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_and_its_nodes_are_watched_too() {
    let (database, nats) = (relay::shop().await, Nats::start());
    let url = nats.url();
    let relay = relay::relay(&database, &url);
    let client = async_nats::connect(&url).await;
    let _node = relay::open(client.expect("connect"), "web-1").await;
    let from = format!("{url}/shop");
    let options = [&["users", "--from", &from][..], &QUICK].concat();
    let monitor = Monitor::start(&database, &options);
    monitor.becomes(200, |_| true);
    monitor.counts("pgic_log_proven", |proven| proven == 1);
    monitor.counts("pgic_log_nodes{state=\"live\"}", |live| live == 1);
    monitor.counts("pgic_log_fence_seconds_count", |fences| fences > 2);
    let status: Value = serde_json::from_str(&monitor.get("/status").1).expect("JSON");
    assert_eq!(status["log"]["nodes"]["live"], 1, "{status}");
    // Nobody proves the log any more: the tables are live, and who follows the log is not.
    relay.signal("KILL");
    drop(relay);
    monitor.counts("pgic_log_proven", |proven| proven == 0);
    monitor.counts("pgic_log_fences_lost_total", |lost| lost > 0);
    monitor.counts("pgic_log_nodes{state=\"not_live\"}", |not_live| {
        not_live == 1
    });
    monitor.becomes(503, |why| why.contains("is not proven: no relay"));
    let relay = relay::relay_until(&database, &url, "live");
    monitor.becomes(200, |_| true);
    monitor.counts("pgic_log_nodes{state=\"live\"}", |live| live == 1);
    drop(relay);
}
