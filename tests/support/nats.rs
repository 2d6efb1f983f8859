//! [`Nats`]: a throw-away NATS server with JetStream.

use super::DEADLINE;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A NATS server of a test's own. It ends with the value.
pub struct Nats {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Drop for Nats {
    fn drop(&mut self) {
        // A server that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the server's program.
///
/// # Panics
/// If there is none: these tests fail without NATS, they do not skip.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut programs = folders.map(|folder| folder.join("nats-server"));
    programs
        .find(|program| program.is_file())
        .expect("these tests need a NATS server: apt-get install nats-server")
}

impl Nats {
    /// Starts a server.
    pub fn start() -> Self {
        Self::configured("")
    }

    /// Starts three servers that keep each stream together.
    pub fn cluster() -> [Self; 3] {
        // The servers must know each other's ports before they start. All are held until then.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let ports = held.map(|held| held.local_addr().expect("a port").port());
        let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\""));
        let configurations = ports.map(|port| {
            format!(
                "server_name: node{port}
                cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{}] }}",
                routes.join(", ")
            )
        });
        // Streams can be made once all have started: two of them choose a leader.
        let servers = configurations.map(|configuration| Self::spawned(&configuration));
        servers.map(|mut server| {
            server.port = server.wait();
            server
        })
    }

    /// Starts a server with this configuration. Its port and its folders are the test's.
    pub fn configured(configuration: &str) -> Self {
        let mut nats = Self::spawned(configuration);
        nats.port = nats.wait();
        nats
    }

    /// Starts a server without waiting for it.
    fn spawned(configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("nats.conf"), configuration).expect("the configuration");
        let child = spawn(&folder, None);
        Self {
            child,
            folder,
            port: 0,
        }
    }

    /// Returns the address of the server for a user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Returns the address of the server.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server: what is not on its disk yet is lost.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("the server's end");
    }

    /// Starts the server again after [`kill`](Self::kill), at the same address.
    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, Some(self.port));
        self.wait();
    }

    /// Waits until the server takes connections, and returns the port.
    fn wait(&self) -> u16 {
        let give_up = Instant::now() + DEADLINE;
        loop {
            // The server writes the file once it takes connections.
            let files = fs::read_dir(self.folder.path().join("ports")).expect("the folder");
            let port = files.flatten().find_map(|file| {
                let text = fs::read_to_string(file.path()).ok()?;
                let ports: Value = serde_json::from_str(&text).ok()?;
                let url = ports["nats"][0].as_str()?;
                url.rsplit(':').next()?.parse().ok()
            });
            if let Some(port) = port
                && has_jetstream(port)
            {
                return port;
            }
            assert!(Instant::now() < give_up, "the NATS server did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Copies the store of a server that was killed, for [`restore`](Self::restore).
    pub fn backup(&self) -> tempfile::TempDir {
        let backup = tempfile::tempdir().expect("a folder");
        copy_folder(&self.store(), &backup.path().join("store"));
        backup
    }

    /// Puts an earlier store in the place of that of a server that was killed.
    pub fn restore(&self, backup: &tempfile::TempDir) {
        fs::remove_dir_all(self.store()).expect("remove the store");
        copy_folder(&backup.path().join("store"), &self.store());
    }

    /// Returns the folder in which the server keeps its streams.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }
}

/// Copies a folder with all that is in it.
fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp").success(), "copy {}", from.display());
}

/// Starts a server.
fn spawn(folder: &tempfile::TempDir, port: Option<u16>) -> Child {
    let ports = folder.path().join("ports");
    // The first time there is no folder.
    let _ = fs::remove_dir_all(&ports);
    fs::create_dir(&ports).expect("a folder");
    let port = port.map_or_else(|| "-1".to_string(), |port| port.to_string());
    Command::new(program())
        .args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"])
        .arg(folder.path().join("store"))
        .arg("--ports_file_dir")
        .arg(&ports)
        .arg("-c")
        .arg(folder.path().join("nats.conf"))
        .arg("-l")
        .arg(folder.path().join("log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start a NATS server")
}

/// Returns whether JetStream answers. The server takes connections a moment before that.
fn has_jetstream(port: u16) -> bool {
    let ask = || {
        let mut server = TcpStream::connect(("127.0.0.1", port))?;
        server.set_read_timeout(Some(Duration::from_secs(1)))?;
        server.write_all(b"CONNECT {\"verbose\":false}\r\nSUB in 1\r\n")?;
        server.write_all(b"PUB $JS.API.INFO in 0\r\n\r\n")?;
        let lines = BufReader::new(server).lines();
        let mut lines = lines.map_while(Result::ok);
        // A server that wants a password is ready too.
        let is_answer =
            |line: String| line.starts_with("MSG in ") || line.contains("Authorization");
        Ok::<bool, std::io::Error>(lines.any(is_answer))
    };
    ask().unwrap_or(false)
}
