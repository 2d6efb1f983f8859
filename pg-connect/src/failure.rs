//! [`ConnectError`]: the reason why no server could be connected to, and [`Failure`], that of one
//! attempt, with the rule for what is tried next.

use crate::guard::Refused;
use crate::password::{PasswordCommandError, PasswordOrigin};
use crate::settings::SettingsError;
use crate::tls::TlsError;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio_postgres::error::{DbError, SqlState};

/// The reason why no session could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting is not understood, or cannot be honoured. No server was asked.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No server let the client in.
    #[error(transparent)]
    Attempts(#[from] AttemptsError),
    /// The password could not be asked for.
    #[error("ask for the password")]
    Prompt(#[source] io::Error),
}

/// Attempts to connect that failed, in order; at least one.
#[derive(Debug)]
pub struct AttemptsError {
    /// The last attempt. Its failure is the source of this error.
    pub last: Attempt,
    /// The attempts before.
    pub earlier: Vec<Attempt>,
    /// The place of the password that was sent in the last attempt, if one was.
    pub password: Option<PasswordOrigin>,
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Attempt {
    /// The server, as `host:port` or the path of a socket.
    pub server: String,
    /// `Some(true)` if the attempt was one of several and was over TLS, `Some(false)` if it was in
    /// plaintext; `None` if it did not come to that.
    pub over_tls: Option<bool>,
    /// The reason.
    pub failure: Failure,
}

/// The reason why an attempt failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The name of the host is not known.
    #[error("its name cannot be looked up")]
    Lookup(#[source] io::Error),
    /// `hostaddr` is no address.
    #[error("hostaddr is not an address of IPv4 or IPv6")]
    BadAddress,
    /// `port` is not a number. Part of a password may stand there, so it is not repeated.
    #[error("the port is not a number")]
    PortNotNumber,
    /// `port` is a number, and no port.
    #[error("the port is not from 1 to 65535")]
    BadPort,
    /// The path of a socket is too long for the system.
    #[error("the path of the socket is longer than {0} bytes")]
    LongPath(usize),
    /// Nobody answers at the address.
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The session did not begin in time.
    #[error("it did not answer within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// Another account than `requirepeer` says runs the server.
    #[error("the server runs as {actual}, and requirepeer wants another account")]
    Peer {
        /// The name or the number of the account.
        actual: String,
    },
    /// The connection ended before the session began.
    #[error("it closed the connection")]
    Closed,
    /// The server answered the request for TLS with something that is no answer.
    #[error("it does not answer as a PostgreSQL server does")]
    NotPostgres,
    /// The server answered the request for TLS with an error.
    #[error("it answers the request for TLS with an error")]
    TlsRequest,
    /// TLS is required, and the server does not take it.
    #[error("it does not take TLS, which sslmode={0} requires")]
    NoTls(&'static str),
    /// The connection could not be encrypted.
    #[error(transparent)]
    Tls(TlsError),
    /// The server does not accept the client's certificate, or wants one. In TLS 1.3 it says so
    /// after the handshake.
    #[error("the server refuses the client's certificate: {0}")]
    CertificateRefused(&'static str),
    /// The server asks for something that the settings do not allow.
    #[error(transparent)]
    Refused(Refused),
    /// The server asks for a password, and none is there.
    #[error("the server asks for a password, and none is given")]
    NoPassword,
    /// The command that prints the password failed.
    #[error(transparent)]
    PasswordCommand(PasswordCommandError),
    /// The server refused, before or after it had let the client in.
    #[error("the server refuses")]
    Server {
        /// Its words.
        #[source]
        error: tokio_postgres::Error,
        /// Whether it had let the client in.
        was_let_in: bool,
    },
    /// The client of the protocol failed in another way.
    #[error("the session does not begin")]
    Protocol(#[source] tokio_postgres::Error),
    /// The session is not what `target_session_attrs` wants.
    #[error("{is}, and target_session_attrs={wanted} wants another")]
    OtherSession {
        /// What the session is: `it is a standby`.
        is: &'static str,
        /// The value of `target_session_attrs`.
        wanted: &'static str,
    },
}

/// What is tried after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The same address in the other way: with TLS or without. If there is none, nothing.
    Encryption,
    /// The next address of the host's name, or the next host.
    Address,
    /// The next host.
    Host,
    /// Nothing: another server would only hide the failure.
    Nothing,
}

impl Failure {
    /// Returns what libpq tries after this failure.
    pub(crate) fn next(&self) -> Next {
        match self {
            // Nothing was said by a server, so another one may be the one that is meant.
            Self::Lookup(_)
            | Self::BadAddress
            | Self::BadPort
            | Self::LongPath(_)
            | Self::OtherSession { .. } => Next::Host,
            Self::Unreachable(_) | Self::Silent(_) => Next::Address,
            Self::Server { error, .. } if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                Next::Host
            }
            // pg_hba.conf has lines for connections over TLS and for others. The server that
            // refuses one kind may take the other, and then it is the same server.
            Self::Tls(_)
            | Self::Server {
                was_let_in: false, ..
            } => Next::Encryption,
            // The server that was meant has answered. To go on would connect to another one, and
            // the mistake would be found when that one is gone.
            Self::Server {
                was_let_in: true, ..
            }
            | Self::Peer { .. }
            | Self::Closed
            | Self::NotPostgres
            | Self::TlsRequest
            | Self::NoTls(_)
            | Self::CertificateRefused(_)
            | Self::Refused(_)
            | Self::NoPassword
            | Self::PasswordCommand(_)
            | Self::PortNotNumber
            | Self::Protocol(_) => Next::Nothing,
        }
    }

    /// Returns whether to try again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Lookup(_)
            | Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Closed
            | Self::OtherSession { .. } => true,
            Self::Server { error, .. } => error.code().is_some_and(|code| {
                // Too many connections, or the server is starting, stopping or has crashed.
                *code == SqlState::TOO_MANY_CONNECTIONS || code.code().starts_with("57P0")
            }),
            _ => false,
        }
    }

    /// Returns the server's words, if it said some.
    pub fn server_error(&self) -> Option<&DbError> {
        match self {
            Self::Server { error, .. } | Self::Protocol(error) => error.as_db_error(),
            _ => None,
        }
    }

    /// Returns advice, if the reason is known.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Tls(error) => return error.hint(),
            Self::Silent(_) => {
                "is this a PostgreSQL server's port? To wait longer, set connect_timeout or \
                PGCONNECT_TIMEOUT"
            }
            Self::Unreachable(_) | Self::Lookup(_) => {
                "is the server running, and is this its address? Name it with a URL, or with \
                PGHOST and PGPORT"
            }
            Self::NoTls(_) => {
                "switch TLS on at the server (ssl = on), or connect through a tunnel that encrypts"
            }
            Self::NoPassword => {
                "set PGPASSWORD, or put a line host:port:database:user:password into ~/.pgpass \
                (chmod 0600)"
            }
            Self::OtherSession { .. } => {
                "name the server that is wanted, or several with commas, or another \
                target_session_attrs"
            }
            Self::PortNotNumber => {
                "in a URL write a : of the password as %3A, a / as %2F and an @ as %40"
            }
            Self::Server { error, .. } => return server_hint(error.as_db_error()?),
            _ => return None,
        };
        Some(hint.to_string())
    }
}

/// Returns advice on a refusal that depends on TLS. The server names the state of the connection
/// in its words, in one of two ways that depend on its version.
fn server_hint(error: &DbError) -> Option<String> {
    if *error.code() != SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        return None;
    }
    let message = error.message();
    let hint = if message.contains("no encryption") || message.contains("SSL off") {
        "the server may take this connection over TLS alone: sslmode=require"
    } else if message.contains("SSL encryption") || message.contains("SSL on") {
        "pg_hba.conf has no line for this user, database and address over TLS"
    } else {
        return None;
    };
    Some(hint.to_string())
}

impl ConnectError {
    /// Returns advice, if the reason is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Settings(error) => error.hint().map(str::to_string),
            Self::Attempts(error) => error.last.failure.hint(),
            Self::Prompt(_) => None,
        }
    }

    /// Returns whether to try again may help: no server answered, or the one that did takes no
    /// session now. A wrong password or a certificate that is not trusted stays what it is.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Attempts(error) => error.last.failure.may_pass(),
            Self::Settings(_) | Self::Prompt(_) => false,
        }
    }

    /// Returns facts that belong to the error: where the password came from that was refused.
    pub fn details(&self) -> Vec<String> {
        let Self::Attempts(error) = self else {
            return Vec::new();
        };
        let code = error.last.failure.server_error().map(DbError::code);
        match &error.password {
            Some(origin) if code == Some(&SqlState::INVALID_PASSWORD) => {
                vec![format!("the password came from {origin}")]
            }
            _ => Vec::new(),
        }
    }

    /// Returns whether a password would be needed, and none was given.
    pub(crate) fn is_for_want_of_password(&self) -> bool {
        match self {
            Self::Attempts(error) => matches!(error.last.failure, Failure::NoPassword),
            Self::Settings(_) | Self::Prompt(_) => false,
        }
    }
}

/// The earlier attempts in full, and the last one without its cause, which is the source.
impl fmt::Display for AttemptsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.earlier.is_empty() {
            return self.last.failure.fmt(f);
        }
        let last = self.last.place();
        let last_text = full_text(&self.last.failure);
        let mut texts = Vec::new();
        for attempt in &self.earlier {
            let text = full_text(&attempt.failure);
            // Over TLS and without, a wrong password is told of twice.
            if attempt.server == self.last.server && text == last_text {
                continue;
            }
            let text = format!("{}: {text}", attempt.place());
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        for text in &texts {
            write!(f, "{text}; ")?;
        }
        if texts.is_empty() {
            return self.last.failure.fmt(f);
        }
        write!(f, "{last}: {}", self.last.failure)
    }
}

impl StdError for AttemptsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.last.failure.source()
    }
}

impl Attempt {
    /// Returns the server, and whether the attempt was over TLS.
    fn place(&self) -> String {
        match self.over_tls {
            Some(true) => format!("{} over TLS", self.server),
            Some(false) => format!("{} without TLS", self.server),
            None => self.server.clone(),
        }
    }
}

/// Returns an error with its causes, on one line. An error that repeats the words of its cause
/// stands there once.
pub(crate) fn full_text(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        cause = error.source();
        // Its own text says nothing but "db error".
        if error.is::<tokio_postgres::Error>() && cause.is_some() {
            continue;
        }
        let text = match error.downcast_ref::<DbError>() {
            Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
            None => error.to_string(),
        };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
