//! The look-up of a row by its key, in a replica's cache and by a round trip to a server: a prepared
//! SELECT of PostgreSQL, and GET of Redis where that is installed.

use crate::burst::Item;
use crate::report::{Report, Target, ns_each};
use crate::server::Server;
use anyhow::{Context as _, bail};
use postgres_index_cache_core::Replica;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::{Config, NoTls};
use uuid::Uuid;

const LOOKUPS: usize = 5_000;

/// Measures the look-ups, of which each waits for the one before. The table is that of the bursts.
pub async fn run(report: &mut Report, server: &Server, rounds: usize) -> anyhow::Result<()> {
    let config: Config = server.conninfo.parse()?;
    let mut builder = Replica::builder(config.clone());
    let items = builder.table::<Item>("burst");
    let replica = builder.open().await?;
    let keys: Vec<Uuid> = replica
        .read(&items)
        .iter()
        .map(|item| item.id)
        .take(LOOKUPS)
        .collect();
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let select = client
        .prepare("SELECT id, n FROM burst WHERE id = $1")
        .await?;
    let mut redis = Redis::start()?;
    if let Some(redis) = &mut redis {
        for key in &keys {
            let row = format!("{{\"id\":\"{key}\",\"n\":1}}");
            redis.ask(&["SET", &key.to_string(), &row])?;
        }
    }
    let mut by_postgres = Vec::new();
    let mut by_redis = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        for key in &keys {
            black_box(replica.read(&items).get_by_primary(key).map(|item| item.n));
        }
        let ours = ns_each(began.elapsed(), keys.len());
        let began = Instant::now();
        for key in &keys {
            black_box(client.query_one(&select, &[key]).await?.get::<_, i64>(1));
        }
        by_postgres.push((ours, ns_each(began.elapsed(), keys.len())));
        if let Some(redis) = &mut redis {
            let began = Instant::now();
            for key in &keys {
                black_box(redis.ask(&["GET", &key.to_string()])?);
            }
            by_redis.push((ours, ns_each(began.elapsed(), keys.len())));
        }
    }
    let what = "key to row, 100k (Replica)";
    report.pairs(what, "ns", "prepared SELECT", &by_postgres, Target::None);
    if !by_redis.is_empty() {
        report.pairs(what, "ns", "Redis GET", &by_redis, Target::None);
    }
    replica.shutdown().await;
    Ok(())
}

/// A throw-away Redis, and a connection to it.
struct Redis {
    process: Child,
    stream: BufReader<TcpStream>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    /// Starts a server that keeps nothing on disk; `None` where there is no Redis.
    fn start() -> anyhow::Result<Option<Self>> {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let started = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--bind",
                "127.0.0.1",
            ])
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut process) = started else {
            return Ok(None);
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let stream = BufReader::new(stream);
                    return Ok(Some(Self { process, stream }));
                }
                Err(error) if Instant::now() > deadline => {
                    process.kill()?;
                    return Err(error).context("Redis did not start");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Sends a command of several words, and returns the value that is answered; empty if the answer
    /// is a word.
    fn ask(&mut self, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(command.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("+", _)) => Ok(Vec::new()),
            Some(("$", length)) => {
                let length: usize = length.parse().context("Redis has no such key")?;
                // The value is followed by an end of line.
                let mut value = vec![0; length + 2];
                self.stream.read_exact(&mut value)?;
                Ok(value)
            }
            _ => bail!("Redis answered {line:?}"),
        }
    }
}
