//! Random load on a server that belongs to the test, while connections are ended, cut, stalled and
//! slowed down, and the server is restarted.
//!
//! ```text
//! Load: three writers ──────────────→ server ←─ ended sessions, restarts ─┐
//! follower under test ──→ Proxy ──────↑   ↑                           Injector
//!                           ↑─────────────────── cuts, stalls, drips ─────┘
//! ```
//!
//! Each round lets one fault happen under load, pauses the writers, waits for a fence, and compares
//! the follower with the table. `PGIC_FAULT_ROUNDS` sets the number of rounds, `PGIC_FAULT_SEED`
//! the seed, which failed assertions print.

mod definitions;
mod one_table;
mod polling;
mod several_tables;
mod typed_keys;

use crate::support::proxy::{Mood, Proxy};
use crate::support::{DEADLINE, Database, connect};
use postgres_index_cache_core::tooling::sync::Limits;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use throwaway_postgres::{Cluster, Setup};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Returns `PGIC_FAULT_ROUNDS`, or `otherwise` in an ordinary run.
fn rounds(otherwise: u64) -> u64 {
    number("PGIC_FAULT_ROUNDS", otherwise)
}

/// Returns the seed of this run's random choices.
fn seed() -> u64 {
    number("PGIC_FAULT_SEED", 1)
}

/// Returns the number in an environment variable.
pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Returns limits with which a silent connection is noticed within seconds.
fn limits() -> Limits {
    let mut limits = Limits::default();
    // Long enough that load alone does not keep a fence from coming back in time.
    limits.heartbeat = Duration::from_millis(200);
    limits.fence_timeout = Duration::from_secs(3);
    limits
}

/// Writers that go on through whatever happens to the server.
struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

/// The state that the writers and the test share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The number of transactions so far.
    commits: AtomicU64,
    /// Each writer holds this lock shared during a transaction. Whoever holds it alone has a quiet
    /// point, at which the tables cannot change.
    quiet: RwLock<()>,
}

impl Load {
    /// Starts three writers that run random transactions of `transaction`.
    fn start(database: &Database, transaction: fn(&mut fastrand::Rng) -> String) -> Self {
        let shared = Arc::<Shared>::default();
        let mut writers = Vec::new();
        for n in 0..3 {
            let random = fastrand::Rng::with_seed(seed() * 10 + n);
            writers.push(tokio::spawn(write(
                database.url.clone(),
                random,
                transaction,
                Arc::clone(&shared),
            )));
        }
        Self { shared, writers }
    }

    /// Returns the number of transactions so far.
    fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Waits until no writer is in a transaction, and keeps writers out while the guard is held.
    async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.quiet.write().await
    }

    /// Ends the writers and returns the number of their transactions.
    async fn end(self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer ends");
        }
        self.shared.commits.load(Ordering::Relaxed)
    }
}

/// Runs random transactions until told to stop, and connects again whenever the connection is lost.
async fn write(
    url: String,
    mut random: fastrand::Rng,
    transaction: fn(&mut fastrand::Rng) -> String,
    shared: Arc<Shared>,
) {
    let mut client: Option<Client> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let _writing = shared.quiet.read().await;
        let Some(connected) = &client else {
            if let Ok((connected, connection)) = tokio_postgres::connect(&url, NoTls).await {
                tokio::spawn(connection);
                client = Some(connected);
            }
            continue;
        };
        // A transaction may fail: writers deadlock with each other, or the server goes away. If
        // ROLLBACK fails too, the connection is lost.
        if connected
            .batch_execute(&transaction(&mut random))
            .await
            .is_err()
            && connected.batch_execute("ROLLBACK").await.is_err()
        {
            client = None;
            continue;
        }
        shared.commits.fetch_add(1, Ordering::Relaxed);
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Nothing goes wrong: the quiet point comes under load, and that is all.
    Nothing,
    /// Some of the follower's sessions are ended. The text is a pattern of LIKE, which follows the
    /// follower's name in the sessions' application names.
    Ends(&'static str),
    /// The server is restarted, in this mode of `pg_ctl`.
    Restarts(&'static str),
    /// The network cuts every connection.
    Cuts,
    /// The network is silent until the follower connects again. The bytes of the old connections
    /// then arrive late, or are lost.
    Stalls { is_lost: bool },
    /// The network is slow for forty transactions.
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

/// A server, a proxy before it, and the random choice of faults in both.
struct Injector {
    cluster: Arc<Cluster>,
    /// The database by the direct way, which the writers and the test take.
    database: Database,
    /// The same database by the way through the proxy, which the follower takes.
    through: Database,
    proxy: Proxy,
    random: fastrand::Rng,
    injected: BTreeMap<Fault, u64>,
}

impl Injector {
    /// Starts the server and the proxy, runs `sql`, and installs triggers on the named tables.
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

    /// Lets a random fault happen to the follower whose sessions are named `follower`, and returns
    /// the fault. `going_on` drives the follower meanwhile, and must not end.
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
            () = going_on => unreachable!("`going_on` never ends"),
        }
        fault
    }

    /// Lets `fault` happen, and undoes it.
    async fn happen(&self, fault: Fault, follower: &str, load: &Load) {
        let admin = connect(&self.cluster.url("postgres")).await;
        match fault {
            Fault::Nothing => {}
            Fault::Ends(which) => end_sessions(&admin, &format!("{follower}{which}")).await,
            Fault::Restarts(mode) => {
                let cluster = Arc::clone(&self.cluster);
                let restarted = tokio::task::spawn_blocking(move || cluster.restart(mode));
                if mode == "smart" {
                    // A smart shutdown waits until every session has ended, and lets nobody in
                    // meanwhile. The follower and the writers stay, so end them, but only once the
                    // server refuses new sessions: before that they would connect again.
                    while tokio_postgres::connect(&self.cluster.url("postgres"), NoTls)
                        .await
                        .is_ok()
                    {}
                    end_sessions(&admin, "%").await;
                }
                // The shutdown also waits for this session.
                drop(admin);
                restarted
                    .await
                    .expect("the restart does not panic")
                    .expect("restart the server");
            }
            Fault::Cuts => self.proxy.cut(),
            Fault::Stalls { is_lost } => {
                self.proxy.set(Mood::Stalls);
                // Only a follower that noticed the silence connects again.
                self.proxy.is_dialled().await;
                if is_lost {
                    self.proxy.cut();
                }
                self.proxy.set(Mood::Passes);
            }
            Fault::Drips => {
                self.proxy.set(Mood::Drips);
                // The writers take the direct way, so the follower falls behind.
                let until = load.commits() + 40;
                while load.commits() < until {
                    tokio::task::yield_now().await;
                }
                self.proxy.set(Mood::Passes);
            }
        }
    }
}

/// Ends the sessions of clients whose application name matches the pattern `like`.
async fn end_sessions(admin: &Client, like: &str) {
    let sql =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1
        AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    admin.query(sql, &[&like]).await.expect("end sessions");
}
