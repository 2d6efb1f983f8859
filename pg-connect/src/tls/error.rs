//! [`TlsError`]: the reason why a connection could not be encrypted, and [`CertificateProblem`],
//! the reason why a server's certificate is not trusted.

use rustls::{AlertDescription, CertificateError};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The reason why a connection could not be encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read the {what} {}", .file.display())]
    Unreadable {
        /// `root certificates`, `certificate` or `private key`.
        what: &'static str,
        /// The path of the file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file holds nothing of the kind that is needed.
    #[error("the {what} file {} holds none that can be used: {problem}", .file.display())]
    Empty {
        /// `root certificate`, `certificate` or `private key`.
        what: &'static str,
        /// The path of the file.
        file: PathBuf,
        /// The reason.
        problem: String,
    },
    /// The mode checks the server's certificate, and there are no roots to check it by.
    #[error(
        "there is no root certificate file {}, by which sslmode={mode} would check the server",
        .file.display()
    )]
    NoRoots {
        /// The path of the file that is missing.
        file: PathBuf,
        /// The mode.
        mode: &'static str,
    },
    /// `sslrootcert=system`, and the system has no roots.
    #[error("the system has no root certificates")]
    NoSystemRoots,
    /// The certificate of the client is there, and the key is not.
    #[error(
        "the certificate {} has no private key: there is no {}",
        .certificate.display(),
        .key.display()
    )]
    NoKey {
        /// The path of the certificate.
        certificate: PathBuf,
        /// The path of the key that is missing.
        key: PathBuf,
    },
    /// The key is a folder or a device.
    #[error("the private key {} is not a plain file", .0.display())]
    KeyNotPlain(PathBuf),
    /// Others than the owner may read the key.
    #[error("the private key {} may be accessed by group or others", .0.display())]
    KeyOpen(PathBuf),
    /// The key is encrypted.
    #[error("the private key {} is encrypted, and encrypted keys are not read", .0.display())]
    KeyEncrypted(PathBuf),
    /// The key is not that of the certificate.
    #[error(
        "the private key {} is not that of the certificate {}",
        .key.display(),
        .certificate.display()
    )]
    KeyOfAnother {
        /// The path of the certificate.
        certificate: PathBuf,
        /// The path of the key.
        key: PathBuf,
    },
    /// `sslmode=verify-full` has no name to compare with the certificate.
    #[error("sslmode=verify-full compares the certificate with the host's name, and none is given")]
    NoHost,
    /// TLS could not be set up.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    /// The server's certificate is not trusted.
    #[error(transparent)]
    Certificate(CertificateProblem),
    /// The server does not trust the client's certificate, or wants one.
    #[error("the server refuses the client's certificate: {0}")]
    ClientCertificate(&'static str),
    /// The server did not confirm that it speaks PostgreSQL's protocol.
    #[error("the server does not speak PostgreSQL over direct TLS (before version 17, none does)")]
    OtherProtocol,
    /// The handshake failed in another way.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

impl TlsError {
    /// Returns the error of a handshake that failed.
    pub(super) fn of_handshake(error: io::Error) -> Self {
        // tokio-rustls wraps the error of rustls, and that wraps ours.
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                match other.0.downcast_ref::<CertificateProblem>() {
                    Some(problem) => Self::Certificate(problem.clone()),
                    None => Self::Handshake(error),
                }
            }
            Some(rustls::Error::AlertReceived(alert)) => match refusal(*alert) {
                Some(refusal) => Self::ClientCertificate(refusal),
                None => Self::Handshake(error),
            },
            _ => Self::Handshake(error),
        }
    }

    /// Returns advice, if the reason is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRoots { .. } => Some(
                "put the authority's certificate there, or name its file with sslrootcert; \
                sslrootcert=system takes the authorities that the system trusts"
                    .to_string(),
            ),
            Self::KeyOpen(file) => Some(format!("chmod 0600 {}", file.display())),
            Self::KeyEncrypted(file) => Some(format!(
                "convert it: openssl pkcs8 -topk8 -nocrypt -in {} -out NEW, then chmod 0600 NEW, \
                and name it with sslkey",
                file.display()
            )),
            Self::NoHost => Some("name the host with host, beside hostaddr".to_string()),
            Self::Certificate(problem) => problem.hint(),
            Self::OtherProtocol => Some("leave sslnegotiation=direct out".to_string()),
            Self::Handshake(error) if is_end(error) => Some(
                "the server closed the connection: with sslnegotiation=direct, is it older than \
                version 17? Is this a PostgreSQL server's port?"
                    .to_string(),
            ),
            _ => None,
        }
    }
}

/// Returns whether the peer closed the connection.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

/// Returns what the server said of the client's certificate after the handshake, if the beginning
/// of a session failed for that.
pub(crate) fn refusal_of(error: &tokio_postgres::Error) -> Option<&'static str> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return refusal(*alert);
        }
        cause = error.source();
    }
    None
}

/// Returns what an alert says of the client's certificate; `None` if it says nothing of that.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::UnknownCA => Some("it does not know who issued it"),
        AlertDescription::BadCertificate => Some("it takes it for broken"),
        AlertDescription::CertificateExpired => Some("it is not in date"),
        AlertDescription::CertificateRevoked => Some("it was revoked"),
        AlertDescription::CertificateRequired => Some("it wants one, and none was sent"),
        AlertDescription::CertificateUnknown | AlertDescription::UnsupportedCertificate => {
            Some("it does not accept this one")
        }
        _ => None,
    }
}

/// A server's certificate that is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CertificateProblem {
    /// The certificate's subject, such as `CN=db.example`; empty if it cannot be read.
    pub subject: String,
    /// The name of the authority that issued the certificate; empty if it cannot be read.
    pub issuer: String,
    /// The reason.
    pub reason: CertificateReason,
}

/// The reason why a server's certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateReason {
    /// It was valid until this time.
    Expired(String),
    /// It is valid from this time on.
    NotYetValid(String),
    /// None of the roots issued it.
    UnknownIssuer,
    /// It is for other names.
    OtherName {
        /// The host to which the connection goes.
        host: String,
        /// The names that the certificate is for.
        names: Vec<String>,
    },
    /// It must not be used by a server.
    Purpose,
    /// Its issuer revoked it.
    Revoked,
    /// No list of revoked certificates of its issuer is there.
    NoList,
    /// The list of revoked certificates should have been replaced at this time.
    OldList(String),
    /// Another reason, in the words of the library.
    Other(String),
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's certificate ")?;
        if !self.subject.is_empty() || !self.issuer.is_empty() {
            let subject = escaped(&self.subject);
            let issuer = escaped(&self.issuer);
            write!(f, "({subject}, issued by {issuer}) ")?;
        }
        match &self.reason {
            CertificateReason::Expired(time) => write!(f, "expired at {time}"),
            CertificateReason::NotYetValid(time) => write!(f, "is valid from {time} on"),
            CertificateReason::UnknownIssuer => f.write_str("is of no authority that is trusted"),
            CertificateReason::OtherName { host, names } if names.is_empty() => {
                write!(f, "is for no name, and so not for \"{host}\"")
            }
            CertificateReason::OtherName { host, names } => {
                write!(f, "is for {}, and not for \"{host}\"", quoted(names))
            }
            CertificateReason::Purpose => f.write_str("is not for servers"),
            CertificateReason::Revoked => f.write_str("was revoked"),
            CertificateReason::NoList => {
                f.write_str("cannot be looked up: no revocation list of its issuer is there")
            }
            CertificateReason::OldList(time) => write!(
                f,
                "cannot be looked up: its issuer's revocation list ended at {time}"
            ),
            CertificateReason::Other(text) => write!(f, "is not trusted: {text}"),
        }
    }
}

/// Returns names between quotes, with commas.
fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("\"{}\"", escaped(name)))
        .collect();
    names.join(", ")
}

/// Returns text of a certificate that is not trusted, without characters that a terminal or a reader
/// of logs would obey.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let is_obeyed = c.is_control() || matches!(c, '\u{200e}'..='\u{202e}');
            let plain = (!is_obeyed).then_some(c);
            let escape = is_obeyed.then(|| c.escape_unicode());
            plain.into_iter().chain(escape.into_iter().flatten())
        })
        .collect()
}

impl CertificateProblem {
    /// Returns advice, if the reason is known.
    fn hint(&self) -> Option<String> {
        match &self.reason {
            CertificateReason::UnknownIssuer => Some(format!(
                "put the certificate of \"{}\" into the file that sslrootcert names",
                escaped(&self.issuer)
            )),
            CertificateReason::OtherName { .. } => Some(
                "name the host as the certificate does, with hostaddr for the address; \
                sslmode=verify-ca checks the authority alone"
                    .to_string(),
            ),
            CertificateReason::NoList | CertificateReason::OldList(_) => {
                Some("renew the file that sslcrl names".to_string())
            }
            _ => None,
        }
    }
}
