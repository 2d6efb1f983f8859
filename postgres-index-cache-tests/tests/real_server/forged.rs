//! Forged notifications. NOTIFY needs no privilege, so any role with a login can send them: they
//! must mislead nobody for long, and deny nobody an answer.

use crate::driver::open_with;
use crate::support::load::TABLE as KV;
use crate::support::{DEADLINE, Database, ended, lines_of};
use postgres_index_cache_core::tooling::postgres::DriverEvent;
use postgres_index_cache_core::tooling::sync::{State, TableId};
use std::io::Write as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

/// A role with a login and no privileges that sends one notification again and again, until this
/// value is dropped.
struct Storm {
    is_over: Arc<AtomicBool>,
    /// The process id of the session that sends.
    process: i32,
    role: String,
}

impl Storm {
    /// Creates the role and starts sending `payload`. Returns once the first one is sent.
    async fn begin(database: &Database, payload: String, name: &str) -> Self {
        let role = format!("mallory_{name}_{}", database.name);
        let create = format!("CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM {role}");
        database
            .client()
            .await
            .batch_execute(&create)
            .await
            .unwrap();
        let client = database.client_as(&role).await;
        client
            .batch_execute("SET application_name = 'storm'")
            .await
            .unwrap();
        let process = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap()
            .get(0);
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let sql = format!("NOTIFY cache_invalidation, '{payload}'");
        client.batch_execute(&sql).await.unwrap();
        tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                client.batch_execute(&sql).await.unwrap();
            }
        });
        Self {
            is_over,
            process,
            role,
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Returns the oid of a table. Any role can look it up.
async fn oid_of(database: &Database, table: &str) -> u32 {
    let sql = format!("SELECT '{table}'::regclass::oid");
    let client = database.client().await;
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

/// Returns a payload that is as genuine as a forger can make it, with the fields `rest` at its end.
async fn forged(database: &Database, table: &str, rest: &str) -> String {
    let oid = oid_of(database, table).await;
    format!(r#"{{"table":"{table}","id":null,"schema":"public","rel":{oid},"xid":"5",{rest}}}"#)
}

/// The fields that ask for a table to be read again.
const RELOAD: &str = r#""action":"reload","why":"gotcha""#;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_reloads_without_end_denies_nobody_an_answer() {
    // A request to reload once ended the following of the table until the read was done. Under a
    // storm of requests no answer ever came.
    let database = Database::with(&format!(
        "{KV} INSERT INTO kv SELECT n, 'x', n FROM generate_series(1, 5000) n"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv"]);
    let storm = Storm::begin(&database, forged(&database, "kv", RELOAD).await, "kv").await;
    assert_eq!(database.pgic_ok(&["query", "kv", "n=7", "--count"]), "1\n");
    let verified = database.pgic_ok(&["verify", "kv", "--rounds", "2"]);
    assert!(
        verified.contains("equal") && !verified.contains("stale"),
        "{verified}"
    );
    let mut shell = database.command(&["shell", "kv", "-o", "json"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let lines = lines_of(shell.stdout.take().unwrap());
    crate::support::skip_connected(&lines);
    let writer = database.client().await;
    for id in 6_000..6_005 {
        writer
            .execute("INSERT INTO kv VALUES ($1, 'new', 1)", &[&id])
            .await
            .unwrap();
        writeln!(stdin, "count kv id={id}").unwrap();
        let counted: serde_json::Value =
            serde_json::from_str(&lines.recv_timeout(DEADLINE).unwrap()).unwrap();
        assert_eq!(
            counted["count"], 1,
            "what is committed is in the answer: {counted}"
        );
        let end: serde_json::Value =
            serde_json::from_str(&lines.recv_timeout(DEADLINE).unwrap()).unwrap();
        assert_eq!(end["event"], "end", "{end}");
    }
    drop(stdin);
    let shell = ended(shell);
    assert_eq!(shell.code, 0, "{shell:?}");
    // Until here the storm went on.
    drop(storm);
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_that_find_nothing_keep_a_growing_distance_and_name_who_asked() {
    // One small notification must not cost the server a read of the whole table each time. The
    // operator needs to know who sends: process, role and application are named.
    let database = Database::with(&format!(
        "{KV} INSERT INTO kv SELECT n, 'x', n FROM generate_series(1, 500) n"
    ))
    .await;
    let mut driver = open_with(&database, "fence_storm", |_, _| {})
        .await
        .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let storm = Storm::begin(&database, forged(&database, "kv", RELOAD).await, "kv").await;
    let mut told = Vec::new();
    while driver.engine().counters().received < 20_000 {
        driver.step().await.unwrap();
        told.extend(driver.take_events().filter_map(|event| match event {
            DriverEvent::ReloadScheduled { why, .. } => Some(why),
            _ => None,
        }));
    }
    let reloads = driver.engine().counters().reloads;
    assert!(reloads < 40, "20000 requests were {reloads} reloads");
    let Storm { process, role, .. } = &storm;
    let who = format!(
        "a notification asks for it: gotcha (sent by process {process}, role {role}, application \
        storm)"
    );
    assert!(told.contains(&who), "{told:?}");
    assert_eq!(driver.table_state(TableId(0)), State::Degraded);
    assert_eq!(driver.engine().cause(TableId(0)), Some(&*who));
    // A fence waits for one read, and that read does not wait for the distance to pass.
    database
        .client()
        .await
        .batch_execute("UPDATE kv SET v = 'new'")
        .await
        .unwrap();
    driver.fence().await.unwrap();
    assert_eq!(
        crate::driver::cached(&driver),
        crate::driver::stored(&database.client().await).await
    );
    drop(storm);
    driver.until_live(|_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_to_be_read_again_does_not_keep_a_replica_from_opening() {
    // A replica that opens during a storm has a reload pending before it was ever live.
    let (database, _, replica, _) = crate::replica::with_users("").await;
    replica.shutdown().await;
    let storm = Storm::begin(&database, forged(&database, "users", RELOAD).await, "users").await;
    let mut builder = crate::replica::builder(&database);
    let users = builder.table::<crate::replica::User>("users");
    let replica = tokio::time::timeout(DEADLINE, builder.open())
        .await
        .expect("the replica opens")
        .unwrap();
    let writer = database.client().await;
    for n in 1..5_i64 {
        let sql =
            format!("INSERT INTO users VALUES ('00000000-0000-0000-0000-00000000000{n}', {n}, 0)");
        writer.batch_execute(&sql).await.unwrap();
        replica.fence().await.unwrap();
        assert!(
            replica
                .read(&users)
                .contains_primary(&uuid::Uuid::from_u128(n as u128)),
            "what is committed is there"
        );
    }
    drop(storm);
}

/// Sends a signal to a process.
fn signal(process: i32, name: &str) {
    let done = Command::new("kill")
        .args([name, &process.to_string()])
        .status()
        .unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_another_session_sends_counts_for_nothing() {
    // Fences prove that everything before them has arrived. Anybody can listen on the fence
    // channel, read the tokens, and send the next one early: an answer would then lack committed
    // rows.
    let database = Database::with(&format!("{KV} INSERT INTO kv VALUES (1, 'old', 1)")).await;
    let mut driver = open_with(&database, "fence_through", |options, _| {
        // No heartbeat in between: the next token is the one of the fence below.
        options.limits.heartbeat = DEADLINE;
    })
    .await
    .unwrap();
    driver.until_live(|_| {}).await.unwrap();
    let mut listening = database.listen_on("fence_through").await;
    driver.fence().await.unwrap();
    let seen = listening.payloads().await;
    let (last, digest) = seen.last().unwrap().rsplit_once('.').unwrap();
    let (name, number) = last.rsplit_once('.').unwrap();
    let next = format!("{name}.{}", number.parse::<u64>().unwrap() + 1);
    // The server's process of F is stopped, so that the real token cannot arrive before the forged
    // ones.
    let admin = database.client().await;
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%(fences)' AND \
        datname = current_database()";
    let fences: i32 = admin.query_one(sql, &[]).await.unwrap().get(0);
    signal(fences, "-STOP");
    let fence = driver.ask_for_fence().unwrap();
    // A token is `<name>.<number>.<digest>`. The forger knows all but the next digest.
    let forged = [
        next.clone(),
        format!("{next}.{digest}"),
        format!("{last}.{digest}"),
        format!("{next}.{}", "0".repeat(32)),
    ];
    for payload in forged {
        admin
            .batch_execute(&format!("NOTIFY fence_through, '{payload}'"))
            .await
            .unwrap();
    }
    // Notifications arrive in order. When the marker is there, the forged tokens were all seen.
    let marker = r#"{"table":"nothing of ours","action":"insert","id":1,"data":{}}"#;
    admin
        .batch_execute(&format!("NOTIFY cache_invalidation, '{marker}'"))
        .await
        .unwrap();
    let before = driver.engine().counters().received;
    while driver.engine().counters().received == before {
        driver.step().await.unwrap();
    }
    assert!(!driver.has_reached(fence), "a forged token counted");
    signal(fences, "-CONT");
    while !driver.has_reached(fence) {
        driver.step().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_server_does_not_take_denies_nobody_an_answer() {
    // A row that was not sent (`truncated`) is refetched by its key. A key that the column's type
    // does not take makes the whole read fail, with the keys of others in it.
    let sql = "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE moods (id mood PRIMARY KEY, \
        n int); INSERT INTO moods VALUES ('sad', 1)";
    let database = Database::with(&format!(
        "{KV} INSERT INTO kv SELECT n, 'x', n FROM generate_series(1, 5000) n; {sql}"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv", "moods"]);
    // `abc` is no integer, which the cache itself can tell. Whether it is a mood, only the server
    // knows.
    for (table, question) in [("kv", "n=7"), ("moods", "n=1")] {
        let oid = oid_of(&database, table).await;
        let payload = format!(
            concat!(
                r#"{{"table":"{table}","action":"insert","id":"abc","schema":"public","#,
                r#""rel":{oid},"xid":"5","truncated":true}}"#
            ),
            table = table,
            oid = oid
        );
        let storm = Storm::begin(&database, payload, table).await;
        assert_eq!(
            database.pgic_ok(&["query", table, question, "--count"]),
            "1\n"
        );
        let verified = database.pgic(&["verify", table, "--rounds", "1"]);
        assert!(
            verified.code == 0 && verified.stdout.contains("equal"),
            "{verified:?}"
        );
        drop(storm);
    }
}

/// Gives a shell one line, and returns the one line of its answer.
fn ask(stdin: &mut ChildStdin, lines: &Receiver<String>, line: &str) -> String {
    writeln!(stdin, "{line}").unwrap();
    lines.recv_timeout(DEADLINE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_has_not_happened_empties_no_cache_for_long() {
    // One notification empties a cache at once. A look then sees that the table has the same files
    // as before, which no real TRUNCATE leaves, and the table is read again.
    let database = Database::with(&format!(
        "{KV} INSERT INTO kv SELECT n, 'x', n FROM generate_series(1, 500) n;
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part \
         PARTITION OF parts FOR VALUES FROM (0) TO (10);
         INSERT INTO parts VALUES (1)"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "kv", "parts"]);
    let mut shell = database.command(&["shell", "kv", "parts"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let lines = lines_of(shell.stdout.take().unwrap());
    assert_eq!(ask(&mut stdin, &lines, "count kv"), "500");
    assert_eq!(ask(&mut stdin, &lines, "count parts"), "1");
    let admin = database.client().await;
    for round in 0..3 {
        for (table, count) in [("kv", "500"), ("parts", "1")] {
            let payload = forged(&database, table, r#""action":"truncate","v":"""#).await;
            admin
                .batch_execute(&format!("NOTIFY cache_invalidation, '{payload}'"))
                .await
                .unwrap();
            let answer = ask(&mut stdin, &lines, &format!("count {table}"));
            assert_eq!(answer, count, "round {round}");
        }
        // A TRUNCATE that has happened must still be taken for one, also behind forged ones.
        admin
            .batch_execute(
                "TRUNCATE kv; INSERT INTO kv SELECT n, 'y', n FROM generate_series(1, 500) n",
            )
            .await
            .unwrap();
        let answer = ask(&mut stdin, &lines, "count kv v=y");
        assert_eq!(answer, "500", "round {round}");
        admin
            .batch_execute("TRUNCATE parts; INSERT INTO parts VALUES (2)")
            .await
            .unwrap();
        let answer = ask(&mut stdin, &lines, "count parts id=2");
        assert_eq!(answer, "1", "round {round}");
        admin.batch_execute("UPDATE kv SET v = 'x'").await.unwrap();
    }
    drop(stdin);
    assert_eq!(ended(shell).code, 0);
}
