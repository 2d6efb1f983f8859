//! What tests on a real server share: one throw-away cluster a test process, a database a test, and
//! waiting for events with a deadline instead of sleeping.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod pooler;
pub mod proxy;
mod specification;

pub use specification::FUNCTION as SPECIFICATION;

use postgres_index_cache_core::postgres::{Listener, Session, quote_identifier};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use throwaway_postgres::{Cluster, INSTALL_HINT, Setup};
use tokio_postgres::{Client, NoTls};

/// Nothing that works takes this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Users as the specification has them.
pub const USERS: &str = "CREATE TABLE users (id uuid PRIMARY KEY, username_hash bigint NOT NULL, \
    email_hash bigint NOT NULL);";

/// The specification's trigger on users.
pub const SPECIFICATION_TRIGGER: &str = "
CREATE TRIGGER users_cache_notify
    AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW
    EXECUTE FUNCTION notify_cache_change();";

/// The cluster of this test process; it is gone when the process is.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    // What two-phase commit and logical replication take.
    let settings = [("max_prepared_transactions", "5"), ("wal_level", "logical")];
    let settings = settings
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
    CLUSTER.get_or_init(|| match Cluster::start(&Setup { settings }) {
        Ok(cluster) => cluster,
        Err(error) => panic!("these tests need a PostgreSQL server: {error}\n{INSTALL_HINT}"),
    })
}

/// A database of a test's own.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    pub url: String,
}

impl Database {
    /// A new database in which `sql` has been run.
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

    /// A new, empty database on a cluster.
    pub async fn on(cluster: &Cluster, name: String) -> Self {
        let admin = connect(&cluster.url("postgres")).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("create a database");
        let url = cluster.url(&name);
        Self { name, url }
    }

    /// A session in it, as the superuser.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// A session as another role.
    pub async fn client_as(&self, role: &str) -> Client {
        connect(&self.url.replace("postgres@", &format!("{role}@"))).await
    }

    /// `pgic` with these arguments, hermetic.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = pgic(arguments);
        command.env("DATABASE_URL", &self.url);
        command
    }

    /// Runs `pgic` to its end.
    pub fn pgic(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments))
    }

    /// Runs `pgic`, which must succeed, and gives its stdout.
    pub fn pgic_ok(&self, arguments: &[&str]) -> String {
        let ran = self.pgic(arguments);
        assert_eq!(ran.code, 0, "pgic {arguments:?}: {ran:?}");
        ran.stdout
    }

    /// Starts `pgic tail` with these arguments and waits until it listens.
    pub fn tail(&self, arguments: &[&str]) -> Tail {
        Tail::start(self.command(&[&["tail", "-o", "json"], arguments].concat()))
    }

    /// Listens on `cache_invalidation`.
    pub async fn listen(&self) -> Listening {
        self.listen_on("cache_invalidation").await
    }

    /// Runs `sql` in a session of its own and gives what arrived, in short.
    pub async fn arrives(&self, sql: &str) -> Vec<String> {
        let mut listening = self.listen().await;
        self.client()
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("a writer failed: {error:?}"));
        listening.short().await
    }

    /// Listens on a channel.
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

/// A session that a task drives.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("connect to the test's server");
    tokio::spawn(connection);
    client
}

/// `pgic` with no variables but PATH.
pub fn pgic(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgic"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    for name in ["PATH", "PGIC_PG_BIN", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a command to its end, which comes before the deadline.
pub fn run(mut command: Command) -> Ran {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start pgic");
    ended(child)
}

/// Waits for a command's end, which comes before the deadline.
pub fn ended(child: Child) -> Ran {
    let pid = child.id().to_string();
    let (done, is_done) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if is_done.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // The test fails on the exit code; it must not hang.
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    });
    let output = child.wait_with_output().expect("wait for pgic");
    drop(done);
    watch.join().expect("the watch ends");
    Ran::of(output)
}

/// How a run of `pgic` ended.
#[derive(Debug)]
pub struct Ran {
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

    /// stdout as JSON, a value a line.
    pub fn json(&self) -> Vec<Value> {
        json_lines(&self.stdout)
    }
}

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
    /// Starts it, and waits until it listens.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start pgic tail");
        let lines = lines_of(child.stdout.take().expect("its stdout is piped"));
        let tail = Self { child, lines };
        let first = tail.next();
        assert_eq!(first["event"], "connected", "{first}");
        tail
    }

    /// The next line.
    pub fn next(&self) -> Value {
        let line = self
            .lines
            .recv_timeout(DEADLINE)
            .expect("tail prints another line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }

    /// Waits for its end; what it had printed more.
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
        std::io::Read::read_to_string(&mut self.child.stderr.take().expect("piped"), &mut stderr)
            .expect("read stderr");
        (
            status.code().unwrap_or(-1),
            json_lines(&rest.join("\n")),
            stderr,
        )
    }

    /// Sends it a signal.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
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
        // It has ended where a test waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a child's output, as they come.
pub fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// A listener whose test asks: what has arrived by now?
pub struct Listening {
    listener: Listener,
    fences: Client,
}

impl Listening {
    /// The payloads of everything that was committed before this call.
    pub async fn payloads(&mut self) -> Vec<String> {
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

    /// The same as JSON.
    pub async fn changes(&mut self) -> Vec<Value> {
        self.payloads()
            .await
            .iter()
            .map(|payload| serde_json::from_str(payload).expect("a payload is JSON"))
            .collect()
    }

    /// The same in short: `insert 7`, `update 6>7`.
    pub async fn short(&mut self) -> Vec<String> {
        self.changes().await.iter().map(short).collect()
    }
}

/// A change in a few words.
pub fn short(change: &Value) -> String {
    let action = change["action"].as_str().unwrap_or("?");
    let mut text = format!("{action} {}", change["id"]);
    if let Some(old) = change.get("old_id") {
        text = format!("{action} {old}>{}", change["id"]);
    }
    if change.get("truncated").is_some() {
        text.push_str(" truncated");
    }
    text
}

/// A name as it stands in SQL.
pub fn quoted(name: &str) -> String {
    quote_identifier(name)
}
