//! Connections: what the command line, a URL and libpq's environment say, made into sessions.
//!
//! First that is given wins: `--database-url`, `DATABASE_URL`, then libpq's variables; a URL's own
//! parameters win over the environment, which fills in what the URL leaves out (manual, 34.1.2
//! Parameter Key Words, 34.15 Environment Variables).

mod environment;
mod parameters;

use crate::failure::with_hint;
use crate::secrets::{is_bare, is_connection_string};
use crate::suspend::Suspension;
use anyhow::{Context as _, bail};
pub use environment::Environment;
use postgres_index_cache_core::postgres::sqlstate::{self, Policy};
use postgres_index_cache_core::postgres::{
    ConnectError, Connector, STARTING_PATIENCE, STARTING_RETRY, Session, SessionPurpose,
};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

/// How long a server is waited for, until it lets us in, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to connect, and as whom.
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

/// `db` on `host` as `user`: what messages name. Never a password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self
            .config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(at, host)| {
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
    /// What `url` (from the command line) and the environment say. `command` is what the session
    /// calls itself.
    ///
    /// # Errors
    /// When a parameter is not understood, or asks for what cannot be honoured.
    pub fn new(
        url: Option<&str>,
        environment: &Environment,
        command: &str,
    ) -> anyhow::Result<Self> {
        // An empty URL is a variable that is not set.
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
        config.ssl_mode(SslMode::Disable);
        // A dead peer is noticed within seconds, not after the kernel's two hours.
        config
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3));
        config
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

    /// The same, whose connections end when this process is about to be stopped.
    #[must_use]
    pub fn until(self, suspension: Suspension) -> Self {
        Self { suspension, ..self }
    }

    /// What to say when the connection is not encrypted and leaves this machine.
    pub fn plaintext_notice(&self) -> Option<String> {
        let remote = |host: &&Host| match host {
            Host::Tcp(name) => {
                let address = name.parse::<IpAddr>();
                name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
            }
            #[cfg(unix)]
            Host::Unix(_) => false,
        };
        let addresses = self.config.get_hostaddrs();
        let is_local = !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback);
        let host = self
            .config
            .get_hosts()
            .iter()
            .find(remote)
            .filter(|_| !is_local)?;
        let Host::Tcp(name) = host else { return None };
        Some(format!(
            "connecting to {name} in plaintext: what is sent, the password too, can be read on the \
            way"
        ))
    }

    /// Opens a session and lets a task drive it. A server that is starting is waited for.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
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

    /// Opens a session for a purpose.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn session(&self, role: SessionPurpose) -> Result<Session, ConnectFailure> {
        let mut config = role.preferring_the_primary(&self.config);
        config.application_name(role.session_name(&self.application_name));
        self.suspension.is_over().await;
        // tokio-postgres bounds the connection of TCP alone: a port that accepts and says nothing
        // takes for ever.
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
        let failed = |source: ConnectError| ConnectFailure {
            server: self.to_string(),
            source,
        };
        let connected = tokio::time::timeout(patience, config.connect(NoTls)).await;
        let connected = connected.map_err(|_| failed(Silent(patience).into()))?;
        let (client, connection) = connected.map_err(|source| failed(source.into()))?;
        Ok(Session::new(client, self.suspension.bound(connection)))
    }
}

impl Connector for Server {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        self.session(role).await.map_err(Into::into)
    }
}

/// A connection that was not made.
#[derive(Debug, thiserror::Error)]
#[error("connect to {server}")]
pub struct ConnectFailure {
    server: String,
    /// [`Silent`], or what the server or the system said.
    source: ConnectError,
}

/// The server took the connection and then said nothing.
#[derive(Debug, thiserror::Error)]
#[error("it did not answer within {} s", .0.as_secs_f64())]
struct Silent(Duration);

impl ConnectFailure {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        if self.source.is::<Silent>() {
            let hint = "is this a PostgreSQL server's port? To wait longer, set connect_timeout or \
                PGCONNECT_TIMEOUT";
            return Some(hint.to_string());
        }
        self.source.downcast_ref().and_then(connection_hint)
    }
}

fn is_starting(error: &ConnectFailure) -> bool {
    let code = sqlstate::of(error);
    code.is_some_and(|code| sqlstate::policy(Some(code)) == Policy::Starting)
}

/// What to do about a connection that was not made.
fn connection_hint(error: &tokio_postgres::Error) -> Option<String> {
    let hint = match sqlstate::of(error) {
        Some(code) => return sqlstate::hint(code).map(str::to_string),
        None if std::error::Error::source(error)
            .is_some_and(|cause| cause.to_string().contains("password missing")) =>
        {
            "the server asks for a password: set PGPASSWORD or put it into the URL (password files \
            are not read)"
        }
        None if std::error::Error::source(error)
            .is_some_and(|cause| cause.to_string().contains("does not allow writes")) =>
        {
            "it is a standby, or read only: name the primary, or another target_session_attrs"
        }
        None => {
            "is the server running, and is this its address? Name it with --database-url, \
            DATABASE_URL or PGHOST and PGPORT"
        }
    };
    Some(hint.to_string())
}

/// Only what is honoured is accepted: a mode that asks for TLS is refused, never weakened.
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
        Some(_) => {
            bail!("sslmode is none of disable, allow, prefer, require, verify-ca, verify-full")
        }
    }
}

/// Refuses names that hold more than a name: they are printed, and a password must not be.
///
/// Without this: 1. A password has an `@` that is not written as `%40`. 2. What stands behind it is
/// taken for the host. 3. The rest of the password is printed with the host's name.
fn check_names(config: &Config) -> anyhow::Result<()> {
    let is_odd_host = |host: &Host| match host {
        Host::Tcp(name) => {
            name.contains(['@', ':', '/', '=', '\'', '"', ' ']) && name.parse::<IpAddr>().is_err()
        }
        #[cfg(unix)]
        Host::Unix(_) => false,
    };
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
