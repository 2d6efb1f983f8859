//! The core's examples, run as their documentation says: `notification_loop` on the specification's
//! trigger, the others on triggers that `install-triggers` makes.

use crate::support::{
    DEADLINE, Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, lines_of, pgic, programs, run,
};
use notification_loop::{listen, read};
use parking_lot::RwLock;
use pg_connect::{Environment, SessionOptions, Target};
use postgres_index_cache_core::{
    CacheNotificationListener, IdxModelCache, IndexCacheHandler, TransactionToken, parking_lot,
};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use throwaway_postgres::{Cluster, Setup};

#[path = "../../../postgres-index-cache-core/examples/notification_loop.rs"]
#[expect(dead_code, reason = "a test calls its parts, and main as a program")]
mod notification_loop;

const NOT_BUILT: &str =
    "start the example: build it with cargo test --workspace, or cargo build --examples";

/// Returns the command that runs an example of the core with the database's URL.
fn example(name: &str, database: &Database) -> Command {
    // `cargo test` builds the examples of the workspace into a folder beside its programs.
    let folder = programs();
    let mut command = Command::new(folder.join("examples").join(name));
    command.arg(&database.url);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notification_loop_follows_a_table() {
    let database = Database::with(&format!("{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}")).await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2)")
        .await
        .unwrap();
    let mut child = example("notification_loop", &database)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "listening, 1 users");
    client
        .batch_execute("UPDATE users SET username_hash = 3")
        .await
        .unwrap();
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "cache_invalidation: Applied"
    );
    // Any role can send junk. The loop must report it and go on.
    client
        .batch_execute("NOTIFY cache_invalidation, 'junk'")
        .await
        .unwrap();
    assert!(
        lines
            .recv_timeout(DEADLINE)
            .unwrap()
            .starts_with("cache_invalidation: Invalid(")
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A notification that is applied before the rows are in the cache would be lost: the row that was
/// read earlier would be put over it.
#[tokio::test(flavor = "multi_thread")]
async fn the_notification_loop_is_right_though_writers_go_on_while_it_starts() {
    let database = Database::with(&format!(
        "{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}
        INSERT INTO users SELECT md5(n::text)::uuid, n, 0 FROM generate_series(1, 20000) n"
    ))
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for seed in 0..3 {
        let (client, stop) = (database.client().await, Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            while !stop.load(Ordering::Relaxed) {
                let n = random.u32(1..20_000);
                let sql = match random.u8(0..4) {
                    0 => format!("DELETE FROM users WHERE id = md5('{n}')::uuid"),
                    1 => format!(
                        "INSERT INTO users VALUES (md5('{n}')::uuid, {n}, 1) ON CONFLICT DO NOTHING"
                    ),
                    _ => format!(
                        "UPDATE users SET email_hash = email_hash + 1 WHERE id = md5('{n}')::uuid"
                    ),
                };
                client.batch_execute(&sql).await.expect("write");
            }
        }));
    }
    let mut missed = 0;
    for _ in 0..5 {
        let mut listener = CacheNotificationListener::new();
        let (client, mut notifications) = listen(&database.url, listener.channel())
            .await
            .expect("LISTEN");
        let rows = read(&client).await.expect("read");
        missed += notifications.len();
        let users = Arc::new(RwLock::new(IdxModelCache::new(rows).expect("rows")));
        let handler = IndexCacheHandler::new("users".to_string(), Arc::clone(&users));
        listener.register_handler(Arc::new(handler));
        // The table stands still while its rows are compared with the cache.
        let guard = database.client().await;
        guard
            .batch_execute("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE")
            .await
            .expect("lock");
        let fence = database.client().await;
        let done = format!("NOTIFY {}, 'done'", listener.channel());
        fence.batch_execute(&done).await.expect("notify");
        loop {
            let next = tokio::time::timeout(DEADLINE, notifications.recv()).await;
            let notification = next.expect("in time").expect("a notification");
            if notification.payload() == "done" {
                break;
            }
            listener.process_notification(notification.payload()).await;
        }
        let table = read(&client).await.expect("read");
        guard.batch_execute("COMMIT").await.expect("unlock");
        let cache = users.read();
        assert_eq!(cache.len(), table.len());
        for user in &table {
            assert_eq!(cache.get_by_primary(&user.id), Some(user));
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    assert!(missed > 0, "nothing was written while the tables were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_node_reads_what_was_written() {
    use std::io::Write as _;
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2)")
        .await
        .unwrap();
    let mut child = example("app_node", &database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "live, 1 users");
    client
        .batch_execute("UPDATE users SET username_hash = 3")
        .await
        .unwrap();
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "users 00000000-0000-0000-0000-000000000001: Changed"
    );
    // The node reads a hash, waits for a fence, and answers from its cache.
    writeln!(stdin, "3").unwrap();
    let found = "found [User { id: 00000000-0000-0000-0000-000000000001, username_hash: 3, \
        email_hash: 2 }], live: true";
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), found);
    // The end of stdin shuts the node down in order.
    drop(stdin);
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "1 changes applied");
    assert!(child.wait().unwrap().success());
}

/// Sends an HTTP request and returns the status line's code and the body.
fn http(address: &str, path: &str) -> (u16, String) {
    http_with(address, path, "")
}

/// Sends an HTTP request with further headers, each of which ends its line.
fn http_with(address: &str, path: &str, headers: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_string();
    (code, body)
}

/// A load balancer must not be told that a service is ready whose cache is stale; the service goes
/// on answering, and says in each answer what the rows are worth.
#[tokio::test(flavor = "multi_thread")]
async fn the_web_service_is_ready_while_its_cache_is_live() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 2)")
        .await
        .unwrap();
    let mut child = example("web_service", &database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    let stdin = child.stdin.take().unwrap();
    let line = lines.recv_timeout(DEADLINE).unwrap();
    let address = line.strip_prefix("listening on ").unwrap();
    assert_eq!(http(address, "/ready"), (200, "live".to_string()));
    let (code, body) = http(address, "/health");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let table = &told["tables"][0];
    assert_eq!(code, 200);
    assert_eq!(
        (&table["name"], &table["rows"]),
        (&"users".into(), &1.into())
    );
    let (code, body) = http(address, "/users/1");
    assert_eq!(code, 200);
    assert!(
        body.contains(r#""email_hash":2"#) && body.contains(r#""live":true"#),
        "{body}"
    );
    // Each read comes right behind its write.
    for number in 10..30 {
        let write = format!("BEGIN; UPDATE users SET username_hash = {number}");
        client.batch_execute(&write).await.unwrap();
        let row = client
            .query_one(TransactionToken::QUERY, &[])
            .await
            .unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        let header = format!("Read-After: {}\r\n", row.get::<_, &str>(0));
        let (code, body) = http_with(address, &format!("/users/{number}"), &header);
        assert_eq!(code, 200);
        assert!(body.contains(r#""email_hash":2"#), "{body}");
    }
    let (code, body) = http_with(address, "/users/1", "Read-After: soon\r\n");
    assert_eq!(code, 400);
    assert!(body.contains("is not a transaction's token"), "{body}");
    client
        .batch_execute("UPDATE users SET username_hash = 1")
        .await
        .unwrap();
    client
        .batch_execute("ALTER TABLE users DISABLE TRIGGER USER")
        .await
        .unwrap();
    let until_stale = tokio::task::spawn_blocking({
        let address = address.to_string();
        move || {
            loop {
                let (code, body) = http(&address, "/ready");
                if code == 503 {
                    return body;
                }
                std::thread::yield_now();
            }
        }
    });
    let body = tokio::time::timeout(DEADLINE, until_stale)
        .await
        .unwrap()
        .unwrap();
    assert!(
        body.starts_with("stale: users: ") && body.contains("disabled"),
        "{body}"
    );
    let (_, body) = http(address, "/users/1");
    assert!(body.contains(r#""live":false"#), "{body}");
    drop(stdin);
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "shut down");
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tables_are_joined_in_memory() {
    use std::io::Write as _;
    let database = Database::with(
        "CREATE TABLE customers (id uuid PRIMARY KEY, name text NOT NULL);
         CREATE TABLE orders (shop text, number bigint, customer_id uuid, cents bigint NOT NULL,
            PRIMARY KEY (shop, number));
         INSERT INTO customers VALUES ('00000000-0000-0000-0000-00000000000a', 'Ann');
         INSERT INTO orders VALUES
            ('ulm', 1, '00000000-0000-0000-0000-00000000000a', 5), ('ulm', 2, NULL, 7);",
    )
    .await;
    database.pgic_ok(&["install-triggers", "customers", "orders"]);
    let mut child = example("many_tables", &database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "1 customers, 2 orders"
    );
    database
        .client()
        .await
        .batch_execute("UPDATE orders SET customer_id = '00000000-0000-0000-0000-00000000000a'")
        .await
        .unwrap();
    writeln!(stdin, "00000000-0000-0000-0000-00000000000a").unwrap();
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "Ann: 2 orders, 12 cents; orders are live"
    );
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_causal_node_reads_each_user_right_behind_its_insert() {
    use std::io::Write as _;
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut child = example("causal", &database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "live");
    for number in 0..50 {
        writeln!(stdin, "{number}").unwrap();
        let line = lines.recv_timeout(DEADLINE).unwrap();
        assert!(line.starts_with("found "), "{line}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_node_reads_its_own_writes_and_nothing_of_a_rollback() {
    use std::io::Write as _;
    let database = Database::with(USERS).await;
    let mut child = example("transaction", &database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    let next = || lines.recv_timeout(DEADLINE).unwrap();
    assert_eq!(next(), "triggers of public.users: created");
    assert_eq!(next(), "live");
    for count in 1..=20 {
        writeln!(stdin, "7 {count}").unwrap();
        let wanted = format!("within {count}, after {count}, whole Some({count})");
        assert_eq!(next(), wanted);
        // Of the hash 0 there is nobody.
        writeln!(stdin, "rollback").unwrap();
        assert_eq!(next(), "within 1, after 0, whole None");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Starts a server that takes connections over TLS alone, and returns its certificate.
fn start_with_tls(port: u16) -> (Cluster, String) {
    let named = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let certificate = named.cert.pem();
    let cluster = Cluster::start(&Setup::default()).unwrap();
    for (file, text) in [
        ("server.crt", certificate.as_str()),
        ("server.key", &named.signing_key.serialize_pem()),
        (
            "pg_hba.conf",
            "local all all trust\nhostssl all all all trust\n",
        ),
    ] {
        cluster.write_data(file, text).unwrap();
    }
    let settings = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("ssl", "on"),
    ];
    cluster.configure(&settings).unwrap();
    (cluster, certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_connected_over_tls_as_psql_is() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (_cluster, certificate) = start_with_tls(port);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.crt");
    std::fs::write(&root, certificate).unwrap();
    let url = format!(
        "postgresql://postgres@localhost:{port}/postgres?hostaddr=127.0.0.1&sslmode=verify-full\
        &sslrootcert={}",
        root.display()
    );
    let target = Target::new(&url, Environment::default()).unwrap();
    let connected = target.connect(&SessionOptions::default()).await.unwrap();
    tokio::spawn(connected.connection);
    connected.client.batch_execute(USERS).await.unwrap();
    let installed = run(pgic(&["install-triggers", "users", "-d", &url]));
    assert_eq!(installed.code, 0, "{installed:?}");

    let mut child = Command::new(programs().join("examples").join("tls"))
        .arg(&url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect(NOT_BUILT);
    let lines = lines_of(child.stdout.take().unwrap());
    assert_eq!(
        lines.recv_timeout(DEADLINE).unwrap(),
        "encrypted by TLSv1.3"
    );
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "0 users, live");
    // The three sessions of the replica are encrypted too, and there are no others of its name.
    let question = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_activity
        JOIN pg_stat_ssl USING (pid) WHERE application_name LIKE 'tls example%'";
    let row = connected.client.query_one(question, &[]).await.unwrap();
    let encrypted = row.get::<_, i64>(0);
    assert!(encrypted >= 3, "{encrypted}");
    assert_eq!(encrypted, row.get::<_, i64>(1));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
