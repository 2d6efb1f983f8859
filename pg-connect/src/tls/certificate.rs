//! [`Certificate`]: the parts of an X.509 certificate that the rules of libpq look at.

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use std::net::IpAddr;
use x509_cert::Certificate as Parsed;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
};
use x509_cert::name::Name;

/// The extension that names what an authority may vouch for.
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
/// The attribute of a name that holds the common name.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// The purpose of a certificate for a server of TLS. OpenSSL does not take "any purpose" for it.
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");

/// A certificate that was parsed.
#[derive(Debug)]
pub(super) struct Certificate(Parsed);

/// A name for which a certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AlternativeName {
    Dns(String),
    Address(Vec<u8>),
}

impl Certificate {
    /// Parses a certificate; `None` if it is broken.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        Parsed::from_der(der).ok().map(Self)
    }

    /// Returns whether the certificate is of version 1, which has no extensions.
    pub(super) fn is_version_1(&self) -> bool {
        self.0.tbs_certificate.version == Version::V1
    }

    /// Returns the name of the owner.
    pub(super) fn subject(&self) -> &Name {
        &self.0.tbs_certificate.subject
    }

    /// Returns the name of the authority that signed the certificate.
    pub(super) fn issuer(&self) -> &Name {
        &self.0.tbs_certificate.issuer
    }

    /// Returns the serial number, without leading zeros.
    pub(super) fn serial(&self) -> &[u8] {
        self.0.tbs_certificate.serial_number.as_bytes()
    }

    /// Returns the second, since 1970, from which the certificate is valid.
    pub(super) fn begin(&self) -> u64 {
        let begin = self.0.tbs_certificate.validity.not_before;
        begin.to_unix_duration().as_secs()
    }

    /// Returns the second, since 1970, up to which the certificate is valid.
    pub(super) fn end(&self) -> u64 {
        let end = self.0.tbs_certificate.validity.not_after;
        end.to_unix_duration().as_secs()
    }

    /// Returns whether the certificate is valid at a second since 1970.
    pub(super) fn is_valid_at(&self, now: u64) -> bool {
        (self.begin()..=self.end()).contains(&now)
    }

    /// Returns the public key with its algorithm, in DER.
    pub(super) fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'static>> {
        let key = &self.0.tbs_certificate.subject_public_key_info;
        Some(SubjectPublicKeyInfoDer::from(key.to_der().ok()?))
    }

    /// Returns the bytes that are signed.
    pub(super) fn signed(&self) -> Option<Vec<u8>> {
        self.0.tbs_certificate.to_der().ok()
    }

    /// Returns the signature.
    pub(super) fn signature(&self) -> Option<&[u8]> {
        self.0.signature.as_bytes()
    }

    /// Returns the algorithm of the signature.
    pub(super) fn signature_algorithm(&self) -> &x509_cert::spki::AlgorithmIdentifierOwned {
        &self.0.signature_algorithm
    }

    /// Returns whether the owner may sign certificates. A certificate of version 1 cannot say so,
    /// and may, as a root.
    pub(super) fn is_authority(&self) -> bool {
        if self.is_version_1() {
            return true;
        }
        let is_authority = match self.0.tbs_certificate.get::<BasicConstraints>() {
            Ok(Some((_, constraints))) => constraints.ca,
            Ok(None) | Err(_) => false,
        };
        let may_sign = match self.0.tbs_certificate.get::<KeyUsage>() {
            Ok(Some((_, usage))) => usage.0.contains(KeyUsages::KeyCertSign),
            Ok(None) => true,
            Err(_) => false,
        };
        is_authority && may_sign
    }

    /// Returns whether the owner may use the certificate as a server of TLS.
    pub(super) fn is_for_servers(&self) -> bool {
        let has_purpose = match self.0.tbs_certificate.get::<ExtendedKeyUsage>() {
            Ok(Some((_, purposes))) => purposes.0.contains(&SERVER_AUTH),
            Ok(None) => true,
            Err(_) => false,
        };
        // The handshake signs, or agrees on keys.
        let has_usage = match self.0.tbs_certificate.get::<KeyUsage>() {
            Ok(Some((_, usage))) => {
                usage.0.contains(KeyUsages::DigitalSignature)
                    || usage.0.contains(KeyUsages::KeyEncipherment)
                    || usage.0.contains(KeyUsages::KeyAgreement)
            }
            Ok(None) => true,
            Err(_) => false,
        };
        has_purpose && has_usage
    }

    /// Returns whether the owner may vouch for some names alone.
    pub(super) fn has_name_constraints(&self) -> bool {
        let extensions = self.0.tbs_certificate.extensions.iter().flatten();
        extensions
            .into_iter()
            .any(|extension| extension.extn_id == NAME_CONSTRAINTS)
    }

    /// Returns the alternative names that are names of hosts or addresses; `None` if the
    /// certificate's list of them is broken.
    pub(super) fn alternative_names(&self) -> Option<Vec<AlternativeName>> {
        let Some((_, list)) = self.0.tbs_certificate.get::<SubjectAltName>().ok()? else {
            return Some(Vec::new());
        };
        let mut names = Vec::new();
        for name in list.0 {
            match name {
                GeneralName::DnsName(name) => {
                    names.push(AlternativeName::Dns(name.as_str().to_string()));
                }
                GeneralName::IpAddress(bytes) => {
                    names.push(AlternativeName::Address(bytes.as_bytes().to_vec()));
                }
                _ => {}
            }
        }
        Some(names)
    }

    /// Returns the first common name of the owner, if it is UTF-8.
    pub(super) fn common_name(&self) -> Option<String> {
        let attribute = self
            .subject()
            .0
            .iter()
            .flat_map(|part| part.0.iter())
            .find(|attribute| attribute.oid == COMMON_NAME)?;
        String::from_utf8(attribute.value.value().to_vec()).ok()
    }
}

/// An address, as a person writes it, or the bytes of something that is none.
impl std::fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(bytes) => match address(bytes) {
                Some(address) => address.fmt(f),
                None => write!(f, "{bytes:?}"),
            },
        }
    }
}

/// Returns the address that has these bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
