//! [`Server`]: the command line, a connection string and libpq's environment, made into sessions.
//!
//! ```text
//! --database-url, else DATABASE_URL ─┐
//! service and password file ─────────┼─→ pg_connect::Target ─→ Server ─→ Session, or ConnectFailure
//! PGHOST, PGUSER, … ─────────────────┘
//! ```
//!
//! What a connection string means, and how a session begins, is the business of [`pg_connect`].
//! This module adds what belongs to a tool: notices on stderr, a prompt for the password, and
//! connections that end when the process is suspended.

mod early;
mod prompt;

use crate::failure::{ConnectFailure, with_hint};
use crate::suspend::Suspension;
use anyhow::Context as _;
pub use early::EarlySessions;
use pg_connect::{AskWhen, Connected, SessionOptions, Target};
use postgres_index_cache_core::tooling::postgres::sqlstate::{self, Policy};
use postgres_index_cache_core::tooling::postgres::{
    ConnectError, Connector, STARTING_RETRY, Session, SessionPurpose,
};
pub use prompt::restore_terminal;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::Client;

/// How long a command waits for a server that is starting. A person waits for the answer, and the
/// server may be in a recovery that takes hours.
const STARTING_PATIENCE: Duration = Duration::from_secs(5);

/// The options of the command line that say where to connect, and how to get in.
#[derive(Debug, Clone, Default)]
pub struct ConnectionOptions {
    /// The value of `--database-url`, if given.
    pub database_url: Option<String>,
    /// When the password is asked for; `None` is never.
    pub ask: Option<AskWhen>,
    /// The command that prints the password, if given.
    pub password_command: Option<String>,
}

/// The environment variables that connections depend on.
pub use pg_connect::Environment;

/// The servers to connect to, the role, the database and the name of the application.
#[derive(Clone)]
pub struct Server {
    target: Target,
    command: Purpose,
    suspension: Suspension,
    notices: Notices,
    /// Where the last session was opened; `None` before the first one.
    place: Arc<Mutex<Option<Place>>>,
}

/// Where a session was opened.
#[derive(Debug, Clone)]
pub struct Place {
    /// The database.
    pub database: String,
    /// The server, as `host:port` or the path of a socket.
    pub server: String,
    /// The role.
    pub user: String,
    /// The version of PostgreSQL, as the server reports it: `15.18`.
    pub version: String,
}

/// One line for people: `database shop on db1:5432 as alice (PostgreSQL 15.18)`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "database {} on {} as {} (PostgreSQL {})",
            self.database, self.server, self.user, self.version
        )
    }
}

/// What a command needs of its sessions.
#[derive(Debug, Clone, Copy)]
struct Purpose {
    name: &'static str,
    /// Whether, of several hosts, the primary is taken: LISTEN works on no standby.
    needs_primary: bool,
    /// The number of sessions that the command has open at once.
    sessions: usize,
}

/// Receives sentences that the user should read, each one once.
#[derive(Clone)]
struct Notices {
    print: Arc<dyn Fn(&str) + Send + Sync>,
    printed: Arc<Mutex<HashSet<String>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

/// Database, hosts and role, for messages. Never a password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl Purpose {
    /// Returns what a command needs.
    fn of(command: &'static str) -> Self {
        Self {
            name: command,
            needs_primary: !matches!(command, "status" | "doctor"),
            sessions: match command {
                // One that asks, and one that hears the answers.
                "nodes" | "ping" | "doctor" => 2,
                // The same, and one that describes the tables. Without tables to read, a replica
                // has two.
                "wait" | "tail" | "record" => 3,
                // One that describes the tables, and the three of a replica; or the two of
                // questions, and one that reads rows.
                "query" | "verify" | "shell" | "announce" => 4,
                // The two of a feed, one that looks, and the two of questions; the three of a
                // replica, one that describes the tables, and one that holds the lock.
                "top" | "relay" => 5,
                // With --touch, one that listens and one that writes as well.
                "why" => 6,
                // The four of a replica that describes its tables, the two of the canary, those
                // that look, ask the nodes and read rows, and the two of an examination.
                "monitor" => 12,
                _ => 1,
            },
        }
    }
}

impl Server {
    /// Reads the command line and the environment. Sessions are named `pgic command` unless an
    /// application name is given.
    ///
    /// # Errors
    /// If a parameter is not understood, or cannot be honoured.
    pub fn new(
        options: &ConnectionOptions,
        environment: &Environment,
        command: &'static str,
    ) -> anyhow::Result<Self> {
        // Scripts pass an empty URL if their own variable is not set.
        let conninfo = options
            .database_url
            .as_deref()
            .filter(|url| !url.is_empty())
            .or_else(|| environment.get("DATABASE_URL"))
            .unwrap_or_default();
        let target = Target::new(conninfo, environment.clone());
        let target = target
            .map_err(|error| match error.hint() {
                Some(hint) => with_hint(error, hint),
                None => error.into(),
            })
            .context("read where to connect")?;
        let mut target = target.application_name(format!("pgic {command}"));
        let command_of_password = options
            .password_command
            .as_deref()
            .or_else(|| environment.get("PGIC_PASSWORD_COMMAND"));
        if let Some(command) = command_of_password {
            target = target.password_command(command);
        }
        if let Some(when) = options.ask {
            target = target.ask_password(Arc::new(prompt::ask), when);
        }
        Ok(Self {
            target,
            command: Purpose::of(command),
            suspension: Suspension::default(),
            notices: Notices {
                print: Arc::new(|_| {}),
                printed: Arc::default(),
            },
            place: Arc::default(),
        })
    }

    /// Returns the server for a command that has so many sessions open at once, more than it
    /// usually has.
    #[must_use]
    pub fn with_sessions(mut self, sessions: usize) -> Self {
        self.command.sessions = sessions;
        self
    }

    /// Returns where the last session was opened; `None` before the first one.
    pub fn place(&self) -> Option<Place> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.clone()
    }

    /// Returns the server with connections that end when `suspension` suspends the process.
    #[must_use]
    pub fn until(self, suspension: Suspension) -> Self {
        Self { suspension, ..self }
    }

    /// Returns the server with a function that prints notices, such as that a connection is not
    /// encrypted. Each notice is printed once.
    #[must_use]
    pub fn notices(mut self, print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.notices.print = Arc::new(print);
        self
    }

    /// Opens a session for a command's queries, which a task drives. Waits for a server that is
    /// starting, for [`STARTING_PATIENCE`] at most.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let session = self.patient_session(SessionPurpose::Command).await?;
        Ok(session.into_client())
    }

    /// Opens a session as [`session`](Self::session) does. Waits for a server that is starting, for
    /// [`STARTING_PATIENCE`] at most.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub async fn patient_session(&self, role: SessionPurpose) -> Result<Session, ConnectFailure> {
        let give_up = tokio::time::Instant::now() + STARTING_PATIENCE;
        loop {
            match self.session(role).await {
                Err(error) if is_starting(&error) && tokio::time::Instant::now() < give_up => {
                    self.notices
                        .print_once("the server is starting, and is waited for");
                    tokio::time::sleep(STARTING_RETRY).await;
                }
                session => return session,
            }
        }
    }

    /// Opens a session for a purpose, after the suspension of the process if there is one.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    pub async fn session(&self, role: SessionPurpose) -> Result<Session, ConnectFailure> {
        self.suspension.is_over().await;
        tracing::info!(server = %self, connection = role.purpose(), "connecting");
        let options = SessionOptions {
            name_suffix: role.session_name(""),
            prefers_primary: self.command.needs_primary,
            reads_in_gulps: role == SessionPurpose::Read,
        };
        let connected = self.target.connect(&options).await;
        let Connected {
            client,
            connection,
            server,
            user,
            database,
            notices,
        } = connected.map_err(|source| ConnectFailure {
            server: self.to_string(),
            command: self.command.name,
            sessions: self.command.sessions,
            source,
        })?;
        for notice in &notices {
            self.notices.print_once(notice);
        }
        // Behind the number stands who packaged it.
        let version = connection.parameter("server_version").unwrap_or_default();
        let place = Place {
            database,
            server,
            user,
            version: version.split(' ').next().unwrap_or_default().to_string(),
        };
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        Ok(Session::new(client, self.suspension.bound(connection)))
    }
}

impl Notices {
    fn print_once(&self, notice: &str) {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        if printed.insert(notice.to_string()) {
            (self.print)(notice);
        }
    }
}

impl Connector for Server {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        self.session(role).await.map_err(Into::into)
    }
}

/// Tells whether the server refused because it is still starting.
fn is_starting(error: &ConnectFailure) -> bool {
    let code = sqlstate::of(error);
    code.is_some_and(|code| sqlstate::policy(Some(code)) == Policy::Starting)
}

#[cfg(test)]
mod tests;
