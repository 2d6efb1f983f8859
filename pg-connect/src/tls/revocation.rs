//! [`Lists`]: lists of certificates that their authorities revoked (CRLs).

use super::algorithms;
use super::certificate::Certificate;
use super::error::{CertificateReason, TlsError};
use super::roots::is_missing;
use super::verifier::{is_signed_by, time_text};
use crate::settings::TlsSettings;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use std::cmp::Reverse;
use std::path::Path;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};

/// Lists of revoked certificates.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// Whether each issuer needs a list that is in date.
    pub(super) must_check: bool,
}

impl Lists {
    /// Reads the lists of the file and the folder that are named, else of `~/.postgresql/root.crl`.
    /// Like libpq, goes on without lists if a file is missing or holds none; a notice says so.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub(super) fn read(
        settings: &TlsSettings,
        notices: &mut Vec<String>,
    ) -> Result<Self, TlsError> {
        let mut lists = Self::default();
        if settings.crl.is_none() && settings.crl_folder.is_none() {
            if let Some(home) = &settings.home {
                lists.add_file(&home.join(".postgresql/root.crl"))?;
                lists.must_check = !lists.lists.is_empty();
            }
            return Ok(lists);
        }
        if let Some(file) = &settings.crl {
            lists.add_file(file)?;
            if lists.lists.is_empty() {
                notices.push(format!(
                    "revoked certificates are not looked up: {} is missing, or has no list in PEM",
                    file.display()
                ));
                return Ok(Self::default());
            }
        }
        if let Some(folder) = &settings.crl_folder {
            lists.add_folder(folder)?;
        }
        // A folder without a list counts as one that has not the issuer's.
        lists.must_check = true;
        Ok(lists)
    }

    /// Adds the lists of a file, if it is there.
    fn add_file(&mut self, file: &Path) -> Result<(), TlsError> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(source) => {
                return Err(TlsError::Unreadable {
                    what: "revocation list",
                    file: file.to_path_buf(),
                    source,
                });
            }
        };
        let found = CertificateRevocationListDer::pem_slice_iter(&text);
        self.lists.extend(found.flatten());
        // The first list of an issuer counts: the newest one, and none of the future.
        let now = UnixTime::now().as_secs();
        self.lists.retain(|list| began(list) <= now);
        self.lists.sort_by_key(|list| Reverse(began(list)));
        Ok(())
    }

    /// Adds the lists of a folder. Their names end with `.r` and a number, as `openssl rehash`
    /// makes them.
    fn add_folder(&mut self, folder: &Path) -> Result<(), TlsError> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_list = path
                .extension()
                .and_then(|extension| extension.to_str())
                .and_then(|extension| extension.strip_prefix('r'))
                .is_some_and(|number| number.parse::<u32>().is_ok());
            if is_list {
                self.add_file(&path)?;
            }
        }
        Ok(())
    }

    /// Checks a certificate whose chain rustls did not check, by the lists of its issuer.
    ///
    /// # Errors
    /// If the certificate was revoked, or there is no list of its issuer that is in date.
    pub(super) fn check(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        provider: &CryptoProvider,
        now: u64,
    ) -> Result<(), CertificateReason> {
        if !self.must_check {
            return Ok(());
        }
        let mut reason = CertificateReason::NoList;
        for list in &self.lists {
            let Ok(list) = CertificateList::from_der(list) else {
                continue;
            };
            if list.tbs_cert_list.issuer != *certificate.issuer() || !is_of(&list, issuer, provider)
            {
                continue;
            }
            let end = list.tbs_cert_list.next_update;
            if let Some(end) = end.map(|end| end.to_unix_duration().as_secs())
                && end < now
            {
                reason = CertificateReason::OldList(time_text(end));
                continue;
            }
            let revoked = list.tbs_cert_list.revoked_certificates.unwrap_or_default();
            let is_revoked = revoked
                .iter()
                .any(|revoked| revoked.serial_number.as_bytes() == certificate.serial());
            return if is_revoked {
                Err(CertificateReason::Revoked)
            } else {
                Ok(())
            };
        }
        Err(reason)
    }
}

/// Returns the second, since 1970, at which a list was made. A list that is broken counts as old:
/// whoever uses it finds that it is broken.
fn began(list: &CertificateRevocationListDer<'_>) -> u64 {
    match CertificateList::from_der(list) {
        Ok(list) => list.tbs_cert_list.this_update.to_unix_duration().as_secs(),
        Err(_) => 0,
    }
}

/// Returns whether an authority signed a list.
fn is_of(list: &CertificateList, issuer: &Certificate, provider: &CryptoProvider) -> bool {
    let Ok(signed) = list.tbs_cert_list.to_der() else {
        return false;
    };
    let Some(signature) = list.signature.as_bytes() else {
        return false;
    };
    is_signed_by(
        issuer,
        &list.signature_algorithm,
        &signed,
        signature,
        algorithms(provider),
    )
}
