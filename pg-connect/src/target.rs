//! [`Target`]: where to connect, and [`Target::connect`], which opens a session there.

use crate::attempts::{Attempts, Began, Known};
use crate::connection::Connection;
use crate::environment::Environment;
use crate::failure::{Attempt, AttemptsError, ConnectError, Failure};
use crate::password::{CommandFor, Password, PasswordOrigin, run_command};
use crate::password_file::{self, Entry, Found};
use crate::settings::{Address, HostSpec, Settings, SettingsError, TargetSession};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;
use tokio_postgres::Client;

/// Asks a person for a password. The argument is the text of the question. `None` if nobody can be
/// asked.
pub type AskPassword = dyn Fn(&str) -> io::Result<Option<Password>> + Send + Sync;

/// When a person is asked for the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AskWhen {
    /// If the server asks for a password, and none is given.
    #[default]
    Needed,
    /// Before the first connection.
    Always,
}

/// Where to connect: a connection string and an environment.
///
/// All else is read at each connect: the service file, the password file, the names of hosts,
/// certificates and keys. So a session that is opened again sees a password that was changed, a
/// name that moved, and a certificate that was renewed.
///
/// Clones share a password that a person was asked for.
#[derive(Clone)]
pub struct Target {
    conninfo: String,
    environment: Environment,
    /// The name of sessions, if no place gives one.
    application_name: String,
    password_command: Option<String>,
    ask: Option<Ask>,
    asked: Arc<Asked>,
    /// Database, hosts and role as of [`Target::new`].
    text: String,
}

/// How a person is asked for a password.
#[derive(Clone)]
struct Ask {
    ask: Arc<AskPassword>,
    when: AskWhen,
}

/// A password that a person was asked for.
#[derive(Default)]
struct Asked {
    /// Locked while the question is open, so that sessions which begin at once ask once.
    password: Mutex<Option<Password>>,
    /// Whether a session began. After that nobody is asked: the person may have left.
    has_connected: AtomicBool,
}

/// What a session should be.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Text that is added to the name of the session.
    pub name_suffix: String,
    /// Whether, of several hosts, one that is no standby is taken. `target_session_attrs`, if it is
    /// given, counts more.
    pub prefers_primary: bool,
    /// Whether the session is read in large gulps, and many rows of a COPY become one piece of the
    /// stream. For a session that copies much out of the server; others gain nothing.
    pub reads_in_gulps: bool,
}

/// A session that began.
#[derive(Debug)]
pub struct Connected {
    /// The handle that sends statements.
    pub client: Client,
    /// The connection, which must be polled for the client to work.
    pub connection: Connection,
    /// The server that let the client in, as `host:port` or the path of a socket.
    pub server: String,
    /// The role that was named.
    pub user: String,
    /// The database that was named.
    pub database: String,
    /// Sentences that the user should read: that `sslmode=prefer` fell back to plaintext, and why,
    /// that a password file was not used.
    pub notices: Vec<String>,
}

impl Target {
    /// Reads a connection string, a URL or `key=value` pairs, and checks all settings. Does not
    /// connect. An empty string takes all from the environment.
    ///
    /// # Errors
    /// If a setting is not understood, or cannot be honoured.
    pub fn new(conninfo: &str, environment: Environment) -> Result<Self, SettingsError> {
        let settings = Settings::read(conninfo, &environment)?;
        Ok(Self {
            conninfo: conninfo.to_string(),
            environment,
            application_name: String::new(),
            password_command: None,
            ask: None,
            asked: Arc::default(),
            text: describe(&settings),
        })
    }

    /// Returns the target with a name for its sessions, which counts if no place gives one.
    #[must_use]
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = name.into();
        self
    }

    /// Returns the target with a command that prints the password, such as one for a token that
    /// ends after minutes. It is run by `sh -c` for each connect, with `PGHOST`, `PGPORT`, `PGUSER`
    /// and `PGDATABASE` set, and counts more than `PGPASSWORD` and the password file; a password in
    /// the connection string or the service file counts more than the command.
    #[must_use]
    pub fn password_command(mut self, command: impl Into<String>) -> Self {
        self.password_command = Some(command.into());
        self
    }

    /// Returns the target with a person who can be asked for the password. The answer is kept for
    /// later sessions.
    #[must_use]
    pub fn ask_password(mut self, ask: Arc<AskPassword>, when: AskWhen) -> Self {
        self.ask = Some(Ask { ask, when });
        self
    }

    /// Opens a session with the first server that lets the client in.
    ///
    /// # Errors
    /// If a setting is not understood, or no server lets the client in.
    pub async fn connect(&self, options: &SessionOptions) -> Result<Connected, ConnectError> {
        let settings = self.read().await?;
        if self
            .ask
            .as_ref()
            .is_some_and(|ask| ask.when == AskWhen::Always)
        {
            self.ask(&settings).await?;
        }
        // Whether a password is needed is known only when the server asks, as with psql.
        let failed = match self.attempt(&settings, options).await {
            Ok(connected) => return Ok(connected),
            Err(failed) => failed,
        };
        if failed.is_for_want_of_password() && self.ask(&settings).await? {
            return self.attempt(&settings, options).await;
        }
        Err(failed)
    }

    /// Reads the settings anew.
    async fn read(&self) -> Result<Settings, ConnectError> {
        let conninfo = self.conninfo.clone();
        let environment = self.environment.clone();
        // It reads files, and asks the system for accounts, which may be on another machine.
        let read = tokio::task::spawn_blocking(move || Settings::read(&conninfo, &environment));
        let settings = read
            .await
            .map_err(|error| ConnectError::Prompt(io::Error::other(error)))?;
        Ok(settings?)
    }

    /// Asks a person for the password, if that can be done and was not done. Returns whether there
    /// is a password now.
    async fn ask(&self, settings: &Settings) -> Result<bool, ConnectError> {
        let Some(Ask { ask, .. }) = &self.ask else {
            return Ok(false);
        };
        let mut password = self.asked.password.lock().await;
        if password.is_some() {
            return Ok(true);
        }
        if self.asked.has_connected.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let question = format!("Password for user {}: ", settings.user);
        let ask = Arc::clone(ask);
        let asked = tokio::task::spawn_blocking(move || ask(&question)).await;
        let asked = asked.unwrap_or_else(|error| Err(io::Error::other(error)));
        *password = asked
            .map_err(ConnectError::Prompt)?
            .filter(|password| !password.is_empty());
        Ok(password.is_some())
    }

    /// Tries the hosts once.
    async fn attempt(
        &self,
        settings: &Settings,
        options: &SessionOptions,
    ) -> Result<Connected, ConnectError> {
        let mut notices = Vec::new();
        let mut passwords = Vec::new();
        for host in &settings.hosts {
            passwords.push(self.password(settings, host, &mut notices).await?);
        }
        let default = if options.prefers_primary && settings.hosts.len() > 1 {
            TargetSession::Primary
        } else {
            TargetSession::Any
        };
        let name = settings
            .application_name
            .as_ref()
            .unwrap_or(&self.application_name);
        let mut attempts = Attempts::new(
            settings,
            format!("{name}{}", options.name_suffix),
            settings.target_session.unwrap_or(default),
            passwords,
        );
        attempts.reads_in_gulps = options.reads_in_gulps;
        let mut began: Began = attempts.run().await?;
        self.asked.has_connected.store(true, Ordering::Relaxed);
        notices.append(&mut began.notices);
        for notice in &notices {
            tracing::warn!("{notice}");
        }
        Ok(Connected {
            client: began.client,
            connection: began.connection,
            server: began.server,
            user: settings.user.clone(),
            database: settings.database.clone(),
            notices,
        })
    }

    /// Finds the password for a host; `None` if there is none.
    async fn password(
        &self,
        settings: &Settings,
        host: &HostSpec,
        notices: &mut Vec<String>,
    ) -> Result<Option<Known>, ConnectError> {
        // A person was asked since all else was missing, or since they wanted that.
        let asked = self.asked.password.lock().await.clone();
        if let Some(password) = asked {
            let origin = PasswordOrigin::Prompt;
            return Ok(Some(Known { password, origin }));
        }
        let is_of_variable = settings.password_origin == PasswordOrigin::Variable;
        if let Some(password) = &settings.password
            && !(is_of_variable && self.password_command.is_some())
        {
            return Ok(Some(Known {
                password: password.clone(),
                origin: settings.password_origin.clone(),
            }));
        }
        // Run even if no server asks for a password in the end: to know that, we would have to
        // connect twice, and tokens are cheap.
        if let Some(command) = &self.password_command {
            let password = run_command(command, &command_for(settings, host)).await;
            let password = password.map_err(|error| {
                ConnectError::Attempts(AttemptsError {
                    last: Attempt {
                        server: host.to_string(),
                        over_tls: None,
                        failure: Failure::PasswordCommand(error),
                    },
                    earlier: Vec::new(),
                    password: None,
                })
            })?;
            let origin = PasswordOrigin::Command;
            return Ok(Some(Known { password, origin }));
        }
        let for_file = settings.clone();
        let for_host = host.clone();
        // The file may be on another machine, and the time to connect must go on.
        let found = tokio::task::spawn_blocking(move || {
            let mut notices = Vec::new();
            let found = of_file(&for_file, &for_host, &mut notices);
            (found, notices)
        });
        let (found, said) = found
            .await
            .map_err(|error| ConnectError::Prompt(io::Error::other(error)))?;
        for notice in said {
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
        Ok(found)
    }
}

/// Looks up the password of a host in the password file. If that is there and not used, adds a
/// notice that says why.
fn of_file(settings: &Settings, host: &HostSpec, notices: &mut Vec<String>) -> Option<Known> {
    let file = settings.password_file.as_ref()?;
    let entry = Entry {
        host: host.password_host(),
        port: &host.port_text,
        database: &settings.database,
        user: &settings.user,
    };
    match password_file::read(file, &entry) {
        Ok(Some(Found { password, line })) if !password.is_empty() => Some(Known {
            password,
            origin: PasswordOrigin::File {
                file: file.clone(),
                line,
            },
        }),
        Ok(_) => None,
        Err(why) => {
            notices.push(format!(
                "the password file {} is not used: {why}",
                file.display()
            ));
            None
        }
    }
}

/// Returns the connection for which a command prints the password.
fn command_for(settings: &Settings, host: &HostSpec) -> CommandFor {
    let name = match &host.address {
        Address::Given(address) if host.name.is_empty() => address,
        Address::Socket(folder) => folder,
        Address::Given(_) | Address::Lookup => &host.name,
    };
    CommandFor {
        host: name.clone(),
        port: host.port_text.clone(),
        user: settings.user.clone(),
        database: settings.database.clone(),
    }
}

/// Returns database, hosts and role, for messages.
fn describe(settings: &Settings) -> String {
    let hosts: Vec<String> = settings.hosts.iter().map(ToString::to_string).collect();
    format!(
        "database \"{}\" on {} as \"{}\"",
        settings.database,
        hosts.join(","),
        settings.user
    )
}

/// Database, hosts and role, for messages. Never a password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}
