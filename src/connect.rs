//! [`Server`]: the command line, a connection URL and libpq's environment, made into sessions.
//!
//! ```text
//! --database-url, else DATABASE_URL ─→ parameters ─┐
//!                                                  ├─→ Server ─→ Session, or ConnectFailure
//! PGHOST, PGUSER, … ────────────────→ Environment ─┘
//! ```
//!
//! The URL's parameters win over the environment, which fills in those that the URL leaves out
//! (manual, 34.1.2 Parameter Key Words, 34.15 Environment Variables). `PGTARGETSESSIONATTRS` alone
//! wins over the URL.

mod environment;
mod parameters;

use crate::failure::{ConnectFailure, Silent, with_hint};
use crate::secrets::{is_bare, is_connection_string};
use crate::suspend::Suspension;
use anyhow::{Context as _, bail};
pub use environment::Environment;
use postgres_index_cache_core::tooling::postgres::sqlstate::{self, Policy};
use postgres_index_cache_core::tooling::postgres::{
    ConnectError, Connector, STARTING_PATIENCE, STARTING_RETRY, Session, SessionPurpose,
};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

/// The time in which a server must let us in, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The servers to connect to, the role, the database and the name of the application.
#[derive(Clone)]
pub struct Server {
    config: Config,
    application_name: String,
    suspension: Suspension,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

/// Database, hosts and role, for messages. Never a password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self
            .config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(at, host)| {
                // One port for each host, or one for all.
                let ports = self.config.get_ports();
                let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
                match host {
                    Host::Tcp(name) => format!("{name}:{port}"),
                    #[cfg(unix)]
                    Host::Unix(folder) => format!("{}/.s.PGSQL.{port}", folder.display()),
                }
            })
            .collect();
        let database = self.config.get_dbname().unwrap_or_default();
        write!(
            f,
            "database \"{database}\" on {} as \"{}\"",
            hosts.join(","),
            self.config.get_user().unwrap_or_default()
        )
    }
}

impl Server {
    /// Reads the URL of the command line and the environment. Sessions are named `pgic command`
    /// unless an application name is given.
    ///
    /// # Errors
    /// If a parameter is not understood, or cannot be honoured.
    pub fn new(
        url: Option<&str>,
        environment: &Environment,
        command: &str,
    ) -> anyhow::Result<Self> {
        // Scripts pass an empty URL if their own variable is not set.
        let given = url
            .filter(|url| !url.is_empty())
            .map(str::to_string)
            .or_else(|| environment.get("DATABASE_URL"));
        let parsed = parameters::parse(given.as_deref().unwrap_or_default())
            .context("read the database URL")?;
        let mut config = parsed.config;
        environment.fill(&mut config)?;
        let ssl_mode = parsed.ssl_mode.or_else(|| environment.get("PGSSLMODE"));
        check_names(&config)?;
        check_ssl_mode(ssl_mode.as_deref())?;
        // Modes that ask for TLS are refused above, and this version has no TLS.
        config.ssl_mode(SslMode::Disable);
        // A listener that only waits would notice a dead peer after the kernel's two hours. With
        // these, it takes 19 s.
        config
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(15));
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let application_name = config
            .get_application_name()
            .map_or_else(|| format!("pgic {command}"), str::to_string);
        Ok(Self {
            config,
            application_name,
            suspension: Suspension::default(),
        })
    }

    /// Returns the server with connections that end when `suspension` suspends the process.
    #[must_use]
    pub fn until(self, suspension: Suspension) -> Self {
        Self { suspension, ..self }
    }

    /// Returns a notice if connections leave this machine, since they are not encrypted.
    pub fn plaintext_notice(&self) -> Option<String> {
        // If addresses are given, they are connected to, whatever the hosts are called.
        let addresses = self.config.get_hostaddrs();
        if !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback) {
            return None;
        }
        let name = self.config.get_hosts().iter().find_map(remote_name)?;
        Some(format!(
            "connecting to {name} in plaintext: what is sent, the password too, can be read on the \
            way"
        ))
    }

    /// Opens a session for a command's queries, which a task drives. Waits for a server that is
    /// starting, for [`STARTING_PATIENCE`] at most.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let give_up = tokio::time::Instant::now() + STARTING_PATIENCE;
        let session = loop {
            match self.session(SessionPurpose::Command).await {
                Err(error) if is_starting(&error) && tokio::time::Instant::now() < give_up => {
                    tracing::info!("the server is starting; waiting for it");
                    tokio::time::sleep(STARTING_RETRY).await;
                }
                session => break session?,
            }
        };
        Ok(session.into_client())
    }

    /// Opens a session for a purpose, after the suspension of the process if there is one.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    pub async fn session(&self, role: SessionPurpose) -> Result<Session, ConnectFailure> {
        let mut config = role.preferring_the_primary(&self.config);
        config.application_name(role.session_name(&self.application_name));
        self.suspension.is_over().await;
        // tokio-postgres bounds the connection of TCP alone: a port that accepts and then says
        // nothing would be waited for for ever. It tries the hosts one after the other, so bound
        // them together.
        let hosts = config
            .get_hosts()
            .len()
            .max(config.get_hostaddrs().len())
            .max(1);
        let patience = config
            .get_connect_timeout()
            .copied()
            .unwrap_or(CONNECT_TIMEOUT);
        let patience = patience.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX));
        tracing::info!(server = %self, connection = role.purpose(), "connecting");
        let connected = tokio::time::timeout(patience, config.connect(NoTls)).await;
        let connected = connected.map_err(|_| self.failure(Silent(patience)))?;
        let (client, connection) = connected.map_err(|source| self.failure(source))?;
        Ok(Session::new(client, self.suspension.bound(connection)))
    }

    /// Returns the failure of an attempt to connect here.
    fn failure(&self, source: impl Into<ConnectError>) -> ConnectFailure {
        ConnectFailure {
            server: self.to_string(),
            source: source.into(),
        }
    }
}

impl Connector for Server {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        self.session(role).await.map_err(Into::into)
    }
}

/// Returns the name of a host of TCP that is not this machine.
fn remote_name(host: &Host) -> Option<&String> {
    match host {
        Host::Tcp(name) => {
            let address = name.parse::<IpAddr>();
            let is_local =
                name == "localhost" || address.is_ok_and(|address| address.is_loopback());
            (!is_local).then_some(name)
        }
        #[cfg(unix)]
        Host::Unix(_) => None,
    }
}

/// Tells whether the server refused because it is still starting.
fn is_starting(error: &ConnectFailure) -> bool {
    let code = sqlstate::of(error);
    code.is_some_and(|code| sqlstate::policy(Some(code)) == Policy::Starting)
}

/// Refuses an sslmode that asks for TLS, which this version does not have. To connect in plaintext
/// instead would weaken a connection that was meant to be safe.
fn check_ssl_mode(mode: Option<&str>) -> anyhow::Result<()> {
    match mode {
        None | Some("" | "disable" | "allow" | "prefer") => Ok(()),
        Some(mode @ ("require" | "verify-ca" | "verify-full")) => Err(with_hint(
            anyhow::anyhow!(
                "sslmode={mode} cannot be honoured: this version of pgic speaks plaintext alone"
            ),
            "connect through a tunnel that encrypts (ssh -L, stunnel), and set sslmode=disable for \
            that address",
        )),
        // The value is not repeated: in a URL that is not understood, it may be part of a password.
        Some(_) => {
            bail!("sslmode is none of disable, allow, prefer, require, verify-ca, verify-full")
        }
    }
}

/// Tells whether a host of TCP has characters that no host's name has.
fn is_odd_host(host: &Host) -> bool {
    match host {
        // An IPv6 address has colons.
        Host::Tcp(name) => {
            name.contains(['@', ':', '/', '=', '\'', '"', ' ']) && name.parse::<IpAddr>().is_err()
        }
        #[cfg(unix)]
        Host::Unix(_) => false,
    }
}

/// Refuses hosts and names that may hold part of a password, since they are printed.
///
/// Without this check:
/// 1. A password has an `@` that is not written as `%40`.
/// 2. The text behind the `@` is taken for the host.
/// 3. The rest of the password is printed with the host's name.
fn check_names(config: &Config) -> anyhow::Result<()> {
    if config.get_hosts().iter().any(is_odd_host) {
        return Err(with_hint(
            anyhow::anyhow!("the host has characters that no host's name has, and is not repeated"),
            "in a URL write an @ of the user or the password as %40, a : as %3A and a / as %2F",
        ));
    }
    let names = [
        config.get_dbname(),
        config.get_user(),
        config.get_application_name(),
    ];
    if names
        .into_iter()
        .flatten()
        .any(|name| is_connection_string(name) || is_bare(name))
    {
        bail!(
            "a connection string stands where the name of a database, a user or an application \
            belongs"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
