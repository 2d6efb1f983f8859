//! [`Roots`]: the authorities that may vouch for a server.

use super::certificate::Certificate;
use super::error::TlsError;
use crate::settings::{Root, TlsSettings};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The authorities that may vouch for a server.
#[derive(Debug)]
pub(super) struct Roots {
    /// Those that are authorities and in date.
    pub(super) store: RootCertStore,
    /// The certificates of a file that was named, or that stands in the home folder. A server may
    /// show one of these itself. Empty if the authorities are those of the system.
    pub(super) of_file: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads the authorities; `None` if the server's certificate is not checked: the mode does not
    /// ask for that, and the file of roots is missing. A file that is there is used in every mode.
    ///
    /// # Errors
    /// If the mode checks the certificate and there are no roots, or the file holds none.
    pub(super) fn read(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let file = match &settings.root {
            Some(Root::System { file, folder }) => {
                return Self::of_system(file.as_deref(), folder.as_deref()).map(Some);
            }
            Some(Root::File(file)) => file.clone(),
            None => match &settings.home {
                Some(home) => home.join(".postgresql/root.crt"),
                // Without a home folder there is no file of ours.
                None if settings.mode.must_verify() => {
                    return Err(TlsError::NoRoots {
                        file: PathBuf::from("~/.postgresql/root.crt"),
                        mode: settings.mode.name(),
                    });
                }
                None => return Ok(None),
            },
        };
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if is_missing(&error) && settings.mode.must_verify() => {
                return Err(TlsError::NoRoots {
                    file,
                    mode: settings.mode.name(),
                });
            }
            Err(error) if is_missing(&error) => return Ok(None),
            Err(source) => {
                return Err(TlsError::Unreadable {
                    what: "root certificates",
                    file,
                    source,
                });
            }
        };
        Self::of_text(&text, &file).map(Some)
    }

    /// Reads the authorities of a file in PEM.
    pub(super) fn of_text(text: &[u8], file: &Path) -> Result<Self, TlsError> {
        let mut roots = Self {
            store: RootCertStore::empty(),
            of_file: Vec::new(),
        };
        let mut problem = "it has no certificate in PEM".to_string();
        for certificate in CertificateDer::pem_slice_iter(text) {
            // What stands behind a broken certificate may be cut, too.
            let certificate = match certificate {
                Ok(certificate) => certificate,
                Err(error) => {
                    problem = error.to_string();
                    break;
                }
            };
            if Certificate::parse(&certificate).is_none() {
                problem = "it has a certificate that is broken".to_string();
                continue;
            }
            roots.add(&certificate);
            roots.of_file.push(certificate);
        }
        if roots.of_file.is_empty() {
            return Err(TlsError::Empty {
                what: "root certificate",
                file: file.to_path_buf(),
                problem,
            });
        }
        Ok(roots)
    }

    /// Reads the authorities that the system trusts, or those of the file and the folder that the
    /// variables of OpenSSL name.
    fn of_system(file: Option<&Path>, folder: Option<&Path>) -> Result<Self, TlsError> {
        let found = if file.is_some() || folder.is_some() {
            rustls_native_certs::load_certs_from_paths(file, folder)
        } else {
            rustls_native_certs::load_native_certs()
        };
        let mut roots = Self {
            store: RootCertStore::empty(),
            of_file: Vec::new(),
        };
        for certificate in &found.certs {
            roots.add(certificate);
        }
        if roots.store.is_empty() {
            return Err(TlsError::NoSystemRoots);
        }
        Ok(roots)
    }

    /// Lets the owner of a certificate vouch for others, if it is an authority and in date. rustls
    /// takes every root for that: a server's own certificate in the file, or the stolen key of a
    /// root that has ended, would be enough to pose as any server.
    fn add(&mut self, certificate: &CertificateDer<'static>) {
        let may_vouch = Certificate::parse(certificate).is_some_and(|parsed| {
            parsed.is_authority() && parsed.is_valid_at(UnixTime::now().as_secs())
        });
        if may_vouch {
            // Of more than a hundred, some may be of a kind that rustls does not understand.
            let _ = self.store.add(certificate.clone());
        }
    }
}

/// Returns whether a file is not there.
pub(super) fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
