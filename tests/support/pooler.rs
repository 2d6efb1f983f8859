//! [`Pooler`]: PgBouncer before the tests' server.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use throwaway_postgres::Cluster;

const INSTALL_HINT: &str = "these tests need PgBouncer: apt-get install pgbouncer";

/// A running PgBouncer; it is gone when this is dropped.
#[derive(Debug)]
pub struct Pooler {
    folder: PathBuf,
    child: Child,
}

impl Pooler {
    /// Starts one in this mode (`transaction`, `session`), with at most so many connections to each
    /// database.
    pub fn start(cluster: &Cluster, mode: &str, size: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = cluster.socket_folder();
        // It runs as whom the server runs as: it refuses root. Its folder goes with the server's.
        let owner = std::fs::metadata(&server).expect("the server's socket folder");
        let folder = server.with_file_name(format!("b{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&folder).expect("make a folder");
        let settings = format!(
            "[databases]\n* = host={server} port=5432\n[pgbouncer]\nlisten_addr =\nunix_socket_dir \
            = {folder}\nlisten_port = 5432\n\
             auth_type = trust\nauth_file = {folder}/users\npool_mode = {mode}\ndefault_pool_size \
             = {size}\nserver_idle_timeout = 0\n",
            server = server.display(),
            folder = folder.display(),
        );
        std::fs::write(folder.join("users"), "\"postgres\" \"\"\n").expect("write the users");
        std::fs::write(folder.join("ini"), settings).expect("write the settings");
        let mut command = Command::new("pgbouncer");
        command
            .arg("-q")
            .arg(folder.join("ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Only root can make it somebody else's, and has to.
        if chown(&folder, Some(owner.uid()), Some(owner.gid())).is_ok() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let child = command
            .env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"))
            .spawn();
        let pooler = Self {
            child: child.unwrap_or_else(|error| panic!("{INSTALL_HINT} ({error})")),
            folder,
        };
        let give_up = Instant::now() + super::DEADLINE;
        while UnixStream::connect(pooler.folder.join(".s.PGSQL.5432")).is_err() {
            assert!(
                Instant::now() < give_up,
                "PgBouncer does not come up; its settings are in {}",
                pooler.folder.display()
            );
            std::thread::yield_now();
        }
        pooler
    }

    /// A URL for a database through it, as the superuser.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgresql://postgres@{folder}/{database}")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
