//! `doctor`: each check is provoked on a real server, found under its code, and mended by what is
//! printed. The problems of triggers are provoked in `remedies.rs`, which asks doctor as well.

use crate::remedies;
use crate::support::pooler::Pooler;
use crate::support::{Database, Ran, USERS, cluster, connect, execute, own_cluster};
use serde_json::Value;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use throwaway_postgres::Cluster;
use tokio_postgres::Client;

/// Runs doctor with these arguments, and returns the outcome of each check.
fn outcomes(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let ran = database.pgic(&[&["doctor", "-o", "json"], arguments].concat());
    assert!(ran.code == 0 || ran.code == 1, "{ran:?}");
    of_checks(&ran)
}

fn of_checks(ran: &Ran) -> Vec<Value> {
    let lines = ran.json().into_iter();
    lines.filter(|line| line["event"] == "check").collect()
}

/// Returns the verdict of the check that finds a problem with this code, and the problem.
pub(crate) fn finds(
    database: &Database,
    arguments: &[&str],
    code: &str,
) -> Option<(String, Value)> {
    outcomes(database, arguments)
        .into_iter()
        .find_map(|outcome| {
            let problems = outcome["problems"].as_array().unwrap();
            let problem = problems.iter().find(|problem| problem["code"] == code)?;
            Some((
                outcome["verdict"].as_str().unwrap().to_string(),
                problem.clone(),
            ))
        })
}

/// Returns the outcome of one check.
fn check(database: &Database, name: &str) -> Value {
    let mut found = outcomes(database, &["--only", name]);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// The problem is found with this verdict, its remedy is run, and then it is found no more.
async fn found_and_mended(database: &Database, code: &str, verdict: &str) {
    let (found, problem) = finds(database, &[], code).unwrap_or_else(|| panic!("{code}"));
    assert_eq!(found, verdict, "{problem}");
    remedies::run(database, &problem).await;
    assert_eq!(finds(database, &[], code), None);
}

/// Returns a database with an announced table on this server.
async fn on(cluster: &Cluster, name: &str) -> Database {
    let database = Database::on(cluster, name.to_string()).await;
    database.client().await.batch_execute(USERS).await.unwrap();
    database.pgic_ok(&["install-triggers", "users"]);
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_pipeline_has_nothing_to_say() {
    let cluster = own_cluster(&[]);
    let database = on(&cluster, "healthy").await;
    let found = outcomes(&database, &[]);
    let codes: Vec<&str> = found
        .iter()
        .map(|outcome| outcome["code"].as_str().unwrap())
        .collect();
    let all: Vec<String> = (1..=31).map(|number| format!("PGIC{number:03}")).collect();
    assert_eq!(codes, all);
    for outcome in &found {
        // No row was updated.
        let expected = if outcome["name"] == "idle-updates" {
            "unknown"
        } else {
            "ok"
        };
        assert_eq!(outcome["verdict"], expected, "{outcome}");
    }
    // As text: where it is connected, a line for each check, and the sum.
    let text = database.pgic_ok(&["doctor"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("database healthy on "), "{text}");
    assert!(
        lines.last().unwrap().starts_with("30 ok, 1 unknown, in "),
        "{text}"
    );
    // Nobody listens, which is a note.
    assert!(
        text.contains("note: no session is known to listen on cache_invalidation"),
        "{text}"
    );
    let quiet = database.pgic_ok(&["doctor", "-q"]);
    assert_eq!(quiet.lines().count(), 3, "{quiet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_are_chosen_and_counted_as_asked() {
    let database = Database::with(USERS).await;
    let code = |arguments: &[&str]| database.pgic(&[&["doctor"], arguments].concat()).code;
    // Nothing is announced: critical.
    assert_eq!(code(&[]), 1);
    assert_eq!(code(&["--fail-on", "never"]), 0);
    assert_eq!(code(&["--skip", "announced"]), 0);
    assert_eq!(code(&["--only", "PGIC018,standby"]), 0);
    assert_eq!(code(&["--only", "idle-updates"]), 0);
    assert_eq!(code(&["--only", "idle-updates", "--fail-on", "unknown"]), 1);
    let found = outcomes(&database, &["--only", "pgic018,standby"]);
    let names: Vec<&Value> = found.iter().map(|outcome| &outcome["name"]).collect();
    assert_eq!(names, ["version", "standby"]);
    let ran = database.pgic(&["doctor", "--only", "stanby"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("standby may be meant"),
        "{ran:?}"
    );
    // No server is needed for a page.
    let ran = crate::support::run(crate::support::pgic(&["doctor", "--explain", "queue"]));
    assert!(
        ran.code == 0 && ran.stdout.starts_with("# PGIC022: queue\n"),
        "{ran:?}"
    );
    // Metrics are doctor's alone.
    let ran = database.pgic(&["status", "-o", "prometheus"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("pgic doctor"),
        "{ran:?}"
    );
}

/// What is printed for Prometheus is what promtool takes, without a complaint.
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_as_promtool_wants_them() {
    let database = Database::with(USERS).await;
    let metrics = database.pgic_ok(&["doctor", "-o", "prometheus", "--fail-on", "never"]);
    assert!(
        metrics.contains("pgic_check_verdict{code=\"PGIC001\",check=\"announced\"} 2\n")
            && metrics.contains("pgic_check_verdict{code=\"PGIC017\",check=\"idle-updates\"} -1\n"),
        "{metrics}"
    );
    promtool(&["check", "metrics"], &metrics);
}

/// Runs promtool with this input. It must say nothing.
pub(crate) fn promtool(arguments: &[&str], input: &str) {
    use std::io::Write as _;
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("promtool: apt-get install -y --no-install-recommends prometheus");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let ran = child.wait_with_output().unwrap();
    assert!(
        ran.status.success() && ran.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn every_check_has_a_page_that_the_list_names() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks");
    let list = std::fs::read_to_string(format!("{folder}/README.md")).unwrap();
    for check in pgic::doctor::CHECKS {
        let (code, name) = (check.code, check.name);
        assert!(
            check.page.starts_with(&format!("# {code}: {name}\n")),
            "{code}"
        );
        for part in ["## What it looks at", "## Why it matters", "## What to do"] {
            assert!(check.page.contains(part), "{code}: {part}");
        }
        assert!(
            list.contains(&format!("| [{code}]({code}.md) | `{name}` |")),
            "{code}"
        );
    }
    let pages = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(pages, pgic::doctor::CHECKS.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_columns_that_should_not_be_sent_are_found() {
    for (code, sql) in [
        (
            "secret-columns",
            "CREATE TABLE t (id int PRIMARY KEY, a int, api_token text)",
        ),
        (
            "long-rows",
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, repeat('x', 7500))",
        ),
        (
            "numbers-rounded",
            "CREATE TABLE t (id int PRIMARY KEY, a bigint, b numeric);
            INSERT INTO t VALUES (1, 9007199254740993, 'NaN')",
        ),
        (
            "numbers-rounded",
            "CREATE TABLE t (id int PRIMARY KEY, a bigint, b numeric);
            INSERT INTO t VALUES (1, -9223372036854775808, 1e30)",
        ),
    ] {
        let database = Database::with(sql).await;
        database.pgic_ok(&["install-triggers", "t"]);
        found_and_mended(&database, code, "warning").await;
    }
    // Of numbers that are small enough nothing is said, nor of a secret that somebody has named.
    let database = Database::with(
        "CREATE TABLE t (id bigint PRIMARY KEY, password text, n numeric);
        INSERT INTO t VALUES (9007199254740991, 'x', 'Infinity')",
    )
    .await;
    database.pgic_ok(&["install-triggers", "t", "--columns", "password,n"]);
    assert_eq!(finds(&database, &[], "numbers-rounded"), None);
    assert_eq!(finds(&database, &[], "secret-columns"), None);
    // A key is always sent: it can be sent as a text.
    execute(
        &database.client().await,
        "INSERT INTO t VALUES (9007199254740992, '', 0)",
    )
    .await;
    found_and_mended(&database, "numbers-rounded", "warning").await;
    // The generic function knows no columns, so that there is advice alone.
    database.pgic_ok(&["install-triggers", "t", "--generic", "--defaults"]);
    let (verdict, problem) = finds(&database, &[], "numbers-rounded").unwrap();
    assert_eq!(
        (verdict.as_str(), &problem["run"]),
        ("warning", &serde_json::json!([]))
    );
}

/// Writers go on while doctor listens.
#[tokio::test(flavor = "multi_thread")]
async fn updates_that_change_nothing_are_found_in_the_traffic() {
    let database = Database::with(
        "CREATE TABLE idle (id int PRIMARY KEY, n int); INSERT INTO idle VALUES (1, 1);
        CREATE TABLE busy (id int PRIMARY KEY, n int); INSERT INTO busy VALUES (1, 1)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "idle", "busy"]);
    let client = database.client().await;
    let writing = tokio::spawn(async move {
        loop {
            execute(&client, "UPDATE idle SET n = n").await;
            execute(&client, "UPDATE busy SET n = n + 1").await;
        }
    });
    let found = finds(&database, &["--traffic", "3s"], "idle-updates");
    writing.abort();
    let (verdict, problem) = found.expect("they are found");
    assert_eq!(
        (verdict.as_str(), &problem["table"]),
        ("warning", &"idle".into())
    );
    let text = problem["text"].as_str().unwrap();
    assert!(text.contains("pg_stat has counted "), "{text}");
    remedies::run(&database, &problem).await;
    // What was mended is not sent at all.
    assert_eq!(
        database.arrives("UPDATE idle SET n = n").await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_nearly_meet_are_found() {
    let database = Database::with(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "a", "b"]);
    database.pgic_ok(&["install-triggers", "c", "--channel", "Cache-Invalidation"]);
    let (_, problem) = finds(&database, &[], "channel-twin").unwrap();
    assert_eq!(problem["table"], "c");
    found_and_mended(&database, "channel-twin", "warning").await;

    // `LISTEN` folds the name, and a slip of the pen is another channel.
    for listen in ["LISTEN \"Cache_Invalidation\"", "LISTEN cache_invalidatoin"] {
        let client = database.client().await;
        execute(&client, listen).await;
        let (verdict, problem) = finds(&database, &[], "channel-misspelt").unwrap();
        let text = problem["text"].as_str().unwrap();
        assert!(
            verdict == "warning" && text.contains("cache_invalidation may be meant"),
            "{text}"
        );
        execute(&client, "UNLISTEN *").await;
        assert_eq!(finds(&database, &[], "channel-misspelt"), None);
    }
    // Another program's channel is nobody's business.
    let client = database.client().await;
    execute(&client, "LISTEN jobs").await;
    assert_eq!(check(&database, "channels")["verdict"], "ok");
    execute(&client, "LISTEN cache_invalidation").await;
    let channels = check(&database, "channels");
    assert_eq!(channels["problems"], serde_json::json!([]), "{channels}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_listeners_are_found_with_their_price() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    assert_eq!(check(&database, "listeners")["verdict"], "ok");
    let mut clients = Vec::new();
    for _ in 0..20 {
        let client = database.client().await;
        execute(&client, "LISTEN jobs").await;
        clients.push(client);
    }
    let (verdict, problem) = finds(&database, &[], "many-listeners").unwrap();
    let text = problem["text"].as_str().unwrap();
    assert!(
        verdict == "warning" && text.contains("20 sessions listen"),
        "{text}"
    );
}

/// A listener in a transaction is what fills the queue. The statement that ends it is printed.
#[tokio::test(flavor = "multi_thread")]
async fn long_transactions_are_found_the_worse_if_they_listen() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let long = ["--only", "transactions", "--long-transaction", "0s"];
    assert_eq!(outcomes(&database, &long)[0]["verdict"], "ok");
    for (begin, verdict) in [
        ("BEGIN; SELECT 1", "warning"),
        ("LISTEN cache_invalidation; COMMIT; BEGIN", "critical"),
    ] {
        let client = database.client().await;
        execute(&client, begin).await;
        let (found, problem) = finds(&database, &long, "long-transaction").expect("it is found");
        assert_eq!(found, verdict, "{problem}");
        // A transaction of a moment is none that is long.
        assert_eq!(finds(&database, &[], "long-transaction"), None);
        remedies::run(&database, &problem).await;
        client.batch_execute("SELECT 1").await.unwrap_err();
        // The server's process may need a moment to end.
        let ended = tokio::time::timeout(crate::support::DEADLINE, async {
            while finds(&database, &long, "long-transaction").is_some() {
                tokio::task::yield_now().await;
            }
        });
        ended.await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_by_which_writers_are_silent_are_found() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let name = &database.name;
    let role = format!("loader_{name}");
    let client = database.client().await;
    let sql = format!("ALTER DATABASE {name} SET session_replication_role = replica");
    execute(&client, &sql).await;
    found_and_mended(&database, "replica-role", "critical").await;
    execute(
        &client,
        &format!(
            "CREATE ROLE {role} LOGIN; ALTER ROLE {role} IN DATABASE {name} SET \
             session_replication_role = replica"
        ),
    )
    .await;
    found_and_mended(&database, "replica-role", "critical").await;
    execute(&client, &format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileges_that_are_missing_are_found_with_the_grant() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let admin = database.client().await;
    execute(
        &admin,
        "REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC",
    )
    .await;
    found_and_mended(&database, "notify-revoked", "warning").await;

    let role = format!("poor_{}", database.name);
    execute(&admin, &format!("CREATE ROLE {role} LOGIN")).await;
    let poor = database.as_role(&role);
    for (code, verdict) in [("not-readable", "ok"), ("statements-hidden", "ok")] {
        let (found, problem) = finds(&poor, &[], code).unwrap();
        assert_eq!(found, verdict, "{problem}");
        // The grant is run by who may.
        remedies::run(&database, &problem).await;
        assert_eq!(finds(&poor, &[], code), None);
    }
    execute(&admin, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_settings_of_the_server_are_found() {
    let cluster = own_cluster(&[
        ("max_prepared_transactions", "5"),
        ("max_connections", "20"),
    ]);
    let database = on(&cluster, "limits").await;
    // The remedy takes effect at the next start.
    let (verdict, problem) = finds(&database, &[], "prepared-transactions").unwrap();
    assert_eq!(verdict, "warning");
    // What is warned of happens.
    let client = database.client().await;
    let sql = "BEGIN; INSERT INTO users VALUES (gen_random_uuid(), 1, 1)";
    execute(&client, sql).await;
    client
        .batch_execute("PREPARE TRANSACTION 'x'")
        .await
        .unwrap_err();
    drop(client);
    remedies::run(&database, &problem).await;
    cluster.restart("fast").unwrap();
    assert_eq!(finds(&database, &[], "prepared-transactions"), None);

    // The role may have a few sessions more than doctor takes.
    let admin = database.client().await;
    execute(
        &admin,
        "CREATE ROLE few LOGIN CONNECTION LIMIT 6; GRANT SELECT ON users TO few",
    )
    .await;
    let few = database.as_role("few");
    assert_eq!(finds(&few, &[], "few-sessions").unwrap().0, "warning");
    let held: Vec<Client> = vec![
        connect(&few.url).await,
        connect(&few.url).await,
        connect(&few.url).await,
    ];
    let (verdict, problem) = finds(&few, &[], "few-sessions").unwrap();
    assert_eq!(verdict, "critical", "{problem}");
    remedies::run(&database, &problem).await;
    assert_eq!(finds(&few, &[], "few-sessions"), None);
    drop(held);
}

/// A standby is looked at as well: what it cannot tell is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_critical_and_the_rest_is_looked_at() {
    let primary = own_cluster(&[]);
    on(&primary, "shop").await;
    let standby = primary.standby().unwrap();
    let database = Database {
        name: "shop".to_string(),
        url: standby.url("shop"),
    };
    let found = outcomes(&database, &[]);
    let verdict = |name: &str| {
        let outcome = found.iter().find(|outcome| outcome["name"] == name);
        outcome.unwrap()["verdict"].as_str().unwrap()
    };
    assert_eq!(verdict("standby"), "critical");
    assert_eq!(verdict("delivery"), "unknown");
    assert_eq!(verdict("announced"), "ok");
}

/// One commit holds the notify lock: it waits for a standby that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_cannot_notify_are_found() {
    let cluster = own_cluster(&[]);
    let database = on(&cluster, "blocked").await;
    let admin = database.client().await;
    execute(
        &admin,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
    )
    .await;
    execute(&admin, "SELECT pg_reload_conf()").await;
    // The server reads the file after that call.
    let is_read = tokio::time::timeout(crate::support::DEADLINE, async {
        let setting = "SELECT current_setting('synchronous_standby_names')";
        while database
            .client()
            .await
            .query_one(setting, &[])
            .await
            .unwrap()
            .get::<_, String>(0)
            .is_empty()
        {}
    });
    is_read.await.expect("the setting is read");
    let mut blocked = Vec::new();
    for _ in 0..2 {
        let client = database.client().await;
        let write =
            "SET synchronous_commit = on; INSERT INTO users VALUES (gen_random_uuid(), 1, 1)";
        blocked.push(tokio::spawn(
            async move { client.batch_execute(write).await },
        ));
    }
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND NOT granted";
    let waiting = tokio::time::timeout(crate::support::DEADLINE, async {
        while admin.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
    });
    waiting.await.expect("one waits for the other");
    let found = outcomes(&database, &["--only", "notify-lock,delivery"]);
    for (outcome, says) in found
        .iter()
        .zip(["hold the notify lock", "synchronous standby"])
    {
        assert_eq!(outcome["verdict"], "critical", "{outcome}");
        assert!(outcome.to_string().contains(says), "{outcome}");
    }
    execute(&admin, "ALTER SYSTEM RESET synchronous_standby_names").await;
    execute(&admin, "SELECT pg_reload_conf()").await;
    for writer in blocked {
        writer.await.unwrap().unwrap();
    }
    for outcome in outcomes(&database, &["--only", "notify-lock,delivery"]) {
        assert_eq!(outcome["verdict"], "ok", "{outcome}");
    }
}

/// The queue is one for the whole server, so it is filled on one of the test's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_held_is_found_with_its_holder() {
    let cluster = own_cluster(&[]);
    let database = on(&cluster, "held").await;
    let holder = database.client().await;
    execute(&holder, "LISTEN cache_invalidation; COMMIT; BEGIN").await;
    // 1 % of 8 GB.
    let admin = database.client().await;
    let fill =
        "SELECT pg_notify('filler', repeat('x', 7980) || n) FROM generate_series(1, 12000) n";
    execute(&admin, fill).await;
    let long = ["--long-transaction", "0s"];
    let (verdict, problem) = finds(&database, &long, "queue-held").expect("it is held");
    let text = problem["text"].as_str().unwrap();
    assert!(
        verdict == "warning" && text.contains("which listens, is in a transaction"),
        "{text}"
    );
    remedies::run(&database, &problem).await;
    // The queue is emptied when somebody notifies.
    let empty = tokio::time::timeout(crate::support::DEADLINE, async {
        while finds(&database, &long, "queue-held").is_some() {
            execute(&admin, "NOTIFY filler").await;
        }
    });
    empty.await.expect("it is emptied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_found() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let pooler = Pooler::start(cluster(), "transaction", 3);
    let pooled = Database {
        name: database.name.clone(),
        url: pooler.url(&database.name),
    };
    let found = outcomes(&pooled, &["--only", "pooler,delivery,announced"]);
    let verdicts: Vec<&Value> = found.iter().map(|outcome| &outcome["verdict"]).collect();
    assert_eq!(verdicts, ["ok", "critical", "unknown"]);
}

/// A client whose clock is wrong, and one that comes over a network without TLS.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_the_server_is_looked_at() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let cluster = own_cluster(&[("listen_addresses", "*"), ("port", &port.to_string())]);
    cluster
        .write_data(
            "pg_hba.conf",
            "local all all trust\nhost all all all trust\n",
        )
        .unwrap();
    cluster.reload().unwrap();
    let socket = cluster.socket_folder();
    let local = format!(
        "postgresql://postgres@/way?host={}&port={port}",
        socket.display()
    );
    let admin = connect(&local.replace("/way", "/postgres")).await;
    execute(&admin, "CREATE DATABASE way").await;
    let database = Database {
        name: "way".to_string(),
        url: local,
    };
    let (tls, clock) = (check(&database, "tls"), check(&database, "clock"));
    assert_eq!(
        (&tls["verdict"], &clock["verdict"]),
        (&"ok".into(), &"ok".into())
    );

    // The address of this machine in its network: no packet is sent.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    probe
        .connect("192.0.2.1:9")
        .expect("this machine is in a network");
    let address = probe.local_addr().unwrap().ip();
    let far = Database {
        name: "way".to_string(),
        url: format!("postgresql://postgres@{address}:{port}/way?sslmode=disable"),
    };
    let (verdict, problem) = finds(&far, &["--skip", "announced"], "not-encrypted").unwrap();
    assert!(
        verdict == "warning"
            && problem["text"]
                .as_str()
                .unwrap()
                .contains(&address.to_string()),
        "{problem}"
    );

    let pgic = database.command(&["doctor", "-o", "json", "--only", "clock"]);
    let mut command = Command::new("faketime");
    command
        .args(["-f", "+60s"])
        .arg(pgic.get_program())
        .args(pgic.get_args());
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    for (name, value) in pgic.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let found = of_checks(&crate::support::run(command));
    assert_eq!(found[0]["verdict"], "warning", "{found:?}");
    let text = found[0]["problems"][0]["text"].as_str().unwrap();
    assert!(
        text.contains("differ by 60.") || text.contains("differ by 59."),
        "{text}"
    );
}
