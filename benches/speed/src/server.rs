//! The throw-away server of the figures, and the programs that are measured on it.

use anyhow::{Context as _, bail};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use throwaway_postgres::{Cluster, Setup};

/// A server that takes connections by TCP, as most do, with the tables of the figures.
pub struct Server {
    _cluster: Cluster,
    /// The connection string.
    pub conninfo: String,
    /// The binary of pgic, as released.
    pub pgic: PathBuf,
}

impl Server {
    /// Builds pgic and starts a server.
    pub fn start() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let built = Command::new("cargo")
            .args(["build", "--release", "--locked", "--quiet"])
            .current_dir(&root)
            .status()
            .context("build pgic")?;
        if !built.success() {
            bail!("pgic could not be built");
        }
        let metadata = Command::new("cargo")
            .args([
                "metadata",
                "--format-version",
                "1",
                "--no-deps",
                "--offline",
            ])
            .current_dir(&root)
            .output()
            .context("ask for the target folder")?;
        let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
        let target = metadata["target_directory"]
            .as_str()
            .context("no target folder")?;
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = [
            ("listen_addresses", "127.0.0.1".to_string()),
            ("port", port.to_string()),
        ];
        let cluster = Cluster::start(&Setup {
            settings: settings
                .map(|(name, value)| (name.to_string(), value))
                .to_vec(),
        })?;
        Ok(Self {
            _cluster: cluster,
            conninfo: format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
            pgic: Path::new(target).join("release/pgic"),
        })
    }

    /// Runs SQL with psql.
    pub fn sql(&self, sql: &str) -> anyhow::Result<()> {
        let ran = self.timed(Command::new("psql").args([
            "-qX",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.conninfo,
            "-c",
            sql,
        ]))?;
        if !ran.status.success() {
            bail!("psql failed: {sql}");
        }
        Ok(())
    }

    /// Runs pgic with these arguments.
    pub fn pgic(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        self.timed(
            Command::new(&self.pgic)
                .args(arguments)
                .args(["-d", &self.conninfo]),
        )
    }

    /// Runs psql's COPY of a table.
    pub fn copy(&self, table: &str) -> anyhow::Result<Ran> {
        let sql = format!("COPY {table} TO STDOUT (FORMAT binary)");
        self.timed(Command::new("psql").args(["-qX", "-d", &self.conninfo, "-c", &sql]))
    }

    /// Runs a command, whose output goes nowhere.
    pub fn timed(&self, command: &mut Command) -> anyhow::Result<Ran> {
        let began = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("run {command:?}"))?;
        if status.signal().is_some() || status.code() == Some(2) {
            bail!("{command:?} failed: {status}");
        }
        Ok(Ran {
            status,
            took: began.elapsed(),
        })
    }
}

/// A command that has ended.
pub struct Ran {
    pub status: ExitStatus,
    pub took: Duration,
}
