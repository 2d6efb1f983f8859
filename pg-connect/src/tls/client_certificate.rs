//! [`ClientCertificate`]: the certificate by which a client proves who it is, and its key (manual,
//! 34.19.2 Client Certificates).

use super::certificate::Certificate;
use super::error::TlsError;
use super::roots::is_missing;
use crate::guard::CertificateUse;
use crate::settings::{SslCertMode, TlsSettings};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A certificate of the client, with its key.
#[derive(Debug)]
pub(super) struct ClientCertificate(Arc<CertifiedKey>);

impl ClientCertificate {
    /// Reads the certificate that is named, else `~/.postgresql/postgresql.crt`; `None` if there is
    /// none. A certificate that is there must be usable, though perhaps no server asks for one.
    ///
    /// # Errors
    /// If the certificate or its key cannot be used.
    pub(super) fn read(
        settings: &TlsSettings,
        provider: &CryptoProvider,
    ) -> Result<Option<Self>, TlsError> {
        if settings.certificate_mode == SslCertMode::Disable {
            return Ok(None);
        }
        let Some(file) = in_home(
            settings.certificate.as_ref(),
            settings,
            ".postgresql/postgresql.crt",
        ) else {
            return Ok(None);
        };
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            // The server may not ask for one.
            Err(error) if is_missing(&error) => return Ok(None),
            Err(source) => {
                return Err(TlsError::Unreadable {
                    what: "certificate",
                    file,
                    source,
                });
            }
        };
        let chain = chain(&text, &file)?;
        let Some(key_file) = in_home(
            settings.key.as_ref(),
            settings,
            ".postgresql/postgresql.key",
        ) else {
            return Err(TlsError::NoKey {
                certificate: file,
                key: PathBuf::from("~/.postgresql/postgresql.key"),
            });
        };
        let key = read_key(&key_file, &file)?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| TlsError::Empty {
                what: "private key",
                file: key_file.clone(),
                problem: error.to_string(),
            })?;
        // rustls has a check of its own, which refuses certificates of version 1.
        let own = chain.first().and_then(Certificate::parse);
        let own = own.and_then(|certificate| certificate.public_key());
        let is_of_another = match (key.public_key(), own) {
            (Some(key), Some(own)) => key.as_ref() != own.as_ref(),
            _ => false,
        };
        if is_of_another {
            return Err(TlsError::KeyOfAnother {
                certificate: file,
                key: key_file,
            });
        }
        Ok(Some(Self(Arc::new(CertifiedKey::new(chain, key)))))
    }
}

/// Returns the file that is named, else the one of this name in the home folder.
fn in_home(named: Option<&PathBuf>, settings: &TlsSettings, name: &str) -> Option<PathBuf> {
    match named {
        Some(file) => Some(file.clone()),
        None => settings.home.as_ref().map(|home| home.join(name)),
    }
}

/// Reads the certificates of a file in PEM: the client's own, then those that vouch for it.
fn chain(text: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let problem = match chain {
        Ok(chain) if !chain.is_empty() => return Ok(chain),
        Ok(_) => "it has no certificate in PEM".to_string(),
        Err(error) => error.to_string(),
    };
    Err(TlsError::Empty {
        what: "certificate",
        file: file.to_path_buf(),
        problem,
    })
}

/// Reads the private key of a file: PKCS#8, PKCS#1 or SEC1, in PEM or DER.
///
/// # Errors
/// If the file is missing, is open to others, or holds no key, or an encrypted one.
fn read_key(file: &Path, certificate: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if is_missing(&error) => {
            return Err(TlsError::NoKey {
                certificate: certificate.to_path_buf(),
                key: file.to_path_buf(),
            });
        }
        Err(source) => return Err(unreadable(file, source)),
    };
    if !metadata.is_file() {
        return Err(TlsError::KeyNotPlain(file.to_path_buf()));
    }
    // A key of root may be read by a group: that of the programs that need it.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(TlsError::KeyOpen(file.to_path_buf()));
    }
    let text = std::fs::read(file).map_err(|source| unreadable(file, source))?;
    if is_encrypted(&text) {
        return Err(TlsError::KeyEncrypted(file.to_path_buf()));
    }
    let error = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    PrivateKeyDer::try_from(text).map_err(|_| TlsError::Empty {
        what: "private key",
        file: file.to_path_buf(),
        problem: error.to_string(),
    })
}

fn unreadable(file: &Path, source: std::io::Error) -> TlsError {
    TlsError::Unreadable {
        what: "private key",
        file: file.to_path_buf(),
        source,
    }
}

/// Returns whether a key in PEM is encrypted, in the present form or in that of before 2000.
fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// Gives the certificate to a server that asks for one, and remembers that the server asked.
#[derive(Debug)]
pub(super) struct Resolver {
    certificate: Option<ClientCertificate>,
    usage: Arc<CertificateUse>,
}

impl Resolver {
    /// Creates a resolver that writes to `usage`.
    pub(super) fn new(certificate: Option<ClientCertificate>, usage: Arc<CertificateUse>) -> Self {
        Self { certificate, usage }
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.usage.was_requested.store(true, Ordering::Relaxed);
        let ClientCertificate(certificate) = self.certificate.as_ref()?;
        // rustls sends no certificate if the key cannot sign in a way that the server takes.
        let is_usable = certificate.key.choose_scheme(schemes).is_some();
        self.usage.was_sent.store(is_usable, Ordering::Relaxed);
        Some(Arc::clone(certificate))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
