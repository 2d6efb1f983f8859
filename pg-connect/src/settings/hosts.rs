//! [`HostSpec`]: a server to try, from the lists `host`, `hostaddr` and `port`.

use super::SettingsError;
use super::choice::integer;
use crate::keyword::Keyword;
use crate::parameters::Parameters;
use nix::unistd::{Uid, geteuid};
use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The port, if none is given.
const DEFAULT_PORT: &str = "5432";

/// The folder of the server's socket, if no host is given: that of Debian, Red Hat and of libpq in
/// binary packages.
const SOCKET_FOLDER: &str = "/var/run/postgresql";

/// The folder of the server's socket in PostgreSQL built from source.
const SOURCE_SOCKET_FOLDER: &str = "/tmp";

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// The host's name is looked up.
    Lookup,
    /// `hostaddr`, as it was given.
    Given(String),
    /// The folder of a socket of this machine. One that begins with `@` is in Linux's abstract
    /// namespace.
    Socket(String),
}

/// A server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSpec {
    /// The host as it was given; empty if it was not.
    pub(crate) name: String,
    pub(crate) address: Address,
    /// The port as it was given.
    pub(crate) port_text: String,
}

impl HostSpec {
    /// Returns the port; `None` if the text is no port.
    pub(crate) fn port(&self) -> Option<u16> {
        let port = integer(&self.port_text)?;
        u16::try_from(port).ok().filter(|port| *port > 0)
    }

    /// Returns whether the port is a number, in or out of the range of ports.
    pub(crate) fn has_number(&self) -> bool {
        integer(&self.port_text).is_some()
    }

    /// Returns the host under which a password file lists this server.
    pub(crate) fn password_host(&self) -> &str {
        match &self.address {
            // The default socket has an entry of its own, by tradition.
            Address::Socket(folder) if folder == SOCKET_FOLDER || self.name.is_empty() => {
                "localhost"
            }
            Address::Given(address) if self.name.is_empty() => address,
            Address::Socket(_) | Address::Given(_) | Address::Lookup => &self.name,
        }
    }

    /// Returns whether the connection stays on this machine, as far as that can be seen from the
    /// name or the address.
    pub(crate) fn is_local(&self) -> bool {
        match &self.address {
            Address::Socket(_) => true,
            Address::Given(address) => is_loopback(address),
            Address::Lookup => self.name == "localhost" || is_loopback(&self.name),
        }
    }

    /// Returns whether the host has characters that no host's name has.
    pub(super) fn is_odd(&self) -> bool {
        let is_address = self.name.parse::<IpAddr>().is_ok();
        let is_path = matches!(self.address, Address::Socket(_));
        !is_address && !is_path && self.name.contains(['@', '/', '=', '\'', '"', '\\'])
    }
}

/// The host or the socket, with the port, for messages.
impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text that is no port may be a part of a password.
        let port = match self.port() {
            Some(port) => port.to_string(),
            None => "?".to_string(),
        };
        match &self.address {
            Address::Socket(folder) => write!(f, "{folder}/.s.PGSQL.{port}"),
            Address::Given(address) => {
                // Nor is a text repeated that is no address.
                let address = match address.parse::<IpAddr>() {
                    Ok(address) => address.to_string(),
                    Err(_) => "?".to_string(),
                };
                if self.name.is_empty() {
                    return write_host(f, &address, &port);
                }
                write_host(f, &self.name, &port)?;
                write!(f, " ({address})")
            }
            Address::Lookup => write_host(f, &self.name, &port),
        }
    }
}

/// Writes a host and its port. An IPv6 address is put into brackets, as a URL has it.
fn write_host(f: &mut fmt::Formatter<'_>, host: &str, port: &str) -> fmt::Result {
    if host.contains(':') {
        write!(f, "[{host}]:{port}")
    } else {
        write!(f, "{host}:{port}")
    }
}

fn is_loopback(address: &str) -> bool {
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// Reads the servers to try, in the order in which they were given.
///
/// # Errors
/// If the lists are of different lengths.
pub(super) fn read(parameters: &Parameters) -> Result<Vec<HostSpec>, SettingsError> {
    let names = list(parameters, Keyword::Host);
    let addresses = list(parameters, Keyword::HostAddr);
    let ports = list(parameters, Keyword::Port);
    let count = if addresses.is_empty() {
        names.len().max(1)
    } else {
        addresses.len()
    };
    if !addresses.is_empty() && !names.is_empty() && names.len() != count {
        return Err(SettingsError::Lengths {
            name: "addresses",
            given: addresses.len(),
            hosts: names.len(),
            or_one: "",
        });
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(SettingsError::Lengths {
            name: "ports",
            given: ports.len(),
            hosts: count,
            or_one: ", or one for all",
        });
    }
    let mut hosts = Vec::new();
    for at in 0..count {
        let port = ports.get(at).or(ports.first()).copied().unwrap_or_default();
        let port = if port.is_empty() { DEFAULT_PORT } else { port };
        let name = names.get(at).copied().unwrap_or_default();
        let address = addresses.get(at).copied().unwrap_or_default();
        let address = if !address.is_empty() {
            Address::Given(address.to_string())
        } else if name.is_empty() {
            Address::Socket(default_folder(port))
        } else if name.starts_with(['/', '@']) {
            Address::Socket(name.to_string())
        } else {
            Address::Lookup
        };
        hosts.push(HostSpec {
            name: name.to_string(),
            address,
            port_text: port.to_string(),
        });
    }
    Ok(hosts)
}

/// Returns the elements of a list with commas; none if it was given nowhere, or is empty.
fn list(parameters: &Parameters, keyword: Keyword) -> Vec<&str> {
    match parameters.given(keyword) {
        Some(text) => text.split(',').collect(),
        None => Vec::new(),
    }
}

/// Returns the folder of the socket, if no host is given. libpq's is compiled in. Here it is
/// [`SOCKET_FOLDER`], or the one of PostgreSQL built from source if there is no such folder.
///
/// Everybody can make a socket in the latter, and would get the password. So the socket must be that
/// of root or of this process's own account.
fn default_folder(port: &str) -> String {
    let socket = Path::new(SOURCE_SOCKET_FOLDER).join(format!(".s.PGSQL.{}", port.trim()));
    let is_of_ours = std::fs::symlink_metadata(socket).is_ok_and(|socket| {
        let owner = Uid::from_raw(socket.uid());
        owner.is_root() || owner == geteuid()
    });
    if !Path::new(SOCKET_FOLDER).exists() && is_of_ours {
        SOURCE_SOCKET_FOLDER.to_string()
    } else {
        SOCKET_FOLDER.to_string()
    }
}

/// Returns the path of a socket in a folder.
pub(crate) fn socket_path(folder: &str, port: u16) -> PathBuf {
    PathBuf::from(format!("{folder}/.s.PGSQL.{port}"))
}
