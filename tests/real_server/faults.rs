//! Random load on a server of its own while connections are ended, cut, stalled and slowed down,
//! and the server is restarted. `PGIC_FAULT_ROUNDS` makes it longer than in an ordinary run;
//! `PGIC_FAULT_SEED` repeats one.

mod definitions;
mod one_table;
mod polling;
mod several_tables;

use crate::support::proxy::{Mood, Proxy};
use crate::support::{DEADLINE, Database};
use postgres_index_cache_core::sync::Limits;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use throwaway_postgres::{Cluster, Setup};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

fn rounds(otherwise: u64) -> u64 {
    number("PGIC_FAULT_ROUNDS", otherwise)
}

fn seed() -> u64 {
    number("PGIC_FAULT_SEED", 1)
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Bounds with which silence is noticed soon.
fn limits() -> Limits {
    Limits {
        heartbeat: Duration::from_millis(200),
        fence_timeout: Duration::from_secs(3),
        ..Limits::default()
    }
}

/// Writers that go on through whatever happens to the server.
struct Load {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    // Writers hold it shared while they write; whoever holds it alone has a quiet point.
    quiet: Arc<RwLock<()>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Three writers of random transactions.
    fn start(database: &Database, transaction: fn(&mut fastrand::Rng) -> String) -> Self {
        let stop = Arc::default();
        let commits = Arc::default();
        let quiet = Arc::default();
        let mut load = Self {
            stop,
            commits,
            quiet,
            writers: Vec::new(),
        };
        for n in 0..3 {
            let stop = Arc::clone(&load.stop);
            let commits = Arc::clone(&load.commits);
            let quiet = Arc::clone(&load.quiet);
            let random = fastrand::Rng::with_seed(seed() * 10 + n);
            let url = database.url.clone();
            load.writers.push(tokio::spawn(write(
                url,
                random,
                transaction,
                stop,
                commits,
                quiet,
            )));
        }
        load
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Nobody writes while this is held.
    async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.quiet.write().await
    }

    /// Ends it; how many transactions there were.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer ends");
        }
        self.commits.load(Ordering::Relaxed)
    }
}

async fn write(
    url: String,
    mut random: fastrand::Rng,
    transaction: fn(&mut fastrand::Rng) -> String,
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    quiet: Arc<RwLock<()>>,
) {
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let _writing = quiet.read().await;
        let Some(connected) = &client else {
            if let Ok((connected, connection)) = tokio_postgres::connect(&url, NoTls).await {
                tokio::spawn(connection);
                client = Some(connected);
            }
            continue;
        };
        // Writers may deadlock with each other, and lose.
        if connected
            .batch_execute(&transaction(&mut random))
            .await
            .is_err()
            && connected.batch_execute("ROLLBACK").await.is_err()
        {
            client = None;
            continue;
        }
        commits.fetch_add(1, Ordering::Relaxed);
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The quiet point comes under load, and nothing else.
    Nothing,
    /// The sessions are ended whose application's name is like this, after the follower's own.
    Ends(&'static str),
    /// The server is restarted.
    Restarts(&'static str),
    /// The network cuts every connection.
    Cuts,
    /// The network is silent until the follower connects anew; then what was sent comes late, or is
    /// lost.
    Stalls { is_lost: bool },
    /// The network is slow.
    Drips,
}

const FAULTS: [Fault; 12] = [
    Fault::Nothing,
    Fault::Ends(""),
    Fault::Ends(" (fences)"),
    Fault::Ends(" (reads)"),
    Fault::Ends("%"),
    Fault::Restarts("immediate"),
    Fault::Restarts("fast"),
    Fault::Restarts("smart"),
    Fault::Cuts,
    Fault::Stalls { is_lost: false },
    Fault::Stalls { is_lost: true },
    Fault::Drips,
];

/// A server of its own, a way to it that fails, and what is done to both.
struct Injector {
    cluster: Arc<Cluster>,
    /// What writes, directly.
    database: Database,
    /// The way through the proxy.
    through: Database,
    proxy: Proxy,
    random: fastrand::Rng,
    injected: BTreeMap<Fault, u64>,
}

impl Injector {
    async fn start(sql: &str, triggers_on: &[&str]) -> Self {
        let cluster = Arc::new(Cluster::start(&Setup::default()).expect("start a server"));
        let database = Database::on(&cluster, "faults".to_string()).await;
        database
            .client()
            .await
            .batch_execute(sql)
            .await
            .expect("make the tables");
        database.pgic_ok(&[&["install-triggers"], triggers_on].concat());
        let proxy = Proxy::to(cluster.socket_folder().join(".s.PGSQL.5432")).await;
        let url = format!(
            "postgresql://postgres@127.0.0.1:{}/{}",
            proxy.port, database.name
        );
        let through = Database {
            name: database.name.clone(),
            url,
        };
        Self {
            cluster,
            database,
            through,
            proxy,
            random: fastrand::Rng::with_seed(seed()),
            injected: BTreeMap::new(),
        }
    }

    /// Lets something go wrong with a follower that names its sessions after `follower`, while
    /// `going_on` goes on, which does not end.
    async fn inject(
        &mut self,
        follower: &str,
        load: &Load,
        going_on: impl Future<Output = ()>,
    ) -> Fault {
        let fault = FAULTS[self.random.usize(0..FAULTS.len())];
        *self.injected.entry(fault).or_default() += 1;
        let happening = tokio::time::timeout(DEADLINE, self.happen(fault, follower, load));
        tokio::select! {
            happened = happening => happened.unwrap_or_else(|_| panic!("{fault:?} takes too long")),
            () = going_on => unreachable!("it goes on without end"),
        }
        fault
    }

    async fn happen(&self, fault: Fault, follower: &str, load: &Load) {
        let admin = crate::support::connect(&self.cluster.url("postgres")).await;
        let end = |like: String| {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE application_name LIKE $1 AND backend_type = 'client backend' AND pid \
                       <> pg_backend_pid()";
            let admin = &admin;
            async move { admin.query(sql, &[&like]).await.expect("end sessions") }
        };
        match fault {
            Fault::Nothing => {}
            Fault::Ends(which) => {
                end(format!("{follower}{which}")).await;
            }
            Fault::Restarts(mode) => {
                let cluster = Arc::clone(&self.cluster);
                let restarted = tokio::task::spawn_blocking(move || cluster.restart(mode));
                if mode == "smart" {
                    // It waits until everybody has gone, and lets nobody in meanwhile.
                    while tokio_postgres::connect(&self.cluster.url("postgres"), NoTls)
                        .await
                        .is_ok()
                    {}
                    end("%".to_string()).await;
                }
                drop(admin);
                restarted
                    .await
                    .expect("it does not panic")
                    .expect("restart the server");
            }
            Fault::Cuts => self.proxy.cut(),
            Fault::Stalls { is_lost } => {
                self.proxy.set(Mood::Stalls);
                self.proxy.is_dialled().await;
                if is_lost {
                    self.proxy.cut();
                }
                self.proxy.set(Mood::Passes);
            }
            Fault::Drips => {
                self.proxy.set(Mood::Drips);
                let until = load.commits() + 40;
                while load.commits() < until {
                    tokio::task::yield_now().await;
                }
                self.proxy.set(Mood::Passes);
            }
        }
    }
}
