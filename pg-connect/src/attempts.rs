//! [`Attempts`]: tries the servers of a connection string until one lets the client in.
//!
//! ```text
//! for each host ─→ for each address of its name ─→ with TLS, without, or both in turn
//! ```
//!
//! [`Failure::next`] says where a failure leads. `connect_timeout` bounds each address, up to the
//! beginning of the session: a port that accepts and stays silent is given up, too.

use crate::connection::Connection;
use crate::failure::{Attempt, AttemptsError, Failure, Next, full_text};
use crate::guard::{CertificateUse, Guard, HandshakeDone, Rules, Seen};
use crate::password::{Password, PasswordOrigin};
use crate::require_auth::Method;
use crate::session_check;
use crate::settings::{
    self, Address, ChannelBinding, HostSpec, Settings, SslMode, SslNegotiation, TargetSession,
};
use crate::stream::Stream;
use crate::tls;
use nix::unistd::{Uid, User};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{Client, Config};

/// The longest path of a socket, in bytes.
const LONGEST_PATH: usize = 107;

/// The request for TLS (manual, 54.7 Message Formats, `SSLRequest`): its length and its code.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A session that began.
#[derive(Debug)]
pub(crate) struct Began {
    pub(crate) client: Client,
    pub(crate) connection: Connection,
    /// The host that let the client in, and its port.
    pub(crate) server: String,
    /// Sentences that the user should read, such as that the connection is not encrypted.
    pub(crate) notices: Vec<String>,
}

/// An address to connect to.
#[derive(Debug, Clone)]
enum Resolved {
    Tcp(SocketAddr),
    /// The path of a socket; a first byte of 0 stands for Linux's abstract namespace.
    Socket(PathBuf),
}

/// A way to connect to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    Tls,
}

/// A stream to a server, encrypted or not, that is ready for the session to begin.
struct Ready {
    stream: Stream,
    binding: Option<Vec<u8>>,
    /// Whether the server's certificate was checked.
    is_verified: bool,
    certificate: Arc<CertificateUse>,
    /// Whether the server said that it does not take TLS, and plaintext is allowed.
    has_no_tls: bool,
}

/// The password to send to a host, and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) password: Password,
    pub(crate) origin: PasswordOrigin,
}

/// The attempts to connect to the servers of a connection string.
pub(crate) struct Attempts<'a> {
    pub(crate) settings: &'a Settings,
    /// The name of the session.
    pub(crate) application_name: String,
    /// What the session must be.
    pub(crate) wanted: TargetSession,
    /// The password for each host; in the order of the hosts.
    pub(crate) passwords: Vec<Option<Known>>,
    /// Whether the session is read in gulps.
    pub(crate) reads_in_gulps: bool,
    failed: Vec<Attempt>,
    /// The place of the password that was sent last.
    sent: Option<PasswordOrigin>,
    notices: Vec<String>,
    /// Whether the last attempt was to be over TLS, and the server takes none.
    went_plain: bool,
}

impl<'a> Attempts<'a> {
    /// Creates attempts that were not made yet.
    pub(crate) fn new(
        settings: &'a Settings,
        application_name: String,
        wanted: TargetSession,
        passwords: Vec<Option<Known>>,
    ) -> Self {
        Self {
            settings,
            application_name,
            wanted,
            passwords,
            reads_in_gulps: false,
            failed: Vec::new(),
            sent: None,
            notices: Vec::new(),
            went_plain: false,
        }
    }

    /// Tries the servers.
    ///
    /// # Errors
    /// All attempts, if none led to a session.
    pub(crate) async fn run(mut self) -> Result<Began, AttemptsError> {
        let passes = match self.wanted {
            TargetSession::PreferStandby => vec![TargetSession::Standby, TargetSession::Any],
            wanted => vec![wanted],
        };
        for wanted in passes {
            self.wanted = wanted;
            match self.pass().await {
                Ok(mut began) => {
                    began.notices.append(&mut self.notices);
                    return Ok(began);
                }
                Err(Next::Host) => {}
                Err(_) => break,
            }
        }
        let Some(last) = self.failed.pop() else {
            unreachable!("there is a host, and each host without a session has a failure");
        };
        Err(AttemptsError {
            last,
            earlier: self.failed,
            password: self.sent,
        })
    }

    /// Tries each host once. If none leads to a session, the failures are added, and the result
    /// says whether all hosts were tried ([`Next::Host`]) or a failure ended the attempts.
    async fn pass(&mut self) -> Result<Began, Next> {
        let settings = self.settings;
        let mut order: Vec<usize> = (0..settings.hosts.len()).collect();
        if settings.random_order {
            fastrand::shuffle(&mut order);
        }
        'hosts: for at in order {
            let host = &settings.hosts[at];
            let mut addresses = match self.resolve(host).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    let next = failure.next();
                    self.add(host, None, failure);
                    if next == Next::Nothing {
                        return Err(next);
                    }
                    continue;
                }
            };
            if settings.random_order {
                fastrand::shuffle(&mut addresses);
            }
            for address in addresses {
                match self.address(at, &address).await {
                    Ok(began) => return Ok(began),
                    Err(Next::Address) => {}
                    Err(Next::Host) => continue 'hosts,
                    Err(Next::Encryption | Next::Nothing) => return Err(Next::Nothing),
                }
            }
        }
        Err(Next::Host)
    }

    /// Adds an attempt that failed.
    fn add(&mut self, host: &HostSpec, over_tls: Option<bool>, failure: Failure) {
        tracing::debug!(server = %host, error = full_text(&failure), "attempt failed");
        self.failed.push(Attempt {
            server: host.to_string(),
            over_tls,
            failure,
        });
    }

    /// Returns the addresses of a host.
    async fn resolve(&self, host: &HostSpec) -> Result<Vec<Resolved>, Failure> {
        let Some(port) = host.port() else {
            return Err(if host.has_number() {
                Failure::BadPort
            } else {
                Failure::PortNotNumber
            });
        };
        match &host.address {
            Address::Socket(folder) => {
                let path = settings::socket_path(folder, port);
                if path.as_os_str().len() > LONGEST_PATH {
                    return Err(Failure::LongPath(LONGEST_PATH));
                }
                // The limit holds for both, though the abstract name has no folders.
                let path = match folder.strip_prefix('@') {
                    Some(name) => PathBuf::from(format!("\0{name}/.s.PGSQL.{port}")),
                    None => path,
                };
                Ok(vec![Resolved::Socket(path)])
            }
            Address::Given(address) => {
                let address: IpAddr = address.parse().map_err(|_| Failure::BadAddress)?;
                Ok(vec![Resolved::Tcp(SocketAddr::new(address, port))])
            }
            Address::Lookup => {
                let name = (host.name.as_str(), port);
                let lookup = tokio::net::lookup_host(name);
                let found = match self.settings.connect_timeout {
                    Some(patience) => tokio::time::timeout(patience, lookup)
                        .await
                        .map_err(|_| Failure::Silent(patience))?,
                    None => lookup.await,
                };
                let found: Vec<Resolved> =
                    found.map_err(Failure::Lookup)?.map(Resolved::Tcp).collect();
                if found.is_empty() {
                    let error = io::Error::other("it has no address");
                    return Err(Failure::Lookup(error));
                }
                Ok(found)
            }
        }
    }

    /// Tries an address in each way that the settings allow, within the time for an address.
    async fn address(&mut self, at: usize, address: &Resolved) -> Result<Began, Next> {
        let settings = self.settings;
        let host = &settings.hosts[at];
        let attempt = self.encryptions(at, address);
        // One bound for both ways. With one for each, a server that is silent would be waited for
        // twice as long as was asked for.
        let Some(patience) = settings.connect_timeout else {
            return attempt.await;
        };
        if let Ok(ended) = tokio::time::timeout(patience, attempt).await {
            return ended;
        }
        let failure = Failure::Silent(patience);
        let next = failure.next();
        self.add(host, None, failure);
        Err(next)
    }

    /// Tries an address in each way that the settings allow.
    async fn encryptions(&mut self, at: usize, address: &Resolved) -> Result<Began, Next> {
        let settings = self.settings;
        let host = &settings.hosts[at];
        let ways = ways(settings.tls.mode, address);
        let mut next = Next::Nothing;
        // Each way has a socket of its own: a server that has refused one way closes the
        // connection.
        for (count, encryption) in ways.iter().enumerate() {
            let is_last = count + 1 == ways.len();
            let failure = match self.session(at, address, *encryption, is_last).await {
                Ok(began) => return Ok(began),
                Err(failure) => failure,
            };
            next = failure.next();
            // The server takes no TLS, so both ways were tried.
            if self.went_plain && next == Next::Encryption {
                next = Next::Nothing;
            }
            // Where nobody answers, the way does not matter.
            let is_reached = !matches!(failure, Failure::Unreachable(_));
            let is_tls = *encryption == Encryption::Tls && !self.went_plain;
            let over_tls = (is_reached && ways.len() > 1).then_some(is_tls);
            self.add(host, over_tls, failure);
            if next != Next::Encryption {
                break;
            }
        }
        Err(next)
    }

    /// Opens a session with an address, in one way.
    async fn session(
        &mut self,
        at: usize,
        address: &Resolved,
        encryption: Encryption,
        is_last: bool,
    ) -> Result<Began, Failure> {
        let settings = self.settings;
        let host = &settings.hosts[at];
        self.went_plain = false;
        let ready = match address {
            Resolved::Socket(path) => Ready::plain(Stream::Socket(self.socket(path).await?)),
            Resolved::Tcp(address) => {
                let stream = self.tcp(*address).await?;
                match encryption {
                    Encryption::Plain => Ready::plain(Stream::Tcp(stream)),
                    Encryption::Tls => self.encrypt(stream, host, is_last).await?,
                }
            }
        };
        let is_plain = !matches!(ready.stream, Stream::Tls(_));
        let has_no_tls = ready.has_no_tls;
        self.went_plain = has_no_tls;
        let seen = Arc::<Mutex<Seen>>::default();
        let (client, mut connection) = self.begin(ready, at, &seen).await?;
        session_check::check(&client, &mut connection, self.wanted).await?;
        // The name may be one of this machine though it says nothing of that, so the address
        // counts.
        let is_local = host.is_local()
            || match address {
                Resolved::Tcp(address) => address.ip().is_loopback(),
                Resolved::Socket(_) => true,
            };
        let mut notices = Vec::new();
        if is_plain && !is_local {
            notices.extend(self.plaintext_notice(host, has_no_tls));
            let method = seen.lock().unwrap_or_else(PoisonError::into_inner).method;
            if method == Some(Method::Password) {
                notices.push(format!(
                    "the password went to {host} in clear text, over a connection that is not \
                    encrypted: sslmode=require encrypts it, require_auth=scram-sha-256 never sends \
                    it so"
                ));
            }
        }
        Ok(Began {
            client,
            connection,
            server: host.to_string(),
            notices,
        })
    }

    /// Returns a notice if nobody asked for plaintext: `sslmode=prefer`, the default, falls back to
    /// it without a word.
    fn plaintext_notice(&self, host: &HostSpec, has_no_tls: bool) -> Option<String> {
        if self.settings.tls.mode != SslMode::Prefer {
            return None;
        }
        let server = host.to_string();
        let why = if has_no_tls {
            "the server does not take TLS".to_string()
        } else {
            let attempt = self.failed.iter().rev().find(|attempt| {
                attempt.server == server && matches!(attempt.over_tls, Some(true))
            })?;
            format!("over TLS, {}", full_text(&attempt.failure))
        };
        Some(format!(
            "the connection to {server} is not encrypted, so all that is sent can be read on the \
            way: {why} (sslmode=require never falls back to plaintext)"
        ))
    }

    /// Connects to a socket of this machine.
    async fn socket(&self, path: &PathBuf) -> Result<UnixStream, Failure> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(Failure::Unreachable)?;
        if let Some(wanted) = &self.settings.require_peer {
            let peer = stream.peer_cred().map_err(Failure::Unreachable)?;
            let uid = Uid::from_raw(peer.uid());
            // The system may ask another machine.
            let account = tokio::task::spawn_blocking(move || User::from_uid(uid)).await;
            match account {
                Ok(Ok(Some(account))) if account.name == *wanted => {}
                Ok(Ok(Some(account))) => {
                    return Err(Failure::Peer {
                        actual: account.name,
                    });
                }
                // A number is no name, even if `requirepeer` is that number.
                _ => {
                    return Err(Failure::Peer {
                        actual: format!("account {uid}, which has no name"),
                    });
                }
            }
        }
        Ok(stream)
    }

    /// Connects to an address, and sets how a peer that is gone is noticed.
    async fn tcp(&self, address: SocketAddr) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(Failure::Unreachable)?;
        self.set_options(&stream).map_err(Failure::Unreachable)?;
        Ok(stream)
    }

    fn set_options(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let keepalive = &self.settings.keepalive;
        if !keepalive.is_on {
            return Ok(());
        }
        let mut options = TcpKeepalive::new();
        if let Some(idle) = keepalive.idle {
            options = options.with_time(idle);
        }
        if let Some(interval) = keepalive.interval {
            options = options.with_interval(interval);
        }
        if let Some(count) = keepalive.count {
            options = options.with_retries(count);
        }
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&options)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(keepalive.unanswered)?;
        Ok(())
    }

    /// Encrypts a connection, after the server was asked whether it takes TLS. If it does not, the
    /// connection goes on in plaintext where that is allowed and was not tried before.
    async fn encrypt(
        &mut self,
        mut stream: TcpStream,
        host: &HostSpec,
        is_last: bool,
    ) -> Result<Ready, Failure> {
        let settings = &self.settings.tls;
        if settings.negotiation == SslNegotiation::Postgres {
            let answer = ask_for_tls(&mut stream).await?;
            match answer {
                b'S' => {}
                b'N' if !is_last => {
                    let mut ready = Ready::plain(Stream::Tcp(stream));
                    ready.has_no_tls = true;
                    return Ok(ready);
                }
                b'N' => return Err(Failure::NoTls(settings.mode.name())),
                b'E' => return Err(Failure::TlsRequest),
                _ => return Err(Failure::NotPostgres),
            }
        }
        let for_files = settings.clone();
        let for_host = host.clone();
        // It reads files, which may be on a disk that is slow.
        let prepared = tokio::task::spawn_blocking(move || tls::prepare(&for_files, &for_host))
            .await
            .map_err(|error| Failure::Unreachable(io::Error::other(error)))?
            .map_err(Failure::Tls)?;
        for notice in &prepared.notices {
            if !self.notices.contains(notice) {
                self.notices.push(notice.clone());
            }
        }
        let certificate = Arc::clone(&prepared.certificate);
        let is_verified = prepared.is_verified;
        let encrypted = prepared.handshake(stream).await.map_err(Failure::Tls)?;
        Ok(Ready {
            stream: Stream::Tls(encrypted.stream),
            binding: encrypted.binding,
            is_verified,
            certificate,
            has_no_tls: false,
        })
    }

    /// Begins the session: name, authentication, first settings.
    async fn begin(
        &mut self,
        ready: Ready,
        at: usize,
        seen: &Arc<Mutex<Seen>>,
    ) -> Result<(Client, Connection), Failure> {
        let settings = self.settings;
        let mut config = Config::new();
        config
            .user(&settings.user)
            .dbname(&settings.database)
            .application_name(&self.application_name)
            // The stream is encrypted by now, or must not be: see `HandshakeDone`.
            .ssl_mode(tokio_postgres::config::SslMode::Require)
            .ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct)
            .channel_binding(match settings.channel_binding {
                ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
                ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
                ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
            });
        if let Some(options) = &settings.options {
            config.options(options);
        }
        let password = self.passwords.get(at).cloned().flatten();
        if let Some(known) = &password {
            config.password(known.password.bytes());
        }
        let is_encrypted = matches!(ready.stream, Stream::Tls(_));
        let rules = Rules {
            require_auth: settings.require_auth.clone(),
            must_bind: settings.channel_binding == ChannelBinding::Require,
            may_offer_binding: is_encrypted,
            // A certificate of somebody on the way may be one to which nothing can be bound. To go
            // on without would tell the server that this client cannot bind at all, and what
            // protects SCRAM from being weakened on the way would be off.
            may_skip_binding: ready.binding.is_some()
                || !is_encrypted
                || ready.is_verified
                || settings.channel_binding == ChannelBinding::Disable,
            certificate_mode: settings.tls.certificate_mode,
            certificate: ready.certificate,
        };
        // From here on, tokio-postgres answers what the server asks, as far as the guard lets it.
        let mut guard = Guard::new(ready.stream, ready.binding, rules, Arc::clone(seen));
        if self.reads_in_gulps {
            guard = guard.in_gulps();
        }
        let began = config.connect_raw(guard, HandshakeDone).await;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.sent = password.clone().map(|known| known.origin);
        match began {
            Ok((client, connection)) => Ok((client, Connection::new(connection))),
            Err(error) => Err(failure_of(error, &seen, password.is_some())),
        }
    }
}

impl Ready {
    /// Returns a stream that is not encrypted.
    fn plain(stream: Stream) -> Self {
        Self {
            stream,
            binding: None,
            is_verified: false,
            certificate: Arc::default(),
            has_no_tls: false,
        }
    }
}

/// Returns the ways to connect to an address, in order. A socket of this machine is never
/// encrypted, whatever the mode says.
fn ways(mode: SslMode, address: &Resolved) -> &'static [Encryption] {
    if matches!(address, Resolved::Socket(_)) {
        return &[Encryption::Plain];
    }
    match mode {
        SslMode::Disable => &[Encryption::Plain],
        SslMode::Allow => &[Encryption::Plain, Encryption::Tls],
        SslMode::Prefer => &[Encryption::Tls, Encryption::Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Tls],
    }
}

/// Asks a server whether it takes TLS, and returns its answer. No byte behind the answer is read:
/// what comes there was not encrypted, and somebody on the way may have put it there.
async fn ask_for_tls(stream: &mut TcpStream) -> Result<u8, Failure> {
    let asked = stream.write_all(&TLS_REQUEST).await;
    asked.map_err(Failure::Unreachable)?;
    let mut answer = [0];
    match stream.read_exact(&mut answer).await {
        Ok(_) => Ok(answer[0]),
        Err(_) => Err(Failure::Closed),
    }
}

/// Returns why a session did not begin.
fn failure_of(error: tokio_postgres::Error, seen: &Seen, had_password: bool) -> Failure {
    // tokio-postgres says no more than that reading has failed.
    if let Some(refused) = seen.refused {
        return Failure::Refused(refused);
    }
    if error.as_db_error().is_some() {
        return Failure::Server {
            error,
            was_let_in: seen.is_let_in,
        };
    }
    // Its error for a password that is missing has a text and no kind.
    let wants_password = matches!(
        seen.method,
        Some(Method::Password | Method::Md5 | Method::ScramSha256)
    );
    if wants_password && !had_password {
        return Failure::NoPassword;
    }
    if let Some(refusal) = tls::refusal_of(&error) {
        return Failure::CertificateRefused(refusal);
    }
    if error.is_closed() {
        return Failure::Closed;
    }
    Failure::Protocol(error)
}
