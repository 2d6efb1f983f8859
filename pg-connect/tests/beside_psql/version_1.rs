//! [`version_1`]: a certificate of X.509 version 1, which rcgen does not make.

use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::BitString;
use x509_cert::der::{Decode as _, Encode as _};

/// Makes a certificate without extensions, as the manual's recipe does (19.9.5 Creating
/// Certificates), signed by an authority.
pub fn version_1(
    params: &CertificateParams,
    key: &KeyPair,
    by: &CertificateParams,
    by_key: &KeyPair,
) -> Certificate {
    let issuer = rcgen::Issuer::from_params(by, by_key);
    let certificate = params.signed_by(key, &issuer).unwrap();
    let mut certificate = Certificate::from_der(certificate.der()).unwrap();
    certificate.tbs_certificate.version = Version::V1;
    certificate.tbs_certificate.extensions = None;
    let signed = certificate.tbs_certificate.to_der().unwrap();
    let signature = by_key.sign(&signed).unwrap();
    certificate.signature = BitString::from_bytes(&signature).unwrap();
    certificate
}
