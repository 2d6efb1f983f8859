//! [`Settings`]: the parameters of a connection, checked, as values that code can act on.
//!
//! A value that is not understood, or that asks for what this crate cannot do, is an error by the
//! keyword's name. No error repeats the value: with an `@` or a `/` in a password that is not
//! written as `%40` or `%2F`, a part of the password may stand in any value of a URL.

mod choice;
mod hosts;

use crate::environment::{Environment, account_name};
use crate::keyword::Keyword;
use crate::parameters::{Parameters, ParametersError, Place};
use crate::password::{Password, PasswordOrigin};
use crate::require_auth::RequireAuth;
pub(crate) use choice::{
    ChannelBinding, SslCertMode, SslMode, SslNegotiation, TargetSession, TlsVersion,
};
use choice::{Choice, integer};
pub(crate) use hosts::{Address, HostSpec, socket_path};
use std::path::PathBuf;
use std::time::Duration;

/// How long a server may take to let a session begin, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of a connection.
#[derive(Clone)]
pub(crate) struct Settings {
    /// At least one.
    pub(crate) hosts: Vec<HostSpec>,
    pub(crate) user: String,
    pub(crate) database: String,
    /// The password that was given outright; never empty.
    pub(crate) password: Option<Password>,
    /// The place of `password`.
    pub(crate) password_origin: PasswordOrigin,
    /// The password file, if no password was given.
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) options: Option<String>,
    pub(crate) application_name: Option<String>,
    /// The time for each address, the whole start of the session included; `None` is no bound.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: Keepalive,
    /// What the session must be; `None` if it was not said.
    pub(crate) target_session: Option<TargetSession>,
    pub(crate) random_order: bool,
    /// The account that must run the server, for sockets of this machine.
    pub(crate) require_peer: Option<String>,
    pub(crate) require_auth: RequireAuth,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) tls: TlsSettings,
}

/// The settings of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) mode: SslMode,
    /// Whether `mode` was given, and is not the default.
    pub(crate) is_mode_given: bool,
    pub(crate) negotiation: SslNegotiation,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) certificate_mode: SslCertMode,
    pub(crate) root: Option<Root>,
    pub(crate) crl: Option<PathBuf>,
    pub(crate) crl_folder: Option<PathBuf>,
    pub(crate) has_sni: bool,
    pub(crate) lowest: Option<TlsVersion>,
    pub(crate) highest: Option<TlsVersion>,
    /// The home folder, in which the files stand that are not named.
    pub(crate) home: Option<PathBuf>,
}

/// The authorities that may vouch for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// Those that the operating system trusts, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    System {
        file: Option<PathBuf>,
        folder: Option<PathBuf>,
    },
    /// Those of a file.
    File(PathBuf),
}

/// How a peer that is gone is noticed (manual, 34.1.2). The times are bounds of TCP; `None` takes
/// the operating system's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) is_on: bool,
    pub(crate) idle: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) count: Option<u32>,
    /// `tcp_user_timeout`, which libpq and the kernel take in milliseconds.
    pub(crate) unanswered: Option<Duration>,
}

/// The reason why the settings of a connection are refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The parameters could not be read.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    /// A value is none of the known ones.
    #[error("{name} is none of {known}")]
    Unknown {
        /// The keyword or the variable.
        name: &'static str,
        /// The values that are known.
        known: String,
    },
    /// A value is not a number, or too large.
    #[error("{name} is not a number{unit}")]
    Number {
        /// The keyword or the variable.
        name: &'static str,
        /// The unit, for the message.
        unit: &'static str,
    },
    /// A value that libpq knows, and this crate cannot honour.
    #[error("{name} cannot be honoured: {why}")]
    Unsupported {
        /// The keyword or the variable.
        name: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// The lists of hosts, addresses and ports are of different lengths.
    #[error("{given} {name} for {hosts} hosts: give one for each host{or_one}")]
    Lengths {
        /// `ports` or `addresses`.
        name: &'static str,
        /// The number of elements.
        given: usize,
        /// The number of hosts.
        hosts: usize,
        /// `, or one for all`, if that is allowed.
        or_one: &'static str,
    },
    /// A name is likely to hold a part of a password.
    #[error("the {0} has characters that it cannot have, and is not repeated")]
    Odd(&'static str),
    /// No user is named, and the system has no name for this process's account.
    #[error("no user is named, and this process runs as an account without a name")]
    NoUser,
}

impl SettingsError {
    /// Returns advice on what to write, if there is some.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Parameters(ParametersError::Conninfo(error)) => Some(error.hint()),
            Self::Odd(_) => Some(
                "in a URL write an @ of the user or the password as %40, a : as %3A and a / as %2F",
            ),
            Self::NoUser => Some("set PGUSER"),
            _ => None,
        }
    }
}

impl Settings {
    /// Reads and checks the settings of a connection.
    ///
    /// # Errors
    /// If a value is not understood, or cannot be honoured.
    pub(crate) fn read(conninfo: &str, environment: &Environment) -> Result<Self, SettingsError> {
        Self::check(&Parameters::read(conninfo, environment)?, environment)
    }

    /// Checks parameters that were read.
    fn check(parameters: &Parameters, environment: &Environment) -> Result<Self, SettingsError> {
        // First of all: whatever else is wrong, a setting that cannot be honoured must be known.
        refuse_unsupported(parameters)?;
        let hosts = hosts::read(parameters)?;
        let user = match parameters.given(Keyword::User) {
            Some(user) => user.to_string(),
            None => account_name().ok_or(SettingsError::NoUser)?,
        };
        let database = parameters.given(Keyword::Dbname).unwrap_or(&user);
        let settings = Self {
            database: database.to_string(),
            password: parameters.given(Keyword::Password).map(Password::new),
            password_origin: match parameters.place(Keyword::Password) {
                Some(Place::Service) => PasswordOrigin::Service,
                Some(Place::Variable(_)) => PasswordOrigin::Variable,
                Some(Place::ConnectionString) | None => PasswordOrigin::ConnectionString,
            },
            password_file: match parameters.given(Keyword::Passfile) {
                Some(file) => Some(PathBuf::from(file)),
                None => environment.home().map(|home| home.join(".pgpass")),
            },
            options: text(parameters, Keyword::Options),
            application_name: text(parameters, Keyword::ApplicationName)
                .or_else(|| text(parameters, Keyword::FallbackApplicationName)),
            connect_timeout: match seconds(parameters, Keyword::ConnectTimeout)? {
                None => Some(CONNECT_TIMEOUT),
                Some(timeout) => Some(timeout).filter(|timeout| !timeout.is_zero()),
            },
            keepalive: Keepalive::read(parameters)?,
            target_session: TargetSession::read(parameters, Keyword::TargetSessionAttrs)?,
            random_order: choice::LoadBalance::read(parameters, Keyword::LoadBalanceHosts)?
                == Some(choice::LoadBalance::Random),
            require_peer: text(parameters, Keyword::RequirePeer),
            require_auth: RequireAuth::parse(
                parameters.get(Keyword::RequireAuth).unwrap_or_default(),
            )
            .map_err(|known| SettingsError::Unknown {
                name: parameters.name(Keyword::RequireAuth),
                known,
            })?,
            channel_binding: ChannelBinding::read(parameters, Keyword::ChannelBinding)?
                .unwrap_or(ChannelBinding::Prefer),
            tls: TlsSettings::read(parameters, environment)?,
            hosts,
            user,
        };
        settings.refuse_odd_names()?;
        Ok(settings)
    }

    /// Refuses names that are likely to hold a part of a password, since names are printed.
    ///
    /// Without this check: 1. A password has an `@` or a `/` that is not written as `%40` or `%2F`.
    /// 2. The text behind is taken for the host, the port or the database. 3. The rest of the
    ///    password is printed with the name, and sent to a server as one.
    fn refuse_odd_names(&self) -> Result<(), SettingsError> {
        if self.hosts.iter().any(HostSpec::is_odd) {
            return Err(SettingsError::Odd("host"));
        }
        let has_odd_port = self.hosts.iter().any(|host| host.port().is_none());
        // `u:/rest@host/database` and `u:12/rest@host/database`.
        let has_path = self
            .database
            .split_once('@')
            .is_some_and(|(_, behind)| behind.contains('/'));
        if has_path || has_odd_port && self.database.contains('@') {
            return Err(SettingsError::Odd("name of the database"));
        }
        if self.hosts.iter().any(|host| host.port_text.contains('@')) {
            return Err(SettingsError::Odd("port"));
        }
        Ok(())
    }
}

impl TlsSettings {
    fn read(parameters: &Parameters, environment: &Environment) -> Result<Self, SettingsError> {
        let root = match parameters.given(Keyword::SslRootCert) {
            Some("system") => Some(Root::System {
                file: environment.get("SSL_CERT_FILE").map(PathBuf::from),
                folder: environment.get("SSL_CERT_DIR").map(PathBuf::from),
            }),
            Some(file) => Some(Root::File(PathBuf::from(file))),
            None => None,
        };
        let given_mode = SslMode::read(parameters, Keyword::SslMode)?;
        // The roots of the system vouch for every site of the web. Without the host's name, they
        // prove nothing.
        let is_system = matches!(root, Some(Root::System { .. }));
        let default_mode = if is_system {
            SslMode::VerifyFull
        } else {
            SslMode::Prefer
        };
        let mode = given_mode.unwrap_or(default_mode);
        if is_system && mode != SslMode::VerifyFull {
            return Err(SettingsError::Contradiction(format!(
                "sslrootcert=system needs sslmode=verify-full, and {} is weaker",
                mode.name()
            )));
        }
        let negotiation = SslNegotiation::read(parameters, Keyword::SslNegotiation)?
            .unwrap_or(SslNegotiation::Postgres);
        // Direct TLS has no first question that a server without TLS could answer with no.
        if negotiation == SslNegotiation::Direct && mode.allows_plaintext() {
            return Err(SettingsError::Contradiction(format!(
                "sslnegotiation=direct needs sslmode=require or stronger, and {} is weaker",
                mode.name()
            )));
        }
        let lowest = TlsVersion::read_or_any(parameters, Keyword::SslMinProtocolVersion)?;
        let highest = TlsVersion::read_or_any(parameters, Keyword::SslMaxProtocolVersion)?;
        check_versions(parameters, lowest, highest)?;
        Ok(Self {
            mode,
            is_mode_given: given_mode.is_some(),
            negotiation,
            certificate: path(parameters, Keyword::SslCert),
            key: path(parameters, Keyword::SslKey),
            certificate_mode: SslCertMode::read(parameters, Keyword::SslCertMode)?
                .unwrap_or(SslCertMode::Allow),
            root,
            crl: path(parameters, Keyword::SslCrl),
            crl_folder: path(parameters, Keyword::SslCrlDir),
            has_sni: parameters
                .get(Keyword::SslSni)
                .is_none_or(|value| value.starts_with('1')),
            lowest,
            highest,
            home: environment.home(),
        })
    }
}

impl Keepalive {
    /// Reads the settings. Those that are not given notice a dead peer within 20 s: the kernel's
    /// own would take a listener, which only waits, two hours.
    fn read(parameters: &Parameters) -> Result<Self, SettingsError> {
        const IDLE: Duration = Duration::from_secs(10);
        const INTERVAL: Duration = Duration::from_secs(3);
        const COUNT: u32 = 3;
        const UNANSWERED: Duration = Duration::from_secs(15);
        let count = number(parameters, Keyword::KeepalivesCount, "")?;
        let unanswered = number(parameters, Keyword::TcpUserTimeout, " of milliseconds")?;
        Ok(Self {
            is_on: number(parameters, Keyword::Keepalives, "")?.is_none_or(|on| on != 0),
            idle: or_default(seconds(parameters, Keyword::KeepalivesIdle)?, IDLE),
            interval: or_default(seconds(parameters, Keyword::KeepalivesInterval)?, INTERVAL),
            count: match count {
                None => Some(COUNT),
                Some(count) => u32::try_from(count).ok().filter(|count| *count > 0),
            },
            unanswered: or_default(
                unanswered.map(|time| Duration::from_millis(u64::try_from(time).unwrap_or(0))),
                UNANSWERED,
            ),
        })
    }
}

/// Returns the time that was given, `None` if that is 0, and the default if none was given.
fn or_default(given: Option<Duration>, default: Duration) -> Option<Duration> {
    Some(given.unwrap_or(default)).filter(|time| !time.is_zero())
}

/// Returns the number of seconds of a keyword; a negative one counts as 0.
fn seconds(parameters: &Parameters, keyword: Keyword) -> Result<Option<Duration>, SettingsError> {
    let seconds = number(parameters, keyword, " of seconds")?;
    Ok(seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

/// Returns the number that a keyword has, as libpq reads it: blanks around it are left out.
fn number(
    parameters: &Parameters,
    keyword: Keyword,
    unit: &'static str,
) -> Result<Option<i32>, SettingsError> {
    let Some(text) = parameters.get(keyword) else {
        return Ok(None);
    };
    match integer(text) {
        Some(number) => Ok(Some(number)),
        None => Err(SettingsError::Number {
            name: parameters.name(keyword),
            unit,
        }),
    }
}

fn text(parameters: &Parameters, keyword: Keyword) -> Option<String> {
    parameters.given(keyword).map(str::to_string)
}

fn path(parameters: &Parameters, keyword: Keyword) -> Option<PathBuf> {
    parameters.given(keyword).map(PathBuf::from)
}

/// Refuses versions of TLS that contradict each other, and those before 1.2, which are broken and
/// not spoken.
fn check_versions(
    parameters: &Parameters,
    lowest: Option<TlsVersion>,
    highest: Option<TlsVersion>,
) -> Result<(), SettingsError> {
    if highest.is_some_and(|highest| highest < TlsVersion::V1_2) {
        return Err(SettingsError::Unsupported {
            name: parameters.name(Keyword::SslMaxProtocolVersion),
            why: "TLS before 1.2 is not spoken",
        });
    }
    if let (Some(lowest), Some(highest)) = (lowest, highest)
        && lowest > highest
    {
        return Err(SettingsError::Contradiction(
            "ssl_min_protocol_version is above ssl_max_protocol_version".to_string(),
        ));
    }
    Ok(())
}

/// Refuses what libpq knows and this crate does not: to go on without would be to connect in
/// another way than was asked for.
fn refuse_unsupported(parameters: &Parameters) -> Result<(), SettingsError> {
    for (keyword, why) in [
        (Keyword::OauthClientId, "OAuth is not spoken"),
        (Keyword::OauthClientSecret, "OAuth is not spoken"),
        (Keyword::OauthIssuer, "OAuth is not spoken"),
        (Keyword::OauthScope, "OAuth is not spoken"),
        (Keyword::ScramClientKey, "give the password instead"),
        (Keyword::ScramServerKey, "give the password instead"),
        (Keyword::SslKeyLogFile, "keys of TLS are not written down"),
    ] {
        if parameters.given(keyword).is_some() {
            return Err(SettingsError::Unsupported {
                name: parameters.name(keyword),
                why,
            });
        }
    }
    let gss = choice::GssEncMode::read(parameters, Keyword::GssEncMode)?;
    if gss == Some(choice::GssEncMode::Require) {
        return Err(SettingsError::Unsupported {
            name: parameters.name(Keyword::GssEncMode),
            why: "GSSAPI is not spoken; use TLS",
        });
    }
    let replication = parameters.given(Keyword::Replication).unwrap_or("false");
    if !matches!(replication, "false" | "off" | "no" | "0") {
        return Err(SettingsError::Unsupported {
            name: "replication",
            why: "a walsender does not answer queries",
        });
    }
    choice::ProtocolVersion::read(parameters, Keyword::MaxProtocolVersion)?;
    let lowest = choice::ProtocolVersion::read(parameters, Keyword::MinProtocolVersion)?;
    if lowest.is_some_and(|lowest| lowest != choice::ProtocolVersion::V3_0) {
        return Err(SettingsError::Unsupported {
            name: parameters.name(Keyword::MinProtocolVersion),
            why: "version 3.0 of the protocol is spoken",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
