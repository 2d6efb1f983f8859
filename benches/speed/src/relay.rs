//! What listening nodes cost PostgreSQL, and what nodes behind a relay do; how much later these see a
//! commit, and how fast they load a table. Left out where there is no NATS server.

use crate::burst::{Item, listening};
use crate::data::User;
use crate::report::{Report, Target, median, ms};
use crate::server::Server;
use anyhow::Context as _;
use futures_util::StreamExt as _;
use postgres_index_cache_core::{Events, Replica, ReplicaEvent, async_nats};
use std::fs;
use std::future::poll_fn;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Config, NoTls, Statement};
use uuid::Uuid;

/// The commits of one measurement.
const COMMITS: u32 = 1000;

/// The log of the figures.
const LOG: &str = "bench";

/// Makes the tables: that of the bursts, and one of a million rows.
pub fn prepare(server: &Server) -> anyhow::Result<()> {
    crate::burst::prepare(server)?;
    server.sql(
        "DROP TABLE IF EXISTS relayed;
         CREATE TABLE relayed (id uuid PRIMARY KEY, n bigint NOT NULL, m bigint NOT NULL);
         INSERT INTO relayed SELECT gen_random_uuid(), n, n % 1000
         FROM generate_series(1, 1000000) n;
         ANALYZE relayed;",
    )?;
    server.pgic(&["install-triggers", "relayed"])?;
    Ok(())
}

/// Measures commits beside listeners and beside a relay, and nodes of the relay.
pub async fn run(report: &mut Report, server: &Server, rounds: usize) -> anyhow::Result<()> {
    let config: Config = server.conninfo.parse()?;
    let writer = Writer::open(&config).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let mut alone = Vec::new();
    for _ in 0..rounds {
        alone.push(writer.commits().await?);
    }
    say_costs(report, "commit, nobody listens", &alone);
    for listeners in [1, 10, 100] {
        while tasks.len() < listeners {
            let (client, mut connection) = listening(&config).await?;
            tasks.spawn(async move {
                let _client = client;
                // A connection that is closed ends with the server.
                while poll_fn(|cx| connection.poll_message(cx)).await.is_some() {}
            });
        }
        let mut costs = Vec::new();
        for _ in 0..rounds {
            costs.push(writer.commits().await?);
        }
        say_costs(
            report,
            &format!("commit, sessions that listen: {listeners}"),
            &costs,
        );
    }
    tasks.shutdown().await;
    let Some(nats) = Nats::start()? else {
        eprintln!("no nats-server: the relay's figures are left out");
        return Ok(());
    };
    let _relay = Relay::start(server, &nats)?;
    let mut builder = Replica::over_nats(nats.connect().await?, LOG);
    builder.table::<Item>("burst");
    let node = builder.open().await?;
    for subscribers in [1, 100, 1000] {
        while tasks.len() + 1 < subscribers {
            let mut entries = nats
                .connect()
                .await?
                .subscribe(format!("pgic.{LOG}.live.>"))
                .await?;
            tasks.spawn(async move { while entries.next().await.is_some() {} });
        }
        let mut costs = Vec::new();
        for _ in 0..rounds {
            costs.push(writer.commits().await?);
        }
        let what = format!("commit, a relay, nodes: {subscribers}");
        say_costs(report, &what, &costs);
    }
    tasks.shutdown().await;
    let mut builder = Replica::builder(config.clone());
    builder.table::<Item>("burst");
    let direct = builder.open().await?;
    let mut delays = Vec::new();
    let (mut by_log, mut by_session) = (node.events(), direct.events());
    for _ in 0..COMMITS {
        delays.push(writer.seen_by(&mut by_log, &mut by_session).await?);
    }
    let what = "commit to a node's event, through the log, p50";
    report.pairs(
        what,
        "us",
        "the replica that listens itself",
        &delays,
        Target::None,
    );
    let later: Vec<f64> = delays.iter().map(|(log, session)| log - session).collect();
    let what = "how much later through the log, p50";
    report.alone(what, "us", &[median(&later)], Target::AtMost(500.0));
    node.shutdown().await;
    direct.shutdown().await;
    let mut loads = Vec::new();
    for _ in 0..rounds {
        loads.push((nats.load().await?, ms(server.copy("relayed")?.took)));
    }
    let what = "a node loads 1,000,000 rows";
    report.pairs(what, "ms", "psql COPY", &loads, Target::AtMost(1.5));
    changes(report, &config, &nats, &writer, rounds).await
}

/// Measures many changes at once: how soon a node has them, and how soon one that was away.
async fn changes(
    report: &mut Report,
    config: &Config,
    nats: &Nats,
    writer: &Writer,
    rounds: usize,
) -> anyhow::Result<()> {
    let door = Door::open(nats.port).await?;
    let mut builder = Replica::over_nats(connect(door.port).await?, LOG);
    builder.table::<User>("relayed");
    let node = builder.open().await?;
    let mut builder = Replica::builder(config.clone());
    builder.table::<User>("relayed");
    let direct = builder.open().await?;
    let (mut there, mut away) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        writer.change_many().await?;
        let began = Instant::now();
        let (log, session) = tokio::join!(timed(&node, began), timed(&direct, began));
        there.push((log?, session?));
        door.close();
        writer.change_many().await?;
        direct.fence().await?;
        door.reopen();
        let began = Instant::now();
        away.push(timed(&node, began).await?);
    }
    let what = "100,000 changed rows, from the commit to a node";
    let peer = "the replica that listens itself";
    report.pairs(what, "ms", peer, &there, Target::None);
    let what = "a node that was away for 100,000 changes is live again";
    report.alone(what, "ms", &away, Target::None);
    node.shutdown().await;
    direct.shutdown().await;
    Ok(())
}

/// Returns the milliseconds from `began` until a node has everything that was committed before.
async fn timed(node: &Replica, began: Instant) -> anyhow::Result<f64> {
    node.fence().await?;
    Ok(ms(began.elapsed()))
}

/// Connects to the NATS server at a port, at once or later.
async fn connect(port: u16) -> anyhow::Result<async_nats::Client> {
    let options = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .reconnect_delay_callback(|_| Duration::from_millis(50));
    Ok(options.connect(format!("nats://127.0.0.1:{port}")).await?)
}

/// A port that leads to the NATS server, unless it is closed.
struct Door {
    port: u16,
    is_open: tokio::sync::watch::Sender<bool>,
}

impl Door {
    async fn open(to: u16) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (is_open, watched) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut watched = watched.clone();
                tokio::spawn(async move {
                    if !*watched.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await
                    else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = watched.wait_for(|is_open| !is_open) => {}
                    }
                });
            }
        });
        Ok(Self { port, is_open })
    }

    /// Ends all connections, and those that come.
    fn close(&self) {
        self.is_open.send_replace(false);
    }

    fn reopen(&self) {
        self.is_open.send_replace(true);
    }
}

/// What one commit takes.
struct Cost {
    /// Microseconds until the writer is answered.
    took: f64,
    /// Microseconds of CPU of all processes of PostgreSQL.
    cpu: f64,
}

/// Notes the costs of a commit.
fn say_costs(report: &mut Report, what: &str, costs: &[Cost]) {
    let took: Vec<f64> = costs.iter().map(|cost| cost.took).collect();
    let cpu: Vec<f64> = costs.iter().map(|cost| cost.cpu).collect();
    report.alone(what, "us", &took, Target::None);
    report.alone(
        &format!("{what}, CPU of PostgreSQL"),
        "us",
        &cpu,
        Target::None,
    );
}

/// A session that changes one row again and again.
struct Writer {
    client: Client,
    update: Statement,
    id: Uuid,
    /// The server's main process.
    postmaster: i32,
}

impl Writer {
    /// Changes 100,000 rows of the large table in one statement.
    async fn change_many(&self) -> anyhow::Result<()> {
        let update = "UPDATE relayed SET m = m + 1 WHERE n <= 100000";
        self.client.batch_execute(update).await?;
        Ok(())
    }

    async fn open(config: &Config) -> anyhow::Result<Self> {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        let row = client
            .query_one("SELECT id, pg_backend_pid() FROM burst LIMIT 1", &[])
            .await?;
        let update = client
            .prepare("UPDATE burst SET n = n + 1 WHERE id = $1")
            .await?;
        let backend: i32 = row.get(1);
        let process = Process::read(&backend.to_string()).context("the session's process")?;
        Ok(Self {
            client,
            update,
            id: row.get(0),
            postmaster: process.parent,
        })
    }

    /// Changes the row in one commit after the other.
    async fn commits(&self) -> anyhow::Result<Cost> {
        let cpu = cpu_of(self.postmaster)?;
        let began = Instant::now();
        for _ in 0..COMMITS {
            self.client.execute(&self.update, &[&self.id]).await?;
        }
        let took = began.elapsed();
        // What the listening sessions still have to do belongs to the commits.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let cpu = cpu_of(self.postmaster)? - cpu;
        let each = |duration: Duration| duration.as_secs_f64() * 1e6 / f64::from(COMMITS);
        Ok(Cost {
            took: each(took),
            cpu: each(cpu),
        })
    }

    /// Changes the row, and returns the microseconds until each of two replicas tells of it.
    async fn seen_by(
        &self,
        by_log: &mut Events,
        by_session: &mut Events,
    ) -> anyhow::Result<(f64, f64)> {
        let began = Instant::now();
        let write = async { self.client.execute(&self.update, &[&self.id]).await };
        let (written, log, session) = tokio::join!(write, row(by_log), row(by_session));
        written?;
        let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64() * 1e6;
        Ok((since(log?), since(session?)))
    }
}

/// Waits for the next event of a row. Returns when it came.
async fn row(events: &mut Events) -> anyhow::Result<Instant> {
    loop {
        match events.next().await {
            Some(ReplicaEvent::Row { .. }) => return Ok(Instant::now()),
            Some(_) => {}
            None => anyhow::bail!("the replica ended"),
        }
    }
}

/// A process, as the kernel describes it.
struct Process {
    parent: i32,
    cpu: Duration,
}

impl Process {
    /// Reads what the kernel says of a process; `None` if it is gone.
    fn read(pid: &str) -> Option<Self> {
        /// The length of a tick: Linux counts a hundred in a second, whatever the kernel's own.
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program stands in brackets, and may have spaces.
        let (_, behind) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            cpu: TICK * (ticks(11)? + ticks(12)?),
        })
    }
}

/// Returns the CPU time that the processes of a server have used.
fn cpu_of(postmaster: i32) -> anyhow::Result<Duration> {
    let mut cpu = Duration::ZERO;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let process = name.to_str().and_then(Process::read);
        cpu += process
            .filter(|process| process.parent == postmaster)
            .map_or(Duration::ZERO, |process| process.cpu);
    }
    Ok(cpu)
}

/// A throw-away NATS server.
struct Nats {
    process: Child,
    port: u16,
    _store: tempfile::TempDir,
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Nats {
    /// Starts a server; `None` where there is none.
    fn start() -> anyhow::Result<Option<Self>> {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let store = tempfile::tempdir()?;
        let started = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(store.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = started else {
            return Ok(None);
        };
        Ok(Some(Self {
            process,
            port,
            _store: store,
        }))
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn connect(&self) -> anyhow::Result<async_nats::Client> {
        connect(self.port).await
    }

    /// Opens a node of the large table, and returns how long that took.
    async fn load(&self) -> anyhow::Result<f64> {
        let client = self.connect().await?;
        client.flush().await?;
        let began = Instant::now();
        let mut builder = Replica::over_nats(client, LOG);
        let rows = builder.table::<User>("relayed");
        let replica = builder.open().await?;
        let took = ms(began.elapsed());
        assert_eq!(replica.read(&rows).len(), 1_000_000);
        replica.shutdown().await;
        Ok(took)
    }
}

/// The command `pgic relay` of both tables.
struct Relay {
    process: Child,
    /// What the relay says: read until the first snapshot, and kept open.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Relay {
    /// Starts the relay, and waits until nodes have a snapshot to load.
    fn start(server: &Server, nats: &Nats) -> anyhow::Result<Self> {
        let relay = Command::new(&server.pgic)
            .args(["relay", "burst", "relayed", "-d", &server.conninfo])
            .args(["--to", &nats.url(), "--name", LOG])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = relay.context("run pgic relay")?;
        let said = process.stdout.take().context("the relay's output")?;
        let mut said = BufReader::new(said).lines();
        while !said
            .next()
            .context("the relay has ended")??
            .contains("snapshot")
        {}
        Ok(Self {
            process,
            _said: said,
        })
    }
}
