//! TLS by rustls, with libpq's rules (manual, 34.19 SSL Support).
//!
//! ```text
//! TlsSettings, HostSpec ─→ prepare: reads the files ─→ Prepared ─→ handshake ─→ Encrypted
//!                                                         └── verifier: is it the server?
//! ```
//!
//! The files are read anew for each connection, so that a certificate which was renewed counts at
//! the next reconnect.

mod binding;
mod certificate;
mod client_certificate;
mod error;
mod names;
mod revocation;
mod roots;
mod verifier;

use crate::guard::CertificateUse;
use crate::settings::{HostSpec, SslNegotiation, TlsSettings, TlsVersion};
use client_certificate::ClientCertificate;
pub(crate) use error::refusal_of;
pub use error::{CertificateProblem, CertificateReason, TlsError};
use revocation::Lists;
use roots::Roots;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ALL_VERSIONS, ClientConfig, SupportedProtocolVersion, version};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use verifier::Verifier;

/// The name of PostgreSQL's protocol among those that a TLS connection may carry.
const ALPN: &[u8] = b"postgresql";

/// The name that rustls is told if the host has none that TLS allows. It is not sent, and is no
/// name of a certificate.
const NO_NAME: &str = "none.invalid";

/// TLS, made ready for one connection.
pub(crate) struct Prepared {
    connector: TlsConnector,
    name: ServerName<'static>,
    must_confirm_protocol: bool,
    /// Whether the server's certificate is checked.
    pub(crate) is_verified: bool,
    /// Whether the server asked for a certificate of ours.
    pub(crate) certificate: Arc<CertificateUse>,
    /// Sentences about files that were named and are not used.
    pub(crate) notices: Vec<String>,
}

/// A connection over TLS.
pub(crate) struct Encrypted {
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    /// The hash to which the password's proof is bound; `None` if the certificate has none.
    pub(crate) binding: Option<Vec<u8>>,
}

/// Reads certificates, keys and lists, as a connection to `host` needs them.
///
/// # Errors
/// If a file that must be there is missing, or one that is there cannot be used.
pub(crate) fn prepare(settings: &TlsSettings, host: &HostSpec) -> Result<Prepared, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Roots::read(settings)?;
    let mut notices = Vec::new();
    let lists = match &roots {
        Some(_) => Lists::read(settings, &mut notices)?,
        None => Lists::default(),
    };
    let is_verified = roots.is_some();
    let client = ClientCertificate::read(settings, &provider)?;
    let certificate = Arc::<CertificateUse>::default();
    let verifier = Verifier::new(settings.mode, roots, lists, host, Arc::clone(&provider))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(settings))
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(client_certificate::Resolver::new(
            client,
            Arc::clone(&certificate),
        )));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // An address is no name that a server could be asked for.
    let is_address = host.name.parse::<IpAddr>().is_ok();
    let name = ServerName::try_from(host.name.clone())
        .ok()
        .filter(|_| !is_address);
    config.enable_sni = settings.has_sni && name.is_some();
    let name = match name {
        Some(name) => name,
        None => ServerName::try_from(NO_NAME).map_err(|_| TlsError::NoHost)?,
    };
    Ok(Prepared {
        connector: TlsConnector::from(Arc::new(config)),
        name,
        must_confirm_protocol: settings.negotiation == SslNegotiation::Direct,
        is_verified,
        certificate,
        notices,
    })
}

/// TLS 1.3 alone, and TLS 1.2 alone.
const NEW_ALONE: &[&SupportedProtocolVersion] = &[&version::TLS13];
const OLD_ALONE: &[&SupportedProtocolVersion] = &[&version::TLS12];

/// Returns the versions of TLS that may be spoken.
fn versions(settings: &TlsSettings) -> &'static [&'static SupportedProtocolVersion] {
    if settings.lowest == Some(TlsVersion::V1_3) {
        NEW_ALONE
    } else if settings.highest == Some(TlsVersion::V1_2) {
        OLD_ALONE
    } else {
        ALL_VERSIONS
    }
}

impl Prepared {
    /// Does the handshake.
    ///
    /// # Errors
    /// If it fails, for example since the server's certificate does not fit.
    pub(crate) async fn handshake(self, stream: TcpStream) -> Result<Encrypted, TlsError> {
        let stream = self
            .connector
            .connect(self.name, stream)
            .await
            .map_err(TlsError::of_handshake)?;
        let connection = stream.get_ref().1;
        // Without this, bytes that were meant for a server of another protocol could be sent to
        // this one.
        if self.must_confirm_protocol && connection.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::OtherProtocol);
        }
        let binding = connection
            .peer_certificates()
            .and_then(|certificates| binding::hash(certificates.first()?));
        Ok(Encrypted {
            stream: Box::new(stream),
            binding,
        })
    }
}

/// Returns the algorithms of signatures that are understood.
fn algorithms(provider: &CryptoProvider) -> &rustls::crypto::WebPkiSupportedAlgorithms {
    &provider.signature_verification_algorithms
}

#[cfg(test)]
mod tests;
