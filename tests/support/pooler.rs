//! [`Pooler`]: a PgBouncer that stands between a test and the test server.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use throwaway_postgres::Cluster;

const INSTALL_HINT: &str = "these tests need PgBouncer: apt-get install pgbouncer";

/// A running PgBouncer, which is killed when this value is dropped.
#[derive(Debug)]
pub struct Pooler {
    folder: PathBuf,
    child: Child,
}

impl Pooler {
    /// Starts a PgBouncer before `cluster`, in pool mode `mode` (`transaction` or `session`), with
    /// at most `size` connections to each database. Returns when it accepts connections.
    pub fn start(cluster: &Cluster, mode: &str, size: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = cluster.socket_folder();
        // PgBouncer refuses to run as root, so it runs as the user whom the server runs as. Its
        // folder lies beside the server's socket folder, and is removed together with it.
        let owner = std::fs::metadata(&server).expect("the server's socket folder");
        let folder = server.with_file_name(format!("b{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&folder).expect("make a folder");
        let settings = settings(&server, &folder, mode, size);
        std::fs::write(folder.join("users"), "\"postgres\" \"\"\n").expect("write the users");
        std::fs::write(folder.join("ini"), settings).expect("write the settings");
        let mut command = Command::new("pgbouncer");
        command
            .arg("-q")
            .arg(folder.join("ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Only root can give the folder to another user, and has to. For anybody else the server's
        // user is this one already.
        if chown(&folder, Some(owner.uid()), Some(owner.gid())).is_ok() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        // Debian installs the program in /usr/sbin, which is not on every user's PATH.
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

    /// Returns a URL that leads to `database` through this pooler, as the superuser.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgresql://postgres@{folder}/{database}")
    }
}

/// Returns the text of a PgBouncer configuration that listens on a socket in `folder` alone.
fn settings(server: &Path, folder: &Path, mode: &str, size: u32) -> String {
    let server = server.display();
    let folder = folder.display();
    format!(
        "[databases]
* = host={server} port=5432
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 5432
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {size}
server_idle_timeout = 0
"
    )
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // An error means that PgBouncer has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
