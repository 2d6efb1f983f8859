//! [`Certificates`]: the certificates, keys and lists of the tests, made anew for each run, as
//! files in a folder.

use crate::version_1::version_1;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, PKCS_RSA_SHA384, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use x509_cert::der::EncodePem as _;

/// A key that cannot be made quickly, and is of tests alone.
const RSA: &str = include_str!("../keys/rsa.pem");
/// The same key, in the form of before 2000.
const RSA_PKCS1: &str = include_str!("../keys/rsa_pkcs1.pem");
/// Encrypted keys, with the password `keypw`.
const ENCRYPTED: &str = include_str!("../keys/encrypted.pem");
const ENCRYPTED_OLD: &str = include_str!("../keys/encrypted_old.pem");

/// The name by which OpenSSL looks up lists of the issuer `CN=ca` in a folder.
const LIST_OF_CA: &str = "56c899cd.r0";

/// The first bytes of a SEC1 key on P-256, up to the 32 bytes of the key.
const SEC1_HEAD: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// The bytes between the key and the public key: the name of the curve, and the head of a bit
/// string.
const SEC1_MIDDLE: [u8; 17] = [
    0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42,
    0x00,
];

/// A folder with certificates.
pub struct Certificates {
    folder: PathBuf,
}

/// An authority, which signs certificates.
struct Authority {
    name: &'static str,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

impl Certificates {
    /// Makes the certificates in a folder.
    pub fn make(folder: &Path) -> Self {
        let certificates = Self {
            folder: folder.to_path_buf(),
        };
        let ca = certificates.authority("ca");
        let other = certificates.authority("other");
        certificates.of_servers(&ca);
        certificates.of_clients(&ca, &other);
        certificates.lists(&ca, &other);
        certificates.write("empty.crt", "", 0o644);
        certificates.write("junk.crt", "junk", 0o644);
        certificates.write("junk.key", "junk", 0o600);
        certificates
    }

    /// Returns the text of a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.folder.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn write_key(&self, name: &str, key: &str) {
        self.write(&format!("{name}.key"), key, 0o600);
    }

    fn write_certificate(&self, name: &str, pem: &str) {
        self.write(&format!("{name}.crt"), pem, 0o644);
    }

    /// Makes an authority that signs itself.
    fn authority(&self, name: &'static str) -> Authority {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        self.write_key(name, &key.serialize_pem());
        self.write_certificate(name, &params.self_signed(&key).unwrap().pem());
        Authority { name, params, key }
    }

    /// Makes a certificate with a key of its own.
    fn leaf(&self, name: &str, params: &CertificateParams, by: &Authority) -> KeyPair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &by.issuer()).unwrap();
        self.write_key(name, &key.serialize_pem());
        self.write_certificate(name, &certificate.pem());
        key
    }

    /// Makes the certificates that a server shows, by what is special of them.
    fn of_servers(&self, ca: &Authority) {
        let mut good = named("ignored", "localhost");
        good.serial_number = Some(SerialNumber::from(1_u64));
        self.leaf("good", &good, ca);
        self.leaf("wrong", &named("localhost", "db.example"), ca);
        let mut ip = params("ignored");
        for address in ["127.0.0.1", "::1"] {
            let address = address.parse().unwrap();
            ip.subject_alt_names.push(SanType::IpAddress(address));
        }
        self.leaf("ip", &ip, ca);
        let mut cn = params("localhost");
        cn.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self.leaf("cn", &cn, ca);
        self.leaf("ipcn", &named("127.0.0.1", "localhost"), ca);
        self.version_1("v1", "localhost", ca);
        let mut expired = named("ignored", "localhost");
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2020, 2, 1);
        self.leaf("expired", &expired, ca);
        self.leaf("wild", &named("ignored", "*.db.test"), ca);
        let mut eku = named("ignored", "localhost");
        eku.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf("eku", &eku, ca);
        self.intermediate(ca);
        let mut rsa = named("ignored", "localhost");
        rsa.is_ca = IsCa::ExplicitNoCa;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(RSA, &PKCS_RSA_SHA384).unwrap();
        let by_key = KeyPair::from_pem(&self.read("ca.key")).unwrap();
        let by = Issuer::from_params(&ca.params, &by_key);
        let certificate = rsa.signed_by(&key, &by).unwrap();
        self.write_key("rsa384", RSA);
        self.write_certificate("rsa384", &certificate.pem());
        // What `openssl req -x509` makes: its own root, an authority, a common name alone.
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(RSA, &PKCS_RSA_SHA256).unwrap();
        let mut own_root = params("localhost");
        own_root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.write_key("self", RSA);
        self.write_certificate("self", &own_root.self_signed(&key).unwrap().pem());
        // What Debian makes for its own server: its own root, and no authority.
        let mut snake = named("localhost", "localhost");
        snake.is_ca = IsCa::ExplicitNoCa;
        self.write_key("snake", RSA);
        self.write_certificate("snake", &snake.self_signed(&key).unwrap().pem());
    }

    /// Makes an authority between the root and others, a server's certificate by it, with and
    /// without the way to the root, and a client's.
    fn intermediate(&self, ca: &Authority) {
        let mut params = params("int");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = self.leaf("int", &params, ca);
        let intermediate = Authority {
            name: "int",
            params,
            key,
        };
        self.leaf("leaf", &named("ignored", "localhost"), &intermediate);
        let chain = self.read("leaf.crt") + &self.read("int.crt");
        self.write_certificate("chain", &chain);
        self.write_key("chain", &self.read("leaf.key"));
        self.leaf("viaint", &for_client("certu"), &intermediate);
        let chain = self.read("viaint.crt") + &self.read("int.crt");
        self.write_certificate("viachain", &chain);
        self.write_key("viachain", &self.read("viaint.key"));
        let bundle = [
            &self.read("other.crt"),
            "# text between\n",
            &self.read("int.crt"),
            &self.read("ca.crt"),
        ];
        self.write_certificate("bundle", &bundle.concat());
    }

    /// Makes the certificates and keys of clients.
    fn of_clients(&self, ca: &Authority, other: &Authority) {
        let key = self.leaf("certu", &for_client("certu"), ca);
        self.leaf("wrongca", &for_client("certu"), other);
        self.version_1("v1cli", "certu", ca);
        self.leaf("scramcert", &params("scramcert"), ca);
        let rsa = KeyPair::from_pkcs8_pem_and_sign_algo(RSA, &PKCS_RSA_SHA256).unwrap();
        let certificate = params("certu").signed_by(&rsa, &ca.issuer()).unwrap();
        self.write_certificate("rsacli", &certificate.pem());
        self.write_key("rsacli", RSA);
        self.write_key("rsapem", RSA_PKCS1);
        self.write_key("legacy", ENCRYPTED_OLD);
        self.write_key("pkcs8enc", ENCRYPTED);
        self.write("der.key", key.serialize_der(), 0o600);
        self.write("sec1.key", sec1(&key), 0o600);
        self.write("open.key", key.serialize_pem(), 0o644);
        self.write("group.key", key.serialize_pem(), 0o640);
    }

    /// Makes lists of revoked certificates.
    fn lists(&self, ca: &Authority, other: &Authority) {
        self.list("ca.crl", ca, 2100, &[]);
        self.list("other.crl", other, 2100, &[]);
        self.list("old.crl", ca, 2020, &[]);
        self.list("revoked.crl", ca, 2100, &[1]);
        let folder = self.folder.join("crldir");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let list = self.read("revoked.crl");
        self.write(&format!("crldir/{LIST_OF_CA}"), list, 0o644);
        assert_eq!(ca.name, "ca", "{LIST_OF_CA} is of this name");
    }

    /// Makes a list that should be replaced at the beginning of a year.
    fn list(&self, name: &str, by: &Authority, until: i32, revoked: &[u64]) {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2019, 6, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2019, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&by.issuer()).unwrap();
        self.write(name, list.pem().unwrap(), 0o644);
    }

    /// Makes a certificate of version 1.
    fn version_1(&self, name: &str, common_name: &str, by: &Authority) {
        let key = KeyPair::generate().unwrap();
        let certificate = version_1(&params(common_name), &key, &by.params, &by.key);
        self.write_key(name, &key.serialize_pem());
        let pem = certificate.to_pem(x509_cert::der::pem::LineEnding::LF);
        self.write_certificate(name, &pem.unwrap());
    }
}

/// Returns the parameters of a certificate with a common name alone.
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

/// Returns the parameters of a certificate with a common name and the name of a host.
fn named(common_name: &str, host: &str) -> CertificateParams {
    let mut params = params(common_name);
    let host = host.try_into().unwrap();
    params.subject_alt_names.push(SanType::DnsName(host));
    params
}

/// Returns the parameters of a certificate for clients alone.
fn for_client(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Returns a key on P-256 in the form SEC1, in PEM.
fn sec1(key: &KeyPair) -> String {
    // PKCS#8 holds the 32 bytes of the key behind the head of the inner structure.
    let pkcs8 = key.serialize_der();
    let head = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = pkcs8.windows(head.len()).position(|bytes| bytes == head);
    let at = at.unwrap() + head.len();
    let der = [
        &SEC1_HEAD,
        &pkcs8[at..at + 32],
        &SEC1_MIDDLE,
        key.public_key_raw(),
    ]
    .concat();
    let label = "EC PRIVATE KEY";
    let ending = x509_cert::der::pem::LineEnding::LF;
    x509_cert::der::pem::encode_string(label, ending, &der).unwrap()
}
