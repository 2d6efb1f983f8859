//! Hashes of certificates with signatures of every kind.

use super::*;
use rustls::pki_types::pem::PemObject as _;

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn pss_names_its_hash_in_its_parameters() {
    let of_256 = certificate(include_str!("../../../tests/keys/pss256.crt"));
    assert_eq!(hash(&of_256), Some(Sha256::digest(&of_256).to_vec()));
    let of_384 = certificate(include_str!("../../../tests/keys/pss384.crt"));
    assert_eq!(hash(&of_384), Some(Sha384::digest(&of_384).to_vec()));
}

#[test]
fn pss_without_a_hash_is_sha_1_and_counts_as_sha_256() {
    // An empty sequence; a sequence of the salt's length alone, field [2]; and one that is cut.
    assert_eq!(of_pss(&[0x30, 0]), Some(Hash::Sha256));
    assert_eq!(of_pss(&[0x30, 5, 0xa2, 3, 2, 1, 32]), Some(Hash::Sha256));
    assert_eq!(of_pss(&[0x30, 5, 0xa2]), None);
}

#[test]
fn a_signature_without_a_hash_has_no_binding() {
    let of_ed = certificate(include_str!("../../../tests/keys/ed25519.crt"));
    assert_eq!(hash(&of_ed), None);
    assert_eq!(hash(&CertificateDer::from(vec![1, 2, 3])), None);
}

#[test]
fn usual_signatures_have_theirs() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let der = certificate.der();
    assert_eq!(hash(der), Some(Sha256::digest(der).to_vec()));
}
