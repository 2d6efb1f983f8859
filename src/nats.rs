//! [`LogAddress`]: where a log is, as the command line says, and connections to that NATS server.
//!
//! Credentials come as the tool `nats` takes them: in the URL, or from `NATS_CREDS`, `NATS_NKEY`,
//! `NATS_USER`, `NATS_PASSWORD`, `NATS_CA`, `NATS_CERT` and `NATS_KEY`. Where a log is given by its name
//! alone, the servers are those of `NATS_URL`, or of a context of that tool: then its credentials count
//! too.

mod context;
pub mod logged_row;

use self::context::NatsContext;
use crate::connect::Environment;
use crate::failure::with_hint;
use crate::tables::estimate::default_limit;
use crate::tables::nearest::nearest;
use anyhow::{Context as _, anyhow};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use postgres_index_cache_core::tooling::nats::{
    ConnectNats, Follow, FollowEvent, LogError, LogName, LogNode, LoggedTable, NatsLog,
};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a command waits for a relay's answer. One that runs answers within a second, and a
/// snapshot that comes in is a sign of life.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a node takes in that time if it is only slow: a relay that proves, and answers nobody, adds
/// an entry a second.
const LEAST_PROGRESS: u64 = 200;

/// The messages that may wait for a node. NATS sends a slow reader no more than these, and the node
/// reads the others again.
const WAITING_MESSAGES: usize = 4096;

/// A log on NATS servers.
#[derive(Clone)]
pub struct LogAddress {
    servers: Vec<ServerAddr>,
    /// Name of the log.
    pub name: LogName,
    credentials: Credentials,
    /// The last error that a server has sent. NATS does not answer a request that is not allowed,
    /// and says so apart from all requests.
    said: Arc<Mutex<Option<String>>>,
}

/// How a connection gets in, beside what the URL says.
#[derive(Clone, Default)]
struct Credentials {
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
    user: Option<(String, String)>,
    token: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    /// Answers may come on subjects that begin with this alone; `None` for the default.
    inbox_prefix: Option<String>,
}

/// An attempt to connect to NATS that may succeed later.
#[derive(Debug, thiserror::Error)]
#[error("connect to {0}")]
pub struct NatsUnreachable(String, #[source] async_nats::ConnectError);

/// The servers and the log. Never a password.
impl fmt::Display for LogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self
            .servers
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect();
        write!(f, "{}/{}", servers.join(","), self.name)
    }
}

impl fmt::Debug for LogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogAddress({self})")
    }
}

impl LogAddress {
    /// Reads `nats://host:port/name`, with servers separated by commas. The name stands behind the
    /// last one, or is given apart.
    ///
    /// # Errors
    /// If the address or the name is none. No part of the URL is repeated: it may have a password.
    pub fn new(url: &str, name: Option<&str>, environment: &Environment) -> anyhow::Result<Self> {
        // A name of a log alone: no server is called so and named without its log.
        if name.is_none() && url.parse::<LogName>().is_ok() {
            return Self::named(Some(url), environment);
        }
        Self::at(url, name, environment, None)
    }

    /// Returns the log of this name on the servers of `NATS_URL`, or of the chosen context of the tool
    /// `nats`. Without a name, that stands in the URL.
    ///
    /// # Errors
    /// If no server is named, or the context cannot be read; else as [`new`](Self::new).
    pub fn named(name: Option<&str>, environment: &Environment) -> anyhow::Result<Self> {
        if let Some(url) = environment.get("NATS_URL").filter(|url| !url.is_empty()) {
            return Self::at(url, name, environment, None);
        }
        let context = NatsContext::chosen(environment)?;
        match context.filter(|context| !context.url.is_empty()) {
            Some(context) => {
                let url = context.url.clone();
                Self::at(&url, name, environment, Some(context))
            }
            None => Err(with_hint(
                anyhow!("no NATS server is named"),
                "write nats://host:4222/shop, set NATS_URL, or select a context: nats context select",
            )),
        }
    }

    /// Reads an address. `context` is the context that it comes from.
    fn at(
        url: &str,
        name: Option<&str>,
        environment: &Environment,
        context: Option<NatsContext>,
    ) -> anyhow::Result<Self> {
        let hint = "write nats://host:4222/shop: the NATS server, and the log's name";
        let refused = |why: &'static str| with_hint(anyhow!(why), hint);
        let mut servers = Vec::new();
        let mut path = None;
        let mut scheme = "nats";
        for server in url.split(',') {
            let (own, rest) = server.split_once("://").unwrap_or((scheme, server));
            scheme = own;
            let (server, behind) = rest.split_once('/').unwrap_or((rest, ""));
            if !behind.is_empty() {
                path = Some(behind);
            }
            let server: Result<ServerAddr, _> = format!("{scheme}://{server}").parse();
            servers.push(server.map_err(|_| refused("the address is none of a NATS server"))?);
        }
        let of_url = path.map(str::parse::<LogName>).transpose();
        let of_url =
            of_url.map_err(|_| refused("behind the NATS server stands no name of a log"))?;
        let name = name.map(str::parse::<LogName>).transpose()?;
        let name = match (name, of_url) {
            (Some(name), Some(of_url)) if name != of_url => {
                return Err(refused("the address of the NATS servers names another log"));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(refused("the log has no name")),
        };
        let mut credentials = Credentials::of(environment);
        if let Some(context) = context {
            credentials.fill_from(context);
        }
        if let Some((user, password)) = servers.iter().find_map(user_of) {
            match password {
                Some(password) => credentials.user = Some((user, password)),
                // As the tool `nats` takes it.
                None => credentials.token = Some(user),
            }
        }
        Ok(Self {
            servers,
            name,
            credentials,
            said: Arc::default(),
        })
    }

    /// Connects to the servers.
    async fn connect(&self, command: &str) -> Result<Client, LogError> {
        let tried = format!("connect to {self}");
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| LogError::Nats {
            tried: tried.clone(),
            source,
        };
        let said = Arc::clone(&self.said);
        let note = move |event: Event| {
            let said = Arc::clone(&said);
            async move {
                if let Event::ServerError(error) = event {
                    *said.lock() = Some(error.to_string());
                }
            }
        };
        let options = ConnectOptions::new()
            .event_callback(note)
            .name(format!("pgic {command}"))
            .subscription_capacity(WAITING_MESSAGES);
        let options = self.credentials.add_to(options).await;
        let options = options.map_err(|error| failed(error.into()))?;
        let connected = options.connect(self.servers.clone()).await;
        connected.map_err(|error| match error.kind() {
            ConnectErrorKind::Io
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Dns
            | ConnectErrorKind::MaxReconnects => {
                let name = self.to_string();
                failed(Box::new(NatsUnreachable(name, error)))
            }
            _ => failed(error.into()),
        })
    }

    /// Returns the function by which a relay connects.
    pub fn into_connect(self, command: &'static str) -> ConnectNats {
        let address = Arc::new(self);
        Arc::new(move || {
            let address = Arc::clone(&address);
            Box::pin(async move { address.connect(command).await })
        })
    }

    /// Adds to an error what a server has said apart from all requests, and the next step.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.said.lock().take() {
            Some(said) => with_hint(
                error,
                format!("NATS said: {said}; docs/relay.md has the rights of relay and node"),
            ),
            None => error,
        }
    }

    /// Follows the log until the rows are live: they have everything that was committed before this
    /// call.
    ///
    /// # Errors
    /// If NATS cannot be reached, or nobody proves the rows.
    pub async fn live(&self, command: &str) -> anyhow::Result<Follow> {
        let live = self.until_live(command).await;
        live.map_err(|error| self.explain(error))
    }

    /// Returns the nodes of the log that answer in this time, each with the time that the answer
    /// took.
    ///
    /// # Errors
    /// If NATS cannot be asked, or has no such log.
    pub async fn call_roll(
        &self,
        command: &str,
        patience: Duration,
    ) -> anyhow::Result<Vec<(LogNode, Duration)>> {
        let called = async {
            let log = self.log(command).await?;
            Ok(log.call_roll(patience).await?)
        };
        let nodes: Vec<(LogNode, Duration)> = called.await.map_err(|error| self.explain(error))?;
        // A server that allows neither the question nor to hear the answers says so apart.
        if nodes.is_empty() && self.said.lock().is_some() {
            return Err(self.explain(anyhow!("the nodes of {self} cannot be asked")));
        }
        Ok(nodes)
    }

    /// Connects, and names the log.
    ///
    /// # Errors
    /// If NATS cannot be reached, or has no such log.
    pub async fn log(&self, command: &str) -> anyhow::Result<NatsLog> {
        let client = self.connect(command).await?;
        let log = NatsLog::new(client, self.name.clone()).await?;
        if !log.is_there().await? {
            let error = anyhow!("there is no log {self}");
            return Err(with_hint(error, "pgic relay makes it; is this its name?"));
        }
        Ok(log)
    }

    /// Waits until the rows have everything that was committed before this call.
    ///
    /// # Errors
    /// If nobody proves the rows.
    pub async fn prove(&self, follow: &mut Follow) -> anyhow::Result<()> {
        let proven = self.until_proven(follow).await;
        proven.map_err(|error| self.explain(error))
    }

    async fn until_live(&self, command: &str) -> anyhow::Result<Follow> {
        let mut follow = Follow::open(self.log(command).await?, default_limit()).await?;
        self.until_proven(&mut follow).await?;
        Ok(follow)
    }

    /// Begins to follow the log, whose tables must be those of the database that `session` is in.
    ///
    /// # Errors
    /// If NATS cannot be reached, there is no such log, or it is one of another database.
    pub async fn open(
        &self,
        command: &str,
        session: &tokio_postgres::Client,
    ) -> anyhow::Result<Follow> {
        let opened = async {
            let log = self.log_of(command, session).await?;
            Ok(Follow::open(log, default_limit()).await?)
        };
        opened.await.map_err(|error| self.explain(error))
    }

    /// Connects, as [`log`](Self::log), to a log of the database that `session` is in.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn log_of(
        &self,
        command: &str,
        session: &tokio_postgres::Client,
    ) -> anyhow::Result<NatsLog> {
        let log = self.log(command).await?;
        let checked = log.check_database(session).await;
        checked.with_context(|| format!("follow {self}"))?;
        Ok(log)
    }

    /// Returns the same log, for another task: what a server says to that is not mixed up with what
    /// it says to this one.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self {
            said: Arc::default(),
            ..self.clone()
        }
    }

    async fn until_proven(&self, follow: &mut Follow) -> anyhow::Result<()> {
        let mut failure = None;
        let mut give_up = Instant::now() + PATIENCE;
        let mut before = progress_of(follow);
        let fence = follow.ask_for_fence();
        while !follow.has_reached(fence) {
            let stepped = tokio::time::timeout_at(give_up, follow.step()).await;
            for event in follow.take_events() {
                if let FollowEvent::Failed(why) = event {
                    failure = Some(why);
                }
            }
            if stepped.is_ok() && Instant::now() < give_up {
                continue;
            }
            let progress = progress_of(follow);
            if progress < before + LEAST_PROGRESS {
                let error = anyhow!("no relay has proven the rows of {self}: they may be old");
                let error = match failure {
                    Some(why) => anyhow!("{why}").context(error),
                    None => error,
                };
                return Err(with_hint(error, "is pgic relay running for this log?"));
            }
            before = progress;
            give_up = Instant::now() + PATIENCE;
        }
        Ok(())
    }
}

/// Returns the table of a name: `users`, or `app.users`.
///
/// # Errors
/// If the log has no such table, or several.
pub fn find_table<'a>(follow: &'a Follow, name: &str) -> anyhow::Result<&'a LoggedTable> {
    let names = |table: &LoggedTable| {
        let description = &table.description;
        let full = format!("{}.{}", description.schema, description.table);
        [description.table.clone(), full]
    };
    let tables: Vec<&LoggedTable> = follow.tables().collect();
    let matching = tables
        .iter()
        .filter(|table| names(table).iter().any(|known| known == name));
    match matching.collect::<Vec<_>>().as_slice() {
        [only] => Ok(only),
        [] => {
            let known: Vec<String> = tables.iter().flat_map(|table| names(table)).collect();
            let error = anyhow!("the log has no table {name}");
            Err(match nearest(name, known.iter().map(String::as_str)) {
                Some(nearest) => with_hint(error, format!("did you mean {nearest}?")),
                None => error,
            })
        }
        _ => Err(anyhow!(
            "the log has several tables {name}: write the schema too"
        )),
    }
}

/// Returns how far a node has come: rows of a snapshot, and entries behind that.
fn progress_of(follow: &Follow) -> u64 {
    let rows = follow.tables().map(|table| table.cache.read().stored());
    let entries = follow.position().map_or(0, |position| position.number);
    rows.sum::<usize>() as u64 + entries
}

/// Returns the user and the password that an address has.
fn user_of(server: &ServerAddr) -> Option<(String, Option<String>)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = server.username()?;
    Some((decoded(user), server.password().map(decoded)))
}

impl Credentials {
    fn of(environment: &Environment) -> Self {
        let path = |name| environment.get(name).map(PathBuf::from);
        let user = environment.get("NATS_USER").map(str::to_string);
        let password = environment.get("NATS_PASSWORD").map(str::to_string);
        Self {
            creds: path("NATS_CREDS"),
            nkey: path("NATS_NKEY"),
            user: user.map(|user| (user, password.unwrap_or_default())),
            token: None,
            ca: path("NATS_CA"),
            certificate: path("NATS_CERT").zip(path("NATS_KEY")),
            inbox_prefix: None,
        }
    }

    /// Takes from a context what the environment does not say: who connects as a whole, and TLS.
    fn fill_from(&mut self, context: NatsContext) {
        let set = |text: String| Some(text).filter(|text| !text.is_empty());
        let path = |text: String| set(text).map(PathBuf::from);
        if self.creds.is_none() && self.nkey.is_none() && self.user.is_none() {
            self.creds = path(context.creds);
            self.nkey = path(context.nkey);
            self.user = set(context.user).map(|user| (user, context.password));
            self.token = set(context.token);
        }
        self.ca = self.ca.take().or(path(context.ca));
        self.inbox_prefix = set(context.inbox_prefix);
        let certificate = path(context.cert).zip(path(context.key));
        self.certificate = self.certificate.take().or(certificate);
    }

    async fn add_to(&self, mut options: ConnectOptions) -> anyhow::Result<ConnectOptions> {
        if let Some(file) = &self.creds {
            let read = options.credentials_file(file).await;
            options = read.with_context(|| format!("read the credentials, {}", file.display()))?;
        }
        if let Some(file) = &self.nkey {
            let seed = std::fs::read_to_string(file);
            let seed = seed.with_context(|| format!("read the nkey, {}", file.display()))?;
            options = options.nkey(seed.trim().to_string());
        }
        if let Some((user, password)) = &self.user {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(token) = &self.token {
            options = options.token(token.clone());
        }
        if let Some(file) = &self.ca {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str, name: Option<&str>) -> anyhow::Result<String> {
        let address = LogAddress::new(url, name, &Environment::default())?;
        Ok(address.to_string())
    }

    #[test]
    fn an_address_has_servers_and_a_log() {
        let address = |url, name| address(url, name).expect("an address");
        assert_eq!(address("nats://n1/shop", None), "n1:4222/shop");
        assert_eq!(address("n1:4333", Some("shop")), "n1:4333/shop");
        assert_eq!(address("nats://n1,n2:5/shop", None), "n1:4222,n2:5/shop");
        let several = "nats://u:secret@n1,nats://u:secret@n2/shop";
        assert_eq!(address(several, None), "n1:4222,n2:4222/shop");
        // A password is never shown.
        assert_eq!(address("nats://u:secret@n1/shop", None), "n1:4222/shop");
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for (url, name) in [
            ("nats://n1", None),
            // The name of a log, and nothing that says where.
            ("shop", None),
            ("nats://n1/", None),
            ("nats://n1/a.b", None),
            ("nats://n1/shop", Some("other")),
            ("nats://u:secret@n1:port/shop", None),
            ("nats://u:secret@n1,nats://u:secret@n2", None),
            ("nats://u:sec/secret@n1", Some("shop")),
            ("nats://n1/u:secret@n2/shop", Some("shop")),
        ] {
            let error = address(url, name).expect_err(url);
            assert!(!format!("{error:#}").contains("secret"), "{error:#}");
        }
    }
}
