//! The rules by which a server's certificate is trusted, one by one, with what they must not take.

#[path = "../../tests/beside_psql/version_1.rs"]
mod version_1;

use super::certificate::Certificate;
use super::error::CertificateReason;
use super::names;
use super::revocation::Lists;
use super::roots::Roots;
use super::verifier::Verifier;
use crate::environment::Environment;
use crate::settings::{HostSpec, Settings, SslMode};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error};
use std::path::Path;
use std::sync::Arc;
use version_1::version_1;
use x509_cert::der::{Encode as _, pem};

/// An authority that signs itself.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}

fn authority(change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = params("ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    Authority { params, key, der }
}

/// Makes a certificate of version 1 with the serial number 7.
fn old(by: &Authority) -> CertificateDer<'static> {
    let mut params = params("localhost");
    params.serial_number = Some(SerialNumber::from(7_u64));
    let key = KeyPair::generate().unwrap();
    let certificate = version_1(&params, &key, &by.params, &by.key);
    CertificateDer::from(certificate.to_der().unwrap())
}

fn list(by: &Authority, serial: u64, until: i32) -> Lists {
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2019, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2019, 6, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::from_params(&by.params, &by.key));
    Lists {
        lists: vec![list.unwrap().der().clone()],
        must_check: true,
    }
}

fn host(name: &str) -> HostSpec {
    let conninfo = format!("host='{name}'");
    let settings = Settings::read(&conninfo, &Environment::default()).unwrap();
    settings.hosts[0].clone()
}

/// Checks a certificate against roots of a file, and returns the reason if it is refused.
fn check(
    mode: SslMode,
    certificate: &CertificateDer<'static>,
    roots: &[&CertificateDer<'static>],
    lists: Lists,
) -> Option<CertificateReason> {
    let pem: String = roots
        .iter()
        .map(|root| pem::encode_string("CERTIFICATE", pem::LineEnding::LF, root).unwrap())
        .collect();
    let roots = Roots::of_text(pem.as_bytes(), Path::new("roots")).unwrap();
    check_with(mode, certificate, Some(roots), lists)
}

fn check_with(
    mode: SslMode,
    certificate: &CertificateDer<'static>,
    roots: Option<Roots>,
    lists: Lists,
) -> Option<CertificateReason> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let host = host("localhost");
    let verifier = Verifier::new(mode, roots, lists, &host, provider);
    let name = ServerName::try_from("localhost").unwrap();
    let checked =
        verifier
            .unwrap()
            .verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
    match checked {
        Ok(_) => None,
        Err(Error::InvalidCertificate(CertificateError::Other(other))) => {
            let problem = other.0.downcast_ref::<super::CertificateProblem>().unwrap();
            Some(problem.reason.clone())
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_certificate_of_version_1_is_taken_from_a_root_of_the_file_alone() {
    let ca = authority(|_| {});
    let none = Lists::default;
    let old = old(&ca);
    assert_eq!(check(SslMode::VerifyFull, &old, &[&ca.der], none()), None);
    // Another authority of the same name has another key.
    let namesake = authority(|_| {});
    assert_eq!(
        check(SslMode::VerifyCa, &old, &[&namesake.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
    // The roots of the system vouch for what rustls takes, and for nothing else.
    let mut store = RootCertStore::empty();
    store.add(ca.der.clone()).unwrap();
    let of_system = Roots {
        store,
        of_file: Vec::new(),
    };
    assert_eq!(
        check_with(SslMode::VerifyFull, &old, Some(of_system), none()),
        Some(CertificateReason::UnknownIssuer)
    );
}

#[test]
fn a_root_that_must_not_sign_vouches_for_nobody_else() {
    let none = Lists::default;
    let leaf = authority(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(
        check(SslMode::VerifyCa, &old(&leaf), &[&leaf.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
    let mute = authority(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!(
        check(SslMode::VerifyCa, &old(&mute), &[&mute.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
    let past = authority(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        check(SslMode::VerifyCa, &old(&past), &[&past.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
}

/// Makes a certificate of version 3 for `localhost`.
fn leaf(by: &Authority) -> CertificateDer<'static> {
    let mut params = params("localhost");
    let host = "localhost".try_into().unwrap();
    params.subject_alt_names.push(SanType::DnsName(host));
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&by.params, &by.key);
    params.signed_by(&key, &issuer).unwrap().der().clone()
}

// rustls takes every certificate of the file for an authority that never ends.
#[test]
fn a_root_that_is_no_authority_or_has_ended_vouches_for_no_leaf() {
    let none = Lists::default;
    let ca = authority(|_| {});
    let of_ca = leaf(&ca);
    assert_eq!(check(SslMode::VerifyFull, &of_ca, &[&ca.der], none()), None);
    // Whoever has the key of one server that the file names must not pose as another.
    let server = authority(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(
        check(SslMode::VerifyFull, &leaf(&server), &[&server.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
    assert_eq!(
        check(
            SslMode::VerifyFull,
            &leaf(&server),
            &[&server.der, &ca.der],
            none()
        ),
        Some(CertificateReason::UnknownIssuer)
    );
    let past = authority(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        check(SslMode::VerifyFull, &leaf(&past), &[&past.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
}

// rustls holds the alternative names against the constraints, and a certificate without any has
// none that could break them.
#[test]
fn where_an_authority_is_constrained_the_common_name_does_not_count() {
    let none = Lists::default;
    let bound = authority(|params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("a.example".to_string())],
            excluded_subtrees: Vec::new(),
        });
    });
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&bound.params, &bound.key);
    let named = params("localhost").signed_by(&key, &issuer).unwrap();
    let named = named.der().clone();
    assert_eq!(
        check(SslMode::VerifyCa, &named, &[&bound.der], none()),
        None
    );
    assert!(matches!(
        check(SslMode::VerifyFull, &named, &[&bound.der], none()),
        Some(CertificateReason::OtherName { .. })
    ));
    assert_eq!(
        check(SslMode::VerifyFull, &old(&bound), &[&bound.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
}

#[test]
fn text_of_a_certificate_is_not_obeyed() {
    let problem = super::CertificateProblem {
        subject: "CN=\u{1b}[2J".to_string(),
        issuer: "CN=a\nb".to_string(),
        reason: CertificateReason::OtherName {
            host: "h".to_string(),
            names: vec!["\u{202e}x ü".to_string()],
        },
    };
    assert_eq!(
        problem.to_string(),
        "the server's certificate (CN=\\u{1b}[2J, issued by CN=a\\u{a}b) is for \
        \"\\u{202e}x ü\", and not for \"h\""
    );
}

#[test]
fn a_changed_certificate_of_version_1_is_refused() {
    let ca = authority(|_| {});
    let mut changed = old(&ca).to_vec();
    let at = changed.windows(9).position(|bytes| bytes == b"localhost");
    changed[at.unwrap()] = b'L';
    assert_eq!(
        check(
            SslMode::VerifyCa,
            &CertificateDer::from(changed),
            &[&ca.der],
            Lists::default()
        ),
        Some(CertificateReason::UnknownIssuer)
    );
}

#[test]
fn a_server_may_show_a_root_of_the_file_itself_if_that_is_in_date_and_for_servers() {
    let none = Lists::default;
    let named = |params: &mut CertificateParams| {
        let host = "localhost".try_into().unwrap();
        params.subject_alt_names.push(SanType::DnsName(host));
    };
    let own = authority(named);
    assert_eq!(
        check(SslMode::VerifyFull, &own.der, &[&own.der], none()),
        None
    );
    let past = authority(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert!(matches!(
        check(SslMode::VerifyCa, &past.der, &[&past.der], none()),
        Some(CertificateReason::Expired(_) | CertificateReason::UnknownIssuer)
    ));
    let of_client = authority(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(
        check(SslMode::VerifyCa, &of_client.der, &[&of_client.der], none()),
        Some(CertificateReason::Purpose)
    );
    // OpenSSL does not take the purpose "any" for that of a server.
    let of_all = authority(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    });
    assert_eq!(
        check(SslMode::VerifyCa, &of_all.der, &[&of_all.der], none()),
        Some(CertificateReason::Purpose)
    );
    let signs_others = authority(|params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    });
    assert_eq!(
        check(
            SslMode::VerifyCa,
            &signs_others.der,
            &[&signs_others.der],
            none()
        ),
        Some(CertificateReason::Purpose)
    );
    assert_eq!(
        check(SslMode::VerifyCa, &own.der, &[&past.der], none()),
        Some(CertificateReason::UnknownIssuer)
    );
}

// rustls does not check these, so our rule must.
#[test]
fn lists_of_revoked_certificates_count_for_version_1_too() {
    let ca = authority(|_| {});
    let old = old(&ca);
    let checked = |lists| check(SslMode::VerifyCa, &old, &[&ca.der], lists);
    assert_eq!(checked(list(&ca, 8, 2100)), None);
    assert_eq!(
        checked(list(&ca, 7, 2100)),
        Some(CertificateReason::Revoked)
    );
    assert!(matches!(
        checked(list(&ca, 8, 2020)),
        Some(CertificateReason::OldList(_))
    ));
    // A list that somebody else signed in the issuer's name says nothing.
    let namesake = authority(|_| {});
    assert_eq!(
        checked(list(&namesake, 8, 2100)),
        Some(CertificateReason::NoList)
    );
    let nothing = Lists {
        lists: Vec::new(),
        must_check: true,
    };
    assert_eq!(checked(nothing), Some(CertificateReason::NoList));
}

#[test]
fn without_roots_nothing_is_checked() {
    let broken = CertificateDer::from(vec![1, 2, 3]);
    let none = Lists::default;
    assert_eq!(check_with(SslMode::Require, &broken, None, none()), None);
    let ca = authority(|_| {});
    assert_eq!(
        check(SslMode::VerifyCa, &broken, &[&ca.der], none()),
        Some(CertificateReason::Other("it is broken".to_string()))
    );
}

#[test]
fn a_wildcard_stands_for_one_label() {
    for (name, host, is_equal) in [
        ("a.b", "A.B", true),
        ("*.b.c", "a.b.c", true),
        ("*.b.c", "x.a.b.c", false),
        ("*.b.c", "b.c", false),
        ("*.b.c", ".b.c", false),
        ("*.", "a", false),
        ("*", "a", false),
        ("a*.b", "aa.b", false),
        ("*.ü", "a.ü", true),
        ("*.b", "ü", false),
        ("a.b", "a.b.", false),
    ] {
        assert_eq!(names::matches(name, host), is_equal, "{name} {host}");
    }
}

#[test]
fn the_common_name_counts_if_no_other_name_of_the_host_s_kind_is_there() {
    let key = KeyPair::generate().unwrap();
    let certificate = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params("db.example");
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Certificate::parse(certificate.der()).unwrap()
    };
    let dns = SanType::DnsName("other.example".try_into().unwrap());
    let ip = SanType::IpAddress("10.0.0.1".parse().unwrap());
    let alone = certificate(&|_| {});
    assert_eq!(names::check(&alone, "db.example", false), Ok(()));
    assert!(names::check(&alone, "db.example", true).is_err());
    let with_dns = certificate(&|params| params.subject_alt_names.push(dns.clone()));
    assert_eq!(
        names::check(&with_dns, "db.example", false),
        Err(vec!["other.example".to_string()])
    );
    assert_eq!(names::check(&with_dns, "other.example", false), Ok(()));
    let with_ip = certificate(&|params| params.subject_alt_names.push(ip.clone()));
    assert_eq!(names::check(&with_ip, "10.0.0.1", false), Ok(()));
    assert_eq!(names::check(&with_ip, "db.example", false), Ok(()));
    assert_eq!(
        names::check(&with_ip, "10.0.0.2", false),
        Err(vec!["10.0.0.1".to_string()])
    );
}
