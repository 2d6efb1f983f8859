//! [`World`]: the servers, certificates and accounts that the cases speak of.

use crate::certificates::Certificates;
use crate::false_servers::FalseServers;
use nix::unistd::{User, geteuid};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use throwaway_postgres::{Cluster, Setup};

/// The roles. The password of `u` has all that needs an escape somewhere.
const ROLES: &str = r#"
CREATE ROLE trustu LOGIN;
CREATE ROLE u LOGIN PASSWORD 's3cr et:p@\ss''%41';
CREATE ROLE u2 LOGIN PASSWORD 'other';
CREATE ROLE col LOGIN PASSWORD 'a:b';
CREATE ROLE sl LOGIN PASSWORD 'a/b';
CREATE ROLE att LOGIN PASSWORD 'a@b';
CREATE ROLE "o'br ü" LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5u LOGIN PASSWORD 'md5pw';
SET password_encryption = 'scram-sha-256';
CREATE ROLE pwu LOGIN PASSWORD 'clearpw';
CREATE ROLE rej LOGIN;
CREATE ROLE peeru LOGIN;
CREATE ROLE ro LOGIN;
ALTER ROLE ro SET default_transaction_read_only = on;
CREATE ROLE sslonly LOGIN;
CREATE ROLE nossl LOGIN;
CREATE ROLE certu LOGIN;
CREATE ROLE clica LOGIN;
CREATE ROLE scramcert LOGIN PASSWORD 'scrampw';
"#;

/// The databases.
const DATABASES: [&str; 7] = ["app", "trustu", "u", "a b", "a@b", "a%20b", "a+b"];

/// Who may connect how; `{rejected}` and `{trusted}` are filled in.
const HBA: &str = "\
local all peeru peer map=m
local all u scram-sha-256
local all all trust
local replication all trust
hostssl all certu all cert
hostssl all scramcert all scram-sha-256 clientcert=verify-full
hostssl all clica all trust clientcert=verify-ca
hostssl all sslonly all trust
hostnossl all nossl all trust
host all sslonly,nossl,certu,scramcert,clica,{rejected} all reject
host replication all all trust
host all postgres,trustu,ro,{trusted} all trust
host all md5u all md5
host all pwu all password
host all all all scram-sha-256
";

/// The name of Linux's abstract namespace at which the server without TLS listens.
fn abstract_name() -> String {
    format!("@pg-connect-{}", std::process::id())
}

/// The servers, certificates and accounts that the cases speak of.
pub struct World {
    pub plain: Server,
    pub standby: Server,
    pub tls: Server,
    pub false_servers: FalseServers,
    pub certificates: Certificates,
    /// The folder with the certificates and the home folders.
    pub folder: tempfile::TempDir,
    /// The account that runs this test.
    account: String,
    /// Held by the test for which the server with TLS shows its certificate.
    turn: Mutex<()>,
}

/// A server of PostgreSQL, with its port.
pub struct Server {
    pub cluster: Cluster,
    pub port: u16,
}

impl Server {
    /// Returns what psql prints for a statement that the superuser runs.
    pub fn sql(&self, statement: &str) -> String {
        let output = Command::new(self.cluster.program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.cluster.socket_folder())
            .args([
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
                "-c",
                statement,
            ])
            .env_remove("PGSERVICE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }
}

impl World {
    /// Makes the certificates, and starts the servers.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pg-connect")
            .tempdir()
            .unwrap();
        let folder_mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), folder_mode).unwrap();
        let certificates_folder = folder.path().join("certs");
        std::fs::create_dir(&certificates_folder).unwrap();
        let certificates = Certificates::make(&certificates_folder);
        let account = User::from_uid(geteuid()).unwrap().unwrap().name;

        let plain = Cluster::start(&Setup::default()).unwrap();
        let plain = Server {
            cluster: plain,
            port: 5432,
        };
        fill(&plain, &account);
        write_access(&plain, "nobody", &format!("{account},rej"), &account);
        let standby = plain.cluster.standby().unwrap();
        let plain = with_network(plain.cluster, &sockets_of_system(), &[]);
        let primary = format!(
            "host={} port={} user=postgres",
            plain.cluster.socket_folder().display(),
            plain.port
        );
        let standby = with_network(standby, &[], &[("primary_conninfo", &primary)]);

        let tls = Cluster::start(&Setup::default()).unwrap();
        let tls = Server {
            cluster: tls,
            port: 5432,
        };
        fill(&tls, &account);
        write_access(&tls, "rej", &account, &account);
        tls.cluster
            .write_data("root.crt", &certificates.read("ca.crt"))
            .unwrap();
        let world = Self {
            plain,
            standby,
            tls,
            false_servers: FalseServers::start(),
            certificates,
            folder,
            account,
            turn: Mutex::new(()),
        };
        world.write_certificate("good");
        let settings = [("ssl", "on"), ("ssl_ca_file", "root.crt")];
        let tls = with_network(world.tls.cluster, &[], &settings);
        Self { tls, ..world }
    }

    fn write_certificate(&self, name: &str) {
        for kind in ["crt", "key"] {
            let text = self.certificates.read(&format!("{name}.{kind}"));
            let file = format!("server.{kind}");
            self.tls.cluster.write_data(&file, &text).unwrap();
        }
    }

    /// Waits until no other test needs a certificate of the server with TLS.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        // A test that failed has nothing more to say of the certificate.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the server with TLS show a certificate from now on. The caller holds the turn.
    pub fn show_certificate(&self, name: &str) {
        const LOADED: &str = "SELECT pg_conf_load_time()";
        self.write_certificate(name);
        let before = self.tls.sql(LOADED);
        self.tls.cluster.reload().unwrap();
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.tls.sql(LOADED) == before {
            assert!(std::time::Instant::now() < give_up, "no reload for {name}");
        }
    }

    /// Fills in the words between braces.
    pub fn fill(&self, text: &str, home: &Path) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (word, behind) = behind.split_once('}').unwrap();
            filled.push_str(before);
            filled.push_str(&self.word(word, home));
            rest = behind;
        }
        filled + rest
    }

    fn word(&self, word: &str, home: &Path) -> String {
        let socket = self.plain.cluster.socket_folder().display().to_string();
        let of_false = &self.false_servers;
        let port = match word {
            "plain" => self.plain.port,
            "standby" => self.standby.port,
            "tls" => self.tls.port,
            "starting" => of_false.starting,
            "hangup" => of_false.hangup,
            "silent" => of_false.silent,
            "deaf" => of_false.deaf,
            "clear" => of_false.clear,
            "answers_e" => of_false.answers_e,
            "answers_x" => of_false.answers_x,
            "ends" => of_false.ends,
            "injects" => of_false.injects,
            "socket" => return socket,
            "socket_encoded" => return socket.replace('/', "%2F"),
            "abstract" => return abstract_name(),
            "abstract_encoded" => return abstract_name().replace('@', "%40"),
            "certs" => return self.folder.path().join("certs").display().to_string(),
            "home" => return home.display().to_string(),
            "owner" if geteuid().is_root() => return "postgres".to_string(),
            "owner" | "account" => return self.account.clone(),
            "plain_percent" => {
                let mut encoded = String::new();
                for byte in self.plain.port.to_string().bytes() {
                    write!(encoded, "%{byte:02x}").unwrap();
                }
                return encoded;
            }
            word => {
                let (kind, of) = word.split_once(' ').unwrap_or_else(|| panic!("{word}"));
                return match kind {
                    "read" => self.certificates.read(of),
                    "xs" => "x".repeat(of.parse().unwrap()),
                    "ys" => "y".repeat(of.parse().unwrap()),
                    _ => panic!("{word}"),
                };
            }
        };
        port.to_string()
    }

    /// Returns the name of the server at a port.
    pub fn server_name(&self, port: &str) -> &'static str {
        for (server, name) in [
            (&self.plain, "plain"),
            (&self.standby, "standby"),
            (&self.tls, "tls"),
        ] {
            if server.port.to_string() == port {
                return name;
            }
        }
        "another"
    }
}

/// Makes the roles and the databases.
fn fill(server: &Server, account: &str) {
    server.sql(ROLES);
    if account != "postgres" {
        server.sql(&format!("CREATE ROLE \"{account}\" LOGIN"));
        server.sql(&format!("CREATE DATABASE \"{account}\""));
    }
    for database in DATABASES {
        server.sql(&format!("CREATE DATABASE \"{database}\""));
    }
}

/// Writes who may connect how.
fn write_access(server: &Server, rejected: &str, trusted: &str, account: &str) {
    let access = HBA
        .replace("{rejected}", rejected)
        .replace("{trusted}", trusted);
    server.cluster.write_data("pg_hba.conf", &access).unwrap();
    let map = format!("m {account} peeru\n");
    server.cluster.write_data("pg_ident.conf", &map).unwrap();
}

/// Restarts a server at a free port of this machine, with more folders for its socket.
fn with_network(cluster: Cluster, sockets: &[String], settings: &[(&str, &str)]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let own = cluster.socket_folder().display().to_string();
    let folders = [&[own], sockets].concat().join(",");
    let port_text = port.to_string();
    let mut all = vec![
        ("listen_addresses", "127.0.0.1,::1"),
        ("port", &port_text),
        ("unix_socket_directories", &folders),
    ];
    all.extend_from_slice(settings);
    cluster.configure(&all).unwrap();
    Server { cluster, port }
}

/// Returns the folders of the system in which a server may put its socket, as far as the server's
/// user may write there, and a name of Linux's abstract namespace.
fn sockets_of_system() -> Vec<String> {
    let owner = if geteuid().is_root() {
        User::from_name("postgres").unwrap().map(|user| user.uid)
    } else {
        Some(geteuid())
    };
    let folders = ["/var/run/postgresql", "/tmp"]
        .into_iter()
        .filter(|folder| {
            let Ok(metadata) = std::fs::metadata(PathBuf::from(folder)) else {
                return false;
            };
            let is_own = owner.is_some_and(|owner| owner.as_raw() == metadata.uid());
            is_own || metadata.mode() & 0o002 != 0
        });
    folders
        .map(str::to_string)
        .chain([abstract_name()])
        .collect()
}
