//! [`hash`]: the hash of a server's certificate to which a password's proof is bound (RFC 5929,
//! tls-server-end-point).
//!
//! A proof that is bound to the certificate is of no use to somebody who sits on the way with a
//! certificate of their own.

use super::certificate::Certificate;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader, TagMode, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// A function by which a certificate's signature hashes what it signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// The algorithms of signatures, with the hash for the binding. MD5 and SHA-1 are too weak for
/// that: RFC 5929 takes SHA-256 in their place.
const SIGNATURES: [(&str, Hash); 10] = [
    ("1.2.840.113549.1.1.4", Hash::Sha256),
    ("1.2.840.113549.1.1.5", Hash::Sha256),
    ("1.2.840.113549.1.1.11", Hash::Sha256),
    ("1.2.840.113549.1.1.12", Hash::Sha384),
    ("1.2.840.113549.1.1.13", Hash::Sha512),
    ("1.2.840.10045.4.1", Hash::Sha256),
    ("1.2.840.10045.4.3.2", Hash::Sha256),
    ("1.2.840.10045.4.3.3", Hash::Sha384),
    ("1.2.840.10045.4.3.4", Hash::Sha512),
    ("1.3.14.3.2.29", Hash::Sha256),
];

/// RSA with PSS, whose parameters name the hash.
const PSS: &str = "1.2.840.113549.1.1.10";

/// The hashes that PSS may name.
const PSS_HASHES: [(&str, Hash); 4] = [
    ("1.3.14.3.2.26", Hash::Sha256),
    ("2.16.840.1.101.3.4.2.1", Hash::Sha256),
    ("2.16.840.1.101.3.4.2.2", Hash::Sha384),
    ("2.16.840.1.101.3.4.2.3", Hash::Sha512),
];

/// Returns the hash of a certificate; `None` if its signature has no hash of its own, as that of
/// Ed25519.
pub(super) fn hash(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::parse(certificate)?;
    Some(match of_signature(parsed.signature_algorithm())? {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

/// Returns the hash of an algorithm of signatures.
fn of_signature(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    let name = algorithm.oid.to_string();
    if name == PSS {
        let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
        return of_pss(&parameters);
    }
    find(&SIGNATURES, &name)
}

/// Returns the hash that the parameters of PSS name: the algorithm in their first field, `[0]`. If
/// the field is left out, it is SHA-1.
fn of_pss(parameters: &[u8]) -> Option<Hash> {
    let mut reader = SliceReader::new(parameters).ok()?;
    let named = reader.sequence(|fields| {
        let named = fields
            .context_specific::<AlgorithmIdentifierOwned>(TagNumber::N0, TagMode::Explicit)?;
        // The fields behind do not matter, but must be read.
        while !fields.is_finished() {
            AnyRef::decode(fields)?;
        }
        Ok(named)
    });
    match named.ok()? {
        Some(algorithm) => find(&PSS_HASHES, &algorithm.oid.to_string()),
        None => Some(Hash::Sha256),
    }
}

fn find(list: &[(&str, Hash)], name: &str) -> Option<Hash> {
    list.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, hash)| *hash)
}

#[cfg(test)]
mod tests;
