//! [`Nats`]: a throw-away NATS server with JetStream, for `pgic demo --relay`.

use crate::failure::with_hint;
use anyhow::{Context as _, anyhow};
use serde_json::Value;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// The shell that starts the server in the folder `$1`. It ends the server and removes the folder
/// once nothing holds the other end of its input, however the demo ends.
const KEEPER: &str = "\"$0\" -a 127.0.0.1 -p -1 -js -sd \"$1/store\" --ports_file_dir \"$1\" \
    >\"$1/log\" 2>&1 & server=$!; cat >/dev/null; kill -9 $server; wait $server; \
    rm -rf \"$1\"";

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A NATS server of the demo's own. It ends with the value, or with this process.
pub(super) struct Nats {
    keeper: Child,
    port: u16,
}

impl Drop for Nats {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // If it cannot be waited for, it ends all the same.
        let _ = self.keeper.wait();
    }
}

impl Nats {
    /// Starts a server.
    ///
    /// # Errors
    /// If there is no program, or it does not start.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let program = program().ok_or_else(|| {
            with_hint(
                anyhow!("there is no NATS server on this machine"),
                "install it, for example: apt-get install nats-server",
            )
        })?;
        let starting = || format!("start {}", program.display());
        let folder = std::env::temp_dir().join(format!("pgic-nats-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("make the folder {}", folder.display()))?;
        let keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER])
            .arg(&program)
            .arg(&folder)
            // A Ctrl-C is for the demo, which then ends this one.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(starting)?;
        let mut nats = Self { keeper, port: 0 };
        let give_up = Instant::now() + PATIENCE;
        while !nats.is_ready(&folder).await {
            if Instant::now() >= give_up {
                let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(anyhow!("it did not start: {said}")).with_context(starting);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(nats)
    }

    /// Returns the address of the server.
    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Returns whether the server takes connections and keeps streams.
    async fn is_ready(&mut self, folder: &Path) -> bool {
        let Some(port) = port_in(folder) else {
            return false;
        };
        self.port = port;
        let Ok(client) = async_nats::connect(self.url()).await else {
            return false;
        };
        client.request("$JS.API.INFO", "".into()).await.is_ok()
    }
}

/// Returns the port that the server has written into its folder.
fn port_in(folder: &Path) -> Option<u16> {
    let mut files = std::fs::read_dir(folder).ok()?.flatten();
    files.find_map(|file| {
        let text = std::fs::read_to_string(file.path()).ok()?;
        let ports: Value = serde_json::from_str(&text).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    })
}

/// Returns the server's program.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts it where only root looks.
    let of_root = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(of_root);
    let mut programs = folders.map(|folder| folder.join("nats-server"));
    programs.find(|program| program.is_file())
}
