//! Shared by all tests on a real server: one throw-away cluster for each test process, a database
//! for each test, and helpers that wait for an event with a deadline instead of sleeping.
//!
//! ```text
//! cluster()           one server, with two-phase commit and logical replication
//!   └─ Database       one for each test: client(), pgic(), tail(), listen()
//!        └─ Listening payloads(): everything that was committed before the call
//! Pooler, Proxy       stand between a test and a server, and misbehave on request
//! ```

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod load;
pub mod nats;
pub mod pooler;
pub mod proxy;
pub mod schema;
mod specification;

pub use specification::FUNCTION as SPECIFICATION;

use postgres_index_cache_core::tooling::postgres::{Listener, Session, quote_identifier};
use postgres_index_cache_core::tooling::unpack;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use throwaway_postgres::{Cluster, INSTALL_HINT, Setup};
use tokio_postgres::{Client, NoTls};

/// The longest time that a test waits for one event. An event that comes at all comes much sooner,
/// also on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The table `users` as the specification defines it.
pub const USERS: &str = "CREATE TABLE users (id uuid PRIMARY KEY, username_hash bigint NOT NULL, \
    email_hash bigint NOT NULL);";

/// The specification's trigger on `users`. It calls [`SPECIFICATION`], which must exist.
pub const SPECIFICATION_TRIGGER: &str = "
CREATE TRIGGER users_cache_notify
    AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW
    EXECUTE FUNCTION notify_cache_change();";

/// Returns the cluster of this test process, and starts it at the first call.
///
/// # Panics
/// If no server can be started: these tests fail without PostgreSQL, they do not skip.
pub fn cluster() -> &'static Cluster {
    // A static is never dropped. A watchdog of the cluster's removes the server when this process
    // is gone, however the tests end.
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    // Two-phase commit and logical replication are off by default, and `facts.rs` tests both.
    let settings = [("max_prepared_transactions", "5"), ("wal_level", "logical")];
    let settings = settings
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
    CLUSTER.get_or_init(|| match Cluster::start(&Setup { settings }) {
        Ok(cluster) => cluster,
        Err(error) => panic!("these tests need a PostgreSQL server: {error}\n{INSTALL_HINT}"),
    })
}

/// Starts a cluster of the test's own, with these settings.
///
/// # Panics
/// If it cannot be started.
pub fn own_cluster(settings: &[(&str, &str)]) -> Cluster {
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).to_string(), (*value).to_string()));
    let setup = Setup {
        settings: settings.collect(),
    };
    Cluster::start(&setup).expect("start a server")
}

/// Runs statements, and panics with them if they fail.
pub async fn execute(client: &Client, sql: &str) {
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A database that belongs to one test.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    /// The connection string that leads to the database, as the superuser.
    pub url: String,
}

impl Database {
    /// Creates a database on the shared cluster and runs `sql` in it.
    pub async fn with(sql: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let database = Self::on(cluster(), name).await;
        database
            .client()
            .await
            .batch_execute(sql)
            .await
            .expect("set the database up");
        database
    }

    /// Creates an empty database on `cluster`.
    pub async fn on(cluster: &Cluster, name: String) -> Self {
        let admin = connect(&cluster.url("postgres")).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("create a database");
        let url = cluster.url(&name);
        Self { name, url }
    }

    /// Opens a session in the database, as the superuser.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// Opens a session in the database, as `role`.
    pub async fn client_as(&self, role: &str) -> Client {
        connect(&self.as_role(role).url).await
    }

    /// Returns this database for another role, whose name goes into the connection string.
    pub fn as_role(&self, role: &str) -> Self {
        Self {
            name: self.name.clone(),
            url: self.url.replace("postgres@", &format!("{role}@")),
        }
    }

    /// Returns this database behind a proxy that listens on this port.
    pub fn behind(&self, port: u16) -> Self {
        Self {
            name: self.name.clone(),
            url: format!("postgresql://postgres@127.0.0.1:{port}/{}", self.name),
        }
    }

    /// Returns the command `pgic` with these arguments and this database as its `DATABASE_URL`. See
    /// [`pgic`] for the rest of its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = pgic(arguments);
        command.env("DATABASE_URL", &self.url);
        command
    }

    /// Runs `pgic` until it ends, and returns the result whatever the exit code.
    pub fn pgic(&self, arguments: &[&str]) -> Ran {
        let ran = run(self.command(arguments));
        ran.check(arguments);
        ran
    }

    /// Runs `pgic`, which must exit with 0, and returns its stdout.
    pub fn pgic_ok(&self, arguments: &[&str]) -> String {
        let ran = self.pgic(arguments);
        assert_eq!(ran.code, 0, "pgic {arguments:?}: {ran:?}");
        ran.stdout
    }

    /// Starts `pgic tail -o json` with these arguments and waits until it listens.
    pub fn tail(&self, arguments: &[&str]) -> Tail {
        Tail::start(self.command(&[&["tail", "-o", "json"], arguments].concat()))
    }

    /// Listens on `cache_invalidation`, the default channel.
    pub async fn listen(&self) -> Listening {
        self.listen_on("cache_invalidation").await
    }

    /// Runs `sql` in a new session and returns the changes that arrived on the default channel,
    /// each as [`short`] writes it.
    pub async fn arrives(&self, sql: &str) -> Vec<String> {
        let mut listening = self.listen().await;
        self.client()
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("a writer failed: {error:?}"));
        listening.short().await
    }

    /// Compares `table` with its cache for three seconds, while `statements` are run over and over,
    /// each a transaction. Returns the answer of `pgic verify`.
    pub async fn verify_while_running(&self, table: &str, statements: &[&str]) -> Ran {
        let command = self.command(&["verify", table, "--for", "3s", "--min-changes", "50"]);
        let verifying = std::thread::spawn(move || run(command));
        let client = self.client().await;
        while !verifying.is_finished() {
            for sql in statements {
                client
                    .batch_execute(sql)
                    .await
                    .unwrap_or_else(|error| panic!("a writer failed: {error:?}"));
            }
        }
        verifying.join().expect("pgic verify ends")
    }

    /// Listens on `channel`, and on the channel of the test's own fences.
    pub async fn listen_on(&self, channel: &str) -> Listening {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls)
            .await
            .expect("connect");
        let channels = [channel.to_string(), "test_fence".to_string()];
        let listener = Listener::open(Session::new(client, connection), &channels)
            .await
            .expect("LISTEN");
        Listening {
            listener,
            fences: self.client().await,
        }
    }
}

/// Opens a session whose connection is driven by a task of its own.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("connect to the test's server");
    tokio::spawn(connection);
    client
}

/// Returns the folder that holds the programs which cargo builds: `target/debug`, for example.
pub fn programs() -> PathBuf {
    // The test runs in the folder `deps` of that folder.
    let test = std::env::current_exe().expect("a test knows its program");
    test.ancestors()
        .nth(2)
        .expect("a test's program is in the target folder")
        .to_path_buf()
}

/// Returns the program `pgic`.
///
/// Cargo tells the path to tests of pgic's package alone. The core's tests find the program beside
/// their own, where `cargo test --workspace` has built it.
pub fn binary() -> PathBuf {
    let binary = programs().join("pgic");
    assert!(
        binary.exists(),
        "{} is not built: run cargo test --workspace, or cargo build",
        binary.display()
    );
    binary
}

/// Returns the command `pgic` with these arguments, no stdin, and an empty environment.
///
/// Only `PATH`, `PGIC_PG_BIN` and `TMPDIR` are kept: libpq's variables of the developer who runs
/// the tests would lead to another server.
pub fn pgic(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().stdin(Stdio::null());
    for name in ["PATH", "PGIC_PG_BIN", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs `command` until it ends. See [`ended`].
pub fn run(mut command: Command) -> Ran {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start pgic");
    ended(child)
}

/// Waits until `child` ends, and returns its exit code and output. Past [`DEADLINE`] the child is
/// killed, and the exit code is -1.
pub fn ended(child: Child) -> Ran {
    let pid = child.id().to_string();
    let (done, is_done) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if is_done.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // `wait_with_output` knows no timeout. A child that is killed ends it, and the test
            // fails on the exit code instead of hanging.
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    });
    let output = child.wait_with_output().expect("wait for pgic");
    drop(done);
    watch.join().expect("the watch ends");
    Ran::of(output)
}

/// The exit code and the output of a run of `pgic`.
#[derive(Debug)]
pub struct Ran {
    /// The exit code, or -1 if a signal ended the process.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    /// Holds all output to the published schema, if it was to be JSON. `query` without `--watch`
    /// prints rows alone, which have the columns of their table.
    fn check(&self, arguments: &[&str]) {
        if !arguments.ends_with(&["-o", "json"]) && !arguments.contains(&"json") {
            return;
        }
        schema::check_all(&self.stderr);
        let prints_rows = arguments.contains(&"query") && !arguments.contains(&"--count");
        if !prints_rows {
            schema::check_all(&self.stdout);
        }
    }

    /// Returns stdout as JSON, one value for each line.
    pub fn json(&self) -> Vec<Value> {
        json_lines(&self.stdout)
    }
}

/// Takes the first event of a stream, which says where the command is connected. A command that
/// failed has none.
pub fn skip_connected(lines: &Receiver<String>) {
    if let Ok(first) = lines.recv_timeout(DEADLINE) {
        assert_eq!(schema::check(&first)["event"], "connected");
    }
}

/// Parses each line of `text` as JSON.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect()
}

/// A running `pgic tail -o json`.
pub struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Tail {
    /// Starts `command`, which must be `pgic tail -o json`, and waits until it listens.
    pub fn start(command: Command) -> Self {
        let tail = Self::of_log(command);
        let first = tail.next();
        assert_eq!(first["event"], "connected", "{first}");
        tail
    }

    /// Starts `command`, which connects to no server of PostgreSQL.
    pub fn of_log(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start pgic tail");
        let lines = lines_of(child.stdout.take().expect("its stdout is piped"));
        Self { child, lines }
    }

    /// Waits for the next line of stdout and returns it as JSON.
    pub fn next(&self) -> Value {
        let line = self
            .lines
            .recv_timeout(DEADLINE)
            .expect("tail prints another line");
        schema::check(&line)
    }

    /// Waits until the process ends. Returns its exit code, the lines that were not read before,
    /// and its stderr.
    pub fn finish(mut self) -> (i32, Vec<Value>, String) {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("tail does not end"),
            }
        }
        let status = self.child.wait().expect("wait for tail");
        let mut stderr = String::new();
        Read::read_to_string(&mut self.child.stderr.take().expect("piped"), &mut stderr)
            .expect("read stderr");
        (
            status.code().unwrap_or(-1),
            schema::check_all(&rest.join("\n")),
            stderr,
        )
    }

    /// Returns the process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .expect("run kill");
        assert!(status.success());
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // The child has ended already if the test called `finish`. It is still there if the test
        // panicked.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a channel of the lines that a child writes, which a thread reads as they come.
pub fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// A listening session, and a second session that sends fences, so that a test can ask which
/// notifications have arrived so far.
pub struct Listening {
    listener: Listener,
    fences: Client,
}

impl Listening {
    /// Returns the payloads of everything that was committed before this call and was not returned
    /// by an earlier one.
    pub async fn payloads(&mut self) -> Vec<String> {
        // PostgreSQL delivers notifications in commit order. Once the token has come back, nothing
        // that was committed before it is still on its way. An empty result is therefore a proof of
        // silence, which no sleep would be.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let token = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
        self.fences
            .batch_execute(&format!("NOTIFY test_fence, '{token}'"))
            .await
            .expect("send a fence");
        let mut payloads = Vec::new();
        tokio::time::timeout(DEADLINE, async {
            loop {
                let notification = self
                    .listener
                    .next()
                    .await
                    .expect("the connection stays")
                    .expect("a notification");
                if notification.channel() == "test_fence" && notification.payload() == token {
                    break;
                }
                payloads.push(notification.payload().to_string());
            }
        })
        .await
        .expect("the fence comes back");
        payloads
    }

    /// Returns the changes in the payloads of [`Listening::payloads`] as JSON.
    pub async fn changes(&mut self) -> Vec<Value> {
        let payloads = self.payloads().await;
        let changes = payloads.iter().flat_map(|payload| unpack(payload));
        changes
            .map(|change| serde_json::from_str(&change).expect("a payload is JSON"))
            .collect()
    }

    /// Returns the changes in the payloads of [`Listening::payloads`] as [`short`] writes them.
    pub async fn short(&mut self) -> Vec<String> {
        self.changes().await.iter().map(short).collect()
    }
}

/// Writes a change in a few words: `insert 7`, `update 6>7` for a changed key, `insert 1 truncated`
/// for a row that was too long to be sent.
pub fn short(change: &Value) -> String {
    let action = change["action"].as_str().unwrap_or("?");
    // A payload has the key as `id`, an event of `pgic tail` as `key`.
    let key = change
        .get("id")
        .or_else(|| change.get("key"))
        .unwrap_or(&Value::Null);
    let mut text = format!("{action} {key}");
    if let Some(old) = change.get("old_id").or_else(|| change.get("old_key")) {
        text = format!("{action} {old}>{key}");
    }
    if change.get("truncated").is_some() {
        text.push_str(" truncated");
    }
    text
}

/// Returns `name` as a quoted identifier of SQL.
pub fn quoted(name: &str) -> String {
    quote_identifier(name)
}
