//! The consumers in other languages of the examples, beside a table that is written to: in the end
//! each has the table. `docs/payload.md` is what they follow.

use crate::support::{DEADLINE, Database, lines_of};
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Instant;
use tokio_postgres::Client;

/// A consumer that runs.
struct Consumer {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Consumer {
    /// Starts a consumer of `public.items`, and waits until it has read the table.
    fn start(mut command: Command, database: &Database) -> Self {
        let mut child = command
            .args([&database.url, "public", "items"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the consumer");
        let lines = lines_of(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        let consumer = Self {
            child,
            stdin,
            lines,
        };
        assert_eq!(consumer.lines.recv_timeout(DEADLINE).unwrap(), "live");
        consumer
    }

    /// Returns the rows that the consumer has.
    fn rows(&mut self) -> Value {
        writeln!(self.stdin, "rows").unwrap();
        let line = self.lines.recv_timeout(DEADLINE).unwrap();
        numbers_as_texts(serde_json::from_str(&line).unwrap())
    }
}

/// Returns a value with each number as a text: JavaScript has long integers as texts.
fn numbers_as_texts(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(values) => values.into_iter().map(numbers_as_texts).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| (name, numbers_as_texts(value)))
            .collect(),
        other => other,
    }
}

/// Returns the rows of the table.
async fn table(client: &Client) -> Value {
    let rows = "SELECT coalesce(json_object_agg(id, row_to_json(items)), '{}')::text FROM items";
    let text: String = client.query_one(rows, &[]).await.unwrap().get(0);
    numbers_as_texts(serde_json::from_str(&text).unwrap())
}

/// The trigger puts a row back when it is deleted, and is announced before the delete.
const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, n bigint, name text);
    CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO items VALUES (OLD.id, OLD.n, 'again'); RETURN NULL; END$$;
    CREATE TRIGGER a_put_back AFTER DELETE ON items
        FOR EACH ROW WHEN (OLD.name = 'back') EXECUTE FUNCTION put_back();
    INSERT INTO items SELECT 9007199254740990 + n, n, 'before' FROM generate_series(1, 20) n;";

/// Statements of every kind on keys that a number of JavaScript cannot tell apart.
fn statement(random: &mut fastrand::Rng) -> String {
    let id = 9_007_199_254_740_990_i64 + random.i64(0..30);
    let other = 9_007_199_254_740_990_i64 + random.i64(0..30);
    let name = match random.u8(..5) {
        4 => "'back'".to_string(),
        // Too long to be sent.
        0 => "repeat('long ', 3000)".to_string(),
        1 => "E'\"id\":12345678901234567890, \\\\ \\\" ünicode\\n'".to_string(),
        2 => "NULL".to_string(),
        _ => "'0.12345678901234567890'".to_string(),
    };
    let n = random.i64(i64::MIN..i64::MAX);
    match random.u8(..12) {
        0 => format!("DELETE FROM items WHERE id = {id}"),
        1 => format!(
            "UPDATE items SET id = {other} WHERE id = {id}
             AND NOT EXISTS (SELECT FROM items WHERE id = {other})"
        ),
        2 => format!("UPDATE items SET n = {n}, name = {name} WHERE id < {id}"),
        3 if random.u8(..4) == 0 => "TRUNCATE items".to_string(),
        _ => format!(
            "INSERT INTO items VALUES ({id}, {n}, {name})
             ON CONFLICT (id) DO UPDATE SET n = {n}, name = {name}"
        ),
    }
}

/// Returns the path of an example.
fn example(file: &str) -> String {
    format!(
        "{}/../postgres-index-cache-core/examples/{file}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// Writes to the table, and checks that the consumer ends with the same rows.
async fn keeps_in_step(command: impl Fn() -> Command) {
    for options in [&[][..], &["--bulk"], &["--no-data"]] {
        let database = Database::with(ITEMS).await;
        database.pgic_ok(&[&["install-triggers", "items"], options].concat());
        let client = database.client().await;
        let mut consumer = Consumer::start(command(), &database);
        let hostile =
            "SELECT pg_notify('cache_invalidation', payload) FROM (VALUES ('no JSON'), ('7'),
            ('null'), ('{\"table\":7}'), ('{\"table\":\"items\"}'),
            ('{\"table\":\"items\",\"action\":\"update\",\"id\":\"x\"}'),
            ('{\"table\":\"items\",\"action\":\"update\",\"rows\":7}'),
            ('{\"table\":\"others\",\"id\":1}')) _(payload)";
        client.batch_execute(hostile).await.unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..15 {
            for _ in 0..10 {
                let sql = statement(&mut random);
                client.batch_execute(&sql).await.unwrap();
            }
            let wanted = table(&client).await;
            let give_up = Instant::now() + DEADLINE;
            loop {
                let rows = consumer.rows();
                if rows == wanted {
                    break;
                }
                assert!(
                    Instant::now() < give_up,
                    "{:?} {options:?} has {rows}\nwanted {wanted}",
                    command()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_in_python_keeps_in_step() {
    let has_psycopg = |python: &&str| {
        let found = Command::new(python).args(["-c", "import psycopg"]).output();
        found.is_ok_and(|found| found.status.success())
    };
    let python = ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has_psycopg)
        .expect("a Python with psycopg: apt-get install python3-psycopg");
    keeps_in_step(|| {
        let mut python = Command::new(python);
        python.arg(example("consumer.py"));
        python
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_in_javascript_keeps_in_step() {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/node/node_modules");
    let node = || {
        let mut node = Command::new("node");
        if std::env::var_os("NODE_PATH").is_none() {
            node.env("NODE_PATH", packages);
        }
        node
    };
    let found = node().args(["-e", "require('pg')"]).output();
    assert!(
        found.is_ok_and(|found| found.status.success()),
        "Node.js with the package pg: npm install --prefix target/node pg"
    );
    keeps_in_step(|| {
        let mut node = node();
        node.arg(example("consumer.js"));
        node
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_in_go_keeps_in_step() {
    // As Debian has the package, or as scripts/find-go.sh has fetched it.
    let of_system = "/usr/share/gocode";
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/go");
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("consumer");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program);
    build.arg(example("consumer.go"));
    if Path::new(of_system).join("src/github.com/lib/pq").is_dir() {
        build.env("GO111MODULE", "off").env("GOPATH", of_system);
        build.env("GOCACHE", folder.path().join("cache"));
    } else {
        build.current_dir(module);
    }
    let built = build.output();
    let built = built.expect("start Go: apt-get install golang-go golang-github-lib-pq-dev");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "Go with the package lib/pq: {said}");
    keeps_in_step(|| {
        let mut consumer = Command::new(&program);
        consumer.env("PGSSLMODE", "disable");
        consumer
    })
    .await;
}
