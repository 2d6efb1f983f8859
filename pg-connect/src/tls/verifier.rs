//! [`Verifier`]: whether a server's certificate is to be trusted, by libpq's rules.
//!
//! rustls' own verifier does the work: chain, dates, purpose, revocation. These rules of ours stand
//! around it, since libpq, by OpenSSL, takes certificates that rustls refuses and that are in use:
//!
//! | certificate | in use by | rule |
//! |---|---|---|
//! | no check wanted | `sslmode=require` without roots | only the handshake's signature is checked |
//! | chain alone | `sslmode=verify-ca` | an error on the name is passed over |
//! | common name alone | Cloud SQL | [`names`](super::names) |
//! | its own root, CA:TRUE | `openssl req -x509`, Heroku | equal to a root of the file, in date |
//! | version 1 | the manual's recipe, Railway | signed by a root of the file, both in date |
//!
//! The last two hold for roots of a file alone, never for those of the system: whoever names a file
//! trusts the certificates in it. Purpose and revocation are checked there too. A signature counts
//! if rustls knows its algorithm; SHA-1 and MD5 are none of them.

use super::algorithms;
use super::certificate::Certificate;
use super::error::{CertificateProblem, CertificateReason, TlsError};
use super::names;
use super::revocation::Lists;
use super::roots::Roots;
use crate::settings::{HostSpec, SslMode};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
};
use std::sync::Arc;
use std::time::Duration;
use webpki::RawPublicKeyEntity;
use x509_cert::der::{DateTime, Encode as _};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// The check of a server's certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` if the certificate is not checked.
    checks: Option<Checks>,
    /// The host that the certificate must be for; `None` if the name does not matter.
    host: Option<String>,
    provider: Arc<CryptoProvider>,
}

/// The roots and lists by which a certificate is checked.
#[derive(Debug)]
struct Checks {
    /// `None` if no root is an authority that is in date.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    lists: Lists,
}

impl Verifier {
    /// Creates a verifier for a mode. Without roots, it checks nothing but the signature of the
    /// handshake.
    ///
    /// # Errors
    /// If the host has no name that could be compared, or a list of revoked certificates is broken.
    pub(super) fn new(
        mode: SslMode,
        roots: Option<Roots>,
        lists: Lists,
        host: &HostSpec,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let is_full = mode == SslMode::VerifyFull;
        if is_full && host.name.is_empty() {
            return Err(TlsError::NoHost);
        }
        let checks = match roots {
            None => None,
            Some(roots) => {
                let has_authority = !roots.store.is_empty();
                let builder = WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots.store),
                    Arc::clone(&provider),
                );
                let builder = builder
                    .with_crls(lists.lists.iter().cloned())
                    .enforce_revocation_expiration();
                // rustls refuses to be built without a root.
                let webpki = has_authority.then(|| builder.build()).transpose();
                Some(Checks {
                    webpki: webpki.map_err(|error| {
                        TlsError::Setup(Error::General(format!("revocation lists: {error}")))
                    })?,
                    roots: roots.of_file,
                    lists,
                })
            }
        };
        Ok(Self {
            checks,
            host: is_full.then(|| host.name.clone()),
            provider,
        })
    }

    /// Checks a certificate, and returns the reason if it is not trusted.
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateReason> {
        let Some(checks) = &self.checks else {
            return Ok(());
        };
        let parsed = Certificate::parse(certificate)
            .ok_or_else(|| CertificateReason::Other("it is broken".to_string()))?;
        if checks.lists.must_check && checks.lists.lists.is_empty() {
            return Err(CertificateReason::NoList);
        }
        let chain = match &checks.webpki {
            Some(webpki) => webpki.verify_server_cert(certificate, others, name, &[], now),
            None if parsed.is_valid_at(now.as_secs()) => {
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            }
            None => Err(Error::InvalidCertificate(CertificateError::Expired)),
        };
        match chain {
            // rustls looks at the chain before it looks at the name, so the chain is good in both
            // cases.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) if is_final(&error) => return Err(reason(&error, &parsed)),
            Err(error) => {
                let root =
                    checks.vouching_root(certificate, &parsed, &self.provider, now.as_secs());
                let Some(root) = root else {
                    return Err(reason(&error, &parsed));
                };
                checks
                    .lists
                    .check(&parsed, &root, &self.provider, now.as_secs())?;
            }
        }
        // rustls does not look at the usage of the key.
        if !parsed.is_for_servers() {
            return Err(CertificateReason::Purpose);
        }
        if let Some(host) = &self.host {
            let is_constrained = checks.is_constrained(others);
            names::check(&parsed, host, is_constrained).map_err(|names| {
                CertificateReason::OtherName {
                    host: host.clone(),
                    names,
                }
            })?;
        }
        Ok(())
    }
}

impl Checks {
    /// Returns whether one of the authorities may vouch for some names alone. rustls holds the
    /// alternative names against that, and not the common name.
    fn is_constrained(&self, others: &[CertificateDer<'_>]) -> bool {
        let authorities = self.roots.iter().chain(others);
        authorities
            .filter_map(|authority| Certificate::parse(authority))
            .any(|authority| authority.has_name_constraints())
    }

    /// Returns the root of the file that vouches for a certificate which rustls does not take: one
    /// that is a root itself, or one of version 1 that a root signed. Both must be in date.
    fn vouching_root(
        &self,
        der: &CertificateDer<'_>,
        certificate: &Certificate,
        provider: &CryptoProvider,
        now: u64,
    ) -> Option<Certificate> {
        if !certificate.is_valid_at(now) {
            return None;
        }
        self.roots.iter().find_map(|root| {
            let is_itself = root.as_ref() == der.as_ref();
            let root = Certificate::parse(root)?;
            let vouches = certificate.is_version_1()
                && root.subject() == certificate.issuer()
                && root.is_valid_at(now)
                && root.is_authority()
                && !root.has_name_constraints()
                && is_signed_by(
                    &root,
                    certificate.signature_algorithm(),
                    &certificate.signed()?,
                    certificate.signature()?,
                    algorithms(provider),
                );
            (is_itself || vouches).then_some(root)
        })
    }
}

/// Returns whether an error of rustls holds, whatever our own rules say.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::Revoked
                | CertificateError::UnknownRevocationStatus
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. }
        )
    )
}

/// Returns an error of rustls as a reason that a person understands.
fn reason(error: &Error, certificate: &Certificate) -> CertificateReason {
    let Error::InvalidCertificate(error) = error else {
        return CertificateReason::Other(error.to_string());
    };
    match error {
        CertificateError::Expired => CertificateReason::Expired(time_text(certificate.end())),
        CertificateError::ExpiredContext { not_after, .. } => {
            CertificateReason::Expired(time_text(not_after.as_secs()))
        }
        CertificateError::NotValidYet => {
            CertificateReason::NotYetValid(time_text(certificate.begin()))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            CertificateReason::NotYetValid(time_text(not_before.as_secs()))
        }
        // A bad signature is that of another authority of the same name. `Other` is version 1 or its
        // own root: refused by the form, but nobody vouched for it either.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::Other(_) => CertificateReason::UnknownIssuer,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            CertificateReason::Purpose
        }
        CertificateError::Revoked => CertificateReason::Revoked,
        CertificateError::UnknownRevocationStatus => CertificateReason::NoList,
        CertificateError::ExpiredRevocationListContext { next_update, .. } => {
            CertificateReason::OldList(time_text(next_update.as_secs()))
        }
        error => CertificateReason::Other(error.to_string()),
    }
}

/// Returns a second since 1970 as a time in UTC.
pub(super) fn time_text(second: u64) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(second)) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{second} s after 1970"),
    }
}

/// Returns whether the owner of a certificate signed these bytes.
pub(super) fn is_signed_by(
    signer: &Certificate,
    algorithm: &AlgorithmIdentifierOwned,
    signed: &[u8],
    signature: &[u8],
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let (Some(key), Ok(wanted)) = (signer.public_key(), algorithm.to_der()) else {
        return false;
    };
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else {
        return false;
    };
    algorithms.all.iter().any(|known| {
        // The algorithm that is named must be the one that fits. rustls names it without the tag
        // and the length, which are the first bytes of DER.
        let id = known.signature_alg_id();
        wanted.ends_with(id.as_ref())
            && wanted.len() == id.as_ref().len() + 2
            && key.verify_signature(*known, signed, signature).is_ok()
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.check(certificate, others, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(reason) => {
                let parsed = Certificate::parse(certificate);
                let problem = CertificateProblem {
                    subject: match &parsed {
                        Some(certificate) => certificate.subject().to_string(),
                        None => String::new(),
                    },
                    issuer: match &parsed {
                        Some(certificate) => certificate.issuer().to_string(),
                        None => String::new(),
                    },
                    reason,
                };
                Err(Error::InvalidCertificate(CertificateError::Other(
                    OtherError(Arc::new(problem)),
                )))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let is_of_1_3 = matches!(
            signed.scheme,
            SignatureScheme::ECDSA_NISTP256_SHA256
                | SignatureScheme::ECDSA_NISTP384_SHA384
                | SignatureScheme::ECDSA_NISTP521_SHA512
                | SignatureScheme::RSA_PSS_SHA256
                | SignatureScheme::RSA_PSS_SHA384
                | SignatureScheme::RSA_PSS_SHA512
                | SignatureScheme::ED25519
                | SignatureScheme::ED448
        );
        if !is_of_1_3 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms(&self.provider).supported_schemes()
    }
}

impl Verifier {
    /// Checks that the server has the key of its certificate. This is by the key alone: rustls'
    /// functions would parse the certificate, and refuse one of version 1 even if it is not
    /// checked.
    fn verify_handshake(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = Certificate::parse(certificate)
            .and_then(|certificate| certificate.public_key())
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = RawPublicKeyEntity::try_from(&key)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let algorithms = algorithms(&self.provider)
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter());
        for algorithm in algorithms {
            let verified = key.verify_signature(*algorithm, message, signed.signature());
            if verified.is_ok() {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}
